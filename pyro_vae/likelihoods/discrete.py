"""Likelihoods of binary data, and of the levels 0, ..., levels - 1, such as those of pixels."""

import math
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pyro_vae import distributions
from pyro_vae.checks import check_at_least
from pyro_vae.likelihoods.likelihood import Likelihood, LocationScale, ScaleKind
from pyro_vae.networks import MaskedMLP, NetworkFactory


class Bernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i | sigmoid(f_i(z))), for x in {0, 1}.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix C.1,
        https://arxiv.org/abs/1312.6114
    """

    support: ClassVar[str] = "binary"

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        return dist.Bernoulli(logits=logits).to_event(self.event_dim)


class AutoregressiveBernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i | sigmoid(f_i(z) + g_i(x_<i, f(z)))), for x in {0, 1}.

    g is a masked perceptron over the elements in row-major order with f(z) as context, so that z
    also changes how an element depends on those before. Such a decoder can model the data alone:
    then z is ignored and KL(q(z | x) || p(z)) goes to 0, the sooner the better the network. A
    small `hidden`, free bits or a beta below 1 keep z in use.

    `mean` is not E[x | z], which has no closed form, but a pass with probabilities in place of
    draws.

    Args:
        hidden: The number of hidden units of g.

    Raises:
        ValueError: If `hidden` is below 1.

    References:
        Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731;
        MADE (Germain et al., 2015), https://arxiv.org/abs/1502.03509
    """

    support: ClassVar[str] = "binary"

    def __init__(
        self, event_shape: Sequence[int], decoder: NetworkFactory, hidden: int = 200
    ) -> None:
        super().__init__(event_shape, decoder)
        elements = math.prod(self.event_shape)
        self.masked = MaskedMLP(elements, elements, hidden)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        start = self.masked.start(logits.flatten(logits.dim() - self.event_dim))
        return distributions.AutoregressiveBernoulli(logits, start, self.masked, self.event_dim)


# As a share of the range: a logistic this narrow is within one of 256 levels.
_MINIMUM_SCALE = 1e-3


class DiscretizedLogistic(LocationScale):
    """p(x_i | z) = F((x_i + 1/2 - m_i) / s_i) - F((x_i - 1/2 - m_i) / s_i), F = sigmoid.

    m = (levels - 1) (1/2 + f(z)). The lowest level has all the mass below it, the highest all
    above.

    Args:
        levels: The number of levels of the data.
        scale: What s / (levels - 1) is: "fixed" at `initial_scale`; one number "learned" for all
            elements; one learned number per "element"; or "decoded", a second output of the
            decoder.
        initial_scale: s / (levels - 1) at initialisation.
        minimum_scale: A floor under an s / (levels - 1) that is not fixed.

    Raises:
        ValueError: If there are fewer than two levels, `scale` is unknown, or `initial_scale` is
            not above `minimum_scale` > 0.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        section 5, https://arxiv.org/abs/1606.04934
    """

    support: ClassVar[str] = "integers"

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        levels: int,
        scale: ScaleKind = "learned",
        initial_scale: float = 0.1,
        minimum_scale: float = _MINIMUM_SCALE,
    ) -> None:
        check_at_least(2, levels=levels)
        super().__init__(event_shape, decoder, scale, initial_scale, minimum_scale)
        self.levels = levels

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        loc, scale, _ = self.loc_and_scale(z)
        top = self.levels - 1
        return distributions.DiscretizedLogistic(
            top * (0.5 + loc), top * scale, self.levels
        ).to_event(self.event_dim)


class LogisticMixture(Likelihood):
    """p(x | z) = prod_pixels sum_k w_k prod_c DiscretizedLogistic(x_c | m_kc(x_<c), s_kc).

    Everything is decoded. In images of three channels a pixel's red, green and blue share the
    component, and green's location is linear in red, blue's in red and green; otherwise each
    element has its own mixture. `mean` is exact except for the clipping of such moved locations.

    Args:
        event_shape: The shape of a data point, (channels, rows, columns) or any other.
        levels: The number of levels of the data.
        components: The number of logistics in each mixture.

    Raises:
        ValueError: If there are fewer than two levels or no components.

    References:
        PixelCNN++ (Salimans et al., 2017), sections 2.1 and 2.2, https://arxiv.org/abs/1701.05517
    """

    support: ClassVar[str] = "integers"
    start: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        levels: int,
        components: int = 5,
    ) -> None:
        check_at_least(2, levels=levels)
        check_at_least(1, components=components)
        self.tied = len(event_shape) == 3 and event_shape[0] == 3
        # Before the decoder is built, which needs the number. A pixel's three coefficients take
        # the outputs for its three channels.
        self.outputs_per_element = (4 if self.tied else 3) * components
        super().__init__(event_shape, decoder)
        self.levels = levels
        self.components = components
        # The components start at different locations: from the same one they would stay together.
        start = (torch.arange(components) + 0.5) / components
        start = start.view(components, *[1] * self.event_dim)
        self.register_buffer("start", start, persistent=False)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        axis = -1 - self.event_dim
        outputs = self.decoder(z).unflatten(axis, (-1, self.components)).unbind(axis - 1)
        logits, loc, raw_scale = outputs[:3]
        # 0.1 of the range where the decoder returns 0.
        scale = F.softplus(raw_scale - 2.25) + _MINIMUM_SCALE
        top = self.levels - 1
        if self.tied:
            # One number per pixel.
            logits = logits.mean(axis + 1, keepdim=True)
        return distributions.LogisticMixture(
            logits,
            top * (self.start + loc),
            top * scale,
            self.levels,
            self.event_dim,
            torch.tanh(outputs[3]) if self.tied else None,
        )


class Categorical(Likelihood):
    """p(x_i | z) = softmax(f_i(z)) at x_i, for levels x: their order has to be learned.

    Args:
        decoder: Output shape -> network f that reads z, with `levels` outputs per element.
        levels: The number of levels of the data.

    Raises:
        ValueError: If there are fewer than two levels.

    References:
        Pixel Recurrent Neural Networks (van den Oord et al., 2016), section 3,
        https://arxiv.org/abs/1601.06759
    """

    support: ClassVar[str] = "integers"

    def __init__(self, event_shape: Sequence[int], decoder: NetworkFactory, levels: int) -> None:
        check_at_least(2, levels=levels)
        # Before the decoder is built, which needs the number.
        self.outputs_per_element = levels
        super().__init__(event_shape, decoder)
        self.levels = levels

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        logits = self.decoder(z).movedim(-1 - self.event_dim, -1)
        return distributions.CategoricalLevels(logits=logits).to_event(self.event_dim)
