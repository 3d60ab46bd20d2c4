"""Adjustment and formatting of p-values."""

import numpy as np
from jaxtyping import Float


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """P-values adjusted by Holm's method, to compare with the family-wise level.

    >>> holm(np.array([0.01, 0.04, 0.03, 0.5]))
    array([0.04, 0.09, 0.09, 0.5 ])

    References:
        A simple sequentially rejective multiple test procedure (Holm, 1979),
        https://www.jstor.org/stable/4615733
    """
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def p_text(p_value: float) -> str:
    """The text after "p".

    >>> p_text(0.00004), p_text(0.25)
    ('< 0.001', '= 0.250')
    """
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
