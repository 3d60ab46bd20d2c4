"""Compare the real data set with whole data sets from the model: ArviZ's predictive checks.

A replicated data set is as large as the real one: z ~ p(z), x ~ p(x | z). Under a true model the
real data set is one more of them, so that a property shared with few of them is a fault of the
model.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Real

from analysis.check import Check, Plot
from analysis.plotting.style import BLUE, ORANGE, arviz_figure, tidy
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray as xr


GROUP = "prior_predictive"
COLUMNS, DATA_SETS_DRAWN, LONGEST_NAME = 4, 50, 34
# Panels of test statistics; of more, those furthest off are drawn.
PANELS = 8
NOTHING_VARIES = "no statistic varies over the data sets: there is nothing to draw."
MEASURES: dict[str, Callable[..., Any]] = {"mean": np.mean, "spread": np.std}


@dataclass(frozen=True)
class DataSetCheck:
    """T of the real data set among T of D data sets from the model.

    Args:
        name: The name of the statistic.
        measure: What T is of the data set's statistics: "mean", or "spread", the standard
            deviation.
        real: T of the real data set.
        generated: T of each data set from the model.
        p_value: 2 (1 + k) / (D + 1), at most 1, where k data sets lie at or beyond the real one on
            the side with fewer. Under a true model it is at most a with a probability of at most
            a.
    """

    name: str
    measure: str
    real: float
    generated: Float[np.ndarray, " datasets"]
    p_value: float

    @property
    def deviations(self) -> float | None:
        """(T(real) - mean T) / s.d. of T over data sets; None if none vary."""
        spread = float(self.generated.std())
        return float((self.real - self.generated.mean()) / spread) if spread > 0 else None

    @property
    def outside(self) -> bool:
        """Whether the real data set lies beyond all data sets from the model."""
        return not self.generated.min() <= self.real <= self.generated.max()

    def p_words(self) -> str:
        """The p-value: an upper bound beyond all data sets."""
        return f"p {'≤' if self.outside else '='} {self.p_value:.2g}"

    def words(self) -> str:
        """Both values, and p."""
        generated = self.generated.mean()
        return f"{self.real:.4g} against {generated:.4g} of the model's, {self.p_words()}"


@dataclass(frozen=True)
class DataSetChecks(Result):
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
        """The number of real values beyond all data sets."""
        return sum(check.outside for check in self.checks)

    def extra(self) -> Mapping[str, Any]:
        """Each real value, the mean and spread over data sets, the distance, and p."""
        return {
            "data_sets": len(self.checks[0].generated),
            "outside": self.num_outside,
            "checks": {
                f"{check.name}: {check.measure}": {
                    "real": check.real,
                    "generated_mean": check.generated.mean(),
                    "generated_sd": check.generated.std(),
                    "deviations": check.deviations,
                    "p_value": check.p_value,
                }
                for check in self.checks
            },
        }

    def reading(self) -> str:
        """The number of real values beyond all data sets, that by chance, and the furthest."""
        datasets, count = len(self.checks[0].generated), len(self.checks)
        worst = ""
        if self.ranked:
            first = self.ranked[0]
            worst = f"; furthest off is the {first.measure} of {first.name}: {first.words()}"
        return (
            f"{self.num_outside} of {count} means and standard deviations of statistics lie "
            f"beyond those of all {datasets} data sets from the model, where a true model has "
            f"{2 * count / (datasets + 1):.1f} on average{worst}."
        )


def data_set_checks(
    real: Mapping[str, Real[np.ndarray, " n"]],
    generated: Mapping[str, Real[np.ndarray, "datasets n"]],
) -> DataSetChecks:
    """T(real data) among T(data set), T the mean and the standard deviation of each statistic.

    Args:
        real: Of each statistic, the values of the n real examples, which did not train the model.
        generated: The values of as many generated examples in each data set.

    Returns:
        Read the distance in standard deviations of data sets first: D data sets give no p-value
        below 2 / (D + 1), however far the real one is off.

    Raises:
        ValueError: If the names or the numbers of examples differ, or there are none.

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


def predictive_tree(
    real: Mapping[str, Real[np.ndarray, " n"]],
    generated: Mapping[str, Real[np.ndarray, "datasets n"]],
) -> "xr.DataTree":
    """Statistics of the real data and of data sets from the model, as ArviZ's plots read them.

    Args:
        real: Of each statistic, by its name in the figures, the values of the n real examples.
        generated: The values of as many generated examples in each data set.

    Returns:
        The groups "observed_data", with the dimension `image`, and "prior_predictive", with
        `chain` (of length one), `draw` (the data sets) and `image`.

    Raises:
        ValueError: If the names or the numbers of examples differ.
    """
    _check_alike(real, generated)
    return group_tree(
        {name: np.asarray(values, np.float64) for name, values in real.items()},
        {name: np.asarray(values, np.float64) for name, values in generated.items()},
    )


def plot_distributions(tree: "xr.DataTree") -> "matplotlib.figure.Figure":
    """The ECDF of each statistic in all data sets, by `arviz_plots.plot_ppc_dist`.

    Steps, unlike a smoothed density, also suit statistics with few values. Under a true model the
    real data's line is one among the data sets'.

    Args:
        tree: From `predictive_tree`. Constant statistics are left out.

    Raises:
        UndefinedCheckError: If nothing varies.
    """
    import arviz_plots

    names = [
        name
        for name in map(str, tree["observed_data"].data_vars)
        if any(np.ptp(np.asarray(tree[group][name])) > 0 for group in ("observed_data", GROUP))
    ]
    if not names:
        raise UndefinedCheckError(NOTHING_VARIES)
    figure = ppc_figure(
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
    add_legend(figure, "one data set from the model", "the real data")
    figure.suptitle("ECDF of each statistic: the real data's should be one among the data sets'")
    return figure


def plot_test_statistics(found: DataSetChecks) -> "matplotlib.figure.Figure":
    """Mean and standard deviation of statistics over data sets, by `arviz_plots.plot_ppc_tstat`.

    The curve is the ECDF over data sets; where the real data's line crosses it is the share of
    data sets below. Of more than eight those furthest off are drawn, the furthest first. Constants
    are left out.

    Args:
        found: From `data_set_checks`.

    Raises:
        UndefinedCheckError: If nothing varies.
    """
    import arviz_plots

    shown = found.ranked[:PANELS]
    if not shown:
        raise UndefinedCheckError(NOTHING_VARIES)
    # As a "statistic" of data sets of one example, each is its own mean.
    titles = [
        f"{c.name[:LONGEST_NAME]}: {c.measure}\n"
        f"{c.real:.4g}, generated {c.generated.mean():.4g}\n{c.p_words()}"
        for c in shown
    ]
    figure = ppc_figure(
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
    add_legend(figure, f"ECDF over {datasets} data sets from the model", "the real data set")
    some = f"; the {len(shown)} furthest off" if len(shown) < count else ""
    figure.suptitle(
        f"Is the real data set one among the model's? {found.num_outside} of {count} means and "
        f"spreads lie beyond all{some}"
    )
    return figure


def _titled_statistics(subject: Subject) -> tuple[dict[str, Any], dict[str, Any]]:
    titles = {statistic.name: statistic.title for statistic in subject.statistics}
    values = (subject.real_statistics, subject.generated_statistics)
    real, generated = ({titles[k]: v for k, v in each.items()} for each in values)
    return real, generated


DATA_SETS = Check(
    "data_sets",
    lambda subject: data_set_checks(*_titled_statistics(subject)),
    plots=(
        Plot(
            "distributions",
            "Is the real data set one among the model's: whole distributions of statistics?",
            lambda _, subject: plot_distributions(predictive_tree(*_titled_statistics(subject))),
        ),
        Plot(
            "test_statistics",
            "Is the whole real data set one among the model's: means and spreads of statistics?",
            lambda found, _: plot_test_statistics(found),
        ),
    ),
    shared=("new data from the model", "statistics of new data"),
)


def _check_alike(real: Mapping[str, np.ndarray], generated: Mapping[str, np.ndarray]) -> None:
    shapes = {name: np.shape(values) for name, values in real.items()}
    found = {name: np.shape(values)[1:] for name, values in generated.items()}
    if not shapes or shapes != found:
        raise ValueError(f"data sets must be of the real data's statistics {shapes}, got {found}.")


def group_tree(
    real: Mapping[str, np.ndarray], generated: Mapping[str, np.ndarray]
) -> "xr.DataTree":
    """The tree of `predictive_tree`, with data sets along the first axis of `generated`."""
    import xarray as xr
    from arviz_base import from_dict

    tree = from_dict(
        {
            "observed_data": dict(real),
            GROUP: {name: values[None] for name, values in generated.items()},
        },
        dims={name: ["image"] for name in real},
    )
    assert isinstance(tree, xr.DataTree)
    return tree


def ppc_figure(
    plot: Callable[..., Any],
    tree: "xr.DataTree",
    *,
    panels: int,
    size: tuple[float, float] | None = None,
    **options: Any,
) -> "matplotlib.figure.Figure":
    """A predictive plot of ArviZ, sized for its panels, without advice that does not apply."""
    columns = min(COLUMNS, panels)
    rows = math.ceil(panels / columns)
    width, height = size or (max(3.0 * columns, 6.5), 2.4 * rows + 1.2)
    with warnings.catch_warnings():
        # Real data are compared with generated ones here, and statistics that are 0 or 1 are no
        # outcomes to be predicted. The last is ArviZ 0.8's own use of xarray.
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


def add_legend(figure: "matplotlib.figure.Figure", model: str, data: str) -> None:
    """Add a legend for data sets from the model and the real one."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, label=t) for c, t in ((BLUE, model), (ORANGE, data))]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
