"""What all figures share: an empty sheet and a few colours."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Okabe & Ito's colours, told apart with every form of colour blindness.
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

# For lines that lie over one another: as many as can be told apart, no two of them green.
LINE_COLOURS = (
    BLUE,
    ORANGE,
    GREEN,
    "#332288",
    "#88CCEE",
    "#CC6677",
    "#DDCC77",
    "#882255",
    "#AA4499",
    "#777777",
)


def new_figure(width: float, height: float) -> "matplotlib.figure.Figure":
    """An empty figure that pyplot does not know of, so that nothing has to be closed.

    Args:
        width: In inches.
        height: In inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(
    axes: Iterable["matplotlib.axes.Axes"], grid: Literal["both", "x", "y"] | None = "y"
) -> None:
    """Take away the upper and right frame and add a faint grid behind what is drawn."""
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
        if grid is not None:
            ax.grid(axis=grid, color="0.9", linewidth=0.8)
