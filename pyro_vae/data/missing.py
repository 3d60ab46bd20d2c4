"""Missing values: NaN in data, refused unless a program's likelihood leaves them out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.data.nouns import column_name, join_words
from pyro_vae.data.splits import SPLITS

_ALLOWED: ContextVar[bool] = ContextVar("missing_allowed", default=False)

# What an error about NaN points to.
REMEDY = "train with --model missing"

# Each split loses the same values in every run. Changing one of these changes reported numbers.
_SEEDS = {split: 922_117 + index for index, split in enumerate(SPLITS)}


def missing_allowed() -> bool:
    """Whether NaN is read as a missing value; False outside of `allow_missing`."""
    return _ALLOWED.get()


@contextmanager
def allow_missing(allowed: bool = True) -> Iterator[None]:
    """Read NaN, empty cells and masked entries as missing values within the block.

    >>> import numpy as np
    >>> from pyro_vae.data import Dataset
    >>> x = np.where(np.eye(20) == 1, np.nan, np.linspace(0.1, 2.3, 20))
    >>> with allow_missing():
    ...     Dataset.from_array(x).missing
    True

    Args:
        allowed: False refuses them within the block.
    """
    token = _ALLOWED.set(allowed)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def is_missing(x: Real[Tensor, "*shape"]) -> Tensor:
    """Whether each value is missing; integers never are."""
    return x.isnan() if x.is_floating_point() else torch.zeros_like(x, dtype=torch.bool)


def fill_means(x: Real[Tensor, " n *event"]) -> Real[Tensor, " n *event"]:
    """x, with each missing value replaced by the mean of its element's observed ones.

    0 where no row has a value. Parts of a model are initialised from such rows; no likelihood
    sees them.
    """
    gaps = is_missing(x)
    if not gaps.any():
        return x
    return torch.where(gaps, x.nanmean(0).nan_to_num(0.0), x)


def check_missing(dataset: Any) -> None:
    """Check that missing values can be trained on.

    Raises:
        ValueError: If data are sparse or on disk, or a column or channel has no value at all in
            the training data.
    """
    if not isinstance(dataset.train, Tensor):
        raise ValueError(  # noqa: TRY004 - the type follows from the file.
            f"{dataset.name}: missing values need dense data in memory (--data.memory-map false)."
        )
    observed = ~is_missing(dataset.train)
    known = observed.transpose(0, 1).flatten(1).any(1)
    if dataset.is_split and not known.all():
        empty = (~known).nonzero().flatten().tolist()
        names = [column_name(index, dataset.event_shape, dataset.event_names) for index in empty]
        raise ValueError(
            f"{dataset.name}: {join_words(names)} {'has' if len(empty) == 1 else 'have'} no value "
            "in the training data: all are missing. Leave out what is never observed."
        )


def remove_values(dataset: Any, rate: float) -> Any:
    """The data set with each value missing with probability `rate`, whatever it is.

    Missing completely at random, in all three splits, with a fixed seed for each.

    Args:
        dataset: The data set, of dense data in memory.
        rate: The probability, at least 0 and below 1.

    Raises:
        ValueError: If the rate is out of its range, or the data are sparse or on disk.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"missing_rate must be at least 0 and below 1, got {rate}.")
    if rate == 0:
        return dataset
    splits = {split: getattr(dataset, split) for split in SPLITS}
    if not all(isinstance(values, Tensor) for values in splits.values()):
        raise ValueError(
            f"missing_rate needs dense data in memory, and {dataset.name} is sparse or on disk."
        )
    removed = {}
    for split, values in splits.items():
        generator = torch.Generator().manual_seed(_SEEDS[split])
        gaps = torch.rand(values.shape, generator=generator) < rate
        floats = values if values.is_floating_point() else values.to(torch.float64)
        removed[split] = floats.masked_fill(gaps, torch.nan)
    return replace(dataset, **removed, missing=True)


class KeepMissing(nn.Module):
    """f(x) where x is observed, NaN where it is missing.

    Args:
        transform: f, which keeps the shape.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Real[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        y = self.transform(x.nan_to_num(0.0))
        return torch.where(x.isnan(), torch.nan, y)


def describe_missing(dataset: Any, names: Sequence[str] = SPLITS) -> str:
    """The share of missing values, for the line that describes the data."""
    gaps = sum(int(is_missing(getattr(dataset, name)).sum()) for name in names)
    values = sum(getattr(dataset, name).numel() for name in names)
    return f"{100 * gaps / values:.1f} % of the values are missing"
