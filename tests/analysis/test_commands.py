"""Every command that a message names is accepted by its program."""

import ast
import functools
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import result
from pyro_vae.configuration.parser import parse

ROOT = Path(__file__).parents[2]
CONSTANTS = {name: value for name, value in vars(result).items() if name.isupper()}
# The values of names in f-strings.
VALUES = {**CONSTANTS, "options_of_data": " --seed 1"}
# The files whose messages a diagnosis prints.
FILES = [
    ROOT / "scripts" / "diagnose.py",
    ROOT / "pyro_vae" / "statistics.py",
    ROOT / "pyro_vae" / "evidence" / "importance_weighting.py",
    ROOT / "pyro_vae" / "evidence" / "inference_gaps.py",
    # Without the runner and the tables of studies.
    *(
        p
        for p in (ROOT / "analysis").rglob("*.py")
        if p.name not in ("study.py", "study_tables.py")
    ),
]


@functools.cache
def parser(script: str):
    """The parser of a program."""
    return runpy.run_path(str(ROOT / script))["parser"]()


def texts(tree: ast.AST) -> Iterator[str]:
    """All strings but docstrings, with 1 for the values of f-strings that are not commands."""
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
    """The command among the names that an f-string formats."""
    names = [node.id for node in ast.walk(part) if isinstance(node, ast.Name)]
    return next((name for name in names if name in VALUES), "")


def check(command: str) -> None:
    """Parse a command with its program's parser."""
    python, script, *arguments = shlex.split(command)
    assert (python, script[:8]) == ("python", "scripts/"), command
    run = str(ROOT / "tests" / "snapshot" / "run")
    values = {"RUN": run, "DATA": "digits", "SECTION": "guide"}
    arguments = [values.get(word, word) for word in arguments]
    if script == "scripts/svi_train.py":
        parse(arguments)
    else:
        parser(script).parse_args(arguments)


@pytest.mark.parametrize("command", CONSTANTS.values(), ids=CONSTANTS)
def test_each_command_parses(command):
    check(command)


def test_messages_name_only_commands_and_options_that_exist():
    # Of svi_train.py, which parses its options by the parts that they choose.
    training = {"--data", "--resume", "--out", "--evaluate", "--config", "--overwrite"}
    options = training | {
        option
        for script in (
            "scripts/diagnose.py",
            "scripts/encode.py",
            "scripts/evaluate.py",
            "scripts/sample.py",
        )
        for action in parser(script)._actions
        for option in action.option_strings
    }
    for path in FILES:
        for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            for quoted in re.findall(r"`([^`\n]+)`", text):
                if quoted.startswith("python"):
                    check(quoted)
            bare = re.sub(r"`[^`\n]+`", "", text)
            if re.match(r"python scripts/\w+\.py \S", bare):
                check(bare)
            else:
                assert not re.search(r"scripts/\w+\.py \S", bare), (path, "use backticks", text)
            # Not the variables of style sheets.
            for option in re.findall(r"(?<![-\w])(?<!var\()--[a-z][-\w]*(?:\.[-\w]+)*", bare):
                if option.startswith("--data."):
                    parse(["--data", "table.csv", option, "standard"])
                else:
                    assert option in options, (path, text)
