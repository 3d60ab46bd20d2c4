"""What a trained VAE is worth on data: evidence, the ELBO's terms, the guide and the latent units."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from pyro_vae.compilation.work import CompileMode
from pyro_vae.evaluating import as_floats, evaluating
from pyro_vae.evidence.importance_weighting import ImportanceWeighting, importance_weighting
from pyro_vae.evidence.numbers import finite
from pyro_vae.log_densities import (
    LogDensities,
    NoDensityError,
    check_density,
    distribution_at,
    log_densities,
)
from pyro_vae.statistics import active_units


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a VAE on n data, with beta = 1 whatever trained it.

    Args:
        weights: log p(x), reconstruction, KL, k-hat and ESS of each datum; None for a guide without a
            density, such as an autoencoder's, which has no bound of log p(x).
        reconstruction: E_q log p(x | z) of each datum, in nats.
        embeddings: The deterministic code of each datum.
        kl_by_dimension: The KL of each latent dimension in nats, a mean over data, where posterior
            and prior are both diagonal normals; otherwise None: it is then no sum over dimensions.
    """

    weights: ImportanceWeighting | None
    reconstruction: Float[np.ndarray, " n"]
    embeddings: Float[np.ndarray, "n latent"]
    kl_by_dimension: Float[np.ndarray, " latent"] | None

    @property
    def importance_weighting(self) -> ImportanceWeighting:
        """The `weights`.

        Raises:
            NoDensityError: If there are none.
        """
        if self.weights is None:
            raise NoDensityError(
                "importance weights need a guide with a density, but this one has all its mass at one "
                "point: it has no ELBO and no log p(x)."
            )
        return self.weights

    @property
    def khat(self) -> Float[np.ndarray, " n"] | None:
        """The k-hat of each datum, as in `ImportanceWeighting`."""
        return self.importance_weighting.khat

    @property
    def ess(self) -> Float[np.ndarray, " n"]:
        """The effective sample size of each datum, as in `ImportanceWeighting`."""
        return self.importance_weighting.ess

    @property
    def num_samples(self) -> int:
        """The number of draws for each datum, as in `ImportanceWeighting`."""
        return self.importance_weighting.num_samples

    @property
    def active_units(self) -> int | None:
        """The number of latent dimensions whose embedding varies over data; None for one datum."""
        return active_units(self.embeddings) if len(self.embeddings) > 1 else None

    @property
    def khat_share_above(self) -> float | None:
        """The share of data with a k-hat above the threshold: whose log p(x) is not to be trusted.

        None where there were too few draws for a k-hat, or are no weights.
        """
        return None if self.weights is None else self.weights.khat_share_above

    def summary(self) -> dict[str, float | int | None]:
        """The entries of `metrics.json`: means per datum in nats, counts and shares.

        What is not defined, or not finite, is None.
        """
        weighted = self.weights
        samples = weighted.num_samples if weighted else None
        return {
            "elbo": finite(weighted.elbo.mean()) if weighted else None,
            "elbo_samples": samples,
            "reconstruction": finite(self.reconstruction.mean()),
            "kl": finite(weighted.kl.mean()) if weighted else None,
            "log_evidence": finite(weighted.mean_log_evidence) if weighted else None,
            "log_evidence_se": finite(weighted.log_evidence_se) if weighted else None,
            "log_evidence_samples": samples,
            "active_units": self.active_units,
            "khat_share_above": self.khat_share_above,
            "n": len(self.embeddings),
        }


def fixed_rows(n: int, at_most: int) -> Int[Tensor, " rows"]:
    """Which of n data are evaluated when all are too many: always the same, from everywhere.

    A split may be sorted by label, so its first rows would not do.
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[:at_most].sort().values


def evaluate(
    vae: PyroModule,
    x: Real[Tensor, " n *event"],
    *,
    num_samples: int = 1000,
    max_plate_nesting: int = 1,
    max_elements: int = 2_000_000,
    seed: int = 0,
    compile: CompileMode = "auto",
    progress: bool = False,
) -> Evaluation:
    """Evaluate a VAE, or another program, on data.

    It runs in evaluation mode (batch normalisation uses its running statistics) and puts back each
    module's own. Its random numbers have a seed of their own, and the global stream does not move:
    the result is the same wherever it is called, and training goes on as if it had not been.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `embed(x)` and `latent_sites`.
        x: Data in the likelihood's support, on the program's device; integers, such as binary data
            as bytes, are made floats chunk by chunk.
        num_samples: The number of draws for each datum.
        max_plate_nesting: The number of plates nested in one another.
        max_elements: Draws x data x elements of a datum held at once.
        seed: The seed of the draws.
        compile: Whether to compile, as in `importance_weighting`.
        progress: Show a bar.

    Raises:
        ValueError: If there are no data, `num_samples` or `max_elements` is below 1, or `compile` is
            none of these.
    """
    with evaluating(vae, seed=seed):
        weighted = None
        with suppress(NoDensityError):
            check_density(vae.guide, x, "importance weighting")
            weighted = importance_weighting(
                vae.model,
                vae.guide,
                x,
                num_samples=num_samples,
                max_plate_nesting=max_plate_nesting,
                max_elements=max_elements,
                compile=compile,
                progress=progress,
            )
        embeddings, kls, reconstructions = [], [], []
        for chunk in x.split(max(1, max_elements // max(1, x[0].numel()))):
            data = as_floats(chunk)
            embeddings.append(vae.embed(data).double().cpu().numpy())
            terms = log_densities(vae.model, vae.guide, data, max_plate_nesting=max_plate_nesting)
            kls.append(_kl_by_dimension(vae, terms))
            reconstructions.append(terms.log_likelihood.double().mean(0).cpu().numpy())
    return Evaluation(
        weights=weighted,
        # Where the guide is a point, one draw is all of them.
        reconstruction=weighted.reconstruction if weighted else np.concatenate(reconstructions),
        embeddings=np.concatenate(embeddings),
        kl_by_dimension=None if kls[0] is None else np.concatenate(kls).mean(0),
    )


def _kl_by_dimension(
    vae: PyroModule, terms: LogDensities
) -> Float[np.ndarray, "batch latent"] | None:
    """KL(q(z_j | x) || p(z_j)) for each datum and dimension j, if both are diagonal normals."""
    if len(vae.latent_sites) != 1:
        return None
    (site,) = vae.latent_sites
    q, p = (
        _diagonal_normal(distribution_at(trace, site))
        for trace in (terms.guide_trace, terms.model_trace)
    )
    if q is None or p is None:
        return None
    (kl,) = kl_divergence(q, p)  # One particle.
    return kl.double().cpu().numpy()


def _diagonal_normal(distribution: Distribution) -> Normal | None:
    """The normals that a distribution of vectors is a product of; None if it is another."""
    if not isinstance(distribution, Independent) or len(distribution.event_shape) != 1:
        return None
    base = distribution.base_dist
    return base if isinstance(base, Normal) else None
