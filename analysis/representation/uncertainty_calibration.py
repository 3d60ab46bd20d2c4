"""Calibration of the guide's uncertainty under corruption: does its scale grow with its error?

Let x be corrupted to x~, in a way that the model represents. A code z that generated x then
follows p(z | x~), whose spread is what can be known of it. A guide that is calibrated for x~ has
errors of the size of its scale,

    E[(z - m(x~))^2] = E[v(x~)],    m and v the mean and the variance of q(z | x~),

at any strength. A larger scale alone is no merit: it must grow as the error does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from analysis.check import Check, Plot
from analysis.hypothesis_tests import holm
from analysis.plotting.style import GREY, LINE_COLOURS, shorten
from analysis.representation import robustness
from analysis.representation.corruptions import (
    CORRUPTIONS,
    STRENGTHS,
    AnyCorruption,
    corrupt,
    draw_curves,
    name_lines,
    select_corruptions,
    set_title,
    strength_panels,
)
from analysis.representation.latent_space import guide_moments
from analysis.result import Result
from analysis.subject import Subject
from analysis.verdicts import SIGNIFICANT, Verdict, judge_scale
from pyro_vae.evidence.evaluation import fixed_rows
from pyro_vae.statistics import ACTIVE_VARIANCE, unit_activity

if TYPE_CHECKING:
    import matplotlib.figure


# Supports whose coordinates are not separate quantities: their errors are summed.
_JOINT = ("sphere", "simplex", "one_hot")
# Ticks of a logarithmic axis of factors.
_FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


@dataclass(frozen=True)
class UncertaintyCalibration(Result):
    """Squared errors of the guide's mean, and the variances that the guide states, for n examples.

    Both are means over coordinates, each in units of the guide's mean variance for clean data.
    Strengths begin with 0, clean data, the same for all corruptions.

    Args:
        corruptions: The names of the corruptions.
        strengths: Increasing from 0.
        error: (z - m(x~))^2 for given z; otherwise its mean over z ~ q(z | x) of the clean
            example.
        variance: v(x~).
        known_codes: Whether z was given. Otherwise error and variance are the same at strength 0.
        units: The number of coordinates used.
    """

    FIELDS: ClassVar = ("n", "units", "known_codes", "strengths", "honest")

    corruptions: tuple[str, ...]
    strengths: tuple[float, ...]
    error: Float[np.ndarray, "corruptions strengths n"]
    variance: Float[np.ndarray, "corruptions strengths n"]
    known_codes: bool
    units: int

    n = property(lambda self: self.error.shape[-1])

    @property
    def standardised_error(self) -> Float[np.ndarray, "corruptions strengths"]:
        """sqrt(E[error] / E[variance]): 1 is calibrated, 3 is an error three times the scale."""
        return np.sqrt(self.error.mean(-1) / self.variance.mean(-1))

    @property
    def standard_error(self) -> Float[np.ndarray, "corruptions strengths"]:
        """The standard error of `standardised_error`, by the delta method."""
        ratio = self.standardised_error
        rest = self.error - ratio[..., None] ** 2 * self.variance
        deviation = rest.std(-1, ddof=1) / math.sqrt(self.n) / self.variance.mean(-1)
        return deviation / (2 * ratio)

    @property
    def scale_growth(self) -> Float[np.ndarray, "corruptions strengths"]:
        """The root of the mean variance relative to that of clean data."""
        return np.sqrt(self.variance.mean(-1) / self.variance[:, :1].mean(-1))

    @property
    def error_growth(self) -> Float[np.ndarray, "corruptions strengths"]:
        """The root of the mean squared error relative to that of clean data."""
        return np.sqrt(self.error.mean(-1) / self.error[:, :1].mean(-1))

    @property
    def p_values(self) -> Float[np.ndarray, "corruptions strengths"]:
        """Of E[error] = E[variance], by Student's test after Holm's correction.

        NaN for clean data without given codes, where both are equal.
        """
        from scipy.stats import t

        # Clean data are the same for all corruptions, and tested once.
        mask = np.ones(self.error.shape[:2], bool)
        mask[:, 0] = False
        mask[0, 0] = self.known_codes
        tested = (self.error - self.variance)[mask]
        deviation = np.maximum(tested.std(-1, ddof=1), np.finfo(float).tiny)
        statistic = np.abs(tested.mean(-1)) / deviation * math.sqrt(self.n)
        p_values = np.full(mask.shape, np.nan)
        p_values[mask] = holm(2 * t.sf(statistic, self.n - 1))
        p_values[:, 0] = p_values[0, 0]
        return p_values

    @property
    def honest(self) -> bool:
        """Whether error and scale agree everywhere; a calibrated guide's do in 95 % of cases."""
        return not (self.p_values < SIGNIFICANT).any()

    @property
    def rank_correlations(self) -> list[float | None]:
        """For each corruption, Spearman's correlation of scale and error over data and strengths.

        Above 0 the guide is less certain where its error is larger. None where the scale is
        constant.
        """
        from scipy.stats import spearmanr

        found = []
        for error, variance in zip(self.error, self.variance, strict=True):
            constant = np.ptp(variance) <= 1e-6 * variance.mean() or np.ptp(error) == 0
            result: Any = None if constant else spearmanr(variance.ravel(), error.ravel())
            found.append(None if result is None else float(result.statistic))
        return found

    def extra(self) -> dict[str, Any]:
        """By corruption and strength: growth, the standardised error and its p-value."""
        columns = {
            name: getattr(self, name)
            for name in ("scale_growth", "error_growth", "standardised_error", "standard_error")
        } | {"p_value": self.p_values}
        rows = zip(self.corruptions, self.rank_correlations, strict=True)
        return {
            "damages": {
                name: {key: values[row] for key, values in columns.items()}
                | {"rank_correlation": correlation}
                for row, (name, correlation) in enumerate(rows)
            }
        }

    def verdicts(self) -> tuple[Verdict]:
        """Whether the guide's scale grows with its error."""
        off = self.standardised_error[:, 0 if self.known_codes else 1 :]
        smallest = float(np.nanmin(self.p_values))
        return (judge_scale(float(off.min()), float(off.max()), smallest, self.n),)

    @property
    def worst(self) -> tuple[int, int]:
        """The row and column with the largest significant disagreement of error and scale."""
        significant = self.p_values < SIGNIFICANT
        off = np.where(significant, np.abs(np.log(self.standardised_error)), -1.0)
        row, column = np.unravel_index(int(off.argmax()), off.shape)
        return int(row), int(column)

    def reading(self) -> str:
        """The verdict, and where error and scale disagree most."""
        verdict = super().reading()
        if self.honest:
            return f"{verdict} The scale grows up to {self.scale_growth.max():.2f}-fold."
        return (
            f"{verdict} Worst for {self._setting(*self.worst)}: from clean data the error grows "
            f"{self.error_growth[self.worst]:.2f}-fold and the scale "
            f"{self.scale_growth[self.worst]:.2f}-fold."
        )

    def _setting(self, row: int, column: int) -> str:
        if column == 0:
            return "clean data"
        return f"{self.corruptions[row]} at strength {self.strengths[column]:g}"


def uncertainty_calibration(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    z: Float[np.ndarray, "n latent"] | None = None,
    corruptions: Mapping[str, AnyCorruption] | Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> UncertaintyCalibration:
    """E[(z - m(x~))^2] against E[v(x~)] by corruption and strength.

    Without given codes, z ~ q(z | x) of the clean example stands for the code that generated it.
    If q is exact there, this is a draw of z given all that is known, and E[(z - m(x~))^2 | x] =
    (m(x) - m(x~))^2 + v(x) needs no draws. Clean data then agree by construction: give codes to
    judge them, too.

    Coordinates that carry nothing of the data (the variance of their means is below 0.01) are left
    out: there the guide is the prior, which is always calibrated. Codes on the sphere, on the
    simplex and one-hot ones are treated as a whole.

    Args:
        vae: A program with one latent site.
        x: Clean data in the likelihood's support, on the program's device.
        z: The codes that generated them, where x was drawn from the model
            (`model_samples.new_data`).
        corruptions: Corruptions, or names of them, or functions with their signature. None for
            those that remove information. A shift and a rotation do not: the code moves with the
            image, and a guide that is certain of it need not be wrong.
        strengths: From 0 to 1, increasing; 0 is added if missing.
        seed: The seed of corruptions.

    Raises:
        UndefinedCheckError: If the guide has no scale, such as a point, or there are several
            latent sites.
        ValueError: If there are fewer than two data, z has another shape than the guide's means,
            or corruptions or strengths are invalid.

    References:
        What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision? (Kendall &
        Gal, 2017), https://arxiv.org/abs/1703.04977 Can You Trust Your Model's Uncertainty?
        Evaluating Predictive Uncertainty Under Dataset Shift (Ovadia et al., 2019),
        https://arxiv.org/abs/1906.02530
    """
    if len(x) < 2:
        raise ValueError(f"uncertainty_calibration needs at least two data, got {len(x)}.")
    chosen, levels = select_corruptions(vae, x, corruptions, strengths)
    if corruptions is None:
        chosen = {name: each for name, each in chosen.items() if CORRUPTIONS[name].hides}
    mean, variance = guide_moments(vae, x, seed=seed)
    if z is not None and z.shape != mean.shape:
        raise ValueError(f"z must be of shape {mean.shape}, got {z.shape}.")
    weights = _coordinate_weights(vae, mean, variance)
    rows = []
    for corruption in chosen.values():
        for strength in levels:
            m, v = mean, variance
            if strength > 0:
                m, v = guide_moments(vae, corrupt(vae, corruption, x, strength, seed), seed=seed)
            error = (mean - m) ** 2 + variance if z is None else (z - m) ** 2
            rows.append((error @ weights, v @ weights))
    shape = (len(chosen), len(levels), len(x))
    errors, variances = (np.reshape(part, shape) for part in zip(*rows, strict=True))
    units = int((weights > 0).sum())
    return UncertaintyCalibration(
        tuple(chosen), levels, errors, variances, known_codes=z is not None, units=units
    )


def _coordinate_weights(
    vae: Any, mean: np.ndarray, variance: np.ndarray
) -> Float[np.ndarray, " latent"]:
    """Weights that average squares over the active coordinates, in units of the clean variance."""
    tiny = np.finfo(float).tiny
    if getattr(getattr(vae, "posterior", None), "support", None) in _JOINT:
        return np.full(mean.shape[1], 1 / max(variance.mean(0).sum(), tiny))
    active = unit_activity(mean) > ACTIVE_VARIANCE
    if not active.any():
        active[:] = True
    return active / np.maximum(variance.mean(0), tiny) / active.sum()


def plot_uncertainty_calibration(
    results: Mapping[str, UncertaintyCalibration],
) -> "matplotlib.figure.Figure":
    """Draw the growth of the guide's scale and of its error; below, error over scale.

    A calibrated scale lies on the dashed line of its error, and error over scale at 1. Bands are
    two standard errors.

    Args:
        results: By the models' names, of the same corruptions and strengths.

    Raises:
        ValueError: If there are none, or their corruptions or strengths differ.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    labels = [
        "growth of the scale,\nfold (dashed: the error)",
        "error over scale\n(1: calibrated)",
    ]
    figure, axes = strength_panels(results, labels, height=2.5)
    lines = []
    for found, colour in zip(results.values(), LINE_COLOURS * len(results), strict=False):
        growth, x = found.scale_growth, found.strengths
        draw_curves(axes[0], x, growth, np.zeros_like(growth), colour)
        for ax, error in zip(axes[0], found.error_growth, strict=True):
            ax.plot(x, error, "--", lw=1.2, color=colour)
        draw_curves(axes[1], x, found.standardised_error, found.standard_error, colour)
        lines += axes[0, 0].plot([], [], "o-", ms=3, lw=1.4, color=colour)
    names = [shorten(name) for name in results]
    if len(results) == 1:
        lines += axes[0, 0].plot([], [], "--", lw=1.2, color=LINE_COLOURS[0])
        names = ["scale of q(z | x)", "error of its mean, which a calibrated scale follows"]
    for ax in axes.flat:
        ax.axhline(1.0, color=GREY, lw=1, zorder=1)
    for ax in axes[:, 0]:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ax.set_ylim(low := min(low, 0.8), high := max(high, 1.25))
        # Over many decades the round factors would overlap.
        wide = high / low > _FACTORS[-1] / _FACTORS[0]
        ax.yaxis.set_major_locator(LogLocator(numticks=6) if wide else FixedLocator(_FACTORS))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    name_lines(figure, lines, names)
    if len(results) > 1:
        wrong = sum(not found.honest for found in results.values())
        title = f"The scales of {wrong} of {len(results)} guides do not follow the error"
    else:
        (found,) = results.values()
        title = "The guide's scale grows with its error"
        if not found.honest:
            worst = found.standardised_error[found.worst]
            title = f"The error is {worst:.1f} times the scale for {found._setting(*found.worst)}"
    set_title(figure, title)
    return figure


def _diagnose(subject: Subject) -> UncertaintyCalibration:
    rows = fixed_rows(len(subject.x), robustness.CORRUPTED).to(subject.x.device)
    # The seed's name is that of the check.
    seed = subject.seed_of("honest uncertainty")
    return uncertainty_calibration(subject.vae, subject.x[rows], seed=seed)


UNCERTAINTY_CALIBRATION = Check(
    "honest_uncertainty",
    _diagnose,
    (
        Plot(
            "honest_uncertainty",
            "Does the guide grow less certain as data are corrupted?",
            lambda found, _: plot_uncertainty_calibration({"this run": found}),
        ),
    ),
    headline=lambda found: {
        "error over q's scale, worst (right 1)": f"{found.standardised_error.max():.2f}"
    },
)
