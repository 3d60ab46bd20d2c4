"""`read_labels`: every usual form of labels, and what is no label."""

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.data import Dataset
from pyro_vae.data.labels import read_labels, read_split_labels, untrained_class_notes

NUMBERS = np.arange(30) % 3
WORDS = np.array(["cat", "dog", "emu"])[NUMBERS]


@pytest.mark.parametrize(
    "labels",
    [
        WORDS,
        WORDS.tolist(),
        WORDS.astype(bytes),
        WORDS.astype(object),
        WORDS[:, None],
        np.char.add(WORDS, " "),
        pd.Series(WORDS, index=range(100, 130)),
        pd.Series(WORDS, dtype="string"),
        pd.Categorical(WORDS),
        pd.DataFrame({"kind": WORDS}),
        pd.get_dummies(pd.Series(WORDS)),
    ],
)
def test_words_are_classes_in_alphabetical_order(labels):
    read = read_labels(labels, n=30)
    assert read.names == ("cat", "dog", "emu")
    assert torch.equal(read.values, torch.from_numpy(NUMBERS))


@pytest.mark.parametrize(
    "labels",
    [
        NUMBERS,
        torch.from_numpy(NUMBERS),
        NUMBERS.astype(np.uint8),
        NUMBERS.astype(float),
        NUMBERS.astype(np.float16),
        torch.from_numpy(NUMBERS).to(torch.bfloat16),
        NUMBERS.astype(str),
        NUMBERS.astype(bytes),
        NUMBERS.astype(object),
        NUMBERS[:, None],
        NUMBERS[None].astype(float),
        np.eye(3)[NUMBERS],
        np.eye(3, dtype=bool)[NUMBERS],
        pd.array(NUMBERS, dtype="Int64"),
        [torch.tensor(number) for number in NUMBERS],
    ],
)
def test_whole_numbers_are_classes_named_by_their_value(labels):
    read = read_labels(labels, n=30)
    assert read.names == ("0", "1", "2")
    assert read.values.dtype == torch.int64
    assert torch.equal(read.values, torch.from_numpy(NUMBERS))


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([3, 5, 7, 3], [0, 1, 2, 0], ("3", "5", "7")),
        ([2, 10, 1], [1, 2, 0], ("1", "2", "10")),
        (["2", "10", "1"], [1, 2, 0], ("1", "2", "10")),
        (["01", "1"], [0, 1], ("01", "1")),
        (
            [f"{1900 + 3 * i}" for i in range(30)],
            [*range(30)],
            tuple(f"{1900 + 3 * i}" for i in range(30)),
        ),
        (
            np.arange(1, 41).repeat(2),
            np.arange(40).repeat(2).tolist(),
            tuple(map(str, range(1, 41))),
        ),
        ([True, False, True], [1, 0, 1], ("False", "True")),
        ([True, None, True], [1, -1, 1], ("False", "True")),
        ([1.0, np.nan, 0.0], [1, -1, 0], ("0", "1")),
        ([1, None, 0], [1, -1, 0], ("0", "1")),
        ([2, -1, 0, 1], [2, -1, 0, 1], ("0", "1", "2")),
        (["b", None, "", " ", float("nan"), pd.NA, "-1", "a"], [1, *[-1] * 6, 0], ("a", "b")),
        (np.array(["b", np.nan, "a"]), [1, -1, 0], ("a", "b")),
        (np.ma.masked_array([4, 9, 4], [False, True, False]), [0, -1, 0], ("4",)),
        (pd.array([1, None, 0], dtype="Int64"), [1, -1, 0], ("0", "1")),
        (pd.Categorical(["hi", "lo", None], ["lo", "hi", "no"]), [1, 0, -1], ("lo", "hi", "no")),
        (pd.Categorical([5, 3, 3], [5, 3]), [0, 1, 1], ("5", "3")),
        ([1, "a", 1.0], [0, 1, 0], ("1", "a")),
        ([[1, 0, 0], [0, 0, 1], [0, 0, 0]], [0, 2, -1], ("0", "1", "2")),
        ([[1, 0], [np.nan, np.nan], [0, 1]], [0, -1, 1], ("0", "1")),
        ([None, None], [-1, -1], ()),
        # -1 is a class of its own here.
        ([-1, 1, 1], [0, 1, 1], ("-1", "1")),
        ([-2, -1, 0], [0, 1, 2], ("-2", "-1", "0")),
        ([b"-1", b"1", b"1"], [0, 1, 1], ("-1", "1")),
        (pd.Categorical([1, -1, 1]), [1, 0, 1], ("-1", "1")),
    ],
)
def test_classes_and_rows_without_one(labels, numbers, names):
    read = read_labels(labels)
    assert (read.values.tolist(), read.names) == (numbers, names)
    assert any("have no label" in note for note in read.notes) == (-1 in numbers)


@pytest.mark.parametrize("columns", [[[0, 1, 1], [0, 0, 3]], [[1, 0, 1], [1, 1, 0]]])
def test_factors_are_not_classes(columns):
    factors = np.array(columns).T
    read = read_labels(np.concatenate([factors, [[-1, -1]]]), names=["size", "shape"])
    assert read.values.tolist() == [*factors.tolist(), [-1, -1]]
    assert (read.names, read.are_classes) == (("size", "shape"), False)
    table = pd.DataFrame({"kind": ["b", "a", None], "signed": [1, -1, 1]})
    read = read_labels(table)
    assert (read.values.tolist(), read.names) == ([[1, 1], [0, 0], [-1, 1]], ("kind", "signed"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.linspace(0, 1, 30), "floats with fractions: they are taken as a numeric target"),
        (25.0 + np.arange(30) ** 2, "floats with 30 different values in 30 rows"),
        (1900 + 3 * np.arange(30), "whole numbers with 30 different values"),
    ],
)
def test_numeric_targets_are_kept_and_named(labels, message):
    read = read_labels(labels)
    assert read.values.tolist() == labels.tolist()
    assert message in read.notes[0]
    assert not read.are_classes
    # A few new ones are no classes either.
    assert read_labels([2, 5, None], target=True).values.tolist()[:2] == [2.0, 5.0]


def test_names_that_are_given():
    assert read_labels([2, 0, 2], names=["a", "b", "c"]).values.tolist() == [2, 0, 2]
    assert read_labels([3, 1, 2], names=["a", "b", "c"]).values.tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"from 0 to 1, one for each of 2 names.*got 3 of them"):
        read_labels([3, 1, 2], names=["a", "b"])


def test_new_labels_have_the_numbers_of_training():
    read = read_labels(["dog", "yak", None, "cat"], classes=("cat", "cow", "dog"))
    assert (read.values.tolist(), read.names) == ([2, -1, -1, 0], ("cat", "cow", "dog"))
    assert any("'yak' (1 row, taken as unlabelled)" in note for note in read.notes)
    assert read_labels([7.0, 3.0], classes=("3", "5", "7")).values.tolist() == [2, 0]
    assert read_labels([0.5, 3.0], classes=("3", "5", "7")).values.tolist() == [-1, 0]
    assert read_labels([-1, -1], classes=("-1", "1")).values.tolist() == [0, 0]
    assert read_labels([-1, -1], classes=("0", "1")).values.tolist() == [-1, -1]
    assert read_labels(np.eye(3)[[2, 0]], classes=("3", "5", "7")).values.tolist() == [2, 0]
    assert read_labels([1, 0], names=["dog", "cat"], classes=("cat", "dog")).values.tolist() == [
        0,
        1,
    ]


def test_labels_of_splits_are_read_together():
    labels, read = read_split_labels({"train": ["b", "c"], "test": np.array([["a"], ["c"]])})
    assert {split: each.tolist() for split, each in labels.items()} == {
        "train": [1, 2],
        "test": [0, 2],
    }
    assert untrained_class_notes(labels, read.names) == (
        "the training data lack the class 'a', which 1 held-out row has.",
    )
    with pytest.raises(
        ValueError, match=r"one form in all splits, got train \(2, 3\), test \(2,\)"
    ):
        read_split_labels({"train": np.eye(3)[:2], "test": [0, 1]})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pd.date_range("2020", periods=3), "numbers or words, got an array of dtype datetime64"),
        ([pd.Timestamp("2020")] * 3, "numbers or words, got a Timestamp"),
        ([1j, 0, 1], "numbers or words"),
        ([[1], [1, 2], [3]], "numbers or words, got a list|rows of one length"),
        ([1.0, np.inf, 0.0], "infinite"),
        (np.zeros((3, 4, 4)), r"must have the shape \(n,\)"),
        (5, "single value"),
        ([1, 2], "there are 3 rows but 2 labels"),
    ],
)
def test_what_is_no_label_is_refused(labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(labels, n=3)
    assert "\n" not in str(caught.value)


def test_of_a_data_set():
    x = np.random.default_rng(0).normal(size=(30, 2))
    labels = WORDS.astype(object)
    labels[4] = None
    dataset = Dataset.from_array(x, labels=labels)
    assert dataset.label_names == ("cat", "dog", "emu")
    assert dataset.notes == ("1 of 30 rows have no label.",)
    for split, rows in dataset.rows.items():
        expected = [-1 if row == 4 else NUMBERS[row] for row in rows.tolist()]
        assert dataset.labels[split].tolist() == expected


def test_labels_that_were_read_are_not_read_again():
    # Unlabelled rows beside those of class 1 would be the pair of classes -1 and 1.
    read = read_labels(["b", None, "b"], classes=("a", "b"))
    assert read.values.tolist() == [1, -1, 1]
    assert read_labels(read, names=read.names).values.tolist() == [1, -1, 1]
