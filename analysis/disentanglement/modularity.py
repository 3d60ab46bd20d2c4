"""Modularity: does each coordinate know of one factor only?"""

import numpy as np
from jaxtyping import Bool, Float

from analysis.check import UndefinedCheckError


def modularity(nats: Float[np.ndarray, "dim factors"]) -> Float[np.ndarray, " dim"]:
    """1 - sum_{j != j*} I_ij^2 / (I_ij*^2 (k - 1)) for each coordinate i, j* its best of k factors.

    Args:
        nats: I(z_i; v_j), in any unit.

    Returns:
        1 for a coordinate that knows of one factor only, 0 for one that knows equally much of all,
        and 0 for one that knows of none, as google-research/disentanglement_lib has it. An estimate
        of I is never quite 0, so a coordinate of noise gets any value: see `mean_modularity`.

    Raises:
        UndefinedCheckError: If there is one factor only.

    References:
        Learning Deep Disentangled Embeddings With the F-Statistic Loss (Ridgeway & Mozer, 2018),
        section 3, https://arxiv.org/abs/1802.05312
    """
    if nats.shape[1] < 2:
        raise UndefinedCheckError("modularity takes at least 2 factors that vary, got 1.")
    squares = nats**2
    best = squares.max(1)
    others = squares.sum(1) - best
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(best > 0, 1 - others / (best * (nats.shape[1] - 1)), 0.0)


def mean_modularity(
    nats: Float[np.ndarray, "dim factors"], informative: Bool[np.ndarray, " dim"]
) -> float:
    """The mean over coordinates that know of some factor, and 0 if none does.

    The published comparison counts all d coordinates: its number is this one times d' / d where the
    others are constant, d' of them informative, and anything where they are noise. A coordinate
    that holds several factors lowers it; a factor that is held by several coordinates does not. As
    information is squared, it is lenient: dSprites' five factors, rotated at random in five
    coordinates, still have about 0.9.

    Args:
        nats: I(z_i; v_j).
        informative: Which coordinates count, see `Information.informative`.
    """
    kept = modularity(nats)[informative]
    return float(kept.mean()) if len(kept) else 0.0
