"""The penalty on covariances, against sums that are written out."""

import math
from functools import partial

import jaxtyping
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import distributions, posteriors, priors
from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import DIP, ELBO
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS


@pytest.fixture
def without_type_checks():
    """As a user has it: the types of arguments are checked in tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def known(loc, guide_of, prior_scale=1.0):
    """A pair whose data are the numbers n of known means."""

    def model(n):
        with pyro.plate("data", len(n)):
            z = pyro.sample("z", dist.Normal(torch.zeros(loc.shape[-1]), prior_scale).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=n.float())

    def guide(n):
        with pyro.plate("data", len(n)):
            pyro.sample("z", guide_of(loc[n], n))

    return model, guide


def diagonal(loc, n):
    return dist.Normal(loc, 0.1 + 0.1 * n[:, None] * torch.ones_like(loc)).to_event(1)


def full(loc, n):
    tril = torch.tensor([[0.5, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.3, 0.1, 0.3]])
    return dist.MultivariateNormal(loc, scale_tril=(1 + n[:, None, None]) * tril)


def low_rank(loc, n):
    """With one covariance for all data."""
    factor = torch.tensor([[0.5], [0.2], [-0.3]])
    return distributions.LowRankNormal(loc, factor, torch.full((3,), 0.2))


def penalty_of(objective, pair, n):
    terms = log_densities(*pair, torch.arange(n), num_particles=objective.num_particles)
    return objective(terms).values["covariance_penalty"]


@pytest.mark.parametrize("guide_of", [diagonal, full, low_rank])
@pytest.mark.parametrize("version", ["i", "ii"])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_penalty_is_the_papers(guide_of, version, num_particles):
    loc, n = torch.randn(6, 3), torch.arange(6)
    dip = DIP(off_diagonal=2.0, diagonal=3.0, version=version, num_particles=num_particles)
    found = penalty_of(dip, known(loc, guide_of, prior_scale=1.3), 6)
    c = np.cov(loc.double().numpy().T)
    if version == "ii":
        q = guide_of(loc, n)
        each = (
            np.stack([np.diag(v) for v in q.variance.numpy()])
            if guide_of is diagonal
            else np.broadcast_to(q.covariance_matrix.numpy(), (6, 3, 3))
        )
        c = c + each.mean(0)
    expected = sum(
        3 * (c[i, i] - 1.3**2) ** 2 if i == j else 2 * c[i, j] ** 2
        for i in range(3)
        for j in range(3)
    )
    torch.testing.assert_close(found, torch.full((6,), float(expected)), rtol=1e-5, atol=1e-6)


def test_an_independent_aggregate_of_unit_variance_has_no_penalty():
    """Means on the corners of a cube, orthogonal: of variance v over a batch, with guides of 1 - v."""
    corners = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0])])
    loc = 0.6 * corners
    rest = 1 - 0.6**2 * 8 / 7

    def guide_of(loc, n):
        return dist.Normal(loc, math.sqrt(rest) * torch.ones_like(loc)).to_event(1)

    assert penalty_of(DIP(), known(loc, guide_of), 8).max() < 1e-9
    ones = corners * math.sqrt(7 / 8)
    assert penalty_of(DIP(version="i"), known(ones, guide_of), 8).max() < 1e-9
    assert penalty_of(DIP(), known(ones, guide_of), 8).min() > 0.1


def test_default_weights_are_the_papers():
    for version, ratio in (("i", 10), ("ii", 1)):
        dip = DIP(off_diagonal=3.0, version=version)
        assert (float(dip.off_diagonal), float(dip.diagonal)) == (3, 3 * ratio)


def a_pair(posterior="diagonal_normal", prior=None, n=6, **options):
    posterior = POSTERIORS[posterior]
    prior = prior or next(p for p in PRIORS.values() if p.support == posterior.support)
    vae = build((4, 4), latent_dim=4, prior=prior, posterior=posterior)
    x = torch.bernoulli(torch.full((n, 4, 4), 0.3))
    return vae, log_densities(vae.model, vae.guide, x, **options)


def test_the_loss_is_the_elbos_plus_the_penalty():
    _, terms = a_pair()
    dip, elbo = DIP()(terms), ELBO()(terms)
    torch.testing.assert_close(dip.loss, elbo.loss + dip.values["covariance_penalty"])
    for name in ("elbo", "reconstruction", "kl"):
        assert (dip.values[name] == elbo.values[name]).all()
    assert not any(logged.requires_grad for logged in dip.values.values())
    torch.testing.assert_close(DIP(off_diagonal=0.0)(terms).loss, elbo.loss)


@pytest.mark.parametrize("version", ["i", "ii"])
@pytest.mark.parametrize(
    "posterior",
    [
        *("diagonal_normal", "full_normal", "low_rank_normal", "laplace", "student_t"),
        *("batch_normalised", "committed_rate", "gamma", "log_normal", "beta", "spike_and_slab"),
    ],
)
def test_the_penalty_reaches_the_encoder(posterior, version):
    vae, terms = a_pair(posterior)
    penalty = DIP(version=version)(terms).loss - ELBO()(terms).loss
    gradients = torch.autograd.grad(
        penalty.sum(), [*vae.posterior.parameters()], allow_unused=True
    )
    assert all(g is None or g.isfinite().all() for g in gradients)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize("version", ["i", "ii"])
def test_a_batch_of_one_has_no_penalty(version):
    _, terms = a_pair(n=1)
    torch.testing.assert_close(DIP(version=version)(terms).loss, ELBO()(terms).loss)


@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        ("coupling_flow", "covariances of z's coordinates .* site 'z' is a NormalFlow"),
        ("inverse_autoregressive", "covariances of z's coordinates .* site 'z' is a NormalFlow"),
        ("dirichlet", "may vary freely, but site 'z' is a InteriorDirichlet"),
        ("logistic_normal", "may vary freely"),
        ("power_spherical", "may vary freely"),
        ("von_mises_fisher", "may vary freely"),
        ("one_hot", "may vary freely"),
    ],
)
def test_guides_without_moments_are_refused(posterior, message):
    with pytest.raises(ValueError, match=message):
        DIP()(a_pair(posterior)[1])


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (priors.Flow, "a NormalFlow, is not known"),
        (partial(priors.StudentT, df=2.0), "an? Independent, is not finite"),
        (partial(priors.StudentT, df=1.0), "an? Independent, is not finite"),
    ],
)
def test_priors_without_a_variance_are_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        DIP()(a_pair(prior=prior)[1])


def test_guides_without_a_variance_are_refused_where_it_is_needed():
    heavy = partial(posteriors.StudentT, df=1.5)
    vae = build((4, 4), latent_dim=3, posterior=heavy)
    terms = log_densities(vae.model, vae.guide, torch.zeros(5, 4, 4))
    with pytest.raises(ValueError, match="a guide with finite moments, but those of site 'z'"):
        DIP()(terms)
    assert DIP(version="i")(terms).loss.isfinite().all()


@pytest.mark.parametrize("prior", ["gaussian_mixture", "laplace", "student_t", "logistic"])
def test_priors_with_a_variance_are_served(prior):
    _, terms = a_pair(prior=PRIORS[prior])
    assert DIP()(terms).loss.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"off_diagonal": -1.0}, "off_diagonal must be at least 0 and finite, got -1.0"),
        ({"diagonal": math.nan}, "diagonal must be at least 0 and finite, got nan"),
        ({"version": "iii"}, "version must be one of i, ii, got 'iii'"),
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"kl": "exact"}, "kl must be one of auto, monte_carlo, got 'exact'"),
    ],
)
def test_options_out_of_range_are_refused(options, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        DIP(**options)
