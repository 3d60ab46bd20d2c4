"""Log densities of the aggregate posterior q(z) = 1/N sum_j q(z | x_j), and of its coordinates.

For normal guides q(z) is a mixture of very many normals, evaluated by matrix products in float64:
a squared distance is the difference of numbers that are far larger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from analysis.study_results import Cell, mean_and_spread
from pyro_vae.distributions import LowRankNormal
from pyro_vae.mutual_information import mutual_information

# The most elements of pairs of points and components that are held at a time: 8 MB fit into a
# cache.
ELEMENTS = 2**20
# An interval of an interpolated log density is accepted once the polynomial over twice its length
# is off by less than this, in nats, at the midpoint and in its slope there; its own error is about
# a sixteenth.
TOLERANCE = 2e-4
# The number of initial knots, half of them equally spaced and half at quantiles of the points.
FIRST_KNOTS = 64
# No interval is wider than this multiple of the narrowest component in it or beside it.
WIDEST = 2.0
# In an interval with at most this many points, these become knots, so that nothing is
# interpolated.
FEW_POINTS = 3
# Draws whose marginals are also summed directly, to measure the error of interpolation, and the
# largest error in nats for which interpolated values are used.
CHECKED = 100
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


class NormalAggregate:
    """log q(z) and log q(z_d) at draws, for normal guides."""

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
        marginals = coordinate_distributions(q)
        self.locs.append(marginals.mean.cpu())
        self.scales.append(marginals.stddev.cpu())

    def finish(self, n: int) -> tuple[Tensor, Tensor | None, float | None]:
        """Return log q(z), log q(z_d), and the largest observed error of interpolation."""
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


class PairwiseAggregate:
    """log q(z), and log q(z_d) where it exists, from the density of all pairs."""

    def __init__(self, draws: Draws) -> None:
        self.z = draws.z
        self.joint = torch.full((len(self.z),), -math.inf, dtype=torch.float64)
        own = draws.own_coordinates
        self.coordinates = None if own is None else torch.full_like(own, -math.inf)

    def add(self, q: Distribution) -> None:
        """Add a block of components."""
        size = max(1, ELEMENTS // (q.batch_shape.numel() * q.event_shape.numel()))
        device = q.sample().device
        for rows in torch.arange(len(self.z)).split(size):
            pairs = torch.Size((len(rows), *q.batch_shape))
            z = self.z[rows].unsqueeze(1).expand(*pairs, *q.event_shape).to(device)
            if self.coordinates is None:
                log_q = q.expand(pairs).log_prob(z).double().cpu()
            else:
                each = coordinate_distributions(q).log_prob(z).double().cpu()
                log_q = each.sum(-1)
                self.coordinates[rows] = torch.logaddexp(self.coordinates[rows], each.logsumexp(1))
            self.joint[rows] = torch.logaddexp(self.joint[rows], log_q.logsumexp(1))

    def finish(self, n: int) -> tuple[Tensor, Tensor | None, float | None]:
        """Return log q(z), log q(z_d), and None, as nothing is interpolated."""
        coordinates = None if self.coordinates is None else self.coordinates - math.log(n)
        return self.joint - math.log(n), coordinates, None


def is_normal(q: Distribution) -> bool:
    """Whether a distribution of vectors is normal, with or without correlations."""
    if isinstance(q, Independent):
        return isinstance(q.base_dist, Normal) and q.reinterpreted_batch_ndims == 1
    return isinstance(q, (MultivariateNormal, LowRankMultivariateNormal, LowRankNormal))


def coordinate_distributions(q: Distribution) -> Distribution:
    """q(z_d | x) of each coordinate, in float64 for normals."""
    if is_normal(q):
        return Normal(q.mean.double(), q.variance.double().sqrt(), validate_args=False)
    assert isinstance(q, Independent)
    return q.base_dist


def features(z: Float[Tensor, "points latent"], q: Distribution) -> Float[Tensor, "points f"]:
    """The f(z) for which log N(z | mu_j, Sigma_j) = f(z) . c_j: pairwise products of z, z, and 1.

    Without correlations the products are the squares only.

    Args:
        z: The points, centred: large z make large differences.
        q: A normal of the components' family.
    """
    one = torch.ones_like(z[:, :1])
    if isinstance(q, Independent):
        return torch.cat([z.square(), z, one], 1)
    first, second = torch.triu_indices(z.shape[1], z.shape[1])
    return torch.cat([z[:, first] * z[:, second], z, one], 1)


def coefficients(
    q: Distribution, centre: Float[Tensor, " latent"]
) -> Float[Tensor, "components f"]:
    """The c_j of each normal of a batch, for `features` of z - centre."""
    latent = q.event_shape.numel()
    loc = q.mean.double().reshape(-1, latent) - centre
    constant = -latent / 2 * math.log(2 * math.pi)
    if isinstance(q, Independent):
        precision = q.variance.double().reshape(-1, latent).reciprocal()
        linear = precision * loc
        constant = constant + (precision.log() - linear * loc).sum(1, keepdim=True) / 2
        return torch.cat([-precision / 2, linear, constant], 1)
    cholesky = _cholesky(q).expand(*q.batch_shape, latent, latent).reshape(-1, latent, latent)
    precision = torch.cholesky_inverse(cholesky)
    linear = (precision @ loc.unsqueeze(-1)).squeeze(-1)
    log_det = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(1, keepdim=True)
    constant = constant - log_det - (linear * loc).sum(1, keepdim=True) / 2
    first, second = torch.triu_indices(latent, latent)
    # An off-diagonal product stands for two equal terms.
    weight = torch.where(first == second, -0.5, -1.0).double()
    return torch.cat([weight * precision[:, first, second], linear, constant], 1)


def _cholesky(q: Distribution) -> Tensor:
    if isinstance(q, MultivariateNormal):
        return q.scale_tril.double()
    if isinstance(q, LowRankMultivariateNormal):
        factor, variance = q.cov_factor.double(), q.cov_diag.double()
    else:
        assert isinstance(q, LowRankNormal)
        factor, variance = q.factor.double(), q.scale.double().square()
    return torch.linalg.cholesky(factor @ factor.mT + torch.diag_embed(variance))


def log_sum(
    f: Float[Tensor, "points f"], c: Float[Tensor, "components f"]
) -> Float[Tensor, " points"]:
    """log sum_j N(z_i | mu_j, Sigma_j) at each point, in nats."""
    parts = []
    for rows in f.split(max(1, ELEMENTS // len(c))):
        # NumPy's products of float64 take a third of the time of PyTorch's on AMD's CPUs.
        terms = torch.from_numpy(rows.numpy() @ c.numpy().T)
        top = terms.amax(1, keepdim=True)
        parts.append(top.squeeze(1) + terms.sub_(top).exp_().sum(1).log())
    return torch.cat(parts)


def log_marginal(
    z: Float[Tensor, " points"],
    loc: Float[Tensor, " components"],
    scale: Float[Tensor, " components"],
    *,
    interpolate: bool = True,
) -> Float[Tensor, " points"]:
    """log 1/N sum_j N(z_i | mu_j, sigma_j^2) in one dimension, in nats.

    It is computed with its slope at adaptive knots and interpolated by cubic Hermite polynomials.
    Intervals are halved until the interpolation is accurate to about 1e-4 nats at their midpoints,
    and no component is much narrower than they are. Without `interpolate` it is summed at every
    point.
    """
    if not bool(torch.isfinite(z).all() & torch.isfinite(loc).all() & torch.isfinite(scale).all()):
        return torch.full_like(z, math.nan)
    mixture = _Mixture(loc, scale)
    points, inverse = z.contiguous().unique(return_inverse=True)
    if not interpolate or len(points) <= FIRST_KNOTS:
        return mixture(points)[0][inverse]
    shares = torch.linspace(0, 1, FIRST_KNOTS // 2, dtype=z.dtype)
    equal = points[0] + (points[-1] - points[0]) * shares[:-1]
    knots = torch.cat([points.quantile(shares), equal]).unique()
    values, slopes = mixture(knots)
    open_ = torch.ones(len(knots) - 1, dtype=torch.bool)
    while open_.any():
        count = torch.searchsorted(points, knots[1:]) - torch.searchsorted(points, knots[:-1])
        few = open_ & (count <= FEW_POINTS)
        halved = open_ & ~few
        width = knots.diff()[halved]
        middle = knots[:-1][halved] + width / 2
        guess = (values[:-1] + values[1:])[halved] / 2 - width / 8 * slopes.diff()[halved]
        interval = torch.searchsorted(knots, points, right=True) - 1
        own = points[few[interval.clamp(max=len(few) - 1)]]
        new = torch.cat([middle, own])
        new_values, new_slopes = mixture(new)
        tilt = 1.5 * values.diff()[halved] / width - (slopes[:-1] + slopes[1:])[halved] / 4
        error = (new_values[: len(middle)] - guess).abs()
        # An error that changes sign at the midpoint shows in the slope only.
        error = error + width / 8 * (new_slopes[: len(middle)] - tilt).abs()
        # A narrow component between the knots shows in neither.
        done = (error < TOLERANCE) & (width <= WIDEST * _narrowest(loc, scale, knots)[halved])
        again = torch.zeros_like(open_)
        again[halved.nonzero().squeeze(1)] = ~done
        # An accepted interval stays accepted, whatever happens to its neighbours.
        cuts = torch.cat([again, torch.zeros(1, dtype=torch.bool)])
        flags = torch.cat([cuts, ~done, torch.zeros(len(own), dtype=torch.bool)])
        knots, order = torch.cat([knots, new]).sort(stable=True)
        values = torch.cat([values, new_values])[order]
        slopes = torch.cat([slopes, new_slopes])[order]
        open_ = flags[order][:-1]
    return _hermite(points, knots, values, slopes)[inverse]


def _narrowest(loc: Tensor, scale: Tensor, knots: Tensor) -> Tensor:
    """The smallest scale of the components in each interval and its neighbours; inf if none."""
    intervals = torch.searchsorted(knots, loc.contiguous())
    least = torch.full((len(knots) + 1,), math.inf, dtype=scale.dtype)
    least.scatter_reduce_(0, intervals, scale, "amin")
    return torch.minimum(torch.minimum(least[:-2], least[1:-1]), least[2:])


class _Mixture:
    """log 1/N sum_j N(z | mu_j, sigma_j^2) and its slope in one dimension."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.centre = loc.mean()
        loc, precision = loc - self.centre, scale.square().reciprocal()
        linear = precision * loc
        constant = (precision.log() - linear * loc - math.log(2 * math.pi)) / 2
        self.coefficients = torch.stack([-precision / 2, linear, constant - math.log(len(loc))])
        self.moments = torch.stack([torch.ones_like(loc), linear, precision], 1)

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        values, slopes = [torch.empty(0, dtype=z.dtype)], [torch.empty(0, dtype=z.dtype)]
        for part in (z - self.centre).split(max(1, ELEMENTS // len(self.moments))):
            powers = torch.stack([part.square(), part, torch.ones_like(part)], 1)
            terms = powers @ self.coefficients
            top = terms.amax(1, keepdim=True)
            total, linear, precision = (terms.sub_(top).exp_() @ self.moments).unbind(1)
            values.append(top.squeeze(1) + total.log())
            slopes.append((linear - part * precision) / total)
        return torch.cat(values), torch.cat(slopes)


def _hermite(z: Tensor, knots: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    """The piecewise cubic with these values and slopes at the knots."""
    left = (torch.searchsorted(knots, z, right=True) - 1).clamp(0, len(knots) - 2)
    width = knots[left + 1] - knots[left]
    t = (z - knots[left]) / torch.where(width > 0, width, 1.0)
    start, rise = values[left], values[left + 1] - values[left]
    bend = (1 - t) * (slopes[left] * width - rise) + t * (rise - slopes[left + 1] * width)
    return start + t * rise + t * (1 - t) * bend


def mutual_information_cell(vae: Any, x: Real[Tensor, " n *event"]) -> Cell:
    """I_q(x; z) of all data under the guide, in nats, as entries of a study's cell."""
    found = mutual_information(vae, x, max_data=len(x))
    return {
        "mutual_information": found.value,
        "mutual_information_se": found.standard_error,
        "mutual_information_saturated": found.saturated,
        "mutual_information_data": len(x),
    }


def mutual_information_column(cells: Sequence[Cell]) -> str:
    """Mean and spread over cells; "at least" if any of them is saturated."""
    text = mean_and_spread([cell["mutual_information"] for cell in cells])
    saturated = any(cell["mutual_information_saturated"] for cell in cells)
    return f"at least {text}" if saturated else text
