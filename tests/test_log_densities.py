"""The per-datum terms of any pair."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae.log_densities import distribution_at, log_densities
from pyro_vae.model import build
from pyro_vae.priors import GaussianMixture


def binary(n=5):
    """Binary images of 4 x 4."""
    return torch.bernoulli(torch.full((n, 4, 4), 0.3))


def chain(x):
    """z2 ~ p(z2), z1 ~ p(z1 | z2), x ~ p(x | z1), and another observed site."""
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
        z1 = pyro.sample("z1", dist.Normal(z2, 0.5))
        pyro.sample("x", dist.Normal(z1, 1.0), obs=x)
        pyro.sample("y", dist.Normal(z2, 2.0), obs=x)


def chain_guide(x):
    """Independent normals."""
    with pyro.plate("data", len(x)):
        pyro.sample("z2", dist.Normal(x / 2, 1.0))
        pyro.sample("z1", dist.Normal(x, 1.0))


def pixels(x):
    """A latent of the datum and, in a plate of its own, one of each pixel."""
    with pyro.plate("data", len(x), dim=-2):
        scale = pyro.sample("s", dist.LogNormal(torch.zeros(1), 1.0))
        with pyro.plate("pixels", x.shape[-1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, scale), obs=x)


def pixels_guide(x):
    """Without x."""
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("s", dist.LogNormal(torch.zeros(1), 1.0))
        with pyro.plate("pixels", x.shape[-1], dim=-1):
            pyro.sample("z", dist.Normal(0.1, 2.0))


@pytest.mark.parametrize("num_particles", [1, 3])
def test_terms_are_those_of_the_three_distributions(num_particles):
    vae, x = build((4, 4), latent_dim=2), binary()
    terms = log_densities(vae.model, vae.guide, x, num_particles=num_particles)
    z = terms.guide_trace.nodes["z"]["value"]
    assert z.shape == (num_particles, 5, 2)
    for actual, expected in (
        (terms.log_likelihood, vae.likelihood(z).log_prob(x)),
        (terms.log_prior, vae.prior().log_prob(z)),
        (terms.log_posterior, vae.posterior(x).log_prob(z)),
    ):
        assert actual.shape == (num_particles, 5)
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        terms.log_weight, terms.log_likelihood + terms.log_prior - terms.log_posterior
    )


def test_particles_differ():
    vae = build((4, 4), latent_dim=2)
    log_posterior = log_densities(vae.model, vae.guide, binary(), num_particles=2).log_posterior
    assert not torch.allclose(log_posterior[0], log_posterior[1])


def test_terms_are_summed_over_sites_and_kept_by_site():
    x = torch.randn(5)
    terms = log_densities(chain, chain_guide, x, num_particles=3)
    assert list(terms.model_sites) == ["z2", "z1", "x", "y"]
    assert list(terms.guide_sites) == ["z2", "z1"]
    model, guide = terms.model_sites, terms.guide_sites
    torch.testing.assert_close(terms.log_likelihood, model["x"] + model["y"])
    torch.testing.assert_close(terms.log_prior, model["z1"] + model["z2"])
    torch.testing.assert_close(terms.log_posterior, guide["z1"] + guide["z2"])
    z1, z2 = (terms.guide_trace.nodes[site]["value"] for site in ("z1", "z2"))
    torch.testing.assert_close(model["z1"], dist.Normal(z2, 0.5).log_prob(z1))
    torch.testing.assert_close(model["x"], dist.Normal(z1, 1.0).log_prob(x))


def test_nested_plates_are_summed_by_datum():
    x = torch.randn(5, 7)
    terms = log_densities(pixels, pixels_guide, x, num_particles=3, max_plate_nesting=2)
    z, s = (terms.guide_trace.nodes[site]["value"] for site in ("z", "s"))
    assert z.shape == (3, 5, 7)
    log_likelihood = dist.Normal(z, s).log_prob(x).sum(-1)
    torch.testing.assert_close(terms.log_likelihood, log_likelihood)
    torch.testing.assert_close(terms.guide_sites["z"], dist.Normal(0.1, 2.0).log_prob(z).sum(-1))
    assert all(site.shape == (3, 5) for site in terms.model_sites.values())


def test_a_plate_left_of_the_data_is_summed_too():
    def model(x):
        with pyro.plate("repeats", 4, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        pass

    x = torch.randn(5)
    terms = log_densities(model, guide, x, num_particles=3, max_plate_nesting=2)
    expected = 4 * dist.Normal(0.0, 1.0).log_prob(x).expand(3, 5)
    torch.testing.assert_close(terms.log_likelihood, expected)
    assert not terms.log_prior.any()
    assert not terms.log_posterior.any()


def test_a_site_outside_the_data_plate_is_refused():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="site 'loc' is not"):
        log_densities(model, guide, torch.randn(5))


def test_terms_are_unscaled():
    vae, x = build((4, 4), latent_dim=2), binary()
    weights = []
    for scale in (1.0, 10.0):
        torch.manual_seed(0)
        model, guide = (poutine.scale(program, scale) for program in (vae.model, vae.guide))
        weights.append(log_densities(model, guide, x).log_weight)
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_closed_form_kl_of_a_conditional_latent_is_by_particle():
    x = torch.randn(5)
    terms = log_densities(chain, chain_guide, x, num_particles=3)
    z2 = terms.guide_trace.nodes["z2"]["value"]
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(x.expand(3, 5), 1.0), torch.distributions.Normal(z2, 0.5)
    )
    torch.testing.assert_close(terms.closed_form_kl("z1"), expected)


def test_closed_form_kl_is_taken_once_for_all_particles():
    vae, x = build((4, 4), latent_dim=2), binary()
    terms = log_densities(vae.model, vae.guide, x, num_particles=6)
    kl = terms.closed_form_kl("z")
    assert kl is not None
    assert kl.shape == (6, len(x))
    assert kl.stride(0) == 0
    expected = torch.distributions.kl_divergence(vae.posterior(x), vae.prior())
    torch.testing.assert_close(kl, expected.expand(6, -1))


def test_closed_form_kl_is_none_where_there_is_none():
    vae = build((4, 4), latent_dim=2, prior=GaussianMixture)
    assert log_densities(vae.model, vae.guide, binary()).closed_form_kl("z") is None
    # The pixels' KLs are not summed by datum, so they are not handed out as if they were.
    terms = log_densities(pixels, pixels_guide, torch.randn(5, 7), max_plate_nesting=2)
    assert terms.closed_form_kl("z") is None


def test_distribution_at_a_site_is_expanded():
    vae = build((4, 4), latent_dim=2)
    terms = log_densities(vae.model, vae.guide, binary(), num_particles=3)
    assert distribution_at(terms.model_trace, "z").batch_shape == (3, 5)


def test_the_score_is_what_the_whole_gradient_has_beyond_the_path():
    """For N(mu, sigma): the path of log q is -1 / sigma in sigma, and nothing in mu."""
    loc, scale = torch.zeros(5, 2, requires_grad=True), torch.full((5, 2), 0.7, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    terms = log_densities(model, guide, torch.randn(5), num_particles=3)
    score = terms.log_posterior_at_fixed_draws()
    assert torch.equal(score, terms.log_posterior)
    (z,) = terms.draws
    z = z.detach()
    of_score = torch.autograd.grad(score.sum(), [loc, scale], retain_graph=True)
    torch.testing.assert_close(of_score[0], ((z - loc) / scale**2).sum(0))
    torch.testing.assert_close(of_score[1], (((z - loc) / scale) ** 2 - 1).sum(0) / scale)
    whole = torch.autograd.grad(terms.log_posterior.sum(), [loc, scale])
    torch.testing.assert_close(whole[0], torch.zeros(5, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[1], -3 / scale)


def test_only_the_models_densities_depend_on_the_models_draws():
    vae = build((4, 4), latent_dim=3)
    terms = log_densities(vae.model, vae.guide, torch.ones(5, 4, 4), num_particles=2)
    (z,) = terms.draws
    (at_model,) = torch.autograd.grad(terms.log_prior.sum(), z, retain_graph=True)
    torch.testing.assert_close(at_model, -z)
    (at_guide,) = torch.autograd.grad(
        terms.log_posterior.sum(), z, allow_unused=True, retain_graph=True
    )
    assert at_guide is None


def test_the_score_of_one_of_several_sites_cannot_be_told_apart():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))

    terms = log_densities(model, guide, torch.randn(5))
    with pytest.raises(ValueError, match="got the sites a, b"):
        terms.log_posterior_at_fixed_draws()
