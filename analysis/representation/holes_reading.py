"""What draws of the prior beside codes of data say, in numbers, sentences and a picture."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.plotting.images import Limits, draw_datum, is_image, strip
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.representation.classifier_two_sample import ToldApart
from analysis.verdicts import Verdict, codes_as_prior
from pyro_vae.data.nouns import a_noun
from pyro_vae.evidence.numbers import finite

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# A draw is off if its nearest neighbour is further away than for this share of the sample itself.
EDGE = 0.99
# A prior with at most this share of its draws in holes is called without: twice what chance gives.
FEW = 0.02


@dataclass(frozen=True)
class Normal:
    """A normal distribution fitted to codes, in the prior's place.

    Args:
        hole_share: The share of its draws that lie in holes.
        auroc: How well its draws are told from codes: 0.5 is chance.
    """

    hole_share: float
    auroc: float


@dataclass(frozen=True)
class Holes:
    """Draws of the aggregate posterior q(z) and of the prior p(z) beside each other.

    Args:
        apart: How well a classifier tells them apart.
        own_distance: From each aggregate draw to the nearest other one.
        prior_distance: From each prior draw to the nearest aggregate draw.
        edge: The distance that 1 % of aggregate draws have from the others: a prior draw beyond it lies in a hole.
        uncovered: Whether each aggregate draw is as far from all prior draws.
        strange: Of the first prior draws, whether their decoded means are as far from all those of
            aggregate draws; None if nothing was decoded.
        trained: Whether training used the prior.
        normal: A normal distribution in the prior's place; None if none was fitted.
        aggregate: A few aggregate draws, for a picture.
        prior: A few prior draws, for a picture.
        shown: A few decoded means by kind, for a picture.
    """

    apart: ToldApart
    own_distance: Float[np.ndarray, " n"]
    prior_distance: Float[np.ndarray, " n"]
    edge: float
    uncovered: Bool[np.ndarray, " n"]
    strange: Bool[np.ndarray, " some"] | None
    trained: bool
    normal: Normal | None
    aggregate: Float[np.ndarray, "few latent"]
    prior: Float[np.ndarray, "few latent"]
    shown: dict[str, Float[np.ndarray, " _ *event"]] | None

    @property
    def in_hole(self) -> Bool[np.ndarray, " n"]:
        """Which prior draws lie in holes."""
        return self.prior_distance > self.edge

    @property
    def hole_share(self) -> float:
        """The share of prior draws in holes: 1 % by chance."""
        return float(self.in_hole.mean())

    @property
    def uncovered_share(self) -> float:
        """The share of codes of data where the prior has next to no draws: 1 % by chance."""
        return float(self.uncovered.mean())

    def summary(self) -> dict[str, Any]:
        """Areas, shares with standard errors, a p-value and a reading."""
        in_hole = self.in_hole
        record: dict[str, Any] = {
            "draws": len(self.prior_distance),
            "auroc": finite(self.apart.best),
            "auroc_by_classifier": {k: finite(v) for k, v in self.apart.auroc.items()},
            "p_value": finite(self.apart.p_value),
        }
        strange = self.strange
        inside = None if strange is None else strange[in_hole[: len(strange)]]
        outside = None if strange is None else strange[~in_hole[: len(strange)]]
        for name, values in (
            ("hole_share", in_hole),
            ("uncovered_share", self.uncovered),
            ("strange_share", strange),
            ("strange_share_in_holes", inside),
            ("strange_share_elsewhere", outside),
        ):
            n = 0 if values is None else len(values)
            share = float(values.mean()) if values is not None and n else math.nan
            record[name] = finite(share)
            record[f"{name}_se"] = finite(math.sqrt(share * (1 - share) / n)) if n else None
        record["prior_trained"] = self.trained
        record["normal_hole_share"] = (
            None if self.normal is None else finite(self.normal.hole_share)
        )
        record["normal_auroc"] = None if self.normal is None else finite(self.normal.auroc)
        record["verdicts"] = [self.verdict().summary()]
        record["reading"] = self.reading()
        return record

    def verdict(self) -> Verdict:
        """Whether the codes are distributed as the prior."""
        return codes_as_prior(self.apart.best, self.apart.p_value)

    def reading(self) -> str:
        """Whether the prior puts codes where data put none, and whether that shows in the data made."""
        text = str(self.verdict())
        text += (
            f" {self.hole_share:.1%} of the prior's draws lie in holes, further from codes of data than "
            f"{EDGE:.0%} of codes are from each other, and {self.uncovered_share:.1%} of codes lie where the prior has no "
            "draws (1% each by chance)"
        )
        strange = None if self.strange is None else float(self.strange.mean())
        if strange is not None:
            text += f"; {strange:.1%} of the prior's draws decode to what no code of data does (1% by chance)"
        if self.hole_share <= FEW and (strange is None or strange <= FEW):
            text += ": the prior has hardly a draw in a place without codes."
        elif strange is not None and strange <= FEW:
            text += ": holes that do no harm to what is decoded."
        else:
            text += ": new data from there are not like data; a prior learned with the model closes holes."
        if not self.trained:
            text += " No prior trained these codes, an autoencoder's: the prior is only its nominal one."
        if self.normal is not None:
            text += (
                f" A normal distribution fitted to the codes has {self.normal.hole_share:.1%} of its draws in holes, "
                f"and is told from them in {self.normal.auroc:.0%} of pairs."
            )
        return text


def plot_holes(found: Holes, limits: Limits = (0.0, 1.0)) -> "matplotlib.figure.Figure":
    """Distances to the nearest code of a datum, the codes on two axes, and decoded draws.

    Args:
        found: What `holes` found.
        limits: The values drawn black and white.
    """
    shown = found.shown or {}
    images = {k: v for k, v in shown.items() if len(v) and is_image(v.shape[1:])}
    figure = new_figure(10.0, 4.3 + 0.95 * len(images))
    if images:
        upper, lower = figure.subfigures(2, 1, height_ratios=[4.3, 0.95 * len(images)])
        _draw_images(lower, images, limits)
    else:
        upper = figure
    left, right = upper.subplots(1, 2)
    _draw_distances(left, found)
    _draw_codes(right, found)
    tidy([left])
    tidy([right], None)
    upper.suptitle(
        f"{found.hole_share:.1%} of the prior's draws lie in holes between codes of data (chance 1%)"
    )
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
        found.edge, color=ORANGE, linestyle="--", label=f"{EDGE:.0%} of codes; beyond, a hole"
    )
    low, high = ax.get_ylim()
    ax.set(xlabel="distance in latent space", ylabel="draws", ylim=(low, 1.35 * high))
    ax.set_title(f"How far the nearest code of {a_noun()} is", fontsize=10)
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
        ax.plot(
            points[:, 0], points[:, 1], ".", color=colour, markersize=3, alpha=0.6, label=label
        )
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title(
        f"A classifier tells them apart in {found.apart.best:.0%} of pairs (chance 50%)",
        fontsize=10,
    )
    ax.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _draw_images(
    figure: "matplotlib.figure.SubFigure", images: dict[str, Any], limits: Any
) -> None:
    columns = max(len(v) for v in images.values())
    cells = figure.subplots(len(images), columns, squeeze=False)
    for row, (name, means) in enumerate(images.items()):
        for column, datum in enumerate(means):
            draw_datum(cells[row, column], datum, limits)
        cells[row, 0].set_ylabel(
            name.replace(", ", ",\n"), rotation="horizontal", ha="right", va="center", fontsize=9
        )
    for ax in cells.flat:
        strip(ax)
