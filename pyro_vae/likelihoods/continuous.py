"""Likelihoods of continuous data, on the unit interval and on the real line."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.networks import NetworkFactory

NormalScale = Literal["fixed", "learned", "element", "decoded"]


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_i C(l_i) l_i^x_i (1 - l_i)^(1 - x_i), l = sigmoid(f(z)), for x in [0, 1].

    The Bernoulli's formula with the constant C that makes it a density on [0, 1].

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network f that reads z.

    References:
        The continuous Bernoulli (Loaiza-Ganem & Cunningham, 2019), https://arxiv.org/abs/1907.06845
    """

    support: ClassVar[str] = "unit"

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        return dist.ContinuousBernoulli(logits=logits).to_event(self.event_dim)


class Normal(Likelihood):
    """p(x | z) = prod_i N(x_i | f_i(z), sigma_i^2), for real x.

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network f that reads z.
        scale: What sigma is: "fixed" at `initial_scale`; one number "learned" for all elements; one
            learned number an "element"; or "decoded", a second output of the decoder.
        initial_scale: sigma at the start, in the data's unit.
        minimum_scale: A floor under a sigma that is not fixed. Without one the density of an element
            that never varies (the corner of an image) grows without bound.

    Raises:
        ValueError: If `scale` is unknown, or `initial_scale` is not above `minimum_scale` > 0.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix C.2 ("decoded"),
        https://arxiv.org/abs/1312.6114; Simple and Effective VAE Training with Calibrated Decoders
        (Rybkin et al., 2021), https://arxiv.org/abs/2006.13202 ("learned")
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        scale: NormalScale = "learned",
        initial_scale: float = 0.3,
        minimum_scale: float = 1e-2,
    ) -> None:
        if scale not in get_args(NormalScale):
            raise ValueError(
                f"scale must be one of {', '.join(get_args(NormalScale))}, got {scale!r}."
            )
        if not 0 < minimum_scale < initial_scale < math.inf:
            raise ValueError(
                "the scales must satisfy 0 < minimum_scale < initial_scale, "
                f"got minimum_scale {minimum_scale} and initial_scale {initial_scale}."
            )
        # First: the decoder is asked for so many.
        self.outputs_per_element = 2 if scale == "decoded" else 1
        super().__init__(event_shape, decoder)
        self.minimum_scale = minimum_scale
        self.decoded = scale == "decoded"
        shape = self.event_shape if scale == "element" else ()
        # softplus^-1, so that the scale starts where it was asked to.
        above = initial_scale - minimum_scale
        raw_scale = torch.full(shape, above + math.log(-math.expm1(-above)))
        if scale in ("learned", "element"):
            self.raw_scale = nn.Parameter(raw_scale)
        else:
            self.register_buffer("raw_scale", raw_scale, persistent=False)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        loc, *rest = self.outputs(z)
        raw_scale = self.raw_scale + rest[0] if self.decoded else self.raw_scale
        scale = F.softplus(raw_scale) + self.minimum_scale
        return dist.Normal(loc, scale.expand_as(loc)).to_event(self.event_dim)
