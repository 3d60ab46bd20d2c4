"""The data contract: a stored description of the training data, checked later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int, Real
from torch import Tensor

from pyro_vae.data.dataset import Dataset
from pyro_vae.data.digests import (
    count_common,
    labels_digest,
    path_digest,
    same_rows,
    sorted_digests,
    split_digests,
)
from pyro_vae.data.labels import are_classes, read_labels
from pyro_vae.data.layout import layout_like, layout_of
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.missing import allow_missing
from pyro_vae.data.nouns import counts_by_column, quote_names
from pyro_vae.data.preprocessing import PreparedData
from pyro_vae.data.rows import Rows, to_events
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.splits import SPLITS
from pyro_vae.data.units import Units
from pyro_vae.data.validation import SUPPORTS, ValueRange, check_support

# New values this many spreads from the training mean may be in another unit.
_FAR = 20.0
_BLOCK_ROWS = 4096


class ChangedDataError(ValueError):
    """The data differ from those that the model was trained on."""


@dataclass(frozen=True, eq=False)
class DataContract:
    """A description of the training data: names, support, units, classes, splits and digests.

    A run stores it in its checkpoint. `check` compares the run's data when they are read again.
    `new_data` prepares other data like the training data, or raises an error that says how they
    differ.

    Args:
        name: The name of the data.
        support: The native support of the data.
        levels: Number of levels of integers; None for other data.
        event_shape: The shape of an example: `(elements,)`, `(channels, length)` or `(channels,
            height, width)`.
        event_names: The names of the elements, in the order of training; may be empty.
        label_names: The names of classes 0, 1, ...; or of the factors.
        has_classes: Whether the labels are classes.
        low: The minimum of the training data.
        high: The maximum.
        units: The center and spread that networks work in.
        likelihood_support: The support of the likelihood that the data were prepared for.
        binarisation: How grey values became binary; None if they did not.
        dequantise: Whether uniform noise was added to levels for a likelihood of unit data.
        split_rule: How the rows were split, in words.
        digests: For each split in memory, the sorted digests of its rows as int64.
        sizes: Number of rows in each split.
        labels_digest: The SHA-256 of all labels; empty without labels.
        source: The resolved path of the data; empty for data in memory.
        source_digest: The SHA-256 of the file, or of the names and lengths of a folder's files.
        notes: Findings in the data before training, one line each.
        noun: What an example is called: see `Dataset`.
        allows_missing: Whether new data may have missing values: see `PreparedData`.
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
    allows_missing: bool = False

    @classmethod
    def from_data(cls, data: PreparedData, notes: Sequence[str] = ()) -> "DataContract":
        """The contract of a run's data.

        Args:
            data: The data as prepared for the run.
            notes: Findings in them.
        """
        dataset = data.dataset
        source, train_range = dataset.source, ValueRange.from_values(dataset.train)
        shared = ("name", "support", "levels", "event_shape", "event_names", "label_names")
        shared = (*shared, "units", "split_rule", "noun")
        prepared = ("likelihood_support", "binarisation", "dequantise", "allows_missing")
        return cls(
            **{name: getattr(dataset, name) for name in shared},
            **{name: getattr(data, name) for name in prepared},
            has_classes=are_classes(dataset.labels.get("train")),
            low=float(train_range.low),
            high=float(train_range.high),
            digests=split_digests(dataset),
            sizes={split: len(getattr(dataset, split)) for split in SPLITS},
            labels_digest=labels_digest(dataset),
            source="" if source is None else str(source.resolve()),
            source_digest="" if source is None else path_digest(source),
            notes=tuple(dict.fromkeys((*dataset.notes, *notes))),
        )

    def check(self, data: PreparedData, *, trained: str = "the model") -> None:
        """Check that the run's data, read again, are those of training.

        Raises:
            ChangedDataError: If they are not; in one line with the numbers of rows, and of present
                test rows that were training rows.
        """
        dataset = data.dataset
        self.check_format(dataset, trained=trained)
        now = split_digests(dataset)
        sizes = {split: len(getattr(dataset, split)) for split in SPLITS}
        # Training data on disk have no digests, before or now.
        known = now.keys() & self.digests.keys()
        same = sizes == self.sizes and {*SPLITS} - known <= {"train"}
        same = same and all(torch.equal(now[split], self.digests[split]) for split in known)
        if same and isinstance(dataset.train, MemoryMapped) and dataset.source is not None:
            same = path_digest(dataset.source) == self.source_digest
        if same:
            return
        before, after = sum(self.sizes.values()), sum(sizes.values())
        if before != after:
            change = f"has {after:,} rows and had {before:,}"
        elif {*SPLITS} == now.keys() == self.digests.keys() and same_rows(now, self.digests):
            change = (
                "has the same rows, in other splits: their order, labels or groups have changed"
            )
        else:
            change = f"has {before:,} rows as before, with other values or splits"
        if "train" in self.digests:
            seen = count_common(now["test"], self.digests["train"])
            seen_before = count_common(self.digests["test"], self.digests["train"])
            change += f"; {seen:,} of the {sizes['test']:,} rows now in its test split are "
            change += "rows that trained it"
            change += f" (there were {seen_before:,})" if seen_before else ""
        raise ChangedDataError(
            f"the data have changed since {trained} was trained: {self.source or self.name} "
            f"{change}. Numbers on them would be wrong: restore the file, train again, or give "
            "the rows as new data, with --data FILE."
        )

    def check_labels(self, dataset: Dataset) -> str | None:
        """A warning if the labels differ from those of training; None otherwise."""
        names = dataset.label_names
        if labels_digest(dataset) == self.labels_digest and names == self.label_names:
            return None
        return (
            f"the labels of {dataset.name} are not those of training; codes and densities do not "
            "depend on them."
        )

    def check_format(self, dataset: Dataset, *, trained: str = "the model") -> None:
        """Check that data have the shape, levels and names of the training data.

        Raises:
            ValueError: If they have not, in one line.
        """
        self._check_shape(dataset.event_shape, dataset.name, trained)
        if dataset.levels != self.levels:
            raise ValueError(
                f"{trained} was trained on {_describe(self.support, self.levels)}, and those of "
                f"{dataset.name} are {_describe(dataset.support, dataset.levels)}."
            )
        if self.event_names and dataset.event_names and self.event_names != dataset.event_names:
            self._match_names(dataset.event_names, dataset.name)
            raise ValueError(
                f"{dataset.name} has the columns of {trained}'s data in another order: put them "
                f"in the order {quote_names(self.event_names)}, or give the file as new data, "
                "with --data FILE."
            )

    def _check_shape(self, shape: tuple[int, ...], name: str, trained: str) -> None:
        if shape != self.event_shape:
            raise ValueError(
                f"{trained} was trained on data of shape {self.event_shape}, and those of {name} "
                f"have the shape {shape}."
            )

    def new_data(self, rows: Rows, *, split: bool = False) -> PreparedData:
        """Prepare new data like the training data; each split is all of them.

        Columns are matched by name. The support is the model's, unless the rows are declared to be
        in the likelihood's support already, and classes keep their numbers.

        Args:
            rows: The data as read.
            split: Whether to split them like training data.

        Raises:
            ValueError: If elements are missing, shapes differ, or values are outside the support:
                by column and count, in one line.
        """
        # Unit data for a likelihood of real data need not be unit.
        real = self.likelihood_support == "real" and not self.levels
        support: Any = "real" if real else self.support
        if rows.support == self.likelihood_support:
            # Data declared to be binary already are not binarised again.
            support = self.likelihood_support
        with allow_missing(self.allows_missing):
            values, notes = self._match_values(rows, support)
            labels, names = None, self.label_names
            if rows.labels is not None:
                read = read_labels(
                    rows.labels,
                    f"the labels of {rows.name}",
                    names=rows.label_names,
                    classes=self.label_names if self.has_classes else None,
                    target=bool(self.labels_digest) and not self.has_classes,
                    n=len(rows),
                )
                labels, names, notes = replace(read, notes=()), read.names, (*notes, *read.notes)
            matched = replace(
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
                layout=layout_of(self.event_shape),
            )
            dataset = Dataset.from_rows(matched, units=self.units, split=split)
        options: Any = {name: getattr(self, name) for name in ("dequantise", "allows_missing")}
        options["binarisation"] = self.binarisation or "none"
        return PreparedData(dataset, self.likelihood_support, **options)

    def _match_values(self, rows: Rows, support: str) -> tuple[Any, tuple[str, ...]]:
        """The values in the order and shape of training, and notes on what was left out."""
        values, name, notes = rows.values, rows.name, []
        if rows.event_names and self.event_names:
            order, others = self._match_names(rows.event_names, name, rows.notes)
            if others:
                notes.append(
                    f"{name}: left out {quote_names(others)}, which the model does not have."
                )
            values = values if rows.event_names == self.event_names else values[:, order]
        shape, event = tuple(values.shape), self.event_shape
        if (shape == event and (event[0] != 1 or len(event) == 1)) or (
            len(event) > 1 and (1, *shape) == event
        ):
            raise ValueError(
                f"{name} of shape {shape} is a single {self.noun}: give an array of one, x[None]."
            )
        # Axes mean the same as in training.
        layout = layout_like(shape, event)
        declared = replace(
            rows,
            layout=rows.layout if layout == "auto" else layout,
            support="counts" if self.support in ("binary", "counts") else "real",
            levels=None,
        )
        (values,) = to_events(declared, [values], [name], copy=False, new=True)
        self._check_shape(tuple(values.shape[1:]), name, "the model")
        levels = self.levels if support == "integers" else None
        if len(values) == 0:
            raise ValueError(f"{name} holds no rows.")
        check_support(values, support, levels, name=name, event_names=self.event_names)
        if isinstance(values, Tensor):
            self.check_precision(values.dtype, name)
            notes += self._unusual_values(values, name)
        high = ValueRange.from_values(values).high
        if levels is not None and levels > 2 and self.high > 1 and high <= 1:
            notes.append(
                f"{name}: all values are 0 or 1, of {levels} levels: if they are binarised "
                "already, say so with --data.support binary."
            )
        return values, tuple(notes)

    def _match_names(
        self, names: Sequence[str], name: str, notes: Sequence[str] = ()
    ) -> tuple[list[int], list[str]]:
        """The positions of the training elements among names, and the other names."""
        position = {column: index for index, column in enumerate(names)}
        if missing := [column for column in self.event_names if column not in position]:
            # The reason if a column was there but could not be read.
            reasons = [note for note in notes if any(repr(each) in note for each in missing)]
            remedy = (
                f"{' '.join(reasons)} Correct its values." if reasons else "Rename or add columns."
            )
            raise ValueError(
                f"{name} lacks {len(missing)} of the {len(self.event_names)} columns that the "
                f"model was trained on: {quote_names(missing)}; it has {quote_names(names)}. "
                f"{remedy}"
            )
        known = set(self.event_names)
        return [position[each] for each in self.event_names], [n for n in names if n not in known]

    def check_precision(self, dtype: torch.dtype, name: str) -> None:
        """Check that a float dtype preserves the differences that the model was trained on.

        Raises:
            ValueError: If the model needs float64 and is given less.
        """
        if self.units.loses_in_float32 and dtype.is_floating_point and dtype != torch.float64:
            given = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"the training data are in float64, because {given} would lose their "
                f"differences, and {name} is in {given}: give it in float64."
            )

    def _unusual_values(self, values: Tensor, name: str) -> list[str]:
        """Notes on values far from the training data, or varying where those did not."""
        if self.units.identity:
            return []
        far = torch.zeros(self.event_shape, dtype=torch.int64)
        varied = torch.zeros_like(far)
        for x in values.split(_BLOCK_ROWS):
            far += (self.units.scaled(x).abs() > _FAR).sum(0)
            distance = (x - self.units.center.to(x.dtype)).abs()
            varied += (self.units.constant & (distance > 0)).sum(0)

        def where(counts: Tensor) -> str:
            if not self.event_names:
                return f"{int(counts.sum()):,} values"
            return f"column {counts_by_column(counts, self.event_names)} of {len(values):,} rows"

        notes = []
        if far.any():
            notes.append(
                f"{name} is more than {_FAR:g} spreads from the center of the training data: "
                f"{where(far)}. Check that the unit is the same, and that these do not mark "
                "missing values."
            )
        if varied.any():
            notes.append(
                f"{name} varies in columns that were constant in the training data, so the model "
                f"did not learn them: {where(varied)}."
            )
        return notes

    def training_overlap(self, x: Tensor | SparseRows) -> str | None:
        """A warning with the number of rows that equal a training row; None if there are none."""
        if "train" not in self.digests:
            return None
        rows = sorted_digests(x, self.units.double)
        if not (seen := count_common(rows, self.digests["train"])):
            return None
        return (
            f"{seen:,} of {len(rows):,} rows are equal to training rows of the model: their "
            "scores are not those of held-out data."
        )

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
        } | {"units": self.units.to_plain()}

    @classmethod
    def from_plain(cls, plain: Any) -> "DataContract":
        """Restore a contract from `to_plain`; the input may come from an untrusted checkpoint.

        Raises:
            ValueError: If a value is missing or has the wrong type.
        """
        damaged = ValueError("the description of the data in the checkpoint is damaged.")
        older = {"noun": "row", "allows_missing": False}
        plain = {**older, **plain} if isinstance(plain, Mapping) else {}
        if plain.keys() != cls.__dataclass_fields__.keys():
            raise damaged
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()
        }
        words = ("name", "support", "likelihood_support", "split_rule", "labels_digest", "noun")
        names = ("event_names", "label_names", "notes")
        types: dict[str, tuple[type, ...]] = {
            **dict.fromkeys((*words, "source", "source_digest"), (str,)),
            **dict.fromkeys(("event_shape", *names), (tuple,)),
            **dict.fromkeys(("low", "high"), (float,)),
            **dict.fromkeys(("has_classes", "dequantise", "allows_missing"), (bool,)),
            "binarisation": (str, type(None)),
            "levels": (int, type(None)),
        }
        if not (
            all(type(values[name]) in allowed for name, allowed in types.items())
            and all(type(length) is int for length in values["event_shape"])
            and all(type(item) is str for name in names for item in values[name])
            and {values["support"], values["likelihood_support"]} <= SUPPORTS.keys()
            and all(isinstance(values[name], Mapping) for name in ("digests", "sizes", "units"))
            and {"validation", "test"} <= set(values["digests"]) <= set(SPLITS)
            and all(
                isinstance(part, Tensor) and part.dtype == torch.int64 and part.dim() == 1
                for part in values["digests"].values()
            )
            and set(values["sizes"]) == set(SPLITS)
            and all(type(size) is int for size in values["sizes"].values())
        ):
            raise damaged
        return cls(**{**values, "units": Units.from_plain(values["units"])})

    def to_data_units(
        self, x: Real[Tensor, " n *event"], *, draws: bool
    ) -> Real[Tensor, " n *event"]:
        """Convert a likelihood's output to the units of the training data.

        Levels are returned on the scale 0, ..., levels - 1, except binarised ones: the mean of a
        pixel is then its probability of 1. Draws of whole numbers are int64.

        Args:
            x: Means of p(x | z), or draws from it.
            draws: Whether they are draws.
        """
        if self.levels is not None and self.likelihood_support == "real":
            x = x * (self.levels - 1)
        if self.levels is not None and self.likelihood_support == "unit":
            if not self.dequantise:
                return x * (self.levels - 1)
            # x = (v + u) / levels: a draw v is the floor, and the mean of u is 1/2.
            x = x * self.levels
            return (x.floor().long() if draws else x - 0.5).clamp(0, self.levels - 1)
        whole = self.likelihood_support in ("binary", "integers", "counts")
        return x.long() if draws and whole else x

    def __str__(self) -> str:
        """The data in one line."""
        kind = _describe(self.support, self.levels)
        scaled = "" if self.units.identity else f", scaled by {self.units.kind}"
        return f"{self.name}: {kind} of shape {self.event_shape}{scaled}; {self.split_rule}"


def _describe(support: str, levels: int | None) -> str:
    return f"integers of {levels} levels" if levels else f"{support} data"
