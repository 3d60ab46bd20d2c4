"""The evidence lower bound, with a weight on its Kullback-Leibler term."""

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.divergence import (
    KL,
    check_kl,
    count_coordinates,
    divergence,
    divergence_by_coordinate,
)
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.rate import Capacity, FreeBits, FreeBitsPer
from pyro_vae.objectives.schedules import Schedule, ScheduleName
from pyro_vae.objectives.value import ObjectiveValue


class ELBO(Objective):
    """E_q[log p(x | z)] - beta KL(q(z | x) || p(z)); with beta = 1, a lower bound of log p(x).

    This is Pyro's `Trace_ELBO`, taken apart by term. The KL is in closed form at each site where one
    is registered with `torch.distributions.kl` (as in `TraceMeanField_ELBO`), otherwise the Monte
    Carlo estimate log q(z | x) - log p(z) of the same draws.

    A decoder that can do without z leaves the KL at 0: the posterior collapses. Three means are here.
    A schedule lets the KL weigh less at first. Free bits make its first nats free, so that it stays
    at about as many. A capacity draws it to a target from both sides, and with `capacity_epochs` at
    0 holds it there. The last two are of means over a batch: a datum's loss then depends on the
    others, and several processes, of which each sees a part of a batch, refuse them.

    Args:
        beta: The weight of the KL. Reported ELBOs never use it. With a capacity, the weight gamma of
            the distance to it: 1 lets the KL stay above where that pays, the paper's is 1,000.
        warmup_epochs: The linear schedule's weight grows from 0 to `beta` over this many epochs.
        schedule: How the weight comes to `beta`: "linear" in one warm-up, "cyclical" in several, or
            "constant".
        cycle_epochs: The cyclical schedule's grows anew from 0 every this many epochs.
        cycles: The number of cycles. After the last one the weight is `beta`.
        cycle_ramp: The share of a cycle in which the weight grows; in the rest it is `beta`.
        free_bits: The nats below which the mean KL of a batch is paid as if it were so many; 0 for
            none.
        free_bits_per: What has so many: each "dimension" of the code, each "group" of dimensions,
            both for guides and priors that are products over dimensions, or the "rate", the KL as a
            whole, for all.
        free_bits_groups: The number of equal runs of dimensions, with free bits per group.
        capacity: The KL that is the target, in nats; None for as little as pays.
        capacity_epochs: The target grows linearly from 0 over this many epochs.
        num_particles: The number of draws from the guide for each datum.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.

    Raises:
        ValueError: At construction, if an option is out of its range or contradicts another. When
            called, if a latent site of the guide is not reparameterisable: its gradient would be
            silently wrong; or if free bits are per dimension of what is no product over dimensions.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114;
        beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl;
        the warm-up: Ladder Variational Autoencoders (Sonderby et al., 2016),
        https://arxiv.org/abs/1602.02282;
        cycles: Cyclical Annealing Schedule (Fu et al., 2019), https://arxiv.org/abs/1903.10145;
        free bits: Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al.,
        2016), https://arxiv.org/abs/1606.04934;
        the capacity: Understanding disentangling in beta-VAE (Burgess et al., 2018),
        https://arxiv.org/abs/1804.03599
    """

    beta: Tensor

    def __init__(
        self,
        beta: float = 1.0,
        warmup_epochs: float = 0.0,
        schedule: ScheduleName = "linear",
        cycle_epochs: float = 0.0,
        cycles: int = 4,
        cycle_ramp: float = 0.5,
        free_bits: float = 0.0,
        free_bits_per: FreeBitsPer = "dimension",
        free_bits_groups: int | None = None,
        capacity: float | None = None,
        capacity_epochs: float = 0.0,
        num_particles: int = 1,
        kl: KL = "auto",
    ) -> None:
        super().__init__(num_particles)
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be at least 0 and finite, got {beta}.")
        self.kl: KL = check_kl(kl)
        self.schedule = Schedule(schedule, warmup_epochs, cycle_epochs, cycles, cycle_ramp)
        self.free_bits = FreeBits(free_bits, free_bits_per, free_bits_groups)
        if capacity is None and capacity_epochs:
            raise ValueError(f"capacity_epochs needs a capacity, got {capacity_epochs} and none.")
        self.capacity = None if capacity is None else Capacity(capacity, capacity_epochs)
        if self.capacity and free_bits:
            raise ValueError(
                f"a capacity and free bits contradict each other, got {capacity} and {free_bits} nats: "
                "give one of them."
            )
        if self.capacity and self.schedule.epochs:
            raise ValueError(
                "a capacity has a schedule of its own, capacity_epochs, got that of the weight, too."
            )
        self.couples_batch = bool(self.capacity or free_bits)
        self.maximises_score = beta == 1 and not self.couples_batch
        # A buffer, so that a traced step reads it anew and a checkpoint holds it.
        self.register_buffer("beta", torch.tensor(float(beta)))

    @property
    def weight(self) -> Float[Tensor, ""]:
        """The weight of the KL now: beta, or what the schedule has reached."""
        return (
            self.beta * self.schedule.share(self.progress) if self.schedule.epochs else self.beta
        )

    def settled(self, epochs: float) -> bool:
        """Whether weight and capacity have reached their last values after so many epochs."""
        return epochs >= max(self.schedule.epochs, self.capacity.epochs if self.capacity else 0.0)

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        if self._by_coordinate:
            try:
                coordinates = count_coordinates(terms)
            except ValueError as error:
                raise ValueError(
                    f"free_bits_per {self.free_bits.per} needs guide and prior to be products, but {error} "
                    "free_bits_per rate serves every guide and prior."
                ) from error
            self.free_bits.check(coordinates)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        extra = {}
        if self._by_coordinate:
            groups = self.free_bits.grouped(
                divergence_by_coordinate(terms, self.kl, self.kl_by_site)
            )
            kl = groups.sum(-1)
        else:
            kl = divergence(terms, self.kl, self.kl_by_site)
            groups = kl.unsqueeze(-1)
        paid = kl
        if self.free_bits.minimum:
            paid = extra["rate_paid"] = self.free_bits.paid(groups)
        if self.capacity:
            paid = self.capacity.paid(kl, self.progress)
            extra["capacity"] = self.capacity.at(self.progress).expand_as(kl)
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "beta": self.weight.expand_as(kl),
            **extra,
        }
        loss = self.weight * paid - reconstruction
        return ObjectiveValue(loss, {name: value.detach() for name, value in values.items()})

    @property
    def _by_coordinate(self) -> bool:
        return self.free_bits.minimum > 0 and self.free_bits.per != "rate"
