"""Conversion of arrays, data frames, sparse matrices and torch data sets to `Rows`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.rows import Rows

TAKEN = (
    "a NumPy array, a tensor, a list of rows, a pandas or polars DataFrame, a SciPy sparse matrix, an "
    "AnnData, a torch or torchvision data set or DataLoader, a Dataset of pyro_vae, or a path"
)


def as_rows(data: Any, name: str = "array", *, new: bool = False) -> Rows:
    """The rows of data of any form that `fit`, `evaluate` and `embed` take.

    A data set or DataLoader of pairs has labels: `(x, y)`. Its transforms are applied once, and its order
    is kept.

    Args:
        data: A NumPy array, a tensor, a list of rows, a DataFrame of pandas or polars, a sparse matrix of
            SciPy's, an AnnData, a data set or DataLoader of torch's, or `Rows`. Not a path.
        name: What to call them in messages.
        new: Whether they are new data for a trained model, as in `table_rows`.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is empty, or its rows differ in shape.
    """
    if isinstance(data, Rows):
        return data
    if isinstance(data, np.ndarray | Tensor):
        return Rows(data, name)
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if kind in ("pandas.DataFrame", "polars.DataFrame"):
        from pyro_vae.data.tables import frame_rows

        return frame_rows(data.to_pandas() if kind[:2] == "po" else data, name=name, new=new)
    if kind == "anndata.AnnData":
        from pyro_vae.data.anndata_files import annotated_rows

        return annotated_rows(data, name=name)
    if kind.startswith("scipy.") and hasattr(data, "tocsr"):
        return Rows(data, name)
    if isinstance(data, torch.utils.data.DataLoader):
        return _from_items(_rows_of_loader(data), name)
    if isinstance(data, torch.utils.data.Dataset):
        # A Subset has a `dataset`, too, but is its own rows.
        return _from_items(data, name)
    if isinstance(data, list | tuple):
        try:
            return Rows(np.asarray(data), name)
        except ValueError as error:
            raise ValueError(
                f"the rows of {name} must have one shape: of a pair (x, labels), give x alone, or "
                "torch.utils.data.TensorDataset(x, labels)."
            ) from error
    way = ": of one row give df.iloc[[0]]" if type(data).__name__ == "Series" else ""
    raise TypeError(f"data must be {TAKEN}, got {type(data).__name__}{way}.")


def _rows_of_loader(loader: Any) -> Any:
    """The data set of a DataLoader, or the part of it that a `SubsetRandomSampler` takes.

    Raises:
        TypeError: If the loader takes other rows, or changes them.
    """
    from torch.utils import data

    plain = data.SequentialSampler | data.RandomSampler | data.SubsetRandomSampler
    known = isinstance(loader.dataset, data.IterableDataset) or (
        isinstance(loader.sampler, plain) and type(loader.batch_sampler) is data.BatchSampler
    )
    if not known or loader.collate_fn is not data.default_collate:
        raise TypeError(
            "a DataLoader with a sampler, batch_sampler or collate_fn of its own may give other rows than its "
            "data set: hand over the data set, or a torch.utils.data.Subset of it."
        )
    if isinstance(loader.sampler, data.SubsetRandomSampler):
        return data.Subset(loader.dataset, loader.sampler.indices)
    return loader.dataset


def path_rows(path: str | Path, **options: Any) -> Rows:
    """The rows of a file or folder: those of its loader in `READERS`, with its options.

    Raises:
        ValueError: If no loader reads such a path.
    """
    from pyro_vae.data import OWN_DATA, READERS, own_data

    loader = own_data(str(path))
    if loader is None:
        raise ValueError(f"data of your own must be {OWN_DATA}, got {str(path)!r}.")
    return READERS[loader](path, **options)


def _from_items(dataset: Any, name: str) -> Rows:
    """The items of a torch data set, and their labels if they are pairs."""
    arrays: list[np.ndarray] = []
    labels: list[Any] = []
    # Not iterated: a data set of torch's without __iter__ has no end.
    sized = hasattr(dataset, "__len__")
    for item in (dataset[i] for i in range(len(dataset))) if sized else dataset:
        if isinstance(item, list | tuple):
            if not 1 <= len(item) <= 2:
                raise TypeError(
                    f"items of {name} must be x, or (x, y), got {len(item)} things: hand over x alone."
                )
            labels += [_plain(label) for label in item[1:]]
            item = next(iter(item))
        arrays.append(_picture(item))
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"the rows of {name} must have one shape, got {sorted(shapes)[:3]}.")
    if not arrays:
        raise ValueError(f"{name} holds no rows.")
    return Rows(np.stack(arrays), name, labels=np.asarray(labels) if labels else None)


def _picture(item: Any) -> np.ndarray:
    """An item as an array; Pillow's images with their channels first."""
    if isinstance(item, Tensor):
        return item.numpy(force=True)
    array = np.asarray(item)
    if array.ndim == 3 and hasattr(item, "getbands"):
        array = np.moveaxis(array, -1, 0)
    return array


def _plain(label: Any) -> Any:
    return label.numpy(force=True) if isinstance(label, Tensor) else label
