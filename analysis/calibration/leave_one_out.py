"""Forecast each element from all others of its example: p(x_i | x_-i), by importance sampling.

A forecast with z ~ q(z | x) has seen x_i. This one has not, and can be compared with x_i, which is
what `analysis.calibration.reliability` and `analysis.calibration.element_pit` do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from analysis.check import Check
from analysis.model_samples import (
    distribution_function,
    element_distribution,
    guide_blocks,
    narrow_dtype,
    to_array,
)
from analysis.plotting.style import arviz_figure
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.inference_data.terms import format_rows
from pyro_vae.log_densities import LogDensities
from pyro_vae.rng import as_floats, derive_seed
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

if TYPE_CHECKING:
    import matplotlib.figure

# Guide draws per example.
FORECAST_SAMPLES = 200
# A guide is trusted with k-hats above the threshold for at most this share of examples, and at
# least this many effective draws for the median example.
MOST_KHATS_ABOVE, FEWEST_EFFECTIVE = 0.1, 20
# Number of elements for the isotonic regression, and of draws for its band.
MOST_ELEMENTS, BAND_DRAWS = 20_000, 100


@dataclass(frozen=True)
class LeaveOneOut(Result):
    """The forecast of each element from the other elements of its example.

    Args:
        probability: p(x_i = 1 | x_-i); None where the data are not binary.
        outcome: The data, x.
        pit: P(x_i' < x_i | x_-i) + u P(x_i' = x_i | x_-i), u uniform: uniform itself, if the model
            is true and the guide good enough.
        log_score: log p(x_i | x_-i), in nats.
        ess: The effective sample size of each example's weights p(x, z) / q(z | x).
        khat: Their tail shape; None for too few draws.
        num_samples: The number S of draws per example.
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

    FIELDS = ("num_samples", "khat_share_above")

    @property
    def khat_share_above(self) -> float | None:
        """The share of k-hats above the threshold; None where unknown or withheld."""
        return None if self.withheld else share_above_threshold(self.khat, self.num_samples)

    @property
    def trusted(self) -> bool:
        """Whether the guide is good enough for its weights to be trusted."""
        above = self.khat_share_above
        enough = np.median(self.ess) >= FEWEST_EFFECTIVE
        return bool(above is not None and above <= MOST_KHATS_ABOVE and enough)

    @property
    def forecasts(self) -> tuple[Float[np.ndarray, " n *event"], Real[np.ndarray, " n *event"]]:
        """Probabilities and outcomes of binary elements."""
        assert self.probability is not None
        return self.probability, self.outcome

    def extra(self) -> Mapping[str, Any]:
        """Means per example in nats, and counts."""
        totals = self.log_score.reshape(len(self.log_score), -1).sum(1)
        return {
            "n": len(self.outcome),
            "log_score": totals.mean(),
            "log_score_se": standard_error(totals),
            "ess_median": np.median(self.ess),
            "trusted": int(self.trusted),
        }

    def reading(self) -> str:
        """Whether the weights of the guide can be trusted, and why."""
        if self.withheld:
            return self.withheld
        ess = f"{np.median(self.ess):.0f} of {self.num_samples} draws"
        found = f"the median effective sample size is {ess} (at least {FEWEST_EFFECTIVE} is fine)"
        if (above := self.khat_share_above) is not None:
            found += (
                f" and k-hat is above {khat_threshold(self.num_samples):.2f} for {above:.0%} of "
                f"{nouns()} (at most {MOST_KHATS_ABOVE:.0%} is fine)"
            )
        verdict = "are the model's" if self.trusted else "may err with the guide"
        return f"The forecasts p(x_i | x_-i) {verdict}: {found}."


def leave_one_element_out(
    vae: Any, x: Real[Tensor, " n *event"], *, num_samples: int = 200, seed: int = 0
) -> LeaveOneOut:
    """p(x_i | x_-i) = sum_s w_s / sum_s (w_s / p(x_i | z_s)), by importance sampling.

    Here z_s ~ q(z | x) and w_s = p(x, z_s) / q(z_s | x).

    The weights w_s / p(x_i | z_s) turn draws from the guide into draws from p(z | x_-i). Under
    them the mean of p(x_i | z) is the quotient above, and that of the distribution function of
    p(x_i | z) at x_i is the PIT. The weights are self-normalised: the estimate is biased by about
    1 / ESS, and towards the guide's beliefs where its weights have heavy tails.

    Args:
        vae: A program whose p(x | z) is a product over elements.
        x: Data in the likelihood's support.
        num_samples: S.
        seed: The seed of the draws.

    Returns:
        Forecasts, PIT and log scores. Read `khat` and `ess` first, or `reading()`.

    Raises:
        UndefinedCheckError: If p(x | z) is no product over elements or is 0 for a draw, or an
            example has no finite weight.
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
        raise ValueError("leave_one_element_out needs at least one example, got none.")
    outcome = to_array(x)
    pit, log_score = np.empty(x.shape), np.empty(x.shape)
    probability: np.ndarray | None = None
    log_weights, rounding = np.empty((num_samples, len(x))), np.empty(len(x))
    # A stream of its own, so that the draws do not depend on ties.
    generator = np.random.default_rng(derive_seed(seed, "leave-one-out ties"))
    for rows, terms in guide_blocks(vae, x, num_samples, seed=seed):
        distribution = element_distribution(terms)
        block = terms.log_weight.double()
        _check_weights(block, terms, rows)
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
        outcome=narrow_dtype(outcome),
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
    """1/S sum_s p(x_i = 1 | z_s), z_s ~ q(z | x): the reconstruction, which has seen x_i itself.

    It describes and tests nothing: compared with x it looks too unsure even for a true model.

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
        distribution = element_distribution(terms)
        if not isinstance(distribution, Bernoulli):
            raise UndefinedCheckError(
                "probabilities of ones need binary data, got a likelihood of "
                f"{type(distribution).__name__}."
            )
        mean[rows] = to_array(distribution.probs.mean(0))
    return mean


def plot_isotonic(
    probability: Float[np.ndarray, " n *event"],
    outcome: Real[np.ndarray, " n *event"],
    *,
    seed: int = 0,
) -> "matplotlib.figure.Figure":
    """P(x_i = 1 | p_i) by isotonic regression, without bins, by `arviz_plots.plot_ppc_pava`.

    ArviZ takes the forecast to be the mean of draws from the posterior predictive. Here the draws
    are outcomes drawn from each forecast, stratified so that their mean is the forecast up to 1 /
    100. Its band contains perfect forecasts in 95 % of cases if all elements are independent.
    Those of one example are not, and the band is too narrow; `calibration` has the test. Of more
    than 20,000 elements a random subset is used, with few elements of an example.

    Args:
        probability: The forecasts.
        outcome: The outcomes, 0 or 1.
        seed: The seed of the draws, and of the choice of elements.

    References:
        Stable reliability diagrams for probabilistic classifiers (Dimitriadis, Gneiting & Jordan,
        2021), https://doi.org/10.1073/pnas.2016191118
    """
    from arviz_base import from_dict
    from arviz_plots import plot_ppc_pava

    generator = np.random.default_rng(seed)
    p, x = probability.reshape(-1), outcome.reshape(-1).astype(np.float64)
    total = len(p)
    if total > MOST_ELEMENTS:
        chosen = generator.choice(total, MOST_ELEMENTS, replace=False)
        p, x = p[chosen], x[chosen]
    strata = np.broadcast_to(np.arange(BAND_DRAWS)[:, None], (BAND_DRAWS, len(p)))
    uniform = (generator.permuted(strata, axis=0) + generator.random(strata.shape)) / BAND_DRAWS
    draws = (uniform < p).astype(np.float64)
    figure = arviz_figure(
        plot_ppc_pava,
        from_dict({"posterior_predictive": {"x": draws[None]}, "observed_data": {"x": x}}),
        width=6.6,
        height=6.2,
        data_type="binary",
        ci_prob=0.95,
        visuals={
            "xlabel": {"text": "forecast p(x_i = 1 | all other elements)"},
            "ylabel": {"text": "observed share of ones, isotonic"},
            "title": False,
        },
    )
    (ax,) = figure.axes
    ax.set_aspect("equal")
    ax.set_title(
        f"{len(p):,} of {total:,} elements. Band: 95 % if forecasts come true and\n"
        f"elements are independent; those of one {noun()} are not, so it is too narrow",
        fontsize=10,
    )
    figure.suptitle("On the diagonal, forecasts come true")
    return figure


def forecasts(subject: Subject) -> LeaveOneOut:
    """Forecasts of each element of the held-out data from the others of its example."""
    with subject.step("forecasts of elements"):
        return _forecasts(subject, subject.x, "forecasts")


def generated_forecasts(subject: Subject) -> LeaveOneOut:
    """The same for generated data: errors there are the guide's, not the model's."""
    with subject.step("forecasts of new data"):
        x = torch.as_tensor(subject.generated).to(subject.x)
        return _forecasts(subject, x, "forecasts of new data")


def check_resolved(subject: Subject) -> None:
    """Check that rounding errors do not dominate the weights of the forecasts.

    Raises:
        UndefinedCheckError: If `LeaveOneOut.withheld` for real or for generated data.
    """
    for function in (forecasts, generated_forecasts):
        if reason := subject.compute(function).withheld:
            raise UndefinedCheckError(reason)


FORECASTS = Check("forecasts", forecasts, shared=("forecasts of elements",))


def _forecasts(subject: Subject, x: Tensor, purpose: str) -> LeaveOneOut:
    seed = subject.seed_of(purpose)
    return leave_one_element_out(subject.vae, x, num_samples=FORECAST_SAMPLES, seed=seed)


def _check_weights(log_weight: Tensor, terms: LogDensities, rows: slice) -> None:
    bad = ~log_weight.logsumexp(0).isfinite()
    reason = "log p(x, z) - log q(z | x) is not finite for {}: look at its values."
    if not bad.any():
        # Such a draw has weight 0, and without the element that rules it out 0 / 0.
        bad = terms.log_likelihood.isneginf().any(0)
        reason = "p(x | z) is 0 for some draws of {}: use bounded parameters."
    if bad.any():
        names = format_rows((rows.start + bad.nonzero().flatten()).tolist())
        raise UndefinedCheckError(reason.format(names))


def _rounding(terms: LogDensities) -> Float[np.ndarray, " b"]:
    best = terms.log_weight.argmax(0, keepdim=True)
    sizes = (terms.log_likelihood, terms.log_prior, terms.log_posterior)
    values = [to_array(size.gather(0, best)[0]) for size in sizes]
    return rounding_error(*values, eps=torch.finfo(terms.log_weight.dtype).eps)


def _log_odds_against(
    distribution: Bernoulli,
    x: Float[Tensor, " b *event"],
    log_weights: Float[Tensor, " s b *ones"],
) -> Float[Tensor, " b *event"]:
    """log of (1 - p) / p, p = p(x_i | x_-i): the weighted mean over draws of the odds against x_i.

    With 1 / p(x_i | z) = 1 + exp(-a), a the logit of x_i, the quotient of sums is 1 / (1 +
    E_w[exp(-a)]).
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
    """log p(x_i | x_-i), and P(x_i' < x_i) and P(x_i' = x_i) for x_i' ~ p(x_i | x_-i)."""
    # p(x_i | z_s) is part of w_s, and is divided out.
    log_prob = distribution.log_prob(x)
    log_ratios = log_weights - log_prob
    largest = log_ratios.amax(0)
    weights = log_ratios.sub_(largest).exp_()
    total = weights.sum(0)
    score = -(total.double().log() + largest)
    weights /= total
    if (known := distribution_function(distribution, x, log_prob)) is not None:
        below, equal = known
        return score, (weights * below).sum(0), (weights * equal).sum(0)
    drawn = distribution.sample()
    below = (weights * (drawn < x)).sum(0)
    equal = (weights * (drawn == x)).sum(0)
    # The example counts as one more draw, as in (rank + u) / (S + 1): it is as good as any other.
    own = weights.square_().sum(0)
    return score, below / (1 + own), (equal + own) / (1 + own)
