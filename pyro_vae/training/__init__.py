"""Training: one call, the loop, and stochastic variational inference of any Pyro program."""

from pyro_vae.training.batch_loss import NonFiniteError
from pyro_vae.training.fit import fit
from pyro_vae.training.loop import Training
from pyro_vae.training.svi import CompiledSVI

__all__ = ["CompiledSVI", "NonFiniteError", "Training", "fit"]
