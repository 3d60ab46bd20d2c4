"""The KL taken apart, against mixtures of normals that are written out."""

import itertools
import math

import jaxtyping
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from scipy.special import logsumexp

from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import ELBO, BetaTC
from pyro_vae.objectives.total_correlation import decomposition, log_aggregates
from pyro_vae.posteriors import POSTERIORS, WITH_DENSITY
from pyro_vae.priors import PRIORS

SERVED = [
    *("diagonal_normal", "low_rank_normal", "full_normal", "laplace", "student_t"),
    *("batch_normalised", "committed_rate", "log_normal", "gamma", "beta"),
]
ESTIMATORS = pytest.mark.parametrize("estimator", ["stratified", "weighted"])


@pytest.fixture(autouse=True)
def float64():
    """Exact identities are tested in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def without_type_checks():
    """As a user has it: the types of arguments are checked in tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def known(loc, covariance):
    """A pair whose data are the numbers n of known normals q(z | n)."""
    d = loc.shape[-1]
    diagonal = (covariance == torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))).all()

    def model(n):
        with pyro.plate("data", len(n)):
            z = pyro.sample("z", dist.Normal(torch.zeros(d), 1.5).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=n.double())

    def guide(n):
        with pyro.plate("data", len(n)):
            if diagonal:
                scale = covariance[n].diagonal(dim1=-2, dim2=-1).sqrt()
                return pyro.sample("z", dist.Normal(loc[n], scale).to_event(1))
            return pyro.sample("z", dist.MultivariateNormal(loc[n], covariance[n]))

    return model, guide


def some_normals(n, d, *, correlated):
    """Means about as far apart as the normals are wide, and covariances."""
    root = torch.randn(n, d, d) / 2 if correlated else torch.diag_embed(torch.rand(n, d))
    return torch.randn(n, d), root @ root.mT + 0.3 * torch.eye(d)


def log_mixture(z, loc, covariance):
    """log 1/N sum_n N(z | loc_n, covariance_n), one datum and one normal after the other."""
    z, loc, covariance = z.numpy(), loc.numpy(), covariance.numpy()
    parts = [
        np.reshape(scipy.stats.multivariate_normal(m, c).logpdf(z), len(z))
        for m, c in zip(loc, covariance, strict=True)
    ]
    return torch.from_numpy(logsumexp(parts, axis=0) - math.log(len(loc)))


def a_value(objective, posterior="diagonal_normal", n=6, **options):
    """The objective on a VAE at binary pictures, and the terms."""
    posterior = POSTERIORS[posterior]
    prior = next(prior for prior in PRIORS.values() if prior.support == posterior.support)
    vae = build((4, 4), latent_dim=3, prior=prior, posterior=posterior)
    x = torch.bernoulli(torch.full((n, 4, 4), 0.3))
    terms = log_densities(vae.model, vae.guide, x, num_particles=objective.num_particles)
    return objective(terms), terms, vae


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_batch_of_all_data_is_the_exact_decomposition(correlated, num_particles):
    loc, covariance = some_normals(6, 3, correlated=correlated)
    terms = log_densities(*known(loc, covariance), torch.arange(6), num_particles=num_particles)
    parts = decomposition(terms, train_size=6)
    (z,) = terms.draws
    joint = torch.stack([log_mixture(draws, loc, covariance) for draws in z])
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    marginals = sum(
        torch.stack(
            [log_mixture(draws[:, [j]], loc[:, [j]], variance[:, [j], None]) for draws in z]
        )
        for j in range(3)
    )
    for part, expected in (
        (parts.mutual_information, terms.log_posterior - joint),
        (parts.total_correlation, joint - marginals),
        (parts.dimension_wise_kl, marginals - terms.log_prior),
    ):
        torch.testing.assert_close(part, expected.mean(0), rtol=0, atol=1e-12)


def the_densities(loc, covariance, z):
    """log q(z | n) and the coordinates' for every normal n, as for one i."""
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    pairs = dist.MultivariateNormal(loc, covariance).log_prob(z)
    return pairs, dist.Normal(loc, variance.sqrt()).log_prob(z)


def mean_estimate(pairs, coordinates, batch, estimator):
    """The estimated q(z) and prod of q(z_l), averaged over all batches with datum 0 in them."""
    n, d = coordinates.shape
    joint, marginals = [], []
    for others in itertools.combinations(range(1, n), batch - 1):
        rows = [0, *others]
        # Only the row of datum 0 is asked for.
        log_joint, log_marginals = log_aggregates(
            pairs[rows].expand(batch, batch),
            coordinates[rows].expand(batch, batch, d),
            n,
            estimator,
        )
        joint.append(log_joint[0].exp())
        marginals.append(log_marginals[0].exp())
    return torch.stack(joint).mean(), torch.stack(marginals).mean(0)


def test_stratified_densities_are_unbiased_over_all_batches():
    loc, covariance = some_normals(9, 2, correlated=True)
    pairs, coordinates = the_densities(loc, covariance, loc[0] + 0.1)
    for batch in (2, 4, 8):
        joint, marginals = mean_estimate(pairs, coordinates, batch, "stratified")
        torch.testing.assert_close(joint, pairs.exp().mean(), rtol=1e-12, atol=0)
        torch.testing.assert_close(marginals, coordinates.exp().mean(0), rtol=1e-12, atol=0)


def test_weighted_densities_are_too_small():
    loc, covariance = some_normals(9, 2, correlated=True)
    pairs, coordinates = the_densities(loc, covariance, loc[0] + 0.1)
    joint, _ = mean_estimate(pairs, coordinates, 4, "weighted")
    density = pairs.exp()
    expected = (density[0] + 3 * density[1:].mean()) / (9 * 4)
    torch.testing.assert_close(joint, expected, rtol=1e-12, atol=0)
    assert joint < 0.3 * density.mean()


@pytest.mark.parametrize(("apart", "shift"), [(0.0, math.log(500)), (100.0, math.log(10))])
def test_weighted_is_shifted_by_constants_and_stratified_is_not(apart, shift):
    """Data that are all alike, or all far apart: with 10 of 500, and a factorised q(z | x)."""
    d = 5
    loc = apart * torch.arange(10.0)[:, None].expand(10, d)
    terms = log_densities(*known(loc, torch.eye(d).expand(10, d, d)), torch.arange(10))
    exact = 0.0 if apart == 0 else (d - 1) * math.log(500)
    for estimator, off in (("stratified", 0.0), ("weighted", (d - 1) * shift)):
        parts = decomposition(terms, 500, estimator)
        torch.testing.assert_close(
            parts.total_correlation, torch.full((10,), exact + off), rtol=1e-9, atol=1e-9
        )


def test_total_correlation_of_a_correlated_normal_aggregate():
    """q(z) = N(0, C), of means drawn from N(0, C - s^2 I): TC = -1/2 log(1 - rho^2)."""
    rho, within, n = 0.6, 0.3, 600
    c = torch.tensor([[1.0, rho], [rho, 1.0]])
    # The means' noise is a lattice's: even, with less spread than random draws.
    lattice = (torch.arange(n)[:, None] * torch.tensor([0.7548776662, 0.5698402910]) + 0.5) % 1
    normal = dist.Normal(0.0, 1.0).icdf(lattice.clamp(1e-4, 1 - 1e-4))
    loc = normal @ torch.linalg.cholesky(c - within * torch.eye(2)).mT
    covariance = (within * torch.eye(2)).expand(n, 2, 2)
    terms = log_densities(*known(loc, covariance), torch.arange(n), num_particles=2)
    parts = decomposition(terms, n)
    assert float(parts.total_correlation.mean()) == pytest.approx(
        -0.5 * math.log(1 - rho**2), abs=0.03
    )
    mutual_information = 0.5 * float(torch.logdet(c)) - math.log(within)
    assert float(parts.mutual_information.mean()) == pytest.approx(mutual_information, abs=0.06)


@ESTIMATORS
@pytest.mark.parametrize("posterior", SERVED)
@pytest.mark.parametrize("num_particles", [1, 4])
def test_the_three_add_up_and_weights_of_one_are_the_elbo(posterior, estimator, num_particles):
    objective = BetaTC(100, beta=1.0, estimator=estimator, num_particles=num_particles)
    value, terms, _ = a_value(objective, posterior)
    values = value.values
    total = sum(
        values[name] for name in ("mutual_information", "total_correlation", "dimension_wise_kl")
    )
    torch.testing.assert_close(total, values["kl"], rtol=0, atol=1e-9)
    elbo = ELBO(kl="monte_carlo")(terms)
    assert (value.loss == elbo.loss).all()
    for name in ("elbo", "reconstruction", "kl"):
        assert (values[name] == elbo.values[name]).all()
    assert objective.kl_by_site == {"z": "Monte Carlo"}


@ESTIMATORS
def test_each_weight_weighs_its_term(estimator):
    value, terms, _ = a_value(BetaTC(100, estimator=estimator))
    parts, values = decomposition(terms, 100, estimator), value.values
    objective = BetaTC(100, alpha=0.5, beta=3.0, gamma=2.0, estimator=estimator)
    expected = (
        0.5 * parts.mutual_information
        + 3 * parts.total_correlation
        + 2 * parts.dimension_wise_kl
        - values["reconstruction"]
    )
    torch.testing.assert_close(objective(terms).loss, expected, rtol=1e-12, atol=1e-12)


def test_warm_up_is_linear_then_flat():
    objective = BetaTC(100, warmup_epochs=4.0)
    _, terms, _ = a_value(objective)
    reconstruction = terms.log_likelihood.mean(0)
    weighted = []
    for epochs in (0.0, 1.0, 4.0, 9.0):
        objective.set_progress(epochs)
        weighted.append(objective(terms).loss + reconstruction)
    whole = BetaTC(100)(terms).loss + reconstruction
    for part, share in zip(weighted, (0, 0.25, 1, 1), strict=True):
        torch.testing.assert_close(part, share * whole)


@ESTIMATORS
def test_a_batch_of_one_is_finite(estimator):
    value, _, _ = a_value(BetaTC(100, estimator=estimator), n=1)
    assert value.values["mutual_information"] == 0
    assert abs(float(value.values["total_correlation"])) < 1e-12
    assert value.loss.isfinite().all()
    assert a_value(BetaTC(1, estimator=estimator), n=1)[0].loss.isfinite().all()


def test_the_gradient_reaches_the_encoder_and_is_the_finite_difference():
    loc, covariance = some_normals(5, 2, correlated=False)
    loc.requires_grad_(True)
    n = torch.arange(5)

    def total_correlation(at):
        torch.manual_seed(3)
        return decomposition(log_densities(*known(at, covariance), n), 40).total_correlation.sum()

    (gradient,) = torch.autograd.grad(total_correlation(loc), loc)
    assert gradient.abs().min() > 0
    step = 1e-6 * torch.randn(5, 2)
    with torch.no_grad():
        change = total_correlation(loc + step) - total_correlation(loc - step)
    assert float(change / 2) == pytest.approx(float((gradient * step).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("posterior", "name"),
    [
        ("coupling_flow", "NormalFlow"),
        ("inverse_autoregressive", "NormalFlow"),
        ("logistic_normal", "LogisticNormal"),
        ("dirichlet", "InteriorDirichlet"),
        ("von_mises_fisher", "VonMisesFisher"),
        ("power_spherical", "PowerSpherical"),
        ("one_hot", "OneHots"),
        ("spike_and_slab", "Independent of SpikeAndSlab"),
    ],
)
def test_guides_without_densities_of_coordinates_are_refused(posterior, name):
    assert posterior not in SERVED
    with pytest.raises(ValueError, match=f"BetaTC .* site 'z' is a {name}. Possible are indep"):
        a_value(BetaTC(100), posterior)


def test_every_guide_is_served_or_refused():
    assert len(SERVED) + 8 == len(WITH_DENSITY)


def test_several_sites_are_refused():
    def program(x):
        with pyro.plate("data", len(x)):
            for name in ("y", "z"):
                pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1))

    terms = log_densities(program, program, torch.zeros(4))
    with pytest.raises(ValueError, match="BetaTC needs one latent site, got 'y', 'z'"):
        BetaTC(100)(terms)


def test_numbers_instead_of_vectors_are_refused():
    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    terms = log_densities(program, program, torch.zeros(4))
    with pytest.raises(ValueError, match=r"needs a vector .* event shape \(\)"):
        BetaTC(100)(terms)


def test_a_batch_of_more_than_the_data_is_refused():
    with pytest.raises(ValueError, match="train_size must be at least the batch's 6, got 5"):
        a_value(BetaTC(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 0}, "train_size must be at least 1, got 0"),
        ({"alpha": -1.0}, "alpha must be at least 0 and finite, got -1.0"),
        ({"beta": math.nan}, "beta must be at least 0 and finite, got nan"),
        ({"gamma": math.inf}, "gamma must be at least 0 and finite, got inf"),
        ({"warmup_epochs": -1.0}, "warmup_epochs must be at least 0"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"estimator": "exact"}, "estimator must be one of stratified, weighted, got 'exact'"),
    ],
)
def test_options_out_of_range_are_refused(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        BetaTC(**{"train_size": 10, **options})
