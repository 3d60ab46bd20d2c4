"""`Dataset`: the support read from an array, its checks, and the fixed split."""

import re

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from pyro_vae.data import Dataset, array_file, digits, variable_file
from pyro_vae.data.dataset import SPLITS
from pyro_vae.data.validation import ValueRange

ROWS = 40


def values(*shape: int, high: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, (ROWS, *shape))


@pytest.mark.parametrize(
    ("array", "options", "kind"),
    [
        # Bright where they are not black; all levels alike.
        ((values(1, 8, 8, high=2) * 200).astype(np.uint8), {}, "grey"),
        (values(1, 8, 8, high=256).astype(np.uint8), {}, "levels"),
        (values(3, 8, 8, high=2).astype(np.uint8) * 255, {}, "levels"),
        (values(4), {"levels": 5}, "levels"),
        (values(4), {}, "counts"),
        (values(8, 8, high=2) * 0.9, {}, "grey"),
        (values(4) / 5, {}, "unit"),
        (values(4) - 0.5, {}, "real"),
        (values(4, high=2), {}, "binary"),
    ],
)
def test_the_kind_of_data(array, options, kind):
    assert Dataset.from_array(array, **options).kind == kind


@pytest.mark.parametrize(
    ("array", "levels", "support", "kept_levels", "dtype"),
    [
        (values(4, high=2).astype(bool), None, "binary", None, torch.uint8),
        (values(4, high=2), None, "binary", None, torch.uint8),
        (values(4, high=2).astype(float), None, "binary", None, torch.uint8),
        (values(4, high=2), 2, "integers", 2, torch.uint8),
        (values(4, high=256).astype(np.uint8), None, "integers", 256, torch.uint8),
        (values(4).astype(float), 17, "integers", 17, torch.uint8),
        (values(4, high=4096), 4096, "integers", 4096, torch.int16),
        (values(4), None, "counts", None, torch.uint8),
        (values(4).astype(np.uint32) * 100, None, "counts", None, torch.int16),
        (values(4) * 20_000, None, "counts", None, torch.int32),
        (values(4) * 2**40, None, "counts", None, torch.int64),
        (values(4).astype(">i4"), None, "counts", None, torch.uint8),
        (values(4) / 5, None, "unit", None, torch.float32),
        ((values(4) / 5).astype(np.float16), None, "unit", None, torch.float32),
        (values(4) - 0.5, None, "real", None, torch.float32),
        (torch.randn(ROWS, 4, dtype=torch.float64), None, "real", None, torch.float32),
        (torch.from_numpy(values(4)).to(torch.uint16), None, "counts", None, torch.uint8),
    ],
)
def test_support_is_read_from_the_array(array, levels, support, kept_levels, dtype):
    dataset = Dataset.from_array(array, levels=levels)
    assert dataset.support == support
    assert dataset.levels == kept_levels
    assert {dataset.split(split).dtype for split in SPLITS} == {dtype}
    together = torch.cat([dataset.split(split) for split in SPLITS]).double()
    given = torch.as_tensor(np.asarray(array).astype(np.float64))
    assert torch.allclose(together.sum(0), given.sum(0), rtol=1e-3)


@pytest.mark.parametrize(
    ("array", "support", "levels", "dtype"),
    [
        (values(4).astype(np.uint8), "counts", None, torch.uint8),
        (values(4).astype(np.uint8), "integers", 5, torch.uint8),
        (values(4).astype(float), "counts", None, torch.uint8),
        (values(4).astype(float), "real", None, torch.float32),
        (values(4) - 3, "real", None, torch.float32),
        (values(4, high=2), "counts", None, torch.uint8),
        (values(4, high=2).astype(bool), "unit", None, torch.float32),
    ],
)
def test_support_may_be_given(array, support, levels, dtype):
    dataset = Dataset.from_array(array, levels=levels, support=support)
    assert (dataset.support, dataset.levels) == (support, levels)
    assert {dataset.split(split).dtype for split in SPLITS} == {dtype}


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (values(4).astype(np.uint8), r"grey levels or counts: .*--data.levels 5, or 256.*counts"),
        (values(4, high=64).astype(np.uint8), "uint8 from 0 to 63, which may be"),
        (values(4).astype(float), r"floats without a fraction, from 0 to 4.*--data.levels 5"),
        (digits().train.double() * 16, "may be grey levels, counts or real"),
    ],
)
def test_what_takes_a_guess_is_refused(array, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_array(array)


@pytest.mark.parametrize(
    ("support", "levels", "message"),
    [
        ("counts", 5, "only integers have levels, got 5 for counts"),
        ("integers", None, "levels of integers must be at least 2, got None"),
        ("binary", None, "between 0 and 1, got values from 0 to 4"),
        ("unit", None, "between 0 and 1, got values from 0 to 4"),
    ],
)
def test_a_support_that_does_not_fit_is_refused(support, levels, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_array(values(4), support=support, levels=levels)


@pytest.mark.parametrize(
    ("shape", "event_shape"),
    [
        ((6,), (6,)),
        ((6, 7), (1, 6, 7)),
        ((6, 4), (1, 6, 4)),
        *[((c, 6, 7), (c, 6, 7)) for c in (1, 2, 3, 4, 5)],
        ((2, 8, 8), (2, 8, 8)),
        ((12, 8, 8), (12, 8, 8)),
    ],
)
def test_event_shapes(shape, event_shape):
    assert Dataset.from_array(values(*shape) / 5).event_shape == event_shape


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((28, 28, 3), ({"channels": "last"}, {"channels": "first"})),
        ((28, 20, 4), ({"channels": "last"}, {"channels": "first"})),
        ((16, 16, 40), ({"channels": "last"}, {"channels": "first"})),
        ((30, 8, 20), ({"channels": "last"}, {"channels": "first"})),
        ((28, 3), ({"layout": "image"}, {"layout": "series", "channels": "last"})),
        ((48, 4), ({"layout": "image"}, {"layout": "series", "channels": "last"})),
    ],
)
def test_where_the_channels_are_is_asked_and_each_answer_works(shape, options):
    array = values(*shape) / 5
    with pytest.raises(ValueError, match=r"--data\.") as caught:
        Dataset.from_array(array)
    message = str(caught.value)
    for words in options:
        for name in words:
            assert f"--data.{name} " in message
        taken = Dataset.from_array(array, **words)
        moved = np.moveaxis(array, -1, 1) if words.get("channels") == "last" else array
        assert taken.event_shape == ((1, *shape) if words == {"layout": "image"} else moved.shape[1:])  # fmt: skip
        np.testing.assert_allclose(taken.test.reshape(-1), moved[taken.rows["test"]].reshape(-1))
    if "numpy.moveaxis(array, -1, 1)" in message:
        assert Dataset.from_array(np.moveaxis(array, -1, 1)).event_shape == (shape[2], *shape[:2])


def test_layout_series():
    array = values(3, 12) / 5
    assert Dataset.from_array(array).event_shape == (1, 3, 12)
    assert Dataset.from_array(array, layout="series").event_shape == (3, 12)
    splits = Dataset.from_splits({"train": array, "test": array[:9]}, layout="series")
    assert splits.event_shape == (3, 12)
    assert Dataset.from_array(values(12) / 5, layout="series").event_shape == (12,)
    with pytest.raises(ValueError, match=r"channels than positions.*--data.channels last, or first"):  # fmt: skip
        Dataset.from_array(values(12, 3) / 5, layout="series")
    for channels, event_shape in (("first", (12, 3)), ("last", (3, 12))):
        series = Dataset.from_array(values(12, 3) / 5, layout="series", channels=channels)
        assert series.event_shape == event_shape
    with pytest.raises(ValueError, match=r"needs an array of 4 axes, .*--data.layout series"):
        Dataset.from_array(array, channels="last")
    with pytest.raises(ValueError, match="the shape of array must be"):
        Dataset.from_array(values(2, 3, 12) / 5, layout="series")


@pytest.mark.parametrize(("dtype", "high"), [("uint16", 4000), ("uint16", 60000), ("int64", 256)])
@pytest.mark.parametrize("shape", [(8, 7), (4, 8, 8)])
def test_pictures_of_integers_are_not_taken_for_counts(dtype, high, shape):
    array = values(*shape, high=high).astype(dtype)
    with pytest.raises(ValueError, match="grey levels, counts or measurements") as caught:
        Dataset.from_array(array)
    levels = re.search(r"--data.levels (\d+)", str(caught.value))[1]
    ways = re.findall(r"--data.support (\w+)", str(caught.value))
    assert Dataset.from_array(array, levels=int(levels)).levels == int(levels) > array.max()
    assert ways == ["counts", "real"]
    for support in ways:
        assert Dataset.from_array(array, support=support).support == support
    # Rows of a table and series of events are what counts are.
    assert Dataset.from_array(array.reshape(ROWS, -1)).support == "counts"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (values(), "looks like labels"),
        (np.array(3.0), "looks like labels"),
        (values(1), "looks like labels: it has shape .* one whole number in each row"),
        (np.eye(5)[values()], "looks like labels: it has shape .* a single 1 in each row"),
        (np.eye(5, dtype=bool)[values()], "a single 1 in each row"),
        (values(48, 3), "looks like a single image with its channels last.*40, 1, 48, 3"),
        (values(48, 1), "looks like a single image"),
        (values(28, 28, 1), r"channels last.*moveaxis\(array, -1, 1\)"),
        (values(28, 28, 3), "channels last"),
        (values(1, 3, 8, 8), "must be .*channels, height, width"),
        (values(12, 9, 30), "may have its channels on the second axis or on the last"),
        (values(4)[:9], "at least 10 rows to be split, got 9"),
        (values(0), r"empty, of shape \(28, 0\)"),
        (values(4) - 2, "goes down to -2; give real data as floats"),
        (values(4).astype(str), "booleans, integers or floats, got an array of dtype"),
        (values(4).astype(object), "booleans, integers or floats, got an array of dtype object"),
        (values(4).astype(complex), "booleans, integers or floats, got an array of dtype complex"),
        (torch.ones(ROWS, 4, dtype=torch.complex64), "got torch.complex64"),
        (torch.ones(ROWS, 4).to_sparse(), "dense tensor"),
        (np.where(values(4) == 0, np.nan, 0.5), "not finite"),
        (np.where(values(4) == 0, np.inf, 0.5), "not finite"),
        (values(4) * 1e300, "not finite in float32"),
    ],
)
def test_bad_arrays_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_array(array)


@pytest.mark.parametrize(
    ("array", "levels", "message"),
    [
        (values(4), 1, "levels of integers must be at least 2, got 1"),
        (values(4, high=17), 16, "between 0 and 15, got values from 0 to 16"),
        (values(4) - 1, 16, "between 0 and 15, got values from -1"),
        (values(4) / 2, 16, "got fractions"),
    ],
)
def test_values_outside_the_levels_are_refused(array, levels, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_array(array, levels=levels)


def test_split_is_fixed_disjoint_and_leaves_the_global_stream():
    array = np.arange(2 * 105).reshape(105, 2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = Dataset.from_array(array, labels=array[:, 0])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    second = Dataset.from_array(torch.from_numpy(array))
    assert [len(first.split(split)) for split in SPLITS] == [74, 10, 21]
    assert all(torch.equal(first.split(split), second.split(split)) for split in SPLITS)
    assert sorted(torch.cat([first.split(split)[:, 0] for split in SPLITS])) == list(array[:, 0])
    assert all(
        torch.equal(first.labels[split], first.split(split)[:, 0].long()) for split in SPLITS
    )


def test_what_looks_like_labels_may_be_data_of_another_type():
    assert Dataset.from_array(values(1) / 3).event_shape == (1,)
    # Rows that sum to one, but hold more than a single one.
    assert Dataset.from_array(np.eye(4)[values(high=4)] * 0.5 + 0.125).support == "unit"


def test_data_do_not_share_the_users_memory():
    array = values(4).astype(np.uint8) + 100
    for dataset in (
        Dataset.from_splits({"train": array, "test": array}),
        Dataset.from_array(array),
    ):
        before = dataset.test.clone()
        array += 1
        assert torch.equal(dataset.test, before)


@pytest.mark.parametrize("change", ["read-only", "reversed", "transposed"])
def test_arrays_in_any_order_of_memory(change):
    array = values(4)
    given = {"read-only": array.copy(), "reversed": array[::-1].copy()[::-1]}.get(
        change, np.asfortranarray(array)
    )
    given.flags.writeable = change != "read-only"
    dataset = Dataset.from_array(given)
    assert torch.equal(dataset.train, Dataset.from_array(array).train)


def test_names_of_elements():
    dataset = Dataset.from_array(values(3), event_names=["a", "b", "c"], label_names=["x"])
    assert (dataset.event_names, dataset.label_names) == (("a", "b", "c"), ("x",))
    with pytest.raises(ValueError, match=r"2 names do not fit an event of shape \(3,\)"):
        Dataset.from_array(values(3), event_names=["a", "b"])


def test_labels_must_be_as_many_as_rows():
    with pytest.raises(ValueError, match="40 rows but 39 labels"):
        Dataset.from_array(values(4), labels=np.zeros(39))
    with pytest.raises(ValueError, match=r"must have the shape \(n,\)"):
        Dataset.from_array(values(4), labels=values(4, 4))
    with pytest.raises(ValueError, match="single value"):
        Dataset.from_array(values(4), labels=np.array(1))
    with pytest.raises(ValueError, match=r"40 rows but 3 labels in the labels of array \(test\)"):
        Dataset.from_splits({"train": values(4), "test": values(4)}, labels={"test": np.zeros(3)})


def test_validation_is_a_tenth_of_training_data_that_came_split():
    array = np.arange(ROWS * 3).reshape(ROWS, 3)
    labels = np.arange(ROWS)
    dataset = Dataset.from_splits({"train": array, "test": array[:7]}, labels={"train": labels})
    assert [len(dataset.split(split)) for split in SPLITS] == [36, 4, 7]
    for split in ("train", "validation"):
        assert torch.equal(dataset.split(split)[:, 0], 3 * dataset.labels[split])
    assert dataset.labels["validation"].tolist() != [36, 37, 38, 39]


def test_splits_share_one_support():
    # The test split alone would be binary, the training split alone would fit in uint8.
    dataset = Dataset.from_splits(
        {"train": values(4), "validation": values(4) * 100, "test": values(4, high=2)}
    )
    assert dataset.support == "counts"
    assert {dataset.split(split).dtype for split in SPLITS} == {torch.int16}
    with pytest.raises(ValueError, match="must have one type"):
        Dataset.from_splits({"train": values(4), "test": values(4) / 5})
    with pytest.raises(ValueError, match="splits must be train, test and perhaps"):
        Dataset.from_splits({"train": values(4), "valid": values(4)})
    with pytest.raises(ValueError, match=r"training data's event shape \(4,\), got \(5,\)"):
        Dataset.from_splits({"train": values(4), "test": values(5)})


@pytest.mark.parametrize(
    ("support", "levels", "value", "message"),
    [
        ("grey", None, 0.0, "support must be one of binary, integers"),
        ("integers", None, 0.0, "levels of integers must be at least 2, got None"),
        ("unit", 256, 0.0, "only integers have levels, got 256 for unit"),
        ("binary", None, 2.0, "between 0 and 1, got values from 2 to 2"),
        ("binary", None, 0.5, "got fractions"),
        ("integers", 4, 4.0, "between 0 and 3"),
        ("counts", None, -1.0, "must hold counts data"),
        ("unit", None, 1.5, "must hold unit data, between 0 and 1"),
        ("unit", None, float("nan"), "not finite"),
        ("real", None, float("-inf"), "not finite"),
    ],
)
def test_construction_checks(support, levels, value, message):
    good = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=message):
        Dataset("mine", support, levels, good, good, torch.full((3, 2), value))


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="one of train, validation, test, got 'valid'"):
        digits().split("valid")


def test_digits():
    dataset = digits()
    assert [len(dataset.split(split)) for split in SPLITS] == [1257, 180, 360]
    assert dataset.event_shape == (1, 8, 8)
    assert (dataset.support, dataset.levels) == ("integers", 17)
    assert dataset.train.dtype == torch.uint8
    together = torch.cat([dataset.split(split) for split in SPLITS]).flatten(1)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # Each of sklearn's images once, with its label.
    ours = torch.cat([together, torch.cat([dataset.labels[s] for s in SPLITS])[:, None]], 1)
    theirs = torch.cat([torch.as_tensor(images), torch.as_tensor(labels)[:, None]], 1)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())
    # The split that reported numbers stand on: it must not drift with versions of torch.
    assert dataset.labels["test"][:10].tolist() == [3, 2, 4, 3, 3, 5, 6, 2, 8, 8]
    assert dataset.train.sum() == 393277


@pytest.mark.parametrize("form", ["npy", "mapped", "npz", "mat", "h5"])
def test_nan_is_named_in_arrays_of_every_format(tmp_path, form):
    x = np.random.default_rng(0).normal(size=(60, 6))
    x[[7, 9], [2, 4]] = np.nan, np.inf
    path = tmp_path / f"x.{form.replace('mapped', 'npy')}"
    if form == "npz":
        np.savez(path, x=x)
    elif form == "mat":
        scipy.io.savemat(path, {"x": x})
    elif form == "h5":
        with h5py.File(path, "w") as file:
            file["x"] = x
    else:
        np.save(path, x)
    read = {"mat": variable_file, "h5": variable_file}.get(form, array_file)
    options = {"memory_map": True} if form == "mapped" else {}
    where = r"1 in element 2 and 1 in element 4, in rows 8 and 10 \(rows counted from 1, elements from 0\)"
    with pytest.raises(ValueError, match=where):
        read(path, **options)


def test_nan_in_arrays_that_are_split_and_in_pictures():
    x = np.random.default_rng(0).random((30, 4, 4))
    x[5, 1, 2] = np.nan
    with pytest.raises(ValueError, match=r"array holds .*: 1 in channel 0, in row 6 \("):
        Dataset.from_array(x)
    with pytest.raises(ValueError, match=r"the test split holds .*: 1 in channel 0, in row 6 \("):
        Dataset.from_splits({"train": np.nan_to_num(x), "test": x})


@pytest.mark.parametrize("row", [0, 5, 9])
def test_nan_in_any_block_is_in_the_range(monkeypatch, row):
    monkeypatch.setattr("pyro_vae.data.validation._BLOCK_VALUES", 4)
    x = torch.ones(10, 2)
    x[row, 1] = torch.nan
    value_range = ValueRange.from_values(x)
    assert value_range == ValueRange(1.0, 1.0, True, missing=True)
