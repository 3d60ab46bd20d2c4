"""Runs of an older version are read, with its numbers; those of a newer one are refused in one line.

`written_by_0_1_0` was made by version 0.1.0 (commit eb1f034): `python scripts/svi_train.py --latent-dim 2
--network.hidden '[16]' --max-steps 60 --evaluate none --out written_by_0_1_0`. Its code computed the numbers below.
"""

import csv
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
import yaml

import pyro_vae
from pyro_vae import load
from pyro_vae.data import PreparedData, digits
from pyro_vae.evidence import evaluate
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.version import check_version

STORED = Path(__file__).with_name("written_by_0_1_0")
SCRIPTS = Path(__file__).parents[2] / "scripts"
CODES = [[0.374912918, -0.126278386], [0.227895439, -0.168946326], [0.222315252, -0.092710838]]
# Of `encode.py`, which binarises otherwise.
ENCODED = [[0.130896300, -0.148670763], [0.330856383, -0.068128631], [0.281800270, -0.080357805]]
SCORES = {"elbo": -39.9000927, "reconstruction": -39.6363479, "log_evidence": -38.7795646}
RESUMED = {"step": 80, "elbo": -38.7349242, "validation_elbo": -37.3460330}


@pytest.fixture
def older(tmp_path):
    return Path(shutil.copytree(STORED, tmp_path / "run"))


def run_script(name, *words):
    return runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]([str(word) for word in words])


def test_the_stored_run_is_small_and_has_no_version():
    assert sum(path.stat().st_size for path in STORED.iterdir()) < 100_000
    assert "version" not in torch.load(STORED / "checkpoint.pt", weights_only=True)
    assert "version" not in yaml.safe_load((STORED / "config.yaml").read_text())


def test_an_older_run_has_its_codes_and_scores(older):
    vae = load(older)
    x = PreparedData(digits(), "binary").fixed("test")[:20]
    np.testing.assert_allclose(vae.embed(x[:3]).detach(), CODES, atol=1e-5)
    pyro.set_rng_seed(0)
    summary = evaluate(vae, x, num_samples=64).summary()
    assert {name: summary[name] for name in SCORES} == pytest.approx(SCORES, abs=1e-3)


def test_an_older_run_is_encoded_and_evaluated(older):
    assert run_script("encode", older, "--split", "test") == 0
    with np.load(older / "codes.npz") as codes:
        np.testing.assert_allclose(codes["codes"][:3], ENCODED, atol=1e-5)
    words = ("--images", "20", "--samples", "100", "--methods", "importance_weighting")
    assert run_script("evaluate", older, *words) == 0
    found = json.loads((older / "evaluation/importance_weighting.json").read_text())
    assert found["log_evidence"] == pytest.approx(-39.0945182, abs=1e-3)


def test_an_older_run_resumes_to_the_same_numbers(older):
    assert run_script("svi_train", "--resume", "--out", older, "--max-steps", "80") == 0
    with (older / "metrics.csv").open(newline="") as file:
        last = [*csv.DictReader(file)][-1]
    assert {name: float(last[name]) for name in RESUMED} == pytest.approx(RESUMED, abs=1e-3)
    assert (
        torch.load(older / "checkpoint.pt", weights_only=True)["version"] == pyro_vae.__version__
    )
    assert yaml.safe_load((older / "config.yaml").read_text())["version"] == pyro_vae.__version__


def write_version(run, version):
    """Let the files of a run say that another version wrote them."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**state, "version": version}, run / "checkpoint.pt")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"version: {json.dumps(version)}\n{text}")


def test_a_newer_run_is_refused_by_version(older, capsys):
    write_version(older, "0.99.1")
    newer = (
        r"was written by pyro_vae 0\.99\.1, which is newer than this one, [\d.]+: upgrade pyro_vae"
    )
    with pytest.raises(ValueError, match=newer):
        load(older)
    with pytest.raises(ValueError, match=rf"checkpoint\.pt {newer}"):
        load_checkpoint(older / "checkpoint.pt")
    for words in (["--resume", "--out", older], ["--config", older / "config.yaml"]):
        assert run_script("svi_train", *words) == 2
        assert "config.yaml was written by pyro_vae 0.99.1" in capsys.readouterr().err
    write_version(
        older := shutil.copytree(STORED, older.with_name("later")), pyro_vae.__version__ + ".post1"
    )
    assert load(older).training_end["steps"] == 60


@pytest.mark.parametrize("version", ["new", 3, [0, 2], "1", "0.2222222222222"])
def test_a_version_must_be_one(version):
    with pytest.raises(ValueError, match=r"the version in FILE must be one such as 0\.2\.0, got"):
        check_version(version, "FILE")


@pytest.mark.parametrize(
    ("version", "own", "newer"),
    [
        ("0.3.0", "0.2.9", True),
        ("0.10.0", "0.9.0", True),
        ("0.2.9", "0.2.0", False),
        ("0.9.0", "1.0.0", False),
        ("1.0.0", "0.9.0", True),
        ("0.2.0.dev1", "0.2.0", False),
    ],
)
def test_versions_are_compared_by_their_first_two_numbers(version, own, newer, monkeypatch):
    monkeypatch.setattr(pyro_vae.version, "__version__", own)
    if newer:
        with pytest.raises(ValueError, match="newer"):
            check_version(version, "FILE")
    else:
        check_version(version, "FILE")
