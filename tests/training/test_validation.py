"""The alarm that a code has collapsed, from both sides."""

import logging
import re
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from pyro_vae import build, posteriors, priors
from pyro_vae.data import PreparedData, digits
from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import ELBO
from pyro_vae.training import Training, validation
from pyro_vae.training.validation import (
    CountedUnits,
    UnitCounts,
    Validation,
    collapse_alarm,
    remedies,
)

STEPS = 1000


def records(rates, active=None):
    """Epochs of 1,000 steps with such rates, and numbers of active units."""
    active = active or [None] * len(rates)
    return [
        {"epoch": i + 1, "step": STEPS * (i + 1), "validation_kl": rate, "active_units": units}
        for i, (rate, units) in enumerate(zip(rates, active, strict=True))
    ]


def alarms(history, settled=lambda epochs: True, total=8, ends=False):
    """The epochs at which there is an alarm."""
    return [
        n
        for n in range(1, len(history) + 1)
        if collapse_alarm(history[:n], total, settled=settled, ended=ends and n == len(history))
    ]


# ---- when ------------------------------------------------------------------------------------


def test_the_alarm_is_raised_at_the_third_epoch_in_a_row_and_once():
    assert alarms(records([0.01] * 8), ends=True) == [3]
    assert alarms(records([5.0, 5.0] + [0.01] * 5)) == [5]
    assert alarms(records([0.01] * 4 + [5.0] + [0.01] * 5), ends=True) == [3]


def test_a_code_that_comes_back_is_no_alarm():
    assert alarms(records([0.01, 0.01, 3.0, 0.01, 0.01, 3.0]), ends=True) == []


def test_at_the_end_one_epoch_is_enough():
    assert alarms(records([5.0, 5.0, 0.01]), ends=True) == [3]
    assert alarms(records([5.0, 5.0, 0.01])) == []


def test_the_start_of_training_does_not_count():
    early = [{**record, "step": 20 * record["epoch"]} for record in records([0.01] * 40)]
    assert alarms(early) == []
    assert alarms(early, ends=True) == [40]
    # Whether a code will be used cannot be told from so few steps.
    assert alarms(early[:9], ends=True) == []


def test_epochs_before_weights_have_settled_do_not_count():
    history = records([0.01] * 10)
    assert alarms(history, settled=lambda epochs: epochs >= 6) == [8]
    assert alarms(history, settled=ELBO(warmup_epochs=6.0).settled) == [8]


def test_units_that_die_are_an_alarm_and_units_that_are_pruned_none():
    rates = [5.0] * 8
    assert alarms(records(rates, [8, 8, 1, 1, 1, 1, 1, 1]), ends=True) == [5]
    assert alarms(records(rates, [8, 8, 6, 5, 4, 3, 2, 2]), ends=True) == []
    assert alarms(records(rates, [0] * 8)) == [3]


def test_records_without_units_or_rate_are_no_alarm():
    assert alarms(records([None] * 5), ends=True) == []
    assert alarms([{"epoch": 1, "step": 5000}], ends=True) == []
    assert collapse_alarm([], None, settled=lambda epochs: True, ended=True) is None


def test_the_warning_names_the_numbers():
    said = collapse_alarm(
        records([0.003] * 3, [8, 1, 0]), 8, settled=lambda epochs: True, ended=False
    )
    for words in ("epoch 3: posterior collapse", "8 of 8 units", "0.003 nats", "What helps: "):
        assert words in said
    died = collapse_alarm(
        records([2.0] * 4, [8, 1, 1, 1]), 8, settled=lambda epochs: True, ended=False
    )
    assert "few of the 8 units that were active" in died
    assert "7 of 8 units are inactive, the KL is 2 nats/datum, not below 0.1" in died


# ---- which units -----------------------------------------------------------------------------


class Says(nn.Module):
    """An encoder whose outputs are given: the first of a row for x that is bright, or not."""

    def __init__(self, dark, bright):
        super().__init__()
        self.register_buffer("outputs", torch.stack([torch.tensor(dark), torch.tensor(bright)]))

    def forward(self, x):
        return self.outputs[(x.flatten(-2).mean(-1) > 0.5).long()]


def units_in_use(vae, x, terms):
    units, kl = CountedUnits.of(vae, x, terms)
    return units and units.count(kl, vae.embed(x).detach() if units.embedded else None)


def counted(dark, bright, prior, posterior, latent_dim):
    torch.manual_seed(0)
    vae = build((2, 2), latent_dim, prior=prior, posterior=posterior)
    vae.posterior.encoder = Says(dark, bright)
    x = torch.cat([torch.zeros(5, 2, 2), torch.ones(5, 2, 2)])
    return units_in_use(vae, x, log_densities(vae.model, vae.guide, x))


def test_on_the_real_line_units_are_those_whose_mean_varies():
    # The second unit's KL is large, but its mean is the same for all.
    dark, bright = [[-1.0, 3.0, 0.0], [0.5, 0.5, 0.5]], [[1.0, 3.0, 0.1], [0.5, 0.5, 0.5]]
    units = counted(dark, bright, priors.StandardNormal, posteriors.DiagonalNormal, 3)
    assert units == UnitCounts(1, 3, above_rate=2)
    # A mixture is no product, so that its units have no rate each.
    mixed = counted(dark, bright, priors.GaussianMixture, posteriors.DiagonalNormal, 3)
    assert mixed == UnitCounts(1, 3)


def test_elsewhere_they_are_those_with_a_rate():
    prior, posterior = (partial(family.OneHot, values=2) for family in (priors, posteriors))
    equal = [[0.0, 0.0], [0.0, 0.0]]
    assert counted(equal, equal, prior, posterior, 4) == UnitCounts(0, 2, 0)
    assert counted(equal, [[0.0, 0.0], [0.5, -0.5]], prior, posterior, 4) == UnitCounts(1, 2, 1)
    same = [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    assert counted(same, same, priors.Beta, posteriors.Beta, 3).total == 3


def test_where_units_cannot_be_counted_there_are_none():
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((6, 4, 4), 0.3))
    vae = build((4, 4), 3, prior=priors.Dirichlet, posterior=posteriors.Dirichlet)
    assert units_in_use(vae, x, log_densities(vae.model, vae.guide, x)) is None
    vae = build((4, 4), 3)
    one = log_densities(vae.model, vae.guide, x[:1])
    assert units_in_use(vae, x[:1], one) is None
    terms = log_densities(vae.model, vae.guide, x)
    assert units_in_use(object(), x, terms) is None  # No `embed`.
    assert units_in_use(vae, x, terms).total == 3


# ---- in training -----------------------------------------------------------------------------


def trained(caplog, **options):
    pyro.set_rng_seed(0)
    objective = ELBO(**options)
    data = PreparedData(digits(), "binary")
    training = Training(
        build((1, 8, 8), 4), data, objective, epochs=8, batch_size=32, lr=3e-3, compile="off"
    )
    with caplog.at_level(logging.INFO, "pyro_vae.training"):
        training.run()
    said = [record for record in caplog.records if "units are" in record.getMessage()]
    return training, said


def test_a_collapsed_model_raises_one_alarm(caplog, monkeypatch):
    monkeypatch.setattr(validation, "PATIENCE_STEPS", 100)
    training, (alarm, line) = trained(caplog, beta=50.0)
    assert alarm.levelno == logging.WARNING
    assert (
        "4 of 4 units are inactive, 4 have a KL below 0.01 nats, the KL is 0.0"
        in alarm.getMessage()
    )
    assert training.history[-1]["active_units"] == 0
    assert line.levelno == logging.INFO


def test_a_healthy_model_raises_none_and_reports_its_units(caplog, monkeypatch):
    monkeypatch.setattr(validation, "PATIENCE_STEPS", 100)
    training, (line,) = trained(caplog)
    assert line.levelno == logging.INFO
    active = training.history[-1]["active_units"]
    assert active >= 2
    assert line.getMessage() == f"{active} of 4 units are in use."
    # The record and the validation go on alike in a resumed training, and move no random stream.
    assert all(type(record["active_units"]) is int for record in training.history)
    resumed = Training(
        build((1, 8, 8), 4), training.data, ELBO(), epochs=8, batch_size=32, lr=3e-3
    )
    resumed.load_state_dict(training.state_dict())
    assert resumed.history == training.history
    before = torch.get_rng_state()
    resumed.validate()
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("batch", [1000, 50])
def test_a_graph_gives_the_scores_of_the_program(batch, monkeypatch):
    monkeypatch.setattr(validation, "VALIDATION_BATCH", batch)
    pyro.set_rng_seed(0)
    vae, data = build((1, 8, 8), 4), PreparedData(digits(), "binary")
    graph = Validation(vae, data, "graph", epochs=validation.GRAPH_EPOCHS)
    program = Validation(vae, data, "off", epochs=validation.GRAPH_EPOCHS)
    before = torch.get_rng_state()
    for _ in range(4):
        assert graph() == program()
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(0.01)
    assert "graph" in graph._values.decisions.values()
    assert not program._values.decisions
    assert (torch.get_rng_state() == before).all()
    # Too short a training to make one.
    short = Validation(vae, data, "graph", epochs=validation.GRAPH_EPOCHS - 1)
    assert [short(), short(), short()] == 3 * [program()]
    assert not short._values.decisions


# ---- what to do ------------------------------------------------------------------------------


MAIN = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "svi_train.py"))["main"]


def alarm_of(out, *options):
    """The alarm of a run of the command line with these options; None if there is none."""
    given = ["--out", str(out), "--overwrite", "--evaluate", "none", "--seed", "0", *options]
    assert MAIN(given) == 0
    said = [
        line
        for line in (out / "train.log").read_text().splitlines()
        if "posterior collapse" in line
    ]
    return said[0] if said else None


def remedies_in(alarm):
    """The options that the alarm names, as they are typed."""
    return [words.split() for words in re.findall(r"\((--[^)]+)\)", alarm)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("planted", "remedies"),
    [
        # Values of two factors in [0, 1], whose spread is far below the scale.
        (["--likelihood.scale", "fixed", "--likelihood.initial-scale", "1"], 2),
        (["--likelihood.scale", "learned"], 2),
        # A decoder that does without z.
        (
            [
                "--likelihood",
                "autoregressive_bernoulli",
                "--network.hidden",
                "[200,200,200,200,200]",
            ],
            2,
        ),
        (["--objective.beta", "50"], 3),
    ],
    ids=["fixed scale", "large start", "autoregressive decoder", "beta"],
)
def test_each_remedy_ends_the_collapse_it_is_named_for(planted, remedies, tmp_path):
    """Plant a collapse, type what the alarm says, and see that the alarm is gone."""
    data = ["--data", "digits"]
    if any("scale" in word for word in planted):
        rng = np.random.default_rng(0)
        p = 1 / (1 + np.exp(-rng.normal(size=(500, 2)) @ rng.normal(size=(2, 64))))
        np.save(tmp_path / "p.npy", (0.4 + 0.2 * p).reshape(-1, 8, 8).astype(np.float32))
        data = ["--data", str(tmp_path / "p.npy"), "--likelihood", "normal"]
    setting = [*data, *planted, "--max-steps", "800"]
    alarm = alarm_of(tmp_path / "run", *setting)
    named = remedies_in(alarm)
    assert len(named) == remedies
    if "scale" in planted[0]:
        # The second is another way to use the first.
        named[1] += named[0]
    for remedy in named:
        assert alarm_of(tmp_path / "run", *setting, *remedy) is None, remedy


@pytest.mark.slow
def test_an_autoencoder_hears_nothing_of_the_kl(tmp_path):
    setting = ["--data", "digits", "--objective", "reconstruction", "--posterior", "point"]
    setting += ["--max-steps", "300"]
    alarm = alarm_of(tmp_path / "run", *setting, "--lr", "1e-7")
    assert remedies_in(alarm) == [["--lr"]]
    assert alarm_of(tmp_path / "run", *setting, "--lr", "1e-3") is None


def test_independent_elements_have_no_remedy():
    x = torch.randint(2, (2000, 12), generator=torch.Generator().manual_seed(0)).float()
    vae = build((12,))
    assert remedies(vae, ELBO(), x).startswith("No option helps: the elements of these data")
    x[:, 1] = x[:, 0]
    assert remedies(vae, ELBO(), x) == validation.REMEDIES
