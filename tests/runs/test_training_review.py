"""Reviews of trainings: each problem is planted and found, and a good run has none."""

import json
import math

import numpy as np
import pytest
import torch

from pyro_vae import build, fit, likelihoods
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.evidence import Comparison, compare_with_baselines, evaluate
from pyro_vae.objectives import ELBO
from pyro_vae.runs.training_review import Plan, Review, _below, best_epoch, diverging, review

BINARY = PreparedData(digits(), "binary")


def trained(*, objective=None, plan=None, latent_dim=4, **options) -> Review:
    torch.manual_seed(0)
    vae = build((1, 8, 8), latent_dim)
    history = fit(vae, BINARY, objective, compile="off", **options)
    x = BINARY.fixed("test")[:100]
    evaluation = evaluate(vae, x, num_samples=20)
    return review(vae, BINARY, x, evaluation, history, objective=objective, plan=plan)


def names(found: Review) -> list[str]:
    return [line.split(":")[0] for line in found.verdicts]


def test_a_learning_rate_too_large_is_named_with_a_smaller_one(tmp_path):
    found = trained(epochs=3, lr=10.0, plan=Plan(tmp_path / "a run", epochs=3))
    assert names(found) == ["diverging", "below the baseline"]
    config = tmp_path / "a run" / "config.yaml"
    assert found.verdicts[0].endswith(
        f"The learning rate 10 is too large; try 0.001: python scripts/svi_train.py --config '{config}' --lr 0.001"
    )
    assert found.praise is None
    json.dumps(found.summary(), allow_nan=False)


def test_a_collapsed_code_has_the_remedy_of_the_alarm():
    found = trained(objective=ELBO(beta=50.0), epochs=11)
    assert names(found)[0] == "collapsed"
    assert "(--objective.beta 1)" in found.verdicts[0]


def test_a_short_run_says_how_to_train_on(tmp_path):
    plan = Plan(tmp_path, epochs=100, max_steps=5, steps_per_epoch=20)
    found = trained(max_steps=5, plan=plan)
    assert names(found)[0] == "too short"
    assert found.verdicts[0].endswith(f"--resume --out {tmp_path} --max-steps 1000")
    assert found.verdicts[1].startswith("below the baseline: a Bernoulli for each element is")


def test_a_run_that_stopped_early_is_not_too_short():
    found = trained(max_steps=5, plan=Plan(epochs=100, stopped_early=True))
    assert names(found) == ["below the baseline"]


def test_commands_of_a_run_with_a_model_file_of_its_own_trust_it(tmp_path):
    plan = Plan(tmp_path, epochs=100, trust_model_file=True)
    assert plan.train_on(10).endswith("--epochs 200 --trust-model-file")
    assert plan.again({"lr": 0.001}).endswith("--lr 0.001 --trust-model-file")


# ---- histories made by hand, with an evaluation that is above its baseline -------------------------


@pytest.fixture(scope="module")
def good():
    """A VAE trained well enough to be above the baseline, what it was evaluated on, and its history."""
    torch.manual_seed(0)
    vae = build((1, 8, 8), 4)
    history = fit(vae, BINARY, epochs=12, batch_size=32, lr=3e-3, compile="off")
    x = BINARY.fixed("test")[:200]
    return vae, x, evaluate(vae, x, num_samples=50), history


def records(validation, training=None) -> list:
    """Histories of these ELBOs, with a little noise."""
    noise = 0.02 * np.random.default_rng(0).normal(size=len(validation))
    training = validation if training is None else training
    return [
        {
            "epoch": epoch,
            "step": 40 * epoch,
            "elbo": float(t),
            "validation_elbo": float(v + e),
            "validation_kl": 5.0,
            "active_units": 4,
            "lr": 1e-3,
        }
        for epoch, (v, t, e) in enumerate(zip(validation, training, noise, strict=True), 1)
    ]


def judged(good, history, **options) -> Review:
    vae, x, evaluation, _ = good
    return review(vae, BINARY, x, evaluation, history, **options)


EPOCHS = np.arange(60)
LEVEL = -24 - 4 * np.exp(-EPOCHS / 8)


def test_a_good_run_has_no_complaint(good):
    found = judged(good, records(LEVEL))
    assert found.verdicts == ()
    assert found.praise is not None
    assert found.praise.startswith("above a Bernoulli for each element by ")
    summary = found.summary()
    assert summary["above_baseline"] > 1
    assert summary["factors"] is None
    assert summary["verdicts"] == []


def test_still_rising(good, tmp_path):
    history = records(-30 + 0.1 * EPOCHS)
    found = judged(good, history, plan=Plan(tmp_path, epochs=60, steps_per_epoch=40))
    assert names(found) == ["still rising"]
    assert found.verdicts[0].endswith(
        f"python scripts/svi_train.py --resume --out {tmp_path} --epochs 120"
    )
    # A cosine schedule is tied to the length, and begins anew.
    plan = Plan(tmp_path, epochs=60, steps_per_epoch=40, extensible=False)
    command = f"--config {tmp_path / 'config.yaml'} --epochs 120"
    assert judged(good, history, plan=plan).verdicts[0].endswith(command)
    assert judged(good, history, plan=Plan(stopped_early=True)).verdicts == ()


def test_overfitting_says_which_parameters_are_kept(good, tmp_path):
    fell = LEVEL - 0.05 * np.maximum(EPOCHS - 25, 0)
    found = judged(good, records(fell, LEVEL + 0.02 * EPOCHS), plan=Plan(tmp_path, epochs=60))
    assert names(found) == ["overfitting"]
    best = found.best_epoch
    assert 15 < best < 35
    assert f"after epoch {best} of 60" in found.verdicts[0]
    assert "--early-stopping 12" in found.verdicts[0]
    history = records(fell, LEVEL + 0.02 * EPOCHS)
    kept = judged(good, history, kept_epoch=best).verdicts[0]
    assert kept.endswith(f"the parameters of epoch {best} are kept")


@pytest.mark.parametrize("end", [-60.0, math.nan])
def test_falling_below_the_start_or_to_no_number_is_diverging(end):
    scores = np.concatenate([LEVEL[:50], np.linspace(-24, -60, 10)])
    history = records(scores)
    if math.isnan(end):
        history = records(LEVEL)
        history[-1]["validation_elbo"] = None
    line = diverging(history, 4, objective=ELBO())
    assert line is not None
    assert "try 0.0001: rebuild the VAE and fit(vae, data, lr=0.0001, ...)" in line
    assert diverging(records(LEVEL), 4, objective=ELBO()) is None
    # As data with fill values are, which no learning rate helps.
    for record in (history := records(LEVEL)):
        record["validation_elbo"] = None
    assert diverging(history, 4, objective=ELBO()) is None
    # The rate of a small beta is by choice.
    for record in (history := records(LEVEL)):
        record["validation_kl"] = 1e4
    assert diverging(history, 4, objective=ELBO()) is not None
    assert diverging(history, 4, objective=ELBO(beta=0.01)) is None


def test_the_best_epoch_is_the_last_of_equals_and_may_not_be_known():
    history = records(LEVEL[:3])
    for record, value in zip(history, (-5.0, -4.0, -4.0), strict=True):
        record["validation_elbo"] = value
    assert best_epoch(history) == 3
    assert best_epoch(history, "reconstruction") is None


def test_a_table_is_compared_with_a_factor_analysis_too():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(600, 5))
    data = PreparedData(Dataset.from_array(table, name="planted"), "real")
    torch.manual_seed(0)
    vae = build((5,), 2, likelihood=likelihoods.Normal, units=data.dataset.units)
    history = fit(vae, data, epochs=2, compile="off")
    x = data.fixed("test")
    evaluation = evaluate(vae, x, num_samples=20)
    independent, factors = compare_with_baselines(evaluation, data, x, vae.likelihood)
    assert isinstance(independent, Comparison)
    assert factors.factors in (2, 3)
    assert factors.log_density > independent.log_density + 1
    found = review(vae, data, x, evaluation, history)
    assert "below the baseline: a factor analysis of" in " ".join(found.verdicts)
    assert found.summary()["factors"] == factors.factors


@pytest.mark.parametrize(
    ("above", "error", "share", "says"),
    [
        (
            3.9,
            5.6,
            0.2,
            "better for 80% of rows, and the mean of log p(x) is 3.90 +- 5.60 nats above it",
        ),
        (3.9, 5.6, 0.5, "is 3.90 +- 5.60 nats above a normal, within two standard errors"),
        (-1.9, 9.8, 0.4, "is 1.90 +- 9.80 nats below a normal, within two standard errors"),
        (-9.0, 1.0, 0.1, "a normal is better by 9.00 +- 1.00 nats"),
        (9.0, 1.0, 0.9, None),
    ],
)
def test_a_difference_from_a_baseline_is_said_with_its_side(above, error, share, says):
    line = _below(Comparison("a normal", None, 0.0, above, error, share), "row")
    assert (line is None) if says is None else line.endswith(says)
