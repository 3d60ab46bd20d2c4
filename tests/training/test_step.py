"""An optimizer step: an objective with parameters of its own, and the totals of an epoch."""

import pyro
import pytest
import torch

from pyro_vae.data import Dataset, PreparedData
from pyro_vae.model import build
from pyro_vae.objectives import Factor
from pyro_vae.training import Training
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.processes import Processes
from pyro_vae.training.step import AuxiliaryParameters, Loss, Step, Totals


def a_training(**options) -> Training:
    pyro.set_rng_seed(3)
    pictures = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    data = PreparedData(Dataset.from_array((pictures * 17).floor().byte(), levels=17), "binary")
    vae, critic = build((1, 8, 8), 3), Factor(latent_dim=3, critic_hidden=(8,))
    return Training(vae, data, critic, **{"batch_size": 10, "epochs": 3, **options})


def state(training: Training) -> dict[str, torch.Tensor]:
    return {**training.program.state_dict(), **training.objective.state_dict(prefix="own.")}


@pytest.mark.parametrize(("at", "schedule"), [(4, "constant"), (10, "cosine")])
def test_resume_is_bit_exact(tmp_path, at, schedule):
    options = {"lr_schedule": schedule, "compile": "off"}
    straight = a_training(**options)
    straight.run()
    stopped = a_training(**options)
    path = tmp_path / "checkpoint.pt"
    stopped.run(checkpoint=path, stop=lambda: stopped.step >= at)
    torch.manual_seed(99)
    resumed = a_training(**options)
    resumed.load_state_dict(load_checkpoint(path))
    resumed.run()
    for (name, mine), yours in zip(state(resumed).items(), state(straight).values(), strict=True):
        assert torch.equal(mine, yours), name
    assert any(name.startswith("own.critic") for name in state(straight))


def test_both_groups_follow_their_own_loss_and_rate():
    """Adam's first step is the rate itself, up or down."""
    ours, theirs = torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)

    def loss(x):
        return Loss((ours * x).sum() + 5 * theirs.sum(), auxiliary=-theirs.sum() + 7 * ours.sum())

    step = Step(
        loss,
        {"a": ours},
        lr=0.1,
        auxiliary=AuxiliaryParameters({"b": theirs}, lr=0.02, betas=(0.5, 0.9)),
    )
    step(torch.tensor([1.0, -1.0, 2.0]))
    torch.testing.assert_close(ours.detach(), torch.tensor([-0.1, 0.1, -0.1]))
    torch.testing.assert_close(theirs.detach(), torch.full((2,), 0.02))
    assert step.optimizer.param_groups[1]["betas"] == (0.5, 0.9)


def test_an_own_gradient_that_is_not_finite_skips_the_whole_step():
    ours, theirs = torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)
    step = Step(
        lambda x: Loss(ours.sum(), auxiliary=(theirs * x).sum()),
        {"a": ours},
        lr=0.1,
        auxiliary=AuxiliaryParameters({"b": theirs}),
    )
    step(torch.tensor(float("nan")))
    assert not ours.any()
    assert not theirs.any()
    assert int(step.totals.skipped) == 1


def test_several_processes_refuse_what_couples_a_batch():
    several = Processes(rank=0, size=2)
    with pytest.raises(ValueError, match="Factor couples the examples of a batch"):
        a_training(processes=several)
    with pytest.raises(ValueError, match="parameters of its own must be trained in one process"):
        Step(
            lambda: None,
            {"a": torch.zeros(1, requires_grad=True)},
            lr=0.1,
            auxiliary=AuxiliaryParameters({"b": torch.zeros(1, requires_grad=True)}),
            processes=several,
        )


def test_totals_add_up_and_leave_out_what_was_skipped():
    totals = Totals(torch.device("cpu"))
    taken, skipped = torch.tensor(True), torch.tensor(False)
    rows = []
    for step in (taken, skipped, skipped, taken):
        value = 6.0 if step else float("nan")
        totals.add(step, 3, {"elbo": torch.tensor(value, dtype=torch.float64)})
        rows.append((int(totals.in_a_row), int(totals.first_skipped)))
    assert totals.means() == {"elbo": 2.0}
    assert (int(totals.data), int(totals.skipped), int(totals.steps)) == (6, 2, 4)
    # The number of steps in the current row of skipped ones, and of those before it.
    assert rows == [(0, 1), (1, 1), (2, 1), (0, 4)]
    held = totals.sums["elbo"]
    totals.add(skipped, 3, {"elbo": torch.tensor(1.0, dtype=torch.float64)})
    totals.start_epoch()
    # In place, so that a graph goes on with them; a row of skipped steps runs across epochs.
    assert totals.sums["elbo"] is held
    assert totals.means() == {}
    assert (int(totals.in_a_row), int(totals.first_skipped), int(totals.steps)) == (1, 4, 5)


def test_tiny_moments_are_dropped():
    weight = torch.zeros(3, requires_grad=True)
    step = Step(
        lambda: Loss((weight * torch.tensor([1.0, 0.0, 2.0])).sum()), {"w": weight}, lr=0.1
    )
    step()
    mean = step.optimizer.state[weight]["exp_avg"]
    before = mean.clone()
    mean[1] = 1e-39
    step.drop_tiny_moments()
    assert mean.tolist() == before.tolist()
