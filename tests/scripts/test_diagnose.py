"""What is right and wrong with a run, as a person asks for it."""

import hashlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import sections, stored_diagnosis
from analysis.predictive.generalisation import generalisation
from analysis.representation import (
    fine_tuning,
    inputs,
    label_efficiency,
    out_of_distribution,
    robustness,
)
from analysis.representation.section import SECTION
from pyro_vae.runs import load
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "diagnose.py"
SHORT = ["--max-steps", "2", "--network.hidden", "[8]", "--latent-dim", "2", "--evaluate", "none"]
TINY = ["--images", "30", "--samples", "30", "--device", "cpu"]
SECTIONS = ["predictive", "calibration", "pit", "elbo", "guide"]


def train(out: Path, *options: str) -> Path:
    """A run of two steps."""
    program = runpy.run_path(str(ROOT / "scripts" / "svi_train.py"))["main"]
    assert program(["--out", str(out), *SHORT, *options]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("diagnose")


@pytest.fixture(scope="module")
def trained(folder):
    return train(folder / "digits")


@pytest.fixture(scope="module")
def diagnosed(trained, folder):
    """A diagnosed copy, which no test changes, and what stood on the screen."""
    run = shutil.copytree(trained, folder / "diagnosed")
    with pytest.MonkeyPatch.context() as patch:
        screen = io.StringIO()
        patch.setattr("sys.stdout", screen)
        assert main(run, *TINY, drawn=True) == 0
    return run, screen.getvalue()


@pytest.fixture
def run(trained, tmp_path):
    """A copy, to be written into."""
    return shutil.copytree(trained, tmp_path / "run")


def main(*arguments: str | Path, drawn: bool = False) -> int:
    """Run the program in this process; figures are made, and only drawn if that is looked at."""
    program = runpy.run_path(str(SCRIPT))["main"]
    if not drawn:
        program.__globals__["to_png"] = lambda figure: b"no picture"
    return program([str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def _few_steps():
    """Each datum's own guide is fitted by a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        quick = partial(generalisation, gap_steps=3, num_gap_data=4)
        patch.setattr(sections, "generalisation", quick)
        yield


def record(run: Path) -> dict:
    """A run's diagnosis. Only constants of JSON itself are read."""

    def refuse(word):
        raise AssertionError(word)

    text = (run / "diagnosis" / "diagnosis.json").read_text()
    return json.loads(text, parse_constant=refuse)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.arviz
def test_what_it_leaves(trained, diagnosed):
    run, screen = diagnosed
    after = hashes(run)
    before = hashes(trained)
    assert {name: after[name] for name in before} == before
    found = record(run)
    assert [name for name in found if name in SECTIONS] == SECTIONS
    captions = found["figures"]
    assert {path.name for path in (run / "diagnosis").iterdir()} == {*captions, "diagnosis.json"}
    assert all(caption.endswith("?") for caption in captions.values())
    assert len(set(captions.values())) == len(captions)
    for path in (run / "diagnosis").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for name in SECTIONS:
        assert found[name]["reading"]
        # Nothing is left out of a binary run with a normal guide.
        assert "left out" not in screen
        assert f"\n{name}, " in screen
    assert 0 <= min(found["predictive"]["p_values"].values()) <= 1
    for name in ("mutual_information", "total_correlation", "dimension_wise_kl"):
        assert isinstance(found["elbo"][name], float)
        assert found["elbo"][f"{name}_se"] >= 0
    assert {"khat", "ess", "sbc", "quality", "generalisation"} <= found["guide"].keys()
    assert 0 <= found["guide"]["khat"]["share_above"] <= 1
    assert 1 <= found["guide"]["ess"]["median"] <= 30
    assert (found["n"], found["split"], found["num_samples"], found["seed"]) == (30, "test", 30, 0)
    assert found["checkpoint_sha256"] == before["checkpoint.pt"]
    assert {"torch", "pyro", "git_commit", "arviz_stats", "device", "n_train"} <= found.keys()
    assert found["seconds"]["sections"].keys() == set(SECTIONS)
    for name in ("calibration", "pit"):
        assert 0 < found[name]["elements"]["p_value_against_model"] <= 1
    words = " ".join(screen.split())
    assert "p-value against the model's own data" in words
    # One answer a question, which is that of the section; each command is one of its program.
    given = [
        verdict["question"]
        for section in SECTIONS
        for part in found[section].values()
        if isinstance(part, dict)
        for verdict in part.get("verdicts", ())
    ]
    assert sorted(given) == sorted({each["question"] for each in found["answers"]})
    assert len(given) == 7
    for each in found["answers"]:
        assert f"{each['question']} {each['answer']} ({each['section']})" in words
    for command in re.findall("`([^`\n]+)`", screen):
        python, script, *arguments = shlex.split(command)
        assert (python, arguments[0]) == ("python", str(run))
        runpy.run_path(str(ROOT / script))["parser"]().parse_args(arguments)
    # Statistics and scores have their plain names where a person reads.
    assert "_" not in words.partition("/digits/")[2].replace("p(x_i | x_-i)", "").replace(
        "inference_gaps", ""
    ).replace(str(run), "")
    for section in SECTIONS:
        for part in found[section].values():
            if isinstance(part, dict) and "reading" in part:
                reading = part["reading"].replace(".py RUN", f".py {run}")
                assert " ".join(reading.split()) in words


def test_one_seed_gives_the_same_bits_and_another_gives_others(diagnosed, run):
    whole = record(diagnosed[0])
    options = [*TINY, "--only", "elbo", "pit"]
    before = torch.get_rng_state()
    assert main(run, *options, drawn=True) == 0
    assert (torch.get_rng_state() == before).all()
    again = record(run)
    # Whatever other sections there are.
    for name in ("elbo", "pit"):
        assert again[name] == whole[name]
        for figure in (figure for figure in again["figures"] if figure.startswith(name)):
            one, two = (folder / "diagnosis" / figure for folder in (run, diagnosed[0]))
            assert one.read_bytes() == two.read_bytes()


def test_only_a_section_keeps_the_others_and_marks_them_where_they_are_stale(run, capsys):
    """Six minutes of work stay; what another seed or checkpoint made is never silently beside the new."""
    assert main(run, *TINY, "--only", "elbo", "pit") == 0
    first = record(run)
    assert main(run, *TINY, "--only", "guide") == 0
    second = record(run)
    for name in ("elbo", "pit"):
        assert second[name] == first[name]
        assert second[name]["stale"] is None
    assert set(first["figures"]) < set(second["figures"])
    assert "elbo: kept from a former command, still of this run." in capsys.readouterr().out
    answers = {each["question"]: each for each in second["answers"]}
    assert answers["Is the code used?"]["stale"] is None
    assert len(answers) == len(second["answers"]) == 5

    assert main(run, *TINY, "--only", "pit", "--seed", "1") == 0
    third = record(run)
    assert third["pit"]["stale"] is None
    assert third["elbo"] == {**first["elbo"], "stale": "made for --seed 0, now 1"}
    screen = " ".join(capsys.readouterr().out.split())
    assert "elbo: kept from a former command, STALE, made for --seed 0, now 1" in screen
    assert re.search(r"Is the code used\? \w+ \(elbo; STALE, made for --seed 0, now 1\)", screen)
    # Made again as the screen says, nothing is stale.
    (command,) = re.findall(r"again with `python scripts/diagnose\.py ([^`]*)`", screen)
    assert command == f"{run} --only elbo guide --images 30 --samples 30 --seed 1"
    assert third["figures"]["stale_elbo_terms.png"].startswith("Stale (made for --seed 0, now 1):")
    # With the seed that they were made for they are of this run again, and the other is not.
    assert main(run, *TINY, "--only", "guide") == 0
    assert record(run)["elbo"] == first["elbo"]
    assert record(run)["pit"]["stale"] == "made for --seed 1, now 0"

    state = load_checkpoint(run / "checkpoint.pt")
    state["program"] = {name: 0.5 * value for name, value in state["program"].items()}
    state["best"] = None
    save_checkpoint(run / "checkpoint.pt", state)
    assert main(run, *TINY, "--only", "guide") == 0
    last = record(run)
    assert last["elbo"]["stale"] == "made for another checkpoint"
    assert last["pit"]["stale"] == "made for another checkpoint, --seed 1, now 0"
    assert last["guide"]["stale"] is None
    names = {path.name for path in (run / "diagnosis").iterdir()}
    assert names == {*last["figures"], "diagnosis.json"}


def test_more_training_marks_what_was_found_before(run):
    assert main(run, *TINY, "--only", "elbo") == 0
    program = runpy.run_path(str(ROOT / "scripts" / "svi_train.py"))["main"]
    assert program(["--resume", "--out", str(run), "--max-steps", "3"]) == 0
    assert record(run)["elbo"]["stale"] == "made for another checkpoint"


def test_the_bar_names_every_step_and_ends_full(run, monkeypatch):
    from analysis import progress

    bars = []
    monkeypatch.setattr(
        progress, "tqdm", lambda **options: bars.append(_Bar(**options)) or bars[-1]
    )
    assert main(run, *TINY, "--only", "calibration", "pit") == 0
    (bar,) = bars
    assert bar.n == bar.total > 5
    assert set(record(run)["seconds"]["steps"]) <= set(bar.names)
    # None came that was not foreseen.
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


def test_the_untrained_program_is_that_of_training(tmp_path):
    """One step of next to no length."""
    run = train(tmp_path / "run", "--max-steps", "1", "--lr", "1e-12", "--seed", "3")
    program = runpy.run_path(str(SCRIPT))
    options = program["parser"]().parse_args([str(run)])
    trained = program["opened"](options, run)
    before = torch.get_rng_state()
    untrained = program["untrained"](trained)
    assert (torch.get_rng_state() == before).all()
    for name, value in load(run).state_dict().items():
        torch.testing.assert_close(untrained.state_dict()[name], value, atol=1e-6, rtol=0)


DATA = {
    "counts": lambda rng: rng.poisson(3 * rng.random((120, 1)), (120, 6)),
    "reals": lambda rng: rng.normal(size=(120, 5)) @ rng.normal(size=(5, 5)),
    "flow": lambda rng: rng.normal(size=(120, 5)),
}
RUNS = {
    "counts": ["--likelihood", "poisson"],
    "reals": ["--likelihood", "normal"],
    "one_hot": ["--prior", "one_hot", "--posterior", "one_hot"],
    "flow": [
        "--likelihood",
        "normal",
        "--prior",
        "gaussian_mixture",
        "--posterior",
        "coupling_flow",
    ],
}


@pytest.mark.parametrize("name", RUNS)
def test_other_data_and_other_guides(tmp_path, capsys, name):
    options = list(RUNS[name])
    if name in DATA:
        path = tmp_path / f"{name}.npy"
        np.save(path, DATA[name](np.random.default_rng(0)))
        options += ["--data", str(path)]
    run = train(tmp_path / "run", *options)
    assert main(run, "--images", "12", *TINY[2:]) == 0
    found = record(run)
    for section in SECTIONS:
        assert found[section]["reading"]
    if name == "counts":
        assert "predictive_rootogram.png" in found["figures"]
    if name in DATA:
        assert found["calibration"]["elements"]["p_value"] is not None
    if name in ("one_hot", "flow"):
        assert found["elbo"]["mutual_information"] is not None
        assert found["elbo"]["total_correlation"] is None


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


def test_a_mistake_is_not_taken_for_an_absent_part(run, capsys, monkeypatch):
    """What a program does not have is an `UndefinedCheckError`; anything else ends the program."""

    def broken(*arguments, **options):
        raise ValueError("a mistake")

    monkeypatch.setattr(sections, "elbo_terms", broken)
    assert main(run, *TINY, "--only", "elbo") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "diagnose.py: error: a mistake"
    assert not (run / "diagnosis").exists()


def test_several_latent_sites(tmp_path, capsys):
    """What asks for one is left out with its reason; asked for by name, it is an error."""
    mine = tmp_path / "mine.py"
    mine.write_text(SEVERAL)
    run = train(tmp_path / "run", "--model", str(mine))
    assert "--trust-model-file" in refused(capsys, run, *TINY)
    trusted = [*TINY, "--trust-model-file"]
    assert main(run, *trusted) == 0
    found = record(run)
    assert "one latent site" in found["pit"]["left_out"]
    assert "one latent site" in found["guide"]["sbc"]["left_out"]
    assert found["elbo"]["terms"]["elbo"] < 0
    screen = " ".join(capsys.readouterr().out.split())
    assert "sbc: left out. one latent site can be checked, got z, w." in screen


def refused(capsys, *arguments: str | Path) -> str:
    capsys.readouterr()
    assert main(*arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("diagnose.py: error: ")
    return line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--images", "0"], "--images must be all, or a whole number of at least 1, got '0'"),
        (["--images", "some"], "must be all, or a whole number of at least 1, got 'some'"),
        (["--samples", "24"], "--samples must be a whole number of at least 25, got '24'"),
        (["--samples", "9" * 5000], "--samples must be a whole number"),
        (["--seed", "-1"], "--seed must be a whole number of at least 0, got '-1'"),
        (["--only", "all"], "--only must be one of predictive, calibration, pit, elbo, guide"),
        (["--sections", "elbo"], "unknown option --sections: allowed are RUN and"),
        (["--against", "mnist"], "--against is for --only representation"),
        (["--only", "representation", "--against", "nonsense"], "--against must be one of digits"),
        (["--only", "representation", "--against", "x.npy"], "but there is no"),
        (["--only", "representation", "--against", "digits"], "other data than the run's own"),
        (["--only"], "--only needs a value"),
        (["--split", "train"], "--split must be one of test, validation, got 'train'"),
        (["--device", "tpu"], "--device must be one of auto, cpu, cuda, got 'tpu'"),
        (["--out", "x"], "--out is for several runs"),
        (["--draws=5"], "unknown option --draws: allowed are RUN and --help, --split"),
    ],
)
def test_a_wrong_option_is_one_line(run, capsys, options, says):
    line = refused(capsys, run, *options)
    assert says in line
    assert len(line) < 600
    assert not (run / "diagnosis").exists()


@pytest.mark.parametrize("name", ["diagnose", "evaluate"])
def test_every_option_refuses_wrong_words_in_one_line(run, tmp_path, capsys, name):
    """An option that does not take any words is told one."""
    program = runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))
    before = hashes(tmp_path)
    tried = 0
    for action in program["parser"]()._actions:
        if not action.option_strings or action.dest == "help":
            continue
        option = action.option_strings[-1]
        if action.nargs == 0:
            wrong = [[f"{option}=yes"]]
        elif action.choices is not None:
            wrong = [[option, "nonsense"], [option, ""], [option]]
        elif action.type is Path or action.type is None:
            wrong = [[option]]
        else:
            wrong = [[option, word] for word in ("nonsense", "nan", "-1", "1e400", "")] + [
                [option]
            ]
        for words in wrong:
            capsys.readouterr()
            assert program["main"]([str(run), *words]) == 2, words
            found = capsys.readouterr()
            (line,) = found.err.strip().splitlines()
            assert line.startswith(f"{name}.py: error: "), words
            assert option in line, words
            assert found.out == ""
            tried += 1
    assert tried > 10
    assert hashes(tmp_path) == before


def test_a_wrong_run_is_one_line(run, tmp_path, capsys, monkeypatch):
    assert "no run at" in refused(capsys, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "got the file" in refused(capsys, run / "config.yaml")
    assert "RUN is needed" in refused(capsys)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds none here" in refused(capsys, run, "--device", "cuda")
    (run / "checkpoint.pt").write_bytes(b"PK")
    assert "cut short" in refused(capsys, run)
    assert not (run / "diagnosis").exists()


@pytest.mark.parametrize("name", ["diagnosis", "diagnosis/diagnosis.json", "diagnosis/a.png"])
def test_a_link_out_of_the_directory_is_refused(run, tmp_path, capsys, name):
    target = tmp_path / "target"
    target.mkdir()
    entry = run / name
    entry.parent.mkdir(exist_ok=True)
    entry.symlink_to(target)
    assert "must be a plain file" in refused(capsys, run, *TINY)
    assert list(target.iterdir()) == []


def test_overwriting_a_run_deletes_its_diagnosis(run):
    (run / "diagnosis").mkdir()
    (run / "diagnosis" / "diagnosis.json").write_text("{}")
    train(run, "--overwrite")
    assert not (run / "diagnosis").exists()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["computing", "writing"])
def test_stopped_it_leaves_nothing_half(run, capsys, monkeypatch, how, when):
    program = runpy.run_path(str(SCRIPT))["main"]
    arguments = [str(run), *TINY, "--only", "elbo"]
    name = {"computing": "plot_elbo_terms", "writing": "write_atomically"}[when]
    where = sections.__dict__ if when == "computing" else stored_diagnosis.__dict__
    real = where[name]

    def stop(path, *rest):
        if when == "computing" or ".png" not in str(path):
            os.kill(os.getpid(), how)
        return real(path, *rest)

    monkeypatch.setitem(where, name, stop)
    assert program(arguments) == 128 + how
    assert capsys.readouterr().err.splitlines()[-1] == (
        "diagnose.py: stopped; sections that were finished are kept, nothing else was written"
    )
    assert not (run / "diagnosis").exists()
    # What was there, and what was finished before, is there.
    monkeypatch.undo()
    assert main(run, *TINY, "--only", "pit", drawn=True) == 0
    before, files = record(run), hashes(run / "diagnosis")
    program = runpy.run_path(str(SCRIPT))["main"]
    where = sections.__dict__ if when == "computing" else stored_diagnosis.__dict__
    monkeypatch.setitem(where, name, stop)
    assert program([str(run), *TINY, "--only", "pit", "elbo", "--seed", "1"]) == 128 + how
    capsys.readouterr()
    after = record(run)
    if when == "computing":
        assert "elbo" not in after
        assert after["pit"]["of"]["seed"] == 1
    else:
        assert after == before
        assert hashes(run / "diagnosis") == files


@pytest.mark.arviz
def test_several_runs_are_compared(trained, folder, tmp_path, capsys, monkeypatch):
    other = train(folder / "other", "--latent-dim", "3", "--seed", "1")
    monkeypatch.chdir(tmp_path)
    for name in ("comparison", "comparison-2"):
        assert main(trained, other, *TINY) == 0
        screen = capsys.readouterr().out
        assert f"are in runs/{name}/" in screen
        assert not {"\0", "\1"} & {*screen}
        assert screen.index("The runs differ in") < screen.index("has the highest log p(x)")
        assert re.search(r"latent_dim +\d +3\n", screen)
        found = json.loads((tmp_path / "runs" / name / "comparison.json").read_text())
        assert found["runs"].keys() == {"digits", "other"}
        assert found["differences"].keys() == {"seed", "latent_dim", "parameters"}
        assert found["differences"]["seed"] == {"digits": 0, "other": 1}
        assert found["comparison"]["n"] == 30
        assert {model["name"] for model in found["comparison"]["models"]} == {"digits", "other"}
        assert found["comparison"]["models"][0]["difference"] == 0
        names = {path.name for path in (tmp_path / "runs" / name).iterdir()}
        assert names == {*found["figures"], "comparison.json"}
        assert {"comparison.png", "rate_distortion.png"} <= names
    # An older comparison's place may be taken; another's may not.
    assert main(trained, other, *TINY, "--out", tmp_path / "runs" / "comparison") == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.txt").write_text("mine")
    assert "holds a.txt" in refused(capsys, trained, other, *TINY, "--out", mine)
    assert "must be a directory" in refused(capsys, trained, other, "--out", mine / "a.txt")
    line = refused(capsys, trained, other, *TINY, "--only", "elbo")
    assert "--only of 2 runs must be representation alone, got elbo" in line


def test_runs_that_do_not_compare_are_refused(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is given twice" in refused(capsys, trained, trained, *TINY)
    assert "is given twice" in refused(capsys, trained, trained / ".." / "digits", *TINY)
    other = train(tmp_path / "other", "--binarisation", "threshold")
    line = refused(capsys, trained, other, *TINY)
    assert "log p(x) of digits and other do not compare: binarisation dynamic against" in line
    assert not (tmp_path / "runs").exists()


def test_a_collapsed_model(run):
    """All weights are 0: every pixel is a coin, whatever the code, and the guide knows no datum."""
    state = load_checkpoint(run / "checkpoint.pt")
    state["program"] = {name: 0 * value for name, value in state["program"].items()}
    state["best"] = None
    save_checkpoint(run / "checkpoint.pt", state)
    assert main(run, *TINY) == 0
    found = record(run)
    assert found["elbo"]["mutual_information"] == pytest.approx(0, abs=1e-6)
    assert found["elbo"]["terms"]["reconstruction"] == pytest.approx(64 * np.log(0.5))


@pytest.mark.arviz
@pytest.mark.parametrize("n", ["1", "2"])
def test_hardly_any_data(run, n):
    assert main(run, "--images", n, *TINY[2:]) == 0
    assert record(run)["n"] == int(n)


@pytest.fixture
def small(monkeypatch):
    """The section `representation` with few draws and steps."""
    for module, name, value in (
        (label_efficiency, "FEW", (10,)),
        (label_efficiency, "REPEATS", 2),
        (fine_tuning, "TUNED", (20,)),
        (fine_tuning, "TUNING_STEPS", 2),
        (robustness, "CORRUPTED", 20),
        (robustness, "CORRUPTED_SAMPLES", 2),
        (out_of_distribution, "SCORED", 20),
        (out_of_distribution, "SCORED_SAMPLES", 30),
        (inputs, "TRAINING", 300),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def no_paths(monkeypatch):
    """Without the parts on paths and holes, which take longest and are tried with one run."""
    kept = [each for each in SECTION.checks if each.name not in ("interpolation", "holes")]
    section = replace(SECTION, checks=tuple(kept))
    monkeypatch.setitem(sections.SECTIONS, "representation", section)


REPRESENTATION = ["--only", "representation", *TINY]


@pytest.mark.usefixtures("small")
def test_what_codes_are_good_for(run, tmp_path, capsys):
    """All parts that a run with labels has; other data are told apart, and probed."""
    rng = np.random.default_rng(0)
    foreign = tmp_path / "foreign.npz"
    levels = rng.integers(0, 17, (60, 8, 8), dtype=np.uint8)
    np.savez(foreign, x=levels, y=np.arange(60) % 3)
    assert main(run, *REPRESENTATION, "--against", foreign) == 0
    found = record(run)["representation"]
    names = {path.name for path in (run / "diagnosis").iterdir()}
    assert names == {*record(run)["figures"], "diagnosis.json"}
    assert not {"predictive", "elbo"} & record(run).keys()
    names = [check.name for check in SECTION.checks]
    left_out = {name for name in names if isinstance(found[name].get("left_out"), str)}
    assert left_out == {"mixture_components", "disentanglement"}
    assert found["probe"]["num_train"] == 1257
    assert found["neighbours"]["num_train"] == 300
    assert "foreign" in found["out_of_distribution"]["foreign"]
    assert found["transfer"]["num_test"] == 12
    screen = capsys.readouterr().out
    assert "foreign, 42 labels" in screen
    assert all(len(line.replace(str(run), "RUN")) <= 100 for line in screen.splitlines())


@pytest.mark.usefixtures("small", "no_paths")
def test_codes_of_data_with_factors_and_of_data_without_labels(tmp_path):
    rng = np.random.default_rng(0)
    factors = np.stack([np.arange(200) % 2, np.arange(200) // 2 % 4], 1)
    x = factors @ rng.normal(size=(2, 5)) + 0.1 * rng.normal(size=(200, 5))
    np.savez(tmp_path / "factors.npz", x=x, y=factors)
    np.save(tmp_path / "bare.npy", x)
    options = ["--likelihood", "normal", "--latent-dim", "2"]
    with_factors = train(tmp_path / "with", "--data", str(tmp_path / "factors.npz"), *options)
    assert main(with_factors, *REPRESENTATION) == 0
    found = record(with_factors)["representation"]
    # Of all held-out data, and not of those 30 that other parts see.
    assert found["disentanglement"]["n"] == 40
    assert found["probe"]["num_classes"] == 2
    bare = train(tmp_path / "bare", "--data", str(tmp_path / "bare.npy"), *options)
    assert main(bare, *REPRESENTATION) == 0
    found = record(bare)["representation"]
    for part in ("probe", "neighbours", "label_efficiency", "clustering", "transfer"):
        assert "label" in found[part]["left_out"]
    assert found["robustness"]["area"]["accuracy"] is None


@pytest.mark.usefixtures("small", "no_paths")
def test_codes_of_several_runs_side_by_side(trained, tmp_path, capsys, monkeypatch):
    """An autoencoder has no log p(x), and a place in the table."""
    monkeypatch.chdir(tmp_path)
    point = ["--posterior", "point", "--objective", "reconstruction"]
    plain = train(tmp_path / "plain", *point)
    line = refused(capsys, trained, plain, *TINY)
    assert "log p(x) of plain is not defined" in line
    assert "--only representation" in line
    assert not (tmp_path / "runs").exists()
    assert main(trained, plain, *REPRESENTATION) == 0
    screen = capsys.readouterr().out
    assert all(len(line) <= 100 for line in screen.splitlines())
    out = tmp_path / "runs" / "comparison"
    found = json.loads((out / "representation.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        "label_efficiency.png",
        "robustness.png",
        "representation.json",
    }
    assert found["runs"].keys() == found["representation"].keys() == {"digits", "plain"}
    assert found["differences"]["posterior"] == {"digits": "diagonal_normal", "plain": "point"}
    assert screen.index("The runs differ in") < screen.index("linear probe")
    (evidence,) = (
        row
        for label, row in found["measures"].items()
        if label.startswith("log p(x),") and "clean" in label
    )
    assert evidence["plain"] == "not defined"
    assert float(evidence["digits"].partition(" ± ")[0]) < 0
    assert "--against" in found["representation"]["digits"]["transfer"]["left_out"]
    probe = found["measures"]["linear probe, all labels"]
    accuracy = found["representation"]["plain"]["probe"]["accuracy"]
    assert probe["plain"].startswith(f"{accuracy:.3f} ± ")
    # Its place may be taken by another comparison.
    assert runpy.run_path(str(SCRIPT))["free"](out) == out
    other = train(tmp_path / "other", "--binarisation", "threshold")
    line = refused(capsys, trained, other, *REPRESENTATION)
    assert "codes of digits and other do not compare: binarisation dynamic against" in line
    line = refused(capsys, trained, plain, "--only", "representation", "elbo", *TINY)
    assert "must be representation alone, got representation elbo" in line


def test_runs_of_one_name_are_called_by_what_differs(tmp_path):
    distinct = runpy.run_path(str(SCRIPT))["distinct"]
    one, two = tmp_path / "vae" / "0", tmp_path / "plain" / "0"
    assert distinct([one, two]) == ["vae/0", "plain/0"]
    assert distinct([one, tmp_path / "other"]) == ["0", "other"]
