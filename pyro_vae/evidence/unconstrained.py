"""Bijections z = f(u) from R^d onto the supports of latents, with the Jacobians of densities.

A density p of z is, of u, p(f(u)) |det df/du|. Numbers are finite: a u whose z would be rounded to
an edge of the support is not inside, and has no density.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, biject_to, constraints

from pyro_vae.distributions import SpikeAndSlab

# A point this many nats beyond the smallest number is still taken for one that was rounded there.
_SLACK = 1.0


class Elementwise:
    """A bijection of each coordinate: torch's onto the real line, the positive numbers or (0, 1).

    Args:
        support: "real", "positive" or "unit".
    """

    def __init__(self, support: str) -> None:
        self.support = support
        self.transform: Any = biject_to(_CONSTRAINTS[support])

    def _edges(self, dtype: torch.dtype) -> tuple[float, float]:
        """The u of the smallest and the largest z of a type."""
        limits = torch.finfo(dtype)
        return {
            "real": (-math.inf, math.inf),
            "positive": (math.log(limits.tiny), math.log(limits.max) - _SLACK),
            "unit": (math.log(limits.tiny), -math.log(limits.eps)),
        }[self.support]

    def inverse(self, z: Float[Tensor, "*batch event"]) -> Float[Tensor, "*batch real"]:
        """u = f^-1(z), finite even where z was rounded to an edge."""
        limits = torch.finfo(z.dtype)
        if self.support == "positive":
            z = z.clamp(limits.tiny, limits.max)
        return self.transform.inv(z)

    def __call__(
        self, u: Float[Tensor, "*batch real"]
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        """f(u), log |det df/du|, and whether no coordinate is rounded to an edge."""
        lowest, highest = self._edges(u.dtype)
        inside = ((u > lowest - _SLACK) & (u < highest + _SLACK)).all(-1)
        # Clamped before the map, whose derivative would be infinite where its value is.
        z = self.transform(u.clamp(lowest, highest))
        if self.support == "positive":
            z = z.clamp(min=torch.finfo(u.dtype).tiny)
        return z, self.transform.log_abs_det_jacobian(u, z).sum(-1), inside


_CONSTRAINTS: dict[str, Any] = {
    "real": constraints.real,
    "positive": constraints.positive,
    "unit": constraints.unit_interval,
}


class Simplex:
    """z = softmax(V u), V an orthonormal basis of the vectors of R^K with sum 0, u in R^(K - 1).

    It treats all corners alike, where stick breaking depends on their order. The determinant is
    that of the first K - 1 coordinates, of which a density on the simplex is one:
    log |det| = sum_i log z_i + 1/2 log K.

    Args:
        corners: K, at least 2.
        dtype: The type of V.
        device: The device of V.

    References:
        Isometric Logratio Transformations for Compositional Data Analysis (Egozcue et al., 2003),
        https://doi.org/10.1023/A:1023818214614
    """

    def __init__(self, corners: int, dtype: torch.dtype, device: torch.device) -> None:
        # Helmert's basis: column j contrasts the mean of the first j + 1 coordinates with the next
        # one.
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
    ) -> tuple[Float[Tensor, "*batch event"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        """softmax(V u), its log |det|, and whether no coordinate underflows."""
        tiny = torch.finfo(u.dtype).tiny
        log_z = (u @ self.basis.mT).log_softmax(-1)
        inside = (log_z > math.log(tiny) - _SLACK).all(-1)
        return log_z.exp().clamp(min=tiny), log_z.sum(-1) + self.half_log_corners, inside


Bijection = Elementwise | Simplex


class Joint:
    """A bijection of several latents beside one another, each with its own.

    Args:
        parts: Site -> its bijection, in the order of their coordinates.
        like: Site -> a value, for the number of its coordinates.
    """

    def __init__(self, parts: Mapping[str, Bijection], like: Mapping[str, Tensor]) -> None:
        self.parts = dict(parts)
        self.sizes = [part.inverse(like[name]).shape[-1] for name, part in parts.items()]

    def inverse(self, z: Mapping[str, Float[Tensor, "..."]]) -> Float[Tensor, "*batch real"]:
        """u = f^-1(z) of each site, beside one another."""
        return torch.cat([part.inverse(z[name]) for name, part in self.parts.items()], -1)

    def __call__(
        self, u: Float[Tensor, "*batch real"]
    ) -> tuple[dict[str, Tensor], Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        """f(u) of each site, log |det df/du|, and whether no coordinate is rounded to an edge."""
        pieces = zip(self.parts.items(), u.split(self.sizes, -1), strict=True)
        found = {name: part(piece) for (name, part), piece in pieces}
        z, log_dets, inside = zip(*found.values(), strict=True)
        return (
            dict(zip(found, z, strict=True)),
            torch.stack(log_dets).sum(0),
            torch.stack(inside).all(0),
        )


def bijection_onto(
    distribution: Distribution, like: Tensor, *, site: str, support: str | None = None
) -> Bijection:
    """The bijection onto the support of a guide's distribution.

    Args:
        distribution: A distribution of vectors, with a density in all coordinates.
        like: A draw.
        site: The name of its site, for a message.
        support: The support as a word, if it is declared; otherwise it is read from the
            distribution's constraint.

    Raises:
        ValueError: If the support is not real, positive, unit or simplex, or the distribution has
            no differentiable density there or is not one of vectors.
    """
    base: Any = distribution
    while hasattr(base, "base_dist") and type(base).__name__ in (
        "Independent",
        "ExpandedDistribution",
    ):
        base = base.base_dist
    found = support if support is not None else _support_name(distribution.support)
    usable = distribution.has_rsample and not isinstance(base, SpikeAndSlab)
    if found not in (*_CONSTRAINTS, "simplex") or not usable:
        kind = found if found is not None else str(distribution.support)
        raise ValueError(
            "annealed importance sampling needs gradients of densities: the guide must be "
            f"reparameterisable, with support {', '.join(_CONSTRAINTS)} or simplex, but at site "
            f"{site!r} it is {type(base).__name__}, with support {kind}."
        )
    if len(distribution.event_shape) != 1:
        raise ValueError(
            f"annealed importance sampling needs a latent vector, but at site {site!r} the "
            f"guide's event shape is {tuple(distribution.event_shape)}."
        )
    if found == "simplex":
        return Simplex(like.shape[-1], like.dtype, like.device)
    return Elementwise(found)


def _support_name(support: object) -> str | None:
    """A constraint as a word, by class and bounds: torch's do not compare equal."""

    def is_everywhere(bound: object, value: float) -> bool:
        return bool(torch.as_tensor(bound).eq(value).all())

    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, type(constraints.real)):
        return "real"
    if isinstance(support, (constraints.greater_than, constraints.greater_than_eq)):
        return "positive" if is_everywhere(support.lower_bound, 0.0) else None
    if isinstance(support, constraints.interval):
        lower, upper = support.lower_bound, support.upper_bound
        return "unit" if is_everywhere(lower, 0.0) and is_everywhere(upper, 1.0) else None
    return "simplex" if isinstance(support, type(constraints.simplex)) else None
