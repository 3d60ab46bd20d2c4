"""Densities without a network: what a VAE's log p(x) is measured against.

Each is fitted to training data and gives log p(x) of each test datum in nats, normalised as the
VAE's own likelihood of the same support is, so that the numbers compare.
"""

import math

import numpy as np
from jaxtyping import Float, Integer

# Where the fit of a negative binomial ends. At the upper end of the dispersion it is a Poisson.
_LOG_DISPERSION = (-10.0, 12.0)
# A floor under every mean: a gene that no training cell has may be in a test cell.
_MINIMUM_MEAN = 1e-6


def histogram_log_density(
    train: Integer[np.ndarray, " n *event"], test: Integer[np.ndarray, " m *event"], levels: int
) -> Float[np.ndarray, " m"]:
    """log prod_i p_i(x_i), p_i(v) = (1 + #{n : x_ni = v}) / (N + levels), for levels v.

    Each element has a histogram of its own, with one count added to each level, and they are
    independent: what a likelihood reaches that ignores z.

    Args:
        train: N training data, whole numbers from 0 to levels - 1.
        test: Test data.
        levels: The number of levels.

    Raises:
        ValueError: If a value is not a level.
    """
    if min(train.min(), test.min()) < 0 or max(train.max(), test.max()) >= levels:
        raise ValueError(f"the data must be whole numbers from 0 to {levels - 1}.")
    observed, asked = train.reshape(len(train), -1), test.reshape(len(test), -1)
    elements = np.arange(observed.shape[1])
    counts = np.ones((observed.shape[1], levels))
    np.add.at(counts, (np.broadcast_to(elements, observed.shape), observed), 1)
    log_p = np.log(counts) - math.log(len(observed) + levels)
    return log_p[elements, asked].sum(1)


def fit_negative_binomial(
    counts: Integer[np.ndarray, "n genes"], size: Float[np.ndarray, " n"] | None = None
) -> tuple[Float[np.ndarray, " genes"], Float[np.ndarray, " genes"]]:
    """The mean m_i and the dispersion r_i of x_ni ~ NB(mean s_n m_i, variance mean + mean^2 / r_i).

    By maximum likelihood, gene by gene.

    Args:
        counts: The data.
        size: The size s_n of each datum; 1 if None.

    Returns:
        The means and the dispersions. A gene that varies no more than a Poisson has a dispersion at
        the upper end of the range, e^12.
    """
    from scipy.optimize import minimize
    from scipy.special import digamma, gammaln

    scale = np.ones(len(counts)) if size is None else size

    def loss(parameters: np.ndarray, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log-likelihood of a gene but for log x!, and its gradient in (log m, log r)."""
        mean, r = np.exp(parameters[0]) * scale, np.exp(parameters[1])
        log_rest = np.log(r) - np.log(r + mean)
        terms = gammaln(x + r) - gammaln(r) + r * log_rest + x * (np.log(mean) - np.log(r + mean))
        by_log_mean = r * (x - mean) / (r + mean)
        by_r = digamma(x + r) - digamma(r) + log_rest + (mean - x) / (r + mean)
        gradient = -np.array([by_log_mean.mean(), r * by_r.mean()])
        return -float(terms.mean()), gradient

    means = np.maximum(counts.sum(0) / scale.sum(), _MINIMUM_MEAN)
    dispersions = np.empty_like(means)
    for gene, x in enumerate(counts.T.astype(np.float64)):
        start = np.array([math.log(means[gene]), 0.0])
        bounds = [(math.log(_MINIMUM_MEAN), None), _LOG_DISPERSION]
        fitted = minimize(loss, start, args=(x,), jac=True, method="L-BFGS-B", bounds=bounds)
        means[gene], dispersions[gene] = np.exp(fitted.x)
    return means, dispersions


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


def factor_analysis_log_density(
    train: Float[np.ndarray, "n d"],
    validation: Float[np.ndarray, "v d"],
    test: Float[np.ndarray, "m d"],
    *,
    most_factors: int = 32,
) -> tuple[Float[np.ndarray, " m"], int]:
    """log N(x | c + s W z, ...) integrated over z: factor analysis of standardised columns.

    scikit-learn's `FactorAnalysis` of u = (x - c) / s, with c and s the mean and standard deviation of the
    training data; log p(x) = log p(u) - sum_i log s_i is in the columns' own units. The number of factors
    is the one of 1, 2, 3, 4, 6, 8, 12, ... whose density of the validation data is the highest.

    Args:
        train: Training data.
        validation: Validation data.
        test: Test data.
        most_factors: The largest number of factors that is tried.

    Returns:
        log p(x) of each test datum in nats, and the number of factors.
    """
    from sklearn.decomposition import FactorAnalysis
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    u, v = scaler.transform(train), scaler.transform(validation)
    tried = [k for power in range(6) for k in (2**power, 3 * 2**power // 2)]
    tried = sorted({k for k in tried if k <= min(most_factors, train.shape[1] - 1)})
    models = {k: FactorAnalysis(k, random_state=0).fit(u) for k in tried}
    best = max(models, key=lambda k: models[k].score(v))
    log_density = models[best].score_samples(scaler.transform(test))
    return log_density - np.log(np.asarray(scaler.scale_)).sum(), best
