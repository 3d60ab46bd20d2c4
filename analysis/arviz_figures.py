"""What figures that ArviZ draws share: made here, taken from pyplot, and tidied.

`arviz_plots` draws with pyplot, which keeps every figure; and its two lines, 0.8 and 1.3, differ in a
few arguments. Both are handled here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.figure


def arviz_figure(
    plot: Callable[..., Any], *args: Any, width: float, height: float, **options: Any
) -> "matplotlib.figure.Figure":
    """The figure that a function of `arviz_plots` draws, of which pyplot no longer knows.

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
    try:
        collection = plot(*args, backend="matplotlib", figure_kwargs=sheet, **options)
        return collection.viz["figure"].item()
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)
