"""Bernoulli variables, each of which reads those before it."""

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Real
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F
from torch.types import _size


@runtime_checkable
class Masked(Protocol):
    """A network of one hidden layer whose output i reads elements before i alone."""

    def __call__(self, x: Tensor, start: Tensor) -> Tensor:
        """The outputs for all elements, given what the hidden units start with."""
        ...

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Element to hidden unit, hidden unit to output, element to output."""
        ...


class AutoregressiveBernoulli(TorchDistribution):
    r"""p(x) = prod_i Bernoulli(x_i | sigmoid(f_i + g_i(x_<i))), elements in row-major order.

    log p is one pass of the network g. Draws take one element after another, and as many operations in
    all: each adds its part to the hidden units.

    Args:
        logits: f, `(*batch, *event)`.
        start: What g's hidden units start with, `(*batch, hidden)`.
        network: g.
        event_dim: The number of axes of an event, at least 1.
    """

    arg_constraints: ClassVar = {}  # pyright: ignore
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

    def expand(self, batch_shape: _size, _instance: object = None) -> "AutoregressiveBernoulli":
        """The same distributions, broadcast; nothing is copied."""
        new = AutoregressiveBernoulli.__new__(AutoregressiveBernoulli)
        new.network = self.network
        new.logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        new.start = self.start.expand(*batch_shape, self.start.shape[-1])
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), in one pass."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.flatten(-len(self.event_shape)).to(self.logits.dtype)
        logits = self.logits + self.network(x, self.start)
        return (x * logits - F.softplus(logits)).sum(-1)

    def _in_order(self, shape: _size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Element after element: what `choose` makes of its probability given those before."""
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
        """Draws, `(*sample_shape, *batch_shape, *event_shape)`. They carry no gradient."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            return self._in_order(shape, torch.bernoulli)

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """A mean-field pass: sigmoid(f_i + g_i(m_<i)), probabilities m in the place of draws.

        Not E[x], which is a sum over all events: it is E[x_i] for the first element, and for all where
        g is 0.
        """
        return self._in_order(self.batch_shape, lambda probability: probability)
