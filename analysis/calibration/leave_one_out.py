"""Each element forecast from all others of its datum: p(x_i | x_-i), by importance sampling with the guide.

A forecast made with the element itself in sight is no forecast: z ~ q(z | x) has seen x_i. This one
has not, and the others are all it may use. So it can be held against x_i, which is what
`analysis.calibration.calibration` and `analysis.predictive.element_pit` do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from analysis.calibration.distribution_functions import distribution_function
from analysis.predictive.model_samples import (
    UndefinedCheckError,
    as_floats,
    elements,
    guide_blocks,
    narrowed,
    to_array,
)
from pyro_vae.data.nouns import nouns
from pyro_vae.evidence.numbers import finite
from pyro_vae.inference_data.pointwise import named
from pyro_vae.log_densities import LogDensities
from pyro_vae.rng import derive_seed
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    effective_sample_size,
    khat_threshold,
    pareto_khat,
    rounding_error,
    share_above_threshold,
    standard_error,
    withheld,
)

# Asked of the guide: k-hats above the threshold for at most this share of data, and at least so many
# effective draws for the median datum. Otherwise the forecasts may err with the guide.
MOST_KHATS_ABOVE = 0.1
FEWEST_EFFECTIVE = 20


@dataclass(frozen=True)
class LeaveOneOut:
    """What the other elements of each datum say of each element.

    Args:
        probability: p(x_i = 1 | x_-i); None where the data are not binary.
        outcome: The data, x.
        pit: P(x_i' < x_i | x_-i) + u P(x_i' = x_i | x_-i), u uniform: uniform itself, if the model is
            true and the guide good enough.
        log_score: log p(x_i | x_-i), in nats.
        ess: The effective sample size of each datum's weights p(x, z) / q(z | x).
        khat: Their tail shape; None for fewer draws than it can be fitted to.
        num_samples: The number S of draws for each datum.
        withheld: Why rounding errors allow no verdict on the weights; None where they are small.
    """

    probability: Float[np.ndarray, " n *event"] | None
    outcome: Real[np.ndarray, " n *event"]
    pit: Float[np.ndarray, " n *event"]
    log_score: Float[np.ndarray, " n *event"]
    ess: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int
    withheld: str | None = None

    @property
    def trusted(self) -> bool:
        """Whether the guide is good enough for its weights to be believed."""
        if self.withheld:
            return False
        above = share_above_threshold(self.khat, self.num_samples)
        enough = np.median(self.ess) >= FEWEST_EFFECTIVE
        return bool(above is not None and above <= MOST_KHATS_ABOVE and enough)

    def summary(self) -> dict[str, Any]:
        """Means per datum in nats, shares and counts."""
        totals = self.log_score.reshape(len(self.log_score), -1).sum(1)
        return {
            "n": len(self.outcome),
            "num_samples": self.num_samples,
            "log_score": finite(totals.mean()),
            "log_score_se": finite(standard_error(totals)),
            "ess_median": finite(np.median(self.ess)),
            "khat_share_above": None
            if self.withheld
            else share_above_threshold(self.khat, self.num_samples),
            "trusted": int(self.trusted),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How far the forecasts are the model's, and how far the guide's."""
        if self.withheld:
            return self.withheld
        seen = f"the median effective sample size is {np.median(self.ess):.0f} of {self.num_samples} draws"
        above = share_above_threshold(self.khat, self.num_samples)
        if above is not None:
            limit = khat_threshold(self.num_samples)
            seen += f" and k-hat is above {limit:.2f} for {above:.0%} of {nouns()}"
        if self.trusted:
            return f"The forecasts p(x_i | x_-i) are the model's: {seen}."
        return (
            f"The forecasts p(x_i | x_-i) may err with the guide: {seen} (at least "
            f"{FEWEST_EFFECTIVE} and at most {MOST_KHATS_ABOVE:.0%} are fine). Data that the model "
            "itself made, forecast in the same way, show how much of a failure is the guide's."
        )


def leave_one_element_out(
    vae: Any, x: Real[Tensor, " n *event"], *, num_samples: int = 200, seed: int = 0
) -> LeaveOneOut:
    """p(x_i | x_-i) = sum_s w_s / sum_s (w_s / p(x_i | z_s)), w_s = p(x, z_s) / q(z_s | x), z_s ~ q(z | x).

    The weights w_s / p(x_i | z_s) turn draws from the guide into draws from p(z | x_-i). Under them the
    mean of p(x_i | z) is the quotient above, and that of the distribution function of p(x_i | z) at
    x_i is the PIT. The weights are self-normalised: the estimate is biased by about 1 / ESS, and towards
    what the guide believes where its weights have heavy tails.

    Args:
        vae: A program whose p(x | z) is a product over elements.
        x: Data in the likelihood's support.
        num_samples: S.
        seed: The seed of the draws.

    Returns:
        Forecasts, PIT and log scores. Read `khat` and `ess` first, or `reading()`.

    Raises:
        UndefinedCheckError: If p(x | z) is no product over elements or is 0 for a draw, or a datum has no
            finite weight.
        ValueError: If there are no data, or `num_samples` is below 1.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari,
        Gelman & Gabry, 2017), https://arxiv.org/abs/1507.04544; from an approximate posterior:
        Bayesian leave-one-out cross-validation for large data (Magnusson et al., 2019),
        https://arxiv.org/abs/1904.10679
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    if len(x) == 0:
        raise ValueError("leave_one_element_out needs at least one datum, got none.")
    outcome = to_array(x)
    pit, log_score = np.empty(x.shape), np.empty(x.shape)
    probability: np.ndarray | None = None
    log_weights, rounding = np.empty((num_samples, len(x))), np.empty(len(x))
    # A stream apart, so that the draws are the same with a tie or without.
    generator = np.random.default_rng(derive_seed(seed, "leave-one-out ties"))
    for rows, terms in guide_blocks(vae, x, num_samples, seed=seed):
        distribution = elements(terms)
        block = terms.log_weight.double()
        if not block.logsumexp(0).isfinite().all():
            bad = ~block.logsumexp(0).isfinite()
            raise UndefinedCheckError(
                f"log p(x, z) - log q(z | x) is not finite for {_rows(bad, rows)}: look at its values."
            )
        if terms.log_likelihood.isneginf().any():
            # Its weight is 0, and without the element that rules it out the quotient of two zeros.
            bad = terms.log_likelihood.isneginf().any(0)
            raise UndefinedCheckError(
                f"p(x | z) is 0 for some draws of {_rows(bad, rows)}: use bounded parameters."
            )
        log_weights[:, rows] = to_array(block)
        rounding[rows] = _rounding(terms)
        block = block - block.logsumexp(0)
        block = block.reshape(*block.shape, *(1,) * (x.dim() - 1)).to(terms.log_weight.dtype)
        uniform = generator.random(pit[rows].shape)
        if isinstance(distribution, Bernoulli):
            log_odds = to_array(_log_odds_against(distribution, as_floats(x[rows]), block))
            log_score[rows] = -np.logaddexp(0, log_odds)
            ones = outcome[rows] > 0
            forecast = 1 / (1 + np.exp(np.clip(np.where(ones, log_odds, -log_odds), -700, 700)))
            probability = np.empty(x.shape) if probability is None else probability
            probability[rows] = forecast
            pit[rows] = np.where(ones, 1 - forecast + uniform * forecast, uniform * (1 - forecast))
        else:
            score, below, equal = _score_and_rank(distribution, as_floats(x[rows]), block)
            log_score[rows] = to_array(score)
            pit[rows] = to_array(below) + uniform * to_array(equal)
    return LeaveOneOut(
        probability=probability,
        outcome=narrowed(outcome),
        pit=np.clip(pit, 0, 1),
        log_score=log_score,
        ess=effective_sample_size(log_weights),
        khat=pareto_khat(log_weights) if num_samples >= MINIMUM_SAMPLES else None,
        num_samples=num_samples,
        withheld=withheld(rounding, log_weights.max(0)),
    )


def same_image_probability(
    vae: Any, x: Real[Tensor, " n *event"], *, num_samples: int = 200, seed: int = 0
) -> Float[np.ndarray, " n *event"]:
    """1/S sum_s p(x_i = 1 | z_s), z_s ~ q(z | x): the reconstruction, for which x_i itself was seen.

    It describes; it tests nothing. Held against x it looks too unsure even for a true model.

    Args:
        vae: A program with binary data.
        x: The data.
        num_samples: S.
        seed: The seed of the draws.

    Raises:
        UndefinedCheckError: If the data are not binary.
    """
    mean = np.empty(x.shape)
    for rows, terms in guide_blocks(vae, x, num_samples, seed=seed):
        distribution = elements(terms)
        if not isinstance(distribution, Bernoulli):
            raise UndefinedCheckError(
                f"p(x_i | z) gives binary data no probability: it is a {type(distribution).__name__}."
            )
        mean[rows] = to_array(distribution.probs.mean(0))
    return mean


def _rounding(terms: LogDensities) -> Float[np.ndarray, " b"]:
    """About the rounding error of each datum's largest log weight."""
    best = terms.log_weight.argmax(0, keepdim=True)
    sizes = (terms.log_likelihood, terms.log_prior, terms.log_posterior)
    values = [to_array(size.gather(0, best)[0]) for size in sizes]
    return rounding_error(*values, eps=torch.finfo(terms.log_weight.dtype).eps)


def _rows(bad: Tensor, block: slice) -> str:
    """Which data of a block of rows are meant."""
    return named((block.start + bad.nonzero().flatten()).tolist())


def _log_odds_against(
    distribution: Bernoulli,
    x: Float[Tensor, " b *event"],
    log_weights: Float[Tensor, " s b *ones"],
) -> Float[Tensor, " b *event"]:
    """log of (1 - p) / p, p = p(x_i | x_-i): the weighted mean over draws of the odds against x_i.

    With 1 / p(x_i | z) = 1 + exp(-a), a the logit of x_i, the quotient of sums is 1 / (1 + E_w[exp(-a)]).
    """
    against = distribution.logits * (1 - 2 * x)
    against += log_weights
    largest = against.amax(0)
    # In place: the block is large, and is not needed again.
    total = against.sub_(largest).exp_().sum(0)
    return total.double().log_() + largest


def _score_and_rank(
    distribution: Distribution,
    x: Float[Tensor, " b *event"],
    log_weights: Float[Tensor, " s b *ones"],
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x_i | x_-i), and of x_i' ~ p(x_i | x_-i) the probabilities to be below x_i and to equal it."""
    # p(x_i | z_s) is already part of w_s, so that it is divided out.
    log_prob = distribution.log_prob(x)
    log_ratios = log_weights - log_prob
    largest = log_ratios.amax(0)
    weights = log_ratios.sub_(largest).exp_()
    total = weights.sum(0)
    score = -(total.double().log() + largest)
    weights /= total
    cumulative = distribution_function(distribution, x, log_prob)
    if cumulative is not None:
        below, equal = cumulative
        return score, (weights * below).sum(0), (weights * equal).sum(0)
    drawn = distribution.sample()
    below = (weights * (drawn < x)).sum(0)
    equal = (weights * (drawn == x)).sum(0)
    # The datum counts as one draw more, as in (rank + u) / (S + 1): of several, it is as good as any.
    own = weights.square_().sum(0)
    return score, below / (1 + own), (equal + own) / (1 + own)
