"""Independent categorical variables as one-hot vectors, with straight-through gradients."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

Estimator = Literal["gumbel_softmax", "straight_through"]


class _OneHots(constraints.Constraint):
    """Vectors of zeros with a one in each run of `values` elements."""

    is_discrete = True
    event_dim = 1

    def __init__(self, values: int) -> None:
        self.values = values
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        runs = value.unflatten(-1, (-1, self.values))
        binary = ((runs == 0) | (runs == 1)).all(-1)
        return (binary & (runs.sum(-1) == 1)).all(-1)


class OneHots(TorchDistribution):
    r"""p(z) = prod_v prod_k pi_vk^z_vk, pi_v = softmax(logits_v): V variables of K values, flattened.

    `log_prob` is the mass of a vertex, never the density of a relaxation, so that bounds compare mass
    with mass. `rsample` is a vertex whose gradient is another point's, and so biased: with Gumbel noise
    g, that of softmax((logits + g) / temperature), or that of pi.

    Args:
        logits: log pi, up to a constant for each variable, `(*batch, variables, values)`.
        temperature: The temperature of the relaxation: lower is less biased and noisier.
        estimator: "gumbel_softmax", or "straight_through" for the gradient of pi.

    References:
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017), https://arxiv.org/abs/1611.01144;
        The Concrete Distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712;
        Estimating or Propagating Gradients Through Stochastic Neurons (Bengio et al., 2013),
        https://arxiv.org/abs/1308.3432
    """

    arg_constraints: ClassVar = {"logits": constraints.independent(constraints.real, 2)}  # pyright: ignore
    has_rsample = True

    def __init__(
        self,
        logits: Float[Tensor, "*batch variables values"],
        temperature: float = 1.0,
        estimator: Estimator = "gumbel_softmax",
        validate_args: bool | None = None,
    ) -> None:
        self.logits = logits.log_softmax(-1)
        self.temperature, self.estimator = temperature, estimator
        variables, values = logits.shape[-2:]
        super().__init__(
            logits.shape[:-2], torch.Size((variables * values,)), validate_args=validate_args
        )

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Vectors with a single one for each variable."""
        return _OneHots(self.logits.shape[-1])

    def expand(self, batch_shape: _size, _instance: object = None) -> "OneHots":
        """The same distribution for each element of a larger batch."""
        new = OneHots.__new__(OneHots)
        new.logits = self.logits.expand(torch.Size(batch_shape) + self.logits.shape[-2:])
        new.temperature, new.estimator = self.temperature, self.estimator
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Vertices, `(*sample_shape, *batch_shape, variables * values)`."""
        shape = torch.Size(sample_shape) + self.logits.shape
        uniform = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        limits = torch.finfo(uniform.dtype)
        gumbel = -(-uniform.clamp(limits.tiny, 1 - limits.eps).log()).log()
        perturbed = self.logits + gumbel
        soft = (
            (perturbed / self.temperature).softmax(-1)
            if self.estimator == "gumbel_softmax"
            else self.logits.exp().expand(shape)
        )
        # A comparison: F.one_hot reads its argument in Python, and cannot be traced.
        values = torch.arange(shape[-1], device=uniform.device)
        hard = (perturbed.argmax(-1, keepdim=True) == values).to(soft.dtype)
        return (hard + (soft - soft.detach())).flatten(-2)  # Exactly hard: the rest is 0.

    def log_prob(self, value: Float[Tensor, "*points dim"]) -> Float[Tensor, "*broadcast"]:
        """The logarithm of a vertex's mass."""
        if self._validate_args:
            self._validate_sample(value)
        runs = value.unflatten(-1, tuple(self.logits.shape[-2:]))
        return (runs * self.logits).sum((-2, -1))

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """The probabilities pi, flattened."""
        return self.logits.exp().flatten(-2)

    @property
    def variance(self) -> Float[Tensor, "*batch dim"]:
        """pi (1 - pi), flattened."""
        return self.mean * (1 - self.mean)
