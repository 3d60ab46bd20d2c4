"""Two levels of latents, against linear-Gaussian hierarchies whose evidence is known."""

import inspect
import math
from functools import partial

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from torch import nn

from pyro_vae import VAE, fit, likelihoods, networks, posteriors, priors
from pyro_vae.configuration.parser import parse
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.evidence import (
    annealed_importance_sampling,
    evaluate,
    importance_weighting,
    inference_gaps,
    refine_guide,
    two_sided_check,
)
from pyro_vae.inference_data import from_svi
from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.programs.hierarchical import Bottom, Encoders, Hierarchical, build, combine

GUIDES = ("bottom_up", "top_down")
MLP = partial(networks.MLP, hidden=(8,))
# Of the linear-Gaussian hierarchy, coordinate by coordinate: z1 = a z2 + c + s e, x = w z1 + b +
# NOISE e.
A, C, S, W, B = torch.tensor(
    [[1.2, -0.7], [0.3, -0.5], [0.6, 0.9], [1.5, 0.8], [0.1, 0.4]], dtype=torch.float64
)
NOISE = 0.5


@pytest.fixture
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Linear(nn.Module):
    """A normal with the mean G v + h and a constant scale, as the two rows of an encoder."""

    def __init__(self, gain, shift, scale, row=None):
        super().__init__()
        self.gain = gain.double() if gain.dim() == 2 else torch.diag(gain.double())
        self.shift, self.row = shift.double(), row
        self.raw = (scale.double() - 1e-5).expm1().log()

    def forward(self, v):
        v = v if self.row is None else v[..., self.row, :]
        loc = v @ self.gain.mT + self.shift
        return torch.stack([loc, self.raw.expand_as(loc)], -2)


class Decoder(nn.Module):
    """G z + b, in the shape of a decoder's output."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain.double()

    def forward(self, z):
        return (z @ self.gain.mT + B.double()).unsqueeze(-2)


def linear_gaussian(inference, *, gain=None, skip=None, widen=1.0, n=40):
    """The hierarchy with the guide that is exact if there is no gain; x, and log p(x) of each."""
    if inference == "bottom_up":
        precision = 1 / (A**2 + S**2) + W**2 / NOISE**2
        bottom = Linear(
            W / NOISE**2 / precision,
            (C / (A**2 + S**2) - W * B / NOISE**2) / precision,
            widen / precision.sqrt(),
        )
        precision = 1 + A**2 / S**2
        top = Linear(A / S**2 / precision, -A * C / S**2 / precision, widen / precision.sqrt())
    else:
        bottom = Linear(1 / W, -B / W, widen * NOISE / W)
        variance = W**2 * S**2 + NOISE**2
        precision = 1 + (W * A) ** 2 / variance
        slope = W * A / variance / precision
        top = Linear(slope * W, -slope * W * C, widen / precision.sqrt(), row=0)
    gain = torch.diag(W) if gain is None else gain
    reads = gain if skip is None else torch.cat([gain, skip], -1)
    program = Hierarchical(
        priors.StandardNormal(2),
        posteriors.DiagonalNormal(2, lambda _: Linear(A, C, S)),
        likelihoods.Normal((2,), lambda _: Decoder(reads), scale="fixed", initial_scale=NOISE),
        Encoders(
            Bottom(2, lambda _: bottom), posteriors.DiagonalNormal(2, lambda _: top), inference
        ),
        skip=skip is not None,
    )
    of_z2 = gain @ torch.diag(A) + (0 if skip is None else skip)
    covariance = of_z2 @ of_z2.mT + gain @ torch.diag(S**2) @ gain.mT + NOISE**2 * torch.eye(2)
    exact = scipy.stats.multivariate_normal((gain @ C + B).numpy(), covariance.numpy())
    x = torch.as_tensor(exact.rvs(n, random_state=0))
    return program, x, exact.logpdf(x.numpy())


def small(inference="bottom_up", **options):
    """An untrained program on digits of 6 + 3 latents."""
    pyro.set_rng_seed(0)
    train = (digits().train[:100] > 8).float()
    options = {"network": MLP, "train_data": train, "top_dim": 3, **options}
    return build((1, 8, 8), 6, inference=inference, **options)


def images(n=6):
    return (digits().test[:n] > 8).float()


# ---- known answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", GUIDES)
def test_with_the_exact_guide_every_weight_is_the_evidence(inference, float64):
    program, x, log_evidence = linear_gaussian(inference)
    weighted = log_densities(program.model, program.guide, x, num_particles=7).log_weight
    np.testing.assert_allclose(weighted.numpy(), np.broadcast_to(log_evidence, (7, 40)), atol=1e-9)
    annealed = annealed_importance_sampling(
        program, x[:5], num_chains=3, num_temperatures=4, leapfrog_steps=2
    )
    np.testing.assert_allclose(annealed.log_weights, np.tile(log_evidence[:5], (3, 1)), atol=1e-9)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("inference", GUIDES)
def test_from_a_wrong_guide_both_estimates_are_the_evidence(inference, skip, float64):
    gain = torch.tensor([[1.5, 0.4], [-0.3, 0.8]])
    through = torch.tensor([[0.2, 0.1], [0.0, -0.2]]) if skip else None
    program, x, log_evidence = linear_gaussian(inference, gain=gain, skip=through, widen=1.3)
    pyro.set_rng_seed(1)
    weighted = importance_weighting(program.model, program.guide, x, num_samples=3000)
    annealed = annealed_importance_sampling(program, x, num_temperatures=40, leapfrog_steps=4)
    for found in (weighted.log_evidence, annealed.log_evidence):
        np.testing.assert_allclose(found, log_evidence, atol=0.6)
        assert found.mean() == pytest.approx(log_evidence.mean(), abs=0.05)
    assert weighted.elbo.mean() < log_evidence.mean() - 0.1
    assert annealed.ess.mean() > 12


@pytest.mark.parametrize("inference", GUIDES)
def test_the_bounds_from_both_sides_meet(inference, float64):
    program, x, _ = linear_gaussian(inference, widen=1.3)
    check = two_sided_check(
        program, x, num_data=40, num_chains=8, num_temperatures=30, leapfrog_steps=4
    )
    assert check.mean_gap == pytest.approx(0.04, abs=0.06)


@pytest.mark.parametrize("inference", GUIDES)
def test_the_elbo_of_the_exact_guide_is_the_evidence(inference, float64):
    """In bottom_up z2 depends on z1: KL(q(z1 | x) || p(z1 | z2)) at the z2 drawn is not its KL."""
    program, x, log_evidence = linear_gaussian(inference)
    pyro.set_rng_seed(0)
    terms = log_densities(program.model, program.guide, x, num_particles=4000)
    for objective in (OBJECTIVES["elbo"](), OBJECTIVES["elbo"](free_bits=1e-9)):
        elbo = objective(terms).values["elbo"]
        assert float(elbo.mean()) == pytest.approx(log_evidence.mean(), abs=0.02)
    analytic = {"z1": "Monte Carlo" if inference == "bottom_up" else "analytic", "z2": "analytic"}
    assert objective.kl_by_site == analytic
    kl = evaluate(program, x, num_samples=2000).importance_weighting.kl
    assert kl.mean() == pytest.approx(float(objective(terms).values["kl"].mean()), abs=0.05)
    tree = from_svi(program.model, program.guide, x, num_draws=2000, num_prior_draws=0, seed=0)
    assert float(tree["per_datum"]["kl"].mean()) == pytest.approx(kl.mean(), abs=0.05)


@pytest.mark.parametrize("inference", GUIDES)
def test_with_z2_ignored_it_is_the_flat_vae(inference, float64):
    program, x, _ = linear_gaussian(inference)
    ones, zeros = torch.ones(2), torch.zeros(2)
    program.conditional.encoder = Linear(zeros, zeros, ones)
    program.posterior.top.encoder = Linear(zeros, zeros, ones, program.posterior.top.encoder.row)
    bottom = program.posterior.bottom

    class Flat(posteriors.DiagonalNormal):
        def forward(self, x):
            q = bottom(x)
            return q if inference == "bottom_up" else combine(q, priors.StandardNormal(2)())

    posterior = Flat(2, lambda _: bottom.encoder)
    vae = VAE(priors.StandardNormal(2), program.likelihood, posterior)
    two, flat = (
        importance_weighting(each.model, each.guide, x, num_samples=4000)
        for each in (program, vae)
    )
    assert two.elbo.mean() == pytest.approx(flat.elbo.mean(), abs=0.03)
    np.testing.assert_allclose(two.log_evidence, flat.log_evidence, atol=0.15)
    z1 = pyro.poutine.trace(program.guide).get_trace(x).nodes["z1"]["value"]
    trace = pyro.poutine.trace(pyro.poutine.condition(program.model, {"z1": z1})).get_trace(x)
    trace.compute_log_prob()
    at_z1 = priors.StandardNormal(2)().log_prob(z1)
    torch.testing.assert_close(trace.nodes["z1"]["log_prob"], at_z1)


def test_precisions_add_and_weigh_the_means():
    z = torch.linspace(-20, 20, 200_001, dtype=torch.float64)[:, None]
    first, second = (
        torch.distributions.Independent(
            torch.distributions.Normal(*torch.tensor(p, dtype=torch.float64).unsqueeze(-1)), 1
        )
        for p in ((1.0, 0.5), (-2.0, 1.5))
    )
    product = (first.log_prob(z) + second.log_prob(z)).exp()
    product = product / (product.sum() * (z[1, 0] - z[0, 0]))
    torch.testing.assert_close(combine(first, second).log_prob(z).exp(), product)
    # A level that says nothing leaves the other, and the smallest scales are no trouble.
    broad = torch.distributions.Independent(torch.distributions.Normal(torch.ones(1), 1e6), 1)
    sharp = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1), 1e-5), 1)
    both = combine(sharp, broad).base_dist
    assert both.loc.item() == pytest.approx(0, abs=1e-9)
    assert both.scale.item() == pytest.approx(1e-5)


@pytest.mark.parametrize("inference", GUIDES)
def test_vamp_is_the_mixture_of_the_normals_at_its_pseudo_inputs(inference):
    program = small(inference, prior=partial(priors.Vamp, components=5))
    inputs, z2 = program.prior.pseudo_inputs, torch.randn(4, 3)
    bottom, top = program.posterior.bottom, program.posterior.top
    at = top(bottom(inputs).mean if inference == "bottom_up" else bottom.encoder(inputs))
    mixture = at.log_prob(z2[:, None]).logsumexp(-1) - math.log(5)
    torch.testing.assert_close(program.prior().log_prob(z2), mixture)
    # One copy of the encoders, trained in both roles.
    assert not any(
        name.startswith("prior.") and "pseudo" not in name for name in program.state_dict()
    )
    grad = torch.autograd.grad(
        program.prior().log_prob(z2).sum(), [*program.posterior.parameters()], allow_unused=True
    )
    assert any(g is not None and g.abs().sum() > 0 for g in grad)


# ---- codes, samples -----------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("inference", GUIDES)
def test_codes_are_the_means_of_both_levels(inference, skip):
    program, x = small(inference, skip=skip), images()
    code = program.embed(x)
    assert code.shape == (6, 9)
    z1, z2 = code.split([6, 3], -1)
    if inference == "bottom_up":
        assert z1.equal(program.posterior.bottom(x).mean)
        assert z2.equal(program.posterior.top(z1).mean)
    else:
        assert z2.equal(program.posterior(x).mean)
        held = pyro.poutine.condition(program.guide, {"z2": z2})
        q = pyro.poutine.trace(held).get_trace(x).nodes["z1"]["fn"]
        torch.testing.assert_close(z1, q.mean)
    assert program.decode(code).shape == (6, 1, 8, 8)
    if skip:
        with pytest.raises(ValueError, match=r"shape \(\.\.\., 9\), z1 and z2, got \(6, 6\)"):
            program.decode(z1)
    else:
        assert program.decode(z1).equal(program.decode(code))
        with pytest.raises(ValueError, match=r"or \(\.\.\., 6\), z1 alone, got \(4,\)"):
            program.decode([0.0] * 4)
    assert program.sample(5, seed=0).shape == (5, 1, 8, 8)
    assert program.reconstruct(x).shape == x.shape
    assert program.interpolate(x[0], x[1], steps=3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize("network", ["conv", "gated_mlp"])
def test_levels_are_dense_between_convolutions(network):
    program = small(network=network)
    between = networks.MLP if network == "conv" else networks.GatedMLP
    assert type(program.conditional.encoder) is type(program.posterior.top.encoder) is between
    assert program.sample(2).shape == (2, 1, 8, 8)


# ---- training and what assumes a single latent --------------------------------------------------


@pytest.mark.parametrize("inference", GUIDES)
def test_it_trains_and_counts_the_units_of_both_levels(inference):
    pyro.set_rng_seed(0)
    data = PreparedData(digits(), "binary")
    program = small(inference, network=partial(networks.MLP, hidden=(64,)))
    before = evaluate(program, data.fixed("test"), num_samples=5).importance_weighting.elbo.mean()
    # The ladder needs a warm-up.
    objective = OBJECTIVES["elbo"](warmup_epochs=8.0)
    history = fit(program, data, epochs=10, lr=3e-3, compile="off", objective=objective)
    after = evaluate(program, data.fixed("test"), num_samples=5)
    assert after.importance_weighting.elbo.mean() > before + 5
    assert after.embeddings.shape[1] == 9
    assert 0 < history[-1]["active_units"] <= 9
    assert history[-1]["units_above_rate"] >= history[-1]["active_units"] - 3


WORK = {"elbo", "beta", "iwae", "miwae", "ciwae", "reconstruction"}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_work_or_say_why_not(name):
    program, x = small(), images()
    needed = {"train_size": 100, "latent_dim": 6}
    asked = inspect.signature(OBJECTIVES[name]).parameters
    objective = OBJECTIVES[name](**{n: v for n, v in needed.items() if n in asked})
    terms = log_densities(program.model, program.guide, x, num_particles=objective.num_particles)
    if name in WORK:
        objective.check(terms)
        loss = objective(terms).loss
        assert loss.shape == (6,)
        assert loss.isfinite().all()
        return
    with pytest.raises(ValueError, match="latent site") as error:
        objective.check(terms)
    assert "\n" not in str(error.value)
    assert "z1" in str(error.value)


def test_a_local_guide_is_refused():
    program, x = small(), images()
    for call in (refine_guide, inference_gaps):
        with pytest.raises(ValueError, match="one latent site, but Hierarchical has 'z1', 'z2'"):
            call(program, x)


def test_each_site_has_its_dims_in_arviz():
    tree = from_svi(small().model, small().guide, images(), num_draws=4, num_prior_draws=3, seed=0)
    sizes = {site: tree["posterior"][site].shape for site in ("z1", "z2")}
    assert sizes == {"z1": (1, 4, 6, 6), "z2": (1, 4, 6, 3)}
    (of_z1,), (of_z2,) = (
        [d for d in tree["posterior"][site].dims if "latent" in d] for site in ("z1", "z2")
    )
    assert of_z1 != of_z2


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_dim": 0}, "top_dim must be at least 1, got 0"),
        (
            {"prior": "dirichlet"},
            "prior of z2 must be on the real line.*Dirichlet on simplex: use",
        ),
        ({"prior": "vmap"}, "prior must be one of .*did you mean vamp"),
        ({"likelihood": "discretized_logistic"}, "levels"),
    ],
)
def test_bad_input_is_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        build((1, 8, 8), 6, **{"network": MLP, **options})
    assert "\n" not in str(error.value)


def test_the_command_line_has_its_options():
    words = ["--model", "hierarchical", "--prior", "vamp"]
    configuration = parse([*words, "--inference", "bottom_up", "--top-dim", "3", "--skip", "true"])
    found = [configuration[name] for name in ("inference", "top_dim", "skip", "latent_dim")]
    assert found == ["bottom_up", 3, True, 8]
    with pytest.raises(ValueError, match=r"inference.*sideways"):
        parse([*words, "--inference", "sideways"])


def test_real_data_and_a_table_are_possible():
    pyro.set_rng_seed(0)
    table = Dataset.from_array(np.random.default_rng(0).normal(50, 9, size=(60, 4)))
    data = PreparedData(table, "real")
    program = build((4,), 3, kind="real", prior="vamp", train_data=data.dataset.train, network=MLP)
    assert len(fit(program, data, epochs=1, compile="off")) == 1
    assert np.isfinite(program.sample(3)).all()
