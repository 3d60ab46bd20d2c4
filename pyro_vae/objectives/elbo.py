"""The evidence lower bound, with a weight on its Kullback-Leibler term."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.log_densities import LogDensities, distribution_at
from pyro_vae.objectives.value import ObjectiveValue

KL = Literal["auto", "monte_carlo"]


class ELBO(nn.Module):
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
    progress: Tensor

    def __init__(
        self,
        beta: float = 1.0,
        warmup_epochs: float = 0.0,
        num_particles: int = 1,
        kl: KL = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be at least 0 and finite, got {beta}.")
        if not 0 <= warmup_epochs < float("inf"):
            raise ValueError(f"warmup_epochs must be at least 0 and finite, got {warmup_epochs}.")
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}.")
        if kl not in get_args(KL):
            raise ValueError(f"kl must be one of {', '.join(get_args(KL))}, got {kl!r}.")
        self.warmup_epochs = warmup_epochs
        self.num_particles = num_particles
        self.kl = kl
        # How each latent site's KL was computed, once the objective has been called.
        self.kl_by_site: dict[str, str] = {}
        # Buffers, so that a traced step reads them anew and a checkpoint holds them.
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.register_buffer("progress", torch.tensor(0.0))

    def set_progress(self, epochs: float) -> None:
        """Say how many epochs, with their fraction, have been trained."""
        self.progress.fill_(epochs)

    @property
    def weight(self) -> Float[Tensor, ""]:
        """The weight of the KL now: beta, or what warm-up has reached."""
        if self.warmup_epochs == 0:
            return self.beta
        return self.beta * (self.progress / self.warmup_epochs).clamp(max=1)

    def forward(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        kl = self._kl(terms)
        loss = self.weight * kl - reconstruction
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "beta": self.weight.expand_as(kl),
        }
        return ObjectiveValue(loss, {name: value.detach() for name, value in values.items()})

    def _kl(self, terms: LogDensities) -> Float[Tensor, " batch"]:
        kl = torch.zeros_like(terms.log_likelihood[0])
        for name, log_posterior in terms.guide_sites.items():
            q = distribution_at(terms.guide_trace, name)
            if not q.has_rsample:
                raise ValueError(
                    f"the ELBO needs a reparameterisable guide, but site {name!r} is a "
                    f"{type(q).__name__} without rsample."
                )
            site_kl = terms.closed_form_kl(name) if self.kl == "auto" else None
            self.kl_by_site[name] = "Monte Carlo" if site_kl is None else "analytic"
            if site_kl is None:
                site_kl = log_posterior - terms.model_sites[name]
            kl = kl + site_kl.mean(0)
        return kl
