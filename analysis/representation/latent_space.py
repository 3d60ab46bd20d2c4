"""Densities and moments of a program at codes, along paths and at data; its latent support."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from jaxtyping import Float, Real
from pyro import poutine
from torch import Tensor

from analysis.model_samples import (
    block_size,
    has_density,
    latent_site,
    narrow_dtype,
    new_data,
    to_array,
)
from analysis.plotting.style import GREY
from analysis.result import UndefinedCheckError
from pyro_vae.evidence import importance_weighting
from pyro_vae.inference_data import unconditioned
from pyro_vae.log_densities import distribution_at
from pyro_vae.rng import as_floats, derive_seed, evaluation_mode
from pyro_vae.statistics import standard_error

if TYPE_CHECKING:
    import matplotlib.axes

# Draws that replace the formulas of moments where a distribution has none: the mean's own error
# adds 1 / DRAWS of the variance to a squared error.
DRAWS = 200
# Points of a path, its ends among them, at which log p(x) is computed.
EVIDENCE_STEPS = 9
# Draws of the prior and real data that paths are compared with, at most.
REFERENCES = 500
# A draw is unlikely if it is less probable than this share of the reference data.
UNLIKELY = 0.05
# Paths stay near the data if at most this share of their middles is unlikely: twice chance.
MAX_UNLIKELY = 0.1


def continuous_support(vae: Any) -> str:
    """The declared support: "real", "positive", "unit", "simplex", "sphere" or "sparse".

    A program that declares none is taken to be on R^d.

    Raises:
        UndefinedCheckError: If there are several latent sites, or z is one-hot.
    """
    latent_site(vae)
    support = getattr(getattr(vae, "prior", None), "support", "real")
    if support == "one_hot":
        raise UndefinedCheckError(
            "continuity is not defined for one-hot codes: nothing lies between two of them."
        )
    return support


def check_codes(codes: Float[np.ndarray, "n latent"], fewest: int) -> None:
    """Validate codes.

    Raises:
        ValueError: If there are fewer than `fewest`, or one is not finite.
    """
    if len(codes) < fewest:
        raise ValueError(f"at least {fewest} codes are needed, got {len(codes)}.")
    if not np.isfinite(codes).all():
        bad = int((~np.isfinite(codes)).any(1).sum())
        raise ValueError(f"codes must be finite, got {bad} of {len(codes)} that are not.")


def prior_and_data_at(
    vae: Any, codes: Float[np.ndarray, "n latent"], like: Real[Tensor, " _ *event"], *, seed: int
) -> tuple[Float[np.ndarray, " n"], Real[np.ndarray, " n *event"]]:
    """log p(z), in nats, and a draw x ~ p(x | z) at each code, in the narrowest type.

    Args:
        vae: A program with `model(x)`, one latent site and the observed site `"x"`.
        codes: In the support of z.
        like: Data in the likelihood's support, which give shape and device.
        seed: The seed of the draws.
    """
    site = latent_site(vae)
    z = torch.as_tensor(codes, dtype=torch.get_default_dtype(), device=like.device)
    densities, data = [], []
    with evaluation_mode(vae, seed=seed):
        for part in z.split(block_size(like, 1)):
            model = poutine.condition(unconditioned(vae.model), data={site: part})
            x = as_floats(like[:1]).expand(len(part), *like.shape[1:])
            nodes = cast("dict[str, Any]", poutine.trace(model).get_trace(x).nodes)
            densities.append(to_array(nodes[site]["fn"].log_prob(part)).astype(np.float64))
            data.append(narrow_dtype(to_array(nodes["x"]["value"])))
    return np.concatenate(densities).reshape(len(codes)), np.concatenate(data)


def guide_moments(
    vae: Any, x: Real[Tensor, " n *event"], *, seed: int = 0
) -> tuple[Float[np.ndarray, "n latent"], Float[np.ndarray, "n latent"]]:
    """E[z_j] and Var[z_j] under q(z | x).

    On the sphere, whose coordinate axes have no meaning, each coordinate has an equal share of the
    total variance, 1 - |E[z]|^2.

    Args:
        vae: A program with one latent site.
        x: Data in the likelihood's support, on the program's device.
        seed: The seed of draws, for a guide without formulas for its moments, such as a flow.

    Raises:
        UndefinedCheckError: If the guide is a point, its variance is not finite, or there are
            several latent sites.
    """
    site = latent_site(vae)
    if not has_density(vae, x):
        raise UndefinedCheckError("q(z | x) is a point and has no scale.")
    sphere = getattr(getattr(vae, "posterior", None), "support", None) == "sphere"
    means, variances = [], []
    with evaluation_mode(vae, seed=seed):
        for block in x.split(block_size(x, 1)):
            trace = poutine.trace(vae.guide).get_trace(as_floats(block))
            mean, variance = _moments(distribution_at(trace, site), sphere)
            means.append(to_array(mean).reshape(len(block), -1))
            variances.append(to_array(variance).reshape(len(block), -1))
    mean, variance = (np.concatenate(parts).astype(np.float64) for parts in (means, variances))
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise UndefinedCheckError("q(z | x) has no finite mean and variance.")
    return mean, variance


def _moments(distribution: Any, sphere: bool) -> tuple[Tensor, Tensor]:
    try:
        mean = distribution.mean
        if not sphere:
            return mean, distribution.variance
    except (NotImplementedError, AttributeError):
        draws = distribution.sample((DRAWS,)).double()
        return draws.mean(0), draws.var(0)
    mean = mean.double()
    variance = (1 - mean.square().sum(-1, keepdim=True)) / mean.shape[-1]
    return mean, torch.clamp(variance, min=0).expand_as(mean)


@dataclass(frozen=True)
class Profiles:
    """log p(z) and log p(x) along paths and of the data they are compared with, in nats.

    Args:
        shares: t of each point, from 0 to 1.
        log_prior: log p(z(t)); None where it is not finite, or the density's unit changes along
            the path.
        prior_draws: log p(z) of draws of p(z); None likewise.
        log_evidence: log p(x) of x ~ p(x | z(t)): a lower bound by importance weighting.
        cross_fade: The same of cross-fades of the data; None without data.
        data: The same of real data; None without data.
        model_draws: The same of new data, z ~ p(z).
        num_samples: The number of draws from the guide for each.
        withheld: Why log p(x) allows no verdict, because of rounding errors; None if they are
            small.
    """

    shares: Float[np.ndarray, " steps"]
    log_prior: Float[np.ndarray, "pairs steps"] | None
    prior_draws: Float[np.ndarray, " draws"] | None
    log_evidence: Float[np.ndarray, "pairs steps"]
    cross_fade: Float[np.ndarray, "pairs steps"] | None
    data: Float[np.ndarray, " data"] | None
    model_draws: Float[np.ndarray, " draws"]
    num_samples: int
    withheld: str | None = None

    @cached_property
    def middle(self) -> int:
        """The index of the point nearest to t = 1/2."""
        return int(np.abs(self.shares - 0.5).argmin())

    @property
    def reference(self) -> Float[np.ndarray, " draws"]:
        """log p(x) of the data; of new data if there are none."""
        return self.model_draws if self.data is None else self.data

    def unlikely_share(self, log_evidence: Float[np.ndarray, " *some"]) -> float:
        """The share that is less probable than 95 % of the reference data; NaN counts as such."""
        return float((~(log_evidence >= np.quantile(self.reference, UNLIKELY))).mean())

    @property
    def middle_below(self) -> float:
        """The share of middles that are unlikely: 5 % by chance."""
        return self.unlikely_share(self.log_evidence[:, self.middle])

    @property
    def end_below(self) -> float:
        """The share of draws at the ends, the codes of data, that are unlikely."""
        return self.unlikely_share(self.log_evidence[:, [0, -1]])

    @property
    def cross_fade_below(self) -> float | None:
        """The share of middles of cross-fades that are unlikely."""
        fade = self.cross_fade
        return None if fade is None else self.unlikely_share(fade[:, self.middle])

    @property
    def prior_deviations(self) -> float | None:
        """The deviation of log p(z) at the middle from draws of p(z), standardised."""
        if self.log_prior is None or self.prior_draws is None:
            return None
        deviation = float(self.prior_draws.std())
        off = float(self.log_prior[:, self.middle].mean() - self.prior_draws.mean())
        # A uniform density is the same everywhere.
        return off / deviation if deviation > 1e-5 * max(1.0, abs(off)) else 0.0

    def record(self) -> dict[str, Any]:
        """Means in nats with standard errors, and shares of unlikely draws."""
        m, prior = self.middle, self.log_prior
        ends = self.log_evidence[:, [0, -1]].mean(1)
        dip = self.log_evidence[:, m] - ends
        record: dict[str, Any] = {
            "num_samples": self.num_samples,
            "log_prior_middle": None if prior is None else prior[:, m].mean(),
            "log_prior_ends": None if prior is None else prior[:, [0, -1]].mean(),
            "log_prior_draws": None if self.prior_draws is None else self.prior_draws.mean(),
            "log_prior_middle_deviations": self.prior_deviations,
            "dip": dip.mean(),
            "dip_se": standard_error(dip),
            "middle_below": self.middle_below,
            "end_below": self.end_below,
            "model_draws_below": self.unlikely_share(self.model_draws),
            "cross_fade_below": self.cross_fade_below,
        }
        for name, values in (
            ("middle", self.log_evidence[:, m]),
            ("ends", ends),
            ("cross_fade_middle", None if self.cross_fade is None else self.cross_fade[:, m]),
            ("data", self.data),
            ("model_draws", self.model_draws),
        ):
            key = f"log_evidence_{name}"
            record[key] = None if values is None else values.mean()
            record[f"{key}_se"] = None if values is None else standard_error(values)
        return record

    def reading(self) -> str:
        """Whether the middle of paths is as probable as data."""
        if self.withheld:
            return self.withheld
        share, end = self.middle_below, self.end_below
        if end > 2 * MAX_UNLIKELY and share <= 1.5 * end:
            verdict = "so are draws at codes of data, a fault of the model or its guide"
        elif share <= MAX_UNLIKELY:
            verdict = "about as probable as data"
        elif share - 2 * np.sqrt(share * (1 - share) / len(self.log_evidence)) <= MAX_UNLIKELY:
            verdict = "too few pairs to distinguish from data"
        else:
            verdict = "paths cross regions from which the model makes unlikely data"
        fade = self.cross_fade_below
        beside = "" if fade is None else f"; cross-fades {fade:.0%}"
        return (
            f"{share:.0%} of draws at the middle of paths are unlikely (chance {UNLIKELY:.0%}; "
            f"ends {end:.0%}"
            f"{beside}): {verdict}."
        )


def random_pairs(n: int, pairs: int, seed: int) -> np.ndarray:
    """Pairs of different rows, chosen at random."""
    rng = np.random.default_rng(derive_seed(seed, "pairs of codes"))
    first = rng.integers(n, size=pairs)
    return np.stack([first, (first + rng.integers(1, n, size=pairs)) % n], 1)


def cross_fade(
    start: Real[Tensor, " pairs *event"],
    end: Real[Tensor, " pairs *event"],
    shares: Float[np.ndarray, " steps"],
    *,
    seed: int,
) -> Float[Tensor, " pairs steps *event"]:
    """(1 - t) x_a + t x_b; whole numbers are rounded up or down at random, with that mean.

    Args:
        start: x_a.
        end: x_b.
        shares: t.
        seed: The seed of the rounding.
    """
    t = torch.as_tensor(shares, dtype=torch.get_default_dtype(), device=start.device)
    t = t.reshape(-1, *(1,) * (start.dim() - 1))
    first, second = (v.unsqueeze(1).to(t.dtype) for v in (start, end))
    mixed = (1 - t) * first + t * second
    if bool((first == first.floor()).all() and (second == second.floor()).all()):
        generator = torch.Generator().manual_seed(derive_seed(seed, "cross-fade"))
        mixed = (mixed + torch.rand(mixed.shape, generator=generator).to(mixed)).floor()
        # Rounding of the sum may reach the next number where the mean is whole.
        mixed = mixed.minimum(torch.maximum(first, second))
    return mixed


def path_profiles(
    vae: Any,
    z: np.ndarray,
    chosen: np.ndarray,
    x: Tensor | None,
    like: Tensor,
    support: str,
    num_samples: int,
    seed: int,
) -> Profiles:
    """log p(z) at paths, and log p(x) of draws there, of cross-fades, of data and of new data.

    Args:
        vae: A program with one latent site.
        z: The paths, `(pairs, steps, latent)`.
        chosen: The rows of the data at both ends of each path.
        x: The data; None if not given.
        like: Data in the likelihood's support, which give shape and device.
        support: Of z.
        num_samples: Draws from the guide for each log p(x).
        seed: The seed of all draws.
    """
    steps = z.shape[1]
    at = np.linspace(0, steps - 1, min(steps, EVIDENCE_STEPS)).round().astype(int)
    at = np.unique(np.append(at, (steps - 1) // 2))
    flat, shape = z[:, at].reshape(-1, z.shape[-1]), (len(z), len(at))
    paths_seed = derive_seed(seed, "paths of data")
    log_prior, of_paths = prior_and_data_at(vae, flat, like, seed=paths_seed)
    new = new_data(vae, like, REFERENCES, seed=derive_seed(seed, "references"))
    prior_draws, _ = prior_and_data_at(vae, new.z.reshape(REFERENCES, -1), like, seed=seed)
    # A density with point masses at 0 has different units along a path.
    defined = support != "sparse" and bool(np.isfinite(log_prior).all())
    reasons: list[str | None] = []

    def evidence(data: Any, name: str) -> np.ndarray:
        data = torch.as_tensor(data, device=like.device)
        with evaluation_mode(vae, seed=derive_seed(seed, f"log p(x) of {name}")):
            found = importance_weighting(vae.model, vae.guide, data, num_samples=num_samples)
        reasons.append(found.withheld)
        return found.log_evidence

    shares = at / (steps - 1)
    fade = real = None
    if x is not None:
        mixed = cross_fade(x[chosen[:, 0]], x[chosen[:, 1]], shares, seed=seed)
        fade = evidence(mixed.flatten(0, 1), "cross-fades").reshape(shape)
        rng = np.random.default_rng(derive_seed(seed, "real data"))
        rows = torch.as_tensor(rng.permutation(len(x))[:REFERENCES], device=x.device)
        real = evidence(x[rows], "data")
    return Profiles(
        shares=shares,
        log_prior=log_prior.reshape(shape) if defined else None,
        prior_draws=prior_draws if defined else None,
        log_evidence=evidence(of_paths, "paths").reshape(shape),
        cross_fade=fade,
        data=real,
        model_draws=evidence(new.x, "new data"),
        num_samples=num_samples,
        withheld=next(filter(None, reasons), None),
    )


def draw_profiles(
    ax: "matplotlib.axes.Axes",
    profiles: Profiles,
    reference: np.ndarray,
    name: str,
    bands: list[tuple[np.ndarray, str, str]],
) -> None:
    """Draw medians and quartiles along paths over the middle 90 % of a reference."""
    low, mid, high = np.quantile(reference, [UNLIKELY, 0.5, 1 - UNLIKELY])
    ax.axhspan(low, high, color="0.93", label=f"90% of {name}")
    ax.axhline(float(mid), color=GREY, linewidth=1, label="their median")
    for values, colour, label in bands:
        low, mid, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        t, label = profiles.shares, f"{label}: median, quartiles"
        ax.fill_between(t, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(t, mid, "o-", color=colour, markersize=3, label=label)
    ax.set(xlabel="t")
    # Below the panel: curves of a few steps leave no corner reliably free.
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
