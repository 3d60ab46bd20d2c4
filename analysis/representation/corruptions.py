"""Damaged data: noise, occlusion, shift, rotation and blur by strength, inside the likelihood's support.

Each damage of a datum comes from the same draws at every strength: as the strength grows, more elements
are hit, a patch grows around the same place, a shift goes further in the same direction. Curves over
strength are then smooth, and models are compared on the same damaged data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.plotting.images import is_image

Data = TypeVar("Data", np.ndarray, Tensor)
# x as float64, its lowest and highest value, the strength, and the source of draws -> x, damaged.
Apply = Callable[[np.ndarray, "Values", float, np.random.Generator], np.ndarray]

# Half of a full turn at strength 1 would be the image upside down, which few data mean.
LARGEST_ANGLE = 90.0
# Of the side: a shift by the whole of it would leave nothing in sight.
LONGEST_SHIFT = 0.5
# At strength 1 the blur's standard deviation is this share of the side: nothing is left of the image.
WIDEST_BLUR = 0.25


@dataclass(frozen=True)
class Values:
    """What the elements of data may be.

    Args:
        support: The likelihood's: binary, unit, real, integers or counts.
        low: The lowest value, that of pepper, and of what a patch or the outside of an image is.
        high: The highest value, that of salt.
        scale: What noise of strength 1 has as standard deviation. Of vectors of real numbers these three
            have a value for each element.
    """

    support: str
    low: float | Float[np.ndarray, " *element"]
    high: float | Float[np.ndarray, " *element"]
    scale: float | Float[np.ndarray, " *element"]

    @classmethod
    def of(cls, x: Real[np.ndarray, " n *event"], support: str, levels: int | None) -> "Values":
        """The range of the support, or of the data where the support has none."""
        if support in ("binary", "unit"):
            # Dequantised data lie inside of (0, 1), where a density may be infinite at the ends.
            edge = float(np.finfo(np.float32).eps)
            low, high = (edge if x.min() > 0 else 0.0), (1 - edge if x.max() < 1 else 1.0)
            return cls(support, *((0.0, 1.0) if support == "binary" else (low, high)), 1.0)
        if support == "integers":
            top = float(x.max() if levels is None else levels - 1)
            return cls(support, 0.0, top, top)
        if support == "counts":
            return cls(support, 0.0, np.inf, float(x.std()))
        if is_image(x.shape[1:]):
            return cls(support, float(x.min()), float(x.max()), float(x.std()))
        # Columns of a table have units of their own.
        x = x.astype(np.float64)
        return cls(support, x.min(0), x.max(0), x.std(0))

    def inside(
        self, damaged: Float[np.ndarray, " n *event"], uniform: Float[np.ndarray, " n *event"]
    ) -> np.ndarray:
        """Damaged values in the support; a value between 0 and 1 of binary data is 1 where u is below it."""
        if self.support == "real":
            return damaged
        if self.support == "binary":
            return (uniform < np.clip(damaged, 0, 1)).astype(np.float64)
        if self.support in ("integers", "counts"):
            damaged = np.rint(damaged)
        return np.clip(damaged, self.low, self.high)


@dataclass(frozen=True)
class Damage:
    """A way to damage data, by strength from 0, nothing at all, to 1.

    Args:
        name: As in `DAMAGES`.
        unit: What the strength is, after "strength = ".
        apply: Damages float64 data, which may leave the support.
        images_only: Whether data must be images.
        counts: Whether it is for counts, and for nothing else.
        hides: Whether it takes information away, rather than change what is seen: a guide that knows of
            it is then less sure.
        drawn: How grey values of damaged binary data become binary: by a draw with that probability, or
            by the threshold 1/2. A draw leaves the mean, and lets weak noise do a little. A threshold
            leaves sharp edges sharp, where a pixel's value is uncertain by its place alone.
    """

    name: str
    unit: str
    apply: Apply
    images_only: bool = False
    counts: bool = False
    hides: bool = True
    drawn: bool = True

    def __call__(
        self,
        x: Data,
        strength: float,
        seed: int = 0,
        *,
        support: str = "real",
        levels: int | None = None,
    ) -> Data:
        """x, damaged: of the same shape, type and support, and the same for the same seed.

        Args:
            x: Data `(n, *event_shape)`; images are `(height, width)` or `(channels, height, width)`.
            strength: From 0, which changes nothing, to 1. Its unit is `unit`.
            seed: The seed of what is hit, where and in which direction.
            support: Of the data: binary, unit, real, integers or counts. The spread and the range of
                real data are taken from x.
            levels: The number of levels of integers; None for the largest value in x and one more.

        Raises:
            ValueError: If the strength is not from 0 to 1, or the damage is not for such data.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be from 0 to 1, got {strength}.")
        event_shape = tuple(x.shape[1:])
        if not self.fits(event_shape, support):
            raise ValueError(
                f"{self.name} is for {'counts' if self.counts else 'images' if self.images_only else 'values'}"
                f", got {support} data of shape {event_shape}."
            )
        if strength == 0 or len(x) == 0:
            return x.clone() if isinstance(x, Tensor) else x.copy()
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        values = Values.of(array, support, levels)
        rng = np.random.default_rng(seed)
        uniform = rng.random(x.shape) if self.drawn else np.full(x.shape, 0.5)
        damaged = values.inside(
            self.apply(array.astype(np.float64), values, float(strength), rng), uniform
        )
        if isinstance(x, Tensor):
            return torch.as_tensor(damaged, device=x.device).to(x.dtype)
        return damaged.astype(x.dtype)

    def fits(self, event_shape: Sequence[int], support: str) -> bool:
        """Whether data of this shape and support can be damaged so."""
        if self.counts or support == "counts":
            return self.counts and support == "counts"
        return not self.images_only or is_image(tuple(event_shape))


def _gaussian(
    x: np.ndarray, values: Values, strength: float, rng: np.random.Generator
) -> np.ndarray:
    return x + strength * values.scale * rng.standard_normal(x.shape)


def _salt(x: np.ndarray, values: Values, strength: float, rng: np.random.Generator) -> np.ndarray:
    hit, salt = rng.random(x.shape) < strength, rng.random(x.shape) < 0.5
    return np.where(hit, np.where(salt, values.high, values.low), x)


def _masking(
    x: np.ndarray, values: Values, strength: float, rng: np.random.Generator
) -> np.ndarray:
    return np.where(rng.random(x.shape) < strength, 0.0, x)


def _occlusion(
    x: np.ndarray, values: Values, strength: float, rng: np.random.Generator
) -> np.ndarray:
    covered = []
    for place, side in zip(rng.random((2, len(x))), x.shape[-2:], strict=True):
        length = round(np.sqrt(strength) * side)
        # The larger patch of the same place holds the smaller one.
        start = np.floor(place * (side - length + 1))[:, None]
        covered.append((np.arange(side) >= start) & (np.arange(side) < start + length))
    rows, columns = covered
    inside = rows[:, :, None] & columns[:, None, :]
    inside = inside.reshape(len(x), *[1] * (x.ndim - 3), *x.shape[-2:])
    return np.where(inside, values.low, x)


def _shift(x: np.ndarray, values: Values, strength: float, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import shift

    angles = 2 * np.pi * rng.random(len(x))
    sides = np.array(x.shape[-2:])
    # Whole pixels, so that a shift does not blur.
    moves = np.rint(
        strength * LONGEST_SHIFT * sides * np.stack([np.sin(angles), np.cos(angles)], 1)
    )
    return np.stack(
        [
            shift(datum, (*[0] * (datum.ndim - 2), *move), order=0, cval=float(values.low))
            for datum, move in zip(x, moves, strict=True)
        ]
    )


def _rotation(
    x: np.ndarray, values: Values, strength: float, rng: np.random.Generator
) -> np.ndarray:
    from scipy.ndimage import rotate

    angles = strength * LARGEST_ANGLE * rng.choice([-1.0, 1.0], len(x))
    return np.stack(
        [
            rotate(datum, angle, axes=(-1, -2), reshape=False, order=1, cval=float(values.low))
            for datum, angle in zip(x, angles, strict=True)
        ]
    )


def _blur(x: np.ndarray, values: Values, strength: float, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    widths = [strength * WIDEST_BLUR * side for side in x.shape[-2:]]
    return np.asarray(
        gaussian_filter(x, (*[0] * (x.ndim - 2), *widths), mode="constant", cval=float(values.low))
    )


DAMAGES: dict[str, Damage] = {
    damage.name: damage
    for damage in (
        Damage(
            "gaussian", "standard deviation of the noise / range (real data: / theirs)", _gaussian
        ),
        Damage("salt", "share of elements set to the lowest or highest value", _salt),
        Damage(
            "occlusion", "share of the area under a square patch", _occlusion, images_only=True
        ),
        Damage(
            "shift",
            f"length of the shift / {LONGEST_SHIFT:g} of the side",
            _shift,
            images_only=True,
            hides=False,
            drawn=False,
        ),
        Damage(
            "rotation",
            f"angle / {LARGEST_ANGLE:.0f} degrees",
            _rotation,
            images_only=True,
            hides=False,
            drawn=False,
        ),
        Damage(
            "blur",
            f"standard deviation of the blur / {WIDEST_BLUR:g} of the side",
            _blur,
            images_only=True,
        ),
        Damage("masking", "share of counts set to 0", _masking, counts=True),
    )
}


def damages_for(event_shape: Sequence[int], support: str) -> dict[str, Damage]:
    """The damages that data of this shape and support can suffer.

    Images have all but `masking`, other vectors the noises alone, and counts `masking` alone.

    Args:
        event_shape: Of a datum.
        support: Of the data: binary, unit, real, integers or counts.

    >>> list(damages_for((4,), "real")), list(damages_for((4,), "counts"))
    (['gaussian', 'salt'], ['masking'])
    """
    return {name: damage for name, damage in DAMAGES.items() if damage.fits(event_shape, support)}
