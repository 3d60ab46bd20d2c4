"""The reconstruction alone: what an autoencoder maximises."""

from typing import ClassVar

from pyro_vae.log_densities import LogDensities
from pyro_vae.objectives.objective import Objective
from pyro_vae.objectives.value import ObjectiveValue


class Reconstruction(Objective):
    """E_q[log p(x | z)]: maximum likelihood of a plain autoencoder, without the KL of the ELBO.

    With the posterior `point` the pair is a plain autoencoder, or with a corruption a denoising one.
    It serves every other guide, too, whose spread then shrinks to nothing: nothing pays for it.
    log p(z) has no part: a prior's parameters stay as they started, and its draws are codes that the
    decoder was not trained on.

    Args:
        num_particles: The number of draws from the guide for each datum.

    Raises:
        ValueError: If `num_particles` is below 1. When called, if a latent site of the guide is not
            reparameterisable.

    References:
        Extracting and Composing Robust Features with Denoising Autoencoders (Vincent et al., 2008),
        https://doi.org/10.1145/1390156.1390294
    """

    needs_density: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False
    score: ClassVar[str] = "reconstruction"
    maximises_score = True

    def value(self, terms: LogDensities) -> ObjectiveValue:
        reconstruction = terms.log_likelihood.mean(0)
        return ObjectiveValue(-reconstruction, {"reconstruction": reconstruction.detach()})
