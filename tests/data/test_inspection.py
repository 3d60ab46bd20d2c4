"""Each fault that is planted is found and named, and clean data are passed over in silence."""

import re
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from pyro_vae.data import (
    Dataset,
    Rows,
    array_file,
    digits,
    freyface,
    mnist,
    newsgroups,
    table_file,
)
from pyro_vae.data.inspection import check_values, inspect
from pyro_vae.data.suspect_values import find_fill_values

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=(400, 6))
NAMES = [f"c{column}" for column in range(6)]


def table(values: np.ndarray = NORMAL, **options) -> Dataset:
    return Dataset.from_array(values, name="t", event_names=NAMES[: values.shape[1]], **options)


def planted(**columns) -> np.ndarray:
    """Normal values, but for some columns."""
    values = NORMAL.copy()
    for name, column in columns.items():
        values[:, NAMES.index(name)] = column
    return values


def kinds(dataset: Dataset, *support: str) -> dict[str, str]:
    """What is found, by its kind."""
    return {finding.kind: finding.text for finding in inspect(dataset, *support)}


def at(rows: list[int], value: float, others: np.ndarray = NORMAL[:, 1]) -> np.ndarray:
    values = np.array(others, dtype=np.float64)
    values[rows] = value
    return values


# ---- fill values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        -9999,
        -999,
        -99,
        9999,
        999.9,
        1e20,
        1e30,
        9.96921e36,
        -3.4028234e38,
        2**31 - 1,
        65535,
        7.3e12,
    ],
)
def test_fill_values_are_refused_with_column_value_and_count(value):
    dataset = table(planted(c1=at([3, 50], value), c4=at([200], value)))
    with pytest.raises(ValueError, match=r"--data\.check warn") as error:
        check_values(dataset)
    found = re.findall(r"(\S+) \((\d+ rows?) of '(\w+)'\)", str(error.value))
    shown, counts, columns = zip(*found, strict=True)
    # A value that is no customary mark must be repeated.
    both = value != 7.3e12
    assert counts == ("2 rows", "1 row")[: 1 + both]
    assert columns == ("c1", "c4")[: 1 + both]
    np.testing.assert_allclose(np.array(shown, float), value, rtol=1e-5)
    assert any(finding.refused for finding in check_values(dataset, judgement="warn"))
    assert check_values(dataset, judgement="none") == ()


@pytest.mark.parametrize(
    "others",
    [
        RANDOM.uniform(0, 50_000, 400),
        RANDOM.integers(0, 2, 400),
        np.exp(3 * RANDOM.normal(size=400)),
        np.repeat(0.0, 400),
    ],
    ids=["wide", "two values", "lognormal", "constant"],
)
def test_a_negative_mark_among_positive_values_is_found(others):
    assert find_fill_values(at([3, 50], -9999, others))[0] == [(-9999, 2)]


def test_several_marks_are_found_and_most_pixels_may_be_marks():
    values = at([3], 1e20, at([5, 6], -999, at([7], -9999)))
    marks, rest = find_fill_values(values)
    assert sorted(marks) == [(-9999, 1), (-999, 2), (1e20, 1)]
    assert len(rest) == 396
    pictures = RANDOM.random((40, 3, 8, 8))
    pictures[:, 1, :, 1:] = -9999
    text = kinds(Dataset.from_array(pictures))["fill value"]
    assert text.startswith("-9999 (2240 values of channel 1) lies far")


@pytest.mark.parametrize(
    "values",
    [
        np.exp(4 * RANDOM.normal(size=5000)),
        RANDOM.standard_cauchy(5000),
        RANDOM.pareto(0.8, 5000),
        np.arange(0, 100_000.0),
        np.append(RANDOM.normal(5000, 2000, 1000), 9999),
        at([3], 99, np.zeros(400)),
        RANDOM.integers(0, 100, 500).astype(float),
        np.append(np.zeros(50), np.arange(65536.0)),
    ],
)
def test_tails_are_not_marks(values):
    assert find_fill_values(values)[0] == []


def test_marks_in_counts_and_16_bit_pictures():
    counts = RANDOM.poisson(3, (300, 5))
    counts[[4, 90], 2] = 65535
    assert "65535 (2 rows of element 2)" in kinds(Dataset.from_array(counts))["fill value"]
    tail = RANDOM.negative_binomial(0.1, 1e-4, (1000, 50))
    assert not kinds(Dataset.from_array(tail))
    pictures = RANDOM.integers(0, 65536, (50, 1, 8, 8))
    assert not kinds(Dataset.from_array(pictures, levels=65536))


def test_an_outlier_is_noted():
    text = kinds(table(planted(c2=at([9], 3.7e12))))["outlier"]
    assert text.startswith("'c2' has values more than a million times")


# ---- identifiers, constants, copies -----------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        np.arange(1, 401),
        RANDOM.permutation(400),
        7 + 10 * RANDOM.permutation(400),
        np.cumsum(RANDOM.integers(1, 5, 400)),
    ],
    ids=["1..n", "permutation", "tens", "ascending"],
)
def test_identifiers_are_noted(column, tmp_path):
    found = kinds(table(planted(c3=column)))
    assert list(found) == ["identifier"]
    assert found["identifier"].startswith("'c3' numbers the rows")
    assert "leave it out." in found["identifier"]


def test_an_identifier_is_known_by_its_name_and_a_table_is_told_of_its_option(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(NORMAL[:, :3], columns=["u", "v", "w"])
    frame.insert(0, "patient_id", RANDOM.choice(10**6, 400, replace=False))
    frame.to_csv(tmp_path / "t.csv", index=False)
    text = kinds(table_file(tmp_path / "t.csv"))["identifier"]
    assert text.endswith("leave it out with --data.drop patient_id.")
    frame["a b"] = frame["c"] = 0.5
    frame.to_csv(tmp_path / "t.csv", index=False)
    text = kinds(table_file(tmp_path / "t.csv"))["constant"]
    assert text.endswith("leave them out with --data.drop 'a b,c'.")
    assert not kinds(table_file(tmp_path / "t.csv", drop="a b,c,patient_id"))


def test_a_time_is_noted_and_no_other_column():
    assert list(kinds(table(planted(c0=0.1 * np.arange(400))))) == ["time"]
    whole = RANDOM.choice(10**6, 400, replace=False)
    assert not kinds(table(planted(c0=whole)))


def test_constants_are_noted():
    values = planted(c0=3.5, c5=at([7], 2.0, np.full(400, 1.5)))
    found = kinds(table(values))
    assert re.match(r"'c0' never varies .*: leave it out\.", found["constant"])
    assert "1.5 in almost all of 'c5'" in found["nearly constant"]
    counts = RANDOM.poisson(3, (300, 20))
    counts[:, 4:12] = 0
    text = kinds(Dataset.from_array(counts))["constant"]
    assert text.startswith(
        "element 4, element 5, element 6, element 7, element 8 and 3 more never"
    )


def test_constant_pixels_are_no_news_but_a_constant_channel_is():
    pictures = RANDOM.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    pictures[..., 0] = 0
    assert not kinds(Dataset.from_array(pictures))
    assert not kinds(Dataset.from_array(pictures[:, 0].reshape(50, 64)))
    pictures[:, 2] = 255
    assert kinds(Dataset.from_array(pictures))["constant"].startswith("channel 2 never")


def test_copies_are_noted():
    found = kinds(table(planted(c2=1.8 * NORMAL[:, 0] + 32)))
    assert "('c2' of 'c0')" in found["copy"]
    # Correlated as strongly as this, but not within rounding.
    for noise in (1e-3, 2e-5):
        assert not kinds(table(planted(c2=1.8 * NORMAL[:, 0] + noise * NORMAL[:, 2])))


# ---- densities --------------------------------------------------------------------------------


def test_repeated_values_are_noted_under_a_continuous_likelihood():
    zeros = np.where(NORMAL[:, 0] < 0, 0, NORMAL[:, 0])
    found = kinds(table(planted(c0=zeros, c1=np.digitize(NORMAL[:, 1], [0]))))
    assert re.search(r"\(0 in 5\d % of 'c0'\)", found["repeated value"])
    assert "(2 in 'c1')" in found["few values"]
    # The standard deviation of rounding to multiples of 1.
    assert "at the floor (at least 0.289 there)" in found["few values"]
    assert "('c3')" in kinds(table(planted(c3=np.round(2.5 * NORMAL[:, 3]))))["rounded"]
    assert not kinds(table(np.round(NORMAL, 1)))


def test_data_of_whole_numbers_and_of_levels_are_noted():
    scans = digits().split("train").flatten(1).double()
    text = kinds(Dataset.from_array(scans, support="real"))["whole numbers"]
    assert "--data.levels 17" in text
    text = kinds(Dataset.from_array((scans / 16).float()))["levels"]
    assert "multiples of 1/16" in text
    assert "--data.levels 17" in text
    pictures = RANDOM.integers(0, 256, (50, 28, 28)) / np.float32(255)
    assert "--data.levels 256" in kinds(Dataset.from_array(pictures))["levels"]
    assert "--likelihood discretized_logistic" in kinds(digits(), "real")["levels"]
    for support in ("unit", "binary", "integers"):
        assert not kinds(digits(), support)


# ---- units ------------------------------------------------------------------------------------


def test_units_are_noted():
    values = NORMAL * [1, 1, 1e5, 1, 1, 0.01]
    text = kinds(table(values, scale="none"))["scales"]
    assert "('c5')" in text
    assert "('c2')" in text
    assert not kinds(table(values))
    assert kinds(table(planted(c1=2_450_000 + NORMAL[:, 1])))["float64"].startswith("'c1' would")


def test_masks_are_noted_unless_a_binary_likelihood_is_trained():
    masks = 255 * RANDOM.integers(0, 2, (50, 8, 8), dtype=np.uint8)
    dataset = Dataset.from_array(masks)
    assert "save x == 255 as booleans" in kinds(dataset)["mask"]
    assert not kinds(dataset, "binary")


# ---- rows that are alike ----------------------------------------------------------------------


def test_twins_are_counted():
    found = kinds(table(np.repeat(NORMAL[:60], 5, 0)))
    assert re.match(
        r"\d+ of 60 test rows and \d+ of 30 validation rows are also in the", found["twins"]
    )
    assert "--data.group" in found["twins"]
    # Equal in float32 are not equal.
    assert "twins" not in kinds(table(2_450_000 + 1e-3 * NORMAL))


def test_of_a_data_set_with_a_fixed_split_no_option_is_named():
    values = torch.from_numpy(NORMAL[:60]).float()
    found = kinds(Dataset("d", "real", None, values, values[:9], values[:12], noun="cell"))
    assert found["twins"].startswith("12 of 12 test cells and 9 of 9 validation cells are also")
    assert "--data.group" not in found["twins"]


def test_rows_that_are_alike_by_chance_are_not():
    assert not kinds(Dataset.from_array(RANDOM.random((300, 6)) < 0.5))
    assert not kinds(Dataset.from_array(RANDOM.poisson(0.5, (300, 3))))


def test_near_twins_are_counted():
    values = np.repeat(NORMAL[:200], 2, 0) + 1e-6 * NORMAL
    assert re.match(r"\d+ of 80 test rows almost equal", kinds(table(values))["near twins"])
    assert not kinds(table(NORMAL[:, :2]))
    # Points of a curve are near one another by chance.
    t = RANDOM.random((1000, 1))
    assert not kinds(Dataset.from_array(np.hstack([np.sin(5 * t), t, t**2])))


def test_frames_of_a_video_are_noted(data_root):
    with np.load(data_root / "freyface/freyface.npz") as file:
        assert "as in a video" in kinds(Dataset.from_array(file["images"]))["neighbours"]


def test_groups_of_one_row_are_noted():
    def notes(groups: np.ndarray) -> tuple[str, ...]:
        return Dataset.from_rows(Rows(NORMAL, groups=groups)).notes

    assert notes(np.arange(400))[0].startswith("each of the 400 rows is a group of its own")
    assert notes(np.arange(400) // 2) == ()


def test_data_that_are_not_split_have_no_twins():
    dataset = Dataset.from_rows(Rows(planted(c3=np.arange(400))), split=False)
    assert list(kinds(dataset)) == ["identifier"]


# ---- what messages advise ---------------------------------------------------------------------

MASKS = 255 * RANDOM.integers(0, 2, (50, 8, 8), dtype=np.uint8)
GREY = RANDOM.integers(0, 17, (50, 8, 8))


@pytest.mark.parametrize(
    ("kind", "dataset", "mended", "support"),
    [
        (
            "fill value",
            table(planted(c1=at([3, 50], 1e20))),
            table(np.delete(NORMAL, [3, 50], 0)),
            "real",
        ),
        ("constant", table(planted(c5=1.0)), table(NORMAL[:, :5]), "real"),
        (
            "scales",
            table(NORMAL * 10.0 ** np.arange(6), scale="none"),
            table(NORMAL * 10.0 ** np.arange(6)),
            "real",
        ),
        ("mask", Dataset.from_array(MASKS), Dataset.from_array(MASKS == 255), "binary"),
        (
            "levels",
            Dataset.from_array(GREY / 16),
            Dataset.from_array(np.round(16 * (GREY / 16)).astype(int), levels=17),
            "unit",
        ),
        (
            "levels",
            Dataset.from_array(GREY, levels=17),
            Dataset.from_array(GREY, levels=17),
            "integers",
        ),
        (
            "whole numbers",
            table(GREY[:, 0, :6] * 1.0, support="real"),
            table(GREY[:, 0, :6] * 1.0, support="counts"),
            "counts",
        ),
        ("twins", table(np.repeat(NORMAL[:60], 5, 0)), table(NORMAL[:60]), "real"),
    ],
)
def test_what_is_advised_helps(kind, dataset, mended, support):
    assert kind in kinds(
        dataset, "real" if dataset.support == "integers" and kind == "levels" else dataset.support
    )
    assert not kinds(mended, support)


# ---- clean data, and data that are not in memory ----------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("iris", ["twins"]),
        ("wine", []),
        ("breast_cancer", []),
        ("diabetes", ["repeated value", "few values"]),
    ],
)
def test_known_tables(name, expected):
    data = getattr(sklearn.datasets, f"load_{name}")()
    dataset = Dataset.from_array(data.data, event_names=[str(word) for word in data.feature_names])
    assert list(kinds(dataset)) == expected
    assert check_values(dataset) == inspect(dataset)


@pytest.mark.parametrize("shape", [(400, 1, 32, 32), (300, 200), (60, 2)])
def test_random_data_are_passed_over(shape):
    assert not kinds(Dataset.from_array(RANDOM.random(shape)))
    assert not kinds(Dataset.from_array(RANDOM.normal(size=shape)))
    assert not kinds(Dataset.from_array(RANDOM.poisson(4, shape), support="counts"))
    assert not kinds(Dataset.from_array(RANDOM.integers(0, 256, shape, dtype=np.uint8)))


@pytest.mark.slow
def test_known_sets(data_root):
    assert not kinds(freyface(data_root))
    assert not kinds(mnist(data_root), "unit")
    assert kinds(newsgroups(data_root))["twins"].startswith("11 of 7,531 test documents")


def test_data_on_the_disk(tmp_path: Path):
    values = RANDOM.normal(size=(30_000, 5)).astype(np.float32)
    np.save(tmp_path / "clean.npy", values)
    assert not kinds(array_file(tmp_path / "clean.npy", memory_map=True))
    # Not in the sample, but the file's extent is known.
    values[2857, 2] = 1e20
    np.save(tmp_path / "marked.npy", values)
    with pytest.raises(ValueError, match=r"1e\+20 \(in the training data\) lies far"):
        check_values(array_file(tmp_path / "marked.npy", memory_map=True))


# ---- messages ---------------------------------------------------------------------------------


def test_values_that_no_data_set_holds_are_named():
    values = planted(c1=at([3, 50], np.nan), c4=at([200], np.inf))
    named = r"beyond 3.4e38\): 2 in 'c1' and 1 in 'c4', in rows 4, 51 and 201; replace them"
    with pytest.raises(ValueError, match=named):
        table(values)
    whole = np.full((20, 6), 2.0)
    whole[[1, 5], 2] = 0.5
    with pytest.raises(ValueError, match=r"got fractions: . in 'c2', in rows? \d"):
        table(whole, support="counts")
    whole[:, 2] = -1
    with pytest.raises(ValueError, match=r"got values from -1 to 2: \d+ in 'c2', in rows"):
        table(whole, support="counts")


@pytest.mark.parametrize("shape", [(40, 8, 8), (40, 64), (40, 192)])
def test_scaled_grey_levels_are_recognised(shape):
    x = np.random.default_rng(0).random(shape) * 255
    assert "grey levels" in kinds(Dataset.from_array(x))
    # Measurements, tables and standardised pictures are not.
    for other in (x - 30, x / 64, x * 8):
        assert "grey levels" not in kinds(Dataset.from_array(other))
    names = [f"c{i}" for i in range(shape[1])] if len(shape) == 2 else ()
    if names:
        assert "grey levels" not in kinds(Dataset.from_array(x, event_names=names))
    with pytest.raises(ValueError, match="grey levels are unit data as x / 255"):
        Dataset.from_array(x, support="unit")


def test_judgements():
    assert check_values(table()) == ()
    for judgement in ("warn", "none"):
        assert check_values(table(planted(c0=1.0)), judgement=judgement) == (
            inspect(table(planted(c0=1.0))) if judgement == "warn" else ()
        )


def test_exact_ends_of_unit_data_are_noted():
    x = np.clip(np.random.default_rng(0).normal(0.5, 0.4, (200, 3)), 0, 1)
    assert [finding.kind for finding in inspect(Dataset.from_array(x))] == ["ends"]
    inside = np.clip(x, 0.01 * np.arange(1, 4), 0.99)
    assert "ends" not in [finding.kind for finding in inspect(Dataset.from_array(inside))]
