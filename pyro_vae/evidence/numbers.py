"""Finite numbers of summaries."""

import math

import numpy as np


def finite(value: float | np.floating | None) -> float | None:
    """The value as a float; None if it is not finite, or None."""
    return float(value) if value is not None and math.isfinite(value) else None
