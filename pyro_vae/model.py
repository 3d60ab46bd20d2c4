"""The model file: a VAE as a Pyro program, and the defaults of the command line.

Three distributions, a prior p(z), a likelihood p(x | z) and a posterior q(z | x), each a module
called as it is written. Read this file first and edit it freely: change a default of `build`, and
`python scripts/svi_train.py` trains with it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pyro
import torch
from jaxtyping import Float, Real
from pyro.nn import PyroModule, pyro_method
from torch import Tensor, nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.checks import Part, check_parts, checked_sizes, class_of, named_part, support_of
from pyro_vae.data import (
    DataContract,
    Kind,
    Units,
    check_batch,
    check_observed,
    check_prepared,
    prepare,
)
from pyro_vae.data.validation import SUPPORTS
from pyro_vae.generation import Generation
from pyro_vae.parameter_names import UniqueParameterNames
from pyro_vae.rng import exportable

# The families of parts that `build` takes, in the order of the help.
MODEL_FAMILIES: dict[str, Mapping[str, type[nn.Module]]] = {
    "prior": priors.PRIORS,
    "likelihood": likelihoods.LIKELIHOODS,
    "posterior": posteriors.POSTERIORS,
    "network": networks.NETWORKS,
}

# The default likelihood of each kind of data. Edit a line, or give `build` one class.
LIKELIHOOD_OF_KIND: dict[Kind, Callable[..., nn.Module]] = {
    "binary": likelihoods.Bernoulli,
    "grey": likelihoods.Bernoulli,  # of pixels that are redrawn from the grey levels at each visit
    "levels": likelihoods.DiscretizedLogistic,
    "counts": likelihoods.NegativeBinomial,
    "unit": likelihoods.LogitNormal,
    "real": likelihoods.StudentT,
}


class VAE(Generation, UniqueParameterNames, PyroModule):
    """A variational autoencoder: p(x, z) = p(z) p(x | z), with the guide q(z | x).

    `sample`, `reconstruct` and `interpolate` are those of `Generation`.

    Args:
        prior: `prior()` is p(z), with event shape `(latent_dim,)`.
        likelihood: `likelihood(z)` is p(x | z), with the event shape of the data.
        posterior: `posterior(x)` is q(z | x), with event shape `(latent_dim,)`.

    Raises:
        ValueError: If prior and posterior differ in support, in latent dimension, or in the number
            of values of a discrete variable.
        TypeError: If a part is not a module.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    """

    latent_sites: ClassVar[tuple[str, ...]] = ("z",)
    # Describes the training data; set by `fit` and `load`.
    contract: DataContract | None = None
    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module

    def __init__(self, prior: nn.Module, likelihood: nn.Module, posterior: nn.Module) -> None:
        super().__init__()
        check_parts(prior=prior, likelihood=likelihood, posterior=posterior)
        check_pair(prior, posterior)
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior

    @pyro_method
    def model(self, x: Real[Tensor, " batch *event"]) -> Tensor:
        """z ~ p(z), x ~ p(x | z)."""
        check_observed(x, self.likelihood, self.contract)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    @pyro_method
    def guide(self, x: Real[Tensor, " batch *event"]) -> Tensor:
        """z ~ q(z | x)."""
        check_batch(x, self.likelihood)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))

    def embed(self, x: Any) -> Float[Tensor, "batch latent"]:
        """The deterministic code of x, used as its representation.

        Args:
            x: A tensor in the likelihood's support, with gradients; or data of any form that `fit`
                takes, which are prepared first, without gradients.
        """
        if not isinstance(x, Tensor):
            with torch.no_grad():
                return self.embed(self.prepare(x))
        check_prepared(x, self.likelihood, self.contract)
        with exportable():
            return self.posterior.embed(x)

    def prepare(self, data: Any) -> Real[Tensor, " batch *event"]:
        """Prepare new data as the training data: columns in order, levels binarised or scaled.

        Args:
            data: Data of any form that `fit` takes.

        Raises:
            ValueError: If the VAE was not trained, or the data do not fit it.
        """
        return prepare(data, self.contract).to(next(self.parameters()).device)

    def decode(self, z: Any) -> Float[Tensor, "*batch_event"]:
        """The mean of p(x | z), in the likelihood's support.

        Args:
            z: Codes `(*batch, latent_dim)`: a tensor, an array or a list.

        Raises:
            ValueError: If they have another shape.
        """
        if not isinstance(z, Tensor):
            z = torch.as_tensor(z, dtype=torch.get_default_dtype())
        latent_dim = getattr(self.prior, "latent_dim", None)
        if latent_dim is not None and (z.dim() == 0 or z.shape[-1] != latent_dim):
            raise ValueError(f"z must have the shape (..., {latent_dim}), got {tuple(z.shape)}.")
        with exportable():
            return self.likelihood(z).mean


def build(
    event_shape: Sequence[int],
    latent_dim: int = 8,
    *,
    prior: Part = priors.StandardNormal,
    likelihood: Part | Mapping[Kind, Part] = LIKELIHOOD_OF_KIND,
    posterior: Part = posteriors.DiagonalNormal,
    network: Part = networks.MLP,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
) -> VAE:
    """A VAE from its parts, by name or class. The defaults above are those of the command line.

    >>> vae = build((30,), latent_dim=2, prior="vamp", likelihood="normal")

    Each constructor is given, by parameter name, what it asks for among `latent_dim`,
    `event_shape`, `encoder`, `decoder`, `posterior`, `train_data`, `train_size`, `levels`, `units`
    and `data_support`, the likelihood's support. The likelihood and the prior may wrap the encoder
    and the decoder, which then read real data as (x - center) / spread, counts as log(1 + x),
    integers as x / (levels - 1), and points of the simplex centred, over their spread.

    Args:
        event_shape: The shape of an example: `(columns,)` of a table, `(channels, height, width)`
            of images.
        latent_dim: The length of the last axis that the decoder reads.
        prior: One of `priors.PRIORS` by name, a class, or a `partial` of a class with options.
        likelihood: Likewise from `likelihoods.LIKELIHOODS`, or one for each kind of data.
        posterior: Likewise from `posteriors.POSTERIORS`.
        network: Likewise from `networks.NETWORKS`, for encoder and decoder; called with an input
            and an output shape, and with `train_size` if it has that parameter.
        kind: The kind of data, `dataset.kind`, if the likelihood depends on it.
        train_data: Training data in the likelihood's support, for parts that are initialised from
            data.
        train_size: The number of training examples.
        levels: The number of levels 0, ..., levels - 1 of the data; None if they have none.
        units: The center and spread of real data; None for those of `train_data`, or until `fit`.

    Raises:
        ValueError: If a name is unknown, parts do not fit together, or a likelihood of integers is
            given no `levels`.
    """
    event_shape, latent_dim = checked_sizes(event_shape, latent_dim)
    prior, likelihood, posterior, network = find_parts(
        kind, train_size, prior=prior, likelihood=likelihood, posterior=posterior, network=network
    )
    support = support_of(class_of(likelihood), "likelihood", SUPPORTS)
    support_of(class_of(prior), "prior")
    if units is None:
        units = likelihoods.find_units(class_of(likelihood), train_data)
    data = {"event_shape": event_shape, "levels": levels, "units": units}
    encoder, decoder = partial(network, event_shape), partial(network, (latent_dim,))
    given: dict[str, Any] = {
        **data,
        "latent_dim": latent_dim,
        "encoder": likelihoods.wrap_encoder(class_of(likelihood), encoder, **data),
        "decoder": priors.wrap_decoder(class_of(prior), decoder),
        "train_data": train_data,
        "train_size": train_size,
        "data_support": support,
    }
    given["posterior"] = construct(posterior, given)
    return VAE(construct(prior, given), construct(likelihood, given), given["posterior"])


def find_parts(kind: Kind, train_size: int | None, **parts: Any) -> list[Callable[..., nn.Module]]:
    """The parts that `build` is given by name, class or kind of data, as classes or partials.

    Args:
        kind: The kind of data, which selects a part from a mapping.
        train_size: The number of training examples, given to a network that asks for it.
        **parts: A part for each of some families, in the order of the result.

    Raises:
        ValueError: If a name is unknown.
    """
    found: list[Callable[..., nn.Module]] = []
    for family, part in parts.items():
        if isinstance(part, Mapping):
            part = named_part("kind", kind, {**part})
        made = named_part(family, part, MODEL_FAMILIES[family])
        if family == "network" and "train_size" in inspect.signature(class_of(made)).parameters:
            made = partial(made, train_size=train_size)
        found.append(made)
    return found


def construct(part: Callable[..., nn.Module], given: Mapping[str, Any]) -> nn.Module:
    """Call a part with those of the given arguments that its class asks for.

    The signature of the class decides: that of a partial raises on an unknown option, without
    naming it.
    """
    asked = inspect.signature(class_of(part)).parameters
    return part(**{name: value for name, value in given.items() if name in asked})


def check_pair(prior: nn.Module, posterior: nn.Module) -> None:
    """Check that a prior and a posterior are on the same space.

    Raises:
        ValueError: If they differ in support, in latent dimension, or in the number of values of a
            discrete variable.
    """
    for word in ("support", "latent_dim", "values"):
        p, q = (getattr(part, word, None) for part in (prior, posterior))
        if p == q:
            continue
        message = (
            f"prior and posterior must have the same {word}: "
            f"{type(prior).__name__} has {p}, {type(posterior).__name__} has {q}."
        )
        if word == "support":
            message += (
                f" On {p}, posteriors are {names_of_support(posteriors.POSTERIORS, p)}; "
                f"on {q}, priors are {names_of_support(priors.PRIORS, q)}."
            )
        raise ValueError(message)


def names_of_support(parts: Mapping[str, Any], support: Any) -> str:
    """The names of a family's parts of a support, for a message."""
    return ", ".join(name for name, part in parts.items() if part.support == support) or "none"
