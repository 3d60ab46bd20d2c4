"""`scripts/evaluate.py`: its files, its numbers, continuation after interruptions, and bad input."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.configuration.components import load_data, prepare_data
from pyro_vae.evidence import evaluate, fixed_rows
from pyro_vae.evidence.evaluation import EvidenceMethod
from pyro_vae.runs import load
from pyro_vae.runs.result_cache import ResultCache
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint

WEIGHTED = ["--images", "30", "--samples", "25"]
CHAINED = ["--annealed-images", "5", "--simulated", "3", "--chains", "2", "--temperatures", "2"]
TINY = [*WEIGHTED, *CHAINED, "--leapfrog-steps", "1"]
METHODS = ["importance_weighting", "annealing", "two_sided", "gaps"]
ALL = ["--methods", *METHODS, "--gap-steps", "3"]
ONLY = ["--methods", "importance_weighting"]


@pytest.fixture(scope="session")
def evaluated(script, trained, tmp_path_factory) -> Path:
    """A run evaluated by all methods, which no test changes."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("evaluated") / "run")
    assert script("evaluate", run, *TINY, *ALL) == 0
    return run


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 12 examples, or of 2 where chains run."""
    monkeypatch.setattr(
        EvidenceMethod, "chunk_size", lambda self, *_: 2 if self.runs_chains else 12
    )


@pytest.fixture
def computed(monkeypatch):
    """The methods of the chunks that are computed from here on."""
    names = []
    write = ResultCache.write

    def count(self, name, result, seconds):
        write(self, name, result, seconds)
        names.append(name.partition("-")[0])

    monkeypatch.setattr(ResultCache, "write", count)
    return names


def arrays_of(run: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for path in sorted((run / "evaluation").glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            arrays |= {f"{path.stem}.{name}": archive[name] for name in archive.files}
    return arrays


def records_of(run: Path) -> dict[str, dict]:
    """The JSON files, without the times."""
    paths = (run / "evaluation").glob("*.json")
    records = {path.stem: json.loads(path.read_text()) for path in paths}
    for record in records.values():
        assert record.pop("seconds") > 0
    return records


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def test_its_files(evaluated, trained):
    folder = evaluated / "evaluation"
    files = {f"{method}.{suffix}" for method in METHODS for suffix in ("json", "npz")}
    assert {path.name for path in folder.iterdir()} == {"kept", "iwae_curve.png", *files}
    assert (evaluated / "checkpoint.pt").read_bytes() == (trained / "checkpoint.pt").read_bytes()
    records, arrays = records_of(evaluated), arrays_of(evaluated)
    for method, record in records.items():
        assert not any(isinstance(value, (dict, list)) for value in record.values())
        assert record["method"] == method
        assert record["trust"]
        assert {"n", "seed", "split", "torch", "pyro", "git_commit", "device"} <= record.keys()
        assert len(record["checkpoint_sha256"]) == 64
    weighted, annealed = records["importance_weighting"], records["annealing"]
    assert (weighted["n"], annealed["n"]) == (30, 5)
    assert (weighted["split"], records["two_sided"]["split"]) == ("test", "simulated")
    gain = arrays["annealing.log_evidence"] - arrays["importance_weighting.log_evidence"][:5]
    assert annealed["above_importance_weighting"] == pytest.approx(gain.mean())
    assert weighted["log_evidence"] == arrays["importance_weighting.log_evidence"].mean()
    # The gaps are relative to the numbers of annealing.
    assert (arrays["gaps.log_evidence"] == arrays["annealing.log_evidence"]).all()
    assert (arrays["gaps.rows"] == arrays["importance_weighting.rows"][:5]).all()


def test_the_numbers_are_those_of_the_library(script, run):
    options = [*ONLY, "--images", "40", "--samples", "4000"]
    assert script("evaluate", run, *options, "--device", "cpu") == 0
    arrays = arrays_of(run)
    rows = torch.from_numpy(arrays["importance_weighting.rows"])
    vae = load(run)
    data = prepare_data(vae.configuration, load_data(vae.configuration, Path()))
    test = data.fixed("test")
    assert (rows.sort().values == fixed_rows(len(test), 40)).all()
    expected = evaluate(vae, test[rows], num_samples=4000).importance_weighting
    # A decoder of two steps hardly reads z: little noise, and differences between examples.
    difference = arrays["importance_weighting.reconstruction"] - expected.reconstruction
    assert np.abs(difference).max() < 0.1 < expected.reconstruction.std()
    assert arrays["importance_weighting.log_evidence"].mean() == pytest.approx(
        expected.mean_log_evidence, abs=0.3
    )
    record = records_of(run)["importance_weighting"]
    assert record["bits_per_dim"] == pytest.approx(data.bits_per_dim(record["log_evidence"]))


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_interrupted_anywhere_it_continues_to_the_same_numbers(
    script, trained, run, capsys, monkeypatch, computed
):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    whole = shutil.copytree(trained, run.parent / "whole")
    assert script("evaluate", whole, *TINY, *ALL) == 0
    chunks = list(computed)
    assert [chunks.count(method) for method in METHODS] == [3, 3, 2, 1]
    computed.clear()
    write = ResultCache.write
    for stop, how in ((2, signal.SIGINT), (1, signal.SIGTERM), (4, signal.SIGINT)):
        left = iter(range(stop))

        def stopping(self, name, result, seconds, left=left, how=how):
            if next(left, None) is None:
                os.kill(os.getpid(), how)
            write(self, name, result, seconds)

        monkeypatch.setattr(ResultCache, "write", stopping)
        capsys.readouterr()
        assert script("evaluate", run, *TINY, *ALL) == 128 + how
        assert "the same command continues" in capsys.readouterr().err
    monkeypatch.setattr(ResultCache, "write", write)
    assert script("evaluate", run, *TINY, *ALL) == 0
    assert computed == chunks
    assert same(arrays_of(run), arrays_of(whole))
    assert records_of(run) == records_of(whole)
    # And once more, from the cache alone.
    computed.clear()
    assert script("evaluate", run, *TINY, *ALL) == 0
    assert computed == []
    signal.signal(signal.SIGINT, before)


def test_nothing_stale_is_read(script, run, computed):
    """Another seed, setting, split or checkpoint is computed; what was computed once is read."""
    base = [*ONLY, *WEIGHTED]
    assert script("evaluate", run, *base) == 0
    for count, options in enumerate(
        (
            [*base, "--seed", "1"],
            [*ONLY, "--images", "30", "--samples", "26"],
            [*base, "--split", "train"],
            [*base, "--refine-steps", "1"],
        ),
        2,
    ):
        assert script("evaluate", run, *options) == 0
        assert len(computed) == count
    before = arrays_of(run)
    # Settings of other methods change nothing.
    assert script("evaluate", run, *base, "--temperatures", "7", "--simulated", "9") == 0
    assert len(computed) == 5
    assert not same(arrays_of(run), before)
    state = load_checkpoint(run / "checkpoint.pt")
    state["program"] = {name: value * 1.01 for name, value in state["program"].items()}
    save_checkpoint(run / "checkpoint.pt", state)
    assert script("evaluate", run, *base) == 0
    assert script("evaluate", run, *base, "--again") == 0
    assert len(computed) == 7
    assert len(list((run / "evaluation" / "kept").iterdir())) == 1


@pytest.mark.usefixtures("small_chunks")
def test_more_rows_include_the_fewer(script, run, computed):
    options = [*ONLY, "--samples", "25"]
    assert script("evaluate", run, *options, "--images", "24") == 0
    few = arrays_of(run)["importance_weighting.log_evidence"]
    assert script("evaluate", run, *options, "--images", "all") == 0
    assert len(computed) == 30
    assert (arrays_of(run)["importance_weighting.log_evidence"][:24] == few).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "--images must be all, or a whole number of at least 1, got '0'"),
        (["--methods", "gaps", "--samples", "1"], "--samples must be at least 2 for gaps, got 1"),
        (["--samples", "1e3"], "--samples must be a whole number of at least 1, got '1e3'"),
        (["--seed", "-1"], "--seed must be a whole number of at least 0, got '-1'"),
        (["--gap-steps", "2"], "--gap-steps must be a whole number of at least 3, got '2'"),
        (["--methods", "ais"], f"--methods must be one of {', '.join(METHODS)}, got 'ais'"),
        (["--methods"], "--methods needs a value"),
        (["--draws", "5"], "unknown option --draws: allowed are RUN and --help, --split"),
    ],
)
def test_a_wrong_option(refused, trained, options, message):
    assert message in refused("evaluate", trained, *options)
    assert not (trained / "evaluation").exists()


def test_a_collapsed_model(script, run):
    """All weights are 0: every pixel is a fair coin, and the guide ignores the data."""
    state = load_checkpoint(run / "checkpoint.pt")
    state["program"] = {name: 0 * value for name, value in state["program"].items()}
    state["best"] = None
    save_checkpoint(run / "checkpoint.pt", state)
    assert script("evaluate", run, *WEIGHTED, *ONLY) == 0
    arrays = arrays_of(run)
    assert np.allclose(arrays["importance_weighting.reconstruction"], 64 * np.log(0.5))
    assert np.ptp(arrays["importance_weighting.kl"]) == 0


def test_a_prior_without_annealing(script, train, tmp_path, capsys):
    """The bare command leaves it out; requested, it is an error."""
    run = train(tmp_path / "run", "--prior", "one_hot", "--posterior", "one_hot")
    assert script("evaluate", run, *TINY) == 0
    assert "annealing: left out." in capsys.readouterr().out
    assert records_of(run).keys() == {"importance_weighting"}
    assert script("evaluate", run, *TINY, "--methods", "annealing") == 2


def test_a_model_file_is_executed_when_trusted(script, refused, train, tmp_path):
    mine = tmp_path / "mine.py"
    shutil.copy(Path(__file__).parents[2] / "pyro_vae" / "model.py", mine)
    run = train(tmp_path / "run", "--model", mine)
    assert "--trust-model-file" in refused("evaluate", run, *TINY)
    assert script("evaluate", run, *WEIGHTED, *ONLY, "--trust-model-file") == 0


@pytest.mark.slow
def test_a_mixture_prior_and_a_flow_posterior(script, train, tmp_path):
    """Importance weighting, refinement, annealing, both its sides, and the gaps."""
    parts = ["--prior", "gaussian_mixture", "--posterior", "coupling_flow"]
    run = train(tmp_path / "run", *parts, "--objective", "dreg")
    assert script("evaluate", run, *TINY, *ALL, "--refine-steps", "2") == 0
    assert records_of(run).keys() == set(METHODS)
    for name, values in arrays_of(run).items():
        if values.dtype.kind == "f" and "khat" not in name:
            assert np.isfinite(values).all(), name


def test_new_data_get_a_score_each(script, trained, run, tmp_path):
    """Row i of the CSV is row i of the file, with the numbers of the library."""
    grey = np.random.default_rng(0).integers(0, 17, (20, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "my data.npy", grey)
    data = ["--data", tmp_path / "my data.npy", "--data.levels", "17"]
    assert script("evaluate", run, *data, "--samples", "25") == 0
    folder = run / "evaluation"
    names = {
        "importance_weighting.json",
        "importance_weighting.npz",
        "scores.csv",
        "iwae_curve.png",
    }
    assert {p.name for p in folder.iterdir()} == {"kept", *(f"my_data-{name}" for name in names)}
    table = np.genfromtxt(folder / "my_data-scores.csv", delimiter=",", names=True)
    assert (table["row"] == np.arange(20)).all()
    assert np.allclose(table["elbo"], table["reconstruction"] - table["kl"])
    record = json.loads((folder / "my_data-importance_weighting.json").read_text())
    assert (record["split"], record["n"]) == ("new", 20)
