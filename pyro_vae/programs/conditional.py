"""A conditional VAE: p(x | z, c) for covariates c of each example, such as a batch or an age.

c is known for every example and enters the encoder and the decoder, so that z is free to describe
what c does not. Nothing forces c out of z: how much of it is left is measured, by
`analysis.programs.conditional`. Counts may have an observed size factor, as in scVI: the total of
a row is given, and the decoder describes how it is shared among the elements.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import pyro
import torch
from jaxtyping import Float, Real
from pyro.nn import PyroModule, pyro_method
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.checks import Part, check_count, check_parts, checked_sizes, class_of, support_of
from pyro_vae.conditional_draws import Conditionals
from pyro_vae.data import DataContract, Kind, Units, check_batch, check_observed, prepare
from pyro_vae.data.batch_checks import check_prepared
from pyro_vae.data.validation import SUPPORTS
from pyro_vae.generation import Generation
from pyro_vae.model import LIKELIHOOD_OF_KIND, check_pair, construct, find_parts
from pyro_vae.parameter_names import UniqueParameterNames
from pyro_vae.programs.covariates import (
    Covariates,
    GivenCovariates,
    check_counts,
    has_size,
    join,
    mean_total,
    with_dispersion,
    with_size,
)
from pyro_vae.rng import as_floats, evaluation_mode, exportable


class Conditional(Generation, UniqueParameterNames, PyroModule):
    """p(x, z | c) = p(z) p(x | z, c) with the guide q(z | x, c), for covariates c(y) of each row.

    With a size factor, counts are a negative binomial or Poisson with means s rho_i(z, c), where
    s = sum_i x_i is the row's total, at least 1, and rho are the shares, the likelihood's means
    over their sum. s is taken as given, although it is that of x: the rows of one total have a
    mass of at most one, so that log p(x | c, s) compares, at a disadvantage, with densities given
    the total, and with no density that predicts it.

    Args:
        prior: p(z).
        likelihood: `likelihood(v)` is p(x | z, c), where v joins z and c.
        posterior: `posterior(v)` is q(z | x, c), where v joins x, flattened, and c.
        covariates: y -> c.
        size_factor: Whether the total of a row enters the means; None if the likelihood is a
            negative binomial or a Poisson.
        dispersion_by_category: Whether the log inverse dispersion of each element is shifted by a
            learned number for each category.

    Raises:
        ValueError: If prior and posterior do not fit together, or the likelihood has no size
            factor or dispersion.

    References:
        Learning Structured Output Representation using Deep Conditional Generative Models (Sohn,
        Lee & Yan, 2015), NeurIPS 28; Deep generative modeling for single-cell transcriptomics
        (Lopez et al., 2018), https://doi.org/10.1038/s41592-018-0229-2
    """

    labels: ClassVar[str] = "always"
    latent_sites: ClassVar[tuple[str, ...]] = ("z",)
    contract: DataContract | None = None
    covariates: Covariates
    shifts: nn.Parameter

    def __init__(
        self,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        covariates: Covariates,
        size_factor: bool | None = None,
        dispersion_by_category: bool = False,
    ) -> None:
        super().__init__()
        check_parts(prior=prior, likelihood=likelihood, posterior=posterior)
        check_pair(prior, posterior)
        check_counts(type(likelihood), size_factor, dispersion_by_category)
        if getattr(posterior, "corruption", "none") != "none":
            raise ValueError(
                f"a corruption would change the covariates, too, got {posterior.corruption}: use "
                "none."
            )
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.covariates = covariates
        self.size_factor = has_size(type(likelihood)) if size_factor is None else size_factor
        if self.size_factor:
            likelihood.given_total = True  # pyright: ignore[reportArgumentType]
        if dispersion_by_category:
            event_shape: Any = likelihood.event_shape
            self.shifts = nn.Parameter(torch.zeros(covariates.width, math.prod(event_shape)))
        self.dispersion_by_category = dispersion_by_category

    @pyro_method
    def model(self, x: Real[Tensor, " batch *event"], y: Tensor | None = None) -> Tensor:
        """z ~ p(z), x ~ p(x | z, c, s)."""
        check_observed(x, self.likelihood, self.contract)
        c = self.features(x, y)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.given(z, c, self.size(x)), obs=x)

    @pyro_method
    def guide(self, x: Real[Tensor, " batch *event"], y: Tensor | None = None) -> Tensor:
        """z ~ q(z | x, c)."""
        check_batch(x, self.likelihood)
        c = self.features(x, y)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(join(x.flatten(1), c)))

    def features(
        self, x: Real[Tensor, " batch *event"], y: Tensor | None
    ) -> Float[Tensor, "batch features"]:
        """c(y) for the rows of x. Values are checked only if Pyro validates.

        Raises:
            ValueError: If y is missing, or lacks or holds covariates that training had not.
        """
        check = self.covariates.check if is_validation_enabled() else self.covariates.check_shape
        check(y, len(x))
        return self.covariates(y)

    def size(self, x: Real[Tensor, " batch *event"]) -> Float[Tensor, " batch"] | None:
        """The size factor of each row; None without."""
        return as_floats(x).flatten(1).sum(1).clamp(min=1) if self.size_factor else None

    def given(
        self,
        z: Float[Tensor, "*batch latent"],
        c: Float[Tensor, "*some features"],
        size: Float[Tensor, " *any"] | None = None,
    ) -> Any:
        """p(x | z, c, s), with the batch shape of z.

        Args:
            z: The codes.
            c: The features of the covariates, which broadcast to those of z.
            size: The size factors, likewise; None without.
        """
        p = self.likelihood(join(z, c))
        if size is not None:
            p = with_size(p, size)
        if self.dispersion_by_category:
            p = with_dispersion(p, (c * self.covariates.categorical) @ self.shifts)
        return p

    # ---- without Pyro: codes, means, samples ----------------------------------------------------

    def prepare(self, data: Any) -> Real[Tensor, " batch *event"]:
        """Prepare new data as the training data.

        Raises:
            ValueError: If the program was not trained, or the data do not fit it.
        """
        return prepare(data, self.contract).to(next(self.parameters()).device)

    def conditions(self, y: Any, n: int) -> Tensor:
        """Covariates of n rows as `model` reads them.

        Args:
            y: One value for all rows, or one for each: numbers as in the training data, or the
                names of classes. Of several covariates, a row for all, or one for each.
            n: The number of rows.

        Raises:
            ValueError: If there is no such class, or the shape is another.
        """
        return self.covariates.rows(y, n, self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of classes 0, 1, ...; empty without."""
        contract = self.contract
        return contract.label_names if contract is not None and contract.has_classes else ()

    def embed(self, x: Any, y: Any = None) -> Float[Tensor, "batch latent"]:
        """The deterministic code of x given its covariates, used as its representation.

        Args:
            x: A tensor in the likelihood's support, with gradients; or data of any form that `fit`
                takes, which are prepared first, without gradients.
            y: As for `conditions`.

        Raises:
            ValueError: If x or y do not fit.
        """
        if not isinstance(x, Tensor):
            with torch.no_grad():
                return self.embed(self.prepare(x), y)
        check_prepared(x, self.likelihood, self.contract)
        with exportable():
            c = self.covariates(self.conditions(y, x.shape[0]))
            return self.posterior.embed(join(x.flatten(1), c))

    def decode(self, z: Any, y: Any = None, *, size: Any = None) -> Float[Tensor, "*batch_event"]:
        """The mean of p(x | z, c, s), in the likelihood's support.

        Args:
            z: Codes `(..., n, latent_dim)`: a tensor, an array or a list.
            y: As for `conditions`, of the n rows.
            size: The size factors: a number, or one for each row; None for the mean total of the
                training data.

        Raises:
            ValueError: If z, y or the size factors do not fit.
        """
        return self._density(z, y, size).mean

    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        n: int = 1,
        *,
        y: Any = None,
        size: Any = None,
        noise: bool = False,
        seed: int | None = None,
    ) -> Any:
        """New data under a condition: E[x | z, c] for n codes z ~ p(z).

        The same seed gives the same codes, under any condition.

        Args:
            n: The number of examples.
            y: As for `conditions`.
            size: As for `decode`.
            noise: Draw x ~ p(x | z, c) instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            As `VAE.sample`.

        Raises:
            ValueError: If n is below 1, or y or the size factors do not fit.
        """
        check_count(1, n=n)
        with evaluation_mode(self, seed=seed):
            z = self.prior().sample(torch.Size((int(n),)))
            return self._as_given(self._drawn(self._density(z, y, size), noise))

    def reconstruct(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Any, y: Any = None, *, noise: bool = False, seed: int | None = None
    ) -> Any:
        """Reconstructions: `counterfactual` under the covariates that x has."""
        return self.counterfactual(x, y, y, noise=noise, seed=seed)

    def counterfactual(
        self, x: Any, y: Any, to: Any, *, noise: bool = False, seed: int | None = None
    ) -> Any:
        """E[x' | z, c'] at the code z of each x given its own c, under other covariates c'.

        A size factor remains that of x.

        Args:
            x: Data in the units of the training data, in any form that `fit` takes. Before
                training, a tensor in the likelihood's support.
            y: The covariates of x, as for `conditions`.
            to: The other covariates, likewise.
            noise: Draw x' ~ p(x' | z, c') instead of taking its mean.
            seed: The seed of the draws; None for the global random stream.

        Returns:
            As `VAE.reconstruct`.

        Raises:
            ValueError: If the data or covariates do not fit.
        """
        with evaluation_mode(self, seed=seed):
            prepared = self._prepared(x)
            p = self._density(self._code(prepared, y), to, self.size(prepared))
            drawn = self._drawn(p, noise)
            if not (noise or self.size_factor):
                drawn = self._with_total(drawn, prepared)
            return self._as_given(drawn, like=x)

    def _density(self, z: Any, y: Any, size: Any) -> Any:
        """p(x | z, c, s) for codes and covariates of any form."""
        c = self.covariates.value
        z = torch.as_tensor(z, dtype=torch.get_default_dtype(), device=c.device)
        width = getattr(self.prior, "latent_dim", z.shape[-1])
        if z.dim() < 2 or z.shape[-1] != width:
            raise ValueError(f"z must have the shape (..., n, {width}), got {tuple(z.shape)}.")
        n = z.shape[-2]
        if size is not None and not self.size_factor:
            raise ValueError("this model has no size factor, got a size: train with size_factor.")
        if self.size_factor:
            size = torch.as_tensor(mean_total(self.likelihood) if size is None else size).to(z)
            positive = torch.compiler.is_exporting() or (size > 0).all()
            if size.shape not in ((), (n,)) or not positive:
                raise ValueError(f"size must be a positive number or {n} of them, got {size}.")
            size = size.expand(n)
        with exportable():
            return self.given(z, self.covariates(self.conditions(y, n)), size)

    def _conditionals(self, y: Any, n: int) -> Callable[[Tensor], Conditionals]:
        if self.size_factor:
            raise ValueError(
                "the size factor, the total of a row, is not known where elements are missing: "
                "complete rows of a program trained with --size-factor false."
            )
        features, prior = self.covariates(self.conditions(y, n)), self.prior()
        return lambda rows: Conditionals(
            *(prior, partial(self.given, c=features[rows])),
            lambda x: self.posterior(join(x.flatten(2), features[rows])),
            real=self.prior.support == "real",
        )

    def _generated(self, z: Tensor, noise: bool, *y: Any) -> Tensor:
        return self._drawn(self._density(z, y[0] if y else None, None), noise)

    def _covariates_of(self, y: Any, n: int) -> tuple[Tensor, ...]:
        return (self.conditions(y, n),)

    def _guide_at(self, x: Tensor, *y: Any) -> Any:
        return self.posterior(join(x.flatten(1), self.covariates(*y)))


def build(
    event_shape: Sequence[int],
    latent_dim: int = 8,
    *,
    prior: Part = priors.StandardNormal,
    likelihood: Part | Mapping[Kind, Part] = LIKELIHOOD_OF_KIND,
    posterior: Part = posteriors.DiagonalNormal,
    network: Part = networks.MLP,
    categorical: Sequence[int] | None = None,
    size_factor: bool | None = None,
    dispersion_by_category: bool = False,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
    train_labels: Tensor | None = None,
) -> Conditional:
    """A conditional VAE from its parts, by name or class.

    >>> y = torch.tensor([0, 1, 2] * 10)
    >>> program = build((30,), latent_dim=2, train_labels=y)
    >>> program.sample(4, y=1).shape
    (4, 30)

    Any network reads the covariates: convolutions over images and series have them as further,
    constant channels of the encoder's input, all other networks as further elements of a vector.

    Args:
        event_shape: The shape of an example.
        latent_dim: The dimension of z.
        prior: As for `pyro_vae.build`. A Vamp prior has pseudo-inputs with covariates.
        likelihood: As for `pyro_vae.build`.
        posterior: As for `pyro_vae.build`.
        network: As for `pyro_vae.build`.
        categorical: The columns of y that are categories; see `Covariates`.
        size_factor: Whether the total of a row enters the means of counts. None if the likelihood
            is a negative binomial or a Poisson; `library` is then off.
        dispersion_by_category: Whether each category has dispersions of its own: per gene and
            batch, in place of per gene.
        kind: As for `pyro_vae.build`.
        train_data: As for `pyro_vae.build`.
        train_size: As for `pyro_vae.build`.
        levels: As for `pyro_vae.build`.
        units: As for `pyro_vae.build`.
        train_labels: y of the training data, `(n,)` or `(n, columns)`: class numbers, factors or
            numbers.

    Raises:
        ValueError: If there are no covariates, or an option or parts do not fit.
    """
    event_shape, latent_dim = checked_sizes(event_shape, latent_dim)
    if train_labels is None:
        raise ValueError(
            "a conditional model needs covariates, and the data have no labels: give a data set "
            "with labels (--data.label COLUMN), or build(..., train_labels=y)."
        )
    covariates = Covariates(train_labels, categorical, train_size)
    prior, likelihood, posterior, network = find_parts(
        kind, train_size, prior=prior, likelihood=likelihood, posterior=posterior, network=network
    )
    support = support_of(class_of(likelihood), "likelihood", SUPPORTS)
    support_of(class_of(prior), "prior")
    check_counts(class_of(likelihood), size_factor, dispersion_by_category)
    if size_factor is None:
        size_factor = has_size(class_of(likelihood))
    if size_factor and "library" in inspect.signature(class_of(likelihood)).parameters:
        likelihood = partial(likelihood, library=False)
    if units is None:
        units = likelihoods.find_units(class_of(likelihood), train_data)
    data = {"event_shape": event_shape, "levels": levels, "units": units}

    def identity(_: tuple[int, ...]) -> nn.Module:
        return nn.Identity()

    # What scales the input scales x or z alone.
    scale_x = likelihoods.wrap_encoder(class_of(likelihood), identity, **data)
    scale_z = priors.wrap_decoder(class_of(prior), identity)
    axes = getattr(class_of(network), "axes", 0)

    def encoder(output_shape: tuple[int, ...]) -> nn.Module:
        scale = scale_x(event_shape)
        return GivenCovariates(scale, network, event_shape, covariates.width, output_shape, axes)

    def decoder(output_shape: tuple[int, ...]) -> nn.Module:
        scale = scale_z((latent_dim,))
        return GivenCovariates(scale, network, (latent_dim,), covariates.width, output_shape)

    given: dict[str, Any] = {
        **data,
        "latent_dim": latent_dim,
        "encoder": encoder,
        "decoder": decoder,
        "train_data": train_data,
        "train_size": train_size,
        "data_support": support,
    }
    q = construct(posterior, given)
    own: dict[str, Any] = {"posterior": q}
    if "posterior" in inspect.signature(class_of(prior)).parameters:
        # A prior that uses the posterior gives it rows with covariates.
        if class_of(prior) is priors.Vamp and units is not None:
            raise ValueError(
                "a Vamp prior keeps pseudo-inputs in units of real data, which covariates have "
                "not: use another prior, such as gaussian_mixture."
            )
        own["event_shape"] = (math.prod(event_shape) + covariates.width,)
        if train_data is not None and len(train_data) == len(train_labels):
            own["train_data"] = join(train_data.flatten(1), covariates(train_labels))
    return Conditional(
        construct(prior, {**given, **own}),
        construct(likelihood, given),
        q,
        covariates,
        size_factor=size_factor,
        dispersion_by_category=dispersion_by_category,
    )
