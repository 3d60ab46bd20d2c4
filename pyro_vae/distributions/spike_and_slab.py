"""A normal variable that is exactly 0 with some probability."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Normal, constraints
from torch.nn import functional as F
from torch.types import _size


class SpikeAndSlab(TorchDistribution):
    r"""p(z) = (1 - gamma) delta_0(z) + gamma N(z | m, s^2), with gamma = sigmoid(logits).

    A density with respect to Lebesgue measure plus a point mass at 0: `log_prob(0)` is
    log(1 - gamma), elsewhere it is log gamma + log N(z | m, s^2).

    Draws are exactly 0 with probability 1 - gamma. Their gradients with respect to m and s are exact
    in expectation. That with respect to the logits is a straight-through one, the gradient of a gate
    sigmoid((logits + logistic noise) / temperature), and is biased: the gate steps from 0 to 1, and its
    true derivative, 0 wherever there is one, is replaced by a relaxation's.

    Args:
        logits: log gamma / (1 - gamma), `(*batch)`.
        loc: m, `(*batch)`.
        scale: s, `(*batch)`.
        temperature: The temperature of the relaxed gate: lower is less biased and noisier.

    References:
        Bayesian Variable Selection in Linear Regression (Mitchell & Beauchamp, 1988),
        https://doi.org/10.1080/01621459.1988.10478694;
        Variational Sparse Coding (Tonolini et al., 2020), https://proceedings.mlr.press/v115/tonolini20a.html
    """

    arg_constraints: ClassVar = {  # pyright: ignore
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        logits: Float[Tensor, "*#batch"],
        loc: Float[Tensor, "*#batch"],
        scale: Float[Tensor, "*#batch"],
        temperature: float = 0.5,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.temperature = temperature
        super().__init__(self.logits.shape, torch.Size(), validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "SpikeAndSlab":
        """The same distribution for each element of a larger batch."""
        new = SpikeAndSlab.__new__(SpikeAndSlab)
        for name in ("logits", "loc", "scale"):
            setattr(new, name, getattr(self, name).expand(batch_shape))
        new.temperature = self.temperature
        TorchDistribution.__init__(new, torch.Size(batch_shape), torch.Size(), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def slab(self) -> Normal:
        """N(m, s^2)."""
        return Normal(self.loc, self.scale, validate_args=False)

    @property
    def probs(self) -> Tensor:
        """gamma, the probability that a draw is not 0."""
        return self.logits.sigmoid()

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with exact zeros, `(*sample_shape, *batch_shape)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        kind = {"dtype": self.loc.dtype, "device": self.loc.device}
        limits = torch.finfo(self.loc.dtype)
        uniform = torch.rand(shape, **kind).clamp(limits.tiny, 1 - limits.eps)
        perturbed = self.logits + uniform.log() - (-uniform).log1p()
        soft = (perturbed / self.temperature).sigmoid()
        gate = (perturbed > 0).to(soft.dtype) + (soft - soft.detach())
        return gate * (self.loc + self.scale * torch.randn(shape, **kind))

    def log_prob(self, value: Float[Tensor, "*points"]) -> Float[Tensor, "*broadcast"]:
        """The density with respect to Lebesgue measure plus a point mass at 0."""
        if self._validate_args:
            self._validate_sample(value)
        density = F.logsigmoid(self.logits) + self.slab.log_prob(value)
        return torch.where(value == 0, F.logsigmoid(-self.logits), density)

    @property
    def mean(self) -> Tensor:
        """gamma m."""
        return self.probs * self.loc

    @property
    def variance(self) -> Tensor:
        """gamma (s^2 + (1 - gamma) m^2)."""
        return self.probs * (self.scale.square() + (1 - self.probs) * self.loc.square())
