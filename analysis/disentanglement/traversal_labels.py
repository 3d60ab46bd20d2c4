"""Labels of latent traversals: the simple movement that explains the change along a row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Real

# A kind of movement labels a row if it alone explains at least this share of the change.
DOMINANT = 0.5
# Two kinds that each explain this share, and neither half of it, are named together.
NOTABLE = 0.25
# The most elements of a vector that are named, and drawn.
MOST_NAMED = 3
MOST_DRAWN = 6

# The kinds of movement, and the label of a row that each alone explains. Brightness has no amount:
# a different image is best matched by one that is all background.
KINDS = {
    "x": "moves x by {:.1f} px",
    "y": "moves y by {:.1f} px",
    "size": "grows x {:.1f}",
    "angle": "turns by {:.0f}°",
    "slant": "slants by {:.0f}°",
    "thickness": "thickens by {:.1f} px",
    "brightness": "changes brightness",
}


@dataclass(frozen=True)
class Movement:
    """What changes along a row.

    Args:
        label: In a few words: "moves x by 5.0 px", "mixed: size, angle", "changes shape".
        kind: The one kind of movement, or element, that dominates; else "mixed", "shape" or
            "spread".
        share: The share of the change that is explained by the label; for "shape", by no kind.
        shares: The share that each kind, or element, explains alone. Those of kinds do not sum to
            1.
        ends: For the elements of a vector that change most, the change from the first to the last
            vector of the row. Empty for images.
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


class ImageMovements:
    """All simple movements of an image: each kind, by each of many amounts, alone.

    Shifts up to half the image in steps of half a pixel; sizes from 0.4 to 2.5 times, rotations up
    to 90 and slants up to 45 degrees about the centre of mass; strokes thinner or thicker by up to
    3 pixels, by grey-value erosion and dilation; contrasts from 0 to 3 times. The background is
    the median of the border; mass and contrast are deviations from it. Values between pixels are
    interpolated linearly.

    Args:
        base: A grey or colour image, `(rows, columns)` or `(channels, rows, columns)`.
    """

    def __init__(self, base: Real[np.ndarray, " *event"]) -> None:
        planes = np.asarray(base, np.float64).reshape(-1, *base.shape[-2:])
        edges = [planes[:, 0], planes[:, -1], planes[:, :, 0], planes[:, :, -1]]
        self._background = np.median(np.concatenate(edges, axis=1), axis=1)[:, None, None]
        # Deviations from the background, so that what enters from outside is 0.
        self._planes = planes - self._background
        mass = np.abs(self._planes).sum(0) + 1e-12
        rows, columns = np.indices(mass.shape)
        self._centre = np.array([(rows * mass).sum(), (columns * mass).sum()]) / mass.sum()
        self.base = planes.reshape(-1)
        half_y, half_x = (int(side // 2) for side in mass.shape)
        self.amounts = {
            "x": np.arange(-2 * half_x, 2 * half_x + 1) / 2,
            "y": np.arange(-2 * half_y, 2 * half_y + 1) / 2,
            "size": 2.5 ** (np.arange(-20, 21) / 20),
            "angle": np.arange(-90.0, 91.0, 5.0),
            "slant": np.arange(-45.0, 46.0, 5.0),
            "thickness": np.arange(-6, 7) / 2,
            "brightness": np.arange(0, 31) / 10,
        }
        self.images = {
            kind: np.stack([self._apply(kind, amount) for amount in amounts])
            for kind, amounts in self.amounts.items()
        }
        # Deviations from the image, so that squares lose nothing to rounding.
        self._away = {kind: moved - self.base for kind, moved in self.images.items()}
        self._squares = {kind: (away**2).sum(1) for kind, away in self._away.items()}

    def __call__(self, row: Real[np.ndarray, " steps *event"]) -> Movement:
        """Find the movement along a row that starts from the image.

        The share explained by a kind is 1 - sum_t min_a |x_t - T_a b|^2 / sum_t |x_t - b|^2, with
        T_a b the image b moved by a.

        Args:
            row: Images, of which at least one differs from the base.
        """
        change = np.asarray(row, np.float64).reshape(len(row), -1) - self.base
        squares = (change**2).sum(1, keepdims=True)
        shares, amounts = {}, {}
        for kind, moved in self._away.items():
            away = squares - 2 * change @ moved.T + self._squares[kind]
            # The image itself is among the moved ones.
            shares[kind] = float(np.clip(1 - away.min(1).sum() / squares.sum(), 0, 1))
            amounts[kind] = self.amounts[kind][away.argmin(1)]
        first, second = sorted(shares, key=shares.__getitem__, reverse=True)[:2]
        if shares[first] >= DOMINANT:
            low, high = float(amounts[first].min()), float(amounts[first].max())
            label = KINDS[first].format(high / low if first == "size" else high - low)
            return Movement(label, first, shares[first], shares)
        if shares[second] >= NOTABLE:
            return Movement(f"mixed: {first}, {second}", "mixed", shares[first], shares)
        return Movement("changes shape", "shape", 1 - shares[first], shares)

    def _apply(self, kind: str, amount: float) -> np.ndarray:
        if kind == "brightness":
            moved = self._planes * amount
        elif kind == "thickness":
            # Half pixels are the mean of both neighbours.
            moved = (self._dilate(math.floor(amount)) + self._dilate(math.ceil(amount))) / 2
        else:
            moved = self._affine(kind, amount)
        return (moved + self._background).reshape(-1)

    def _affine(self, kind: str, amount: float) -> np.ndarray:
        from scipy.ndimage import affine_transform

        # The map from the new image to the old one.
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

    def _dilate(self, pixels: int) -> np.ndarray:
        """Dilate by whole pixels on each side, or erode if negative."""
        from scipy.ndimage import (
            generate_binary_structure,
            grey_dilation,
            grey_erosion,
            iterate_structure,
        )

        if pixels == 0:
            return self._planes
        cross = generate_binary_structure(2, 1)
        footprint = iterate_structure(cross, abs(pixels)) if abs(pixels) > 1 else cross
        change = grey_dilation if pixels > 0 else grey_erosion
        return np.stack([change(plane, footprint=footprint) for plane in self._planes])


def vector_movement(
    base: Float[np.ndarray, " elements"],
    row: Float[np.ndarray, "steps elements"],
    names: Sequence[str] = (),
) -> Movement:
    """The fewest elements of a vector, at most 3, with half of the change.

    An element's share is sum_t (x_ti - b_i)^2 over that of all elements.

    Args:
        base: The vector that the row starts from.
        row: Vectors with elements in comparable units; at least one differs from the base.
        names: The elements' names.
    """
    change = ((row - base) ** 2).sum(0)
    share = change / change.sum()
    order = np.argsort(-share, kind="stable")
    drawn = [int(i) for i in order[:MOST_DRAWN]]
    labels = [names[i] if i < len(names) else f"x[{i}]" for i in drawn]
    shares = {name: float(share[i]) for name, i in zip(labels, drawn, strict=True)}
    ends = {name: float(row[-1, i] - row[0, i]) for name, i in zip(labels, drawn, strict=True)}
    needed = int((np.cumsum(share[order]) < DOMINANT).sum()) + 1
    if needed > MOST_NAMED:
        label = f"{needed} elements, most {labels[0]}"
        return Movement(label, "spread", float(share[order[0]]), shares, ends)
    kind = labels[0] if needed == 1 else "mixed"
    explained = float(share[order[:needed]].sum())
    return Movement(f"moves {', '.join(labels[:needed])}", kind, explained, shares, ends)
