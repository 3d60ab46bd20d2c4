"""Distributions of counts: Poisson, negative binomial and multinomial."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution

# The log of the largest mean, for draws and moments: its square is still representable in float32.
_MAXIMUM_LOG_MEAN = 40.0


def poisson_draws(rate: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Poisson draws of any finite rate: torch's of 1e19 is -9e18, the smallest 64-bit integer.

    At a rate of 1e15 the standard deviation is below the spacing of float32's numbers.
    """
    return torch.where(rate < 1e15, torch.poisson(rate.clamp(max=1e15)), rate.round())


class Poisson(dist.Poisson):
    """Poisson(lambda), with correct draws for every finite rate."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return poisson_draws(self.rate.expand(self._extended_shape(torch.Size(sample_shape))))


class NegativeBinomial(Distribution):
    r"""p(x) = Gamma(x + t) / (Gamma(t) x!) (t / (t + mu))^t (mu / (t + mu))^x, x = 0, 1, ...

    Mean mu and variance mu + mu^2 / t: the Poisson for a large inverse dispersion t. With
    `gate_logits` g it is zero-inflated: p(x) = sigmoid(g) [x = 0] + sigmoid(-g) NB(x | mu, t).

    torch's takes t and the logit of mu / (t + mu). Here parameters are logarithms and no mean is
    exponentiated, so log p is finite for any mean. It is computed in float64, because
    log Gamma(x + t) - log Gamma(t) at a large t is the difference of large numbers.

    Args:
        log_mean: log mu, before any inflation.
        log_inverse_dispersion: log t, whose exponential float32 must represent; broadcasts with
            `log_mean`.
        gate_logits: g, broadcasts with `log_mean`; None without inflation.
    """

    arg_constraints = {
        "log_mean": constraints.real,
        "log_inverse_dispersion": constraints.real,
    }
    support = constraints.nonnegative_integer  # pyright: ignore
    batched = ("log_mean", "log_inverse_dispersion", "gate_logits")
    has_rsample = False

    def __init__(
        self,
        log_mean: Float[Tensor, "*#batch"],
        log_inverse_dispersion: Float[Tensor, "*#batch"],
        gate_logits: Float[Tensor, "*#batch"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        gates = [] if gate_logits is None else [gate_logits]
        self.log_mean, self.log_inverse_dispersion, *gates = torch.broadcast_tensors(
            log_mean, log_inverse_dispersion, *gates
        )
        self.gate_logits = gates[0] if gates else None
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def log_prob(self, value: Real[Tensor, "*#batch"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), element by element."""
        if self._validate_args:
            self._validate_sample(value)
        x, log_mean = value.double(), self.log_mean.double()
        # Log-gamma functions are most of the work: compute one for each t, not for each copy of
        # it.
        log_t = _unexpanded(self.log_inverse_dispersion).double()
        t, log_odds = log_t.exp(), log_mean - log_t
        log_prob = (
            torch.lgamma(x + t)
            - torch.lgamma(t)
            - torch.lgamma(x + 1)
            - t * F.softplus(log_odds)
            - x * F.softplus(-log_odds)
        )
        if self.gate_logits is not None:
            gate = self.gate_logits.double()
            log_prob = F.logsigmoid(-gate) + log_prob
            log_prob = torch.where(x == 0, torch.logaddexp(F.logsigmoid(gate), log_prob), log_prob)
        return log_prob.to(self.log_mean.dtype)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Poisson draws with a gamma-distributed rate, `(*sample_shape, *batch_shape)`."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            t = self.log_inverse_dispersion.expand(shape).exp()
            mean = self.log_mean.clamp(max=_MAXIMUM_LOG_MEAN).exp()
            x = poisson_draws(dist.Gamma(t, t, validate_args=False).sample() * mean)
            if self.gate_logits is None:
                return x
            return x * torch.bernoulli(torch.sigmoid(-self.gate_logits).expand(shape))

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """mu, times the probability that the zero is not inflated."""
        mean = self.log_mean.clamp(max=_MAXIMUM_LOG_MEAN).exp()
        return mean if self.gate_logits is None else mean * torch.sigmoid(-self.gate_logits)

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        """mu + mu^2 / t; inflated by a gate of probability w, (1 - w) (mu + mu^2 (1 / t + w))."""
        mean = self.log_mean.clamp(max=_MAXIMUM_LOG_MEAN).exp()
        dispersion = (-self.log_inverse_dispersion).exp()
        if self.gate_logits is None:
            return mean + mean.square() * dispersion
        gate = torch.sigmoid(self.gate_logits)
        inflated = mean + mean.square() * (dispersion + gate)
        return torch.sigmoid(-self.gate_logits) * inflated


def _unexpanded(tensor: Tensor) -> Tensor:
    """Undo `expand`: keep one element of each axis of stride 0, which broadcasts as before."""
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


class Multinomial(Distribution):
    r"""p(x | N = sum_i x_i) = N! prod_i p_i^x_i / x_i!, p = softmax(f), for counts x.

    Each data point is scored given its own total, so this is a density for every N separately: the
    sum over all x of one total is 1. torch's has one total for the whole batch. Draws and moments
    need a total and use `total_count`.

    Args:
        logits: f, `(*batch, *event)`: all elements of an event share the total.
        total_count: The total of draws and moments, a whole number, `()`.
        event_dim: The number of axes of an event, at least 1.
    """

    arg_constraints = {"total_count": constraints.nonnegative_integer}
    batched = ("log_probs",)
    has_rsample = False

    def __init__(
        self,
        logits: Float[Tensor, "*batch_event"],
        total_count: Real[Tensor, ""],
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        batch, event = logits.shape[:-event_dim], logits.shape[-event_dim:]
        self.total_count = total_count
        self.log_probs = logits.flatten(-event_dim).log_softmax(-1).unflatten(-1, event)
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Counts, of any total."""
        return constraints.independent(constraints.nonnegative_integer, len(self.event_shape))

    def log_prob(self, value: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x | sum x), in float64: log N! and the log x! of a long text cancel."""
        if self._validate_args:
            self._validate_sample(value)
        axes = tuple(range(-len(self.event_shape), 0))
        x = value.double()
        terms = x * self.log_probs - torch.lgamma(x + 1)
        log_prob = terms.sum(axes) + torch.lgamma(x.sum(axes) + 1)
        return log_prob.to(self.log_probs.dtype)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with the total `total_count`, `(*sample_shape, *batch_shape, *event_shape)`."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            elements = math.prod(self.event_shape)
            probs = self.log_probs.expand(shape).exp().reshape(-1, elements)
            total = int(self.total_count)
            if total > elements:
                return _conditional_binomials(probs.double(), total).to(probs.dtype).view(shape)
            counts = torch.zeros_like(probs)
            if total:
                draws = torch.multinomial(probs, total, replacement=True)
                counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=counts.dtype))
            return counts.view(shape)

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """N p_i, for N = `total_count`."""
        return self.total_count * self.log_probs.exp()

    @property
    def variance(self) -> Float[Tensor, "*batch_event"]:
        """N p_i (1 - p_i), of each element, for N = `total_count`."""
        return self.mean * -self.log_probs.expm1()


def _conditional_binomials(
    probs: Float[Tensor, "rows elements"], total: int
) -> Float[Tensor, "rows elements"]:
    """Multinomial draws, element by element a binomial of the remaining total.

    One draw per unit of the total would need memory for each, and float32 sums of ones stop at
    2^24.
    """
    rest = probs.flip(-1).cumsum(-1).flip(-1).clamp(min=torch.finfo(probs.dtype).tiny)
    left = torch.full_like(probs[:, 0], total)
    counts = []
    for share in (probs / rest).clamp(max=1)[:, :-1].unbind(-1):
        # torch.binomial computes in float32 and may round a large count to more than the total.
        counts.append(torch.minimum(torch.binomial(left, share.contiguous()), left))
        left = left - counts[-1]
    return torch.stack([*counts, left], -1)
