"""A data set: three splits in their narrowest type, and the support of their values."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.data.columns import places
from pyro_vae.data.labels import read_labels, read_split_labels, untrained_classes
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.orders import BlockOrder
from pyro_vae.data.rows import Rows
from pyro_vae.data.sparse_rows import SparseRows, from_scipy, is_sparse
from pyro_vae.data.splits import SHARED_GROUPS, SPLITS, lone_groups, split_rows, validation_rows
from pyro_vae.data.units import ScaleKind, Units
from pyro_vae.data.values import (
    SUPPORTS,
    Channels,
    Extent,
    Kind,
    Layout,
    Support,
    arranged,
    as_events,
    as_tensor,
    kind_of,
    labels_error,
    native_support,
)

if TYPE_CHECKING:
    from scipy import sparse

NOT_SPLIT = "not split"
# That of a data set which comes in parts, or is always parted alike.
FIXED_SPLIT = "that of the data set, the same in every run"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test data with one event shape and one native support.

    Values are kept in the narrowest type that holds them: uint8 up to 256 levels, then int16 and
    int32; floats in float32, or in float64 where float32 would lose their differences. Large sparse
    counts, and large sparse binary data, stay sparse.

    Args:
        name: What the set is called in logs and tables.
        support: "binary", "integers", "counts", "unit" or "real".
        levels: The number L of levels 0, ..., L - 1 of integers; None for every other support.
        train: The training data, `(n, *event_shape)`, in memory, sparse, or on the disk.
        validation: The validation data.
        test: The test data.
        labels: Labels `(n,)` or factors `(n, factors)` of a split, by its name; may be empty.
        label_names: What label 0, 1, ... is called; of factors, what the first, second, ... is.
        event_names: What element 0, 1, ... of a datum is called: a word, a gene, a column of a table.
        blocks: The order in which training goes through the rows; None for a shuffle of all, which
            data on the disk do not have.
        rows: The numbers that the rows of each split have in the one array they were split from; not of
            training data on the disk, and empty where data came in splits.
        scale: How real data are scaled for the networks: see `Units`.
        split_rule: How the rows were split, in words.
        source: The file or folder that the data were read from.
        notes: What was left out or changed while reading, one line each.
        model_units: The units of a trained model; None to find them in the training data.
        row_names: The name of each row of the one array that was split; empty if they have none.
        noun: What a datum is called: "image", "cell", "document"; by default "image" for channels,
            height and width, otherwise "row". Its plural ends in s.

    Raises:
        ValueError: If splits are empty or differ in event shape, values lie outside the support,
            labels are not as long as their split, or names are not as many as elements.
    """

    name: str
    support: str
    levels: int | None
    train: Real[Tensor, " n_train ..."] | SparseRows | MemoryMapped = field(repr=False)
    validation: Real[Tensor, " n_validation ..."] | SparseRows | MemoryMapped = field(repr=False)
    test: Real[Tensor, " n_test ..."] | SparseRows | MemoryMapped = field(repr=False)
    labels: dict[str, Tensor] = field(default_factory=dict, repr=False)
    label_names: tuple[str, ...] = field(default=(), repr=False)
    event_names: tuple[str, ...] = field(default=(), repr=False)
    blocks: BlockOrder | None = field(default=None, repr=False)
    rows: dict[str, Tensor] = field(default_factory=dict, repr=False)
    scale: ScaleKind = "standard"
    split_rule: str = FIXED_SPLIT
    source: Path | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    model_units: Units | None = field(default=None, repr=False)
    row_names: tuple[str, ...] = field(default=(), repr=False)
    noun: str = ""

    def __post_init__(self) -> None:
        if self.support not in SUPPORTS:
            raise ValueError(
                f"support must be one of {', '.join(SUPPORTS)}, got {self.support!r}."
            )
        if self.support == "integers":
            if self.levels is None or self.levels < 2:
                raise ValueError(f"levels of integers must be at least 2, got {self.levels}.")
        elif self.levels is not None:
            raise ValueError(
                f"only integers have levels, got {self.levels} for {self.support} data."
            )
        extents = {split: self._extent(split) for split in SPLITS}
        self._check_finite(extents)
        for split, extent in extents.items():
            self._check_support(split, extent)
        highest = max(float(extent.high) for extent in extents.values())
        # The one write to a frozen instance, before anyone has seen it.
        write = partial(object.__setattr__, self)
        if not self.noun:
            write("noun", "image" if len(self.event_shape) == 3 else "row")
        dtype = self._narrowest_type(highest)
        for split in SPLITS:
            write(split, self._rows(split).to(dtype))
        if isinstance(self.train, MemoryMapped) and self.blocks is None:
            blocks = BlockOrder.fitting(len(self.train), self.train.row_bytes)
            write("blocks", blocks)
        if self.blocks is not None and self.blocks.rows != len(self.train):
            raise ValueError(
                f"{self.name}: the order of {self.blocks.rows} rows does not fit {len(self.train)}."
            )
        for split, labels in self.labels.items():
            if len(labels) != len(self._rows(split)):
                raise ValueError(
                    f"{self.name}: the {split} split has {len(self._rows(split))} rows "
                    f"but {len(labels)} labels."
                )
        if self.event_names and self.event_shape != (len(self.event_names),):
            raise ValueError(
                f"{self.name}: {len(self.event_names)} names do not fit an event of shape "
                f"{self.event_shape}."
            )

    @classmethod
    def from_array(
        cls,
        array: "np.ndarray | Tensor | sparse.csr_array",
        *,
        labels: np.ndarray | Tensor | None = None,
        levels: int | None = None,
        support: Support | None = None,
        name: str = "array",
        label_names: Sequence[str] = (),
        event_names: Sequence[str] = (),
        scale: ScaleKind = "standard",
        source: Path | None = None,
        layout: Layout = "auto",
        channels: Channels = "auto",
    ) -> "Dataset":
        """A data set from one array, split 70 / 10 / 20 by a permutation that is always the same.

        The native support is read from the values: booleans, or 0 and 1 alone, are binary; with
        `levels` they are integers of so many levels; uint8 are integers of 256 levels (images);
        other integers of 0 or more are counts; floats in [0, 1] are unit, other finite floats real.
        Where that would be a guess (uint8 with low values alone, floats without a fraction, pictures
        of other integers), it is refused until `levels` or `support` says what the values are.

        Args:
            array: `(n, d)`, `(n, height, width)`, `(n, channels, height, width)`, or with layout
                "series" `(n, channels, length)`; or a sparse matrix of SciPy's, in any format.
            labels: A label, or a row of factors, for each row.
            levels: The number of levels of integers 0, ..., levels - 1.
            support: One of `SUPPORTS`, instead of what the values say.
            name: What the set is called in logs and tables.
            label_names: What label 0, 1, ... is called.
            event_names: What element 0, 1, ... of a datum is called.
            scale: How real data are scaled for the networks: see `Units`.
            source: The file or folder that the data were read from.
            layout: What three axes are: "image", `(n, height, width)`, or "series",
                `(n, channels, length)`; "auto" are images.
            channels: Where the channels of images and series are: "first" or "last"; "auto" is first,
                and refused where they may be last.

        Raises:
            ValueError: If type, shape or values are none of these, fewer than 10 rows are given, or
                there is not one label a row.
        """
        if layout != "auto" or channels != "auto":
            dense: Any = array
            array, layout = arranged(as_tensor(dense, name, copy=False), name, layout, channels)
        rows = Rows(
            array,
            name=name,
            labels=labels,
            label_names=tuple(label_names),
            event_names=tuple(event_names),
            levels=levels,
            support=support,
            source=source,
            layout=layout,
        )
        return cls.from_rows(rows, scale=scale)

    @classmethod
    def from_rows(
        cls,
        rows: Rows,
        *,
        scale: ScaleKind = "standard",
        units: Units | None = None,
        split: bool = True,
    ) -> "Dataset":
        """A data set from data as they were read, split by their own splits or as in `from_array`.

        Args:
            rows: The data.
            scale: How real data are scaled for the networks: see `Units`.
            units: Those of a trained model, in place of the data's own.
            split: Whether the rows are split. Without, each split is all rows, of any number: new data
                for a trained model.

        Raises:
            ValueError: As `from_array`.
        """
        name = rows.name
        # Not copied: the rows of each split are, below.
        (values,) = _events(
            [rows.values],
            [name],
            rows.support,
            rows.levels,
            copy=False,
            layout=rows.layout,
            new=not split,
        )
        n = len(values)
        label_names, notes, labels = rows.label_names, rows.notes, None
        if rows.labels is not None:
            read = read_labels(rows.labels, f"the labels of {name}", names=label_names, n=n)
            labels, label_names, notes = read.values, read.names, (*notes, *read.notes)
        if split:
            notes = (*notes, *lone_groups(rows.groups))
            try:
                parts, rule = split_rows(n, labels=labels, groups=rows.groups, splits=rows.splits)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            if rule.endswith(SHARED_GROUPS):
                notes = (*notes, f"{SHARED_GROUPS}: test rows are not independent of training.")
            splits = [_rows_of(values, index) for index in parts.values()]
        else:
            parts = {split: torch.arange(n) for split in SPLITS}
            rule = NOT_SPLIT
            splits = [values] * len(SPLITS)
        targets = {} if labels is None else {s: labels[index] for s, index in parts.items()}
        support, levels = (
            (rows.support, rows.levels)
            if rows.support is not None
            else _support_of(splits, rows.levels, name)
        )
        return cls(
            name,
            support,
            levels,
            *splits,
            labels=targets,
            label_names=label_names,
            event_names=rows.event_names,
            rows=parts,
            scale=scale,
            split_rule=rule,
            source=rows.source,
            notes=(*notes, *(untrained_classes(targets, label_names) if split else ())),
            model_units=units,
            row_names=rows.row_names,
            noun=rows.noun,
        )

    def row_numbers(self, split: str) -> np.ndarray:
        """The numbers of a split's rows in the array or file that was split, if there is one; else in the split."""
        values = self._rows(split)
        if isinstance(values, MemoryMapped):
            return np.delete(np.arange(values.file.shape[0]), values.held_out)
        rows = self.rows.get(split)
        return np.arange(len(values)) if rows is None else rows.numpy()

    def names_of_rows(self, numbers: np.ndarray) -> np.ndarray | None:
        """The names of rows by `row_numbers`; None if they have none."""
        if not self.rows or not self.row_names:
            return None
        return np.array(self.row_names)[numbers]

    @property
    def is_split(self) -> bool:
        """Whether the splits differ: new data are not split."""
        return self.split_rule != NOT_SPLIT

    @classmethod
    def from_splits(
        cls,
        splits: "Mapping[str, np.ndarray | Tensor | sparse.csr_array]",
        *,
        labels: Mapping[str, np.ndarray | Tensor] | None = None,
        levels: int | None = None,
        support: Support | None = None,
        name: str = "array",
        label_names: Sequence[str] = (),
        event_names: Sequence[str] = (),
        scale: ScaleKind = "standard",
        source: Path | None = None,
        notes: Sequence[str] = (),
        layout: Layout = "auto",
        channels: Channels = "auto",
    ) -> "Dataset":
        """A data set from arrays that are split already; the support is read as in `from_array`.

        Args:
            splits: "train", "test" and perhaps "validation", which otherwise is a tenth of the
                training data, by a fixed permutation.
            labels: Labels or factors for some of the splits.
            levels: The number of levels of integers 0, ..., levels - 1.
            support: One of `SUPPORTS`, instead of what the values say.
            name: What the set is called in logs and tables.
            label_names: What label 0, 1, ... is called.
            event_names: What element 0, 1, ... of a datum is called.
            scale: How real data are scaled for the networks: see `Units`.
            source: The file or folder that the data were read from.
            notes: What was left out or changed while reading, one line each.
            layout: As in `from_array`.
            channels: As in `from_array`.

        Raises:
            ValueError: As `from_array`, and if the splits differ in type or event shape.
        """
        if not {"train", "test"} <= set(splits) <= set(SPLITS):
            raise ValueError(
                f"splits must be train, test and perhaps validation, got {', '.join(splits)}."
            )
        names = [f"{name} ({split})" for split in splits]
        found = _events(
            [*splits.values()],
            names,
            support,
            levels,
            copy=True,
            layout=layout,
            channels=channels,
        )
        tensors: dict[str, Tensor | SparseRows] = dict(zip(splits, found, strict=True))
        sizes = {split: len(values) for split, values in tensors.items()}
        what = f"the labels of {name}"
        targets, read = read_split_labels(labels or {}, what, names=label_names, sizes=sizes)
        rule = "as given"
        if "validation" not in tensors:
            held_out = validation_rows(len(tensors["train"]), labels=targets.get("train"))
            trained = torch.ones(len(tensors["train"]), dtype=torch.bool)
            trained[held_out] = False
            for parts in (tensors, targets):
                if "train" in parts:
                    parts["validation"] = _rows_of(parts["train"], held_out)
                    parts["train"] = _rows_of(parts["train"], trained)
            rule = (
                f"train and test as given; {len(held_out)} of {len(trained)} training rows validate, "
                "by a fixed permutation"
            )
        kind, levels = (
            (support, levels)
            if support is not None
            else _support_of(list(tensors.values()), levels, name)
        )
        return cls(
            name,
            kind,
            levels,
            *(tensors[split] for split in SPLITS),
            labels=targets,
            label_names=read.names or tuple(label_names),
            event_names=tuple(event_names),
            scale=scale,
            split_rule=rule,
            source=source,
            notes=(*notes, *read.notes, *untrained_classes(targets, read.names)),
        )

    @property
    def train_extent(self) -> Extent:
        """From where to where the training values reach."""
        return Extent.of(self.train) if isinstance(self.train, Tensor) else self.train.extent

    @cached_property
    def units(self) -> Units:
        """The units that networks work in: a model's, or those of the training data.

        Those of data on the disk are taken from the validation rows, which are spread over the file.
        """
        if self.model_units is not None:
            return self.model_units
        if self.support != "real":
            return Units.of(self.validation[:1], "none")
        # Sparse data are never real, unless they are given so: rows of them are enough.
        in_memory = self.train if isinstance(self.train, Tensor) else self.validation[:10_000]
        return Units.of(in_memory, self.scale)

    @cached_property
    def kind(self) -> Kind:
        """The kind of data, by which a model file chooses a default likelihood: see `values.kind_of`."""
        return kind_of(self.support, self.levels, self.train[:1000])

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a datum."""
        return tuple(self.train.shape[1:])

    def split(self, name: str) -> Real[Tensor, " n *event"]:
        """The data of the split of this name, dense and in memory.

        Raises:
            ValueError: If there is no such split, or it stays sparse or on the disk.
        """
        values = self._rows(name)
        if isinstance(values, Tensor):
            return values
        kind = "sparse" if isinstance(values, SparseRows) else "memory-mapped"
        raise ValueError(
            f"the {name} split of {self.name} is {kind}: it is read in training, batch by batch, and does "
            f"not go into memory as a whole; take rows of it, dataset.{name}[:1000]."
        )

    def _rows(self, split: str) -> Tensor | SparseRows | MemoryMapped:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
        return getattr(self, split)

    def in_memory(self) -> "Dataset":
        """The same data, the same splits and the same order of training, all in memory."""
        if isinstance(self.train, MemoryMapped):
            return replace(self, train=self.train[:])
        return self

    def _extent(self, split: str) -> Extent:
        """From where to where the values of a split reach.

        Raises:
            ValueError: If the split is empty, or its event shape is not that of the training data.
        """
        values = self._rows(split)
        what = f"{self.name}: the {split} split"
        if math.prod(values.shape) == 0:
            raise ValueError(f"{what} is empty, of shape {tuple(values.shape)}.")
        if values.shape[1:] != self.train.shape[1:]:
            raise ValueError(
                f"{what} must have the training data's event shape {self.event_shape}, "
                f"got {tuple(values.shape[1:])}."
            )
        return Extent.of(values) if isinstance(values, Tensor) else values.extent

    def _check_finite(self, extents: Mapping[str, Extent]) -> None:
        """Raise if a value is NaN or infinite, and say where."""
        largest = torch.finfo(torch.float32).max
        # NaN passes through both ends of an extent.
        wrong = [
            split
            for split, extent in extents.items()
            if not (-largest <= float(extent.low) and float(extent.high) <= largest)
        ]
        if not wrong:
            return
        # Splits of one array are spoken of as that array.
        what, splits = f"{self.name}: the {wrong[0]} split", wrong[:1]
        if all(self._row_number(split, 0) is not None for split in SPLITS):
            what, splits = self.name, wrong if self.is_split else wrong[:1]
        where = self._places(splits, lambda x: ~(x.abs() <= largest))
        raise ValueError(
            f"{what} holds values that are not finite in float32 (NaN, infinite or beyond 3.4e38): "
            f"{where}; replace them, or leave out their rows or columns."
        )

    def _check_support(self, split: str, extent: Extent) -> None:
        """Raise unless a split's values are in the support."""
        what = f"{self.name}: the {split} split"
        low, high = float(extent.low), float(extent.high)
        lowest = -math.inf if self.support == "real" else 0
        top = math.inf if self.support in ("counts", "real") else (self.levels or 2) - 1
        if low < lowest or high > top:
            where = self._places([split], lambda x: (x < lowest) | (x > top))
            grey = self.support == "unit" and low >= 0 and 128 < high <= 255
            raise ValueError(
                f"{what} must hold {self.support} data, between {lowest} and {top}, got values from "
                f"{low:g} to {high:g}: {where}{'; grey levels are unit data as x / 255' if grey else ''}."
            )
        whole = self.support in ("binary", "integers", "counts")
        if whole and not extent.whole:
            raise ValueError(
                f"{what} must hold {self.support} data ({SUPPORTS[self.support]}), got fractions: "
                f"{self._places([split], lambda x: x != x.round())}; round them, or give the data as real "
                "(--data.support real, without levels)."
            )

    def _places(self, splits: Sequence[str], wrong: Callable[[Tensor], Tensor]) -> str:
        """Where the wrong values of some splits are, for the end of a message."""
        counts = torch.zeros((self.event_shape or (1,))[0], dtype=torch.int64)
        rows: list[int] = []
        for split in splits:
            values = self._rows(split)
            # Blocks, as rows may lie on the disk or be sparse.
            step = max(1, 2**22 // max(1, math.prod(self.event_shape)))
            for start in range(0, len(values), step):
                mask = wrong(values[start : start + step])
                counts += mask.reshape(len(mask), len(counts), -1).sum((0, 2))
                for row in mask.flatten(1).any(1).nonzero().flatten().tolist():
                    number = self._row_number(split, start + row)
                    rows.append(start + row if number is None else number)
        names = self.event_names if self.event_shape == (len(self.event_names),) else ()
        return places(counts, sorted(rows), self.event_shape, names)

    def _row_number(self, split: str, row: int) -> int | None:
        """The number of a split's row in the array it was split from; None if there is no such array."""
        values = self._rows(split)
        if isinstance(values, MemoryMapped):
            return values.place(row)
        return int(self.rows[split][row]) if split in self.rows else None

    def _narrowest_type(self, highest: float) -> torch.dtype:
        if self.support == "real":
            return torch.float64 if self.units.double else torch.float32
        if self.support == "unit":
            return torch.float32
        top = highest if self.levels is None else self.levels - 1
        types = (torch.uint8, torch.int16, torch.int32, torch.int64)
        return next(dtype for dtype in types if top <= torch.iinfo(dtype).max)


def _support_of(
    splits: Sequence[Tensor | SparseRows], levels: int | None, name: str
) -> tuple[str, int | None]:
    """The support that the splits say together, and the levels of integers."""
    extents = [
        Extent.of(values) if isinstance(values, Tensor) else values.extent
        for values in splits
        if math.prod(values.shape)
    ]
    extent = Extent.joined(extents) if extents else Extent(0, 0, True)
    dtypes = [values.dtype for values in splits]
    return native_support(extent, dtypes, levels, name, splits[0].shape[1:])


def _events(
    arrays: Sequence[Any],
    names: Sequence[str],
    support: str | None,
    levels: int | None,
    *,
    copy: bool,
    layout: Layout = "auto",
    channels: Channels | None = None,
    new: bool = False,
) -> list[Any]:
    """Arrays as tensors with an event shape; sparse matrices as sparse rows where they are worth it.

    Rows on the disk and sparse rows are left as they are, and so is an array whose `channels` are None:
    it is arranged as `layout` says.
    """
    counts = levels is None and support in (None, "binary", "counts")
    arrays = [*arrays]
    sparse = [i for i, array in enumerate(arrays) if is_sparse(array)]
    if sparse:
        found = from_scipy([arrays[i] for i in sparse], names[sparse[0]], counts=counts)
        for i, values in zip(sparse, found, strict=True):
            if not new and isinstance(values, SparseRows) and values.each_has_a_single_1():
                raise labels_error(values.shape, names[i])
            arrays[i] = values
    events = []
    for values, name in zip(arrays, names, strict=True):
        if isinstance(values, SparseRows | MemoryMapped):
            events.append(values)
            continue
        tensor, arrangement = as_tensor(values, name, copy=copy), layout
        if channels is not None:
            tensor, arrangement = arranged(tensor, name, layout, channels)
        events.append(as_events(tensor, name, arrangement, new=new))
    return events


def _rows_of(values: Any, index: Tensor) -> Any:
    """Some rows, sparse where they were."""
    return values.subset(index) if isinstance(values, SparseRows) else values[index]
