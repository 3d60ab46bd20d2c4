"""How much evidence there is for a run, as a person asks for it."""

import hashlib
import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.configuration.components import load_data, prepare_data
from pyro_vae.evidence import evaluate, fixed_rows
from pyro_vae.runs import load
from pyro_vae.runs.result_cache import ResultCache
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "evaluate.py"
SHORT = ["--max-steps", "2", "--network.hidden", "[8]", "--evaluate", "none"]
WEIGHTED = ["--images", "30", "--samples", "25"]
CHAINED = ["--annealed-images", "5", "--simulated", "3", "--chains", "2", "--temperatures", "2"]
TINY = [*WEIGHTED, *CHAINED, "--leapfrog-steps", "1"]
METHODS = ["importance_weighting", "annealing", "two_sided", "gaps"]
ALL = ["--methods", *METHODS, "--gap-steps", "3"]


def train(out: Path, *options: str) -> Path:
    """A run of two steps."""
    program = runpy.run_path(str(ROOT / "scripts" / "svi_train.py"))["main"]
    assert program(["--out", str(out), *SHORT, *options]) == 0
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("evaluate") / "run")


@pytest.fixture
def run(trained, tmp_path):
    """A copy, to be written into."""
    return shutil.copytree(trained, tmp_path / "run")


def main(*arguments: str | Path, chunk: int | None = None) -> int:
    """Run the program in this process; `chunk` data at a time."""
    program = runpy.run_path(str(SCRIPT))["main"]
    if chunk is not None:
        program.__globals__["drawn_at_a_time"] = lambda subject: chunk
        program.__globals__["chained_at_a_time"] = lambda subject: 2
    return program([str(argument) for argument in arguments])


def found(run: Path) -> dict[str, np.ndarray]:
    """Every array of a run's evaluation."""
    arrays = {}
    for path in sorted((run / "evaluation").glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            arrays |= {f"{path.stem}.{name}": archive[name] for name in archive.files}
    return arrays


def records(run: Path) -> dict[str, dict]:
    """Every JSON of a run's evaluation, but for how long it took."""
    read = {
        path.stem: json.loads(path.read_text()) for path in (run / "evaluation").glob("*.json")
    }
    for record in read.values():
        assert record.pop("seconds") > 0
    return read


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def written(monkeypatch):
    """The names of the chunks that are made and kept from here on."""
    names = []
    write = ResultCache.write

    def counted(self, name, result, seconds):
        write(self, name, result, seconds)
        names.append(name.partition("-")[0])

    monkeypatch.setattr(ResultCache, "write", counted)
    return names


def test_what_it_leaves(run, capsys):
    before = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in run.iterdir()}
    assert main(run, *TINY, *ALL) == 0
    screen = capsys.readouterr().out
    for words in (
        "30 test images of digits",
        "25 samples",
        "2 chains",
        "3 simulated images",
        "+- ",
    ):
        assert words in screen
    after = {p.name: hashlib.sha256(p.read_bytes()).digest() for p in run.iterdir() if p.is_file()}
    assert after == before

    folder = run / "evaluation"
    names = {path.name for path in folder.iterdir()}
    files = {f"{method}.{suffix}" for method in METHODS for suffix in ("json", "npz")}
    assert names == {"kept", "iwae_curve.png", *files}
    for method, record in records(run).items():
        assert not any(isinstance(value, (dict, list)) for value in record.values())
        assert record["method"] == method
        assert " ".join(record["trust"].split()) in " ".join(screen.split())
        assert {"n", "seed", "split", "torch", "pyro", "git_commit", "device"} <= record.keys()
        assert record["checkpoint_sha256"] == before["checkpoint.pt"].hex()
    weighted, annealed = records(run)["importance_weighting"], records(run)["annealing"]
    assert (weighted["n"], annealed["n"]) == (30, 5)
    arrays = found(run)
    gain = arrays["annealing.log_evidence"] - arrays["importance_weighting.log_evidence"][:5]
    assert annealed["above_importance_weighting"] == pytest.approx(gain.mean())
    assert weighted["log_evidence"] == arrays["importance_weighting.log_evidence"].mean()
    # Gaps are below the number that annealing gave.
    assert (arrays["gaps.log_evidence"] == arrays["annealing.log_evidence"]).all()
    assert (arrays["gaps.rows"] == arrays["importance_weighting.rows"][:5]).all()


def test_the_numbers_are_those_of_the_library(run):
    """Of the fixed rows, in the test split, and to the accuracy of 1,000 draws."""
    options = ["--methods", "importance_weighting", "--images", "40", "--samples", "1000"]
    assert main(run, *options, "--device", "cpu") == 0
    arrays = found(run)
    rows = torch.from_numpy(arrays["importance_weighting.rows"])
    vae = load(run)
    data = prepare_data(vae.configuration, load_data(vae.configuration, Path()))
    test = data.fixed("test")
    assert (rows.sort().values == fixed_rows(len(test), 40)).all()
    expected = evaluate(vae, test[rows], num_samples=1000).importance_weighting
    # A decoder of two steps hardly reads z: this has little noise, and differs from datum to datum.
    difference = arrays["importance_weighting.reconstruction"] - expected.reconstruction
    assert np.abs(difference).max() < 0.1 < expected.reconstruction.std()
    assert arrays["importance_weighting.log_evidence"].mean() == pytest.approx(
        expected.mean_log_evidence, abs=0.3
    )
    record = records(run)["importance_weighting"]
    assert record["bits_per_dim"] == pytest.approx(data.bits_per_dim(record["log_evidence"]))


@pytest.mark.usefixtures("interruptible")
def test_stopped_anywhere_it_goes_on_to_the_same_numbers(
    trained, run, capsys, monkeypatch, written
):
    """Ctrl-C or SIGTERM after some chunks; what is there is not made again."""
    whole = shutil.copytree(trained, run.parent / "whole")
    assert main(whole, *TINY, *ALL, chunk=12) == 0
    chunks = list(written)
    assert {method: chunks.count(method) for method in METHODS} == dict(
        zip(METHODS, (3, 3, 2, 1), strict=True)
    )
    written.clear()
    write = ResultCache.write
    for stop, how in ((2, signal.SIGINT), (1, signal.SIGTERM), (4, signal.SIGINT)):
        left = iter(range(stop))

        def stopping(self, name, result, seconds, left=left, how=how):
            if next(left, None) is None:
                os.kill(os.getpid(), how)
            write(self, name, result, seconds)

        monkeypatch.setattr(ResultCache, "write", stopping)
        capsys.readouterr()
        assert main(run, *TINY, *ALL, chunk=12) == 128 + how
        assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.setattr(ResultCache, "write", write)
    assert main(run, *TINY, *ALL, chunk=12) == 0
    assert written == chunks
    assert same(found(run), found(whole))
    assert records(run) == records(whole)
    # And once more, from what is kept alone.
    written.clear()
    assert main(run, *TINY, *ALL, chunk=12) == 0
    assert written == []
    assert same(found(run), found(whole))


def test_killed_it_goes_on_to_the_same_numbers(trained, run, written):
    """Without a word of warning, by the system."""
    options = ["--methods", "importance_weighting", "--samples", "25000", "--images", "30"]
    options += ["--device", "cpu"]
    whole = shutil.copytree(trained, run.parent / "whole")
    assert main(whole, *options) == 0
    assert len(written) == 3
    written.clear()
    command = [sys.executable, str(SCRIPT), str(run), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    kept = run / "evaluation" / "kept"
    deadline = time.monotonic() + 120
    while not list(kept.glob("i*.npz")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    there = len(list(kept.glob("i*.npz")))
    assert 1 <= there < 3
    assert not (run / "evaluation" / "importance_weighting.json").exists()

    assert main(run, *options) == 0
    assert len(written) == 3 - there
    assert same(found(run), found(whole))


def test_nothing_stale_is_taken(trained, run, written):
    """Another seed, option, split or checkpoint; and back again, when all is still there."""
    only = ["--methods", "importance_weighting"]
    base = [*only, *WEIGHTED]
    assert main(run, *base) == 0
    assert len(written) == 1
    for count, options in enumerate(
        (
            [*base, "--seed", "1"],
            [*only, "--images", "30", "--samples", "26"],
            [*base, "--split", "train"],
            [*base, "--refine-steps", "1"],
        ),
        2,
    ):
        assert main(run, *options) == 0
        assert len(written) == count
    before = found(run)
    assert main(run, *base) == 0
    assert len(written) == 5
    assert not same(found(run), before)
    # Options of other methods change nothing.
    assert main(run, *base, "--temperatures", "7", "--simulated", "9") == 0
    assert len(written) == 5
    state = load_checkpoint(run / "checkpoint.pt")
    state["program"] = {name: value * 1.01 for name, value in state["program"].items()}
    save_checkpoint(run / "checkpoint.pt", state)
    assert main(run, *base) == 0
    assert len(written) == 6
    assert main(run, *base, "--again") == 0
    assert len(written) == 7
    assert len(list((run / "evaluation" / "kept").iterdir())) == 1


def test_more_data_take_the_fewer_along(run, written):
    options = ["--methods", "importance_weighting", "--samples", "25"]
    assert main(run, *options, "--images", "20", chunk=10) == 0
    few = found(run)["importance_weighting.log_evidence"]
    written.clear()
    assert main(run, *options, "--images", "all", chunk=10) == 0
    assert len(written) == 34
    assert (found(run)["importance_weighting.log_evidence"][:20] == few).all()


@pytest.mark.parametrize("damage", ["cut", "noise", "flip"])
def test_a_damaged_chunk_is_made_again(run, caplog, damage):
    options = [*WEIGHTED, "--methods", "importance_weighting"]
    assert main(run, *options, chunk=12) == 0
    before = found(run)
    path = sorted((run / "evaluation" / "kept").iterdir())[1]
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 125] ^= 1
    good = path.read_bytes()
    path.write_bytes({"cut": good[:-9], "noise": b"PK noise", "flip": bytes(content)}[damage])
    with caplog.at_level(logging.WARNING):
        assert main(run, *options, chunk=12) == 0
    assert f"{path} is damaged, and made again" in caplog.text
    assert same(found(run), before)


def refused(capsys, *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--images", "0"], "--images must be all, or a whole number of at least 1, got '0'"),
        (["--images", "some"], "must be all, or a whole number of at least 1, got 'some'"),
        (["--samples", "0"], "--samples must be a whole number of at least 1, got '0'"),
        (["--methods", "gaps", "--samples", "1"], "--samples must be at least 2 for gaps, got 1"),
        (["--samples", "1e3"], "--samples must be a whole number of at least 1, got '1e3'"),
        (["--samples", "9" * 5000], "--samples must be a whole number"),
        (["--seed", "-1"], "--seed must be a whole number of at least 0, got '-1'"),
        (["--chains", "two"], "--chains must be a whole number of at least 1, got 'two'"),
        (["--temperatures", "0"], "--temperatures must be"),
        (["--leapfrog-steps", ""], "--leapfrog-steps must be"),
        (["--annealed-images", "-3"], "--annealed-images must be all"),
        (["--simulated", "0"], "--simulated must be"),
        (["--refine-steps", "1.5"], "--refine-steps must be a whole number of at least 0"),
        (["--gap-steps", "2"], "--gap-steps must be a whole number of at least 3, got '2'"),
        (
            ["--methods", "ais"],
            "--methods must be one of importance_weighting, annealing, two_sided, gaps, got 'ais'",
        ),
        (["--methods"], "--methods needs a value"),
        (["--split", "all"], "--split must be one of test, validation, train, got 'all'"),
        (["--device", "tpu"], "--device must be one of auto, cpu, cuda, got 'tpu'"),
        (["--draws", "5"], "unknown option --draws: allowed are RUN and --help, --split"),
    ],
)
def test_a_wrong_option_is_one_line(run, capsys, options, says):
    line = refused(capsys, run, *options)
    assert says in line
    assert len(line) < 600
    assert not (run / "evaluation").exists()


def test_a_wrong_run_is_one_line(run, tmp_path, capsys, monkeypatch):
    assert "no run at" in refused(capsys, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "got the file" in refused(capsys, run / "config.yaml")
    assert "RUN is needed" in refused(capsys)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds none here" in refused(capsys, run, "--device", "cuda")
    (run / "checkpoint.pt").write_bytes(b"PK")
    assert "cut short" in refused(capsys, run)
    assert not (run / "evaluation").exists()


@pytest.mark.parametrize("name", ["evaluation", "evaluation/kept", "evaluation/annealing.json"])
def test_a_link_out_of_the_directory_is_refused(run, tmp_path, capsys, name):
    target = tmp_path / "target"
    target.mkdir()
    entry = run / name
    entry.parent.mkdir(exist_ok=True)
    entry.symlink_to(target)
    assert "must be a plain file" in refused(capsys, run, *TINY)
    assert list(target.iterdir()) == []


def test_overwriting_a_run_deletes_its_evaluation(run):
    assert main(run, *WEIGHTED, "--methods", "importance_weighting") == 0
    train(run, "--overwrite")
    assert not (run / "evaluation").exists()


def test_a_collapsed_model(run, capsys):
    """All weights are 0: every pixel is a coin, whatever the code, and the guide knows no datum."""
    state = load_checkpoint(run / "checkpoint.pt")
    state["program"] = {name: 0 * value for name, value in state["program"].items()}
    state["best"] = None
    save_checkpoint(run / "checkpoint.pt", state)
    assert main(run, *TINY, *ALL) == 0
    for record in records(run).values():
        assert record["trust"]
    arrays = found(run)
    assert np.allclose(arrays["importance_weighting.reconstruction"], 64 * np.log(0.5))
    assert np.ptp(arrays["importance_weighting.kl"]) == 0


def test_a_prior_without_annealing(tmp_path, capsys):
    """The bare command leaves it out, and says why; asked for by name, it is an error."""
    options = ["--prior", "one_hot", "--posterior", "one_hot"]
    run = train(tmp_path / "run", *options)
    assert main(run, *TINY) == 0
    assert "annealing: left out." in capsys.readouterr().out
    names = {path.name for path in (run / "evaluation").glob("*.json")}
    assert names == {"importance_weighting.json"}
    assert main(run, *TINY, "--methods", "annealing") == 2
    # After the bar.
    assert re.search(r"\nevaluate.py: error: [^\n]+\n$", capsys.readouterr().err)


def test_a_model_file_is_run_when_trusted(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    shutil.copy(ROOT / "pyro_vae" / "model.py", mine)
    run = train(tmp_path / "run", "--model", str(mine))
    assert "--trust-model-file" in refused(capsys, run, *TINY)
    options = ["--methods", "importance_weighting", "--trust-model-file"]
    assert main(run, *WEIGHTED, *options) == 0


@pytest.mark.parametrize("objective", ["elbo", "dreg", "info"])
def test_a_mixture_prior_and_a_flow_posterior_go_through_all_of_it(tmp_path, capsys, objective):
    """Objective, importance weighting, refinement, annealing, both its sides, and the gaps."""
    parts = ["--prior", "gaussian_mixture", "--posterior", "coupling_flow"]
    run = train(tmp_path / "run", *parts, "--objective", objective)
    refined = ["--refine-steps", "2"] if objective == "elbo" else []
    assert main(run, *TINY, *ALL, *refined) == 0
    assert records(run).keys() == set(METHODS)
    for name, values in found(run).items():
        if values.dtype.kind == "f" and "khat" not in name:
            assert np.isfinite(values).all(), name
    capsys.readouterr()


def test_what_cannot_serve_a_flow_says_so_before_a_run_is_there(tmp_path, capsys):
    program = runpy.run_path(str(ROOT / "scripts" / "svi_train.py"))["main"]
    options = ["--posterior", "coupling_flow", "--objective", "beta_tc"]
    assert program(["--out", str(tmp_path / "run"), *SHORT, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "BetaTC" in line
    assert not (tmp_path / "run").exists()
