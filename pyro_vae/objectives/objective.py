"""What every objective has in common."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from pyro_vae.log_densities import LogDensities, distribution_at, require_density
from pyro_vae.objectives.value import ObjectiveValue


class Objective(nn.Module):
    """What stochastic variational inference maximises. Abstract: an objective says what `value` is.

    It is called on the evaluated pair and returns a loss to be minimised. Weights that change while
    training runs are functions of `progress`, a buffer: a compiled step reads it anew, and a
    checkpoint holds it.

    An objective may own parameters, such as a critic's. Each step trains them, too, down the value's
    `own_loss`, with the learning rate and the decays below in place of the program's.

    Args:
        num_particles: The number of draws from the guide for each datum.

    Raises:
        ValueError: If `num_particles` is below 1.
    """

    # Whether a datum's loss depends on the rest of the batch: several processes see a part of it each.
    # An objective may say so of itself, where it is a matter of its options.
    couples_batch: bool = False
    # Whether it reads log q(z | x), which a guide that is a point does not have, and log p(z).
    needs_density: ClassVar[bool] = True
    uses_prior: ClassVar[bool] = True
    # Which of the validation values says how good an epoch is: elbo, reconstruction or kl.
    score: ClassVar[str] = "elbo"
    # Whether that score is what it maximises, so that the epoch with the best is the one to keep.
    maximises_score: bool = False

    progress: Tensor

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__()
        if num_particles < 1:
            raise ValueError(f"num_particles must be at least 1, got {num_particles}.")
        self.num_particles = num_particles
        # Adam's, for the parameters that the objective owns.
        self.own_lr = 1e-3
        self.own_betas = (0.9, 0.999)
        # How each latent site's KL was computed, once the objective has been called.
        self.kl_by_site: dict[str, str] = {}
        self.register_buffer("progress", torch.tensor(0.0))

    def set_progress(self, epochs: float) -> None:
        """Say how many epochs, with their fraction, have been trained."""
        self.progress.fill_(epochs)

    def settled(self, epochs: float) -> bool:
        """Whether weights that change while training runs do so no more after so many epochs."""
        return True

    def check(self, terms: LogDensities) -> None:
        """Make sure that the objective can serve a program, from its terms at a few data.

        Training calls it before the first step, and every call does.

        Raises:
            ValueError: If it cannot, by the name of what is in the way.
        """
        if self.needs_density:
            require_density(
                terms.guide_trace, type(self).__name__, "use --objective reconstruction"
            )
        for name in terms.guide_sites:
            q = distribution_at(terms.guide_trace, name)
            if not q.has_rsample:
                raise ValueError(
                    f"{type(self).__name__} needs a reparameterisable guide, but site {name!r} is a "
                    f"{type(q).__name__} without rsample."
                )

    def value(self, terms: LogDensities) -> ObjectiveValue:
        """The loss of each datum, and what to log."""
        raise NotImplementedError

    def forward(self, terms: LogDensities) -> ObjectiveValue:
        self.check(terms)
        return self.value(terms)
