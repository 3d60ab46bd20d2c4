"""Loggers: the same training with and without one, event files, and a second logger."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from pyro_vae import build, fit
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.programs import PROGRAMS
from pyro_vae.runs import load
from pyro_vae.training import Training
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.loggers import LOGGERS, Logger, TensorBoard, following
from pyro_vae.training.loggers.tensorboard import markdown_table
from pyro_vae.training.processes import Processes

SCRIPT = Path(__file__).parents[2] / "scripts" / "svi_train.py"
ODD = ("a|b", "<script>", "c\nd", "*e*", "f")


def a_training(**options) -> Training:
    """100 digits: 7 steps of 10 an epoch, for 3 epochs."""
    pyro.set_rng_seed(3)
    d = digits()
    small = Dataset.from_array(
        d.train[:100], levels=17, name="small", labels=d.labels["train"][:100]
    )
    vae = build((1, 8, 8), 3, posterior="batch_normalised")
    return Training(
        vae, PreparedData(small, "binary"), **{"batch_size": 10, "epochs": 3, **options}
    )


def events(directory: Path) -> EventAccumulator:
    found = EventAccumulator(str(directory), size_guidance=dict.fromkeys(["scalars", "images"], 0))
    return found.Reload()


def steps(directory: Path, tag: str = "elbo/validation") -> list[int]:
    return [event.step for event in events(directory).Scalars(tag)]


def state(training: Training) -> torch.Tensor:
    values = [*training.program.state_dict().values(), torch.get_rng_state()]
    return torch.cat([v.detach().flatten().double() for v in values])


class Curious(Logger):
    """Reads and draws all that it can, and changes the modes."""

    def __init__(self):
        self.calls = []

    def begin(self, training):
        self.calls.append("begin")
        torch.rand(3)
        training.program.train()

    def end_epoch(self, epoch):
        self.calls.append(epoch.record["epoch"])
        assert not epoch.training.program.training
        assert not torch.is_grad_enabled()
        assert epoch.data(4).shape == epoch.reconstructions(4).shape == epoch.samples(4).shape
        assert epoch.codes(5).shape == (5, 3)
        assert len(epoch.labels(5)["label"]) == 5
        torch.manual_seed(1)
        epoch.training.program.train()

    def close(self):
        self.calls.append("close")


def assert_no_bit_changes(directory: Path, compile: str) -> None:
    alone, watched = a_training(compile=compile), a_training(compile=compile)
    pyro.set_rng_seed(5)
    alone.run()
    expected = state(alone)
    pyro.set_rng_seed(5)
    curious = Curious()
    watched.run(loggers=[curious, TensorBoard(directory, every=1)])
    assert watched.compiled == compile
    assert torch.equal(state(watched), expected)
    for one, other in zip(watched.history, alone.history, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert curious.calls == ["begin", 1, 2, 3, "close"]


@pytest.mark.parametrize("compile", ["off", "graph", "on"])
def test_a_logger_changes_no_bit(tmp_path, set_compiler, compile):
    set_compiler()
    assert_no_bit_changes(tmp_path, compile)


@pytest.mark.slow
def test_a_logger_changes_no_bit_of_a_compiled_training(tmp_path, wait_for_compiler):
    assert_no_bit_changes(tmp_path, "on")


def test_event_files_hold_the_history_pictures_and_codes(tmp_path):
    training = a_training()
    history = training.run(loggers=[TensorBoard(tmp_path, every=2, images=5, codes=5)])
    found = events(tmp_path)
    for tag, name in {
        "elbo/training": "elbo",
        "elbo/validation": "validation_elbo",
        "kl/training": "kl",
        "training/lr": "lr",
        "training/active_units": "active_units",
    }.items():
        logged = [(event.step, event.value) for event in found.Scalars(tag)]
        assert logged == [(r["step"], pytest.approx(r[name])) for r in history]
    for tag, height in {"reconstructions": 2 * 9, "samples": 9}.items():
        images = found.Images(tag)
        assert [event.step for event in images] == [14, 21]
        assert (images[0].width, images[0].height) == (5 * 9, height)
    config = text_format.Parse(
        (tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig()
    )
    assert [e.tensor_name for e in config.embeddings] == [
        "codes after step 14",
        "codes after step 21",
    ]
    for embedding in config.embeddings:
        assert np.loadtxt(tmp_path / embedding.tensor_path).shape == (5, 3)
        labels = (tmp_path / embedding.metadata_path).read_text().splitlines()
        assert len(labels) == 5
        assert set(labels) <= set("0123456789")
        assert list(embedding.sprite.single_image_dim) == [8, 8]
        with Image.open(tmp_path / embedding.sprite.image_path) as sprite:
            assert sprite.size == (3 * 8, 3 * 8)


def test_a_resumed_training_repeats_no_step(tmp_path):
    """Neither of what was written after the checkpoint, nor of an epoch that `max_steps` had cut."""
    logs, path = tmp_path / "logs", tmp_path / "checkpoint.pt"
    first = a_training(max_steps=10)
    first.run(checkpoint=path, loggers=[TensorBoard(logs, every=1)])
    assert steps(logs) == [7, 10]

    def resume(**options):
        training = a_training(**options)
        training.load_state_dict(load_checkpoint(path))
        training.run(loggers=[TensorBoard(logs, every=1)])

    # Lost: the machine stops before the next checkpoint.
    resume(max_steps=14)
    assert steps(logs) == [7, 14]
    resume()
    assert steps(logs) == [7, 14, 21]
    assert sorted(p.name for p in logs.glob("codes-*")) == [
        f"codes-{step:08d}.tsv" for step in (7, 14, 21)
    ]
    # A new training in the same folder replaces the old one.
    a_training(epochs=1).run(loggers=[TensorBoard(logs)])
    assert steps(logs) == [7]


def test_an_interrupted_training_is_written(tmp_path, monkeypatch):
    training = a_training()
    take = training.take_step

    def interrupted():
        if training.step == 9:
            raise KeyboardInterrupt
        take()

    monkeypatch.setattr(training, "take_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.run(loggers=[TensorBoard(tmp_path)])
    assert steps(tmp_path) == [7]


def test_only_the_first_process_writes():
    training = SimpleNamespace(processes=Processes(1, 2), program=build((1, 8, 8), 2))
    curious = Curious()
    with following(training, [curious]) as log_epoch:
        log_epoch()
    assert curious.calls == []


@pytest.mark.parametrize(
    ("shape", "kind"), [((5,), "text"), ((40,), "text"), ((2, 6), "image"), ((4, 6, 6), "image")]
)
def test_other_data_than_images(tmp_path, shape, kind):
    rng = np.random.default_rng(0)
    names = ODD if shape == (5,) else ()
    data = Dataset.from_array(rng.normal(size=(60, *shape)), name="mine", event_names=names)
    fit(
        build(data.event_shape, 2, likelihood="normal"),
        data,
        epochs=1,
        loggers=[TensorBoard(tmp_path)],
    )
    found = events(tmp_path)
    if kind == "image":
        assert len(found.Images("reconstructions")) == 1
        return
    (event,) = found.Tensors("reconstructions/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    header, _, *rows = text.split("\n")
    if names:
        assert header == r"| | a\|b | &lt;script&gt; | c d | \*e\* | f |"
    else:
        assert "The 12 of 40 elements with the largest variance." in text
    assert rows[0].startswith("| data 1 |")
    assert rows[1].startswith("| reconstruction 1 |")


def test_missing_values_in_a_table():
    text = markdown_table({"data": torch.tensor([[1.0, torch.nan]])}, (), like=torch.ones(1, 2))
    assert text.endswith("| data 1 | 1 | missing |")


@pytest.mark.parametrize("options", [{"every": 0}, {"images": 0}, {"codes": 0}])
def test_numbers_below_1_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        TensorBoard(tmp_path, **options)


# ---- the command line --------------------------------------------------------------------------


class Table(Logger):
    """A logger of another kind, in one class.

    Args:
        directory: The folder of its file.
        digits: The number of digits.
    """

    def __init__(self, directory: Path, digits: int = 2) -> None:
        self.directory, self.digits = directory, digits

    def begin(self, training):
        self.directory.mkdir(exist_ok=True)
        self.file = (self.directory / "losses.csv").open("a", newline="")

    def end_epoch(self, epoch):
        csv.writer(self.file).writerow([epoch.step, round(epoch.record["elbo"], self.digits)])

    def close(self):
        self.file.close()


@pytest.fixture
def main():
    import runpy

    def main(*words: object) -> int:
        tiny = ("--network.hidden", "[8]", "--latent-dim", "2", "--evaluate", "none")
        run = runpy.run_path(str(SCRIPT))["main"]
        return run([*([] if "--resume" in words else tiny), *map(str, words)])

    return main


def test_a_second_logger_is_one_class_and_a_line(main, tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "table", Table)
    assert main("--out", tmp_path / "run", "--log", "table", "--log.digits", 1, "--epochs", 1) == 0
    assert main("--resume", "--out", tmp_path / "run", "--epochs", 2) == 0
    one, two = csv.reader((tmp_path / "run/table/losses.csv").read_text().splitlines())
    assert (one[0], two[0]) == ("20", "40")
    assert len(one[1].partition(".")[2]) == 1


def test_a_run_may_be_watched_later_and_starts_anew_if_overwritten(main, tmp_path):
    out = tmp_path / "run"
    assert main("--out", out, "--max-steps", 10, "--batch-size", 400) == 0
    assert not (out / "tensorboard").exists()
    assert main("--resume", "--out", out, "--max-steps", 14, "--log", "tensorboard") == 0
    assert steps(out / "tensorboard") == [12, 14]
    load(out)
    words = ("--max-steps", 4, "--batch-size", 400, "--log", "tensorboard", "--overwrite")
    assert main("--out", out, *words) == 0
    assert steps(out / "tensorboard") == [4]


def test_without_tensorboard_one_line_names_the_extra(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main("--out", tmp_path / "run", "--log", "tensorboard") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("svi_train.py: error: the log tensorboard needs TensorBoard")
    assert "pip install 'pyro-vae[tensorboard]'" in line
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    assert main("--out", tmp_path / "run", "--log", "tensorbord") == 2
    assert "did you mean tensorboard?" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_is_watched(main, tmp_path, program):
    data = {"sequence": ["--data", "pendulum"], "missing": ["--missing-rate", "0.2"]}
    words = ("--model", program, "--max-steps", 3, "--log", "tensorboard", *data.get(program, []))
    assert main("--out", tmp_path / "run", *words) == 0
    found = events(tmp_path / "run" / "tensorboard")
    assert steps(tmp_path / "run" / "tensorboard") == [3]
    assert {"reconstructions", "samples"} <= set(found.Tags()["images"])
    assert (tmp_path / "run" / "tensorboard" / "projector_config.pbtxt").exists()


@pytest.mark.slow
def test_two_processes_and_an_interruption(tmp_path):
    """One event file by one of two processes, complete after SIGTERM."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    # torchrun would take --log for one of its own options without the two dashes.
    command += ["--", str(SCRIPT), "--out", str(out), "--log", "tensorboard", "--evaluate", "none"]
    command += ["--log.every", "2", "--epochs", "10000", "--early-stopping", "null"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 40
    while not (out / "tensorboard" / "projector_config.pbtxt").exists():
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail("no epoch was written")
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert len(list((out / "tensorboard").glob("events.*"))) == 1
    with (out / "metrics.csv").open() as file:
        assert steps(out / "tensorboard") == [int(row["step"]) for row in csv.DictReader(file)]
