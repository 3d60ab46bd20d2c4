"""Results of the data inspection, and the column statistics it uses."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from pyro_vae.data.columns import column_name, in_words
from pyro_vae.data.dataset import SPLITS, Dataset

# Statistics are taken from so many values, of rows spread evenly over the splits.
_SAMPLED_VALUES, _SAMPLED_ROWS, _FEWEST_ROWS = 1_000_000, 10_000, 200
# Rows that are not in memory are read in blocks, from so many places.
_PLACES = 8
# How many columns a command names.
_NAMED = 5
_SUFFIXES_OF_TABLES = (".csv", ".tsv", ".txt", ".parquet")


@dataclass(frozen=True)
class Finding:
    """One thing that was found in the values.

    Args:
        kind: What it is, in a word or two: "fill value", "identifier", "constant", ...
        text: A sentence that says where it is and what to do.
        refused: Whether a model of such data would be wrong.
    """

    kind: str
    text: str
    refused: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass
class Columns:
    """The values by column, or by channel.

    Args:
        dataset: The data set.
        likelihood_support: The support of the likelihood.
    """

    dataset: Dataset
    likelihood_support: str
    splits: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # Data that are not split are the same in each.
        names = SPLITS if self.dataset.is_split else SPLITS[:1]
        self.splits = {name: getattr(self.dataset, name) for name in names}

    @property
    def table(self) -> bool:
        """Whether rows have one axis, whose elements are columns."""
        return len(self.dataset.event_shape) == 1

    @property
    def continuous(self) -> bool:
        """Whether a density is trained on values as they are, which are not levels."""
        continuous = ("unit", "real")
        return self.likelihood_support in continuous and self.dataset.support in continuous

    @property
    def in_memory(self) -> bool:
        return all(isinstance(values, Tensor) for values in self.splits.values())

    @property
    def n(self) -> int:
        """The number of rows."""
        return sum(len(values) for values in self.splits.values())

    @cached_property
    def sample(self) -> Float64[np.ndarray, "columns m"]:
        """Values of rows spread evenly over the splits, in ascending order in each column."""
        width = self.dataset.train[:1].numel()
        m = min(self.n, _SAMPLED_ROWS, max(_FEWEST_ROWS, _SAMPLED_VALUES // width))
        parts = [
            spread_rows(values, -(-len(values) * m // self.n)) for values in self.splits.values()
        ]
        x = _by_column(torch.cat(parts).to(torch.float64)).numpy()
        return np.sort(x, axis=1)

    @cached_property
    def extremes(self) -> tuple[Float64[np.ndarray, " columns"], Float64[np.ndarray, " columns"]]:
        """The lowest and the highest value of each column; those of the sample for data on the disk."""
        if not self.in_memory:
            return self.sample[:, 0], self.sample[:, -1]
        axes = (0, *range(2, 1 + len(self.dataset.event_shape)))
        lows = torch.stack([values.amin(axes) for values in self.splits.values()]).amin(0)
        highs = torch.stack([values.amax(axes) for values in self.splits.values()]).amax(0)
        return lows.to(torch.float64).numpy(), highs.to(torch.float64).numpy()

    @cached_property
    def spread(self) -> Float64[np.ndarray, " columns"]:
        """The interquartile range over 1.349; the standard deviation where it is 0."""
        low, high = self.quartiles
        spread = (high - low) / 1.349
        return np.where(spread > 0, spread, self.sample.std(1))

    @cached_property
    def quartiles(self) -> tuple[Float64[np.ndarray, " columns"], Float64[np.ndarray, " columns"]]:
        m = self.sample.shape[1]
        return self.sample[:, m // 4], self.sample[:, m - 1 - m // 4]

    @cached_property
    def distinct(self) -> Int[np.ndarray, " columns"]:
        """The number of distinct values of each column in the sample."""
        return 1 + (np.diff(self.sample, axis=1) > 0).sum(1)

    @cached_property
    def constant(self) -> Bool[np.ndarray, " columns"]:
        """Which columns never vary; none is known to of data on the disk."""
        low, high = self.extremes
        return (low == high) & self.in_memory

    def all_of(self, column: int) -> Float64[np.ndarray, " _"]:
        """All values of a column, split after split; those of the sample for data on the disk."""
        if not self.in_memory:
            return self.sample[column]
        parts = [values[:, column].flatten() for values in self.splits.values()]
        return torch.cat(parts).to(torch.float64).numpy()

    @cached_property
    def order(self) -> np.ndarray | None:
        """What puts the rows of all splits in the order in which they were read, if it is known."""
        if not self.in_memory or not self.splits.keys() <= self.dataset.rows.keys():
            return None
        return torch.cat([self.dataset.rows[split] for split in self.splits]).argsort().numpy()

    def name(self, column: int) -> str:
        return column_name(column, self.dataset.event_shape, self.dataset.event_names)

    def names(self, columns: Sequence[int] | np.ndarray) -> str:
        return in_words([self.name(int(column)) for column in columns])

    def drop(self, columns: Sequence[int] | np.ndarray) -> str:
        """How to leave columns out, in words."""
        it = "it" if len(columns) == 1 else "them"
        names, source = self.dataset.event_names, self.dataset.source
        if not names or source is None or source.suffix.lower() not in _SUFFIXES_OF_TABLES:
            return f"leave {it} out"
        if len(columns) > _NAMED:
            return f"leave {it} out with --data.drop"
        chosen = [names[int(column)] for column in columns]
        # A name may have a comma in it, but hardly does.
        listed = len(chosen) > 1 and any("," in name for name in chosen)
        word = json.dumps(chosen, ensure_ascii=False) if listed else ",".join(chosen)
        return f"leave {it} out with --data.drop {shlex.quote(word)}"


def _by_column(values: Tensor) -> Tensor:
    """`(columns, n)`, or `(channels, n * others)` of values with several axes."""
    return values.transpose(0, 1).flatten(1)


def spread_rows(values: Any, m: int) -> Tensor:
    """About m of the rows and at least one, spread evenly."""
    m = max(1, m)
    if isinstance(values, Tensor):
        return values[torch.linspace(0, len(values) - 1, m, dtype=torch.float64).long()]
    size = -(-m // _PLACES)
    starts = np.linspace(0, max(0, len(values) - size), _PLACES).astype(int)
    return torch.cat([values[start : start + size] for start in np.unique(starts).tolist()])


def number(value: float) -> str:
    """A number in words that lose nothing of whole ones below 1e15."""
    whole = abs(value) < 1e15 and value == round(value)
    return f"{value:.0f}" if whole else f"{value:.6g}"
