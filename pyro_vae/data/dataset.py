"""A data set: three splits in their narrowest type, and the support of their values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, Real
from torch import Tensor

SPLITS = ("train", "validation", "test")

Support = Literal["binary", "integers", "counts", "unit", "real"]

# What the values of each support are.
SUPPORTS = {
    "binary": "0 or 1",
    "integers": "whole numbers from 0 to levels - 1",
    "counts": "whole numbers, 0 or more",
    "unit": "numbers in [0, 1]",
    "real": "finite numbers",
}

_SPLIT_SEED = 20140501

# uint8 that stay below this many levels of 256 would be pictures almost black: more likely they are
# counts, or pictures of fewer levels.
_DARKEST_PICTURES = 64

# Types on which torch has few operations, and the one that takes their place.
_PLAIN_INTEGERS = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int64,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test data with one event shape and one native support.

    Values are kept in the narrowest type that holds them: uint8 up to 256 levels, then int16 and
    int32; floats in float32.

    Args:
        name: What the set is called in logs and tables.
        support: "binary", "integers", "counts", "unit" or "real".
        levels: The number L of levels 0, ..., L - 1 of integers; None for every other support.
        train: The training data, `(n, *event_shape)`.
        validation: The validation data.
        test: The test data.
        labels: Labels `(n,)` or factors `(n, factors)` of a split, by its name; may be empty.
        label_names: What label 0, 1, ... is called; of factors, what the first, second, ... is.
        event_names: What element 0, 1, ... of a datum is called: a word, a gene, a column of a table.

    Raises:
        ValueError: If splits are empty or differ in event shape, values lie outside the support,
            labels are not as long as their split, or names are not as many as elements.
    """

    name: str
    support: str
    levels: int | None
    train: Real[Tensor, " n_train ..."] = field(repr=False)
    validation: Real[Tensor, " n_validation ..."] = field(repr=False)
    test: Real[Tensor, " n_test ..."] = field(repr=False)
    labels: dict[str, Tensor] = field(default_factory=dict, repr=False)
    label_names: tuple[str, ...] = field(default=(), repr=False)
    event_names: tuple[str, ...] = field(default=(), repr=False)

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
        highest = max(self._check(split) for split in SPLITS)
        dtype = self._narrowest_type(highest)
        for split in SPLITS:
            # The one write to a frozen instance, before anyone has seen it.
            object.__setattr__(self, split, self.split(split).to(dtype))
        for split, labels in self.labels.items():
            if len(labels) != len(self.split(split)):
                raise ValueError(
                    f"{self.name}: the {split} split has {len(self.split(split))} rows "
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
        array: np.ndarray | Tensor,
        *,
        labels: np.ndarray | Tensor | None = None,
        levels: int | None = None,
        support: Support | None = None,
        name: str = "array",
        label_names: Sequence[str] = (),
        event_names: Sequence[str] = (),
    ) -> "Dataset":
        """A data set from one array, split 70 / 10 / 20 by a permutation that is always the same.

        The native support is read from the values: booleans, or 0 and 1 alone, are binary; with
        `levels` they are integers of so many levels; uint8 are integers of 256 levels (images);
        other integers of 0 or more are counts; floats in [0, 1] are unit, other finite floats real.
        Where that would be a guess (uint8 with low values alone, floats without a fraction), it is
        refused until `levels` or `support` says what the values are.

        Args:
            array: `(n, d)`, `(n, height, width)` or `(n, 1 or 3 channels, height, width)`.
            labels: A label, or a row of factors, for each row.
            levels: The number of levels of integers 0, ..., levels - 1.
            support: One of `SUPPORTS`, instead of what the values say.
            name: What the set is called in logs and tables.
            label_names: What label 0, 1, ... is called.
            event_names: What element 0, 1, ... of a datum is called.

        Raises:
            ValueError: If type, shape or values are none of these, fewer than 10 rows are given, or
                there is not one label a row.
        """
        # Not copied: the rows of each split are, below.
        values = _as_events(_as_tensor(array, name, copy=False), name)
        n = len(values)
        if n < 10:
            raise ValueError(f"{name} must have at least 10 rows to be split, got {n}.")
        targets = None if labels is None else _as_labels(labels, f"the labels of {name}")
        if targets is not None and len(targets) != n:
            raise ValueError(f"{name} has {n} rows but {len(targets)} labels.")
        n_validation, n_test = n // 10, n // 5
        order = permutation(n, seed=_SPLIT_SEED)
        parts = order.split([n - n_validation - n_test, n_validation, n_test])
        rows = dict(zip(SPLITS, parts, strict=True))
        return cls.from_splits(
            {split: values[index] for split, index in rows.items()},
            labels=None if targets is None else {s: targets[index] for s, index in rows.items()},
            levels=levels,
            support=support,
            name=name,
            label_names=label_names,
            event_names=event_names,
        )

    @classmethod
    def from_splits(
        cls,
        splits: Mapping[str, np.ndarray | Tensor],
        *,
        labels: Mapping[str, np.ndarray | Tensor] | None = None,
        levels: int | None = None,
        support: Support | None = None,
        name: str = "array",
        label_names: Sequence[str] = (),
        event_names: Sequence[str] = (),
    ) -> "Dataset":
        """A data set from arrays that are split already; the support is read as in `from_array`.

        Args:
            splits: "train", "test" and perhaps "validation", which otherwise is the last tenth of
                the training data.
            labels: Labels or factors for some of the splits.
            levels: The number of levels of integers 0, ..., levels - 1.
            support: One of `SUPPORTS`, instead of what the values say.
            name: What the set is called in logs and tables.
            label_names: What label 0, 1, ... is called.
            event_names: What element 0, 1, ... of a datum is called.

        Raises:
            ValueError: As `from_array`, and if the splits differ in type or event shape.
        """
        if not {"train", "test"} <= set(splits) <= set(SPLITS):
            raise ValueError(
                f"splits must be train, test and perhaps validation, got {', '.join(splits)}."
            )
        tensors = {
            split: _as_events(_as_tensor(array, f"{name} ({split})"), f"{name} ({split})")
            for split, array in splits.items()
        }
        targets = {
            split: _as_labels(array, f"the {split} labels of {name}")
            for split, array in (labels or {}).items()
        }
        if "validation" not in tensors:
            n_validation = max(1, len(tensors["train"]) // 10)
            for parts in (tensors, targets):
                if "train" in parts:
                    parts["validation"] = parts["train"][-n_validation:]
                    parts["train"] = parts["train"][:-n_validation]
        kind, levels = (
            (support, levels)
            if support is not None
            else _native_support(list(tensors.values()), levels, name)
        )
        return cls(
            name,
            kind,
            levels,
            *(tensors[split] for split in SPLITS),
            labels=targets,
            label_names=tuple(label_names),
            event_names=tuple(event_names),
        )

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a datum."""
        return tuple(self.train.shape[1:])

    def split(self, name: str) -> Real[Tensor, " n *event"]:
        """The data of the split of this name.

        Raises:
            ValueError: If there is no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}.")
        return getattr(self, name)

    def _check(self, split: str) -> float:
        """Raise unless the split's shape and values are right; return its highest value."""
        values = self.split(split)
        what = f"{self.name}: the {split} split"
        if values.numel() == 0:
            raise ValueError(f"{what} is empty, of shape {tuple(values.shape)}.")
        if values.shape[1:] != self.train.shape[1:]:
            raise ValueError(
                f"{what} must have the training data's event shape {self.event_shape}, "
                f"got {tuple(values.shape[1:])}."
            )
        # NaN passes through both, so one pass over the data finds it.
        low, high = (float(bound) for bound in values.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"{what} holds values that are not finite in float32 (NaN or infinite)."
            )
        lowest = -math.inf if self.support == "real" else 0
        top = math.inf if self.support in ("counts", "real") else (self.levels or 2) - 1
        if low < lowest or high > top:
            raise ValueError(
                f"{what} must hold {self.support} data, between {lowest} and {top}, "
                f"got values from {low:g} to {high:g}."
            )
        whole = self.support in ("binary", "integers", "counts")
        if whole and values.is_floating_point() and (values != values.round()).any():
            raise ValueError(
                f"{what} must hold {self.support} data ({SUPPORTS[self.support]}), got fractions."
            )
        return high

    def _narrowest_type(self, highest: float) -> torch.dtype:
        if self.support in ("unit", "real"):
            return torch.float32
        top = highest if self.levels is None else self.levels - 1
        types = (torch.uint8, torch.int16, torch.int32, torch.int64)
        return next(dtype for dtype in types if top <= torch.iinfo(dtype).max)


def permutation(n: int, *, seed: int) -> Int[Tensor, " n"]:
    """The numbers 0, ..., n - 1 in an order that depends on the seed alone."""
    return torch.randperm(n, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


def _as_tensor(array: np.ndarray | Tensor, what: str, *, copy: bool = True) -> Tensor:
    """The array as a tensor of integers or float32, on the CPU."""
    if isinstance(array, Tensor):
        if array.is_complex() or array.layout != torch.strided:
            raise ValueError(
                f"{what} must be a dense tensor of booleans, integers or floats, "
                f"got {array.dtype} in layout {array.layout}."
            )
        array = array.detach().cpu()
        if array.is_floating_point():
            return array.to(torch.float32)
        return array.to(_PLAIN_INTEGERS.get(array.dtype, array.dtype))
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"{what} must hold booleans, integers or floats, got an array of dtype {array.dtype}."
        )
    dtype = {"b": np.uint8, "f": np.float32}.get(array.dtype.kind, array.dtype.newbyteorder("="))
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        dtype = np.int64
    # What float32 cannot hold becomes infinite here and is refused with the other infinities.
    with np.errstate(over="ignore"):
        # torch takes no array that is not to be written.
        return torch.from_numpy(
            array.astype(dtype, order="C", copy=copy or not array.flags.writeable)
        )


def _as_labels(array: np.ndarray | Tensor, what: str) -> Tensor:
    labels = _as_tensor(array, what)
    if labels.dim() == 0:
        raise ValueError(f"{what} must be an array with one entry a row, got a single value.")
    if labels.dim() > 2:
        raise ValueError(
            f"{what} must have the shape (n,), or (n, factors), got {tuple(labels.shape)}, as data have."
        )
    return labels if labels.is_floating_point() else labels.to(torch.int64)


def _as_events(values: Tensor, what: str) -> Tensor:
    """The values with an event shape of `(d,)` or `(channels, height, width)`."""
    shape = tuple(values.shape)
    allowed = "(n, d), (n, height, width) or (n, 1 or 3 channels, height, width)"
    if len(shape) < 2:
        raise ValueError(f"{what} looks like labels: its shape must be {allowed}, got {shape}.")
    if len(shape) == 2 and _are_labels(values):
        raise ValueError(
            f"{what} looks like labels: it has shape {shape} and "
            f"{'one whole number' if shape[1] == 1 else 'a single 1'} in each row."
        )
    if len(shape) == 3 and shape[-1] in (1, 3):
        raise ValueError(
            f"{what} looks like a single picture with its channels last: its shape must be {allowed}, "
            f"got {shape} (as narrow pictures it would be {(shape[0], 1, *shape[1:])})."
        )
    if len(shape) == 3:
        return values.unsqueeze(1)
    if len(shape) == 2 or (len(shape) == 4 and shape[1] in (1, 3)):
        return values
    if len(shape) == 4 and shape[-1] in (1, 3):
        raise ValueError(
            f"{what} seems to have its channels last, shape {shape}: move that axis to the second "
            "place, with numpy.moveaxis(array, -1, 1)."
        )
    raise ValueError(f"the shape of {what} must be {allowed}, got {shape}.")


def _are_labels(values: Tensor) -> bool:
    """Whether a matrix is a column of integers, or has 0 everywhere but for a single 1 in each row."""
    if values.numel() == 0:
        return False
    if values.shape[1] == 1:
        return not values.is_floating_point()
    low, high = values.aminmax()
    return bool(
        low == 0 and high == 1 and ((values != 0).sum(1) == 1).all() and (values.sum(1) == 1).all()
    )


def _native_support(
    splits: Sequence[Tensor], levels: int | None, name: str
) -> tuple[str, int | None]:
    """The support that the splits' common type and values say, and the levels of integers."""
    types = {values.dtype for values in splits}
    if len(types) > 1:
        raise ValueError(
            f"the splits of {name} must have one type, got {sorted(map(str, types))}."
        )
    if levels is not None:
        return "integers", levels
    bounds = [values.aminmax() for values in splits if values.numel()]
    low = min((bound.min.item() for bound in bounds), default=0)
    high = max((bound.max.item() for bound in bounds), default=0)
    floats = splits[0].is_floating_point()
    whole = low >= 0 and not (
        floats and any(bool((values != values.round()).any()) for values in splits)
    )
    if whole and high <= 1:
        return "binary", None
    if torch.uint8 in types:
        if high < _DARKEST_PICTURES:
            raise ValueError(
                f"{name} holds uint8 from {low} to {high}, which may be grey levels or counts: say which "
                f"with levels (--data.levels {high + 1}, or 256) or support (--data.support counts)."
            )
        return "integers", 256
    if floats:
        if whole and math.isfinite(high):
            raise ValueError(
                f"{name} holds floats without a fraction, from {low:g} to {high:g}, which may be grey "
                f"levels, counts or real: say which with levels (--data.levels {high + 1:.0f}) or "
                "support (--data.support counts, --data.support real)."
            )
        return ("unit" if low >= 0 and high <= 1 else "real"), None
    if low < 0:
        raise ValueError(
            f"integers must be 0 or more (levels or counts), but {name} goes down to {low}; give real "
            "data as floats, or say so with support (--data.support real)."
        )
    return "counts", None
