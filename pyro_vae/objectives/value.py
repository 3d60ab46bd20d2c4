"""What an objective says of a batch."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from pyro_vae.log_densities import log_densities


@dataclass(frozen=True)
class ObjectiveValue:
    """What an objective says of a batch.

    Args:
        loss: What training minimises, for each datum, in nats.
        values: Named values to log, for each datum, in nats.
        own_loss: What the parameters that the objective owns minimise, for each datum; None if it
            owns none.
    """

    loss: Float[Tensor, " batch"]
    values: dict[str, Float[Tensor, " batch"]]
    own_loss: Float[Tensor, " batch"] | None = None


def objective_value(
    program: Any, objective: Any, x: Shaped[Tensor, " batch *event"]
) -> ObjectiveValue:
    """The objective of a program at x."""
    terms = log_densities(program.model, program.guide, x, num_particles=objective.num_particles)
    return objective(terms)
