"""Draws of z given the observed elements of x, with their weights or from Markov chains."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.missing import is_missing

# The shares of the proposals that are from the prior, which bounds a weight by p(x_observed | z) /
# (0.2 p(x_observed)), and from normals. The others are from the codes of completed rows: the
# largest number of these rows, and that of the normals.
_PRIOR_SHARE, _NORMAL_SHARE, _FILLS, _NORMALS = 0.2, 0.3, 32, 8
# The covariance of the normals is that of the weighted draws times this, in up to so many
# dimensions.
_WIDER, _LARGEST_DIM = 1.5, 16
# Both are first from weighted draws of the prior, and then from those of rounds of proposals: the
# number of draws for it, as a share of those of the result.
_ROUNDS, _PILOT = 4, 0.25
# Steps before the first one that is kept, as a share of those kept.
_WARMUP = 0.5
# The largest numbers of draws x elements and of draws x rows held at once.
_ELEMENTS, _PAIRS = 4_000_000, 2**14


@dataclass(frozen=True)
class Conditionals:
    """What a completion needs of a program, for some rows.

    Args:
        prior: p(z), with `sample` and `log_prob`.
        likelihood: z `(k, n, latent_dim)` to p(x | z) with batch shape `(k, n)`.
        posterior: x `(k, n, *event_shape)` to q(z | x) with batch shape `(k, n)`.
        reads_missing: Whether the posterior reads NaN as missing.
        real: Whether z is a real vector.
    """

    prior: Any
    likelihood: Callable[[Tensor], Any]
    posterior: Callable[[Tensor], Any]
    reads_missing: bool = False
    real: bool = False


def row_chunks(chosen: Tensor, num_samples: int, size: int) -> tuple[Tensor, ...]:
    """The numbers of the chosen rows, as many at once as bounded memory allows."""
    most = max(1, min(_PAIRS // num_samples, _ELEMENTS // (num_samples * size)))
    return chosen.nonzero()[:, 0].split(most) if bool(chosen.any()) else ()


@dataclass
class Draws:
    """Draws of z for some rows, `(k, n, latent_dim)`, with their log weights `(k, n)`.

    `mean` and `sd` are those of x under the weights, `(n, *event)`; `acceptance` is `(n,)`.
    """

    z: Tensor
    log_weight: Tensor
    mean: Any = None
    sd: Any = None
    acceptance: Any = None
    distinct: Any = None


class ConditionalDraws:
    """Some rows with missing elements, and the distributions of the program for them."""

    def __init__(self, x: Tensor, fill: Tensor, parts: Conditionals, numbers: Tensor) -> None:
        self.x, self.parts, self.numbers = x, parts, numbers
        self.gaps = is_missing(x)
        self.safe = torch.where(self.gaps, fill, x)

    def importance(self, num_samples: int) -> Draws:
        """Draws from a mixture of q(z | completed x), for several, normals, and p(z)."""
        proposals = self.proposals(num_samples)
        return self.weigh(*self.propose(proposals, num_samples), moments=_Moments())

    def unobserved(self, num_samples: int) -> Draws:
        """Draws from p(z), with equal weights, of rows without an observed element."""
        return self.weigh(*self.from_prior(num_samples), moments=_Moments())

    def from_prior(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Draws of p(z) and their log densities."""
        z = self.parts.prior.sample((num_samples, len(self.x)))
        return z, self.parts.prior.log_prob(z).double()

    def chains(self, chains: int, length: int) -> Draws:
        """Chains with x_missing ~ p(x_missing | z), and z ~ q(z | x) accepted or rejected.

        They start at draws from the weighted ones. Draws of one chain are `chains` apart.
        """
        kept, warmup = chains * length, int(_WARMUP * length)
        start = self.weigh(*self.propose(self.proposals(kept), kept))
        numbers = resample(start.log_weight, chains)
        z, states, moments = take(start.z, numbers), [], _Moments()
        accepted = torch.zeros(z.shape[:2], device=z.device)
        for step in range(warmup + length):
            x = self.completed_at(z)
            q = self.parts.posterior(x)
            new = q.sample()
            log_ratio = self.log_joint(new, x) - self.log_joint(z, x)
            log_ratio = log_ratio + (q.log_prob(z) - q.log_prob(new)).double()
            # NaN, of a proposal without a density, is not accepted.
            accept = torch.rand_like(log_ratio).log() < log_ratio
            z = torch.where(accept[..., None], new, z)
            accepted += accept
            if step >= warmup:
                states.append(z)
                for p in self.decoded(z):
                    moments.add(z.new_zeros(p.batch_shape, dtype=torch.float64), p)
        draws = torch.cat(states)
        different = (numbers.sort(0).values.diff(dim=0) != 0).sum(0) + 1
        return Draws(
            draws,
            draws.new_zeros(draws.shape[:2], dtype=torch.float64),
            *moments.result(),
            accepted.mean(0) / (warmup + length),
            different + accepted.sum(0),
        )

    def proposals(self, num_samples: int) -> list[tuple[Any, float]]:
        """Distributions with batch shape `(components, n)`, and the share of each.

        They are made of weighted draws of z: first those of the prior, and then those of the
        proposals so far. So each round comes closer to p(z | x_observed).
        """
        pilot = max(_FILLS, int(_PILOT * num_samples))
        found = self.weigh(*self.from_prior(pilot))
        for _ in range(_ROUNDS):
            found = self.weigh(*self.propose(self.adapted(found, num_samples), pilot))
        return self.adapted(found, num_samples)

    def adapted(self, found: Draws, num_samples: int) -> list[tuple[Any, float]]:
        """q(z | x) at completed rows x, x_missing ~ p(x_missing | z), and normals around draws."""
        if self.parts.reads_missing:
            fills = self.x[None]
        else:
            count = min(_FILLS, math.isqrt(num_samples))
            fills = self.completed_at(take(found.z, resample(found.log_weight, count)))
        proposals: list[tuple[Any, float]] = [(self.parts.posterior(fills), 0.0)]
        z = found.z
        if self.parts.real and z.shape[-1] <= _LARGEST_DIM:
            # Large weights are cut, as in nonlinear population Monte Carlo: one alone is a point.
            log_most = found.log_weight.logsumexp(0) - math.log(len(z)) / 2
            weight = found.log_weight.minimum(log_most).softmax(0).to(z.dtype)[..., None]
            deviation = z - (weight * z).sum(0)
            covariance = torch.einsum("kni,knj->nij", weight * deviation, deviation)
            variance = 0.1 * covariance.diagonal(dim1=-2, dim2=-1) + 1e-8 * z.var(0)
            scale_tril = torch.linalg.cholesky(_WIDER * (covariance + variance.diag_embed()))
            loc = take(z, resample(found.log_weight, _NORMALS))
            normals = torch.distributions.MultivariateNormal(loc, scale_tril=scale_tril)
            proposals.append((normals, _NORMAL_SHARE))
        return proposals

    def propose(
        self, proposals: list[tuple[Any, float]], num_samples: int
    ) -> tuple[Tensor, Tensor]:
        """Draws of the mixture of proposals and p(z), and its log density.

        The first proposal has the share that the others leave. The mixture has the shares with
        which it was drawn from, so that weights are those of one proposal, whichever part a draw
        is from.
        """
        p, n = self.parts.prior, len(self.x)
        from_prior = int(_PRIOR_SHARE * num_samples)
        counts = [int(share * num_samples) for _, share in proposals]
        counts[0] = num_samples - from_prior - sum(counts)
        parts = [(q, count) for (q, _), count in zip(proposals, counts, strict=True) if count]
        drawn = [q.sample((-(-k // q.batch_shape[0]),)).flatten(0, 1)[:k] for q, k in parts]
        z = torch.cat([*drawn, p.sample((from_prior, n))])
        log_densities = [_log_mixture(q, k, z) + math.log(k / num_samples) for q, k in parts]
        if from_prior:
            log_densities.append(p.log_prob(z).double() + math.log(from_prior / num_samples))
        return z, torch.stack(log_densities).logsumexp(0)

    def weigh(self, z: Tensor, log_proposal: Tensor, moments: "_Moments | None" = None) -> Draws:
        """Draws with the weights p(z) p(x_observed | z) / proposal(z), and moments under them."""
        log_ratio = self.parts.prior.log_prob(z).double() - log_proposal
        log_weights = []
        for p, ratio in zip(self.decoded(z), log_ratio.split(self.block), strict=True):
            log_p = p.base_dist.log_prob(self.safe).masked_fill(self.gaps, 0)
            log_weights.append(ratio + log_p.flatten(2).sum(2).double())
            if moments is not None:
                moments.add(log_weights[-1], p)
        log_weight = torch.cat(log_weights)
        undefined = ~log_weight.amax(0).isfinite()
        if undefined.any():
            row = int(self.numbers[undefined.nonzero()[0, 0]])
            raise ValueError(
                f"the model has no density at the observed elements of row {row}: they are "
                "impossible or too far from the training data to be completed."
            )
        return Draws(z, log_weight, *(moments.result() if moments is not None else ()))

    def completed(self, found: Draws, draws: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draws of the rows, `(n, draws, *event)`, their mean and their standard deviation."""
        z = take(found.z, resample(found.log_weight, draws))
        mean = torch.where(self.gaps, found.mean, self.x)
        sd = torch.where(self.gaps, found.sd, 0)
        values = self.completed_at(z).movedim(0, 1)
        return tuple(each.to(self.x.dtype) for each in (values, mean, sd))  # pyright: ignore

    def completed_at(self, z: Tensor) -> Tensor:
        """x with x_missing ~ p(x_missing | z), `(k, n, *event)`."""
        return torch.cat([torch.where(self.gaps, p.sample(), self.x) for p in self.decoded(z)])

    def log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        """log p(z) + log p(x | z) of completed rows, `(k, n)`."""
        parts = zip(self.decoded(z), x.split(self.block), strict=True)
        log_p = torch.cat([p.log_prob(rows).double() for p, rows in parts])
        return self.parts.prior.log_prob(z).double() + log_p

    def decoded(self, z: Tensor) -> Iterator[Any]:
        """p(x | z) at blocks of the draws of z `(k, n, latent_dim)`."""
        return map(self.parts.likelihood, z.split(self.block))

    @property
    def block(self) -> int:
        """The number of draws decoded at once."""
        return max(1, _ELEMENTS // self.x.numel())


class _Moments:
    """The mean and the standard deviation of x ~ p(x | z) over weighted draws of z.

    Sums are over blocks of draws, relative to the largest log weight so far.
    """

    def add(self, log_weight: Tensor, p: Any) -> None:
        """Add draws: their log weights, `(k, n)`, and p(x | z)."""
        mean = p.mean
        if not hasattr(self, "center"):
            # Deviations from one of the means lose no precision to a large offset.
            self.center = mean[0].nan_to_num(0.0, 0.0, 0.0)
            self.largest = torch.full_like(log_weight[0], torch.finfo(torch.float64).min)
            self.sums: list[Tensor] = [mean.new_zeros(())] * 3
        try:
            variance = p.variance
        except (AttributeError, NotImplementedError):
            variance = (p.sample() - mean).square()
        largest = torch.maximum(self.largest, log_weight.amax(0))
        weight = (log_weight - largest).exp().to(mean.dtype)
        scale = (self.largest - largest).exp().to(mean.dtype)
        self.largest = largest
        weight, scale = (_over(each, mean) for each in (weight, scale))
        # An impossible z may have no finite mean.
        possible = weight > 0
        deviation = torch.where(possible, mean - self.center, 0)
        second = torch.where(possible, variance, 0) + deviation.square()
        new = (weight.sum(0), (weight * deviation).sum(0), (weight * second).sum(0))
        self.sums = [scale * total + term for total, term in zip(self.sums, new, strict=True)]

    def result(self) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation, `(n, *event)`."""
        total, first, second = self.sums
        deviation = first / total
        return self.center + deviation, (second / total - deviation.square()).clamp(min=0).sqrt()


def _log_mixture(q: Any, count: int, z: Tensor) -> Tensor:
    """The log density `(k, n)` of the components of q, from which `count` draws were made in turn.

    The first ones have one draw more, where they do not divide the draws.
    """
    components = q.batch_shape[0]
    draws = torch.full((components, 1), count // components, dtype=torch.float64, device=z.device)
    draws[: count % components] += 1
    found = []
    for part in z.split(max(1, _ELEMENTS // (components * z[0].numel()))):
        log_q = q.log_prob(part[:, None].expand(-1, components, -1, -1)).double()
        found.append((log_q + (draws / count).log()).logsumexp(1))
    return torch.cat(found)


def _over(values: Tensor, event: Tensor) -> Tensor:
    """Values of rows, with axes of length 1 for the event."""
    return values.reshape(*values.shape, *(1,) * (event.dim() - 2))


def resample(log_weight: Tensor, count: int) -> Tensor:
    """The numbers of draws with probabilities proportional to their weights, `(count, n)`.

    Systematic: each draw is taken its expected number of times, rounded up or down, and the
    result shuffled.
    """
    edges = log_weight.softmax(0).cumsum(0).T.contiguous()
    n = len(edges)
    u = torch.rand(n, 1, dtype=edges.dtype, device=edges.device)
    points = (torch.arange(count, device=edges.device) + u) / count
    numbers = torch.searchsorted(edges, points, right=True).clamp(max=edges.shape[1] - 1)
    order = torch.rand(n, count, device=edges.device).argsort(1)
    return numbers.gather(1, order).T


def take(z: Tensor, numbers: Tensor) -> Tensor:
    """The draws of z with these numbers, `(count, n, latent_dim)`."""
    return z.gather(0, numbers[..., None].expand(-1, -1, z.shape[-1]))


def size_of_chains(found: Draws, chains: int) -> np.ndarray:
    """The effective number of draws of chains: the smallest over the coordinates of z.

    At most the number of different draws, as chains that never move look like constants.
    """
    from arviz_stats.base.array import array_stats

    z = found.z.unflatten(0, (-1, chains)).numpy(force=True)
    sizes = np.asarray(array_stats.ess(z, chain_axis=1, draw_axis=0)).min(-1)
    return np.minimum(sizes, found.distinct.numpy(force=True)).clip(max=len(found.z))
