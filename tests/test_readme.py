"""The README's code runs, and its tables are what the dictionaries say."""

import doctest
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import torch

from pyro_vae.configuration.components import FAMILIES
from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO

README = Path(__file__).parents[1] / "README.md"


def test_the_walk_from_equations_to_code():
    result = doctest.testfile(str(README), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0


def test_the_lines_that_train_and_sample():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (program,) = [block for block in blocks if ">>>" not in block]
    scope: dict = {}
    exec(compile(program.replace("epochs=20", "epochs=1"), str(README), "exec"), scope)
    assert scope["images"].shape == (16, 1, 8, 8)


def test_the_tables_of_parts():
    """`python scripts/parts.py --write-readme README.md` was run after the last change of a part."""
    parts = SimpleNamespace(**runpy.run_path(str(README.parent / "scripts" / "parts.py")))
    assert parts.tables() in README.read_text()
    for family, (choices, _) in parts.FAMILIES.items():
        for name in choices:
            assert f"`{name}`" in parts.tables(), f"{family} {name}"


def test_the_worked_example_of_contributing():
    text = (README.parent / "CONTRIBUTING.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict = {"__name__": "example"}
    exec(re.sub(r"^   ", "", program, flags=re.MULTILINE), scope)
    gumbel = scope["Gumbel"]
    assert gumbel(3)().sample().shape == (3,)
    assert "Gumbel" not in {part.__name__ for part in FAMILIES["prior"].values()}
    vae = build((1, 2, 2), 3, prior=gumbel)
    objective = ELBO()
    objective(log_densities(vae.model, vae.guide, torch.rand(4, 1, 2, 2).round()))
    assert objective.kl_by_site == {"z": "analytic"}
