"""Programs with labels, and model files without parts, in every script."""

import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

from pyro_vae import load
from pyro_vae.evidence import evaluate
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.programs import PROGRAMS

SCRIPT = Path(__file__).parents[2] / "scripts" / "svi_train.py"

FEW = ("--images", 10, "--annealed-images", 2, "--samples", 10, "--simulated", 2)
FEW += ("--chains", 2, "--temperatures", 5)

# p(x | z, y) and q(z | x, y) with class numbers y: log p(x | y) differs from that under other y.
CONDITIONAL = """
import pyro, torch
import pyro.distributions as dist
from pyro.nn import PyroModule, pyro_method
from torch import nn

SUPPORT = "binary"

class Conditional(PyroModule):
    latent_sites, labels, contract = ("z",), "always", None

    def __init__(self, size, latent_dim, classes):
        super().__init__()
        self.classes = classes
        self.encoder = nn.Linear(size + classes, 2 * latent_dim)
        self.decoder = nn.Linear(latent_dim + classes, size)

    def join(self, v, y):
        one_hot = torch.eye(self.classes)[y]
        return torch.cat([v, one_hot.expand(*v.shape[:-1], -1)], -1)

    def decode(self, z, y):
        return self.decoder(self.join(z, y)).sigmoid().unflatten(-1, (1, 8, 8))

    def embed(self, x, y):
        return self.encoder(self.join(x.flatten(1), y)).chunk(2, -1)[0]

    @pyro_method
    def model(self, x, y):
        with pyro.plate("data", len(x)):
            loc = torch.zeros(self.decoder.in_features - self.classes)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(self.decode(z, y)).to_event(3), obs=x)

    @pyro_method
    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            loc, scale = self.encoder(self.join(x.flatten(1), y)).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def build(event_shape, latent_dim=3, *, train_labels=None, bias: float = 0.0):
    program = Conditional(64, latent_dim, int(train_labels.max()) + 1)
    torch.nn.init.constant_(program.decoder.bias, bias)
    return program
"""


@pytest.fixture
def run(script, tmp_path):
    """A trained run of the model file above."""
    file, out = tmp_path / "conditional.py", tmp_path / "run"
    file.write_text(CONDITIONAL)
    main = partial(script, "svi_train", EVIDENCE_SAMPLES=20)
    options = ("--bias", "0.5", "--max-steps", "30", "--batch-size", "100", "--compile", "graph")
    assert main("--model", file, "--out", out, *options) == 0
    return out


def test_a_program_with_labels_trains_resumes_and_is_evaluated(run, script, capsys):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["prior"] is None
    assert metrics["compile"] == "graph"
    assert np.isfinite(metrics["log_evidence"])
    assert (run / "figures" / "reconstructions.png").exists()
    # The sizes of the labels are known without the data.
    program = load(run, trust_model_file=True)
    assert program.classes == 10
    trusted = ("--trust-model-file", "--device", "cpu")
    assert script("svi_train", "--resume", "--out", run, "--max-steps", 40, *trusted) == 0
    assert script("encode", run, "--out", run / "codes.npz", *trusted) == 0
    assert np.load(run / "codes.npz")["codes"].shape == (1797, 3)
    assert (
        script(
            "evaluate",
            run,
            "--methods",
            "importance_weighting",
            "annealing",
            "two_sided",
            *FEW,
            *trusted,
        )
        == 0
    )
    assert script("diagnose", run, *trusted) == 2
    assert "which Conditional does not have: it has p(x | y) only." in capsys.readouterr().err


def test_the_label_of_each_row_is_its_own(run):
    program = load(run, trust_model_file=True)
    with torch.no_grad():
        program.encoder.weight.zero_(), program.encoder.bias.zero_()
        program.decoder.weight[:, :3] = 0  # z has no effect: q = p, and log p(x | y) is exact.
    x, y = torch.bernoulli(torch.full((30, 1, 8, 8), 0.4)), torch.arange(30) % 10
    logits = program.decoder.weight[:, 3:].T[y] + program.decoder.bias
    exact = torch.distributions.Bernoulli(logits=logits).log_prob(x.flatten(1)).sum(1)
    found = evaluate(program, x, y=y, num_samples=5).importance_weighting.log_evidence
    assert found == pytest.approx(exact.detach().numpy(), abs=1e-3)
    with pytest.raises(ValueError, match="Conditional needs labels with its data"):
        evaluate(program, x)
    with pytest.raises(ValueError, match="a row for each of 30 of x, got 3"):
        evaluate(program, x, y=y[:3])


def test_without_labels_it_is_one_line(script, tmp_path, capsys):
    file = tmp_path / "conditional.py"
    file.write_text(CONDITIONAL.replace("int(train_labels.max()) + 1", "10"))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (200, 1, 8, 8)))
    assert script("svi_train", "--model", file, "--data", tmp_path / "x.npy") == 2
    assert "Conditional is trained with labels, and x has none." in capsys.readouterr().err


def test_a_file_without_likelihood_and_support_is_one_line(script, tmp_path, capsys):
    file = tmp_path / "conditional.py"
    file.write_text(CONDITIONAL.replace('SUPPORT = "binary"', ""))
    assert script("svi_train", "--model", file) == 2
    assert "SUPPORT = one of binary" in capsys.readouterr().err


# What each program needs besides its defaults.
NEEDS: dict[str, tuple[object, ...]] = {
    "semi_supervised": ("--labelled", 20),
    "sequence": ("--data", "pendulum"),
    "missing": ("--missing-rate", 0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_trains_resumes_and_is_read_by_every_script(name, script, tmp_path):
    out = tmp_path / "run"
    main = partial(script, "svi_train", EVIDENCE_SAMPLES=20)
    options = ("--network.hidden", "[8]", "--latent-dim", 2, *NEEDS.get(name, ()))
    short = ("--out", out, "--max-steps", 4, "--compile", "graph", "--evaluate", "none")
    assert main("--model", name, *short, *options) == 0
    assert main("--resume", "--out", out, "--max-steps", 6, "--evaluate", "quick") == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["compile"] == "graph"
    assert metrics["log_evidence"] is not None
    assert metrics["latent_dim"] == 2
    with xarray.open_datatree(out / "inference_data.nc") as tree:
        assert {"posterior", "observed_data", "sample_stats"} <= set(tree.children)
    assert load(out).latent_sites
    assert script("encode", out, "--out", tmp_path / "codes.npz") == 0
    assert np.isfinite(np.load(tmp_path / "codes.npz")["codes"]).all()
    methods = ("importance_weighting", "annealing")
    assert script("evaluate", out, "--methods", *methods, *FEW) == 0


# Why a program is refused an objective, by the objective.
ONE_SITE = {
    **dict.fromkeys(("stl", "dreg"), "separates the score of one latent site"),
    **dict.fromkeys(("beta_tc", "factor", "info", "dip"), "needs one latent site, got"),
}
REFUSED = {
    "hierarchical": ONE_SITE,
    "semi_supervised": ONE_SITE,
    "sequence": dict.fromkeys(
        ("beta_tc", "dip"), "in closed form, but site 'z' is a MarkovNormal"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_objective_trains_every_program_or_is_refused(
    name, objective, script, tmp_path, capsys
):
    out = tmp_path / "run"
    options = ("--network.hidden", "[8]", "--latent-dim", 2, *NEEDS.get(name, ()))
    rest = ("--objective", objective, "--out", out, "--max-steps", 2, "--evaluate", "none")
    code = script("svi_train", "--model", name, *options, *rest)
    reason = REFUSED.get(name, {}).get(objective)
    assert code == (0 if reason is None else 2)
    assert (reason or "") in capsys.readouterr().err
    assert out.exists() == (reason is None)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_two_processes_train_a_program_as_one_does(name, tmp_path):
    records = []
    for number in (1, 2):
        out = tmp_path / str(number)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
        done = subprocess.run(
            [
                *(sys.executable, *(launcher if number > 1 else ()), str(SCRIPT)),
                *("--model", name, "--out", str(out), "--max-steps", "3", "--evaluate", "none"),
                *("--network.hidden", "[8]", "--latent-dim", "2", *map(str, NEEDS.get(name, ()))),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        with (out / "metrics.csv").open() as file:
            records.append([*csv.DictReader(file)][-1]["elbo"])
    assert float(records[0]) == pytest.approx(float(records[1]), rel=1e-4)
