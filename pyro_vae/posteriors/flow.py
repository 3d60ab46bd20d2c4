"""Posteriors that are a normal carried through a learned invertible map."""

from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.distributions import Bijection, NormalFlow
from pyro_vae.distributions.ranges import BOUNDS, check_positive
from pyro_vae.networks import CouplingFlow, InverseAutoregressiveFlow, NetworkFactory
from pyro_vae.posteriors.gaussian import MINIMUM_SCALE


class _FlowPosterior(nn.Module):
    """z = f(u, h(x)), u ~ N(mu(x), diag(sigma(x)^2)), f a map that a posterior chooses."""

    support: ClassVar[str] = "real"

    def __init__(
        self, latent_dim: int, encoder: NetworkFactory, flow: Bijection, context: int
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.flow = flow
        self.encoder = encoder((2 * latent_dim + context,))

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        outputs = self.encoder(x)
        d = self.latent_dim
        loc, raw_scale, context = outputs[..., :d], outputs[..., d : 2 * d], outputs[..., 2 * d :]
        return NormalFlow(loc, F.softplus(raw_scale) + MINIMUM_SCALE, self.flow, context)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The flow's image of the base's mean, f(mu(x), h(x))."""
        outputs = self.encoder(x)
        d = self.latent_dim
        return self.flow(outputs[..., :d], outputs[..., 2 * d :])[0]


class CouplingFlowPosterior(_FlowPosterior):
    """z = f(u, h(x)), u ~ N(mu(x), diag(sigma(x)^2)), f a chain of affine couplings.

    Untrained, f is the identity and q(z | x) the diagonal normal. Both directions are one pass.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
        couplings: The number of couplings; each moves half of the coordinates given the other half.
        hidden: The widths of each coupling's network.
        context: The width of h(x), which every coupling reads.
        bound: The bound on the |log scale| of a coupling, approached by a tanh; from 1e-6 to 80.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Density Estimation Using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017),
        https://arxiv.org/abs/1605.08803;
        Variational Inference with Normalizing Flows (Rezende & Mohamed, 2015),
        https://arxiv.org/abs/1505.05770
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: NetworkFactory,
        couplings: int = 4,
        hidden: Sequence[int] = (64,),
        context: int = 64,
        bound: float = 2.0,
    ) -> None:
        if context < 1:
            raise ValueError(f"context must be at least 1, got {context}.")
        check_positive("bound", bound, BOUNDS)
        flow = CouplingFlow(latent_dim, couplings, hidden, context, bound)
        super().__init__(latent_dim, encoder, flow, context)


class InverseAutoregressivePosterior(_FlowPosterior):
    """z = f(u, h(x)), u ~ N(mu(x), diag(sigma(x)^2)), f a chain of gated autoregressive steps.

    A step is z_i <- s_i z_i + (1 - s_i) m_i, s and m networks of (z_1, ..., z_i-1, h), and every
    other step takes the coordinates backwards. A draw and its density are one pass. The density of
    any other z takes its coordinates one after another: latent_dim times as many operations in a row,
    each that much smaller.

    Untrained, q(z | x) is the diagonal normal N(a mu, diag(a sigma)^2), a = sigmoid(1.5)^steps.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
        steps: The number of steps.
        hidden: The number of hidden units of each of a step's two networks.
        context: The width of h(x), which every step reads.
        bound: The bound on what the networks add to the logit of s, 1.5 untrained, approached by a
            tanh; from 1e-6 to 80.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934
    """

    def __init__(
        self,
        latent_dim: int,
        encoder: NetworkFactory,
        steps: int = 4,
        hidden: int = 64,
        context: int = 64,
        bound: float = 4.0,
    ) -> None:
        check_positive("bound", bound, BOUNDS)
        flow = InverseAutoregressiveFlow(latent_dim, steps, hidden, context, bound)
        super().__init__(latent_dim, encoder, flow, context)
