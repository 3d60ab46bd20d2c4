"""The commands that a diagnosis prints are whole, wherever the lines around them are wrapped."""

import runpy
from pathlib import Path

from analysis.commands import ANNEALING

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "diagnose.py"))


def test_a_command_is_printed_whole():
    lines = SCRIPT["wrapped"](f"{'word ' * 17}`{ANNEALING}` is surer.", "")
    printed = SCRIPT["unwrapped"]("\n".join(lines), "RUN")
    assert f"\n  `{ANNEALING}`" in printed
    assert " ".join(printed.split()) == f"{'word ' * 17}`{ANNEALING}` is surer."
