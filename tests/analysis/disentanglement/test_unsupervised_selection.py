"""Unsupervised selection: seeds that agree up to order and sign score 1, rotated and unrelated ones less."""

import numpy as np
import pytest

from analysis.disentanglement.unsupervised_selection import (
    selection_agreement,
    unsupervised_selection,
)
from analysis.result import UndefinedCheckError

RNG = np.random.default_rng(0)
N, DIM = 2000, 6
CODES = RNG.normal(size=(N, DIM))


def permuted(codes, seed):
    rng = np.random.default_rng(seed)
    return codes[:, rng.permutation(codes.shape[1])] * rng.choice([-1, 1], codes.shape[1])


def rotated(codes, seed):
    dim = codes.shape[1]
    return codes @ np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def hand_udr(similarity):
    """The definition, term by term."""
    first, second = similarity.shape
    total = 0.0
    for b in range(second):
        total += max(similarity[:, b]) ** 2 / sum(similarity[:, b])
    for a in range(first):
        total += max(similarity[a]) ** 2 / sum(similarity[a])
    return total / (first + second)


def test_the_same_coordinates_up_to_order_sign_and_monotone_maps():
    # Orthogonal ranks, so that unequal coordinates have no correlation by chance.
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)
    found = unsupervised_selection(
        {"a": grid, "b": permuted(grid, 1), "c": permuted(np.exp(grid), 2)}
    )
    np.testing.assert_allclose(found.scores, 1)
    assert np.isnan(found.pairwise.diagonal()).all()
    assert found.informative.tolist() == [3, 3, 3]
    assert found.rotated.max() < 0.85
    assert "UDR of 1.00" in found.reading()
    assert "2 other seeds" in found.reading()


def test_rotated_seeds_score_as_a_model_turned_at_random():
    found = unsupervised_selection({str(seed): rotated(CODES, seed) for seed in range(6)})
    same = unsupervised_selection({str(seed): permuted(CODES, seed) for seed in range(6)})
    assert same.scores.min() > 0.9
    assert found.scores.max() < 0.6
    assert found.scores.mean() == pytest.approx(found.rotated.mean(), abs=0.08)
    assert "other seeds" not in found.reading()


def test_unrelated_seeds_are_near_the_floor():
    found = unsupervised_selection({str(s): RNG.normal(size=(N, DIM)) for s in range(3)})
    # |rho| is about |N(0, 1)| / sqrt(n): the largest of 6 about 1.6 / sqrt(n), their sum 6 * 0.8 / sqrt(n).
    floor = 1.6**2 / (6 * 0.8) / np.sqrt(N)
    assert found.scores.mean() == pytest.approx(floor, rel=0.4)
    assert found.noise.mean() == pytest.approx(floor, rel=0.3)
    assert "no more than entangled codes" in found.reading()


def test_a_pair_by_hand():
    first, second = (
        CODES[:, :2],
        np.stack([CODES[:, 0] + CODES[:, 1], CODES[:, 1], CODES[:, 2]], 1),
    )
    from scipy.stats import spearmanr

    similarity = np.abs(
        [[spearmanr(first[:, a], second[:, b])[0] for b in range(3)] for a in range(2)]
    )
    found = unsupervised_selection({"a": first, "b": second})
    assert found.pairwise[0, 1] == pytest.approx(hand_udr(similarity))


def test_collapsed_coordinates_do_not_count():
    def with_collapsed(seed):
        noise = 0.01 * np.random.default_rng(seed).normal(size=(N, 4))
        return permuted(np.concatenate([CODES[:, :3], noise, np.zeros((N, 1))], 1), seed)

    models = {str(seed): with_collapsed(seed) for seed in range(3)}
    found = unsupervised_selection(models)
    alone = unsupervised_selection({name: CODES[:, :3] for name in models})
    assert found.informative.tolist() == [3, 3, 3]
    np.testing.assert_allclose(found.scores, alone.scores)
    # All but the constant one, if the caller says so.
    every = unsupervised_selection(models, informative=dict.fromkeys(models, np.ones(8, bool)))
    assert every.informative.tolist() == [7, 7, 7]
    assert every.scores.max() < 0.9 * found.scores.min()


def test_a_collapsed_model_has_no_score():
    found = unsupervised_selection({"a": CODES, "b": permuted(CODES, 1), "c": 0 * CODES})
    assert list(found.by_model) == ["a", "b"]
    assert found.summary()["models"][2]["score"] is None
    none = unsupervised_selection({"a": 0 * CODES, "b": 0 * CODES})
    assert none.reading().startswith("Not defined")


def test_pairs_are_of_a_group():
    models = {f"same {s}": permuted(CODES, s) for s in range(3)}
    models |= {f"turned {s}": rotated(CODES, s) for s in range(3)}
    groups = {name: name.split()[0] for name in models}
    found = unsupervised_selection(models, groups=groups)
    assert np.isnan(found.pairwise[:3, 3:]).all()
    rows = found.by_group()
    assert rows["same"]["score"] > rows["turned"]["score"] + 0.3
    assert "agree most in same" in found.reading()
    assert found.summary()["soundness"]


def test_wrong_arguments():
    with pytest.raises(UndefinedCheckError, match="two models that differ in the seed only"):
        unsupervised_selection({"a": CODES})
    with pytest.raises(ValueError, match="each model needs a group, got none for b"):
        unsupervised_selection({"a": CODES, "b": CODES}, groups={"a": "x"})
    with pytest.raises(ValueError, match=r"a has 6 coordinates, got a mask of \(2,\)"):
        unsupervised_selection(
            {"a": CODES, "b": CODES}, informative=dict.fromkeys("ab", np.ones(2, bool))
        )


def test_rank_agreement_by_hand():
    udr = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": float("nan")}
    found = selection_agreement(udr, {"a": 1.0, "b": 2.0, "d": 3.0, "c": 4.0, "f": 0.0})
    # Orders 1 2 3 4 and 1 2 4 3: 1 - 6 * 2 / (4 * 15); as large in 4 of the 24 orders.
    assert found.overall.n == 4
    assert found.overall.rho == pytest.approx(0.8)
    assert found.overall.p_value == pytest.approx(4 / 24)
    assert found.by_group["all"] == found.overall
    assert "no agreement" in found.reading()


def test_agreement_over_all_may_come_from_the_groups_alone():
    rng = np.random.default_rng(1)
    names = [f"{group}{seed}" for group in "abcd" for seed in range(5)]
    groups = {name: name[0] for name in names}
    level = {name: float("abcd".index(name[0])) for name in names}
    udr = {name: level[name] + 0.1 * rng.random() for name in names}
    score = {name: level[name] + 0.1 * rng.random() for name in names}
    found = selection_agreement(udr, score, groups)
    assert found.overall.rho > 0.9
    assert found.overall.p_value < 0.001
    assert abs(found.within.rho) < 0.5
    assert found.within.p_value > 0.05
    assert list(found.by_group) == ["a", "b", "c", "d"]
    assert "Over all models the scores agree" in found.reading()
    assert found.summary() == selection_agreement(udr, score, groups).summary()
    few = selection_agreement({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0})
    assert few.summary()["overall"] == {"rho": None, "n": 2, "p_value": None}
    assert (
        selection_agreement(dict.fromkeys("abc", 1.0), {"a": 1.0, "b": 2.0, "c": 0.0}).overall.rho
        is None
    )
    with pytest.raises(ValueError, match="no model has both scores"):
        selection_agreement({"a": 1.0}, {"b": 1.0})
