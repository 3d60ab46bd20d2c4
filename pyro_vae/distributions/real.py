"""Distributions on the real line: normals, their mixtures and flows, and heavy tails."""

import math
from typing import Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import clamp_probs
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution


class LowRankNormal(Distribution):
    r"""N(x | mu, W W^T + diag(sigma^2)), over all D elements of an event together.

    With V = W / sigma and d = (x - mu) / sigma, the quadratic form is |d|^2 - |L^-1 V^T d|^2 and
    the log determinant 2 sum log sigma + 2 sum log diag L, for the Cholesky factor L of I + V^T V
    (rank x rank). L is computed once, at construction, in float64, and for the factor's leading
    axes only: a factor that the whole batch shares needs one.

    Args:
        loc: mu, `(*batch, *event)`.
        factor: W, `(*leading, D, rank)`, for D elements; its leading axes are none, or the batch.
        scale: sigma, `(*leading, *event)`.
        event_dim: The number of axes of an event, at least 1.
    """

    batched = ("loc",)
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*batch_event"],
        factor: Float[Tensor, "*leading elements rank"],
        scale: Float[Tensor, "*leading_event"],
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        batch, event = loc.shape[: loc.dim() - event_dim], loc.shape[loc.dim() - event_dim :]
        self.loc, self.factor = loc.flatten(-event_dim), factor
        self.scale = scale.flatten(-event_dim)
        self.woodbury = woodbury(factor, self.scale)
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Real events."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Float[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), in float64: the quadratic form's two terms are large where sigma is small."""
        if self._validate_args:
            self._validate_sample(value)
        standard, cholesky, log_determinant = self.woodbury
        x = value.flatten(-len(self.event_shape)).double()
        d = (x - self.loc.double()) / self.scale.double()
        # A shared factor is one matrix product for the whole batch.
        shared = standard.dim() == 2
        projected = (d @ standard)[..., None] if shared else standard.mT @ d[..., None]
        inner = torch.linalg.solve_triangular(cholesky, projected, upper=False)[..., 0]
        quadratic = d.square().sum(-1) - inner.square().sum(-1)
        constant = d.shape[-1] * math.log(2 * math.pi)
        return (-(quadratic + log_determinant + constant) / 2).to(self.loc.dtype)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """mu + W noise + sigma noise, `(*sample_shape, *batch_shape, *event_shape)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        options = {"dtype": self.loc.dtype, "device": self.loc.device}
        shared = torch.randn(*shape, self.factor.shape[-1], 1, **options)
        independent = torch.randn(*shape, self.loc.shape[-1], **options)
        x = self.loc + (self.factor @ shared)[..., 0] + self.scale * independent
        return x.view(shape + self.event_shape)

    @property
    def covariance_matrix(self) -> Float[Tensor, "*leading elements elements"]:
        """W W^T + diag(sigma^2), with as many leading axes as the factor has."""
        return self.factor @ self.factor.mT + torch.diag_embed(self.scale.square())

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """mu."""
        return self.loc.reshape(self._extended_shape())

    @property
    def variance(self) -> Float[Tensor, "*batch_event"]:
        """sum_r W_ir^2 + sigma_i^2, of each element."""
        variance = self.factor.square().sum(-1) + self.scale.square()
        return variance.expand_as(self.loc).reshape(self._extended_shape())


def woodbury(
    factor: Float[Tensor, "*leading elements rank"], scale: Float[Tensor, "*leading elements"]
) -> tuple[Tensor, Tensor, Tensor]:
    """V = W / sigma, the Cholesky factor of I + V^T V, log |W W^T + diag(sigma^2)|; in float64.

    References:
        Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), appendix A.3.
    """
    scale = scale.double()
    standard = factor.double() / scale[..., None]
    identity = torch.eye(factor.shape[-1], dtype=torch.float64, device=factor.device)
    # Checking for success would break the graph, and I + V^T V is positive definite.
    cholesky = torch.linalg.cholesky_ex(identity + standard.mT @ standard).L
    diagonal = cholesky.diagonal(dim1=-2, dim2=-1)
    return standard, cholesky, 2 * (scale.log().sum(-1) + diagonal.log().sum(-1))


class DiagonalNormalMixture(Distribution):
    r"""p(z) = sum_k w_k N(z | mu_k, diag(sigma_k^2)), one mixture for the whole batch.

    `MixtureSameFamily` holds n x K x d numbers to compute the density of n points. Expanding the
    quadratic form, sum_j z_j^2 / s_kj^2 - 2 sum_j z_j m_kj / s_kj^2 + sum_j m_kj^2 / s_kj^2, takes
    two matrix products and n x K numbers: about 20 times faster with K = 500 and d = 50. The
    products are in float64, because in float32 the terms of a narrow component cancel to noise.

    Args:
        logits: log w, up to a constant, `(components,)`.
        loc: mu, `(components, dim)`.
        scale: sigma, `(components, dim)`.
    """

    arg_constraints = {
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector  # pyright: ignore
    has_rsample = False

    def __init__(
        self,
        logits: Float[Tensor, " components"],
        loc: Float[Tensor, "components dim"],
        scale: Float[Tensor, "components dim"],
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(), loc.shape[-1:], validate_args=validate_args)

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """log p(z), of value's leading axes broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        z, loc, scale = value.double(), self.loc.double(), self.scale.double()
        precision = scale**-2
        quadratic = z.square() @ precision.mT - 2 * z @ (loc * precision).mT
        constant = (loc.square() * precision + 2 * scale.log() + math.log(2 * math.pi)).sum(-1)
        log_weights = self.logits.double().log_softmax(-1)
        log_prob = torch.logsumexp(log_weights - (quadratic + constant) / 2, -1).to(value.dtype)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, dim)`, without a gradient."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            component = torch.multinomial(
                self.logits.softmax(-1), math.prod(shape[:-1]), replacement=True
            )
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.loc[component].view(shape) + self.scale[component].view(shape) * noise

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """sum_k w_k mu_k."""
        return (self.logits.softmax(-1) @ self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Float[Tensor, "*batch dim"]:
        """sum_k w_k (sigma_k^2 + mu_k^2) - mean^2, of each coordinate."""
        second = self.logits.softmax(-1) @ (self.scale.square() + self.loc.square())
        return second.expand(self._extended_shape()) - self.mean.square()


# A limit on log |t / sqrt(df)|, so that float32 represents t times a scale of up to e^18. Noise of
# float32 reaches it only with a df below 0.24, noise of float64 with a df below 0.53.
_LARGEST_LOG = 70.0


class StudentT(dist.StudentT):
    r"""p(z) of z = loc + scale t, t with df degrees of freedom; sampled by Bailey's polar method.

    t = sqrt(df (u^(-2 / df) - 1)) cos(2 pi v), with u and v uniform on [0, 1). As df -> infinity
    this is the Box-Muller method. torch divides a normal by the root of a gamma variable, which is
    sampled by rejection, differentiated implicitly in df, and rounds to 0 where df is small. Here
    the noise does not depend on the parameters, so several processes can share it, and gradients
    are explicit.

    The density is computed in float64 because its two log-gamma functions cancel: with a df of
    1e6, float32 gets the first digit wrong.

    Args:
        df: The degrees of freedom, above 0; the mean exists above 1, the variance above 2.
        loc: The median, and the mean where there is one.
        scale: The scale.

    References:
        Polar generation of random variates with the t-distribution (Bailey, 1994),
        https://doi.org/10.2307/2153537
    """

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, differentiable in `df`, `loc` and `scale`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        like = {"dtype": self.df.dtype, "device": self.df.device}
        # Not 0, where the root below has no derivative.
        u = torch.rand(shape, **like).clamp(min=torch.finfo(self.df.dtype).eps)
        v = torch.rand(shape, **like)
        log_root = (-torch.log1p(-u) / self.df).clamp(max=_LARGEST_LOG)
        # sqrt(df (e^(2 l) - 1)), of which the square would overflow.
        radius = log_root.exp() * (self.df * -torch.expm1(-2 * log_root)).sqrt()
        return self.loc + self.scale * radius * torch.cos(2 * math.pi * v)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, of the value's shape broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        df, loc, scale = self.df.double(), self.loc.double(), self.scale.double()
        y = (value.double() - loc) / scale
        normaliser = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - (df * math.pi).log() / 2
        log_prob = normaliser - scale.log() - (df + 1) / 2 * torch.log1p(y.square() / df)
        return log_prob.to(value.dtype)


class Logistic(dist.Logistic):
    """Pyro's logistic distribution, with finite draws."""

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """loc + scale logit(u), with u uniform and at least one rounding away from 0 and 1."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.icdf(clamp_probs(uniform))


@runtime_checkable
class Bijection(Protocol):
    """An invertible map f(., h) of a vector, with or without a context h."""

    def __call__(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """f(u, h) and log |det df/du|."""
        ...

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u = f^-1(z, h), and log |det df/du| of f at that u."""
        ...


class NormalFlow(Distribution):
    """z = f(u, h), u ~ N(mu, diag(sigma^2)): log p(z) = log N(f^-1(z, h)) - log |det df/du|.

    `log_prob` of the tensor that `rsample` has just returned reuses the density of that draw and
    needs no inverse; of any other value it computes f^-1. The two agree, in value and in gradient.
    A draw made without gradients is inverted if gradients are enabled later. The cache belongs to
    this distribution object, so a trace of the program sees both paths as plain operations.

    Args:
        loc: mu, `(*batch, dim)`.
        scale: sigma, `(*batch, dim)`.
        bijection: f, usually a module with parameters.
        context: h, `(*batch, width)`, or None. It is never expanded: leading axes broadcast.
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*batch dim"],
        scale: Float[Tensor, "*batch dim"],
        bijection: Bijection,
        context: Float[Tensor, "*batch width"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.bijection, self.context = loc, scale, bijection, context
        # The last draw, its log density, and whether gradients were enabled.
        self._cache: tuple[Tensor, Tensor, bool] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "NormalFlow":
        """The same distribution, independently for each element of a larger batch."""
        new = super().expand(batch_shape)
        new._cache = None
        return new

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, dim)`, differentiable in all parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        z, log_det = self.bijection(self.loc + self.scale * noise, self.context)
        # From the noise itself, without the cancellation in (u - loc) / scale.
        log_prob = self._log_normal(noise) - log_det
        self._cache = z, log_prob, torch.is_grad_enabled()
        return z

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """log p(z), of value's leading axes broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        if self._cache is not None and value is self._cache[0]:
            _, log_prob, differentiable = self._cache
            if differentiable or not torch.is_grad_enabled():
                return log_prob
        u, log_det = self.bijection.inverse(value, self.context)
        log_prob = self._log_normal((u - self.loc) / self.scale) - log_det
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def _log_normal(self, noise: Tensor) -> Tensor:
        constant = math.log(2 * math.pi) / 2
        return -(noise.square() / 2 + self.scale.log() + constant).sum(-1)
