"""Several p-values at once, and how they are written."""

import numpy as np
from jaxtyping import Float, Int


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The p-values adjusted for their number: below a, the hypothesis is rejected at family-wise a.

    >>> holm(np.array([0.01, 0.04, 0.03, 0.5]))
    array([0.04, 0.09, 0.09, 0.5 ])

    References:
        A simple sequentially rejective multiple test procedure (Holm, 1979),
        https://www.jstor.org/stable/4615733
    """
    order: Int[np.ndarray, " n"] = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def p_text(p_value: float) -> str:
    """As it is written after "p".

    >>> p_text(0.00004), p_text(0.25)
    ('< 0.001', '= 0.250')
    """
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
