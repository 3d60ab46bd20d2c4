"""The style of all figures: colours, empty figures, names and titles, PNG files, use of ArviZ.

`arviz_plots` draws with pyplot, which keeps every figure, and its lines 0.8 and 1.3 differ in a
few arguments. Both are handled here.
"""

import io
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.lines

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    buffer = io.BytesIO()
    figure.set_dpi(dpi)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        # A name of the user's with dollar signs is no formula, unlike the numbers of a log axis.
        if "$" in text.get_text() and "\\mathdefault" not in text.get_text():
            text.set_parse_math(False)
    # `Figure.savefig` draws twice: once to lay the figure out, which drawing does as well.
    FigureCanvasAgg(figure).print_png(buffer)
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


def arviz_figure(
    plot: Callable[..., Any], *args: Any, width: float, height: float, **options: Any
) -> "matplotlib.figure.Figure":
    """The figure that a function of `arviz_plots` draws, released by pyplot.

    Args:
        plot: Such as `arviz_plots.plot_ppc_dist`.
        *args: Its arguments.
        width: In inches.
        height: In inches.
        **options: Its options.
    """
    from matplotlib import pyplot

    before = set(pyplot.get_fignums())
    sheet = {"figsize": (width, height), "figsize_units": "inches", "layout": "constrained"}
    sheet |= options.pop("figure_kwargs", {})
    try:
        with warnings.catch_warnings():
            # ArviZ 1.3 takes statistics whose values are all 0 or 1 for binary data.
            warnings.filterwarnings("ignore", message="Variables ", category=UserWarning)
            collection = plot(*args, backend="matplotlib", figure_kwargs=sheet, **options)
        return collection.viz["figure"].item()
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)


def pit_figure(
    pits: Mapping[str, Float[np.ndarray, " n"]], *, columns: int, width: float, height: float
) -> "matplotlib.figure.Figure":
    """ECDF(u) - u of each sample of PITs, by `arviz_plots.plot_ecdf_pit`.

    ArviZ's band and p-value are removed: they differ between its lines, and hold for independent
    PITs only.

    Args:
        pits: Samples of one size by the titles of their panels.
        columns: The number of panels in a row.
        width: In inches.
        height: In inches.
    """
    import inspect

    import arviz_plots
    import xarray as xr
    from arviz_base import from_dict

    tree = from_dict({"prior_sbc": {name: pit[None] for name, pit in pits.items()}})
    assert isinstance(tree, xr.DataTree)
    older = "ci_prob" in inspect.signature(arviz_plots.plot_ecdf_pit).parameters
    bands = ("credible_interval",) if older else ("suspicious_points", "p_value_text")
    figure = arviz_figure(
        arviz_plots.plot_ecdf_pit,
        tree,
        width=width,
        height=height,
        col_wrap=columns,
        figure_kwargs={"sharey": False},
        visuals=dict.fromkeys((*bands, "remove_axis", "xlabel", "ylabel"), False),
    )
    for ax in figure.axes:
        # 1.3 draws a line at zero before the curve, which no option removes.
        for line in ax.lines[:-1]:
            line.remove()
        for curve in ax.lines:
            _extend_to_ends(curve)
    return figure


def _extend_to_ends(curve: "matplotlib.lines.Line2D") -> None:
    """Extend ECDF(u) - u to (0, 0) and (1, 0): ArviZ draws it between the data only."""
    u, height = (np.asarray(values) for values in curve.get_data())
    # Steps would draw a gap in the data as level, where the curve falls.
    curve.set_drawstyle("default")
    curve.set_data(np.r_[0, u[0], u, 1], np.r_[0, -u[0], height, 0])
