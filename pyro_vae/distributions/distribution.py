"""The base of the distributions of this package."""

import copy
from typing import ClassVar, Self

import torch
from pyro.distributions import TorchDistribution
from torch.types import _size


class Distribution(TorchDistribution):
    """A distribution whose `expand` copies nothing.

    `expand` broadcasts the tensors named in `batched`, whose leading axes are the batch shape. All other
    attributes are shared, so what was computed from the parameters is not computed again.
    """

    arg_constraints: ClassVar = {}  # pyright: ignore
    batched: ClassVar[tuple[str, ...]] = ()

    def expand(self, batch_shape: _size, _instance: object = None) -> Self:
        """The same distributions, broadcast to a larger batch shape."""
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        for name in self.batched:
            if (value := getattr(self, name)) is not None:
                event = value.shape[len(self.batch_shape) :]
                setattr(new, name, value.expand(*batch_shape, *event))
        return new
