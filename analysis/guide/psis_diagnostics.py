"""How far the guide can be trusted, image by image: k-hat and ESS of its importance weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, Real

from analysis.commands import ANNEALING, MORE_DRAWS
from analysis.plotting.images import Limits, draw_datum, strip
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.plotting.vectors import Elements, plot_largest, plot_vectors
from analysis.verdicts import Verdict, evidence
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import khat_threshold, share_above_threshold

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# So many of the worst rows are in the summary.
ROWS = 10


@dataclass(frozen=True)
class GuideQuality:
    """k-hat and ESS of the weights p(x, z) / q(z | x), z ~ q(z | x), for each of n data.

    k-hat says how heavy the weights' tail is. A guide wider than p(z | x) scores well on it if there
    are draws enough, as does one that misses a mode. The effective sample size falls with the first.

    Args:
        khat: -inf where the weights are constant, inf where one is not finite or a few outweigh all;
            None for too few draws.
        ess: Effective draws, from 0 to `num_samples`.
        num_samples: The number S of draws for each datum.
        withheld: Why rounding errors allow no verdict on the weights; None where they are small.
    """

    khat: Real[np.ndarray, " n"] | None
    ess: Real[np.ndarray, " n"]
    num_samples: int
    withheld: str | None = None

    @property
    def worst(self) -> Int[np.ndarray, " n"]:
        """All rows, the worst first: by falling k-hat, no number before all, then by rising ESS."""
        if self.khat is None:
            return np.argsort(self.ess, kind="stable")
        return np.lexsort((self.ess, -np.where(np.isnan(self.khat), np.inf, self.khat)))

    @property
    def constant(self) -> int:
        """The number of data whose weights are constant, k-hat = -inf."""
        return 0 if self.khat is None else int(np.isneginf(self.khat).sum())

    @property
    def unfitted(self) -> int:
        """The number of data whose weights have no tail to fit, k-hat = inf."""
        return 0 if self.khat is None else int(np.isposinf(self.khat).sum())

    def summary(self) -> dict[str, Any]:
        """Shares, counts and quantiles over data, and the worst rows."""
        khat = self.khat
        with np.errstate(invalid="ignore"):  # Between two that are infinite.
            khats = None if khat is None else np.quantile(khat, QUANTILES)
        return {
            "n": len(self.ess),
            "num_samples": self.num_samples,
            "khat_threshold": None if khat is None else khat_threshold(self.num_samples),
            "khat_share_above": None
            if self.withheld
            else share_above_threshold(khat, self.num_samples),
            "khat_median": None if khat is None else finite(float(np.median(khat))),
            "khat_constant": self.constant,
            "khat_infinite": self.unfitted,
            "ess_median": finite(float(np.median(self.ess))),
            "quantiles": [
                {
                    "probability": probability,
                    "khat": None if khats is None else finite(float(khats[index])),
                    "ess": finite(float(np.quantile(self.ess, probability))),
                }
                for index, probability in enumerate(QUANTILES)
            ],
            "worst": [
                {
                    "row": int(row),
                    "khat": None if khat is None else finite(float(khat[row])),
                    "ess": finite(float(self.ess[row])),
                }
                for row in self.worst[:ROWS]
            ],
            "verdicts": [] if self.withheld else [self.verdict().summary()],
            "reading": self.reading(),
        }

    def verdict(self) -> Verdict:
        """Whether importance weighting with the guide gives log p(x)."""
        return evidence(
            share_above_threshold(self.khat, self.num_samples),
            None if self.khat is None else khat_threshold(self.num_samples),
            float(np.median(self.ess)),
            self.num_samples,
            len(self.ess),
        )

    def reading(self) -> str:
        """Whether the guide can carry an estimate of log p(x), and what to do if not."""
        if self.withheld:
            return self.withheld
        verdict = self.verdict()
        advice = {
            "yes": "Importance weights correct for a guide that is off; only draws that all miss "
            "the same mode would look as good.",
            "nearly": f"k-hat does not see a guide that is too wide: take more draws, `{MORE_DRAWS}`.",
            "no": f"Use annealed importance sampling, `{ANNEALING}`, or a more flexible guide.",
            "not known": "",
        }[verdict.answer]
        counted = []
        if self.constant:
            counted.append(
                f"For {self.constant} data all weights are equal: an exact guide, or a collapsed code "
                "if the rate is 0."
            )
        if self.unfitted:
            counted.append(
                f"For {self.unfitted} data there is no tail to fit: weights are not finite, or a few "
                "outweigh all others beyond float64; they count as above."
            )
        return " ".join(filter(None, [str(verdict), advice, *counted]))


def guide_quality(
    khat: Real[np.ndarray, " n"] | None,
    ess: Real[np.ndarray, " n"],
    num_samples: int,
    withheld: str | None = None,
) -> GuideQuality:
    """k-hat, ESS = (sum_s w_s)^2 / sum_s w_s^2, and which data they are worst for.

    Args:
        khat: As `pyro_vae.statistics.pareto_khat` gives it; None if there were too few draws.
        ess: As `effective_sample_size` gives it.
        num_samples: The number S of draws from the guide for each datum.
        withheld: As `ImportanceWeighting.withheld`.

    Raises:
        ValueError: If there are no data, the lengths differ, or an ESS is not from 0 to S.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), https://arxiv.org/abs/1507.02646
    """
    if len(ess) == 0 or (khat is not None and len(khat) != len(ess)):
        raise ValueError(
            "khat and ess must be of the same data, at least one, got "
            f"{None if khat is None else len(khat)} and {len(ess)}."
        )
    # Sums of weights that are all but equal are rounded.
    if not (ess.min() >= 0 and ess.max() <= num_samples * (1 + 1e-6)):
        raise ValueError(
            f"ess must be from 0 to {num_samples}, got {ess.min():.3g} to {ess.max():.3g}."
        )
    return GuideQuality(khat, ess, num_samples, withheld)


def plot_guide_quality(
    khat: Real[np.ndarray, " n"] | None, ess: Real[np.ndarray, " n"], num_samples: int
) -> "matplotlib.figure.Figure":
    """k-hat of each image, sorted, and the effective share of its draws.

    A guide somewhat too wide scores well on k-hat, and shows in the ESS.

    Args:
        khat: The tail shape of each image's importance weights: -inf where they are constant (an
            exact guide, a collapsed latent), inf where none could be fitted; both are counted and
            not drawn. None if there were too few draws.
        ess: The effective sample size of each image's weights, up to `num_samples`.
        num_samples: The number S of draws from the guide for each image.
    """
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    if khat is None:
        left.set(xlabel=f"share of the {nouns()}, sorted by k-hat", ylabel="Pareto k-hat")
        left.set_title(f"{num_samples} draws are too few for a k-hat")
    else:
        _draw_khat(left, khat, khat_threshold(num_samples))

    # Logarithms need more than the 0 of images whose weights are not finite.
    effective = np.clip(ess / num_samples, 1 / num_samples, 1)
    right.hist(effective, bins=np.geomspace(1 / num_samples, 1, 41).tolist(), color=BLUE)
    median = float(np.median(effective))
    right.axvline(median, color=ORANGE)
    right.set(
        xscale="log",
        xlabel=f"effective share of the {num_samples} draws, ESS / S",
        ylabel=nouns(),
        title=f"Median ESS, the line: {median * num_samples:.0f} of {num_samples} draws",
    )
    tidy([left, right])
    figure.suptitle("Importance weights p(x, z) / q(z | x): low k-hat and high ESS are good")
    return figure


def plot_worst_images(
    x: Real[np.ndarray, " n *event"],
    means: Real[np.ndarray, " n *event"],
    quality: GuideQuality,
    limits: Limits = (0.0, 1.0),
    columns: int = 8,
    elements: Elements | None = None,
) -> "matplotlib.figure.Figure":
    """The data whose guide is worst, and best, above or beside their reconstructions.

    Args:
        x: The data.
        means: Their reconstructions, such as the mean of p(x | z) at the code of x.
        quality: Of the same data.
        limits: The values drawn black and white, or at the foot and the head of a profile.
        columns: The number of data in a row.
        elements: Of vectors, names and scale of their elements.

    Raises:
        ValueError: If the numbers of data differ.
    """
    if not len(x) == len(means) == len(quality.ess):
        raise ValueError(
            f"data, means and quality must be of the same data, got {len(x)}, {len(means)} and "
            f"{len(quality.ess)}."
        )
    columns = min(columns, len(x))
    elements = elements or Elements.of(x)
    order = quality.worst
    said = [f"ESS {ess:.3g}" for ess in quality.ess]
    if quality.khat is not None:
        said = [f"k-hat {k:.2f}\n{ess}" for k, ess in zip(quality.khat, said, strict=True)]
    said = [f"{noun()} {row}\n{words}" for row, words in enumerate(said)]
    if elements is not None:
        return _plot_worst_vectors(
            x, means, order[:columns], order[::-1][:columns], said, elements
        )
    figure = new_figure(max(1.25 * columns + 1.0, 6.0), 7.4)
    bands = figure.subfigures(2, 1)
    for band, rows, title in (
        (
            bands[0],
            order[:columns],
            "The guide is worst for these: highest k-hat, then lowest ESS",
        ),
        (bands[1], order[::-1][:columns], "The guide is best for these"),
    ):
        cells = band.subplots(2, columns, squeeze=False)
        for column, row in enumerate(rows):
            draw_datum(cells[0, column], x[row], limits)
            draw_datum(cells[1, column], means[row], limits)
            cells[0, column].set_title(said[row], fontsize=9)
        for ax in cells.flat:
            strip(ax)
        for ax, name in zip(cells[:, 0], ("data", "model"), strict=True):
            ax.set_ylabel(name, rotation="horizontal", ha="right", va="center")
        band.suptitle(title)
    return figure


def _plot_worst_vectors(
    x: np.ndarray,
    means: np.ndarray,
    worst: np.ndarray,
    best: np.ndarray,
    said: list[str],
    elements: Elements,
) -> "matplotlib.figure.Figure":
    if elements.largest:
        rows = np.concatenate([worst[:4], best[:4]])
        ends = ["worst"] * len(worst[:4]) + ["best"] * len(best[:4])
        return plot_largest(
            means[rows],
            elements.names if elements.named else (),
            x[rows],
            "The guide is worst and best for these: their largest elements",
            [
                f"{end}: {said[row]}".replace("\n", ", ")
                for end, row in zip(ends, rows, strict=True)
            ],
        )
    panels, labels = {}, {}
    for end, rows in (("worst", worst), ("best", best)):
        for what, vectors in (("data", x), ("model", means)):
            panels[f"{end}: {what}"] = vectors[rows]
            labels[f"{end}: {what}"] = [said[row].replace("\n", ", ") for row in rows]
    title = f"The {nouns()} whose guide is worst, by highest k-hat, then lowest ESS, and best"
    return plot_vectors(panels, elements, title, labels=labels)


def _draw_khat(ax: "matplotlib.axes.Axes", khat: np.ndarray, threshold: float) -> None:
    ordered = np.sort(khat)
    share = (np.arange(len(khat)) + 0.5) / len(khat)
    poor = ordered > threshold
    for where, colour in ((~poor, BLUE), (poor, ORANGE)):
        where = where & np.isfinite(ordered)
        ax.plot(share[where], ordered[where], "o", ms=3, color=colour)
    ax.axhline(threshold, color=GREY, linestyle="--", label=f"threshold {threshold:.2f}")
    # Marks without ink, so that the legend says what the panel cannot show.
    for count, reason in (
        (np.isneginf(khat).sum(), "constant weights, k-hat = -inf"),
        (np.isposinf(khat).sum(), "no tail to fit, k-hat = inf"),
    ):
        if count:
            ax.plot([], [], " ", label=f"{count} {nouns()} not drawn: {reason}")
    # The curve rises to the right, so this corner is free.
    legend = ax.legend(loc="upper left", frameon=False, fontsize=9)
    lowest, highest = ax.get_ylim()
    lowest = min(lowest, 0)
    headroom = 0.1 * len(legend.texts) * (highest - lowest)
    ax.set(
        xlim=(0, 1),
        ylim=(lowest, max(highest, threshold) + headroom),
        xlabel=f"share of the {nouns()}, sorted by k-hat",
        ylabel="Pareto k-hat",
        title=f"{poor.mean():.1%} of {len(khat)} {nouns()} above the threshold",
    )
