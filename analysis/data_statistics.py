"""Statistics T(x) of single examples, without a model, and the nearest training example.

A statistic is a function of each example alone, so that its values over real and over generated
data are two samples to compare, see `analysis.predictive.two_sample`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from analysis.plotting.images import is_image
from pyro_vae.networks import SAME_UNITS

# Elements held as floats at a time: 32 MB in float64.
MAX_ELEMENTS = 4_000_000
# Training examples whose distances are held at a time.
_TRAIN_BLOCK = 4096
SUPPORTS = ("binary", "unit", "integers", "counts", "real")

Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Statistic:
    """T: a number, or a vector, per example.

    Args:
        name: A short key.
        label: Description with its unit, for an axis: "name: explanation".
        measure: From data `(n, *event)` to `(n,)` or `(n, elements)`.
    """

    name: str
    label: str
    measure: Callable[[np.ndarray], np.ndarray]

    @property
    def title(self) -> str:
        """The label up to its colon."""
        return self.label.partition(":")[0]


@dataclass(frozen=True)
class Nearest:
    """The training example nearest to each of n examples.

    Args:
        distance: sqrt(mean_i (x_i - t_i)^2), the root mean square difference over the elements.
            For binary data its square is the share of elements that differ.
        row: The index of the training example.
    """

    distance: Float[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]


def standardisation(data: Shaped[np.ndarray, " n *event"], support: str) -> Transform | None:
    """x_i -> (x_i - mean_i) / sd_i for real columns in different units; None for other data.

    Units differ where one column's standard deviation is more than 10 times that of another.
    Otherwise means, extremes and distances over columns would be those of the column with the
    largest numbers.
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
    """The statistics that are defined for data of this shape and support.

    For images: ink, total variation, left-right symmetry, the centre and the extent of the ink,
    connected components and holes. For counts: total, share of zeros, dispersion, largest. For
    other
    vectors: mean, standard deviation, smallest and largest element; for binary ones their share.

    Args:
        event_shape: The shape of an example.
        support: "binary", "unit", "integers", "counts" or "real", as likelihoods declare it.
        transform: From `standardisation`, for columns in different units.

    Raises:
        ValueError: If the support is none of these.
    """
    if support not in SUPPORTS:
        raise ValueError(f"support must be one of {', '.join(SUPPORTS)}, got {support!r}.")
    if is_image(tuple(event_shape)):
        return _image_statistics(support)
    if support == "binary":
        return (Statistic("ones", "share of ones", ink_share),)
    if support == "counts":
        return (
            Statistic("total", "total of the counts", lambda x: _flat(x).sum(1)),
            Statistic("zeros", "share of zeros", lambda x: (_flat(x) == 0).mean(1)),
            Statistic("dispersion", "dispersion: variance / mean of the elements", dispersion),
            Statistic("largest", "largest element", lambda x: _flat(x).max(1)),
        )

    def flat(data: np.ndarray) -> np.ndarray:
        return _flat(_transform(data, transform))

    word = "element" if transform is None else "standardised element"
    return (
        Statistic("mean", f"mean of the {word}s", lambda x: flat(x).mean(1)),
        Statistic("deviation", f"standard deviation of the {word}s", lambda x: flat(x).std(1)),
        Statistic("smallest", f"smallest {word}", lambda x: flat(x).min(1)),
        Statistic("largest", f"largest {word}", lambda x: flat(x).max(1)),
    )


def _image_statistics(support: str) -> tuple[Statistic, ...]:
    fixed = support in ("binary", "unit")
    bounds = {"binary": "= 1", "unit": ">= 1/2"}
    ink = f"pixels {bounds.get(support, 'above half the range')}"
    variation = "total variation: mean step between neighbours"
    mirror = "left-right symmetry: correlation with the mirror image"
    size = "extent: rms distance of the ink from its centre, pixels"
    parts = f"connected components: of {ink}, 8 neighbours"
    enclosed = f"holes: background enclosed by {ink}, 4 neighbours"
    return (
        Statistic("ink", "ink: mean intensity", ink_share),
        Statistic("total_variation", variation, total_variation),
        Statistic("symmetry", mirror, symmetry),
        Statistic("vertical_centre", "vertical centre: mean row of the ink", vertical_centre),
        Statistic(
            "horizontal_centre", "horizontal centre: mean column of the ink", horizontal_centre
        ),
        Statistic("extent", size, extent),
        Statistic("components", parts, lambda x: components(_foreground(x, fixed))),
        Statistic("holes", enclosed, lambda x: holes(_foreground(x, fixed))),
    )


def profiles_for(event_shape: Sequence[int]) -> tuple[Statistic, ...]:
    """Row and column means of an image; the elements of any other example."""
    if is_image(tuple(event_shape)):
        return (
            Statistic("row_means", "row, from the top", lambda x: _grey(x).mean(2)),
            Statistic("column_means", "column, from the left", lambda x: _grey(x).mean(1)),
        )
    return (Statistic("elements", "element", _flat),)


def compute_statistics(
    data: Shaped[np.ndarray, " n *event"], statistics: Sequence[Statistic]
) -> dict[str, Float[np.ndarray, " n *elements"]]:
    """Each statistic of each example, by name, computed in blocks."""
    parts = [{s.name: s.measure(block) for s in statistics} for block in _blocks(data)]
    return {s.name: np.concatenate([part[s.name] for part in parts]) for s in statistics}


def ink_share(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The mean over pixels and channels."""
    return _flat(images).mean(1)


def total_variation(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """Mean |difference| of vertical and horizontal neighbours: edges and noise raise it."""
    images = images.astype(np.float64)
    steps = np.concatenate([_flat(np.abs(np.diff(images, axis=axis))) for axis in (-2, -1)], 1)
    return steps.sum(1) / max(1, steps.shape[1])


def symmetry(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """Correlation of each image with its mirror image, 0 for an image of constant intensity."""
    flat = _flat(images)
    centred = (flat - flat.mean(1, keepdims=True)).reshape(images.shape)
    return _ratio(_flat(centred * centred[..., ::-1]).sum(1), _flat(centred**2).sum(1))


def vertical_centre(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The mean row of the ink, from 0 at the top; the middle row without ink."""
    return _centre(_ink(images).sum(2))


def horizontal_centre(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The mean column of the ink, from 0 at the left; the middle column without ink."""
    return _centre(_ink(images).sum(1))


def extent(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """The root mean square distance of the ink from its centre, in pixels; 0 without ink."""
    ink = _ink(images)
    moments = np.zeros(len(images))
    for margin in (ink.sum(2), ink.sum(1)):
        places = np.arange(margin.shape[1]) - _centre(margin)[:, None]
        moments += (margin * places**2).sum(1)
    return np.sqrt(_ratio(moments, ink.sum((1, 2))))


def components(foreground: Shaped[np.ndarray, "n rows columns"]) -> Float[np.ndarray, " n"]:
    """The number of connected parts of each binary image; pixels touch at sides and corners."""
    return _connected_parts(foreground, corners=True)


def holes(foreground: Shaped[np.ndarray, "n rows columns"]) -> Float[np.ndarray, " n"]:
    """The number of parts of the background that do not reach the border; pixels touch at sides.

    Sides only, since those of the foreground touch at corners too: a closed line then has an
    inside.
    """
    # A frame joins all background that reaches the border into one part.
    framed = np.pad(foreground == 0, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    return _connected_parts(framed, corners=False) - 1


def dispersion(counts: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, " n"]:
    """Variance over mean of each example's elements, 0 for an example of zeros."""
    flat = _flat(counts)
    return _ratio(flat.var(1), flat.mean(1))


def nearest_training(
    data: Shaped[np.ndarray, " n *event"],
    train: Shaped[np.ndarray, " t *known"],
    *,
    transform: Transform | None = None,
) -> Nearest:
    """argmin_t sqrt(mean_i (x_i - t_i)^2): the nearest training example of each example.

    Squares are computed by matrix products in float32, |x|^2 - 2 x.t + |t|^2 about a centre. Their
    rounding error, about 1e-7 |x|^2, may choose between examples that are equally near; the
    distance is then recomputed from the differences. About 50 MB are held beside the data.

    Args:
        data: Real or generated data. A training example is at distance 0 from itself.
        train: The training data, as the likelihood needs them.
        transform: Applied to the elements first, such as `numpy.log1p` for counts.

    Returns:
        Compare the distances with those of test data: a model that memorises is nearer.

    Raises:
        ValueError: If there are no training data, or their shape differs.
    """
    if len(train) == 0 or data.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"train must hold data of shape {data.shape[1:]}, got {len(train)} of shape "
            f"{train.shape[1:]}."
        )
    centre = _flat(_transform(train[:1000], transform)).mean(0)
    if np.issubdtype(train.dtype, np.integer) and transform is None:
        # Differences of whole numbers stay whole, and their products exact.
        centre = np.round(centre)
        if max(train.dtype.itemsize, data.dtype.itemsize) <= 2:
            # Exact in float32, too.
            centre = centre.astype(np.float32)
    elements = len(centre)
    rows = max(1, min(len(data), MAX_ELEMENTS // (4 * elements), MAX_ELEMENTS // _TRAIN_BLOCK))
    step = max(1, min(_TRAIN_BLOCK, MAX_ELEMENTS // elements))
    squares = np.full(len(data), np.inf)
    row = np.zeros(len(data), dtype=np.int64)
    for first in range(0, len(train), step):
        block = _centred(train[first : first + step], transform, centre)
        known = block.astype(np.float32, copy=False)
        half = 0.5 * np.einsum("ij,ij->i", known, known)
        for start in range(0, len(data), rows):
            mine = _centred(data[start : start + rows], transform, centre)
            # Half the square of the distance, less what all training examples share.
            best = (half - mine.astype(np.float32, copy=False) @ known.T).argmin(1)
            exact = ((mine - known[best]).astype(np.float64) ** 2).sum(1)
            here = slice(start, start + len(mine))
            nearer = exact < squares[here]
            squares[here] = np.where(nearer, exact, squares[here])
            row[here] = np.where(nearer, first + best, row[here])
    # The training data were rounded to float32; the differences of the nearest are exact.
    for start in range(0, len(data), rows):
        here = slice(start, start + rows)
        pair = (_flat(_transform(x, transform)) for x in (data[here], train[row[here]]))
        squares[here] = (np.subtract(*pair) ** 2).sum(1)
    return Nearest(np.sqrt(squares / elements), row)


def _blocks(data: Shaped[np.ndarray, " n *event"]) -> Iterator[np.ndarray]:
    size = max(1, MAX_ELEMENTS // max(1, data[:1].size))
    for start in range(0, max(1, len(data)), size):
        yield data[start : start + size]


def _transform(data: np.ndarray, transform: Transform | None) -> np.ndarray:
    return data if transform is None else transform(data.astype(np.float64))


def _centred(
    data: np.ndarray, transform: Transform | None, centre: Float[np.ndarray, " elements"]
) -> Float[np.ndarray, "n elements"]:
    if centre.dtype == np.float32:
        return data.reshape(len(data), -1).astype(np.float32) - centre
    return _flat(_transform(data, transform)) - centre


def _flat(data: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, "n elements"]:
    # reshape(0, -1) is not defined.
    return data.reshape(len(data), data[:1].size if len(data) else 1).astype(np.float64)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> Float[np.ndarray, " n"]:
    zeros = np.zeros(len(numerator))
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)


def _grey(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, "n rows columns"]:
    shape = images.shape[-2:]
    channels = images.reshape(len(images), -1, *shape)
    if channels.shape[1] == 1:
        return channels[:, 0].astype(np.float64)
    return channels.astype(np.float64).mean(1)


def _ink(images: Shaped[np.ndarray, " n *event"]) -> Float[np.ndarray, "n rows columns"]:
    """The intensity as a weight: above the image's minimum where that is negative."""
    grey = _grey(images)
    return grey - np.minimum(grey.min((1, 2), keepdims=True), 0)


def _centre(margin: Real[np.ndarray, "n places"]) -> Float[np.ndarray, " n"]:
    total = margin.sum(1)
    middle = np.full(len(margin), (margin.shape[1] - 1) / 2)
    return np.divide(margin @ np.arange(margin.shape[1]), total, out=middle, where=total > 0)


def _foreground(images: np.ndarray, fixed: bool) -> Shaped[np.ndarray, "n rows columns"]:
    """Pixels from 1/2 on, or above the middle of the image's own range."""
    grey = _grey(images)
    if fixed:
        return grey >= 0.5
    return grey > (grey.min((1, 2), keepdims=True) + grey.max((1, 2), keepdims=True)) / 2


def _connected_parts(where: np.ndarray, *, corners: bool) -> Float[np.ndarray, " n"]:
    from scipy.ndimage import generate_binary_structure, label

    # Nothing connects an image with the next one.
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = generate_binary_structure(2, 2 if corners else 1)
    labels = np.empty(where.shape, dtype=np.int32)
    count = cast("int", label(where != 0, structure, output=labels))
    image = np.zeros(count + 1, dtype=np.int64)
    image[labels] = np.arange(len(where))[:, None, None]
    return np.bincount(image[1:], minlength=len(where)).astype(np.float64)
