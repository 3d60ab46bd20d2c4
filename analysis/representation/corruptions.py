"""Corruptions of data: noise, occlusion, shift, rotation and blur within the support, by strength.

A corruption of an example uses the same draws at every strength: with the strength, more elements
are hit, a patch grows around the same place, a shift goes further in the same direction. Curves
over strength are therefore smooth, and models are compared on the same corrupted data.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.plotting.images import is_image
from analysis.plotting.style import new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

Data = TypeVar("Data", np.ndarray, Tensor)
# x as float64, its range, the strength and the source of draws -> corrupted x.
Apply = Callable[[np.ndarray, "ValueRange", float, np.random.Generator], np.ndarray]
# A `Corruption`, or any callable `(x, strength, seed, *, support, levels)` -> corrupted x.
AnyCorruption = Callable[..., Any]

STRENGTHS = (0.0, 0.1, 0.2, 0.4, 0.6)
# Cap rotation at 90 degrees; upside-down images are rarely realistic.
MAX_ANGLE = 90.0
# Shares of the side: the longest shift, and the standard deviation of the widest blur.
MAX_SHIFT, MAX_BLUR = 0.5, 0.25


@dataclass(frozen=True)
class ValueRange:
    """The values that elements of data can take.

    Args:
        support: The likelihood's: binary, unit, real, integers or counts.
        low: The lowest value, that of pepper and of a patch or the outside of an image.
        high: The highest value, that of salt.
        scale: The standard deviation of noise of strength 1. For vectors of real numbers these
            three have one value per element.
    """

    support: str
    low: float | Float[np.ndarray, " *element"]
    high: float | Float[np.ndarray, " *element"]
    scale: float | Float[np.ndarray, " *element"]

    @classmethod
    def of(
        cls, x: Real[np.ndarray, " n *event"], support: str, levels: int | None
    ) -> "ValueRange":
        """The range of the support, or of the data where the support is unbounded."""
        if support == "binary":
            return cls(support, 0.0, 1.0, 1.0)
        if support == "unit":
            # Dequantised data lie within (0, 1), where a density may be infinite at the ends.
            edge = float(np.finfo(np.float32).eps)
            return cls(
                support, edge if x.min() > 0 else 0.0, 1 - edge if x.max() < 1 else 1.0, 1.0
            )
        if support == "integers":
            top = float(x.max() if levels is None else levels - 1)
            return cls(support, 0.0, top, top)
        if support == "counts":
            return cls(support, 0.0, np.inf, float(x.std()))
        if is_image(x.shape[1:]):
            return cls(support, float(x.min()), float(x.max()), float(x.std()))
        # Columns of a table have different units.
        x = x.astype(np.float64)
        return cls(support, x.min(0), x.max(0), x.std(0))

    def project(
        self, x: Float[np.ndarray, " n *event"], uniform: Float[np.ndarray, " n *event"]
    ) -> np.ndarray:
        """Map values into the support; binary data become 1 where u is below the value."""
        if self.support == "real":
            return x
        if self.support == "binary":
            return (uniform < np.clip(x, 0, 1)).astype(np.float64)
        if self.support in ("integers", "counts"):
            x = np.rint(x)
        return np.clip(x, self.low, self.high)


@dataclass(frozen=True)
class Corruption:
    """A corruption of data, by strength from 0, no change, to 1.

    Args:
        name: As in `CORRUPTIONS`.
        unit: The meaning of the strength, after "strength = ".
        apply: Corrupts float64 data, which may leave the support.
        images_only: Whether data must be images.
        counts: Whether it is for counts only.
        hides: Whether it removes information rather than changing what is seen: a guide that
            models it is then less certain.
        random_threshold: Whether grey values of corrupted binary data become binary by a draw with
            that probability, which keeps the mean and lets weak noise have an effect, or by the
            threshold 1/2, which keeps sharp edges where a pixel is uncertain by its place only.
    """

    name: str
    unit: str
    apply: Apply
    images_only: bool = False
    counts: bool = False
    hides: bool = True
    random_threshold: bool = True

    def __call__(
        self,
        x: Data,
        strength: float,
        seed: int = 0,
        *,
        support: str = "real",
        levels: int | None = None,
    ) -> Data:
        """Corrupt x, keeping shape, type and support.

        Args:
            x: Data `(n, *event_shape)`; images are `(height, width)` or `(channels, height,
                width)`.
            strength: From 0, no change, to 1, in `unit`.
            seed: The seed of what is hit, where and in which direction.
            support: Of the data: binary, unit, real, integers or counts. The spread and the range
                of real data are taken from x.
            levels: The number of levels of integers; None for the largest value in x plus one.

        Raises:
            ValueError: If the strength is not from 0 to 1, or the corruption is not for such data.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be from 0 to 1, got {strength}.")
        event_shape = tuple(x.shape[1:])
        if not self.fits(event_shape, support):
            kind = "counts" if self.counts else "images" if self.images_only else "values"
            raise ValueError(
                f"{self.name} is for {kind}, got {support} data of shape {event_shape}."
            )
        if strength == 0 or len(x) == 0:
            return x.clone() if isinstance(x, Tensor) else x.copy()
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        values = ValueRange.of(array, support, levels)
        rng = np.random.default_rng(seed)
        uniform = rng.random(x.shape) if self.random_threshold else np.full(x.shape, 0.5)
        corrupted = self.apply(array.astype(np.float64), values, float(strength), rng)
        corrupted = values.project(corrupted, uniform)
        if isinstance(x, Tensor):
            return torch.as_tensor(corrupted, device=x.device).to(x.dtype)
        return corrupted.astype(x.dtype)

    def fits(self, event_shape: Sequence[int], support: str) -> bool:
        """Whether it applies to data of this shape and support."""
        if self.counts or support == "counts":
            return self.counts and support == "counts"
        return not self.images_only or is_image(tuple(event_shape))


def _gaussian(x: Any, values: ValueRange, strength: float, rng: Any) -> np.ndarray:
    return x + strength * values.scale * rng.standard_normal(x.shape)


def _salt(x: Any, values: ValueRange, strength: float, rng: Any) -> np.ndarray:
    hit, salt = rng.random(x.shape) < strength, rng.random(x.shape) < 0.5
    return np.where(hit, np.where(salt, values.high, values.low), x)


def _masking(x: Any, values: ValueRange, strength: float, rng: Any) -> np.ndarray:
    return np.where(rng.random(x.shape) < strength, 0.0, x)


def _occlusion(x: Any, values: ValueRange, strength: float, rng: Any) -> np.ndarray:
    covered = []
    for place, side in zip(rng.random((2, len(x))), x.shape[-2:], strict=True):
        length = round(np.sqrt(strength) * side)
        # The larger patch of the same place contains the smaller one.
        start = np.floor(place * (side - length + 1))[:, None]
        covered.append((np.arange(side) >= start) & (np.arange(side) < start + length))
    inside = covered[0][:, :, None] & covered[1][:, None, :]
    return np.where(inside.reshape(len(x), *[1] * (x.ndim - 3), *x.shape[-2:]), values.low, x)


def _shift(x: Any, values: ValueRange, strength: float, rng: Any) -> np.ndarray:
    from scipy.ndimage import shift

    angles = 2 * np.pi * rng.random(len(x))
    directions = np.stack([np.sin(angles), np.cos(angles)], 1)
    # Whole pixels, so that a shift does not blur.
    moves = np.rint(strength * MAX_SHIFT * np.array(x.shape[-2:]) * directions)
    others = [0] * (x.ndim - 3)
    outside = float(values.low)
    pairs = zip(x, moves, strict=True)
    return np.stack([shift(v, (*others, *move), order=0, cval=outside) for v, move in pairs])


def _rotation(x: Any, values: ValueRange, strength: float, rng: Any) -> np.ndarray:
    from scipy.ndimage import rotate

    angles = strength * MAX_ANGLE * rng.choice([-1.0, 1.0], len(x))
    options = {"axes": (-1, -2), "reshape": False, "order": 1, "cval": float(values.low)}
    pairs = zip(x, angles, strict=True)
    return np.stack([rotate(v, angle, **options) for v, angle in pairs])


def _blur(x: Any, values: ValueRange, strength: float, rng: Any) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    widths = (*[0] * (x.ndim - 2), *(strength * MAX_BLUR * side for side in x.shape[-2:]))
    return np.asarray(gaussian_filter(x, widths, mode="constant", cval=float(values.low)))


_NOISE = "standard deviation of the noise / range (real data: / theirs)"
_MOVES: dict[str, Any] = {"images_only": True, "hides": False, "random_threshold": False}
CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption("gaussian", _NOISE, _gaussian),
        Corruption("salt", "share of elements set to the lowest or highest value", _salt),
        Corruption("occlusion", "share of the area under a square patch", _occlusion, True),
        Corruption("shift", f"length of the shift / {MAX_SHIFT:g} of the side", _shift, **_MOVES),
        Corruption("rotation", f"angle / {MAX_ANGLE:.0f} degrees", _rotation, **_MOVES),
        Corruption(
            "blur", f"standard deviation of the blur / {MAX_BLUR:g} of the side", _blur, True
        ),
        Corruption("masking", "share of counts set to 0", _masking, counts=True),
    )
}


def corruptions_for(event_shape: Sequence[int], support: str) -> dict[str, Corruption]:
    """The corruptions that apply to data of this shape and support.

    Images have all but `masking`, other vectors the noises only, and counts `masking` only.

    Args:
        event_shape: Of an example.
        support: Of the data: binary, unit, real, integers or counts.

    >>> list(corruptions_for((4,), "real")), list(corruptions_for((4,), "counts"))
    (['gaussian', 'salt'], ['masking'])
    """
    return {name: each for name, each in CORRUPTIONS.items() if each.fits(event_shape, support)}


def data_support(vae: Any, x: Real[Tensor, " n *event"]) -> str:
    """The likelihood's support, or a guess from the data if the program declares none."""
    declared = getattr(getattr(vae, "likelihood", None), "support", None)
    if declared is not None:
        return declared
    if ((x == 0) | (x == 1)).all():
        return "binary"
    return "real" if x.is_floating_point() else "counts"


def corrupt(
    vae: Any, corruption: AnyCorruption, x: Real[Tensor, " n *event"], strength: float, seed: int
) -> Real[Tensor, " n *event"]:
    """Corrupt x within the support of the program's likelihood."""
    levels = getattr(getattr(vae, "likelihood", None), "levels", None)
    return corruption(x, strength, seed, support=data_support(vae, x), levels=levels)


def select_corruptions(
    vae: Any,
    x: Real[Tensor, " n *event"],
    corruptions: Mapping[str, AnyCorruption] | Sequence[str] | None,
    strengths: Sequence[float],
) -> tuple[dict[str, AnyCorruption], tuple[float, ...]]:
    """The requested corruptions, or all that apply, and the strengths with 0 before them.

    Raises:
        ValueError: If no corruption applies, or a requested one does not; if no strength is above
            0, or strengths do not increase to at most 1.
    """
    levels = tuple(float(strength) for strength in strengths)
    if 0.0 not in levels[:1]:
        levels = (0.0, *levels)
    if len(levels) < 2 or not (np.diff(levels) > 0).all() or levels[-1] > 1:
        raise ValueError(f"strengths must rise from 0 to at most 1, got {tuple(strengths)}.")
    if isinstance(corruptions, Mapping):
        return dict(corruptions), levels
    known = corruptions_for(tuple(x.shape[1:]), data_support(vae, x))
    names = tuple(known) if corruptions is None else tuple(corruptions)
    if not names or not set(names) <= set(known):
        raise ValueError(
            f"corruptions must be some of {', '.join(known)}, got {', '.join(names)}."
        )
    return {name: known[name] for name in names}, levels


def strength_panels(
    results: Mapping[str, Any], rows: Sequence[str], height: float = 2.0
) -> tuple["matplotlib.figure.Figure", "np.ndarray"]:
    """An empty figure with a column per corruption and a row per measure.

    Args:
        results: Results with `corruptions` and `strengths`, which must be the same for all.
        rows: The labels of the rows.
        height: Of a row, in inches.

    Raises:
        ValueError: If there are no results, or their corruptions or strengths differ.
    """
    kinds = {(found.corruptions, found.strengths) for found in results.values()}
    if len(kinds) != 1:
        raise ValueError(
            "results must be at least one and of the same corruptions and strengths, got "
            f"{len(kinds)} kinds from {', '.join(results) or 'none'}."
        )
    ((corruptions, strengths),) = kinds
    figure = new_figure(max(1.75 * len(corruptions) + 0.9, 7.0), height * len(rows) + 1.1)
    axes = figure.subplots(len(rows), len(corruptions), sharex=True, sharey="row", squeeze=False)
    for ax, corruption in zip(axes[0], corruptions, strict=True):
        ax.set_title(corruption, fontsize=11)
    for ax, name in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(name, fontsize=9)
    for ax in axes.flat:
        ax.set_xticks(strengths, [f"{strength:g}" for strength in strengths], fontsize=8)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("strength", fontsize=9)
    tidy(axes.flat)
    return figure, axes


def draw_curves(
    axes: Any, x: Sequence[float], mean: np.ndarray, error: np.ndarray, colour: str
) -> None:
    """Draw each row of means with a band of two standard errors on its axes."""
    for ax, middle, half in zip(axes, mean, 2 * error, strict=True):
        ax.plot(x, middle, "o-", ms=3, lw=1.4, color=colour)
        ax.fill_between(x, middle - half, middle + half, color=colour, alpha=0.2, lw=0)


def name_lines(figure: Any, lines: Sequence[Any], names: Sequence[str]) -> None:
    """Add a legend below the panels."""
    columns = max(1, int(figure.get_figwidth() / 2.6))
    place = "outside lower center"
    figure.legend(lines, list(names), loc=place, ncols=columns, frameon=False, fontsize=9)


def set_title(figure: Any, title: str) -> None:
    """Add a title in lines that fit the figure."""
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_figwidth())), fontsize=12)
