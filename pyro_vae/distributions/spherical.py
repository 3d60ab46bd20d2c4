"""Distributions on the unit sphere in R^d: uniform, von Mises-Fisher and power spherical."""

import math

import torch
from jaxtyping import Float
from pyro.distributions import constraints
from torch import Tensor
from torch.types import _size

from pyro_vae.distributions.constrained import dirichlet_draw
from pyro_vae.distributions.distribution import Distribution
from pyro_vae.distributions.polar_angle import PolarAngle


def log_surface_area(dim: int) -> float:
    """log(2 pi^(d/2) / Gamma(d/2)), for the unit sphere in R^d, whose own dimension is d - 1."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def _check_dim(point: Tensor) -> None:
    if point.shape[-1] < 2:
        raise ValueError(f"a sphere lies in at least 2 dimensions, got {point.shape[-1]}.")


class SphericalUniform(Distribution):
    """p(z) = Gamma(d/2) / (2 pi^(d/2)) on the unit sphere in R^d, a standard normal's direction.

    Args:
        like: `(*batch, dim)`. Only its shape, type and device matter.

    Raises:
        ValueError: If d is below 2.
    """

    support = constraints.sphere  # pyright: ignore
    batched = ("_like",)
    has_rsample = True

    def __init__(
        self, like: Float[Tensor, "*batch dim"], validate_args: bool | None = None
    ) -> None:
        _check_dim(like)
        self._like = like.detach()
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=validate_args)

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """Minus the logarithm of the sphere's surface area."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full(shape, -log_surface_area(value.shape[-1]))

    def rsample(self, sample_shape: _size = ()) -> Float[Tensor, "*shape dim"]:
        """Draws, `(*sample_shape, *batch_shape, dim)`; there is no parameter to differentiate."""
        shape = self._extended_shape(torch.Size(sample_shape))
        # In float64 the normal is never so short that its direction loses digits.
        noise = torch.randn(shape, dtype=torch.float64, device=self._like.device)
        return (noise / noise.norm(dim=-1, keepdim=True)).to(self._like.dtype)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """The logarithm of the surface area, in nats."""
        return self._like.new_full(self.batch_shape, log_surface_area(self.event_shape[0]))

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """0, which is not on the sphere."""
        return torch.zeros_like(self._like)


class _Directional(Distribution):
    """A distribution with a mean direction mu and a concentration kappa. Abstract."""

    arg_constraints = {
        "loc": constraints.sphere,
        "concentration": constraints.positive,
    }
    support = constraints.sphere  # pyright: ignore
    batched = ("loc", "concentration")
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*loc_batch dim"],
        concentration: Float[Tensor, "*batch"],
        validate_args: bool | None = None,
    ) -> None:
        _check_dim(loc)
        shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*shape, -1)
        self.concentration = concentration.expand(shape)
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def entropy_in_float64(self) -> Float[Tensor, "*batch"]:
        """The entropy in nats, with the digits that a difference of two needs."""
        raise NotImplementedError

    def entropy(self) -> Float[Tensor, "*batch"]:
        """-E[log f(z)], in nats."""
        return self.entropy_in_float64().to(self.loc.dtype)


class VonMisesFisher(_Directional):
    r"""f(z) = C_d(kappa) exp(kappa mu.z) on the unit sphere in R^d; on the circle, von Mises.

    A draw is z = cos(t) mu + sin(t) v: v is uniform among the directions orthogonal to mu, and t
    is the quantile of a uniform number. Draws are reparameterised in both parameters. t is
    differentiated implicitly by `PolarAngle`, without the missing term of a rejection sampler that
    is differentiated as if every proposal had been accepted. v is moved with mu by parallel
    transport, without turning about it, which is the gradient of least variance and is finite in
    every direction.

    The density is computed as C_d(kappa) exp(kappa - kappa |z - mu|^2 / 2), equal on the sphere
    and more accurate where z is near mu. All computations are in float64.

    Args:
        loc: mu, the mean direction, of length 1, `(*batch, dim)`.
        concentration: kappa > 0, `(*batch,)`; 0 would be uniform.

    Raises:
        ValueError: If d is below 2.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
        https://arxiv.org/abs/1804.00891; Implicit Reparameterization Gradients (Figurnov et al.,
        2018), https://arxiv.org/abs/1805.08498; Directional Statistics (Mardia & Jupp, 2000),
        section 9.3
    """

    def __init__(
        self,
        loc: Float[Tensor, "*loc_batch dim"],
        concentration: Float[Tensor, "*batch"],
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(loc, concentration, validate_args)
        # Of the concentration as given, before broadcasting: one table for all that share it.
        self.polar_angle = PolarAngle(concentration, loc.shape[-1])

    @property
    def log_scaled_normalizer(self) -> Float[Tensor, "*batch"]:
        """-log C_d(kappa) - kappa, the log of the sphere's integral of exp(kappa (mu.z - 1))."""
        area = log_surface_area(self.event_shape[0] - 1)
        return (self.polar_angle.log_integral + area).expand(self.batch_shape)

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """log f(z), a density with respect to the sphere's surface area."""
        if self._validate_args:
            self._validate_sample(value)
        squared = (value.double() - self.loc.double()).square().sum(-1)
        log_prob = -self.concentration.double() * squared / 2 - self.log_scaled_normalizer
        return log_prob.to(value.dtype)

    def rsample(self, sample_shape: _size = ()) -> Float[Tensor, "*shape dim"]:
        """Draws, `(*sample_shape, *batch_shape, dim)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        angle = self.polar_angle.rsample(shape[:-1])
        return rotate(self.loc.double(), angle.cos(), angle.sin()).to(self.loc.dtype)

    def entropy_in_float64(self) -> Float[Tensor, "*batch"]:
        """kappa (1 - A_d(kappa)) + `log_scaled_normalizer`, in nats."""
        depth = 2 * self.concentration.double() * self.polar_angle.mean_depth
        return depth + self.log_scaled_normalizer

    @property
    def mean_resultant_length(self) -> Float[Tensor, "*batch"]:
        """A_d(kappa) = E[mu.z], from 0 where z is uniform to 1 where it is mu."""
        length = 1 - 2 * self.polar_angle.mean_depth
        return length.to(self.loc.dtype).expand(self.batch_shape)

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """E[z] = A_d(kappa) mu, inside the sphere."""
        return self.mean_resultant_length[..., None] * self.loc


class PowerSpherical(_Directional):
    r"""f(z) = N_d(kappa) (1 + mu.z)^kappa on the unit sphere in R^d.

    With a = (d - 1) / 2 + kappa and b = (d - 1) / 2, (1 + mu.z) / 2 is Beta(a, b) distributed, and
    1 / N_d(kappa) = 2^(a + b) pi^b Gamma(a) / Gamma(a + b). A draw is z = cos(t) mu + sin(t) v
    with cos(t) = 2 y - 1, y ~ Beta(a, b) reparameterised implicitly, and v uniform among the
    directions orthogonal to mu. 1 + mu.z is computed as |z + mu|^2 / 2, or near mu as
    2 - |z - mu|^2 / 2. All computations are in float64.

    Args:
        loc: mu, the mean direction, of length 1, `(*batch, dim)`.
        concentration: kappa > 0, `(*batch,)`; 0 would be uniform.

    Raises:
        ValueError: If d is below 2.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437
    """

    @property
    def _b(self) -> float:
        return (self.event_shape[0] - 1) / 2

    @property
    def log_normalizer(self) -> Float[Tensor, "*batch"]:
        """log of the integral of (1 + mu.z)^kappa over the sphere."""
        b = self._b
        a = b + self.concentration.double()
        return (a + b) * math.log(2) + b * math.log(math.pi) + a.lgamma() - (a + b).lgamma()

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*broadcast"]:
        """log f(z), a density with respect to the sphere's surface area; finite even at -mu."""
        if self._validate_args:
            self._validate_sample(value)
        z, loc = value.double(), self.loc.double()
        # The clamp keeps the logarithm and its gradient finite at -mu.
        far = ((z + loc).square().sum(-1) / 2).clamp(min=1e-30).log()
        # Near mu, |z| = 1 holds only to float32 rounding, which a large kappa would amplify.
        squared = (z - loc).square().sum(-1)
        near = math.log(2) + (-squared.clamp(max=2) / 4).log1p()
        log_prob = self.concentration.double() * torch.where(squared < 2, near, far)
        return (log_prob - self.log_normalizer).to(value.dtype)

    def rsample(self, sample_shape: _size = ()) -> Float[Tensor, "*shape dim"]:
        """Draws, `(*sample_shape, *batch_shape, dim)`."""
        shape = self._extended_shape(torch.Size(sample_shape))[:-1]
        concentration = self.concentration.double()
        parameters = torch.stack(
            [concentration + self._b, torch.full_like(concentration, self._b)], -1
        )
        # A Dirichlet draw has both y and 1 - y to full precision, a Beta draw only one of them.
        y, rest = dirichlet_draw(parameters.expand(*shape, 2)).unbind(-1)
        # The square root has no slope at 0, which only rounding can reach.
        sine = 2 * (y * rest).clamp(min=1e-200).sqrt()
        return rotate(self.loc.double(), y - rest, sine).to(self.loc.dtype)

    def entropy_in_float64(self) -> Float[Tensor, "*batch"]:
        """-kappa (log 2 + psi(a) - psi(a + b)) - log N_d(kappa), in nats."""
        concentration = self.concentration.double()
        a = concentration + self._b
        expected = math.log(2) + a.digamma() - (a + self._b).digamma()
        return self.log_normalizer - concentration * expected

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """E[z] = mu (a - b) / (a + b), inside the sphere."""
        length = self.concentration / (self.concentration + 2 * self._b)
        return length[..., None] * self.loc


def rotate(
    loc: Float[Tensor, "*batch dim"],
    cosine: Float[Tensor, "*shape"],
    sine: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape dim"]:
    """cos(t) mu + sin(t) v, with v uniform among the directions orthogonal to mu.

    The gradient in mu is by parallel transport: dv = -(v.dmu) mu, the rotation that takes mu to mu
    + dmu and nothing more. A v from projected noise, or from a fixed frame reflected to mu, would
    also turn about mu, which has infinite variance in R^3 for the former, near a pole for the
    latter.

    Args:
        loc: mu, in float64.
        cosine: cos(t).
        sine: sin(t).
    """
    # A loc of float32 has length 1 only to float32 rounding.
    loc = loc / loc.detach().norm(dim=-1, keepdim=True)
    fixed = loc.detach()
    tangent = torch.randn(*cosine.shape, loc.shape[-1], dtype=loc.dtype, device=loc.device)
    # Twice, because noise almost along mu loses digits the first time, not rarely so on the
    # circle.
    for _ in range(2):
        tangent = tangent - (tangent * fixed).sum(-1, keepdim=True) * fixed
        tangent = tangent / tangent.norm(dim=-1, keepdim=True)
    transported = tangent - ((loc - fixed) * tangent).sum(-1, keepdim=True) * fixed
    return cosine[..., None] * loc + sine[..., None] * transported
