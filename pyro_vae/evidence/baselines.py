"""Baselines without latent variables, with which a VAE's log p(x) is compared."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.data import PreparedData
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.evidence.baseline_densities import (
    MINIMUM_SCALE,
    Baseline,
    factor_analysis,
    independent_density,
)
from pyro_vae.evidence.evaluation import Evaluation
from pyro_vae.likelihoods import ContinuousBernoulli, Laplace, StudentT
from pyro_vae.statistics import standard_error

# The largest numbers of elements of training data for closed-form and for iterative fits, and of
# columns for a factor analysis, which takes too long with more.
_ELEMENTS = 2**23
_ITERATED_ELEMENTS = 2**20
_COLUMNS = 1000


@dataclass(frozen=True)
class Comparison:
    """The log density of a baseline on evaluated rows, and how far a VAE is above it.

    Args:
        name: The description of the baseline.
        factors: The number of factors of a factor analysis; None for independent elements.
        log_density: Its mean log p(x) per row, in nats.
        above: The mean of the VAE's log p(x) minus the baseline's over the rows where both are
            finite; None if the VAE has no log p(x).
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
    """Compare a VAE with the baselines of its data (`fit_baselines`) on evaluated rows.

    >>> from pyro_vae import build
    >>> from pyro_vae.data import digits
    >>> from pyro_vae.evidence import compare_with_baselines, evaluate
    >>> vae, data = build((1, 8, 8)), PreparedData(digits(), "binary")
    >>> x = data.fixed("test")[:100]
    >>> evaluation = evaluate(vae, x, num_samples=10)
    >>> (found,) = compare_with_baselines(evaluation, data, x, vae.likelihood)
    >>> found.name, found.above < 0  # An untrained VAE is below it.
    ('a Bernoulli for each element', True)

    Args:
        evaluation: The result of `evaluate` on x.
        data: The data that the VAE was trained on.
        x: The rows, in the likelihood's support.
        likelihood: The VAE's likelihood, for `fit_baselines`.
    """
    rows = _array(x)
    weights = evaluation.weights
    found = []
    for baseline in fit_baselines(data, likelihood):
        density = baseline.log_density(rows)
        mean = float(density.mean())
        if not math.isfinite(mean):
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
    """Fit densities of the likelihood's support without latent variables to the training split.

    The first is an `independent_density`; for tables of real numbers there is a factor analysis as
    well. Large data are represented by training rows spread evenly over the split, and the
    validation split selects among families and degrees of smoothing. Empty for data that no family
    can be fitted to, and for data with missing values.

    Args:
        data: The prepared data.
        likelihood: The likelihood, which decides whether the density is given a row's total,
            whether a heavy-tailed family is a fair comparison, and the smallest scale.
    """
    support, dataset = data.likelihood_support, data.dataset
    if dataset.missing:
        return []
    heavy = isinstance(likelihood, StudentT | Laplace)
    scale = getattr(likelihood, "minimum_scale", None)
    minimum_scale = float(scale) if isinstance(scale, float) and 0 < scale < 1 else MINIMUM_SCALE
    try:
        train: Any = _training_rows(data, _ITERATED_ELEMENTS if heavy else _ELEMENTS)
        validation = _array(_evenly(data.fixed("validation"), _ITERATED_ELEMENTS))
        found = [
            independent_density(
                train,
                support,
                validation=validation,
                levels=dataset.levels,
                given_total=bool(getattr(likelihood, "given_total", False)),
                heavy_tailed=heavy,
                logit_normal=not isinstance(likelihood, ContinuousBernoulli),
                minimum_scale=minimum_scale,
            )
        ]
        if support == "real" and len(dataset.event_shape) == 1:
            table = train[: max(1, _ITERATED_ELEMENTS // train.shape[1])].astype(np.float64)
            varying = int((table.min(0) < table.max(0)).sum())
            if 2 <= varying <= _COLUMNS and len(table) > 2:
                rows = validation.astype(np.float64)
                found.append(factor_analysis(table, rows, minimum_scale=minimum_scale))
    except (np.linalg.LinAlgError, FloatingPointError, ValueError) as error:
        # Such as fill values of 1e30, whose squares are infinite.
        if isinstance(error, ValueError) and not re.search("infinity|NaN", str(error)):
            raise
        return []
    return found


def _training_rows(data: PreparedData, elements: int) -> Any:
    """Training rows in the likelihood's support, spread evenly, of at most this many elements.

    Sparse rows stay sparse, and their elements that are not 0 are counted.
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
    """Rows spread evenly, with at most this many elements."""
    n = len(rows)
    index = _spread(n, elements // max(1, math.prod(rows.shape[1:])))
    if len(index) == n:
        return rows[:]
    if not isinstance(rows, MemoryMapped):
        return rows[index]
    # Neighbours in a file are read together.
    parts = index.split(max(1, len(index) // 64))
    return torch.cat([rows[int(part[0]) : int(part[0]) + len(part)] for part in parts])


def _spread(n: int, size: int) -> Tensor:
    size = min(n, max(1, size))
    return torch.arange(size) * n // size


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
