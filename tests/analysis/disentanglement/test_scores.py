"""All scores together, with their figure: perfect, noisy and rotated codes."""

import json

import numpy as np
import pytest

from analysis.disentanglement.factors import encode_factors
from analysis.disentanglement.information_metrics import factor_information, mutual_information_gap
from analysis.disentanglement.scores import SCORES, disentanglement, plot_disentanglement
from analysis.result import UndefinedCheckError

SIZES = (2, 3, 4)
NAMES = ("shape", "colour", "size")


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(size, size=2000) for size in SIZES], 1)


@pytest.fixture(scope="module")
def perfect(factors):
    idle = np.random.default_rng(1).normal(size=(2000, 1))
    codes = np.concatenate([(factors * [-3.0, 1.0, 0.5])[:, [2, 0, 1]], idle], 1)
    return disentanglement(codes.astype(np.float32), factors, names=NAMES)


@pytest.fixture(scope="module")
def noise(factors):
    codes = np.random.default_rng(2).normal(size=(2000, 4))
    return disentanglement(codes, np.concatenate([factors, 0 * factors[:, :1]], 1))


def test_a_perfect_code_scores_best(perfect):
    assert set(perfect.scores) == set(SCORES)
    for name in SCORES:
        # The coordinate of noise knows (20 - 1)(4 - 1) / 4000 nats, and guesses by luck.
        assert perfect.scores[name] == pytest.approx(perfect.best[name], abs=0.035), name
    assert perfect.best["mig"] == pytest.approx(1)
    assert perfect.best["sap"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert perfect.informative.tolist() == [True, True, True, False]
    assert "have a coordinate of their own" in perfect.reading()
    own = perfect.mutual_information[[1, 2, 0], [0, 1, 2]]
    assert own == pytest.approx(1)
    assert perfect.importance[[1, 2, 0], [0, 1, 2]] == pytest.approx(1)


def test_noise_scores_by_chance(noise):
    for name in SCORES:
        assert noise.scores[name] == pytest.approx(noise.chance[name], abs=0.1), name
    assert noise.scores["mig"] < 0.02
    assert noise.scores["dci_disentanglement"] == noise.scores["modularity"] == 0
    assert noise.left_out == ("factor 3",)
    assert "holds little of the factors" in noise.reading()


def test_a_rotated_code_keeps_the_probe_and_loses_mig():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    v = rng.integers(2, size=(1000, 4))
    turn = np.kron(np.eye(2), np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2))
    codes, factors = v @ turn, encode_factors(v)
    for code, high in ((v.astype(float), True), (codes, False)):
        known = factor_information(code, factors)
        mig = mutual_information_gap(known.nats, known.entropies).mean()
        assert mig > 0.98 if high else mig < 0.2
        for column in v.T:
            probe = LogisticRegression(C=100).fit(code[:500], column[:500])
            assert probe.score(code[500:], column[500:]) == 1


def test_summary_is_plain(perfect, noise):
    for result in (perfect, noise):
        summary = json.loads(json.dumps(result.summary(), allow_nan=False))
        assert list(summary["scores"]) == list(SCORES)
        assert summary["reading"] == result.reading()
        assert summary["n"] == 2000
    scores = noise.summary()["scores"]
    assert scores["mig"]["standard_error"] > 0
    assert scores["factor_vae"]["standard_error"] == pytest.approx(np.sqrt(2 / 9 / 500), rel=0.1)
    assert scores["sap"]["standard_error"] is None
    assert noise.summary()["left_out"] == ["factor 3"]


def test_the_figure_names_factors_and_scores(words, perfect):
    axes, text = words(plot_disentanglement(perfect))
    assert len(axes) == 3
    for expected in (*NAMES, "FactorVAE", "beta-VAE", "MIG", "perfect code", "z[3]"):
        assert expected in text
    # Rows in the order of the factor known best, the idle one last.
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["z[1]", "z[2]", "z[0]", "z[3]"]


def test_few_data_leave_a_score_undefined():
    rng = np.random.default_rng(4)
    v = rng.integers(6, size=(200, 2))
    result = disentanglement(rng.normal(size=(200, 26)), v)
    assert np.isnan(result.scores["factor_vae"])
    assert "64 data in each half" in result.undefined["factor_vae"]
    assert result.summary()["scores"]["factor_vae"]["value"] is None
    assert "Not defined: factor_vae" in result.reading()
    assert "at least 10000" in result.reading()
    information, _, scores = plot_disentanglement(result).axes
    assert "not defined" in {text.get_text() for text in scores.texts}
    assert "2 less informative coordinates" in information.get_xlabel()


def test_what_is_refused(factors):
    with pytest.raises(UndefinedCheckError, match="at least 2 coordinates, got 1"):
        disentanglement(np.ones((2000, 1)), factors)
    with pytest.raises(UndefinedCheckError, match="at least 2 factors that vary, got colour only"):
        disentanglement(np.ones((2000, 2)), factors * [0, 1, 0], names=NAMES)
