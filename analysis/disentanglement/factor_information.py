"""How much each coordinate of the code tells of each factor of the data."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

# Codes are cut at quantiles into so many classes, and chance is the mean of so many permutations.
_CLASSES = 20
_PERMUTATIONS = 5


def factor_information(
    codes: Float[np.ndarray, "n latent"],
    factors: Int[np.ndarray, " n *factors"],
    names: Sequence[str] = (),
    *,
    seed: int = 0,
) -> list[dict[str, float]]:
    """(I(z_j; v_k) - c) / (H(v_k) - c): what share of each factor's entropy each coordinate tells.

    The coordinate is cut into 20 classes of equal size. The chance c is the mean of I over 5 permutations
    of the factor: what so few data and so many classes give where there is nothing.

    Args:
        codes: The embedded data.
        factors: The factors, or one label, of each datum.
        names: What the factors are called.
        seed: Of the permutations.

    Returns:
        A dictionary by factor for each coordinate. 1: the coordinate tells the factor; 0: nothing, or the
        factor is constant.
    """
    from sklearn.metrics import mutual_info_score

    columns = factors.reshape(len(factors), -1)
    if len(names) != columns.shape[1]:
        names = [f"factor {k}" for k in range(columns.shape[1])] if factors.ndim > 1 else ["label"]
    rng = np.random.default_rng(seed)
    edges = np.quantile(codes, np.arange(1, _CLASSES) / _CLASSES, axis=0)
    found = []
    for j in range(codes.shape[1]):
        told = {}
        classes = np.searchsorted(edges[:, j], codes[:, j])
        for name, column in zip(names, columns.T, strict=True):
            chance = np.mean(
                [mutual_info_score(classes, rng.permutation(column)) for _ in range(_PERMUTATIONS)]
            )
            entropy = mutual_info_score(column, column)
            share = (mutual_info_score(classes, column) - chance) / max(entropy - chance, 1e-12)
            told[name] = float(np.clip(share, 0, 1)) if entropy > 0 else 0.0
        found.append(told)
    return found
