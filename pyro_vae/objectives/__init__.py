"""Objectives: what stochastic variational inference maximises.

An `Objective` is an `nn.Module` called on the evaluated pair (`LogDensities`). It returns an
`ObjectiveValue`: a loss per datum, to be minimised, and named values to log, all in nats. It owns
its weights as 0-dim buffers, has `num_particles`, is told how far training is by `set_progress`, and
says by `check` what it cannot serve. It weighs terms; nothing scales the model's sites.
"""

from pyro_vae.objectives.elbo import ELBO
from pyro_vae.objectives.factor import Factor
from pyro_vae.objectives.importance_weighted import CIWAE, IWAE, MIWAE
from pyro_vae.objectives.maximum_mean_discrepancy import Info
from pyro_vae.objectives.moments import DIP
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.pathwise import STL, DReG
from pyro_vae.objectives.reconstruction import Reconstruction
from pyro_vae.objectives.total_correlation import BetaTC
from pyro_vae.objectives.value import ObjectiveValue, objective_value

# `beta` is the option of that name of `elbo`, under the name of its paper.
OBJECTIVES: dict[str, type[Objective]] = {
    "elbo": ELBO,
    "beta": ELBO,
    "stl": STL,
    "iwae": IWAE,
    "dreg": DReG,
    "miwae": MIWAE,
    "ciwae": CIWAE,
    "beta_tc": BetaTC,
    "factor": Factor,
    "info": Info,
    "dip": DIP,
    "reconstruction": Reconstruction,
}

__all__ = [
    "CIWAE",
    "DIP",
    "ELBO",
    "IWAE",
    "MIWAE",
    "OBJECTIVES",
    "STL",
    "BetaTC",
    "DReG",
    "Factor",
    "Info",
    "Objective",
    "ObjectiveValue",
    "Reconstruction",
    "objective_value",
]
