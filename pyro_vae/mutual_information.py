"""The mutual information of data and latent variable under the guide."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.log_densities import distribution_at, log_densities, require_density
from pyro_vae.rng import as_floats, evaluation_mode

# An estimate this close to its largest value, in nats, is only a lower bound.
SATURATION = 2.0

# Elements of draws and distributions that are combined at a time.
_ELEMENTS = 2**20


@dataclass(frozen=True)
class MutualInformation:
    """An estimate of I_q(x; z) from a sample of data.

    Args:
        value: The estimate, in nats, between 0, up to noise, and `log_n`.
        standard_error: Its standard error over the examples, in nats.
        num_data: The number n of examples.
    """

    value: float
    standard_error: float
    num_data: int

    @property
    def log_n(self) -> float:
        """log n, in nats: the estimate if each draw identifies its example."""
        return math.log(self.num_data)

    @property
    def saturated(self) -> bool:
        """Whether the estimate is above log n - 2: the true value may be any larger one."""
        return self.value > self.log_n - SATURATION


def mutual_information(
    vae: Any, x: Real[Tensor, " batch *event"], *, max_data: int = 1000, seed: int = 0
) -> MutualInformation:
    """I_q(x; z) = E[log q(z | x) - log q(z)] = E[KL(q(z | x) || p(z))] - KL(q(z) || p(z)).

    q(z) = 1/n sum_j q(z | x_j) is the mixture of the guide over n examples, each of which has one
    draw. The estimate is unbiased for the information about which of the n examples it was, and
    never above log n; it underestimates the information about all data unless that is small
    compared with log n: see `MutualInformation.saturated`. It does not depend on the prior. Near
    zero, the guide ignores x: the posterior is collapsed.

    Densities are added and exponentiated in float64. The program is in evaluation mode, and the
    global random stream is left unchanged.

    Args:
        vae: A program with `model(x)` and `guide(x)` and one latent site.
        x: Data in the likelihood's support, on the program's device; integers are converted to
            floats.
        max_data: The largest n, of a random subset of the data; n^2 densities are computed.
        seed: The seed of the subset and of the draws.

    Raises:
        ValueError: If `max_data` is below 1, there are no data, or the guide has several sites or
            one in a plate within the plate over data.
        NoDensityError: If the guide has all its mass at one point, so that z identifies every
            example.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman &
        Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf;
        Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al.,
        2019), section 4.2, https://arxiv.org/abs/1901.05534
    """
    if max_data < 1:
        raise ValueError(f"max_data must be at least 1, got {max_data}.")
    if len(x) < 1:
        raise ValueError("there must be at least one example, got none.")
    if len(x) > max_data:
        generator = torch.Generator("cpu").manual_seed(seed)
        chosen = torch.randperm(len(x), generator=generator, device="cpu")[:max_data]
        x = x[chosen.to(x.device)]
    x = as_floats(x)
    n = len(x)
    with evaluation_mode(vae, seed=seed):
        terms = log_densities(vae.model, vae.guide, x)
        if len(terms.guide_sites) != 1:
            raise ValueError(
                "the mutual information of one latent site can be estimated, got the sites "
                f"{', '.join(terms.guide_sites)}."
            )
        require_density(terms.guide_trace, "the mutual information")
        (name,) = terms.guide_sites
        q = distribution_at(terms.guide_trace, name)
        if tuple(q.batch_shape) != (1, n):
            raise ValueError(
                f"the mutual information of site {name!r} can be estimated where it is in the "
                "plate over data alone."
            )
        draws: Tensor = terms.draws[0][0]
        rows = max(1, _ELEMENTS // max(1, n * q.event_shape.numel()))
        parts = []
        for start, z in zip(range(0, n, rows), draws.split(rows), strict=True):
            # Row i is log q(z_i | x_j) for all j.
            pairs = (len(z), n)
            expanded = z.unsqueeze(1).expand(*pairs, *q.event_shape)
            log_q = q.expand(pairs).log_prob(expanded).double()
            # One of the pairs, so that the difference is exactly within its bounds.
            own = log_q.diagonal(start)
            parts.append(own - log_q.logsumexp(1) + math.log(n))
        information = torch.cat(parts)
    error = float(information.std()) / math.sqrt(n) if n > 1 else 0.0
    return MutualInformation(float(information.mean()), error, n)
