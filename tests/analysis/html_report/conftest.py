"""A stored run with a small diagnosis, and a reader of pages."""

import base64
import hashlib
import json
import runpy
import shlex
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

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
