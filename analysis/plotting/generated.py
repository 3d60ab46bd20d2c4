"""Generated data as figures and animations: images and series in grids, vectors as heat maps."""

import io
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Real

from analysis.generated import Generated
from analysis.plotting.images import (
    Limits,
    draw_grid,
    is_image,
    plot_reconstructions,
    value_limits,
)
from analysis.plotting.style import new_figure, shorten, to_png, wrap_title
from analysis.plotting.vectors import Elements, is_series, plot_largest, plot_series, plot_vectors
from pyro_vae.data.nouns import noun, nouns

if TYPE_CHECKING:
    import matplotlib.figure

# The most rows and columns of a figure, and panels of vectors.
MOST_ROWS, MOST_COLUMNS, MOST_PANELS = 12, 13, 6
# Samples in a grid.
MOST_SAMPLES = 100
# Rows of vectors in a panel.
_VECTORS = 30
# The axis along which each kind moves in an animation; sequences move along their frames.
MOVING = {
    "interpolations": "t",
    "traversals": "quantile",
    "manifold": "row",
    "completions": "draw",
}
# Milliseconds of a frame.
_FRAME = 120
ANIMATIONS = (".gif", ".mp4")


@dataclass(frozen=True)
class Sheet:
    """Examples in rows and columns.

    Args:
        rows: The examples of each row.
        title: The title of the figure.
        names: The names of the rows.
        titles: The titles of columns, by their index.
    """

    rows: Sequence[Any] | np.ndarray
    title: str
    names: Sequence[str] = ()
    titles: dict[int, str] = field(default_factory=dict)


# ---- figures ------------------------------------------------------------------------------------


def plot_generated(
    generated: Generated, reference: Real[np.ndarray, " n *event"]
) -> "matplotlib.figure.Figure":
    """A figure of generated data.

    Images and series are drawn in a grid, sequences with their frames side by side, vectors with
    names and counts as heat maps or by their largest elements.

    Args:
        generated: The data.
        reference: Real data in the same units, which give the scale.
    """
    elements = Elements.from_data(reference, generated.event_names)
    if elements is not None:
        return _plot_vectors(generated, elements, reference)
    generated, reference = drawable(generated), drawable_rows(reference)
    limits = _limits(generated, reference)
    if generated.kind == "reconstructions" and len(generated.event_shape) < 4:
        few = slice(0, 5 * MOST_ROWS)
        figure = plot_reconstructions(generated["data"][few], generated.values[few], limits)
        figure.suptitle(sheet_of(generated).title)
        return figure
    if generated.kind == "prior" and is_series(generated.event_shape):
        return plot_series(generated.values, title=sheet_of(generated).title)
    return _draw(sheet_of(generated), limits)


def drawable(generated: Generated) -> Generated:
    """Vectors without names as series of one channel."""
    if len(generated.event_shape) != 1:
        return generated
    others = {
        name: (
            axes,
            array[..., None, :] if array.shape[len(axes) :] == generated.event_shape else array,
        )
        for name, (axes, array) in generated.others.items()
    }
    return replace(generated, values=generated.values[..., None, :], others=others)


def drawable_rows(data: Real[np.ndarray, " n *event"]) -> np.ndarray:
    """Vectors as series of one channel."""
    return data[:, None] if data.ndim == 2 else data


def sheet_of(generated: Generated) -> Sheet:
    """The grid of a figure."""
    sheet = _SHEETS[generated.kind](generated)
    if len(generated.event_shape) < 4:
        return sheet
    return _frames_side_by_side(generated, sheet)


def _what(generated: Generated) -> str:
    what = "draws from p(x | z)" if generated.metadata.get("noise") else "the mean of p(x | z)"
    return f"{what} under {', '.join(given)}" if (given := generated.metadata["given"]) else what


def _first_upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _few(count: int, most: int) -> np.ndarray:
    """Up to `most` indices at even distances, with both ends."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _prior(g: Generated) -> Sheet:
    samples = g.values[:MOST_SAMPLES]
    columns = math.ceil(math.sqrt(len(samples)))
    rows = [samples[i : i + columns] for i in range(0, len(samples), columns)]
    return Sheet(rows, f"New {nouns()} from the model: {_what(g)} at z ~ p(z)")


def _reconstructions(g: Generated) -> Sheet:
    title = f"{nouns().capitalize()} above their reconstructions: {_what(g)} at the code of x"
    rows = [example for pair in zip(g["data"], g.values, strict=True) for example in pair]
    names = [f"{word} {row}" for row in g.axes["row"] for word in (noun(), "model")]
    few = slice(0, 2 * MOST_ROWS)
    return Sheet([[each] for each in rows[few]], title, names[few])


def _interpolations(g: Generated) -> Sheet:
    at = _few(g.values.shape[1], MOST_COLUMNS)
    # Each path between the two data themselves.
    rows = [[a, *path[at], b] for path, (a, b) in zip(g.values, g["ends"], strict=True)]
    names = [f"{a} to {b}" for a, b in zip(g["from_row"], g["to_row"], strict=True)]
    titles = {0: "data", 1: "t = 0", len(at): "t = 1", len(at) + 1: "data"}
    path = g.metadata["path_name"]
    title = f"{_first_upper(_what(g))} on a {path} between the codes of two {nouns()}"
    return Sheet(rows[:MOST_ROWS], title, names[:MOST_ROWS], titles)


def _traversals(g: Generated) -> Sheet:
    at = _few(g.values.shape[1], MOST_COLUMNS)
    titles = {0: "1 %", len(at) - 1: "99 %"}
    if len(at) % 2:
        titles[len(at) // 2] = "50 %"
    title = f"{_first_upper(_what(g))} with one coordinate moved over the quantiles of q(z_j)"
    if "rate" in g.others:
        title += "\nand its rate, the mean of KL(q(z_j | x) || p(z_j))"
    return Sheet(g.values[:MOST_ROWS, at], title, coordinate_names(g)[:MOST_ROWS], titles)


def coordinate_names(g: Generated) -> list[str]:
    """The coordinates of traversals with their rate in nats."""
    dimensions = g.axes["dimension"]
    if "rate" in g.others:
        return [f"z{j}: {rate:.2f} nats" for j, rate in zip(dimensions, g["rate"], strict=True)]
    return [f"z{j}: variance {v:.2g}" for j, v in zip(dimensions, g["variance"], strict=True)]


def _manifold(g: Generated) -> Sheet:
    across, down = g.metadata["dimensions"]
    codes = g["codes"]
    step = max(1, codes.shape[0] // 10)
    titles = {j: f"{codes[0, j, across]:.1f}" for j in range(0, codes.shape[1], step)}
    # The axis points upwards.
    values, heights = g.values[::-1], codes[::-1, 0, down]
    names = [f"{z:.1f}" if i % step == 0 else "" for i, z in enumerate(heights)]
    rest = "" if codes.shape[-1] == 2 else ", all others at their median"
    title = f"{_first_upper(_what(g))} over z{across} (to the right) and z{down} (up){rest}"
    return Sheet(values, title, names, titles)


def _classes(g: Generated) -> Sheet:
    few = slice(0, MOST_COLUMNS)
    title = f"New {nouns()} by class: {_what(g)}"
    names = [shorten(str(label)) for label in g.axes["class"]]
    return Sheet([row[few] for row in g.values], title, names)


def _completions(g: Generated) -> Sheet:
    draws = g.values[:, : MOST_COLUMNS - 3]
    sides = zip(g["data"], _observed(g), g["mean"], draws, strict=True)
    rows = [[x, known, mean, *drawn] for x, known, mean, drawn in sides]
    names = [f"{row}: ESS {ess:,.0f}" for row, ess in zip(g.axes["row"], g["ess"], strict=True)]
    titles = {0: "data", 1: "observed", 2: "mean", 3: "draws"}
    total = g.metadata["num_samples"]
    title = f"{nouns().capitalize()} completed given what is observed, ESS of {total:,} draws of z"
    if np.isnan(g["data"]).any():
        rows, titles = [row[1:] for row in rows], {0: "observed", 1: "mean", 2: "draws"}
    return Sheet(rows[:MOST_ROWS], title, names[:MOST_ROWS], titles)


def _observed(g: Generated) -> np.ndarray:
    """What completions are given; grey levels that are binarised are binary."""
    return np.where(g["observed"], g.values[:, 0], np.nan)


_SHEETS: dict[str, Callable[[Generated], Sheet]] = {
    "prior": _prior,
    "reconstructions": _reconstructions,
    "interpolations": _interpolations,
    "traversals": _traversals,
    "manifold": _manifold,
    "classes": _classes,
    "completions": _completions,
}


def _frames_side_by_side(g: Generated, sheet: Sheet) -> Sheet:
    """Sequences: one in a row, its frames in the columns."""
    names = [*sheet.names, *[""] * (len(sheet.rows) - len(sheet.names))]
    examples = [
        (f"{name if j == 0 else ''} {sheet.titles.get(j, '')}".strip(), example)
        for name, row in zip(names, sheet.rows, strict=True)
        for j, example in enumerate(row)
    ][:MOST_ROWS]
    at = _few(g.event_shape[0], MOST_COLUMNS)
    titles = {i: f"frame {frame}" for i, frame in enumerate(at) if i % 4 == 0}
    return Sheet(
        [example[at] for _, example in examples],
        f"{sheet.title}; frames from left to right",
        [name for name, _ in examples],
        titles,
    )


def _limits(generated: Generated, reference: np.ndarray) -> Limits:
    """The values drawn black and white, the same for all that is drawn."""
    sequence = reference.ndim == 5
    rows = [reference, generated.rows()]
    if sequence:
        rows = [each.reshape(-1, *each.shape[-3:]) for each in rows]
    return value_limits(np.concatenate([each[:1000].astype(np.float64) for each in rows]))


def _draw(sheet: Sheet, limits: Limits) -> "matplotlib.figure.Figure":
    """A grid with its names and titles."""
    columns, rows = max(map(len, sheet.rows)), len(sheet.rows)
    shape = np.shape(sheet.rows[0][0])
    high, wide = shape[-2:] if is_image(shape) else (0.75, 1.2)
    # Inches of an example, larger where there are few.
    width = float(np.clip(9.0 / columns, 0.42, 1.0))
    height = width * float(np.clip(high / wide, 0.4, 2.5))
    margin = 0.095 * max((len(name) for name in sheet.names), default=0)
    inches = max(width * columns + margin + 0.3, 6.5)
    figure = new_figure(inches, height * rows + 0.95 + 0.2 * bool(sheet.titles))
    draw_grid(
        figure,
        [*sheet.rows],
        limits,
        names=sheet.names,
        titles=sheet.titles,
        size=9,
    )
    figure.suptitle(_wrapped(sheet.title, inches), fontsize=11)
    return figure


def _wrapped(title: str, inches: float) -> str:
    """A title whose lines fit on a figure of this width."""
    # Formulas are not broken.
    whole = title.replace("(x | z)", "(x\u00a0|\u00a0z)")
    return "\n".join(wrap_title(line, inches) for line in whole.split("\n"))


# ---- vectors ------------------------------------------------------------------------------------


def _plot_vectors(
    g: Generated, elements: Elements, reference: np.ndarray
) -> "matplotlib.figure.Figure":
    """Heat maps, or the largest elements of long vectors of counts."""
    sheet = _SHEETS[g.kind](g)
    if elements.largest:
        return _plot_largest(g, sheet, elements)
    title = _wrapped(sheet.title, 9.0)
    labels: dict[str, list[str]] = {}
    if g.kind == "prior":
        panels = {f"{nouns()} given": reference[:_VECTORS], f"new {nouns()}": g.values[:_VECTORS]}
    elif g.kind == "reconstructions":
        few = slice(0, _VECTORS)
        panels = {nouns(): g["data"][few], "reconstructions": g.values[few]}
        title = title.replace(" above their", " and their")
        labels = {name: [str(row) for row in g.axes["row"][few]] for name in panels}
    elif g.kind == "completions":
        panels = {"observed": _observed(g), "mean": g["mean"]}
        panels |= {f"draw {i}": g.values[:, i] for i in range(min(2, g.values.shape[1]))}
        if not np.isnan(g["data"]).any():
            panels = {nouns(): g["data"], **panels}
        panels = {name: vectors[:_VECTORS] for name, vectors in panels.items()}
        names = [f"{name}" for name in sheet.names]
        names = [
            f"{row}: ESS {ess:,.0f}" for row, ess in zip(g.axes["row"], g["ess"], strict=True)
        ]
        labels = {name: names[:_VECTORS] for name in panels}
    else:
        names = [*sheet.names] or [str(i) for i in range(len(sheet.rows))]
        most = MOST_PANELS
        panels = {
            names[i] or f"{i}": np.stack(list(sheet.rows[i])) for i in _few(len(sheet.rows), most)
        }
        columns = max(map(len, panels.values()))
        said = [sheet.titles.get(column, "") for column in range(columns)]
        labels = {name: said[: len(vectors)] for name, vectors in panels.items()}
    return plot_vectors(panels, elements, title, labels=labels or None)


def _plot_largest(g: Generated, sheet: Sheet, elements: Elements) -> "matplotlib.figure.Figure":
    names = elements.names if elements.named else ()
    title = f"{sheet.title}: the largest elements"
    if g.kind == "prior":
        return plot_largest(g.values, names, title=title)
    if g.kind == "reconstructions":
        title = title.replace(" above their", " and their")
        return plot_largest(g.values, names, g["data"], title)
    if g.kind == "completions":
        said = [f"{row}: ESS {ess:,.0f}" for row, ess in zip(g.axes["row"], g["ess"], strict=True)]
        data = np.nan_to_num(g["data"])
        return plot_largest(g["mean"], names, data, title.replace("given", "(means) given"), said)
    # Both ends of each row.
    ends = ["t = 0", "t = 1"]
    if g.kind != "interpolations":
        ends = [sheet.titles.get(c, str(c)) for c in (0, len(sheet.rows[0]) - 1)]
    values = g.values[::-1] if g.kind == "manifold" else g.values
    called = [f"{name}, {end}" for name in sheet.names for end in ends]
    vectors = values[:, [0, -1]].reshape(-1, *g.event_shape)
    return plot_largest(vectors, names, title=f"{title}, at both ends", titles=called)


# ---- animations ---------------------------------------------------------------------------------


def animate(generated: Generated, reference: Real[np.ndarray, " n *event"], suffix: str) -> bytes:
    """A `.gif` or `.mp4` file: paths and traversals step by step, completions draw by draw.

    A manifold moves up, and sequences move in time. Paths and traversals go forth and back.

    Args:
        generated: The data.
        reference: Real data in the same units, which give the scale.
        suffix: ".gif" or ".mp4".

    Raises:
        ValueError: If the data do not move, or ffmpeg is needed and not found.
    """
    check_animation(generated.kind, generated.event_shape, suffix)
    generated, reference = drawable(generated), drawable_rows(reference)
    limits = _limits(generated, reference)
    frames = [to_png(_draw(sheet, limits), 100) for sheet in _moving_sheets(generated)]
    if generated.kind in ("interpolations", "traversals") and len(generated.event_shape) < 4:
        frames += frames[-2:0:-1]
    return _as_gif(frames) if suffix == ".gif" else _as_mp4(frames)


def check_animation(kind: str, event_shape: tuple[int, ...], suffix: str) -> None:
    """Check that there is something to animate, and a program to write it.

    Raises:
        ValueError: If there is not.
    """
    if kind not in MOVING and len(event_shape) < 4:
        raise ValueError(
            f"{kind} have no order to show in time: write them as .png, or animate "
            f"{', '.join(MOVING)}."
        )
    if suffix == ".mp4" and shutil.which("ffmpeg") is None:
        raise ValueError(".mp4 needs ffmpeg, which is not found on PATH: install it, or use .gif.")


def _moving_sheets(g: Generated) -> Iterator[Sheet]:
    """The grid of each frame."""
    still = _SHEETS[g.kind](g)
    if len(g.event_shape) == 4:
        for t in range(g.event_shape[0]):
            rows = [[example[t] for example in row] for row in still.rows]
            yield replace(still, rows=rows, title=f"{still.title}\nframe {t}")
        return
    axis = [*g.axes].index(MOVING[g.kind])
    for step, label in enumerate(g.axes[MOVING[g.kind]]):
        now = np.take(g.values, step, axis)[:MOST_COLUMNS]
        if g.kind == "completions":
            observed = _observed(g)[:MOST_COLUMNS]
            said = {i: name for i, name in enumerate(still.names[:MOST_COLUMNS])}
            titles = {i: name.replace(": ", "\n") for i, name in said.items()}
            rows, names, moment = [observed, now], ["observed", "draw"], f"draw {label}"
        elif g.kind == "interpolations":
            ends = g["ends"][:MOST_COLUMNS]
            rows = [ends[:, 0], now, ends[:, 1]]
            names, titles, moment = ["from", "z(t)", "to"], {}, f"t = {float(label):.2f}"
        elif g.kind == "traversals":
            titles = {i: name.replace(": ", "\n") for i, name in enumerate(still.names)}
            rows, names, moment = [now], [], f"quantile {float(label):.0%}"
        else:
            across, down = g.metadata["dimensions"]
            z = g["codes"][step, :, :]
            titles = {0: f"z{across} = {z[0, across]:.1f}", len(z) - 1: f"{z[-1, across]:.1f}"}
            now = np.take(g.values, step, axis)
            rows, names, moment = [now], [], f"z{down} = {z[0, down]:.2f}"
        yield Sheet(rows, f"{still.title}\n{moment}", names, titles)


def _as_gif(frames: Sequence[bytes]) -> bytes:
    from PIL import Image

    first, *others = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    buffer = io.BytesIO()
    options: Any = {"append_images": others, "duration": _FRAME, "loop": 0}
    first.save(buffer, "GIF", save_all=True, **options)
    return buffer.getvalue()


def _as_mp4(frames: Sequence[bytes]) -> bytes:
    """H.264 or what ffmpeg has, of even width and height, as the format asks."""
    command = ["ffmpeg", "-loglevel", "error", "-f", "image2pipe", "-framerate"]
    command += [f"{1000 / _FRAME:.3f}", "-i", "-", "-pix_fmt", "yuv420p", "-fflags", "+bitexact"]
    command += ["-flags:v", "+bitexact", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "animation.mp4"
        done = subprocess.run(
            [*command, str(path)], check=False, input=b"".join(frames), capture_output=True
        )
        if done.returncode != 0:
            raise ValueError(f"ffmpeg failed: {done.stderr.decode(errors='replace').strip()}")
        return path.read_bytes()
