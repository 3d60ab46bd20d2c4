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

from pyro_vae.compilation.work import CompileMode
from pyro_vae.evidence.terms import Terms
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    effective_sample_size,
    log_mean_exp,
    pareto_khat,
)

# So many log weights are held at once, but all of a datum's: 2 MB. One datum's k-hat at a time would
# be all overhead, and more than fit into the cache would be slower.
_HELD = 250_000


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
    bar = tqdm(total=len(x), desc="importance weighting", unit="datum", disable=not progress)
    with bar, torch.no_grad(), ExitStack() as speed:
        for first in range(0, len(x), held):
            draws = _Draws(num_samples, min(held, len(x) - first))
            for start in range(0, draws.data, batch):
                chunk = x[first + start : first + min(start + batch, draws.data)]
                data = chunk if chunk.is_floating_point() else chunk.to(torch.get_default_dtype())
                for part in range(parts):
                    draws.put(part * terms.num_particles, start, *terms(data))
                    if not results and not start and not part:  # The first chunk has passed.
                        speed.enter_context(pyro.validation_enabled(False))
                bar.update(len(chunk))
            results.append(draws.summary(analytic=terms.analytic))
    return _concatenate(results)


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

    def put(
        self,
        draw: int,
        datum: int,
        log_weights: Float[Tensor, "particles batch"],
        log_likelihood: Float[Tensor, "particles batch"],
        kl: Float[Tensor, "particles batch"],
    ) -> None:
        """Put a chunk's terms where they belong, but draws beyond the last."""
        count = min(len(log_weights), self.num_samples - draw)
        columns = slice(datum, datum + log_weights.shape[1])
        self.log_weights[draw : draw + count, columns] = log_weights[:count].cpu().numpy()
        for total, term in ((self.log_likelihood, log_likelihood), (self.kl, kl)):
            total[columns] += term[:count].sum(0).cpu().numpy()

    def summary(self, *, analytic: bool) -> ImportanceWeighting:
        """What they say of each datum."""
        enough = self.num_samples >= MINIMUM_SAMPLES
        return ImportanceWeighting(
            log_evidence=log_mean_exp(self.log_weights),
            reconstruction=self.log_likelihood / self.num_samples,
            kl=self.kl / self.num_samples,
            ess=effective_sample_size(self.log_weights),
            khat=pareto_khat(self.log_weights) if enough else None,
            num_samples=self.num_samples,
            kl_estimate="analytic" if analytic else "Monte Carlo",
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
