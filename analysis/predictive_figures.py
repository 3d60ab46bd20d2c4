"""Data sets from the model beside the real one: ArviZ's predictive checks, and the data themselves.

A replicated data set is as large as the real one and drawn anew: z ~ p(z), x ~ p(x | z). To a true
model the real data set is one more of them, so that what it shares with few of them is a fault.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Integer, Real

from analysis.arviz_figures import arviz_figure
from analysis.canvas import BLUE, ORANGE, new_figure, tidy
from analysis.counts import count_frequencies
from analysis.images import draw_datum, strip
from analysis.pit import randomised_pit
from analysis.vectors import is_long

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray as xr

GROUP = "prior_predictive"
COLUMNS = 4
DATA_SETS_DRAWN = 50
IMAGES, REPLICATES, VECTORS, ELEMENTS = 10, 4, 6, 40

NOTHING_VARIES = "no statistic varies over the data sets: there is nothing to draw."
LONGEST_NAME = 34
# Above so many elements in a bin, roots hide the rare counts.
MOST_ROOTS = 5_000

# What is measured of a data set's statistics.
TEST_STATISTICS: dict[str, Callable[..., Any]] = {"mean": np.mean, "sd": np.std}


def predictive_tree(
    real: Mapping[str, Real[np.ndarray, " n"]],
    generated: Mapping[str, Real[np.ndarray, "datasets n"]],
) -> "xr.DataTree":
    """Statistics of the real data and of data sets from the model, as ArviZ's plots read them.

    Args:
        real: Of each statistic, by its name in the figures, the values of the n real data.
        generated: The values of as many new data in each data set.

    Returns:
        The groups "observed_data", with the dimension `image`, and "prior_predictive", with `chain`
        (of length one), `draw` (the data sets) and `image`.

    Raises:
        ValueError: If the names or the numbers of data differ.
    """
    import xarray as xr
    from arviz_base import from_dict

    shapes = {name: np.shape(values) for name, values in real.items()}
    found = {name: np.shape(values)[1:] for name, values in generated.items()}
    if not shapes or shapes != found:
        raise ValueError(f"data sets must be of the real data's statistics {shapes}, got {found}.")
    tree = from_dict(
        {
            "observed_data": {name: np.asarray(v, np.float64) for name, v in real.items()},
            GROUP: {name: np.asarray(v, np.float64)[None] for name, v in generated.items()},
        },
        dims={name: ["image"] for name in real},
    )
    assert isinstance(tree, xr.DataTree)
    return tree


def plot_distributions(tree: "xr.DataTree") -> "matplotlib.figure.Figure":
    """The ECDF of each statistic, of the real data and of data sets, by `arviz_plots.plot_ppc_dist`.

    Steps, unlike a smoothed density, are right for a statistic of few values, too. Under a true
    model the real data's line is one among the data sets'.

    Args:
        tree: Of `predictive_tree`. What never varies is left out.

    Raises:
        ValueError: If nothing varies.
    """
    import arviz_plots

    # Of what never varies there is no curve.
    names = [
        name
        for name, values in tree["observed_data"].data_vars.items()
        if np.ptp(values.values) > 0 or np.ptp(tree[GROUP][name].values) > 0
    ]
    if not names:
        raise ValueError(NOTHING_VARIES)
    figure = _quiet_figure(
        arviz_plots.plot_ppc_dist,
        tree,
        panels=len(names),
        var_names=names,
        kind="ecdf",
        num_samples=min(DATA_SETS_DRAWN, tree[GROUP].sizes["draw"]),
        visuals={
            "predictive_dist": {"color": BLUE, "alpha": 0.25, "width": 0.8},
            "observed_dist": {"color": ORANGE, "width": 1.6},
            "remove_axis": False,
        },
    )
    _key(figure, "one data set from the model", "the real data")
    figure.suptitle("ECDF of each statistic: the real data's should be one among the data sets'")
    return figure


def _test_statistics(
    values: Mapping[str, Real[np.ndarray, "*datasets n"]],
) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation over the n data, of each data set.

    Returns:
        By name and by test statistic: a number, or one for each data set.
    """
    return {
        name: {t: measure(v, axis=-1) for t, measure in TEST_STATISTICS.items()}
        for name, v in values.items()
    }


def test_statistic_p_values(
    real: Mapping[str, Real[np.ndarray, " n"]],
    generated: Mapping[str, Real[np.ndarray, "datasets n"]],
    *,
    seed: int = 0,  # noqa: PT028, by its name alone it looks like a test.
) -> dict[str, dict[str, float]]:
    """p = 2 min(u, 1 - u), u the PIT of T(real data) among T(each data set): a tail area, two-sided.

    Exactly uniform under a true model, ties included: they are broken at random. With D data sets
    it cannot be much below 2 / (D + 1).

    Args:
        real: Of each statistic, the values of the n real data, which did not train the model.
        generated: The values of as many new data in each data set.
        seed: The seed of how ties are broken.

    Returns:
        By the name of the statistic and of the test statistic T, `mean` or `sd`, the standard deviation. Below
        0.05 the model's data sets are unlike the real one in T; of many such p-values, 5 % are below
        in any case.

    References:
        Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng &
        Stern, 1996), https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
    """
    observed, replicated = _test_statistics(real), _test_statistics(generated)
    p_values: dict[str, dict[str, float]] = {}
    for name, measured in observed.items():
        p_values[name] = {}
        for t, value in measured.items():
            pit = randomised_pit(np.atleast_1d(value), replicated[name][t], seed=seed)
            p_values[name][t] = float(2 * min(pit[0], 1 - pit[0]))
    return p_values


# pytest must not take it for a test.
test_statistic_p_values.__test__ = False  # type: ignore[attr-defined]


def plot_test_statistics(tree: "xr.DataTree", *, seed: int = 0) -> "matplotlib.figure.Figure":
    """Mean and standard deviation of each statistic over data sets, by `arviz_plots.plot_ppc_tstat`.

    The curve is the ECDF over data sets, and where the real data's line crosses it is the share of
    data sets below. Above each panel stands the p-value of `test_statistic_p_values`. What is the
    same in all data sets is left out.

    Args:
        tree: Of `predictive_tree`.
        seed: The seed of how ties are broken.

    Raises:
        ValueError: If nothing varies.
    """
    import arviz_plots

    real = {str(name): v.values for name, v in tree["observed_data"].data_vars.items()}
    generated = {str(name): v.values[0] for name, v in tree[GROUP].data_vars.items()}
    p_values = test_statistic_p_values(real, generated, seed=seed)
    observed, replicated = _test_statistics(real), _test_statistics(generated)
    # Each is measured already: as a "statistic" of data sets of one datum it is its own mean.
    points, draws, markers = {}, {}, []
    for name, measured in observed.items():
        for t, value in measured.items():
            sets = replicated[name][t]
            if np.ptp(sets) > 0:
                title = f"{name[:LONGEST_NAME]}\n{t}: p = {p_values[name][t]:.2g}"
                points[title], draws[title] = np.atleast_1d(value), sets[:, None]
                markers.append(float(value))
    if not points:
        raise ValueError(NOTHING_VARIES)
    figure = _quiet_figure(
        arviz_plots.plot_ppc_tstat,
        predictive_tree(points, draws),
        panels=len(points),
        t_stat="mean",
        kind="ecdf",
        visuals={
            "dist": {"color": BLUE},
            "title": {"text": None},  # The name alone, without ArviZ's own word for its measure.
            "observed_tstat": {"color": ORANGE},
            "remove_axis": False,
        },
    )
    for ax, marker in zip(figure.axes, markers, strict=False):
        ax.axvline(marker, color=ORANGE, linewidth=1.6)
    _key(figure, "data sets from the model", "the real data")
    figure.suptitle(
        "ECDF over data sets from the model: a real value at either end, and a small p, is a misfit"
    )
    return figure


def plot_rootogram(
    real: Integer[np.ndarray, "n elements"], generated: Integer[np.ndarray, "datasets n elements"]
) -> "matplotlib.figure.Figure":
    """How often each count occurs, in real data and in data sets, by `arviz_plots.plot_ppc_rootogram`.

    All elements are pooled. The roots of frequencies are drawn, or logarithms if there are many, so
    that rare counts show beside frequent ones. Large counts are binned as `count_frequencies` says, and named below the axis.

    Args:
        real: Counts of the real data.
        generated: Counts of as many data in each data set.

    Raises:
        ValueError: If the shapes do not match, or counts are below zero.
    """
    import arviz_plots
    import xarray as xr
    from arviz_base import from_dict

    frequencies = count_frequencies(real, generated)
    many = frequencies.observed.max() > MOST_ROOTS
    tree = from_dict(
        {
            "observed_data": {"counts": frequencies.binned(real).reshape(-1)},
            GROUP: {"counts": frequencies.binned(generated).reshape(1, len(generated), -1)},
        },
        dims={"counts": ["image"]},
    )
    assert isinstance(tree, xr.DataTree)
    figure = _quiet_figure(
        arviz_plots.plot_ppc_rootogram,
        tree,
        panels=1,
        size=(10.0, 4.6),
        ci_prob=0.95,
        yscale="symlog" if many else "sqrt",
        point_estimate="mean",
        visuals={
            "predictive_markers": {"color": BLUE},
            "credible_interval": {"color": BLUE},
            "observed_markers": {"color": ORANGE},
            "title": False,
        },
    )
    (ax,) = figure.axes
    ax.set_xticks(range(len(frequencies.labels)), frequencies.labels, rotation=60, ha="right")
    ax.set(xlabel="count of an element", ylabel=f"elements ({'log' if many else 'root'} scale)")
    ax.tick_params(labelsize=9)
    _key(figure, "data sets from the model: mean and 95% interval", "the real data")
    figure.suptitle(frequencies.title())
    return figure


def plot_prior_predictive(
    real: Real[np.ndarray, " n *event"],
    untrained: Real[np.ndarray, " m *event"],
    trained: Real[np.ndarray, " k *event"],
    limits: tuple[float, float] | None = None,
) -> "matplotlib.figure.Figure":
    """Real data above new data x ~ p(x | z), z ~ p(z), of the model before and after training.

    Images and short vectors are drawn one by one, long vectors as their elements from the largest to
    the smallest.

    Args:
        real: The data.
        untrained: New data of the model as it was initialised: what its prior and networks assume.
        trained: New data of the trained model.
        limits: The values drawn black and white; the least and greatest of the real data, if None.
    """
    rows = {"data": real, "untrained": untrained, "trained": trained}
    if is_long(real.shape[1:]):
        figure = new_figure(10.0, 3.8)
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        for ax, (name, data) in zip(panels, rows.items(), strict=True):
            ordered = -np.sort(-data[:IMAGES].astype(np.float64), axis=1)
            ax.plot(np.arange(1, ordered.shape[1] + 1), ordered.T, color=BLUE, linewidth=0.8)
            ax.set(title=name, xscale="log", xlabel="rank of the element")
            ax.set_yscale("symlog", linthresh=1)
        panels[0].set_ylabel("its value")
        tidy(panels, grid="both")
    else:
        figure = _rows(rows, limits or _limits(real))
    figure.suptitle("Real data and new data from the model, x ~ p(x | z) with z ~ p(z)")
    return figure


def plot_same_image(
    originals: Real[np.ndarray, " n *event"],
    replicates: Real[np.ndarray, " draws n *event"],
    limits: tuple[float, float] | None = None,
) -> "matplotlib.figure.Figure":
    """Data above replicates of the same data, x' ~ p(x | z), z ~ q(z | x): descriptive only.

    The replicates have seen the datum. They fail a calibrated test even for a true model, and no
    p-value comes from them.

    Args:
        originals: The data.
        replicates: Replicates of each.
        limits: The values drawn black and white; the least and greatest of the data, if None.
    """
    if is_long(originals.shape[1:]):
        figure = new_figure(10.0, 5.4)
        panels = figure.subplots(2, 3, sharex=True).flat
        for ax, index in zip(panels, range(min(VECTORS, len(originals))), strict=False):
            _draw_range(ax, originals[index], replicates[:, index])
        for ax in list(panels):
            ax.set_axis_off()
        tidy([ax for ax in figure.axes if ax.lines], grid="both")
        # Not of the whole figure: the key would lie on it.
        figure.axes[-2].set_xlabel(f"the datum's {ELEMENTS} largest elements, by rank")
        figure.supylabel("value")
        _key(figure, "90% of the replicates", "the datum")
    else:
        rows = {"data": originals} | {
            f"replicate {k + 1}": replicates[k] for k in range(min(REPLICATES, len(replicates)))
        }
        figure = _rows(rows, limits or _limits(originals))
    figure.suptitle(
        "Data and replicates of the same data, z ~ q(z | x).\n"
        "Descriptive only: they fail a calibrated test even for a true model"
    )
    return figure


def _rows(
    rows: Mapping[str, np.ndarray], limits: tuple[float, float]
) -> "matplotlib.figure.Figure":
    columns = min(IMAGES, max(len(data) for data in rows.values()))
    figure = new_figure(max(columns + 1.0, 8.0), 1.05 * len(rows) + 0.7)
    cells = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, data) in zip(cells, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation="horizontal", ha="right", va="center")
        for ax, datum in zip(line, data, strict=False):
            draw_datum(ax, datum, limits)
    for ax in cells.flat:
        strip(ax)
    return figure


def _draw_range(ax: "matplotlib.axes.Axes", datum: np.ndarray, replicates: np.ndarray) -> None:
    largest = np.argsort(datum, kind="stable")[::-1][:ELEMENTS]
    ranks = np.arange(1, len(largest) + 1)
    low, high = np.quantile(replicates[:, largest].astype(np.float64), [0.05, 0.95], axis=0)
    ax.fill_between(ranks, low, high, color=BLUE, alpha=0.4, linewidth=0, step="mid")
    ax.plot(ranks, datum[largest], color=ORANGE, linewidth=1.2, drawstyle="steps-mid")
    ax.set_yscale("symlog", linthresh=1)


def _limits(data: np.ndarray) -> tuple[float, float]:
    low, high = float(data.min()), float(data.max())
    return (low, high) if high > low else (low, low + 1.0)


def _quiet_figure(
    plot: Callable[..., Any],
    tree: "xr.DataTree",
    *,
    panels: int,
    size: tuple[float, float] | None = None,
    **options: Any,
) -> "matplotlib.figure.Figure":
    """The panels of a predictive plot, at a size for so many, without advice that does not apply."""
    columns = min(COLUMNS, panels)
    rows = math.ceil(panels / columns)
    width, height = size or (max(3.0 * columns, 6.5), 2.4 * rows + 1.2)
    with warnings.catch_warnings():
        # It is the new data that the real ones are compared with, and statistics that are 0 or 1 are
        # no outcomes to be predicted. The last is ArviZ 0.8's own use of xarray.
        for advice in ("This plot always uses the `observed_data`", ".*looks? binary"):
            warnings.filterwarnings("ignore", advice, UserWarning)
        warnings.filterwarnings("ignore", "Deleting a single level of a MultiIndex", FutureWarning)
        figure = arviz_figure(
            plot, tree, width=width, height=height, group=GROUP, col_wrap=columns, **options
        )
    for ax in figure.axes:
        ax.tick_params(labelsize=9)
        ax.title.set_fontsize(10)
        ax.xaxis.get_major_locator().set_params(nbins=5)
    tidy(figure.axes, grid="both")
    return figure


def _key(figure: "matplotlib.figure.Figure", model: str, data: str) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, label=t) for c, t in ((BLUE, model), (ORANGE, data))]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
