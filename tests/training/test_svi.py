"""`CompiledSVI` is Pyro's `SVI`, for any program."""

import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.training import CompiledSVI
from pyro_vae.training.svi import negative_elbo


@pytest.fixture(autouse=True)
def _without_compiler(set_compiler):
    set_compiler()


def regression(x, y):
    """Bayesian linear regression, with the weights outside of any plate."""
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(x @ weights, noise), obs=y)


def by_hand(x, y):
    """A guide with parameters of its own, one of them constrained."""
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", 0.1 * torch.ones(3), constraint=dist.constraints.positive)
    pyro.sample("weights", dist.Normal(loc, scale).to_event(1))
    pyro.sample("noise", dist.LogNormal(pyro.param("log_noise", torch.tensor(0.0)), 0.1))


def observations():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(50, generator=generator)


@pytest.mark.parametrize("auto", [False, True], ids=["by hand", "autoguide"])
def test_svi_of_any_program_is_pyros(auto):
    """The same parameters as Pyro's own SVI with Adam, under the same noise."""
    x, y = observations()

    def guide_of():
        return pyro.infer.autoguide.AutoNormal(regression) if auto else by_hand

    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    svi = CompiledSVI(regression, guide_of(), lr=0.05)
    svi.prepare(x, y)
    torch.manual_seed(7)
    mine = [float(svi.step(x, y)) for _ in range(30)]
    mine_found = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    assert svi.compiled

    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    guide = guide_of()
    theirs = pyro.infer.SVI(
        regression, guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO()
    )
    theirs.loss(regression, guide, x, y)
    torch.manual_seed(7)
    expected = [theirs.step(x, y) for _ in range(30)]
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(expected), rtol=1e-4, atol=1e-3)
    for name, value in pyro.get_param_store().items():
        torch.testing.assert_close(mine_found[name], value.detach(), rtol=1e-3, atol=1e-4)


def test_constants_and_layouts_have_graphs_of_their_own(caplog):
    """1 and True are equal, and a transposed matrix has a square one's shape."""

    def model(x, scale):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).expand([4]).to_event(1), obs=x)

    svi = CompiledSVI(model, pyro.infer.autoguide.AutoNormal(model))
    x = torch.randn(4, 4)
    for arguments in ((x, 1), (x, True), (x.t(), 1)):
        for _ in range(3):
            assert svi.step(*arguments).isfinite()
    graphs = svi._step.compiled.runners
    assert len(graphs) == 3
    # What can be no constant of a graph, and what never is the same, runs as it is.
    for scale in (np.ones(2), *range(20, 40)):
        assert svi.step(x, scale).isfinite()
    assert len(graphs) == 8
    (message,) = (
        record.message
        for record in caplog.records
        if record.name.startswith("pyro_vae") and record.levelno >= logging.WARNING
    )
    assert "some calls run eagerly" in message


def test_svi_refuses_sites_that_are_not_reparameterisable():
    def model(x):
        k = pyro.sample("k", dist.Poisson(3.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        pyro.sample("k", dist.Poisson(pyro.param("rate", torch.tensor(2.0))))

    with pytest.raises(ValueError, match="site 'k' is a Poisson without rsample"):
        CompiledSVI(model, guide).step(torch.zeros(4))


def test_svi_without_parameters_is_refused():
    def guide(x, y):
        pyro.sample("weights", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("noise", dist.LogNormal(0.0, 1.0))

    with pytest.raises(ValueError, match="no parameter with a gradient"):
        CompiledSVI(regression, guide).step(*observations())


def test_negative_elbo_is_pyros():
    x, y = observations()
    torch.manual_seed(3)
    mine = negative_elbo(regression, by_hand, x, y).detach()
    torch.manual_seed(3)
    assert float(mine) == pytest.approx(pyro.infer.Trace_ELBO().loss(regression, by_hand, x, y))
