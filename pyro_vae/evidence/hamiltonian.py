"""Hamiltonian Monte Carlo along the path from q(z | x) to p(x, z), many chains of many data at once."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.evidence.endpoints import Densities, Point

# The best share of accepted proposals in many dimensions (Neal, 2011, section 5.4.4.3).
TARGET_ACCEPTANCE = 0.65

# A transition's step size is the datum's times a factor uniform within this of 1: with one size, a
# trajectory can be a whole number of turns of a normal density, and end where it began.
_JITTER = 0.2

# Of log step sizes, by how far a transition's acceptance is from the target. Sixteen chains' acceptance
# has a standard error near 0.1.
_GAIN = 0.5
_WINDOW = 5


def transition(
    densities: Densities,
    point: Point,
    b: float,
    step_size: Float[Tensor, " batch"],
    scale: Float[Tensor, "batch real"],
    leapfrog_steps: int,
) -> tuple[Point, Float[Tensor, "chains batch"]]:
    """One transition that leaves f_b(u) = q^(1 - b) p^b, unnormalised, invariant, and is reversible.

    Momentum is standard normal, in units of `scale`. A proposal where a density or a gradient is not
    finite is rejected.

    Args:
        densities: Both log densities, and their gradients, at any u.
        point: Where the chains are.
        b: How far along the path, in (0, 1].
        step_size: The leapfrog step of each datum, in units of `scale`.
        scale: The diagonal preconditioner of each datum.
        leapfrog_steps: The number of leapfrog steps.

    Returns:
        Where the chains are next, and the probability with which each was to accept its proposal.

    References:
        MCMC using Hamiltonian Dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
    """
    momentum = torch.randn_like(point.u)
    like = point.log_q
    jitter = 1 + _JITTER * (2 * torch.rand_like(like) - 1)
    threshold = torch.rand_like(like).log()
    stride = (step_size * jitter).unsqueeze(-1).to(scale.dtype) * scale

    u, p = point.u, momentum + stride * _mixed(b, point) / 2
    # A tensor: a graph reads it anew.
    b_tensor = torch.full((), b, dtype=u.dtype, device=u.device)
    for _ in range(leapfrog_steps - 1):
        u, p = densities.leapfrog(b_tensor, stride, p, u)
    proposal = densities(u + stride * p)
    p = p + stride * _mixed(b, proposal) / 2
    gain = _log_density(proposal, b) - _kinetic(p) - (_log_density(point, b) - _kinetic(momentum))
    # From where the density is 0, whatever has one is accepted.
    finite = _log_density(proposal, b).isfinite() & p.isfinite().all(-1)
    gain = torch.where(finite, gain, -torch.inf)
    accepted = threshold < gain
    moved = Point(*(_where(accepted, new, old) for new, old in zip(proposal, point, strict=True)))
    return moved, gain.clamp(max=0).exp()


def adapted_step_sizes(
    densities: Densities,
    point: Point,
    path: Sequence[float],
    scale: Float[Tensor, "batch real"],
    leapfrog_steps: int,
    *,
    warm_up: int,
) -> Float[Tensor, "temperatures batch"]:
    """A step size for each datum at each b of a path, at which about 0.65 of proposals are accepted.

    Stochastic approximation along one pass over the path, smoothed over neighbouring temperatures.
    The chains of this pass are for nothing else: sizes that depended on the chains they move would
    leave their distribution not quite what it is said to be.

    Args:
        densities: Both log densities, and their gradients, at any u.
        point: Draws of q(z | x).
        path: Increasing b, in (0, 1].
        scale: The diagonal preconditioner of each datum.
        leapfrog_steps: The number of leapfrog steps.
        warm_up: The number of transitions at the first b before it counts.
    """
    # Of a normal density in d dimensions, the best step is of the order of d^(-1/4).
    log_step = torch.full_like(point.log_q[0], -math.log(point.u.shape[-1]) / 4)
    found = []
    for i, b in enumerate([*([path[0]] * warm_up), *path]):
        point, acceptance = transition(densities, point, b, log_step.exp(), scale, leapfrog_steps)
        # Quicker while there is farther to go.
        gain = _GAIN * max(1.0, 3.0 * (1 - i / warm_up)) if warm_up else _GAIN
        log_step = log_step + gain * (acceptance.mean(0) - TARGET_ACCEPTANCE)
        if i >= warm_up:
            found.append(log_step)
    sizes = torch.stack(found)
    padded = torch.cat(
        [sizes[:1].expand(_WINDOW // 2, -1), sizes, sizes[-1:].expand(_WINDOW // 2, -1)]
    )
    return padded.unfold(0, _WINDOW, 1).mean(-1).exp()


def _mixed(b: float, point: Point) -> Tensor:
    return (1 - b) * point.gradient_q + b * point.gradient_joint


def _log_density(point: Point, b: float) -> Tensor:
    """log f_b, for b > 0: -inf where p(x, z) is 0, and never NaN."""
    if b == 1:
        return point.log_joint
    both = (1 - b) * point.log_q + b * point.log_joint
    return both.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _kinetic(momentum: Tensor) -> Tensor:
    return momentum.double().square().sum(-1) / 2


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(
        accepted if new.dim() == accepted.dim() else accepted.unsqueeze(-1), new, old
    )
