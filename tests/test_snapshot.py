"""Runs, checkpoints, options and recorded keys of commit 76392df stay as they are.

`snapshot/run` is a run directory that this commit made, and the JSON files beside it hold what it recorded:
`python tests/test_snapshot.py` prints the same of today's code.
"""

import inspect
import json
import runpy
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_vae import build, likelihoods, load, networks, posteriors, priors
from pyro_vae.data import DATASETS
from pyro_vae.objectives import OBJECTIVES

HERE = Path(__file__).parent / "snapshot"
SCRIPTS = Path(__file__).parents[1] / "scripts"
GIVEN = {
    "event_shape",
    "latent_dim",
    "encoder",
    "decoder",
    "posterior",
    "train_data",
    "train_size",
    "levels",
    "units",
    "data_support",
    "self",
}
FAMILIES = {
    "prior": priors.PRIORS,
    "likelihood": likelihoods.LIKELIHOODS,
    "posterior": posteriors.POSTERIORS,
    "network": networks.NETWORKS,
    "objective": OBJECTIVES,
    "data": DATASETS,
}


def stored(name: str) -> Any:
    """What the commit recorded."""
    return json.loads((HERE / name).read_text())


def options(part: Any) -> dict[str, str]:
    """The options of a part with their defaults."""
    handed = part.keywords if isinstance(part, partial) else {}
    part = part.func if isinstance(part, partial) else part
    return {
        name: repr(handed.get(name, parameter.default))
        for name, parameter in inspect.signature(part).parameters.items()
        if name not in GIVEN and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def parameters(family: str, name: str) -> dict[str, list[int]]:
    """Names and shapes of a VAE's parameters and buffers with this part."""
    part = FAMILIES[family][name]
    chosen: dict[str, Any] = {family: name}
    if family == "prior":
        chosen["posterior"] = partner(posteriors.POSTERIORS, part.support)
    elif family == "posterior":
        chosen["prior"] = partner(priors.PRIORS, part.support)
    x = torch.arange(4 * 784.0).reshape(4, 1, 28, 28) % 7 / 7
    if getattr(part, "support", None) in {"integers", "counts"}:
        x = (x * 7).round()
    vae = build((1, 28, 28), 4, levels=8, train_data=x, train_size=4, **chosen)
    return {key: list(value.shape) for key, value in vae.state_dict().items()}


def partner(parts: Any, support: str) -> str:
    """The first part of a support."""
    return next(name for name, part in parts.items() if part.support == support)


def keys(value: Any) -> Any:
    """The keys of nested records; of a list, those of its first element."""
    if isinstance(value, dict):
        return {name: keys(item) for name, item in value.items()}
    return keys(value[0]) if isinstance(value, list) and value else None


def missing(then: Any, now: Any, place: str = "") -> list[str]:
    """Keys that were there and are not."""
    if not isinstance(then, dict):
        return []
    if not isinstance(now, dict):
        return [place]
    now = keys(now)
    return [
        found
        for name, item in then.items()
        for found in (
            missing(item, now[name], f"{place}/{name}") if name in now else [f"{place}/{name}"]
        )
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return shutil.copytree(HERE / "run", tmp_path_factory.mktemp("snapshot") / "run")


def program(name: str, *arguments: str | Path) -> int:
    """Run a script in this process."""
    return runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"]([*map(str, arguments)])


def records(folder: Path) -> dict[str, Any]:
    """All JSON files of a folder."""
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_keep_their_options(family):
    assert missing(stored("options.json")[family], every_option()[family]) == []
    for name, part in stored("options.json")[family].items():
        assert options(FAMILIES[family][name]).items() >= part.items(), name


@pytest.mark.parametrize("family", ["prior", "likelihood", "posterior", "network"])
def test_parts_keep_the_names_of_their_parameters(family):
    for name, then in stored("parameters.json")[family].items():
        assert parameters(family, name) == then, name


def test_a_run_of_that_commit_loads_and_is_evaluated_as_then(run):
    vae = load(run)
    assert vae.prior.latent_dim == 3
    few = ["--images", "20", "--samples", "50"]
    assert program("evaluate", run, *few, "--methods", "importance_weighting") == 0
    now = json.loads((run / "evaluation" / "importance_weighting.json").read_text())
    then = stored("evaluation.json")["importance_weighting.json"]
    assert missing(then, now) == []
    for name in (
        "log_evidence",
        "log_evidence_se",
        "elbo",
        "kl",
        "ess_median",
        "khat_share_above",
    ):
        assert now[name] == pytest.approx(then[name], rel=1e-4), name


def test_a_run_keeps_the_keys_of_its_metrics(tmp_path):
    quick = [
        "--data",
        "digits",
        "--network.hidden",
        "[8]",
        "--latent-dim",
        "2",
        "--max-steps",
        "3",
    ]
    assert program("svi_train", *quick, "--out", tmp_path / "run") == 0
    assert (
        missing(
            stored("metrics.json"), json.loads((tmp_path / "run" / "metrics.json").read_text())
        )
        == []
    )


@pytest.mark.slow
def test_evaluations_keep_their_keys(run):
    arguments = "--methods importance_weighting annealing two_sided gaps --images 20 --samples 50 --annealed-images 6 --simulated 6"
    cheap = "--chains 2 --temperatures 10 --leapfrog-steps 2 --gap-steps 5"
    assert program("evaluate", run, *arguments.split(), *cheap.split()) == 0
    now = records(run / "evaluation")
    for name, then in stored("evaluation.json").items():
        assert missing(then, now[name]) == [], name


@pytest.mark.slow
def test_a_diagnosis_keeps_its_keys_and_figures(run):
    sections = ["predictive", "calibration", "pit", "elbo", "guide", "representation"]
    assert program("diagnose", run, "--images", "200", "--samples", "50", "--only", *sections) == 0
    now = json.loads((run / "diagnosis" / "diagnosis.json").read_text())
    assert missing(stored("diagnosis.json"), now) == []


@pytest.mark.slow
def test_codes_keep_their_arrays(run):
    import numpy as np

    assert program("encode", run, "--overwrite") == 0
    with np.load(run / "codes.npz") as codes:
        assert {name: list(codes[name].shape) for name in codes} == stored("codes.json")


def every_option() -> dict[str, Any]:
    """The options of all parts."""
    return {
        family: {name: options(part) for name, part in parts.items()}
        for family, parts in FAMILIES.items()
    }


def every_parameter() -> dict[str, Any]:
    """The parameters of all parts."""
    families = ("prior", "likelihood", "posterior", "network")
    return {
        family: {name: parameters(family, name) for name in FAMILIES[family]}
        for family in families
    }


if __name__ == "__main__":
    json.dump({"options": every_option(), "parameters": every_parameter()}, sys.stdout, indent=1)
