"""Log densities of mixtures of very many normals at very many points, and of their coordinates.

An aggregate posterior q(z) = 1/N sum_j q(z | x_j) is such a mixture, with a component for each datum.
Everything is in float64: a squared distance is the difference of numbers that are far larger.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from pyro_vae.distributions import LowRankNormal

# Points x components held at a time: 8 MB, which a processor's cache still helps with.
ELEMENTS = 2**20

# A piece of an interpolated log density is accepted once the polynomial of twice its length is off by
# less than this, in nats, in the middle and with its slope there; its own error is about a sixteenth.
TOLERANCE = 2e-4

# The first knots, half of them at equal distances and half at quantiles of the points.
FIRST_KNOTS = 64

# No piece is wider than so many times the narrowest scale of a component in it or beside it.
WIDEST = 2.0

# A piece with no more points than these takes them as its knots: then nothing is interpolated there.
FEW_POINTS = 3


def is_normal(q: Distribution) -> bool:
    """Whether a distribution of vectors is a normal, with or without correlations."""
    if isinstance(q, Independent):
        return isinstance(q.base_dist, Normal) and q.reinterpreted_batch_ndims == 1
    return isinstance(q, (MultivariateNormal, LowRankMultivariateNormal, LowRankNormal))


def features(z: Float[Tensor, "points latent"], q: Distribution) -> Float[Tensor, "points f"]:
    """The f(z) for which log N(z | mu_j, Sigma_j) = f(z) . c_j: z's products in pairs, z itself, and 1.

    Without correlations the products are the squares alone.

    Args:
        z: The points, moved to where the components are: large z make large differences.
        q: A normal of the components' form.
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
    # Off the diagonal a product stands once for its two equal terms.
    weight = torch.where(first == second, -0.5, -1.0).double()
    return torch.cat([weight * precision[:, first, second], linear, constant], 1)


def log_sum(
    f: Float[Tensor, "points f"], c: Float[Tensor, "components f"]
) -> Float[Tensor, " points"]:
    """log sum_j N(z_i | mu_j, Sigma_j) of each point, in nats: a matrix product and a log-sum-exp."""
    parts = []
    for rows in f.split(max(1, ELEMENTS // len(c))):
        terms = rows @ c.mT
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
    """log 1/N sum_j N(z_i | mu_j, sigma_j^2) on the line, in nats.

    It is computed, with its slope, at knots that are as close as the narrowest components near the
    points ask for, and between them it is a cubic polynomial of these values and slopes. Pieces are
    halved until that is right to about 1e-4 nats in their middle, and no component is much narrower.

    Args:
        z: The points.
        loc: mu.
        scale: sigma.
        interpolate: False to sum over the components at every point.
    """
    if not bool(torch.isfinite(z).all() & torch.isfinite(loc).all() & torch.isfinite(scale).all()):
        return torch.full_like(z, math.nan)
    mixture = _Line(loc, scale)
    points, inverse = z.contiguous().unique(return_inverse=True)
    if not interpolate or len(points) <= FIRST_KNOTS:
        return mixture(points)[0][inverse]
    shares = torch.linspace(0, 1, FIRST_KNOTS // 2, dtype=z.dtype)
    equal = points[0] + (points[-1] - points[0]) * shares[:-1]
    knots = torch.cat([points.quantile(shares), equal]).unique()
    values, slopes = mixture(knots)
    unsettled = torch.ones(len(knots) - 1, dtype=torch.bool)
    while unsettled.any():
        count = torch.searchsorted(points, knots[1:]) - torch.searchsorted(points, knots[:-1])
        few = unsettled & (count <= FEW_POINTS)
        halved = unsettled & ~few
        width = knots.diff()[halved]
        middle = knots[:-1][halved] + width / 2
        guess = (values[:-1] + values[1:])[halved] / 2 - width / 8 * slopes.diff()[halved]
        piece = torch.searchsorted(knots, points, right=True) - 1
        own = points[few[piece.clamp(max=len(few) - 1)]]
        new = torch.cat([middle, own])
        new_values, new_slopes = mixture(new)
        tilt = 1.5 * values.diff()[halved] / width - (slopes[:-1] + slopes[1:])[halved] / 4
        off = (new_values[: len(middle)] - guess).abs()
        # An error that changes its sign in the middle shows in the slope alone.
        off = off + width / 8 * (new_slopes[: len(middle)] - tilt).abs()
        # A narrow component between the knots shows in neither.
        right = (off < TOLERANCE) & (width <= WIDEST * _narrowest(loc, scale, knots)[halved])
        again = torch.zeros_like(unsettled)
        again[halved.nonzero().squeeze(1)] = ~right
        # A piece that is done stays so, however its neighbours are cut.
        cuts = torch.cat([again, torch.zeros(1, dtype=torch.bool)])
        flags = torch.cat([cuts, ~right, torch.zeros(len(own), dtype=torch.bool)])
        knots, order = torch.cat([knots, new]).sort(stable=True)
        values = torch.cat([values, new_values])[order]
        slopes = torch.cat([slopes, new_slopes])[order]
        unsettled = flags[order][:-1]
    return _cubic(points, knots, values, slopes)[inverse]


def _narrowest(loc: Tensor, scale: Tensor, knots: Tensor) -> Tensor:
    """The smallest scale of the components in each piece and the two beside it; inf for none."""
    pieces = torch.searchsorted(knots, loc.contiguous())
    least = torch.full((len(knots) + 1,), math.inf, dtype=scale.dtype)
    least.scatter_reduce_(0, pieces, scale, "amin")
    return torch.minimum(torch.minimum(least[:-2], least[1:-1]), least[2:])


class _Line:
    """log 1/N sum_j N(z | mu_j, sigma_j^2) and its slope at points of the line."""

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


def _cubic(z: Tensor, knots: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    """The piecewise cubic polynomial with these values and slopes at the knots (Hermite's)."""
    left = (torch.searchsorted(knots, z, right=True) - 1).clamp(0, len(knots) - 2)
    width = knots[left + 1] - knots[left]
    t = (z - knots[left]) / torch.where(width > 0, width, 1.0)
    start, end = values[left], values[left + 1]
    bend = (1 - t) * (slopes[left] * width - (end - start)) + t * (
        (end - start) - slopes[left + 1] * width
    )
    return start + t * (end - start) + t * (1 - t) * bend


def _cholesky(q: Distribution) -> Tensor:
    """The Cholesky factor of the covariance of a normal with correlations."""
    if isinstance(q, MultivariateNormal):
        return q.scale_tril.double()
    if isinstance(q, LowRankMultivariateNormal):
        factor, variance = q.cov_factor.double(), q.cov_diag.double()
    else:
        assert isinstance(q, LowRankNormal)
        factor, variance = q.factor.double(), q.scale.double().square()
    return torch.linalg.cholesky(factor @ factor.mT + torch.diag_embed(variance))
