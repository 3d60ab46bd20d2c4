"""Gamma, beta, Dirichlet and logistic normal distributions, with draws inside their supports."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints
from torch.distributions.dirichlet import _Dirichlet
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution

# Below this log g, log F(g) = a log g - log Gamma(a + 1) is exact to rounding.
_SMALL_LOG = -40.0


def _log_gamma_draw(concentration: Tensor) -> Tensor:
    """log G of G ~ Gamma(a, 1): log G' + log(U) / a, with G' ~ Gamma(a + 1, 1) and U uniform.

    With a far below 1, G underflows even in float64, but its logarithm does not.

    References:
        A Simple Method for Generating Gamma Variables (Marsaglia & Tsang, 2000), section 6,
        https://doi.org/10.1145/358407.358414
    """
    larger = torch._standard_gamma(concentration + 1)  # pyright: ignore[reportPrivateImportUsage]
    # 1 - u is uniform on (0, 1]: its logarithm is finite.
    return larger.log() + (-torch.rand_like(concentration)).log1p() / concentration


class _LogGamma(torch.autograd.Function):
    """A draw of log G, G ~ Gamma(a, 1), with the implicit gradient -(dF/da) / (g f(g))."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor) -> Tensor:
        log_gamma = _log_gamma_draw(concentration)
        ctx.save_for_backward(concentration, log_gamma)
        return log_gamma

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        a, log_gamma = ctx.saved_tensors
        gamma = log_gamma.clamp(min=_SMALL_LOG).exp()
        slope = torch._standard_gamma_grad(a, gamma) / gamma  # pyright: ignore[reportPrivateImportUsage]
        small = ((a + 1).digamma() - log_gamma) / a
        return grad * torch.where(log_gamma < _SMALL_LOG, small, slope)


class _LogSpaceDirichlet(_Dirichlet):
    """Dirichlet draws as the softmax of log-gamma draws, with torch's implicit gradients."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x = _inside(_log_gamma_draw(concentration).softmax(-1))
        ctx.save_for_backward(x, concentration)
        return x


def _inside(value: Tensor) -> Tensor:
    """The value, at least the smallest normal number."""
    return value.clamp(min=torch.finfo(value.dtype).tiny)


def dirichlet_draw(
    concentration: Float[Tensor, "*batch corners"],
) -> Float[Tensor, "*batch corners"]:
    """A draw of Dirichlet(alpha) in float64 for each row of alpha, of any size above 0.

    It is computed from the logarithms of gamma variables: where alpha is far below 1 the variables
    themselves may all underflow, and their ratios would be the exact centre. Gradients are torch's
    implicit ones. No coordinate is below float64's smallest normal number.

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018),
        https://arxiv.org/abs/1805.08498
    """
    draw: Tensor = _LogSpaceDirichlet.apply(concentration.double())  # pyright: ignore
    return draw


class InteriorGamma(dist.Gamma):
    """Gamma(z | a, b), where a draw that underflows is the smallest normal number.

    In float32 that number, tiny = 1.2e-38, stands for all of the mass below it, about
    (b tiny)^a / Gamma(a + 1): with b = 1, 1e-4 at a = 0.1, 1 % at a = 0.05 and 92 % at a = 0.001.

    Draws are computed as logarithms and densities in float64, because
    a log(b z) - b z - log Gamma(a) cancels. Gradients of draws are implicit.

    References:
        Implicit Reparameterization Gradients (Figurnov et al., 2018),
        https://arxiv.org/abs/1805.08498
    """

    # The newest torch has one more argument, which Pyro does not pass.
    def rsample(self, sample_shape: _size = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draws above 0, `(*sample_shape, *batch_shape)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        log_standard: Tensor = _LogGamma.apply(self.concentration.expand(shape).double())  # pyright: ignore
        value = (log_standard - self.rate.double().log()).exp()
        limits = torch.finfo(self.rate.dtype)
        return value.clamp(limits.tiny, limits.max).to(self.rate.dtype)

    def sample(self, sample_shape: _size = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draws without gradients."""
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

    In float32 these ends, 1.2e-38 and 1 - 1.2e-7, stand for all of the mass beyond them: 1 % and
    22 % of the draws with a = b = 0.05, 46 % and 49 % with a = b = 0.001.

    The density is computed in float64.
    """

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws inside (0, 1), `(*sample_shape, *batch_shape)`."""
        concentration = torch.stack([self.concentration1, self.concentration0], -1)
        shape = self._extended_shape(torch.Size(sample_shape))
        value = dirichlet_draw(concentration.expand(*shape, 2))[..., 0]
        limits = torch.finfo(concentration.dtype)
        return value.clamp(limits.tiny, 1 - limits.eps).to(concentration.dtype)

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

    Draws and densities are computed in float64. In float32 the smallest normal number, 1.2e-38,
    stands for all of the mass below it: with alpha = 0.001 most draws are a corner, whose other
    coordinates are that number.
    """

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws inside the simplex, `(*sample_shape, *batch_shape, corners)`."""
        concentration = self.concentration.expand(self._extended_shape(torch.Size(sample_shape)))
        return _inside(dirichlet_draw(concentration).to(concentration.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """sum_i (alpha_i - 1) log z_i + log Gamma(sum_i alpha_i) - sum_i log Gamma(alpha_i)."""
        if self._validate_args:
            self._validate_sample(value)
        alpha = self.concentration.double()
        kernel = torch.special.xlogy(alpha - 1, value.double()).sum(-1)
        return (kernel + alpha.sum(-1).lgamma() - alpha.lgamma().sum(-1)).to(value.dtype)


class LogisticNormal(Distribution):
    r"""z = softmax(eta), eta ~ N(m, diag(s^2)) with a variable for each of the K corners.

    Softmax is invariant to a constant added to all of eta. With that integrated out, w_i = s_i^-2,
    W = sum_i w_i, r_i = log z_i - m_i and r' = sum_i w_i r_i / W, the density of the first K - 1
    coordinates is

        log p(z) = -sum_i log z_i - sum_i log s_i - (K - 1)/2 log 2 pi - 1/2 log W
                   - 1/2 sum_i w_i (r_i - r')^2.

    torch's stick-breaking version depends on the order of the corners, and its float32 draws reach
    0 and 1, where it has no density. Here draws are at least the smallest normal number. The mean
    has no closed form; `center` is softmax(m).

    Args:
        loc: m, `(*batch, corners)`; a constant added to all of them changes nothing.
        scale: s, `(*batch, corners)`.

    References:
        Logistic-Normal Distributions: Some Properties and Uses (Atchison & Shen, 1980),
        https://doi.org/10.1093/biomet/67.2.261
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.simplex  # pyright: ignore
    batched = ("loc", "scale")
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*batch corners"],
        scale: Float[Tensor, "*batch corners"],
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=validate_args)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, corners)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        z = (self.loc + self.scale * noise).softmax(-1)
        return z.clamp(min=torch.finfo(z.dtype).tiny)

    def log_prob(self, value: Float[Tensor, "*points corners"]) -> Float[Tensor, "*broadcast"]:
        """log p(z), in float64: the logarithms of small coordinates cancel."""
        if self._validate_args:
            self._validate_sample(value)
        log_z, scale = value.double().log(), self.scale.double()
        quadratic, log_normaliser = centred(log_z - self.loc.double(), scale)
        return (-log_z.sum(-1) - log_normaliser - quadratic / 2).to(value.dtype)

    @property
    def center(self) -> Float[Tensor, "*batch corners"]:
        """softmax(m), the point at which eta is at its mean."""
        return self.loc.softmax(-1)


def centred(
    residual: Float[Tensor, "*shape corners"], scale: Float[Tensor, "*batch corners"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*batch"]]:
    """sum_i w_i (r_i - r')^2, and sum_i log s_i + (K - 1)/2 log 2 pi + 1/2 log W."""
    weight = scale**-2
    mean = (weight * residual).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
    quadratic = (weight * (residual - mean).square()).sum(-1)
    half = (scale.shape[-1] - 1) / 2 * math.log(2 * math.pi)
    return quadratic, scale.log().sum(-1) + half + weight.sum(-1).log() / 2
