"""Are two samples of a score draws from one distribution?

The first sample is of real data that did not train the model, the second of data that it generated,
z ~ p(z), x ~ p(x | z). Under a true model a p-value is uniform on (0, 1). With enough data every
wrong model is found: read the effect first. Of vectors see `analysis.comparison.resampling_tests`.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from analysis.comparison.p_values import p_text
from analysis.verdicts import distance_text
from pyro_vae.evidence.numbers import finite, standard_error

# Below so many pairs the exact distribution of the distance is counted out; above, the asymptotic
# one is as good and quick.
_EXACT_PAIRS = 250_000


@dataclass(frozen=True)
class Comparison:
    """A score of n real and m generated data, and how far apart their distributions are.

    Args:
        name: A short key.
        label: What was measured, for an axis.
        real: The score of each real datum.
        generated: The score of each generated datum.
        ks_distance: sup_t |F_real(t) - F_generated(t)|, the Kolmogorov-Smirnov distance, from 0 to
            1: the best threshold tells a real from a generated datum with chance (1 + it) / 2.
        p_value: The chance of a larger distance under a true model, ties broken at random; 1 where
            the score is one constant.
    """

    name: str
    label: str
    real: Float[np.ndarray, " n"]
    generated: Float[np.ndarray, " m"]
    ks_distance: float
    p_value: float

    @property
    def title(self) -> str:
        """What the label says before its colon."""
        return self.label.partition(":")[0]

    @cached_property
    def difference(self) -> float | None:
        """Mean of the generated less mean of the real scores; None if there are no finite ones."""
        real, generated = _finite(self.real), _finite(self.generated)
        return finite(generated.mean() - real.mean()) if len(real) and len(generated) else None

    @cached_property
    def difference_se(self) -> float | None:
        """The standard error of `difference`; None for one datum."""
        errors = [
            standard_error(scores) if len(scores) else None
            for scores in (_finite(self.real), _finite(self.generated))
        ]
        known = [error for error in errors if error is not None]
        return math.hypot(*known) if len(known) == len(errors) else None

    @property
    def standard_errors(self) -> float | None:
        """`difference` in its standard errors, about N(0, 1) under a true model; None if neither varies.

        It grows with the number of data: it says whether there is a difference, not how large it is.
        """
        if self.difference is None or not self.difference_se:
            return None
        return self.difference / self.difference_se

    @property
    def deviations(self) -> float | None:
        """`difference` in standard deviations of the real score: an effect size; None if constant."""
        spread = float(_finite(self.real).std()) if self.difference is not None else 0.0
        return self.difference / spread if self.difference is not None and spread > 0 else None

    @property
    def non_finite(self) -> tuple[int, int]:
        """How many scores of real and of generated data are infinite or not numbers."""
        return int((~np.isfinite(self.real)).sum()), int((~np.isfinite(self.generated)).sum())

    def direction(self) -> str:
        """The two means and, where they vary, the two standard deviations."""
        real, generated = _finite(self.real), _finite(self.generated)
        if not len(real) or not len(generated):
            return "no finite value in one of the two"
        means = f"a mean of {generated.mean():.4g} against {real.mean():.4g} of real data"
        spreads = f"a standard deviation of {generated.std():.3g} against {real.std():.3g}"
        return f"{means}, and {spreads}"

    def summary(self) -> dict[str, Any]:
        """Means, their difference with its standard error, effect sizes, p-value, counts and reading."""
        real, generated = _finite(self.real), _finite(self.generated)
        bad_real, bad_generated = self.non_finite
        return {
            "label": self.label,
            "n_real": len(self.real),
            "n_generated": len(self.generated),
            "non_finite_real": bad_real,
            "non_finite_generated": bad_generated,
            "real_mean": finite(real.mean()) if len(real) else None,
            "real_mean_se": finite(standard_error(real)) if len(real) else None,
            "generated_mean": finite(generated.mean()) if len(generated) else None,
            "generated_mean_se": finite(standard_error(generated)) if len(generated) else None,
            "difference": self.difference,
            "difference_se": finite(self.difference_se),
            "standard_errors": finite(self.standard_errors),
            "deviations": finite(self.deviations),
            "ks_distance": finite(self.ks_distance),
            "p_value": finite(self.p_value),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How far generated data are off in this score, and whether that could be chance."""
        chance = (
            "more than chance explains"
            if self.p_value < 0.05
            else "no more than chance explains with so many data"
        )
        text = (
            f"{self.title}: the distance of the two distributions is {distance_text(self.ks_distance)}; "
            f"generated data have {self.direction()}; {chance} (p {p_text(self.p_value)})."
        )
        bad_real, bad_generated = self.non_finite
        if bad_real or bad_generated:
            text += (
                f" Scores that are not finite, {bad_real} of real and {bad_generated} of generated "
                "data, count in the distance by their rank (no number lowest) and in no mean."
            )
        return text


def compare_scores(
    name: str,
    real: Real[np.ndarray, " n"],
    generated: Real[np.ndarray, " m"],
    *,
    label: str = "",
    seed: int = 0,
) -> Comparison:
    """sup_t |F_real(t) - F_generated(t)|: is a score distributed alike over real and generated data?

    Any score will do that is computed alike for both: a statistic, an ELBO, log p(x), an error. It
    may depend on the model and its training data, not on the data that are compared. Ties are broken
    at random, or counts would give p-values too large.

    Args:
        name: A short key.
        real: The score of each real datum; not finite ones keep a rank, NaN below all.
        generated: The score of each generated datum.
        label: What it is, with its unit, for an axis; the name, if not given.
        seed: The seed of the ties.

    Raises:
        ValueError: If either sample is empty.
    """
    from scipy.stats import ks_2samp

    if not len(real) or not len(generated):
        raise ValueError(
            f"{name} must have scores of both, got {len(real)} of real and {len(generated)} of "
            "generated data."
        )
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    # NaN compares with nothing; as the lowest it neither vanishes nor moves the other ranks.
    ordered = np.concatenate([real, generated])
    missing = np.isnan(ordered)
    _, ranks = np.unique(ordered, return_inverse=True)
    ranks = np.where(missing, 0, ranks + 1)
    shares = [
        np.bincount(part, minlength=ranks.max() + 1) / len(part)
        for part in (ranks[: len(real)], ranks[len(real) :])
    ]
    distance = np.abs(np.cumsum(shares[0] - shares[1])).max()
    p_value = 1.0
    if ranks.min() < ranks.max():
        untied = np.empty(len(ranks))
        chance = np.random.default_rng(seed).random(len(ranks))
        untied[np.lexsort((chance, ranks))] = np.arange(len(ranks))
        method = "exact" if len(real) * len(generated) <= _EXACT_PAIRS else "asymp"
        first, second = untied[: len(real)], untied[len(real) :]
        _, p_value = np.asarray(ks_2samp(first, second, method=method))
    return Comparison(name, label or name, real, generated, float(distance), float(p_value))


def _finite(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " _"]:
    return values[np.isfinite(values)]
