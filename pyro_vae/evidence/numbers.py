"""Numbers of an evaluation as a person and a file have them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from pyro_vae.statistics import khat_threshold


def finite(value: float | np.floating | None) -> float | None:
    """The value as a float; None if it is not finite, or None."""
    return float(value) if value is not None and math.isfinite(value) else None


def standard_error(values: Float[np.ndarray, " n"]) -> float | None:
    """Of the mean of n values, s / sqrt(n); None for one. Not a number if one of them is infinite."""
    n = len(values)
    if n == 1:
        return None
    with np.errstate(invalid="ignore"):
        return float(values.std(ddof=1) / math.sqrt(n))


def share_above_threshold(khat: Float[np.ndarray, " n"] | None, num_samples: int) -> float | None:
    """The share of data with a k-hat above `khat_threshold`; None where there is no k-hat.

    A k-hat that is no number, as other libraries may give, vouches for nothing and counts as above.
    """
    return None if khat is None else float((~(khat <= khat_threshold(num_samples))).mean())


def precision(program: Any) -> float:
    """The spacing near 1 of numbers of the type of a program's parameters, eps of `rounding_error`."""
    types = (p.dtype for p in program.parameters() if p.is_floating_point())
    return torch.finfo(next(types, torch.get_default_dtype())).eps


def joined(parts: Iterable[np.ndarray | None], axis: int = 0) -> np.ndarray | None:
    """Arrays of chunks as one; None if one of them is not known."""
    known = list(parts)
    return None if any(part is None for part in known) else np.concatenate(known, axis)  # pyright: ignore
