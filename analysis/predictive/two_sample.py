"""Compare a score over real data with the same score over data that the model generated.

The real data did not train the model; generated ones are full draws z ~ p(z), x ~ p(x | z).
Real data are ranked among one common sample of generated data. Each rank, as a probability
integral transform (PIT), is exactly uniform under a true model, but the PITs depend on one
another, since all move with the reference: a test or band for independent uniform values rejects a
true model too often. Here the number of PITs below each level has its own law, a beta-binomial
one, from which both the p-value and the band are computed. For vectors see
`analysis.predictive.permutation_tests`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.hypothesis_tests import p_text
from analysis.result import Result
from analysis.verdicts import CLEAR, SIGNIFICANT, distance_text
from pyro_vae.json_values import to_jsonable
from pyro_vae.statistics import standard_error

# Number of levels at which PITs are counted, and of simulations of the most improbable count.
LEVELS, SIMULATIONS = 100, 9_999
# PITs outside this range are called extreme: 20 % under a true model.
TAILS = (0.1, 0.9)
# A shift fills one tail and empties the other; a wrong width changes both alike. Least ratio of
# the smaller to the larger change of a tail for a width to be called wrong.
BOTH_TAILS = 0.25
# A shift moves the mean PIT by 0.3 to 0.7 of what it adds to the tails, a wrong width by nothing.
SHIFT_TO_TAILS = 0.15
# A pure shift moves the mean PIT by about 0.6 of the largest departure, and a wrong width moves
# the share of extreme PITs by more than all of it. Below this fraction the cause is another one.
EXPLAINED = 0.4

_WORDS = {
    "too low": "is too low",
    "too high": "is too high",
    "too narrow": "varies too little",
    "too wide": "varies too much",
    "another form": "has a distribution of another form",
}


@dataclass(frozen=True)
class Comparison(Result):
    """A score of n real and m generated examples, and how far apart their distributions are.

    Args:
        name: A short key.
        label: Description for an axis, "name: explanation".
        real: The score of each real example.
        generated: The score of each generated example.
        ks_distance: sup_t |F_real(t) - F_generated(t)|, the Kolmogorov-Smirnov distance, from 0 to
            1: the best threshold classifies an example correctly with probability (1 + it) / 2.
        pit: The PIT of each real example among the generated ones, uniform under a true model.
        largest_departure: The largest over levels of |share of PITs below the level - level|.
        p_value: Probability, under a true model, of counts of PITs as improbable; from
            1 / (SIMULATIONS + 1) to 1, and 1 where the score is constant.
    """

    name: str
    label: str
    real: Float[np.ndarray, " n"]
    generated: Float[np.ndarray, " m"]
    ks_distance: float
    pit: Float[np.ndarray, " n"]
    largest_departure: float
    p_value: float

    FIELDS = (
        *("label", "difference", "difference_se", "standard_errors"),
        *("deviations", "ks_distance", "p_value"),
    )

    @property
    def title(self) -> str:
        """The label up to its colon."""
        return self.label.partition(":")[0]

    @property
    def difference(self) -> float | None:
        """Mean of the generated minus mean of the real scores; None without finite scores."""
        (real, _), (generated, _) = self._moments()
        return None if real is None or generated is None else generated - real

    @property
    def difference_se(self) -> float | None:
        """The standard error of `difference`; None for a single example."""
        (_, real), (_, generated) = self._moments()
        return None if real is None or generated is None else math.hypot(real, generated)

    @property
    def standard_errors(self) -> float | None:
        """`difference` in standard errors, about N(0, 1) under a true model; None if constant."""
        error = self.difference_se
        return self.difference / error if error and self.difference is not None else None

    @property
    def deviations(self) -> float | None:
        """`difference` in standard deviations of the real score: an effect size."""
        if self.difference is None:
            return None
        spread = float(_finite(self.real).std())
        return self.difference / spread if spread > 0 else None

    @property
    def non_finite(self) -> tuple[int, int]:
        """The number of real and of generated scores that are infinite or NaN."""
        return tuple(len(v) - len(_finite(v)) for v in (self.real, self.generated))  # pyright: ignore

    @property
    def tails(self) -> tuple[float, float]:
        """The shares of PITs below 0.1 and above 0.9: 0.1 each under a true model."""
        low, high = TAILS
        return float((self.pit < low).mean()), float((self.pit > high).mean())

    @property
    def pit_errors(self) -> tuple[float, float]:
        """Standard errors under a true model of the mean PIT and of the share of extreme PITs."""
        share = 1 - (TAILS[1] - TAILS[0])
        scale = 1 / len(self.pit) + 1 / len(self.generated)
        return math.sqrt(scale / 12), math.sqrt(scale * share * (1 - share))

    @property
    def departure(self) -> str:
        """How generated data differ from real ones.

        "none", "another form", or a shift, "too low" or "too high", and a wrong width, "too
        narrow" or "too wide", joined by "and". The sum of both tails says nothing about the width
        of shifted data, since a large shift fills one of them.
        """
        if not self.p_value < SIGNIFICANT:
            return "none"
        off, (mean_se, extreme_se) = float(self.pit.mean()) - 0.5, self.pit_errors
        changes = (self.tails[0] - TAILS[0], self.tails[1] - (1 - TAILS[1]))
        lesser, greater = sorted(changes, key=abs)
        width = lesser + greater
        wrong_width = abs(width) > CLEAR * extreme_se and lesser / greater > BOTH_TAILS
        shifted = abs(off) > CLEAR * mean_se and abs(off) > SHIFT_TO_TAILS * abs(width)
        causes = [abs(off)] * shifted + [abs(width)] * wrong_width
        if not causes or max(causes) < EXPLAINED * self.largest_departure:
            return "another form"
        words = ["too low" if off > 0 else "too high"] * shifted
        words += ["too narrow" if width > 0 else "too wide"] * wrong_width
        return " and ".join(words)

    def extra(self) -> Mapping[str, Any]:
        """Numbers of examples, means and their standard errors."""
        record = {"n_real": len(self.real), "n_generated": len(self.generated)}
        for kind, moments, bad in zip(
            ("real", "generated"), self._moments(), self.non_finite, strict=True
        ):
            names = (f"{kind}_mean", f"{kind}_mean_se", f"non_finite_{kind}")
            record |= dict(zip(names, (*moments, bad), strict=True))
        return record

    def pit_summary(self) -> dict[str, Any]:
        """The values that the section "pit" records."""
        mean_se, extreme_se = self.pit_errors
        record = {
            name: getattr(self, name)
            for name in ("name", "p_value", "largest_departure", "departure")
        }
        return to_jsonable(
            record
            | {"n": len(self.pit), "num_reference": len(self.generated)}
            | {"mean_pit": self.pit.mean(), "mean_pit_se": mean_se}
            | {"extreme_share": sum(self.tails), "extreme_share_se": extreme_se}
            | {"reading": self.pit_reading()}
        )

    def means(self) -> str:
        """The two means and standard deviations in words."""
        real, generated = _finite(self.real), _finite(self.generated)
        if not len(real) or not len(generated):
            return "no finite value in one of the two samples"
        return (
            f"mean {generated.mean():.4g} against {real.mean():.4g} of real data, "
            f"standard deviation {generated.std():.3g} against {real.std():.3g}"
        )

    def reading(self) -> str:
        """The distance, the means and the p-value in one sentence."""
        bad = "" if not any(self.non_finite) else "; not finite: {} real, {} generated"
        return (
            f"{self.title}: distance {distance_text(self.ks_distance)}, {self.means()}"
            f"{bad.format(*self.non_finite)} (p {p_text(self.p_value)})."
        )

    def pit_reading(self) -> str:
        """How generated data differ, from the PITs, in one sentence."""
        found = "does not differ significantly"
        if self.departure != "none":
            found = " and ".join(_WORDS[word] for word in self.departure.split(" and "))
        return (
            f"{self.title} {found} in generated data (mean PIT {self.pit.mean():.3f}, 0.5 "
            f"expected; {sum(self.tails):.1%} of PITs below {TAILS[0]} or above {TAILS[1]}, 20% "
            f"expected; largest departure {self.largest_departure:.2f}, p {p_text(self.p_value)})."
        )

    def _moments(self) -> tuple[tuple[float | None, float | None], ...]:
        """The mean and standard error of the finite real and generated scores."""
        finite = (_finite(values) for values in (self.real, self.generated))
        return tuple(
            (float(v.mean()), standard_error(v)) if len(v) else (None, None) for v in finite
        )


def compare_scores(
    name: str,
    real: Real[np.ndarray, " n"],
    generated: Real[np.ndarray, " m"],
    *,
    label: str = "",
    seed: int = 0,
) -> Comparison:
    """T = min_l 2 min(P(N_l <= c_l), P(N_l >= c_l)) against its law under a true model.

    N_l is the number of PITs below level l, c_l the observed one. Real and generated scores are
    exchangeable under a true model, so that counts between levels are Dirichlet-multinomial
    (Polya's urn) whatever the score: their law is simulated, and the test is exact for any n and
    m, with ties or without. Each level has its own tail probabilities. The test therefore finds a
    wrong width, which the Kolmogorov-Smirnov test of the same samples overlooks, and is as
    powerful against a shift.

    Any score will do that is computed alike for both samples: a statistic, an ELBO, an error. It
    may depend on the model and its training data, not on the data that are compared.

    Args:
        name: A short key.
        real: The score of each real example. Infinite scores keep their rank, NaN is the lowest.
        generated: The score of each generated example. Take m of at least n.
        label: Description with its unit, for an axis; the name, if empty.
        seed: The seed of the ties.

    Raises:
        ValueError: If either sample is empty.

    References:
        Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation
        and multiple sample comparison (Säilynoja, Bürkner & Vehtari, 2022),
        https://doi.org/10.1007/s11222-022-10090-6
    """
    pit = randomised_pit(real, generated, seed=seed, name=name)
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    n, m = len(real), len(generated)
    levels, (tails, least) = _levels(m), _law(n, m)
    counts = np.searchsorted(np.sort(pit), levels / (m + 1))
    found = _least_probable(tails, counts[None])[0]
    p_value = (1 + np.searchsorted(least, found, side="right")) / (1 + len(least))
    return Comparison(
        name,
        label or name,
        real,
        generated,
        ks_distance(real, generated),
        pit,
        float(np.abs(counts / n - levels / (m + 1)).max()),
        float(p_value) if np.ptp(_ranks(real, generated)) else 1.0,
    )


def ks_distance(real: Real[np.ndarray, " n"], generated: Real[np.ndarray, " m"]) -> float:
    """sup_t |F_real(t) - F_generated(t)|, with NaN as the lowest value.

    >>> ks_distance(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.5
    """
    ranks = _ranks(real, generated)
    parts = (ranks[: len(real)], ranks[len(real) :])
    shares = [np.bincount(part, minlength=ranks.max() + 1) / len(part) for part in parts]
    return float(np.abs(np.cumsum(shares[0] - shares[1])).max())


def randomised_pit(
    observed: Real[np.ndarray, " n"],
    reference: Real[np.ndarray, " m"],
    *,
    seed: int,
    name: str = "observed and reference",
) -> Float[np.ndarray, " n"]:
    """u_i = (#{j: r_j < x_i} + V_i) / (m + 1), with a random rank among the r_j that tie with x_i.

    If x_i and all r_j are draws from one distribution, discrete or not, u_i is exactly uniform on
    (0, 1). The plain rank / m is not: it has m + 1 values, and heaps where values tie. The order
    of tied values is the same for all pairs, which the test of `compare_scores` needs.

    Args:
        observed: The statistic x_i of n examples; NaN ranks lowest.
        reference: The statistic r_j of m generated examples.
        seed: The seed of the order of ties, and of the place between two ranks.
        name: The name in the error message.

    Raises:
        ValueError: If one of them is empty.

    References:
        Predictive Model Assessment for Count Data (Czado, Gneiting & Held, 2009),
        https://doi.org/10.1111/j.1541-0420.2009.01191.x
    """
    if not len(observed) or not len(reference):
        raise ValueError(
            f"{name} must have scores of real and of generated data, got {len(observed)} and "
            f"{len(reference)}."
        )
    n = len(observed)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(n + len(reference)), _ranks(observed, reference)))
    below = np.empty(len(order), np.int64)
    below[order] = np.cumsum(order >= n)
    return (below[:n] + rng.random(n)) / (len(reference) + 1)


def pit_band(
    n: int, m: int
) -> tuple[
    Float[np.ndarray, " levels"], Float[np.ndarray, " levels"], Float[np.ndarray, " levels"]
]:
    """Levels, and the lowest and highest ECDF - level there, for n PITs among m generated data.

    Under a true model the curve stays inside at all levels together with a probability of 95 %. It
    leaves the band at some level if and only if the p-value of `compare_scores` is below 0.05.

    Args:
        n: The number of PITs.
        m: The number of generated examples.
    """
    levels, (tails, least) = _levels(m) / (m + 1), _law(n, m)
    within = tails >= least[math.ceil(SIGNIFICANT * (SIMULATIONS + 1)) - 2]
    lowest, highest = within.argmax(0), n - within[::-1].argmax(0)
    return levels, lowest / n - levels, highest / n - levels


def _finite(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " _"]:
    return values[np.isfinite(values)]


def _ranks(first: np.ndarray, second: np.ndarray) -> Int[np.ndarray, " both"]:
    """Ranks in the pooled sample, equal for ties, with NaN lowest."""
    pooled = np.concatenate([first, second]).astype(np.float64)
    _, ranks = np.unique(pooled, return_inverse=True)
    return np.where(np.isnan(pooled), 0, ranks + 1)


def _levels(m: int) -> Float[np.ndarray, " levels"]:
    """Ranks j among m + 1 places, evenly spread: the levels j / (m + 1)."""
    return np.unique(np.round(np.linspace(0, m + 1, LEVELS + 1))[1:-1].clip(1, m))


def _least_probable(
    tails: Float[np.ndarray, "counts levels"], counts: Int[np.ndarray, "sets levels"]
) -> Float[np.ndarray, " sets"]:
    return np.take_along_axis(tails, counts, 0).min(1)


@lru_cache(maxsize=4)
def _law(
    n: int, m: int
) -> tuple[Float[np.ndarray, "counts levels"], Float[np.ndarray, " simulations"]]:
    """2 min(P(N_l <= c), P(N_l >= c)) for each count c and level l; sorted minima over levels."""
    from scipy.stats import betabinom

    levels = _levels(m)
    chances = betabinom.pmf(np.arange(n + 1)[:, None], n, levels, m + 1 - levels)
    upward = chances.cumsum(0)
    # Rounding errors of the sums can be all there is of a tail.
    tails = np.maximum(2 * np.minimum(upward, 1 - upward + chances), 1e-12)
    rng = np.random.default_rng(0)
    widths = np.diff(np.concatenate([[0.0], levels, [m + 1.0]]))
    counts = rng.multinomial(n, rng.dirichlet(widths, SIMULATIONS)).cumsum(1)[:, :-1]
    return tails, np.sort(_least_probable(tails, counts))
