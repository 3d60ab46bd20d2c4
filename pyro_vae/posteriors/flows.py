"""Posteriors that transform a normal by a learned invertible map."""

from collections.abc import Sequence

import pyro.distributions as dist
from jaxtyping import Float, Real
from torch import Tensor

from pyro_vae.checks import BOUNDS, check_at_least, check_positive
from pyro_vae.distributions import Bijection, NormalFlow
from pyro_vae.networks import CouplingFlow, InverseAutoregressiveFlow, NetworkFactory
from pyro_vae.posteriors.posterior import Posterior, positive_scale


class _FlowPosterior(Posterior):
    """z = f(u, h(x)), u ~ N(mu(x), diag(sigma(x)^2)), for an invertible map f. Abstract."""

    flow: Bijection

    def __init__(
        self, latent_dim: int, encoder: NetworkFactory, flow: Bijection, context: int
    ) -> None:
        self.context = context
        super().__init__(latent_dim, encoder)
        # The flow's parameters come first, in this order in the optimizer's state.
        self.flow = flow
        self._modules["encoder"] = self._modules.pop("encoder")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(2 latent_dim + context,)."""
        return (2 * self.latent_dim + self.context,)

    def _loc_scale_and_context(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d = self.latent_dim
        loc, raw_scale, context = self.encoder(x).split((d, d, self.context), -1)
        return loc, positive_scale(raw_scale), context

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        loc, scale, context = self._loc_scale_and_context(x)
        return NormalFlow(loc, scale, self.flow, context)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The flow's image of the base's mean, f(mu(x), h(x))."""
        loc, _, context = self._loc_scale_and_context(x)
        return self.flow(loc, context)[0]


class CouplingFlowPosterior(_FlowPosterior):
    """z = f(u, h(x)), u ~ N(mu(x), diag(sigma(x)^2)), f a chain of affine couplings.

    At initialisation f is the identity and q(z | x) a diagonal normal. Both directions take one
    pass.

    Args:
        couplings: The number of couplings; each moves half of the coordinates given the other
            half.
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
        check_at_least(1, context=context)
        check_positive(BOUNDS, bound=bound)
        flow = CouplingFlow(latent_dim, couplings, hidden, context, bound)
        super().__init__(latent_dim, encoder, flow, context)


class InverseAutoregressivePosterior(_FlowPosterior):
    """z = f(u, h(x)), u ~ N(mu(x), diag(sigma(x)^2)), f a chain of gated autoregressive steps.

    A step is z_i <- s_i z_i + (1 - s_i) m_i, s and m networks of (z_1, ..., z_i-1, h), and every
    second step takes the coordinates backwards. A draw and its density take one pass. The density
    of any other z computes its coordinates one by one: latent_dim times as many sequential
    operations, each that much smaller.

    At initialisation q(z | x) is N(a mu, diag(a sigma)^2), a = sigmoid(1.5)^steps.

    Args:
        steps: The number of steps.
        hidden: The number of hidden units of each of a step's two networks.
        context: The width of h(x), which every step reads.
        bound: The bound on what the networks add to the logit of s, initially 1.5, approached by a
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
        check_positive(BOUNDS, bound=bound)
        flow = InverseAutoregressiveFlow(latent_dim, steps, hidden, context, bound)
        super().__init__(latent_dim, encoder, flow, context)
