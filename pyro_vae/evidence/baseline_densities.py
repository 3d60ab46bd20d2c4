"""Densities without latent variables, fitted to training data.

They give log p(x) of each row in nats, in the units of the data, normalised like a likelihood of
the same support, so that the values compare with a VAE's.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Integer, Real

from pyro_vae.data import Units
from pyro_vae.distributions.unit_interval import EDGE

if TYPE_CHECKING:
    from scipy import sparse

# The range and the grid of log dispersions of a negative binomial. At the upper end it is a
# Poisson.
_LOG_DISPERSION = (-10.0, 12.0)
_GRID_STEP = 0.25
# A lower limit of means: a gene without counts in training may have some in test data.
_MINIMUM_MEAN = 1e-6
# The cells of a histogram on [0, 1], and the widths in levels or cells that are tried.
_CELLS = 256
_DISTINCT = 2**16
_WIDTHS = (1, 2, 4, 8, 16, 32)
# The largest number of cells of all histograms.
_HISTOGRAM = 2**24
# The degrees of freedom that are tried, and the iterations of each fit.
_DEGREES = (2.0, 3.0, 5.0, 10.0, 30.0)
_ITERATIONS = 20
# A lower limit of scales, in units of an element's spread: the default of the likelihoods.
MINIMUM_SCALE = 1e-2
# Factors of that limit that are tried: elements that hardly vary in training may do so in test
# data.
_FLOORS = (1.0, 3.0, 10.0, 30.0)
# The number of elements whose log densities are computed at a time.
_CHUNK = 2**22

LogDensity = Callable[[Real[np.ndarray, "m d"]], Float[np.ndarray, " m"]]


@dataclass(frozen=True)
class Baseline:
    """A density without latent variables.

    Args:
        name: A description, such as "a Bernoulli for each element".
        flat_log_density: Flattened rows `(m, d)` -> log p(x) of each in nats.
        factors: The number of factors of a factor analysis; None for independent elements.
    """

    name: str
    flat_log_density: LogDensity
    factors: int | None = None

    def log_density(self, x: Real[np.ndarray, " m *event"]) -> Float[np.ndarray, " m"]:
        """log p(x) of each row in nats."""
        flat = x.reshape(len(x), -1)
        rows = max(1, _CHUNK // max(1, flat.shape[1]))
        parts = [flat[start : start + rows] for start in range(0, len(flat), rows)]
        with np.errstate(all="ignore"):
            return np.concatenate([self.flat_log_density(part) for part in parts])


def independent_density(
    train: Any,
    support: str,
    *,
    validation: Real[np.ndarray, " v *event"] | None = None,
    levels: int | None = None,
    given_total: bool = False,
    heavy_tailed: bool = False,
    logit_normal: bool = False,
    minimum_scale: float = MINIMUM_SCALE,
) -> Baseline:
    """p(x) = prod_i p_i(x_i), a distribution for each element.

    Binary: a Bernoulli, with one count added to each value. Integers: a histogram, with one count
        added to
    each cell. Unit: a histogram, or a logit-normal. Real: a normal, or Student's t, with a lower
    limit of scales. Counts: a negative binomial; given the total, a multinomial of the pooled
    proportions.

    Args:
        train: Training data `(n, *event)` in the likelihood's support, an array; counts and binary
            data may be a sparse matrix.
        support: binary, unit, real, integers or counts.
        validation: Data that select the width of a histogram, the lower limit of scales and the
            family; None for the narrowest, the lowest and the first.
        levels: The number of levels of integers, or of values in [0, 1] that were levels.
        given_total: Whether the likelihood is given a row's total.
        heavy_tailed: Whether to try Student's t.
        logit_normal: Whether to try a logit-normal, if few values are 0 or 1.
        minimum_scale: A lower limit of scales, in units of the element's spread.
    """
    shaped = train
    train = train if hasattr(train, "tocsr") else train.reshape(len(train), -1)
    if support == "binary":
        total = np.asarray(train.sum(0), np.float64)
        return Baseline("a Bernoulli for each element", _bernoulli(total, train.shape[0]))
    if support == "counts":
        if given_total:
            total = np.asarray(train.sum(0), np.float64)
            return Baseline("a multinomial of the pooled proportions", _multinomial(total))
        fitted = fit_negative_binomial(train)
        # As likelihoods of counts are initialised: at least one count in all rows.
        mean = np.maximum(fitted[0], 1 / train.shape[0])
        return Baseline(
            "a negative binomial for each element",
            lambda x: negative_binomial_log_density(x, mean, fitted[1]),
        )
    if support == "integers":
        known = levels or int(train.max()) + 1
        candidates = _histograms(train, known)
    elif support == "unit":
        # For values that repeat, such as levels, narrower cells would give an unbounded density.
        cells = levels or min(_CELLS, max(2, len(np.unique(train.ravel()[:_DISTINCT]))))
        log_cells = train.shape[1] * math.log(cells)
        candidates = [
            Baseline(
                each.name, lambda x, each=each: log_cells + each.flat_log_density(_cell(x, cells))
            )
            for each in _histograms(_cell(train, cells), cells)
        ]
        if logit_normal and np.mean((train < EDGE) | (train > 1 - EDGE)) < 0.01:
            candidates.append(
                Baseline("a logit-normal for each element", _logit_normal(train, minimum_scale))
            )
    else:
        smallest = _smallest_scales(shaped, minimum_scale)
        candidates = _normals(train, smallest, _DEGREES if heavy_tailed else ())
    if validation is None or len(candidates) == 1:
        return candidates[0]
    scores = [
        np.nan_to_num(each.log_density(validation).mean(), nan=-np.inf) for each in candidates
    ]
    return candidates[int(np.argmax(scores))]


def histogram(
    train: Integer[np.ndarray, " n *event"], levels: int, width: int = 1
) -> Callable[[Integer[np.ndarray, " m *event"]], Float[np.ndarray, " m"]]:
    """log prod_i p_i(x_i), p_i(v) = (1 + #{n : x_ni in the cell of v}) / (N + cells) / width.

    Elements are independent, each with its own histogram and one count added to each cell: the
    best that a likelihood reaches that ignores z.

    Args:
        train: N training data, whole numbers from 0 to levels - 1.
        levels: The number of levels.
        width: The number of levels in a cell; the last cell may have fewer.

    Returns:
        A function to log p(x) of each row, which raises ValueError if a value is not a level.

    Raises:
        ValueError: If a value is not a level.
    """

    def cells_of(x: np.ndarray) -> np.ndarray:
        x = x.reshape(len(x), -1)
        if x.min() < 0 or x.max() >= levels:
            raise ValueError(f"the data must be whole numbers from 0 to {levels - 1}.")
        return x.astype(np.int64) // width + first

    d = math.prod(train.shape[1:])
    cells = -(-levels // width)
    first = np.arange(d) * cells
    counts = 1.0 + np.bincount(cells_of(train).ravel(), minlength=d * cells)
    sizes = np.bincount(np.arange(levels) // width)
    log_p = np.log(counts) - math.log(len(train) + cells) - np.tile(np.log(sizes), d)
    return lambda x: log_p[cells_of(x)].sum(1)


def fit_negative_binomial(
    counts: "Integer[np.ndarray, 'n genes'] | sparse.csr_array",
    size: Float[np.ndarray, " n"] | None = None,
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"]]:
    """Mean m_i and dispersion r_i of x_ni ~ NB(mean s_n m_i, variance mean + mean^2 / r_i).

    By maximum likelihood for each gene; without sizes the dispersion is interpolated on a grid.

    Args:
        counts: The data; without sizes they may be sparse.
        size: The size s_n of each row; 1 if None.

    Returns:
        The means and the dispersions. The dispersion of a gene without overdispersion is the upper
        end of the range, e^12; that of a gene without counts is 1.
    """
    if size is None:
        return _negative_binomial_on_grid(counts)
    from scipy.optimize import minimize
    from scipy.special import digamma, gammaln

    def loss(parameters: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
        """The negative log-likelihood of a gene, without log x!, and its gradient."""
        mean, r = np.exp(parameters[0]) * size, np.exp(parameters[1])
        log_rest = np.log(r) - np.log(r + mean)
        terms = gammaln(x + r) - gammaln(r) + r * log_rest + x * (np.log(mean) - np.log(r + mean))
        by_log_mean = r * (x - mean) / (r + mean)
        by_r = digamma(x + r) - digamma(r) + log_rest + (mean - x) / (r + mean)
        gradient = -np.array([by_log_mean.mean(), r * by_r.mean()])
        return -float(terms.mean()), gradient

    means = np.maximum(counts.sum(0) / size.sum(), _MINIMUM_MEAN)
    dispersions = np.empty_like(means)
    for gene, x in enumerate(counts.T.astype(np.float64)):
        start = np.array([math.log(means[gene]), 0.0])
        bounds = [(math.log(_MINIMUM_MEAN), None), _LOG_DISPERSION]
        fitted = minimize(loss, start, args=(x,), jac=True, method="L-BFGS-B", bounds=bounds)
        means[gene], dispersions[gene] = np.exp(fitted.x)
    return means, dispersions


def _negative_binomial_on_grid(
    counts: Any,
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"]]:
    """The fit without sizes, where the sample mean is the most likely one for every dispersion."""
    from scipy import sparse
    from scipy.special import gammaln

    rows: Any = sparse.csr_array(counts)
    n, d = rows.shape
    mean = np.maximum(np.asarray(rows.sum(0), np.float64) / n, _MINIMUM_MEAN)
    values, which = np.unique(rows.data, return_inverse=True)
    low, high = _LOG_DISPERSION
    grid = np.arange(low, high + _GRID_STEP / 2, _GRID_STEP)
    log_likelihood = np.empty((len(grid), d))
    for row, log_r in zip(log_likelihood, grid, strict=True):
        r = math.exp(log_r)
        # It is 0 for a count of 0, so only the others are summed.
        of_value = gammaln(values + r) - gammaln(r)
        row[:] = np.bincount(rows.indices, of_value[which], minlength=d)
        log_sum = np.log(r + mean)
        row += n * (r * (log_r - log_sum) + mean * (np.log(mean) - log_sum))
    best = log_likelihood.argmax(0)
    # The maximum of a parabola through the best point of the grid and its neighbours.
    inside = np.clip(best, 1, len(grid) - 2)
    below, at, above = (log_likelihood[inside + step, np.arange(d)] for step in (-1, 0, 1))
    curvature = below - 2 * at + above
    with np.errstate(divide="ignore", invalid="ignore"):
        move = np.where(curvature < 0, 0.5 * (below - above) / curvature, 0.0)
    log_r = np.where(inside == best, grid[inside] + _GRID_STEP * np.clip(move, -1, 1), grid[best])
    return mean, np.where(mean > _MINIMUM_MEAN, np.exp(log_r), 1.0)


def negative_binomial_log_density(
    counts: Integer[np.ndarray, "m genes"],
    mean: Float[np.ndarray, " genes"],
    dispersion: Float[np.ndarray, " genes"],
    sizes: Float[np.ndarray, " sizes"] | None = None,
) -> Float[np.ndarray, " m"]:
    """log 1/S sum_s prod_i NB(x_i | mean s m_i, dispersion r_i), in nats per row.

    The size of a row must be a latent variable: dividing by the row's total would use the data
    that are to be predicted. It is one of the `sizes`, with equal probabilities.

    Args:
        counts: The data x.
        mean: m_i, where the size is 1.
        dispersion: r_i.
        sizes: The sizes s, such as those of the training data; only 1 if None.
    """
    from scipy.special import gammaln, logsumexp

    x = counts.astype(np.float64)
    sizes = np.ones(1) if sizes is None else sizes
    # Terms that do not depend on the size.
    fixed = (gammaln(x + dispersion) - gammaln(dispersion) - gammaln(x + 1)).sum(1)
    fixed = fixed + (dispersion * np.log(dispersion)).sum()
    means = sizes[:, None] * mean
    log_sum = np.log(means + dispersion)
    by_size = x @ (np.log(means) - log_sum).T - log_sum @ dispersion
    return fixed + logsumexp(by_size, axis=1) - math.log(len(sizes))


def factor_analysis(
    train: Float[np.ndarray, "n d"],
    validation: Float[np.ndarray, "v d"],
    *,
    most_factors: int = 32,
    minimum_scale: float = 0.0,
) -> Baseline:
    """log N(x | c + s W z, ...) integrated over z: factor analysis of standardised columns.

    scikit-learn's `FactorAnalysis` of u = (x - c) / s, with c and s the mean and standard
    deviation of the training data; log p(x) = log p(u) - sum_i log s_i is in the columns' own
    units. The number of factors is the one of 1, 2, 3, 4, 6, 8, 12, ... with the highest density
    of the validation data. Columns that are constant in training have independent normals.

    Args:
        train: Training data of at least two columns that vary.
        validation: Validation data.
        most_factors: The largest number of factors to try.
        minimum_scale: A lower limit of a column's noise, in units of its standard deviation, to
            which its resolution is added. Without one, the density is unbounded if a column is a
            linear function of others.
    """
    from sklearn.decomposition import FactorAnalysis
    from sklearn.exceptions import ConvergenceWarning

    units = Units.from_data(torch.from_numpy(train))
    varying = ~units.constant.numpy()
    center, spread = units.center.numpy()[varying], units.spread.numpy()[varying]
    floor = (minimum_scale + units.floor.numpy()[varying] if minimum_scale else 0.0) ** 2

    def standardised(x: np.ndarray) -> np.ndarray:
        return (x[:, varying] - center) / spread

    u, v = standardised(train), standardised(validation)
    tried = [k for power in range(6) for k in (2**power, 3 * 2**power // 2)]
    tried = sorted({k for k in tried if k <= min(most_factors, *(size - 1 for size in u.shape))})
    models, scores = {}, {}
    for k in tried:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            models[k] = FactorAnalysis(k, random_state=0).fit(u)
        models[k].noise_variance_ = np.maximum(models[k].noise_variance_, floor)
        scores[k] = models[k].score(v)
    best = max(tried, key=lambda k: scores[k])
    log_spread = np.log(spread).sum()
    constant = train[:, ~varying]
    rest = _normal(constant, _smallest_scales(constant, minimum_scale or MINIMUM_SCALE))

    def log_density(x: np.ndarray) -> np.ndarray:
        rows = models[best].score_samples(standardised(x.astype(np.float64))) - log_spread
        return rows + rest(x[:, ~varying])

    name = f"a factor analysis of {best} factor{'' if best == 1 else 's'}"
    return Baseline(name, log_density, best)


def _bernoulli(total: np.ndarray, n: int) -> LogDensity:
    """With the number of ones of each element in n rows, and one count added to each value."""
    log_one, log_zero = np.log(total + 1), np.log(n - total + 1)
    constant = log_zero.sum() - len(total) * math.log(n + 2)
    return lambda x: x.astype(np.float64) @ (log_one - log_zero) + constant


def _multinomial(total: np.ndarray) -> LogDensity:
    """With one added to each total: an element without counts may have some later."""
    from scipy.special import gammaln

    log_share = np.log(total + 1) - math.log(total.sum() + len(total))

    def log_density(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1) + x @ log_share

    return log_density


def _histograms(train: np.ndarray, levels: int) -> list[Baseline]:
    narrowest = -(-levels * train.shape[1] // _HISTOGRAM)
    widths = [narrowest * width for width in _WIDTHS]
    return [
        Baseline("a histogram for each element", histogram(train, levels, width))
        for width in widths
        if width == narrowest or width < levels
    ]


def _cell(x: np.ndarray, cells: int) -> np.ndarray:
    """The cells of [0, 1] that values are in."""
    return np.clip(x.astype(np.float64) * cells, 0, cells - 1).astype(np.int64)


def _logit_normal(train: np.ndarray, minimum_scale: float) -> LogDensity:
    """As that likelihood: values within 1e-6 of an edge have the density at that distance."""

    def inside(x: np.ndarray) -> np.ndarray:
        return np.clip(x.astype(np.float64), EDGE, 1 - EDGE)

    def logit(p: np.ndarray) -> np.ndarray:
        return np.log(p) - np.log1p(-p)

    normal = _normal(logit(inside(train)), np.full(train.shape[1], minimum_scale))

    def log_density(x: np.ndarray) -> np.ndarray:
        p = inside(x)
        return normal(logit(p)) - (np.log(p) + np.log1p(-p)).sum(1)

    return log_density


def _normals(train: np.ndarray, smallest: np.ndarray, degrees: Sequence[float]) -> list[Baseline]:
    """Normals and Student's t with these degrees of freedom, with several lower limits."""
    train = train.astype(np.float64)
    # Limits that change no scale are not tried.
    floors = [f for f in _FLOORS if f == 1 or bool((train.std(0) < f * smallest).any())]
    found = [Baseline("a normal for each element", _normal(train, f * smallest)) for f in floors]
    for df in degrees:
        name = f"a Student's t for each element (nu = {df:g})"
        found += [Baseline(name, _student_t(train, df, f * smallest)) for f in floors]
    return found


def _normal(train: np.ndarray, smallest: np.ndarray) -> LogDensity:
    mean = train.mean(0)
    scale = np.maximum(train.std(0), smallest)
    constant = np.log(scale).sum() + len(scale) * 0.5 * math.log(2 * math.pi)
    return lambda x: -0.5 * (((x - mean) / scale) ** 2).sum(1) - constant


def _student_t(train: np.ndarray, df: float, smallest: np.ndarray) -> LogDensity:
    """By maximum likelihood with these degrees of freedom, by the EM algorithm.

    References:
        ML estimation of the t distribution using EM and its extensions (Liu & Rubin, 1995),
        https://www3.stat.sinica.edu.tw/statistica/oldpdf/A5n12.pdf
    """
    from scipy.special import gammaln

    loc, scale = np.median(train, 0), np.maximum(train.std(0), smallest)
    for _ in range(_ITERATIONS):
        weight = (df + 1) / (df + ((train - loc) / scale) ** 2)
        loc = (weight * train).sum(0) / weight.sum(0)
        scale = np.maximum(np.sqrt((weight * (train - loc) ** 2).mean(0)), smallest)
    normaliser = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * math.log(df * math.pi)
    constant = len(scale) * normaliser - np.log(scale).sum()
    return lambda x: constant - (df + 1) / 2 * np.log1p(((x - loc) / scale) ** 2 / df).sum(1)


def _smallest_scales(train: np.ndarray, minimum_scale: float) -> np.ndarray:
    """Lower limits of scales: a share of each element's spread, plus its resolution."""
    event = train.shape[1:]
    if 0 in event:
        return np.zeros(0)
    units = Units.from_data(torch.from_numpy(np.ascontiguousarray(train)))
    return ((minimum_scale + units.floor) * units.spread).expand(event).flatten().numpy()
