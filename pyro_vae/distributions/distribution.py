"""The base of the distributions of this package."""

import copy
from typing import ClassVar, TypeVar

import torch
from pyro.distributions import TorchDistribution
from torch.types import _size

# typing.Self is not supported by beartype outside of decorated classes.
D = TypeVar("D", bound="Distribution")


class Distribution(TorchDistribution):
    """A distribution whose `expand` copies nothing.

    `expand` broadcasts the tensors named in `batched`, whose leading axes are the batch shape. All
    other attributes are shared, so what was computed from the parameters is not computed again.
    """

    arg_constraints: ClassVar = {}  # pyright: ignore
    batched: ClassVar[tuple[str, ...]] = ()

    def expand(self: D, batch_shape: _size, _instance: object = None) -> D:  # noqa: PYI019
        """The same distributions, broadcast to a larger batch shape."""
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        for name in self.batched:
            if (value := getattr(self, name)) is not None:
                event = value.shape[len(self.batch_shape) :]
                setattr(new, name, value.expand(*batch_shape, *event))
        return new
