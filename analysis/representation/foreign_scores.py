"""Scores of foreignness, each a number of a datum that should be larger the less it is like the data."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

# How many training codes a datum's distance is averaged over.
NEIGHBOURS = 10

# What each score is, in the order of tables.
DEFINITIONS = {
    "likelihood": "-log p(x), nats, by importance weighting",
    "typicality": "|-log p(x) - H|, nats, H the mean of -log p(x) over training data",
    "complexity_ratio": "-log p(x) - L(x), nats, L the length of x as a compressed file",
    "background_ratio": "log p_0(x) - log p(x), nats, p_0 a density of independent elements",
    "rate": "KL(q(z | x) || p(z)), nats",
    "reconstruction": "root mean square of x less the mean of p(x | z) at the code of x",
    "mahalanobis": "sqrt((c - m)' S^-1 (c - m)), c the code of x, m and S of the training codes",
    "neighbours": f"mean distance of the code of x to its {NEIGHBOURS} nearest training codes",
}
# These need a density: an autoencoder, whose guide is a point, has none of them.
OF_A_DENSITY = ("likelihood", "typicality", "complexity_ratio", "background_ratio", "rate")


@dataclass(frozen=True)
class CodeDistances:
    """How far codes are from the training codes, by two measures.

    Args:
        train: The training codes.
        most: So many of them are searched for neighbours: the first ones.

    On the sphere distances are chordal, along straight lines through it.

    References:
        A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks (Lee
        et al., 2018), https://arxiv.org/abs/1807.03888; Out-of-Distribution Detection with Deep Nearest
        Neighbors (Sun et al., 2022), https://arxiv.org/abs/2204.06507
    """

    train: Float[np.ndarray, "n latent"]
    most: int = 10_000

    def mahalanobis(self, codes: Float[np.ndarray, "m latent"]) -> Float[np.ndarray, " m"]:
        """sqrt((c - m)' S^-1 (c - m)), S shrunk towards a multiple of the identity (Ledoit & Wolf).

        0 for all if the training codes do not vary: a collapsed code says nothing.
        """
        from sklearn.covariance import LedoitWolf

        if not self.train.std(0).any():
            return np.zeros(len(codes))
        return np.sqrt(LedoitWolf().fit(self.train).mahalanobis(codes))

    def neighbours(self, codes: Float[np.ndarray, "m latent"]) -> Float[np.ndarray, " m"]:
        """The mean distance to the 10 nearest training codes, or to all if there are fewer."""
        from sklearn.neighbors import NearestNeighbors

        train = self.train[: self.most]
        search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(train)
        return search.kneighbors(codes)[0].mean(1)


def reconstruction_error(
    x: Real[np.ndarray, " n *event"],
    means: Float[np.ndarray, " n *event"],
    *,
    counts: bool = False,
    given_total: bool = False,
) -> Float[np.ndarray, " n"]:
    """sqrt(mean_i (x_i - m_i)^2), of counts after log(1 + .).

    Args:
        x: The data.
        means: The mean of p(x | z) at the code of each.
        counts: Whether they are counts.
        given_total: Whether means are to be scaled to the total of the datum, as a multinomial's are.
    """
    flat, fitted = (a.reshape(len(a), -1).astype(np.float64) for a in (x, means))
    if given_total:
        fitted = fitted * (flat.sum(1) / np.maximum(fitted.sum(1), 1e-12))[:, None]
    if counts:
        flat, fitted = np.log1p(flat), np.log1p(np.maximum(fitted, 0))
    return np.sqrt(((flat - fitted) ** 2).mean(1))
