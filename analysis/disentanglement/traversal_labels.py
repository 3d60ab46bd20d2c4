"""What moves in a row of pictures, or of vectors, that starts from one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Real

# A kind of movement names a row if alone it explains at least this share of the change.
DOMINANT = 0.5

# Two kinds that each explain so much, and neither half of it, are named together.
NOTABLE = 0.25

# Of a vector: so many elements at most are named, and drawn.
MOST_NAMED = 3
MOST_DRAWN = 6

# The kinds of movement: what a row is called that each alone explains, and how far it went. Of brightness
# no amount is said: a picture of another thing is best met by one that is all ground.
KINDS = {
    "x": "moves x by {:.1f} px",
    "y": "moves y by {:.1f} px",
    "size": "grows x {:.1f}",
    "angle": "turns by {:.0f}°",
    "slant": "slants by {:.0f}°",
    "thickness": "thickens by {:.1f} px",
    "brightness": "changes brightness",
}

# Amounts that are ratios.
_RATIOS = ("size",)


@dataclass(frozen=True)
class Movement:
    """What moves along a row.

    Args:
        label: In a few words: "moves x by 5.0 px", "mixed: size, angle", "changes shape".
        kind: The one kind of movement, or element, that dominates; "mixed", "shape" or "spread" if none does.
        share: The share of the change that what the label names explains; of "shape", that no kind does.
        shares: The share that each kind alone, or each element, explains. Those of kinds do not add up to 1:
            each is fitted alone.
        ends: Of the elements of a vector that move most, how far, from the row's first vector to its last, in
            the units in which they are compared. None of a picture.
    """

    label: str
    kind: str
    share: float
    shares: dict[str, float]
    ends: dict[str, float] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether one kind of movement, or one element, dominates."""
        return self.kind not in ("mixed", "shape", "spread")


class PictureMovements:
    """Simple movements of a picture: each kind, by each of many amounts, alone.

    Shifts to half the sheet in steps of half a pixel; sizes from 0.4 to 2.5 times and turns and slants by
    up to 90 and 45 degrees about the centre of mass; strokes thinner or thicker by up to 3 pixels, by
    erosion and dilation of grey values; contrasts from 0 to 3 times. The ground, which shifts bring
    in and of which mass and contrast are deviations, is the median of the border. Values between
    pixels are linear.

    Args:
        base: A grey or colour image, `(rows, columns)` or `(channels, rows, columns)`.
    """

    def __init__(self, base: Real[np.ndarray, " *event"]) -> None:
        planes = np.asarray(base, np.float64).reshape(-1, *base.shape[-2:])
        border = np.concatenate(
            [planes[:, 0], planes[:, -1], planes[:, :, 0], planes[:, :, -1]], axis=1
        )
        self._ground = np.median(border, axis=1)[:, None, None]
        # A deviation from the ground, so that what comes in from outside is 0.
        self._planes = planes - self._ground
        mass = np.abs(self._planes).sum(0) + 1e-12
        rows, columns = np.indices(mass.shape)
        self._centre = np.array([(rows * mass).sum(), (columns * mass).sum()]) / mass.sum()
        self.base = planes.reshape(-1)
        self.amounts = self._amounts(mass.shape)
        self.pictures = {
            kind: np.stack([self._moved(kind, amount) for amount in amounts])
            for kind, amounts in self.amounts.items()
        }
        # As deviations from the picture, so that squares lose nothing to rounding.
        self._away = {kind: moved - self.base for kind, moved in self.pictures.items()}
        self._squares = {kind: (away**2).sum(1) for kind, away in self._away.items()}

    def __call__(self, row: Real[np.ndarray, " steps *event"]) -> Movement:
        """What moves along a row that starts from the picture.

        The share that a kind explains is 1 - sum_t min_a |x_t - T_a b|^2 / sum_t |x_t - b|^2, with T_a b
        the picture b moved by a.

        Args:
            row: Pictures; one at least differs from the picture.
        """
        change = np.asarray(row, np.float64).reshape(len(row), -1) - self.base
        squares = (change**2).sum(1, keepdims=True)
        shares, amounts = {}, {}
        for kind, moved in self._away.items():
            away = squares - 2 * change @ moved.T + self._squares[kind]
            # The picture itself is among those moved.
            shares[kind] = float(np.clip(1 - away.min(1).sum() / squares.sum(), 0, 1))
            amounts[kind] = self.amounts[kind][away.argmin(1)]
        first, second = sorted(shares, key=shares.__getitem__, reverse=True)[:2]
        if shares[first] >= DOMINANT:
            far = _distance(first, amounts[first])
            return Movement(KINDS[first].format(far), first, shares[first], shares)
        if shares[second] >= NOTABLE:
            return Movement(f"mixed: {first}, {second}", "mixed", shares[first], shares)
        return Movement("changes shape", "shape", 1 - shares[first], shares)

    @staticmethod
    def _amounts(sheet: tuple[int, ...]) -> dict[str, np.ndarray]:
        half = [int(side // 2) for side in sheet]
        return {
            "x": np.arange(-2 * half[1], 2 * half[1] + 1) / 2,
            "y": np.arange(-2 * half[0], 2 * half[0] + 1) / 2,
            "size": 2.5 ** (np.arange(-20, 21) / 20),
            "angle": np.arange(-90.0, 91.0, 5.0),
            "slant": np.arange(-45.0, 46.0, 5.0),
            "thickness": np.arange(-6, 7) / 2,
            "brightness": np.arange(0, 31) / 10,
        }

    def _moved(self, kind: str, amount: float) -> Float[np.ndarray, " elements"]:
        """The picture moved by an amount of a kind, as a vector."""
        if kind == "brightness":
            moved = self._planes * amount
        elif kind == "thickness":
            moved = self._thickened(amount)
        else:
            moved = self._affine(kind, amount)
        return (moved + self._ground).reshape(-1)

    def _affine(self, kind: str, amount: float) -> np.ndarray:
        from scipy.ndimage import affine_transform

        # From where a point of the new picture is taken.
        matrix, shift = np.eye(2), np.zeros(2)
        if kind in ("x", "y"):
            shift[("y", "x").index(kind)] = -amount
        elif kind == "size":
            matrix /= amount
        elif kind == "angle":
            cosine, sine = np.cos(np.deg2rad(amount)), np.sin(np.deg2rad(amount))
            matrix = np.array([[cosine, -sine], [sine, cosine]])
        else:
            matrix[1, 0] = np.tan(np.deg2rad(amount))
        offset = self._centre - matrix @ self._centre + shift
        return np.stack(
            [affine_transform(plane, matrix, offset, order=1) for plane in self._planes]
        )

    def _thickened(self, amount: float) -> np.ndarray:
        """Dilated, or eroded, by whole pixels on each side; halves are the mean of their neighbours."""
        from scipy.ndimage import grey_dilation, grey_erosion, iterate_structure

        def by(pixels: int) -> np.ndarray:
            if pixels == 0:
                return self._planes
            cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
            mask = iterate_structure(cross, abs(pixels)) if abs(pixels) > 1 else cross
            change = grey_dilation if pixels > 0 else grey_erosion
            return np.stack([change(plane, footprint=mask) for plane in self._planes])

        return (by(int(np.floor(amount))) + by(int(np.ceil(amount)))) / 2


def vector_movement(
    base: Float[np.ndarray, " elements"],
    row: Float[np.ndarray, "steps elements"],
    names: Sequence[str] = (),
) -> Movement:
    """Which elements of a vector move: the fewest, 3 at most, that have half of the change.

    An element's share is sum_t (x_ti - b_i)^2 over that of all elements.

    Args:
        base: The vector that the row starts from.
        row: Vectors in units in which elements compare; one at least differs from the first.
        names: What the elements are called.
    """
    change = ((row - base) ** 2).sum(0)
    share = change / change.sum()
    order = np.argsort(-share, kind="stable")
    first = [int(i) for i in order[:MOST_DRAWN]]
    called = [names[i] if i < len(names) else f"x[{i}]" for i in first]
    shares = {name: float(share[i]) for name, i in zip(called, first, strict=True)}
    ends = {name: float(row[-1, i] - row[0, i]) for name, i in zip(called, first, strict=True)}
    needed = int((np.cumsum(share[order]) < DOMINANT).sum()) + 1
    if needed > MOST_NAMED:
        label, kind, held = f"{needed} elements, most {called[0]}", "spread", share[order[0]]
    else:
        label = f"moves {', '.join(called[:needed])}"
        kind, held = called[0] if needed == 1 else "mixed", share[order[:needed]].sum()
    return Movement(label, kind, float(held), shares, ends)


def _distance(kind: str, amounts: Float[np.ndarray, " steps"]) -> float:
    """How far a row goes, from the least to the greatest amount; of ratios, their ratio."""
    low, high = float(amounts.min()), float(amounts.max())
    return high / low if kind in _RATIOS else high - low
