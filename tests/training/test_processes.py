"""Several processes train as one does."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.nn import functional as F

from pyro_vae import build, networks
from pyro_vae.data import digits
from pyro_vae.runs import load
from pyro_vae.training import Training
from pyro_vae.training.batch_loss import SharedNoise, draws_of
from pyro_vae.training.loaders import Batches
from pyro_vae.training.processes import Processes

SCRIPT = Path(__file__).parents[2] / "scripts" / "svi_train.py"
# 1,257 digits: 12 batches of 100, and one of 57.
SHORT = ["--network.hidden", "[16]", "--batch-size", "100", "--evaluate", "none"]


def command(processes: int, *options: object) -> list[str]:
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, str(SCRIPT), *SHORT, *map(str, options)]


def run(processes: int, *options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(processes, *options),
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def start(processes: int, *options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(processes, *options),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(text: str, path: Path) -> None:
    """Wait until a file has this text, for two minutes."""
    deadline = time.monotonic() + 120
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} has no {text!r}"
        time.sleep(0.2)


def records(out: Path) -> list[dict[str, float]]:
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) for name in row if name != "seconds"} for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    """Losses to rounding, and parameters."""
    for mine, yours in zip(records(one), records(other), strict=True):
        assert mine == pytest.approx(yours, rel=1e-5)
    pairs = zip(load(one).state_dict().items(), load(other).state_dict().values(), strict=True)
    for (name, mine), yours in pairs:
        torch.testing.assert_close(mine, yours, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process does."""
    out = tmp_path_factory.mktemp("alone") / "run"
    assert run(1, "--out", out, "--epochs", 2).returncode == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_equal_one(tmp_path, alone, processes):
    done = run(processes, "--out", tmp_path / "run", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("digits: levels 0..16") == 1
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_compiled_processes_equal_one(tmp_path, alone):
    # The two epochs end before a compiler does: another run stores what it makes.
    first = start(2, "--out", tmp_path / "first", "--epochs", 100_000, "--compile", "on")
    wait_for("batch 100: ready after", tmp_path / "first" / "train.log")
    first.terminate()
    first.communicate(timeout=120)
    done = run(2, "--out", tmp_path / "run", "--epochs", 2, "--compile", "on")
    assert done.returncode == 0, done.stderr
    assert "batch 100: ready after" in (tmp_path / "run" / "train.log").read_text()
    # The mode is another; what it was told to do is the same.
    for mine, yours in zip(records(tmp_path / "run"), records(alone), strict=True):
        assert mine == pytest.approx(yours, rel=1e-5)


@pytest.mark.slow
def test_a_run_is_resumed_by_another_number(tmp_path, alone):
    assert run(2, "--out", tmp_path / "run", "--epochs", 1).returncode == 0
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--resume", "--out", str(tmp_path / "run"), "--epochs", "2"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_all_end_and_the_checkpoint_is_whole(tmp_path, victim):
    out = tmp_path / "run"
    started = start(2, "--out", out, "--epochs", 100_000)
    wait_for("\n", out / "metrics.csv")
    time.sleep(2)
    workers = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit()
        and f"RANK={victim}" in environment_of(path)
        and str(started.pid) in (path / "stat").read_text().split()[3:4]
    ]
    (worker,) = workers
    os.kill(worker, signal.SIGKILL)
    _, stderr = started.communicate(timeout=120)
    assert started.returncode != 0
    assert "svi_train.py: another of the processes that train together has ended" in stderr
    assert load(out).configuration["epochs"] == 100_000


def environment_of(process: Path) -> list[str]:
    try:
        return (process / "environ").read_text().split("\0")
    except OSError:
        return []


@pytest.mark.slow
def test_bad_input_is_one_line_of_one_process(tmp_path):
    done = run(2, "--network.norm", "batch", "--out", tmp_path / "run")
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("svi_train.py")]
    assert len(ours) == 1
    assert (
        "batch normalisation (likelihood.decoder.layers.0.norm) needs the whole batch" in ours[0]
    )
    assert not (tmp_path / "run").exists()


# ---- shares and noise ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [7, 2, 1])
def test_shares_weigh_what_they_hold(size):
    """With fewer rows than processes too: who has none looks at one, for nothing."""
    shares = [Batches(size, 10, rank, 3).share(0) for rank in range(3)]
    assert sum(share.weight for share in shares) == pytest.approx(1)
    for share in shares:
        assert 0 <= share.start < share.start + share.rows <= share.of == size
        assert share.weight in (0, pytest.approx(share.rows / size))


def noisy(x):
    """A draw of each kind: of the batch's shape, like another, in place, of rows, of none."""
    loc = torch.randn(3)
    z = dist.Normal(loc.expand(2, len(x), 3), 1.0, validate_args=False).rsample()
    kept = F.dropout(torch.ones(len(x), 5), 0.5)
    keys = torch.randint(0, 1000, (len(x), 1))
    return torch.cat([z[0], z[1], kept, keys, torch.rand_like(x)], dim=-1)


def test_parts_of_the_noise_are_the_whole():
    x = torch.zeros(7, 4)
    torch.manual_seed(1)
    whole, after = noisy(x), torch.get_rng_state()
    parts = []
    for start, stop in ((0, 3), (3, 7)):
        draws = draws_of(noisy, len(x), x[start:stop])
        torch.manual_seed(1)
        with SharedNoise(draws, start, stop - start):
            parts.append(noisy(x[start:stop]))
        assert (torch.get_rng_state() == after).all()
    assert (torch.cat(parts) == whole).all()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (lambda x: torch._standard_gamma(1 + x), "cannot share the noise of aten._standard_gamma"),
        (
            lambda x: torch.randn(2 * len(x)),
            r"shape for 3 and for 7 examples is \(6,\) and \(14,\)",
        ),
        (lambda x: x * float(x.sum()), "need a program that can be traced"),
        (lambda x: torch.rand_like(x) if len(x) > 3 else x, "do not depend on the number"),
    ],
)
def test_noise_that_cannot_be_shared_is_refused(program, message):
    with pytest.raises(ValueError, match=message):
        draws_of(program, 7, torch.zeros(3, 4))


def test_one_process_talks_to_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Processes.join(torch.device("cpu"))
    values = torch.ones(3)
    alone.add(values)
    alone.follow_first([values])
    alone.leave()
    assert (values == 1).all()
    assert alone.first
    assert alone.any(True, False, device=torch.device("cpu")) == (True, False)


def test_the_update_of_parts_is_the_whole_step(monkeypatch):
    """Three processes, one after the other: their parts, added, give what one process computes."""
    from pyro_vae.data import PreparedData

    data = PreparedData(digits(), "binary")

    def a_training(processes: Processes) -> Training:
        pyro.set_rng_seed(0)
        vae = build((1, 8, 8), 3, network=networks.MLP)
        torch.manual_seed(1)
        return Training(vae, data, batch_size=11, processes=processes, compile="off")

    added: list[torch.Tensor] = []
    monkeypatch.setattr(Processes, "add", lambda self, values: added.append(values.clone()))
    ranks = [a_training(Processes(rank, 3)) for rank in range(3)]
    for training in ranks:
        torch.manual_seed(2)
        training.take_step()
    total = torch.stack(added).sum(0)
    monkeypatch.setattr(Processes, "add", lambda self, values: values.copy_(total))
    whole, again = a_training(Processes()), a_training(Processes(1, 3))
    for training in (whole, again):
        torch.manual_seed(2)
        training.take_step()
    assert again.totals.means() == pytest.approx(whole.totals.means(), rel=1e-6)
    for mine, yours in zip(
        again.optimizer_step.optimizer.state.values(),
        whole.optimizer_step.optimizer.state.values(),
        strict=True,
    ):
        torch.testing.assert_close(mine["exp_avg"], yours["exp_avg"], rtol=1e-4, atol=1e-7)
