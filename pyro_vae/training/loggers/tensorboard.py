"""The logger that writes for TensorBoard."""

import html
import io
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.nn import functional as F

from pyro_vae.checks import check_at_least
from pyro_vae.training.checkpoint import write_atomically
from pyro_vae.training.history import Record
from pyro_vae.training.loggers.logger import Logger, Snapshot

if TYPE_CHECKING:
    from pyro_vae.training.loop import Training

# Pictures in a training, unless `every` says otherwise.
PICTURES = 20
# The columns of a grid of images and its width in pixels, at most; the elements of a table's row.
COLUMNS, LARGEST_WIDTH, ELEMENTS = 8, 1024, 12
# The longest side of an image in the projector.
LONGEST_SIDE = 64
# Elements of the examples whose codes are computed: the codes of large examples are fewer.
CODED_ELEMENTS = 2**24


class TensorBoard(Logger):
    """Event files for TensorBoard: `tensorboard --logdir runs` shows them while training runs.

    After each epoch ELBO, reconstruction and KL of the training and the validation data, in nats,
    and the other numbers of the epoch's record; after some also reconstructions, samples and, in
    the projector, codes. Other data than images are tables, and a sequence of vectors is an image.

    A resumed training continues: what was written of steps after its checkpoint is dropped.

    Args:
        directory: The folder of the files.
        every: The number of epochs between pictures; None for 20 times in the training. The last
            epoch always has them.
        images: The number of reconstructions, and of samples.
        codes: The number of codes, at most; of large examples fewer.

    Raises:
        ValueError: If a number is below 1.
        ImportError: If TensorBoard cannot be imported.
    """

    def __init__(
        self,
        directory: str | Path,
        every: int | None = None,
        images: int = 16,
        codes: int = 1000,
    ) -> None:
        check_at_least(1, every=1 if every is None else every, images=images, codes=codes)
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"the log tensorboard needs TensorBoard, which cannot be imported ({error}): "
                "pip install 'pyro-vae[tensorboard]'"
            ) from error
        self.directory = Path(directory)
        self.every, self.images, self.codes = every, images, codes
        self._writer: Any = None
        self._projector: dict[str, Any] = {}

    def begin(self, training: "Training") -> None:
        from torch.utils.tensorboard import SummaryWriter

        epochs = math.ceil(training.steps / training.steps_per_epoch)
        self._interval = self.every or max(1, epochs // PICTURES)
        last = int(training.history[-1]["step"] or 0) if training.history else -1
        self._wait()
        self._writer = SummaryWriter(str(self.directory), purge_step=last + 1)
        for file in self.directory.glob("codes-*.tsv"):
            if int(file.stem.removeprefix("codes-")) > last:
                file.unlink()
        elements = math.prod(training.data.dataset.event_shape)
        self._coded = min(self.codes, max(1, CODED_ELEMENTS // elements))
        self._write_coded(Snapshot(training))

    def end_epoch(self, epoch: Snapshot) -> None:
        record = epoch.record
        for name, value in record.items():
            if value is not None and name not in ("epoch", "step"):
                self._writer.add_scalar(_tag(name, record), value, epoch.step)
        if int(record["epoch"] or 0) % self._interval == 0 or epoch.training.ended:
            self._write_examples(epoch)
            self._write_codes(epoch)
        # Readers see each epoch at once.
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _wait(self) -> None:
        """Wait for another second than the last file's: readers sort files by the second."""
        names = [file.name.split(".") for file in self.directory.glob("events.out.tfevents.*")]
        newest = max((int(name[3]) for name in names if name[3].isdigit()), default=0)
        time.sleep(min(max(0.0, newest + 1 - time.time()), 1.0))

    def _write_examples(self, epoch: Snapshot) -> None:
        """Add reconstructions and samples, as images or as tables."""
        data = epoch.data(self.images)
        reconstructions = epoch.reconstructions(self.images)
        samples = epoch.samples(self.images)
        for title, sets in (
            ("reconstructions", {"data": data, "reconstruction": reconstructions}),
            ("samples", {"sample": samples}),
        ):
            known = {name: rows for name, rows in sets.items() if rows is not None}
            if len(known) < len(sets):
                continue
            if (like := as_images(data)) is not None:
                images = [_scaled(as_images(rows), like) for rows in known.values()]
                columns = min(COLUMNS, max(1, LARGEST_WIDTH // like.shape[-1]))
                self._writer.add_image(title, image_grid(images, columns), epoch.step)
            else:
                names = epoch.training.data.dataset.event_names
                self._writer.add_text(title, markdown_table(known, names, like=data), epoch.step)

    def _write_codes(self, epoch: Snapshot) -> None:
        """Write the codes for the projector, beside those of earlier epochs."""
        codes = epoch.codes(self._coded)
        if codes is None:
            return
        from google.protobuf import text_format
        from tensorboard.plugins.projector import projector_config_pb2

        rows = ([f"{value:.6g}" for value in row] for row in codes.tolist())
        self._write(f"codes-{epoch.step:08d}.tsv", _tsv(rows))
        config: Any = projector_config_pb2.ProjectorConfig()  # pyright: ignore[reportAttributeAccessIssue]
        for file in sorted(self.directory.glob("codes-*.tsv")):
            name = f"codes after step {int(file.stem.removeprefix('codes-'))}"
            config.embeddings.add(tensor_name=name, tensor_path=file.name, **self._projector)
        self._write("projector_config.pbtxt", text_format.MessageToString(config).encode())

    def _write_coded(self, start: Snapshot) -> None:
        """Write labels and images of the examples whose codes are written."""
        self._projector = {}
        if labels := start.labels(self._coded):
            # One column has no header.
            header = [tuple(labels)] if len(labels) > 1 else []
            rows = zip(*labels.values(), strict=True)
            self._write("labels.tsv", _tsv([*header, *rows]))
            self._projector["metadata_path"] = "labels.tsv"
        images = as_images(start.data(self._coded))
        if images is None:
            return
        from PIL import Image

        images = _scaled(images, images)
        if (side := max(images.shape[-2:])) > LONGEST_SIDE:
            images = F.interpolate(images, scale_factor=LONGEST_SIDE / side, mode="area")
        columns = math.ceil(len(images) ** 0.5)
        grid = (255 * image_grid([images], columns, line=0)).to(torch.uint8)
        # As many rows as columns, as the projector expects.
        grid = F.pad(grid, (0, 0, 0, columns * images.shape[-2] - grid.shape[1]))
        picture = Image.fromarray(grid.expand(3, -1, -1).permute(1, 2, 0).numpy())
        picture.save(content := io.BytesIO(), format="PNG")
        self._write("images.png", content.getvalue())
        height, width = images.shape[-2:]
        self._projector["sprite"] = {
            "image_path": "images.png",
            "single_image_dim": [width, height],
        }

    def _write(self, name: str, content: bytes) -> None:
        write_atomically(self.directory / name, content)


def as_images(x: Real[Tensor, " n *event"]) -> Real[Tensor, "n channels height width"] | None:
    """Examples as grey or colour images; None for vectors.

    A sequence of images is one image with the time to the right, a sequence of vectors a grey one.
    """
    if x.dim() == 5:
        x = x.permute(0, 2, 3, 1, 4).flatten(3)
    if x.dim() == 3:
        return x.unsqueeze(1)
    if x.dim() != 4:
        return None
    return x if x.shape[1] in (1, 3) else x[:, :1]


def image_grid(
    sets: Sequence[Float[Tensor, "n channels height width"]], columns: int, line: int = 1
) -> Float[Tensor, "channels grid_height grid_width"]:
    """Images in rows; with several sets, a row of each before the next row of the first.

    Args:
        sets: The images, from 0 to 1.
        columns: The number of images in a row.
        line: The width of the line between them.
    """
    columns = min(columns, len(sets[0]))
    rows = []
    for start in range(0, len(sets[0]), columns):
        for images in sets:
            part = F.pad(images[start : start + columns], (0, line, 0, line), value=0.5)
            part = F.pad(part, (0, 0) * 3 + (0, columns - len(part)))
            rows.append(part.permute(1, 2, 0, 3).flatten(2))
    return torch.cat(rows, 1)


def markdown_table(
    sets: Mapping[str, Real[Tensor, " n *event"]],
    names: Sequence[str],
    *,
    like: Real[Tensor, " n *event"],
) -> str:
    """Examples as a table in Markdown, with a row of each set for each example.

    Args:
        sets: The examples by the name of their set.
        names: The names of the elements; may be empty.
        like: The data, of whose elements the 12 with the largest variance are shown.
    """
    flat = like.flatten(1).double().nan_to_num()
    elements = flat.shape[1]
    shown = flat.var(0, correction=0).topk(min(ELEMENTS, elements)).indices.sort().values.tolist()
    titles = [_escaped(names[int(i)]) if names else str(i) for i in shown]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (1 + len(shown)) + "|"]
    for i in range(len(like)):
        for name, rows in sets.items():
            values = rows[i].flatten()[shown].tolist()
            cells = ("missing" if math.isnan(value) else f"{value:.4g}" for value in values)
            lines.append(f"| {name} {i + 1} | {' | '.join(cells)} |")
    if elements > ELEMENTS:
        lines += ["", f"The {ELEMENTS} of {elements:,} elements with the largest variance."]
    return "\n".join(lines)


def _scaled(images: Tensor | None, like: Tensor) -> Tensor:
    """Images on the scale from 0 to 1 of the values of others."""
    assert images is not None
    known = like[like.isfinite()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    return ((images - low) / max(high - low, 1e-12)).nan_to_num(0).clamp(0, 1).float()


def _tag(name: str, record: Record) -> str:
    """`elbo/training` and `elbo/validation`, side by side, or `training/lr`."""
    term = name.removeprefix("validation_")
    if f"validation_{term}" not in record:
        return f"training/{name}"
    return f"{term}/{'training' if name == term else 'validation'}"


def _tsv(rows: Iterable[Iterable[str]]) -> bytes:
    cells = (
        ["-" if cell.isspace() or not cell else " ".join(cell.split()) for cell in row]
        for row in rows
    )
    return "".join("\t".join(row) + "\n" for row in cells).encode()


def _escaped(name: str) -> str:
    """A name as text in Markdown, in one line."""
    text = html.escape(" ".join(name.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|])", r"\\\1", text)
