"""How a total is shared out, each datum with a total of its own."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float, Real
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size


class Multinomial(TorchDistribution):
    r"""p(x | N = sum_i x_i) = N! prod_i p_i^x_i / x_i!, p = softmax(f), for counts x.

    Each datum is scored given its own total, so this is a density for every N apart: summed over
    the x of one total it is 1. Torch's has one total for the whole batch. Draws and moments need a
    total, and have `total_count`.

    Args:
        logits: f, `(*batch, *event)`: all elements of an event share the total.
        total_count: The total of draws and moments, a whole number, `()`.
        event_dim: The number of axes of an event, at least 1.
    """

    arg_constraints: ClassVar = {"total_count": constraints.nonnegative_integer}  # pyright: ignore
    has_rsample = False

    def __init__(
        self,
        logits: Float[Tensor, "*batch_event"],
        total_count: Real[Tensor, ""],
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        batch, event = logits.shape[:-event_dim], logits.shape[-event_dim:]
        self.total_count = total_count
        self.log_probs = logits.flatten(-event_dim).log_softmax(-1).unflatten(-1, event)
        super().__init__(batch, event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Counts, of any total."""
        return constraints.independent(constraints.nonnegative_integer, len(self.event_shape))

    def expand(self, batch_shape: _size, _instance: object = None) -> "Multinomial":
        """The same distributions, broadcast; nothing is copied."""
        new = Multinomial.__new__(Multinomial)
        new.total_count = self.total_count
        new.log_probs = self.log_probs.expand(*batch_shape, *self.event_shape)
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x | sum x), in float64 inside: log N! and the log x! of a long text cancel."""
        if self._validate_args:
            self._validate_sample(value)
        axes = tuple(range(-len(self.event_shape), 0))
        x = value.double()
        terms = x * self.log_probs - torch.lgamma(x + 1)
        log_prob = terms.sum(axes) + torch.lgamma(x.sum(axes) + 1)
        return log_prob.to(self.log_probs.dtype)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with the total `total_count`, `(*sample_shape, *batch_shape, *event_shape)`."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            elements = math.prod(self.event_shape)
            probs = self.log_probs.expand(shape).exp().reshape(-1, elements)
            total = int(self.total_count)
            if total > elements:
                return _conditional_binomials(probs.double(), total).to(probs.dtype).view(shape)
            counts = torch.zeros_like(probs)
            if total:
                draws = torch.multinomial(probs, total, replacement=True)
                counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=counts.dtype))
            return counts.view(shape)

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """N p_i, for N = `total_count`."""
        return self.total_count * self.log_probs.exp()

    @property
    def variance(self) -> Float[Tensor, "*batch_event"]:
        """N p_i (1 - p_i), of each element, for N = `total_count`."""
        return self.mean * -self.log_probs.expm1()


def _conditional_binomials(
    probs: Float[Tensor, "rows elements"], total: int
) -> Float[Tensor, "rows elements"]:
    """Parts of a total, element after element a binomial of what is left.

    A draw for each unit of the total would take its memory, and sums of ones end at 2^24 in float32.
    """
    rest = probs.flip(-1).cumsum(-1).flip(-1).clamp(min=torch.finfo(probs.dtype).tiny)
    left = torch.full_like(probs[:, 0], total)
    counts = []
    for share in (probs / rest).clamp(max=1)[:, :-1].unbind(-1):
        # torch's is of float32 inside, and may round a large part to more than there is.
        counts.append(torch.minimum(torch.binomial(left, share.contiguous()), left))
        left = left - counts[-1]
    return torch.stack([*counts, left], -1)
