"""The stored figures of a run as pictures of a page, each with a text computed from numbers."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.html_report.numbers import format_value
from analysis.html_report.stored_run import StoredRun
from analysis.stored_diagnosis import STALE

# The most bytes of all pictures of a page; above it their colours are reduced to 256.
LARGEST = 6 * 2**20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        stem: The name of its file without ending and without the mark of a stale one.
        caption: What it shows, or the question that it answers.
        alt: The text that replaces it: the caption, and what it shows in numbers.
        content: The PNG file.
        stale: Why it is stale; None if it is not.
    """

    stem: str
    caption: str
    alt: str
    content: bytes
    stale: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, of the header."""
        width, height = self.content[16:20], self.content[20:24]
        return int.from_bytes(width), int.from_bytes(height)

    @property
    def uri(self) -> str:
        """The file as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.content).decode()}"


def is_png(content: bytes) -> bool:
    """Whether a file is a PNG picture, by its start."""
    return content.startswith(_SIGNATURE) and len(content) > 24


# The section of each figure of training, and its caption.
TRAINING: dict[str, tuple[str, str]] = {
    "learning_curves": ("training", "ELBO, reconstruction and KL by epoch"),
    "reconstructions": ("predictive", "Held-out examples and their reconstructions"),
    "prior_samples": ("predictive", "Means of p(x | z) at draws z ~ p(z)"),
    "predictive_check": ("predictive", "Statistics of held-out and of generated examples"),
    "kl_by_dimension": ("elbo", "KL and variance of the code by latent dimension"),
    "guide_quality": ("guide", "k-hat and effective sample size of the importance weights"),
    "latent_space": ("representation", "Codes of held-out examples in two dimensions"),
    "forest": ("representation", "Latent variables of a few held-out examples"),
}
# A page of text, whose facts are in the section of the data.
_AS_TEXT = {"data"}


def pictures_of_run(run: StoredRun) -> tuple[dict[str, list[Picture]], list[str]]:
    """The figures of a run, and the files that are not pictures.

    The keys are sections of the page for figures of training, and `diagnosis/SECTION`. A figure of
    training is left out if the diagnosis has one of the same name.
    """
    found: dict[str, list[Picture]] = {}
    unreadable: list[str] = []

    def add(section: str, path: Path, picture: Picture) -> None:
        if path.is_file():
            content = path.read_bytes()
            if is_png(content):
                found.setdefault(section, []).append(replace(picture, content=content))
            else:
                unreadable.append(str(path.relative_to(run.directory.path)))

    for name, section in diagnosis_sections(run).items():
        for key, caption in (section.get("figures") or {}).items():
            stem, why = f"{name}_{key}", section.get("stale")
            path = run.directory.diagnosis / f"{STALE if why else ''}{stem}.png"
            if not path.is_file():
                # A section marked by this page, whose files keep their names.
                path = run.directory.diagnosis / f"{stem}.png"
            alt = f"{caption} {reading_of_figure(name, key, section)}".strip()
            add(f"diagnosis/{name}", path, Picture(stem, caption, alt.replace("`", ""), b"", why))
    taken = {picture.stem for pictures in found.values() for picture in pictures}
    for path in sorted(run.directory.figures.glob("*.png")):
        if path.stem not in taken and path.stem not in _AS_TEXT:
            section, caption = TRAINING.get(
                path.stem, ("program", path.stem.replace("_", " ").capitalize())
            )
            words = DESCRIPTIONS.get(path.stem, _scores)(run)
            add(section, path, Picture(path.stem, caption, f"{caption}. {words}".strip(), b""))
    order = {stem: position for position, stem in enumerate(TRAINING)}
    for pictures in found.values():
        pictures.sort(key=lambda each: order.get(each.stem, len(order)))
    return found, unreadable


def diagnosis_sections(run: StoredRun) -> dict[str, Mapping[str, Any]]:
    """The stored sections of the diagnosis."""
    from analysis.stored_diagnosis import SECTION_NAMES

    found = run.diagnosis or {}
    return {name: found[name] for name in SECTION_NAMES if isinstance(found.get(name), dict)}


def reading_of_figure(name: str, key: str, section: Mapping[str, Any]) -> str:
    """The reading of the check that draws a figure; of the whole section if it is not known."""
    from analysis.sections import SECTIONS

    for check in SECTIONS[name].checks:
        record = section.get(check.name)
        if isinstance(record, dict) and key in {plot.name for plot in check.plots}:
            return str(record.get("reading") or "")
    return str(section.get("reading") or "")


def shrink(pictures: Iterable[Picture], largest: int = LARGEST) -> Callable[[Picture], Picture]:
    """How to make pictures small enough: not at all, or with 256 colours if they are too large."""
    if sum(len(picture.content) for picture in pictures) <= largest:
        return lambda picture: picture
    return _with_few_colours


def _with_few_colours(picture: Picture) -> Picture:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture.content)) as image:
        image.convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
    content = buffer.getvalue()
    return replace(picture, content=content) if len(content) < len(picture.content) else picture


# ---- what the figures of training show ---------------------------------------------------------


def _curves(run: StoredRun) -> str:
    scores = [
        (record["validation_elbo"], record["epoch"])
        for record in run.history
        if record.get("validation_elbo") is not None and record.get("epoch") is not None
    ]
    if not scores:
        return f"{len(run.history)} epochs, without a validation ELBO."
    best = max(scores)
    return (
        f"The validation ELBO goes from {scores[0][0]:,.2f} in epoch {scores[0][1]:.0f} to "
        f"{scores[-1][0]:,.2f} nats per {run.noun} in epoch {scores[-1][1]:.0f}; the best is "
        f"{best[0]:,.2f} in epoch {best[1]:.0f}."
    )


def _metric(run: StoredRun, name: str, unit: str) -> str:
    metrics = run.metrics or {}
    value, error = metrics.get(name), metrics.get(f"{name}_se")
    if value is None:
        return "not defined"
    spread = "" if error is None else f" ± {format_value(error, error)}"
    return f"{format_value(value, error)}{spread}{unit}"


def _reconstructions(run: StoredRun) -> str:
    nats = f" nats per {run.noun}"
    return f"The mean of E_q log p(x | z) is {_metric(run, 'reconstruction', nats)}."


def _samples(run: StoredRun) -> str:
    return f"Samples of the model; log p(x) is {_metric(run, 'log_evidence', ' nats')}."


def _check(run: StoredRun) -> str:
    return f"Histograms of a few statistics of held-out and generated {run.nouns}, overlaid."


def _dimensions(run: StoredRun) -> str:
    metrics = run.metrics or {}
    total = metrics.get("latent_units", metrics.get("latent_dim"))
    return (
        f"{_metric(run, 'active_units', '')} of {total} dimensions are active; the KL is "
        f"{_metric(run, 'kl', f' nats per {run.noun}')} in all."
    )


def _quality(run: StoredRun) -> str:
    share = (run.metrics or {}).get("khat_share_above")
    if share is None:
        return "k-hat is not defined."
    return f"k-hat is above its threshold for {share:.1%} of {run.nouns}."


def _space(run: StoredRun) -> str:
    names = () if run.contract is None else run.contract.label_names
    coloured = f", coloured by {len(names)} labels" if names else ""
    return f"One dot for each of the test {run.nouns}{coloured}."


def _forest(run: StoredRun) -> str:
    return "Intervals of draws from q(z | x) by latent dimension."


def _scores(run: StoredRun) -> str:
    """The scores of a program, beside its figures."""
    from analysis.html_report.numbers import program_numbers

    rows = [f"{row.label} {row.value}" for row in program_numbers(run)]
    return f"Scores of the program: {', '.join(rows)}." if rows else ""


DESCRIPTIONS: dict[str, Callable[[StoredRun], str]] = {
    "learning_curves": _curves,
    "reconstructions": _reconstructions,
    "prior_samples": _samples,
    "predictive_check": _check,
    "kl_by_dimension": _dimensions,
    "guide_quality": _quality,
    "latent_space": _space,
    "forest": _forest,
}
