"""The power spherical distribution: close to von Mises-Fisher, with everything in closed form."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.types import _size

from pyro_vae.distributions.interior import dirichlet_draw
from pyro_vae.distributions.von_mises_fisher import around


class PowerSpherical(TorchDistribution):
    r"""f(z) = N_d(kappa) (1 + mu.z)^kappa on the unit sphere in R^d.

    With a = (d - 1) / 2 + kappa and b = (d - 1) / 2, (1 + mu.z) / 2 is Beta(a, b) distributed, and
    1 / N_d(kappa) = 2^(a + b) pi^b Gamma(a) / Gamma(a + b). A draw is z = cos(t) mu + sin(t) v with
    cos(t) = 2 y - 1, y ~ Beta(a, b) reparameterised implicitly, and v uniform among the directions
    orthogonal to mu. 1 + mu.z is computed as |z + mu|^2 / 2, or near mu as 2 - |z - mu|^2 / 2. Inside, all is in float64.

    Args:
        loc: mu, the mean direction, of length 1, `(*batch, dim)`.
        concentration: kappa > 0, `(*batch,)`; 0 would be uniform.

    Raises:
        ValueError: If d is below 2.

    References:
        The Power Spherical distribution (De Cao & Aziz, 2020), https://arxiv.org/abs/2006.04437
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
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "PowerSpherical":
        """The same distribution for more elements."""
        new = PowerSpherical.__new__(PowerSpherical)
        new.loc = self.loc.expand(*batch_shape, -1)
        new.concentration = self.concentration.expand(batch_shape)
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

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
        """log f(z), a density with respect to the sphere's surface area; -inf nowhere but at -mu."""
        if self._validate_args:
            self._validate_sample(value)
        z, loc = value.double(), self.loc.double()
        # At -mu itself, to rounding, the logarithm stays finite, and so does its gradient.
        far = ((z + loc).square().sum(-1) / 2).clamp(min=1e-30).log()
        # Near mu a z of float32, whose length is 1 to its rounding only, would move a large kappa.
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
        # Both y and 1 - y with all of their digits, where a Beta gives one of them.
        y, rest = dirichlet_draw(parameters.expand(*shape, 2)).unbind(-1)
        # The square root has no slope at 0, which is reached by rounding alone.
        sine = 2 * (y * rest).clamp(min=1e-200).sqrt()
        return around(self.loc.double(), y - rest, sine).to(self.loc.dtype)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """-E[log f(z)] = -kappa (log 2 + psi(a) - psi(a + b)) - log N_d(kappa), in nats."""
        return self.entropy_in_float64().to(self.loc.dtype)

    def entropy_in_float64(self) -> Float[Tensor, "*batch"]:
        """The entropy with the digits that a difference of two needs."""
        concentration = self.concentration.double()
        a = concentration + self._b
        expected = math.log(2) + a.digamma() - (a + self._b).digamma()
        return self.log_normalizer - concentration * expected

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """E[z] = mu (a - b) / (a + b), which is inside of the sphere."""
        length = self.concentration / (self.concentration + 2 * self._b)
        return length[..., None] * self.loc
