"""The style of all figures: colours, an empty figure, the length of names and titles, and PNG files."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Okabe & Ito's colours, distinguishable with every form of colour blindness.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
GREY = "#8A8A8A"

# Paul Tol's "muted" scheme, for labels: https://personal.sron.nl/~pault/
LABEL_COLOURS = (
    "#332288",
    "#88CCEE",
    "#CC6677",
    "#117733",
    "#DDCC77",
    "#882255",
    "#44AA99",
    "#AA4499",
    "#999933",
    "#777777",
)
# For overlapping lines: no two of them are green.
LINE_COLOURS = (
    *(BLUE, ORANGE, GREEN),
    *(colour for colour in LABEL_COLOURS if colour not in ("#117733", "#44AA99", "#999933")),
)

DOTS_PER_INCH = 140
# The number of names listed in a sentence; the others are counted.
_MOST_NAMES = 4


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure, in inches, that pyplot does not track and nobody has to close."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(
    axes: Iterable["matplotlib.axes.Axes"], grid: Literal["both", "x", "y"] | None = "y"
) -> None:
    """Remove the upper and right spines, and add a faint grid behind the data."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
        if grid is not None:
            ax.grid(axis=grid, color="0.9", linewidth=0.8)


def to_png(figure: "matplotlib.figure.Figure", dpi: int = DOTS_PER_INCH) -> bytes:
    """The content of a PNG file of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    return buffer.getvalue()


def shorten(name: str, most: int = 28) -> str:
    """A name of at most `most` characters, its middle replaced by an ellipsis if it is longer."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"


def wrap_title(title: str, inches: float = 10.0) -> str:
    """A title in lines that fit on a figure of this width."""
    return textwrap.fill(title, int(9.5 * inches))


def list_names(words: Sequence[str]) -> str:
    """Names as a sentence lists them: the first few, and the number of the others.

    >>> list_names(["a", "b", "c"]), list_names(list("abcdefg"))
    ('a, b and c', 'a, b, c, d and 3 others')
    """
    if len(words) > _MOST_NAMES + 1:
        words = [*words[:_MOST_NAMES], f"{len(words) - _MOST_NAMES} others"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
