"""Statistics of a datum by hand, each beside the definition; the nearest training datum by search."""

import numpy as np
import pytest

from analysis import data_statistics
from analysis.data_statistics import (
    components,
    compute_statistics,
    dispersion,
    extent,
    holes,
    horizontal_centre,
    nearest_training,
    profiles_for,
    standardisation,
    statistics_for,
    symmetry,
    total_variation,
    vertical_centre,
)

RING = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
TWO = np.array([[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
EMPTY, FULL = np.zeros((4, 4), dtype=int), np.ones((4, 4), dtype=int)
IMAGES = np.stack([RING, TWO, EMPTY, FULL])


def test_parts_and_holes_by_hand():
    """A ring closed at corners only is one part with one hole; nothing joins neighbouring images."""
    assert components(IMAGES).tolist() == [1, 3, 0, 1]
    assert holes(IMAGES).tolist() == [1, 0, 0, 0]
    # An inner part of the background that meets the outer one at a corner is a hole.
    eight = np.ones((1, 5, 5), dtype=int)
    eight[0, 1, 1] = eight[0, 3, 3] = eight[0, 2, 2] = 0
    assert holes(eight).tolist() == [3]
    assert holes(np.stack([FULL, 1 - FULL, FULL])).tolist() == [0, 0, 0]


def test_moments_and_edges_by_hand():
    image = np.array([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert total_variation(image) == pytest.approx([0.5])
    assert symmetry(image) == pytest.approx([-1])
    assert symmetry(image.swapaxes(-1, -2)) == pytest.approx([1])
    assert symmetry(np.ones((1, 1, 4, 4))) == pytest.approx([0])
    assert horizontal_centre(image) == pytest.approx([1])
    assert vertical_centre(image) == pytest.approx([0.5])
    assert extent(image) == pytest.approx([0.5])
    # Moved by one row, and by no more than that; where there is no ink it is the middle.
    assert vertical_centre(np.roll(IMAGES[:1], 1, axis=1)) == pytest.approx([2])
    assert vertical_centre(IMAGES[2:3]) == pytest.approx([1.5])
    assert extent(IMAGES[2:3]) == pytest.approx([0])
    assert dispersion(np.array([[0, 0, 3, 1], [0, 0, 0, 0]])) == pytest.approx([1.5, 0])


@pytest.mark.parametrize(
    ("shape", "support", "expected"),
    [
        ((6,), "counts", {"total": 4, "zeros": 4 / 6, "dispersion": 2, "largest": 3}),
        ((6,), "binary", {"ones": 4 / 6}),
        ((6,), "real", {"mean": 4 / 6, "deviation": np.sqrt(10 / 6 - 4 / 9), "smallest": 0}),
        ((2, 3), "integers", {"ink": 4 / 6, "components": 1, "holes": 0}),
    ],
)
def test_each_kind_of_data_has_its_statistics(shape, support, expected):
    datum = np.array([0, 3, 0, 1, 0, 0]).reshape(1, *shape)
    found = {
        k: float(v[0])
        for k, v in compute_statistics(datum, statistics_for(shape, support)).items()
    }
    expected = expected | ({"dispersion": (10 / 6 - 4 / 9) / (4 / 6)} if "total" in found else {})
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(ValueError, match="support must be one of"):
        statistics_for(shape, "grey")


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (3, 5, 4), (7,)])
def test_blocks_do_not_change_what_is_measured(monkeypatch, shape):
    data = np.random.default_rng(0).random((23, *shape)).astype(np.float32)
    statistics = statistics_for(shape, "unit")
    whole = compute_statistics(data, statistics)
    monkeypatch.setattr(data_statistics, "MAX_ELEMENTS", 100)
    for name, values in compute_statistics(data, statistics).items():
        assert values.dtype == np.float64
        assert values.shape == (23,)
        assert values == pytest.approx(whole[name], rel=1e-12, abs=1e-12)
    profiles = compute_statistics(data, profiles_for(shape))
    assert {values.shape[0] for values in profiles.values()} == {23}


def test_a_grey_image_is_cut_at_half_of_its_range():
    image = np.array([[[10.0, 10, 10], [10, 250, 10], [10, 10, 250]]])
    named = {s.name: s for s in statistics_for((3, 3), "integers")}
    assert named["components"].measure(image) == pytest.approx([1])
    assert "half the range" in named["components"].label
    # Of unit data 1/2, so that a pale image has no parts.
    named = {s.name: s for s in statistics_for((3, 3), "unit")}
    assert named["components"].measure(image / 1000) == pytest.approx([0])


@pytest.mark.parametrize("kind", ["binary", "bytes", "real", "offset", "counts"])
def test_nearest_training_datum_by_search(monkeypatch, kind):
    """In blocks, and where the squares of the data dwarf the distances."""
    rng = np.random.default_rng(0)
    shape = (1, 6, 6)
    draw = {
        "binary": lambda n: rng.integers(0, 2, (n, *shape), dtype=np.uint8),
        "bytes": lambda n: rng.integers(0, 256, (n, *shape), dtype=np.uint8),
        "real": lambda n: rng.normal(size=(n, *shape)),
        "offset": lambda n: 1e4 + rng.normal(size=(n, *shape)),
        "counts": lambda n: rng.poisson(3, (n, *shape)),
    }[kind]
    transform = np.log1p if kind == "counts" else None
    data, train = draw(30), draw(101)
    monkeypatch.setattr(data_statistics, "MAX_ELEMENTS", 1000)
    found = nearest_training(data, train, transform=transform)
    a, b = (np.log1p(v) if transform else v.astype(np.float64) for v in (data, train))
    all_distances = np.sqrt(((a[:, None] - b) ** 2).mean((2, 3, 4)))
    assert found.distance == pytest.approx(all_distances.min(1), rel=1e-6)
    chosen = all_distances[np.arange(30), found.row]
    assert chosen == pytest.approx(found.distance, rel=1e-9)
    # A copy is found, at distance 0.
    copy = nearest_training(train[40:43], train, transform=transform)
    assert copy.row.tolist() == [40, 41, 42]
    assert copy.distance == pytest.approx(0, abs=1e-12)


def test_nearest_needs_training_data_of_the_same_shape():
    with pytest.raises(ValueError, match="train must hold data of shape"):
        nearest_training(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="got 0"):
        nearest_training(np.zeros((2, 3)), np.zeros((0, 3)))


def test_columns_in_different_units_count_alike():
    train = np.array([[0.0, 1000.0], [1.0, 3000.0], [2.0, 5000.0]])
    scaled = standardisation(train, "real")
    assert scaled is not None
    smallest = statistics_for((2,), "real", scaled)[2]
    assert smallest.label == "smallest standardised element"
    assert smallest.measure(np.array([[0.0, 5000.0]])) == pytest.approx(-np.sqrt(1.5))
    # In raw units the second column alone would choose the last row.
    assert nearest_training(np.array([[0.0, 4500.0]]), train).row == [2]
    assert nearest_training(np.array([[0.0, 2500.0]]), train, transform=scaled).row == [0]
    assert standardisation(train / [1, 1000], "real") is None
    assert standardisation(train, "counts") is None
