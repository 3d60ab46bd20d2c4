"""The code of README and CONTRIBUTING runs, and the table of parts is that of the dictionaries."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml

import pyro_vae
from pyro_vae.configuration.components import FAMILIES
from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO

README = Path(__file__).parents[1] / "README.md"


def test_the_lines_that_train_and_sample():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (program,) = blocks
    scope: dict = {}
    exec(compile(program.replace("epochs=20", "epochs=1"), str(README), "exec"), scope)
    assert scope["images"].shape == (16, 1, 8, 8)


def test_the_table_of_parts():
    """`python scripts/parts.py --write docs/reference/parts.md` was run after the last change of a part."""
    parts = SimpleNamespace(**runpy.run_path(str(README.parent / "scripts" / "parts.py")))
    page = README.parent / "docs" / "reference" / "parts.md"
    assert parts.tables() in page.read_text()
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


def test_the_version_is_the_same_everywhere():
    root = README.parent
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["version"] == pyro_vae.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    newest, *_ = re.findall(r"^## (.*)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert re.fullmatch(
        rf"{re.escape(pyro_vae.__version__)} (\(unreleased\)|- \d{{4}}-\d\d-\d\d)", newest
    )
    wheels = re.findall(r"pyro_vae-(.*?)-py3-none-any\.whl", README.read_text())
    assert wheels == [pyro_vae.__version__]
