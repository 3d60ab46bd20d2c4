"""Simulation-based calibration: is the guide the posterior, on data that the model itself made?"""

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.canvas import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.simulated_ranks import JOINT, LOG_GUIDE, LOG_WEIGHT, Ranks, simulated_ranks
from pyro_vae.evidence.numbers import finite, standard_error

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

__all__ = [
    "Ranks",
    "SimulationBasedCalibration",
    "plot_calibration_by_dimension",
    "plot_coverage",
    "plot_sbc",
    "simulated_ranks",
    "simulation_based_calibration",
]

# The probabilities of the intervals and regions whose coverage is reported.
LEVELS = (0.5, 0.8, 0.9, 0.95)
# A Holm-adjusted p-value below it says that the guide is not the posterior.
SIGNIFICANT = 0.05
# With many simulations every guide fails. One whose draws are told from the posterior's in at most this
# share of pairs, where 0.5 is chance, is called close: the best guess is wrong in four of ten.
CLOSE = 0.6
# A guide whose rate is below it, in nats per datum, is next to the prior: a collapsed code.
NO_RATE = 0.1
# The 95 % point of sqrt(n) times the largest distance of an ECDF of n uniform values (Kolmogorov).
KOLMOGOROV = 1.358
# So many panels of single dimensions are drawn, the worst first.
WORST = 4
COLUMNS = 4


@dataclass(frozen=True)
class SimulationBasedCalibration:
    """How n ranks in each of some quantities depart from uniform ones.

    u = (rank + U) / (L + 1), U uniform, is uniform on (0, 1) if the guide is the posterior, and
    independent for each datum. Its normal score Phi^-1(u) is then standard normal.

    Args:
        names: The quantities: each latent dimension, then the four of `simulated_ranks.JOINT`.
        pit: u.
        p_value: Of uniformity, for each quantity: twice the smaller of the Kolmogorov-Smirnov tests of
            u and of |2 u - 1|. The first finds a shift, the second a wrong width.
        shift: The mean normal score: how many of its standard deviations the guide lies below the
            true codes. 0 is right.
        spread: The standard deviation of the normal scores: how many times as wide as the guide the
            true codes scatter. 1 is right; above, the guide is too narrow; below, too wide. L draws
            cannot tell more than about sqrt(log L).
        told_apart: Among pairs of a true code and a draw, the share in which the log weight log p(x, z) -
            log q(z | x) is larger for the true code. No rule does better (Neyman & Pearson). 0.5 is right; 1 says
            that the two never overlap.
        told_apart_se: Its standard error.
        num_draws: The number L of draws for each datum.
        rate: E[log q(z | x) - log p(z)] in nats per datum, of the simulated data.
    """

    names: tuple[str, ...]
    pit: Float[np.ndarray, "n quantities"]
    p_value: Float[np.ndarray, " quantities"]
    shift: Float[np.ndarray, " quantities"]
    spread: Float[np.ndarray, " quantities"]
    told_apart: float
    told_apart_se: float | None
    num_draws: int
    rate: float

    @property
    def dimensions(self) -> int:
        """The number of latent dimensions, which come first."""
        return len(self.names) - len(JOINT)

    @property
    def adjusted(self) -> Float[np.ndarray, " quantities"]:
        """The p-values by Holm's method: below 0.05 anywhere in 5 % of cases if nothing is wrong."""
        order = np.argsort(self.p_value)
        steps = self.p_value[order] * np.arange(len(order), 0, -1)
        adjusted = np.empty(len(order))
        adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
        return adjusted

    def coverage(self, level: float) -> Float[np.ndarray, " latent"]:
        """How often each dimension's true code lies in the guide's central interval of a probability."""
        return (np.abs(2 * self._codes - 1) < level).mean(0)

    def pooled_coverage(self, level: float) -> tuple[float, float | None]:
        """The mean of `coverage` over dimensions, and its standard error.

        Dimensions of one datum depend on one another; data do not, and the error is from these.
        """
        by_datum = (np.abs(2 * self._codes - 1) < level).mean(1)
        return float(by_datum.mean()), standard_error(by_datum)

    def joint_coverage(self, level: float) -> tuple[float, float | None]:
        """How often the true code lies where q(z | x) is densest, in a region of a probability.

        With its standard error, the binomial one.
        """
        inside = (self.pit[:, self.names.index(LOG_GUIDE)] > 1 - level).astype(np.float64)
        return float(inside.mean()), standard_error(inside)

    def worst(self, at_most: int) -> list[int]:
        """The latent dimensions of the smallest p-values, smallest first."""
        return np.argsort(self.p_value[: self.dimensions])[:at_most].tolist()

    def summary(self) -> dict[str, Any]:
        """All p-values with their shapes, coverages with errors, and how far guide and posterior are."""
        n, adjusted = len(self.pit), self.adjusted
        quantities = [
            {
                "name": name,
                "p_value": finite(self.p_value[index]),
                "p_value_holm": finite(adjusted[index]),
                "shift": finite(self.shift[index]),
                "spread": finite(self.spread[index]),
            }
            for index, name in enumerate(self.names)
        ]
        coverage = []
        for level in LEVELS:
            (pooled, pooled_se), (joint, joint_se) = (
                self.pooled_coverage(level),
                self.joint_coverage(level),
            )
            coverage.append(
                {
                    "level": level,
                    "dimensions": finite(pooled),
                    "dimensions_se": finite(pooled_se),
                    "joint": finite(joint),
                    "joint_se": finite(joint_se),
                    "by_dimension": self.coverage(level).tolist(),
                    "by_dimension_se": math.sqrt(level * (1 - level) / n),
                }
            )
        return {
            "n": n,
            "num_draws": self.num_draws,
            "tests": len(self.names),
            "p_value_holm": finite(adjusted.min()),
            "tests_below_0.05": int((self.p_value < SIGNIFICANT).sum()),
            "told_apart": finite(self.told_apart),
            "told_apart_se": finite(self.told_apart_se),
            "rate": finite(self.rate),
            "shift_se": 1 / math.sqrt(n),
            "spread_se": 1 / math.sqrt(2 * n),
            "coverage": coverage,
            "quantities": quantities,
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the guide is the posterior, how it misses it, and what this check cannot see."""
        adjusted = self.adjusted
        smallest = float(adjusted.min())
        ninety, joint = self.pooled_coverage(0.9)[0], self.joint_coverage(0.9)[0]
        seen = (
            f"the smallest of {len(self.names)} p-values on {len(self.pit)} data that the model made is "
            f"{_shown(smallest)} after Holm's correction, and the true code is told from the guide's "
            f"draws in {self.told_apart:.1%} of pairs, where 50% is chance"
        )
        if smallest >= SIGNIFICANT:
            first = f"No fault of the guide found: {seen}."
        else:
            near = "but close to it" if self.told_apart <= CLOSE else "and not close to it"
            first = (
                f"The guide is not the posterior, {near}: {seen}. Its 90% intervals hold the true "
                f"code's dimensions in {ninety:.1%} of cases, its 90% region the whole code in "
                f"{joint:.1%}{self._fault(adjusted)}; ask `inference_gaps` whether a richer family or a "
                "better encoder would help."
            )
        last = "This is said of the guide, and nothing of whether the model resembles real data."
        if self.rate < NO_RATE:
            last += (
                f" And mind the rate of {max(self.rate, 0.0):.2f} nats per datum: the guide is next to the prior, "
                "and where the decoder ignores the code that is the posterior and passes."
            )
        return f"{first} {last}"

    @property
    def _codes(self) -> Float[np.ndarray, "n latent"]:
        return self.pit[:, : self.dimensions]

    def _fault(self, adjusted: Float[np.ndarray, " quantities"]) -> str:
        """The commonest fault of the dimensions whose p-values are low."""
        low = adjusted[: self.dimensions] < SIGNIFICANT
        if not low.any():
            return "; no dimension alone shows it, so it lies in how they depend on one another"
        # In standard errors, so that the two compare.
        n = len(self.pit)
        shift = np.abs(self.shift[: self.dimensions][low]) * math.sqrt(n)
        width = (self.spread[: self.dimensions][low] - 1) * math.sqrt(2 * n)
        kinds = {
            "shifted": int((shift > np.abs(width)).sum()),
            "too narrow": int(((shift <= np.abs(width)) & (width > 0)).sum()),
            "too wide": int(((shift <= np.abs(width)) & (width <= 0)).sum()),
        }
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        return f"; of {self.dimensions} dimensions, these fail alone: {counted}"


def simulation_based_calibration(ranks: Ranks, *, seed: int = 0) -> SimulationBasedCalibration:
    """Test that (rank + U) / (L + 1) is uniform for each quantity, and measure how it is not.

    The single dimensions can all pass where the guide misses how they depend on one another; the
    joint quantities see that. A guide can be seen to fail, never to be right, and the model is not
    tested at all: the data are its own. A collapsed code passes, as its prior is its posterior.

    Args:
        ranks: From `simulated_ranks`.
        seed: The seed of U.

    Returns:
        Read `told_apart` and the coverages for how large a fault is, `p_value` for whether there is
        one: with enough simulations every guide has one.

    References:
        Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities
        Shapes Sensitivity (Modrák et al., 2023), https://arxiv.org/abs/2211.02383; Yes, but Did It
        Work?: Evaluating Variational Inference (Yao et al., 2018), https://arxiv.org/abs/1802.02538
    """
    from scipy.stats import kstest, norm

    found = ranks.ranks
    uniform = np.random.default_rng(seed).uniform(size=found.shape)
    pit = (found + uniform) / (ranks.num_draws + 1)
    p_values = [
        min(1.0, 2 * min(kstest(values, "uniform").pvalue for values in (u, np.abs(2 * u - 1))))
        for u in pit.T
    ]
    scores = norm.ppf(pit)
    told_apart = found[:, list(ranks.names).index(LOG_WEIGHT)] / ranks.num_draws
    return SimulationBasedCalibration(
        names=tuple(ranks.names),
        pit=pit,
        p_value=np.array(p_values, np.float64),
        shift=scores.mean(0),
        spread=scores.std(0),
        told_apart=float(told_apart.mean()),
        told_apart_se=standard_error(told_apart),
        num_draws=ranks.num_draws,
        rate=float(ranks.rate.mean()),
    )


def plot_sbc(sbc: SimulationBasedCalibration) -> "matplotlib.figure.Figure":
    """The ECDF of u less the diagonal, of the joint quantities and the worst dimensions, by ArviZ.

    A curve within the band is of a guide that passes. One that lies above first and below then is of
    true codes at both ends of the guide's draws, a guide too narrow; the other way round, too wide;
    all on one side, shifted.
    """
    from arviz_base import from_dict
    from arviz_plots import plot_ecdf_pit

    from analysis.arviz_figures import arviz_figure

    shown = [*range(sbc.dimensions, len(sbc.names)), *sbc.worst(WORST)]
    titles = [f"{sbc.names[index]}\np = {_shown(sbc.p_value[index])}" for index in shown]
    tree = from_dict(
        {
            "prior_sbc": {
                title: sbc.pit[None, :, index] for title, index in zip(titles, shown, strict=True)
            }
        }
    )
    # The two lines mark what departs in ways of their own; the band below is that of the p-values.
    early = "ci_prob" in inspect.signature(plot_ecdf_pit).parameters
    marks = ("credible_interval",) if early else ("suspicious_points", "p_value_text")
    figure = arviz_figure(
        plot_ecdf_pit,
        tree,
        group="prior_sbc",
        width=11.0,
        height=2.7 * -(-len(shown) // COLUMNS) + 0.6,
        col_wrap=COLUMNS,
        visuals=dict.fromkeys((*marks, "remove_axis", "xlabel", "ylabel"), False),
    )
    band = KOLMOGOROV / math.sqrt(len(sbc.pit))
    largest = max(_departure(sbc.pit[:, index]) for index in shown)
    panels, empty = figure.axes[: len(shown)], figure.axes[len(shown) :]
    for ax in empty:
        ax.set_axis_off()
    for index, ax in enumerate(panels):
        ax.axhspan(-band, band, color=GREY, alpha=0.3, linewidth=0)
        ax.axhline(0, color=GREY, linestyle="--", linewidth=1)
        limit = 1.1 * max(1.5 * band, largest)
        ax.set(xlim=(0, 1), xticks=[0, 0.5, 1], ylim=(-limit, limit))
        ax.tick_params(labelbottom=True, labelleft=index % COLUMNS == 0)
    figure.supxlabel(
        "u, the rank of the true code among the guide's draws, as a share", fontsize=10
    )
    figure.supylabel("ECDF of u less the diagonal", fontsize=10)
    tidy(panels)
    wrong = int((sbc.adjusted < SIGNIFICANT).sum())
    figure.suptitle(
        f"Guide against posterior on {len(sbc.pit)} data of the model's own: {wrong} of "
        f"{len(sbc.names)} quantities fail; the joint ones, then the worst dimensions"
    )
    return figure


def plot_calibration_by_dimension(
    sbc: SimulationBasedCalibration,
) -> "matplotlib.figure.Figure":
    """On the left each dimension's shift and spread, on the right all p-values in order.

    The boxes and the line hold what a guide that is the posterior has in 95 % of cases, all
    dimensions, or all quantities, together.
    """
    from scipy.stats import norm

    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    d, n = sbc.dimensions, len(sbc.pit)
    wrong = sbc.adjusted[:d] < SIGNIFICANT
    factor = norm.isf(SIGNIFICANT / (4 * d))  # Two sides of two numbers for each dimension.
    for ends, line in (((-1, 1), left.axvspan), ((1, 1), left.axhspan)):
        centre, error = (0, 1 / math.sqrt(n)) if ends[0] < 0 else (1, 1 / math.sqrt(2 * n))
        line(centre - factor * error, centre + factor * error, color=GREY, alpha=0.2, linewidth=0)
    for where, colour, name in ((~wrong, BLUE, "passes"), (wrong, ORANGE, "fails")):
        left.plot(sbc.shift[:d][where], sbc.spread[:d][where], "o", ms=5, color=colour, label=name)
    for index in sbc.worst(WORST):
        place = (sbc.shift[index], sbc.spread[index])
        left.annotate(str(index), place, (5, 3), textcoords="offset points", fontsize=9)
    left.set(
        xlabel="shift: the guide is too high  <  0  <  too low",
        ylabel="spread: too wide  <  1  <  too narrow",
        title=f"{wrong.sum()} of {d} dimensions fail",
    )
    limits = [
        1.15 * max(1.6 * factor / math.sqrt(n), float(np.abs(sbc.shift[:d]).max())),
        1.15 * max(1.6 * factor / math.sqrt(2 * n), float(np.abs(sbc.spread[:d] - 1).max())),
    ]
    left.set(xlim=(-limits[0], limits[0]), ylim=(1 - limits[1], 1 + limits[1]))
    left.legend(frameon=False, loc="lower right")

    order = np.argsort(sbc.p_value)
    rank = np.arange(len(order))
    joint = order >= d
    drawn = np.maximum(sbc.p_value[order], 1e-20)
    for where, colour, name in ((~joint, BLUE, "a dimension"), (joint, ORANGE, "all of z")):
        right.plot(rank[where], drawn[where], "o", ms=5, color=colour, label=name)
    right.plot(
        rank,
        SIGNIFICANT / np.arange(len(order), 0, -1),
        color=GREY,
        linestyle="--",
        label="fails below (Holm)",
    )
    right.set(
        yscale="log",
        ylim=(3e-21, 3),
        xlabel="quantity, sorted by p-value",
        ylabel="p-value (those below 1e-20 at the foot)",
        title="p-values, uniform if the guide is the posterior",
    )
    right.legend(frameon=False, loc="lower right")
    tidy([left, right])
    figure.suptitle(f"Simulation-based calibration of the guide on {n} data of the model's own")
    return figure


def plot_coverage(sbc: SimulationBasedCalibration) -> "matplotlib.figure.Figure":
    """How often the guide's intervals and regions hold the true code, against their probability.

    Below the diagonal the guide is too sure. The band is of one dimension, at one probability, in 95 %
    of cases of a guide that is the posterior.
    """
    figure = new_figure(6.4, 5.9)
    ax = figure.subplots()
    levels = np.linspace(0.01, 0.99, 99)
    half = 1.96 * np.sqrt(levels * (1 - levels) / len(sbc.pit))
    ax.fill_between(
        levels,
        levels - half,
        levels + half,
        color=GREY,
        alpha=0.3,
        linewidth=0,
        label="95% band for one dimension",
    )
    single = np.array([sbc.coverage(level) for level in levels])
    ax.plot(levels, single, color=BLUE, linewidth=0.6, alpha=0.4)
    ax.plot([], [], color=BLUE, linewidth=0.6, alpha=0.6, label="each dimension")
    for name, colour, coverage in (
        ("all dimensions", BLUE, sbc.pooled_coverage),
        ("the whole code", ORANGE, sbc.joint_coverage),
    ):
        ax.plot(levels, [coverage(level)[0] for level in levels], color=colour, lw=2, label=name)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="probability of the guide's interval, or of its densest region",
        ylabel="share that holds the code that made x",
        title=f"The guide's 90% intervals hold {sbc.pooled_coverage(0.9)[0]:.1%} of dimensions,\n"
        f"its 90% regions {sbc.joint_coverage(0.9)[0]:.1%} of codes",
    )
    ax.legend(frameon=False, loc="upper left")
    tidy([ax], grid="both")
    return figure


def _departure(u: Float[np.ndarray, " n"]) -> float:
    """The largest distance of the ECDF from the diagonal."""
    ordered = np.sort(u)
    steps = np.arange(len(u) + 1) / len(u)
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))


def _shown(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value >= 1e-99 else "0 (below 1e-99)"
