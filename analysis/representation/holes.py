"""Where the prior puts codes and the data put none, and the other way about."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.predictive.model_samples import (
    device_of,
    guide_blocks,
    has_density,
    mean_data,
    new_data,
    to_array,
)
from analysis.representation.classifier_two_sample import told_apart
from analysis.representation.holes_reading import EDGE, Holes, Normal
from analysis.representation.latent_space import (
    check_codes,
    continuous_support,
)
from pyro_vae.rng import derive_seed

# The decoded means of so many draws are compared at most, and so many elements of them held.
DECODED = 1000
_ELEMENTS = 2**25
# So many draws of each kind are drawn in a picture as decoded data, and as points.
SHOWN, POINTS = 10, 1000


def holes(
    vae: Any, x_train: Real[Tensor, " n *event"], *, num_draws: int = 2000, seed: int = 0
) -> Holes:
    """Do z ~ q(z) = 1/N sum_j q(z | x_j) and z ~ p(z) lie in the same places?

    One z is drawn for each of `num_draws` training data, chosen at random, and as many from the prior.
    A prior draw lies in a hole if the nearest aggregate draw is further away than for 99 % of
    aggregate draws themselves. Its decoded mean is strange if it is as far from all those of aggregate
    draws: only then has the hole a price. Of all this an autoencoder has the same as a VAE, with its
    points for draws. How far q(z) and p(z) are apart in nats is in `aggregate_posterior.decompose_rate`,
    as the marginal KL.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `decode(z)` and one latent site.
        x_train: Training data, in the likelihood's support.
        num_draws: How many draws of either; no more than data.
        seed: The seed of the data and of all draws.

    Raises:
        UndefinedCheckError: If there are several latent sites, or codes are one-hot.
        ValueError: If there are fewer than 40 data or draws, or draws that are not finite.

    References:
        Resampled Priors for Variational Autoencoders (Bauer & Mnih, 2019),
        https://arxiv.org/abs/1810.11428 (holes); From Variational to Deterministic Autoencoders
        (Ghosh, Sajjadi, Vergari, Black & Schölkopf, 2020), https://arxiv.org/abs/1903.12436 (a
        density fitted to the codes afterwards)
    """
    support = continuous_support(vae)
    draws = min(num_draws, len(x_train))
    if draws < 40:
        raise ValueError(f"at least 40 data and draws are needed, got {draws}.")
    rows = np.random.default_rng(derive_seed(seed, "training data")).permutation(len(x_train))
    x = x_train[torch.as_tensor(rows[:draws], device=x_train.device)].to(device_of(vae))
    parts = [to_array(terms.draws[0][0]) for _, terms in guide_blocks(vae, x, 1, seed=seed)]
    aggregate = np.concatenate(parts).reshape(draws, -1).astype(np.float64)
    prior = new_data(vae, x[:1], draws, seed=seed).z.reshape(draws, -1).astype(np.float64)
    check_codes(aggregate, 40)
    check_codes(prior, 40)
    trained = has_density(vae, x)
    return compared(
        aggregate,
        prior,
        decode=lambda z: mean_data(vae, z),
        trained=trained,
        fit_normal=support == "real" and not trained,
        seed=seed,
    )


def compared(
    aggregate: Float[np.ndarray, "n latent"],
    prior: Float[np.ndarray, "n latent"],
    *,
    decode: Any = None,
    trained: bool = True,
    fit_normal: bool = False,
    seed: int = 0,
) -> Holes:
    """The same, of draws that are given.

    Args:
        aggregate: Draws of q(z), each of another datum.
        prior: As many draws of p(z).
        decode: Gives the means of p(x | z); without it nothing is said of decoded data.
        trained: Whether the prior was part of what trained the program.
        fit_normal: Whether to put a normal distribution, fitted to half of the aggregate draws, in the
            prior's place as well, and compare it with the other half.
        seed: The seed of the classifiers and of that normal's draws.
    """
    own, other = nearest_others(aggregate), nearest(prior, aggregate)
    edge = float(np.quantile(own, EDGE))
    prior_edge = float(np.quantile(nearest_others(prior), EDGE))
    in_hole = other > edge
    strange = shown = None
    if decode is not None:
        strange, shown = _decoded(aggregate, prior, in_hole, other, decode)
    return Holes(
        apart=told_apart(aggregate, prior, seed=seed),
        own_distance=own,
        prior_distance=other,
        edge=edge,
        uncovered=nearest(aggregate, prior) > prior_edge,
        strange=strange,
        trained=trained,
        normal=_fitted(aggregate, seed) if fit_normal else None,
        aggregate=aggregate[:POINTS],
        prior=prior[:POINTS],
        shown=shown,
    )


def nearest(
    points: Float[np.ndarray, "n dim"], among: Float[np.ndarray, "m dim"]
) -> Float[np.ndarray, " n"]:
    """The distance of each point to the nearest of others."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(among).kneighbors(points)[0][:, 0]


def nearest_others(points: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, " n"]:
    """The distance of each point to the nearest other."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(points).kneighbors()[0][:, 0]


def _decoded(
    aggregate: np.ndarray, prior: np.ndarray, in_hole: np.ndarray, other: np.ndarray, decode: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Which decoded prior draws are far from all decoded aggregate draws, and a few for a picture."""
    elements = decode(prior[:1]).size
    some = max(100, min(DECODED, _ELEMENTS // elements))
    means = {name: decode(z[:some]) for name, z in (("data", aggregate), ("prior", prior))}
    flat = {name: m.reshape(len(m), -1).astype(np.float32) for name, m in means.items()}
    edge = np.quantile(nearest_others(flat["data"]), EDGE)
    strange = nearest(flat["prior"], flat["data"]) > edge
    hole = np.flatnonzero(in_hole)
    hole = hole[np.argsort(-other[hole])][:SHOWN]
    solid = np.flatnonzero(~in_hole)[:SHOWN]
    shown = {
        "codes of data": means["data"][:SHOWN],
        "prior, no hole": decode(prior[solid]) if len(solid) else means["prior"][:0],
        "prior, deepest holes": decode(prior[hole]) if len(hole) else means["prior"][:0],
    }
    return strange, shown


def _fitted(aggregate: np.ndarray, seed: int) -> Normal:
    """N(m, S) of one half of the draws, against the other half."""
    half = len(aggregate) // 2
    first, second = aggregate[:half], aggregate[half:]
    rng = np.random.default_rng(derive_seed(seed, "a normal for the codes"))
    covariance = np.cov(first.T).reshape(first.shape[1], first.shape[1])
    drawn = rng.multivariate_normal(first.mean(0), covariance, len(second))
    edge = np.quantile(nearest_others(second), EDGE)
    share = float((nearest(drawn, second) > edge).mean())
    return Normal(share, told_apart(second, drawn, seed=seed).best)
