"""Sums over the classes of enumerated sites."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from pyro.poutine import Trace
from torch import Tensor


@dataclass(frozen=True)
class ClassSums:
    """Sums over the values y of enumerated sites.

    Args:
        probabilities: q(y | x) for each value of the guide's enumerated sites, whose axes come
            first; None if it has none.
        log_joint: log sum_y p(x, y, z).
        log_proposal: log sum_y q(y, z | x).
        log_weight: log sum_y p(x, y, z_y) / q(z_y | x), with the draws z_y of each value: an
            unbiased weight for p(x).
    """

    probabilities: Float[Tensor, "*values particles batch"] | None
    log_joint: Float[Tensor, "particles batch"]
    log_proposal: Float[Tensor, "particles batch"]
    log_weight: Float[Tensor, "particles batch"]


def enumerated_sites(trace: Trace) -> set[str]:
    """The sites of a trace that are enumerated."""
    return {
        name
        for name, site in cast("dict[str, dict[str, Any]]", trace.nodes).items()
        if site["type"] == "sample" and (site["infer"] or {}).get("_enumerate_dim") is not None
    }


@dataclass(frozen=True)
class Sites:
    """The sites of a pair with enumerated ones, `(*classes, particles, batch)`."""

    model: dict[str, Tensor]
    guide: dict[str, Tensor]
    observed: set[str]
    # The axis of each enumerated site, from the right.
    axes: dict[str, int]

    def sum(self) -> tuple[dict[str, Tensor], dict[str, Tensor], ClassSums]:
        """The sites of both without the axes of classes, and the sums.

        Raises:
            ValueError: If the guide enumerates a site that the model lacks: the sum over its
                values would not be a weight.
        """
        if lacking := [
            name for name in self.axes if name in self.guide and name not in self.model
        ]:
            raise ValueError(
                f"the guide enumerates the site {lacking[0]!r}, which the model does not have."
            )
        marginal = self._marginal()
        expected = [axis for name, axis in self.axes.items() if name in self.guide]
        log_q = _sum(self.guide[name] for name in self.guide if name in self.axes)
        draws = _sum(self.guide[name] for name in self.guide if name not in self.axes)
        log_joint = _sum(marginal.values())
        sums = ClassSums(
            probabilities=log_q.exp() if self.guide.keys() & self.axes.keys() else None,
            log_joint=_log_sum(log_joint, expected),
            log_proposal=_log_sum(log_q + draws, expected),
            log_weight=_log_sum(log_joint - draws, expected),
        )
        model, guide = (
            {name: expectation(term, sums.probabilities) for name, term in sites.items()}
            for sites in (marginal, self.guide)
        )
        return model, guide, sums

    def _marginal(self) -> dict[str, Tensor]:
        """The model's sites, with the classes that the guide lacks marginalised."""
        axes = [axis for name, axis in self.axes.items() if name not in self.guide]
        classes = {name for name in self.axes if name not in self.guide}
        if not classes:
            return self.model
        depend = {
            name: term
            for name, term in self.model.items()
            if name in classes
            or any(term.dim() >= -axis and term.shape[axis] > 1 for axis in axes)
        }
        latent = [name for name in depend if name not in self.observed or name in classes]
        log_prior = _log_sum(_sum(depend[name] for name in latent), axes)
        log_joint = _log_sum(_sum(depend.values()), axes)
        found = {name: torch.zeros_like(log_joint) for name in depend if name not in classes}
        for name in [n for n in found if n in latent][:1]:
            found[name] = log_prior
        for name in [n for n in found if n not in latent][:1]:
            found[name] = log_joint - log_prior
        return {
            name: found.get(name, term) for name, term in self.model.items() if name not in classes
        }


def class_axes(trace: Trace, axes: int) -> dict[str, int]:
    """The axis of each enumerated site, from the right of `(*classes, particles, batch)`."""
    nodes = cast("dict[str, dict[str, Any]]", trace.nodes)
    return {
        name: nodes[name]["infer"]["_enumerate_dim"] + axes - 2 for name in enumerated_sites(trace)
    }


def _sum(terms: Iterable[Tensor]) -> Tensor:
    """The sum of terms; zero if there are none."""
    return sum(terms, torch.zeros(()))


def _log_sum(term: Tensor, axes: Sequence[int]) -> Tensor:
    """log sum exp over the axes of classes that a term has."""
    present = [axis for axis in axes if term.dim() >= -axis]
    term = term.logsumexp(present, keepdim=True) if present else term
    while term.dim() > 2 and term.shape[0] == 1:
        term = term.squeeze(0)
    return term


def expectation(term: Tensor, probabilities: Tensor | None) -> Tensor:
    """The expectation of a term over the guide's classes, if it depends on them."""
    if probabilities is None or term.dim() <= 2:
        return term
    # A class of probability 0 contributes nothing, also where its log density is infinite.
    weighed = torch.where(probabilities > 0, term, 0.0) * probabilities
    return weighed.flatten(0, -3).sum(0)
