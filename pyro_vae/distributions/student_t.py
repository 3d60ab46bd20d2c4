"""Student's t, drawn from uniforms."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.types import _size

# A limit on log |t / sqrt(df)|, so that float32 holds t times a scale of up to e^18. Noise of float32
# reaches it with a df below 0.24 only, noise of float64 with a df below 0.53.
_LARGEST_LOG = 70.0


class StudentT(dist.StudentT):
    r"""p(z) of z = loc + scale t, t with df degrees of freedom; drawn by Bailey's polar method.

    t = sqrt(df (u^(-2 / df) - 1)) cos(2 pi v), with u and v uniform on [0, 1). With df -> infinity
    this is the method of Box and Muller. torch draws a normal over the root of a gamma variable,
    whose sampler rejects, has gradients in df by implicit differentiation, and rounds to 0 where df
    is small. Here the noise does not know the parameters, so several processes can share it, and
    gradients are those of the formula.

    The density is worked out in float64, as the two log-gamma functions in it cancel: with a df of
    1e6 float32 is wrong in the first digit.

    Args:
        df: The degrees of freedom, above 0; the mean exists above 1, the variance above 2.
        loc: The median, and the mean where there is one.
        scale: The scale.

    References:
        Polar generation of random variates with the t-distribution (Bailey, 1994),
        https://doi.org/10.2307/2153537
    """

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws; their gradients reach `df`, `loc` and `scale`."""
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
