"""The model file of data with missing values: a VAE whose likelihood is of the observed elements.

z ~ p(z), x_observed ~ p(x_observed | z): the elements are independent given z, so those that are
missing are integrated out by leaving them out. The guide q(z | x_observed) reads the observed
elements and which they are. `python scripts/svi_train.py --model missing --data table.csv` trains
on a table with empty cells; with `--missing-rate 0.2` a complete set loses a fifth of its values.

References:
    Handling incomplete heterogeneous data using VAEs (Nazabal et al., 2020),
    https://arxiv.org/abs/1807.03653; MIWAE: Deep Generative Modelling and Imputation of Incomplete
    Data Sets (Mattei & Frellsen, 2019), https://arxiv.org/abs/1812.02633
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pyro
import torch
from jaxtyping import Float, Real
from pyro.nn import pyro_method
from torch import Tensor, nn
from torch.types import _size

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.checks import (
    Part,
    check_at_least,
    checked_sizes,
    class_of,
    support_of,
)
from pyro_vae.completion import check_elementwise
from pyro_vae.data import (
    Kind,
    Units,
    check_batch,
    check_observed,
    check_prepared,
)
from pyro_vae.data.missing import fill_means, is_missing
from pyro_vae.data.validation import SUPPORTS
from pyro_vae.distributions.distribution import Distribution
from pyro_vae.model import LIKELIHOOD_OF_KIND, VAE, construct, find_parts
from pyro_vae.rng import exportable


class WhereObserved(Distribution):
    """log p(x_i) of independent elements where x_i is a number, and 0 where it is NaN.

    Draws, mean and variance are those of all elements.

    Args:
        base: The distribution of each element, with an empty event shape.
        fill: A number in its support for each element; the result does not depend on it.
    """

    def __init__(self, base: Any, fill: Tensor) -> None:
        super().__init__(base.batch_shape, validate_args=False)
        self.base, self.fill = base, fill

    def expand(self, batch_shape: _size, _instance: object = None) -> "WhereObserved":
        """The same, broadcast to a larger batch shape."""
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        new.base = self.base.expand(batch_shape)
        return new

    def log_prob(self, value: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x_i), or 0."""
        gaps = is_missing(value)
        # A density of NaN would leave NaN in the gradient, although it is not used.
        log_prob = self.base.log_prob(torch.where(gaps, self.fill, value))
        return torch.where(gaps, 0.0, log_prob)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008 - as in torch.
        """Draws of all elements."""
        return self.base.sample(sample_shape)

    @property
    def support(self) -> Any:
        """The support of each element."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """The mean of each element."""
        return self.base.mean

    @property
    def variance(self) -> Tensor:
        """The variance of each element."""
        return self.base.variance


class WithMask(nn.Module):
    """f([u, m]): a network that reads u, 0 where it is missing, and m, 1 where it is observed.

    Args:
        network: f, which reads events with twice as many elements on the first axis.
        event_dim: The number of axes of an event.
    """

    def __init__(self, network: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.network = network
        self.event_dim = event_dim

    def forward(self, u: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*outputs"]:
        gaps = is_missing(u)
        known = torch.where(gaps, 0, u).to(torch.get_default_dtype())
        return self.network(torch.cat([known, (~gaps).to(known.dtype)], -self.event_dim))


class Missing(VAE):
    """p(x_observed, z) = p(z) prod_{i observed} p(x_i | z), with the guide q(z | x_observed).

    Missing elements of x are NaN. All densities, bounds and scores are of the observed elements
    alone: log p(x) of a row with more gaps is a sum of fewer terms, and that of a row without any
    value is 0. With nothing missing they are those of a `VAE` with the same parts.

    Values must be missing at random: whether one is must not depend on values that are not
    observed, or the model would have to describe that, too.

    Args:
        prior: As for `VAE`.
        likelihood: As for `VAE`, with elements that are independent given z.
        posterior: As for `VAE`, of an encoder that reads NaN, as `WithMask` does.
        missing_rate: The share of values that `fit` removes from its data.

    Raises:
        ValueError: As `VAE`, if elements are not independent given z, or the rate is not a share.

    References:
        Inference and missing data (Rubin, 1976), https://doi.org/10.1093/biomet/63.3.581
    """

    # What the reader of data asks: whether NaN marks a missing value, or is an error.
    allows_missing: ClassVar[bool] = True
    labels: ClassVar[str] = "none"

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        missing_rate: float = 0.0,
    ) -> None:
        super().__init__(prior, likelihood, posterior)
        if not 0 <= missing_rate < 1:
            raise ValueError(f"missing_rate must be at least 0 and below 1, got {missing_rate}.")
        check_elementwise(prior, likelihood)
        self.missing_rate = missing_rate

    @pyro_method
    def model(self, x: Real[Tensor, " batch *event"], y: Any = None) -> Tensor:
        """z ~ p(z), x_observed ~ p(x_observed | z)."""
        check_batch(x, self.likelihood)
        check_observed(self.filled(x), self.likelihood, self.contract)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            p = self.likelihood(z)
            elements = WhereObserved(p.base_dist, self.fill.to(x.device))
            return pyro.sample("x", elements.to_event(x.dim() - 1), obs=x)

    @pyro_method
    def guide(self, x: Real[Tensor, " batch *event"], y: Any = None) -> Tensor:
        """z ~ q(z | x_observed)."""
        check_batch(x, self.likelihood)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))

    @property
    def fill(self) -> Tensor:
        """A number in the likelihood's support for each element."""
        units = networks.user_units(self.likelihood)
        if units is not None:
            return units.center
        return torch.tensor(0.5 if self.likelihood.support == "unit" else 0.0)

    def filled(self, x: Real[Tensor, "*batch_event"]) -> Real[Tensor, "*batch_event"]:
        """x with a number where it is missing, to check its values."""
        return torch.where(is_missing(x), self.fill.to(x.device), x)

    def embed(self, x: Any, y: Any = None) -> Float[Tensor, "batch latent"]:
        """The deterministic code of the observed elements of x.

        Args:
            x: As for `VAE.embed`, with NaN where it is missing.
            y: Not used.
        """
        if not isinstance(x, Tensor):
            with torch.no_grad():
                return self.embed(self.prepare(x))
        check_prepared(self.filled(x), self.likelihood, self.contract)
        with exportable():
            return self.posterior.embed(x)

    def impute(
        self,
        x: Any,
        *,
        draws: int | None = None,
        observed: Any = None,
        num_samples: int = 200,
        seed: int | None = None,
    ) -> Any:
        """x with its missing elements filled in: E[x_missing | x_observed], or draws.

        The mean or the draws of `complete`, with z from q(z | x_observed), normals and p(z), and
        with importance weights, which make both exact as their number K grows.

        Args:
            x: Data in the units of the training data, in any form that `fit` takes, with NaN where
                they are missing. Before training, a tensor in the likelihood's support.
            draws: The number of draws; None for the mean.
            observed: Which elements of an array, a tensor or a DataFrame x are observed, of its
                shape; None for those that are not NaN.
            num_samples: The number K of draws of z for each row.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            For the mean, data in the form of x, as from `reconstruct`; a tensor for a tensor, else
            an array, `(draws, n, *event_shape)`, for draws. Observed elements are those of x. Grey
            levels that were binarised are returned binary.

        Raises:
            ValueError: If the data do not fit, `observed` has another shape, or a number is below
                1.
            NoDensityError: If the guide is a point mass.

        References:
            MIWAE (Mattei & Frellsen, 2019), section 3, https://arxiv.org/abs/1812.02633
        """
        check_at_least(1, draws=1 if draws is None else draws)
        options: Any = {"draws": draws or 1, "num_samples": num_samples, "seed": seed}
        found = self.complete(x, observed, **options)
        return found.mean if draws is None else found.values.swapaxes(0, 1)


def build(
    event_shape: Sequence[int],
    latent_dim: int = 8,
    *,
    prior: Part = priors.StandardNormal,
    likelihood: Part | Mapping[Kind, Part] = LIKELIHOOD_OF_KIND,
    posterior: Part = posteriors.DiagonalNormal,
    network: Part = networks.MLP,
    missing_rate: float = 0.0,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
) -> Missing:
    """A VAE of data with missing values, from its parts by name or class.

    >>> program = build((4,), likelihood="normal")
    >>> x = torch.tensor([[0.3, torch.nan, 1.2, torch.nan]])
    >>> program.impute(x, draws=10).shape
    torch.Size([10, 1, 4])

    Args:
        event_shape: As for `pyro_vae.build`.
        latent_dim: As for `pyro_vae.build`.
        prior: As for `pyro_vae.build`.
        likelihood: As for `pyro_vae.build`; its elements must be independent given z.
        posterior: As for `pyro_vae.build`.
        network: As for `pyro_vae.build`; the encoder reads twice as many channels, or elements.
        missing_rate: The probability with which each value of the data is removed, at random and
            the same in every run, in training as in tests. Their true values stay known, so that
            imputations can be compared with them.
        kind: As for `pyro_vae.build`.
        train_data: As for `pyro_vae.build`; NaN where it is missing.
        train_size: As for `pyro_vae.build`.
        levels: As for `pyro_vae.build`.
        units: As for `pyro_vae.build`.

    Raises:
        ValueError: As `pyro_vae.build` and `Missing`.
    """
    event_shape, latent_dim = checked_sizes(event_shape, latent_dim)
    prior, likelihood, posterior, network = find_parts(
        kind, train_size, prior=prior, likelihood=likelihood, posterior=posterior, network=network
    )
    support = support_of(class_of(likelihood), "likelihood", SUPPORTS)
    support_of(class_of(prior), "prior")
    if units is None and train_data is not None and support == "real":
        units = Units.from_data(train_data)
    data = {"event_shape": event_shape, "levels": levels, "units": units}

    def encoder(output_shape: tuple[int, ...]) -> nn.Module:
        twice = (2 * event_shape[0], *event_shape[1:])
        return WithMask(network(twice, output_shape), len(event_shape))

    given: dict[str, Any] = {
        **data,
        "latent_dim": latent_dim,
        "encoder": likelihoods.wrap_encoder(class_of(likelihood), encoder, **data),
        "decoder": priors.wrap_decoder(class_of(prior), partial(network, (latent_dim,))),
        "train_data": None if train_data is None else fill_means(train_data),
        "train_size": train_size,
        "data_support": support,
    }

    given["posterior"] = construct(posterior, given)
    parts = construct(prior, given), construct(likelihood, given), given["posterior"]
    return Missing(*parts, missing_rate)
