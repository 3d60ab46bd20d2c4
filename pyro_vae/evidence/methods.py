"""The methods of `scripts/evaluate.py`: what each computes, from which settings, in which chunks."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Real
from torch import Tensor

from pyro_vae.evidence.annealed_importance_sampling import (
    AnnealedImportanceSampling,
    annealed_importance_sampling,
)
from pyro_vae.evidence.importance_weighting import ImportanceWeighting, importance_weighting
from pyro_vae.evidence.inference_gaps import InferenceGaps, inference_gaps
from pyro_vae.evidence.local_guide import refine_guide
from pyro_vae.evidence.two_sided import TwoSidedCheck, two_sided_check

# An interrupted program loses at most one chunk. On a GPU small chunks would leave most of it
# idle.
DRAWS_PER_CHUNK = 250_000
# Chains x examples x elements of an example: about a minute with 500 temperatures.
CHAIN_ELEMENTS_PER_CHUNK = {"cpu": 102_400, "cuda": 2_048_000}


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
