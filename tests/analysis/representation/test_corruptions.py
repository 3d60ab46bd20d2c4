"""Damaged data: nothing at strength 0, more with strength, and always in the support."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from analysis.representation.corruptions import CORRUPTIONS, corruptions_for

RNG = np.random.default_rng(0)
SHAPES = [(12, 12), (3, 10, 12), (20,)]
SUPPORTS = {
    "binary": lambda shape: (RNG.random(shape) < 0.3).astype(np.uint8),
    "unit": lambda shape: RNG.random(shape).astype(np.float32),
    "integers": lambda shape: RNG.integers(0, 16, shape).astype(np.uint8),
    "real": lambda shape: RNG.normal(size=shape).astype(np.float32),
    "counts": lambda shape: RNG.poisson(3.0, shape),
}
CASES = [
    (name, support, shape)
    for support in SUPPORTS
    for shape in SHAPES
    for name in corruptions_for(shape, support)
]


@pytest.mark.parametrize(("name", "support", "shape"), CASES)
def test_a_damage_keeps_the_support_and_nothing_happens_at_strength_0(name, support, shape):
    x = SUPPORTS[support]((7, *shape))
    options = {"support": support, "levels": 16}
    unharmed = CORRUPTIONS[name](x, 0.0, 3, **options)
    assert unharmed.tobytes() == x.tobytes()
    assert unharmed is not x
    for strength in (0.05, 0.4, 1.0):
        damaged = CORRUPTIONS[name](x, strength, 3, **options)
        assert (damaged.shape, damaged.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(damaged, CORRUPTIONS[name](x, strength, 3, **options))
        tensor = CORRUPTIONS[name](torch.as_tensor(x), strength, 3, **options)
        np.testing.assert_array_equal(tensor.numpy(), damaged)
        if support == "binary":
            assert set(np.unique(damaged)) <= {0, 1}
        elif support in ("unit", "integers"):
            assert damaged.min() >= 0
            assert damaged.max() <= (1 if support == "unit" else 15)
        elif support == "counts":
            assert ((damaged >= 0) & (damaged <= x)).all()
        assert np.isfinite(damaged).all()
    damaged, other = (CORRUPTIONS[name](x, 0.5, seed, **options) for seed in (3, 4))
    assert not np.array_equal(damaged, x)
    # A blur has nothing to draw but how binary data become binary.
    assert np.array_equal(damaged, other) == (name == "blur" and support != "binary")


@pytest.mark.parametrize("support", ["binary", "unit", "real"])
@pytest.mark.parametrize("name", ["gaussian", "salt", "occlusion"])
def test_a_stronger_damage_holds_the_weaker_one(name, support):
    x = SUPPORTS[support]((20, 1, 12, 12))
    moved = [
        np.abs(CORRUPTIONS[name](x, strength, 1, support=support).astype(float) - x)
        for strength in (0.1, 0.3, 0.6, 1.0)
    ]
    for weaker, stronger in pairwise(moved):
        assert (stronger >= weaker).all()
        assert stronger.sum() > weaker.sum()


def test_strengths_by_hand():
    x = np.full((400, 1, 10, 10), 0.5)
    noise = CORRUPTIONS["gaussian"](x, 0.1, support="unit") - x
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    salted = CORRUPTIONS["salt"](x, 0.3, support="unit")
    for hit, share in ((salted != 0.5, 0.3), (salted < 0.5, 0.15), (salted > 0.5, 0.15)):
        assert hit.mean() == pytest.approx(share, rel=0.05)
    patch = CORRUPTIONS["occlusion"](x + 0.1, 0.25, support="unit") < 0.1
    assert (patch.sum((1, 2, 3)) == 25).all()
    assert (patch.any((0, 1))).all()
    counts = np.full((400, 50), 4)
    assert CORRUPTIONS["masking"](counts, 0.3, support="counts").mean() == pytest.approx(
        2.8, rel=0.03
    )


def test_a_blur_is_as_wide_as_it_says():
    """A point becomes a normal density, of a standard deviation of strength / 4 of each side."""
    x = np.zeros((1, 1, 41, 61))
    x[0, 0, 20, 30] = 1
    blurred = CORRUPTIONS["blur"](x, 0.2, support="real")[0, 0]
    assert blurred.sum() == pytest.approx(1, abs=1e-3)
    for axis, side in ((1, 41), (0, 61)):
        places = np.arange(side) - side // 2
        deviation = np.sqrt((blurred.sum(axis) * places**2).sum())
        assert deviation == pytest.approx(0.2 * side / 4, rel=0.01)


def test_integers_are_rounded_and_not_cut():
    """As floats, too, they stay whole; rounding down would darken them by a half."""
    x = np.full((100, 1, 10, 10), 8, np.float32)
    for damaged in (
        CORRUPTIONS["gaussian"](x, 0.1, support="integers", levels=17),
        CORRUPTIONS["gaussian"](x.astype(np.uint8), 0.1, support="integers", levels=17),
    ):
        assert (damaged == np.floor(damaged)).all()
        assert damaged.mean() == pytest.approx(8, abs=5 * 1.6 / 100)


def test_noise_of_binary_data_is_a_draw():
    """A 0 becomes 1 with probability E[min(max(n s, 0), 1)], about s / sqrt(2 pi): not never."""
    x = np.zeros((500, 20, 20), np.uint8)
    flipped = CORRUPTIONS["gaussian"](x, 0.1, support="binary").mean()
    assert flipped == pytest.approx(0.1 / np.sqrt(2 * np.pi), rel=0.03)


def test_a_shift_moves_and_a_rotation_turns():
    x = np.zeros((50, 1, 21, 21), np.uint8)
    x[:, 0, 10, 10] = 1
    rows, columns = np.nonzero(CORRUPTIONS["shift"](x, 0.5, support="binary"))[2:]
    assert len(rows) == 50
    distances = np.hypot(rows - 10, columns - 10)
    assert np.abs(distances - 0.25 * 21).max() < 0.8
    bar = np.zeros((50, 21, 21), np.uint8)
    bar[:, 10, 2:19] = 1
    turned = CORRUPTIONS["rotation"](bar, 1.0, support="binary")
    np.testing.assert_array_equal(turned, np.swapaxes(bar, 1, 2))
    bar[:, 4, 2:10] = 1
    turned = CORRUPTIONS["rotation"](bar, 1.0, support="binary")
    assert len({image.tobytes() for image in turned}) == 2  # Either way round.


def test_data_inside_of_the_unit_interval_stay_there():
    x = np.clip(RNG.random((5, 8, 8)), 0.01, 0.99).astype(np.float32)
    for name in ("salt", "gaussian", "occlusion", "rotation"):
        damaged = CORRUPTIONS[name](x, 0.9, support="unit")
        assert 0 < damaged.min() <= damaged.max() < 1


def test_the_seed_and_bad_arguments():
    x = np.zeros((5, 8), np.float32)
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        CORRUPTIONS["gaussian"](x, 1.5)
    with pytest.raises(ValueError, match=r"blur is for images, got real data of shape \(8,\)"):
        CORRUPTIONS["blur"](x, 0.5)
    with pytest.raises(ValueError, match="masking is for counts"):
        CORRUPTIONS["masking"](x, 0.5)
    assert list(corruptions_for((28, 28), "binary")) == [
        name for name in CORRUPTIONS if name != "masking"
    ]


@pytest.mark.parametrize("name", ["gaussian", "salt"])
def test_a_table_is_damaged_in_each_column_s_own_units(name):
    """Grams beside kilometres: noise of one column's size would leave nothing of the other."""
    rng = np.random.default_rng(0)
    x, units = rng.normal(size=(500, 2)), np.array([1e-4, 1e4])
    plain, scaled = (CORRUPTIONS[name](data, 0.3, 1, support="real") for data in (x, units * x))
    np.testing.assert_allclose(scaled[:, 0] / 1e-4, plain[:, 0], rtol=1e-6)
    moved = np.abs(scaled - units * x).mean(0) / units
    assert moved[0] == pytest.approx(moved[1], rel=0.3)
