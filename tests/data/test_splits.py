"""`split_rows`: by class, by group, by given words; and the tenth of training rows that validates."""

import numpy as np
import pytest
import torch
from scipy import sparse

from pyro_vae.data import Dataset, array_file, count_file
from pyro_vae.data.splits import (
    SPLITS,
    parse_split_names,
    permutation,
    read_row_words,
    split_rows,
    validation_rows,
)

GENERATOR = np.random.default_rng(0)


def check_partition(parts, n: int) -> None:
    assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(n))


@pytest.mark.parametrize(
    "labels", [None, torch.arange(50), torch.zeros(50).long(), torch.rand(50)]
)
def test_without_classes_it_is_the_permutation(labels):
    parts, rule = split_rows(50, labels=labels)
    order = permutation(50, seed=20140501)
    assert torch.equal(torch.cat([parts[split] for split in SPLITS]), order)
    assert rule == "70 / 10 / 20 by a fixed permutation"


@pytest.mark.parametrize("counts", [[30] * 10, [200, 60, 40], [100, 2, 2, 1, 1], [2] * 20, [9, 2]])
def test_classes_are_in_all_splits(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    n = len(labels)
    parts, rule = split_rows(n, labels=labels)
    check_partition(parts, n)
    assert [len(parts[split]) for split in SPLITS] == [n - n // 10 - n // 5, n // 10, n // 5]
    assert "each class" in rule
    for label, count in enumerate(counts):
        got = [int((labels[parts[split]] == label).sum()) for split in SPLITS]
        assert got[0] > 0 or count == 1
        if count >= 30:
            assert np.allclose(np.array(got) / count, (0.7, 0.1, 0.2), atol=1.5 / count + 0.01)
    held_out = validation_rows(n, labels=labels)
    assert len(held_out) == max(1, n // 10)
    trained = np.delete(labels.numpy(), held_out.numpy())
    assert all((trained == label).any() for label, count in enumerate(counts) if count > 1)


def test_rows_without_label_are_in_all_splits():
    labels = torch.arange(100) % 2
    labels[torch.arange(100) % 10 > 0] = -1
    parts, _ = split_rows(100, labels=labels)
    check_partition(parts, 100)
    assert [int((labels[parts[split]] == -1).sum()) for split in SPLITS] == [63, 9, 18]


def test_the_split_by_class_is_fixed():
    parts, _ = split_rows(20, labels=torch.arange(20) % 2)
    # It must not drift with versions of NumPy or torch.
    assert parts["test"].tolist() == [14, 15, 16, 13]


@pytest.mark.parametrize(
    "sizes", [[5] * 40, [60, 20, 20], [1] * 100, GENERATOR.integers(1, 30, 60)]
)
def test_groups_stay_together(sizes):
    groups = GENERATOR.permutation(np.repeat([f"site {i}" for i in range(len(sizes))], sizes))
    n = len(groups)
    parts, rule = split_rows(n, groups=groups)
    check_partition(parts, n)
    inside = [set(groups[parts[split]]) for split in SPLITS]
    assert sum(map(len, inside)) == len(sizes)
    shares = [len(parts[split]) / n for split in SPLITS]
    if len(sizes) > 3:
        assert np.allclose(shares, (0.7, 0.1, 0.2), atol=0.01)
        assert rule.startswith("70 / 10 / 20 by whole groups")
    assert torch.equal(split_rows(n, groups=groups)[0]["test"], parts["test"])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.repeat(["a", "b"], 10), "at least 3 groups to be split, got 2"),
        (np.repeat(["a", "b", "c"], [28, 1, 1]), "one group has 28 of 30 rows"),
        (np.array(["a", None] * 10, dtype=object), r"row 2 has no group \(10 of 20"),
        (np.arange(19), "20 rows but groups of shape"),
    ],
)
def test_groups_that_cannot_be_split(groups, message):
    with pytest.raises(ValueError, match=message):
        split_rows(30 if len(groups) == 30 else 20, groups=groups)


def test_given_splits():
    words = np.array(["train"] * 10 + ["TEST"] * 3 + ["dev"] * 2)
    parts, rule = split_rows(15, splits=words)
    assert [parts[split].tolist() for split in SPLITS] == [[*range(10)], [13, 14], [10, 11, 12]]
    assert rule == "as given"
    labels = torch.tensor([*[0, 1] * 5, 0, 0, 0, 0, 0])
    words[13:] = "train"
    parts, rule = split_rows(15, splits=words, labels=labels)
    check_partition(parts, 15)
    assert [len(parts[split]) for split in SPLITS] == [11, 1, 3]
    assert rule == "train and test as given; 1 of 12 training rows validate"
    _, rule = split_rows(15, splits=words, groups=np.arange(15) % 5)
    assert "some groups are in several splits" in rule


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (np.arange(20) % 3, "must be the words train, .*got '0', '1', '2' first in row 1"),
        (np.array(["train", None] * 10, dtype=object), r"'None' first in row 2 \(10 of 20"),
        (np.array(["train"] * 20), "must have rows of train and of test, got none of test"),
        (np.array(["test"] * 20), "got none of train"),
        (np.array(["test"] * 19), "20 rows but splits of shape"),
    ],
)
def test_given_splits_that_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        split_rows(20, splits=words)


def test_a_word_a_row_from_a_file(tmp_path):
    words = ["train", "test", "val"]
    np.save(tmp_path / "a.npy", np.array(words))
    (tmp_path / "a.txt").write_text("train\ntest\nval\n")
    (tmp_path / "a.csv").write_text("split\ntrain\ntest\nval\n")
    for suffix in ("npy", "txt", "csv"):
        found = read_row_words(tmp_path / f"a.{suffix}", 3)
        assert parse_split_names(found).tolist() == ["train", "test", "validation"]
    (tmp_path / "b.csv").write_text("file,split\nb.png,test\nx/a.png,train\n")
    assert read_row_words(tmp_path / "b.csv", names=["x/a.png", "b.png"]).tolist() == [
        "train",
        "test",
    ]
    (tmp_path / "b.csv").write_text("b.png,test\na.png,train\n")
    assert read_row_words(tmp_path / "b.csv", names=["x/a.png", "y/b.png"]).tolist() == [
        "train",
        "test",
    ]
    with pytest.raises(ValueError, match=r"b.csv has no line for '(x/)?c.png'"):
        read_row_words(tmp_path / "b.csv", names=["x/a.png", "x/c.png"])
    with pytest.raises(ValueError, match="one word for each of 5 rows, got 3"):
        read_row_words(tmp_path / "a.txt", 5)
    with pytest.raises(ValueError, match=r"must be a .npy, .csv or .txt file"):
        read_row_words(tmp_path / "c.txt", 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\na\nb\nb\n", "one word for each of 3 rows, got 4"),
        ("", "is empty"),
        ("a,1\nb,2\n", r"one word for each row, got the shape \(2, 2\)"),
    ],
)
def test_files_of_words_that_do_not_fit(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_row_words(tmp_path / "a.csv", 3)


def test_an_empty_line_is_a_row_without_a_word(tmp_path):
    (tmp_path / "a.csv").write_text("group\na\n\nb\n\n")
    assert read_row_words(tmp_path / "a.csv", 3).tolist() == ["a", "", "b"]


def test_a_file_that_is_named_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("p.png,train\n\nq.png,test\np.png,test\n")
    with pytest.raises(ValueError, match="names some files more than once"):
        read_row_words(tmp_path / "a.csv", names=["p.png", "q.png"])


def test_an_array_of_words_must_have_one_axis(tmp_path):
    np.save(tmp_path / "a.npy", np.array("train"))
    with pytest.raises(ValueError, match=r"got the shape \(\)"):
        read_row_words(tmp_path / "a.npy", 1)


def test_groups_and_splits_of_arrays(tmp_path):
    x, group = GENERATOR.normal(size=(40, 3)), np.arange(40) // 4
    split = np.repeat(["train", "valid", "test"], [20, 10, 10])
    np.savez(tmp_path / "a.npz", x=x, group=group, y=group)
    dataset = array_file(tmp_path / "a.npz")
    assert "by whole groups" in dataset.split_rule
    assert not set(dataset.labels["test"].tolist()) & set(dataset.labels["train"].tolist())
    assert "the training data lack the classes" in dataset.notes[-1]
    np.savez(tmp_path / "a.npz", x=x, part=split)
    assert array_file(tmp_path / "a.npz", split="part").rows["test"].tolist() == [*range(30, 40)]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "split.npy", split)
    dataset = array_file(tmp_path / "x.npy", split=str(tmp_path / "split.npy"))
    assert dataset.rows["validation"].tolist() == [*range(20, 30)]
    (tmp_path / "split.csv").write_text("\n".join(["part", *split]))
    dataset = array_file(tmp_path / "x.npy", split=str(tmp_path / "split.csv"))
    assert dataset.rows["validation"].tolist() == [*range(20, 30)]
    with pytest.raises(ValueError, match=r"split must name an array of the file .* got 'part'"):
        array_file(tmp_path / "x.npy", split="part")
    with pytest.raises(ValueError, match="memory-mapped"):
        array_file(tmp_path / "x.npy", split="part", memory_map=True)
    sparse.save_npz(tmp_path / "c.npz", sparse.csr_array(GENERATOR.poisson(1, (40, 3))))
    dataset = count_file(tmp_path / "c.npz", split=str(tmp_path / "split.npy"))
    assert dataset.rows["test"].tolist() == [*range(30, 40)]


def test_sorted_splits_keep_their_classes():
    labels = np.arange(10).repeat(30)
    x = GENERATOR.normal(size=(300, 2))
    dataset = Dataset.from_splits(
        {"train": x, "test": x}, labels={"train": labels, "test": labels}
    )
    for split in ("train", "validation"):
        assert (
            torch.bincount(dataset.labels[split]).tolist() == [27 if split == "train" else 3] * 10
        )
    only = Dataset.from_splits(
        {"train": x, "test": x}, labels={"train": labels % 9, "test": labels}
    )
    assert only.notes == (
        "the training data lack the class '9', which 30 held-out rows has.",
    ) or ("the training data lack the class '9', which 30 held-out rows have." in only.notes)
