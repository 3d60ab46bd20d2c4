"""Local guides: the optimum that is known, every family, and nothing touched."""

import copy
import logging
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from pyro_vae import networks, posteriors, priors
from pyro_vae.evidence import NoLocalGuideError, importance_weighting, local_guide, refine_guide
from pyro_vae.evidence.local_guide import Table
from pyro_vae.log_densities import log_densities
from pyro_vae.model import VAE, build
from pyro_vae.rng import evaluation_mode

# Each posterior with the first prior of its support.
PAIRS = [
    (name, next(p for p in priors.PRIORS.values() if p.support == posterior.support))
    for name, posterior in posteriors.WITH_DENSITY.items()
]


def binary(n=6):
    """Binary images of 4 x 4, all of them different."""
    bits = (torch.arange(1, n + 1)[:, None] >> torch.arange(16)) & 1
    return bits.float().view(n, 4, 4)


def a_vae(posterior="diagonal_normal", prior=priors.StandardNormal):
    pyro.set_rng_seed(0)
    network = partial(networks.MLP, hidden=(8,))
    chosen = posteriors.POSTERIORS[posterior]
    vae = build((4, 4), 3, prior=prior, posterior=chosen, network=network, train_data=binary())
    log_densities(vae.model, vae.guide, binary())  # Lazy layers are made.
    return vae


def elbo(program, x, seed=1, num_samples=500):
    torch.manual_seed(seed)
    return importance_weighting(program.model, program.guide, x, num_samples=num_samples).curve[0]


class WrongEncoder(nn.Module):
    """The same answer, whatever x: outputs of 0 but for a mean that is `loc`."""

    def __init__(self, shape, loc):
        super().__init__()
        outputs = torch.zeros(shape)
        outputs[..., 0, :] = loc
        self.outputs = nn.Parameter(outputs)

    def forward(self, x):
        return self.outputs.expand(*x.shape[:-1], *self.outputs.shape)


def with_guide(case, posterior, loc=0.3):
    latent_dim = case.vae.posterior.latent_dim
    guide = posterior(latent_dim, lambda shape: WrongEncoder(shape, loc))
    return VAE(case.vae.prior, case.vae.likelihood, guide)


@pytest.mark.parametrize(("name", "prior"), PAIRS)
def test_every_posterior_has_a_local_guide(name, prior):
    # Bytes are converted to floats.
    vae, x = a_vae(name, prior), binary().byte()
    program = refine_guide(vae, x, steps=3)
    result = importance_weighting(program.model, program.guide, x, num_samples=30)
    assert np.isfinite(result.log_evidence).all()
    assert program.latent_sites == ("z",)
    assert program.embed(x.float()).shape == (6, 3)
    # Only what the encoder owned is free: the state of the rest is as it was.
    before, after = vae.eval().posterior.state_dict(), program.posterior.state_dict()
    kept = [key for key in after if ".encoder." not in f".{key}"]
    assert all(torch.equal(after[key], before[key]) for key in kept)
    assert ("coupling" not in name and "autoregressive" not in name) or kept


@pytest.mark.parametrize("name", posteriors.WITH_DENSITY)
def test_the_start_is_the_encoders_answer(name):
    """With steps too short to change anything, the guide is the program's own, draw by draw."""
    prior = dict(PAIRS)[name]
    vae, x = a_vae(name, prior).eval(), binary()
    program = refine_guide(vae, x, steps=1, lr=1e-12)
    np.testing.assert_allclose(elbo(program, x), elbo(vae, x), rtol=1e-5, atol=1e-5)


def test_the_optimum_of_a_full_normal_is_the_posterior(linear_gaussian):
    case = linear_gaussian(n=10)
    program = refine_guide(with_guide(case, posteriors.FullNormal), case.x, steps=250, lr=0.3)
    gap = case.log_evidence - elbo(program, case.x)
    assert gap.mean() == pytest.approx(0, abs=0.02)
    assert gap.max() < 0.1


def test_chunks_of_data_are_independent(linear_gaussian, float64):
    """Each datum finds its own optimum, in whichever chunk, the last one filled up."""
    case = linear_gaussian(n=7)
    vae = with_guide(case, posteriors.DiagonalNormal)
    means = [
        refine_guide(vae, case.x, steps=100, lr=0.3, max_elements=max_elements).embed(case.x)
        for max_elements in (5 * 8 * 3, 10**6)
    ]
    exact = case.vae.posterior.embed(case.x)
    for mean in means:
        torch.testing.assert_close(mean, exact, rtol=0, atol=0.15)


def test_refinement_makes_no_datum_worse():
    """A learning rate that wrecks the parameters is caught, datum by datum."""
    vae, x = a_vae().eval(), binary(20)
    program = refine_guide(vae, x, steps=3, lr=50.0)
    np.testing.assert_allclose(elbo(program, x), elbo(vae, x), rtol=1e-5)
    better = elbo(refine_guide(vae, x, steps=50), x) - elbo(vae, x)
    assert better.mean() > 0.1
    assert better.min() > -0.02


def test_nothing_is_touched():
    vae, x = a_vae("batch_normalised"), binary()
    vae.train()
    vae.likelihood.eval()
    next(vae.likelihood.parameters()).requires_grad_(False)
    before = copy.deepcopy(vae.state_dict())
    modes = [module.training for module in vae.modules()]
    flags = [parameter.requires_grad for parameter in vae.parameters()]
    torch.manual_seed(5)
    stream = torch.get_rng_state()
    program = refine_guide(vae, x, steps=2)
    assert torch.equal(torch.get_rng_state(), stream)
    assert [module.training for module in vae.modules()] == modes
    assert [parameter.requires_grad for parameter in vae.parameters()] == flags
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())
    assert not any(parameter.requires_grad for parameter in program.parameters())
    assert not any(module.training for module in program.modules())
    # They share nothing.
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.fill_(torch.nan)
    assert np.isfinite(elbo(program, x)).all()


def test_a_prior_made_of_the_posterior_keeps_the_encoder():
    vae, x = a_vae(prior=partial(priors.Vamp, components=4)).eval(), binary()
    program = refine_guide(vae, x, steps=20)
    z = torch.randn(9, 3)
    torch.testing.assert_close(program.prior().log_prob(z), vae.prior().log_prob(z))
    assert program.prior._posterior[0] is not program.posterior
    assert vae.prior._posterior[0] is vae.posterior
    # Untrained, the guide is next to the best already: it is not made worse, but for the choice's noise.
    assert (elbo(program, x) - elbo(vae, x)).mean() > -0.05


def test_any_order_and_any_part_of_the_data_and_no_other():
    vae, x = a_vae(), binary(20)
    program = refine_guide(vae, x, steps=20)
    whole = program.embed(x)
    order = torch.tensor([7, 3, 3, 19, 0])
    torch.testing.assert_close(program.embed(x[order]), whole[order], rtol=0, atol=0)
    assert (whole - vae.embed(x)).abs().max() > 0.1
    with pytest.raises(
        ValueError, match="knows only the 20 examples that it was refined for, got 2 others"
    ):
        program.guide(torch.cat([x[:3], x[:2] + 0.01]))


@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_table_knows_its_rows(n):
    """Also of data that are nearly the same, and of repeated ones."""
    x = torch.rand(1, 4, 4) + 1e-5 * torch.rand(n, 4, 4)
    values = torch.randn(n, 2, 3)
    table = Table(x, values)
    order = torch.randperm(n).repeat(2)
    torch.testing.assert_close(table(x[order]), values[order], rtol=0, atol=0)
    torch.testing.assert_close(table(x[order].view(2, n, 4, 4)), values[order].view(2, n, 2, 3))
    with pytest.raises(
        ValueError, match=f"only the {n} examples that it was refined for, got 1 others"
    ):
        table(x[:1] + 1)


def test_refined_again_goes_on_from_there():
    vae, x = a_vae(), binary()
    once = refine_guide(vae, x, steps=30)
    again = refine_guide(once, x, steps=1, lr=1e-12)
    torch.testing.assert_close(again.embed(x), once.embed(x))


def test_the_same_seed_is_the_same_guide():
    vae, x = a_vae(), binary()
    one, same, other = (refine_guide(vae, x, steps=5, seed=seed).embed(x) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_one_seed_for_fitting_and_scoring_gives_each_its_own_draws(monkeypatch):
    """Scored on the draws that it was fitted to, a guide would look better than it is."""
    vae, x = a_vae(), binary()
    noise = []
    evaluate = local_guide.log_densities

    def watching(*arguments, **options):
        with torch.random.fork_rng([]):
            noise.append(torch.randn(4))
        return evaluate(*arguments, **options)

    monkeypatch.setattr(local_guide, "log_densities", watching)
    refine_guide(vae, x, steps=1, seed=7)
    with evaluation_mode(vae, seed=7):
        assert not torch.equal(noise[0], torch.randn(4))


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        pytest.param(*pair, marks=() if pair[0] in ("full_normal", "beta") else pytest.mark.slow)
        for pair in PAIRS
    ],
)
def test_the_graph_of_every_posterior_is_the_eager_gradient(name, prior, set_compiler):
    calls = []

    def compile_graph(traced):
        def run(*arguments):
            calls.append(arguments)
            return traced(*arguments)

        return run

    set_compiler(compile_graph)
    vae, x = a_vae(name, prior), binary()
    one, other = (
        refine_guide(vae, x, steps=3, max_elements=16 * 8 * 4, compile=mode)
        for mode in ("on", "off")
    )
    torch.testing.assert_close(one.embed(x), other.embed(x), rtol=1e-3, atol=1e-3)
    # Two chunks of three steps, of which the first is eager, and the second is recorded.
    assert len(calls) == 4
    # The graph of an evaluation with the table is the eager one, too.
    torch.manual_seed(0)
    eager = importance_weighting(
        one.model, one.guide, x, num_samples=10, max_elements=160, compile="off"
    )
    torch.manual_seed(0)
    graph = importance_weighting(
        one.model, one.guide, x, num_samples=10, max_elements=160, compile="on"
    )
    np.testing.assert_allclose(graph.log_evidence, eager.log_evidence, rtol=1e-4)


@pytest.mark.usefixtures("wait_for_compiler")
@pytest.mark.slow
def test_the_compiled_refinement_is_the_eager_one(caplog):
    vae, x = a_vae(), binary()
    with caplog.at_level(logging.INFO, "pyro_vae"):
        one, other = (refine_guide(vae, x, steps=10, compile=mode) for mode in ("on", "off"))
    assert "equal to the eager one" in caplog.text
    torch.testing.assert_close(one.embed(x), other.embed(x), rtol=1e-3, atol=1e-3)


def test_a_posterior_without_an_encoder_is_refused(linear_gaussian):
    case = linear_gaussian(n=3)
    with pytest.raises(
        NoLocalGuideError, match=r"LinearPosterior has none at `posterior\.encoder`"
    ):
        refine_guide(case.vae, case.x, steps=1)
    with pytest.raises(
        NoLocalGuideError, match="needs a program with a posterior, got a Linear without"
    ):
        refine_guide(nn.Linear(2, 2), case.x, steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"max_elements": 0}, "max_elements must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        refine_guide(a_vae(), binary(), **options)


def test_no_data_are_refused():
    with pytest.raises(ValueError, match="at least one example"):
        refine_guide(a_vae(), torch.ones(0, 4, 4))
