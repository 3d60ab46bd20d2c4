"""Evaluation of a trained VAE on data: evidence, the ELBO's terms, the guide, the latent units."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import torch
from jaxtyping import Bool, Float, Int, Real
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from pyro_vae.compilation import CompileMode
from pyro_vae.evidence.annealed_importance_sampling import (
    AnnealedImportanceSampling,
    annealed_importance_sampling,
)
from pyro_vae.evidence.importance_weighting import ImportanceWeighting, importance_weighting
from pyro_vae.evidence.inference_gaps import InferenceGaps, inference_gaps
from pyro_vae.evidence.local_guide import refine_guide
from pyro_vae.evidence.two_sided import TwoSidedCheck, two_sided_check
from pyro_vae.json_values import to_jsonable
from pyro_vae.labelled_rows import rows_of
from pyro_vae.log_densities import (
    LogDensities,
    NoDensityError,
    check_density,
    distribution_at,
    log_densities,
)
from pyro_vae.notebooks import SummaryTable
from pyro_vae.rng import as_floats, check_device, evaluation_mode
from pyro_vae.statistics import active_units, standard_error

# The number of rows that a message names.
_NAMED_ROWS = 5

# An interrupted program loses at most one chunk. On a GPU small chunks would leave most of it
# idle.
DRAWS_PER_CHUNK = 250_000
# Chains x examples x elements of an example: about a minute with 500 temperatures.
CHAIN_ELEMENTS_PER_CHUNK = {"cpu": 102_400, "cuda": 2_048_000}


@dataclass(frozen=True)
class Evaluation(SummaryTable):
    """The evaluation of a VAE on n examples, with beta = 1 whatever trained it.

    Args:
        weights: log p(x), reconstruction, KL, k-hat and ESS of each example; None for a guide
            without a density, such as an autoencoder's, which has no bound of log p(x).
        reconstruction: E_q log p(x | z) of each example, in nats.
        embeddings: The deterministic code of each example.
        kl_by_dimension: The KL of each latent dimension in nats, a mean over the examples with a
            finite one; None unless posterior and prior are both diagonal normals, as the KL is
            then not a sum over dimensions.
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
                "importance weights need a guide with a density, but this guide has all its mass "
                "at one point: it has no ELBO and no log p(x)."
            )
        return self.weights

    @property
    def undefined(self) -> Int[np.ndarray, " rows"]:
        """The rows whose log p(x), reconstruction or code is not finite."""
        finite_rows = np.isfinite(self.reconstruction) & np.isfinite(self.embeddings).all(1)
        if self.weights is not None:
            finite_rows &= np.isfinite(self.weights.log_evidence) & np.isfinite(self.weights.kl)
        return np.flatnonzero(~finite_rows)

    def select(self, rows: Int[np.ndarray, " rows"]) -> "Evaluation":
        """The evaluation of some of the examples; `kl_by_dimension` is unchanged."""
        return Evaluation(
            weights=self.weights and self.weights.select(rows),
            reconstruction=self.reconstruction[rows],
            embeddings=self.embeddings[rows],
            kl_by_dimension=self.kl_by_dimension,
        )

    @property
    def active_units(self) -> int | None:
        """The number of latent dimensions whose embedding varies.

        None for fewer than two examples with a finite embedding.
        """
        known = self.embeddings[np.isfinite(self.embeddings).all(1)]
        return active_units(known) if len(known) > 1 else None

    @property
    def khat_share_above(self) -> float | None:
        """The share of examples whose k-hat is too high for their log p(x) to be trusted.

        None if there are too few draws for a k-hat, or no weights.
        """
        return None if self.weights is None else self.weights.khat_share_above

    def summary(self) -> dict[str, float | int | None]:
        """The entries of `metrics.json`: means per example in nats, counts and shares.

        Standard errors, `_se`, are over the examples.

        Undefined and non-finite values are None.
        """
        weighted = self.weights
        samples = weighted.num_samples if weighted else None
        return to_jsonable(
            {
                "elbo": weighted.elbo.mean() if weighted else None,
                "elbo_se": standard_error(weighted.elbo) if weighted else None,
                "elbo_samples": samples,
                "reconstruction": self.reconstruction.mean(),
                "reconstruction_se": standard_error(self.reconstruction),
                "kl": weighted.kl.mean() if weighted else None,
                "kl_se": standard_error(weighted.kl) if weighted else None,
                "log_evidence": weighted.mean_log_evidence if weighted else None,
                "log_evidence_se": weighted.log_evidence_se if weighted else None,
                "log_evidence_samples": samples,
                "active_units": self.active_units,
                "khat_share_above": self.khat_share_above,
                "n": len(self.embeddings),
            }
        )


def defined_rows(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    max_plate_nesting: int = 1,
    max_elements: int = 2_000_000,
) -> Bool[np.ndarray, " n"]:
    """Which examples have a finite code, and finite log densities at one draw from the guide.

    Others, such as those with fill values beyond the range of float32, have no log p(x). No random
    stream is changed, and Pyro does not validate.

    Args:
        vae: A program with `model(x)`, `guide(x)` and `embed(x)`.
        x: Data in the likelihood's support, on the program's device; integers are converted to
            floats.
        max_plate_nesting: The number of plates nested in one another.
        max_elements: The number of elements held at once.
    """
    found = []
    with evaluation_mode(vae, seed=0), pyro.validation_enabled(False):
        for chunk in x.split(max(1, max_elements // max(1, x[0].numel()))):
            data = as_floats(chunk)
            terms = log_densities(vae.model, vae.guide, data, max_plate_nesting=max_plate_nesting)
            total = terms.log_likelihood + terms.log_prior - terms.log_posterior
            finite_rows = total.isfinite().all(0) & vae.embed(data).flatten(1).isfinite().all(1)
            found.append(finite_rows.cpu().numpy())
    return np.concatenate(found)


def undefined_data(rows: Int[np.ndarray, " rows"], n: int, what: str) -> str:
    """A message about examples without log p(x).

    Args:
        rows: Their rows.
        n: The number of examples.
        what: What they are, such as "test data".
    """
    first = ", ".join(map(str, rows[:_NAMED_ROWS]))
    more = f" and {len(rows) - _NAMED_ROWS:,} more" if len(rows) > _NAMED_ROWS else ""
    return (
        f"log p(x) is not defined (infinite or not a number) for {len(rows):,} of {n:,} {what}, "
        f"row{'' if len(rows) == 1 else 's'} {first}{more}: check these for fill values"
    )


def row_order(n: int) -> Int[Tensor, " n"]:
    """A fixed random order of n rows: a smaller evaluation uses the first rows of a larger one.

    A split may be sorted by label, so the first rows would not do.
    """
    return torch.randperm(n, generator=torch.Generator("cpu").manual_seed(0), device="cpu")


def fixed_rows(n: int, at_most: int) -> Int[Tensor, " rows"]:
    """The first rows in `row_order`, sorted: those evaluated if all n are too many."""
    return row_order(n)[:at_most].sort().values


def evaluate(
    vae: Any,
    x: Any,
    *,
    y: Tensor | None = None,
    num_samples: int = 1000,
    max_plate_nesting: int = 1,
    max_elements: int = 2_000_000,
    seed: int = 0,
    compile: CompileMode = "auto",
    progress: bool = False,
) -> Evaluation:
    """Evaluate a VAE, or another program, on data.

    It runs in evaluation mode (batch normalisation uses its running statistics) with its own
    random seed, and leaves modes and the global random stream unchanged: the result does not
    depend on when it is called, and does not affect training.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `embed(x)` and `latent_sites`.
        x: A tensor `(n, *event)` in the likelihood's support, on the program's device; integers,
            such as binary data as bytes, are converted to floats chunk by chunk. Data of any other
            form that `fit` takes are prepared first, by `vae.prepare`.
        y: Labels `(n,)` or `(n, columns)`, for a program of log p(x | y); others ignore them.
        num_samples: The number of draws for each example.
        max_plate_nesting: The number of plates nested in one another.
        max_elements: The number of draws x examples x elements held at once.
        seed: The seed of the draws.
        compile: Whether to compile, as in `importance_weighting`.
        progress: Show a progress bar.

    Raises:
        ValueError: If there are no data, no labels where they are needed, `num_samples` or
            `max_elements` is below 1, or `compile` is another word.
        TypeError: If x is not a tensor and the program cannot prepare it.
    """
    check_device(vae)
    if not isinstance(x, Tensor):
        if not hasattr(vae, "prepare"):
            raise TypeError(
                f"{type(vae).__name__} has no method `prepare`: give x as a tensor, got "
                f"{type(x).__name__}."
            )
        x = vae.prepare(x)
    if len(x) == 0:
        raise ValueError("x must hold at least one example, got none.")
    vae, x = rows_of(vae, x, y)
    size = {"max_plate_nesting": max_plate_nesting, "max_elements": max_elements}
    # Validation would refuse all examples if log p(x) is undefined for some.
    validated = is_validation_enabled() and (
        max_elements < 1 or bool(defined_rows(vae, x, **size).all())
    )
    with evaluation_mode(vae, seed=seed), pyro.validation_enabled(validated):
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
            terms = log_densities(vae.model, vae.guide, data, max_plate_nesting=max_plate_nesting)
            code = vae.embed(data)
            if terms.class_sums is not None and len(vae.latent_sites) == 1:
                # After z a code may hold the probabilities of classes.
                z = distribution_at(terms.guide_trace, vae.latent_sites[0])
                code = code[..., : z.event_shape[-1]]
            embeddings.append(code.double().cpu().numpy())
            kls.append(_kl_by_dimension(vae, terms))
            reconstructions.append(terms.log_likelihood.double().mean(0).cpu().numpy())
    return Evaluation(
        weights=weighted,
        # If the guide is a point, all draws are equal.
        reconstruction=weighted.reconstruction if weighted else np.concatenate(reconstructions),
        embeddings=np.concatenate(embeddings),
        kl_by_dimension=None if kls[0] is None else _mean_of_finite(np.concatenate(kls)),
    )


def _mean_of_finite(rows: Float[np.ndarray, "n latent"]) -> Float[np.ndarray, " latent"] | None:
    """The mean over the finite rows; None if there are none."""
    known = rows[np.isfinite(rows).all(1)]
    return known.mean(0) if len(known) else None


def _kl_by_dimension(vae: Any, terms: LogDensities) -> Float[np.ndarray, "batch latent"] | None:
    """KL(q(z_j | x) || p(z_j)) for each example and dimension j, if both are diagonal normals."""
    if len(vae.latent_sites) != 1:
        return None
    (site,) = vae.latent_sites
    q, p = (
        _diagonal_normal(distribution_at(trace, site))
        for trace in (terms.guide_trace, terms.model_trace)
    )
    # q(z | x) does not depend on the class of p(z | y): see `LogDensities.closed_form_kl`.
    if q is None or p is None or len(p.batch_shape) > len(q.batch_shape):
        return None
    kl = kl_divergence(q, p)
    if kl.dim() > 3 and terms.class_sums is not None:
        # Its expectation under the guide's classes.
        assert terms.class_sums.probabilities is not None
        kl = (terms.class_sums.probabilities.unsqueeze(-1) * kl).sum(0)
    (kl,) = kl  # One particle.
    return kl.double().cpu().numpy()


def _diagonal_normal(distribution: Distribution) -> Normal | None:
    """The normals that a distribution of vectors is a product of; None if it is not one."""
    if not isinstance(distribution, Independent) or len(distribution.event_shape) != 1:
        return None
    base = distribution.base_dist
    return base if isinstance(base, Normal) else None


# ---- the methods of `scripts/evaluate.py` ------------------------------------------------------


@dataclass(frozen=True)
class EvidenceSettings:
    """The settings of all methods.

    Args:
        samples: The number K of draws per example.
        chains: Chains per example.
        temperatures: Steps from the guide to the joint density.
        leapfrog_steps: Leapfrog steps of a transition.
        refine_steps: Steps by which the guide is fitted to each example first.
        gap_steps: Steps of the local guides of the inference gaps.
    """

    samples: int = 1000
    chains: int = 16
    temperatures: int = 500
    leapfrog_steps: int = 10
    refine_steps: int = 0
    gap_steps: int = 1000

    @property
    def chain(self) -> dict[str, Any]:
        """The arguments of the functions that run chains."""
        return {
            "num_chains": self.chains,
            "num_temperatures": self.temperatures,
            "leapfrog_steps": self.leapfrog_steps,
        }

    def refined(self, vae: Any, x: Tensor, seed: int) -> Any:
        """The program with its guide fitted to each example, if `refine_steps` says so."""
        return (
            refine_guide(vae, x, steps=self.refine_steps, seed=seed) if self.refine_steps else vae
        )


@dataclass(frozen=True)
class EvidenceMethod:
    """A method that estimates log p(x) or checks such estimates.

    Args:
        result: The class of its results, which have `summary`, `trust` and `concatenate`.
        compute: Computes the result of x from the program, x, the settings, a seed, and log p(x)
            where annealing has estimated it.
        settings: The settings that its numbers depend on.
        rows: The data it uses: all that are evaluated, the fewer ones for annealing, or simulated
            data.
        runs_chains: Whether it runs chains rather than drawing from the guide.
    """

    result: Any
    compute: Callable[
        [Any, Real[Tensor, " n *event"], EvidenceSettings, int, np.ndarray | None], Any
    ]
    settings: Callable[[EvidenceSettings], Mapping[str, Any]]
    rows: Literal["all", "annealed", "simulated"]
    runs_chains: bool = False

    def chunk_size(
        self, settings: EvidenceSettings, event_shape: tuple[int, ...], device: str
    ) -> int:
        """The number of examples computed, and cached, at once."""
        if not self.runs_chains:
            return min(1000, max(1, DRAWS_PER_CHUNK // settings.samples))
        elements = settings.chains * max(1, math.prod(event_shape))
        return max(1, CHAIN_ELEMENTS_PER_CHUNK[device] // elements)


def _importance_weighting(
    vae: Any, x: Tensor, settings: EvidenceSettings, seed: int, log_evidence: np.ndarray | None
) -> ImportanceWeighting:
    vae = settings.refined(vae, x, seed)
    return importance_weighting(vae.model, vae.guide, x, num_samples=settings.samples)


def _annealing(
    vae: Any, x: Tensor, settings: EvidenceSettings, seed: int, log_evidence: np.ndarray | None
) -> AnnealedImportanceSampling:
    vae = settings.refined(vae, x, seed)
    return annealed_importance_sampling(vae, x, seed=seed, **settings.chain)


def _two_sided(
    vae: Any, x: Tensor, settings: EvidenceSettings, seed: int, log_evidence: np.ndarray | None
) -> TwoSidedCheck:
    return two_sided_check(vae, x[:1], num_data=len(x), seed=seed, **settings.chain)


def _gaps(
    vae: Any, x: Tensor, settings: EvidenceSettings, seed: int, log_evidence: np.ndarray | None
) -> InferenceGaps:
    return inference_gaps(
        vae,
        x,
        log_evidence=log_evidence,
        steps=settings.gap_steps,
        num_samples=settings.samples,
        seed=seed,
    )


METHODS = {
    "importance_weighting": EvidenceMethod(
        ImportanceWeighting,
        _importance_weighting,
        lambda s: {"samples": s.samples, "refine_steps": s.refine_steps},
        "all",
    ),
    "annealing": EvidenceMethod(
        AnnealedImportanceSampling,
        _annealing,
        lambda s: {**s.chain, "refine_steps": s.refine_steps},
        "annealed",
        runs_chains=True,
    ),
    "two_sided": EvidenceMethod(
        TwoSidedCheck, _two_sided, lambda s: s.chain, "simulated", runs_chains=True
    ),
    "gaps": EvidenceMethod(
        InferenceGaps,
        _gaps,
        lambda s: {"steps": s.gap_steps, "samples": s.samples},
        "annealed",
    ),
}
