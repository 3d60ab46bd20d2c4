"""Models with codes off the real line: known evidence, wrong options, and one prior that learns."""

import math
import runpy
from functools import partial
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import networks, posteriors, priors
from pyro_vae.distributions import OneHots
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.log_densities import log_densities
from pyro_vae.model import VAE, build
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO

SCRIPT = Path(__file__).parents[1] / "scripts" / "svi_train.py"
INFINITY = math.inf


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---- known evidence --------------------------------------------------------------------------


class Table(nn.Module):
    """A decoder: the row of a table that a one-hot code selects, summed over variables."""

    def __init__(self, latent_dim, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(latent_dim, *shape))

    def forward(self, z):
        return torch.tensordot(z, self.weight, 1)


class Exact(nn.Module):
    """An encoder whose outputs are log p(x, z) of each value of the one variable."""

    def __init__(self, prior, likelihood):
        super().__init__()
        self.prior, self.likelihood = prior, likelihood

    def forward(self, x):
        vertices = torch.eye(self.prior.latent_dim)
        likelihood = self.likelihood(vertices).log_prob(x.unsqueeze(-2))
        return (self.prior().log_prob(vertices) + likelihood).unsqueeze(-2)


@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
def test_exact_posterior_of_a_one_hot_code_gives_the_evidence(kl):
    prior = priors.OneHot(5, learned=True)
    nn.init.normal_(prior.logits)
    likelihood = Bernoulli((3,), partial(Table, 5))
    exact = Exact(prior, likelihood)
    vae = VAE(prior, likelihood, posteriors.OneHot(5, lambda shape: exact))
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    evidence = exact(x).logsumexp((-2, -1))
    torch.testing.assert_close(evidence.exp().sum(), torch.ones(()))
    terms = log_densities(vae.model, vae.guide, x, num_particles=30)
    torch.testing.assert_close(terms.log_weight, evidence.expand(30, 8), atol=1e-5, rtol=0)
    if kl == "monte_carlo":
        loss = ELBO(num_particles=30, kl=kl)(terms).loss
        torch.testing.assert_close(-loss, evidence, atol=1e-5, rtol=0)
    else:
        # E_q of the likelihood is a mean over draws: its own enumeration is exact.
        q = vae.posterior(x)
        inner = likelihood(torch.eye(5)).log_prob(x.unsqueeze(-2))
        bound = (q.mean * inner).sum(-1) - kl_divergence(q, prior())
        torch.testing.assert_close(bound, evidence, atol=1e-5, rtol=0)


def test_any_other_posterior_gives_less():
    prior, likelihood = priors.OneHot(5), Bernoulli((3,), partial(Table, 5))
    exact = Exact(prior, likelihood)
    vae = VAE(prior, likelihood, posteriors.OneHot(5, lambda shape: MLP((3,), shape)))
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    terms = log_densities(vae.model, vae.guide, x, num_particles=20_000)
    evidence = exact(x).logsumexp((-2, -1))
    assert (terms.log_weight.mean(0) < evidence).all()
    weighted = terms.log_weight.logsumexp(0) - math.log(20_000)
    torch.testing.assert_close(weighted, evidence, atol=0.05, rtol=0)


WEIGHT, OFFSET, NOISE = 1.3, 0.4, 0.5


class Linear(nn.Module):
    """p(x | z) = N(x | w z + b, sigma^2)."""

    support = "real"

    def forward(self, z):
        return dist.Normal(WEIGHT * z + OFFSET, NOISE).to_event(1)


class Said(nn.Module):
    """An encoder that says what a function of x does."""

    def __init__(self, function, shape):
        super().__init__()
        self.function = function

    def forward(self, x):
        return torch.stack(self.function(x), -2)


def spike_and_slab(widened):
    """A linear model with a spike and slab prior, its exact posterior, or one that is widened."""
    prior = priors.SpikeAndSlab(1, inclusion=0.3, scale=1.5)
    precision = 1 / 1.5**2 + WEIGHT**2 / NOISE**2

    def code(x):
        slab = dist.Normal(OFFSET, math.sqrt(NOISE**2 + (WEIGHT * 1.5) ** 2)).log_prob(x)
        spike = dist.Normal(OFFSET, NOISE).log_prob(x)
        logits = math.log(0.3 / 0.7) + slab - spike
        loc = WEIGHT * (x - OFFSET) / NOISE**2 / precision
        scale = torch.full_like(x, precision**-0.5)
        if widened:
            logits, loc, scale = logits / 2 + 0.3, loc + 0.2, 1.5 * scale
        # What softplus gives back, less the floor.
        return logits, loc, (scale - posteriors.MINIMUM_SCALE).expm1().log()

    def log_evidence(x):
        slab = dist.Normal(OFFSET, math.sqrt(NOISE**2 + (WEIGHT * 1.5) ** 2)).log_prob(x)
        spike = dist.Normal(OFFSET, NOISE).log_prob(x)
        return torch.logaddexp(math.log(0.3) + slab, math.log(0.7) + spike).squeeze(-1)

    posterior = posteriors.SpikeAndSlab(1, lambda shape: Said(code, shape))
    return VAE(prior, Linear(), posterior), log_evidence


X = torch.tensor([[-3.0], [-0.5], [0.4], [0.9], [2.5]])


def test_exact_posterior_of_a_spike_and_slab_gives_the_evidence():
    vae, log_evidence = spike_and_slab(widened=False)
    terms = log_densities(vae.model, vae.guide, X, num_particles=200)
    torch.testing.assert_close(terms.log_weight, log_evidence(X).expand(200, 5), atol=2e-4, rtol=0)


def test_importance_weighting_of_a_spike_and_slab_is_its_evidence():
    vae, log_evidence = spike_and_slab(widened=True)
    draws = 200_000
    log_weight = log_densities(vae.model, vae.guide, X, num_particles=draws).log_weight
    evidence = log_evidence(X)
    assert (log_weight.mean(0) < evidence - 0.01).all()
    ratio = (log_weight - evidence).double().exp()
    error = ratio.std(0) / draws**0.5
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()
    assert error.max() < 0.01


# ---- wrong options ---------------------------------------------------------------------------


def encoder(shape):
    return MLP((3,), shape, hidden=(4,))


NOT_POSITIVE = [(value, "must be above 0 and finite") for value in (0.0, -1.0, INFINITY, math.nan)]
WRONG = [
    *[
        (part, 3, {option: value}, rf"{option} {message}, got {value}\.")
        for part, options in {
            priors.LogNormal: ["scale"],
            priors.Gamma: ["concentration", "rate"],
            priors.Beta: ["concentration1", "concentration0"],
            priors.Dirichlet: ["concentration"],
            priors.LogisticNormal: ["concentration"],
            priors.SpikeAndSlab: ["scale"],
            posteriors.SpikeAndSlab: ["temperature"],
            posteriors.OneHot: ["temperature"],
        }.items()
        for option in options
        for value, message in NOT_POSITIVE
    ],
    *[
        (priors.LogNormal, 3, {"loc": value}, rf"loc must be finite, got {value}\.")
        for value in (INFINITY, math.nan)
    ],
    *[
        (priors.SpikeAndSlab, 3, {"inclusion": value}, rf"between 0 and 1, got {value}\.")
        for value in (0.0, 1.0, -0.5, math.nan)
    ],
    *[
        (part, 12, {"values": value}, rf"divide latent_dim = 12, got {value}\.")
        for part in (priors.OneHot, posteriors.OneHot)
        for value in (5, 1, 0, -4, 24)
    ],
    *[
        (part, latent_dim, {}, rf"latent_dim must be at least {least}, got {latent_dim}\.")
        for least, parts in {
            1: [
                *(priors.LogNormal, priors.Gamma, priors.Beta, priors.SpikeAndSlab),
                *(posteriors.LogNormal, posteriors.Gamma, posteriors.Beta),
                posteriors.SpikeAndSlab,
            ],
            2: [
                *(priors.Dirichlet, priors.LogisticNormal),
                *(posteriors.Dirichlet, posteriors.LogisticNormal),
            ],
        }.items()
        for part in parts
        for latent_dim in (least - 1, -3)
    ],
    *[
        (part, latent_dim, {}, rf"latent_dim .*got {latent_dim}\.")
        for part in (priors.OneHot, posteriors.OneHot)
        for latent_dim in (1, 0, -2)
    ],
]


@pytest.mark.parametrize(("part", "latent_dim", "options", "message"), WRONG)
def test_wrong_options(part, latent_dim, options, message):
    if part in posteriors.POSTERIORS.values():
        options = {**options, "encoder": encoder}
    with pytest.raises(ValueError, match=message):
        part(latent_dim, **options)


# ---- several discrete variables --------------------------------------------------------------


def one_hots(p, q, latent_dim=12):
    return build(
        (3,),
        latent_dim,
        prior=partial(priors.OneHot, values=p),
        posterior=partial(posteriors.OneHot, values=q),
        network=partial(MLP, hidden=(4,)),
    )


def test_several_variables():
    vae = one_hots(4, 4)
    x = torch.ones(5, 3)
    z = vae.posterior(x).sample()
    assert z.shape == (5, 12)
    torch.testing.assert_close(z.view(5, 3, 4).sum(-1), torch.ones(5, 3))
    torch.testing.assert_close(vae.embed(x).view(5, 3, 4).sum(-1), torch.ones(5, 3))
    torch.testing.assert_close(vae.prior().log_prob(z), torch.full((5,), -3 * math.log(4)))


def test_values_that_differ():
    with pytest.raises(ValueError, match="same values: OneHot has 4, OneHot has 6"):
        one_hots(4, 6)
    with pytest.raises(ValueError, match="same values: OneHot has 4, OneHot has 12"):
        one_hots(4, None)


def program(*arguments):
    return runpy.run_path(str(SCRIPT))["main"]([str(a) for a in arguments])


CODES = ["--prior", "one_hot", "--posterior", "one_hot", "--network.hidden", "[8]"]


@pytest.mark.slow
def test_several_variables_on_the_command_line(tmp_path):
    options = ["--latent-dim", "12", "--prior.values", "4", "--posterior.values", "4"]
    out = tmp_path / "run"
    assert (
        program(*CODES, *options, "--prior.learned", "true", "--max-steps", 2, "--out", out) == 0
    )
    assert "NaN" not in (out / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prior.values=4", "--posterior.values=6"], "same values: OneHot has 4, OneHot has 6"),
        (["--prior.values=4"], "same values: OneHot has 4, OneHot has 12"),
        (["--prior.values=5", "--posterior.values=5"], "divide latent_dim = 12, got 5"),
    ],
)
def test_wrong_values_are_one_line(tmp_path, capsys, options, message):
    out = tmp_path / "run"
    assert program(*CODES, "--latent-dim=12", *options, "--max-steps=2", "--out", out) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not out.exists()


def test_a_learned_prior_learns_the_shares_of_its_values():
    """At fixed posteriors, the KL's optimum in p is their mean, the aggregate posterior."""
    prior = priors.OneHot(6, values=3, learned=True)
    assert [name for name, _ in prior.named_parameters()] == ["logits"]
    assert "logits" in prior.state_dict()
    assert not list(priors.OneHot(6, values=3).parameters())
    q = OneHots(torch.randn(10, 2, 3))
    optimiser = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        kl_divergence(q, prior().expand((10,))).sum().backward()
        optimiser.step()
    torch.testing.assert_close(prior().mean, q.mean.mean(0), atol=1e-3, rtol=0)


# ---- a decoder of shares ---------------------------------------------------------------------


def test_a_decoder_reads_uniform_shares_as_standard():
    z = priors.Dirichlet(8)().sample((50_000,))
    read = networks.on_simplex_scale(lambda shape: nn.Identity())((8,))(z)
    torch.testing.assert_close(read.mean(0), torch.zeros(8), atol=0.03, rtol=0)
    torch.testing.assert_close(read.var(0), torch.full((8,), 7 / 8), atol=0.03, rtol=0)


@pytest.mark.parametrize(("support", "scaled"), [("simplex", True), ("unit", False)])
def test_only_decoders_of_shares_do(support, scaled):
    prior = next(part for part in priors.PRIORS.values() if part.support == support)
    posterior = next(part for part in posteriors.POSTERIORS.values() if part.support == support)
    vae = build((3,), 4, prior=prior, posterior=posterior)
    found = any(isinstance(part, networks.SimplexScale) for part in vae.modules())
    assert found == scaled
