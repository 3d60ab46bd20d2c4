"""Training, validation and test splits: stratified, grouped or given."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pyro_vae.data.columns import quoted
from pyro_vae.data.labels import are_classes
from pyro_vae.data.orders import permutation

SPLITS = ("train", "validation", "test")
# What a rule says of splits that were given, and do not keep groups together.
SHARED_GROUPS = "some groups are in several splits"

# Every word that names a split.
_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

_SPLIT_SEED = 20140501
_FEWEST_ROWS = 10

# A group with a larger share of the rows leaves too little for the other splits.
_LARGEST_GROUP = 0.9
# Of so many orders of the groups the one is taken whose shares come nearest.
_MOST_ORDERS, _ORDERED_GROUPS = 200, 20_000


def split_rows(
    n: int,
    *,
    labels: Tensor | None = None,
    groups: np.ndarray | None = None,
    splits: np.ndarray | None = None,
) -> tuple[dict[str, Int[Tensor, " _"]], str]:
    """The numbers of the rows of each split, and the rule in words.

    Rows go 70 / 10 / 20 into training, validation and test by a permutation that is always the same:
    with classes in equal shares of each, with groups as near to these shares as whole groups allow.

    Args:
        n: The number of rows.
        labels: A label for each row. Where they are classes, they have the same shares of each split,
            and training keeps a row of each class of two or more.
        groups: A group for each row; the rows of a group go into one split.
        splits: The name of a split for each row, where they are given; without validation rows, a
            tenth of the training rows validates.

    Raises:
        ValueError: If there are fewer than 10 rows to be split, or groups or splits are missing for
            some rows, are not as many as rows, or leave a split empty.
    """
    if splits is not None:
        return _given(n, splits, labels=labels, groups=groups)
    if n < _FEWEST_ROWS:
        raise ValueError(f"there must be at least {_FEWEST_ROWS} rows to be split, got {n}.")
    n_validation, n_test = n // 10, n // 5
    if groups is not None:
        parts, shares = _grouped(_group_numbers(groups, n), {"validation": 0.1, "test": 0.2})
        return parts, f"{shares} by whole groups, in a fixed order"
    parts = _drawn(n, {"validation": n_validation, "test": n_test}, labels)
    by = ", in equal shares of each class" if _strata(labels) is not None else ""
    return parts, f"70 / 10 / 20 by a fixed permutation{by}"


def lone_groups(groups: np.ndarray | None) -> tuple[str, ...]:
    """What to say where each row is a group of its own."""
    if groups is None or len({*map(str, groups)}) < len(groups):
        return ()
    note = (
        f"each of the {len(groups)} rows is a group of its own, so that groups change nothing: choose a "
        "column that rows share for group (--data.group)."
    )
    return (note,)


def validation_rows(
    n: int, *, labels: Tensor | None = None, groups: np.ndarray | None = None
) -> Int[Tensor, " _"]:
    """The numbers, ascending, of the training rows that validate: a tenth, by a fixed permutation.

    Args:
        n: The number of training rows.
        labels: A label for each row, used as by `split_rows`.
        groups: A group for each row; the rows of a group stay together.

    Raises:
        ValueError: If there are groups, but one alone, or one is nearly everything.
    """
    if groups is not None:
        parts, _ = _grouped(_group_numbers(groups, n), {"validation": 0.1})
        return parts["validation"].sort().values
    if _strata(labels) is None:
        return permutation(n, seed=_SPLIT_SEED)[: max(1, n // 10)].sort().values
    return _drawn(n, {"validation": max(1, n // 10)}, labels)["validation"].sort().values


def split_words(splits: np.ndarray) -> np.ndarray:
    """The names of splits, "train", "validation" or "test", from the words for them.

    >>> split_words(np.array(["Train", "dev", "test"])).tolist()
    ['train', 'validation', 'test']

    Raises:
        ValueError: If one is missing or is no such word.
    """
    words = [_as_word(value) for value in np.asarray(splits, dtype=object).tolist()]
    wrong = [row for row, word in enumerate(words) if word.lower() not in _WORDS]
    if wrong:
        found = dict.fromkeys(words[row] for row in wrong)
        raise ValueError(
            f"splits must be the words {', '.join(_WORDS)}, got {quoted(list(found))} first in row "
            f"{wrong[0] + 1} ({len(wrong)} of {len(words)} rows): write one of them in every row."
        )
    return np.array([_WORDS[word.lower()] for word in words])


def row_words(
    path: str | Path, n: int | None = None, names: Sequence[str] | None = None
) -> np.ndarray:
    """A word or number for each row, of groups or splits, from a file beside the data.

    A `.npy` holds an array `(n,)`, a `.txt` or `.csv` one word a line, perhaps under a heading. For
    files in a folder each line is `name,word`, in any order.

    Args:
        path: The file.
        n: The number of rows.
        names: The names of the rows: paths of files relative to their folder.

    Raises:
        ValueError: If the file cannot be read, or does not hold one word for each row.
    """
    path = Path(path)
    if not os.path.isfile(path) or path.suffix.lower() not in (".npy", ".csv", ".txt"):
        raise ValueError(f"{path} must be a .npy, .csv or .txt file with a word for each row.")
    n = len(names) if names is not None else n
    lines = _lines(path)
    if lines.ndim == 2 and names is not None:
        return _by_name(path, lines, names)
    if lines.ndim != 1:
        raise ValueError(f"{path} must hold one word for each row, got the shape {lines.shape}.")
    # A heading, which no row repeats.
    if len(lines) - 1 == n and path.suffix.lower() != ".npy" and lines[0] not in lines[1:]:
        lines = lines[1:]
    if n is not None and len(lines) != n:
        raise ValueError(f"{path} must hold one word for each of {n} rows, got {len(lines)}.")
    return lines


def _lines(path: Path) -> np.ndarray:
    """The words of a file, `(n,)`, or with names of rows `(n, 2)`."""
    try:
        if path.suffix.lower() == ".npy":
            words = np.load(path, allow_pickle=False)
            return words[:, 0] if words.ndim == 2 and words.shape[1] == 1 else words
        with path.open(newline="", encoding="utf-8-sig") as file:
            # An empty line is a row without a word, unless it is at the end or rows have names.
            rows = [row or [""] for row in csv.reader(file)]
    # NumPy, csv and codecs raise several types between them for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a word for each row ({reason}).") from error
    while rows and rows[-1] == [""]:
        rows.pop()
    if any(len(row) > 1 for row in rows):
        rows = [row for row in rows if row != [""]]
    if not rows:
        raise ValueError(f"{path} is empty.")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{path} must have as many columns in each line.")
    words = np.array([[word.strip() for word in row] for row in rows], dtype=object)
    return words[:, 0] if words.shape[1] == 1 else words


def _by_name(path: Path, lines: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The words of rows by their names: relative paths, or names of files that occur once."""
    if lines.shape[1] != 2:
        raise ValueError(f"{path} must hold a name and a word in each line.")
    wanted = [Path(name).as_posix() for name in names]
    found = {Path(str(name)).as_posix(): word for name, word in lines}
    if len(found) < len(lines):
        raise ValueError(f"{path} names some files more than once: keep one line for each.")
    bare = [name.rsplit("/", 1)[-1] for name in wanted]
    # Names of files alone will do, if no two files share one.
    if len(set(bare)) == len(bare) and not set(found) & (set(wanted) - set(bare)):
        wanted = bare
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"{path} has no line for {quoted(missing)}: each file needs a line of its name and its word."
        )
    return np.array([found[name] for name in wanted], dtype=object)


def _drawn(n: int, sizes: dict[str, int], labels: Tensor | None) -> dict[str, Int[Tensor, " _"]]:
    """Rows of a fixed permutation, so many in each split but training, which gets all others."""
    order = permutation(n, seed=_SPLIT_SEED)
    strata = _strata(labels)
    if strata is None:
        parts = order.split([n - sum(sizes.values()), *sizes.values()])
        return dict(zip(("train", *sizes), parts, strict=True))
    place = np.empty(n, np.int64)
    place[order.numpy()] = np.arange(n)
    # Class by class, and in each by the permutation.
    rows = np.lexsort((place, strata))
    # Training keeps the first row of every class of two or more.
    kept = (np.diff(strata[rows], prepend=-1) != 0) & (strata[rows] > 0)
    rows = rows[~kept]
    names = ("train", *sizes)
    part = np.zeros(n, np.int64)
    for split, size in sorted(sizes.items(), key=lambda item: -item[1]):
        # Every so many rows, which is as many of each class as its size allows.
        steps = np.arange(len(rows) + 1) * size // len(rows)
        taken = np.diff(steps) > 0
        part[rows[taken]] = names.index(split)
        rows = rows[~taken]
    return _parts(order, part, names)


def _strata(labels: Tensor | None) -> np.ndarray | None:
    """A stratum for each row: its class, or 0 without label or alone in its class; None for one stratum."""
    if labels is None or not are_classes(labels):
        return None
    strata = labels.numpy() + 1
    counts = np.bincount(strata)
    strata = np.where(counts[strata] > 1, strata, 0)
    return strata if len(np.unique(strata)) > 1 else None


def _group_numbers(groups: np.ndarray, n: int) -> np.ndarray:
    """Groups as numbers 0, 1, ... in the order of their names.

    Raises:
        ValueError: If there is not one for each row.
    """
    import pandas as pd

    if np.ndim(groups) != 1 or len(groups) != n:
        raise ValueError(f"there are {n} rows but groups of shape {np.shape(groups)}.")
    words = pd.Series(groups).reset_index(drop=True)
    missing = (words.isna() | (words.astype(str).str.strip() == "")).to_numpy()
    if missing.any():
        raise ValueError(
            f"row {missing.argmax() + 1} has no group ({missing.sum()} of {n} rows have none): give each "
            "row one."
        )
    return np.unique(words.astype(str).to_numpy(dtype=str), return_inverse=True)[1]


def _grouped(
    groups: np.ndarray, shares: dict[str, float]
) -> tuple[dict[str, Int[Tensor, " _"]], str]:
    """Whole groups in each split, and the shares that they got of the rows."""
    n = len(groups)
    sizes = np.bincount(groups)
    least = len(shares) + 1
    if len(sizes) < least:
        raise ValueError(
            f"there must be at least {least} groups to be split, got {len(sizes)}: split by rows, or say "
            "which rows are for what with split (--data.split)."
        )
    if sizes.max() > _LARGEST_GROUP * n:
        raise ValueError(
            f"one group has {sizes.max()} of {n} rows, which leaves too few for the other splits: split "
            "by rows, or say which rows are for what with split (--data.split)."
        )
    goals = np.rint(np.cumsum(list(shares.values())) * n).astype(np.int64)
    best, ends = np.arange(0), goals
    least_error = np.inf
    for turn in range(min(_MOST_ORDERS, 1 + _ORDERED_GROUPS // len(sizes))):
        order = permutation(len(sizes), seed=_SPLIT_SEED + turn).numpy()
        filled = np.concatenate([[0], np.cumsum(sizes[order])])
        cuts = _nearest(filled, goals)
        got = np.diff(filled[[0, *cuts, len(sizes)]])
        error = np.abs(got - np.diff([0, *goals, n])).max()
        if error < least_error:
            least_error, best, ends = error, order, cuts
    place = np.empty(len(sizes), np.int64)
    place[best] = np.arange(len(sizes))
    part = np.searchsorted(ends, place[groups], side="right")
    names = (*shares, "train")
    parts = _parts(permutation(n, seed=_SPLIT_SEED), part, names)
    shared = [f"{100 * len(parts[split]) / n:.0f}" for split in ("train", *shares)]
    return {split: parts[split] for split in ("train", *shares)}, " / ".join(shared)


def _parts(
    order: Int[Tensor, " n"], part: Int[np.ndarray, " n"], names: Sequence[str]
) -> dict[str, Int[Tensor, " _"]]:
    """The rows of each part by its name, in this order."""
    ordered = torch.from_numpy(part)[order]
    return {name: order[ordered == place] for place, name in enumerate(names)}


def _nearest(filled: np.ndarray, goals: np.ndarray) -> list[int]:
    """Numbers of groups after which to cut, nearest to the goals, with a group in every part."""
    cuts: list[int] = []
    for index, goal in enumerate(goals):
        low = cuts[-1] + 1 if cuts else 1
        high = len(filled) - 1 - (len(goals) - index)
        cuts.append(int(np.clip(np.abs(filled - goal).argmin(), low, high)))
    return cuts


def _given(
    n: int, splits: np.ndarray, *, labels: Tensor | None, groups: np.ndarray | None
) -> tuple[dict[str, Int[Tensor, " _"]], str]:
    """Rows by the splits that are given, with validation rows taken from training where there are none."""
    if np.ndim(splits) != 1 or len(splits) != n:
        raise ValueError(f"there are {n} rows but splits of shape {np.shape(splits)}.")
    words = split_words(splits)
    parts = {split: torch.from_numpy(np.flatnonzero(words == split)) for split in SPLITS}
    counts = {split: len(rows) for split, rows in parts.items() if len(rows)}
    for split in ("train", "test"):
        if split not in counts:
            raise ValueError(f"splits must have rows of train and of test, got none of {split}.")
    shared = groups is not None and _shared_groups(groups, words)
    rule = "as given"
    if "validation" not in counts:
        train = parts["train"]
        if len(train) < 2:
            raise ValueError("there must be at least 2 training rows, of which some validate.")
        held_out = validation_rows(
            len(train),
            labels=None if labels is None else labels[train],
            groups=None if groups is None else np.asarray(groups)[train.numpy()],
        )
        trained = torch.ones(len(train), dtype=torch.bool)
        trained[held_out] = False
        parts["validation"], parts["train"] = train[held_out], train[trained]
        rule = f"train and test as given; {len(held_out)} of {len(train)} training rows validate"
    return parts, f"{rule}; {SHARED_GROUPS}" if shared else rule


def _shared_groups(groups: np.ndarray, words: np.ndarray) -> bool:
    """Whether a group has rows in several of the given splits."""
    numbers = _group_numbers(groups, len(words))
    pairs = np.unique(np.stack([numbers, np.unique(words, return_inverse=True)[1]]), axis=1)
    return len(np.unique(pairs[0])) < pairs.shape[1]


def _as_word(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return str(value).strip()
