"""The tasks of docs/how-to.md run in its order, shortened, and leave the files that it names."""

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from pyro_vae.configuration.parser import parse

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to.md").read_text()
CODE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def main_of(script: str) -> Callable[[list[str]], int]:
    return runpy.run_path(str(ROOT / script))["main"]


def run_python(code: str, scope: dict) -> None:
    """Run a block; one whose first line is a file's name is saved there, too."""
    if name := re.match(r"# (\w+\.py)\n", code):
        Path(name[1]).write_text(code)
    shorter = code.replace("epochs=20", "epochs=1").replace("range(400)", "range(50)")
    exec(compile(shorter, "how-to.md", "exec"), scope)
    plt.close("all")


def run_bash(code: str) -> None:
    """Run each line: trainings stop after 20 steps, a resumed one after 20 more; 40 rows are diagnosed."""
    for line in code.splitlines():
        python, script, *words = shlex.split(line)
        assert python == "python"
        if script == "scripts/svi_train.py":
            words += ["--evaluate", "quick", "--max-steps", "40" if "--resume" in words else "20"]
        if script == "scripts/diagnose.py":
            words += ["--images", "40"]
        assert main_of(script)(words) == 0, line


@pytest.mark.slow
def test_every_task_runs_and_writes_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "how_to"}
    tasks = PAGE.split("\n## ")
    assert len(tasks) == 1 + 10
    for task in tasks:
        for language, code in CODE.findall(task):
            if language == "python":
                run_python(code, scope)
            elif language == "bash":
                run_bash(code)
        for name in re.findall(
            r"`([\w-]+(?:/[\w.-]+)*(?:/|\.(?:py|csv|npz|png|json|pt)))`", prose(task)
        ):
            assert Path(name).exists() or (ROOT / "scripts" / name).exists(), name
    assert scope["path"].shape == (9, 1, 8, 8)
    options_exist()


def options_exist() -> None:
    """What the text says of options can be added to the training of the same task."""
    for task in PAGE.split("\n## "):
        commands = [
            shlex.split(line)[2:]
            for language, code in CODE.findall(task)
            for line in code.splitlines()
            if language == "bash" and "svi_train.py" in line
        ]
        for option in re.findall(r"`(--[\w.-]+ [^`]+)`", prose(task)):
            parse([*commands[0], *shlex.split(option)])


def test_the_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]*)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def prose(task: str) -> str:
    return CODE.sub("", task)
