"""Is the guide less sure of damaged data, and by as much as its error grows?

Let x be damaged to x~, in a way that the model knows of. A code z that made x then follows p(z | x~), whose
spread is what can be known of it. A guide that is honest about x~ is off by as much as its scale says:

    E[(z - m(x~))^2] = E[v(x~)],    m and v the mean and the variance of q(z | x~),

whatever the strength. A larger scale alone is no merit: it must grow as the error does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from analysis.commands import GUIDE
from analysis.comparison.p_values import holm
from analysis.representation.corrupted_data import (
    STRENGTHS,
    AnyDamage,
    check_strengths,
    chosen_damages,
    damaged,
)
from analysis.representation.corruptions import DAMAGES
from analysis.representation.guide_moments import guide_moments
from analysis.verdicts import SIGNIFICANT, Verdict, scale_warns
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import ACTIVE_VARIANCE, unit_activity

# A scale that grew by less is said not to grow, and one that fell by as much to shrink.
LEAST_GROWTH = 1.05
# Supports whose coordinates are not separate quantities: their errors are added up as they are.
_JOINT = ("sphere", "simplex", "one_hot")


@dataclass(frozen=True)
class HonestUncertainty:
    """Squared errors of the guide's mean, and the variances that the guide claims, for n data.

    Both are means over coordinates, each in units of the mean variance that the guide claims of clean
    data. Strengths begin with 0, the clean data, the same for all damages.

    Args:
        damages: The names of the damages.
        strengths: Rising from 0.
        error: (z - m(x~))^2, for given z; its mean over z ~ q(z | x) of the clean datum otherwise.
        variance: v(x~).
        known: Whether z was given. Otherwise error and variance are the same at strength 0.
        units: The number of coordinates that were looked at.
    """

    damages: tuple[str, ...]
    strengths: tuple[float, ...]
    error: Float[np.ndarray, "damages strengths n"]
    variance: Float[np.ndarray, "damages strengths n"]
    known: bool
    units: int

    @property
    def standardised_error(self) -> Float[np.ndarray, "damages strengths"]:
        """sqrt(E[error] / E[variance]): 1 is honest, 3 is off by thrice what the scale says."""
        return np.sqrt(self.error.mean(-1) / self.variance.mean(-1))

    @property
    def standard_error(self) -> Float[np.ndarray, "damages strengths"]:
        """Of `standardised_error`, from the choice of data, by the delta method."""
        ratio = self.standardised_error
        rest = self.error - ratio[..., None] ** 2 * self.variance
        deviation = rest.std(-1, ddof=1) / math.sqrt(rest.shape[-1]) / self.variance.mean(-1)
        return deviation / (2 * ratio)

    @property
    def scale_growth(self) -> Float[np.ndarray, "damages strengths"]:
        """The root of the mean variance over that of clean data: how much less sure the guide is."""
        return np.sqrt(self.variance.mean(-1) / self.variance[:, :1].mean(-1))

    @property
    def error_growth(self) -> Float[np.ndarray, "damages strengths"]:
        """The root of the mean squared error over that of clean data: what an honest scale grows by."""
        return np.sqrt(self.error.mean(-1) / self.error[:, :1].mean(-1))

    @property
    def p_values(self) -> Float[np.ndarray, "damages strengths"]:
        """Of E[error] = E[variance], by Student's test of the differences, after Holm for all at once.

        NaN for clean data without known codes, which cannot differ.
        """
        from scipy.stats import t

        differences = self.error - self.variance
        n = differences.shape[-1]
        # Clean data are the same for all damages, and tested once.
        cells = [(0, 0)] if self.known else []
        cells += [
            (row, s) for row in range(len(self.damages)) for s in range(1, len(self.strengths))
        ]
        rows, columns = np.array(cells).T
        tested = differences[rows, columns]
        spread = np.maximum(tested.std(-1, ddof=1), np.finfo(float).tiny)
        found = holm(2 * t.sf(np.abs(tested.mean(-1)) / spread * math.sqrt(n), n - 1))
        p_values = np.full(differences.shape[:2], np.nan)
        p_values[rows, columns] = found
        p_values[:, 0] = p_values[0, 0]
        return p_values

    @property
    def honest(self) -> bool:
        """Whether no damage and strength has error and scale out of step; a true one is, 95 % of the time."""
        return not (self.p_values < SIGNIFICANT).any()

    @property
    def rank_correlations(self) -> list[float | None]:
        """For each damage, Spearman's correlation of scale and error over data and strengths.

        Above 0 the guide is less sure where it is more wrong. None where the scale is constant.
        """
        from scipy.stats import spearmanr

        found = []
        for error, variance in zip(self.error, self.variance, strict=True):
            claimed = variance.ravel()
            constant = np.ptp(claimed) <= 1e-6 * claimed.mean() or np.ptp(error) == 0
            result: Any = None if constant else spearmanr(claimed, error.ravel())
            found.append(None if result is None else float(result.statistic))
        return found

    def summary(self) -> dict[str, Any]:
        """By damage and strength: growth of scale and error, the standardised error and its p-value."""
        columns = {
            "scale_growth": self.scale_growth,
            "error_growth": self.error_growth,
            "standardised_error": self.standardised_error,
            "standard_error": self.standard_error,
            "p_value": self.p_values,
        }
        return {
            "n": self.error.shape[-1],
            "units": self.units,
            "known_codes": self.known,
            "strengths": list(self.strengths),
            "honest": self.honest,
            "damages": {
                damage: {
                    **{
                        name: [finite(value) for value in values[row]]
                        for name, values in columns.items()
                    },
                    "rank_correlation": self.rank_correlations[row],
                }
                for row, damage in enumerate(self.damages)
            },
            "verdicts": [self.verdict().summary()],
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the scale grows as the error does, and where it fails to."""
        off, n, verdict = self.standardised_error, self.error.shape[-1], self.verdict()
        if verdict.answer == "yes":
            return f"{verdict} The scale grows up to {self.scale_growth.max():.2f}-fold."
        p_values = self.p_values
        wrong = np.where(p_values < SIGNIFICANT, np.abs(np.log(off)), -1.0)
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        scale, error = (grown[row, column] for grown in (self.scale_growth, self.error_growth))
        if column == 0:
            return (
                f"{verdict} It is furthest off for clean data. `{GUIDE}` judges the guide there."
            )
        where = f"under {self.damages[row]} at strength {self.strengths[column]:g}"
        found = (
            f"It is furthest off {where}, {off[row, column]:.2f} times of {n} data: from clean data the error "
            f"grew {error:.2f}-fold"
        )
        if off[row, column] < 1:
            return f"{verdict} {found}, the scale {scale:.2f}-fold: the guide is on the safe side, less wrong than its scale says."
        grew = f"while the scale does not grow, {scale:.2f}-fold"
        if scale >= LEAST_GROWTH:
            grew = f"while the scale grows, but too little, {scale:.2f}-fold"
        elif scale <= 1 / LEAST_GROWTH:
            grew = f"while the scale shrinks, {scale:.2f}-fold: the guide takes the damage for evidence"
        return f"{verdict} {found}, {grew}."

    def verdict(self) -> Verdict:
        """Whether the guide's scale grows with its error under damage."""
        off, p_values = self.standardised_error, self.p_values
        first = 0 if self.known else 1
        return scale_warns(
            float(off[:, first:].min()),
            float(off[:, first:].max()),
            float(np.nanmin(p_values)),
            self.error.shape[-1],
        )


def honest_uncertainty(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    z: Float[np.ndarray, "n latent"] | None = None,
    damages: Mapping[str, AnyDamage] | Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> HonestUncertainty:
    """E[(z - m(x~))^2] against E[v(x~)] by damage and strength: whether q's scale grows as its error does.

    Without given codes, z ~ q(z | x) of the clean datum stands for what made it. If q is exact there,
    that is a draw of z given all that is known, and E[(z - m(x~))^2 | x] = (m(x) - m(x~))^2 + v(x) has no
    noise of draws. Clean data are then in step by construction: give codes to judge them, too.

    Coordinates that carry nothing of the data (the variance of their means is below 0.01) are left out:
    there the guide is the prior, which is always in step. Codes on the sphere, on the simplex and
    one-hot ones are taken as a whole.

    Args:
        vae: A program with one latent site.
        x: Clean data in the likelihood's support, on the program's device.
        z: The codes that made them, where x was drawn from the model (`analysis.predictive.model_samples.new_data`).
        damages: What to do to them, or the names of these, or any functions called as these are. None
            for those that take information away. A shift and a rotation do not: with the image its code
            moves, and a guide that is sure of it need not be wrong.
        strengths: From 0 to 1, rising; 0 is added where it is missing.
        seed: The seed of damages.

    Raises:
        UndefinedCheckError: If the guide has no scale, such as a point, or there are several latent sites.
        ValueError: If there are fewer than two data, z has another shape than the guide's means, or
            damages or strengths are not as above.

    References:
        What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision? (Kendall & Gal, 2017),
        https://arxiv.org/abs/1703.04977
        Can You Trust Your Model's Uncertainty? Evaluating Predictive Uncertainty Under Dataset Shift
        (Ovadia et al., 2019), https://arxiv.org/abs/1906.02530
    """
    if len(x) < 2:
        raise ValueError(f"honest_uncertainty needs at least two data, got {len(x)}.")
    strengths, chosen = check_strengths(strengths), chosen_damages(vae, x, damages)
    if damages is None:
        chosen = {name: damage for name, damage in chosen.items() if DAMAGES[name].hides}
    mean, variance = guide_moments(vae, x, seed=seed)
    if z is not None and z.shape != mean.shape:
        raise ValueError(f"z must be of shape {mean.shape}, got {z.shape}.")
    weights = _weights(vae, mean, variance)
    rows = []
    for damage in chosen.values():
        for strength in strengths:
            m, v = mean, variance
            if strength > 0:
                m, v = guide_moments(vae, damaged(vae, damage, x, strength, seed), seed=seed)
            error = (mean - m) ** 2 + variance if z is None else (z - m) ** 2
            rows.append((error @ weights, v @ weights))
    errors, variances = (
        np.reshape(part, (len(chosen), len(strengths), len(x))) for part in zip(*rows, strict=True)
    )
    return HonestUncertainty(
        tuple(chosen), strengths, errors, variances, z is not None, int((weights > 0).sum())
    )


def _weights(vae: Any, mean: np.ndarray, variance: np.ndarray) -> Float[np.ndarray, " latent"]:
    """What makes of squares by coordinate their mean in units of the clean variance."""
    latent = mean.shape[1]
    if getattr(getattr(vae, "posterior", None), "support", None) in _JOINT:
        return np.full(latent, 1 / max(variance.mean(0).sum(), np.finfo(float).tiny))
    active = unit_activity(mean) > ACTIVE_VARIANCE
    if not active.any():
        active[:] = True
    return active / np.maximum(variance.mean(0), np.finfo(float).tiny) / active.sum()
