"""Every part of a model trains through the main program, and comes back from its run directory."""

from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from scipy import sparse

from pyro_vae import load
from pyro_vae.data import digits
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.log_densities import log_densities
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.posteriors import POSTERIORS, WITH_DENSITY
from pyro_vae.priors import PRIORS
from pyro_vae.training.fit import prepare_for_likelihood

FAMILIES = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "posterior": POSTERIORS,
    "network": NETWORKS,
    "objective": OBJECTIVES,
}
PARTS = [(family, name) for family, parts in FAMILIES.items() for name in parts]


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("counts") / "counts.npz"
    values = np.random.default_rng(0).poisson(2.0, (60, 9))
    sparse.save_npz(path, sparse.csr_array(values))
    return path


def partner(family: str, name: str) -> list[str]:
    """A posterior for a prior, or a prior for a posterior."""
    other = {"prior": "posterior", "posterior": "prior"}.get(family)
    if other is None:
        return []
    support = FAMILIES[family][name].support
    fitting = next(n for n, part in FAMILIES[other].items() if part.support == support)
    return [f"--{other}", fitting]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), PARTS)
def test_it_trains_and_comes_back(script, counts, tmp_path, family, name):
    out = tmp_path / "run"
    of_counts = family == "likelihood" and LIKELIHOODS[name].support == "counts"
    arguments = [
        *("--data", str(counts) if of_counts else "digits", "--out", str(out)),
        *("--max-steps", "2", "--latent-dim", "4", "--evaluate", "none"),
        *(f"--{family}", name, *partner(family, name)),
        *([] if family == "network" else ["--network.hidden", "[8]"]),
    ]
    has_density = family != "posterior" or name in WITH_DENSITY
    arguments += [] if has_density else ["--objective", "reconstruction"]
    assert script("svi_train", *arguments) == 0
    first, second = load(out), load(out)
    data = prepare_for_likelihood(digits(), first.likelihood) if not of_counts else None
    x = torch.ones(3, 9) if data is None else data.fixed("test")[:3].float()
    values = []
    for vae in (first, second):
        pyro.set_rng_seed(1)
        terms = log_densities(vae.model, vae.guide, x)
        values.append(terms.log_weight if has_density else terms.log_likelihood)
    assert values[0].isfinite().all()
    torch.testing.assert_close(*values, rtol=0, atol=0)
