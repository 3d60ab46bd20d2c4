"""The angle between a von Mises-Fisher draw and its mean direction."""

import functools
import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _disable_current_modes

# In each of `_CELLS` cells the density is the polynomial through its values at `_NODES`
# Gauss-Legendre points. A cell is at most about one standard deviation wide.
_CELLS, _NODES = 32, 10
# Outside the cells the density is below e^-40 = 4e-18 of its maximum.
_DROP = 40.0
# Convergence is quadratic after a few short steps in the tails, where the density varies within a
# cell.
_NEWTON_STEPS = 7


class PolarAngle:
    r"""f(t) = exp(-2 kappa x) (x (1 - x))^((d - 2) / 2) / I on [0, pi], with x = sin^2(t / 2).

    It is exp(kappa (cos t - 1)) sin^(d-2) t, up to a constant. The interval where it is not
    negligible is cut into cells, in each of which the density is a polynomial. One table then
    gives everything: the integral I by Gauss-Legendre quadrature, and a draw t = F^-1(u) by a
    search for the cell and a fixed number of Newton steps in it. Differentiating F(t; kappa) = u
    in kappa at a fixed u gives dt/dkappa = -(dF/dkappa) / f, from the same table.

    The table depends on kappa only and is computed once, in float64.

    Args:
        concentration: kappa > 0.
        dim: d, the length of a point on the sphere.

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018),
        https://arxiv.org/abs/1805.08498
    """

    def __init__(self, concentration: Float[Tensor, "*batch"], dim: int) -> None:
        self.concentration = concentration.double()
        # As an exponent of x (1 - x).
        self.exponent = (dim - 2) / 2

    @property
    def log_integral(self) -> Float[Tensor, "*batch"]:
        """log of the integral of exp(kappa (cos t - 1)) sin^(d-2) t over [0, pi]."""
        table = self._table
        return _Known.apply(self.concentration, table.log_integral, -2 * table.mean)

    @property
    def mean_depth(self) -> Float[Tensor, "*batch"]:
        """E[x] = (1 - E[cos t]) / 2, accurate where cos t is almost 1."""
        table = self._table
        return _Known.apply(self.concentration, table.mean, -2 * table.variance)

    def rsample(self, shape: torch.Size) -> Float[Tensor, "*shape"]:
        """Draws of a shape that ends with the batch shape, or with what that broadcasts to."""
        uniform = torch.rand(shape, dtype=torch.float64, device=self.concentration.device)
        with torch.no_grad():
            angle, derivative = self._inverse(uniform)
        return _Known.apply(self.concentration.expand(shape), angle, derivative)

    @cached_property
    def _table(self) -> "_Table":
        with torch.no_grad():
            return self._tabulate(self.concentration.detach())

    def _log_density(self, kappa: Tensor, x: Tensor) -> Tensor:
        """The log density of t, up to a constant."""
        log_density = -2 * kappa * x
        if self.exponent:
            log_density = log_density + self.exponent * (x * (1 - x)).log()
        return log_density

    def _interval(self, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mode of x, and where the density in t has fallen by e^-40 on both sides of it.

        h(x) = -2 kappa x + a log x + a log(1 - x) is concave with -h'' >= 8 a, and
        -h'' >= a / mode^2 below its mode. Above, it falls faster than the gamma density x^a exp(-2
        kappa x), and r - 1 - log r >= (r - 1)^2 / (2 r) for r >= 1. Each gives a bound, of which
        the tightest is used.
        """
        a = self.exponent
        mode = a / (kappa + a + (kappa.square() + a * a).sqrt())
        high = (a + _DROP + math.sqrt(_DROP * _DROP + 2 * a * _DROP)) / (2 * kappa)
        low = torch.zeros_like(mode)
        if a:
            reach = math.sqrt(_DROP / a)
            high = torch.minimum(high, mode + reach / 2)
            low = torch.maximum(mode - reach / 2, mode * (1 - math.sqrt(2) * reach)).clamp(min=0)
        return mode, low, high.clamp(max=1)

    def _tabulate(self, kappa: Tensor) -> "_Table":
        constants = _constants(kappa.device)
        mode, low, high = self._interval(kappa)
        start, end = (2 * x.sqrt().asin() for x in (low, high))
        width = (end - start) / _CELLS
        k = kappa[..., None, None]
        # Axes: batch, cells, nodes.
        steps = constants.cells[:, None] + (1 + constants.nodes) / 2
        x = ((start[..., None, None] + width[..., None, None] * steps) / 2).sin().square()
        # sin^(d-2) t underflows at a small mode in a high dimension.
        largest = self._log_density(kappa, mode) if self.exponent else torch.zeros_like(kappa)
        density = (self._log_density(k, x) - largest[..., None, None]).exp()
        half = width[..., None, None] / 2
        mass = density * constants.weights * half
        total = mass.sum((-2, -1), keepdim=True)
        mass, density = mass / total, density * half / total
        mean = (mass * x).sum((-2, -1), keepdim=True)
        centred = x - mean

        def antiderivative(values: Tensor) -> tuple[Tensor, Tensor]:
            """Values at the cells' ends, and the polynomial's coefficients within them."""
            within = values @ constants.antiderivative
            sums = (values * constants.weights).sum(-1).cumsum(-1)
            ends = torch.cat([torch.zeros_like(sums[..., :1]), sums], -1)
            within = torch.cat([within[..., :1] + ends[..., :-1, None], within[..., 1:]], -1)
            return ends, within

        ends, distribution = antiderivative(density)
        # d log f / dkappa = -2 (x - E[x]).
        _, slope = antiderivative(-2 * density * centred)
        # sin^(d-2) t = 4^a (x (1 - x))^a.
        log_integral = total[..., 0, 0].log() + largest + self.exponent * math.log(4)
        return _Table(
            start,
            width,
            ends,
            distribution,
            slope,
            log_integral,
            largest + total[..., 0, 0].log(),
            mean[..., 0, 0],
            (mass * centred.square()).sum((-2, -1)),
        )

    def _inverse(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """t with F(t) = u, and dt/dkappa."""
        table = self._table
        axes = self.concentration.dim()
        batch = uniform.shape[uniform.dim() - axes :]
        rows = math.prod(batch)

        def flat(values: Tensor, *trailing: int) -> Tensor:
            return values.expand((*batch, *trailing)).reshape(rows, *trailing)

        # One row per distribution, as searchsorted needs.
        u = uniform.reshape(-1, rows).mT.contiguous()
        ends = flat(table.ends, _CELLS + 1)
        cell = torch.searchsorted(ends[:, 1:-1].contiguous(), u, right=True)
        left, right = ends.gather(1, cell), ends.gather(1, cell + 1)
        place = cell + _CELLS * torch.arange(rows, device=u.device)[:, None]

        def polynomial(coefficients: Tensor) -> list[Tensor]:
            coefficients = flat(coefficients, _CELLS, _NODES + 1).reshape(-1, _NODES + 1)
            return list(coefficients.mT.contiguous()[:, place])

        distribution = polynomial(table.distribution)
        share = (u - left) / (right - left).clamp(min=1e-300)
        # The density grows as t^(d-2) at 0, and falls likewise at pi.
        power = 1 / (2 * self.exponent + 1)
        first = torch.where(cell == 0, share.pow(power), share)
        s = 2 * torch.where(cell == _CELLS - 1, 1 - (1 - share).pow(power), first) - 1
        for _ in range(_NEWTON_STEPS):
            s = s.clamp(-1, 1)
            value, slope = _horner(distribution, s)
            s = s - (value - u) / slope.clamp(min=1e-300)
        s = s.clamp(-1, 1)
        start, width, kappa, log_total = (
            flat(values)[:, None]
            for values in (table.start, table.width, self.concentration, table.log_total)
        )
        angle = start + width * (cell + (1 + s) / 2)
        x = (angle / 2).sin().square()
        # At the ends of the interval the density may round to 0.
        density = (self._log_density(kappa, x) - log_total).exp().clamp(min=1e-30)
        by_kappa, _ = _horner(polynomial(table.slope), s)
        derivative = -by_kappa / density
        return angle.mT.reshape(uniform.shape), derivative.mT.reshape(uniform.shape)


class _Table(NamedTuple):
    """F and dF/dkappa as polynomials in the cells, and moments of x."""

    start: Tensor
    width: Tensor
    ends: Tensor
    distribution: Tensor
    slope: Tensor
    log_integral: Tensor
    log_total: Tensor
    mean: Tensor
    variance: Tensor


class _Known(torch.autograd.Function):
    """An elementwise function with a given value and derivative."""

    @staticmethod
    def forward(ctx: Any, variable: Tensor, value: Tensor, derivative: Tensor) -> Tensor:
        ctx.save_for_backward(derivative)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        (derivative,) = ctx.saved_tensors
        return grad * derivative, None, None


def _horner(coefficients: list[Tensor], s: Tensor) -> tuple[Tensor, Tensor]:
    """A polynomial's value and derivative; coefficients start with the lowest power."""
    value, slope = coefficients[-1], torch.zeros_like(s)
    for coefficient in reversed(coefficients[:-1]):
        slope = slope * s + value
        value = value * s + coefficient
    return value, slope


class _Constants(NamedTuple):
    """Gauss-Legendre points and weights on [-1, 1].

    `values @ antiderivative` are the coefficients of the integral, from -1, of the polynomial
    through the values at the points.
    """

    nodes: Tensor
    weights: Tensor
    antiderivative: Tensor
    cells: Tensor


@functools.cache
def _constants(device: torch.device) -> _Constants:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    powers = np.arange(1, _NODES + 1)
    integrated = np.linalg.inv(np.vander(nodes, increasing=True)).T / powers
    from_the_left = -(integrated * (-1.0) ** powers).sum(1, keepdims=True)
    antiderivative = np.concatenate([from_the_left, integrated], 1)
    # The cached constants outlive a trace in which they may be computed, so they must not be part
    # of it.
    with _disable_current_modes():
        return _Constants(
            *(
                torch.from_numpy(values).to(device)
                for values in (nodes, weights, antiderivative, np.arange(float(_CELLS)))
            )
        )
