"""The evidence lower bound, with a weight on its Kullback-Leibler term."""

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.divergence import KL, check_kl, divergence
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.value import ObjectiveValue


class ELBO(Objective):
    """E_q[log p(x | z)] - beta KL(q(z | x) || p(z)); with beta = 1, a lower bound of log p(x).

    This is Pyro's `Trace_ELBO`, taken apart by term. The KL is in closed form at each site where one
    is registered with `torch.distributions.kl` (as in `TraceMeanField_ELBO`), otherwise the Monte
    Carlo estimate log q(z | x) - log p(z) of the same draws.

    Args:
        beta: The weight of the KL. Reported ELBOs never use it.
        warmup_epochs: The weight grows linearly from 0 to `beta` over this many epochs.
        num_particles: The number of draws from the guide for each datum.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.

    Raises:
        ValueError: At construction, if an option is out of its range. When called, if a latent site
            of the guide is not reparameterisable: its gradient would be silently wrong.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114;
        beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl;
        the warm-up: Ladder Variational Autoencoders (Sonderby et al., 2016),
        https://arxiv.org/abs/1602.02282
    """

    beta: Tensor

    def __init__(
        self,
        beta: float = 1.0,
        warmup_epochs: float = 0.0,
        num_particles: int = 1,
        kl: KL = "auto",
    ) -> None:
        super().__init__(num_particles)
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be at least 0 and finite, got {beta}.")
        if not 0 <= warmup_epochs < float("inf"):
            raise ValueError(f"warmup_epochs must be at least 0 and finite, got {warmup_epochs}.")
        self.kl: KL = check_kl(kl)
        self.warmup_epochs = warmup_epochs
        # A buffer, so that a traced step reads it anew and a checkpoint holds it.
        self.register_buffer("beta", torch.tensor(float(beta)))

    @property
    def weight(self) -> Float[Tensor, ""]:
        """The weight of the KL now: beta, or what warm-up has reached."""
        if self.warmup_epochs == 0:
            return self.beta
        return self.beta * (self.progress / self.warmup_epochs).clamp(max=1)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        kl = divergence(terms, self.kl, self.kl_by_site)
        loss = self.weight * kl - reconstruction
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "beta": self.weight.expand_as(kl),
        }
        return ObjectiveValue(loss, {name: value.detach() for name, value in values.items()})
