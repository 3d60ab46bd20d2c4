"""Gamma, beta and Dirichlet distributions whose draws stay inside their supports in finite precision."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.dirichlet import _Dirichlet
from torch.types import _size


def _inside(value: Tensor) -> Tensor:
    """The value, no nearer to 0 than the smallest normal number."""
    return value.clamp(min=torch.finfo(value.dtype).tiny)


class InteriorGamma(dist.Gamma):
    """Gamma(z | a, b), where a draw that underflows is the smallest normal number.

    Its density is summed in float64, where a log(b z) - b z - log Gamma(a) cancels. Gradients of
    draws are implicit ones, torch's.

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018), https://arxiv.org/abs/1805.08498
    """

    # The newest torch has a further argument, the oldest tested has not; Pyro passes neither.
    def rsample(self, sample_shape: _size = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draws above 0, `(*sample_shape, *batch_shape)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        concentration = self.concentration.expand(shape)
        standard = torch._standard_gamma(concentration)  # pyright: ignore[reportPrivateImportUsage]
        value = _inside(standard / self.rate.expand(shape))
        return value.clamp(max=torch.finfo(value.dtype).max)

    def sample(self, sample_shape: _size = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The same without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """a log b + (a - 1) log z - b z - log Gamma(a)."""
        if self._validate_args:
            self._validate_sample(value)
        a, b, z = self.concentration.double(), self.rate.double(), value.double()
        log_prob = a * b.log() + (a - 1) * z.log() - b * z - a.lgamma()
        return log_prob.to(value.dtype)


class InteriorBeta(dist.Beta):
    """Beta(z | a, b), where draws lie in [tiny, 1 - epsilon] of their type.

    Its density is computed in float64, of log z and log(1 - z) themselves.
    """

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws inside (0, 1), `(*sample_shape, *batch_shape)`."""
        value = super().rsample(sample_shape)
        limits = torch.finfo(value.dtype)
        return value.clamp(limits.tiny, 1 - limits.eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """(a - 1) log z + (b - 1) log(1 - z) - log B(a, b)."""
        if self._validate_args:
            self._validate_sample(value)
        a, b, z = self.concentration1.double(), self.concentration0.double(), value.double()
        normaliser = a.lgamma() + b.lgamma() - (a + b).lgamma()
        log_prob = torch.special.xlogy(a - 1, z) + torch.special.xlog1py(b - 1, -z) - normaliser
        return log_prob.to(value.dtype)


class InteriorDirichlet(dist.Dirichlet):
    """Dirichlet(z | alpha), where no coordinate of a draw is below the smallest normal number.

    Draws and densities are computed in float64: with concentrations far below 1 all gamma variables
    underflow in float32, and their ratios are no numbers.
    """

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws inside the simplex, `(*sample_shape, *batch_shape, corners)`."""
        concentration = self.concentration.expand(self._extended_shape(torch.Size(sample_shape)))
        value: Tensor = _Dirichlet.apply(concentration.double())  # pyright: ignore
        return _inside(value.to(concentration.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i (alpha_i - 1) log z_i + log Gamma(sum_i alpha_i) - sum_i log Gamma(alpha_i)."""
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration.double()
        kernel = torch.special.xlogy(alpha - 1, value.double()).sum(-1)
        return (kernel + alpha.sum(-1).lgamma() - alpha.lgamma().sum(-1)).to(value.dtype)
