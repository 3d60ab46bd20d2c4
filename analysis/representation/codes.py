"""Codes of data: with labels, as classifiers take them, in balanced draws, and as files."""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from torch import Tensor

from analysis.model_samples import embed_data
from analysis.result import UndefinedCheckError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LabelledCodes:
    """Codes, or the data themselves as vectors, with a label for each.

    Args:
        codes: One row per example.
        labels: Class labels, from 0.
    """

    codes: Float[np.ndarray, "n dim"]
    labels: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: Int[np.ndarray, " rows"]) -> "LabelledCodes":
        """The given rows."""
        return LabelledCodes(self.codes[rows], self.labels[rows])


def labelled_codes(
    vae: Any, x: Real[Tensor, " n *event"], labels: Int[Tensor, " n"]
) -> LabelledCodes:
    """Embed data and attach their labels.

    Args:
        vae: A program with `embed(x)`.
        x: Data in the likelihood's support, on the program's device.
        labels: One label per example.

    Raises:
        ValueError: If the numbers of data and labels differ.
    """
    if len(x) != len(labels):
        raise ValueError(
            f"each example needs a label, got {len(x)} data and {len(labels)} labels."
        )
    return LabelledCodes(embed_data(vae, x), labels.cpu().numpy().astype(np.int64))


def class_labels(
    labels: np.ndarray | None, name: str
) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Rows that have a label, or a first factor, and their labels.

    Raises:
        UndefinedCheckError: If there are none, labels are not classes, or all are the same.
    """
    if labels is None:
        raise UndefinedCheckError(f"{name} have no labels.")
    if labels.dtype.kind == "f":
        raise UndefinedCheckError(
            f"the labels of {name} are floats, a numeric target: classifiers need classes, given "
            "as words or whole numbers."
        )
    first = labels[:, 0] if labels.ndim == 2 else labels
    rows = np.flatnonzero(first >= 0)
    if len(rows) == 0:
        raise UndefinedCheckError(f"none of {name} has a label.")
    if len(np.unique(first[rows])) < 2:
        raise UndefinedCheckError(f"all of {name} have the same label.")
    return rows, first[rows].astype(np.int64)


def complete_factors(
    labels: np.ndarray | None,
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, "m factors"]]:
    """Rows that have all factors, and their factors.

    Raises:
        UndefinedCheckError: If there are no factors, or they are not whole numbers.
    """
    if labels is None or labels.ndim != 2:
        raise UndefinedCheckError("the data have no factors of variation.")
    if labels.dtype.kind == "f":
        raise UndefinedCheckError(
            "the factors of variation are floats: the scores need whole numbers."
        )
    rows = np.flatnonzero((labels >= 0).all(1))
    if len(rows) == 0:
        raise UndefinedCheckError("no row of the data has all factors of variation.")
    return rows, labels[rows].astype(np.int64)


def check_sizes(sizes: Sequence[int | None], repeats: int) -> None:
    """Validate numbers of labels and of draws.

    Raises:
        ValueError: If there are no sizes, one is below 2, or `repeats` is below 1.
    """
    if not sizes or any(size is not None and size < 2 for size in sizes):
        raise ValueError(f"sizes must be at least one, each 2 or more or None, got {sizes}.")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")


def balanced_rows(
    labels: Int[np.ndarray, " n"], size: int, *, seed: int, repeat: int = 0
) -> Int[np.ndarray, " size"]:
    """Draw rows at random, with class counts as equal as possible.

    Classes take turns in random order until the draw is full; an exhausted class is skipped. The
    first rows of a draw are therefore balanced as well.

    Args:
        labels: Labels of the data to draw from.
        size: The number of rows to draw.
        seed: The seed of all draws.
        repeat: The index of the draw; draws are independent.

    Raises:
        ValueError: If there are fewer data than `size`.
    """
    if not 1 <= size <= len(labels):
        raise ValueError(f"size must be from 1 to the {len(labels)} data, got {size}.")
    generator = np.random.default_rng((seed, size, repeat))
    shuffled = generator.permutation(len(labels))
    turn, codes, counts = _turns(labels[shuffled])
    order = np.lexsort((generator.permutation(len(counts))[codes], turn))
    return shuffled[order[:size]]


def held_out_rows(labels: Int[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"] | None:
    """Mark labels to hold out: the last of each class in proportion, never its only one.

    Args:
        labels: In random order within each class.
        share: The fraction of all labels to hold out; at least one label is.

    Returns:
        A mask; None if holding out that many would leave a class without a label.
    """
    wanted = max(1, round(share * len(labels)))
    turn, codes, counts = _turns(labels)
    if (turn > 0).sum() < wanted:
        return None
    # The last of each class come first; among equals, the last drawn.
    place = np.where(turn > 0, (turn + 1) / counts[codes], -1.0)
    held_out = np.zeros(len(labels), bool)
    held_out[np.lexsort((-np.arange(len(labels)), -place))[:wanted]] = True
    return held_out


def _turns(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rank of each label within its class, its class, and the class counts."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)
    for k, count in enumerate(counts):
        turn[codes == k] = np.arange(count)
    return turn, codes, counts


def spread(values: Float[np.ndarray, " draws"]) -> float | None:
    """The standard deviation over draws; None for a single draw."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def with_error(value: float, error: float | None, form: str = ".3f") -> str:
    """A number and its standard error or spread, as text.

    >>> with_error(0.5, 0.01), with_error(0.5, None, ".1%")
    ('0.500 ± 0.010', '50.0%')
    """
    return f"{value:{form}}" if error is None else f"{value:{form}} ± {error:{form.lstrip('+')}}"


@dataclass(frozen=True)
class Codes:
    """The code of each example and what is known about the example, to be written to a file.

    Args:
        codes: One row per example.
        split: The split of each example: train, validation or test.
        row: Its row in the array or file that was split, or else in its split.
        row_names: The name of each row of the file, if rows are named.
        metadata: The run and the data, as plain values.
        scale: The standard deviation of q(z | x); None if not requested.
        labels: A label or a row of factors per example, -1 where missing; None if no example has
            one.
        label_names: Names of labels 0, 1, ...; of factors, the name of each factor.
    """

    codes: Float[np.ndarray, "n latent"]
    split: Shaped[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    metadata: Mapping[str, Any]
    scale: Float[np.ndarray, "n latent"] | None = None
    labels: Shaped[np.ndarray, " n"] | Shaped[np.ndarray, "n factors"] | None = None
    row_names: Shaped[np.ndarray, " n"] | None = None
    label_names: tuple[str, ...] = ()

    @property
    def targets(self) -> str:
        """The name in a file: `labels`, or `factors` if there are several per example."""
        return "factors" if self.labels is not None and self.labels.ndim == 2 else "labels"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, with `metadata` as JSON."""
        arrays = {"codes": self.codes, "split": self.split, "row": self.row}
        if self.row_names is not None:
            arrays["row_name"] = self.row_names
        if self.scale is not None:
            arrays["scale"] = self.scale
        if self.labels is not None:
            arrays[self.targets] = self.labels
            if self.label_names:
                arrays[f"{self.targets[:-1]}_names"] = np.array(self.label_names)
        return {**arrays, "metadata": np.array(json.dumps(self.metadata))}


def as_npz(codes: Codes) -> bytes:
    """A `.npz` file of all arrays."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = codes.arrays()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def as_npy(codes: Codes) -> bytes:
    """A `.npy` file of the codes alone."""
    buffer = io.BytesIO()
    np.save(buffer, codes.codes)
    return buffer.getvalue()


def as_netcdf(codes: Codes) -> bytes:
    """A `.nc` file for `xarray.open_dataset`: dims datum and latent, metadata as an attribute.

    `row`, `split` and `row_name` are coordinates, as in `inference_data.nc`.
    """
    import xarray

    arrays = codes.arrays()
    metadata = arrays.pop("metadata")
    dims = {
        "codes": ("datum", "latent"),
        "scale": ("datum", "latent"),
        "factors": ("datum", "factor"),
    }
    dims |= {"factor_names": ("factor",), "label_names": ("label",)}
    variables = {name: (dims.get(name, ("datum",)), array) for name, array in arrays.items()}
    dataset = xarray.Dataset(variables, attrs={"metadata": str(metadata)})
    coordinates = [name for name in ("row", "split", "row_name") if name in dataset]
    buffer = io.BytesIO()
    dataset.set_coords(coordinates).to_netcdf(buffer, engine="h5netcdf")
    return buffer.getvalue()


def as_csv(codes: Codes) -> bytes:
    """A `.csv` file: z0, z1, ..., the label or factors, split and row; one line per example."""
    with _pandas_required():
        return _table(codes).to_csv(index=False).encode()


def as_parquet(codes: Codes) -> bytes:
    """A `.parquet` file with the same columns."""
    buffer = io.BytesIO()
    with _pandas_required():
        _table(codes).to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Codes], bytes]] = {
    ".npz": as_npz,
    ".npy": as_npy,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".nc": as_netcdf,
}


def _table(codes: Codes) -> "pd.DataFrame":
    import pandas as pd

    columns: dict[str, np.ndarray] = {f"z{i}": z for i, z in enumerate(codes.codes.T)}
    if codes.scale is not None:
        columns |= {f"scale{i}": scale for i, scale in enumerate(codes.scale.T)}
    labels, names = codes.labels, codes.label_names
    if labels is not None and labels.ndim == 2:
        factors = names if len(names) == labels.shape[1] else range(labels.shape[1])
        columns |= {f"factor_{name}": f for name, f in zip(factors, labels.T, strict=True)}
    elif labels is not None:
        columns["label"] = labels
    if codes.row_names is not None:
        columns["row_name"] = codes.row_names
    return pd.DataFrame({**columns, "split": codes.split, "row": codes.row})


@contextmanager
def _pandas_required() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            ".csv and .parquet files are written by pandas and pyarrow, one of which cannot be "
            f"imported ({error}): pip install pandas pyarrow"
        ) from error
