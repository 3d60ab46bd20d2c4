"""Every command that a diagnosis may name is one that its program takes."""

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import commands
from pyro_vae.configuration.parser import parse

ROOT = Path(__file__).parents[2]
CONSTANTS = {name: value for name, value in vars(commands).items() if name.isupper()}
# What f-strings put in.
VALUES = {**CONSTANTS, "options_of_data": " --seed 1"}
# What a diagnosis, and the numbers it is made of, can print.
FILES = sorted(
    {
        ROOT / "scripts" / "diagnose.py",
        ROOT / "pyro_vae" / "statistics.py",
        ROOT / "pyro_vae" / "evidence" / "importance_weighting.py",
        ROOT / "pyro_vae" / "evidence" / "inference_gaps.py",
        *(ROOT / "analysis").glob("*.py"),
        *(ROOT / "analysis" / "representation").glob("*.py"),
        *(ROOT / "analysis" / "disentanglement").glob("*.py"),
    }
    # Tables of the README, and the runner of studies.
    - {ROOT / "analysis" / "study.py", ROOT / "analysis" / "representation" / "study_tables.py"}
)


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings that a program may print: all but docstrings; values in them are 1, commands themselves."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value)
                if isinstance(part, ast.Constant)
                else VALUES.get(name_of(part), "1")
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in docstrings | inside:
            yield str(node.value)


def name_of(part: ast.AST) -> str:
    """The command in what an f-string formats, perhaps with its section put in."""
    names = [node.id for node in ast.walk(part) if isinstance(node, ast.Name)]
    return next((name for name in names if name in VALUES), "")


def check(command: str) -> None:
    """Parse a command with its program's own parser."""
    python, script, *arguments = shlex.split(command)
    assert (python, script[:8]) == ("python", "scripts/"), command
    values = {"DATA": "digits", "SECTION": "guide"}
    arguments = [values.get(word, word) for word in arguments]
    if script == "scripts/svi_train.py":
        parse(arguments)
    else:
        runpy.run_path(str(ROOT / script))["parser"]().parse_args(arguments)


@pytest.mark.parametrize("command", CONSTANTS.values(), ids=CONSTANTS)
def test_each_command_parses(command):
    check(command)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_text_names_a_command_or_an_option_that_is_none(path):
    options = {"--data"} | {
        option
        for script in ("diagnose", "evaluate")
        for action in runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))["parser"]()._actions
        for option in action.option_strings
    }
    for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
        for quoted in re.findall(r"`([^`\n]+)`", text):
            check(quoted)
        bare = re.sub(r"`[^`\n]+`", "", text)
        if path.name != "commands.py":
            assert not re.search(r"scripts/\w+\.py \S", bare), f"give it in backticks: {text}"
        for option in re.findall(r"(?<![-\w])--[a-z][-\w.]*", bare):
            if option.startswith("--data."):
                parse(["--data", "table.csv", option, "standard"])
            else:
                assert option in options, text
