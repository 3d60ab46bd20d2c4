"""Small VAEs with an exactly known posterior, without and with planted faults, to evaluate checks.

On data that the model generated, with the exact posterior as guide, a calibrated check rejects at
its nominal rate; with a fault in the model or the guide it should reject more often.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae import likelihoods
from pyro_vae.distributions import OneHots
from pyro_vae.model import VAE

# The default shape of an example.
IMAGE = (1, 8, 8)


@dataclass(frozen=True)
class LinearGaussian:
    """p(z) = N(0, I), p(x | z) = N(W z + b, s^2 I), for which p(z | x) and p(x) are normal.

    Args:
        event_shape: The shape of an example.
        latent_dim: The dimension of z.
        noise: s.
        seed: The seed of W and b.

    References:
        Pattern Recognition and Machine Learning (Bishop, 2006), section 12.2
    """

    event_shape: Sequence[int] = IMAGE
    latent_dim: int = 3
    noise: float = 0.5
    seed: int = 0

    @cached_property
    def weight(self) -> Float[Tensor, "elements latent"]:
        """W, with nearly orthogonal columns of length 2."""
        shape = (math.prod(self.event_shape), self.latent_dim)
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        return 2 * drawn / math.sqrt(shape[0])

    @cached_property
    def bias(self) -> Float[Tensor, " elements"]:
        """b."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(math.prod(self.event_shape), generator=generator)

    def vae(
        self,
        *,
        noise_ratio: float = 1.0,
        collapsed: bool = False,
        guide_scale: float = 1.0,
        guide_shift: float = 0.0,
        diagonal: bool = False,
    ) -> VAE:
        """The model with its exact posterior as guide, or with faults.

        Args:
            noise_ratio: The ratio of the model's noise to the true one; the guide is exact for the
                model.
            collapsed: The decoder ignores z, and the guide is the prior.
            guide_scale: The ratio of the guide's scales to the exact ones.
            guide_shift: The error of the guide's means, in exact posterior standard deviations.
            diagonal: The guide has the exact marginals and no correlations.
        """
        weight = torch.zeros_like(self.weight) if collapsed else self.weight
        noise = noise_ratio * self.noise
        decoder = _Affine(weight, self.bias, self.event_shape)
        return VAE(
            _StandardNormal(self.latent_dim),
            likelihoods.Normal(
                self.event_shape, lambda _: decoder, scale="fixed", initial_scale=noise
            ),
            _LinearPosterior(
                weight, self.bias, noise, len(self.event_shape), guide_scale, guide_shift, diagonal
            ),
        )

    def draw(self, n: int, seed: int, *, shift: float = 0.0) -> Float[Tensor, " n *event"]:
        """Draw data from the true model, with `shift` added to each element."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.latent_dim, generator=generator)
        noise = torch.randn(n, len(self.bias), generator=generator)
        x = z @ self.weight.mT + self.bias + self.noise * noise + shift
        return x.reshape(n, *self.event_shape)

    def log_evidence(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, " n"]:
        """log p(x) of the true model, in nats, by the marginal normal distribution."""
        weight = self.weight.double()
        covariance = weight @ weight.mT + self.noise**2 * torch.eye(
            len(weight), dtype=torch.double
        )
        marginal = dist.MultivariateNormal(self.bias.double(), covariance)
        return marginal.log_prob(x.flatten(1).double())


@dataclass(frozen=True)
class BernoulliMixture:
    """A mixture of binary images: z one-hot and uniform, x_i | z = k ~ Bernoulli(theta_ki).

    p(z | x) is categorical, by Bayes' rule.

    Args:
        event_shape: The shape of an example.
        components: K.
        seed: The seed of theta.
    """

    event_shape: Sequence[int] = IMAGE
    components: int = 5
    seed: int = 0

    @cached_property
    def logits(self) -> Float[Tensor, "components elements"]:
        """The logits of theta; components overlap: an image does not determine its component."""
        shape = (self.components, math.prod(self.event_shape))
        drawn = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        shared = torch.randn(shape[1], generator=torch.Generator().manual_seed(self.seed + 1))
        return shared + 0.6 * drawn

    def vae(
        self,
        *,
        sharpness: float = 1.0,
        collapsed: bool = False,
        guide_sharpness: float = 1.0,
        missing: int = 0,
    ) -> VAE:
        """The model with its exact posterior as guide, or with faults.

        Args:
            sharpness: The ratio of the model's logits to the true ones; the guide is exact for the
                model.
            collapsed: The decoder ignores z and outputs each pixel's true marginal; the guide is
                the prior.
            guide_sharpness: The ratio of the guide's logits to the exact ones: overconfident above
                1.
            missing: The number of components that the model lacks.
        """
        logits = sharpness * self.logits
        if collapsed:
            logits = torch.logit(self.logits.sigmoid().mean(0)).expand_as(logits)
        logits = logits[: self.components - missing].contiguous()
        decoder = _Affine(logits.mT, torch.zeros(logits.shape[1]), self.event_shape)
        return VAE(
            _UniformOneHot(len(logits)),
            likelihoods.Bernoulli(self.event_shape, lambda _: decoder),
            _MixturePosterior(logits, len(self.event_shape), guide_sharpness),
        )

    def draw(self, n: int, seed: int, *, flipped: float = 0.0) -> Float[Tensor, " n *event"]:
        """Draw data from the true model, with each pixel inverted with probability `flipped`."""
        generator = torch.Generator().manual_seed(seed)
        k = torch.randint(self.components, (n,), generator=generator)
        x = torch.bernoulli(self.logits[k].sigmoid(), generator=generator)
        turned = torch.rand(x.shape, generator=generator) < flipped
        return torch.where(turned, 1 - x, x).reshape(n, *self.event_shape)

    def log_evidence(self, x: Float[Tensor, " n *event"]) -> Float[Tensor, " n"]:
        """log p(x) of the true model, in nats, by the sum over components."""
        logits = self.logits.double()
        pixels = dist.Bernoulli(logits=logits).to_event(1)
        joint = pixels.log_prob(x.flatten(1).double().unsqueeze(1))
        return joint.logsumexp(1) - math.log(self.components)


class _Affine(nn.Module):
    """W z + b, in the shape of a decoder's output."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.event_shape = tuple(event_shape)

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weight.mT + self.bias).reshape(*z.shape[:-1], 1, *self.event_shape)


class _StandardNormal(nn.Module):
    support = "real"
    zeros: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("zeros", torch.zeros(latent_dim))

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.zeros, 1).to_event(1)


class _LinearPosterior(nn.Module):
    support = "real"
    gain: Tensor
    bias: Tensor
    scale_tril: Tensor
    shift: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        noise: float,
        event_dim: int,
        scale: float,
        shift: float,
        diagonal: bool,
    ) -> None:
        super().__init__()
        self.latent_dim, self.event_dim = weight.shape[-1], event_dim
        precision = torch.eye(self.latent_dim) + weight.mT @ weight / noise**2
        covariance = precision.inverse()
        tril = torch.linalg.cholesky(covariance)
        if diagonal:
            tril = torch.diag(covariance.diagonal().sqrt())
        self.register_buffer("gain", covariance @ weight.mT / noise**2)
        self.register_buffer("bias", bias)
        self.register_buffer("scale_tril", scale * tril)
        self.register_buffer("shift", shift * covariance.diagonal().sqrt())

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.MultivariateNormal(self.embed(x), scale_tril=self.scale_tril)

    def embed(self, x: Tensor) -> Tensor:
        return (x.flatten(-self.event_dim) - self.bias) @ self.gain.mT + self.shift


class _UniformOneHot(nn.Module):
    support = "one_hot"
    logits: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        self.latent_dim = self.values = components
        self.register_buffer("logits", torch.zeros(1, components))

    def forward(self) -> dist.Distribution:
        return OneHots(self.logits)


class _MixturePosterior(nn.Module):
    support = "one_hot"
    logits: Tensor

    def __init__(self, logits: Tensor, event_dim: int, sharpness: float) -> None:
        super().__init__()
        self.latent_dim = self.values = len(logits)
        self.event_dim, self.sharpness = event_dim, sharpness
        self.register_buffer("logits", logits)

    def forward(self, x: Tensor) -> dist.Distribution:
        flat = x.flatten(-self.event_dim).unsqueeze(-2)
        # log p(x | z = k) up to a constant.
        joint = (flat * self.logits - nn.functional.softplus(self.logits)).sum(-1)
        return OneHots(self.sharpness * joint.unsqueeze(-2))

    def embed(self, x: Tensor) -> Tensor:
        return self(x).mean
