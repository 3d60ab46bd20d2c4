"""Preprocessing of a data set for a likelihood: binarised, dequantised, scaled, or unchanged."""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from jaxtyping import Real
from torch import Tensor, nn

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.missing import REMEDY, KeepMissing, describe_missing, fill_means, remove_values
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.transforms import Scale, Uniform, hashed_uniform, transform_of_values
from pyro_vae.data.validation import SUPPORTS

Binarisation = Literal["dynamic", "static", "threshold", "none"]

# The likelihood supports that data of each native support can be prepared for.
FITS = {
    "binary": ("binary",),
    "integers": ("binary", "unit", "real", "integers"),
    "counts": ("counts",),
    "unit": ("binary", "unit", "real"),
    "real": ("real",),
}

# Each split is prepared once with its own seed, whatever the run's. Changing one of these, or the
# block size, changes every reported test number.
_SEEDS = {split: 714_025 + index for index, split in enumerate(SPLITS)}
_BLOCK_ROWS = 4096

# Size of the data for parts of a model that are initialised from data.
_INIT_ROWS = 10_000
_INIT_SPARSE_ELEMENTS = 2**24
_INIT_ELEMENTS = 2**26


class SupportMismatchError(ValueError):
    """A likelihood is not defined on the data.

    Args:
        message: The mismatch.
        fits: The supports of likelihoods that are.
    """

    def __init__(self, message: str, fits: tuple[str, ...]) -> None:
        super().__init__(message)
        self.fits = fits


class PreparedData:
    """A data set prepared for the support of a likelihood.

    A training loop takes raw batches of `train` and calls `transform` on them; evaluation reads
    `fixed(split)`, which is the same for every seed. A *binary* likelihood gets binary data, or
    binarised grey values; a *unit* likelihood unit floats, or integers as (v + u) / levels or
    v / (levels - 1); a *real* one real or unit floats, or v / (levels - 1); *integers* and
    *counts* are unchanged.

    >>> from pyro_vae.data import digits
    >>> PreparedData(digits(), "binary").description
    'digits: levels 0..16 binarised anew at each visit, Bernoulli(v / 16)'

    Args:
        dataset: The data set.
        likelihood_support: The support that the likelihood declares: binary, unit, real, integers
            or counts.
        binarisation: How grey values become binary: "dynamic" draws Bernoulli(v / (levels - 1)) at
            each visit; "static" draws the training set once, always the same; "threshold" is 1
            from half upwards; "none" refuses grey values.
        dequantise: Whether to add uniform noise to levels for a likelihood on [0, 1], so that it
            bounds the probability of the levels. Without noise the density may grow without bound.
        allows_missing: Whether the program leaves missing values, which are NaN, out of its
            likelihood; others are refused such data.
        missing_rate: The probability with which each value is removed: see `remove_values`.

    `train` holds the raw training data, in memory, sparse or on disk. `transform` is a module from
    raw batches to the likelihood's support, as floats (integers and counts are unchanged), with
    noise from the global stream of the batch's device. The attribute `binarisation` is None if
    nothing was binarised. `complete` are the same data before values were removed. `description`
    says in one line what was done.

    Raises:
        ValueError: If an option is unknown or out of its range, or values are missing and the
            program does not allow it.
        SupportMismatchError: A ValueError, if the likelihood is not defined on such data.
    """

    transform: nn.Module

    def __init__(
        self,
        dataset: Dataset,
        likelihood_support: str,
        *,
        binarisation: Binarisation = "dynamic",
        dequantise: bool = True,
        allows_missing: bool = False,
        missing_rate: float = 0.0,
    ) -> None:
        for option, value, allowed in (
            ("likelihood_support", likelihood_support, tuple(SUPPORTS)),
            ("binarisation", binarisation, get_args(Binarisation)),
        ):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}.")
        fits, values = FITS[dataset.support], _describe_values(dataset)
        if likelihood_support not in fits:
            remedy = (
                " If they are counts without a 2, say so with support (--data.support counts)."
                if (dataset.support, likelihood_support) == ("binary", "counts")
                else ""
            )
            raise SupportMismatchError(
                f"{dataset.name} holds {dataset.support} data ({SUPPORTS[dataset.support]}), on "
                f"which a likelihood of {likelihood_support} data is not defined; use a "
                f"likelihood whose support is {' or '.join(fits)}.{remedy}",
                fits,
            )
        binarised = likelihood_support == "binary" and dataset.support != "binary"
        if binarised and binarisation == "none":
            others = tuple(word for word in fits if word != "binary")
            raise SupportMismatchError(
                f"{dataset.name} holds {values}, on which a likelihood of binary data is not "
                "defined; use binarisation dynamic, static or threshold, or a likelihood whose "
                f"support is {' or '.join(others)}.",
                others,
            )
        if binarised and binarisation == "static" and isinstance(dataset.train, MemoryMapped):
            raise ValueError(
                f"the training split of {dataset.name} is memory-mapped, and static binarisation "
                "keeps a copy of it in memory; use binarisation dynamic or threshold."
            )
        self.complete = self
        if missing_rate:
            given: Any = {"binarisation": binarisation, "dequantise": dequantise}
            self.complete = PreparedData(dataset, likelihood_support, allows_missing=True, **given)
            dataset = remove_values(dataset, missing_rate)
        if dataset.missing and not allows_missing:
            raise ValueError(f"{dataset.name} has missing values: fill them in, or {REMEDY}.")
        self.allows_missing = allows_missing
        self.dataset = dataset
        self.likelihood_support = likelihood_support
        self.dequantise = dequantise
        self.binarisation: Binarisation | None = binarisation if binarised else None
        self._dequantised = (
            dequantise and likelihood_support == "unit" and dataset.support == "integers"
        )
        self._fixed: dict[str, Tensor] = {}
        self._prepare, how = self._make_transform(torch.rand_like)
        self.description = f"{dataset.name}: {values} {how}"
        static = self.binarisation == "static"
        self.train: Tensor | SparseRows | MemoryMapped = (
            self.fixed("train") if static else dataset.train
        )
        # Training uses cheap noise; reported numbers use the generator's own.
        self.transform = Scale() if static else self._make_transform(hashed_uniform)[0]

    def fixed(self, split: str) -> Real[Tensor, " n *event"] | SparseRows:
        """A split in the likelihood's support, drawn once with its own seed.

        It depends neither on the run's seed nor on when it is called, and leaves the global random
        state unchanged. Binary data are uint8, unit and real data float32, and data with
        missing values floats. Sparse data stay sparse.

        Args:
            split: "train", "validation" or "test".

        Raises:
            ValueError: If there is no such split, or it stays on disk.
        """
        values = getattr(self.dataset, split, None)
        if isinstance(values, SparseRows):
            return values
        raw = self.dataset.split(split)
        if self._is_native:
            return raw
        if split not in self._fixed:
            bytes_hold = self.likelihood_support == "binary" and not self.dataset.missing
            dtype = torch.uint8 if bytes_hold else torch.float32
            self._fixed[split] = torch.cat([rows.to(dtype) for rows in self._drawn(raw, split)])
        return self._fixed[split]

    def fixed_blocks(self, split: str) -> Iterator[Real[Tensor, " block *event"]]:
        """The rows of `fixed`, dense and some at a time, of data in memory, sparse or on disk.

        The noise of a split on disk is that which the same data have in memory.

        Args:
            split: "train", "validation" or "test".
        """
        raw = getattr(self.dataset, split)
        if isinstance(raw, MemoryMapped) and not self._is_native:
            yield from self._drawn(raw, split)
            return
        rows = raw if self._is_native else self.fixed(split)
        size = _BLOCK_ROWS
        if isinstance(rows, SparseRows):
            size = max(1, min(size, _INIT_SPARSE_ELEMENTS // rows.shape[1]))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))

    @property
    def _is_native(self) -> bool:
        return self.likelihood_support in ("integers", "counts", self.dataset.support)

    def _drawn(self, raw: Tensor | MemoryMapped, split: str) -> Iterator[Tensor]:
        """Raw rows in the likelihood's support, in blocks, with the noise of the split."""
        # Only the CPU's stream is set and restored: torch.manual_seed would seed every device.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_SEEDS[split])
            state = torch.default_generator.get_state()
        for start in range(0, len(raw), _BLOCK_ROWS):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.set_state(state)
                rows = self._prepare(raw[start : start + _BLOCK_ROWS])
                state = torch.default_generator.get_state()
            yield rows

    def starting_rows(self, most: int | None = None) -> Real[Tensor, " n *event"]:
        """Training data in the likelihood's support, to initialise parts of a model.

        The first rows; of long sparse rows fewer, evenly spaced. Missing values are their
        element's mean.

        Args:
            most: The number of rows, 10,000 if None; of large rows no more than that.
        """
        if not isinstance(self.train, SparseRows):
            fitting = max(_INIT_ROWS, _INIT_ELEMENTS // self.train[:1].numel())
            most = min(most or _INIT_ROWS, fitting)
            return fill_means(self.transform(self.train[:most]))
        n, d = self.train.shape
        size = min(n, _INIT_ROWS, max(1, _INIT_SPARSE_ELEMENTS // d))
        return self.transform(self.train[torch.arange(size) * n // size])

    def bits_per_dim(self, log_density: float) -> float | None:
        """Bits per dimension of a mean log density: the length of an ideal code for an element.

        Args:
            log_density: Mean log p(x) per example, in nats.

        Returns:
            -log p(x) / (D ln 2) for D binary elements, integers or counts (given their total, if
            that is what the likelihood is a density of); log2(levels) more for dequantised levels,
            which bounds that of the levels; None for other densities, which depend on the data's
            unit, and with missing values, as log p is then of a part of the elements.
        """
        continuous = self.likelihood_support in ("unit", "real")
        if (continuous and not self._dequantised) or self.dataset.missing:
            return None
        bits = -log_density / (math.prod(self.dataset.event_shape) * math.log(2))
        return bits + math.log2(self.dataset.levels or 1) if self._dequantised else bits

    def _make_transform(self, uniform: Uniform) -> tuple[nn.Module, str]:
        """The transform from raw values to the likelihood's support, and its description."""
        transform, how = transform_of_values(self.dataset, self, uniform)
        if not self.dataset.missing:
            return transform, how
        return KeepMissing(transform), f"{how}; {describe_missing(self.dataset)}"


def _describe_values(dataset: Dataset) -> str:
    if dataset.levels is not None:
        return f"levels 0..{dataset.levels - 1}"
    words = {"binary": "binary values", "unit": "values in [0, 1]", "real": "real values"}
    return words.get(dataset.support, dataset.support)
