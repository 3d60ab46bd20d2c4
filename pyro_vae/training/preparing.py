"""Data joined with a likelihood, and what to choose instead where they do not fit."""

from typing import Any

from pyro_vae.data import Dataset, Kind, PreparedData, SupportMismatchError
from pyro_vae.data.inspection import grey_levels
from pyro_vae.data.preprocessing import FITS
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.suspect_values import ColumnStatistics
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.model import names_of_support


def prepared(dataset: Dataset, likelihood: Any, **options: Any) -> PreparedData:
    """The data as a likelihood needs them.

    Args:
        dataset: The data set.
        likelihood: A likelihood, or its class.
        **options: Those of `PreparedData`.

    Raises:
        ValueError: If an option is unknown, or the likelihood is no density on such data. The message
            names the likelihoods that are.
    """
    try:
        return PreparedData(dataset, likelihood.support, **options)
    except SupportMismatchError as error:
        fitting = [f"{word}: {names_of_support(LIKELIHOODS, word)}" for word in error.fits]
        name = getattr(likelihood, "__name__", type(likelihood).__name__)
        # Before they are inspected, as what they are is the question here.
        grey = next(grey_levels(ColumnStatistics(dataset, likelihood.support)), "")
        raise ValueError(
            f"{name} does not fit: {error} These are {'; '.join(fitting)}.{grey and f' But {grey}'}"
        ) from error


def default_likelihood(dataset: Dataset, name: str, kind: Kind) -> str:
    """A line that says which likelihood the data got by default, and which others fit.

    Args:
        dataset: The data set.
        name: The likelihood's name.
        kind: The kind of data that it was chosen by.
    """
    words = {
        "grey": "grey images" if dataset.kind == "grey" else "binarised data",
        "levels": f"data of {dataset.levels} levels",
        "counts": "counts",
    }
    others = [
        other
        for other, part in LIKELIHOODS.items()
        if getattr(part, "support", None) in FITS[dataset.support] and other != name
    ]
    return (
        f"p(x|z) is {name}, the default for {words.get(kind, f'{kind} data')}; others that fit: "
        f"--likelihood {', '.join(others)}"
    )


def start_likelihood(vae: Any, data: PreparedData) -> None:
    """Start a likelihood that can at the means of training data: of sparse data those of all rows."""
    start = getattr(getattr(vae, "likelihood", None), "start_from", None)
    if start is not None:
        start(data.train if isinstance(data.train, SparseRows) else data.starting_rows())
