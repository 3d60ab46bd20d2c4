"""Training: the loop, its checkpoints, and the run directory."""

from pyro_vae.training.fit import fit
from pyro_vae.training.loop import NonFiniteError, Training
from pyro_vae.training.svi import CompiledSVI

__all__ = ["CompiledSVI", "NonFiniteError", "Training", "fit"]
