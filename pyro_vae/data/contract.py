"""The data contract: a description of the training data, stored with the model and checked later."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_vae.data.columns import counts_by_column, quoted
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.digests import path_digest, row_digests
from pyro_vae.data.inputs import as_rows, path_rows
from pyro_vae.data.labels import Labels, are_classes, read_labels
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.preparation import PreparedData
from pyro_vae.data.rows import Rows
from pyro_vae.data.sparse_rows import SparseRows, from_scipy, is_sparse
from pyro_vae.data.splits import SPLITS
from pyro_vae.data.units import Units
from pyro_vae.data.values import (
    SUPPORTS,
    Extent,
    as_events,
    as_tensor,
    check_support,
    layout_like,
    outside_support,
)

log = logging.getLogger(__name__)

# New values so many spreads from the training mean are in another unit, or marks of missing values.
_FAR = 20.0
# Rows that are checked at a time.
_ROWS_AT_A_TIME = 4096


class ChangedDataError(ValueError):
    """The data differ from those that the model was trained on."""


@dataclass(frozen=True, eq=False)
class DataContract:
    """A description of the training data: names, support, units, classes, splits and digests.

    A run stores it in its checkpoint. `check` compares the run's data when they are read again.
    `new_data` prepares other data in the same way as the training data, or raises an error that says
    how they differ.

    Args:
        name: What the data are called.
        support: The native support of the data.
        levels: The number of levels of integers; None for other data.
        event_shape: The shape of a datum: `(elements,)`, `(channels, length)` or `(channels, height,
            width)`.
        event_names: What the elements are called, in the order of training; may be empty.
        label_names: What class 0, 1, ... is called; of factors, what the factors are.
        has_classes: Whether the labels are classes.
        low: The lowest value in the training data.
        high: The highest.
        units: The center and spread that networks work in.
        likelihood_support: The support of the likelihood that the data were prepared for.
        binarisation: How grey values became binary; None if they did not.
        dequantise: Whether levels got uniform noise for a likelihood of unit data.
        split_rule: How the rows were split, in words.
        digests: For each split in memory, the sorted digests of its rows as int64.
        sizes: The number of rows in each split.
        labels_digest: The SHA-256 of all labels; empty without labels.
        source: The resolved path that the data were read from; empty for data in memory.
        source_digest: The SHA-256 of the file, or of the names and lengths of a folder's files.
        notes: What was found in the data before training, one line each.
        noun: What a datum is called: see `Dataset`.
    """

    name: str
    support: str
    levels: int | None
    event_shape: tuple[int, ...]
    event_names: tuple[str, ...]
    label_names: tuple[str, ...]
    has_classes: bool
    low: float
    high: float
    units: Units
    likelihood_support: str
    binarisation: str | None
    dequantise: bool
    split_rule: str
    digests: dict[str, Int[Tensor, " _"]] = field(repr=False)
    sizes: dict[str, int]
    labels_digest: str = ""
    source: str = ""
    source_digest: str = ""
    notes: tuple[str, ...] = field(default=(), repr=False)
    noun: str = "row"

    @classmethod
    def of(cls, data: PreparedData, notes: Sequence[str] = ()) -> "DataContract":
        """The contract of a run's data.

        Args:
            data: The data as they were prepared for the run.
            notes: What was found in them.
        """
        dataset = data.dataset
        source = dataset.source
        extent = dataset.train_extent
        return cls(
            name=dataset.name,
            support=dataset.support,
            levels=dataset.levels,
            event_shape=dataset.event_shape,
            event_names=dataset.event_names,
            label_names=dataset.label_names,
            has_classes=are_classes(dataset.labels.get("train")),
            low=float(extent.low),
            high=float(extent.high),
            units=dataset.units,
            likelihood_support=data.likelihood_support,
            binarisation=data.binarisation,
            dequantise=data.dequantise,
            split_rule=dataset.split_rule,
            digests=_digests(dataset),
            sizes={split: len(getattr(dataset, split)) for split in SPLITS},
            labels_digest=_labels_digest(dataset),
            source="" if source is None else str(source.resolve()),
            source_digest="" if source is None else path_digest(source),
            notes=tuple(dict.fromkeys((*dataset.notes, *notes))),
            noun=dataset.noun,
        )

    # ---- the run's own data, read again ------------------------------------------------------

    def check(self, data: PreparedData, *, trained: str = "the model") -> None:
        """Make sure that the run's data, read again, are those of training.

        Raises:
            ChangedDataError: If they are not, in one line: how many rows there are now, and how many of
                the rows that are now in the test split were in the training split.
        """
        dataset = data.dataset
        self.check_form(dataset, trained=trained)
        now = _digests(dataset)
        sizes = {split: len(getattr(dataset, split)) for split in SPLITS}
        # Training data on the disk have no digests, before or now.
        known = now.keys() & self.digests.keys()
        same = sizes == self.sizes and {*SPLITS} - known <= {"train"}
        same = same and all(torch.equal(now[split], self.digests[split]) for split in known)
        on_disk = isinstance(dataset.train, MemoryMapped)
        if same and on_disk and dataset.source is not None:
            same = path_digest(dataset.source) == self.source_digest
        if same:
            return
        where = self.source or self.name
        before, after = sum(self.sizes.values()), sum(sizes.values())
        message = f"the data have changed since {trained} was trained: {where} "
        message += (
            f"has {after:,} rows and had {before:,}"
            if before != after
            else "has the same rows, in other splits: their order, labels or groups have changed"
            if {*SPLITS} == now.keys() == self.digests.keys() and _same_rows(now, self.digests)
            else f"has {before:,} rows as before, with other values or splits"
        )
        if "train" in self.digests:
            seen = _count_among(now["test"], self.digests["train"])
            before_seen = _count_among(self.digests["test"], self.digests["train"])
            message += f"; {seen:,} of the {sizes['test']:,} rows now in its test split are rows that trained it"
            message += f" (there were {before_seen:,})" if before_seen else ""
        raise ChangedDataError(
            f"{message}. Numbers on them would be wrong: restore the file, train again, or give the rows as new data, "
            "with --data FILE."
        )

    def check_labels(self, dataset: Dataset) -> str | None:
        """A warning if the labels differ from those of training; None otherwise."""
        if (
            _labels_digest(dataset) == self.labels_digest
            and dataset.label_names == self.label_names
        ):
            return None
        return f"the labels of {dataset.name} are not those of training; codes and densities do not depend on them."

    def check_form(self, dataset: Dataset, *, trained: str = "the model") -> None:
        """Make sure that data have the shape, the support, the levels and the names of training.

        Raises:
            ValueError: If they have not, in one line.
        """
        if dataset.event_shape != self.event_shape:
            raise ValueError(
                f"{trained} was trained on data of shape {self.event_shape}, and those of "
                f"{dataset.name} have the shape {dataset.event_shape}."
            )
        if dataset.levels != self.levels:
            raise ValueError(
                f"{trained} was trained on {_described(self.support, self.levels)}, and those of "
                f"{dataset.name} are {_described(dataset.support, dataset.levels)}."
            )
        if self.event_names and dataset.event_names and self.event_names != dataset.event_names:
            self._order(dataset.event_names, dataset.name)
            raise ValueError(
                f"{dataset.name} has the columns of {trained}'s data in another order: put them in the order "
                f"{quoted(self.event_names)}, or give the file as new data, with --data FILE."
            )

    # ---- new data ----------------------------------------------------------------------------

    def new_data(self, rows: Rows, *, split: bool = False) -> PreparedData:
        """New data, prepared as the training data were; each split is all of them.

        Columns are matched by name and put in the order of training. The support is the model's, unless
        the rows say that they are in the likelihood's support already, and classes keep their numbers.

        Args:
            rows: The data as they were read.
            split: Whether they are split as training data are, for what is fitted to some of them.

        Raises:
            ValueError: If elements are missing, shapes differ, or values are outside the support: by
                column and count, in one line.
        """
        # Data that are said to be binarised already are not binarised again.
        said = rows.support == self.likelihood_support
        support = self.likelihood_support if said else self.new_support
        values, notes = self.matched(rows, support)
        labels, names = None, self.label_names
        if rows.labels is not None:
            read = self._numbered(rows)
            # Not read once more.
            labels, names, notes = replace(read, notes=()), read.names, (*notes, *read.notes)
        ready = replace(
            rows,
            values=values,
            labels=labels,
            label_names=names,
            event_names=self.event_names,
            support=support,
            levels=self.levels if support == "integers" else None,
            notes=(*rows.notes, *notes),
            noun=self.noun,
            # Matched values have the shape of training.
            layout="series" if len(self.event_shape) == 2 else "image",
        )
        dataset = Dataset.from_rows(ready, units=self.units, split=split)
        binarisation: Any = self.binarisation or "none"
        return PreparedData(
            dataset,
            self.likelihood_support,
            binarisation=binarisation,
            dequantise=self.dequantise,
        )

    @property
    def new_support(self) -> str:
        """The support of new data: unit data for a likelihood of real data need not be unit."""
        return "real" if self.likelihood_support == "real" and not self.levels else self.support

    def matched(self, rows: Rows, support: str) -> tuple[Any, tuple[str, ...]]:
        """The values in the order and the shape of training, and what was left out, one line each.

        Raises:
            ValueError: As `new_data`.
        """
        values, notes = rows.values, []
        if rows.event_names and self.event_names:
            order, foreign = self._order(rows.event_names, rows.name, rows.notes)
            if foreign:
                notes.append(
                    f"{rows.name}: left out {quoted(foreign)}, which the model does not have."
                )
            if order is not None:
                values = values[:, order]
        shape, event = tuple(values.shape), self.event_shape
        single = (shape == event and event[0] != 1) or (len(event) > 1 and (1, *shape) == event)
        if single or (shape == event and len(event) == 1):
            raise ValueError(
                f"{rows.name} of shape {shape} is a single {self.noun}: give an array of one, x[None]."
            )
        values = self._events(values, rows)
        if tuple(values.shape[1:]) != self.event_shape:
            raise ValueError(
                f"the model was trained on data of shape {self.event_shape}, and those of {rows.name} have "
                f"the shape {tuple(values.shape[1:])}."
            )
        if len(values) == 0:
            raise ValueError(f"{rows.name} holds no rows.")
        levels = self.levels if support == "integers" else None
        check_support(values, support, levels, name=rows.name, event_names=self.event_names)
        if isinstance(values, Tensor):
            self.check_precision(values.dtype, rows.name)
            notes += self._unlike(values, rows.name)
        high = (Extent.of(values) if isinstance(values, Tensor) else values.extent).high
        if levels is not None and levels > 2 and self.high > 1 and high <= 1:
            notes.append(
                f"{rows.name}: all values are 0 or 1, of {levels} levels: if they are binarised already, say "
                "so with --data.support binary."
            )
        return values, tuple(notes)

    def _events(self, values: Any, rows: Rows) -> Any:
        """The values with an event shape; rows on the disk and sparse ones as they are."""
        if is_sparse(values):
            counts = self.support in ("binary", "counts")
            (values,) = from_scipy([values], rows.name, counts=counts)
        if isinstance(values, SparseRows | MemoryMapped):
            return values
        values = as_tensor(values, rows.name, copy=False)
        # Axes are what they were in training.
        layout = layout_like(tuple(values.shape), self.event_shape)
        layout = rows.layout if layout == "auto" else layout
        return as_events(values, rows.name, layout, new=True)

    def _order(
        self, names: Sequence[str], name: str, notes: Sequence[str] = ()
    ) -> tuple[list[int] | None, list[str]]:
        """The places of the training elements among names, None if they are the same, and what is left."""
        if tuple(names) == self.event_names:
            return None, []
        place = {column: index for index, column in enumerate(names)}
        if missing := [column for column in self.event_names if column not in place]:
            # A column that could not be read is named with the reason.
            reasons = [note for note in notes if any(repr(each) in note for each in missing)]
            raise ValueError(
                f"{name} lacks {len(missing)} of the {len(self.event_names)} columns that the model was trained "
                f"on: {quoted(missing)}; it has {quoted(names)}."
                + (
                    f" {' '.join(reasons)} Mend its values."
                    if reasons
                    else " Rename or add columns."
                )
            )
        wanted = set(self.event_names)
        return [place[each] for each in self.event_names], [n for n in names if n not in wanted]

    def _numbered(self, rows: Rows) -> Labels:
        """Labels with the numbers that their classes had in training."""
        what = f"the labels of {rows.name}"
        if self.has_classes:
            return read_labels(
                rows.labels,
                what,
                names=rows.label_names,
                classes=self.label_names,
                n=len(rows),
            )
        target = bool(self.labels_digest)
        return read_labels(rows.labels, what, names=rows.label_names, target=target, n=len(rows))

    def check_precision(self, dtype: torch.dtype, name: str) -> None:
        """Make sure that a type of floats holds the differences that the model was trained on.

        Raises:
            ValueError: If the model needs float64 and is given less.
        """
        if self.units.loses_in_float32 and dtype.is_floating_point and dtype != torch.float64:
            raise ValueError(
                f"the data of training are in float64, as {str(dtype).removeprefix('torch.')} would lose their "
                f"differences, and {name} is in {str(dtype).removeprefix('torch.')}: give it in float64."
            )

    def _unlike(self, values: Tensor, name: str) -> tuple[str, ...]:
        """Notes on real values far outside the training data, or varying where training data did not."""
        if self.units.identity:
            return ()
        far = torch.zeros(self.event_shape, dtype=torch.int64)
        varied = torch.zeros_like(far)
        for start in range(0, len(values), _ROWS_AT_A_TIME):
            x = values[start : start + _ROWS_AT_A_TIME]
            far += (self.units.scaled(x).abs() > _FAR).sum(0)
            varied += (self.units.constant & (x != self.units.center.to(x.dtype))).sum(0)
        notes = []
        if far.any():
            notes.append(
                f"{name} is more than {_FAR:g} spreads from the center of the training data: "
                f"{self._elements(far, len(values))}. Check that the unit is the same, and that these are no "
                "marks of missing values."
            )
        if varied.any():
            notes.append(
                f"{name} varies in columns that were constant in the training data, so the model did not learn them: "
                f"{self._elements(varied, len(values))}."
            )
        return tuple(notes)

    def _elements(self, counts: Tensor, n: int) -> str:
        """The number of values, by column where columns have names."""
        if not self.event_names:
            return f"{int(counts.sum()):,} values"
        return f"column {counts_by_column(counts, self.event_names)} of {n:,} rows"

    def trained_on(self, x: Tensor | SparseRows) -> str | None:
        """A warning with the number of rows that equal a training row; None if there are none."""
        if "train" not in self.digests:
            return None
        rows = _sorted_digests(x, self.units.double)
        seen = _count_among(rows, self.digests["train"])
        if not seen:
            return None
        return (
            f"{seen:,} of {len(rows):,} rows are equal to rows that trained the model: their scores are not "
            "those of held-out data."
        )

    # ---- storing -----------------------------------------------------------------------------

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
        } | {"units": self.units.to_plain()}

    @classmethod
    def from_plain(cls, plain: Any) -> "DataContract":
        """What `to_plain` wrote, which may be somebody else's.

        Raises:
            ValueError: If it is something else.
        """
        damaged = ValueError("what the checkpoint says of the data is damaged.")
        if not isinstance(plain, Mapping):
            raise damaged
        # Checkpoints had no noun at first.
        plain = {"noun": "row", **plain}
        if plain.keys() != cls.__dataclass_fields__.keys():
            raise damaged
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
        words = ("name", "support", "likelihood_support", "split_rule", "labels_digest", "noun")
        lists = ("event_names", "label_names", "notes")
        if not (
            all(type(values[name]) is str for name in (*words, "source", "source_digest"))
            and all(
                isinstance(values[name], tuple) and all(type(item) is str for item in values[name])
                for name in lists
            )
            and values["support"] in SUPPORTS
            and values["likelihood_support"] in SUPPORTS
            and all(type(values[name]) is float for name in ("low", "high"))
            and type(values["has_classes"]) is bool
            and isinstance(values["event_shape"], tuple)
            and all(type(length) is int for length in values["event_shape"])
            and type(values["dequantise"]) is bool
            and type(values["binarisation"]) in (str, type(None))
            and type(values["levels"]) in (int, type(None))
            and isinstance(values["digests"], Mapping)
            and {"validation", "test"} <= set(values["digests"]) <= set(SPLITS)
            and all(
                isinstance(part, Tensor) and part.dtype == torch.int64 and part.dim() == 1
                for part in values["digests"].values()
            )
            and isinstance(values["sizes"], Mapping)
            and set(values["sizes"]) == set(SPLITS)
            and all(type(size) is int for size in values["sizes"].values())
            and isinstance(values["units"], Mapping)
        ):
            raise damaged
        return cls(**{**values, "units": Units.from_plain(values["units"])})  # pyright: ignore[reportArgumentType]

    def in_own_units(
        self, x: Float[Tensor, " n *event"], *, draws: bool
    ) -> Real[Tensor, " n *event"]:
        """What a likelihood gives, in the units of the training data: preparation undone.

        Levels come back on the scale 0, ..., levels - 1, but for those that were binarised: the mean of
        a pixel is then its probability to be 1. Draws of whole numbers are int64.

        Args:
            x: Means of p(x | z), or draws from it.
            draws: Whether they are draws.
        """
        if self.levels is not None and self.likelihood_support == "real":
            x = x * (self.levels - 1)
        if self.levels is not None and self.likelihood_support == "unit":
            if not self.dequantise:
                return x * (self.levels - 1)
            # x = (v + u) / levels: whole draws v are below, and the mean of u is 1/2.
            x = x * self.levels
            return (x.floor().long() if draws else x - 0.5).clamp(0, self.levels - 1)
        whole = self.likelihood_support in ("binary", "integers", "counts")
        return x.long() if draws and whole else x

    def __str__(self) -> str:
        """The data in one line."""
        kind = _described(self.support, self.levels)
        scaled = "" if self.units.identity else f", scaled by {self.units.kind}"
        return f"{self.name}: {kind} of shape {self.event_shape}{scaled}; {self.split_rule}"


class OneLineError(ValueError):
    """A ValueError of one line: Pyro's traces add their tables of shapes below a message."""

    def __init__(self, message: str) -> None:
        super().__init__(message.partition("\n")[0])


def check_batch(x: Any, likelihood: Any) -> None:
    """Make sure that x is a tensor `(n, *event_shape)`.

    Args:
        x: The data.
        likelihood: What may have the `event_shape` of a datum.

    Raises:
        OneLineError: A ValueError, if it is not.
    """
    event_shape = getattr(likelihood, "event_shape", None)
    if not isinstance(x, Tensor):
        raise OneLineError(
            f"x must be a tensor of prepared data, got {type(x).__name__}: prepare it with vae.prepare(x)."
        )
    if event_shape is not None and tuple(x.shape[1:]) != tuple(event_shape):
        raise OneLineError(
            f"x must have the shape {_with_axis('n', event_shape)}, a batch of data of shape "
            f"{tuple(event_shape)} that the VAE was built for, got {tuple(x.shape)}."
        )


def check_observed(x: Any, likelihood: Any, contract: DataContract | None) -> None:
    """Make sure that x is a batch that a model is a density on: its values while Pyro's validation is on.

    Args:
        x: The data.
        likelihood: What has the `support`, and may have the `event_shape`, of a datum.
        contract: What the data were; None if that is not known.

    Raises:
        OneLineError: A ValueError, if it is not.
    """
    check_batch(x, likelihood)
    if is_validation_enabled():
        _check_values(x, likelihood.support, contract)


def check_prepared(
    x: Real[Tensor, " n *event"], likelihood: Any, contract: DataContract | None
) -> None:
    """Make sure that a tensor was prepared for a likelihood: raw levels are not taken for it.

    Nothing is checked while a program is exported or compiled.

    Args:
        x: Data as a guide reads them.
        likelihood: What has the `support`, and may have the `event_shape`, of a datum.
        contract: What the data were; None if that is not known.

    Raises:
        OneLineError: A ValueError, if values are outside what the guide was trained on.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or x.numel() == 0:
        return
    support = likelihood.support
    shape = getattr(likelihood, "event_shape", None) if contract is None else contract.event_shape
    if shape is not None and tuple(x.shape)[-len(shape) :] != tuple(shape):
        raise OneLineError(
            f"x must have the shape {_with_axis('...', shape)}, data of shape {tuple(shape)} that the VAE "
            f"reads, got {tuple(x.shape)}; raw data are prepared with vae.prepare(x)."
        )
    scaled = False
    if contract is not None:
        contract.check_precision(x.dtype, "x")
        scaled = contract.levels is not None and support == "real"
    _check_values(x, "unit" if scaled else support, contract)


def _check_values(x: Tensor, support: str, contract: DataContract | None) -> None:
    """Make sure that prepared values are in a likelihood's support; between 0 and 1 binary ones, too."""
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or x.numel() == 0:
        return
    if support in ("counts", "integers"):
        levels = None if contract is None or support == "counts" else contract.levels
        wrong = outside_support(x, support, levels or int(x.max()) + 1)
        if wrong.any():
            raise OneLineError(
                f"x holds {int(wrong.sum()):,} values outside {SUPPORTS[support]}, such as {x[wrong][0].item():g}: "
                f"the guide reads {support}, not their logarithms or shares."
            )
    elif support in ("binary", "unit"):
        low, high = (float(value) for value in x.detach().aminmax())
        if low < 0 or high > 1:
            was = "" if contract is None else f", which {contract.name} was before it was prepared"
            raise OneLineError(
                f"x holds values from {low:g} to {high:g}, and the guide reads values from 0 to 1{was}: prepare "
                "them with vae.prepare(x)."
            )


def _with_axis(axis: str, event_shape: Sequence[int]) -> str:
    return f"({axis}, {', '.join(map(str, event_shape))})"


def prepare(data: Any, contract: DataContract | None) -> Real[Tensor, " n *event"]:
    """New data as the training data were prepared; what was left out is logged as a warning.

    Args:
        data: What `as_rows` takes, or a path.
        contract: What the training data were.

    Raises:
        ValueError: If there is no contract, or the data do not fit it.
        TypeError: If the data are of no form that is taken.
    """
    if contract is None:
        raise ValueError(
            "the VAE has not been trained, so how to prepare data is not known: fit it first, or give a tensor "
            "in the likelihood's support."
        )
    if isinstance(data, Dataset):
        raise TypeError("a Dataset has three splits: give one of them, such as dataset.test.")
    rows = path_rows(data) if isinstance(data, str | Path) else as_rows(data, new=True)
    # Labels play no part here.
    ready = contract.new_data(replace(rows, labels=None))
    for note in ready.dataset.notes:
        log.warning("%s", note)
    # Sparse rows become dense.
    x = ready.fixed("test")[:]
    return x if x.dtype == torch.float64 else x.to(torch.get_default_dtype())


def _digests(dataset: Dataset) -> dict[str, Tensor]:
    """The sorted digests of the rows of each split in memory."""
    found = {}
    for split in SPLITS:
        values = getattr(dataset, split)
        if isinstance(values, MemoryMapped):
            continue
        found[split] = _sorted_digests(values, dataset.units.double)
    return found


def _sorted_digests(values: Tensor | SparseRows, double: bool) -> Int[Tensor, " n"]:
    """The sorted digests of rows as int64, which torch can sort and compare."""
    return torch.from_numpy(row_digests(values, double=double).view(np.int64)).sort().values


def _same_rows(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    """Whether the rows of all splits together are the same."""
    rows, other = (torch.cat([*splits.values()]).sort().values for splits in (some, others))
    return torch.equal(rows, other)


def _count_among(rows: Tensor, others: Tensor) -> int:
    return int(torch.isin(rows, others).sum())


def _labels_digest(dataset: Dataset) -> str:
    if not dataset.labels:
        return ""
    total = hashlib.sha256()
    for split, labels in sorted(dataset.labels.items()):
        total.update(split.encode() + labels.double().numpy().tobytes())
    return total.hexdigest()


def _described(support: str, levels: int | None) -> str:
    return f"integers of {levels} levels" if levels else f"{support} data"
