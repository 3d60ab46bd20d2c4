"""Values from outside that NetCDF and Zarr can hold: constants, coordinates and attributes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.inference_data.names import storable_name


def storable(values: ArrayLike, what: str) -> np.ndarray:
    """Values as an array of numbers, strings or times.

    Args:
        values: The values.
        what: What they are, for the message.

    Raises:
        ValueError: If they are anything else.
    """
    array = np.asarray(values)
    if array.dtype == object:
        kinds = {type(value) for value in array.flat}
        numbers = (bool, int, float, np.number, np.bool_)
        if all(issubclass(kind, str) for kind in kinds):
            return array.astype(str)
        if all(issubclass(kind, numbers) for kind in kinds):
            # Integers beyond 64 bits stay objects.
            array = np.array(array.tolist())
    if array.dtype.kind not in "biufUSMm":
        held = sorted({type(value).__name__ for value in array.flat}) if array.size else []
        raise ValueError(
            f"{what} must be numbers, strings or times, which files can hold, got "
            f"{' and '.join(held) or array.dtype}: convert them, missing strings to ''."
        )
    return array


def storable_constants(constants: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """The variables of `constant_data`, under names that a file can hold.

    Raises:
        ValueError: If a name or its values cannot be stored.
    """
    return {
        storable_name(name, "variable of constant_data"): storable(
            values, f"constant_data of {name!r}"
        )
        for name, values in constants.items()
    }


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Make sure that attributes are strings, numbers or lists of one of these.

    Raises:
        ValueError: If one is not.
    """
    for name, value in attributes.items():
        storable_name(name, "attribute")
        if isinstance(value, (bool, np.bool_)) or np.asarray(value).dtype.kind not in "iufU":
            raise ValueError(
                f"attrs of {name!r} must be a string, a number or a list of these, got {value!r}: "
                "give options in `configuration`, which is stored as JSON."
            )
