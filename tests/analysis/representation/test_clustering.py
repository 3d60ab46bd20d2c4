"""Agreement of groups with labels, by hand and by search; K-means, a mixture prior, neighbours."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from analysis.representation import clustering as module
from analysis.representation.clustering import (
    agreement,
    clustering,
    local_label_agreement,
    neighbourhood_overlap,
    prior_components,
)
from analysis.representation.codes import LabelledCodes
from analysis.result import UndefinedCheckError
from pyro_vae.distributions import DiagonalNormalMixture


def of_counts(counts):
    """Labels, the rows, and groups, the columns, with so many data in common."""
    rows, columns = np.indices(np.shape(counts))
    return tuple(np.repeat(each.ravel(), np.ravel(counts)) for each in (rows, columns))


def test_matching_by_hand():
    """Greedily 5 + 1 + 2 = 8 would be right; matched one to one 4 + 4 + 2 = 10 are."""
    labels, groups = of_counts([[5, 4, 0], [4, 1, 0], [0, 1, 2]])
    found = agreement(groups, labels)
    assert found.accuracy == pytest.approx(10 / 17)
    assert (found.groups, found.num_classes, found.n) == (3, 3, 17)


def test_scores_by_hand():
    """Two of each label in one group, one of each in the other's."""
    labels, groups = of_counts([[2, 1], [1, 2]])
    found = agreement(groups, labels)
    # Pairs together in both: 2; in either partition: 6 of 15; expected 6 * 6 / 15.
    assert found.ari == pytest.approx((2 - 2.4) / (6 - 2.4))
    information = 2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)
    assert found.nmi == pytest.approx(information / np.log(2))
    assert found.accuracy == pytest.approx(4 / 6)


@pytest.mark.parametrize("seed", range(5))
def test_matching_against_all_permutations(seed):
    counts = np.random.default_rng(seed).integers(0, 9, size=(4, 5))
    labels, groups = of_counts(counts)
    best = max(
        sum(counts[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(5), 4)
    )
    assert agreement(groups, labels).accuracy == pytest.approx(best / counts.sum())


def test_names_of_groups_do_not_matter():
    labels = np.arange(60) % 5
    perfect = agreement((labels * 3 + 1) % 7, labels)
    assert (perfect.nmi, perfect.ari, perfect.accuracy) == (
        pytest.approx(1.0),
        1.0,
        1.0,
    )
    assert "close to" in perfect.reading()
    groups = np.random.default_rng(0).integers(0, 5, 60)
    renamed = np.array([40, 7, 12, 0, 3])[groups]
    one, other = agreement(groups, labels), agreement(renamed, labels)
    assert (one.ari, one.accuracy) == (other.ari, other.accuracy)
    assert one.nmi == pytest.approx(other.nmi)


def test_independent_groups_are_near_zero():
    rng = np.random.default_rng(0)
    found = agreement(rng.integers(0, 10, 5000), rng.integers(0, 10, 5000))
    assert abs(found.ari) < 0.005
    assert found.nmi < 0.01
    assert found.accuracy < 0.14
    assert "unrelated" in found.reading()


def test_groups_without_a_label_are_wrong():
    """Each label in two groups: a majority would call all right, the matching three of four."""
    labels, groups = of_counts([[3, 1, 0, 0], [0, 0, 3, 1]])
    found = agreement(groups, labels)
    assert found.accuracy == 0.75
    assert agreement(np.array([0, 0, 1]), np.arange(3)).accuracy == pytest.approx(2 / 3)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    return LabelledCodes(20 * np.eye(3, 4)[labels] + rng.normal(size=(300, 4)), labels)


def test_k_means_finds_what_is_apart(data):
    found = clustering(data)
    assert found.clusters == 3
    assert len(found.starts) == 5
    for name in ("nmi", "ari", "accuracy"):
        np.testing.assert_allclose(found.scores(name), 1.0)
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["ari"], summary["ari_spread"]) == (1.0, 0.0)
    assert clustering(data, clusters=6, repeats=1).summary()["ari_spread"] is None


def test_k_means_is_seeded(data, monkeypatch):
    monkeypatch.setattr(module, "MAX_CODES", 100)
    noise = LabelledCodes(np.random.default_rng(1).normal(size=(300, 4)), data.labels)
    one, same, other = (clustering(noise, seed=seed) for seed in (0, 0, 1))
    assert one.starts[0].n == 100
    assert one.starts == same.starts != other.starts
    assert abs(one.scores("ari").mean()) < 0.05


def test_collapsed_codes(data):
    found = clustering(LabelledCodes(np.zeros((300, 4)), data.labels), repeats=2)
    np.testing.assert_allclose(found.scores("ari"), 0.0)
    np.testing.assert_allclose(found.scores("accuracy"), 1 / 3)


class Prior(nn.Module):
    """A program that has a prior, and nothing else."""

    def __init__(self, distribution):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.distribution = distribution

    def prior(self):
        return self.distribution


def test_components_of_a_mixture_by_hand():
    """Of two components as near, the heavier takes the code; of two as heavy, the nearer."""
    logits = torch.tensor([0.9, 0.05, 0.05]).log()
    loc, scale = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 9.0]]), torch.ones(3, 2)
    codes = np.array([[1.0, 0.0], [2.0, 0.0], [8.0, 8.0], [-5.0, 0.0], [3.0, 0.0]])
    ours = DiagonalNormalMixture(logits, loc, scale)
    torchs = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))
    # log 18 = 2.9 nats are made up for by 1.9 to the right of the middle, and by no less.
    for distribution in (ours, torchs):
        np.testing.assert_array_equal(
            prior_components(Prior(distribution), codes), [0, 0, 2, 0, 1]
        )
    assert agreement(prior_components(Prior(ours), codes), np.array([0, 0, 1, 0, 2])).ari == 1.0


def test_refused(data):
    with pytest.raises(UndefinedCheckError, match="must be a mixture"):
        prior_components(Prior(Independent(Normal(torch.zeros(4), 1.0), 1)), data.codes)
    with pytest.raises(UndefinedCheckError, match="two labels or more, got 0 alone"):
        clustering(data.subset(np.arange(0, 300, 3)))
    with pytest.raises(ValueError, match="got none"):
        agreement(np.arange(0), np.arange(0))
    with pytest.raises(ValueError, match="from 1 to the 300 codes, got 301"):
        clustering(data, clusters=301)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        clustering(data, repeats=0)


RNG = np.random.default_rng(0)


def plain(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    return summary


def test_neighbours_by_hand():
    """On a line 0, 1, 3 and 7 have the nearest others 1, 0, 1 and 3."""
    data = LabelledCodes(np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0, 0, 1, 1]))
    found = local_label_agreement(data, neighbours=1)
    np.testing.assert_array_equal(found.shares, [1, 1, 0, 1])
    assert found.by_class == (1.0, 0.5)
    assert found.chance == pytest.approx(4 / 12)


def test_separated_clusters_agree_and_shuffled_labels_are_chance():
    labels = np.repeat([0, 1, 2], [200, 100, 100])
    codes = 50.0 * np.eye(3)[labels] + RNG.standard_normal((400, 3))
    apart = local_label_agreement(LabelledCodes(codes, labels))
    assert plain(apart.summary())["agreement"] == 1
    assert "nearby codes share labels" in apart.reading()
    shuffled = local_label_agreement(LabelledCodes(codes, RNG.permutation(labels)))
    assert shuffled.mean == pytest.approx(shuffled.chance, abs=0.03)
    assert shuffled.chance == pytest.approx(0.375, abs=0.003)
    assert "no better than chance" in shuffled.reading()


def test_doubles_are_neighbours_and_a_datum_is_not_its_own():
    """Two of each place, of two labels: the nearest other is the double, of the other label."""
    codes = np.repeat(RNG.standard_normal((20, 2)), 2, axis=0)
    found = local_label_agreement(LabelledCodes(codes, np.tile([0, 1], 20)), neighbours=1)
    assert found.mean == 0


def test_few_of_a_label_are_not_its_lowest():
    data = LabelledCodes(RNG.standard_normal((30, 2)), np.r_[np.zeros(29, int), 2])
    assert local_label_agreement(data, neighbours=5).by_class[1:] == (None, None)


def test_the_same_points_overlap_and_others_are_chance():
    x = RNG.standard_normal((300, 1, 2, 3))
    same = neighbourhood_overlap(x, 2.0 * x.reshape(300, 6))
    summary = plain(same.summary())
    assert (summary["overlap"], summary["trustworthiness"]) == (1, 1)
    other = neighbourhood_overlap(x, RNG.standard_normal((300, 6)))
    assert other.summary()["overlap"] == pytest.approx(other.chance, abs=0.015)
    assert other.trustworthiness == pytest.approx(0.5, abs=0.05)


def test_bad_numbers_are_refused():
    data = LabelledCodes(np.zeros((4, 1)), np.zeros(4, int))
    with pytest.raises(ValueError, match="from 1 to 3, got 4"):
        local_label_agreement(data, neighbours=4)
    with pytest.raises(ValueError, match="labels must be from 0 on, got -1"):
        local_label_agreement(
            LabelledCodes(np.zeros((4, 1)), np.array([0, 1, -1, 0])), neighbours=2
        )
    with pytest.raises(ValueError, match="got 4 data and 3 codes"):
        neighbourhood_overlap(np.zeros((4, 2)), np.zeros((3, 2)))
