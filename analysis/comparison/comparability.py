"""Whether log p(x) of several runs may stand in one comparison: the same numbers, of the same data."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from jaxtyping import Real
from torch import Tensor

from pyro_vae.data import PreparedData
from pyro_vae.runs.result_cache import digest

# How a person says each field, in the order in which differences are reported: what explains the
# others comes first.
_WORDS = {
    "data": "data",
    "likelihood_support": "support of the likelihood",
    "levels": "levels",
    "binarisation": "binarisation",
    "dequantised": "dequantisation",
    "given_total": "counts given their total",
    "split": "split",
    "rows": "number of data",
    "x_digest": "values of the data (digest)",
}


class NotComparableError(ValueError):
    """Two runs' log densities are of different data, or in different units."""


@dataclass(frozen=True)
class DataRecord:
    """What a run's log p(x) is a density of.

    Args:
        run: What to call the run.
        data: The name of the data set.
        likelihood_support: binary, unit, real, integers or counts. A probability of levels and a density
            on [0, 1] differ by a constant; a density of other values by its unit.
        levels: How many levels the raw values have; None for others.
        binarisation: dynamic, static or threshold; None where nothing was binarised.
        dequantised: Whether levels got uniform noise.
        given_total: Whether the likelihood is one of counts given their total.
        split: test, validation or train.
        rows: How many data.
        x_digest: Hexadecimal digits that differ where any of their values does.
    """

    run: str
    data: str
    likelihood_support: str
    levels: int | None
    binarisation: str | None
    dequantised: bool
    given_total: bool
    split: str
    rows: int
    x_digest: str


def data_record(
    run: str,
    data: PreparedData,
    x: Real[Tensor, " n *event"],
    *,
    split: str = "test",
    given_total: bool = False,
) -> DataRecord:
    """The record of a run that is evaluated on x.

    Args:
        run: What to call the run.
        data: The data as the run's likelihood needs them.
        x: The data that it is evaluated on, rows of `data.fixed(split)`.
        split: The split they are of.
        given_total: The likelihood's `given_total`.
    """
    return DataRecord(
        run=run,
        data=data.dataset.name,
        likelihood_support=data.likelihood_support,
        levels=data.dataset.levels,
        binarisation=data.binarisation,
        # As it says of itself: levels may be scaled, with or without noise.
        dequantised="dequantised" in data.description,
        given_total=given_total,
        split=split,
        rows=len(x),
        x_digest=digest({"x": x}),
    )


def check_comparable(
    first: DataRecord, others: Sequence[DataRecord], *, what: str = "log p(x)"
) -> None:
    """Refuse runs whose log p(x) do not compare: 3 to 20 nats lie between forms of MNIST alone.

    Args:
        first: A run's record.
        others: Those of the others.
        what: What is compared.

    Raises:
        NotComparableError: A ValueError: one line that names the two runs and both values.
    """
    names = [field.name for field in fields(DataRecord) if field.name != "run"]
    for other in others:
        for name in sorted(names, key=list(_WORDS).index):
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise NotComparableError(
                    f"{what} of {first.run} and {other.run} do not compare: {_WORDS[name]} "
                    f"{_said(one)} against {_said(two)}."
                )


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
