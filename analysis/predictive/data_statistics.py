"""T(x): what can be measured of a datum without a model, and its nearest training datum.

A statistic is a function of each datum alone, so that its values over real data and over data from
the model are two samples to compare, see `analysis.predictive.two_sample`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from analysis.plotting.images import is_image

# Elements of data held as floats at a time: 32 MB in float64.
MAX_ELEMENTS = 4_000_000

# What is done to data before their elements are compared.
Transform = Callable[[np.ndarray], np.ndarray]

# Columns are in one unit where their standard deviations are within this factor.
SAME_UNITS = 10.0
# Of the training data held beside them by `nearest_training`: the distances to so many rows.
_TRAIN_BLOCK = 4096


@dataclass(frozen=True)
class Statistic:
    """T: a number of each datum.

    Args:
        name: A short key.
        label: What it is, with its unit, for an axis: "name: explanation".
        measure: From data `(n, *event)` to `(n,)`.
    """

    name: str
    label: str
    measure: Callable[[np.ndarray], np.ndarray]

    @property
    def title(self) -> str:
        """What the label says before its colon."""
        return self.label.partition(":")[0]


@dataclass(frozen=True)
class Profile:
    """A vector of each datum.

    Args:
        name: A short key.
        label: What its elements are numbered by, for an axis.
        measure: From data `(n, *event)` to `(n, elements)`.
    """

    name: str
    label: str
    measure: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Nearest:
    """The training datum nearest to each of n data.

    Args:
        distance: sqrt(mean_i (x_i - t_i)^2), the root mean square difference over the elements. Of
            binary data its square is the share of the elements that differ.
        row: Which training datum it is.
    """

    distance: Float[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]


def standardisation(data: Shaped[np.ndarray, " n *event"], support: str) -> Transform | None:
    """x_i -> (x_i - mean_i) / sd_i for columns of real values in different units; None for other data.

    Units differ where one column's standard deviation is more than 10 times that of another. Without it,
    means, extremes and distances over the columns would be those of the column with the largest numbers.
    """
    if support != "real" or data.ndim != 2 or len(data) < 2:
        return None
    mean, spread = data.mean(0, dtype=np.float64), data.std(0, dtype=np.float64)
    varying = spread[spread > 0]
    if len(varying) < 2 or varying.max() <= SAME_UNITS * varying.min():
        return None
    spread = np.where(spread > 0, spread, 1.0)
    return lambda x: (x - mean) / spread


def statistics_for(
    event_shape: Sequence[int], support: str, transform: Transform | None = None
) -> tuple[Statistic, ...]:
    """The statistics that data of this shape and support have.

    Of images: ink, total variation, left-right symmetry, the centre and the extent of the ink,
    connected components and holes. Of counts: total, share of zeros, dispersion, largest. Of other
    vectors: mean, standard deviation, smallest and largest element; of binary ones their share.

    Args:
        event_shape: The shape of a datum.
        support: "binary", "unit", "integers", "counts" or "real", as likelihoods declare it.
        transform: From `standardisation`, for columns in different units.

    Raises:
        ValueError: If the support is none of these.
    """
    supports = ("binary", "unit", "integers", "counts", "real")
    if support not in supports:
        raise ValueError(f"support must be one of {', '.join(supports)}, got {support!r}.")
    if is_image(tuple(event_shape)):
        fixed = support in ("binary", "unit")
        bounds = {"binary": "= 1", "unit": ">= 1/2"}
        ink = f"pixels {bounds.get(support, 'above half the range')}"
        return (
            Statistic("ink", "ink: mean intensity", ink_share),
            Statistic(
                "total_variation",
                "total variation: mean step between neighbours",
                total_variation,
            ),
            Statistic(
                "symmetry", "left-right symmetry: correlation with the mirror image", symmetry
            ),
            Statistic("vertical_centre", "vertical centre: mean row of the ink", vertical_centre),
            Statistic(
                "horizontal_centre", "horizontal centre: mean column of the ink", horizontal_centre
            ),
            Statistic("extent", "extent: rms distance of the ink from its centre, pixels", extent),
            Statistic(
                "components",
                f"connected components: of {ink}, 8 neighbours",
                lambda data: components(_foreground(data, fixed)),
            ),
            Statistic(
                "holes",
                f"holes: background enclosed by {ink}, 4 neighbours",
                lambda data: holes(_foreground(data, fixed)),
            ),
        )
    mean = Statistic("mean", "mean of the elements", lambda data: _flat(data).mean(1))
    if support == "binary":
        return (Statistic("ones", "share of ones", mean.measure),)
    largest = Statistic("largest", "largest element", lambda data: _flat(data).max(1))
    if support == "counts":
        return (
            Statistic("total", "total of the counts", lambda data: _flat(data).sum(1)),
            Statistic("zeros", "share of zeros", lambda data: (_flat(data) == 0).mean(1)),
            Statistic("dispersion", "dispersion: variance / mean of the elements", dispersion),
            largest,
        )
    word = "element" if transform is None else "standardised element"
    return (
        Statistic("mean", f"mean of the {word}s", lambda d: _flat(_as(d, transform)).mean(1)),
        Statistic(
            "deviation",
            f"standard deviation of the {word}s",
            lambda d: _flat(_as(d, transform)).std(1),
        ),
        Statistic("smallest", f"smallest {word}", lambda d: _flat(_as(d, transform)).min(1)),
        Statistic("largest", f"largest {word}", lambda d: _flat(_as(d, transform)).max(1)),
    )


def profiles_for(event_shape: Sequence[int]) -> tuple[Profile, ...]:
    """Row and column means of an image; the elements of any other datum."""
    if is_image(tuple(event_shape)):
        return (
            Profile("row_means", "row, from the top", lambda data: _grey(data).mean(2)),
            Profile("column_means", "column, from the left", lambda data: _grey(data).mean(1)),
        )
    return (Profile("elements", "element", _flat),)


def measured(
    data: Shaped[np.ndarray, " n *event"], statistics: Sequence[Statistic]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Each statistic of each datum, by name, a block of data at a time."""
    parts = [{s.name: s.measure(block) for s in statistics} for block in blocks(data)]
    return {s.name: np.concatenate([part[s.name] for part in parts]) for s in statistics}


def blocks(data: Shaped[np.ndarray, " n *event"]) -> Iterator[np.ndarray]:
    """The data in parts of at most `MAX_ELEMENTS` elements, and one datum at least."""
    size = max(1, MAX_ELEMENTS // max(1, data[:1].size))
    for start in range(0, max(1, len(data)), size):
        yield data[start : start + size]


def ink_share(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The mean over pixels and channels."""
    return _flat(images).mean(1)


def total_variation(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """Mean |difference| of vertical and horizontal neighbours: edges and noise raise it."""
    images = images.astype(np.float64)
    steps = [_flat(np.abs(np.diff(images, axis=axis))) for axis in (-2, -1)]
    count = sum(step.shape[1] for step in steps)
    return sum((step.sum(1) for step in steps), np.zeros(len(images))) / max(1, count)


def symmetry(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """Correlation of each image with its mirror image, 0 for an image of one intensity."""
    flat = _flat(images)
    centred = (flat - flat.mean(1, keepdims=True)).reshape(images.shape)
    scale = (centred**2).reshape(len(images), -1).sum(1)
    product = (centred * centred[..., ::-1]).reshape(len(images), -1).sum(1)
    return np.divide(product, scale, out=np.zeros_like(scale), where=scale > 0)


def vertical_centre(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The mean row of the ink, from 0 at the top; the middle row where there is none."""
    return _centre(_ink(images).sum(2))


def horizontal_centre(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The mean column of the ink, from 0 at the left; the middle column where there is none."""
    return _centre(_ink(images).sum(1))


def extent(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The root mean square distance of the ink from its centre, in pixels; 0 where there is none."""
    ink = _ink(images)
    total = ink.sum((1, 2))
    moments = np.zeros(len(images))
    for axis in (2, 1):
        margin = ink.sum(axis)
        places = np.arange(margin.shape[1]) - _centre(margin)[:, None]
        moments += (margin * places**2).sum(1)
    return np.sqrt(np.divide(moments, total, out=np.zeros_like(total), where=total > 0))


def components(foreground: Shaped[np.ndarray, "n rows columns"]) -> Float[np.ndarray, " n"]:
    """The number of connected parts of each binary image; pixels touch at sides and at corners."""
    return _parts(foreground, corners=True)


def holes(foreground: Shaped[np.ndarray, "n rows columns"]) -> Float[np.ndarray, " n"]:
    """The number of parts of the background that do not reach the border; pixels touch at sides.

    Sides only, where the foreground's touch at corners too: a closed line then has an inside.
    """
    # With a frame around each image, all the background that reaches the border is one part.
    framed = np.pad(foreground == 0, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    return _parts(framed, corners=False) - 1


def dispersion(counts: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """Variance over mean of each datum's elements, 0 for a datum of zeros."""
    flat = _flat(counts)
    mean = flat.mean(1)
    return np.divide(flat.var(1), mean, out=np.zeros_like(mean), where=mean > 0)


def nearest_training(
    data: Shaped[np.ndarray, " n *event"],
    train: Shaped[np.ndarray, " t *known"],
    *,
    transform: Transform | None = None,
) -> Nearest:
    """argmin_t sqrt(mean_i (x_i - t_i)^2): the nearest training datum of each datum.

    The squares come from matrix products in float32, |x|^2 - 2 x.t + |t|^2 about a centre. Their
    rounding, some 1e-7 |x|^2, chooses between data that are as near as that; the distance is then
    computed anew from the differences. About 50 MB are held, and the data.

    Args:
        data: Real data or data from the model. A training datum is at distance 0 from itself.
        train: The training data, as the likelihood needs them.
        transform: What is done to the elements first, such as `numpy.log1p` of counts.

    Returns:
        Distances are to be compared with those of test data: a model that memorises is nearer.

    Raises:
        ValueError: If there are no training data, or their shape is another.
    """
    if len(train) == 0 or data.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"train must hold data of shape {data.shape[1:]}, got {len(train)} of shape "
            f"{train.shape[1:]}."
        )
    centre = _flat(_as(train[:1000], transform)).mean(0)
    if np.issubdtype(train.dtype, np.integer) and transform is None:
        # Differences of whole numbers stay whole, and their products exact.
        centre = np.round(centre)
    elements = len(centre)
    rows = max(1, min(len(data), MAX_ELEMENTS // (4 * elements), MAX_ELEMENTS // _TRAIN_BLOCK))
    step = max(1, min(_TRAIN_BLOCK, MAX_ELEMENTS // elements))
    squares = np.full(len(data), np.inf)
    row = np.zeros(len(data), dtype=np.int64)
    for first in range(0, len(train), step):
        known = (_flat(_as(train[first : first + step], transform)) - centre).astype(np.float32)
        half = 0.5 * np.einsum("ij,ij->i", known, known)
        for start in range(0, len(data), rows):
            mine = _flat(_as(data[start : start + rows], transform)) - centre
            # Half the square of the distance, less what all training data share.
            best = (half - mine.astype(np.float32) @ known.T).argmin(1)
            exact = ((mine - known[best]) ** 2).sum(1)
            here = slice(start, start + len(mine))
            nearer = exact < squares[here]
            squares[here] = np.where(nearer, exact, squares[here])
            row[here] = np.where(nearer, first + best, row[here])
    # The training data were rounded to float32; of the winners the difference is exact.
    for start in range(0, len(data), rows):
        here = slice(start, start + rows)
        gap = _flat(_as(data[here], transform)) - _flat(_as(train[row[here]], transform))
        squares[here] = (gap**2).sum(1)
    return Nearest(np.sqrt(squares / elements), row)


def _as(data: np.ndarray, transform: Transform | None) -> np.ndarray:
    return data if transform is None else transform(data.astype(np.float64))


def _flat(data: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, "n elements"]:
    # The size is named, as -1 has no meaning for no data.
    return data.reshape(len(data), data[:1].size if len(data) else 1).astype(np.float64)


def _grey(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, "n rows columns"]:
    """The mean over channels."""
    shape = images.shape[-2:]
    return images.reshape(len(images), -1, *shape).astype(np.float64).mean(1)


def _ink(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, "n rows columns"]:
    """The intensity as a weight: over the image's smallest where that is negative."""
    grey = _grey(images)
    return grey - np.minimum(grey.min((1, 2), keepdims=True), 0)


def _centre(margin: Real[np.ndarray, "n places"]) -> Float[np.ndarray, " n"]:
    total = margin.sum(1)
    middle = np.full(len(margin), (margin.shape[1] - 1) / 2)
    return np.divide(margin @ np.arange(margin.shape[1]), total, out=middle, where=total > 0)


def _foreground(images: np.ndarray, fixed: bool) -> Shaped[np.ndarray, "n rows columns"]:
    """From 1/2 on; of other data above the middle between the image's own extremes."""
    grey = _grey(images)
    if fixed:
        return grey >= 0.5
    return grey > (grey.min((1, 2), keepdims=True) + grey.max((1, 2), keepdims=True)) / 2


def _parts(where: np.ndarray, *, corners: bool) -> Float[np.ndarray, " n"]:
    """The connected parts of each image of a stack, all labelled at once."""
    from scipy.ndimage import generate_binary_structure, label

    # Nothing connects an image with the next one.
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = generate_binary_structure(2, 2 if corners else 1)
    labels = np.empty(where.shape, dtype=np.int32)
    count = cast("int", label(where != 0, structure, output=labels))
    image = np.zeros(count + 1, dtype=np.int64)
    image[labels] = np.arange(len(where))[:, None, None]
    return np.bincount(image[1:], minlength=len(where)).astype(np.float64)
