"""Likelihoods of counts."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae import distributions
from pyro_vae.checks import check_at_least, check_choice
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.networks import NetworkFactory

Dispersion = Literal["learned", "decoded"]

# A floor under every rate: softplus underflows to 0 in float32, and log 0 is not finite.
MINIMUM_RATE = 1e-6
# Inverse dispersions are smoothly bounded by exp(-12) and exp(12), where it is nearly a Poisson.
_LOG_DISPERSION = 12.0


def _means(train_data: Any) -> Float[Tensor, "*event"]:
    """The mean of each element over dense or sparse rows, at least that of a single count."""
    sparse = isinstance(train_data, SparseRows)
    means = train_data.mean() if sparse else train_data.double().mean(0)
    return means.clamp(min=1 / max(len(train_data), 1))


class Poisson(Likelihood):
    """p(x | z) = prod_i Poisson(x_i | lambda_i), lambda_i = r_i softplus(f_i(z)), for counts x.

    r_i softplus(0) is the element's mean in the training data; r_i is 1 without them.

    Args:
        train_data: Training data, whose means are the initial rates.

    References:
        Neural Variational Inference for Text Processing (Miao et al., 2016) uses counts of words
        in a VAE, https://arxiv.org/abs/1511.06038
    """

    support: ClassVar[str] = "counts"
    unit_rate: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        train_data: Real[Tensor, " n *event"] | None = None,
    ) -> None:
        super().__init__(event_shape, decoder)
        # A persistent buffer: a loaded model does not see the training data again.
        self.register_buffer("unit_rate", torch.ones(self.event_shape))
        if train_data is not None:
            self.start_from(train_data)

    @property
    def started(self) -> bool:
        """Whether the rates were initialised from data, here or in the model that was loaded."""
        return bool((self.unit_rate != 1).any())

    def start_from(self, train_data: Real[Tensor, " n *event"] | SparseRows) -> None:
        """Initialise the rates at the means of these data."""
        self.unit_rate = (_means(train_data) / math.log(2)).to(self.unit_rate)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (outputs,) = self.outputs(z)
        rate = self.unit_rate * F.softplus(outputs) + MINIMUM_RATE
        return distributions.Poisson(rate).to_event(self.event_dim)


class _NegativeBinomial(Likelihood):
    """A negative binomial with a mean from the decoder and an inverse dispersion. Abstract.

    The decoder's outputs per element are, in this order: the logarithms of means or of
    proportions, the library size if asked for, the inverse dispersion if decoded, and the gate of
    an inflated one.
    """

    support: ClassVar[str] = "counts"
    inflated: ClassVar[bool] = False
    log_start: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        library: bool = False,
        dispersion: Dispersion = "learned",
        initial_inverse_dispersion: float = 1.0,
        train_data: Real[Tensor, " n *event"] | None = None,
    ) -> None:
        check_choice(Dispersion, dispersion=dispersion)
        limit = math.exp(_LOG_DISPERSION)
        if not 1 / limit < initial_inverse_dispersion < limit:
            raise ValueError(
                f"initial_inverse_dispersion must be between {1 / limit:.1g} and {limit:.1g}, "
                f"got {initial_inverse_dispersion}."
            )
        self.library, self.dispersion = library, dispersion
        # Before the decoder is built, which needs the number.
        self.outputs_per_element = 1 + library + (dispersion == "decoded") + self.inflated
        super().__init__(event_shape, decoder)
        # A persistent buffer: a loaded model does not see the training data again.
        self.register_buffer("log_start", torch.zeros(self.event_shape))
        if train_data is not None:
            self.start_from(train_data)
        raw = _LOG_DISPERSION * math.atanh(math.log(initial_inverse_dispersion) / _LOG_DISPERSION)
        self.raw_inverse_dispersion = nn.Parameter(torch.full(self.event_shape, raw))

    @property
    def started(self) -> bool:
        """Whether the means were initialised from data, here or in the model that was loaded."""
        return bool(self.log_start.any())

    def start_from(self, train_data: Real[Tensor, " n *event"] | SparseRows) -> None:
        """Initialise the means, or the total and the proportions, at those of these data."""
        self.log_start = _means(train_data).log().to(self.log_start)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        outputs = list(self.outputs(z))
        log_mean = outputs.pop(0) + self.log_start
        if self.library:
            axes = tuple(range(-self.event_dim, 0))
            log_size = outputs.pop(0).mean(axes, keepdim=True)
            log_total = self.log_start.logsumexp(axes, keepdim=True)
            log_mean = log_mean - log_mean.logsumexp(axes, keepdim=True) + log_total + log_size
        raw = self.raw_inverse_dispersion
        if self.dispersion == "decoded":
            raw = raw + outputs.pop(0)
        log_inverse_dispersion = _LOG_DISPERSION * torch.tanh(raw / _LOG_DISPERSION)
        return distributions.NegativeBinomial(
            log_mean,
            log_inverse_dispersion.expand_as(log_mean),
            outputs.pop(0) if self.inflated else None,
        ).to_event(self.event_dim)


class NegativeBinomial(_NegativeBinomial):
    """p(x | z) = prod_i NB(x_i | mu_i(z), t_i), with variance mu + mu^2 / t, for counts x.

    mu_i = m_i exp(f_i(z)), where m_i is the element's mean in the training data (1 without them).
    With a `library`, mu_i = l(z) rho_i(z): proportions rho = softmax(f(z) + log m) over the
    elements, times a total l(z) = L exp(mean_i g_i(z)), for a further output g of the decoder,
    averaged to one number per data point, and L = sum_i m_i.

    Args:
        decoder: Output shape -> networks f, and g, that read z.
        library: Whether to decode a total and proportions separately.
        dispersion: What t is: one "learned" number per element, or "decoded", with the logarithms
            of those numbers shifted by a further output of the decoder.
        initial_inverse_dispersion: t at initialisation. Large values are near a Poisson.
        train_data: Training data, whose mean is the initial mean.

    Raises:
        ValueError: If `dispersion` is unknown, or `initial_inverse_dispersion` out of range.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2
    """


class ZeroInflatedNegativeBinomial(_NegativeBinomial):
    """p(x | z) = prod_i [w_i(z) [x_i = 0] + (1 - w_i(z)) NB(x_i | l(z) rho_i(z), t_i)].

    A negative binomial in which some zeros have another cause, such as a molecule that was present
    but not captured. The proportions rho = softmax(f(z) + log m), the total l(z) and t are those
    of `NegativeBinomial`; w = sigmoid(h(z)) is decoded. In the original l is a latent variable;
    here it is a function of z, which leaves the one latent site "z".

    Args:
        decoder: Output shape -> networks f, g and h that read z.
        library: Whether to decode a total and proportions separately; else mu_i = m_i exp(f_i(z)).
        dispersion: What t is: one "learned" number per element, or "decoded", with the logarithms
            of those numbers shifted by a further output of the decoder.
        initial_inverse_dispersion: t at initialisation. Large values are near a Poisson.
        train_data: Training data, whose mean total is the initial l.

    Raises:
        ValueError: If `dispersion` is unknown, or `initial_inverse_dispersion` out of range.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018),
        https://doi.org/10.1038/s41592-018-0229-2
    """

    inflated: ClassVar[bool] = True

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        library: bool = True,
        dispersion: Dispersion = "learned",
        initial_inverse_dispersion: float = 1.0,
        train_data: Real[Tensor, " n *event"] | None = None,
    ) -> None:
        super().__init__(
            event_shape, decoder, library, dispersion, initial_inverse_dispersion, train_data
        )


class Multinomial(Likelihood):
    """p(x | z, N) = Multinomial(x | N = sum_i x_i, softmax(f(z))), for counts x: bags of words.

    A density conditional on each data point's own total N, about which it says nothing: its log
    p(x) is comparable with that of models which are also given the total, but not with a
    Poisson's.

    Args:
        event_shape: The shape of a data point, all elements of which share the total.
        total_count: The total of draws and means; None for the training data's mean total, rounded
            (1 without them, so that the mean is the proportions).
        train_data: Training data, for that total.

    Raises:
        ValueError: If `total_count` is below 1.

    References:
        Variational Autoencoders for Collaborative Filtering (Liang et al., 2018),
        https://arxiv.org/abs/1802.05814; Neural Variational Inference for Text Processing (Miao et
        al., 2016), https://arxiv.org/abs/1511.06038
    """

    support: ClassVar[str] = "counts"
    given_total: ClassVar[bool] = True
    total_count: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        total_count: int | None = None,
        train_data: Real[Tensor, " n *event"] | None = None,
    ) -> None:
        if total_count is not None:
            check_at_least(1, total_count=total_count)
        super().__init__(event_shape, decoder)
        total = torch.tensor(1.0 if total_count is None else float(total_count))
        if total_count is None and train_data is not None:
            mean = train_data.double().sum() / max(len(train_data), 1)
            total = mean.round().clamp(min=1).float()
        # A persistent buffer: a loaded model does not see the training data again.
        self.register_buffer("total_count", total)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        (logits,) = self.outputs(z)
        return distributions.Multinomial(logits, self.total_count, self.event_dim)
