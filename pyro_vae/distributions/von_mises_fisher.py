"""The von Mises-Fisher distribution: the normal distribution's counterpart on a sphere."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.types import _size

from pyro_vae.distributions.polar_angle import PolarAngle
from pyro_vae.distributions.spherical_uniform import log_surface_area


class VonMisesFisher(TorchDistribution):
    r"""f(z) = C_d(kappa) exp(kappa mu.z) on the unit sphere in R^d; on the circle, von Mises.

    A draw is z = cos(t) mu + sin(t) v: v is uniform among the directions orthogonal to mu, and t is the
    inverse of its distribution function at a uniform number. Draws are reparameterised in both
    parameters: t implicitly, by `PolarAngle`, so nothing is left out as it is where a rejection
    sampler is differentiated as if all had been accepted; and v is carried along with mu without
    turning about it (parallel transport), which is the gradient of least variance and has no
    direction in which it breaks down.

    The density is C_d(kappa) exp(kappa - kappa |z - mu|^2 / 2): the same on the sphere, and of more
    digits where z is near mu. Inside, all is in float64.

    Args:
        loc: mu, the mean direction, of length 1, `(*batch, dim)`.
        concentration: kappa > 0, `(*batch,)`; 0 would be uniform.

    Raises:
        ValueError: If d is below 2.

    References:
        Hyperspherical Variational Auto-Encoders (Davidson et al., 2018),
        https://arxiv.org/abs/1804.00891; Implicit Reparameterization Gradients (Figurnov et al., 2018),
        https://arxiv.org/abs/1805.08498; Directional Statistics (Mardia & Jupp, 2000), section 9.3
    """

    arg_constraints: ClassVar = {  # pyright: ignore
        "loc": constraints.sphere,
        "concentration": constraints.positive,
    }
    support = constraints.sphere  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        loc: Float[Tensor, "*loc_batch dim"],
        concentration: Float[Tensor, "*batch"],
        validate_args: bool | None = None,
    ) -> None:
        if loc.shape[-1] < 2:
            raise ValueError(f"a sphere lies in at least 2 dimensions, got {loc.shape[-1]}.")
        shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*shape, -1)
        self.concentration = concentration.expand(shape)
        # Of what is given, not of what it is broadcast to: shared by all that are alike.
        self.polar_angle = PolarAngle(concentration, loc.shape[-1])
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "VonMisesFisher":
        """The same distribution for more elements. What belongs to kappa is not computed anew."""
        new = VonMisesFisher.__new__(VonMisesFisher)
        new.loc = self.loc.expand(*batch_shape, -1)
        new.concentration = self.concentration.expand(batch_shape)
        new.polar_angle = self.polar_angle
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    @property
    def log_scaled_normalizer(self) -> Float[Tensor, "*batch"]:
        """log of the integral of exp(kappa (mu.z - 1)) over the sphere, -log C_d(kappa) - kappa."""
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
        z = around(self.loc.double(), angle.cos(), angle.sin())
        return z.to(self.loc.dtype)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """-E[log f(z)], in nats."""
        depth = 2 * self.concentration.double() * self.polar_angle.mean_depth
        return (depth + self.log_scaled_normalizer).to(self.loc.dtype)

    @property
    def mean_resultant_length(self) -> Float[Tensor, "*batch"]:
        """A_d(kappa) = E[mu.z], from 0 where z is uniform to 1 where it is mu."""
        length = 1 - 2 * self.polar_angle.mean_depth
        return length.to(self.loc.dtype).expand(self.batch_shape)

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """E[z] = A_d(kappa) mu, which is inside of the sphere."""
        return self.mean_resultant_length[..., None] * self.loc


def around(
    loc: Float[Tensor, "*batch dim"],
    cosine: Float[Tensor, "*shape"],
    sine: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape dim"]:
    """cos(t) mu + sin(t) v, with v uniform among the directions orthogonal to mu.

    In mu it is differentiable by parallel transport: dv = -(v.dmu) mu, the rotation that takes mu to
    mu + dmu and nothing more. A v made by projecting noise, or by reflecting a fixed frame to mu, would
    also turn about mu; that has infinite variance in R^3 for the one, near a pole for the other.

    Args:
        loc: mu, in float64.
        cosine: cos(t).
        sine: sin(t).
    """
    # A loc of float32 has length 1 to its own rounding.
    loc = loc / loc.detach().norm(dim=-1, keepdim=True)
    fixed = loc.detach()
    tangent = torch.randn(*cosine.shape, loc.shape[-1], dtype=loc.dtype, device=loc.device)
    # Twice, as noise almost along mu loses its digits once: on the circle that is not rare.
    for _ in range(2):
        tangent = tangent - (tangent * fixed).sum(-1, keepdim=True) * fixed
        tangent = tangent / tangent.norm(dim=-1, keepdim=True)
    transported = tangent - ((loc - fixed) * tangent).sum(-1, keepdim=True) * fixed
    return cosine[..., None] * loc + sine[..., None] * transported
