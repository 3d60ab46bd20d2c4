"""Overdispersed counts, with or without surplus zeros, by their mean."""

from typing import ClassVar

import torch
from jaxtyping import Float, Real
from pyro.distributions import Gamma, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F
from torch.types import _size

from pyro_vae.distributions.poisson import poisson_draws

# Means and draws are of at most exp of this: their squares still are float32 numbers.
_MAXIMUM_LOG_MEAN = 40.0


class NegativeBinomial(TorchDistribution):
    r"""p(x) = Gamma(x + t) / (Gamma(t) x!) (t / (t + mu))^t (mu / (t + mu))^x, x = 0, 1, ...

    Mean mu and variance mu + mu^2 / t: the Poisson for a large inverse dispersion t. With
    `gate_logits` g it is zero-inflated: p(x) = sigmoid(g) [x = 0] + sigmoid(-g) NB(x | mu, t).

    Torch's takes t and the logit of mu / (t + mu). Here everything is a logarithm, and no mean is
    exponentiated: log p is finite however large or small the mean. The inside is float64, for
    log Gamma(x + t) - log Gamma(t) at a large t is the difference of large numbers.

    Args:
        log_mean: log mu, before any inflation.
        log_inverse_dispersion: log t, to be broadcast with it; float32 has its exponential.
        gate_logits: g, to be broadcast with it; None without inflation.
    """

    arg_constraints: ClassVar = {  # pyright: ignore
        "log_mean": constraints.real,
        "log_inverse_dispersion": constraints.real,
    }
    support = constraints.nonnegative_integer  # pyright: ignore
    has_rsample = False

    def __init__(
        self,
        log_mean: Float[Tensor, "*#batch"],
        log_inverse_dispersion: Float[Tensor, "*#batch"],
        gate_logits: Float[Tensor, "*#batch"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        given = [log_mean, log_inverse_dispersion]
        if gate_logits is not None:
            given.append(gate_logits)
        given = torch.broadcast_tensors(*given)
        self.log_mean, self.log_inverse_dispersion = given[:2]
        self.gate_logits = given[2] if gate_logits is not None else None
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "NegativeBinomial":
        """The same distributions, broadcast; nothing is copied."""
        gate = self.gate_logits
        new = NegativeBinomial(
            self.log_mean.expand(batch_shape),
            self.log_inverse_dispersion.expand(batch_shape),
            None if gate is None else gate.expand(batch_shape),
            validate_args=False,
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Real[Tensor, "*#batch"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), element by element."""
        if self._validate_args:
            self._validate_sample(value)
        x, log_mean = value.double(), self.log_mean.double()
        # Log-gamma functions are most of the work: one for each t, not one for each copy of it.
        log_t = _once(self.log_inverse_dispersion).double()
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
        """Poisson draws of a Gamma's rate, `(*sample_shape, *batch_shape)`. They carry no gradient."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            t = self.log_inverse_dispersion.expand(shape).exp()
            mean = self.log_mean.clamp(max=_MAXIMUM_LOG_MEAN).exp()
            rate = Gamma(t, t, validate_args=False).sample() * mean
            x = poisson_draws(rate)
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


def _once(tensor: Tensor) -> Tensor:
    """One of the copies along each axis that `expand` made, which broadcast as they did."""
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor
