"""log q(z) and log q(z_d) of the mixture of all data's q(z | x), at draws, a block of data at a time."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from analysis.elbo.normal_mixtures import coefficients, features, is_normal, log_marginal, log_sum

# Elements of pairs of draws and data that are held at a time.
BLOCK = 2**20

# Draws whose marginals are summed directly, to say how far the interpolated ones are off.
CHECKED = 100

# An interpolation off by more than this, in nats, is not used.
LARGEST_ERROR = 1e-3


@dataclass(frozen=True)
class Draws:
    """Draws z_i ~ q(z | x_i) with their log densities, in float64.

    `own` is log q(z_i | x_i), `own_coordinates` log q(z_id | x_i), `prior` log p(z_i) and
    `prior_coordinates` log p(z_id); `kl` is the mean of KL(q(z_d | x_i) || p(z_d)).
    """

    z: Tensor
    own: Float[Tensor, " draws"]
    own_coordinates: Float[Tensor, "draws latent"] | None
    prior: Float[Tensor, " draws"]
    prior_coordinates: Float[Tensor, "draws latent"] | None
    kl: Float[Tensor, " latent"] | None


def coordinate_densities(q: Distribution) -> Distribution:
    """q(z_d | x) of each coordinate; those of a normal in float64."""
    if is_normal(q):
        return Normal(q.mean.double(), q.variance.double().sqrt(), validate_args=False)
    assert isinstance(q, Independent)
    return q.base_dist


class Normals:
    """log q(z) and log q(z_d) of a mixture of normals."""

    def __init__(self, draws: Draws) -> None:
        self.z = draws.z.double()
        self.centre = self.z.mean(0)
        self.joint = torch.full((len(self.z),), -math.inf, dtype=torch.float64)
        self.features: Tensor | None = None
        self.locs: list[Tensor] = []
        self.scales: list[Tensor] = []

    def add(self, q: Distribution) -> None:
        """Add a block of components."""
        if self.features is None:
            self.features = features(self.z - self.centre, q)
        c = coefficients(q, self.centre.to(q.mean.device)).cpu()
        self.joint = torch.logaddexp(self.joint, log_sum(self.features, c))
        each = coordinate_densities(q)
        self.locs.append(each.mean.cpu())
        self.scales.append(each.stddev.cpu())

    def finish(self, n: int) -> tuple[Tensor, Tensor | None, float | None]:
        """log q(z), log q(z_d), and the largest error found of the latter."""
        loc, scale = torch.cat(self.locs), torch.cat(self.scales)
        generator = torch.Generator().manual_seed(0)
        checked = torch.randperm(len(self.z), generator=generator)[:CHECKED]
        columns, errors = [], []
        for z, m, s in zip(self.z.mT, loc.mT, scale.mT, strict=True):
            column = log_marginal(z, m, s)
            direct = log_marginal(z[checked], m, s, interpolate=False)
            error = float((column[checked] - direct).abs().max())
            if error > LARGEST_ERROR:
                column, error = log_marginal(z, m, s, interpolate=False), 0.0
            columns.append(column)
            errors.append(error)
        return self.joint - math.log(n), torch.stack(columns, 1), max(errors)


class Pairs:
    """log q(z), and log q(z_d) where there is one, by the density of each draw under each datum."""

    def __init__(self, draws: Draws) -> None:
        self.z = draws.z
        self.joint = torch.full((len(self.z),), -math.inf, dtype=torch.float64)
        own = draws.own_coordinates
        self.coordinates = None if own is None else torch.full_like(own, -math.inf)

    def add(self, q: Distribution) -> None:
        """Add a block of components."""
        size = max(1, BLOCK // (q.batch_shape.numel() * q.event_shape.numel()))
        for rows in torch.arange(len(self.z)).split(size):
            pairs = torch.Size((len(rows), *q.batch_shape))
            z = self.z[rows].unsqueeze(1).expand(*pairs, *q.event_shape).to(_device(q))
            if self.coordinates is None:
                log_q = q.expand(pairs).log_prob(z).double().cpu()
            else:
                each = coordinate_densities(q).log_prob(z).double().cpu()
                log_q = each.sum(-1)
                self.coordinates[rows] = torch.logaddexp(self.coordinates[rows], each.logsumexp(1))
            self.joint[rows] = torch.logaddexp(self.joint[rows], log_q.logsumexp(1))

    def finish(self, n: int) -> tuple[Tensor, Tensor | None, float | None]:
        """log q(z), log q(z_d), and None, as nothing is interpolated."""
        coordinates = self.coordinates
        mean = None if coordinates is None else coordinates - math.log(n)
        return self.joint - math.log(n), mean, None


def _device(q: Distribution) -> torch.device:
    return q.sample().device
