"""Detection of repeated values, on which a density can grow without bound."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from pyro_vae.data.columns import in_words
from pyro_vae.data.findings import Columns, Finding, number

# A column with one value in more rows than this is nearly constant, or has an atom.
_NEARLY_ALL, _MANY, _FEWEST_REPEATS = 0.99, 0.15, 5
# More values than this share of unit data at 0 and 1 are no rounding.
_ENDS = 0.01
# A column with at most so many values is coarse, and a channel that has so many in many more pixels.
_FEW, _FEW_LEVELS = 10, 256
# The rounding of values to multiples of a unit is coarse where its standard deviation is more than
# this share of the column's. A unit of less than that share does not explain a repeated value.
_COARSE, _FINE = 0.1, 0.05


def repeated_values(columns: Columns) -> Iterator[Finding]:
    """Values on which a density can grow without bound."""
    dataset = columns.dataset
    if dataset.support == "integers" and columns.likelihood_support == "real":
        yield Finding(
            "levels",
            f"a likelihood of real data takes {dataset.levels} levels for numbers v / "
            f"{(dataset.levels or 2) - 1} as they are, on which a density grows until its scale is at "
            "the floor: choose a likelihood of integers (--likelihood discretized_logistic), or one of "
            "unit data (--likelihood logit_normal), for which they are dequantised.",
        )
    if not columns.continuous:
        return
    pool = np.unique(columns.sample)
    whole = dataset.support == "real" and 0 <= pool[0] < pool[-1] < 2**31
    if whole and (pool == np.rint(pool)).all():
        levels = (
            f" or for levels (--data.levels {number(pool[-1] + 1)})" if pool[-1] < 2**16 else ""
        )
        yield Finding(
            "whole numbers",
            f"the values are whole numbers alone, from {number(pool[0])} to {number(pool[-1])}, on which a "
            f"density can grow without bound: take them for counts (--data.support counts){levels}, with a "
            "likelihood of such data.",
        )
        return
    if dataset.support == "unit" and (levels := _levels(pool, columns.sample.size)):
        yield Finding(
            "levels",
            f"the values are multiples of 1/{levels - 1}, on which a density can grow without bound: "
            f"give them as levels, round({levels - 1} * x) as integers with --data.levels {levels}, "
            "which are dequantised.",
        )
        return
    found = [*_atoms(columns)]
    yield from found
    ends = float(np.isin(columns.sample, (0, 1)).mean())
    if not found and dataset.support == "unit" and ends > _ENDS:
        yield Finding(
            "ends",
            f"{100 * ends:.0f} % of the values are exactly 0 or 1, where the densities of a beta and a "
            "logit_normal are 0 or infinite: choose --likelihood continuous_bernoulli, whose density is bounded.",
        )


def _atoms(columns: Columns) -> Iterator[Finding]:
    """Columns with one value in many rows, and with few or coarse values."""
    x, floors = columns.sample, _floors(columns)
    m = x.shape[1]
    few = _FEW if columns.table else _FEW_LEVELS
    coarse = ~columns.constant & (m >= 5 * columns.distinct) & (columns.distinct <= few)
    step = max(_FEWEST_REPEATS, int(_MANY * m))
    atom = ~columns.constant & (x[:, step:] == x[:, :-step]).any(1)
    nearly, many, values = [], [], []
    for column in (atom | coarse).nonzero()[0].tolist():
        common, counts = np.unique(x[column], return_counts=True)
        mode = common[counts.argmax()]
        second, share = (np.append(0, np.sort(counts)) / m)[-2:]
        words = f"{number(mode)} in {100 * share:.0f} % of {columns.name(column)}"
        if columns.table and share > _NEARLY_ALL:
            nearly.append((column, words.replace("100 %", "almost all")))
        elif coarse[column]:
            values.append((column, f"{columns.distinct[column]} in {columns.name(column)}"))
        elif share > 3 * second or np.diff(common).min() < _FINE * columns.sample[column].std():
            many.append((column, words))
    rounded = ~columns.constant & (m >= 5 * columns.distinct)
    rounded &= floors > _COARSE * columns.spread
    rounded[[column for column, _ in (*nearly, *many, *values)]] = False
    if nearly:
        yield Finding(
            "nearly constant",
            f"one value is nearly the only one: {in_words(words for _, words in nearly)}: "
            f"{columns.drop([column for column, _ in nearly])}.",
        )
    for kind, what, where in (
        ("repeated value", "one value is repeated exactly", many),
        ("few values", "a column has few distinct values", values),
        (
            "rounded",
            "values are rounded coarsely",
            [(column, columns.name(column)) for column in rounded.nonzero()[0].tolist()],
        ),
    ):
        if not where:
            continue
        numbers = [column for column, _ in where]
        lowest = floors[numbers].min()
        bound = f" (at least {lowest:.3g} there)" if lowest > 0 else ""
        logit = "--likelihood logit_normal " if columns.dataset.support == "unit" else ""
        yield Finding(
            kind,
            f"{what} ({in_words(words for _, words in where)}), on which a density grows until its scale is "
            f"at the floor{bound}: {columns.drop(numbers)}, or keep the scale with "
            f"{logit}--likelihood.scale fixed.",
        )


def _floors(columns: Columns) -> Float64[np.ndarray, " columns"]:
    """The floor that the data's resolution puts under the scale of each column, in its own units."""
    if columns.dataset.support != "real":
        return np.zeros(len(columns.sample))
    units = columns.dataset.units
    return (units.floor * units.spread).flatten().numpy()


def _levels(distinct: Float64[np.ndarray, " _"], n: int) -> int | None:
    """The number of levels whose multiples all values are, if there is one."""
    if not 3 <= len(distinct) < min(n / 5, 2**16):
        return None
    top = round(1 / np.diff(distinct).min())
    multiples = distinct * top
    # float32 moves each by less than this.
    whole = np.abs(multiples - np.rint(multiples)) < 1e-6 * top + 1e-9
    return top + 1 if 2 <= top < 2**16 and whole.all() else None
