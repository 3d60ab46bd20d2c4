"""Aggressive training of the inference network."""

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import build, likelihoods, networks, priors
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.mutual_information import mutual_information
from pyro_vae.training import NonFiniteError, Training
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint
from pyro_vae.training.processes import Processes
from pyro_vae.training.step import Totals


def prepared() -> PreparedData:
    """100 digits: 7 steps of 10 an epoch."""
    return PreparedData(
        Dataset.from_array(digits().train[:100], levels=17, name="small"), "binary"
    )


def a_vae(**parts) -> nn.Module:
    return build((1, 8, 8), 3, network=partial(networks.MLP, hidden=(16,)), **parts)


def a_training(vae=None, **options) -> Training:
    pyro.set_rng_seed(3)
    vae = a_vae() if vae is None else vae
    defaults = {"batch_size": 10, "epochs": 3, "aggressive_steps": 20, "compile": "off"}
    return Training(vae, prepared(), **{**defaults, **options})


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(before, after) -> set[str]:
    return {name for name, value in before.items() if (value != after[name]).any()}


def of(module: nn.Module, *prefixes: str) -> set[str]:
    return {name for name, _ in module.named_parameters() if name.startswith(prefixes)}


# ---- which parameters ------------------------------------------------------------------------


def test_inner_steps_move_the_guide_alone_and_outer_ones_the_model():
    training = a_training()
    vae, aggressive = training.program, training.aggressive
    start = parameters(vae)
    aggressive.update_guide()
    inner = parameters(vae)
    assert moved(start, inner) == of(vae, "posterior")
    aggressive.outer(training.loader.fetch(0), training.batches.share(0))
    assert moved(inner, parameters(vae)) == of(vae, "likelihood")


def test_a_vamp_prior_shares_the_guides_encoder():
    vae = a_vae(prior=partial(priors.Vamp, components=3))
    aggressive = a_training(vae).aggressive
    shared = {n for n, p in vae.named_parameters() if "posterior" in n}
    assert set(aggressive.inner.trained) == shared & of(vae, "prior", "posterior")
    assert set(aggressive.outer.trained) == {n for n, _ in vae.named_parameters()} - shared
    assert any(name.startswith("prior") for name in aggressive.outer.trained)


def test_a_parameter_has_one_state_of_adam():
    training = a_training()
    aggressive, optimizer = training.aggressive, training.optimizer_step.optimizer
    aggressive.update_guide()
    for name, parameter in training.program.named_parameters():
        assert optimizer.state[parameter]["step"] == 20 * name.startswith("posterior")
    assert aggressive.inner.optimizer is aggressive.outer.optimizer is optimizer
    assert aggressive.outer.totals is training.totals


def test_a_learning_rate_reaches_the_inner_steps():
    training = a_training()
    for group in training.optimizer_step.optimizer.param_groups:
        group["lr"] = 0.0
    before = parameters(training.program)
    training.aggressive.update_guide()
    assert not moved(before, parameters(training.program))


class Alone(nn.Module):
    """A program whose guide, or whose model, has no parameters."""

    def __init__(self, of_guide: bool) -> None:
        super().__init__()
        self.of_guide = of_guide
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0 if self.of_guide else self.loc, 1.0))
            probs = torch.sigmoid(z)[..., None, None, None].expand(*z.shape, 1, 8, 8)
            pyro.sample("x", dist.Bernoulli(probs).to_event(3), obs=x)

    def guide(self, x):
        loc = self.loc * x.mean((1, 2, 3)) if self.of_guide else x.mean((1, 2, 3))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))


@pytest.mark.parametrize(("of_guide", "whose"), [(True, "model"), (False, "guide")])
def test_a_side_without_parameters_is_refused(of_guide, whose):
    with pytest.raises(ValueError, match=f"parameters of the {whose} alone to train, got none"):
        a_training(Alone(of_guide))


# ---- when it stops ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("means", "taken"),
    [
        ([3.0, 2.0, 2.0, 1.0], 30),
        ([3.0, 4.0], 20),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 45),
        ([3.0, math.nan], 20),
    ],
)
def test_inner_steps_end_when_the_loss_stops_falling(monkeypatch, means, taken):
    aggressive = a_training(aggressive_steps=45).aggressive
    values = iter(means)
    monkeypatch.setattr(Totals, "means", lambda self: {"loss": next(values)})
    aggressive.update_guide()
    assert aggressive.epoch_steps == aggressive.taken == taken


def test_the_window_holds_the_mean_loss_per_datum():
    training = a_training(aggressive_steps=10)
    losses = []
    loss = training.aggressive.inner.loss

    def kept(*batch):
        value = loss(*batch)
        losses.append(float(value.mean.detach()))
        return value

    training.aggressive.inner.loss = kept
    training.aggressive.update_guide()
    (mean,) = training.aggressive.inner.totals.means().values()
    assert mean == pytest.approx(sum(losses) / 10, rel=1e-6)


def test_the_phase_ends_when_the_mutual_information_stops_climbing(monkeypatch):
    training = a_training(epochs=5)
    values = iter([1.0, 1.5, 1.5])
    monkeypatch.setattr(training.aggressive, "_mutual_information", lambda: next(values))
    history = training.run()
    assert [record["aggressive"] for record in history] == [1, 1, 1, 0, 0]
    assert [record["mutual_information"] for record in history] == [1.0, 1.5, 1.5, None, None]
    assert all(record["inner_steps"] == 7 * 20 for record in history[:3])
    assert all(record["inner_steps"] == 0 for record in history[3:])
    # The ordinary steps go on with the moments of both.
    counts = {
        name.partition(".")[0]: int(training.optimizer_step.optimizer.state[p]["step"])
        for name, p in training.program.named_parameters()
    }
    assert counts == {"posterior": 21 * 20 + 14, "likelihood": 21 + 14}


def test_inner_batches_are_full_fresh_and_a_function_of_their_number():
    aggressive = a_training().aggressive
    batches = [aggressive.loader.fetch(step).tolist() for step in range(14)]
    assert all(len(set(batch)) == 10 for batch in batches)
    for epoch in (batches[:7], batches[7:]):
        rows = list(itertools.chain(*epoch))
        assert len(set(rows)) == len(rows)
    assert batches[:7] != batches[7:]
    assert aggressive.loader.fetch(3).tolist() == batches[3]


# ---- what is not finite ----------------------------------------------------------------------


def test_inner_steps_that_are_never_finite_end_the_run():
    training = a_training(aggressive_steps=100)
    loss = training.aggressive.inner.loss

    def broken(*batch):
        value = loss(*batch)
        return type(value)(value.mean * math.nan, value.count, value.sums)

    training.aggressive.inner.loss = broken
    before = parameters(training.program)
    with pytest.raises(NonFiniteError, match=r"20 inner steps in a row.*from inner step 1 on"):
        training.run()
    # A window without one finite loss ends an update; the second is the twentieth step.
    assert training.step == 1
    assert moved(before, parameters(training.program)) == of(training.program, "likelihood")


# ---- resuming --------------------------------------------------------------------------------


def same(one: Training, other: Training) -> None:
    assert not moved(parameters(one.program), parameters(other.program))
    for mine, yours in zip(one.history, other.history, strict=True):
        assert mine | {"seconds": 0} == yours | {"seconds": 0}
    mine, yours = one.state_dict(), other.state_dict()
    for index, moments in mine["optimizer"]["state"].items():
        for name, value in moments.items():
            assert (value == yours["optimizer"]["state"][index][name]).all()
    assert mine["aggressive"]["taken"] == yours["aggressive"]["taken"]
    assert mine["compile"] == yours["compile"]


def resumed_at(at: int, path, **options) -> None:
    """Compare a training that is stopped after `at` steps and resumed with one that never is."""

    def begun():
        training = a_training(aggressive_steps=25, **options)
        found = training.aggressive._mutual_information

        def climbing():
            return found() - 100.0 * (training.step > 7)

        training.aggressive._mutual_information = climbing
        return training

    straight = begun()
    straight.run()
    assert not straight.aggressive.active
    stopped = begun()
    stopped.run(checkpoint=path, stop=lambda: stopped.step >= at)
    assert stopped.step == at
    torch.rand(100)
    resumed = begun()
    resumed.load_state_dict(load_checkpoint(path))
    pyro.set_rng_seed(99)
    torch.set_rng_state(load_checkpoint(path)["random_state"])
    resumed.run()
    same(straight, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 10, 16])
def test_resume_is_bit_exact(tmp_path, at):
    resumed_at(at, tmp_path / "checkpoint.pt", lr_schedule="cosine")


@pytest.mark.usefixtures("wait_for_compiler")
@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 9])
def test_resume_is_bit_exact_compiled(tmp_path, at):
    resumed_at(at, tmp_path / "checkpoint.pt", compile="on")


def test_both_steps_are_compiled(set_compiler):
    """That each does what its eager one does is checked as it is compiled, or it stays eager."""
    set_compiler()
    training = a_training(compile="on", aggressive_steps=10)
    vae, aggressive = training.program, training.aggressive
    start = parameters(vae)
    aggressive.update_guide()
    inner = parameters(vae)
    assert moved(start, inner) == of(vae, "posterior")
    for step in range(3):
        aggressive.outer(training.loader.fetch(step), training.batches.share(step))
    assert moved(inner, parameters(vae)) == of(vae, "likelihood")
    state = aggressive.state_dict()
    assert state["compile_inner"] == state["compile_outer"] == {"10": "on"}
    assert training.compiled == "on"
    assert training.compile_seconds > 0


def test_a_cut_epoch_goes_on_in_the_phase(tmp_path):
    path = tmp_path / "checkpoint.pt"
    options = {"epochs": 2, "aggressive_steps": 10}
    straight = a_training(**options)
    straight.run()
    a_training(max_steps=9, **options).run(checkpoint=path)
    longer = a_training(**options)
    # The order of both loaders is the checkpoint's, whatever the seed is.
    longer.loader.order_seed = longer.aggressive.loader.order_seed = 99
    longer.load_state_dict(load_checkpoint(path))
    longer.run()
    same(straight, longer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"taken": -1}, "aggressive.taken must be from 0"),
        (lambda a: a | {"more": 1}, "aggressive must have the names"),
        (lambda a: a | {"totals": {}}, "totals must have the names"),
        (lambda a: None, "trained without aggressive_steps, got one with"),
    ],
)
def test_a_state_of_a_wrong_form_is_refused(tmp_path, change, message):
    training = a_training(max_steps=1)
    training.run()
    state = training.state_dict()
    with pytest.raises(ValueError, match=message):
        a_training().load_state_dict({**state, "aggressive": change(state["aggressive"])})
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    with pytest.raises(ValueError, match="trained with aggressive_steps, got one without"):
        a_training(aggressive_steps=0).load_state_dict(load_checkpoint(tmp_path / "checkpoint.pt"))


# ---- options ---------------------------------------------------------------------------------


def test_without_it_nothing_is_another():
    training = a_training(aggressive_steps=0, epochs=1)
    (record,) = training.run()
    assert training.aggressive is None
    assert training.state_dict()["aggressive"] is None
    assert "inner_steps" not in record


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="aggressive_steps must be at least 0, got -1"):
        a_training(aggressive_steps=-1)
    with pytest.raises(ValueError, match="train in one process"):
        a_training(processes=Processes(0, 2))


@pytest.mark.slow
def test_a_strong_decoder_keeps_its_latent_variable_in_use():
    """Thresholded digits, and a decoder that can model them alone: plain training collapses."""
    rates, information = [], []
    train = (digits().train > 7).to(torch.uint8)
    for steps in (0, 30):
        pyro.set_rng_seed(1)
        vae = build(
            (1, 8, 8),
            4,
            network=partial(networks.MLP, hidden=(64,)),
            likelihood=partial(likelihoods.AutoregressiveBernoulli, hidden=100),
        )
        training = Training(
            vae,
            PreparedData(Dataset.from_array(train, name="thresholded"), "binary"),
            epochs=4,
            batch_size=100,
            lr=2e-3,
            aggressive_steps=steps,
            compile="off",
        )
        rates.append(training.run()[-1]["validation_kl"])
        x = training.data.fixed("validation").to(torch.float32)
        information.append(mutual_information(vae, x).value)
    assert rates[0] < 0.2
    assert information[0] < 0.1
    assert rates[1] > 0.5
    assert information[1] > 0.4


def test_inner_batches_come_in_an_order_of_their_own():
    training = a_training()
    inner, outer = training.aggressive.loader, training.loader
    for step in range(3):
        same = torch.equal(inner.fetch(step), outer.fetch(step))
        assert not same, f"the inner batch {step} is the epoch's own"


def test_pyros_store_is_left_as_it_was():
    pyro.clear_param_store()
    a_training(epochs=1, max_steps=2).run()
    assert not pyro.get_param_store()
