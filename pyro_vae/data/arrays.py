"""The user's own data: a `.npy` or `.npz` file."""

import os
from pathlib import Path

import numpy as np

from pyro_vae.data.dataset import SPLITS, Dataset, Support

_LABELS = {split: f"{split}_labels" for split in SPLITS}


def array_file(
    path: str | Path, levels: int | None = None, support: Support | None = None
) -> Dataset:
    """Data from a NumPy file, `.npy` or `.npz`.

    One array, alone or named `x` with its labels `y`, is split as in `Dataset.from_array`. Arrays
    named `train`, `test` and perhaps `validation` (otherwise the last tenth of `train`) are taken as
    they are, with perhaps `train_labels`, `validation_labels` and `test_labels`.

    Args:
        path: The file.
        levels: The number of levels of integers 0, ..., levels - 1. Without, uint8 has 256 and other
            integers are counts.
        support: What the values are, where they do not say it themselves: binary, integers, counts,
            unit or real.

    Raises:
        ValueError: If the file cannot be read, its arrays' names, types, shapes or values are not
            what a data set can be made of, or it takes a guess what the values are.
    """
    path = Path(path)
    arrays = _read(path)
    names = set(arrays)
    try:
        if len(names) == 1:
            (array,) = arrays.values()
            return Dataset.from_array(array, levels=levels, support=support, name=path.stem)
        if names == {"x", "y"}:
            return Dataset.from_array(
                arrays["x"], labels=arrays["y"], levels=levels, support=support, name=path.stem
            )
        if not {"train", "test"} <= names <= {*SPLITS, *_LABELS.values()}:
            raise ValueError(
                f"found arrays named {', '.join(sorted(names)) or '(none)'}; allowed are one array, "
                f"x and y, or train and test with perhaps validation, {', '.join(_LABELS.values())}."
            )
        return Dataset.from_splits(
            {split: arrays[split] for split in SPLITS if split in names},
            labels={split: arrays[name] for split, name in _LABELS.items() if name in names},
            levels=levels,
            support=support,
            name=path.stem,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays by name."""
    # os.path takes any text for a path, however long; a Path's own is_file raises.
    if not os.path.isfile(path):
        raise ValueError(f"{path} must be a .npy or .npz file, but there is no such file.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty.")
    try:
        # Opened here, because NumPy leaves a file that it finds damaged open.
        with path.open("rb") as file:
            # No pickles: loading one would run its code.
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            return {name: loaded[name] for name in loaded.files}
    # NumPy, zipfile and zlib raise a dozen types between them for damaged files.
    except Exception as error:
        raise ValueError(
            f"{path} must be a .npy or .npz file that NumPy reads without pickles, but is damaged or "
            f"something else ({error})."
        ) from error
