"""Values that JSON can hold."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def to_jsonable(value: Any) -> Any:
    """Convert arrays and tensors to lists, keys to strings, and NaN and infinity to None.

    >>> to_jsonable({"elbo": np.float32(1.5), 3: [math.nan, np.arange(2)]})
    {'elbo': 1.5, '3': [None, [0, 1]]}
    """
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return to_jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
