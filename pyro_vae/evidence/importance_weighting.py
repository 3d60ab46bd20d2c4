"""log p(x) by importance weighting, with the ELBO of the same draws taken apart."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import torch
from jaxtyping import Float, Real
from torch import Tensor
from tqdm import tqdm

from pyro_vae.log_densities import LogDensities, log_densities
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    effective_sample_size,
    log_mean_exp,
    pareto_khat,
)


@dataclass(frozen=True)
class ImportanceWeighting:
    """What K draws from the guide say of each datum. Log densities are in nats.

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
    """

    log_evidence: Float[np.ndarray, " n"]
    reconstruction: Float[np.ndarray, " n"]
    kl: Float[np.ndarray, " n"]
    ess: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int
    kl_estimate: Literal["analytic", "Monte Carlo"]

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
        n = len(self.log_evidence)
        return float(self.log_evidence.std(ddof=1) / math.sqrt(n)) if n > 1 else None


def importance_weighting(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Real[Tensor, " n *event"],
    *,
    num_samples: int = 1000,
    max_plate_nesting: int = 1,
    max_elements: int = 2_000_000,
    progress: bool = False,
) -> ImportanceWeighting:
    """Estimate log p(x) with the guide as proposal, and its diagnostics, datum by datum.

    Data and draws are taken in chunks, so that memory stays bounded whatever their number. Pyro
    validates the first chunk and, for speed, no other: the same program runs in all of them.

    Args:
        model: A Pyro model called with data, in a plate "data".
        guide: Its guide.
        x: Data in the likelihood's support; integers are made floats chunk by chunk.
        num_samples: The number K of draws for each datum.
        max_plate_nesting: The number of plates nested in one another.
        max_elements: Draws x data x elements of a datum held at once.
        progress: Show a bar.

    Raises:
        ValueError: If there are no data, or `num_samples` or `max_elements` is below 1.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    for word, value in (("num_samples", num_samples), ("max_elements", max_elements)):
        if value < 1:
            raise ValueError(f"{word} must be at least 1, got {value}.")
    if len(x) == 0:
        raise ValueError("importance_weighting needs at least one datum, got none.")

    # All draws of a few data, rather than a few draws of all: each datum is encoded once.
    pairs = max(1, max_elements // max(1, x[0].numel()))
    particles = min(num_samples, pairs)
    chunks = x.split(max(1, pairs // num_samples))
    results: list[ImportanceWeighting] = []
    bar = tqdm(total=len(x), desc="importance weighting", unit="datum", disable=not progress)
    with bar, torch.no_grad(), ExitStack() as speed:
        for chunk in chunks:
            data = chunk if chunk.is_floating_point() else chunk.to(torch.get_default_dtype())
            draws = []
            for start in range(0, num_samples, particles):
                count = min(particles, num_samples - start)
                terms = log_densities(
                    model, guide, data, num_particles=count, max_plate_nesting=max_plate_nesting
                )
                draws.append(_Draws.of(terms))
                if start == 0 and not results:  # The first chunk has passed.
                    speed.enter_context(pyro.validation_enabled(False))
            results.append(_summarise(draws))
            bar.update(len(chunk))
    return _concatenate(results)


@dataclass(frozen=True)
class _Draws:
    """The terms of some draws and some data, on the CPU and in float64."""

    log_weight: Float[np.ndarray, "particles batch"]
    log_likelihood: Float[np.ndarray, "particles batch"]
    kl: Float[np.ndarray, "particles batch"]
    analytic: bool

    @classmethod
    def of(cls, terms: LogDensities) -> "_Draws":
        log_likelihood = terms.log_likelihood.double()
        log_ratio = terms.log_posterior.double() - terms.log_prior.double()
        site_kls = [terms.closed_form_kl(name) for name in terms.guide_sites]
        known = [site_kl.double() for site_kl in site_kls if site_kl is not None]
        analytic = len(known) == len(site_kls)
        kl = sum(known, torch.zeros_like(log_ratio)) if analytic else log_ratio
        return cls(
            log_weight=(log_likelihood - log_ratio).cpu().numpy(),
            log_likelihood=log_likelihood.cpu().numpy(),
            kl=kl.cpu().numpy(),
            analytic=analytic,
        )


def _summarise(draws: list[_Draws]) -> ImportanceWeighting:
    log_weights = np.concatenate([part.log_weight for part in draws])
    num_samples = len(log_weights)
    return ImportanceWeighting(
        log_evidence=log_mean_exp(log_weights),
        reconstruction=np.concatenate([part.log_likelihood for part in draws]).mean(0),
        kl=np.concatenate([part.kl for part in draws]).mean(0),
        ess=effective_sample_size(log_weights),
        khat=pareto_khat(log_weights) if num_samples >= MINIMUM_SAMPLES else None,
        num_samples=num_samples,
        kl_estimate="analytic" if draws[0].analytic else "Monte Carlo",
    )


def _concatenate(results: list[ImportanceWeighting]) -> ImportanceWeighting:
    khats = [result.khat for result in results if result.khat is not None]
    return ImportanceWeighting(
        log_evidence=np.concatenate([result.log_evidence for result in results]),
        reconstruction=np.concatenate([result.reconstruction for result in results]),
        kl=np.concatenate([result.kl for result in results]),
        ess=np.concatenate([result.ess for result in results]),
        khat=np.concatenate(khats) if khats else None,
        num_samples=results[0].num_samples,
        kl_estimate=results[0].kl_estimate,
    )
