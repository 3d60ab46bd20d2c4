"""The training loop in one process."""

import math

import numpy as np
import pyro
import pytest
import torch

from pyro_vae import build, fit
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.objectives import ELBO
from pyro_vae.training import NonFiniteError, Training
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint
from pyro_vae.training.schedules import LEAST_STEPS, PATIENCE_STEPS


def small() -> Dataset:
    """100 digits in four grey levels: 7 steps of 10 an epoch."""
    d = digits()
    return Dataset.from_array(d.train[:100], levels=17, name="small")


def prepared() -> PreparedData:
    return PreparedData(small(), "binary")


def parameters(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def a_training(**options) -> Training:
    pyro.set_rng_seed(3)
    return Training(build((1, 8, 8), 3), prepared(), **{"batch_size": 10, "epochs": 3, **options})


def test_history_has_a_row_an_epoch():
    history = a_training(epochs=3).run()
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert [record["step"] for record in history] == [7, 14, 21]
    for record in history:
        assert record["elbo"] == pytest.approx(record["reconstruction"] - record["kl"])
        assert record["validation_elbo"] == pytest.approx(
            record["validation_reconstruction"] - record["validation_kl"]
        )
        assert record["skipped"] == 0
        assert record["beta"] == 1


def test_max_steps_bounds_training():
    training = a_training(max_steps=9)
    history = training.run()
    assert training.step == 9
    assert [record["step"] for record in history] == [7, 9]


def test_the_same_seed_gives_the_same_parameters():
    one = a_training()
    one.run()
    other = a_training()
    other.run()
    assert (parameters(one.program) == parameters(other.program)).all()


def test_emulated_bfloat16_is_refused(monkeypatch):
    """On this CPU, or on that of a resumed run."""
    capabilities = {"avx512_bf16": False, "avx512_f": True, "architecture": "x86_64"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with pytest.raises(ValueError, match="precision must be float32 on this CPU, got 'bfloat16'"):
        a_training(precision="bfloat16")
    for name in ("avx512_bf16", "amx_bf16", "bf16"):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda name=name: capabilities | {name: True}
        )
        a_training(precision="bfloat16")


@pytest.mark.parametrize(
    ("at", "schedule"), [(0, "constant"), (3, "exponential"), (7, "cosine"), (10, "plateau")]
)
def test_resume_is_bit_exact(tmp_path, at, schedule):
    path = tmp_path / "checkpoint.pt"
    objective = ELBO(warmup_epochs=2.0)
    straight = a_training(objective=objective, lr_schedule=schedule)
    straight.run()
    stopped = a_training(objective=ELBO(warmup_epochs=2.0), lr_schedule=schedule)
    stopped.run(checkpoint=path, stop=lambda: stopped.step >= at)
    assert stopped.step == at
    torch.rand(100)  # What happens in between does not matter.
    pyro.set_rng_seed(99)
    resumed = Training(
        build((1, 8, 8), 3),
        prepared(),
        ELBO(warmup_epochs=2.0),
        batch_size=10,
        epochs=3,
        lr_schedule=schedule,
    )
    resumed.load_state_dict(load_checkpoint(path))
    resumed.run()
    assert (parameters(resumed.program) == parameters(straight.program)).all()
    for mine, yours in zip(resumed.history, straight.history, strict=True):
        assert mine | {"seconds": 0} == yours | {"seconds": 0}


def test_a_run_cut_by_max_steps_can_be_lengthened(tmp_path):
    path = tmp_path / "checkpoint.pt"
    straight = a_training()
    straight.run()
    short = a_training(max_steps=9)
    short.run(checkpoint=path)
    longer = a_training()
    longer.load_state_dict(load_checkpoint(path))
    longer.run()
    assert (parameters(longer.program) == parameters(straight.program)).all()
    assert [record["step"] for record in longer.history] == [7, 14, 21]


def scored(monkeypatch, training, *scores):
    """The training with these validation ELBOs, and the parameters at each."""
    left, seen = iter(scores), []

    def validate():
        seen.append(parameters(training.program))
        return {"elbo": next(left), "reconstruction": 0.0, "kl": 0.0}

    monkeypatch.setattr(training, "validate", validate)
    return seen


def test_early_stopping_goes_back_to_the_best_epoch(monkeypatch):
    training = a_training(epochs=5, early_stopping=2)
    kept = scored(monkeypatch, training, -30.0, -20.0, -25.0, -26.0, -27.0)
    training.run()
    assert len(training.history) == 4
    assert training.stopping.best_epoch == 2
    assert (parameters(training.program) == kept[1]).all()


@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({}, 2),
        ({"max_steps": 25}, 2),
        ({"keep": "last"}, 5),
        ({"objective": ELBO(beta=4.0)}, 5),
        ({"objective": ELBO(beta=4.0), "keep": "best"}, 2),
    ],
)
def test_the_best_epoch_is_kept_where_its_score_is_maximised(monkeypatch, options, best):
    training = a_training(**{"epochs": 5, **options})
    kept = scored(monkeypatch, training, -30.0, -20.0, -25.0, -26.0, -21.0)
    training.run()
    assert (parameters(training.program) == kept[best - 1]).all()


def test_the_best_parameters_are_kept_when_a_cut_epoch_goes_on(monkeypatch, tmp_path):
    path = tmp_path / "checkpoint.pt"
    cut = a_training(max_steps=10)
    # Epoch 2 is cut after 3 of its 7 steps, where it is the best.
    kept = scored(monkeypatch, cut, -20.0, -19.0)
    cut.run(checkpoint=path)
    state = load_checkpoint(path)
    for before in (state, {name: v for name, v in state.items() if name != "best_score"}):
        longer = a_training()
        longer.load_state_dict(before)
        scored(monkeypatch, longer, -21.0, -22.0)
        longer.run()
        assert (longer.stopping.best_epoch, longer.stopping.best_score) == (2, -19.0)
        assert (parameters(longer.program) == kept[1]).all()


def test_few_rows_get_more_epochs_and_an_early_stop():
    # 70 rows are 7 steps an epoch.
    training = a_training(epochs=None)
    assert training.steps == math.ceil(LEAST_STEPS / 7) * 7
    assert training.stopping.patience == math.ceil(PATIENCE_STEPS / 7)
    assert a_training(early_stopping=None).stopping.patience is None
    assert a_training(objective=ELBO(beta=4.0)).stopping.patience is None


def test_an_early_stop_waits_for_the_weight_to_settle(monkeypatch):
    training = a_training(epochs=6, early_stopping=2, objective=ELBO(warmup_epochs=3.0))
    scored(monkeypatch, training, -20.0, -21.0, -22.0, -23.0, -24.0, -25.0)
    assert len(training.run()) == 4


def test_validation_moves_no_random_stream_and_repeats():
    training = a_training()
    before = torch.get_rng_state()
    first, second = training.validate(), training.validate()
    assert first == second
    assert (torch.get_rng_state() == before).all()


def test_the_training_weight_never_reaches_validation():
    training = a_training(objective=ELBO(beta=50.0), epochs=1)
    (record,) = training.run()
    assert record["validation_elbo"] == pytest.approx(
        record["validation_reconstruction"] - record["validation_kl"]
    )
    assert record["beta"] == 50


def test_warmup_reaches_beta():
    history = a_training(objective=ELBO(beta=4.0, warmup_epochs=2.0), epochs=4).run()
    betas = [record["beta"] for record in history]
    # The mean over an epoch of a weight that grows from 0 to 4 in two epochs.
    assert betas == pytest.approx([4 * 3 / 14, 4 * 10 / 14, 4, 4], rel=1e-5)


def test_clipping_shortens_the_gradient():
    training = a_training(clip_norm=1e-3, max_steps=1)
    training.run()
    # The first mean of Adam is a tenth of the gradient.
    moments = training.state_dict()["optimizer"]["state"].values()
    gradients = [10 * moment["exp_avg"] for moment in moments]
    assert torch.nn.utils.get_total_norm(gradients) == pytest.approx(1e-3, rel=1e-3)


def poison(training: Training, steps: range) -> None:
    """Make the loss NaN at these steps."""
    evaluate, fetch = training.objective.forward, training.loader.fetch
    factor = torch.ones(())  # A tensor: a graph has numbers as constants.

    def forward(terms):
        value = evaluate(terms)
        return type(value)(value.loss * factor, value.values)

    def fetch_poisoned(step):
        factor.fill_(float("nan") if step in steps else 1.0)
        return fetch(step)

    training.objective.forward, training.loader.fetch = forward, fetch_poisoned


def test_a_step_that_is_not_finite_changes_nothing():
    training = a_training(epochs=1, max_steps=3)
    training.run()
    before, moments = parameters(training.program), training.state_dict()["optimizer"]["state"][0]
    moments = {name: value.clone() for name, value in moments.items()}
    training.steps = 4
    poison(training, range(3, 4))
    (*_, record) = training.run()
    assert record["skipped"] == 1
    assert (parameters(training.program) == before).all()
    for name, value in training.state_dict()["optimizer"]["state"][0].items():
        assert (value == moments[name]).all(), name
    assert np.isfinite(record["elbo"])


def test_twenty_in_a_row_end_the_run(tmp_path):
    path = tmp_path / "checkpoint.pt"
    training = a_training(epochs=20)
    poison(training, range(30, 1000))
    with pytest.raises(NonFiniteError, match=r"20 steps in a row.*from step 31 on"):
        training.run(checkpoint=path, checkpoint_seconds=0.0)
    assert all(p.isfinite().all() for p in training.program.parameters())
    state = load_checkpoint(path)
    assert all(value.isfinite().all() for value in state["program"].values())


def test_the_term_that_broke_is_named():
    """Parameters that have become NaN: the first term that shows it is q(z | x)."""
    training = a_training(epochs=20)
    with torch.no_grad():
        training.program.posterior.encoder.head.bias.fill_(float("nan"))
    with pyro.validation_enabled(False):
        for _ in range(30):
            training.take_step()
    with pytest.raises(NonFiniteError, match="log q at site 'z' of the guide is not finite"):
        training.loss.check_finite(training.totals, training.loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"clip_norm": -1.0}, "clip_norm must be above 0"),
        ({"early_stopping": 0}, "early_stopping must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        a_training(**options)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    a_training(max_steps=1).run(checkpoint=path)
    other = Training(build((1, 8, 8), 4), prepared(), batch_size=10)
    with pytest.raises(ValueError, match="another VAE: 3 tensors differ"):
        other.load_state_dict(load_checkpoint(path))
    with pytest.raises(ValueError, match="batch_size 10, got 11"):
        a_training(batch_size=11).load_state_dict(load_checkpoint(path))


def test_a_schedule_tied_to_length_keeps_it(tmp_path):
    path = tmp_path / "checkpoint.pt"
    a_training(lr_schedule="cosine", max_steps=2).run(checkpoint=path)
    with pytest.raises(ValueError, match="cosine is tied to the number of epochs"):
        a_training(lr_schedule="cosine", epochs=9).load_state_dict(load_checkpoint(path))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut short, or not a checkpoint"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")
    save_checkpoint(path, {"something": 1})
    with pytest.raises(ValueError, match="not a checkpoint of pyro_vae"):
        load_checkpoint(path)


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    a_training(max_steps=1).run(checkpoint=path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, len(whole) // 23):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut short"):
            load_checkpoint(path)


def test_fit_takes_an_array_and_leaves_evaluation_mode():
    vae = build((1, 8, 8), 3)
    history = fit(vae, digits().train[:50].to(torch.float32) / 16, epochs=1, batch_size=10)
    assert len(history) == 1
    assert not vae.training
