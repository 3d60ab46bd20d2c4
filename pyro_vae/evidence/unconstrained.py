"""Latents of a support as points of R^d, with the Jacobian that their densities need."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from pyro_vae.distributions import SpikeAndSlab

# A point this many nats beyond the smallest number is still taken for one that was rounded there.
_SLACK = 1.0


class Unconstrained(ABC):
    """z = f(u), u in R^d: an invertible map from all of R^d onto a support, of vectors. Abstract.

    A density p of z is, of u, p(f(u)) |det df/du|. Numbers end: a u whose z would be rounded to an edge
    of the support is not `inside`, and has no density. So a density of u is that of z, cut off where
    z's type cannot tell z from the edge.
    """

    @abstractmethod
    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """u = f^-1(z)."""

    @abstractmethod
    def __call__(
        self, u: Float[Tensor, "*batch real"]
    ) -> tuple[
        Float[Tensor, "*batch event"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"] | None
    ]:
        """f(u), log |det df/du|, and whether u is inside; None if all are."""


class Real(Unconstrained):
    """z = u."""

    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """u = z."""
        return z

    def __call__(
        self, u: Float[Tensor, "*batch real"]
    ) -> tuple[
        Float[Tensor, "*batch event"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"] | None
    ]:
        """u, and 0."""
        return u, u.new_zeros(u.shape[:-1]), None


class Positive(Unconstrained):
    """z = exp(u); log |det| = sum_i u_i."""

    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """u = log z."""
        limits = torch.finfo(z.dtype)
        return z.clamp(limits.tiny, limits.max).log()

    def __call__(
        self, u: Float[Tensor, "*batch real"]
    ) -> tuple[
        Float[Tensor, "*batch event"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"] | None
    ]:
        """exp(u), sum_i u_i, and whether no coordinate under- or overflows."""
        limits = torch.finfo(u.dtype)
        lowest, highest = math.log(limits.tiny), math.log(limits.max) - _SLACK
        inside = ((u > lowest - _SLACK) & (u < highest + _SLACK)).all(-1)
        # Clamped before exp, whose derivative would be infinite where its value is.
        return u.clamp(lowest, highest).exp().clamp(min=limits.tiny), u.sum(-1), inside


class Unit(Unconstrained):
    """z = sigmoid(u); log |det| = sum_i log z_i + log(1 - z_i)."""

    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """u = log z - log(1 - z)."""
        limits = torch.finfo(z.dtype)
        z = z.clamp(limits.tiny, 1 - limits.eps)
        return z.log() - torch.log1p(-z)

    def __call__(
        self, u: Float[Tensor, "*batch real"]
    ) -> tuple[
        Float[Tensor, "*batch event"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"] | None
    ]:
        """sigmoid(u), its log |det|, and whether no coordinate is rounded to 0 or 1."""
        limits = torch.finfo(u.dtype)
        log_z = torch.nn.functional.logsigmoid(u)
        log_rest = torch.nn.functional.logsigmoid(-u)
        inside = (
            (log_z > math.log(limits.tiny) - _SLACK) & (log_rest > math.log(limits.eps) - _SLACK)
        ).all(-1)
        z = u.sigmoid().clamp(limits.tiny, 1 - limits.eps)
        return z, (log_z + log_rest).sum(-1), inside


class Simplex(Unconstrained):
    """z = softmax(V u), V an orthonormal basis of the vectors of R^K with sum 0, u in R^(K - 1).

    It treats all corners alike, where stick breaking depends on their order. The determinant is that of
    the first K - 1 coordinates, of which a density on the simplex is one:
    log |det| = sum_i log z_i + 1/2 log K.

    Args:
        corners: K, at least 2.
        dtype: The type of V.
        device: Where V is.

    References:
        Isometric Logratio Transformations for Compositional Data Analysis (Egozcue et al., 2003),
        https://doi.org/10.1023/A:1023818214614
    """

    def __init__(self, corners: int, dtype: torch.dtype, device: torch.device) -> None:
        # Helmert's: column j sets the mean of the first j + 1 coordinates against the next one.
        basis = torch.zeros(corners, corners - 1, dtype=torch.float64)
        for j in range(corners - 1):
            basis[: j + 1, j] = 1 / (j + 1)
            basis[j + 1, j] = -1.0
            basis[:, j] /= basis[:, j].norm()
        self.basis = basis.to(device, dtype)
        self.half_log_corners = math.log(corners) / 2

    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """u = V^T log z."""
        return z.clamp(min=torch.finfo(z.dtype).tiny).log() @ self.basis

    def __call__(
        self, u: Float[Tensor, "*batch real"]
    ) -> tuple[
        Float[Tensor, "*batch event"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"] | None
    ]:
        """softmax(V u), its log |det|, and whether no coordinate underflows."""
        tiny = torch.finfo(u.dtype).tiny
        log_z = (u @ self.basis.mT).log_softmax(-1)
        inside = (log_z > math.log(tiny) - _SLACK).all(-1)
        return log_z.exp().clamp(min=tiny), log_z.sum(-1) + self.half_log_corners, inside


SERVED = ("real", "positive", "unit", "simplex")


def unconstrained(
    distribution: Distribution, like: Tensor, *, site: str, support: str | None = None
) -> Unconstrained:
    """The map onto a distribution's support.

    Args:
        distribution: A guide's, of vectors, with a density in all coordinates.
        like: A draw.
        site: The name of its site, for a message.
        support: The support as a word, where it is declared; otherwise it is read from the
            distribution's constraint.

    Raises:
        ValueError: If the support is another than real, positive, unit or simplex, the distribution has no
            differentiable density there, or it is not one of vectors.
    """
    base: Any = distribution
    while hasattr(base, "base_dist") and type(base).__name__ in (
        "Independent",
        "ExpandedDistribution",
    ):
        base = base.base_dist
    found = support if support is not None else _word(distribution.support)
    if found not in SERVED or not distribution.has_rsample or isinstance(base, SpikeAndSlab):
        kind = found if found is not None else str(distribution.support)
        raise ValueError(
            f"annealed importance sampling moves along gradients of densities: the guide must be "
            f"reparameterisable, with support {', '.join(SERVED[:-1])} or {SERVED[-1]}, but at site "
            f"{site!r} it is {type(base).__name__}, with support {kind}."
        )
    if len(distribution.event_shape) != 1:
        raise ValueError(
            f"annealed importance sampling needs a latent vector, but at site {site!r} the guide's event "
            f"shape is {tuple(distribution.event_shape)}."
        )
    if found == "simplex":
        return Simplex(like.shape[-1], like.dtype, like.device)
    return {"real": Real, "positive": Positive, "unit": Unit}[found]()


def _word(support: object) -> str | None:
    """A constraint as a word. torch's do not compare, so they are told apart by class and bounds."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, type(constraints.real)):
        return "real"
    if isinstance(support, (constraints.greater_than, constraints.greater_than_eq)):
        return "positive" if _all(support.lower_bound, 0.0) else None
    if isinstance(support, constraints.interval):
        bounds = _all(support.lower_bound, 0.0) and _all(support.upper_bound, 1.0)
        return "unit" if bounds else None
    return "simplex" if isinstance(support, type(constraints.simplex)) else None


def _all(bound: object, value: float) -> bool:
    """Whether a bound, a number or a tensor, is a number everywhere."""
    return bool(torch.as_tensor(bound).eq(value).all())
