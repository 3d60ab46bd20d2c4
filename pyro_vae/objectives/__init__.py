"""Objectives: what stochastic variational inference maximises.

An `Objective` is an `nn.Module` called on the evaluated pair (`LogDensities`). It returns an
`ObjectiveValue`: a loss per example, to be minimised, and named values to log, all in nats. It
owns its weights as 0-dim buffers and has `num_particles`. Training reports its progress by
`set_progress`, and `check` refuses programs for which the objective is not defined. It weights
terms; nothing scales the model's sites.
"""

from pyro_vae.objectives.aggregate_posterior import DIP, Info
from pyro_vae.objectives.elbo import ELBO, Reconstruction
from pyro_vae.objectives.importance_weighted import CIWAE, IWAE, MIWAE
from pyro_vae.objectives.objective import Objective as Objective
from pyro_vae.objectives.objective import ObjectiveValue as ObjectiveValue
from pyro_vae.objectives.objective import objective_value as objective_value
from pyro_vae.objectives.sticking_the_landing import STL, DReG
from pyro_vae.objectives.total_correlation import BetaTC, Factor

# `beta` is `elbo`, whose option `beta` is the beta-VAE.
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
