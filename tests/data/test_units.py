"""`Units`: the center and spread of real data, and the resolution of their values."""

import math

import numpy as np
import pytest
import torch

from pyro_vae.data import Dataset, Units
from pyro_vae.data.units import ScaleKind

RANDOM = np.random.default_rng(0)
COLUMNS = torch.from_numpy(RANDOM.normal(size=(500, 3)) * [6e4, 1, 1e-4] + [1e5, -5, 2e-4])


@pytest.mark.parametrize(
    ("kind", "center", "spread"),
    [
        ("standard", COLUMNS.mean(0), COLUMNS.std(0, correction=0)),
        ("robust", COLUMNS.quantile(0.5, 0), (COLUMNS.quantile(0.75, 0) - COLUMNS.quantile(0.25, 0)) / 1.349),
        ("unit", COLUMNS.amin(0), COLUMNS.amax(0) - COLUMNS.amin(0)),
        ("none", torch.zeros(3), torch.ones(3)),
    ],
)  # fmt: skip
def test_center_and_spread(kind: ScaleKind, center, spread):
    units = Units.from_data(COLUMNS, kind)
    torch.testing.assert_close(units.center, center.double())
    torch.testing.assert_close(units.spread, spread.double())
    assert units.identity == (kind == "none")
    assert not units.double


def test_images_and_series_have_a_value_for_each_channel():
    images = COLUMNS.T.reshape(3, 5, 10, 10).permute(1, 0, 2, 3)
    units = Units.from_data(images)
    assert units.center.shape == (3, 1, 1)
    torch.testing.assert_close(units.center.flatten(), COLUMNS.mean(0))


def test_a_constant_column_has_its_magnitude_for_a_spread():
    units = Units.from_data(torch.tensor([[0.0, 500.0, 1.0], [0.0, 500.0, 2.0]]).double())
    assert units.spread.tolist() == [1, 500, 0.5]
    assert units.floor[:2].tolist() == [0, 0]


def test_the_floor_is_the_deviation_of_rounding():
    x = torch.from_numpy(RANDOM.normal(size=(400, 2)))
    rounded = torch.stack([(x[:, 0] / 0.2).round() * 0.2, x[:, 1]], 1)
    floor = Units.from_data(rounded).floor
    expected = 0.2 / math.sqrt(12) / float(rounded[:, 0].std(correction=0))
    assert floor[0] == pytest.approx(expected, rel=1e-6)
    assert floor[1] == 0


def test_a_julian_date_keeps_its_fraction():
    days = np.stack([2459000.5 + 0.01 * np.arange(300), RANDOM.normal(size=300)], 1)
    dataset = Dataset.from_array(days)
    assert dataset.train.dtype == torch.float64
    assert len(dataset.train[:, 0].unique()) == 210
    # Values that float32 tells apart are kept in float32.
    assert Dataset.from_array(days - [2459000.5, 0]).train.dtype == torch.float32


def test_scaled_values_keep_what_float32_would_lose():
    days = torch.from_numpy(2459000.5 + 0.01 * np.arange(300))[:, None]
    u = Units.from_data(days).scaled(days)
    assert u.dtype == torch.float32
    expected = (days - days.mean()) / days.std(correction=0)
    torch.testing.assert_close(u, expected.float(), rtol=0, atol=1e-4)


def test_units_are_those_of_the_training_rows_and_of_real_data_alone():
    dataset = Dataset.from_array(COLUMNS.numpy(), scale="unit")
    torch.testing.assert_close(dataset.units.center, dataset.train.double().amin(0))
    assert Dataset.from_array(RANDOM.random((30, 4))).units.identity
    assert Dataset.from_array(np.arange(60).reshape(30, 2)).units.identity


def test_what_is_stored_is_read_again():
    units = Units.from_data(COLUMNS, "robust")
    again = Units.from_plain(units.to_plain())
    assert again.kind == "robust"
    assert torch.equal(again.spread, units.spread)
    with pytest.raises(ValueError, match="damaged"):
        Units.from_plain({**units.to_plain(), "center": 3})


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_whole_numbers_keep_their_differences(dtype):
    seconds = (1_700_000_000 + np.arange(40, dtype=dtype)).reshape(20, 2)
    dataset = Dataset.from_array(seconds, support="real")
    assert dataset.train.dtype == torch.float64
    assert len(dataset.train.unique()) == 28


@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy])
def test_unsigned_integers_do_not_become_negative(as_array):
    values = np.arange(40, dtype=np.uint64).reshape(20, 2)
    assert Dataset.from_array(as_array(values), support="real").train.max() < 40
    with pytest.raises(ValueError, match=r"2\^63 or more: give them as floats"):
        Dataset.from_array(as_array(values + np.uint64(2**63)), support="real")
