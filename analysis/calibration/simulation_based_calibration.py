"""Simulation-based calibration: is the guide the posterior, on data that the model generated?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.calibration.simulated_ranks import (
    JOINT,
    LOG_GUIDE,
    LOG_WEIGHT,
    Ranks,
    simulated_ranks,
)
from analysis.check import Check, Plot
from analysis.hypothesis_tests import holm, p_text
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, pit_figure, tidy
from analysis.result import Result
from analysis.subject import Subject
from analysis.verdicts import NO_RATE, SIGNIFICANT, Verdict, judge_guide
from pyro_vae.data.nouns import noun
from pyro_vae.statistics import standard_error

if TYPE_CHECKING:
    import matplotlib.figure


# Probabilities of the intervals and regions whose coverage is reported.
LEVELS = (0.5, 0.8, 0.9, 0.95)
# The 95 % point of sqrt(n) times the largest distance of an ECDF of n uniform values (Kolmogorov).
KOLMOGOROV = 1.358
NOT_ALONE = "none, so the fault is in how they depend on one another"
# Panels of single dimensions, the worst first, and panels side by side.
WORST, COLUMNS = 4, 4


@dataclass(frozen=True)
class SimulationBasedCalibration(Result):
    """How n ranks in each of some quantities depart from uniform ones.

    u = (rank + U) / (L + 1), U uniform, is uniform on (0, 1) if the guide is the posterior, and
    independent for each example. Its normal score Phi^-1(u) is then standard normal.

    Args:
        names: The quantities: each latent dimension, then the four of `simulated_ranks.JOINT`.
        pit: u.
        p_value: Of uniformity, for each quantity: twice the smaller of the Kolmogorov-Smirnov
            tests of u and of |2 u - 1|. The first finds a shift, the second a wrong width.
        shift: The mean normal score: how many of its standard deviations the guide lies below the
            true codes. 0 is right.
        spread: The standard deviation of the normal scores: how many times as wide as the guide
            the true codes scatter. 1 is right; above, the guide is too narrow; below, too wide. L
            draws resolve no more than about sqrt(log L).
        told_apart: Among pairs of a true code and a draw, the share in which the log weight log
            p(x, z) - log q(z | x) is larger for the true code. No rule does better (Neyman &
            Pearson). 0.5 is right; 1 means that the two never overlap.
        told_apart_se: Its standard error.
        num_draws: The number L of draws per example.
        rate: E[log q(z | x) - log p(z)] in nats per example, of the simulated data.
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

    FIELDS = ("num_draws", "told_apart", "told_apart_se", "rate")

    @property
    def dimensions(self) -> int:
        """The number of latent dimensions, which come first."""
        return len(self.names) - len(JOINT)

    @property
    def adjusted(self) -> Float[np.ndarray, " quantities"]:
        """The p-values by Holm's method: one is below 0.05 in 5 % of cases for an exact guide."""
        return holm(self.p_value)

    def coverage(self, level: float) -> Float[np.ndarray, " latent"]:
        """The share of true codes in the guide's central interval, for each dimension."""
        return self._inside(level).mean(0)

    def pooled_coverage(self, level: float) -> tuple[float, float | None]:
        """The mean of `coverage` over dimensions, and its standard error over examples."""
        by_example = self._inside(level).mean(1)
        return float(by_example.mean()), standard_error(by_example)

    def joint_coverage(self, level: float) -> tuple[float, float | None]:
        """The share of true codes in the densest region of q(z | x), and its standard error."""
        inside = (self.pit[:, self.names.index(LOG_GUIDE)] > 1 - level).astype(np.float64)
        return float(inside.mean()), standard_error(inside)

    @property
    def faults(self) -> dict[str, int]:
        """The number of dimensions that fail alone, by their larger fault."""
        low = np.flatnonzero(self.adjusted[: self.dimensions] < SIGNIFICANT)
        # In standard errors, to be comparable.
        shift = np.abs(self.shift[low]) * math.sqrt(len(self.pit))
        width = (self.spread[low] - 1) * math.sqrt(2 * len(self.pit))
        shifted = shift > np.abs(width)
        kinds = {
            "shifted": shifted,
            "too narrow": ~shifted & (width > 0),
            "too wide": ~shifted & (width <= 0),
        }
        return {kind: int(each.sum()) for kind, each in kinds.items()}

    def worst(self, at_most: int) -> list[int]:
        """The latent dimensions of the smallest p-values, smallest first."""
        return np.argsort(self.p_value[: self.dimensions])[:at_most].tolist()

    def extra(self) -> Mapping[str, Any]:
        """All p-values with their effects, and coverages with standard errors."""
        n = len(self.pit)
        columns = {
            "name": self.names,
            "p_value": self.p_value,
            "p_value_holm": self.adjusted,
            "shift": self.shift,
            "spread": self.spread,
        }
        coverage = []
        for level in LEVELS:
            (pooled, pooled_se), (joint, joint_se) = (
                self.pooled_coverage(level),
                self.joint_coverage(level),
            )
            coverage.append(
                {"level": level, "dimensions": pooled, "dimensions_se": pooled_se}
                | {"joint": joint, "joint_se": joint_se, "by_dimension": self.coverage(level)}
                | {"by_dimension_se": math.sqrt(level * (1 - level) / n)}
            )
        return {
            "n": n,
            "tests": len(self.names),
            "p_value_holm": self.adjusted.min(),
            "tests_below_0.05": int((self.p_value < SIGNIFICANT).sum()),
            "faults": self.faults,
            "shift_se": 1 / math.sqrt(n),
            "spread_se": 1 / math.sqrt(2 * n),
            "coverage": coverage,
            "quantities": [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ],
        }

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the guide is close to the posterior of generated data."""
        return (judge_guide(self.told_apart, float(self.adjusted.min()), len(self.pit)),)

    def reading(self) -> str:
        """The verdict, with the faults of single dimensions, and a warning for an unused code."""
        faults = ""
        if self.adjusted.min() < SIGNIFICANT:
            counts = [f"{count} {kind}" for kind, count in self.faults.items() if count]
            found = f"{', '.join(counts)} of {self.dimensions}" if counts else NOT_ALONE
            faults = f" Dimensions that fail alone: {found}."
        if self.rate < NO_RATE:
            faults += (
                f" The rate is {max(self.rate, 0.0):.2f} nats per {noun()}: a guide near the "
                "prior passes wherever the decoder ignores the code."
            )
        return f"{super().reading()}{faults}"

    def _inside(self, level: float) -> np.ndarray:
        return np.abs(2 * self.pit[:, : self.dimensions] - 1) < level


def simulation_based_calibration(ranks: Ranks, *, seed: int = 0) -> SimulationBasedCalibration:
    """Test that (rank + U) / (L + 1) is uniform for each quantity, and measure how it is not.

    Single dimensions can all pass where the guide misses how they depend on one another; the joint
    quantities detect that. A guide can be shown to fail, never to be right, and the model is not
    tested at all: the data are its own. A collapsed code passes, since its prior is its posterior.

    Args:
        ranks: From `simulated_ranks`.
        seed: The seed of U.

    Returns:
        Read `told_apart` and the coverages for the size of a fault, `p_value` for whether there is
        one: with enough simulations every guide has one.

    References:
        Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test
        Quantities Shapes Sensitivity (Modrák et al., 2023), https://arxiv.org/abs/2211.02383; Yes,
        but Did It Work?: Evaluating Variational Inference (Yao et al., 2018),
        https://arxiv.org/abs/1802.02538
    """
    from scipy.stats import kstest, norm

    uniform = np.random.default_rng(seed).uniform(size=ranks.ranks.shape)
    pit = (ranks.ranks + uniform) / (ranks.num_draws + 1)
    p_values = [
        min(1.0, 2 * min(kstest(values, "uniform").pvalue for values in (u, np.abs(2 * u - 1))))
        for u in pit.T
    ]
    scores = norm.ppf(pit)
    told_apart = ranks.ranks[:, list(ranks.names).index(LOG_WEIGHT)] / ranks.num_draws
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
    """The ECDF of u minus the diagonal, of joint quantities and the worst dimensions, by ArviZ.

    A curve within the band is of a guide that passes. One that lies above first and below then is
    of true codes at both ends of the guide's draws, a guide too narrow; the other way round, too
    wide; all on one side, shifted.
    """
    shown = [*range(sbc.dimensions, len(sbc.names)), *sbc.worst(WORST)]
    figure = pit_figure(
        {f"{sbc.names[i]}\np {p_text(sbc.p_value[i])}": sbc.pit[:, i] for i in shown},
        columns=COLUMNS,
        width=11.0,
        height=2.7 * -(-len(shown) // COLUMNS) + 0.6,
    )
    # The band is that of the p-values.
    band = KOLMOGOROV / math.sqrt(len(sbc.pit))
    limit = 1.1 * max(1.5 * band, *(_departure(sbc.pit[:, i]) for i in shown))
    panels, empty = figure.axes[: len(shown)], figure.axes[len(shown) :]
    for ax in empty:
        ax.set_axis_off()
    for index, ax in enumerate(panels):
        ax.axhspan(-band, band, color=GREY, alpha=0.3, linewidth=0)
        ax.axhline(0, color=GREY, linestyle="--", linewidth=1)
        ax.set(xlim=(0, 1), xticks=[0, 0.5, 1], ylim=(-limit, limit))
        ax.tick_params(labelbottom=True, labelleft=index % COLUMNS == 0)
    label = "u, the rank of the true code among the guide's draws, as a share"
    figure.supxlabel(label, fontsize=10)
    figure.supylabel("ECDF of u minus the diagonal", fontsize=10)
    tidy(panels)
    wrong = int((sbc.adjusted < SIGNIFICANT).sum())
    figure.suptitle(
        f"Guide against posterior on {len(sbc.pit)} data generated by the model: {wrong} of "
        f"{len(sbc.names)} quantities fail; the joint ones, then the worst dimensions"
    )
    return figure


def plot_calibration_by_dimension(
    sbc: SimulationBasedCalibration,
) -> "matplotlib.figure.Figure":
    """On the left each dimension's shift and spread, on the right all p-values in order.

    The boxes and the line contain an exact guide in 95 % of cases, all dimensions, or all
    quantities, together.
    """
    from scipy.stats import norm

    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2)
    d, n = sbc.dimensions, len(sbc.pit)
    shift, spread, wrong = sbc.shift[:d], sbc.spread[:d], sbc.adjusted[:d] < SIGNIFICANT
    factor = norm.isf(SIGNIFICANT / (4 * d))  # Two sides of two numbers for each dimension.
    errors = factor / math.sqrt(n), factor / math.sqrt(2 * n)
    for span, centre, error in zip((left.axvspan, left.axhspan), (0, 1), errors, strict=True):
        span(centre - error, centre + error, color=GREY, alpha=0.2, linewidth=0)
    for where, colour, name in ((~wrong, BLUE, "passes"), (wrong, ORANGE, "fails")):
        left.plot(shift[where], spread[where], "o", ms=5, color=colour, label=name)
    for index in sbc.worst(WORST):
        place = (shift[index], spread[index])
        left.annotate(str(index), place, (5, 3), textcoords="offset points", fontsize=9)
    x, y = (
        1.15 * max(1.6 * error, float(np.abs(values).max()))
        for error, values in zip(errors, (shift, spread - 1), strict=True)
    )
    left.set(
        xlabel="shift: the guide is too high  <  0  <  too low",
        ylabel="spread: too wide  <  1  <  too narrow",
        title=f"{wrong.sum()} of {d} dimensions fail",
        xlim=(-x, x),
        ylim=(1 - y, 1 + y),
    )
    order = np.argsort(sbc.p_value)
    rank = np.arange(len(order))
    drawn = np.maximum(sbc.p_value[order], 1e-20)
    for where, colour, name in (
        (order < d, BLUE, "a dimension"),
        (order >= d, ORANGE, "all of z"),
    ):
        right.plot(rank[where], drawn[where], "o", ms=5, color=colour, label=name)
    line = SIGNIFICANT / np.arange(len(order), 0, -1)
    right.plot(rank, line, color=GREY, linestyle="--", label="fails below (Holm)")
    right.set(
        yscale="log",
        ylim=(3e-21, 3),
        xlabel="quantity, sorted by p-value",
        ylabel="p-value (those below 1e-20 at the bottom)",
        title="p-values, uniform if the guide is the posterior",
    )
    for ax in (left, right):
        ax.legend(frameon=False, loc="lower right")
    tidy([left, right])
    figure.suptitle(f"Simulation-based calibration of the guide on {n} generated data")
    return figure


def plot_coverage(sbc: SimulationBasedCalibration) -> "matplotlib.figure.Figure":
    """The share of true codes in the guide's intervals and regions, against their probability.

    Below the diagonal the guide is overconfident. The band contains one dimension of an exact
    guide, at one probability, in 95 % of cases.
    """
    figure = new_figure(6.4, 5.9)
    ax = figure.subplots()
    levels = np.linspace(0.01, 0.99, 99)
    half = 1.96 * np.sqrt(levels * (1 - levels) / len(sbc.pit))
    label = "95% band for one dimension"
    ends = (levels - half, levels + half)
    ax.fill_between(levels, *ends, color=GREY, alpha=0.3, linewidth=0, label=label)
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
        ylabel="share that contains the true code",
        title=f"The guide's 90% intervals contain {sbc.pooled_coverage(0.9)[0]:.1%} of "
        "dimensions,\n"
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


def _compute(subject: Subject) -> SimulationBasedCalibration:
    subject.check_size()
    seed = subject.seed_of("simulated ranks")
    ranks = simulated_ranks(subject.vae, subject.x, len(subject.x), seed=seed)
    return simulation_based_calibration(ranks)


SBC = Check(
    "sbc",
    _compute,
    plots=(
        Plot(
            "sbc",
            "Where among the guide's draws does the true code of simulated data lie?",
            lambda sbc, _: plot_sbc(sbc),
        ),
        Plot(
            "dimensions",
            "In which dimensions is the guide shifted, too narrow or too wide?",
            lambda sbc, _: plot_calibration_by_dimension(sbc),
        ),
        Plot(
            "coverage",
            "Do the guide's intervals contain the true code as often as they should?",
            lambda sbc, _: plot_coverage(sbc),
        ),
    ),
    headline=lambda sbc: {
        "told from the posterior": f"{sbc.told_apart:.1%} of pairs, 50% is chance"
    },
)
