"""Holes: where the prior has mass but no codes of data, and the reverse."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from analysis.check import Check, Plot
from analysis.hypothesis_tests import TwoSampleTest, two_sample_test
from analysis.model_samples import (
    device_of,
    guide_blocks,
    has_density,
    mean_data,
    new_data,
    to_array,
)
from analysis.plotting.images import Limits, draw_grid, is_image
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.latent_space import check_codes, continuous_support
from analysis.result import Result
from analysis.verdicts import Verdict, judge_codes
from pyro_vae.data.nouns import a_noun
from pyro_vae.rng import derive_seed

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# A draw lies in a hole if its nearest neighbour is further away than for this share of the sample
# itself.
EDGE = 0.99
MIN_DRAWS = 40
# Decoded means that are compared at most, and their elements.
DECODED, _ELEMENTS = 1000, 2**25
# Draws of each kind in a figure, as decoded data and as points.
SHOWN, POINTS = 10, 1000


@dataclass(frozen=True)
class FittedNormal:
    """A normal distribution fitted to codes, in place of the prior.

    Args:
        hole_share: The share of its draws that lie in holes.
        auroc: How well a classifier separates its draws from codes: 0.5 is chance.
    """

    hole_share: float
    auroc: float


@dataclass(frozen=True)
class Holes(Result):
    """Draws of the aggregate posterior q(z) compared with draws of the prior p(z).

    Args:
        test: The classifier two-sample test of both.
        own_distance: From each aggregate draw to the nearest other one.
        prior_distance: From each prior draw to the nearest aggregate draw.
        edge: The `EDGE` quantile of `own_distance`: a prior draw beyond it lies in a hole.
        uncovered: Whether each aggregate draw is as far from all prior draws.
        strange: Whether the decoded means of the first prior draws are as far from all those of
            aggregate draws; None if nothing was decoded.
        prior_trained: Whether training used the prior.
        normal: A normal distribution in place of the prior; None if none was fitted.
        aggregate: A few aggregate draws, for the figure.
        prior: A few prior draws, for the figure.
        shown: A few decoded means by kind, for the figure.
    """

    FIELDS: ClassVar = ("draws", "auroc", "auroc_by_classifier", "p_value", "prior_trained")

    test: TwoSampleTest
    own_distance: Float[np.ndarray, " n"]
    prior_distance: Float[np.ndarray, " n"]
    edge: float
    uncovered: Bool[np.ndarray, " n"]
    strange: Bool[np.ndarray, " some"] | None
    prior_trained: bool
    normal: FittedNormal | None
    aggregate: Float[np.ndarray, "few latent"]
    prior: Float[np.ndarray, "few latent"]
    shown: dict[str, Float[np.ndarray, " _ *event"]] | None

    draws = property(lambda self: len(self.prior_distance))
    auroc = property(lambda self: self.test.best)
    auroc_by_classifier = property(lambda self: self.test.auroc)
    p_value = property(lambda self: self.test.p_value)

    @property
    def in_hole(self) -> Bool[np.ndarray, " n"]:
        """Whether each prior draw lies in a hole."""
        return self.prior_distance > self.edge

    @property
    def hole_share(self) -> float:
        """The share of prior draws in holes: 1 % by chance."""
        return float(self.in_hole.mean())

    @property
    def uncovered_share(self) -> float:
        """The share of codes of data where the prior has almost no draws: 1 % by chance."""
        return float(self.uncovered.mean())

    def extra(self) -> dict[str, Any]:
        """Shares with standard errors, and the fitted normal distribution."""
        strange, decoded_in_hole = self.strange, self.in_hole
        if strange is not None:
            decoded_in_hole = self.in_hole[: len(strange)]
        shares = {
            "hole_share": self.in_hole,
            "uncovered_share": self.uncovered,
            "strange_share": strange,
            "strange_share_in_holes": None if strange is None else strange[decoded_in_hole],
            "strange_share_elsewhere": None if strange is None else strange[~decoded_in_hole],
        }
        record: dict[str, Any] = {}
        for name, values in shares.items():
            share = error = None
            if values is not None and len(values):
                share = float(values.mean())
                error = math.sqrt(share * (1 - share) / len(values))
            record |= {name: share, f"{name}_se": error}
        return record | {
            "normal_hole_share": self.normal and self.normal.hole_share,
            "normal_auroc": self.normal and self.normal.auroc,
        }

    def verdicts(self) -> tuple[Verdict]:
        """Whether the codes are distributed as the prior."""
        return (judge_codes(self.auroc, self.p_value),)

    def reading(self) -> str:
        """The verdict, and the shares of draws in holes and of strange data."""
        strange = ""
        if self.strange is not None:
            strange = f", and {self.strange.mean():.1%} decode to means unlike those of any code"
        untrained = "" if self.prior_trained else " The prior was not used in training."
        return (
            f"{self.verdicts()[0]} {self.hole_share:.1%} of the prior's draws lie in "
            f"holes{strange} (1% each by "
            f"chance).{untrained}"
        )


def holes(
    vae: Any, x_train: Real[Tensor, " n *event"], *, num_draws: int = 2000, seed: int = 0
) -> Holes:
    """Compare z ~ q(z) = 1/N sum_j q(z | x_j) with z ~ p(z).

    One z is drawn for each of `num_draws` training examples, chosen at random, and as many from
    the prior. A prior draw lies in a hole if the nearest aggregate draw is further away than for
    99 % of aggregate draws themselves. Its decoded mean is strange if it is as far from all those
    of aggregate draws: only then does the hole show in generated data. For an autoencoder the
    draws are its points. The distance of q(z) and p(z) in nats is
    `aggregate_posterior.decompose_rate`'s marginal KL.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `decode(z)` and one latent site.
        x_train: Training data, in the likelihood's support.
        num_draws: The number of draws of each; at most the number of data.
        seed: The seed of the data and of all draws.

    Raises:
        UndefinedCheckError: If there are several latent sites, or codes are one-hot.
        ValueError: If there are fewer than 40 data or draws, or draws that are not finite.

    References:
        Resampled Priors for Variational Autoencoders (Bauer & Mnih, 2019),
        https://arxiv.org/abs/1810.11428 (holes); From Variational to Deterministic Autoencoders
        (Ghosh, Sajjadi, Vergari, Black & Schölkopf, 2020), https://arxiv.org/abs/1903.12436 (a
        density fitted to the codes afterwards)
    """
    support = continuous_support(vae)
    draws = min(num_draws, len(x_train))
    if draws < MIN_DRAWS:
        raise ValueError(f"at least {MIN_DRAWS} data and draws are needed, got {draws}.")
    rows = np.random.default_rng(derive_seed(seed, "training data")).permutation(len(x_train))
    x = x_train[torch.as_tensor(rows[:draws], device=x_train.device)].to(device_of(vae))
    parts = [to_array(terms.draws[0][0]) for _, terms in guide_blocks(vae, x, 1, seed=seed)]
    aggregate = np.concatenate(parts).reshape(draws, -1).astype(np.float64)
    prior = new_data(vae, x[:1], draws, seed=seed).z.reshape(draws, -1).astype(np.float64)
    check_codes(aggregate, MIN_DRAWS)
    check_codes(prior, MIN_DRAWS)
    trained = has_density(vae, x)
    return compare_draws(
        aggregate,
        prior,
        decode=lambda z: mean_data(vae, z),
        prior_trained=trained,
        fit_normal=support == "real" and not trained,
        seed=seed,
    )


def compare_draws(
    aggregate: Float[np.ndarray, "n latent"],
    prior: Float[np.ndarray, "n latent"],
    *,
    decode: Any = None,
    prior_trained: bool = True,
    fit_normal: bool = False,
    seed: int = 0,
) -> Holes:
    """`holes` for given draws.

    Args:
        aggregate: Draws of q(z), each for a different example.
        prior: As many draws of p(z).
        decode: Gives the means of p(x | z); without it decoded data are not compared.
        prior_trained: Whether training used the prior.
        fit_normal: Whether to compare a normal distribution as well, fitted to half of the
            aggregate draws, with the other half.
        seed: The seed of the classifiers and of the normal distribution's draws.
    """
    own, other = nearest_distance(aggregate), nearest_distance(aggregate, prior)
    edge = float(np.quantile(own, EDGE))
    strange = shown = None
    if decode is not None:
        strange, shown = _compare_decoded(aggregate, prior, other, edge, decode)
    return Holes(
        test=two_sample_test(aggregate, prior, seed=seed),
        own_distance=own,
        prior_distance=other,
        edge=edge,
        uncovered=_outside(prior, aggregate),
        strange=strange,
        prior_trained=prior_trained,
        normal=_fit_normal(aggregate, seed) if fit_normal else None,
        aggregate=aggregate[:POINTS],
        prior=prior[:POINTS],
        shown=shown,
    )


def nearest_distance(
    among: Float[np.ndarray, "m dim"], points: Float[np.ndarray, "n dim"] | None = None
) -> Float[np.ndarray, " _"]:
    """The distance of each point to the nearest of `among`, or of these to one another."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(among).kneighbors(points)[0][:, 0]


def _outside(among: np.ndarray, points: np.ndarray) -> Bool[np.ndarray, " _"]:
    """Whether each point is beyond the `EDGE` quantile of the distances within `among`."""
    return nearest_distance(among, points) > np.quantile(nearest_distance(among), EDGE)


def _compare_decoded(
    aggregate: np.ndarray, prior: np.ndarray, distance: np.ndarray, edge: float, decode: Any
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Whether decoded prior draws are far from all decoded codes, and examples of them."""
    some = max(100, min(DECODED, _ELEMENTS // decode(prior[:1]).size))
    of_data, of_prior = decode(aggregate[:some]), decode(prior[:some])
    strange = _outside(*(m.reshape(len(m), -1).astype(np.float32) for m in (of_data, of_prior)))
    order = np.argsort(-distance)
    deepest = order[: min(SHOWN, int((distance > edge).sum()))]
    solid = np.flatnonzero(distance <= edge)[:SHOWN]
    shown = {"codes of data": of_data[:SHOWN]}
    for name, rows in (("prior, no hole", solid), ("prior, deepest holes", deepest)):
        shown[name] = decode(prior[rows]) if len(rows) else of_prior[:0]
    return strange, shown


def _fit_normal(aggregate: np.ndarray, seed: int) -> FittedNormal:
    half = len(aggregate) // 2
    first, second = aggregate[:half], aggregate[half:]
    rng = np.random.default_rng(derive_seed(seed, "a normal for the codes"))
    covariance = np.cov(first.T).reshape(first.shape[1], first.shape[1])
    drawn = rng.multivariate_normal(first.mean(0), covariance, len(second))
    share = float(_outside(second, drawn).mean())
    return FittedNormal(share, two_sample_test(second, drawn, seed=seed).best)


def plot_holes(found: Holes, limits: Limits = (0.0, 1.0)) -> "matplotlib.figure.Figure":
    """Draw distances to the nearest code, the codes on two axes, and decoded draws.

    Args:
        found: The result of `holes`.
        limits: The values drawn black and white.
    """
    shown = found.shown or {}
    images = {k: v for k, v in shown.items() if len(v) and is_image(v.shape[1:])}
    figure = upper = new_figure(10.0, 4.3 + 0.95 * len(images))
    if images:
        upper, lower = figure.subfigures(2, 1, height_ratios=[4.3, 0.95 * len(images)])
        names = [name.replace(", ", ",\n") for name in images]
        draw_grid(lower, [*images.values()], limits, names=names, size=9)
    left, right = upper.subplots(1, 2)
    _draw_distances(left, found)
    _draw_codes(right, found)
    tidy([left])
    tidy([right], None)
    upper.suptitle(f"{found.hole_share:.1%} of the prior's draws lie in holes (chance 1%)")
    return figure


def _draw_distances(ax: "matplotlib.axes.Axes", found: Holes) -> None:
    both = np.concatenate([found.own_distance, found.prior_distance])
    bins = np.linspace(both.min(), max(np.quantile(both, 0.998), found.edge * 1.05), 50).tolist()
    for values, colour, label in (
        (found.own_distance, BLUE, "codes of data, to the nearest other"),
        (found.prior_distance, GREY, "draws of p(z), to the nearest code"),
    ):
        ax.hist(values.clip(max=bins[-1]), bins=bins, color=colour, alpha=0.6, label=label)
    ax.axvline(
        found.edge, color=ORANGE, linestyle="--", label=f"{EDGE:.0%} of codes: edge of holes"
    )
    low, high = ax.get_ylim()
    ax.set(xlabel="distance in latent space", ylabel="draws", ylim=(low, 1.35 * high))
    ax.set_title(f"Distance to the nearest code of {a_noun()}", fontsize=10)
    ax.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_codes(ax: "matplotlib.axes.Axes", found: Holes) -> None:
    centre = found.aggregate.mean(0)
    z, p = found.aggregate - centre, found.prior - centre
    names = ("z[0]", "z[1]")
    if z.shape[1] == 1:
        # One coordinate against the order of the draws, which has no meaning.
        z, p = (np.column_stack([v[:, 0], np.linspace(-1, 1, len(v))]) for v in (z, p))
        names = ("z[0]", "draw")
    elif z.shape[1] > 2:
        axes = np.linalg.svd(z, full_matrices=False)[2][:2]
        z, p = z @ axes.T, p @ axes.T
        names = ("first principal axis of the codes", "second principal axis")
    hole = found.in_hole[: len(p)]
    for points, colour, label in (
        (p[~hole], GREY, "draws of p(z)"),
        (z, BLUE, "codes of data, z ~ q(z)"),
        (p[hole], ORANGE, "draws of p(z) in holes"),
    ):
        ax.plot(*points[:, :2].T, ".", color=colour, markersize=3, alpha=0.6, label=label)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title(
        f"A classifier separates them in {found.auroc:.0%} of pairs (chance 50%)", fontsize=10
    )
    ax.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))


HOLES = Check(
    "holes",
    lambda subject: holes(
        subject.vae, subject.compute(RepresentationInputs).train_x, seed=subject.seed_of("holes")
    ),
    (
        Plot(
            "holes",
            "Where does the prior have mass but no code of data?",
            lambda found, subject: plot_holes(found, subject.limits),
        ),
    ),
    headline=lambda found: {
        "prior's draws in holes (chance 1%)": f"{found.hole_share:.1%}",
        "codes told from prior (chance 0.5)": f"{found.auroc:.2f}",
    },
)
