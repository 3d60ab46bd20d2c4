"""Mixture priors: a learned mixture of normals, and the VampPrior."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F
from torch.types import _size

from pyro_vae.checks import check_at_least, check_choice
from pyro_vae.distributions import DiagonalNormalMixture
from pyro_vae.networks import running_statistics, user_units
from pyro_vae.priors.prior import Prior
from pyro_vae.rng import evaluation_mode

MixtureStart = Literal["random", "data", "kmeans"]

VampStart = Literal["data", "mean", "kmeans"]

# In standard deviations of the data: about what the VampPrior's authors add to a constant image.
_NOISE = 0.05

# More rows than this, and than this many per centre, change the centres little and cost memory.
_ROWS, _ROWS_PER_CENTRE = 10_000, 20
_CHUNK = 1000


class GaussianMixture(Prior):
    """p(z) = sum_k w_k N(z | mu_k, diag(sigma_k^2)), everything learned.

    It may start at the untrained posterior's codes of the training data. One draw z of q(z | x)
    for each x is assigned to the nearest component; w_k is the share of a component's draws, and
    sigma_k^2 their mean squared distance from mu_k, or over all components if there are fewer than
    two.

    Args:
        components: The number K of components.
        start: The initial mu: draws of N(0, I), with sigma = 1; posterior means of random training
            data; or K-means centres of posterior means of up to 10,000 of them.
        posterior: The VAE's posterior, used for the start only.
        train_data: Training data `(n, *event_shape)`. Without, the start is random whatever
            `start` says: parameters that are loaded replace it.

    Raises:
        ValueError: If `latent_dim` or `components` is below 1, `start` is unknown, or there are
            fewer data than components and `start` is kmeans.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), section 2, https://arxiv.org/abs/1705.07120
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        components: int = 10,
        start: MixtureStart = "random",
        posterior: nn.Module | None = None,
        train_data: Real[Tensor, " n *event"] | None = None,
    ) -> None:
        super().__init__(latent_dim)
        check_at_least(1, components=components)
        check_choice(MixtureStart, start=start)
        # Spread like N(0, I), so that the untrained prior covers an untrained guide's draws.
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.raw_scale = nn.Parameter(torch.full((components, latent_dim), math.log(math.e - 1)))
        if start != "random" and posterior is not None and train_data is not None:
            self.set(*_fit_components(start, components, posterior, train_data))

    @torch.no_grad()
    def set(
        self,
        logits: Float[Tensor, " components"],
        loc: Float[Tensor, "components latent"],
        scale: Float[Tensor, "components latent"],
    ) -> None:
        """Set log w, up to a constant, mu and sigma."""
        self.logits.copy_(logits)
        self.loc.copy_(loc)
        # softplus^-1
        self.raw_scale.copy_(scale + (-torch.expm1(-scale)).log())

    def forward(self) -> dist.Distribution:
        scale = F.softplus(self.raw_scale) + 1e-5
        return DiagonalNormalMixture(self.logits, self.loc, scale)


class Vamp(Prior):
    """p(z) = 1/K sum_k q(z | u_k): the aggregate posterior of K learned pseudo-inputs u_k.

    The posterior is that of the VAE and is not registered a second time: a `state_dict` holds one
    copy of it, and its parameters are trained in both roles. Its batch normalisation uses running
    statistics for pseudo-inputs, without an update; see `running_statistics`.

    With `inverse_autoregressive` the density takes an inverse, coordinate by coordinate, for each
    z and each pseudo-input. A step of 100 examples with 500 of them takes about three times as
    long as with `coupling_flow` in 10 dimensions, but 10 to 20 s of a core and above 5 GB in 50:
    use fewer components there, or `coupling_flow`.

    Args:
        posterior: The VAE's posterior, whose `posterior(u)` are the components.
        event_shape: The shape of an example, and so of a pseudo-input.
        components: The number K of pseudo-inputs.
        train_data: Training data `(n, *event_shape)` in the likelihood's support. Without, the
            pseudo-inputs start uniform on [0, 1] whatever `start` says: parameters that are loaded
            replace them. Those of real data are kept in units of their spread.
        start: The initial pseudo-inputs: random training data; the mean of the training data, with
            normal noise of 5 % of their standard deviation; or K-means centres of up to 10,000
            training data (more where that is below 20 for each component).

    Raises:
        ValueError: If `latent_dim` or `components` is below 1, `start` is unknown, there are fewer
            data than components and `start` is kmeans, or the posterior has no density.

    References:
        VAE with a VampPrior (Tomczak & Welling, 2018), https://arxiv.org/abs/1705.07120
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        posterior: nn.Module,
        event_shape: Sequence[int],
        components: int = 500,
        train_data: Real[Tensor, " n *event"] | None = None,
        start: VampStart = "data",
    ) -> None:
        super().__init__(latent_dim)
        check_at_least(1, components=components)
        check_choice(VampStart, start=start)
        if not getattr(posterior, "has_density", True):
            raise ValueError(
                "Vamp is a mixture of the posterior's densities at pseudo-inputs, and a "
                f"{type(posterior).__name__} has none: use another prior, such as standard_normal."
            )
        # In a tuple, so that nn.Module does not register it.
        self._posterior = (posterior,)
        if train_data is None:
            first = torch.rand(components, *event_shape)
        else:
            units = user_units(posterior)
            data = train_data if units is None else units.inside(train_data)
            first = _pseudo_inputs(start, components, data)
        self.pseudo_inputs = nn.Parameter(first)

    def forward(self) -> dist.Distribution:
        (posterior,) = self._posterior
        units = user_units(posterior)
        inputs = self.pseudo_inputs if units is None else units.outside(self.pseudo_inputs)
        with running_statistics(posterior):
            components = posterior(inputs)
        logits = self.pseudo_inputs.new_zeros(len(self.pseudo_inputs))
        if isinstance(components, dist.Independent) and isinstance(
            normal := components.base_dist, dist.Normal
        ):
            return DiagonalNormalMixture(logits, normal.loc, normal.scale)
        return _Mixture(dist.Categorical(logits=logits), components)


class _Mixture(dist.MixtureSameFamily):
    """A mixture that draws any number of points in a program that is exported.

    The draws are those of `MixtureSameFamily`, which reads the number as a constant.
    """

    def sample(self, sample_shape: _size = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draws, `(*sample_shape, *batch_shape, dim)`, without a gradient."""
        if self.batch_shape or not torch.compiler.is_exporting():
            return super().sample(torch.Size(sample_shape))
        weights = self.mixture_distribution.probs
        which = torch.multinomial(weights, math.prod(sample_shape), replacement=True)
        draws = self.component_distribution.sample(torch.Size(sample_shape))
        draws = draws.reshape(-1, *draws.shape[-2:])
        chosen = draws.gather(1, which[:, None, None].expand(-1, 1, draws.shape[-1]))
        return chosen.reshape(*sample_shape, -1)


# ---- initialisation from training data ----------------------------------------------------------


def k_means(values: Float[Tensor, "n d"], components: int) -> Float[Tensor, "components d"]:
    """The centres of K-means, from K-means++ seeded by torch's global random stream.

    Raises:
        ValueError: If there are fewer values than components.
        ImportError: If scikit-learn cannot be imported.

    References:
        k-means++: The Advantages of Careful Seeding (Arthur & Vassilvitskii, 2007),
        https://dl.acm.org/doi/10.5555/1283383.1283494
    """
    if len(values) < components:
        raise ValueError(
            f"start=kmeans needs at least as many training data as components, got {len(values)} "
            f"for {components}."
        )
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ImportError(
            f"start=kmeans needs scikit-learn, which cannot be imported ({error}): "
            "pip install scikit-learn"
        ) from error
    seed = int(torch.randint(2**31, ()))
    # n_init is annotated as a string, but documented as a number.
    means = MiniBatchKMeans(components, batch_size=4096, n_init=1, random_state=seed)  # pyright: ignore
    return torch.from_numpy(means.fit(values.numpy()).cluster_centers_).to(values.dtype)


def _subsample(data: Real[Tensor, " n *event"], components: int) -> Real[Tensor, " m *event"]:
    """Random rows without repetition, at most as many as `components` centres need."""
    wanted = max(_ROWS, _ROWS_PER_CENTRE * components)
    return data if len(data) <= wanted else data[torch.randperm(len(data))[:wanted]]


def _encode(
    posterior: nn.Module, data: Real[Tensor, " n *event"]
) -> tuple[Float[Tensor, "n latent"], Float[Tensor, "n latent"]]:
    """The codes of data, and one draw of q(z | x) for each."""
    means, draws = [], []
    with evaluation_mode(posterior):
        for rows in data.split(_CHUNK):
            means.append(posterior.embed(rows))
            draws.append(posterior(rows).sample())
    return torch.cat(means), torch.cat(draws)


def _fit_components(
    start: MixtureStart, components: int, posterior: nn.Module, train_data: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, means and scales of components that cover a posterior's draws at the data."""
    mean, draw = _encode(posterior, _subsample(train_data, components))
    if start == "kmeans":
        loc = k_means(mean, components)
    else:
        loc = mean[torch.randint(len(mean), (components,))]
    group = torch.cdist(draw, loc).argmin(-1)
    squared = (draw - loc[group]).square()
    count = torch.zeros(components, dtype=loc.dtype).index_add_(0, group, torch.ones(len(draw)))
    variance = torch.zeros_like(loc).index_add_(0, group, squared) / count.clamp(min=1)[:, None]
    variance = torch.where(count[:, None] < 2, squared.mean(0), variance)
    # An empty group remains a component, with the weight of one example.
    return count.clamp(min=1).log(), loc, variance.sqrt().clamp(min=1e-3)


def _pseudo_inputs(start: VampStart, components: int, train_data: Tensor) -> Tensor:
    """Random training data, their noisy mean, or their centres."""
    dtype = torch.get_default_dtype()
    if start == "data":
        return train_data[torch.randint(len(train_data), (components,))].to(dtype)
    rows = _subsample(train_data, components).to(dtype)
    if start == "mean":
        noise = _NOISE * rows.std(correction=0) * torch.randn(components, *rows.shape[1:])
        return rows.mean(0) + noise
    return k_means(rows.flatten(1), components).view(components, *rows.shape[1:])
