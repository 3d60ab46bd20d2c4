"""`scripts/diagnose.py`: sections, stale sections, interruptions and bad input."""

import json
import os
import re
import shlex
import signal
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import sections, stored_diagnosis, subject
from analysis.predictive import generalisation
from analysis.sections import REPRESENTATION
from pyro_vae.runs import load
from pyro_vae.runs.trained_run import TrainedRun
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint

TINY = ["--images", "30", "--samples", "30", "--device", "cpu"]
SECTIONS = ["predictive", "calibration", "pit", "elbo", "guide"]


@pytest.fixture(scope="module", autouse=True)
def _few_steps():
    """The local guides of `generalisation` are fitted by a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        quick = partial(generalisation.generalisation, gap_steps=3, num_gap_data=4)
        patch.setattr(generalisation, "generalisation", quick)
        yield


@pytest.fixture(scope="session")
def diagnose(script):
    """Run the program; figures are made, and only drawn if `drawn`."""

    def diagnose(*arguments: object, drawn: bool = False) -> int:
        patches = {} if drawn else {"to_png": lambda figure: b"no picture"}
        return script("diagnose", *arguments, **patches)

    return diagnose


def record_of(run: Path) -> dict:
    """The record of a diagnosis, which holds no NaN."""

    def refuse(word):
        raise AssertionError(word)

    text = (run / "diagnosis" / "diagnosis.json").read_text()
    return json.loads(text, parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.arviz
def test_its_files(script, diagnose, trained, run, contents, capsys):
    before = contents(run)
    assert diagnose(run, *TINY, drawn=True) == 0
    screen = capsys.readouterr().out
    after, found = contents(run), record_of(run)
    assert {name: after[name] for name in before} == before
    assert [name for name in found if name in SECTIONS] == SECTIONS
    captions = found["figures"]
    assert {path.name for path in (run / "diagnosis").iterdir()} == {*captions, "diagnosis.json"}
    assert len(set(captions.values())) == len(captions)
    for path in (run / "diagnosis").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    # Everything is defined for a binary run with a normal guide.
    assert "left out" not in screen
    assert 0 <= min(found["predictive"]["p_values"].values()) <= 1
    for name in ("mutual_information", "total_correlation", "dimension_wise_kl"):
        assert isinstance(found["elbo"][name], float)
        assert found["elbo"][f"{name}_se"] >= 0
    assert {"khat", "ess", "sbc", "quality", "generalisation"} <= found["guide"].keys()
    assert 1 <= found["guide"]["ess"]["median"] <= 30
    assert (found["n"], found["split"], found["num_samples"], found["seed"]) == (30, "test", 30, 0)
    assert {"torch", "pyro", "git_commit", "arviz_stats", "device", "n_train"} <= found.keys()
    assert found["seconds"]["sections"].keys() == set(SECTIONS)
    # One answer per question; each printed command is one that its program takes.
    words = " ".join(screen.split())
    assert len(found["answers"]) == 7
    for each in found["answers"]:
        assert f"{each['question']} {each['answer']} ({each['section']})" in words
    for command in re.findall("`([^`\n]+)`", screen):
        python, _, *arguments = shlex.split(command)
        assert (python, arguments[0]) == ("python", str(run))
    for section in SECTIONS:
        for part in found[section].values():
            if isinstance(part, dict) and "reading" in part:
                reading = part["reading"].replace(".py RUN", f".py {run}")
                assert " ".join(reading.split()) in words


def test_sections_are_kept_and_marked_where_they_are_stale(diagnose, run, capsys):
    assert diagnose(run, *TINY, "--only", "elbo") == 0
    assert (record_of(run)["steps"], record_of(run)["stopped_early"]) == (2, False)
    before = torch.get_rng_state()
    assert diagnose(run, *TINY, "--only", "elbo", "pit") == 0
    assert (torch.get_rng_state() == before).all()
    first = record_of(run)
    # The same seed gives the same numbers, whatever the other sections.
    assert diagnose(run, *TINY, "--only", "pit") == 0
    second = record_of(run)
    assert {name: second[name] for name in ("elbo", "pit")} == {
        name: first[name] for name in ("elbo", "pit")
    }
    assert "elbo: kept from an earlier command, up to date." in capsys.readouterr().out

    assert diagnose(run, *TINY, "--only", "pit", "--seed", "1") == 0
    third = record_of(run)
    assert third["pit"]["stale"] is None
    assert third["elbo"] == {**first["elbo"], "stale": "made for --seed 0, now 1"}
    screen = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Is the code used\? \w+ \(elbo; STALE, made for --seed 0, now 1\)", screen)
    (command,) = re.findall(r"with `python scripts/diagnose\.py ([^`]*)`", screen)
    assert command == f"{run} --only elbo --images 30 --samples 30 --seed 1"
    assert third["figures"]["stale_elbo_terms.png"].startswith("Stale (made for --seed 0, now 1):")
    # With the old seed the old section is up to date again, and the new one is not.
    state = load_checkpoint(run / "checkpoint.pt")
    assert diagnose(run, *TINY, "--only", "elbo") == 0
    assert record_of(run)["pit"]["stale"] == "made for --seed 1, now 0"
    state["program"] = {name: 0.5 * value for name, value in state["program"].items()}
    state["best"] = None
    save_checkpoint(run / "checkpoint.pt", state)
    assert diagnose(run, *TINY, "--only", "pit") == 0
    last = record_of(run)
    assert last["elbo"]["stale"] == "made for another checkpoint"
    assert last["pit"]["stale"] is None
    names = {path.name for path in (run / "diagnosis").iterdir()}
    assert names == {*last["figures"], "diagnosis.json"}


def test_more_training_marks_sections(script, diagnose, run):
    assert diagnose(run, *TINY, "--only", "elbo") == 0
    assert script("svi_train", "--resume", "--out", run, "--max-steps", "3") == 0
    assert record_of(run)["elbo"]["stale"] == "made for another checkpoint"


def test_the_bar_counts_every_step(diagnose, run, monkeypatch):
    bars = []
    monkeypatch.setattr(
        subject, "tqdm", lambda **options: bars.append(_Bar(**options)) or bars[-1]
    )
    assert diagnose(run, *TINY, "--only", "calibration", "pit") == 0
    (bar,) = bars
    assert bar.n == bar.total > 5
    assert set(record_of(run)["seconds"]["steps"]) <= set(bar.names)
    assert len(set(bar.names)) <= bar.total


class _Bar:
    def __init__(self, *, total, unit, disable):
        self.total, self.n, self.names = total, 0, []

    def update(self, count):
        self.n += count

    def set_description(self, name):
        self.names.append(name)

    def close(self):
        pass


def test_the_untrained_program_is_that_of_training(train, tmp_path):
    """After one step of almost no length."""
    path = train(tmp_path / "run", "--max-steps", "1", "--lr", "1e-12", "--seed", "3")
    trained = TrainedRun.open(path, "test", device=torch.device("cpu"))
    before = torch.get_rng_state()
    untrained = trained.untrained()
    assert (torch.get_rng_state() == before).all()
    for name, value in load(path).state_dict().items():
        torch.testing.assert_close(untrained.state_dict()[name], value, atol=1e-6, rtol=0)


DATA = {
    "counts": lambda rng: rng.poisson(3 * rng.random((120, 1)), (120, 6)),
    "flow": lambda rng: rng.normal(size=(120, 5)),
}
RUNS = {
    "counts": ["--likelihood", "poisson"],
    "one_hot": ["--prior", "one_hot", "--posterior", "one_hot"],
    "flow": [
        *("--likelihood", "normal", "--prior", "gaussian_mixture"),
        *("--posterior", "coupling_flow"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_other_data_and_other_guides(diagnose, train, tmp_path, name):
    options = list(RUNS[name])
    if name in DATA:
        path = tmp_path / f"{name}.npy"
        np.save(path, DATA[name](np.random.default_rng(0)))
        options += ["--data", path]
    run = train(tmp_path / "run", *options)
    assert diagnose(run, "--images", "12", *TINY[2:]) == 0
    found = record_of(run)
    for section in SECTIONS:
        assert found[section]["reading"]
    if name == "counts":
        assert "predictive_rootogram.png" in found["figures"]
    if name in DATA:
        assert found["calibration"]["elements"]["p_value"] is not None
    if name in ("one_hot", "flow"):
        assert found["elbo"]["mutual_information"] is not None
        assert found["elbo"]["total_correlation"] is None


def test_an_error_is_not_an_undefined_check(refused, run, monkeypatch):
    """What is not defined is an `UndefinedCheckError`; any other error ends the program."""

    def broken(*arguments, **options):
        raise ValueError("a mistake")

    monkeypatch.setattr(TrainedRun, "rows", broken)
    assert refused("diagnose", run, *TINY, "--only", "elbo") == "diagnose.py: error: a mistake"
    assert not (run / "diagnosis").exists()


SEVERAL = '''
"""Two latent sites."""

import functools

import pyro

from pyro_vae import model


class Two(model.VAE):
    latent_sites = ("z", "w")

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            w = pyro.sample("w", self.prior())
            return pyro.sample("x", self.likelihood(z + w), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))
            pyro.sample("w", self.posterior(x))


@functools.wraps(model.build)
def build(*arguments, **options):
    vae = model.build(*arguments, **options)
    return Two(vae.prior, vae.likelihood, vae.posterior)
'''


@pytest.mark.slow
def test_several_latent_sites(diagnose, train, refused, tmp_path, capsys):
    """Checks of one latent site are left out with the reason."""
    mine = tmp_path / "mine.py"
    mine.write_text(SEVERAL)
    run = train(tmp_path / "run", "--model", mine)
    assert "--trust-model-file" in refused("diagnose", run, *TINY)
    assert diagnose(run, *TINY, "--trust-model-file") == 0
    found = record_of(run)
    assert "left_out" not in found["pit"]
    assert "one latent site" in found["guide"]["sbc"]["left_out"]
    assert found["elbo"]["terms"]["elbo"] < 0
    assert "sbc: left out. one latent site" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "24"], "--samples must be a whole number of at least 25, got '24'"),
        (["--only", "all"], "--only must be one of predictive, calibration, pit, elbo, guide"),
        (["--against", "mnist"], "--against needs --only representation"),
        (["--only", "representation", "--against", "nonsense"], "--against must be one of digits"),
        (["--only", "representation", "--against", "x.npy"], "but there is no"),
        (["--only", "representation", "--against", "digits"], "other data than the run's own"),
        (["--split", "train"], "--split must be one of test, validation, got 'train'"),
        (["another"], "one run is diagnosed at a time, got 2: `python scripts/compare.py"),
    ],
)
def test_a_wrong_option(refused, trained, options, message):
    assert message in refused("diagnose", trained, *options)
    assert not (trained / "diagnosis").exists()


@pytest.mark.parametrize("when", ["computing", "writing"])
def test_an_interruption_leaves_nothing_half_written(
    script, diagnose, run, contents, capsys, monkeypatch, when
):
    assert diagnose(run, *TINY, "--only", "pit") == 0
    before = contents(run / "diagnosis")
    section, write = sections.SECTIONS["elbo"], stored_diagnosis.write_atomically

    def run_elbo(name, subject):
        os.kill(os.getpid(), signal.SIGTERM)
        return section.run(name, subject)

    def write_figure(path, *rest):
        if ".png" in str(path):
            os.kill(os.getpid(), signal.SIGTERM)
        return write(path, *rest)

    if when == "computing":
        stopping = Namespace(run=run_elbo, steps=section.steps, default=True)
        monkeypatch.setitem(sections.SECTIONS, "elbo", stopping)
    else:
        monkeypatch.setattr(stored_diagnosis, "write_atomically", write_figure)
    assert diagnose(run, *TINY, "--only", "elbo") == 143
    assert "diagnose.py: stopped; finished sections are kept" in capsys.readouterr().err
    assert contents(run / "diagnosis") == before


def test_a_collapsed_model(diagnose, run):
    """All weights are 0: every pixel is a fair coin, and the guide ignores the data."""
    state = load_checkpoint(run / "checkpoint.pt")
    state["program"] = {name: 0 * value for name, value in state["program"].items()}
    state["best"] = None
    save_checkpoint(run / "checkpoint.pt", state)
    assert diagnose(run, *TINY, "--only", "elbo") == 0
    found = record_of(run)
    assert found["elbo"]["mutual_information"] == pytest.approx(0, abs=1e-6)
    assert found["elbo"]["terms"]["reconstruction"] == pytest.approx(64 * np.log(0.5))


@pytest.mark.slow
@pytest.mark.arviz
@pytest.mark.parametrize("n", ["1", "2"])
def test_hardly_any_data(diagnose, run, n):
    assert diagnose(run, "--images", n, *TINY[2:]) == 0
    assert record_of(run)["n"] == int(n)


ONLY_REPRESENTATION = ["--only", "representation", *TINY]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_what_codes_are_good_for(diagnose, run, tmp_path, capsys):
    """All checks of a run with labels; other data are told apart, and probed."""
    rng = np.random.default_rng(0)
    foreign = tmp_path / "foreign.npz"
    levels = rng.integers(0, 17, (60, 8, 8), dtype=np.uint8)
    np.savez(foreign, x=levels, y=np.arange(60) % 3)
    assert diagnose(run, *ONLY_REPRESENTATION, "--against", foreign) == 0
    found = record_of(run)["representation"]
    names = {path.name for path in (run / "diagnosis").iterdir()}
    assert names == {*record_of(run)["figures"], "diagnosis.json"}
    names = [check.name for check in REPRESENTATION.checks]
    left_out = {name for name in names if isinstance(found[name].get("left_out"), str)}
    assert left_out == {"mixture_components", "disentanglement"}
    assert found["probe"]["num_train"] == 1257
    assert found["neighbours"]["num_train"] == 300
    assert "foreign" in found["out_of_distribution"]["foreign"]
    assert found["transfer"]["num_test"] == 12
    screen = capsys.readouterr().out
    assert all(len(line.replace(str(run), "RUN")) <= 100 for line in screen.splitlines())


@pytest.mark.slow
@pytest.mark.usefixtures("small", "no_paths")
def test_codes_of_data_with_factors_and_of_data_without_labels(diagnose, train, tmp_path):
    rng = np.random.default_rng(0)
    factors = np.stack([np.arange(200) % 2, np.arange(200) // 2 % 4], 1)
    x = factors @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(200, 5))
    np.savez(tmp_path / "factors.npz", x=x, y=factors)
    np.save(tmp_path / "bare.npy", x)
    with_factors = train(
        tmp_path / "with", "--data", tmp_path / "factors.npz", "--likelihood", "normal"
    )
    assert diagnose(with_factors, *ONLY_REPRESENTATION) == 0
    found = record_of(with_factors)["representation"]
    # Of the whole split, and not only of the 30 examples that other checks see.
    assert found["disentanglement"]["n"] == 40
    assert found["probe"]["num_classes"] == 2
    bare = train(tmp_path / "bare", "--data", tmp_path / "bare.npy", "--likelihood", "normal")
    assert diagnose(bare, *ONLY_REPRESENTATION) == 0
    found = record_of(bare)["representation"]
    for part in ("probe", "neighbours", "label_efficiency", "clustering", "transfer"):
        assert "label" in found[part]["left_out"]
    assert found["robustness"]["area"]["accuracy"] is None
