"""The logistic normal distribution on the simplex, symmetric in its corners."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution


class LogisticNormal(Distribution):
    r"""z = softmax(eta), eta ~ N(m, diag(s^2)) with a variable for each of the K corners.

    Softmax is invariant to a constant added to all of eta. With that integrated out, w_i = s_i^-2,
    W = sum_i w_i, r_i = log z_i - m_i and r' = sum_i w_i r_i / W, the density of the first K - 1
    coordinates is

        log p(z) = -sum_i log z_i - sum_i log s_i - (K - 1)/2 log 2 pi - 1/2 log W - 1/2 sum_i w_i (r_i - r')^2.

    torch's stick-breaking version depends on the order of the corners, and its float32 draws reach 0 and
    1, where it has no density. Here draws are at least the smallest normal number. The mean has no
    closed form; `center` is softmax(m).

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
