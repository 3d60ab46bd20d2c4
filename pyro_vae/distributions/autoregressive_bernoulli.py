"""Bernoulli variables, each conditional on those before it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution


@runtime_checkable
class Masked(Protocol):
    """A network of one hidden layer whose output i reads only the elements before i."""

    def __call__(self, x: Tensor, start: Tensor) -> Tensor:
        """The outputs for all elements, given the initial values of the hidden units."""
        ...

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Element to hidden unit, hidden unit to output, element to output."""
        ...


class AutoregressiveBernoulli(Distribution):
    r"""p(x) = prod_i Bernoulli(x_i | sigmoid(f_i + g_i(x_<i))), elements in row-major order.

    log p is one pass of the network g. Draws go through the elements one by one, but add each to the
    hidden units only once, so they take as many operations as a single pass.

    Args:
        logits: f, `(*batch, *event)`.
        start: The initial values of g's hidden units, `(*batch, hidden)`.
        network: g.
        event_dim: The number of axes of an event, at least 1.
    """

    batched = ("logits", "start")
    has_rsample = False

    def __init__(
        self,
        logits: Float[Tensor, "*batch_event"],
        start: Float[Tensor, "*batch hidden"],
        network: Masked,
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        event = logits.shape[-event_dim:]
        self.logits, self.start, self.network = logits.flatten(-event_dim), start, network
        super().__init__(start.shape[:-1], event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Binary events."""
        return constraints.independent(constraints.boolean, len(self.event_shape))

    def log_prob(self, value: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), in one pass."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.flatten(-len(self.event_shape)).to(self.logits.dtype)
        logits = self.logits + self.network(x, self.start)
        return (x * logits - F.softplus(logits)).sum(-1)

    def _in_order(self, shape: _size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Go through the elements: `choose` gets each one's probability given those before."""
        read, give, skip = self.network.weights()
        hidden = self.start.expand(*shape, self.start.shape[-1])
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        chosen = []
        for i in range(logits.shape[-1]):
            logit = logits[..., i] + F.relu(hidden) @ give[i]
            if chosen:
                logit = logit + torch.stack(chosen, -1) @ skip[i, :i]
            x = choose(torch.sigmoid(logit))
            hidden = hidden + x[..., None] * read[:, i]
            chosen.append(x)
        return torch.stack(chosen, -1).view(*shape, *self.event_shape)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, *event_shape)`, without a gradient."""
        with torch.no_grad():
            return self._in_order(torch.Size(sample_shape) + self.batch_shape, torch.bernoulli)

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """A mean-field pass: sigmoid(f_i + g_i(m_<i)), with probabilities m in place of draws.

        This is E[x_i] for the first element, and for all elements where g is 0. E[x] itself is a sum
        over all events.
        """
        return self._in_order(self.batch_shape, lambda probability: probability)
