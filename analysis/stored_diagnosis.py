"""The stored diagnosis of a run: its sections and figures, and which of them are stale.

A section is stale if its checkpoint, data or options differ from those of the latest section. A
stale section is kept, marked in diagnosis.json, and its figures are named stale_*.png.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.verdicts import answers
from pyro_vae.json_values import to_jsonable
from pyro_vae.training.checkpoint import write_atomically

NAME = "diagnosis.json"
STALE = "stale_"
SECTION_NAMES = ("predictive", "calibration", "pit", "elbo", "guide", "representation")
# Programs without a diagnosis, by what their labels are for.
UNDIAGNOSED = {"always": "it has p(x | y) only", "training": "it has a guide of z for each class"}
# The inputs of a section, and the message for a difference.
DIFFERENCES = {
    "checkpoint_sha256": "another checkpoint",
    "split": "--split {then}, now {now}",
    "n": "{then} data, now {now}",
    "data_sha256": "other data",
    "num_samples": "--samples {then}, now {now}",
    "seed": "--seed {then}, now {now}",
    "against": "--against {then}, now {now}",
}
UNREADABLE = "{} cannot be read, and may hold sections worth keeping: move it away."

Record = dict[str, Any]


class StoredDiagnosis:
    """A diagnosis folder whose sections are replaced one at a time.

    If the program is stopped, the folder holds either the old or the new version of each section.

    Args:
        folder: The folder of diagnosis.json and the figures; need not exist.

    Raises:
        ValueError: If diagnosis.json exists but cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: Record = {}
        if (path := folder / NAME).exists():
            try:
                self.record = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, OSError) as error:
                raise ValueError(UNREADABLE.format(path)) from error
            if not isinstance(self.record, dict):
                raise ValueError(UNREADABLE.format(path))

    @property
    def sections(self) -> dict[str, Record]:
        """The records of the stored sections, in the order of the report."""
        return {name: self.record[name] for name in SECTION_NAMES if name in self.record}

    def mark(self, of: Mapping[str, Any]) -> None:
        """Record for each section why it is stale, or None.

        Args:
            of: The inputs of the latest section; only inputs in it are compared.
        """
        for record in self.sections.values():
            record["stale"] = stale(record.get("of"), of)

    def put(
        self,
        name: str,
        section: Record,
        files: Mapping[str, bytes],
        *,
        of: Mapping[str, Any],
        seconds: float,
        header: Record,
    ) -> None:
        """Replace a section, mark the others, and write everything.

        Args:
            name: The section.
            section: Its record, with the captions of its figures in "figures".
            files: The figures' contents by the same names.
            of: Its inputs.
            seconds: The time it took.
            header: The other values of the file, from the latest command.

        Raises:
            OSError: If the disk is full or the folder is not writable; the old files are then
                restored.
        """
        before, old = self.record, self.record.get(name)
        new = {**section, "of": dict(of)}
        sections = {
            each: new if each == name else before[each]
            for each in SECTION_NAMES
            if each == name or each in before
        }
        seconds_of = {**before.get("seconds", {}).get("sections", {}), name: seconds}
        after = {**header, **sections}
        after["seconds"] = {**header.get("seconds", {}), "sections": seconds_of}
        self.folder.mkdir(parents=True, exist_ok=True)
        new_paths = [self._figure(name, key, stale=False) for key in files]
        staged = [self._hidden(path, "new") for path in new_paths]
        old_paths = [
            self._figure(name, key, stale=is_stale)
            for key in (old or {}).get("figures", ())
            for is_stale in (True, False)
        ]
        placed: list[Path] = []
        try:
            for path, content in zip(staged, files.values(), strict=True):
                write_atomically(path, content)
            if old is not None:
                # While figures are exchanged, the file lists none.
                self.record = {**before, name: {**old, "figures": {}}}
                self._write()
            for path in filter(Path.exists, old_paths):
                path.replace(self._hidden(path, "old"))
            for path, content in zip(new_paths, staged, strict=True):
                placed.append(path)
                content.replace(path)
            self.record = after
            self.mark(of)
            self._write()
        except BaseException:
            for path in (*staged, *placed):
                path.unlink(missing_ok=True)
            for path in old_paths:
                if (hidden := self._hidden(path, "old")).exists():
                    hidden.replace(path)
            self.record = before
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
            self.save()
            raise
        for path in old_paths:
            self._hidden(path, "old").unlink(missing_ok=True)

    def save(self) -> None:
        """Write the sections with their marks, if there are any."""
        if self.sections:
            self._write()

    def _write(self) -> None:
        """Rename figures by whether their section is stale, list them, and write the file."""
        self.record["figures"] = {}
        for name, section in self.sections.items():
            why = section.get("stale")
            for key, caption in section.get("figures", {}).items():
                path, other = (
                    self._figure(name, key, stale=is_stale) for is_stale in (bool(why), not why)
                )
                if other.exists():
                    other.replace(path)
                if path.exists():
                    self.record["figures"][path.name] = (
                        f"Stale ({why}): {caption}" if why else caption
                    )
        self.record["answers"] = answers(self.sections)
        text = json.dumps(to_jsonable(self.record), indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder / NAME, text.encode())

    def _hidden(self, path: Path, suffix: str) -> Path:
        return path.with_name(f".{path.name}.{suffix}")

    def _figure(self, name: str, key: str, *, stale: bool) -> Path:
        return self.folder / f"{STALE if stale else ''}{name}_{key}.png"


def mark_stale(folder: Path, checkpoint: Path) -> None:
    """Mark the sections of other checkpoints as stale, as after more training."""
    try:
        stored = StoredDiagnosis(folder)
    except ValueError:
        return
    if stored.sections:
        stored.mark({"checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()})
        stored.save()


def stale(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str | None:
    """Why a section is stale; None if it is not.

    Args:
        then: The section's inputs; None for a section of an earlier version, which did not record
            them.
        now: The inputs of the latest section.

    >>> stale({"seed": 0, "num_samples": 30}, {"seed": 0, "num_samples": 1000})
    'made for --samples 30, now 1000'
    """
    if then is None:
        return "made by an earlier version, which did not record its options"
    found = [
        words.format(then=then[name], now=now[name])
        for name, words in DIFFERENCES.items()
        if name in then and name in now and then[name] != now[name]
    ]
    # A different split or number of data implies different data.
    if len(found) > 1 and {"split", "n"} & {k for k in then if k in now and then[k] != now[k]}:
        found = [words for words in found if words != DIFFERENCES["data_sha256"]]
    return f"made for {', '.join(found)}" if found else None
