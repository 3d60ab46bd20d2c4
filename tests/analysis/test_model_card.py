"""The model card: its metadata, its tables, what it advises against, and what it must not tell."""

import hashlib
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

from analysis.html_report.findings import BELOW, UNTRAINED, Finding
from analysis.html_report.rules import RULES, TRAINING
from analysis.html_report.unsuited_uses import unsuited
from analysis.markdown import code_span, escape, item, table
from analysis.model_card import model_card
from pyro_vae.runs import RunDirectory, load

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "tests" / "snapshot" / "run"
HOSTILE = ("price | €", "<img src=x onerror=alert(1)>", "![x](http://evil.example)", "a*b*_c_`d`")
CLASSES = ("cat|dog", "# title", "www.evil.example")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A run on a table in a private folder, whose names are Markdown and HTML."""
    folder = tmp_path_factory.mktemp("private") / "ann smith"
    folder.mkdir()
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(90, 4)), columns=pd.Index(HOSTILE))
    frame["kind"] = np.array(CLASSES)[np.arange(90) % 3]
    frame.to_csv(folder / "my <i>table.csv", index=False)
    main = runpy.run_path(str(ROOT / "scripts" / "svi_train.py"))["main"]
    short = ["--max-steps", "2", "--network.hidden", "[8]", "--evaluate", "none"]
    data = ["--data", str(folder / "my <i>table.csv"), "--data.label", "kind"]
    assert main(["--out", str(folder / "run"), *short, *data]) == 0
    return folder / "run"


def card_of(path: Path, **options) -> str:
    return model_card(RunDirectory(path), load(path), **options)


def front_matter(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def rendered(card: str) -> str:
    """The body as HTML, by the rules of Markdown with tables and links that start by themselves."""
    return MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2])


def test_the_metadata_are_those_of_the_hub(hostile):
    record = front_matter(card_of(SNAPSHOT))
    assert record["license"] == "unknown"
    assert record["library_name"] == "pyro_vae"
    assert {"variational-autoencoder", "prior-gaussian_mixture"} <= {*record["tags"]}
    metrics = json.loads((SNAPSHOT / "metrics.json").read_text())
    (model,) = record["model-index"]
    (result,) = model["results"]
    assert result["dataset"]["name"] == metrics["data"]
    values = {each["type"]: each["value"] for each in result["metrics"]}
    assert values["elbo"] == metrics["elbo"]
    assert values["log_likelihood"] == metrics["log_evidence"]
    assert set(values) == set(record["metrics"])
    # Without an evaluation there is no score.
    assert "model-index" not in front_matter(card_of(hostile))


@pytest.mark.parametrize(
    ("given", "license", "name"),
    [
        ("MIT", "mit", None),
        ("Apache-2.0", "apache-2.0", None),
        ("GPL-3.0-or-later", "gpl-3.0", None),
        ("CC-BY-NC-SA-4.0", "cc-by-nc-sa-4.0", None),
        ("Our Licence, v1", "other", "our-licence-v1"),
    ],
)
def test_a_licence_that_is_given(hostile, given, license, name):
    card = card_of(hostile, license=given)
    record = front_matter(card)
    assert record["license"] == license
    assert record.get("license_name") == name
    assert f"The licence of this model is {given}" in card


def test_an_unknown_licence_is_said_to_be(hostile):
    assert "The licence of this model is unknown" in card_of(hostile)
    for bad in ("", "two\nlines", "x" * 101):
        with pytest.raises(ValueError, match="license must be the name of a licence in one line"):
            card_of(hostile, license=bad)


def test_names_of_the_data_are_text(hostile):
    card = card_of(hostile)
    html = rendered(card)
    assert "<img" not in html
    assert "<i>" not in html
    assert "<a" not in html
    assert "<em>" not in html
    # Each is there as it was written.
    for name in (*HOSTILE, *CLASSES):
        assert escape(name) in card
        assert name.replace("<", "&lt;").replace(">", "&gt;") in html
    # All sections are there, and none more.
    assert html.count("<h2>") == 8
    assert html.count("<h1>") == 1


def test_no_folder_is_told(hostile, tmp_path):
    run = shutil.copytree(hostile, tmp_path / "run")
    metrics = {
        **json.loads((SNAPSHOT / "metrics.json").read_text()),
        "verdicts": [f"diverging: see {run}/log and /srv/x/y.npy: python scripts/x.py {run}-2"],
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "evaluation").mkdir()
    for card in (card_of(run), card_of(hostile)):
        for secret in ("ann smith", "private", "pytest", "/tmp", "/srv", str(Path.home())):
            assert secret not in card
    assert "my &lt;i&gt;table.csv" in card


def test_scores_have_their_errors_and_are_of_this_checkpoint(hostile, tmp_path):
    run = shutil.copytree(hostile, tmp_path / "run")
    digest = hashlib.sha256((run / "checkpoint.pt").read_bytes()).hexdigest()
    record = {"method": "annealing", "checkpoint_sha256": digest, "n": 5, "data": "my | table"}
    record |= {"split": "test", "log_evidence": -12.345, "log_evidence_se": 0.21}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "annealing.json").write_text(json.dumps(record))
    assert "| log p(x), annealing | -12.35 | ± 0.21 (standard error) | nats per row |" in card_of(
        run
    )
    record["checkpoint_sha256"] = "other"
    (run / "evaluation" / "annealing.json").write_text(json.dumps(record))
    (run / "evaluation" / "gaps.json").write_text("{")
    assert "annealing" not in card_of(run).split("## Scores")[1].split("## Limits")[0]


def test_every_fault_forbids_a_use():
    titles = [UNTRAINED, "Training was short", BELOW, "The model may copy its training data"]
    titles += ["log p(x) needs more draws", "The prior may have holes"]
    titles += [title for title, _, _ in TRAINING.values()]
    titles += ["The guide is too narrow", "The guide misses dependences"]
    titles += [rule.fault for rule in RULES.values() if isinstance(rule.fault, str)]
    for title in titles:
        finding = Finding("bad", title, "", "", "", None, None)
        assert unsuited(finding), title
        assert unsuited(Finding("good", title, "", "", "", None, None)) is None


def test_the_card_of_an_untrained_model_advises_against_it(hostile, tmp_path):
    run = shutil.copytree(hostile, tmp_path / "run")
    metrics = json.loads((SNAPSHOT / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**metrics, "steps": 2, "kl": 0.001}))
    card = card_of(run)
    section = card.split("It should not be used for:")[1].split("###")[0]
    assert "a representation: its codes say little about the data" in section
    assert "any purpose but a trial" in section


def test_exported_files_are_explained_if_they_are_there(hostile):
    assert "onnxruntime" not in card_of(hostile)
    card = card_of(hostile, files=("encoder.onnx", "model.safetensors"))
    assert 'InferenceSession("encoder.onnx")' in card
    assert "load_safetensors" in card
    assert "onnx" in front_matter(card)["tags"]


@pytest.mark.parametrize(
    "text", ["- x", "1. x", "1) x", "+ x", "=== x", "# x", "> x", "a\n\n# b", "| x", "`x", "~~~"]
)
def test_an_item_is_one_item(text):
    html = MarkdownIt("commonmark").render(item(text))
    assert html.count("<li>") == 1
    assert "<h1>" not in html
    assert "<blockquote>" not in html
    assert "<code>" not in html


def test_code_and_tables_cannot_be_left():
    assert MarkdownIt().render(code_span("a`b``c")).strip() == "<p><code>a`b``c</code></p>"
    html = MarkdownIt("commonmark").enable("table").render(table(("a|b",), [["c|d\n|e|"]]))
    assert html.count("<td>") == html.count("<th>") == 1
