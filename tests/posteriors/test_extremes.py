"""Whatever an encoder says, a posterior is a distribution, and the ELBO has a gradient."""

import pytest
import torch
from torch import nn

from pyro_vae import priors
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.log_densities import log_densities
from pyro_vae.model import VAE
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.posteriors import POSTERIORS, WITH_DENSITY

LATENT_DIM = 4
SAID = {
    "large": lambda n: torch.full((n,), 1e4),
    "small": lambda n: torch.full((n,), -1e4),
    "zero": torch.zeros,
    "both": lambda n: 1e4 * (-1.0) ** torch.arange(n),
    "one large": lambda n: torch.where(torch.arange(n) % LATENT_DIM == 1, 1e4, 0.0),
    "spread": lambda n: torch.linspace(-1e4, 1e4, n),
}


class Said(nn.Module):
    """An encoder whose outputs are the input's, repeated to fill the output shape."""

    def __init__(self, said, shape):
        super().__init__()
        self.shape = torch.Size(shape)
        self.outputs = nn.Parameter(said(self.shape.numel()))

    def forward(self, x):
        return self.outputs.reshape(self.shape).expand(*x.shape[:-1], *self.shape)


# A triangle with 1e4 below a diagonal of 1e-3 is singular in float32, and its density no number.
SINGULAR = ("full_normal", "small")
CASES = [(name, said) for name in POSTERIORS for said in SAID]
ELBOS = [
    (*case, kl)
    for case in CASES
    for kl in ("auto", "monte_carlo")
    if case[0] in WITH_DENSITY and (*case, kl) != (*SINGULAR, "monte_carlo")
]


def a_vae(name, said):
    posterior = POSTERIORS[name](LATENT_DIM, encoder=lambda shape: Said(SAID[said], shape))
    prior = next(p for p in priors.PRIORS.values() if p.support == posterior.support)
    likelihood = Bernoulli((3,), lambda shape: MLP((LATENT_DIM,), shape, hidden=(8,)))
    return VAE(prior(LATENT_DIM), likelihood, posterior)


@pytest.mark.parametrize(("name", "said"), CASES)
def test_posterior_at_extremes(name, said):
    torch.manual_seed(0)
    vae = a_vae(name, said)
    x = (torch.rand(6, 3) < 0.5).float()
    q = vae.posterior(x)
    z = q.rsample((50,))
    assert z.dtype == torch.float32
    assert z.isfinite().all()
    assert q.support.check(z).all()
    assert q.log_prob(z).isfinite().all() or (name, said) == SINGULAR
    assert vae.embed(x).isfinite().all()
    assert q.support.check(q.expand((2, 6)).sample()).all()


@pytest.mark.parametrize(("name", "said", "kl"), ELBOS)
def test_elbo_and_its_gradient_at_extremes(name, said, kl):
    torch.manual_seed(0)
    vae = a_vae(name, said)
    x = (torch.rand(6, 3) < 0.5).float()
    terms = log_densities(vae.model, vae.guide, x, num_particles=20)
    loss = ELBO(num_particles=20, kl=kl)(terms).loss
    assert loss.isfinite().all()
    loss.mean().backward()
    for parameter in vae.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert all(parameter.grad is not None for parameter in vae.posterior.parameters())
