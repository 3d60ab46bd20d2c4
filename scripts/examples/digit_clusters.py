"""A model file to copy: a mixture prior that clusters digits, with the class of new data.

`python scripts/svi_train.py --model scripts/examples/digit_clusters.py --prior.start kmeans`
trains it. p(z) is a mixture of normals, and the class of x is the component of its code z by
Bayes' rule, p(y | z) = p(y) p(z | y) / p(z). `--model clustering` adds scores, figures and starts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

import pyro_vae
from pyro_vae import VAE, priors


class Clusters(VAE):
    """A VAE whose prior is a mixture of normals, one for each cluster."""

    def class_probabilities(self, x: Any) -> Float[Tensor, "batch classes"]:
        """p(y | z) at the code z of each x."""
        p, z = self.prior(), self.embed(x)
        components = dist.Normal(p.loc, p.scale).to_event(1)
        log_joint = p.logits.log_softmax(-1) + components.log_prob(z.unsqueeze(-2))
        return torch.softmax(log_joint, -1)


def build(
    event_shape: Sequence[int],
    latent_dim: int = 5,
    *,
    prior: Callable[..., nn.Module] = priors.GaussianMixture,
    **parts: Any,
) -> Clusters:
    """The VAE of `pyro_vae.build` with another default prior, as `Clusters`."""
    vae = pyro_vae.build(event_shape, latent_dim, prior=prior, **parts)
    return Clusters(vae.prior, vae.likelihood, vae.posterior)
