"""The version, and whether a file is of a newer one."""

import re
from typing import Any

__version__ = "0.2.0"


def check_version(version: Any, path: object) -> None:
    """Check that a file was not written by a version that may write other things than this one.

    Versions that differ in their third number read one another's files.

    Args:
        version: The version in the file; None in those of 0.1.
        path: The file.

    Raises:
        ValueError: If it is newer than this version, or not a version.
    """
    if version is None:
        return
    numbers = (
        re.match(r"(\d{1,6})\.(\d{1,6})(?!\d)", version) if isinstance(version, str) else None
    )
    if numbers is None:
        raise ValueError(f"the version in {path} must be one such as 0.2.0, got {version!r}.")
    own = __version__.split(".")
    if (int(numbers[1]), int(numbers[2])) > (int(own[0]), int(own[1])):
        raise ValueError(
            f"{path} was written by pyro_vae {version}, which is newer than this one, "
            f"{__version__}: upgrade pyro_vae to read it."
        )
