"""Figures by ArviZ.

`arviz_plots` draws with pyplot, which keeps every figure, and its lines 0.8 and 1.3 differ in a few
arguments. Both are handled here.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import matplotlib.figure
    import matplotlib.lines


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

    ArviZ's band and p-value are removed: they differ between its lines, and hold for independent PITs
    only.

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
