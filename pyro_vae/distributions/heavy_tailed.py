"""Student's t and the logistic distribution, whose draws and densities stay finite in float32."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import clamp_probs
from torch.types import _size

# A limit on log |t / sqrt(df)|, so that float32 represents t times a scale of up to e^18. Noise of
# float32 reaches it only with a df below 0.24, noise of float64 with a df below 0.53.
_LARGEST_LOG = 70.0


class StudentT(dist.StudentT):
    r"""p(z) of z = loc + scale t, t with df degrees of freedom; sampled by Bailey's polar method.

    t = sqrt(df (u^(-2 / df) - 1)) cos(2 pi v), with u and v uniform on [0, 1). As df -> infinity this is
    the Box-Muller method. torch divides a normal by the root of a gamma variable, which is sampled by
    rejection, differentiated implicitly in df, and rounds to 0 where df is small. Here the noise does
    not depend on the parameters, so several processes can share it, and gradients are explicit.

    The density is computed in float64 because its two log-gamma functions cancel: with a df of 1e6,
    float32 gets the first digit wrong.

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
        """Draws loc + scale logit(u), with u uniform and at least one rounding away from 0 and 1."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.icdf(clamp_probs(uniform))
