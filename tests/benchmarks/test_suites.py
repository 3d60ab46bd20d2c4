"""The suites: what they compute from times, their page, their figure and their file."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import diagnosis, encoding, epochs, inference, report, runs, short, start
from benchmarks.commands import Checkout, timed_command
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.report import plot_benchmark
from benchmarks.task import Options, made_by
from benchmarks.timing import Measurement, ProcessError, at_most, describe, ratio_targets
from pyro_vae.compilation import CompiledFunction

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def results():
    """One of each suite, as they are stored."""
    measured = {
        name: Measurement(
            IMPLEMENTATIONS[name].title,
            images=512,
            prepare_seconds=1.0,
            warm_up_seconds=[2.0, 1.0],
            seconds=[0.5 + index, 0.6 + index],
            losses=[120.0, 110.0, 105.0, None],
        )
        for index, name in enumerate(("this_compiled", "by_hand", "numpyro"))
    }
    measured["pythae"] = Measurement("pythae, its trainer", status="not installed")
    cpu = {
        "setting": {"batch_size": 256, "device": "cpu"},
        "data": "mnist",
        "rounds": 2,
        "ways": epochs.summarize(measured),
        "targets": ratio_targets(epochs.CPU_TARGETS, measured),
    }
    started = {"first_step": 3.5, "step_before": 0.006, "step_after": 0.004}
    started |= {"steps_before": 900, "longest_step": 0.1, "longest_step_number": 2}
    starts = {
        name: {
            cache: {"status": "measured", "compiled": seconds * share, **started}
            for cache, share in (("cold", 1.0), ("warm", 0.5))
        }
        for name, seconds in (("this", 10.0), ("baseline", 20.0))
    }
    starts["this"]["warm"] = {"status": "failed: no"}
    commands = {
        name: {
            "wall": 10.0 * factor,
            "parts": dict.fromkeys(short.PARTS, factor),
            "steps": 2000,
            "step": 0.001 * factor,
            "first_step": 0.5,
            "longest_step": 0.1,
            "log_evidence": -23.0 - 0.01 * factor,
        }
        for name, factor in (("this", 1.0), ("baseline", 4.0))
    }
    commands["by_hand"] = {"parts": {"train": 3.0}, "step": 0.0008}
    default_runs = [{"seed": seed, **commands} for seed in short.SEEDS]
    point = {
        "value": 64,
        "seconds_a_step": {"by_hand": [0.001]},
        "status": {"by_hand": "measured"},
    }
    peak = {"images": 10_000, "bytes": 2**30, "status": "measured"}
    run = {"log_evidence": -97.25}
    entry = {"case": "one", "target": "one", "bound": None, "unit": "", "value": None}
    entry |= {"distance": "1e-6", "elbo_difference": "1e-7", "verdict": "reached"}
    diagnoses = [
        {
            name: {
                "wall": 20.0 * factor,
                "sections": dict.fromkeys(diagnosis.SECTIONS, 5.0 * factor),
                "page_bytes": page,
                "elbo": -101.25,
            }
            for name, factor, page in (("this", 1.0, 2**20), ("baseline", 2.0, None))
        }
    ]
    stored = {
        "cpu": cpu,
        "clustering": {**cpu, "targets": []},
        "short": {
            "rounds": 3,
            "runs": default_runs,
            "baseline_commit": "499922027",
            "targets": short.targets(default_runs),
        },
        "start": {
            "runs": (began := [{"task": "784-400-50", **starts}]),
            "baseline_commit": None,
            "targets": [at_most("start", 9.0, 8.0, "s"), *start.targets(began)],
        },
        "diagnosis": {
            "data": "mnist",
            "command": "python scripts/svi_train.py --data mnist",
            "rounds": 1,
            "runs": diagnoses,
            "baseline_commit": "499922027",
            "targets": diagnosis.targets(diagnoses),
        },
        "scaling": {
            "rounds": 1,
            "points": {axis: [point] for axis in epochs.AXES},
            "targets": [],
        },
        "memory": {"steps": 50, "peaks": {"in memory": [peak]}, "targets": []},
        "precision": {
            "runs": {"float32": [run], "bfloat16": []},
            "status": {"float32": "measured", "bfloat16": "failed: no"},
            "command": "python scripts/svi_train.py",
            "targets": [],
        },
        "evaluation": {
            "images": 300,
            "rounds": 1,
            "seconds": [300.0],
            "products": {"torch.mm": [400.0], "oneDNN": [250.0]},
            "first_seconds": 9.0,
            "extra_bytes": 70 * 2**20,
            "targets": [],
        },
        "encoding": {
            "images": 70_000,
            "rounds": 1,
            "seconds": {name: [0.4] for name in encoding.TITLES},
            "targets": [],
        },
        "annealing": {
            "rounds": 1,
            "seconds": [37.0],
            "products": {"torch.mm": [60.0], "oneDNN": [30.0]},
            "transitions": 559,
            "compile_seconds": 4.0,
            "targets": [],
        },
        "gpu": {**cpu, "device": "H200", "cuda": "13.0", "equality": [entry], "targets": [entry]},
    }
    stored["scores"] = stored["evaluation"]
    made = made_by("python scripts/benchmark.py", 1)
    return {name: {**result, "made_by": made} for name, result in stored.items()}


def test_the_page_says_what_was_reached_and_missed(results):
    page = report.page(results)
    assert page.count("### ") == len(report.SUITES)
    assert "- this_compiled / by_hand <= 0.7: reached (0.354; by round 0.333 to 0.375)" in page
    assert "- start <= 8 s: missed by 12.5 % (9 s)" in page
    assert "the default command / baseline <= 0.4: reached (0.25; by round 0.25 to 0.25)" in page
    assert "its step / by_hand <= 1: missed by 25.0 % (1.25; by round 1.25 to 1.25)" in page
    assert "from baseline <= 0.05 nats: reached (0.03 nats)" in page
    assert "| whole command, s | 10.00 | 40.00 |  |" in page
    assert "| training, s | 1.00 | 4.00 | 3.00 |" in page
    assert "cold / baseline <= 0.4: missed by 25.0 % (0.5; by round 0.5 to 0.5)" in page
    assert "to the compiled step, a second time <= 8 s: not measured" in page
    assert "| this project |  |  |  |  |  | failed: no |" in page
    assert "the diagnosis / baseline <= 0.6: reached (0.5; by round 0.5 to 0.5)" in page
    assert "| whole command, s | 20.0 | 40.0 |" in page
    assert "| report.html, MiB | 1.0 |  |" in page
    assert "| in memory | 1,024 MiB |" in page
    assert "| float32 | -97.25 |  |" in page
    assert "matrix products alone, oneDNN | 250.0 | 250.0 to 250.0 |" in page
    assert "70 MiB" in page
    assert "| one | 1e-6 | 1e-7 | reached |" in page
    assert f"torch {torch.__version__.split('+')[0]}" in page


def test_the_figure_has_a_panel_for_each_suite(results):
    figure = plot_benchmark(results)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == 8
    assert plot_benchmark({"annealing": results["annealing"]}) is None


def test_suites_are_stored_beside_each_other(results, tmp_path):
    path = tmp_path / "benchmark.json"
    for name in ("gpu", "cpu"):
        report.write(path, name, results[name])
    assert list(report.read(path)) == ["cpu", "gpu"]
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        report.read(path)


def test_the_stored_results_are_still_read():
    stored = report.read(SCRIPTS / "benchmark.json")
    assert stored
    page = report.page(stored)
    assert page.count("### ") == len(stored)
    assert re.search(r"this_compiled / by_hand <= [\d.]+: reached", page)
    assert plot_benchmark(stored) is not None


def test_eager_equals_eager_and_another_rate_does_not(monkeypatch):
    case = epochs.Case(images=300, compile="off")
    same = epochs.compare(case, "cpu")
    assert same == epochs.Equality(0.0, 0.0, passed=True)

    training, options = epochs.Training, iter([{}, {"lr": 2e-3}])
    monkeypatch.setattr(epochs, "Training", lambda *a, **o: training(*a, **o, **next(options)))
    assert not epochs.compare(case, "cpu").passed


def test_a_case_that_raises_is_reported(monkeypatch):
    def raises(case, device):
        raise RuntimeError("no graph")

    monkeypatch.setattr(epochs, "compare", raises)
    entry = epochs.check_equality("one", epochs.Case(), Options())
    assert entry["verdict"] == "failed: RuntimeError: no graph"
    assert describe(entry) == "step equals the eager one: one: failed: RuntimeError: no graph"


def test_the_gpu_suite_measures_every_implementation(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "a GPU")
    fake = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13"))
    monkeypatch.setattr(epochs, "torch", fake)
    monkeypatch.setattr(epochs, "compare", lambda *_: epochs.Equality(1e-6, 1e-7, passed=True))
    measurement = Measurement("", images=100, warm_up_seconds=[2.0], seconds=[1.0], losses=[1.0])
    monkeypatch.setattr(epochs, "measure", lambda names, *_: dict.fromkeys(names, measurement))
    result = epochs.run_gpu(Options(rounds=2, data="digits"))
    assert list(result["ways"]) == list(epochs.GPU_NAMES)
    # The other targets are set for MNIST.
    verdicts = [found["verdict"] for found in result["targets"]]
    assert verdicts == ["reached"] * len(epochs.CASES)
    assert "a GPU, CUDA 13." in epochs.gpu_table(result)


def test_peak_memory_is_of_this_process(monkeypatch):
    monkeypatch.setattr(runs, "MEMORY_STEPS", 2)
    assert runs.train_in_memory(300)["bytes"] > 2**27


def test_codes_and_forward_passes_are_timed(monkeypatch):
    found = encoding.time_encoding(2, "digits", None)
    assert found["images"] == 1797
    assert {name: len(each) for name, each in found["seconds"].items()} == {
        "encode": 2, "encode_scale": 2, "encoder": 2,
    }  # fmt: skip
    monkeypatch.setattr(encoding, "run_in_process", lambda *_, **__: found)
    result = encoding.run_encoding(Options(rounds=2))
    assert [target["bound"] for target in result["targets"]] == [encoding.RATIO]
    assert encoding.run_encoding(Options(rounds=2, data="digits"))["targets"] == []


def test_an_evaluation_is_extrapolated_from_few_images(monkeypatch):
    found = {
        "few_seconds": [2.0, 1.0],
        "many_seconds": [3.0, 4.0],
        "products_seconds": {"torch.mm": [5.0, 5.0], "oneDNN": [2.0, 1.0]},
        "first_seconds": 20.0,
        "bytes_before": 2**20,
        "peak_bytes": 3 * 2**20,
    }
    monkeypatch.setattr(inference, "run_in_process", lambda *_, **__: found)
    result = inference.run_evaluation(Options(images=110))
    assert result["seconds"] == pytest.approx([1 + 9990 * 0.02, 1 + 9990 * 0.03])
    time, memory = result["targets"]
    products = [2 / 110 * 10_000, 1 / 110 * 10_000]
    assert time["lowest"] == pytest.approx(result["seconds"][0] / products[0])
    assert time["highest"] == pytest.approx(result["seconds"][1] / products[1])
    assert memory["value"] == 2
    assert inference.run_evaluation(Options(images=110, data="digits"))["targets"] == []


@pytest.mark.slow
@pytest.mark.parametrize("scores", [False, True])
def test_evaluations_and_products_are_timed(scores, monkeypatch):
    monkeypatch.setattr(inference, "DRAWS", 2 * inference.ROWS)
    # Digits are small: fewer draws would be computed at once.
    monkeypatch.setattr(inference, "SCORE_DRAWS", 2 * inference.ROWS)
    found = inference.time_evaluation(12, 1, "digits", None, scores)
    assert all(len(found[name]) == 1 for name in ("few_seconds", "many_seconds"))
    assert all(times[0] > 0 for times in found["products_seconds"].values())
    assert found["peak_bytes"] >= found["bytes_before"]


def test_annealing_is_extrapolated_from_a_few_transitions(monkeypatch):
    found = {
        "transition_seconds": [0.1, 0.2],
        "products_seconds": {"torch.mm": [0.3, 0.3], "oneDNN": [0.1, 0.4]},
        "transitions": 559,
        "compile_seconds": 4.0,
    }
    monkeypatch.setattr(inference, "run_in_process", lambda *_, **__: found)
    result = inference.run_annealing(Options())
    assert result["seconds"] == pytest.approx([55.9, 111.8])
    (target,) = result["targets"]
    assert target["lowest"] == pytest.approx(111.8 / 150)
    assert target["highest"] == pytest.approx(55.9 / 50)
    assert inference.run_annealing(Options(data="digits"))["targets"] == []


@pytest.mark.slow
def test_transitions_and_their_products_are_timed(monkeypatch):
    monkeypatch.setattr(inference, "ANNEALED_IMAGES", 3)
    monkeypatch.setattr(inference, "TRANSITIONS", 2)
    found = inference.time_annealing(1, "digits", None)
    assert found["transition_seconds"][0] > 0
    assert all(times[0] > 0 for times in found["products_seconds"].values())
    # 499 of 500 temperatures, 50 that find step sizes, and 10 before these.
    assert found["transitions"] == 559


def test_what_was_not_compiled_is_not_measured():
    def doubled(x):
        return (2 * x,)

    function = CompiledFunction(doubled, "graph", lambda _: 0, name="", outputs={"x": 0.0})
    with pytest.raises(RuntimeError, match="not all"), inference.all_compiled(wait=True):
        [function(torch.ones(2)) for _ in range(4)]
    assert function.decisions == {"2": "graph"}
    with pytest.raises(RuntimeError, match="not all"), inference.all_compiled(wait=False):
        pass


def test_times_of_steps_before_and_after_the_switch():
    ends = [3.5, *(4.0 + 0.01 * i for i in range(50)), 5.0, *(5.0 + 0.002 * i for i in range(20))]
    steps = [(end - (0.4 if end == 5.0 else 0.001), end) for end in sorted(set(ends))]
    found = start.times_of(steps, 4.9)
    assert found["first_step"] == 3.5
    assert found["compiled"] == 5.0
    assert found["steps_before"] == 51
    assert found["longest_step"] == pytest.approx(0.4)
    assert found["longest_step_number"] == 52
    assert found["step_before"] == pytest.approx(0.001)
    # The step that is recorded is not typical.
    assert "step_before" not in start.times_of(
        [(0.0, 1.0), (1.0, 2.0), (2.0, 2.1), (2.1, 2.2)], 2.05
    )


@pytest.mark.slow
def test_a_command_that_fails_gives_the_reason():
    command = ["--data", "digits", "--max-steps", "-1"]
    with (
        pytest.raises(ProcessError, match="max_steps"),
        timed_command(Checkout.at(SCRIPTS.parent), command, 1),
    ):
        pass


@pytest.mark.slow
def test_a_diagnosis_is_timed(monkeypatch):
    monkeypatch.setattr(diagnosis, "EPOCHS", 1)
    result = diagnosis.run_diagnosis(Options(rounds=1, data="digits"))
    (found,) = result["runs"]
    assert 0 < max(found["this"]["sections"].values()) < found["this"]["wall"]
    assert found["this"]["elbo"] < 0
    assert result["targets"] == []


@pytest.mark.slow
def test_a_command_is_timed_in_parts():
    with timed_command(Checkout.at(SCRIPTS.parent), ["--max-steps", "3"], 1) as run:
        parts = short.parts_of(run)
        assert len(run.steps) == run.metrics()["steps"] == 3
        assert run.logged("no such line") is None
        assert 0 < run.logged("digits")[0] < run.wall
    assert sum(parts.values()) == pytest.approx(run.wall)
    assert all(parts[name] > 0 for name in short.PARTS)
