"""The model file: a VAE as a Pyro program, and the defaults of the command line.

Three distributions, a prior p(z), a likelihood p(x | z) and a posterior q(z | x), each a module
called as it is written. Read this file first and edit it freely: change a default of `build`, run
`python scripts/svi_train.py`, and what you wrote there is what trains.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import pyro
from jaxtyping import Float, Real
from pyro.nn import PyroModule, pyro_method
from torch import Tensor, nn

from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP, on_log_scale
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal


class VAE(PyroModule):
    """A variational autoencoder: p(x, z) = p(z) p(x | z), with the guide q(z | x).

    Args:
        prior: `prior()` is p(z), with event shape `(latent_dim,)`.
        likelihood: `likelihood(z)` is p(x | z), with the datum's event shape.
        posterior: `posterior(x)` is q(z | x), with event shape `(latent_dim,)`.

    Raises:
        ValueError: If prior and posterior differ in support or in latent dimension.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    latent_sites: ClassVar[tuple[str, ...]] = ("z",)
    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        for word, p, q in (
            ("support", prior.support, posterior.support),
            ("latent_dim", prior.latent_dim, posterior.latent_dim),
        ):
            if p != q:
                raise ValueError(
                    f"prior and posterior must have the same {word}: "
                    f"{type(prior).__name__} has {p}, {type(posterior).__name__} has {q}."
                )
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior

    @pyro_method
    def model(self, x: Real[Tensor, " batch *event"], y: Tensor | None = None) -> Tensor:
        """z ~ p(z), x ~ p(x | z)."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    @pyro_method
    def guide(self, x: Real[Tensor, " batch *event"], y: Tensor | None = None) -> Tensor:
        """z ~ q(z | x)."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))

    def embed(self, x: Real[Tensor, " batch *event"]) -> Float[Tensor, "batch latent"]:
        """The deterministic code of x, used as its representation."""
        return self.posterior.embed(x)

    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch_event"]:
        """The mean of p(x | z)."""
        return self.likelihood(z).mean


def build(
    event_shape: Sequence[int],
    latent_dim: int = 8,
    *,
    prior: Callable[..., nn.Module] = StandardNormal,
    likelihood: Callable[..., nn.Module] = Bernoulli,
    posterior: Callable[..., nn.Module] = DiagonalNormal,
    network: Callable[..., nn.Module] = MLP,
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
) -> VAE:
    """A VAE from the classes of its parts. The defaults above are the command line's.

    Each constructor is handed, by parameter name, what it asks for among `latent_dim`,
    `event_shape`, `encoder`, `decoder`, `posterior`, `train_data` and `train_size`. An encoder of
    counts reads log(1 + x).

    Args:
        event_shape: The shape of a datum.
        latent_dim: The length of the last axis that the decoder reads.
        prior: The prior's class, or a `partial` of it with options.
        likelihood: The likelihood's.
        posterior: The posterior's.
        network: The class of encoder and decoder, called with an input and an output shape.
        train_data: Training data in the likelihood's support, for parts that start from data.
        train_size: The number of training data.
    """
    encoder, decoder = partial(network, tuple(event_shape)), partial(network, (latent_dim,))
    if _class_of(likelihood).support == "counts":
        encoder = on_log_scale(encoder)
    given: dict[str, Any] = {
        "event_shape": tuple(event_shape),
        "latent_dim": latent_dim,
        "encoder": encoder,
        "decoder": decoder,
        "train_data": train_data,
        "train_size": train_size,
    }

    def construct(part: Callable[..., nn.Module]) -> nn.Module:
        # A partial's own signature fails on an unknown option before the call can name it.
        asked = inspect.signature(_class_of(part)).parameters
        return part(**{name: value for name, value in given.items() if name in asked})

    given["posterior"] = construct(posterior)
    return VAE(construct(prior), construct(likelihood), given["posterior"])


def _class_of(part: Callable[..., nn.Module]) -> Any:
    return part.func if isinstance(part, partial) else part
