"""Two levels of latents: p(z2) p(z1 | z2) p(x | z1), with a bottom-up or a top-down guide.

`python scripts/svi_train.py --model hierarchical --data mnist --inference bottom_up
--prior vamp` trains it. z1 is what the decoder reads, and z2 gives z1 a prior that is learned.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from pyro.nn import PyroModule, pyro_method
from torch import Tensor, nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.checks import (
    Part,
    check_at_least,
    check_choice,
    checked_sizes,
    class_of,
    support_of,
)
from pyro_vae.conditional_draws import Conditionals
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
from pyro_vae.distributions import TwoLevels
from pyro_vae.generation import Generation
from pyro_vae.model import LIKELIHOOD_OF_KIND, construct, find_parts, names_of_support
from pyro_vae.parameter_names import UniqueParameterNames
from pyro_vae.posteriors.posterior import positive_scale
from pyro_vae.rng import exportable

Inference = Literal["bottom_up", "top_down"]

# Networks that read an image or a series, which no level is.
_CONVOLUTIONAL = (networks.Conv, networks.GatedConv, networks.ResNet, networks.Conv1d)


class Hierarchical(Generation, UniqueParameterNames, PyroModule):
    """p(z2) p(z1 | z2) p(x | z1), p(z1 | z2) a diagonal normal, with one of two guides.

    - bottom_up: q(z1 | x) q(z2 | z1), diagonal normals. Each level is inferred from the one below.
    - top_down: q(z2 | x) q(z1 | x, z2), as in a ladder VAE. The encoder gives a normal of z1 from
      x alone, N(m, s^2), which stands for the likelihood, and q(z1 | x, z2) is its product with
      the prior p(z1 | z2) = N(mu, sigma^2), coordinate by coordinate:

          N(v (m / s^2 + mu / sigma^2), v),    1 / v = 1 / s^2 + 1 / sigma^2.

      q(z2 | x) reads the encoder's output for z1. That is all that z2 can learn from x where m and
      s^2 describe the likelihood of z1. Train it with a warm-up of the KL, as its authors do: q is
      close to p at the start, and without one stays there for many epochs.

    The KL of the bound is a sum over levels. The one of z1 is an expectation over z2. In top_down
    it has a closed form for each z2; in bottom_up z2 depends on z1, and it is estimated by Monte
    Carlo.

    `embed(x)` is the means of both levels beside each other, (z1, z2), each at the mean of the
    level that it is inferred from; `sample` draws both levels.

    Args:
        prior: `prior()` is p(z2), real vectors.
        conditional: `conditional(z2)` is p(z1 | z2), a diagonal normal.
        likelihood: `likelihood(z1)` is p(x | z1); with `skip`, `likelihood(z)` is p(x | z1, z2)
            for z = (z1, z2).
        posterior: The encoders of both levels.
        skip: Whether the likelihood reads both levels.

    References:
        Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov, 2016), bottom-up,
        https://arxiv.org/abs/1509.00519; Ladder Variational Autoencoders (Sonderby et al., 2016),
        top-down, https://arxiv.org/abs/1602.02282
    """

    latent_sites: ClassVar[tuple[str, ...]] = ("z1", "z2")
    labels: ClassVar[str] = "none"
    # Describes the training data; set by `fit` and `load`.
    contract: DataContract | None = None
    prior: nn.Module
    likelihood: nn.Module
    posterior: nn.Module

    def __init__(
        self,
        prior: nn.Module,
        conditional: posteriors.DiagonalNormal,
        likelihood: nn.Module,
        posterior: "Encoders",
        *,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.conditional = conditional
        self.likelihood = likelihood
        self.posterior = posterior
        self.skip = skip
        # The dimensions of z1 and z2.
        self.latent_dims = (conditional.latent_dim, posterior.latent_dim)

    @pyro_method
    def model(self, x: Real[Tensor, " batch *event"], y: Tensor | None = None) -> Tensor:
        """z2 ~ p(z2), z1 ~ p(z1 | z2), x ~ p(x | z1)."""
        check_observed(x, self.likelihood, self.contract)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.conditional(z2))
            z = torch.cat([z1, z2], -1) if self.skip else z1
            return pyro.sample("x", self.likelihood(z), obs=x)

    @pyro_method
    def guide(self, x: Real[Tensor, " batch *event"], y: Tensor | None = None) -> None:
        """z1 ~ q(z1 | x), z2 ~ q(z2 | z1); or z2 ~ q(z2 | x), z1 ~ q(z1 | x, z2)."""
        check_batch(x, self.likelihood)
        encoders: Any = self.posterior
        bottom, top = encoders.bottom, encoders.top
        with pyro.plate("data", len(x)):
            if encoders.inference == "bottom_up":
                z1 = pyro.sample("z1", bottom(x))
                pyro.sample("z2", top(z1))
            else:
                outputs = bottom.encoder(x)
                z2 = pyro.sample("z2", top(outputs))
                pyro.sample("z1", combine(bottom.normal(outputs), self.conditional(z2)))

    def embed(self, x: Any, y: Tensor | None = None) -> Float[Tensor, "batch latent"]:
        """The means of both levels, (z1, z2), used as the representation of x.

        In bottom_up the mean of q(z1 | x), and that of q(z2 | z1) there; in top_down the mean of
        q(z2 | x), and that of q(z1 | x, z2) there.

        Args:
            x: A tensor in the likelihood's support, with gradients; or data of any form that `fit`
                takes, which are prepared first, without gradients.
            y: Not used.
        """
        if not isinstance(x, Tensor):
            with torch.no_grad():
                return self.embed(self.prepare(x))
        check_prepared(x, self.likelihood, self.contract)
        encoders: Any = self.posterior
        bottom, top = encoders.bottom, encoders.top
        with exportable():
            if encoders.inference == "bottom_up":
                z1 = bottom.embed(x)
                return torch.cat([z1, top.embed(z1)], -1)
            outputs = bottom.encoder(x)
            z2 = top.embed(outputs)
            q: Any = combine(bottom.normal(outputs), self.conditional(z2))
            return torch.cat([q.mean, z2], -1)

    def prepare(self, data: Any) -> Real[Tensor, " batch *event"]:
        """Prepare new data as the training data: columns in order, levels binarised or scaled.

        Raises:
            ValueError: If the program was not trained, or the data do not fit it.
        """
        return prepare(data, self.contract).to(next(self.parameters()).device)

    def decode(self, z: Any, y: Tensor | None = None) -> Float[Tensor, "*batch_event"]:
        """The mean of p(x | z1), or of p(x | z1, z2), in the likelihood's support.

        Args:
            z: Codes (z1, z2) as those of `embed`; without `skip` z1 alone may be given, too.
            y: Not used.

        Raises:
            ValueError: If they have another shape.
        """
        if not isinstance(z, Tensor):
            z = torch.as_tensor(z, dtype=torch.get_default_dtype())
        lowest, both = self.latent_dims[0], sum(self.latent_dims)
        allowed = (both,) if self.skip else (both, lowest)
        if z.dim() == 0 or z.shape[-1] not in allowed:
            raise ValueError(
                f"z must have the shape (..., {both}), z1 and z2"
                f"{'' if self.skip else f', or (..., {lowest}), z1 alone'}, got {tuple(z.shape)}."
            )
        with exportable():
            return self.likelihood(self._read(z)).mean

    def draw_below(self, z2: Float[Tensor, "*batch top"]) -> Float[Tensor, "*batch latent"]:
        """Codes (z1, z2) with z1 ~ p(z1 | z2): what the model makes of a z2."""
        return torch.cat([self.conditional(z2).sample(), z2], -1)

    def _read(self, z: Tensor) -> Tensor:
        """The part of a code that the likelihood reads."""
        return z if self.skip else z[..., : self.latent_dims[0]]

    def _new_codes(self, n: int) -> Tensor:
        return self.draw_below(self.prior().sample((n,)))

    def _conditionals(self, y: Any, n: int) -> Callable[[Tensor], Conditionals]:
        encoders: Any = self.posterior
        bottom, top, lowest = encoders.bottom, encoders.top, self.latent_dims[0]

        def posterior(x: Tensor) -> TwoLevels:
            if encoders.inference == "bottom_up":
                return TwoLevels(bottom(x), top, lowest)
            outputs = bottom.encoder(x)

            def below(z2: Tensor) -> Any:
                return combine(bottom.normal(outputs), self.conditional(z2))

            return TwoLevels(top(outputs), below, lowest, reverse=True)

        prior = TwoLevels(self.prior(), self.conditional, lowest, reverse=True)
        parts = Conditionals(prior, lambda z: self.likelihood(self._read(z)), posterior, real=True)
        return lambda rows: parts

    def _generated(self, z: Tensor, noise: bool, *y: Any) -> Tensor:
        return super()._generated(self._read(z), noise, *y)

    @property
    def _coordinates(self) -> int:
        return sum(self.latent_dims) if self.skip else self.latent_dims[0]

    def _prior_coordinates(self) -> None:
        """p(z1), the integral over z2, has no closed form."""

    def _guide_at(self, x: Tensor, *y: Any) -> None:
        """The rate of z1 depends on z2."""


class Encoders(nn.Module):
    """The encoders of both levels. Called with x, they give the normal of z2.

    In top_down that is q(z2 | x). In bottom_up, q(z2 | x) is q(z2 | z1) averaged over q(z1 | x),
    without a closed form; the normal is q(z2 | z1) at the mean of q(z1 | x). A Vamp prior has
    these normals at its pseudo-inputs as components. In both cases p(z2) is exactly that mixture,
    and so are the bound and log p(x) of the program. In top_down it is the aggregate posterior of
    the pseudo-inputs, as in the hierarchical VampPrior; in bottom_up it is close to it where
    q(z1 | u) is narrow.

    Args:
        bottom: N(m, s^2) of z1 from x: q(z1 | x) in bottom_up, its factor in top_down.
        top: q(z2 | z1) in bottom_up. In top_down it reads m and s as the encoder of `bottom` gives
            them, `(2, latent_dim)`.
        inference: The guide.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), section 4,
        https://arxiv.org/abs/1705.07120
    """

    support: ClassVar[str] = "real"

    def __init__(
        self, bottom: "Bottom", top: posteriors.DiagonalNormal, inference: Inference
    ) -> None:
        super().__init__()
        check_choice(Inference, inference=inference)
        self.bottom = bottom
        self.top = top
        self.inference = inference
        self.latent_dim = top.latent_dim

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return self.top(self._evidence(x))

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch top"]:
        """The mean of that normal."""
        return self.top.embed(self._evidence(x))

    def _evidence(self, x: Tensor) -> Tensor:
        return self.bottom.embed(x) if self.inference == "bottom_up" else self.bottom.encoder(x)


class Bottom(posteriors.DiagonalNormal):
    """A diagonal normal of z1 from x, also from the encoder's output that another level reads."""

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        return self.normal(self.encoder(x))

    def normal(self, outputs: Float[Tensor, "*batch 2 latent"]) -> dist.Distribution:
        """N(m, s^2) from the encoder's output."""
        loc, raw_scale = outputs.unbind(-2)
        return dist.Normal(loc, positive_scale(raw_scale)).to_event(1)


def combine(first: Any, second: Any) -> dist.Independent:
    """The normalised product of two diagonal normals: precisions add, means are weighted by them.

    Args:
        first: N(m, s^2), an `Independent` of normals.
        second: N(mu, sigma^2).
    """
    a, b = first.base_dist, second.base_dist
    spread = torch.hypot(a.scale, b.scale)
    # The share of the first precision in their sum, without a division by small squares.
    share = (b.scale / spread).square()
    loc = share * a.loc + (1 - share) * b.loc
    return dist.Normal(loc, a.scale * (b.scale / spread)).to_event(1)


def build(
    event_shape: Sequence[int],
    latent_dim: int = 8,
    *,
    prior: Part = priors.StandardNormal,
    likelihood: Part | Mapping[Kind, Part] = LIKELIHOOD_OF_KIND,
    network: Part = networks.MLP,
    inference: Inference = "bottom_up",
    top_dim: int | None = None,
    skip: bool = False,
    kind: Kind = "binary",
    train_data: Real[Tensor, " n *event"] | None = None,
    train_size: int | None = None,
    levels: int | None = None,
    units: Units | None = None,
) -> Hierarchical:
    """A VAE with two levels of latents, from its parts.

    >>> program = build((1, 8, 8), latent_dim=6, top_dim=3, prior="vamp", inference="bottom_up")

    Args:
        event_shape: The shape of an example.
        latent_dim: The dimension of z1.
        prior: p(z2), one of `priors.PRIORS` on the real line.
        likelihood: p(x | z1), or one for each kind of data.
        network: The networks between x and z1; those between the levels are of the same class and
            options, or `mlp` if it is convolutional.
        inference: "bottom_up", q(z1 | x) q(z2 | z1), or "top_down", q(z2 | x) q(z1 | x, z2), which
            needs a warm-up of the KL.
        top_dim: The dimension of z2; None for half of `latent_dim`.
        skip: Whether the decoder reads z2, too: p(x | z1, z2).
        kind: The kind of data, if the likelihood depends on it.
        train_data: Training data in the likelihood's support.
        train_size: The number of training examples.
        levels: The number of levels of the data; None if they have none.
        units: The center and spread of real data.

    Raises:
        ValueError: If a name is unknown, a dimension is below 1, or the prior is not on the real
            line.
    """
    event_shape, latent_dim = checked_sizes(event_shape, latent_dim)
    top_dim = max(1, latent_dim // 2) if top_dim is None else top_dim
    check_at_least(1, top_dim=top_dim)
    check_choice(Inference, inference=inference)
    prior, likelihood, network = find_parts(
        kind, train_size, prior=prior, likelihood=likelihood, network=network
    )
    if (support := support_of(class_of(prior), "prior")) != "real":
        raise ValueError(
            f"the prior of z2 must be on the real line, as its normal guide is, got "
            f"{class_of(prior).__name__} on {support}: use one of "
            f"{names_of_support(priors.PRIORS, 'real')}."
        )
    between = network
    if class_of(network) in _CONVOLUTIONAL:
        (between,) = find_parts(kind, train_size, network=networks.MLP)
    if units is None:
        units = likelihoods.find_units(class_of(likelihood), train_data)
    data = {"event_shape": event_shape, "levels": levels, "units": units}
    encoder = likelihoods.wrap_encoder(class_of(likelihood), partial(network, event_shape), **data)
    reads = (latent_dim,) if inference == "bottom_up" else (2, latent_dim)
    posterior = Encoders(
        Bottom(latent_dim, encoder),
        posteriors.DiagonalNormal(top_dim, partial(between, reads)),
        inference,
    )
    given: dict[str, Any] = {
        **data,
        "latent_dim": top_dim,
        "posterior": posterior,
        "decoder": partial(network, (latent_dim + top_dim * skip,)),
        "train_data": train_data,
        "train_size": train_size,
        "data_support": support_of(class_of(likelihood), "likelihood", SUPPORTS),
    }

    return Hierarchical(
        construct(prior, given),
        posteriors.DiagonalNormal(latent_dim, partial(between, (top_dim,))),
        construct(likelihood, given),
        posterior,
        skip=skip,
    )
