"""Data that LOO cannot take: `from_svi` names them, and what it says to do helps."""

import logging

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.inference_data import from_svi, write_netcdf

pytestmark = pytest.mark.arviz

N = 20
SINGULAR = torch.arange(N) == 7


def guide(*_arguments):
    pyro.sample("mu", dist.Normal(0.2, 0.3))


def constant(x):
    """Datum 7 does not depend on mu."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        loc = torch.where(SINGULAR, torch.zeros(()), mu)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


class Bounded(dist.Normal):
    """A normal's log density, but -inf below loc - 2.5."""

    def log_prob(self, value):
        return torch.where(value < self.loc - 2.5, -torch.inf, super().log_prob(value))


def ruled_out(x):
    """About half of the draws give datum 7 the density 0."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", Bounded(mu, 1.0), obs=torch.where(SINGULAR, -2.3, x.clamp(-1, 1)))


def tied(x):
    """Two values of mu, one of them at more draws than a tail has."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        loc = torch.where(SINGULAR, (mu > 0.2).float(), mu)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (constant, "is the same at every draw"),
        (tied, "is the same at its 40 lowest draws"),
        (ruled_out, "is not finite at some draws"),
    ],
)
def test_the_datum_is_named_and_the_way_out_helps(tmp_path, caplog, model, words):
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        tree = from_svi(model, guide, torch.randn(N), num_draws=200, seed=0)
    for notes in (tree.attrs["notes"], tree["log_likelihood"].attrs["notes"], caplog.text):
        assert f"log p(x | z) in row 7 of 'data' {words}" in notes
    write_netcdf(tree, tmp_path / "a.nc")
    if model is not ruled_out:
        with pytest.raises(ValueError, match="All tail values are the same"):
            arviz_stats.loo(tree)
    # What the note says.
    exec(
        tree.attrs["notes"].partition("leave such data out: ")[2].removesuffix("."), {"tree": tree}
    )
    assert np.isfinite(arviz_stats.loo(tree).elpd)


def test_data_that_loo_takes_have_no_notes():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    tree = from_svi(model, guide, torch.randn(N), num_draws=200, seed=0)
    assert "notes" not in tree.attrs
    assert "notes" not in tree["log_likelihood"].attrs
