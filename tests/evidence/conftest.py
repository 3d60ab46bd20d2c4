"""A VAE whose evidence is known in closed form."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from pyro_vae import likelihoods
from pyro_vae.model import VAE

NOISE = 0.5


class Affine(nn.Module):
    """W z + b, in the shape of a decoder's output."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weight.mT + self.bias).unsqueeze(-2)


class ScaledNormal(nn.Module):
    """p(z) = N(0, scale^2 I)."""

    support = "real"

    def __init__(self, latent_dim: int, scale: float) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.scale = scale

    def forward(self) -> dist.Distribution:
        zeros = torch.zeros(self.latent_dim)
        return dist.Normal(zeros, self.scale * torch.ones_like(zeros)).to_event(1)


class LinearPosterior(nn.Module):
    """p(z | x) of p(z) = N(0, I), p(x | z) = N(W z + b, s^2 I); its scale times `widen`."""

    support = "real"

    def __init__(self, weight: Tensor, bias: Tensor, widen: float) -> None:
        super().__init__()
        self.latent_dim = weight.shape[-1]
        precision = torch.eye(self.latent_dim) + weight.mT @ weight / NOISE**2
        covariance = precision.inverse()
        self.gain = covariance @ weight.mT / NOISE**2
        self.bias = bias
        self.scale_tril = widen * torch.linalg.cholesky(covariance)

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.MultivariateNormal(self.embed(x), scale_tril=self.scale_tril)

    def embed(self, x: Tensor) -> Tensor:
        return (x - self.bias) @ self.gain.mT


@dataclass(frozen=True)
class LinearGaussian:
    """A linear-Gaussian VAE, data drawn from it, and log p(x) by an independent formula."""

    vae: VAE
    x: Tensor
    log_evidence: np.ndarray


@pytest.fixture
def float64() -> Iterator[None]:
    """Exact identities are tested in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def linear_gaussian(float64: None) -> Callable[..., LinearGaussian]:
    """Build the VAE: of its parameters, all at 1 is the exact model with its exact posterior."""

    def build(
        n: int = 40,
        latent_dim: int = 3,
        features: int = 5,
        widen: float = 1.0,
        prior_scale: float = 1.0,
    ) -> LinearGaussian:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(features, latent_dim, generator=generator)
        bias = torch.randn(features, generator=generator)
        z = torch.randn(n, latent_dim, generator=generator)
        x = z @ weight.mT + bias + NOISE * torch.randn(n, features, generator=generator)

        decoder = Affine(weight, bias)
        vae = VAE(
            prior=ScaledNormal(latent_dim, prior_scale),
            likelihood=likelihoods.Normal(
                (features,), lambda _: decoder, scale="fixed", initial_scale=NOISE
            ),
            posterior=LinearPosterior(weight, bias, widen),
        )
        covariance = weight @ weight.mT + NOISE**2 * torch.eye(features)
        exact = scipy.stats.multivariate_normal(bias.numpy(), covariance.numpy())
        return LinearGaussian(vae, x, exact.logpdf(x.numpy()))

    return build
