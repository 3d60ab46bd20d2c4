"""Where real data fall among data from the model: the probability integral transform (PIT) of a statistic.

All data are ranked among one common reference of generated data. Each PIT is then exactly uniform
under a true model, but the PITs depend on one another: they all move with the reference. A test or a
band for independent uniform values rejects a true model too often. Here the number of PITs below
j / (m + 1) has its own law, a beta-binomial one, and both the p-value and the band come from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.comparison.p_values import p_text
from analysis.plotting.arviz import pit_figure
from analysis.plotting.style import BLUE, GREY, ORANGE, tidy
from pyro_vae.evidence.numbers import finite

if TYPE_CHECKING:
    import matplotlib.figure

# The PITs are counted below so many levels, and the law of their largest departure is simulated so often.
LEVELS = 100
SIMULATIONS = 9_999
# A p-value below it is called a departure. In the figure the band holds a true model's whole curve
# with the probability that is left.
SIGNIFICANT = 0.05
# A PIT below the first or above the second is called extreme: a true model has 20 % of them.
TAILS = (0.1, 0.9)
# So many standard errors make a contrast worth naming as what is wrong.
CLEAR = 2.0
# A shift fills one tail and empties the other, a wrong width does the same to both: of the tail that
# changes less, at least this share of what the other one changes by.
BOTH_TAILS = 0.25
# A shift moves the mean PIT by some 0.3 to 0.7 of what it adds to the tails, a wrong width by nothing.
# Less than this share of it is no shift worth naming beside the width.
SHIFT_TO_TAILS = 0.15
# A mere shift moves the mean PIT by about 0.6 of the largest departure, and a wrong width the share of
# extreme PITs by more than all of it. Less than this share of it has another cause.
EXPLAINED = 0.4
COLUMNS = 4
LONGEST_LABEL = 30

Departure = Literal[
    "none",
    "too low",
    "too high",
    "too narrow",
    "too wide",
    "too low and too narrow",
    "too low and too wide",
    "too high and too narrow",
    "too high and too wide",
    "another form",
]

# What generated data are then, in a sentence after the statistic's name.
_FOUND = {
    "too low": "is too low in generated data",
    "too high": "is too high in generated data",
    "too narrow": "varies too little in generated data: real data often fall in or beyond the tails "
    "of what the model makes",
    "too wide": "varies too much in generated data: real data seldom reach the tails of what the "
    "model makes",
    "another form": "is distributed otherwise in generated data, by neither a shift nor a change of "
    "width alone",
}


def randomised_pit(
    observed: Real[np.ndarray, " n"], reference: Real[np.ndarray, " m"], *, seed: int
) -> Float[np.ndarray, " n"]:
    """u_i = (#{j: r_j < x_i} + V_i) / (m + 1), with a random rank among the r_j that tie with x_i.

    If x_i and all r_j are draws from one distribution, discrete or not, u_i is exactly uniform on
    (0, 1). The plain rank / m is not: it has m + 1 values, and heaps where values tie. Two that tie
    fall at random on either side of one another, and the same way for all pairs: the rank test of
    `pit_check` needs that.

    Args:
        observed: The statistic x_i of n data.
        reference: The statistic r_j of m generated data.
        seed: The seed of how ties are broken, and of the place between two ranks.

    Raises:
        ValueError: If one of them is empty, or holds a value that is no number.

    References:
        Predictive Model Assessment for Count Data (Czado, Gneiting & Held, 2009),
        https://doi.org/10.1111/j.1541-0420.2009.01191.x
    """
    observed, reference = (np.asarray(values, np.float64) for values in (observed, reference))
    for name, values in (("observed", observed), ("reference", reference)):
        if len(values) == 0 or np.isnan(values).any():
            found = f"{np.isnan(values).sum()} of {len(values)} that are none"
            raise ValueError(f"{name} must be numbers, at least one, got {found}.")
    rng = np.random.default_rng(seed)
    ties = rng.random(len(observed) + len(reference))
    order = np.lexsort((ties, np.concatenate([observed, reference])))
    generated = order >= len(observed)
    below = np.empty(len(order), np.int64)
    below[order] = np.cumsum(generated)
    return (below[: len(observed)] + rng.random(len(observed))) / (len(reference) + 1)


@dataclass(frozen=True)
class PitCheck:
    """The PITs of n data among m generated ones, and how far they are from uniform.

    The generated data are a random sample, too. The chance that a datum falls below the j-th
    smallest of them is Beta(j, m + 1 - j), the same for all data, so that the number of PITs below
    j / (m + 1) is beta-binomial: its variance is about 1 + n / m times that of independent PITs.

    Args:
        name: Of the statistic.
        pit: The PITs, each uniform under a true model.
        num_reference: The number m of generated data.
        p_value: The chance, under a true model, of counts as improbable, by `pit_check`'s exact
            test: from 1 / (SIMULATIONS + 1) to 1.
        largest_departure: The largest over levels of |share of PITs below the level - level|.
        label: The statistic in words.
    """

    name: str
    pit: Float[np.ndarray, " n"]
    num_reference: int
    p_value: float
    largest_departure: float
    label: str = ""

    @property
    def mean(self) -> float:
        """The mean PIT: 0.5 under a true model; above it, real data lie above the generated."""
        return float(self.pit.mean())

    @property
    def mean_se(self) -> float:
        """Its standard error under a true model, sqrt((1/n + 1/m) / 12)."""
        return math.sqrt((1 / len(self.pit) + 1 / self.num_reference) / 12)

    @property
    def tails(self) -> tuple[float, float]:
        """The shares of PITs below 0.1 and above 0.9: 0.1 each under a true model."""
        low, high = TAILS
        return float((self.pit < low).mean()), float((self.pit > high).mean())

    @property
    def extreme(self) -> float:
        """The share of PITs below 0.1 or above 0.9: 0.2 under a true model."""
        return sum(self.tails)

    @property
    def extreme_se(self) -> float:
        """Its standard error under a true model, sqrt((1/n + 1/m) 0.2 x 0.8)."""
        share = 1 - (TAILS[1] - TAILS[0])
        return math.sqrt((1 / len(self.pit) + 1 / self.num_reference) * share * (1 - share))

    @property
    def departure(self) -> Departure:
        """What the generated data are, next to the real: shifted first, then of a wrong width.

        Both tails together say nothing of the width of shifted data: a large shift fills one of them.
        """
        if not self.p_value < SIGNIFICANT:
            return "none"
        expected = 1 - TAILS[1], TAILS[0]
        off = self.mean - 0.5
        lesser, greater = sorted(
            (tail - share for tail, share in zip(self.tails, expected, strict=True)), key=abs
        )
        width = lesser + greater
        wrong_width = abs(width) > CLEAR * self.extreme_se and lesser / greater > BOTH_TAILS
        shifted = abs(off) > CLEAR * self.mean_se and abs(off) > SHIFT_TO_TAILS * abs(width)
        causes = [abs(off)] * shifted + [abs(width)] * wrong_width
        if not causes or max(causes) < EXPLAINED * self.largest_departure:
            return "another form"
        words = ["too low" if off > 0 else "too high"] * shifted
        words += ["too narrow" if width > 0 else "too wide"] * wrong_width
        return cast("Departure", " and ".join(words))

    def summary(self) -> dict[str, Any]:
        """The p-value, mean PIT and share of extreme PITs, as plain values."""
        return {
            "name": self.name,
            "n": len(self.pit),
            "num_reference": self.num_reference,
            "p_value": finite(self.p_value),
            "largest_departure": finite(self.largest_departure),
            "mean_pit": finite(self.mean),
            "mean_pit_se": finite(self.mean_se),
            "extreme_share": finite(self.extreme),
            "extreme_share_se": finite(self.extreme_se),
            "departure": self.departure,
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How far the distribution of PITs is from uniform, how it differs, and whether that is chance."""
        label = self.label.partition(":")[0] or self.name
        numbers = (
            f"distribution functions are up to {self.largest_departure:.2f} apart; mean PIT {self.mean:.3f}, 0.5 is "
            f"right; {self.extreme:.1%} of PITs below {TAILS[0]} or above {TAILS[1]}, 20% is right; p "
            f"{p_text(self.p_value)}"
        )
        if self.departure == "none":
            return (
                f"{label}: no departure found among {len(self.pit)} real and {self.num_reference} generated data "
                f"({numbers})."
            )
        found = " and ".join(_FOUND[word] for word in self.departure.split(" and "))
        return f"{label}: {found} ({numbers})."


def pit_check(
    name: str,
    observed: Real[np.ndarray, " n"],
    reference: Real[np.ndarray, " m"],
    *,
    seed: int,
    label: str = "",
) -> PitCheck:
    """T = min_l 2 min(P(N_l <= c_l), P(N_l >= c_l)) against its law under a true model.

    N_l is the number of PITs below level l, c_l the one found. The law of T is free of the
    statistic's distribution: real and generated values are exchangeable, so that the counts between
    levels are Dirichlet-multinomial (Polya's urn). It is simulated, and the test is exact for any n
    and m, with ties or without. Each level has its own tail probabilities, so that a wrong width is
    found that the Kolmogorov-Smirnov test passes over, too narrow as well as too wide.

    Args:
        name: Of the statistic.
        observed: The statistic of n real data that did not train the model.
        reference: The statistic of m new data, full draws x ~ p(x | z), z ~ p(z). Take m of at
            least n: fewer hide what more data could show.
        seed: The seed of how ties are broken.
        label: The statistic in words.

    Raises:
        ValueError: If one of them is empty, or holds a value that is no number.

    References:
        Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation
        and multiple sample comparison (Säilynoja, Bürkner & Vehtari, 2022),
        https://doi.org/10.1007/s11222-022-10090-6
    """
    pit = randomised_pit(observed, reference, seed=seed)
    n, m = len(observed), len(reference)
    levels = _levels(m)
    counts = np.searchsorted(np.sort(pit), levels / (m + 1))
    law = _law(n, m)
    found = law.least_probable(counts[None])[0]
    p_value = (1 + np.searchsorted(law.least, found, side="right")) / (1 + len(law.least))
    largest = np.abs(counts / n - levels / (m + 1)).max()
    return PitCheck(name, pit, m, float(p_value), float(largest), label or name)


def pit_band(
    n: int, m: int
) -> tuple[
    Float[np.ndarray, " levels"], Float[np.ndarray, " levels"], Float[np.ndarray, " levels"]
]:
    """Levels, and the least and the greatest that ECDF - level may be there, for n PITs among m.

    Under a true model the curve keeps within at all levels together with a probability of 95 %. It
    leaves the band at some level if and only if `pit_check` has a p-value below 0.05.

    Args:
        n: The number of PITs.
        m: The number of generated data.
    """
    levels = _levels(m) / (m + 1)
    law = _law(n, m)
    critical = law.least[math.ceil(SIGNIFICANT * (SIMULATIONS + 1)) - 2]
    within = law.tails >= critical
    lowest, highest = within.argmax(0), n - within[::-1].argmax(0)
    return levels, lowest / n - levels, highest / n - levels


def plot_pit(checks: Sequence[PitCheck]) -> "matplotlib.figure.Figure":
    """ECDF of the PITs less the diagonal, by `arviz_plots.plot_ecdf_pit`, a panel for each statistic.

    Under a true model the whole curve stays in its band in 95 % of cases. A curve that rises, falls
    and rises again about the middle is of PITs heaped at both ends: the model is too narrow. The
    band is that of `pit_band`, not ArviZ's, which is for independent PITs.

    Args:
        checks: Of the same number of data each, with different names.

    Raises:
        ValueError: If there are none, or they differ in their numbers of data, or share a name.
    """
    sizes = {len(check.pit) for check in checks}
    names = {check.name for check in checks}
    if len(sizes) != 1 or len(names) != len(checks):
        raise ValueError(
            "checks must be at least one, of the same number of data and with different names, got "
            f"{[(check.name, len(check.pit)) for check in checks]}."
        )
    columns = min(COLUMNS, len(checks))
    rows = math.ceil(len(checks) / columns)
    # A variable's name is what ArviZ writes above its panel.
    figure = pit_figure(
        {_title(check): check.pit for check in checks},
        columns=columns,
        width=max(3.0 * columns, 6.5),
        height=2.7 * rows + 1.0,
    )
    # ArviZ leaves the panels in their order, and hides those of a last row that is not full.
    panels = figure.axes[: len(checks)]
    for ax, check in zip(panels, checks, strict=True):
        levels, lowest, highest = pit_band(len(check.pit), check.num_reference)
        ax.fill_between(levels, lowest, highest, color=GREY, alpha=0.25, linewidth=0)
        (curve,) = ax.lines
        curve.set_color(BLUE if check.departure == "none" else ORANGE)
        ax.axhline(0, color=GREY, linestyle="--", linewidth=1)
        height = 1.15 * max(check.largest_departure, -lowest.min(), highest.max())
        ax.set(xlim=(0, 1), ylim=(-height, height))
    for place, ax in enumerate(panels):
        ax.tick_params(labelbottom=place + columns >= len(panels))
    tidy(panels, grid="both")
    found = sum(check.departure != "none" for check in checks)
    figure.suptitle(
        f"Where real data fall among generated: {found} of {len(checks)} statistics leave the band "
        "that holds 95% of true models' curves"
        if columns > 2
        else f"{found} of {len(checks)} statistics leave the band of 95% of true models"
    )
    figure.supxlabel("PIT, the share of generated data below")
    figure.supylabel("ECDF of the PITs - PIT")
    return figure


def _title(check: PitCheck) -> str:
    words = check.label or check.name
    if len(words) > LONGEST_LABEL:
        words = f"{words[: LONGEST_LABEL - 1]}…"
    least = 1 / (SIMULATIONS + 1)
    p = f"p < {2 * least:.4f}" if check.p_value < 1.5 * least else f"p = {check.p_value:.2g}"
    return f"{words}\n{p}" + ("" if check.departure == "none" else f"\n{check.departure}")


def _levels(m: int) -> Float[np.ndarray, " levels"]:
    """Ranks j among m + 1 places, evenly spread: the levels j / (m + 1)."""
    return np.unique(np.round(np.linspace(0, m + 1, LEVELS + 1))[1:-1].clip(1, m))


@dataclass(frozen=True)
class _Law:
    """Of the counts of n PITs below levels: tail probabilities of each, and the law of their least.

    Args:
        tails: 2 min(P(N_l <= c), P(N_l >= c)) for each count c at each level l.
        least: Simulated least ones over levels, rising.
    """

    tails: Float[np.ndarray, "counts levels"]
    least: Float[np.ndarray, " simulations"]

    def least_probable(self, counts: Int[np.ndarray, "sets levels"]) -> Float[np.ndarray, " sets"]:
        return np.take_along_axis(self.tails, counts, 0).min(1)


@lru_cache(maxsize=4)
def _law(n: int, m: int) -> _Law:
    """The law under a true model, simulated with a seed of its own."""
    from scipy.stats import betabinom

    levels = _levels(m)
    chances = betabinom.pmf(np.arange(n + 1)[:, None], n, levels, m + 1 - levels)
    upward = chances.cumsum(0)
    tails = 2 * np.minimum(upward, 1 - upward + chances)
    # The sums' rounding errors can be all there is of a tail.
    law = _Law(np.maximum(tails, 1e-12), np.empty(0))
    rng = np.random.default_rng(0)
    widths = np.diff(np.concatenate([[0.0], levels, [m + 1.0]]))
    counts = rng.multinomial(n, rng.dirichlet(widths, SIMULATIONS)).cumsum(1)[:, :-1]
    return replace(law, least=np.sort(law.least_probable(counts)))
