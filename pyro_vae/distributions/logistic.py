"""The logistic distribution, which torch has as a transformed uniform only."""

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all, clamp_probs
from torch.nn.functional import logsigmoid
from torch.types import _size


class Logistic(TorchDistribution):
    r"""p(z) = sigmoid'((z - loc) / scale) / scale: tails like a Laplace's, round at its mode.

    As a uniform behind a logit its density loses its digits where the uniform rounds to 1, some 17
    scales from `loc`. Written out, log p(z) = log sigmoid(y) + log sigmoid(-y) - log scale with
    y = (z - loc) / scale, it keeps them everywhere.

    Args:
        loc: The mean, any shape.
        scale: The scale s; the standard deviation is s pi / sqrt(3).

    References:
        Continuous Univariate Distributions, volume 2 (Johnson, Kotz & Balakrishnan, 1995), chapter 23.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}  # pyright: ignore
    support = constraints.real  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "Logistic":
        """The same distribution for each element of a batch; nothing is copied."""
        new = Logistic.__new__(Logistic)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws loc + scale logit(u), u uniform and no nearer to 0 or 1 than one rounding."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.icdf(clamp_probs(uniform))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density, of the value's shape broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        y = (value - self.loc) / self.scale
        return logsigmoid(y) + logsigmoid(-y) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        """P(z <= value)."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.sigmoid((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of a probability: infinite at 0 and 1."""
        return self.loc + self.scale * torch.logit(value)

    def entropy(self) -> Tensor:
        """2 + log scale, in nats."""
        return 2 + self.scale.log()

    @property
    def mean(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """scale^2 pi^2 / 3."""
        return self.scale.square() * (math.pi**2 / 3)
