"""What every entry of the dictionaries must do. A new part is covered the moment it is registered."""

import copy
import inspect
import math
from functools import partial

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.inference_data import from_svi
from pyro_vae.log_densities import log_densities
from pyro_vae.model import build
from pyro_vae.objectives import OBJECTIVES

EVENT_SHAPE = (1, 2, 2)
LATENT_DIM = 2
LEVELS = 4
PRIORS, LIKELIHOODS = priors.PRIORS, likelihoods.LIKELIHOODS
POSTERIORS, NETWORKS = posteriors.POSTERIORS, networks.NETWORKS


def data(support: str, n: int = 5) -> torch.Tensor:
    """Data on a likelihood's support."""
    uniform = torch.rand(n, *EVENT_SHAPE)
    return {
        "binary": (uniform < 0.5).float(),
        "unit": uniform,
        "real": 4 * uniform - 2,
        "integers": (uniform * LEVELS).floor(),
        "counts": (uniform * 9).floor(),
    }[support]


def grid(support: str, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points over the support of one variable, and what each of them weighs in a sum."""
    low, high = {
        "real": (-40.0, 40.0),
        "unit": (0.0, 1.0),
        "positive": (-14.0, 8.0),  # of log z
        "sparse": (-40.0, 40.0),
    }[support]
    width = (high - low) / points
    line = low + width * (torch.arange(points) + 0.5)
    if support == "positive":
        return line.exp(), width * line.exp()
    weight = torch.full((points,), width)
    if support == "sparse":
        # An atom at 0 beside the density.
        return torch.cat([torch.zeros(1), line]), torch.cat([torch.ones(1), weight])
    return line, weight


def plane(support: str, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points over a support with a latent_dim of two, and what each of them weighs in a sum."""
    if support == "one_hot":
        return torch.eye(2), torch.ones(2)
    if support == "simplex":
        line, weight = grid("unit", points**2)
        return torch.stack([line, 1 - line], -1), weight
    if support == "sphere":
        angles = 2 * math.pi * torch.arange(points) / points
        return torch.stack([angles.cos(), angles.sin()], -1), torch.full_like(
            angles, 2 * math.pi / points
        )
    line, weight = grid(support, points)
    return torch.cartesian_prod(line, line), torch.cartesian_prod(weight, weight).prod(-1)


def mass(
    distribution: torch.distributions.Distribution, support: str, points: int
) -> torch.Tensor:
    """The mass of a density with a latent_dim of two, by the midpoint rule, for each batch element."""
    z, weight = plane(support, points)
    batch = distribution.batch_shape
    z = z.reshape(-1, *[1] * len(batch), 2).expand(-1, *batch, 2)
    weight = weight.reshape(-1, *[1] * len(batch))
    return (distribution.log_prob(z).detach().exp() * weight).sum(0)


def partner(parts: dict[str, type[nn.Module]], support: str) -> type[nn.Module]:
    """The first part of a support."""
    return next(part for part in parts.values() if part.support == support)


def class_of(part):
    return part.func if isinstance(part, partial) else part


def assert_gradients(module: nn.Module, loss: torch.Tensor) -> None:
    loss.backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def assert_round_trip(module: nn.Module, other: nn.Module) -> None:
    """A `state_dict` carries everything: loaded into another instance, it is the same function."""
    other.load_state_dict(module.state_dict())
    for (name, mine), (_, yours) in zip(
        module.state_dict().items(), other.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(mine, yours, rtol=0, atol=0, msg=name)


def small(part):
    """A class with small networks and few components, where it has such options."""
    options = {}
    if isinstance(part, type):
        asked = inspect.signature(part).parameters
        if "hidden" in asked:
            options["hidden"] = 8 if isinstance(asked["hidden"].default, int) else (8,)
        if "components" in asked:
            options["components"] = 4
    return partial(part, **options) if options else part


def a_vae(**parts: type[nn.Module]):
    """A small VAE of these parts. Where they leave a choice, a prior and a posterior that fit."""
    parts = {family: small(part) for family, part in parts.items()}
    if "prior" in parts and "posterior" not in parts:
        parts["posterior"] = partner(POSTERIORS, class_of(parts["prior"]).support)
    if "posterior" in parts and "prior" not in parts:
        parts["prior"] = partner(PRIORS, class_of(parts["posterior"]).support)
    hidden = partial(networks.MLP, hidden=(8,))
    return build(EVENT_SHAPE, LATENT_DIM, network=hidden, levels=LEVELS, **parts)


@pytest.mark.parametrize("name", PRIORS)
def test_prior(name):
    vae = a_vae(prior=PRIORS[name])
    prior = vae.prior
    p = prior()
    assert p.batch_shape == ()
    assert p.event_shape == (LATENT_DIM,)
    z = p.sample((7,))
    assert z.shape == (7, LATENT_DIM)
    assert p.support.check(z).all()
    assert p.expand((4, 7)).log_prob(z.expand(4, 7, LATENT_DIM)).shape == (4, 7)
    assert mass(p, prior.support, 400) == pytest.approx(1, abs=1e-2)
    if list(prior.parameters()):
        assert_gradients(prior, -p.log_prob(z).sum())
    assert_round_trip(vae, a_vae(prior=PRIORS[name]))
    twin = copy.deepcopy(vae)
    torch.testing.assert_close(twin.prior().log_prob(z), vae.prior().log_prob(z))


@pytest.mark.parametrize("name", POSTERIORS)
def test_posterior(name):
    vae = a_vae(posterior=POSTERIORS[name])
    posterior = vae.posterior
    x = data("binary")
    q = posterior(x)
    assert q.batch_shape == (5,)
    assert q.event_shape == (LATENT_DIM,)
    assert q.has_rsample
    z = q.rsample((3,))
    assert q.support.check(z).all()
    assert q.expand((3, 5)).log_prob(z).shape == (3, 5)
    if name in posteriors.WITH_DENSITY:
        total = mass(posterior(x[:2]), posterior.support, 300)
        torch.testing.assert_close(total, torch.ones(2), atol=1e-2, rtol=0)
    assert posterior.embed(x).shape == (5, LATENT_DIM)
    # Leading axes are free, and a datum's posterior does not depend on them.
    torch.testing.assert_close(posterior.embed(x.expand(2, *x.shape))[1], posterior.embed(x))
    assert_gradients(posterior, (z.square().sum() - q.log_prob(z).sum()))
    assert_round_trip(vae, a_vae(posterior=POSTERIORS[name]))


def likelihood_cases():
    for name, part in LIKELIHOODS.items():
        yield pytest.param(part, {}, id=name)
    for scale in ("fixed", "element", "decoded"):
        yield pytest.param(likelihoods.Normal, {"scale": scale}, id=f"normal-{scale}")
    for part in (likelihoods.NegativeBinomial, likelihoods.ZeroInflatedNegativeBinomial):
        for library in (False, True):
            options = {"dispersion": "decoded", "library": library}
            yield pytest.param(part, options, id=f"{part.__name__}-decoded-{library}")


@pytest.mark.parametrize(("part", "options"), list(likelihood_cases()))
def test_likelihood(part, options):
    vae = a_vae(likelihood=partial(part, **options) if options else part)
    likelihood = vae.likelihood
    z = torch.randn(3, 5, LATENT_DIM)
    p = likelihood(z)
    assert p.batch_shape == (3, 5)
    assert p.event_shape == EVENT_SHAPE
    assert p.mean.shape == (3, 5, *EVENT_SHAPE)
    assert vae.decode(z).shape == (3, 5, *EVENT_SHAPE)
    assert p.expand((2, 3, 5)).batch_shape == (2, 3, 5)
    x = data(likelihood.support).expand(3, 5, *EVENT_SHAPE)
    assert p.support.check(x).all()
    assert p.support.check(p.sample()).all()
    assert_gradients(likelihood, -p.log_prob(x).sum())
    assert_round_trip(vae, a_vae(likelihood=partial(part, **options) if options else part))


@pytest.mark.parametrize(("part", "options"), list(likelihood_cases()))
def test_likelihood_has_mass_one(part, options):
    """With one element, over its support; given a total, with two elements that share it."""
    given_total = getattr(part, "given_total", False)
    part = partial(part, **options)
    event_shape = (2,) if given_total else (1,)
    vae = build(event_shape, LATENT_DIM, likelihood=part, network=networks.MLP, levels=LEVELS)
    p = vae.likelihood(torch.randn(4, LATENT_DIM))
    support = vae.likelihood.support
    whole = {"binary": 2, "integers": LEVELS, "counts": 2000}
    if support in whole:
        points = torch.arange(float(whole[support]))
        weight = torch.ones_like(points)
    else:
        points, weight = grid(support, 20_000)
    x = points[:, None]
    if given_total:
        total_count = 40
        x = torch.stack([points, total_count - points], -1)[: total_count + 1]
        weight = weight[: total_count + 1]
    density = p.log_prob(x[:, None].expand(-1, 4, -1)).exp()
    total = (density * weight[:, None]).sum(0)
    torch.testing.assert_close(total, torch.ones(4), atol=1e-3, rtol=0)


FAMILIES = {"prior": PRIORS, "likelihood": LIKELIHOODS, "posterior": POSTERIORS}


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, parts in FAMILIES.items() for name in parts]
)
def test_prior_predictive_and_export(family, name):
    """New data come from the model alone, and everything goes into the tree that ArviZ reads."""
    vae = a_vae(**{family: FAMILIES[family][name]})
    x = data(vae.likelihood.support)
    new = Predictive(poutine.uncondition(vae.model), num_samples=3)(x)
    assert new["z"].shape == (3, 5, LATENT_DIM)
    assert new["x"].shape == (3, *x.shape)
    assert vae.likelihood(new["z"]).support.check(new["x"]).all()
    tree = from_svi(vae.model, vae.guide, x, num_draws=4, num_prior_draws=2)
    assert tree["posterior"]["z"].shape == (1, 4, 5, LATENT_DIM)
    assert tree["prior_predictive"]["x"].shape == (1, 2, *x.shape)
    for group in (
        "posterior",
        "sample_stats",
        "posterior_predictive",
        "prior",
        "prior_predictive",
    ):
        for values in tree[group].values():
            assert np.isfinite(values).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name):
    shapes = [((1, 8, 8), (2, 3)), ((3,), (2, 1, 8, 8))]  # an encoder, and a decoder
    for input_shape, output_shape in shapes:
        network = NETWORKS[name](input_shape, output_shape)
        x = torch.rand(2, 5, *input_shape)
        assert network(x).shape == (2, 5, *output_shape)
        torch.testing.assert_close(network(x)[1], network(x[1]))
        assert network(x[0, 0].round().int()).shape == output_shape
        assert_gradients(network, network(x).square().sum())
        assert_round_trip(network, NETWORKS[name](input_shape, output_shape))


# Objectives that cannot serve every pair, and say so.
REFUSES = ("stl", "dreg", "beta_tc", "factor", "dip")


def an_objective(name: str, **given: int):
    """An objective, handed what it asks for."""
    asked = inspect.signature(OBJECTIVES[name]).parameters
    small = {"critic_hidden": (8,)} if "critic_hidden" in asked else {}
    return OBJECTIVES[name](**{key: v for key, v in given.items() if key in asked}, **small)


def pairs():
    """Each prior with the first posterior of its support, and the reverse; all other pairs are slow."""
    for p, prior in PRIORS.items():
        for q, posterior in POSTERIORS.items():
            fits = prior.support == posterior.support
            if fits and (p != "vamp" or q in posteriors.WITH_DENSITY):
                firsts = (partner(PRIORS, prior.support), partner(POSTERIORS, prior.support))
                marks = () if {prior, posterior} & set(firsts) else pytest.mark.slow
                yield pytest.param(p, q, marks=marks)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("prior", "posterior"), list(pairs()))
def test_objective_reaches_every_parameter(prior, posterior, objective):
    vae = a_vae(prior=PRIORS[prior], posterior=POSTERIORS[posterior])
    maximised = an_objective(objective, train_size=5, latent_dim=vae.posterior.latent_dim)
    x = data("binary")
    terms = log_densities(vae.model, vae.guide, x, num_particles=maximised.num_particles)
    refusal = None
    try:
        value = maximised(terms)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert objective in REFUSES or posterior not in posteriors.WITH_DENSITY
        assert type(maximised).__name__ in refusal
        return
    assert value.loss.shape == (5,)
    for name, logged in value.values.items():
        assert logged.shape == (5,), name
        assert logged.isfinite().all(), name
        assert not logged.requires_grad, name
    # A loss without log p(z) leaves the prior as it is.
    trained = vae if maximised.uses_prior else nn.ModuleList([vae.likelihood, vae.posterior])
    assert_gradients(trained, value.loss.mean())


@pytest.mark.parametrize("family", [PRIORS, LIKELIHOODS, POSTERIORS])
def test_support_is_a_word(family):
    allowed = {
        "real",
        "positive",
        "unit",
        "simplex",
        "sphere",
        "one_hot",
        "sparse",
        "binary",
        "integers",
        "counts",
    }
    for part in family.values():
        assert part.support in allowed


def test_vamp_holds_one_copy_of_the_posterior():
    vae = a_vae(prior=priors.Vamp)
    assert not any(name.startswith("prior.") and "encoder" in name for name in vae.state_dict())
    assert len({id(p) for p in vae.parameters()}) == len(list(vae.parameters()))


def test_vamp_is_the_mixture_of_its_components():
    vae = a_vae(prior=partial(priors.Vamp, components=3))
    z = torch.randn(6, LATENT_DIM)
    q = vae.posterior(vae.prior.pseudo_inputs)
    expected = torch.logsumexp(q.log_prob(z[:, None]), 1) - math.log(3)
    torch.testing.assert_close(vae.prior().log_prob(z), expected)


def test_vamp_starts_from_training_data():
    x = data("binary", 20)
    vae = build(EVENT_SHAPE, LATENT_DIM, prior=partial(priors.Vamp, components=4), train_data=x)
    for start in vae.prior.pseudo_inputs:
        assert (x == start).flatten(1).all(1).any()
