"""Statistics of importance weights, embeddings and results in float64, many examples at once.

Importance weights are w_s = p(x, z_s) / q(z_s | x) with z_s ~ q(z | x). They are given as
logarithms, with draws on axis 0 and examples on axis 1. All functions compute in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Real

from pyro_vae.notebooks import SummaryTable

# The fewest draws with a tail of five, which a Pareto distribution can be fitted to.
MINIMUM_SAMPLES = 25

# A latent dimension is active if the variance of its posterior mean over examples is larger.
ACTIVE_VARIANCE = 0.01

# Log weights this close are equal up to float32 rounding: in nats, and as a share of their size.
EQUAL_NATS = 1e-3
EQUAL_SHARE = 1e-6

# If at most this fraction of the tail weights are distinct, the latent is treated as discrete.
MOST_TIED_VALUES = 0.25

# A larger error of a log weight, in nats, changes the weight by more than a tenth: k-hat,
# effective sample sizes and differences between models would then be dominated by rounding errors.
LARGEST_ROUNDING = 0.1

# With a larger share of examples with larger rounding errors, no verdict is given.
MOST_UNRESOLVED = 0.1

# As a share of the largest weight. Division by less overflows.
SMALLEST_QUARTILE = 1e-306


def log_mean_exp(
    log_weights: Real[np.ndarray, "num_samples batch"],
) -> Float[np.ndarray, " batch"]:
    """log 1/S sum_s w_s for each example, in nats: the importance-weighted estimate of log p(x).

    Its expectation is at most log p(x) and grows with S. With S = 1 it is the one-sample ELBO.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    from scipy.special import logsumexp

    log_weights = np.asarray(log_weights, np.float64)
    return np.asarray(logsumexp(log_weights, axis=0)) - math.log(len(log_weights))


def effective_sample_size(
    log_weights: Real[np.ndarray, "num_samples batch"],
) -> Float[np.ndarray, " batch"]:
    """(sum_s w_s)^2 / sum_s w_s^2 for each example: the equivalent number of equal weights.

    It is between 1, if one draw outweighs all others, and S, if all weights are equal; 0 if a
    weight is NaN or infinite, or all are zero. A small value is a bad sign, but a large one is no
    proof: draws that miss a mode of p(z | x) have equal weights. Use it together with k-hat.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013), section 9.3,
        https://artowen.su.domains/mc/
    """
    log_weights, usable = _usable(log_weights)
    weights = np.exp(log_weights - log_weights.max(0))
    return np.where(usable, weights.sum(0) ** 2 / (weights**2).sum(0), 0.0)


def pareto_khat(log_weights: Real[np.ndarray, "num_samples batch"]) -> Float[np.ndarray, " batch"]:
    """The shape k of a generalised Pareto distribution fitted to each example's largest weights.

    Weights with k-hat = k have finite moments up to order 1 / k. Below `khat_threshold` the
    estimate of log p(x) and its error can be trusted; between there and 1 convergence is too slow
    to be useful; above 1 the mean weight may not exist. Two values are not fits: -inf if the
    largest weights are equal (an exact posterior, a collapsed latent), which is good; +inf if a
    weight is NaN or infinite, all are zero, or a few outweigh the rest beyond float64.

    A discrete code has few distinct weights, and no tail for a continuous distribution to be
    fitted to. If more than a quarter of the tail is tied at its start, the fit divides by zero
    (ArviZ returns 5 / (tail + 10), or NaN, whatever the weights); if at most a quarter of the tail
    weights are distinct, the fit reflects their spacing and rejects guides that are almost exact.
    k-hat is then 1 + log(max_s w_s / sum_s w_s) / log S: the k at which the largest of S Pareto
    weights is about this share of their sum. It is 0 for equal weights, 1 for a single one, and at
    the threshold if one draw is a tenth of the sum (of 2,000 draws or fewer).

    A guide much wider than p(z | x) has bounded weights and a k below 0, and scores well with
    enough draws; with too few, its k-hat is high as well. Use it together with
    `effective_sample_size`.

    Args:
        log_weights: Log importance weights in nats; -inf, a weight of zero, is fine.

    Raises:
        ValueError: If there are fewer than 25 draws.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646
    """
    from scipy.special import logsumexp

    num_samples = len(log_weights)
    if num_samples < MINIMUM_SAMPLES:
        raise ValueError(f"pareto_khat needs at least {MINIMUM_SAMPLES} draws, got {num_samples}.")
    all_weights, usable = _usable(log_weights)
    tail = tail_length(num_samples)
    quartile = _first_quartile(tail)
    # The tail, preceded by the next smaller weight, from which exceedances are measured.
    log_weights = np.sort(np.partition(all_weights, -tail - 1, axis=0)[-tail - 1 :], axis=0)
    smallest, largest = log_weights[1], log_weights[-1]
    equal = largest - smallest <= EQUAL_NATS + EQUAL_SHARE * np.abs(largest)

    with np.errstate(invalid="ignore"):  # Between two weights of zero.
        steps = np.diff(log_weights, axis=0) > EQUAL_SHARE * np.abs(log_weights[1:])
    tied = ~steps[: quartile + 1].any(0) | (steps[1:].sum(0) + 1 <= MOST_TIED_VALUES * tail)
    tied &= usable & ~equal

    weights = np.exp(log_weights - largest)
    exceedances = weights[1:] - weights[0]
    # The fit divides by the first quartile: if that is almost 0, the tail is a few huge weights.
    fits = usable & ~equal & ~tied & (exceedances[quartile] > SMALLEST_QUARTILE)
    khat = np.where(usable & equal, -np.inf, np.inf)
    khat[fits] = _generalised_pareto_shape(exceedances[:, fits])
    share = largest[tied] - logsumexp(all_weights[:, tied], axis=0)
    khat[tied] = 1 + share / math.log(num_samples)
    return khat


def khat_threshold(num_samples: int) -> float:
    """min(1 - 1 / log10 S, 0.7): above this k-hat, S draws are too few.

    Raises:
        ValueError: If there are fewer than 25 draws, too few for a k-hat.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), section 3.2.4,
        https://arxiv.org/abs/1507.02646
    """
    if num_samples < MINIMUM_SAMPLES:
        raise ValueError(f"num_samples must be at least {MINIMUM_SAMPLES}, got {num_samples}.")
    return min(1 - 1 / math.log10(num_samples), 0.7)


def rounding_error(
    *terms: Real[np.ndarray, "*shape"], eps: float = float(np.finfo(np.float32).eps)
) -> Float[np.ndarray, "*shape"]:
    """eps sum_i |t_i|, in nats: about the error of a sum of log densities t_i in precision eps.

    In float32, a log density of 1e7 nats is rounded to a whole nat. Compared with float64, for
    normal and Bernoulli log densities of 4 to 20,000 elements from 10 to 1e12 nats, the error's
    standard deviation over draws is half of this and the largest of 1,600 is 1.6 times as large:
    the sum over elements is pairwise, and adds little. It is too small if large elements cancel.

    Args:
        *terms: log p(x | z), log p(z) and log q(z | x), or a sum such as log p(x).
        eps: The machine epsilon of the type of the computation; float32's by default.

    References:
        Accuracy and Stability of Numerical Algorithms (Higham, 2002), section 4.2,
        https://doi.org/10.1137/1.9780898718027
    """
    return np.asarray(eps * sum(np.abs(np.asarray(term, np.float64)) for term in terms))


def withheld(rounding: Real[np.ndarray, " n"], size: Real[np.ndarray, " n"]) -> str | None:
    """Why differences of log densities allow no verdict; None if rounding errors are small.

    They are small if at most 10 % of the examples have a rounding error above 0.1 nats. Values
    that are not finite are left to the caller.

    Args:
        rounding: The rounding error of each example's log weight in nats, as by `rounding_error`.
        size: Each example's log density in nats, such as log p(x).

    >>> withheld(np.array([0.01]), np.array([-1e5])) is None
    True
    """
    large = rounding > LARGEST_ROUNDING
    if not large.any() or large.mean() <= MOST_UNRESOLVED:
        return None
    error, log_density = float(np.median(rounding[large])), float(np.median(np.abs(size[large])))
    return (
        f"Withheld: log densities of about {log_density:.0e} nats have rounding errors of about "
        f"{error:,.1f} nats, for {large.mean():.0%} of the data, and a verdict needs errors of at "
        f"most {LARGEST_ROUNDING}; train on standardised data (--data.scale standard), or compute "
        "in float64."
    )


def unit_activity(embeddings: Real[np.ndarray, "n latent"]) -> Float[np.ndarray, " latent"]:
    """Var_x(E_q[z_j | x]): the variance over examples of each latent dimension's posterior mean.

    At zero the guide ignores x in this dimension: the unit is collapsed.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 5.2,
        https://arxiv.org/abs/1509.00519
    """
    return np.asarray(embeddings, np.float64).var(0)


def active_units(embeddings: Real[np.ndarray, "n latent"]) -> int:
    """The number of latent dimensions in use: `unit_activity` above 0.01.

    >>> active_units(np.array([[-1.0, 0.0], [1.0, 0.1]]))
    1
    """
    return int((unit_activity(embeddings) > ACTIVE_VARIANCE).sum())


def _usable(
    log_weights: Real[np.ndarray, "num_samples batch"],
) -> tuple[Float[np.ndarray, "num_samples batch"], np.ndarray]:
    """The log weights, with zeros for examples without a finite estimate, and which have one."""
    log_weights = np.asarray(log_weights, np.float64)
    usable = np.isfinite(log_weights.max(0))  # A NaN is a maximum, too.
    return np.where(usable, log_weights, 0.0), usable


def tail_length(num_samples: int) -> int:
    """The number of largest weights in the tail: min(S / 5, 3 sqrt(S))."""
    return int(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def _first_quartile(n: int) -> int:
    """The index of the first quartile of n sorted values."""
    return int(n / 4 + 0.5) - 1


def _generalised_pareto_shape(
    exceedances: Float[np.ndarray, "tail batch"],
) -> Float[np.ndarray, " batch"]:
    """The shape k of the density (1 + k y / sigma)^(-1 / k - 1) / sigma, y sorted and at least 0.

    An empirical Bayes estimate: with theta = -k / sigma, the likelihood maximised over k is a
    profile in theta alone. Its mean over a grid from a prior with the scale of y gives theta; k is
    mean log(1 - theta y). As in PSIS, a prior with the weight of ten draws then shrinks k to 1/2,
    which stabilises short tails.

    References:
        A New and Efficient Estimation Method for the Generalized Pareto Distribution (Zhang &
        Stephens, 2009), https://doi.org/10.1198/tech.2009.08017; the last step: Pareto Smoothed
        Importance Sampling (Vehtari et al., 2024), appendix G
    """
    from scipy.special import logsumexp

    n = len(exceedances)
    size = 30 + int(math.sqrt(n))
    grid = 1 - np.sqrt(size / (np.arange(size)[:, None] + 0.5))
    theta = grid / (3 * exceedances[_first_quartile(n)]) + 1 / exceedances[-1]
    # One grid point at a time, as all together would need `size` times the memory of the tails.
    k = np.stack([np.log1p(-value * exceedances).mean(0) for value in theta])
    log_profile = n * (np.log(-theta / k) - k - 1)
    weights = np.exp(log_profile - logsumexp(log_profile, axis=0))
    weights[weights < 10 * np.finfo(np.float64).eps] = 0
    theta = (theta * weights).sum(0) / weights.sum(0)
    k = np.log1p(-theta * exceedances).mean(0)
    return (n * k + 10 * 0.5) / (n + 10)


# ---- results for many examples -----------------------------------------------------------------


def standard_error(values: Float[np.ndarray, " n"]) -> float | None:
    """The standard error s / sqrt(n) of a mean; None for one value, NaN if a value is infinite."""
    n = len(values)
    if n == 1:
        return None
    with np.errstate(invalid="ignore"):
        return float(values.std(ddof=1) / math.sqrt(n))


def share_above_threshold(khat: Float[np.ndarray, " n"] | None, num_samples: int) -> float | None:
    """The share of examples with a k-hat above `khat_threshold`; None without a k-hat.

    NaN k-hats, which some libraries return, count as above the threshold.
    """
    return None if khat is None else float((~(khat <= khat_threshold(num_samples))).mean())


def machine_epsilon(program: Any) -> float:
    """The machine epsilon of a program's parameters, `eps` of `rounding_error`."""
    types = (p.dtype for p in program.parameters() if p.is_floating_point())
    return torch.finfo(next(types, torch.get_default_dtype())).eps


class PerExample(SummaryTable):
    """A dataclass of arrays, whose last axis is the examples, and of values common to all."""

    # Names of arrays that do not depend on the examples.
    _common_arrays: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def concatenate(cls, results: Sequence[Any]) -> Any:
        """The result for several disjoint parts of the data, in order.

        An array that is None in one of them is None in the whole.

        Raises:
            ValueError: If there are no results, or other fields than arrays differ.
        """
        if not results:
            raise ValueError("there are no results to concatenate.")
        names = [field.name for field in fields(cls)]  # pyright: ignore[reportArgumentType]
        columns: dict[str, list[Any]] = {n: [getattr(r, n) for r in results] for n in names}
        whole: dict[str, Any] = {}
        # Common values first, as the shapes of arrays depend on them.
        for name, parts in columns.items():
            if not any(isinstance(part, np.ndarray) for part in parts):
                if len(set(parts)) > 1:
                    raise ValueError(f"results must have one {name}, got {sorted(set(parts))}.")
                whole[name] = parts[0]
        for name in columns.keys() - whole.keys():
            parts = columns[name]
            if name in cls._common_arrays:
                whole[name] = parts[0]
            else:
                missing = any(part is None for part in parts)
                whole[name] = None if missing else np.concatenate(parts, axis=-1)
        return cls(**whole)
