"""An autoencoder through the programs: what is not defined for it is said, and never a number."""

import json
from functools import partial

import numpy as np
import pyro
import pytest
import torch

from analysis.check import UNUSED_PRIOR
from analysis.result import UndefinedCheckError
from analysis.sections import SECTIONS
from analysis.subject import Subject
from pyro_vae import fit, load, networks
from pyro_vae.evidence import (
    annealed_importance_sampling,
    evaluate,
    importance_weighting,
    inference_gaps,
    two_sided_check,
)
from pyro_vae.inference_data import from_svi
from pyro_vae.log_densities import NoDensityError
from pyro_vae.model import build
from pyro_vae.mutual_information import mutual_information
from pyro_vae.objectives import Reconstruction
from pyro_vae.posteriors import Point

UNDEFINED = (
    *("elbo", "elbo_se", "elbo_samples", "kl", "kl_se"),
    *("log_evidence", "log_evidence_se", "log_evidence_samples", "khat_share_above"),
)
POINT = ("--posterior", "point")
SMALL = ("--data", "digits", "--network.hidden", "[8]", "--latent-dim", "3", "--max-steps", "2")


@pytest.fixture(scope="module")
def vae():
    pyro.set_rng_seed(0)
    network = partial(networks.MLP, hidden=(8,))
    return build((1, 4, 4), 3, posterior=partial(Point, corruption="masking"), network=network)


def binary(n=12):
    return torch.bernoulli(
        torch.full((n, 1, 4, 4), 0.5), generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.slow
def test_it_trains_and_says_what_is_not_defined(script, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = (*SMALL, *POINT, "--posterior.corruption", "masking", "--out", run)
    assert (
        script("svi_train", *arguments, "--objective", "reconstruction", EVIDENCE_SAMPLES=50) == 0
    )
    metrics = json.loads((run / "metrics.json").read_text())
    assert all(metrics[name] is None for name in (*UNDEFINED, "bits_per_dim"))
    assert metrics["reconstruction"] < 0
    assert (metrics["active_units"], metrics["n"]) == (3, 360) or metrics["active_units"] < 3
    printed = capsys.readouterr().out
    for name in ("log p(x)", "ELBO", "KL", "bits per dimension", "k-hat above threshold"):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"  {name} "))
        assert "not defined" in line
    figures = {path.stem for path in (run / "figures").iterdir()}
    assert "guide_quality" not in figures
    assert {"reconstructions", "prior_samples", "latent_space"} <= figures

    assert script("evaluate", run) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "needs a guide with a density, but site 'z' is a Delta" in said[0]
    assert not (run / "evaluation").exists()
    x = torch.zeros(2, 1, 8, 8)
    assert torch.equal(load(run).embed(x), load(run).posterior(x).mean)


def test_another_objective_is_refused_before_anything_is_made(script, tmp_path, capsys):
    run = tmp_path / "run"
    assert script("svi_train", *SMALL, *POINT, "--objective", "elbo", "--out", run) == 2
    said = capsys.readouterr().err
    assert "ELBO needs a guide with a density, but site 'z' is a Delta" in said
    assert said.endswith("use --objective reconstruction.\n")
    assert not run.exists()


def test_it_is_fitted_in_python():
    vae = build((1, 4, 4), 3, posterior=Point, network=partial(networks.MLP, hidden=(8,)))
    *_, record = fit(vae, binary(60), Reconstruction(), max_steps=2)
    assert record["validation_elbo"] is None
    assert record["validation_reconstruction"] < 0


def test_its_evaluation_is_the_reconstruction(vae):
    x = binary()
    summary = evaluate(vae, x, num_samples=30).summary()
    assert all(summary[name] is None for name in UNDEFINED)
    vae.eval()
    with torch.no_grad():
        expected = vae.likelihood(vae.embed(x)).log_prob(x).mean()
    vae.train()
    assert summary["reconstruction"] == pytest.approx(float(expected), rel=1e-6)
    assert summary["n"] == 12
    with pytest.raises(NoDensityError, match="importance weights need a guide with a density"):
        _ = evaluate(vae, x, num_samples=30).importance_weighting


@pytest.mark.parametrize(
    "ask",
    [
        lambda vae, x: importance_weighting(vae.model, vae.guide, x, num_samples=30),
        lambda vae, x: annealed_importance_sampling(vae, x, num_temperatures=3),
        lambda vae, x: two_sided_check(vae, x, num_data=2, num_temperatures=3),
        lambda vae, x: inference_gaps(vae, x, steps=3, num_samples=30),
        mutual_information,
    ],
)
def test_what_needs_a_density_is_refused(vae, ask):
    with pytest.raises(
        NoDensityError, match="needs a guide with a density, but site 'z' is a Del"
    ):
        ask(vae, binary())


def test_its_tree_has_no_weights(vae):
    tree = from_svi(vae.model, vae.guide, binary(), num_draws=5, num_stored=4)
    assert set(tree["sample_stats"].data_vars) == {"log_p_x_given_z", "log_p_z"}
    assert set(tree["per_datum"].data_vars) == {"reconstruction", "z_mean", "z_sd"}
    assert np.abs(tree["per_datum"]["z_sd"]).max() == 0


def test_its_diagnosis_leaves_out_what_it_does_not_have(vae):
    subject = Subject(vae, binary(), binary(30), "binary", lambda: vae, 30, uses_prior=False)
    for name in ("calibration", "elbo", "guide"):
        with pytest.raises(UndefinedCheckError, match="a guide with a density"):
            SECTIONS[name].run(name, subject)
    pit = SECTIONS["pit"].run("pit", subject)
    assert "elements" in pit.left_out
    assert next(iter(pit.readings.items())) == ("prior", UNUSED_PRIOR)
    assert set(subject.scores) == {"reconstruction", "reconstruction_error"}
