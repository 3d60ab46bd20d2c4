"""Interleaved timing, ratios within rounds, and target results."""

import math
from contextlib import closing

import pytest

from benchmarks import epochs, timing
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.task import Setting
from benchmarks.timing import (
    Environment,
    Measurement,
    ProcessError,
    Worker,
    at_most,
    describe,
    measure,
    ratio,
    ratio_targets,
    run_in_process,
    spread,
)

SMALL = Setting(hidden=16, latent_dim=3, batch_size=48, lr=1e-2)


class ScriptedWorker(Worker):
    """Answers with times that are known."""

    turns: list[str]
    times: dict[str, list[float]]

    def __init__(self, name, setting, environment):
        self.name = name
        self.prepared = {"images": 512, "prepare_seconds": 0.5}

    def epoch(self):
        self.turns.append(self.name)
        if not self.times[self.name]:
            raise ProcessError("no time left")
        seconds = self.times[self.name].pop(0)
        return {"seconds": seconds, "loss": 100.0, "compile_seconds": None, "peak_bytes": 1}

    def close(self):
        self.turns.append(f"end {self.name}")


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(timing, "Worker", ScriptedWorker)
    ScriptedWorker.turns = []
    ScriptedWorker.times = {
        "by_hand": [9.0, 9.0, 9.0, 2.0, 4.0, 3.0],
        "this_eager": [9.0, 9.0, 9.0, 3.0, 8.0, 1.5],
        "pyro_memory": [9.0, 9.0, 9.0, 5.0],
    }
    return ScriptedWorker


def test_ways_take_turns_there_and_back(scripted):
    measured = measure(["by_hand", "this_eager"], Setting(), Environment("digits"), 3)
    warm_up = ["by_hand"] * 3 + ["this_eager"] * 3
    there, back = ["by_hand", "this_eager"], ["this_eager", "by_hand"]
    assert scripted.turns == [
        *(*warm_up, *there, *back, *there),
        *("end by_hand", "end this_eager"),
    ]
    assert measured["by_hand"].seconds == [2.0, 4.0, 3.0]
    assert measured["by_hand"].warm_up_seconds == [9.0, 9.0, 9.0]


def test_ratios_are_taken_within_a_round(scripted):
    measured = measure(["by_hand", "this_eager"], Setting(), Environment("digits"), 3)
    ways = epochs.summarize(measured)
    assert ways["this_eager"]["median_seconds"] == 3.0
    # 1.5, 2 and 0.5; the ratio of the medians would be 1.
    assert ways["this_eager"]["ratio_to_by_hand"] == {"median": 1.5, "lowest": 0.5, "highest": 2.0}
    assert ways["by_hand"]["ratio_to_by_hand"]["median"] == 1


def test_a_way_that_fails_stops_no_other(scripted):
    lines = []
    names = ["by_hand", "pyro_memory"]
    measured = measure(names, Setting(), Environment("digits"), 3, lines.append)
    assert measured["pyro_memory"].status == "failed: no time left"
    assert "pyro_memory: failed: no time left" in lines
    assert len(measured["by_hand"].seconds) == 3
    verdict = ratio_targets({("pyro_memory", "by_hand"): 1.0}, measured)[0]
    assert verdict["verdict"] == "not measured"


def test_a_missing_peer_is_listed_and_no_error(scripted, monkeypatch):
    monkeypatch.setattr(IMPLEMENTATIONS["numpyro"], "requires", ("no_such_package",))
    measured = measure(["numpyro", "by_hand"], Setting(), Environment("digits"), 1)
    assert measured["numpyro"].status == "not installed (pip install -e '.[benchmark]')"
    result = {
        "setting": {"batch_size": 256, "device": "cpu"},
        "data": "mnist",
        "rounds": 1,
        "ways": epochs.summarize(measured),
    }
    last = epochs.cpu_table(result).split("\n\n")[0].splitlines()[-1]
    assert last.startswith("| NumPyro, the epoch jitted |")
    assert last.endswith("| not installed (pip install -e '.[benchmark]') |")


@pytest.mark.slow
def test_a_process_trains_and_says_what_went_wrong():
    environment = Environment("digits", images={"by_hand": 64})
    with closing(Worker("by_hand", SMALL, environment)) as worker:
        assert worker.prepared["images"] == 64
        answer = worker.epoch()
        assert answer["seconds"] > 0
        assert math.isfinite(answer["loss"])
        assert answer["peak_bytes"] > 2**26
    with pytest.raises(ProcessError, match="ValueError: data must be one of"):
        Worker("by_hand", SMALL, Environment("cats"))


@pytest.mark.slow
def test_a_function_runs_in_its_own_process():
    function = "benchmarks.runs:train_in_memory"
    assert run_in_process(function, 300, threads=1)["status"] == "measured"
    with pytest.raises(ProcessError, match="TypeError"):
        run_in_process(function, threads=1)


def test_spread_and_ratio_of_nothing_are_nothing():
    assert spread([]) is None
    assert ratio([1.0], []) is None


def test_targets_are_reached_or_missed_by_so_much():
    measured = {
        "this_compiled": Measurement("", images=100, seconds=[1.0, 1.2, 1.1]),
        "by_hand": Measurement("", images=100, seconds=[2.0, 2.0, 2.0]),
        # Half of the images in the time: twice as slow.
        "numpyro": Measurement("", images=50, seconds=[0.55, 0.6, 0.55]),
    }
    found = {verdict["target"]: verdict for verdict in ratio_targets(epochs.CPU_TARGETS, measured)}
    assert found["this_compiled / by_hand"]["value"] == pytest.approx(0.55)
    assert found["this_compiled / by_hand"]["verdict"] == "reached"
    assert found["this_compiled / numpyro"]["value"] == pytest.approx(1.0)
    assert describe(found["this_compiled / numpyro"]) == (
        "this_compiled / numpyro <= 0.85: missed by 17.6 % (1; by round 0.909 to 1)"
    )
    assert found["this_compiled / pyro_example"]["verdict"] == "not measured"


def test_at_most_has_a_unit():
    verdict = at_most("start", 7.5, 8.0, "s")
    assert describe(verdict) == "start <= 8 s: reached (7.5 s)"
