"""A data set: three splits in their narrowest type, and the support of their values."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.data.labels import read_labels, read_split_labels, untrained_class_notes
from pyro_vae.data.layout import Channels, Layout, move_channels_first
from pyro_vae.data.memory_mapped import BlockOrder, MemoryMapped
from pyro_vae.data.missing import REMEDY, check_missing, missing_allowed
from pyro_vae.data.nouns import describe_positions
from pyro_vae.data.rows import Rows, prefix_errors, select_rows, to_events
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.splits import SHARED_GROUPS, SPLITS, group_notes, split_rows, validation_rows
from pyro_vae.data.units import ScaleKind, Units
from pyro_vae.data.validation import (
    SUPPORTS,
    Kind,
    Support,
    ValueRange,
    as_tensor,
    check_range,
    is_finite,
    kind_of,
    locate_values,
    narrowest_type,
    native_support,
    not_finite,
)

if TYPE_CHECKING:
    from scipy import sparse

NOT_SPLIT = "not split"
FIXED_SPLIT = "that of the data set, the same in every run"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test data with one event shape and one native support.

    Values are kept in the narrowest type that holds them: uint8 up to 256 levels, then int16 and
    int32; floats in float32, or in float64 where float32 would lose their differences. Large
    sparse counts, and large sparse binary data, stay sparse.

    Args:
        name: The name of the set in logs and tables.
        support: "binary", "integers", "counts", "unit" or "real".
        levels: Number L of levels 0, ..., L - 1 of integers; None for every other support.
        train: The training data, `(n, *event_shape)`, in memory, sparse, or on disk.
        validation: The validation data.
        test: The test data.
        labels: Labels `(n,)` or factors `(n, factors)` of a split, by its name; may be empty.
        label_names: The names of labels 0, 1, ...; or of the factors.
        event_names: The names of the elements: words, genes, columns of a table.
        blocks: The order in which training reads rows on disk; None for a shuffle of all.
        rows: The indices of each split's rows in the array that was split; empty on disk.
        scale: How real data are scaled for the networks: see `Units`.
        split_rule: How the rows were split, in words.
        source: The file or folder of the data.
        notes: What was left out or changed while reading, one line each.
        model_units: The units of a trained model; None to compute them from the training data.
        row_names: The name of each row of the array that was split; may be empty.
        noun: What an example is called, with a plural in s; by default "image" or "row".
        missing: Whether NaN marks missing values, and afterwards whether there are any. Values are
            then floats.

    Raises:
        ValueError: If splits are empty or differ in event shape, values lie outside the support,
            or labels or names have the wrong length.
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
    missing: bool = False

    def __post_init__(self) -> None:
        if self.support not in SUPPORTS:
            allowed = ", ".join(SUPPORTS)
            raise ValueError(f"support must be one of {allowed}, got {self.support!r}.")
        if self.support == "integers" and (self.levels is None or self.levels < 2):
            raise ValueError(f"levels of integers must be at least 2, got {self.levels}.")
        if self.support != "integers" and self.levels is not None:
            raise ValueError(f"only integers have levels, got {self.levels} for {self.support}.")
        ranges = {split: self._value_range(split) for split in SPLITS}
        self._check_finite(ranges)
        write = functools.partial(object.__setattr__, self)
        write("missing", any(each.missing for each in ranges.values()))
        if self.missing:
            check_missing(self)
        for split, value_range in ranges.items():
            describe = functools.partial(self._describe, [split])
            what = f"{self.name}: the {split} split"
            check_range(value_range, self.support, self.levels, what, describe)
        if not self.noun:
            write("noun", "image" if len(self.event_shape) == 3 else "row")
        dtype = narrowest_type(self, max(float(each.high) for each in ranges.values()))
        for split in SPLITS:
            write(split, self._split(split).to(dtype))
        if isinstance(self.train, MemoryMapped) and self.blocks is None:
            write("blocks", BlockOrder.for_row_bytes(len(self.train), self.train.row_bytes))
        if self.blocks is not None and self.blocks.rows != (n := len(self.train)):
            got = self.blocks.rows
            raise ValueError(f"{self.name}: the order of {got} rows does not fit {n}.")
        for split, labels in self.labels.items():
            if len(labels) != (n := len(self._split(split))):
                raise ValueError(f"{self.name}: {split} has {n} rows but {len(labels)} labels.")
        if self.event_names and self.event_shape != (names := (len(self.event_names),)):
            raise ValueError(
                f"{self.name}: {names[0]} names do not fit an event of shape {self.event_shape}."
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
        layout: Layout = "auto",
        channels: Channels = "auto",
    ) -> "Dataset":
        """Make a data set from one array, split 70 / 10 / 20 by a fixed permutation.

        The support is inferred: booleans, or 0 and 1 alone, are binary; with `levels`, and for
        uint8 (256 levels), they are integers; other non-negative integers are counts; floats in
        [0, 1] are unit, others real. Low uint8 values, floats without a fraction and images of
        other integers are ambiguous, and refused until `levels` or `support` says what they are.

        Args:
            array: `(n, d)`, images, series or sequences; or a SciPy sparse matrix in any format.
            labels: A label, or a row of factors, for each row.
            levels: Number of levels of integers 0, ..., levels - 1.
            support: One of `SUPPORTS`, instead of inferring it.
            name: The name of the set in logs and tables.
            label_names: The names of labels 0, 1, ...
            event_names: The names of the elements.
            scale: How real data are scaled for the networks: see `Units`.
            layout: The meaning of the axes: see `pyro_vae.data.layout.event_shape`.
            channels: "first" or "last"; "auto" is first, refused where they may be last.

        Raises:
            ValueError: If type, shape or values are none of these, there are fewer than 10 rows,
                or the labels have another length.
        """
        if layout != "auto" or channels != "auto":
            dense: Any = array
            tensor = as_tensor(dense, name, copy=False)
            array, layout = move_channels_first(tensor, name, layout, channels)
        rows = Rows(
            array,
            name=name,
            labels=labels,
            label_names=tuple(label_names),
            event_names=tuple(event_names),
            levels=levels,
            support=support,
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
        """Make a data set from data as read, split by their own splits or as in `from_array`.

        Args:
            rows: The data.
            scale: How real data are scaled for the networks: see `Units`.
            units: The units of a trained model, instead of the data's own.
            split: Whether to split the rows. Otherwise each split is all rows, of any number: new
                data for a trained model.

        Raises:
            ValueError: As `from_array`.
        """
        name = rows.name
        splits: Mapping[str, Any]
        if isinstance(rows.values, Mapping):
            return cls._from_given_splits(rows, scale=scale)
        values = to_events(rows, [rows.values], [name], copy=False, new=not split)[0]
        n = len(values)
        label_names, notes, labels = rows.label_names, rows.notes, None
        if rows.labels is not None:
            read = read_labels(rows.labels, f"the labels of {name}", names=label_names, n=n)
            labels, label_names, notes = read.values, read.names, (*notes, *read.notes)
        if not split:
            parts = dict.fromkeys(SPLITS, torch.arange(n))
            splits, rule = {split: values for split in SPLITS}, NOT_SPLIT
        elif isinstance(values, MemoryMapped):
            splits, parts = values.hold_out()
            rule = "validation and test rows drawn evenly over the file, always the same"
        else:
            notes = (*notes, *group_notes(rows.groups))
            with prefix_errors(name):
                parts, rule = split_rows(n, labels=labels, groups=rows.groups, splits=rows.splits)
            if rule.endswith(SHARED_GROUPS):
                notes = (*notes, f"{SHARED_GROUPS}: test rows are not independent of training.")
            splits = {split: select_rows(values, index) for split, index in parts.items()}
        targets = {} if labels is None else {s: labels[index] for s, index in parts.items()}
        return cls._from_tensors(
            rows,
            splits,
            labels=targets,
            label_names=label_names,
            rows=parts,
            scale=scale,
            split_rule=rule,
            notes=(*notes, *(untrained_class_notes(targets, label_names) if split else ())),
            model_units=units,
        )

    @classmethod
    def from_splits(
        cls,
        splits: "Mapping[str, np.ndarray | Tensor | sparse.csr_array]",
        *,
        scale: ScaleKind = "standard",
        channels: Channels = "auto",
        **fields: Any,
    ) -> "Dataset":
        """Make a data set from arrays that are split already.

        Args:
            splits: "train", "test" and perhaps "validation", which otherwise is a tenth of the
                training data, by a fixed permutation.
            scale: As in `from_array`.
            channels: As in `from_array`.
            **fields: Fields of `Rows`; labels are a mapping from some of the splits.

        Raises:
            ValueError: As `from_array`, and if the splits differ in type or event shape.
        """
        return cls._from_given_splits(Rows(splits, **fields), scale=scale, channels=channels)

    @classmethod
    def _from_given_splits(
        cls, rows: Rows, *, scale: ScaleKind, channels: Channels | None = None
    ) -> "Dataset":
        given, name = rows.values, rows.name
        if not {"train", "test"} <= set(given) <= set(SPLITS):
            raise ValueError(
                f"splits must be train, test and perhaps validation, got {', '.join(given)}."
            )
        names = [f"{name} ({split})" for split in given]
        found = to_events(rows, [*given.values()], names, copy=True, channels=channels)
        splits = dict(zip(given, found, strict=True))
        targets, read = read_split_labels(
            rows.labels or {},
            f"the labels of {name}",
            names=rows.label_names,
            sizes={split: len(values) for split, values in splits.items()},
        )
        rule = "as given"
        if "validation" not in splits:
            n = len(splits["train"])
            held_out = validation_rows(n, labels=targets.get("train"))
            rest = torch.ones(n, dtype=torch.bool)
            rest[held_out] = False
            for parts in (splits, targets):
                if "train" in parts:
                    parts["validation"] = select_rows(parts["train"], held_out)
                    parts["train"] = select_rows(parts["train"], rest)
            rule = f"train and test as given; {len(held_out)} of {n} training rows validate, "
            rule += "by a fixed permutation"
        return cls._from_tensors(
            rows,
            {split: splits[split] for split in SPLITS},
            labels=targets,
            label_names=read.names or rows.label_names,
            scale=scale,
            split_rule=rule,
            notes=(*rows.notes, *read.notes, *untrained_class_notes(targets, read.names)),
        )

    @classmethod
    def _from_tensors(cls, data: Rows, splits: Mapping[str, Any], **fields: Any) -> "Dataset":
        """Infer the support if it is not given, and add the fields that `data` has."""
        support, levels = data.support, data.levels
        if support is None:
            ranges = [
                ValueRange.from_values(each) for each in splits.values() if math.prod(each.shape)
            ]
            support, levels = native_support(
                ValueRange.union(ranges or [ValueRange(0, 0, True)]),
                [each.dtype for each in splits.values()],
                levels,
                data.name,
                next(iter(splits.values())).shape[1:],
            )
        if data.layout == "sequence" and not fields.get("model_units"):
            fields["model_units"] = Units.of_frames(splits, support, fields["scale"])
        return cls(
            data.name,
            support,
            levels,
            **{split: splits[split] for split in SPLITS},
            event_names=data.event_names,
            source=data.source,
            row_names=data.row_names,
            noun=data.noun or ("sequence" if data.layout == "sequence" else ""),
            missing=missing_allowed(),
            **fields,
        )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of an example."""
        return tuple(self.train.shape[1:])

    @property
    def is_split(self) -> bool:
        """Whether the splits differ: new data are not split."""
        return self.split_rule != NOT_SPLIT

    @functools.cached_property
    def units(self) -> Units:
        """The units that networks work in; of data on disk, from the validation rows."""
        if self.model_units is not None:
            return self.model_units
        if self.support != "real":
            return Units.from_data(self.validation[:1], "none")
        in_memory = self.train if isinstance(self.train, Tensor) else self.validation[:10_000]
        return Units.from_data(in_memory, self.scale)

    @functools.cached_property
    def kind(self) -> Kind:
        """The kind of data, for a default likelihood: see `validation.kind_of`."""
        return kind_of(self.support, self.levels, self.train[:1000])

    def split(self, name: str) -> Real[Tensor, " n *event"]:
        """A split as a dense tensor.

        Raises:
            ValueError: If there is no such split, or it stays sparse or on disk.
        """
        values = self._split(name)
        if isinstance(values, Tensor):
            return values
        kind = "sparse" if isinstance(values, SparseRows) else "memory-mapped"
        raise ValueError(
            f"the {name} split of {self.name} is {kind} and is not made dense as a whole: select "
            f"rows of it, dataset.{name}[:1000]."
        )

    def in_memory(self) -> "Dataset":
        """The same data, splits and order of training, all in memory."""
        mapped = isinstance(self.train, MemoryMapped)
        return replace(self, train=self.train[:]) if mapped else self

    def row_numbers(self, split: str) -> np.ndarray:
        """The indices of a split's rows in the array that was split, or in the split itself."""
        values = self._split(split)
        if isinstance(values, MemoryMapped) and len(values.held_out):
            return np.delete(np.arange(values.file.shape[0]), values.held_out)
        rows = self.rows.get(split)
        return np.arange(len(values)) if rows is None else rows.numpy()

    def names_of_rows(self, numbers: np.ndarray) -> np.ndarray | None:
        """The names of rows by `row_numbers`; None if they have none."""
        if not self.rows or not self.row_names:
            return None
        return np.array(self.row_names)[numbers]

    def _split(self, split: str) -> Tensor | SparseRows | MemoryMapped:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
        return getattr(self, split)

    def _value_range(self, split: str) -> ValueRange:
        """The range of a split, which must not be empty or differ in event shape."""
        values = self._split(split)
        what = f"{self.name}: the {split} split"
        if math.prod(values.shape) == 0:
            raise ValueError(f"{what} is empty, of shape {tuple(values.shape)}.")
        if values.shape[1:] != self.train.shape[1:]:
            raise ValueError(
                f"{what} must have the training data's event shape {self.event_shape}, "
                f"got {tuple(values.shape[1:])}."
            )
        return ValueRange.from_values(values)

    def _check_finite(self, ranges: Mapping[str, ValueRange]) -> None:
        wrong = [split for split, each in ranges.items() if not is_finite(each, self.missing)]
        if not wrong:
            return
        what, splits = f"{self.name}: the {wrong[0]} split", wrong[:1]
        if all(self._row_number(split, 0) is not None for split in SPLITS):
            what, splits = self.name, wrong if self.is_split else wrong[:1]
        remedy = f", or {REMEDY}" if any(each.missing for each in ranges.values()) else ""
        where = self._describe(splits, functools.partial(not_finite, missing=self.missing))
        raise ValueError(
            f"{what} holds values that are not finite in float32 (NaN, infinite or beyond "
            f"3.4e38): {where}; replace them, or leave out their rows or columns{remedy}."
        )

    def _describe(self, splits: Sequence[str], condition: Callable[[Tensor], Tensor]) -> str:
        """Describe where the values of some splits satisfy a condition."""
        total: Any = 0
        numbers: list[int] = []
        for split in splits:
            counts, rows, _ = locate_values(self._split(split), condition)
            total = total + counts
            for row in rows:
                number = self._row_number(split, row)
                numbers.append(row if number is None else number)
        names = self.event_names if self.event_shape == (len(self.event_names),) else ()
        return describe_positions(total, sorted(numbers), self.event_shape, names)

    def _row_number(self, split: str, row: int) -> int | None:
        """The index of a split's row in the array that was split, if there is one."""
        values = self._split(split)
        if isinstance(values, MemoryMapped):
            return values.file_index(row)
        return int(self.rows[split][row]) if split in self.rows else None
