"""Standardisation of real data: the center and spread that networks and likelihoods work in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

ScaleKind = Literal["standard", "robust", "unit", "none"]

# float32 is sufficient where it moves no value by more than this share of its element's spread.
_ROUNDING = 1e-3
# Beyond these spreads the variance of a narrow density is 0 or infinite in float32.
_MIN_SPREAD, _MAX_SPREAD = 1e-15, 1e15
# Elements with fewer distinct values than this share of the rows have a resolution.
_REPEATED = 0.9
# Number of values used for the statistics of large data, from evenly spaced rows.
_MAX_VALUES = 50_000_000
# Number of values of an element, or of a channel, used for its resolution.
_MAX_SORTED = 1_000_000


@dataclass(frozen=True, eq=False)
class Units:
    """u = (x - center) / spread, element by element: x in the user's units, u near N(0, 1).

    Networks read u. A likelihood decodes its location and scale in units of the spread and returns
    them in the user's units, as are densities (by the change of variables), samples and means.

    The tensors have one value for each element of rows of one axis, and one for each channel of
    images and series, so that they broadcast to a row's shape. Those of sequences are of a frame,
    the same at all times.

    Args:
        kind: "standard" (mean and standard deviation), "robust" (median, and interquartile range /
            1.349), "unit" (minimum and range), or "none" (0 and 1).
        center: The center.
        spread: The spread, above 0.
        floor: In units of the spread: the standard deviation of rounding to the element's
            resolution, h / sqrt(12) for multiples of h; 0 without a resolution.
        constant: Whether the element never varied.
        double: Whether data need float64: float32 would lose an element's differences, or could
            not hold their squares.
    """

    kind: ScaleKind
    center: Float[Tensor, "*some_event"]
    spread: Float[Tensor, "*some_event"]
    floor: Float[Tensor, "*some_event"]
    constant: Bool[Tensor, "*some_event"]
    double: bool = False

    @classmethod
    def from_data(cls, values: Real[Tensor, " n *event"], kind: ScaleKind = "standard") -> "Units":
        """The units of training data.

        An element that never varies has spread 1, or its magnitude if that is larger.

        Raises:
            ValueError: If `kind` is unknown.
        """
        if kind not in get_args(ScaleKind):
            raise ValueError(
                f"scale must be one of {', '.join(get_args(ScaleKind))}, got {kind!r}."
            )
        step = max(1, math.ceil(values.numel() / _MAX_VALUES))
        # One row for each element, or for each channel.
        x = values[::step].to(torch.float64)
        shape = (x.shape[1],) if x.dim() == 2 else (x.shape[1], *[1] * (x.dim() - 2))
        x = x.transpose(0, 1).flatten(1)
        if x.isnan().any():
            # Of the observed values; 0 and 0 where there are none.
            parts = [_location_and_spread(row, kind) for row in map(_observed, x)]
            center, spread = (torch.cat(part) for part in zip(*parts, strict=True))
        else:
            center, spread = _location_and_spread(x, kind)
        largest = x.nan_to_num(0.0).abs().amax(1)
        rounding = torch.finfo(torch.float32).eps * largest
        constant = spread <= torch.finfo(torch.float64).eps * largest
        lost = (rounding > _ROUNDING * spread) & ~constant
        double = values.dtype != torch.float32 and bool(lost.any())
        spread = torch.where(constant, largest.clamp(min=1), spread)
        # The square of a scale must stay in the range of float32.
        double |= bool(((spread < _MIN_SPREAD) | (spread > _MAX_SPREAD)).any())
        floor = torch.where(constant, 0, _resolution(x) / (math.sqrt(12) * spread))
        if kind == "none":
            center, spread = torch.zeros_like(center), torch.ones_like(spread)
            floor = torch.zeros_like(floor)
        parts = (part.reshape(shape) for part in (center, spread, floor, constant))
        return cls(kind, *parts, double=double)

    @classmethod
    def of_frames(
        cls, splits: Mapping[str, Any], support: str, kind: ScaleKind = "standard"
    ) -> "Units":
        """The units of the frames of sequences `(n, T, *frame)`: those of `Dataset` of its rows.

        Raises:
            ValueError: If `kind` is unknown.
        """
        train = splits["train"]
        rows = train if isinstance(train, Tensor) else splits["validation"][:10_000]
        if support != "real":
            return cls.from_data(rows[0], "none")
        return cls.from_data(rows.flatten(0, 1), kind)

    @property
    def identity(self) -> bool:
        """Whether u is x."""
        return self.kind == "none"

    def scaled(self, values: Real[Tensor, " n *event"]) -> Float[Tensor, " n *event"]:
        """u in float32."""
        u = (values.to(self.center.dtype) - self.center) / self.spread
        return u.to(torch.float32)

    @property
    def loses_in_float32(self) -> bool:
        """Whether float32 would lose the differences of an element's values."""
        rounding = torch.finfo(torch.float32).eps * self.center.abs()
        return self.double and bool((rounding > _ROUNDING * self.spread).any())

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values for a checkpoint."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Units":
        """Restore units from `to_plain`; the input may come from an untrusted checkpoint.

        Raises:
            ValueError: If a value is missing or has the wrong type.
        """
        parts = [plain.get(name) for name in ("center", "spread", "floor")]
        constant = plain.get("constant")
        valid = (
            plain.get("kind") in get_args(ScaleKind)
            and type(plain.get("double")) is bool
            and isinstance(constant, Tensor)
            and constant.dtype == torch.bool
            and all(
                isinstance(part, Tensor)
                and (part.layout, part.dtype) == (torch.strided, torch.float64)
                and not part.is_meta
                and part.isfinite().all()
                for part in parts
            )
        )
        if not valid:
            raise ValueError("the units of the data are damaged.")
        return cls(plain["kind"], *parts, constant, double=plain["double"])  # pyright: ignore[reportArgumentType]


def _location_and_spread(x: Tensor, kind: ScaleKind) -> tuple[Tensor, Tensor]:
    """The location and spread of each row of x."""
    if kind == "robust":
        quantiles = np.quantile(x.numpy(), [0.25, 0.5, 0.75], axis=1)
        low, center, high = torch.from_numpy(quantiles)
        # Where half of the values are equal, use the standard deviation.
        spread = (high - low) / 1.349
        return center, torch.where(spread > 0, spread, x.std(1, correction=0))
    if kind == "unit":
        low, high = x.amin(1), x.amax(1)
        return low, high - low
    return x.mean(1), x.std(1, correction=0)


def _observed(row: Tensor) -> Tensor:
    """The values of a row that are not NaN, `(1, m)`; one 0 if there are none."""
    known = row[~row.isnan()]
    return known[None] if len(known) else row.new_zeros(1, 1)


def _resolution(x: Tensor) -> Tensor:
    """The smallest difference of distinct values in each row; 0 where hardly any value repeats."""
    found = []
    for row in x:
        row = row[:_MAX_SORTED]
        row = row[~row.isnan()]
        distinct = row.unique()
        repeated = 1 < len(distinct) < _REPEATED * len(row)
        found.append(float(distinct.diff().min()) if repeated else 0.0)
    return torch.tensor(found, dtype=torch.float64)
