"""A model file to copy: a prior written out, a real NVP flow, with the networks of the VampPrior.

`python scripts/svi_train.py --model scripts/examples/flow_prior.py --data mnist --latent-dim 40
--compile` trains it. On the command line alone `--prior flow` is such a prior; here its density is
below, to be changed. z = f(u), u ~ N(0, I), and f is a chain of affine couplings, which is easy to
invert: log p(z) = log N(f^-1(z)) - log |det df/du|.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae import VAE, distributions, likelihoods, networks, posteriors, priors


class Couplings(nn.Module):
    """f: couplings v <- v exp(s(w)) + t(w) of half of the coordinates, v, given the other half, w.

    A context, which a guide's flow would read, is not used.

    Args:
        dim: The number of coordinates, at least 2.
        couplings: The number of couplings.
        hidden: The width of the networks of s and t.

    References:
        Density Estimation Using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017),
        https://arxiv.org/abs/1605.08803
    """

    def __init__(self, dim: int, couplings: int, hidden: int) -> None:
        super().__init__()
        kept, moved = dim // 2, dim - dim // 2
        made = [networks.MLP((kept,), (2, moved), [hidden, hidden]) for _ in range(couplings)]
        for network in made:
            for parameter in network.head.parameters():
                nn.init.zeros_(parameter)  # f is the identity at first.
        self.networks = nn.ModuleList(made)
        self.kept = kept

    def forward(
        self, u: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """f(u) and log |det df/du|."""
        log_det = u.new_zeros(u.shape[:-1])
        for network in self.networks:
            w, v = u[..., : self.kept], u[..., self.kept :]
            s, t = network(w).unbind(-2)
            s = 2 * s.tanh()
            # In turn another half moves: the order is reversed after each coupling.
            u = torch.cat([w, v * s.exp() + t], -1).flip(-1)
            log_det = log_det + s.sum(-1)
        return u, log_det

    def inverse(
        self, z: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """f^-1(z), and log |det df/du| there."""
        log_det = z.new_zeros(z.shape[:-1])
        for network in reversed(self.networks):
            z = z.flip(-1)
            w, v = z[..., : self.kept], z[..., self.kept :]
            s, t = network(w).unbind(-2)
            s = 2 * s.tanh()
            z = torch.cat([w, (v - t) * (-s).exp()], -1)
            log_det = log_det + s.sum(-1)
        return z, log_det


class RealNVP(priors.Prior):
    """p(z) of z = f(u), u ~ N(0, I).

    Args:
        latent_dim: The dimension of z, at least 2.
        couplings: The number of couplings.
        hidden: The width of their networks.
    """

    support = "real"
    minimum_dim = 2

    def __init__(self, latent_dim: int, couplings: int = 8, hidden: int = 128) -> None:
        super().__init__(latent_dim)
        self.couplings = Couplings(latent_dim, couplings, hidden)

    def forward(self) -> dist.Distribution:
        """p(z)."""
        return distributions.NormalFlow(self.zeros, self.full(1.0), self.couplings)


def build(
    event_shape: Sequence[int],
    latent_dim: int = 40,
    *,
    prior: Callable[..., nn.Module] = RealNVP,
    likelihood: Callable[..., nn.Module] = likelihoods.Bernoulli,
    posterior: Callable[..., nn.Module] = posteriors.DiagonalNormal,
    network: Callable[..., nn.Module] = networks.GatedMLP,
) -> VAE:
    """A VAE with this prior from the classes of its parts; the defaults are the command line's.

    Args:
        event_shape: The shape of an image, `(channels, height, width)`.
        latent_dim: The dimension of z.
        prior: p(z).
        likelihood: Of binary images.
        posterior: q(z | x).
        network: The class of encoder and decoder.
    """
    return VAE(
        prior=prior(latent_dim),
        likelihood=likelihood(event_shape, partial(network, (latent_dim,))),
        posterior=posterior(latent_dim, partial(network, tuple(event_shape))),
    )
