"""The benchmark's command line: what it prints, writes and refuses."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.task import made_by

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="benchmark"))


def test_without_a_gpu_its_suite_is_skipped(benchmark, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main(["--suite", "gpu", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no GPU: skipped\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "tpu"], "argument --suite: invalid choice: 'tpu'"),
        (["--images", "10"], "must be a whole number of at least 11, got '10'"),
        (["--rounds", "0"], "must be a whole number of at least 1, got '0'"),
        (["--threads", "1000"], "must be a whole number from 1 to"),
        (["--ways", "by_hand,magic"], "got 'magic'"),
        (["--data", "cats"], "argument --data: invalid choice: 'cats'"),
        (["--table", "--out", "nowhere"], "is not there: measure something first"),
        (["--write", "README.md", "--out", "nowhere"], "measure something first"),
        (["--part", "batch_size"], "--part of cpu must be one of none, got 'batch_size'"),
        (["--suite", "start", "--baseline", "nowhere"], "nowhere is not a checkout"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(benchmark, arguments, said, capsys):
    try:
        code = benchmark.main(arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("benchmark.py: error: ")
    assert said in printed.err


def test_damaged_results_are_refused_before_anything_is_measured(benchmark, tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text("[]")
    assert benchmark.main(["--data", "digits", "--out", str(tmp_path)]) == 2
    assert "must hold suites among cpu" in capsys.readouterr().err


def test_results_are_added_to_only_from_the_same_commit_and_machine(benchmark):
    now = {**made_by("python scripts/benchmark.py", 1), "git_commit": "ab"}
    benchmark.check_same_origin({**now, "git_commit": "ab-dirty"}, now)
    with pytest.raises(ValueError, match="has commit abc, and this has commit ab"):
        benchmark.check_same_origin({**now, "git_commit": "abc"}, now)
    with pytest.raises(ValueError, match="has versions"):
        benchmark.check_same_origin({**now, "versions": {}}, now)


def test_the_command_shown_has_no_path_of_the_baseline(benchmark):
    shown = benchmark.typed_command(["--baseline", "/a/path", "--add"])
    assert shown == "python scripts/benchmark.py --baseline CHECKOUT --add"


@pytest.mark.slow
def test_a_small_run_is_printed_stored_drawn_and_shown_again(
    benchmark, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(IMPLEMENTATIONS["numpyro"], "requires", ("no_such_package",))
    arguments = ["--data", "digits", "--ways", "by_hand,numpyro", "--rounds", "2"]
    arguments += ["--threads", "1", "--out", str(tmp_path)]
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "| plain PyTorch, in memory, eager |" in printed
    assert "not installed (pip install -e '.[benchmark]')" in printed
    # The targets are of MNIST.
    assert "<=" not in printed

    stored = json.loads((tmp_path / "benchmark.json").read_text())["cpu"]
    assert stored["made_by"]["command"].startswith("python scripts/benchmark.py --data digits")
    assert stored["made_by"]["machine"]["threads"] == 1
    assert len(stored["ways"]["by_hand"]["seconds"]) == 2
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000

    assert benchmark.main(["--table", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"### An epoch on the CPU\n\n{printed}"
    readme = tmp_path / "README.md"
    readme.write_text("<!-- benchmark -->\n<!-- /benchmark -->\n")
    assert benchmark.main(["--write", str(readme), "--out", str(tmp_path)]) == 0
    assert printed in readme.read_text()
