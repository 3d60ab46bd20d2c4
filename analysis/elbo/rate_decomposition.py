"""The rate over all training data, as mutual information, total correlation and KL."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from analysis.check import Check, Plot
from analysis.elbo.aggregate_posterior import (
    CHECKED,
    Draws,
    NormalAggregate,
    PairwiseAggregate,
    coefficients,
    coordinate_distributions,
    features,
    is_normal,
)
from analysis.model_samples import block_size, guide_blocks, latent_site, to_array
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy, wrap_title
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject
from pyro_vae.compilation.fast_functions import FastFunctions
from pyro_vae.data.nouns import nouns
from pyro_vae.log_densities import distribution_at, require_density
from pyro_vae.mutual_information import SATURATION
from pyro_vae.objectives import latent_sites
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import ACTIVE_VARIANCE, rounding_error, unit_activity, withheld

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# A rate below this, in nats, is called collapsed: as much remains under free bits, or by rounding.
COLLAPSED = 0.1
# Draws x data x dimensions for a guide that is not normal: each pair needs a log density.
PAIRS = 2**28
# Elements of data that the guide reads at a time.
BLOCK = 2**20
# The parts of the rate, with their labels.
PARTS = {
    "mutual_information": "mutual information",
    "total_correlation": "total correlation",
    "dimension_wise_kl": "dimension-wise KL",
}


@dataclass(frozen=True)
class Spectrum:
    """The rate by latent dimension, in nats: E[KL(q(z_d | x) || p(z_d))] = I_d + KL_d.

    Args:
        mutual_information: I_d = E[log q(z_d | x) - log q(z_d)].
        mutual_information_se: Its standard error.
        marginal_kl: KL_d = KL(q(z_d) || p(z_d)); None under a prior with dependent coordinates, or
            without densities of each.
        rate: E[KL(q(z_d | x) || p(z_d))], in closed form, over the data that are drawn for; None
            where `marginal_kl` is, or where it has no closed form.
    """

    mutual_information: Float[np.ndarray, " latent"]
    mutual_information_se: Float[np.ndarray, " latent"]
    marginal_kl: Float[np.ndarray, " latent"] | None
    rate: Float[np.ndarray, " latent"] | None


@dataclass(frozen=True)
class RateDecomposition(Result):
    """rate = I(x; z) + TC(z) + DWKL(z) = I(x; z) + KL(q(z) || p(z)), in nats per example.

    All terms are means over the same draws z ~ q(z | x), and add up exactly. Standard errors,
    `*_se`, are over draws, for these N data.

    Args:
        num_data: N, the number of components q(z | x) of q(z).
        num_draws: The number of draws of z.
        mutual_information: I(x; z) = E[log q(z | x) - log q(z)], at most log N.
        total_correlation: TC = E[log q(z) - sum_d log q(z_d)]; None for a guide without marginals.
        dimension_wise_kl: DWKL = E[sum_d log q(z_d) - log p(z)]: sum_d KL(q(z_d) || p(z_d)) under
            a prior with independent coordinates; under others not a KL, and possibly negative;
            None without marginals.
        marginal_kl: KL(q(z) || p(z)) = TC + DWKL.
        rate: E[log q(z | x) - log p(z)], the ELBO's KL.
        by_dimension: The rate by latent dimension; None without marginals.
        activity: The variance over data of each dimension of the embedded code.
        interpolation_error: The largest error of an interpolated log q(z_d), in nats; None if none
            was interpolated.
        undefined: Why there is no total correlation; None if there is one.
    """

    FIELDS: ClassVar[tuple[str, ...]] = (
        *(key for name in (*PARTS, "marginal_kl", "rate") for key in (name, f"{name}_se")),
        *("num_draws", "log_n", "saturated", "dimension_wise_is_kl"),
        *("interpolation_error", "undefined"),
    )

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
        """log N, in nats: the upper bound of the mutual information."""
        return math.log(self.num_data)

    @property
    def dimension_wise_is_kl(self) -> bool:
        """Whether DWKL is sum_d KL(q(z_d) || p(z_d)), and so not negative.

        Under a prior with dependent dimensions, such as a mixture, DWKL falls by the prior's own
        correlation, as far as the codes follow it.
        """
        return self.by_dimension is not None and self.by_dimension.marginal_kl is not None

    @property
    def saturated(self) -> bool:
        """Whether I(x; z) is above log N - 2: it may be larger, and TC smaller by as much."""
        return self.mutual_information > self.log_n - SATURATION

    @property
    def saturated_dimensions(self) -> Bool[np.ndarray, " latent"] | None:
        """Whether I_d is above log N - 2: q(z_d) is spiky, and KL_d too large."""
        if self.by_dimension is None:
            return None
        return self.by_dimension.mutual_information > self.log_n - SATURATION

    @property
    def active(self) -> Bool[np.ndarray, " latent"]:
        """Whether the variance of each dimension's code over data is above 0.01."""
        return self.activity > ACTIVE_VARIANCE

    def extra(self) -> dict[str, Any]:
        """The number of data and of active units, and lists by dimension."""
        spectrum = {} if self.by_dimension is None else vars(self.by_dimension)
        return {
            "n_train": self.num_data,
            "active_units": int(self.active.sum()),
            "by_dimension": {
                "activity": self.activity,
                **spectrum,
                "saturated": self.saturated_dimensions,
            },
        }

    def reading(self) -> str:
        """The parts of the rate, or why they cannot be interpreted."""
        if not math.isfinite(self.rate):
            return "Not defined: densities of the guide or the prior are not finite."
        size = np.array([self.rate])
        if reason := withheld(rounding_error(size), size):
            return reason
        head = f"rate is {self.rate:.2f} nats over {self.num_data:,} training {nouns()}"
        if self.rate < COLLAPSED:
            return f"The posterior is collapsed onto the prior: the {head}."
        saturated = f", saturated at log N = {self.log_n:.2f}" if self.saturated else ""
        rest = f"{self.marginal_kl:.2f} marginal KL ({self.undefined})"
        if self.total_correlation is not None and self.dimension_wise_kl is not None:
            name = "dimension-wise KL" if self.dimension_wise_is_kl else "dimension-wise term"
            rest = (
                f"{self.marginal_kl:.2f} marginal KL (total correlation "
                f"{self.total_correlation:.2f}, {name} {self.dimension_wise_kl:.2f})"
            )
        return (
            f"The {head}: {self.mutual_information:.2f} mutual information of {nouns()} and codes"
            f"{saturated}, and {rest}."
        )


def decompose_rate(
    vae: Any, x_train: Real[Tensor, " n *event"], *, num_draws: int = 10_000, seed: int = 0
) -> RateDecomposition:
    """E[KL(q(z | x) || p(z))] = I(x; z) + TC(z) + sum_d KL(q(z_d) || p(z_d)), over training data.

    q(z) = 1/N sum_j q(z | x_j), over all data given, at draws z_i ~ q(z | x_i) for `num_draws` of
    them, chosen at random without repetition; with more draws than data, several for each. For
    normal guides log q(z_i) is a matrix product in float64, and log q(z_id) is interpolated.
    Densities of other guides are computed pair by pair, for fewer draws where there are many data.
    For a guide without densities of coordinates (flows, simplices, spheres, one-hot codes) only
    the mutual information and the marginal KL are defined.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `embed(x)` and one latent site.
        x_train: The training data, in the likelihood's support; integers are converted to floats.
        num_draws: The number of draws of z. 10,000 give standard errors of about 0.05 nats.
        seed: The seed of their choice and of the draws.

    Returns:
        The terms. Read `mutual_information` beside `log_n`, see `RateDecomposition.saturated`.

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
    normal, undefined, latent = _inspect_guide(vae, x_train[:1], site)
    if not normal:
        num_draws = min(num_draws, max(CHECKED, PAIRS // (n * latent)))
    rows = _choose_rows(n, num_draws, seed).to(x_train.device)
    draws = _draw(vae, x_train[rows], site, seed, undefined)
    aggregate = NormalAggregate(draws) if normal else PairwiseAggregate(draws)
    codes = []
    for block, q in _guides(vae, x_train, site, seed):
        aggregate.add(q)
        if normal:
            codes.append(q.mean.detach().double().cpu())
        else:
            with evaluation_mode(vae):
                codes.append(vae.embed(block).double().cpu())
    joint, coordinates, error = aggregate.finish(n)
    product = None if coordinates is None else coordinates.sum(1)
    terms = {
        "mutual_information": draws.own - joint,
        "marginal_kl": joint - draws.prior,
        "rate": draws.own - draws.prior,
        "total_correlation": None if product is None else joint - product,
        "dimension_wise_kl": None if product is None else product - draws.prior,
    }
    means: dict[str, Any] = {}
    for name, values in terms.items():
        means[name] = None if values is None else float(values.mean())
        means[f"{name}_se"] = None if values is None else float(values.std() / len(values) ** 0.5)
    return RateDecomposition(
        num_data=n,
        num_draws=len(draws.own),
        **means,
        by_dimension=_spectrum(draws, coordinates),
        activity=to_array(torch.cat(codes).flatten(1).var(0, correction=0)),
        interpolation_error=error,
        undefined=undefined,
    )


def _inspect_guide(vae: Any, x: Tensor, site: str) -> tuple[bool, str | None, int]:
    """Whether the guide is normal, why its coordinates have no densities, and its size."""
    (_, terms), *_ = guide_blocks(vae, x, 1, seed=0)
    require_density(terms.guide_trace, "the rate")
    q = distribution_at(terms.guide_trace, site)
    if tuple(q.batch_shape) != (1, 1):
        raise UndefinedCheckError(
            f"the rate of site {site!r} is decomposed only where the plate over data is its only "
            "plate."
        )
    undefined = None
    try:
        latent = latent_sites.latent_site(terms, "the total correlation")
        latent_sites.check_coordinates(latent, "the total correlation")
    except ValueError as error:
        undefined = str(error)
    return undefined is None and is_normal(q), undefined, q.event_shape.numel()


def _choose_rows(n: int, num_draws: int, seed: int) -> Tensor:
    """The rows to draw for: each equally often, and the remainder at random."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.randperm(n, generator=generator)[: num_draws % n].sort().values
    return torch.cat([torch.arange(n).repeat(num_draws // n), rest])


def _draw(vae: Any, x: Tensor, site: str, seed: int, undefined: str | None) -> Draws:
    parts: list[dict[str, Tensor | None]] = []
    for _, terms in guide_blocks(vae, x, 1, seed=seed):
        q, p = (distribution_at(t, site) for t in (terms.guide_trace, terms.model_trace))
        z = terms.draws[0]
        part: dict[str, Tensor | None] = dict.fromkeys(Draws.__dataclass_fields__)
        part |= {"z": z, "own": terms.log_posterior, "prior": terms.log_prior}
        if undefined is None:
            each = coordinate_distributions(q)
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
    joined: dict[str, Any] = {
        name: None if value is None else torch.cat([cast("Tensor", part[name]) for part in parts])
        for name, value in parts[0].items()
    }
    z = joined.pop("z")
    joined = {name: None if value is None else value.double() for name, value in joined.items()}
    joined["kl"] = None if joined["kl"] is None else joined["kl"].mean(0)
    return Draws(z=z, **joined)


def _guides(vae: Any, x: Tensor, site: str, seed: int) -> Iterator[tuple[Tensor, Distribution]]:
    with evaluation_mode(vae, seed=seed):
        for rows in x.split(block_size(x, 1, BLOCK)):
            block = as_floats(rows)
            # As for the draws, whose densities are those of one of the components.
            with FastFunctions():
                trace = poutine.trace(vae.guide).get_trace(block)
            yield block, distribution_at(trace, site)


def _spectrum(draws: Draws, coordinates: Tensor | None) -> Spectrum | None:
    if coordinates is None or draws.own_coordinates is None:
        return None
    information, prior = draws.own_coordinates - coordinates, draws.prior_coordinates
    return Spectrum(
        to_array(information.mean(0)),
        to_array(information.std(0) / len(information) ** 0.5),
        None if prior is None else to_array((coordinates - prior).mean(0)),
        None if draws.kl is None else to_array(draws.kl),
    )


def plot_spectrum(
    decomposition: RateDecomposition, codes: Float[np.ndarray, "n latent"] | None = None
) -> "matplotlib.figure.Figure":
    """The rate of each latent dimension, I(x; z_d) + KL(q(z_d) || p(z_d)), in falling order.

    They sum to the rate only if the dimensions are independent, both given x and without it. The
    model ignores grey dimensions.

    Args:
        decomposition: The decomposition of the rate.
        codes: Codes of other data, to show their variance as well.

    Raises:
        UndefinedCheckError: If the guide's coordinates have no densities.
    """
    from matplotlib.patches import Patch

    spectrum = decomposition.by_dimension
    if spectrum is None:
        raise UndefinedCheckError(f"no spectrum: {decomposition.undefined}")
    information, marginal = spectrum.mutual_information, spectrum.marginal_kl
    extra = np.zeros_like(information) if marginal is None else marginal
    order = np.argsort(-(information + extra), kind="stable")
    information, extra = information[order], extra[order]
    latent, rank = len(order), np.arange(len(order))
    active = decomposition.active[order]
    figure = new_figure(max(8.0, min(0.22 * latent + 3, 12.0)), 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    upper.bar(rank, information, color=np.where(active, BLUE, "0.75").tolist())
    # The estimate of a value near 0 may be negative.
    upper.bar(rank, np.maximum(extra, 0), bottom=np.maximum(information, 0), color=ORANGE)
    handles: list[Any] = [Patch(color=BLUE, label="mutual information I(x; z_d)")]
    if marginal is not None:
        handles.append(Patch(color=ORANGE, label="KL(q(z_d) || p(z_d)), best near 0"))
    height = float((information + extra).max(initial=0.0))
    flags = decomposition.saturated_dimensions
    if flags is not None and flags.any():
        line = upper.axhline(decomposition.log_n, color=GREY, linestyle=":")
        line.set_label("log N, the upper bound; *: saturated, a lower bound")
        handles.append(line)
        height = max(height, decomposition.log_n)
        for place in rank[flags[order]]:
            top = (place, (information + extra)[place])
            upper.annotate("*", top, ha="center", fontsize=12)
    upper.set(ylabel="nats", ylim=(0, max(1.25 * height, 0.01)))
    upper.legend(handles=handles, frameon=False, fontsize=9, loc="upper right")
    _draw_activity(lower, decomposition.activity[order], codes, order)
    step = max(1, latent // 25)
    lower.set_xticks(rank[::step], [str(index) for index in order[::step]])
    lower.set_xlabel("latent dimension d, sorted by its KL to the prior")
    sums = f"I(x; z_d) sums to {information.sum():.1f} nats" + (
        "; under this prior, the dimensions have no KL of their own"
        if marginal is None
        else f", KL(q(z_d) || p(z_d)) to {marginal.sum():.2f}"
    )
    title = f"{active.sum()} of {latent} units active; {sums}"
    figure.suptitle(wrap_title(title, figure.get_figwidth()))
    tidy([upper, lower])
    return figure


def _draw_activity(
    ax: "matplotlib.axes.Axes", activity: np.ndarray, codes: np.ndarray | None, order: np.ndarray
) -> None:
    active, rank = activity > ACTIVE_VARIANCE, np.arange(len(activity))
    low = max(min(activity.min(), ACTIVE_VARIANCE) / 3, 1e-8)
    for where, colour, name in ((active, BLUE, "active"), (~active, GREY, "ignored")):
        if where.any():
            drawn = np.maximum(activity[where], 1.5 * low)
            ax.plot(rank[where], drawn, "o", color=colour, label=name)
    high = max(activity.max(), ACTIVE_VARIANCE)
    if codes is not None and len(codes) > 1:
        other = np.maximum(unit_activity(codes.astype(np.float64))[order], 1.5 * low)
        ax.plot(rank, other, "x", color="black", ms=5, label="evaluated data")
        high = max(high, other.max())
    ax.axhline(ACTIVE_VARIANCE, color=ORANGE, linestyle="--", label=f"threshold {ACTIVE_VARIANCE}")
    ax.set(yscale="log", ylim=(low, 20 * high), ylabel="variance of the code")
    ax.legend(frameon=False, ncols=4, fontsize=9, loc="upper right")


def rate_of_training(subject: Subject) -> RateDecomposition:
    """The decomposition of the rate of the training data."""
    # The step is named here, as the figure of the terms asks for the decomposition first.
    with subject.step("elbo: decomposition"):
        return decompose_rate(subject.vae, subject.train, seed=subject.seed_of("decomposition"))


def _parts(found: RateDecomposition) -> dict[str, str]:
    numbers = {}
    for name, label in PARTS.items():
        value, error = getattr(found, name), getattr(found, f"{name}_se")
        numbers[label] = "not defined" if value is None else f"{value:.2f} +- {error:.2f} nats"
    return numbers


DECOMPOSITION = Check(
    "decomposition",
    rate_of_training,
    plots=(
        Plot(
            "spectrum",
            "Which latent dimensions carry the rate?",
            lambda found, subject: plot_spectrum(found, subject.evaluation.embeddings),
        ),
    ),
    headline=_parts,
    record=lambda found: {
        key: getattr(found, key) for name in PARTS for key in (name, f"{name}_se")
    },
)
