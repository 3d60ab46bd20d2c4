"""Mixture priors: several places in the latent space where data may come from."""

import math
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import DiagonalNormalMixture
from pyro_vae.networks import running_statistics


def _check(latent_dim: int, components: int) -> None:
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
    if components < 1:
        raise ValueError(f"components must be at least 1, got {components}.")


class GaussianMixture(nn.Module):
    """p(z) = sum_k w_k N(z | mu_k, diag(sigma_k^2)), everything learned.

    Args:
        latent_dim: The dimension of z.
        components: The number K of components.

    Raises:
        ValueError: If `latent_dim` or `components` is below 1.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), section 2, https://arxiv.org/abs/1705.07120
    """

    support: ClassVar[str] = "real"

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__()
        _check(latent_dim, components)
        self.latent_dim = latent_dim
        self.logits = nn.Parameter(torch.zeros(components))
        # Spread like N(0, I), so that the untrained prior covers what an untrained guide gives.
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.raw_scale = nn.Parameter(torch.full((components, latent_dim), math.log(math.e - 1)))

    def forward(self) -> dist.Distribution:
        scale = F.softplus(self.raw_scale) + 1e-5
        return DiagonalNormalMixture(self.logits, self.loc, scale)


class Vamp(nn.Module):
    """p(z) = 1/K sum_k q(z | u_k): the aggregate posterior of K learned pseudo-inputs u_k.

    The posterior is the VAE's own and is not registered here a second time: a `state_dict` holds
    one copy of it, and its parameters are trained through both roles. Batch normalisation in it
    uses its running statistics for pseudo-inputs, which never enter them: `running_statistics` says
    why.

    Args:
        latent_dim: The dimension of z.
        posterior: The VAE's posterior, whose `posterior(u)` are the components.
        event_shape: The shape of a datum, and so of a pseudo-input.
        components: The number K of pseudo-inputs.
        train_data: Training data `(n, *event_shape)` in the likelihood's support; K of them, drawn
            at random, are the first pseudo-inputs. Without, they start uniform on [0, 1].

    Raises:
        ValueError: If `latent_dim` or `components` is below 1.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        posterior: nn.Module,
        event_shape: Sequence[int],
        components: int = 500,
        train_data: Real[Tensor, " n *event"] | None = None,
    ) -> None:
        super().__init__()
        _check(latent_dim, components)
        self.latent_dim = latent_dim
        # In a tuple, so that nn.Module does not see it.
        self._posterior = (posterior,)
        if train_data is None:
            start = torch.rand(components, *event_shape)
        else:
            rows = torch.randint(len(train_data), (components,))
            start = train_data[rows].to(torch.get_default_dtype())
        self.pseudo_inputs = nn.Parameter(start)

    def forward(self) -> dist.Distribution:
        (posterior,) = self._posterior
        with running_statistics(posterior):
            components = posterior(self.pseudo_inputs)
        logits = self.pseudo_inputs.new_zeros(len(self.pseudo_inputs))
        if isinstance(components, dist.Independent) and isinstance(
            normal := components.base_dist, dist.Normal
        ):
            return DiagonalNormalMixture(logits, normal.loc, normal.scale)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)
