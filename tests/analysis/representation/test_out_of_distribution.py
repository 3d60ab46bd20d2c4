"""Scores of foreign data: detection by hand, exact models, and the known failure of likelihood."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.model_samples import has_density
from analysis.representation.ood_scores import (
    DEFINITIONS,
    CodeDistances,
    ScoredData,
    compressed_length,
    detection,
    log_cell,
    quantize,
    reconstruction_error,
)
from analysis.representation.out_of_distribution import (
    OutOfDistribution,
    out_of_distribution,
    plot_out_of_distribution,
    stand_ins,
)

TRUTH = LinearGaussian()


def test_detection_by_hand():
    own, foreign = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 3.5, 5.0])
    found = detection(own, foreign)
    # Pairs won: 2 beats one and ties with one, 3.5 beats three, 5 all four.
    assert found.auroc == pytest.approx((1.5 + 3 + 4) / 12)
    # DeLong's variance by its definition, over the two sets' shares of pairs won.
    by_foreign, by_own = np.array([1.5, 3, 4]) / 4, np.array([3, 2.5, 2, 1]) / 3
    variance = by_foreign.var(ddof=1) / 3 + by_own.var(ddof=1) / 4
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    # All three foreign ones are found from 2 on, where three own ones are.
    assert found.false_alarms == 0.75


def test_detection_at_its_ends():
    apart = detection(np.arange(30.0), np.arange(30.0, 50.0))
    assert (apart.auroc, apart.standard_error, apart.false_alarms) == (1, 0, 0)
    assert detection(np.arange(30.0, 50.0), np.arange(30.0)).below_chance
    equal = detection(np.ones(10), np.ones(7))
    assert (equal.auroc, equal.false_alarms) == (0.5, 1)
    # An infinite score is the largest and no error.
    assert detection(np.array([0.0, 1.0]), np.array([2.0, np.inf])).auroc == 1
    assert detection(np.zeros(1), np.ones(1)).standard_error is None


@pytest.mark.slow
def test_standard_error_is_the_spread_over_samples():
    rng = np.random.default_rng(0)
    found = [detection(rng.normal(size=60), rng.normal(1, 2, size=40)) for _ in range(200)]
    spread = np.std([one.auroc for one in found])
    said = np.sqrt(np.mean([one.standard_error**2 for one in found]))
    # The spread of 200 is known to 5 %.
    assert said == pytest.approx(spread, rel=0.17)


def test_detection_refuses_what_it_cannot_order():
    with pytest.raises(ValueError, match="own and foreign data, got 0 and 2"):
        detection(np.zeros(0), np.zeros(2))
    with pytest.raises(ValueError, match="scores must not be NaN, got 1"):
        detection(np.array([0.0, np.nan]), np.zeros(2))


@pytest.fixture(scope="module")
def exact():
    """The exact linear-Gaussian model on its own data, shifted data, and data near its mode."""
    near = TRUTH.bias.reshape(1, *TRUTH.event_shape) + 0.05 * torch.randn(
        200, *TRUTH.event_shape, generator=torch.Generator().manual_seed(3)
    )
    foreign = {
        "same": TRUTH.draw(300, 4),
        "mode": near,
        "moved": TRUTH.draw(150, 5, shift=1.5),
    }
    x = TRUTH.draw(300, 2)
    train = TRUTH.draw(1500, 1)
    result = out_of_distribution(TRUTH.vae(), train, x, foreign, num_samples=4)
    return SimpleNamespace(x=x, train=train, foreign=foreign, result=result)


def test_likelihood_is_the_closed_form(exact):
    # The exact posterior has constant weights: a few draws give log p(x) itself.
    for name, x in {"own": exact.x, **exact.foreign}.items():
        scored = exact.result.own if name == "own" else exact.result.foreign[name]
        expected = -TRUTH.log_evidence(x).numpy()
        np.testing.assert_allclose(scored.scores["likelihood"], expected, rtol=1e-3)


def test_typicality_finds_what_likelihood_calls_most_normal(exact):
    auroc = {score: exact.result.auroc(score) for score in DEFINITIONS}
    # Data near the mean are more probable than any draw of the model.
    assert auroc["likelihood"]["mode"] < 0.01
    assert auroc["typicality"]["mode"] > 0.99
    assert auroc["likelihood"]["moved"] > 0.99
    assert auroc["typicality"]["moved"] > 0.99
    entropy = -TRUTH.log_evidence(TRUTH.draw(20_000, 9)).mean().item()
    own = exact.result.own.scores
    expected = np.abs(own["likelihood"] - entropy)
    # The mean of 1,000 training data is uncertain by sqrt(64 / 2 / 1000) = 0.18 nats.
    np.testing.assert_allclose(own["typicality"], expected, atol=0.8)


def test_own_data_are_not_foreign(exact):
    for score, found in exact.result.detections["same"].items():
        assert abs(found.auroc - 0.5) < 3.5 * found.standard_error, score


def test_code_distances_are_the_formulas():
    rng = np.random.default_rng(1)
    train = rng.normal(size=(4000, 2)) @ np.array([[2.0, 0.0], [1.0, 0.5]])
    codes = rng.normal(size=(5, 2))
    distances = CodeDistances(train)
    away = codes - train.mean(0)
    inverse = np.linalg.inv(np.cov(train.T))
    by_hand = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
    np.testing.assert_allclose(distances.mahalanobis(codes), by_hand, rtol=0.02)
    nearest = np.sort(np.linalg.norm(codes[:, None] - train, axis=-1))[:, :10].mean(1)
    np.testing.assert_allclose(distances.neighbours(codes), nearest)
    # A collapsed code says nothing, and is no error.
    collapsed = CodeDistances(np.ones((20, 2)))
    assert not collapsed.mahalanobis(codes).any()


def test_scores_are_of_embedded_codes(exact):
    vae = TRUTH.vae()
    codes = vae.embed(exact.x).double().numpy()
    train = vae.embed(exact.train).double().numpy()
    own = exact.result.own.scores
    np.testing.assert_allclose(
        own["mahalanobis"], CodeDistances(train).mahalanobis(codes), rtol=1e-3
    )
    means = vae.decode(vae.embed(exact.x)).numpy()
    by_hand = np.sqrt(((exact.x.numpy() - means) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(own["reconstruction"], by_hand, rtol=1e-4)


def test_reconstruction_of_counts_scales_to_the_total():
    x, share = np.array([[3, 1], [0, 8]]), np.array([[0.75, 0.25], [0.5, 0.5]])
    error = reconstruction_error(x, share, counts=True, given_total=True)
    second = math.sqrt((math.log(5) ** 2 + math.log(9 / 5) ** 2) / 2)
    np.testing.assert_allclose(error, [0, second], atol=1e-12)


def test_compressed_length_orders_by_complexity():
    rng = np.random.default_rng(3)
    blank, noise = np.zeros((1, 28, 28), np.uint8), (rng.random((1, 28, 28)) < 0.5)
    square = blank.copy()
    square[:, 8:20, 8:20] = 1
    for scale, shape in ((1, (1, 28, 28)), (200, (1, 28, 28)), (1, (784,)), (70_000, (784,))):
        x = np.stack([blank, square, noise]).reshape(3, *shape).astype(np.uint32) * scale
        length = compressed_length(quantize(x, "counts"))
        assert length[0] == 0
        assert 0 < length[1] < length[2]
    # Fair bits cannot be shortened; a blank file, taken off, is not quite empty.
    length = compressed_length(noise.astype(np.uint8)[None])
    assert 0.9 * 784 * math.log(2) < length[0] < 1.1 * 784 * math.log(2)
    assert quantize(np.array([[0.0, 0.5, 1.0]]), "unit").tolist() == [[0, 128, 255]]
    assert log_cell("real", 3, low=-1.0, high=1.0) == pytest.approx(3 * math.log(2 / 256))
    assert log_cell("binary", 3) == 0


def test_a_length_does_not_depend_on_the_rest_of_the_set():
    """A dark set of integers is not binary: its lengths are those beside bright images."""
    dark = (np.random.default_rng(4).random((2, 1, 16, 16)) < 0.2).astype(np.uint8)
    bright = np.full((1, 1, 16, 16), 200, np.uint8)
    beside = compressed_length(np.concatenate([dark, bright]), binary=False)[:2]
    np.testing.assert_array_equal(compressed_length(dark, binary=False), beside)
    assert (compressed_length(dark) < beside).all()


def test_likelihood_alone_fails_on_simple_binary_images():
    truth = BernoulliMixture()
    x = truth.draw(200, 2)
    # The most probable image of one component: simpler than any draw.
    simple = (truth.logits[:1] > 0).float().expand(30, -1).reshape(30, *x.shape[1:])
    foreign = {"simple": simple, "random": torch.bernoulli(torch.full_like(x, 0.5))}
    result = out_of_distribution(truth.vae(), truth.draw(500, 1), x, foreign, num_samples=5)
    np.testing.assert_allclose(
        result.own.scores["likelihood"], -truth.log_evidence(x).numpy(), rtol=1e-4
    )
    assert result.auroc("likelihood")["simple"] == 0
    assert result.auroc("typicality")["simple"] == 1
    assert result.auroc("likelihood")["random"] > 0.95
    reading = result.reading()
    assert "Likelihood alone fails on simple" in reading
    assert result.best_score == "typicality"
    # What the mixture knows beyond single elements is exact, and by hand.
    share = (truth.draw(500, 1).flatten(1).sum(0) + 1) / 502
    p_0 = dist.Bernoulli(share.double()).to_event(1).log_prob(x.flatten(1).double())
    np.testing.assert_allclose(
        result.own.scores["background_ratio"], (p_0 - truth.log_evidence(x)).numpy(), atol=2e-2
    )


def test_summary_is_plain_and_figures_say_what_fails(exact, words):
    summary = exact.result.summary()
    json.dumps(summary, allow_nan=False)
    assert summary["own"]["n"] == 300
    assert summary["scores"].keys() == DEFINITIONS.keys()
    assert summary["foreign"]["mode"]["likelihood"]["auroc"] < 0.01
    assert "fails on mode" in summary["reading"]
    axes, written = words(plot_out_of_distribution(exact.result))
    assert "typicality" in written
    assert len(axes) == 3
    assert "own test data" in written


def test_reading_where_likelihood_serves():
    rng = np.random.default_rng(4)

    def scored(shift: float, khat: float) -> ScoredData:
        values = {name: rng.normal(shift, 1, 100) for name in DEFINITIONS}
        return ScoredData(values, khat)

    good = OutOfDistribution(scored(0, 0.0), {"far": scored(9, 0.5)}, 100)
    assert "fails" not in good.reading()
    assert "good enough" in good.reading()
    assert "up to 50% of a set" in good.reading()
    poor = OutOfDistribution(scored(0, 0.0), {"near": scored(0.2, 0.0)}, 100)
    assert "not reliable" in poor.reading()
    assert "k-hat" not in poor.reading()


def test_scores_that_vary_less_than_their_rounding_errors_are_not_judged():
    values = {name: np.linspace(0, 1, 50) for name in DEFINITIONS}
    own, far = ScoredData(values, 0.0, rounding=2.0), ScoredData(values, 0.0)
    found = OutOfDistribution(own, {"far": far}, 10).detections["far"]
    assert found["likelihood"] is None
    assert found["reconstruction"] is not None
    exact = OutOfDistribution(far, {"far": far}, 10).detections["far"]
    assert exact["likelihood"].auroc == 0.5


def test_a_guide_that_is_a_point_has_codes_and_reconstructions_alone(words):
    vae = TRUTH.vae()
    exact_guide = vae.posterior

    class Point(torch.nn.Module):
        support, latent_dim = "real", TRUTH.latent_dim

        def forward(self, x):
            return dist.Delta(exact_guide.embed(x)).to_event(1)

        def embed(self, x):
            return exact_guide.embed(x)

    x = TRUTH.draw(40, 1)
    assert has_density(vae, x)
    vae.posterior = Point()
    assert not has_density(vae, x)
    result = out_of_distribution(
        vae, TRUTH.draw(100, 2), x, {"moved": TRUTH.draw(40, 3, shift=2.0)}
    )
    defined = {score for score in DEFINITIONS if result.auroc(score)}
    assert defined == {"reconstruction", "mahalanobis", "neighbours"}
    assert result.summary()["foreign"]["moved"]["likelihood"] is None
    _, written = words(plot_out_of_distribution(result))
    assert "The guide is a point" in written


def test_draws_are_of_the_seed_and_leave_the_stream():
    x, train = TRUTH.draw(20, 1), TRUTH.draw(60, 2)
    vae = TRUTH.vae(guide_scale=1.5)
    pyro.set_rng_seed(0)
    before = torch.random.get_rng_state()
    first, second, other = (
        out_of_distribution(vae, train, x, {"same": x}, num_samples=5, seed=seed).own.scores
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first["likelihood"], second["likelihood"])
    assert (first["likelihood"] != other["likelihood"]).any()


def test_foreign_data_must_be_prepared_alike():
    truth = BernoulliMixture()
    vae, x = truth.vae(), truth.draw(20, 1)
    with pytest.raises(ValueError, match=r"grey: data must be prepared .* got fractions from 0.4"):
        out_of_distribution(vae, x, x, {"grey": torch.full_like(x, 0.4)})
    with pytest.raises(ValueError, match=r"binary likelihood, got values from 0 to 16"):
        out_of_distribution(vae, x, x, {"levels": 16 * x.byte()})
    with pytest.raises(ValueError, match=r"small: data must have the shape \(1, 8, 8\)"):
        out_of_distribution(vae, x, x, {"small": x[..., :4]})
    with pytest.raises(ValueError, match="a foreign set, got 20, 20 and 0"):
        out_of_distribution(vae, x, x, {})
    with pytest.raises(ValueError, match="none: there must be at least one example"):
        out_of_distribution(vae, x, x, {"none": x[:0]})


def _data(support: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(40, 1, 6, 6, generator=generator)
    return {
        "binary": (share < torch.linspace(0.1, 0.6, 6)).byte(),
        "integers": (share * 17).floor().byte(),
        "unit": share,
        "real": 3 * share - 1,
        "counts": (9 * share.flatten(1) * torch.linspace(0, 2, 36)).floor(),
    }[support]


@pytest.mark.parametrize("support", ["binary", "integers", "unit", "real", "counts"])
def test_stand_ins_keep_what_they_say(support):
    x = _data(support)
    made = stand_ins(x, seed=1)
    expected = (
        {"shuffled", "noise", "pooled"}
        if support == "counts"
        else {"inverted", "flipped", "rotated", "shuffled", "noise", "constant"}
    )
    assert made.keys() == expected
    for data in made.values():
        assert data.shape == x.shape
        assert data.dtype == x.dtype
    flat, dealt = x.flatten(1), made["noise"].flatten(1)
    # Each element keeps its values, and all else is lost.
    torch.testing.assert_close(dealt.sort(0).values, flat.sort(0).values, rtol=0, atol=0)
    assert (dealt != flat).any()
    # One permutation for all data: columns are columns of the data.
    moved = made["shuffled"].flatten(1)
    assert (moved != flat).any()
    assert sorted(map(tuple, moved.T.tolist())) == sorted(map(tuple, flat.T.tolist()))
    again = stand_ins(x, seed=1)
    assert all(torch.equal(made[name], again[name]) for name in made)
    if support == "counts":
        torch.testing.assert_close(made["pooled"].sum(1), x.sum(1))
        assert not made["pooled"][:, x.sum(0) == 0].any()
        return
    assert torch.equal(made["flipped"][..., 0, :], x[..., -1, :])
    constant = made["constant"].flatten(1)
    assert (constant == constant[:, :1]).all()
    turned = {"binary": 1, "integers": 16, "unit": 1.0}
    if support in turned:
        assert torch.equal(made["inverted"], turned[support] - x)
    else:
        torch.testing.assert_close(made["inverted"].mean(0), x.mean(0))


def test_stand_ins_of_nothing():
    with pytest.raises(ValueError, match="at least one example"):
        stand_ins(torch.zeros(0, 3))
