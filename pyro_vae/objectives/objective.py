"""The base of the objectives, and the values that they return."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from pyro_vae.checks import check_at_least
from pyro_vae.class_sums import enumerated_sites
from pyro_vae.log_densities import (
    LogDensities,
    distribution_at,
    log_densities,
    require_density,
)

# How to have a gradient of a discrete site.
_ENUMERATE = ': sum over it exactly, by infer={"enumerate": "parallel"} at the site'


@dataclass(frozen=True)
class ObjectiveValue:
    """The value of an objective on a batch.

    Args:
        loss: What training minimises, per example, in nats.
        values: Named values to log, per example, in nats; kept without their gradients.
        own_loss: The loss of the parameters that the objective owns, per example; None if it owns
            none.
    """

    loss: Float[Tensor, " batch"]
    values: dict[str, Float[Tensor, " batch"]] = field(default_factory=dict)
    own_loss: Float[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        detached = {name: value.detach() for name, value in self.values.items()}
        object.__setattr__(self, "values", detached)


class Objective(nn.Module):
    """What stochastic variational inference maximises. Abstract: an objective has `value`.

    It is called on the evaluated pair and returns a loss to be minimised. Weights that change
    during training are functions of `progress`, a buffer, so that a compiled step reads its
    current value and a checkpoint holds it.

    An objective may own parameters, such as a critic's. Each step trains them, too, on the value's
    `own_loss`, with the learning rate and the decays below instead of the program's.

    Args:
        num_particles: The number of draws from the guide per example.

    Raises:
        ValueError: If `num_particles` is below 1.
    """

    # Whether an example's loss depends on the rest of the batch, of which several processes see a
    # part each. An instance may set it, where it depends on options.
    couples_batch: bool = False
    # Whether it reads log q(z | x), which a point mass does not have, and log p(z).
    needs_density: ClassVar[bool] = True
    uses_prior: ClassVar[bool] = True
    # The validation value by which epochs are compared: elbo, reconstruction or kl.
    score: ClassVar[str] = "elbo"
    # Whether that score is what it maximises, so that the best epoch is the one to keep.
    maximises_score: bool = False

    progress: Tensor

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__()
        check_at_least(1, num_particles=num_particles)
        self.num_particles = num_particles
        # Adam's, for the parameters that the objective owns.
        self.own_lr = 1e-3
        self.own_betas = (0.9, 0.999)
        # How the KL of each latent site was computed, set by the first call.
        self.kl_by_site: dict[str, str] = {}
        self.register_buffer("progress", torch.tensor(0.0))

    def register_weights(self, **weights: float) -> None:
        """Register weights as buffers, which a compiled step reads and a checkpoint holds."""
        for name, weight in weights.items():
            self.register_buffer(name, torch.tensor(float(weight)))

    def set_progress(self, epochs: float) -> None:
        """Set the number of epochs trained so far, with their fraction."""
        self.progress.fill_(epochs)

    def settled(self, epochs: float) -> bool:
        """Whether all weights have reached their final values after this many epochs."""
        return True

    def check(self, terms: LogDensities) -> None:
        """Check that the objective is defined for a program, from its terms on a few examples.

        Training calls it before the first step, and every call does.

        Raises:
            ValueError: If it is not; names the reason.
        """
        if self.needs_density:
            require_density(
                terms.guide_trace, type(self).__name__, "use --objective reconstruction"
            )
        enumerated = enumerated_sites(terms.guide_trace)
        for name in terms.guide_sites:
            q = distribution_at(terms.guide_trace, name)
            if not q.has_rsample and name not in enumerated:
                raise ValueError(
                    f"{type(self).__name__} needs a reparameterisable guide, but site {name!r} is "
                    f"a {type(q).__name__} without rsample"
                    f"{_ENUMERATE if q.has_enumerate_support else ''}."
                )

    def value(self, terms: LogDensities) -> ObjectiveValue:
        """The loss per example, and the values to log."""
        raise NotImplementedError

    def forward(self, terms: LogDensities) -> ObjectiveValue:
        self.check(terms)
        return self.value(terms)


def objective_value(
    program: Any, objective: Any, x: Shaped[Tensor, " batch *event"], *y: Tensor
) -> ObjectiveValue:
    """The objective of a program at x, and at labels y if it uses them."""
    particles = objective.num_particles
    terms = log_densities(program.model, program.guide, x, *y, num_particles=particles)
    return objective(terms)
