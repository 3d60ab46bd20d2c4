"""Pathwise gradients, against exact ones, against the whole gradient, and in their noise."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO, IWAE, STL, DReG
from pyro_vae.posteriors import POSTERIORS, WITH_DENSITY
from pyro_vae.priors import PRIORS

# A linear-Gaussian model: z ~ N(0, I), x ~ N(A z, s^2 I), and one datum of it.
A = torch.tensor([[1.0, -0.4], [0.3, 0.8], [-0.6, 0.5]], dtype=torch.float64)
NOISE = 0.7
X = torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64)
COVARIANCE = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + A.mT @ A / NOISE**2)
MEAN = COVARIANCE @ A.mT @ X / NOISE**2
# A guide off the posterior in mean and covariance.
OFF = (
    MEAN + torch.tensor([0.4, -0.3], dtype=torch.float64),
    torch.tensor([[0.5, 0.0], [0.2, 0.8]], dtype=torch.float64),
)

PAIRS = pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        pytest.param(
            partial(prior, components=5) if p == "vamp" else prior, posterior, id=f"{p}-{q}"
        )
        for p, prior in PRIORS.items()
        for q, posterior in WITH_DENSITY.items()
        if prior.support == posterior.support and prior.support not in ("one_hot", "sparse")
    ],
)


@pytest.fixture(autouse=True)
def float64():
    """Exact identities are tested in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def linear_gaussian(rows, num_particles, loc, scale_tril, seed=0):
    """The terms of many copies of the datum, and the guide's own parameters of each copy.

    So a row of their gradient is one draw of the estimator, independent of all others.
    """
    loc = loc.expand(rows, 2).clone().requires_grad_()
    scale_tril = scale_tril.expand(rows, 2, 2).clone().requires_grad_()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ A.mT, NOISE).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril))

    torch.manual_seed(seed)
    terms = log_densities(model, guide, X.expand(rows, 3), num_particles=num_particles)
    return terms, [loc, scale_tril]


def gradients(objective, rows, num_particles, loc, scale_tril, seed=0):
    """Each row's gradient of the loss in the guide's mean and triangular scale, `(rows, 5)`."""
    terms, parameters = linear_gaussian(rows, num_particles, loc, scale_tril, seed)
    of_loc, of_scale = torch.autograd.grad(objective(terms).loss.sum(), parameters)
    return torch.cat([of_loc, of_scale[:, *torch.tril_indices(2, 2)]], -1)


def standard_error(rows):
    return rows.std(0) / math.sqrt(len(rows))


def value(vae, x, objective, num_particles, seed=0):
    torch.manual_seed(seed)
    return objective(log_densities(vae.model, vae.guide, x, num_particles=num_particles))


def a_vae(**parts):
    """A small VAE with nothing at its start, where flows are the identity and weights are equal."""
    torch.manual_seed(1)
    vae = build((4, 4), latent_dim=3, **parts)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return vae, torch.bernoulli(torch.full((4, 4), 0.3))


@pytest.mark.parametrize("beta", [1.0, 2.5])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_stl_has_the_exact_gradient_of_the_elbo_as_its_mean(num_particles, beta):
    loc, scale_tril = (tensor.clone().requires_grad_() for tensor in OFF)
    z_mean, z_covariance = loc, scale_tril @ scale_tril.mT
    # E_q |x - A z|^2, and KL(q || N(0, I)), in closed form.
    error = (X - A @ z_mean).square().sum() + (A @ z_covariance @ A.mT).trace()
    kl = (z_covariance.trace() + z_mean.square().sum() - 2) / 2 - scale_tril.diagonal().log().sum()
    loss = error / (2 * NOISE**2) + beta * kl
    of_loc, of_scale = torch.autograd.grad(loss, [loc, scale_tril])
    exact = torch.cat([of_loc, of_scale[*torch.tril_indices(2, 2)]])

    drawn = gradients(STL(beta=beta), 20_000, num_particles, *OFF)
    assert ((drawn.mean(0) - exact).abs() < 5 * standard_error(drawn)).all()
    assert (standard_error(drawn) < 0.05 * exact.abs().max()).all()


@pytest.mark.parametrize(
    "objective", [STL(), STL(num_particles=4), DReG(), DReG(num_particles=64)]
)
def test_at_the_exact_posterior_the_gradient_of_each_draw_is_zero(objective):
    optimum = MEAN, torch.linalg.cholesky(COVARIANCE)
    k = objective.num_particles
    assert gradients(objective, 50, k, *optimum).abs().max() < 1e-10
    # That of the whole logarithm is noise.
    for whole in (ELBO(kl="monte_carlo"), IWAE()):
        assert gradients(whole, 50, k, *optimum).abs().max() > 0.1


@pytest.mark.parametrize("num_particles", [2, 5, 64])
def test_dreg_has_the_mean_gradient_of_iwae(num_particles):
    rows = 200_000 // num_particles
    whole = gradients(IWAE(), rows, num_particles, *OFF, seed=1)
    ours = gradients(DReG(), rows, num_particles, *OFF, seed=2)
    error = (standard_error(whole).square() + standard_error(ours).square()).sqrt()
    assert ((whole.mean(0) - ours.mean(0)).abs() < 5 * error).all()


def test_more_particles_help_dregs_signal_and_bury_iwaes():
    """Mean over deviation of a wide guide's gradient: 1 / sqrt(K) for IWAE, sqrt(K) for DReG."""
    wide = OFF[0], torch.tensor([[0.9, 0.0], [0.2, 1.0]])
    noise, ratio = {}, {}
    for k in (4, 64):
        for objective in (IWAE(), DReG()):
            drawn = gradients(objective, 5_000, k, *wide)
            noise[k, type(objective)] = drawn.std(0)
            if isinstance(objective, DReG):
                # The two have one mean, of which this is the clearer estimate.
                signal = drawn.mean(0).abs()
        for kind in (IWAE, DReG):
            ratio[k, kind] = (signal / noise[k, kind]).mean()
    assert 3 < ratio[64, DReG] / ratio[4, DReG] < 5.3  # sqrt(16) = 4
    assert 1 / 5.3 < ratio[64, IWAE] / ratio[4, IWAE] < 1 / 3
    assert (noise[64, IWAE] / noise[64, DReG] > 20).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        {"posterior": POSTERIORS["coupling_flow"]},
        {"posterior": POSTERIORS["inverse_autoregressive"]},
        {"prior": PRIORS["gaussian_mixture"]},
        # The encoder's parameters are in both p(z) and q(z | x).
        {"prior": partial(PRIORS["vamp"], components=4)},
        {"prior": partial(PRIORS["vamp"], components=4), "posterior": POSTERIORS["coupling_flow"]},
        {"prior": PRIORS["dirichlet"], "posterior": POSTERIORS["dirichlet"]},
    ],
    ids=["coupling", "autoregressive", "mixture", "vamp", "vamp of coupling", "dirichlet"],
)
@pytest.mark.parametrize(
    ("ours", "whole", "num_particles"),
    [(STL(), ELBO(kl="monte_carlo"), 1), (DReG(), IWAE(), 4)],
    ids=["stl", "dreg"],
)
def test_the_mean_is_that_of_the_whole_gradient(parts, ours, whole, num_particles):
    """Of each parameter tensor in a random direction, over 30 batches of 100 copies of a datum."""
    vae, x = a_vae(**parts)
    x = x.expand(100, 4, 4)
    parameters = list(vae.parameters())
    directions = [torch.randn_like(parameter) for parameter in parameters]
    means = {}
    for seed, objective in enumerate((ours, whole)):
        batches = []
        for batch in range(30):
            loss = value(vae, x, objective, num_particles, seed=1000 * seed + batch).loss.mean()
            grads = torch.autograd.grad(loss, parameters)
            batches.append(
                torch.stack([(g * d).sum() for g, d in zip(grads, directions, strict=True)])
            )
        means[objective] = torch.stack(batches)
    error = sum(standard_error(batches).square() for batches in means.values()).sqrt()
    difference = (means[ours].mean(0) - means[whole].mean(0)).abs()
    assert (difference <= 5 * error).all()
    assert difference.isfinite().all()


@PAIRS
def test_one_particle_of_dreg_is_stl(prior, posterior):
    vae, x = a_vae(prior=prior, posterior=posterior)
    x = x.expand(5, 4, 4)
    parameters = list(vae.parameters())
    dreg, stl = (value(vae, x, objective, 1).loss for objective in (DReG(), STL()))
    torch.testing.assert_close(dreg, stl)
    torch.testing.assert_close(
        torch.autograd.grad(dreg.sum(), parameters), torch.autograd.grad(stl.sum(), parameters)
    )


@PAIRS
def test_values_are_the_bounds_and_the_models_gradient_is_the_whole_one(prior, posterior):
    """Of what only the model has: the decoder, and the prior but for a Vamp's encoder."""
    vae, x = a_vae(prior=prior, posterior=posterior)
    x = x.expand(5, 4, 4)
    parameters = [p for part in (vae.likelihood, vae.prior) for p in part.parameters()]
    for ours, whole, k in ((DReG(), IWAE(), 5), (STL(), ELBO(kl="monte_carlo"), 3)):
        pathwise, plain = (value(vae, x, objective, k) for objective in (ours, whole))
        torch.testing.assert_close(pathwise.loss, plain.loss)
        torch.testing.assert_close(
            torch.autograd.grad(pathwise.loss.sum(), parameters),
            torch.autograd.grad(plain.loss.sum(), parameters),
        )
        for name, expected in plain.values.items():
            if name not in ("kl", "elbo"):  # In closed form, where there is one.
                torch.testing.assert_close(pathwise.values[name], expected)


def test_terms_are_weighed_once():
    vae, x = a_vae()
    terms = log_densities(vae.model, vae.guide, x.expand(5, 4, 4), num_particles=3)
    DReG()(terms)
    with pytest.raises(ValueError, match="DReG reweights the gradient of terms once"):
        DReG()(terms)
    with torch.no_grad():
        terms = log_densities(vae.model, vae.guide, x.expand(5, 4, 4), num_particles=3)
        torch.testing.assert_close(DReG()(terms).loss, DReG()(terms).loss)


def test_values_of_stl_are_those_of_the_elbo():
    vae, x = a_vae()
    stl = STL(beta=3.0)
    ours, theirs = (
        value(vae, x.expand(5, 4, 4), objective, 2) for objective in (stl, ELBO(beta=3.0))
    )
    assert ours.values.keys() == theirs.values.keys()
    for name, expected in theirs.values.items():
        torch.testing.assert_close(ours.values[name], expected)
    assert stl.kl_by_site == {"z": "analytic"}


def test_warm_up_of_stl_is_that_of_the_elbo_and_in_its_state():
    vae, x = a_vae()
    stl, resumed = STL(2.0, warmup_epochs=4.0), STL(2.0, warmup_epochs=4.0)
    stl.set_progress(1.0)
    resumed.load_state_dict(stl.state_dict())
    elbo = ELBO(2.0, warmup_epochs=4.0, kl="monte_carlo")
    elbo.set_progress(1.0)
    for objective in (stl, resumed):
        torch.testing.assert_close(
            value(vae, x.expand(5, 4, 4), objective, 2).loss,
            value(vae, x.expand(5, 4, 4), elbo, 2).loss,
        )


def test_draws_of_weight_zero_spoil_no_gradient():
    loc = torch.full((5,), 0.5, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            # Below 0 its log density is -inf, where validation does not forbid to ask.
            z = pyro.sample("z", dist.HalfNormal(1.0, validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))

    torch.manual_seed(0)
    terms = log_densities(model, guide, torch.ones(5), num_particles=10)
    finite = terms.log_weight.isfinite()
    assert finite.any(0).all()
    assert not finite.all()
    loss = DReG()(terms).loss
    torch.testing.assert_close(loss, math.log(10) - terms.log_weight.detach().logsumexp(0))
    (grad,) = torch.autograd.grad(loss.sum(), loc)
    # With scale 1 the path moves z as loc: d log w / dz is x - z - z + (z - loc).
    share, z = terms.log_weight.detach().softmax(0), terms.draws[0].detach()
    torch.testing.assert_close(grad, -(share**2 * (1 - z - loc.detach())).sum(0))


@pytest.mark.parametrize("objective", [STL, DReG])
@pytest.mark.parametrize("support", ["one_hot", "spike_and_slab"])
def test_guides_whose_draws_step_are_refused(objective, support):
    vae, x = a_vae(prior=PRIORS[support], posterior=POSTERIORS[support])
    name = {"one_hot": "OneHots", "spike_and_slab": "SpikeAndSlab"}[support]
    message = (
        f"{objective.__name__} follows the path of the draws, but those of the {name} at site 'z'"
    )
    with pytest.raises(ValueError, match=message):
        value(vae, x.expand(5, 4, 4), objective(), 1)


@pytest.mark.parametrize("objective", [STL(), DReG()])
def test_a_guide_whose_score_cannot_be_told_apart_is_refused(objective):
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))

    def pixels(x):
        with pyro.plate("pixels", 3, dim=-2), pyro.plate("data", x.shape[-1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def of_pixels(x):
        with pyro.plate("pixels", 3, dim=-2), pyro.plate("data", x.shape[-1], dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="has the sites a, b: use the objective iwae or elbo"):
        objective(log_densities(model, guide, torch.randn(5)))
    with pytest.raises(ValueError, match="site 'z' is in a plate of its own"):
        objective(log_densities(pixels, of_pixels, torch.randn(3, 5), max_plate_nesting=2))


@pytest.mark.parametrize("objective", [STL(), DReG()])
def test_a_guide_that_is_not_reparameterisable_is_refused(objective):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="'z' is a Bernoulli without rsample"):
        objective(log_densities(model, guide, torch.randn(5)))


@pytest.mark.parametrize(
    ("construct", "message"),
    [
        (partial(STL, beta=-1.0), "beta must be at least 0 and finite, got -1.0"),
        (partial(STL, warmup_epochs=-1.0), "warmup_epochs must be at least 0"),
        (partial(STL, num_particles=0), "num_particles must be at least 1, got 0"),
        (partial(DReG, num_particles=0), "num_particles must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(construct, message):
    with pytest.raises(ValueError, match=message):
        construct()
