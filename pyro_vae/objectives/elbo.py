"""The evidence lower bound, with a weight on its KL, and its reconstruction alone."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from pyro_vae.checks import check_choice, check_nonnegative
from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.kl_weighting import (
    Capacity,
    FreeBits,
    FreeBitsPer,
    Schedule,
    ScheduleName,
)
from pyro_vae.objectives.latent_sites import (
    KL,
    count_coordinates,
    divergence,
    divergence_by_coordinate,
)
from pyro_vae.objectives.objective import Objective, ObjectiveValue


class ELBO(Objective):
    """E_q[log p(x | z)] - beta KL(q(z | x) || p(z)); with beta = 1, a lower bound of log p(x).

    This is Pyro's `Trace_ELBO`, split into its terms. The KL is in closed form at each site where
    one is registered with `torch.distributions.kl` (as in `TraceMeanField_ELBO`), otherwise the
    Monte Carlo estimate log q(z | x) - log p(z) of the same draws.

    If the decoder can do without z, the KL stays at 0: the posterior collapses. There are three
    remedies. A schedule gives the KL a smaller weight at first. Free bits make its first nats
    free. A capacity pulls it to a target from both sides, constant if `capacity_epochs` is 0. The
    last two apply to means over a batch: an example's loss then depends on the others, and
    training with several processes, each of which sees a part of a batch, refuses them.

    Args:
        beta: The weight of the KL. Reported ELBOs never use it. With a capacity, the weight gamma
            of the distance to it: 1 lets the KL stay above where that pays off, the paper's is
            1,000.
        warmup_epochs: The linear schedule's weight grows from 0 to `beta` over this many epochs.
        schedule: How the weight reaches `beta`: "linear" in one warm-up, "cyclical" in several, or
            "constant".
        cycle_epochs: The length of a cycle of the cyclical schedule, which restarts from 0.
        cycles: The number of cycles. After the last one the weight is `beta`.
        cycle_ramp: The fraction of a cycle in which the weight grows; in the rest it is `beta`.
        free_bits: The nats below which the mean KL of a batch is not reduced further; 0 for none.
        free_bits_per: The unit with this many free nats: each "dimension" of the code, each
            "group" of dimensions, both for guides and priors that are products over dimensions, or
            the "rate", the KL as a whole, for all.
        free_bits_groups: The number of equal runs of dimensions, with free bits per group.
        capacity: The target of the KL, in nats; None for no target.
        capacity_epochs: The target grows linearly from 0 over this many epochs.
        num_particles: The number of draws from the guide per example.
        kl: "auto" for closed forms where they exist, "monte_carlo" for none.

    Raises:
        ValueError: At construction, if an option is out of its range or contradicts another. When
            called, if a latent site of the guide is not reparameterisable, whose gradient would be
            silently wrong; or if free bits are per dimension and guide or prior is not a product.

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
        check_nonnegative(beta=beta)
        check_choice(KL, kl=kl)
        self.kl: KL = kl
        self.schedule = Schedule(schedule, warmup_epochs, cycle_epochs, cycles, cycle_ramp)
        self.free_bits = FreeBits(free_bits, free_bits_per, free_bits_groups)
        if capacity is None and capacity_epochs:
            raise ValueError(f"capacity_epochs needs a capacity, got {capacity_epochs} and none.")
        self.capacity = None if capacity is None else Capacity(capacity, capacity_epochs)
        if self.capacity and free_bits:
            raise ValueError(
                f"a capacity and free bits contradict each other, got {capacity} and {free_bits} "
                "nats: give one of them."
            )
        if self.capacity and self.schedule.epochs:
            raise ValueError(
                "a capacity has its own schedule, capacity_epochs, got one for the weight, too."
            )
        self.couples_batch = bool(self.capacity or free_bits)
        self.maximises_score = beta == 1 and not self.couples_batch
        self.register_weights(beta=beta)

    @property
    def weight(self) -> Float[Tensor, ""]:
        """The current weight of the KL: beta times the schedule."""
        scheduled = self.schedule.epochs > 0
        return self.beta * self.schedule.share(self.progress) if scheduled else self.beta

    def settled(self, epochs: float) -> bool:
        """Whether weight and capacity have reached their final values after this many epochs."""
        return epochs >= max(self.schedule.epochs, self.capacity.epochs if self.capacity else 0.0)

    def check(self, terms: LogDensities) -> None:
        super().check(terms)
        if self._by_coordinate:
            try:
                coordinates = count_coordinates(terms)
            except ValueError as error:
                raise ValueError(
                    f"free_bits_per {self.free_bits.per} needs guide and prior to be products, "
                    f"but {error} Use free_bits_per rate, which is defined for all."
                ) from error
            self.free_bits.check(coordinates)

    def value(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        extra = {}
        if self._by_coordinate:
            by_coordinate = divergence_by_coordinate(terms, self.kl, self.kl_by_site)
            groups = self.free_bits.group(by_coordinate)
            kl = groups.sum(-1)
        else:
            kl = divergence(terms, self.kl, self.kl_by_site)
            groups = kl.unsqueeze(-1)
        penalty = kl
        if self.free_bits.minimum:
            penalty = extra["rate_paid"] = self.free_bits.penalty(groups)
        if self.capacity:
            penalty = self.capacity.penalty(kl, self.progress)
            extra["capacity"] = self.capacity.at(self.progress).expand_as(kl)
        values = {
            "elbo": reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "beta": self.weight.expand_as(kl),
            **extra,
        }
        return ObjectiveValue(self.weight * penalty - reconstruction, values)

    @property
    def _by_coordinate(self) -> bool:
        return self.free_bits.minimum > 0 and self.free_bits.per != "rate"


class Reconstruction(Objective):
    """E_q[log p(x | z)]: maximum likelihood of a plain autoencoder, without the KL of the ELBO.

    With the posterior `point` the pair is a plain autoencoder, or with a corruption a denoising
    one. Every other guide is possible, too, but its spread shrinks to nothing. log p(z) has no
    part: a prior's parameters stay as they started, and the decoder is not trained on its draws.

    Args:
        num_particles: The number of draws from the guide per example.

    Raises:
        ValueError: If `num_particles` is below 1. When called, if a latent site of the guide is
            not reparameterisable.

    References:
        Extracting and Composing Robust Features with Denoising Autoencoders (Vincent et al.,
        2008), https://doi.org/10.1145/1390156.1390294
    """

    needs_density: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False
    score: ClassVar[str] = "reconstruction"
    maximises_score = True

    def value(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        return ObjectiveValue(-reconstruction, {"reconstruction": reconstruction})
