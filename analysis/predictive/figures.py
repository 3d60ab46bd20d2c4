"""Data sets from the model beside the real one: ArviZ's predictive checks, and the data themselves.

A replicated data set is as large as the real one and drawn anew: z ~ p(z), x ~ p(x | z). To a true
model the real data set is one more of them, so that what it shares with few of them is a fault.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Integer, Real

from analysis.plotting.arviz import arviz_figure
from analysis.plotting.images import Limits, draw_datum, strip
from analysis.plotting.style import BLUE, ORANGE, new_figure, tidy
from analysis.plotting.vectors import Elements, plot_vectors
from analysis.predictive.counts import count_frequencies
from analysis.predictive.model_samples import UndefinedCheckError
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.evidence.numbers import finite

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
MEASURES: dict[str, Callable[..., Any]] = {"mean": np.mean, "spread": np.std}
# Of more test statistics those furthest off are drawn.
PANELS = 8


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

    _check_alike(real, generated)
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
        UndefinedCheckError: If nothing varies.
    """
    import arviz_plots

    # Of what never varies there is no curve.
    names = [
        name
        for name in map(str, tree["observed_data"].data_vars)
        if any(np.ptp(np.asarray(tree[group][name])) > 0 for group in ("observed_data", GROUP))
    ]
    if not names:
        raise UndefinedCheckError(NOTHING_VARIES)
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


@dataclass(frozen=True)
class DataSetCheck:
    """T of the real data set among T of D data sets from the model.

    Args:
        name: Of the statistic.
        measure: What T is of the data set's statistics, "mean" or "spread", the standard deviation.
        real: T of the real data set.
        generated: T of each data set from the model.
        p_value: 2 (1 + k) / (D + 1), at most 1, where k data sets lie at or beyond the real one on the
            side with fewer. Under a true model it is below or at a with a probability of at most a.
    """

    name: str
    measure: str
    real: float
    generated: Float[np.ndarray, " datasets"]
    p_value: float

    @property
    def deviations(self) -> float | None:
        """(T(real) - mean T) / s.d. of T over data sets: how far off it is. None if none vary."""
        spread = float(self.generated.std())
        return finite((self.real - self.generated.mean()) / spread) if spread > 0 else None

    @property
    def outside(self) -> bool:
        """Whether the real data set lies beyond all data sets from the model."""
        return not self.generated.min() <= self.real <= self.generated.max()

    def words(self) -> str:
        """Both values, and p: beyond all data sets the least that so many can give, an upper bound."""
        return (
            f"{self.real:.4g} against {self.generated.mean():.4g} of the model's, p "
            f"{'≤' if self.outside else '='} {self.p_value:.2g}"
        )


@dataclass(frozen=True)
class DataSetChecks:
    """The checks of each statistic's mean and standard deviation over data sets.

    Args:
        checks: At least one.
    """

    checks: tuple[DataSetCheck, ...]

    @property
    def ranked(self) -> list[DataSetCheck]:
        """Those that vary, the furthest off first."""
        varying = [check for check in self.checks if check.deviations is not None]
        return sorted(varying, key=lambda check: -abs(check.deviations or 0.0))

    @property
    def num_outside(self) -> int:
        """How many real values lie beyond all data sets."""
        return sum(check.outside for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """Each real value, the mean and spread of the data sets', the distance, p, and a reading."""
        return {
            "data_sets": len(self.checks[0].generated),
            "outside": self.num_outside,
            "checks": {
                f"{check.name}: {check.measure}": {
                    "real": finite(check.real),
                    "generated_mean": finite(check.generated.mean()),
                    "generated_sd": finite(check.generated.std()),
                    "deviations": check.deviations,
                    "p_value": finite(check.p_value),
                }
                for check in self.checks
            },
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How many real values lie beyond all data sets, how many chance puts there, and the furthest."""
        datasets, count = len(self.checks[0].generated), len(self.checks)
        text = ""
        if self.ranked:
            worst = self.ranked[0]
            text = f"Furthest off is the {worst.measure} of {worst.name}: {worst.words()}. "
        return text + (
            f"{self.num_outside} of {count} means and spreads (standard deviations) of the real data's "
            f"statistics lie beyond those of all {datasets} data sets from the model; of a true model "
            f"{2 * count / (datasets + 1):.1f} would on average."
        )


def data_set_checks(
    real: Mapping[str, Real[np.ndarray, " n"]],
    generated: Mapping[str, Real[np.ndarray, "datasets n"]],
) -> DataSetChecks:
    """T(real data) among T(data set), T the mean and the standard deviation of each statistic.

    Args:
        real: Of each statistic, the values of the n real data, which did not train the model.
        generated: The values of as many new data in each data set.

    Returns:
        Read the distance in standard deviations of data sets first: D data sets give no p-value below
        2 / (D + 1), however far the real one is off.

    Raises:
        ValueError: If the names or the numbers of data differ, or there are none.

    References:
        Posterior Predictive Assessment of Model Fitness via Realized Discrepancies (Gelman, Meng &
        Stern, 1996), https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
    """
    _check_alike(real, generated)
    checks = []
    for name, values in real.items():
        for measure, function in MEASURES.items():
            t = float(function(np.asarray(values, np.float64)))
            sets = function(np.asarray(generated[name], np.float64), axis=-1)
            beyond = min(int((sets <= t).sum()), int((sets >= t).sum()))
            p_value = min(1.0, 2 * (1 + beyond) / (1 + len(sets)))
            checks.append(DataSetCheck(name, measure, t, sets, p_value))
    return DataSetChecks(tuple(checks))


def plot_test_statistics(found: DataSetChecks) -> "matplotlib.figure.Figure":
    """Mean and standard deviation of statistics over data sets, by `arviz_plots.plot_ppc_tstat`.

    The curve is the ECDF over data sets, and where the real data's line crosses it is the share of
    data sets below. Of more than eight those furthest off are drawn, the furthest first. What is the
    same in all data sets is left out.

    Args:
        found: Of `data_set_checks`.

    Raises:
        UndefinedCheckError: If nothing varies.
    """
    import arviz_plots

    shown = found.ranked[:PANELS]
    if not shown:
        raise UndefinedCheckError(NOTHING_VARIES)
    # Each is measured already: as a "statistic" of data sets of one datum it is its own mean.
    titles = [f"{c.name[:LONGEST_NAME]}: {c.measure}\n{c.words()}" for c in shown]
    figure = _quiet_figure(
        arviz_plots.plot_ppc_tstat,
        predictive_tree(
            {title: np.array([c.real]) for title, c in zip(titles, shown, strict=True)},
            {title: c.generated[:, None] for title, c in zip(titles, shown, strict=True)},
        ),
        panels=len(shown),
        t_stat="mean",
        kind="ecdf",
        visuals={
            "dist": {"color": BLUE},
            "title": {"text": None},  # The name alone, without ArviZ's own word for its measure.
            "observed_tstat": {"color": ORANGE},
            "remove_axis": False,
        },
    )
    for ax, check in zip(figure.axes, shown, strict=False):
        ax.axvline(check.real, color=ORANGE, linewidth=1.6)
    datasets, count = len(shown[0].generated), len(found.checks)
    _key(figure, f"ECDF over {datasets} data sets from the model", "the real data set")
    some = f"; the {len(shown)} furthest off" if len(shown) < count else ""
    figure.suptitle(
        f"Is the real data set one among the model's? {found.num_outside} of {count} means and spreads "
        f"lie beyond all{some}"
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
    limits: Limits | None = None,
    elements: Elements | None = None,
) -> "matplotlib.figure.Figure":
    """Real data and new data x ~ p(x | z), z ~ p(z), of the model before and after training.

    Images are drawn one by one, vectors as heat maps, long vectors of counts as their elements from the
    largest to the smallest.

    Args:
        real: The data.
        untrained: New data of the model as it was initialised: what its prior and networks assume.
        trained: New data of the trained model.
        limits: The values drawn black and white; the least and greatest of the real data, if None.
        elements: Of vectors, names and scale of their elements.
    """
    elements = elements or Elements.of(real)
    rows = {"data": real, "before\ntraining": untrained, "after\ntraining": trained}
    title = f"Test {nouns()} and new {nouns()} from the model, x ~ p(x | z) with z ~ p(z)"
    if elements is not None and not elements.largest:
        panels = {name.replace("\n", " "): data[: 2 * IMAGES] for name, data in rows.items()}
        return plot_vectors(panels, elements, title)
    if elements is not None:
        figure = new_figure(10.0, 3.8)
        panels = figure.subplots(1, 3, sharex=True, sharey=True)
        for ax, (name, data) in zip(panels, rows.items(), strict=True):
            ordered = -np.sort(-data[:IMAGES].astype(np.float64), axis=1)
            ax.plot(np.arange(1, ordered.shape[1] + 1), ordered.T, color=BLUE, linewidth=0.8)
            ax.set(title=name.replace("\n", " "), xscale="log", xlabel="rank of the element")
            ax.set_yscale("symlog", linthresh=1)
        panels[0].set_ylabel(f"its value, a line a {noun()}")
        tidy(panels, grid="both")
    else:
        figure = _rows(rows, limits or _limits(real))
    figure.suptitle(title)
    return figure


def plot_same_image(
    originals: Real[np.ndarray, " n *event"],
    replicates: Real[np.ndarray, " draws n *event"],
    limits: Limits | None = None,
    elements: Elements | None = None,
) -> "matplotlib.figure.Figure":
    """Data above replicates of the same data, x' ~ p(x | z), z ~ q(z | x): descriptive only.

    The replicates have seen the datum. They fail a calibrated test even for a true model, and no
    p-value comes from them.

    Args:
        originals: The data.
        replicates: Replicates of each.
        limits: The values drawn black and white; the least and greatest of the data, if None.
        elements: Of vectors, names and scale of their elements.
    """
    elements = elements or Elements.of(originals)
    title = (
        f"Test {nouns()} and replicates of the same {nouns()}, z ~ q(z | x).\n"
        "Descriptive only: they fail a calibrated test even for a true model"
    )
    rows = {"data": originals} | {
        f"replicate {k + 1}": replicates[k] for k in range(min(REPLICATES, len(replicates)))
    }
    if elements is not None and not elements.largest:
        return plot_vectors(rows, elements, title)
    if elements is not None:
        figure = new_figure(10.0, 5.4)
        panels = figure.subplots(2, 3, sharex=True).flat
        for ax, index in zip(panels, range(min(VECTORS, len(originals))), strict=False):
            _draw_range(ax, originals[index], replicates[:, index])
        for ax in list(panels):
            ax.set_axis_off()
        tidy([ax for ax in figure.axes if ax.lines], grid="both")
        # Not of the whole figure: the key would lie on it.
        figure.axes[-2].set_xlabel(f"the {noun()}'s {ELEMENTS} largest elements, by rank")
        figure.supylabel("value")
        _key(figure, "90% of the replicates", f"the {noun()}")
    else:
        figure = _rows(rows, limits or _limits(originals))
    figure.suptitle(title)
    return figure


def _check_alike(real: Mapping[str, np.ndarray], generated: Mapping[str, np.ndarray]) -> None:
    shapes = {name: np.shape(values) for name, values in real.items()}
    found = {name: np.shape(values)[1:] for name, values in generated.items()}
    if not shapes or shapes != found:
        raise ValueError(f"data sets must be of the real data's statistics {shapes}, got {found}.")


def _rows(rows: Mapping[str, np.ndarray], limits: Limits) -> "matplotlib.figure.Figure":
    columns = min(IMAGES, max(len(data) for data in rows.values()))
    figure = new_figure(max(columns + 1.2, 8.0), 1.05 * len(rows) + 0.7)
    cells = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, data) in zip(cells, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation="horizontal", ha="right", va="center", labelpad=8)
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
        for advice in ("This plot always uses the", ".*looks? binary"):
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
