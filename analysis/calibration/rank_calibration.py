"""The numbers of simulation-based calibration: how ranks of true codes depart from uniform ones."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.calibration.simulated_ranks import JOINT, LOG_GUIDE, LOG_WEIGHT, Ranks
from analysis.commands import GAPS
from analysis.comparison.p_values import holm
from analysis.verdicts import NO_RATE, SIGNIFICANT, Verdict, guide_close
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import standard_error

# The probabilities of the intervals and regions whose coverage is reported.
LEVELS = (0.5, 0.8, 0.9, 0.95)


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
        return holm(self.p_value)

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
            "verdicts": [self.verdict().summary()],
            "reading": self.reading(),
        }

    def verdict(self) -> Verdict:
        """Whether the guide is close to the posterior of data that the model made."""
        return guide_close(self.told_apart, float(self.adjusted.min()), len(self.pit))

    def reading(self) -> str:
        """Whether the guide is the posterior, how it misses it, and what this check cannot see."""
        adjusted, verdict = self.adjusted, self.verdict()
        (ninety, _), (joint, _) = self.pooled_coverage(0.9), self.joint_coverage(0.9)
        said = [str(verdict)]
        if adjusted.min() < SIGNIFICANT:
            said.append(
                f"Its 90% intervals hold the true code's dimensions in {ninety:.1%} of cases, its 90% region the "
                f"whole code in {joint:.1%}{self._fault(adjusted)}."
            )
        if verdict.answer == "no":
            said.append(
                f"`{GAPS}` says whether a more flexible guide or a larger encoder would help."
            )
        if self.rate < NO_RATE:
            said.append(
                f"But the rate is {max(self.rate, 0.0):.2f} nats per {noun()}: the guide is next to the prior, and "
                "passes wherever the decoder ignores the code."
            )
        return " ".join(said)

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
