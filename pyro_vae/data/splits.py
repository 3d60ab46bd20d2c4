"""Training, validation and test splits: stratified, grouped or given."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pyro_vae.data.labels import are_classes
from pyro_vae.data.nouns import quote_names

SPLITS = ("train", "validation", "test")
# Part of the split rule if given splits do not keep groups together.
SHARED_GROUPS = "some groups are in several splits"
# Changing this changes every split, and with it every reported test number.
SPLIT_SEED = 20140501

_SYNONYMS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

_MIN_ROWS = 10
# A group with a larger share of the rows leaves too little for the other splits.
_MAX_GROUP_SHARE = 0.9
# Of at most this many orders of the groups, the one whose shares are nearest is taken; fewer
# orders are tried for more groups.
_MAX_ORDERS, _ORDERED_GROUPS = 200, 20_000


def permutation(n: int, *, seed: int) -> Int[Tensor, " n"]:
    """A permutation of 0, ..., n - 1 that depends on the seed alone."""
    return torch.randperm(n, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


def split_rows(
    n: int,
    *,
    labels: Tensor | None = None,
    groups: np.ndarray | None = None,
    splits: np.ndarray | None = None,
) -> tuple[dict[str, Int[Tensor, " _"]], str]:
    """Split rows 70 / 10 / 20 into training, validation and test by a fixed permutation.

    Args:
        n: Number of rows.
        labels: A label for each row. Classes are stratified, and training keeps a row of each
            class that has at least two.
        groups: A group for each row; a group goes into one split, as near to the shares as whole
            groups allow.
        splits: The name of a split for each row, instead of the permutation; without validation
            rows, a tenth of the training rows is used.

    Returns:
        The row indices of each split, and the rule in words.

    Raises:
        ValueError: If there are fewer than 10 rows, or groups or splits are missing for some rows,
            have another length than the rows, or leave a split empty.
    """
    if splits is not None:
        return _given_splits(n, splits, labels=labels, groups=groups)
    if n < _MIN_ROWS:
        raise ValueError(f"there must be at least {_MIN_ROWS} rows to be split, got {n}.")
    if groups is not None:
        parts, shares = _split_groups(_group_indices(groups, n), {"validation": 0.1, "test": 0.2})
        return parts, f"{shares} by whole groups, in a fixed order"
    parts = _split_by_class(n, {"validation": n // 10, "test": n // 5}, labels)
    by = ", in equal shares of each class" if _strata(labels) is not None else ""
    return parts, f"70 / 10 / 20 by a fixed permutation{by}"


def group_notes(groups: np.ndarray | None) -> tuple[str, ...]:
    """A note if every row is a group of its own."""
    if groups is None or len({*map(str, groups)}) < len(groups):
        return ()
    note = (
        f"each of the {len(groups)} rows is a group of its own, so groups have no effect: choose "
        "a column that rows share for group (--data.group)."
    )
    return (note,)


def validation_rows(
    n: int, *, labels: Tensor | None = None, groups: np.ndarray | None = None
) -> Int[Tensor, " _"]:
    """Select a tenth of the training rows for validation by a fixed permutation.

    Args:
        n: Number of training rows.
        labels: A label for each row, used as by `split_rows`.
        groups: A group for each row; the rows of a group stay together.

    Returns:
        Their indices, ascending.

    Raises:
        ValueError: If there is only one group, or one is nearly everything.
    """
    if groups is not None:
        parts, _ = _split_groups(_group_indices(groups, n), {"validation": 0.1})
        return parts["validation"].sort().values
    if _strata(labels) is None:
        return permutation(n, seed=SPLIT_SEED)[: max(1, n // 10)].sort().values
    return _split_by_class(n, {"validation": max(1, n // 10)}, labels)["validation"].sort().values


def parse_split_names(splits: np.ndarray) -> np.ndarray:
    """Map words for splits to "train", "validation" and "test".

    >>> parse_split_names(np.array(["Train", "dev", "test"])).tolist()
    ['train', 'validation', 'test']

    Raises:
        ValueError: If an entry is missing or another word.
    """
    words = [_decode(value) for value in np.asarray(splits, dtype=object).tolist()]
    wrong = [row for row, word in enumerate(words) if word.lower() not in _SYNONYMS]
    if wrong:
        found = dict.fromkeys(words[row] for row in wrong)
        raise ValueError(
            f"splits must be the words {', '.join(_SYNONYMS)}, got {quote_names(list(found))} "
            f"first in row {wrong[0] + 1} ({len(wrong)} of {len(words)} rows)."
        )
    return np.array([_SYNONYMS[word.lower()] for word in words])


def read_row_words(
    path: str | Path, n: int | None = None, names: Sequence[str] | None = None
) -> np.ndarray:
    """Read a word or number for each row, of groups or splits, from a file beside the data.

    A `.npy` holds an array `(n,)`; a `.txt` or `.csv` has one word a line, perhaps under a
    heading. For the files of a folder each line is `name,word`, in any order.

    Args:
        path: The file.
        n: Number of rows.
        names: The names of the rows: paths of files relative to their folder.

    Raises:
        ValueError: If the file cannot be read, or does not hold one word for each row.
    """
    path = Path(path)
    if not os.path.isfile(path) or path.suffix.lower() not in (".npy", ".csv", ".txt"):
        raise ValueError(f"{path} must be a .npy, .csv or .txt file with a word for each row.")
    n = len(names) if names is not None else n
    lines = _read_lines(path)
    if lines.ndim == 2 and names is not None:
        return _match_names(path, lines, names)
    if lines.ndim != 1:
        raise ValueError(f"{path} must hold one word for each row, got the shape {lines.shape}.")
    # A heading, which no row repeats.
    if len(lines) - 1 == n and path.suffix.lower() != ".npy" and lines[0] not in lines[1:]:
        lines = lines[1:]
    if n is not None and len(lines) != n:
        raise ValueError(f"{path} must hold one word for each of {n} rows, got {len(lines)}.")
    return lines


def _read_lines(path: Path) -> np.ndarray:
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


def _match_names(path: Path, lines: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The words of rows by relative path, or by file name if those are unique."""
    if lines.shape[1] != 2:
        raise ValueError(f"{path} must hold a name and a word in each line.")
    wanted = [Path(name).as_posix() for name in names]
    found = {Path(str(name)).as_posix(): word for name, word in lines}
    if len(found) < len(lines):
        raise ValueError(f"{path} names some files more than once: keep one line for each.")
    file_names = [name.rsplit("/", 1)[-1] for name in wanted]
    if len(set(file_names)) == len(file_names) and not set(found) & (
        set(wanted) - set(file_names)
    ):
        wanted = file_names
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f"{path} has no line for {quote_names(missing)}: each file needs a line of its name "
            "and its word."
        )
    return np.array([found[name] for name in wanted], dtype=object)


def _split_by_class(
    n: int, sizes: dict[str, int], labels: Tensor | None
) -> dict[str, Int[Tensor, " _"]]:
    """Draw splits of these sizes by a fixed permutation; training gets all other rows."""
    order = permutation(n, seed=SPLIT_SEED)
    strata = _strata(labels)
    if strata is None:
        parts = order.split([n - sum(sizes.values()), *sizes.values()])
        return dict(zip(("train", *sizes), parts, strict=True))
    position = np.empty(n, np.int64)
    position[order.numpy()] = np.arange(n)
    # Sorted by class, and within each by the permutation.
    rows = np.lexsort((position, strata))
    # Training keeps the first row of every class that has at least two.
    first = (np.diff(strata[rows], prepend=-1) != 0) & (strata[rows] > 0)
    rows = rows[~first]
    names = ("train", *sizes)
    part = np.zeros(n, np.int64)
    for split, size in sorted(sizes.items(), key=lambda item: -item[1]):
        # Evenly spaced rows, so that each class has its share.
        steps = np.arange(len(rows) + 1) * size // len(rows)
        chosen = np.diff(steps) > 0
        part[rows[chosen]] = names.index(split)
        rows = rows[~chosen]
    return _parts_in_order(order, part, names)


def _strata(labels: Tensor | None) -> np.ndarray | None:
    """A stratum for each row: its class, or 0 if unlabelled or alone; None for one stratum."""
    if labels is None or not are_classes(labels):
        return None
    strata = labels.numpy() + 1
    counts = np.bincount(strata)
    strata = np.where(counts[strata] > 1, strata, 0)
    return strata if len(np.unique(strata)) > 1 else None


def _group_indices(groups: np.ndarray, n: int) -> np.ndarray:
    """Groups as indices 0, 1, ... in the order of their names."""
    import pandas as pd

    if np.ndim(groups) != 1 or len(groups) != n:
        raise ValueError(f"there are {n} rows but groups of shape {np.shape(groups)}.")
    words = pd.Series(groups).reset_index(drop=True)
    missing = (words.isna() | (words.astype(str).str.strip() == "")).to_numpy()
    if missing.any():
        raise ValueError(
            f"row {missing.argmax() + 1} has no group ({missing.sum()} of {n} rows have none): "
            "give each row one."
        )
    return np.unique(words.astype(str).to_numpy(dtype=str), return_inverse=True)[1]


def _split_groups(
    groups: np.ndarray, shares: dict[str, float]
) -> tuple[dict[str, Int[Tensor, " _"]], str]:
    """Whole groups in each split, and the resulting shares of the rows."""
    n = len(groups)
    sizes = np.bincount(groups)
    least = len(shares) + 1
    if len(sizes) < least:
        raise ValueError(
            f"there must be at least {least} groups to be split, got {len(sizes)}: split by rows, "
            "or give the splits with split (--data.split)."
        )
    if sizes.max() > _MAX_GROUP_SHARE * n:
        raise ValueError(
            f"one group has {sizes.max()} of {n} rows, which leaves too few for the other splits: "
            "split by rows, or give the splits with split (--data.split)."
        )
    goals = np.rint(np.cumsum(list(shares.values())) * n).astype(np.int64)
    best, ends = np.arange(0), goals
    least_error = np.inf
    for attempt in range(min(_MAX_ORDERS, 1 + _ORDERED_GROUPS // len(sizes))):
        order = permutation(len(sizes), seed=SPLIT_SEED + attempt).numpy()
        filled = np.concatenate([[0], np.cumsum(sizes[order])])
        cuts = _nearest_cuts(filled, goals)
        got = np.diff(filled[[0, *cuts, len(sizes)]])
        error = np.abs(got - np.diff([0, *goals, n])).max()
        if error < least_error:
            least_error, best, ends = error, order, cuts
    position = np.empty(len(sizes), np.int64)
    position[best] = np.arange(len(sizes))
    part = np.searchsorted(ends, position[groups], side="right")
    parts = _parts_in_order(permutation(n, seed=SPLIT_SEED), part, (*shares, "train"))
    names = ("train", *shares)
    percent = " / ".join(f"{100 * len(parts[split]) / n:.0f}" for split in names)
    return {split: parts[split] for split in names}, percent


def _parts_in_order(
    order: Int[Tensor, " n"], part: Int[np.ndarray, " n"], names: Sequence[str]
) -> dict[str, Int[Tensor, " _"]]:
    """The rows of each part by name, in this order."""
    ordered = torch.from_numpy(part)[order]
    return {name: order[ordered == index] for index, name in enumerate(names)}


def _nearest_cuts(filled: np.ndarray, goals: np.ndarray) -> list[int]:
    """Numbers of groups after which to cut, nearest to the goals, with a group in every part."""
    cuts: list[int] = []
    for index, goal in enumerate(goals):
        low = cuts[-1] + 1 if cuts else 1
        high = len(filled) - 1 - (len(goals) - index)
        cuts.append(int(np.clip(np.abs(filled - goal).argmin(), low, high)))
    return cuts


def _given_splits(
    n: int, splits: np.ndarray, *, labels: Tensor | None, groups: np.ndarray | None
) -> tuple[dict[str, Int[Tensor, " _"]], str]:
    """Rows by given splits; validation is taken from training if none is given."""
    if np.ndim(splits) != 1 or len(splits) != n:
        raise ValueError(f"there are {n} rows but splits of shape {np.shape(splits)}.")
    words = parse_split_names(splits)
    parts = {split: torch.from_numpy(np.flatnonzero(words == split)) for split in SPLITS}
    for split in ("train", "test"):
        if not len(parts[split]):
            raise ValueError(f"splits must have rows of train and of test, got none of {split}.")
    shared = groups is not None and _share_groups(groups, words)
    rule = "as given"
    if not len(parts["validation"]):
        train = parts["train"]
        if len(train) < 2:
            raise ValueError("there must be at least 2 training rows to take validation from.")
        held_out = validation_rows(
            len(train),
            labels=None if labels is None else labels[train],
            groups=None if groups is None else np.asarray(groups)[train.numpy()],
        )
        rest = torch.ones(len(train), dtype=torch.bool)
        rest[held_out] = False
        parts["validation"], parts["train"] = train[held_out], train[rest]
        rule = f"train and test as given; {len(held_out)} of {len(train)} training rows validate"
    return parts, f"{rule}; {SHARED_GROUPS}" if shared else rule


def _share_groups(groups: np.ndarray, words: np.ndarray) -> bool:
    """Whether a group has rows in several splits."""
    indices = _group_indices(groups, len(words))
    pairs = np.unique(np.stack([indices, np.unique(words, return_inverse=True)[1]]), axis=1)
    return len(np.unique(pairs[0])) < pairs.shape[1]


def _decode(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return str(value).strip()
