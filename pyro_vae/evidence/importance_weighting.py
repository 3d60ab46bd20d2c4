"""log p(x) by importance weighting, with the ELBO of the same draws taken apart."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyro
import torch
from jaxtyping import Float, Int, Real
from scipy.special import logsumexp
from torch import Tensor
from tqdm import tqdm

from pyro_vae.compilation.work import CompileMode
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import (
    finite,
    joined,
    share_above_threshold,
    standard_error,
)
from pyro_vae.evidence.terms import Terms
from pyro_vae.rng import as_floats
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    effective_sample_size,
    khat_threshold,
    log_mean_exp,
    pareto_khat,
    withheld,
)

# So many log weights are held at once, but all of a datum's: 2 MB. One datum's k-hat at a time would
# be all overhead, and more than fit into the cache would be slower.
_HELD = 250_000

# What `trust` asks for: k-hats above the threshold for at most this share of data, at least so many
# effective draws for the median datum (log p(x) is then low by about 1 / (2 ESS), 0.01 nats), and at
# most so many nats from the last doubling of the draws.
_MOST_KHATS_ABOVE = 0.1
_FEWEST_EFFECTIVE = 50
_LARGEST_GAIN = 0.05


@dataclass(frozen=True)
class ImportanceWeighting:
    """What K draws from the guide say of each datum. Log densities are in nats.

    `curve` is how the IWAE-k bounds L_k = E[log 1/k sum_{j <= k} w_j], w = p(x, z) / q(z | x), grow
    from the ELBO, k = 1, to `log_evidence`, k = K. For each k the K draws are cut into floor(K / k)
    blocks, and a point is the mean over blocks of the log mean weight: an unbiased estimate of L_k.
    All points share the draws. In expectation they never fall with k, as a sample nearly so.

    Args:
        log_evidence: log 1/K sum_k p(x, z_k) / q(z_k | x), the IWAE-K bound: at most log p(x) in
            expectation, and tighter with K.
        reconstruction: The mean of log p(x | z) over the draws.
        kl: KL(q(z | x) || p(z)).
        ess: The effective number of draws, from 1 to K.
        khat: The tail shape of the weights; None for fewer draws than it can be fitted to. Above
            `khat_threshold(num_samples)`, do not trust the datum's `log_evidence`.
        num_samples: The number K of draws.
        kl_estimate: "analytic" if every latent site's KL has a closed form, otherwise "Monte
            Carlo", the mean of log q(z | x) - log p(z) over the draws.
        curve_samples: The k of the curve's points, rising: 1, 2, 5, 10, 20, 50, ..., K / 2 and K.
        curve: The IWAE-k bound of each datum. At k = 1 it is the ELBO with its KL by Monte Carlo,
            from the same draws as `elbo`, which takes the closed form where there is one.
        rounding: About the rounding error of each datum's largest log weight, as in
            `pyro_vae.statistics.rounding_error`; None where it is not known.

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

    @classmethod
    def concatenate(cls, results: Sequence["ImportanceWeighting"]) -> "ImportanceWeighting":
        """One result of data that were evaluated in chunks, in their order.

        Raises:
            ValueError: If there are none, or they differ in the number of draws or in how the KL
                was estimated.
        """
        forms = {(result.num_samples, result.kl_estimate) for result in results}
        if len(forms) != 1:
            raise ValueError(
                "chunks must be at least one and have the same number of draws and the same "
                f"estimate of the KL, got {sorted(forms)}."
            )
        return cls(
            log_evidence=np.concatenate([result.log_evidence for result in results]),
            reconstruction=np.concatenate([result.reconstruction for result in results]),
            kl=np.concatenate([result.kl for result in results]),
            ess=np.concatenate([result.ess for result in results]),
            khat=joined(result.khat for result in results),
            num_samples=results[0].num_samples,
            kl_estimate=results[0].kl_estimate,
            curve_samples=results[0].curve_samples,
            curve=np.concatenate([result.curve for result in results], axis=1),
            rounding=joined(result.rounding for result in results),
        )

    def taken(self, rows: Int[np.ndarray, " rows"]) -> "ImportanceWeighting":
        """The same of some of the data."""
        per_datum = ("log_evidence", "reconstruction", "kl", "ess", "khat", "rounding")
        arrays = {name: getattr(self, name) for name in per_datum}
        known = {name: array[rows] for name, array in arrays.items() if array is not None}
        return replace(self, curve=self.curve[:, rows], **known)

    @property
    def elbo(self) -> Float[np.ndarray, " n"]:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)), in nats: at most log p(x) in expectation."""
        return self.reconstruction - self.kl

    @property
    def mean_log_evidence(self) -> float:
        """The mean over data of `log_evidence`, in nats per datum."""
        return float(self.log_evidence.mean())

    @property
    def log_evidence_se(self) -> float | None:
        """The standard error of `mean_log_evidence` from the choice of data; None for one datum.

        It does not hold the bound's own gap, which `khat` and `ess` warn of.
        """
        return standard_error(self.log_evidence)

    @property
    def khat_share_above(self) -> float | None:
        """The share of data with a k-hat above the threshold: whose log p(x) is not to be trusted.

        None where there were too few draws for a k-hat, or the weights are `withheld`.
        """
        if self.withheld:
            return None
        return share_above_threshold(self.khat, self.num_samples)

    @property
    def withheld(self) -> str | None:
        """Why rounding errors allow no verdict on the weights; None where they are small."""
        if self.rounding is None:
            return None
        return withheld(self.rounding, self.log_evidence)

    @property
    def last_doubling(self) -> Float[np.ndarray, " n"] | None:
        """What the bound of each datum gained from K / 2 draws to K, in nats; None for one draw.

        Where the weights have a variance the bound's gap is proportional to 1 / K, so that as much
        as the last doubling gained is still missing.
        """
        if self.num_samples == 1:
            return None
        # Not always the last point but one: of 150 draws, k = 100 lies between.
        half = self.curve_samples.tolist().index(self.num_samples // 2)
        with np.errstate(invalid="ignore"):  # Of two that are -inf.
            return self.curve[-1] - self.curve[half]

    def curve_means(self) -> Float[np.ndarray, " points"]:
        """The mean over data of each point of the curve, in nats per datum."""
        return self.curve.mean(1)

    def curve_standard_errors(self) -> Float[np.ndarray, " points"] | None:
        """The standard errors of `curve_means` from the choice of data; None for one datum.

        Points share data and draws: their differences are known better than each of them.
        """
        n = self.curve.shape[1]
        if n == 1:
            return None
        with np.errstate(invalid="ignore"):  # An infinite one has no deviation.
            return self.curve.std(1, ddof=1) / math.sqrt(n)

    def summary(self) -> dict[str, float | int | str | None]:
        """Means per datum in nats, shares and counts; what is not defined, or not finite, is None."""
        gain = self.last_doubling
        return {
            "n": len(self.log_evidence),
            "num_samples": self.num_samples,
            "log_evidence": finite(self.mean_log_evidence),
            "log_evidence_se": finite(self.log_evidence_se),
            "elbo": finite(self.elbo.mean()),
            "reconstruction": finite(self.reconstruction.mean()),
            "kl": finite(self.kl.mean()),
            "kl_estimate": self.kl_estimate,
            "ess_median": finite(np.median(self.ess)),
            "khat_share_above": self.khat_share_above,
            "last_doubling": None if gain is None else finite(gain.mean()),
            "trust": self.trust(),
        }

    def trust(self) -> str:
        """One sentence on how far to trust `log_evidence`, a lower bound in expectation.

        There is no verdict where log p(x) is not finite or `withheld`. Asked, in this order: that at most 10 % of data have a k-hat above the threshold; that the
        last doubling of the draws gained at most 0.05 nats per datum; that the median datum has at
        least 50 effective draws. Where k-hats are high, more draws converge too slowly to help.
        """
        above, gain = self.khat_share_above, self.last_doubling
        ess = float(np.median(self.ess))
        if not np.isfinite(self.log_evidence).all():
            bad = (~np.isfinite(self.log_evidence)).mean()
            return f"Not to be trusted: log p(x) is not finite for {bad:.1%} of data."
        if reason := self.withheld:
            return reason
        if above is None or gain is None:
            return (
                f"Not to be judged: {self.num_samples} draws are too few for a k-hat, which takes at "
                f"least {MINIMUM_SAMPLES}."
            )
        mean = float(gain.mean())
        seen = (
            f"k-hat is above {khat_threshold(self.num_samples):.2f} for {above:.1%} of data (at most "
            f"{_MOST_KHATS_ABOVE:.0%} is fine), the last doubling of the draws gained {mean:.3f} nats "
            f"per {noun()} (at most {_LARGEST_GAIN} is fine), and the median effective sample size is "
            f"{ess:.0f} of {self.num_samples} (at least {_FEWEST_EFFECTIVE} is fine)"
        )
        if above > _MOST_KHATS_ABOVE:
            return (
                f"Not to be trusted, log p(x) is too low by an unknown amount: {seen}; use annealed "
                "importance sampling rather than more draws."
            )
        if not mean <= _LARGEST_GAIN:
            return (
                f"A lower bound that still rises, too low by {mean:.2f} nats per {noun()} or more: "
                f"{seen}; take more draws, or a guide refined for each {noun()}."
            )
        if ess < _FEWEST_EFFECTIVE:
            return (
                f"To be trusted to about {max(mean, 0.5 / max(ess, 1.0)):.2f} nats per {noun()} and no "
                f"further: {seen}; take more draws, or a guide refined for each {noun()}."
            )
        return f"To be trusted to about {max(mean, 0.01):.2f} nats per {noun()}: {seen}."


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
    """Estimate log p(x) with the guide as proposal, and its diagnostics, datum by datum.

    Data and draws are taken in chunks, so that memory stays bounded whatever their number: by
    `max_elements`, and the K log weights of a datum. Pyro validates the first chunk and, for speed,
    no other: the same program runs in all of them.

    Args:
        model: A Pyro model called with data, in a plate "data".
        guide: Its guide.
        x: Data in the likelihood's support; integers are made floats chunk by chunk.
        num_samples: The number K of draws for each datum.
        max_plate_nesting: The number of plates nested in one another.
        max_elements: Draws x data x elements of a datum held at once.
        compile: "on" or "off"; "auto" to compile the chunks' computation where there is so much to
            compute that it pays. It changes speed and rounding, and no draw.
        progress: Show a bar.

    Raises:
        ValueError: If there are no data, `num_samples` or `max_elements` is below 1, or `compile` is
            none of these.
        NoDensityError: If the guide has all its mass at one point.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    for word, value in (("num_samples", num_samples), ("max_elements", max_elements)):
        if value < 1:
            raise ValueError(f"{word} must be at least 1, got {value}.")
    if len(x) == 0:
        raise ValueError("importance_weighting needs at least one datum, got none.")

    # All draws of a few data, rather than a few draws of all: each datum is encoded once. If they are
    # too many, in parts of one size; the last draws up to `parts` - 1 that are left out.
    pairs = max(1, max_elements // max(1, x[0].numel()))
    parts = -(-num_samples // pairs)
    batch = min(len(x), max(1, pairs // num_samples))
    terms = Terms(
        model,
        guide,
        num_particles=-(-num_samples // parts),
        max_plate_nesting=max_plate_nesting,
        compile=compile,
        expected_calls=len(x) // batch * parts,
    )
    held = batch * max(1, _HELD // (num_samples * batch))
    results: list[ImportanceWeighting] = []
    bar = tqdm(total=len(x), desc="importance weighting", unit=noun(), disable=not progress)
    with bar, torch.no_grad(), ExitStack() as speed:
        for first in range(0, len(x), held):
            draws = _Draws(num_samples, min(held, len(x) - first))
            for start in range(0, draws.data, batch):
                chunk = x[first + start : first + min(start + batch, draws.data)]
                data = as_floats(chunk)
                for part in range(parts):
                    draws.put(part * terms.num_particles, start, *terms(data))
                    if not results and not start and not part:  # The first chunk has passed.
                        speed.enter_context(pyro.validation_enabled(False))
                bar.update(len(chunk))
            results.append(draws.summary(analytic=terms.analytic))
    return ImportanceWeighting.concatenate(results)


class _Draws:
    """The terms of all draws for some data, on the CPU and in float64, as they come in.

    Args:
        num_samples: The number of draws for each datum.
        data: The number of data.
    """

    def __init__(self, num_samples: int, data: int) -> None:
        self.num_samples = num_samples
        self.data = data
        self.log_weights = np.empty((num_samples, data))
        self.log_likelihood = np.zeros(data)
        self.kl = np.zeros(data)
        # Of the largest log weight so far.
        self.largest = np.full(data, -np.inf)
        self.rounding = np.zeros(data)

    def put(
        self,
        draw: int,
        datum: int,
        log_weights: Float[Tensor, "particles batch"],
        log_likelihood: Float[Tensor, "particles batch"],
        kl: Float[Tensor, "particles batch"],
        rounding: Float[Tensor, "particles batch"],
    ) -> None:
        """Put a chunk's terms where they belong, but draws beyond the last."""
        count = min(len(log_weights), self.num_samples - draw)
        columns = slice(datum, datum + log_weights.shape[1])
        self.log_weights[draw : draw + count, columns] = log_weights[:count].cpu().numpy()
        for total, term in ((self.log_likelihood, log_likelihood), (self.kl, kl)):
            total[columns] += term[:count].sum(0).cpu().numpy()
        largest, place = log_weights[:count].max(0)
        errors = rounding[:count].gather(0, place[None])[0].cpu().numpy()
        larger = largest.cpu().numpy() > self.largest[columns]
        self.rounding[columns] = np.where(larger, errors, self.rounding[columns])
        self.largest[columns] = np.where(larger, largest.cpu().numpy(), self.largest[columns])

    def summary(self, *, analytic: bool) -> ImportanceWeighting:
        """What they say of each datum."""
        enough = self.num_samples >= MINIMUM_SAMPLES
        samples = _curve_samples(self.num_samples)
        return ImportanceWeighting(
            log_evidence=log_mean_exp(self.log_weights),
            reconstruction=self.log_likelihood / self.num_samples,
            kl=self.kl / self.num_samples,
            ess=effective_sample_size(self.log_weights),
            khat=pareto_khat(self.log_weights) if enough else None,
            num_samples=self.num_samples,
            kl_estimate="analytic" if analytic else "Monte Carlo",
            curve_samples=samples,
            curve=_curve(self.log_weights, samples),
            rounding=self.rounding,
        )


def _curve_samples(num_samples: int) -> Int[np.ndarray, " points"]:
    """1, 2, 5, 10, ... up to K, with K / 2, for the last doubling, and K itself."""
    grid = (base * 10**power for power in range(len(str(num_samples))) for base in (1, 2, 5))
    points = {k for k in grid if k <= num_samples} | {max(1, num_samples // 2), num_samples}
    return np.array(sorted(points))


def _curve(
    log_weights: Float[np.ndarray, "num_samples batch"], samples: Int[np.ndarray, " points"]
) -> Float[np.ndarray, "points batch"]:
    """For each k, the mean over disjoint blocks of k draws of the log mean weight."""
    points = []
    for k in samples.tolist():
        blocks = len(log_weights) // k
        block = log_weights[: blocks * k].reshape(blocks, k, -1)
        # A weight of zero makes a block -inf, and its mean, too; only -inf beside +inf is a NaN.
        with np.errstate(invalid="ignore"):
            totals = np.asarray(logsumexp(block, axis=1))
            points.append((totals - math.log(k)).mean(0))
    return np.stack(points)
