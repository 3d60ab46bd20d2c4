"""Densities without latent variables: what a VAE's log p(x) is compared with.

Each is fitted to training data and gives log p(x) of each row in nats, in the units of the data and
normalised as a likelihood of the same support is, so that the numbers compare.
"""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Integer, Real
from torch import Tensor

from pyro_vae.data import PreparedData, Units
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.distributions.unit_interval import EDGE
from pyro_vae.evidence.evaluation import Evaluation
from pyro_vae.evidence.numbers import finite, standard_error
from pyro_vae.likelihoods import ContinuousBernoulli, Laplace, StudentT

if TYPE_CHECKING:
    from scipy import sparse

# Where the fit of a negative binomial ends. At the upper end of the dispersion it is a Poisson.
_LOG_DISPERSION = (-10.0, 12.0)
_GRID_STEP = 0.25
# A floor under every mean: a gene that no training cell has may be in a test cell.
_MINIMUM_MEAN = 1e-6
# Cells of a histogram on [0, 1], and the widths in levels or cells that are tried.
_CELLS = 256
_DISTINCT = 2**16
_WIDTHS = (1, 2, 4, 8, 16, 32)
# Degrees of freedom that are tried, and iterations of each fit.
_DEGREES = (2.0, 3.0, 5.0, 10.0, 30.0)
_ITERATIONS = 20
# A floor under scales, in units of an element's spread: the default of the likelihoods'.
_MINIMUM_SCALE = 1e-2
# Larger floors, which are tried: elements that hardly ever vary in training may do so in test data.
_FLOORS = (1.0, 3.0, 10.0, 30.0)
# Histograms have at most so many cells in all, and see at most so many elements of training data ...
_HISTOGRAM = 2**24
_ELEMENTS = 2**23
# ... and fits that iterate at most so many. A factor analysis of more columns takes too long.
_ITERATED_ELEMENTS = 2**20
_COLUMNS = 1000
# Log densities are computed of so many elements at a time.
_CHUNK = 2**22

LogDensity = Callable[[Real[np.ndarray, "m d"]], Float[np.ndarray, " m"]]


@dataclass(frozen=True)
class Baseline:
    """A density without latent variables, fitted to training data.

    Args:
        name: What it is, such as "a Bernoulli for each element".
        flat_log_density: Rows `(m, d)`, flattened, -> log p(x) of each in nats.
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


@dataclass(frozen=True)
class Comparison:
    """The log density of a baseline on evaluated rows, and how far a VAE is above it.

    Args:
        name: What the baseline is.
        factors: The number of factors of a factor analysis; None for independent elements.
        log_density: Its mean log p(x) per row, in nats.
        above: The mean of the VAE's log p(x) minus the baseline's, row by row, over rows where both
            are finite; None where the VAE has no log p(x).
        above_se: The standard error of `above`; None for fewer than two rows.
        share_above: The share of these rows on which the VAE is above the baseline.
    """

    name: str
    factors: int | None
    log_density: float
    above: float | None
    above_se: float | None
    share_above: float | None


def compare_with_baselines(
    evaluation: Evaluation,
    data: PreparedData,
    x: Real[Tensor, " n *event"],
    likelihood: Any = None,
) -> list[Comparison]:
    """The baselines of the data (`fit_baselines`), on the rows that a VAE was evaluated on.

    >>> from pyro_vae import build
    >>> from pyro_vae.data import digits
    >>> from pyro_vae.evidence import compare_with_baselines, evaluate
    >>> vae, data = build((1, 8, 8)), PreparedData(digits(), "binary")
    >>> x = data.fixed("test")[:100]
    >>> (found,) = compare_with_baselines(evaluate(vae, x, num_samples=10), data, x, vae.likelihood)
    >>> found.name, found.above < 0  # An untrained VAE is below it.
    ('a Bernoulli for each element', True)

    Args:
        evaluation: What `evaluate` found on x.
        data: The data that the VAE was trained on.
        x: The rows, in the likelihood's support.
        likelihood: The VAE's likelihood, which `fit_baselines` reads.
    """
    rows = _array(x)
    weights = evaluation.weights
    found = []
    for baseline in fit_baselines(data, likelihood):
        density = baseline.log_density(rows)
        mean = finite(density.mean())
        if mean is None:
            continue
        above = above_se = share = None
        if weights is not None:
            differences = weights.log_evidence - density
            differences = differences[np.isfinite(differences)]
            if len(differences):
                above, above_se = float(differences.mean()), standard_error(differences)
                share = float((differences > 0).mean())
        found.append(Comparison(baseline.name, baseline.factors, mean, above, above_se, share))
    return found


def fit_baselines(data: PreparedData, likelihood: Any = None) -> list[Baseline]:
    """Densities of the likelihood's support without latent variables, fitted to the training split.

    First `independent_density`; of tables of real numbers a factor analysis as well. Large data are
    represented by training rows spread evenly over the split, and where there are several families or
    degrees of smoothing, the validation split chooses. None for data that no family can be fitted to.

    Args:
        data: The prepared data.
        likelihood: The likelihood, which says whether the density is given a row's total, whether a
            heavy-tailed family is a fair comparison, and the smallest scale of the VAE's own.
    """
    support, dataset = data.likelihood_support, data.dataset
    given_total = bool(getattr(likelihood, "given_total", False))
    heavy = isinstance(likelihood, StudentT | Laplace)
    scale = getattr(likelihood, "minimum_scale", None)
    minimum_scale = float(scale) if isinstance(scale, float) and 0 < scale < 1 else _MINIMUM_SCALE
    try:
        train: Any = _training_rows(data, _ITERATED_ELEMENTS if heavy else _ELEMENTS)
        validation = _array(_evenly(data.fixed("validation"), _ITERATED_ELEMENTS))
        found = [
            independent_density(
                train,
                support,
                validation=validation,
                levels=dataset.levels,
                given_total=given_total,
                heavy_tailed=heavy,
                logit_normal=not isinstance(likelihood, ContinuousBernoulli),
                minimum_scale=minimum_scale,
            )
        ]
        if support == "real" and len(dataset.event_shape) == 1:
            table = train[: max(1, _ITERATED_ELEMENTS // train.shape[1])]
            found += _factor_analysis(table, validation, minimum_scale)
    except (np.linalg.LinAlgError, FloatingPointError, ValueError) as error:
        # Such as fill values of 1e30, whose squares are infinite.
        if isinstance(error, ValueError) and not re.search("infinity|NaN", str(error)):
            raise
        return []
    return found


def independent_density(
    train: Any,
    support: str,
    *,
    validation: Real[np.ndarray, " v *event"] | None = None,
    levels: int | None = None,
    given_total: bool = False,
    heavy_tailed: bool = False,
    logit_normal: bool = False,
    minimum_scale: float = _MINIMUM_SCALE,
) -> Baseline:
    """p(x) = prod_i p_i(x_i), a distribution for each element.

    Binary: a Bernoulli, one count added to each value. Integers: a histogram, one count added to each
    cell. Unit: a histogram, or a logit-normal. Real: a normal, or Student's t, with a floor under
    scales. Counts: a negative binomial; given the total, a multinomial of the pooled proportions.

    Args:
        train: Training data `(n, *event)` in the likelihood's support, an array; counts and binary data may
            be a sparse matrix.
        support: binary, unit, real, integers or counts.
        validation: What chooses the width of a histogram, the floor under scales and the family; None
            for the narrowest, the lowest and the first.
        levels: The number of levels of integers, or of values in [0, 1] that were levels.
        given_total: Whether the likelihood is given a row's total.
        heavy_tailed: Whether Student's t is tried.
        logit_normal: Whether a logit-normal is tried, where few values are 0 or 1.
        minimum_scale: A floor under scales, in units of the element's spread.
    """
    shaped = train
    train = train if _is_sparse(train) else train.reshape(len(train), -1)
    if support == "binary":
        total = np.asarray(train.sum(0), np.float64)
        return Baseline("a Bernoulli for each element", _bernoulli(total, _length(train)))
    if support == "counts":
        if given_total:
            total = np.asarray(train.sum(0), np.float64)
            return Baseline("a multinomial of the pooled proportions", _multinomial(total))
        fitted = fit_negative_binomial(train)
        # As the likelihoods of counts start: at least one count in all rows.
        mean = np.maximum(fitted[0], 1 / _length(train))
        return Baseline(
            "a negative binomial for each element",
            lambda x: negative_binomial_log_density(x, mean, fitted[1]),
        )
    if support == "integers":
        known = levels or int(train.max()) + 1
        candidates = _histograms(train, known)
    elif support == "unit":
        # Of values that repeat, such as levels, a narrower cell would be a density without bound.
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

    Each element has a histogram of its own, with one count added to each cell, and they are
    independent: what a likelihood reaches that ignores z.

    Args:
        train: N training data, whole numbers from 0 to levels - 1.
        levels: The number of levels.
        width: The number of levels in a cell; the last cell may have fewer.

    Returns:
        A function that gives log p(x) of each row, and raises ValueError if a value is not a level.

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
    """The mean m_i and the dispersion r_i of x_ni ~ NB(mean s_n m_i, variance mean + mean^2 / r_i).

    By maximum likelihood, gene by gene; without sizes the dispersion by interpolation on a grid.

    Args:
        counts: The data; without sizes they may be sparse.
        size: The size s_n of each datum; 1 if None.

    Returns:
        The means and the dispersions. A gene that varies no more than a Poisson has a dispersion at
        the upper end of the range, e^12; one without counts has 1.
    """
    if size is None:
        return _negative_binomial_on_grid(counts)
    from scipy.optimize import minimize
    from scipy.special import digamma, gammaln

    def loss(parameters: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log-likelihood of a gene but for log x!, and its gradient in (log m, log r)."""
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
    """The same without sizes, where the most likely mean is the sample mean for every dispersion."""
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
        # Zero for a count of 0: only the others are summed.
        of_value = gammaln(values + r) - gammaln(r)
        row[:] = np.bincount(rows.indices, of_value[which], minlength=d)
        log_sum = np.log(r + mean)
        row += n * (r * (log_r - log_sum) + mean * (np.log(mean) - log_sum))
    best = log_likelihood.argmax(0)
    # The top of a parabola through the best point of the grid and its neighbours.
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
    """log 1/S sum_s prod_i NB(x_i | mean s m_i, dispersion r_i), in nats per datum.

    The size of a datum is no part of the model unless it is a latent variable: dividing by the
    datum's own total would read what is to be predicted. It is any of the `sizes`, with equal chance.

    Args:
        counts: The data x.
        mean: m_i, where the size is 1.
        dispersion: r_i.
        sizes: The sizes s, such as those of the training data; 1 alone if None.
    """
    from scipy.special import gammaln, logsumexp

    x = counts.astype(np.float64)
    sizes = np.ones(1) if sizes is None else sizes
    # What does not depend on the size.
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

    scikit-learn's `FactorAnalysis` of u = (x - c) / s, with c and s the mean and standard deviation of the
    training data; log p(x) = log p(u) - sum_i log s_i is in the columns' own units. The number of factors
    is the one of 1, 2, 3, 4, 6, 8, 12, ... whose density of the validation data is the highest. Columns
    that are constant in training have a normal of their own.

    Args:
        train: Training data of at least two columns that vary.
        validation: Validation data.
        most_factors: The largest number of factors that is tried.
        minimum_scale: A floor under the noise of a column, in units of its standard deviation; the
            column's resolution comes on top. Without one, the density of a column that is a linear
            function of others grows without bound.
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
    rest = _normal(constant, _smallest_scales(constant, minimum_scale or _MINIMUM_SCALE))

    def log_density(x: np.ndarray) -> np.ndarray:
        rows = models[best].score_samples(standardised(x.astype(np.float64))) - log_spread
        return rows + rest(x[:, ~varying])

    name = f"a factor analysis of {best} factor{'' if best == 1 else 's'}"
    return Baseline(name, log_density, best)


# ---- families ----------------------------------------------------------------------------------


def _bernoulli(total: np.ndarray, n: int) -> LogDensity:
    """From the number of ones of each element in n rows; one count is added to each value."""
    log_one, log_zero = np.log(total + 1), np.log(n - total + 1)
    constant = log_zero.sum() - len(total) * math.log(n + 2)
    return lambda x: x.astype(np.float64) @ (log_one - log_zero) + constant


def _multinomial(total: np.ndarray) -> LogDensity:
    """From the total of each element; one is added, as an element absent in training may be in test data."""
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
    """The cell of [0, 1] that a value is in."""
    return np.clip(x.astype(np.float64) * cells, 0, cells - 1).astype(np.int64)


def _logit_normal(train: np.ndarray, minimum_scale: float) -> LogDensity:
    """As the likelihood of that name: values within 1e-6 of an end have the density there."""

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
    """A normal, and Student's t of these degrees of freedom, with several floors under the scales."""
    train = train.astype(np.float64)
    # Floors that change no scale need not be tried.
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
    """By maximum likelihood at these degrees of freedom, with the EM algorithm.

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
    """Floors under scales: a share of the spread of each element, or channel, above its resolution."""
    event = train.shape[1:]
    if 0 in event:
        return np.zeros(0)
    units = Units.from_data(torch.from_numpy(np.ascontiguousarray(train)))
    return ((minimum_scale + units.floor) * units.spread).expand(event).flatten().numpy()


# ---- data --------------------------------------------------------------------------------------


def _factor_analysis(
    train: np.ndarray, validation: np.ndarray, minimum_scale: float
) -> list[Baseline]:
    """That of a table which is neither too narrow nor too wide for one."""
    train, validation = train.astype(np.float64), validation.astype(np.float64)
    varying = int((train.min(0) < train.max(0)).sum())
    if not 2 <= varying <= _COLUMNS or len(train) < 3:
        return []
    return [factor_analysis(train, validation, minimum_scale=minimum_scale)]


def _training_rows(data: PreparedData, elements: int) -> Any:
    """Rows of the training split in the likelihood's support, spread evenly over it.

    Sparse counts and binary data stay sparse, with at most so many elements that are not 0.
    """
    train = data.train
    if isinstance(train, SparseRows):
        matrix: Any = train.matrix
        index = _spread(len(train), int(elements / max(1.0, matrix.nnz / matrix.shape[0])))
        return matrix[train.rows[index].numpy()]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return _array(data.transform(_evenly(train, elements)))


def _evenly(rows: Any, elements: int) -> Tensor:
    """Rows with at most so many elements, spread evenly."""
    n = len(rows)
    index = _spread(n, elements // max(1, math.prod(rows.shape[1:])))
    if len(index) == n:
        return rows[:]
    if not isinstance(rows, MemoryMapped):
        return rows[index]
    # Neighbours in a file are read at once.
    parts = index.split(max(1, len(index) // 64))
    return torch.cat([rows[int(part[0]) : int(part[0]) + len(part)] for part in parts])


def _spread(n: int, size: int) -> Tensor:
    size = min(n, max(1, size))
    return torch.arange(size) * n // size


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def _is_sparse(values: Any) -> bool:
    return hasattr(values, "tocsr")


def _length(rows: Any) -> int:
    return rows.shape[0]
