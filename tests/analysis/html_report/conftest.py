"""A stored run with a small diagnosis, a reader of pages, a browser, and records of all charts."""

import base64
import hashlib
import json
import os
import runpy
import shlex
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from analysis.html_report.charts import comparison_charts, run_charts
from analysis.stored_diagnosis import SECTION_NAMES
from pyro_vae.configuration.parser import parse

ROOT = Path(__file__).parents[3]
SNAPSHOT = ROOT / "tests" / "snapshot" / "run"
# One white pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAG7buVgAAAABJRU5ErkJggg=="
)
VOID = {"meta", "link", "img", "br", "hr", "input"}


@dataclass
class Element:
    """An element with the text below it."""

    tag: str
    attributes: dict[str, str | None]
    parents: list[str] = field(default_factory=list)
    text: str = ""


class Page(HTMLParser):
    """The elements of a page in their order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        found = Element(tag, dict(attrs), [each.tag for each in self._open])
        self.elements.append(found)
        if tag not in VOID:
            self._open.append(found)

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        for each in self._open:
            each.text += data

    def all(self, *tags: str) -> list[Element]:
        return [each for each in self.elements if each.tag in tags]

    def by_id(self, name: str) -> Element:
        (found,) = (each for each in self.elements if each.attributes.get("id") == name)
        return found

    @property
    def ids(self) -> list[str]:
        return [each.attributes["id"] for each in self.elements if "id" in each.attributes]

    @property
    def text(self) -> str:
        return " ".join(self.elements[0].text.split())


@pytest.fixture
def read():
    """Parse a page."""
    return Page


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of an earlier version, without figures and without a diagnosis."""
    return Path(shutil.copytree(SNAPSHOT, tmp_path / "run"))


@pytest.fixture
def write(run):
    """Write a JSON file of the run."""

    def write(name: str, record: dict) -> None:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))

    return write


@pytest.fixture
def diagnosed(run, write):
    """The run with figures and the section `elbo` of a diagnosis."""
    (run / "figures").mkdir()
    for name in ("learning_curves", "latent_space", "data", "clusters"):
        (run / "figures" / f"{name}.png").write_bytes(PNG)
    checkpoint = hashlib.sha256((run / "checkpoint.pt").read_bytes()).hexdigest()
    reading = "The rate is 0.37 nats; see `python scripts/evaluate.py RUN --methods gaps`."
    record = {
        "terms": {"n": 360, "elbo": -40.83, "elbo_se": 0.1, "rate": 0.37, "reading": reading},
        "decomposition": {"left_out": "there is <one> training example."},
        "reading": reading,
        "figures": {"terms": "What is the ELBO made of?"},
        "numbers": {"ELBO": "-40.83 nats per image"},
        "of": {"checkpoint_sha256": checkpoint},
        "stale": None,
    }
    assert "elbo" in SECTION_NAMES
    write(
        "diagnosis/diagnosis.json",
        {"split": "test", "n": 360, "num_samples": 50, "seed": 3, "elbo": record},
    )
    (run / "diagnosis" / "elbo_terms.png").write_bytes(PNG)
    return run


@pytest.fixture
def parsed():
    """Parse a command as its script does."""

    def parsed(command: str) -> Any:
        python, script, *words = shlex.split(command)
        assert python == "python"
        if script == "scripts/svi_train.py":
            return parse(words)
        return runpy.run_path(str(ROOT / script))["parser"]().parse_args(words)

    return parsed


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, or the browser that the variable CHROMIUM names."""
    reason = "playwright is not installed"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        problem = "no chromium: apt-get install chromium, or set CHROMIUM to a browser"
        # A gate that skips these tests would pass without them.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


# ---- charts -------------------------------------------------------------------------------------

_HISTORY = [
    {
        "epoch": epoch,
        "elbo": -100 / epoch,
        "reconstruction": -100 / epoch + 1,
        "kl": 1.0,
        "validation_elbo": -110 / epoch,
        "validation_reconstruction": -110 / epoch + 1,
        "validation_kl": 1.0,
    }
    for epoch in range(1, 31)
]
_METRICS = {"split": "test", "kl": 2.0, "reconstruction": -90.0, "elbo": -92.0}
_P_VALUES = {"ink": 0.001, "holes": 0.02, "rate": 0.4, "elbo": None}


def _tree(n=40, labels=None, latent=3):
    """What `from_svi` stores, as far as charts read it."""
    rng = np.random.default_rng(0)
    names = ("elbo", "reconstruction", "kl", "log_evidence", "ess", "khat")
    group = xarray.Dataset(
        {name: ("image", rng.normal(size=n), {"num_draws": 100}) for name in names}
        | {
            "z_mean": (("image", "latent_dim"), rng.normal(size=(n, latent)) * np.arange(latent)),
            "label": (("image",), np.arange(n) % 3 if labels is None else labels),
        },
        coords={"image": 7 + np.arange(n)},
    )
    return xarray.DataTree.from_dict({"/per_datum": group})


def _diagnosis(**options):
    by_dimension = {
        "mutual_information": [0.1, 2.0],
        "marginal_kl": [0.0, 0.5],
        "rate": [0.1, 2.5],
    }
    checks = {"comparisons": {"ink": {"label": "ink </script><script>alert(1)</script>"}}}
    return {
        "predictive": {"p_values": _P_VALUES, "checks": checks, **options},
        "elbo": {"decomposition": {"by_dimension": by_dimension}},
    }


@pytest.fixture(scope="session")
def every_chart():
    """Charts of one run and of several, by name."""
    log_evidence = {"a": np.arange(5.0), "b": np.arange(5.0) - 1, "c": np.zeros(5)}
    points = [
        {
            "name": name,
            "rate": 1.0 + i,
            "distortion": 20.0 - i,
            "rate_se": 0.1,
            "distortion_se": 0.2,
        }
        for i, name in enumerate("abc")
    ]
    several = comparison_charts(log_evidence, points)
    return run_charts(_HISTORY, _METRICS, _diagnosis(), _tree()) | {
        f"several_{k}": v for k, v in several.items()
    }


@pytest.fixture
def history():
    return [*_HISTORY]


@pytest.fixture
def metrics():
    return _METRICS


@pytest.fixture
def p_values():
    return _P_VALUES


@pytest.fixture
def tree():
    return _tree


@pytest.fixture
def diagnosis():
    return _diagnosis
