"""The VAE as a Pyro program: plain Pyro keeps working on it."""

import inspect
import subprocess
import sys
from functools import partial

import pyro
import pytest
import torch
from jaxtyping import TypeCheckError
from pyro import poutine
from pyro.infer import Predictive

from pyro_vae import VAE, build, fit, likelihoods, networks, posteriors, priors
from pyro_vae.data import digits

EVENT_SHAPE = (1, 3, 3)


@pytest.fixture
def x():
    return torch.rand(6, *EVENT_SHAPE).round()


@pytest.mark.parametrize(("rows", "width"), [(None, 400), (1000, 400), (999, 100)])
def test_few_rows_get_a_small_network(rows, width):
    vae = build((1, 4, 4), 2, train_size=rows)
    assert {p.shape[0] for p in vae.likelihood.decoder.parameters()} == {width, 16}


def test_traces_read_as_the_mathematics(x):
    vae = build(EVENT_SHAPE, 4)
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x)
    assert guide.nodes["z"]["value"].shape == (6, 4)
    assert model.nodes["z"]["value"] is guide.nodes["z"]["value"]
    assert model.nodes["x"]["is_observed"]
    assert model.nodes["x"]["value"] is x


@pytest.mark.parametrize(
    ("prior", "posterior", "message"),
    [
        (priors.StandardNormal(3), posteriors.DiagonalNormal, "same latent_dim: .*has 3.*has 4"),
        (
            priors.StandardNormal(4),
            None,
            "same support: .*has real.*has simplex.*On real, posteriors are diagonal_normal",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(prior, posterior, message):
    class OnTheSimplex(posteriors.DiagonalNormal):
        support = "simplex"

    posterior = (posterior or OnTheSimplex)(4, partial(networks.MLP, EVENT_SHAPE))
    likelihood = likelihoods.Bernoulli(EVENT_SHAPE, partial(networks.MLP, (4,)))
    with pytest.raises(ValueError, match=message):
        VAE(prior, likelihood, posterior)


def test_a_wrong_shape_raises(x):
    """jaxtyping's hook is on: shapes in signatures are checked while tests run."""
    vae = build(EVENT_SHAPE, 4)
    with pytest.raises(TypeCheckError):
        vae.embed(torch.tensor(1.0))


def test_an_unused_option_is_a_type_error():
    with pytest.raises(TypeError, match="components"):
        build(EVENT_SHAPE, prior=partial(priors.StandardNormal, components=3))


def test_build_hands_what_is_asked_for():
    asked = {}

    class Curious(priors.StandardNormal):
        def __init__(
            self, latent_dim, event_shape, encoder, decoder, posterior, train_data, train_size
        ):
            super().__init__(latent_dim)
            asked.update(event_shape=event_shape, train_size=train_size, train_data=train_data)
            assert encoder((2,))(torch.zeros(EVENT_SHAPE)).shape == (2,)
            assert decoder((5,))(torch.zeros(latent_dim)).shape == (5,)
            assert posterior.latent_dim == latent_dim

    data = torch.zeros(3, *EVENT_SHAPE)
    build(EVENT_SHAPE, 4, prior=Curious, train_data=data, train_size=100)
    assert asked == {"event_shape": EVENT_SHAPE, "train_size": 100, "train_data": data}


def test_an_encoder_of_counts_reads_logarithms():
    vae = build((3,), 2, likelihood=likelihoods.Poisson)
    x = torch.tensor([[0.0, 7.0, 1000.0]])
    torch.testing.assert_close(vae.posterior.encoder(x), vae.posterior.encoder.network(x.log1p()))
    assert vae.posterior.encoder(-x).isfinite().all()


def test_an_encoder_of_integers_reads_the_unit_interval():
    class Levels(likelihoods.Poisson):
        support = "integers"

    vae = build((3,), 2, likelihood=Levels, levels=11)
    x = torch.tensor([[0, 5, 10]])
    network = vae.posterior.encoder.network
    torch.testing.assert_close(vae.posterior.encoder(x), network(torch.tensor([[0, 0.5, 1]])))
    with pytest.raises(ValueError, match=r"levels .*got None"):
        build((3,), 2, likelihood=Levels)


def test_prior_predictive(x):
    vae = build(EVENT_SHAPE, 4)
    new = Predictive(poutine.uncondition(vae.model), num_samples=5)(x)["x"]
    assert new.shape == (5, *x.shape)
    assert set(new.unique().tolist()) <= {0.0, 1.0}
    parallel = Predictive(poutine.uncondition(vae.model), num_samples=5, parallel=True)(x)["x"]
    assert parallel.shape == (5, *x.shape)


def test_render_model(x):
    vae = build(EVENT_SHAPE, 4)
    graph = pyro.render_model(vae.model, model_args=(x,), render_distributions=True)
    assert "z -> x" in graph.source
    assert "data" in graph.source


def test_two_vaes_trained_one_after_the_other_both_learn():
    """Pyro's global parameter store would leave the second one as it was."""
    for _ in range(2):
        vae = build(digits().event_shape, 4)
        before = [p.clone() for p in vae.parameters()]
        history = fit(vae, digits(), epochs=4)
        assert history[-1]["elbo"] > history[0]["elbo"] + 2
        assert all((p != q).any() for p, q in zip(vae.parameters(), before, strict=True))
        assert not pyro.get_param_store()


@pytest.mark.slow
def test_pyro_svi_trains_it_in_a_fresh_process():
    program = """
import pyro, torch
from pyro.infer import SVI, Trace_ELBO
from pyro_vae import build
pyro.set_rng_seed(0)
x = (torch.rand(64, 1, 4, 4) < torch.linspace(0.05, 0.95, 16).view(4, 4)).float()
vae = build((1, 4, 4), 2)
svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
losses = [svi.step(x) for _ in range(200)]
print(sum(losses[:20]), sum(losses[-20:]))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, last = map(float, answer.stdout.split())
    assert last < 0.9 * first


def test_the_signature_of_build_holds_the_defaults():
    defaults = {name: p.default for name, p in inspect.signature(build).parameters.items()}
    assert defaults["prior"] is priors.StandardNormal
    assert defaults["latent_dim"] == 8
