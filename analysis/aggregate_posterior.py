"""The rate taken apart: what the code says of the datum, and how its distribution misses the prior."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from analysis.draws import (
    UndefinedCheckError,
    as_floats,
    block_size,
    guide_blocks,
    latent_site,
    to_array,
)
from analysis.normal_mixtures import coefficients, features, is_normal, log_marginal, log_sum
from pyro_vae.evaluating import evaluating
from pyro_vae.evidence.numbers import finite
from pyro_vae.log_densities import distribution_at
from pyro_vae.mutual_information import SATURATION
from pyro_vae.objectives import marginals
from pyro_vae.statistics import ACTIVE_VARIANCE

# Draws x data x dimensions of a guide that is no normal: each pair is a log density of its own.
PAIRS = 2**28

# Elements of data that the guide reads at a time, and of pairs held at a time.
BLOCK = 2**20

# Draws whose marginals are summed directly, to say how far the interpolated ones are off.
CHECKED = 100

# An interpolation off by more than this, in nats, is not used.
LARGEST_ERROR = 1e-3

# Below so many nats all is called collapsed; it is what free bits or rounding leave.
COLLAPSED = 0.1


@dataclass(frozen=True)
class Spectrum:
    """The latent dimensions one by one, in nats: E[KL(q(z_d | x) || p(z_d))] = I_d + KL_d.

    Args:
        mutual_information: I_d = E[log q(z_d | x) - log q(z_d)], what z_d alone says of x.
        mutual_information_se: Its standard error.
        marginal_kl: KL_d = KL(q(z_d) || p(z_d)); None under a prior of coordinates that depend on
            one another, or whose own densities are not at hand.
        rate: E[KL(q(z_d | x) || p(z_d))], in closed form, over the data drawn for; None where
            `marginal_kl` is, or where it has no closed form.
    """

    mutual_information: Float[np.ndarray, " latent"]
    mutual_information_se: Float[np.ndarray, " latent"]
    marginal_kl: Float[np.ndarray, " latent"] | None
    rate: Float[np.ndarray, " latent"] | None


@dataclass(frozen=True)
class RateDecomposition:
    """rate = I(x; z) + TC(z) + DWKL(z) = I(x; z) + KL(q(z) || p(z)), in nats per datum.

    The three are means over the same draws z ~ q(z | x), and add up exactly. Standard errors are
    over draws, for these N data.

    Args:
        num_data: N, over all of which q(z) is the mixture of q(z | x).
        num_draws: How many z were drawn.
        mutual_information: I(x; z) = E[log q(z | x) - log q(z)], at most log N.
        mutual_information_se: Its standard error.
        total_correlation: TC = E[log q(z) - sum_d log q(z_d)]; None for a guide without marginals.
        total_correlation_se: Its standard error.
        dimension_wise_kl: DWKL = E[sum_d log q(z_d) - log p(z)]: sum_d KL(q(z_d) || p(z_d)) under a
            prior of independent coordinates, and under others no KL, which may be negative; None as
            before.
        dimension_wise_kl_se: Its standard error.
        marginal_kl: KL(q(z) || p(z)) = TC + DWKL.
        marginal_kl_se: Its standard error.
        rate: E[log q(z | x) - log p(z)], the ELBO's KL.
        rate_se: Its standard error.
        by_dimension: The latent dimensions one by one; None as before.
        activity: The variance over data of each dimension of the embedded code.
        interpolation_error: The largest error of a log q(z_d) where it was summed directly, for
            random draws, in nats; None where all were.
        undefined: Why there is no total correlation; None if there is one.
    """

    num_data: int
    num_draws: int
    mutual_information: float
    mutual_information_se: float
    total_correlation: float | None
    total_correlation_se: float | None
    dimension_wise_kl: float | None
    dimension_wise_kl_se: float | None
    marginal_kl: float
    marginal_kl_se: float
    rate: float
    rate_se: float
    by_dimension: Spectrum | None
    activity: Float[np.ndarray, " latent"]
    interpolation_error: float | None
    undefined: str | None

    @property
    def log_n(self) -> float:
        """log N, in nats: the most that a code can say of which of the N data it belongs to."""
        return math.log(self.num_data)

    @property
    def saturated(self) -> bool:
        """Whether I(x; z) is above log N - 2: it may be larger, and TC smaller by as much."""
        return self.mutual_information > self.log_n - SATURATION

    @property
    def saturated_dimensions(self) -> Bool[np.ndarray, " latent"] | None:
        """Whether I_d is above log N - 2: q(z_d) is spikes, one a datum, and KL_d too large."""
        if self.by_dimension is None:
            return None
        return self.by_dimension.mutual_information > self.log_n - SATURATION

    @property
    def active(self) -> Bool[np.ndarray, " latent"]:
        """Whether each dimension's code varies over data by more than 0.01."""
        return self.activity > ACTIVE_VARIANCE

    def summary(self) -> dict[str, Any]:
        """The terms in nats per datum with their standard errors, and lists by dimension."""
        names = (
            "mutual_information",
            "total_correlation",
            "dimension_wise_kl",
            "marginal_kl",
            "rate",
        )
        terms = {key: finite(getattr(self, key)) for name in names for key in (name, f"{name}_se")}
        return {
            "n": self.num_data,
            "num_draws": self.num_draws,
            **terms,
            "log_n": self.log_n,
            "saturated": self.saturated,
            "active_units": int(self.active.sum()),
            "by_dimension": self._listed(),
            "interpolation_error": finite(self.interpolation_error),
            "undefined": self.undefined,
            "reading": self.reading(),
        }

    def _listed(self) -> dict[str, list[Any] | None]:
        spectrum, saturated = self.by_dimension, self.saturated_dimensions
        columns: dict[str, np.ndarray | None] = {"activity": self.activity}
        if spectrum is not None:
            columns |= {
                "mutual_information": spectrum.mutual_information,
                "mutual_information_se": spectrum.mutual_information_se,
                "marginal_kl": spectrum.marginal_kl,
                "rate": spectrum.rate,
            }
        listed = {
            name: None if values is None else [finite(value) for value in values]
            for name, values in columns.items()
        }
        return listed | {"saturated": None if saturated is None else saturated.tolist()}

    def reading(self) -> str:
        """How to read the terms, and what to do about the largest fault."""
        if not math.isfinite(self.rate):
            return "Not to be read: the guide or the prior has densities that are not finite."
        if self.rate < COLLAPSED:
            return (
                f"The code says nothing: the rate is {self.rate:.3f} nats, so the posterior is "
                "collapsed onto the prior; train with warm-up, free bits or a weaker decoder."
            )
        parts = f"The marginal KL is not taken further apart: {self.undefined}"
        if self.total_correlation is not None and self.dimension_wise_kl is not None:
            parts = (
                f"Of these, {self.total_correlation:.2f} are dependence between dimensions (total "
                f"correlation) and {self.dimension_wise_kl:.2f} the dimensions' own shapes."
            )
        if self.saturated:
            rest = "marginal KL" if self.total_correlation is None else "total correlation"
            return (
                f"Saturated: of the rate of {self.rate:.2f} nats, {self.mutual_information:.2f} or "
                f"more say which datum it is, as {self.num_data} data cannot show more than log N = "
                f"{self.log_n:.2f}. Any excess is in the other {self.marginal_kl:.2f} nats, the "
                f"marginal KL, whose {rest} is therefore an upper bound. {parts}"
            )
        advice = ""
        if self.marginal_kl > self.mutual_information:
            advice = " More is lost than said: a richer prior would help."
        return (
            f"Of the rate of {self.rate:.2f} nats, {self.mutual_information:.2f} say which datum it "
            f"is; the other {self.marginal_kl:.2f} are lost because the codes of all data are not "
            f"distributed as the prior, and are best near 0.{advice} {parts}"
        )


def decompose_rate(
    vae: Any, x_train: Real[Tensor, " n *event"], *, num_draws: int = 10_000, seed: int = 0
) -> RateDecomposition:
    """E[KL(q(z | x) || p(z))] = I(x; z) + TC(z) + sum_d KL(q(z_d) || p(z_d)), from all training data.

    q(z) = 1/N sum_j q(z | x_j), over all data given, at draws z_i ~ q(z | x_i) for `num_draws` of
    them, chosen at random without repetition; more draws than data are several of each. For normal
    guides log q(z_i) is a matrix product in float64, and log q(z_id) is interpolated on the line.
    Other guides' densities are computed pair by pair, for fewer draws where the data are many.

    A guide whose coordinates have no densities of their own (flows, simplices, spheres, one-hot
    codes) has the mutual information and the marginal KL alone.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `embed(x)` and one latent site.
        x_train: The training data, in the likelihood's support; integers are made floats.
        num_draws: How many z are drawn. 10,000 give standard errors of about 0.05 nats.
        seed: The seed of that choice and of the draws.

    Returns:
        The terms; read `mutual_information` beside `log_n`, as `RateDecomposition.saturated` says.

    Raises:
        UndefinedCheckError: If there are several latent sites, or one in a plate within the plate
            over data.
        ValueError: If `num_draws` or the number of data is below 2.

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman &
        Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf;
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen, Li, Grosse &
        Duvenaud, 2018), https://arxiv.org/abs/1802.04942
    """
    for name, value in (("num_draws", num_draws), ("the number of data", len(x_train))):
        if value < 2:
            raise ValueError(f"{name} must be at least 2, got {value}.")
    site = latent_site(vae)
    n = len(x_train)
    normal, undefined, latent = _kind(vae, x_train[:1], site)
    if not normal:
        num_draws = min(num_draws, max(CHECKED, PAIRS // (n * latent)))
    draws = _draw(
        vae, x_train[_rows(n, num_draws, seed).to(x_train.device)], site, seed, undefined
    )
    aggregate = _Normals(draws) if normal else _Pairs(draws)
    codes = []
    for block, q in _guides(vae, x_train, site, seed):
        aggregate.add(q)
        if normal:
            codes.append(q.mean.detach().double().cpu())
        else:
            with evaluating(vae):
                codes.append(vae.embed(block).double().cpu())
    joint, coordinates, error = aggregate.finish(n)
    return _decomposition(draws, joint, coordinates, error, undefined, torch.cat(codes), n)


@dataclass(frozen=True)
class _Draws:
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


def _kind(vae: Any, x: Tensor, site: str) -> tuple[bool, str | None, int]:
    """Whether the guide is a normal, why its coordinates have no densities, and its elements."""
    (_, terms), *_ = guide_blocks(vae, x, 1, seed=0)
    q = distribution_at(terms.guide_trace, site)
    if tuple(q.batch_shape) != (1, 1):
        raise UndefinedCheckError(
            f"the rate of site {site!r} is taken apart where it is in the plate over data alone."
        )
    undefined = None
    try:
        latent = marginals.latent_site(terms, "the total correlation")
        marginals.check_coordinates(latent, "the total correlation")
    except ValueError as error:
        undefined = str(error)
    return undefined is None and is_normal(q), undefined, q.event_shape.numel()


def _rows(n: int, num_draws: int, seed: int) -> Tensor:
    """Which data are drawn for: each as often as all others, and the rest at random."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.randperm(n, generator=generator)[: num_draws % n].sort().values
    return torch.cat([torch.arange(n).repeat(num_draws // n), rest])


def _draw(vae: Any, x: Tensor, site: str, seed: int, undefined: str | None) -> _Draws:
    parts: list[dict[str, Tensor | None]] = []
    for _, terms in guide_blocks(vae, x, 1, seed=seed):
        q, p = (distribution_at(t, site) for t in (terms.guide_trace, terms.model_trace))
        z = terms.draws[0]
        part: dict[str, Tensor | None] = dict.fromkeys(_Draws.__dataclass_fields__)
        part |= {"z": z, "own": terms.log_posterior, "prior": terms.log_prior}
        if undefined is None:
            each = _coordinates(q)
            part["own_coordinates"] = each.log_prob(z.double() if is_normal(q) else z)
            if is_normal(q):
                centre = z.double().mean((0, 1))
                f, c = features(z[0].double() - centre, q), coefficients(q, centre)
                part["own"] = (f * c).sum(1).unsqueeze(0)
            if isinstance(p, Independent) and p.reinterpreted_batch_ndims == 1:
                part["prior_coordinates"] = p.base_dist.log_prob(z)
                with suppress(NotImplementedError):
                    part["kl"] = kl_divergence(each, p.base_dist)
        parts.append({k: None if v is None else v[0].cpu() for k, v in part.items()})
    joined = {
        name: None if value is None else torch.cat([cast("Tensor", part[name]) for part in parts])
        for name, value in parts[0].items()
    }
    z = joined.pop("z")
    kl = joined.pop("kl")
    doubles = {name: None if value is None else value.double() for name, value in joined.items()}
    return _Draws(z=z, kl=None if kl is None else kl.double().mean(0), **doubles)  # pyright: ignore


def _coordinates(q: Distribution) -> Distribution:
    """q(z_d | x) of each coordinate; those of a normal in float64."""
    if is_normal(q):
        return Normal(q.mean.double(), q.variance.double().sqrt(), validate_args=False)
    assert isinstance(q, Independent)
    return q.base_dist


def _guides(vae: Any, x: Tensor, site: str, seed: int) -> Iterator[tuple[Tensor, Distribution]]:
    """q(z | x) of all data, a block at a time."""
    with evaluating(vae, seed=seed):
        for rows in x.split(block_size(x, 1, BLOCK)):
            block = as_floats(rows)
            trace = poutine.trace(vae.guide).get_trace(block)
            yield block, distribution_at(trace, site)


class _Normals:
    """log q(z) and log q(z_d) of a mixture of normals."""

    def __init__(self, draws: _Draws) -> None:
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
        each = _coordinates(q)
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


class _Pairs:
    """log q(z), and log q(z_d) where there is one, by the density of each draw under each datum."""

    def __init__(self, draws: _Draws) -> None:
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
                each = _coordinates(q).log_prob(z).double().cpu()
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


def _decomposition(
    draws: _Draws,
    joint: Tensor,
    coordinates: Tensor | None,
    error: float | None,
    undefined: str | None,
    codes: Tensor,
    n: int,
) -> RateDecomposition:
    terms: dict[str, float | None] = {}

    def put(name: str, values: Tensor | None) -> None:
        terms[name] = None if values is None else float(values.mean())
        terms[f"{name}_se"] = None if values is None else float(values.std() / len(values) ** 0.5)

    product = None if coordinates is None else coordinates.sum(1)
    put("mutual_information", draws.own - joint)
    put("marginal_kl", joint - draws.prior)
    put("rate", draws.own - draws.prior)
    put("total_correlation", None if product is None else joint - product)
    put("dimension_wise_kl", None if product is None else product - draws.prior)
    spectrum = None
    if coordinates is not None and draws.own_coordinates is not None:
        information = draws.own_coordinates - coordinates
        prior = draws.prior_coordinates
        spectrum = Spectrum(
            to_array(information.mean(0)),
            to_array(information.std(0) / len(information) ** 0.5),
            None if prior is None else to_array((coordinates - prior).mean(0)),
            None if draws.kl is None else to_array(draws.kl),
        )
    return RateDecomposition(
        num_data=n,
        num_draws=len(draws.own),
        **terms,  # pyright: ignore
        by_dimension=spectrum,
        activity=to_array(codes.flatten(1).var(0, correction=0)),
        interpolation_error=error,
        undefined=undefined,
    )
