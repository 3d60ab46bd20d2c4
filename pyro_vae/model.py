"""The model file: a VAE as a Pyro program, and the defaults of the command line.

Three distributions, a prior p(z), a likelihood p(x | z) and a posterior q(z | x), each a module
called as it is written. Read this file first and edit it freely: change a default of `build`, run
`python scripts/svi_train.py`, and what you wrote there is what trains.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pyro
from jaxtyping import Float, Real
from pyro.nn import PyroModule, pyro_method
from torch import Tensor, nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.data import DataContract, Kind, Units, check_prepared, prepare
from pyro_vae.evaluating import exportable
from pyro_vae.parameter_names import UniqueParameterNames

# The likelihood that each kind of data gets, unless one is chosen. Edit a line, or give `build` one class.
LIKELIHOOD_OF_KIND: dict[Kind, Callable[..., nn.Module]] = {
    "binary": likelihoods.Bernoulli,
    "grey": likelihoods.Bernoulli,  # of pixels drawn anew from the grey levels at each visit
    "levels": likelihoods.DiscretizedLogistic,
    "counts": likelihoods.NegativeBinomial,
    "unit": likelihoods.LogitNormal,
    "real": likelihoods.StudentT,
}


class VAE(UniqueParameterNames, PyroModule):
    """A variational autoencoder: p(x, z) = p(z) p(x | z), with the guide q(z | x).

    Args:
        prior: `prior()` is p(z), with event shape `(latent_dim,)`.
        likelihood: `likelihood(z)` is p(x | z), with the datum's event shape.
        posterior: `posterior(x)` is q(z | x), with event shape `(latent_dim,)`.

    Raises:
        ValueError: If prior and posterior differ in support, in latent dimension, or in the number of
            values of a discrete variable.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    latent_sites: ClassVar[tuple[str, ...]] = ("z",)
    # What the data were that it was trained on: set by `fit` and `load`.
    contract: DataContract | None = None
    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        if prior.support != posterior.support:
            raise ValueError(
                "prior and posterior must have the same support: "
                f"{type(prior).__name__} has {prior.support}, "
                f"{type(posterior).__name__} has {posterior.support}. "
                f"On {prior.support}, posteriors are {names_of_support(posteriors.POSTERIORS, prior.support)}; "
                f"on {posterior.support}, priors are {names_of_support(priors.PRIORS, posterior.support)}."
            )
        for word in ("latent_dim", "values"):
            p, q = (getattr(part, word, None) for part in (prior, posterior))
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

    def embed(self, x: Any) -> Float[Tensor, "batch latent"]:
        """The deterministic code of x, used as its representation; data but a tensor are prepared first."""
        x = x if isinstance(x, Tensor) else self.prepare(x)
        check_prepared(x, str(self.likelihood.support), self.contract)
        with exportable():
            return self.posterior.embed(x)

    def prepare(self, data: Any) -> Real[Tensor, " batch *event"]:
        """New data as the training data were prepared: columns in their order, levels binarised or scaled.

        Args:
            data: What `fit` takes.

        Raises:
            ValueError: If the VAE was not trained, or the data do not fit it; in one line.
        """
        return prepare(data, self.contract).to(next(self.parameters()).device)

    def decode(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch_event"]:
        """The mean of p(x | z)."""
        with exportable():
            return self.likelihood(z).mean


def build(
    event_shape: Sequence[int],
    latent_dim: int = 8,
    *,
    prior: Callable[..., nn.Module] = priors.StandardNormal,
    likelihood: Callable[..., nn.Module]
    | Mapping[Kind, Callable[..., nn.Module]] = LIKELIHOOD_OF_KIND,
    posterior: Callable[..., nn.Module] = posteriors.DiagonalNormal,
    network: Callable[..., nn.Module] = networks.MLP,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
) -> VAE:
    """A VAE from the classes of its parts. The defaults above are the command line's.

    Each constructor is handed, by parameter name, what it asks for among `latent_dim`,
    `event_shape`, `encoder`, `decoder`, `posterior`, `train_data`, `train_size`, `levels`, `units` and
    `data_support`, the likelihood's support. An encoder of real data reads (x - center) / spread, one
    of counts log(1 + x), one of integers x / (levels - 1), and a decoder of points of the simplex these
    less their mean, over their spread.

    Args:
        event_shape: The shape of a datum.
        latent_dim: The length of the last axis that the decoder reads.
        prior: The prior's class, or a `partial` of it with options.
        likelihood: The likelihood's, or one for each kind of data.
        posterior: The posterior's.
        network: The class of encoder and decoder, called with an input and an output shape, and with
            `train_size` if it has that parameter.
        kind: The kind of data, `dataset.kind`, where the likelihood depends on it.
        train_data: Training data in the likelihood's support, for parts that start from data.
        train_size: The number of training data.
        levels: The number of levels 0, ..., levels - 1 of the data; None if they have none.
        units: The center and spread of real data; without, those of `train_data`, and `fit` finds them.

    Raises:
        ValueError: If parts do not fit together, or a likelihood of integers is given no `levels`.
    """
    likelihood = likelihood[kind] if isinstance(likelihood, Mapping) else likelihood
    if "train_size" in inspect.signature(_class_of(network)).parameters:
        network = partial(network, train_size=train_size)
    encoder, decoder = partial(network, tuple(event_shape)), partial(network, (latent_dim,))
    support = _class_of(likelihood).support
    if support == "real":
        if units is None and train_data is not None:
            units = Units.of(train_data)
        encoder = networks.on_user_units(encoder, tuple(event_shape), units)
    if support == "counts":
        encoder = networks.on_log_scale(encoder)
    if support == "integers":
        encoder = networks.on_unit_scale(encoder, levels)
    if _class_of(prior).support == "simplex":
        decoder = networks.on_simplex_scale(decoder)
    given: dict[str, Any] = {
        "event_shape": tuple(event_shape),
        "latent_dim": latent_dim,
        "encoder": encoder,
        "decoder": decoder,
        "train_data": train_data,
        "train_size": train_size,
        "levels": levels,
        "units": units,
        "data_support": support,
    }

    def construct(part: Callable[..., nn.Module]) -> nn.Module:
        # A partial's own signature fails on an unknown option before the call can name it.
        asked = inspect.signature(_class_of(part)).parameters
        return part(**{name: value for name, value in given.items() if name in asked})

    given["posterior"] = construct(posterior)
    return VAE(construct(prior), construct(likelihood), given["posterior"])


def names_of_support(parts: Mapping[str, Any], support: Any) -> str:
    """The names of a family's parts of a support, for a message."""
    return ", ".join(name for name, part in parts.items() if part.support == support) or "none"


def _class_of(part: Callable[..., nn.Module]) -> Any:
    return part.func if isinstance(part, partial) else part
