"""Hashed noise is uniform, independent in every direction, and exact where it binarises."""

import pytest
import torch
from scipy import stats

from pyro_vae.data import Dataset, PreparedData
from pyro_vae.data.preprocessing import hashed_uniform

N, D = 2000, 784


@pytest.fixture(scope="module")
def draws():
    torch.manual_seed(0)
    return torch.stack([hashed_uniform(torch.zeros(N, 1, 28, 28)) for _ in range(2)]).flatten(2)


def test_uniform(draws):
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, bins=1024, min=0, max=1)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    # The low bits, too: 24 of them are kept.
    low = (draws.double() * 2**24).long() & 0xFF
    assert stats.chisquare(torch.bincount(low.flatten(), minlength=256).numpy()).pvalue > 1e-4


def test_each_element_and_each_row_is_uniform(draws):
    """Variances of means over rows and over elements: neither more nor less than by chance."""
    for axis, count in ((1, N), (2, D)):
        z = (draws.mean(axis) - 0.5) * (12 * count) ** 0.5
        n = z.numel()
        assert abs(float(z.pow(2).mean()) - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 28, 29])
def test_neighbours_are_independent(draws, lag):
    a, b = draws[..., :-lag].flatten() - 0.5, draws[..., lag:].flatten() - 0.5
    assert abs(float((a * b).mean() * 12)) < 5 / a.numel() ** 0.5


def test_rows_and_calls_are_independent(draws):
    for a, b in ((draws[0], draws[1]), (draws[:, :-1], draws[:, 1:])):
        assert abs(float(((a - 0.5) * (b - 0.5)).mean() * 12)) < 5 / a.numel() ** 0.5


def test_a_seed_gives_it_again():
    torch.manual_seed(4)
    one = hashed_uniform(torch.zeros(3, 5))
    torch.manual_seed(4)
    assert (hashed_uniform(torch.zeros(3, 5)) == one).all()
    assert (hashed_uniform(torch.zeros(3, 5)) != one).any()


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 60_000])
def test_levels_are_binarised_with_their_probability(levels):
    values = torch.tensor([0, 1, (levels - 1) // 2, levels - 2, levels - 1]).clamp(min=0)
    images = values.repeat(100_000, 1)
    torch.manual_seed(0)
    data = PreparedData(
        Dataset("x", "integers", levels, images[:10], images[:10], images[:10]), "binary"
    )
    share = data.transform(images).mean(0)
    p = values / (levels - 1)
    assert share[0] == 0
    assert share[-1] == 1
    assert ((share - p).abs() < 5 * (p * (1 - p) / len(images)).sqrt() + 1e-12).all()
