"""log p(x) by importance weighting, with the terms of the ELBO from the same draws."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from pyro_vae.compilation import CompileMode
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.importance_terms import Draws, ImportanceTerms, call_size, map_draws
from pyro_vae.json_values import to_jsonable
from pyro_vae.notebooks import progress_bar
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    PerExample,
    effective_sample_size,
    khat_threshold,
    log_mean_exp,
    pareto_khat,
    share_above_threshold,
    standard_error,
    withheld,
)

# Thresholds of `trust`: the share of examples with a k-hat above its threshold, the effective
# draws of the median example (log p(x) is then low by about 1 / (2 ESS), 0.01 nats), and the gain
# in nats from the last doubling of the draws.
_MOST_KHATS_ABOVE = 0.1
_FEWEST_EFFECTIVE = 50
_LARGEST_GAIN = 0.05


@dataclass(frozen=True)
class ImportanceWeighting(PerExample):
    """Estimates from K draws of the guide for each example. Log densities are in nats.

    `curve` shows how the IWAE-k bounds L_k = E[log 1/k sum_{j <= k} w_j], w = p(x, z) / q(z | x),
    grow from the ELBO, k = 1, to `log_evidence`, k = K. For each k the K draws are cut into
    floor(K / k) blocks, and a point is the mean over blocks of the log mean weight: an unbiased
    estimate of L_k. All points share the draws. In expectation they never decrease with k, and in
    a sample hardly ever.

    Args:
        log_evidence: log 1/K sum_k p(x, z_k) / q(z_k | x), the IWAE-K bound: at most log p(x) in
            expectation, and tighter with larger K.
        reconstruction: The mean of log p(x | z) over the draws.
        kl: KL(q(z | x) || p(z)).
        ess: The effective number of draws, from 1 to K.
        khat: The tail shape of the weights; None if there are too few draws to fit it. Above
            `khat_threshold(num_samples)`, the example's `log_evidence` is not to be trusted.
        num_samples: The number K of draws.
        kl_estimate: "analytic" if every latent site's KL has a closed form, otherwise "Monte
            Carlo", the mean of log q(z | x) - log p(z) over the draws.
        curve_samples: The k of the curve's points, increasing: 1, 2, 5, 10, 20, 50, ..., K / 2 and
            K.
        curve: The IWAE-k bound of each example. At k = 1 it is the ELBO with its KL by Monte
            Carlo, from the same draws as `elbo`, which uses the closed form if there is one.
        rounding: The approximate rounding error of each example's largest log weight, as in
            `pyro_vae.statistics.rounding_error`; None if unknown.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """

    log_evidence: Float[np.ndarray, " n"]
    reconstruction: Float[np.ndarray, " n"]
    kl: Float[np.ndarray, " n"]
    ess: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int
    kl_estimate: Literal["analytic", "Monte Carlo"]
    curve_samples: Int[np.ndarray, " points"]
    curve: Float[np.ndarray, "points n"]
    rounding: Float[np.ndarray, " n"] | None = None

    _common_arrays: ClassVar = ("curve_samples",)

    def select(self, rows: Int[np.ndarray, " rows"]) -> "ImportanceWeighting":
        """The result for some of the examples."""
        per_example = ("log_evidence", "reconstruction", "kl", "ess", "khat", "rounding")
        arrays = {name: getattr(self, name) for name in per_example}
        known = {name: array[rows] for name, array in arrays.items() if array is not None}
        return replace(self, curve=self.curve[:, rows], **known)

    @property
    def elbo(self) -> Float[np.ndarray, " n"]:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)), in nats: at most log p(x) in expectation."""
        return self.reconstruction - self.kl

    @property
    def mean_log_evidence(self) -> float:
        """The mean of `log_evidence`, in nats per example."""
        return float(self.log_evidence.mean())

    @property
    def log_evidence_se(self) -> float | None:
        """The standard error of `mean_log_evidence` over the examples; None for one example.

        It does not include the bound's own gap, which `khat` and `ess` warn of.
        """
        return standard_error(self.log_evidence)

    @property
    def khat_share_above(self) -> float | None:
        """The share of examples whose k-hat is too high for their log p(x) to be trusted.

        None if there are too few draws for a k-hat, or the verdict is `withheld`.
        """
        return None if self.withheld else share_above_threshold(self.khat, self.num_samples)

    @property
    def withheld(self) -> str | None:
        """Why rounding errors allow no verdict on the weights; None if they are small."""
        return None if self.rounding is None else withheld(self.rounding, self.log_evidence)

    @property
    def last_doubling(self) -> Float[np.ndarray, " n"] | None:
        """The gain of each example's bound from K / 2 to K draws, in nats; None for one draw.

        If the weights have a variance, the bound's gap is proportional to 1 / K, so that it is
        about as large as this gain.
        """
        if self.num_samples == 1:
            return None
        # Not always the last point but one: of 150 draws, k = 100 lies between.
        half = self.curve_samples.tolist().index(self.num_samples // 2)
        with np.errstate(invalid="ignore"):  # Of two that are -inf.
            return self.curve[-1] - self.curve[half]

    def curve_means(self) -> Float[np.ndarray, " points"]:
        """The mean of each point of the curve, in nats per example."""
        return self.curve.mean(1)

    def curve_standard_errors(self) -> Float[np.ndarray, " points"] | None:
        """The standard errors of `curve_means` over the examples; None for one example.

        Points share examples and draws: their differences are more precise than each of them.
        """
        errors = [standard_error(point) for point in self.curve]
        return None if errors[0] is None else np.array(errors)

    def summary(self) -> dict[str, float | int | str | None]:
        """Means per example in nats, shares and counts; undefined values are None."""
        gain = self.last_doubling
        return to_jsonable(
            {
                "n": len(self.log_evidence),
                "num_samples": self.num_samples,
                "log_evidence": self.mean_log_evidence,
                "log_evidence_se": self.log_evidence_se,
                "elbo": self.elbo.mean(),
                "reconstruction": self.reconstruction.mean(),
                "kl": self.kl.mean(),
                "kl_estimate": self.kl_estimate,
                "ess_median": np.median(self.ess),
                "khat_share_above": self.khat_share_above,
                "last_doubling": None if gain is None else gain.mean(),
                "trust": self.trust(),
            }
        )

    def trust(self) -> str:
        """A verdict on `log_evidence`, a lower bound in expectation, in one sentence.

        There is none if log p(x) is not finite or the verdict is `withheld`. Otherwise it depends,
        in this order, on the share of examples with a k-hat above the threshold (at most 10 %),
        the gain from the last doubling of the draws (at most 0.05 nats), and the median effective
        sample size (at least 50). With high k-hats, the bound converges too slowly for more draws
        to help.
        """
        above, gain = self.khat_share_above, self.last_doubling
        ess = float(np.median(self.ess))
        if not np.isfinite(self.log_evidence).all():
            bad = (~np.isfinite(self.log_evidence)).mean()
            return f"Not to be trusted: log p(x) is not finite for {bad:.1%} of the data."
        if reason := self.withheld:
            return reason
        if above is None or gain is None:
            return (
                f"No verdict: {self.num_samples} draws are too few for a k-hat, which needs at "
                f"least {MINIMUM_SAMPLES}."
            )
        mean = float(gain.mean())
        numbers = (
            f"k-hat is above {khat_threshold(self.num_samples):.2f} for {above:.1%} of the data "
            f"(at most {_MOST_KHATS_ABOVE:.0%} is good), the last doubling of the draws gained "
            f"{mean:.3f} nats per {noun()} (at most {_LARGEST_GAIN} is good), and the median "
            f"effective sample size is {ess:.0f} of {self.num_samples} (at least "
            f"{_FEWEST_EFFECTIVE} is good)"
        )
        more = f"use more draws, or a guide refined for each {noun()}."
        if above > _MOST_KHATS_ABOVE:
            return (
                f"Not to be trusted, log p(x) is too low by an unknown amount: {numbers}; use "
                "annealed importance sampling rather than more draws."
            )
        if not mean <= _LARGEST_GAIN:
            return (
                f"A lower bound that has not converged, too low by {mean:.2f} nats per {noun()} "
                f"or more: {numbers}; {more}"
            )
        if ess < _FEWEST_EFFECTIVE:
            accuracy = max(mean, 0.5 / max(ess, 1.0))
            return (
                f"To be trusted to about {accuracy:.2f} nats per {noun()} at best: {numbers}; "
                f"{more}"
            )
        return f"To be trusted to about {max(mean, 0.01):.2f} nats per {noun()}: {numbers}."


def importance_weighting(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Real[Tensor, " n *event"],
    *,
    num_samples: int = 1000,
    max_plate_nesting: int = 1,
    max_elements: int = 2_000_000,
    compile: CompileMode = "auto",
    progress: bool = False,
) -> ImportanceWeighting:
    """Estimate log p(x) of each example with the guide as proposal, with diagnostics.

    Data and draws are processed in chunks, so that memory is bounded by `max_elements` and the K
    log weights of an example. Pyro validates the first chunk and, for speed, no other.

    Args:
        model: A Pyro model called with data, in a plate "data".
        guide: Its guide.
        x: Data in the likelihood's support; integers are converted to floats chunk by chunk.
        num_samples: The number K of draws for each example.
        max_plate_nesting: The number of plates nested in one another.
        max_elements: The number of draws x examples x elements held at once. At most 16,384 draws
            x examples are held, whatever their number of elements.
        compile: "on" or "off"; "auto" to compile if the work pays for it. It affects speed and
            rounding, and no draw.
        progress: Show a progress bar.

    Raises:
        ValueError: If there are no data, `num_samples` or `max_elements` is below 1, or `compile`
            is another word.
        NoDensityError: If the guide has all its mass at one point.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    for word, value in (("num_samples", num_samples), ("max_elements", max_elements)):
        if value < 1:
            raise ValueError(f"{word} must be at least 1, got {value}.")
    if len(x) == 0:
        raise ValueError("importance_weighting needs at least one example, got none.")

    num_particles, batch = call_size(x, num_samples, max_elements)
    terms = ImportanceTerms(
        model,
        guide,
        num_particles=num_particles,
        max_plate_nesting=max_plate_nesting,
        compile=compile,
        expected_calls=len(x) // batch * -(-num_samples // num_particles),
    )
    with progress_bar(progress, total=len(x), desc="importance weighting", unit=noun()) as bar:
        parts = map_draws(
            lambda draws: _result(draws, analytic=terms.analytic),
            terms,
            x,
            num_samples,
            batch,
            advance=bar.update,
        )
    return ImportanceWeighting.concatenate(parts)


def _result(draws: Draws, *, analytic: bool) -> ImportanceWeighting:
    """The estimates for each example."""
    enough = draws.num_samples >= MINIMUM_SAMPLES
    samples = _curve_samples(draws.num_samples)
    return ImportanceWeighting(
        log_evidence=log_mean_exp(draws.log_weights),
        reconstruction=draws.log_likelihood / draws.num_samples,
        kl=draws.kl / draws.num_samples,
        ess=effective_sample_size(draws.log_weights),
        khat=pareto_khat(draws.log_weights) if enough else None,
        num_samples=draws.num_samples,
        kl_estimate="analytic" if analytic else "Monte Carlo",
        curve_samples=samples,
        curve=_curve(draws.log_weights, samples),
        rounding=draws.rounding,
    )


def _curve_samples(num_samples: int) -> Int[np.ndarray, " points"]:
    """1, 2, 5, 10, ... up to K, with K / 2, for the last doubling, and K."""
    grid = (base * 10**power for power in range(len(str(num_samples))) for base in (1, 2, 5))
    points = {k for k in grid if k <= num_samples} | {max(1, num_samples // 2), num_samples}
    return np.array(sorted(points))


def _curve(
    log_weights: Float[np.ndarray, "num_samples batch"], samples: Int[np.ndarray, " points"]
) -> Float[np.ndarray, "points batch"]:
    """For each k, the mean over disjoint blocks of k draws of the log mean weight."""
    points = []
    # The log total weight of each block by k. The blocks of k consist of those of a divisor of k.
    totals = {1: torch.from_numpy(log_weights)}
    for k in samples.tolist():
        divisor = max(each for each in totals if k % each == 0)
        blocks, parts = len(log_weights) // k, k // divisor
        block = totals[divisor][: blocks * parts].reshape(blocks, parts, -1)
        totals[k] = block.logsumexp(1)
        # A weight of zero makes a block -inf, and its mean, too; only -inf beside +inf is a NaN.
        points.append((totals[k] - math.log(k)).mean(0).numpy())
    return np.stack(points)
