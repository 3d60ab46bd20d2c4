"""How much the latent variable says about the datum under the guide."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor

from pyro_vae.log_densities import distribution_at, log_densities, require_density
from pyro_vae.rng import as_floats, evaluation_mode

# An estimate this close to its largest value, in nats, says no more than that it is large.
SATURATION = 2.0

# Elements of draws that meet a guide's distributions at a time.
_ELEMENTS = 2**20


@dataclass(frozen=True)
class MutualInformation:
    """An estimate of I_q(x; z) from a sample of data.

    Args:
        value: The estimate, in nats. It lies between 0, but for noise, and `log_n`.
        standard_error: Its standard error over the data, in nats.
        num_data: The number n of data.
    """

    value: float
    standard_error: float
    num_data: int

    @property
    def log_n(self) -> float:
        """log n, in nats: what the estimate is where each draw tells its datum from all others."""
        return math.log(self.num_data)

    @property
    def saturated(self) -> bool:
        """Whether the estimate is above log n - 2: the truth may be any value from there on."""
        return self.value > self.log_n - SATURATION


def mutual_information(
    vae: Any, x: Real[Tensor, " batch *event"], *, max_data: int = 1000, seed: int = 0
) -> MutualInformation:
    """I_q(x; z) = E[log q(z | x) - log q(z)] = E[KL(q(z | x) || p(z))] - KL(q(z) || p(z)).

    q(z) = 1/n sum_j q(z | x_j) is the mixture of the guide over n of the data, the datum that z was
    drawn for among them, and each of these has one draw. So it is an estimate without bias of the
    information about which of the n it was, never above log n, and for all data too small where
    their information is not small beside log n: see `MutualInformation.saturated`. The prior does
    not enter. Near zero, the guide ignores x: the posterior is collapsed.

    Densities are the guide's own, and are added and exponentiated in float64. The program is in
    evaluation mode, and the global random stream stays where it was.

    Args:
        vae: A program with `model(x)` and `guide(x)` and one latent site.
        x: Data in the likelihood's support, on the program's device; integers are made floats.
        max_data: The largest n. Of more data a random choice is taken; n^2 densities are computed.
        seed: The seed of that choice and of the draws.

    Raises:
        ValueError: If `max_data` is below 1, there are no data, or the guide has several sites or one
            in a plate within the plate over data.
        NoDensityError: If the guide has all its mass at one point: z then tells all data apart.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman &
        Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf;
        Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (He et al.,
        2019), section 4.2, https://arxiv.org/abs/1901.05534
    """
    if max_data < 1:
        raise ValueError(f"max_data must be at least 1, got {max_data}.")
    if len(x) < 1:
        raise ValueError("there must be at least one datum, got none.")
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
                f"the mutual information of site {name!r} can be estimated where it is in the plate "
                "over data alone."
            )
        draws: Tensor = terms.draws[0][0]
        rows = max(1, _ELEMENTS // max(1, n * q.event_shape.numel()))
        parts = []
        for start, z in zip(range(0, n, rows), draws.split(rows), strict=True):
            # Row i is log q(z_i | x_j) for all j.
            pairs = (len(z), n)
            expanded = z.unsqueeze(1).expand(*pairs, *q.event_shape)
            log_q = q.expand(pairs).log_prob(expanded).double()
            # The datum's own from among the pairs, so that the difference is exactly within its bounds.
            own = log_q.diagonal(start)
            parts.append(own - log_q.logsumexp(1) + math.log(n))
        information = torch.cat(parts)
    error = float(information.std()) / math.sqrt(n) if n > 1 else 0.0
    return MutualInformation(float(information.mean()), error, n)
