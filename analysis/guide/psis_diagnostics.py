"""PSIS diagnostics of the guide for each example: k-hat and ESS of its importance weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Int, Real

from analysis.check import Check, Plot
from analysis.plotting.images import Limits, draw_grid
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.plotting.vectors import Elements, plot_largest, plot_vectors
from analysis.result import ANNEALING, MORE_DRAWS, Result
from analysis.subject import Subject
from analysis.verdicts import Verdict, judge_evidence
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import khat_threshold, share_above_threshold

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# The number of worst rows that are recorded.
ROWS = 10


@dataclass(frozen=True)
class GuideQuality(Result):
    """k-hat and ESS of the weights p(x, z) / q(z | x), z ~ q(z | x), for each of n examples.

    k-hat measures how heavy the weights' tail is. A guide wider than p(z | x) scores well on it if
    there are enough draws, as does one that misses a mode. The ESS is low for a wide guide, too.

    Args:
        khat: -inf where the weights are constant, inf where one is not finite or a few outweigh
            all; None for too few draws.
        ess: (sum_s w_s)^2 / sum_s w_s^2, from 0 to `num_samples`.
        num_samples: The number S of draws per example.
        withheld: Why rounding errors allow no verdict on the weights; None if they are small.

    Raises:
        ValueError: If there are no data, the lengths differ, or an ESS is not from 0 to S.

    References:
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024),
        https://arxiv.org/abs/1507.02646
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("num_samples", "khat_share_above")

    khat: Real[np.ndarray, " n"] | None
    ess: Real[np.ndarray, " n"]
    num_samples: int
    withheld: str | None = None

    def __post_init__(self) -> None:
        if len(self.ess) == 0 or (self.khat is not None and len(self.khat) != len(self.ess)):
            raise ValueError(
                "khat and ess must be of the same data, at least one, got "
                f"{None if self.khat is None else len(self.khat)} and {len(self.ess)}."
            )
        # Sums of nearly equal weights are rounded.
        if not (self.ess.min() >= 0 and self.ess.max() <= self.num_samples * (1 + 1e-6)):
            raise ValueError(
                f"ess must be from 0 to {self.num_samples}, got {self.ess.min():.3g} to "
                f"{self.ess.max():.3g}."
            )

    @property
    def worst(self) -> Int[np.ndarray, " n"]:
        """All rows, worst first: by falling k-hat, NaN before all, then by rising ESS."""
        if self.khat is None:
            return np.argsort(self.ess, kind="stable")
        return np.lexsort((self.ess, -np.where(np.isnan(self.khat), np.inf, self.khat)))

    @property
    def khat_share_above(self) -> float | None:
        """The share of examples with a k-hat above the threshold; None if unknown or withheld."""
        return None if self.withheld else share_above_threshold(self.khat, self.num_samples)

    @property
    def constant(self) -> int:
        """The number of examples with constant weights, k-hat = -inf."""
        return 0 if self.khat is None else int(np.isneginf(self.khat).sum())

    @property
    def unfitted(self) -> int:
        """The number of examples whose weights have no tail to fit, k-hat = inf."""
        return 0 if self.khat is None else int(np.isposinf(self.khat).sum())

    def extra(self) -> dict[str, Any]:
        """Counts and quantiles over examples, and the worst rows."""
        khat = self.khat
        with np.errstate(invalid="ignore"):  # Between two infinite values.
            khats = [None] * len(QUANTILES) if khat is None else np.quantile(khat, QUANTILES)
        return {
            "n": len(self.ess),
            "khat_threshold": None if khat is None else khat_threshold(self.num_samples),
            "khat_median": None if khat is None else np.median(khat),
            "khat_constant": self.constant,
            "khat_infinite": self.unfitted,
            "ess_median": np.median(self.ess),
            "quantiles": [
                {"probability": p, "khat": k, "ess": np.quantile(self.ess, p)}
                for p, k in zip(QUANTILES, khats, strict=True)
            ],
            "worst": [
                {"row": row, "khat": None if khat is None else khat[row], "ess": self.ess[row]}
                for row in self.worst[:ROWS]
            ],
            "verdicts": [],
        }

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether importance weighting with the guide gives log p(x); none if withheld."""
        if self.withheld:
            return ()
        verdict = judge_evidence(
            self.khat_share_above,
            None if self.khat is None else khat_threshold(self.num_samples),
            float(np.median(self.ess)),
            self.num_samples,
            len(self.ess),
        )
        return (verdict,)

    def reading(self) -> str:
        """Whether log p(x) can be trusted, and what to do if not."""
        if self.withheld:
            return self.withheld
        (verdict,) = self.verdicts()
        advice = {
            "nearly": f" Use more draws: `{MORE_DRAWS}`.",
            "no": f" Use annealed importance sampling, `{ANNEALING}`, or a more flexible guide.",
        }.get(verdict.answer, "")
        counts = [
            f"{count} {nouns()} have {what}"
            for count, what in (
                (self.constant, "constant weights (an exact guide, or a collapsed code)"),
                (self.unfitted, "no tail to fit, and count as above"),
            )
            if count
        ]
        return f"{verdict}{advice}" + (f" {'; '.join(counts)}." if counts else "")


def plot_guide_quality(
    khat: Real[np.ndarray, " n"] | None, ess: Real[np.ndarray, " n"], num_samples: int
) -> "matplotlib.figure.Figure":
    """The sorted k-hat of all examples, and a histogram of the effective share of their draws.

    Args:
        khat: The tail shape of each example's importance weights: -inf where they are constant (an
            exact guide, a collapsed latent), inf where none could be fitted; both are counted and
            not drawn. None if there were too few draws.
        ess: The effective sample size of each example's weights, up to `num_samples`.
        num_samples: The number S of draws from the guide per example.
    """
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    left.set(xlabel=f"share of the {nouns()}, sorted by k-hat", ylabel="Pareto k-hat")
    if khat is None:
        left.set_title(f"{num_samples} draws are too few for a k-hat")
    else:
        _draw_khat(left, khat, khat_threshold(num_samples))

    # The ESS is 0 where weights are not finite, which has no logarithm.
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


def _draw_khat(ax: "matplotlib.axes.Axes", khat: np.ndarray, threshold: float) -> None:
    ordered = np.sort(khat)
    share = (np.arange(len(khat)) + 0.5) / len(khat)
    poor = ordered > threshold
    for where, colour in ((~poor, BLUE), (poor, ORANGE)):
        where = where & np.isfinite(ordered)
        ax.plot(share[where], ordered[where], "o", ms=3, color=colour)
    ax.axhline(threshold, color=GREY, linestyle="--", label=f"threshold {threshold:.2f}")
    # Invisible marks, so that the legend reports what the panel cannot show.
    for count, reason in (
        (np.isneginf(khat).sum(), "constant weights, k-hat = -inf"),
        (np.isposinf(khat).sum(), "no tail to fit, k-hat = inf"),
    ):
        if count:
            ax.plot([], [], " ", label=f"{count} {nouns()} not drawn: {reason}")
    # The curve rises to the right, so that this corner is free.
    legend = ax.legend(loc="upper left", frameon=False, fontsize=9)
    lowest, highest = ax.get_ylim()
    lowest = min(lowest, 0)
    headroom = 0.1 * len(legend.texts) * (highest - lowest)
    ax.set(
        xlim=(0, 1),
        ylim=(lowest, max(highest, threshold) + headroom),
        title=f"{poor.mean():.1%} of {len(khat)} {nouns()} above the threshold",
    )


def plot_worst_images(
    x: Real[np.ndarray, " n *event"],
    means: Real[np.ndarray, " n *event"],
    quality: GuideQuality,
    limits: Limits = (0.0, 1.0),
    columns: int = 8,
    elements: Elements | None = None,
) -> "matplotlib.figure.Figure":
    """The examples whose guide is worst, and best, above or beside their reconstructions.

    Args:
        x: The data.
        means: Their reconstructions, such as the mean of p(x | z) at the code of x.
        quality: The diagnostics of the same data.
        limits: The values drawn black and white, or at the bottom and top of a profile.
        columns: The number of examples in a row.
        elements: The names and scale of the elements of vectors.

    Raises:
        ValueError: If the numbers of data differ.
    """
    if not len(x) == len(means) == len(quality.ess):
        raise ValueError(
            f"data, means and quality must be of the same data, got {len(x)}, {len(means)} and "
            f"{len(quality.ess)}."
        )
    columns = min(columns, len(x))
    elements = elements or Elements.from_data(x)
    worst, best = quality.worst[:columns], quality.worst[::-1][:columns]
    labels = [f"{noun()} {row}\nESS {ess:.3g}" for row, ess in enumerate(quality.ess)]
    if quality.khat is not None:
        labels = [
            f"{noun()} {row}\nk-hat {khat:.2f}\nESS {ess:.3g}"
            for row, (khat, ess) in enumerate(zip(quality.khat, quality.ess, strict=True))
        ]
    if elements is not None:
        return _plot_worst_vectors(x, means, worst, best, labels, elements)
    figure = new_figure(max(1.25 * columns + 1.0, 6.0), 7.4)
    panels = {
        "The guide is worst for these: highest k-hat, then lowest ESS": worst,
        "The guide is best for these": best,
    }
    for band, (title, rows) in zip(figure.subfigures(2, 1), panels.items(), strict=True):
        titles = {column: labels[row] for column, row in enumerate(rows)}
        pair = [x[rows], means[rows]]
        draw_grid(band, pair, limits, names=("data", "model"), titles=titles, size=9)
        band.suptitle(title)
    return figure


def _plot_worst_vectors(
    x: np.ndarray,
    means: np.ndarray,
    worst: np.ndarray,
    best: np.ndarray,
    labels: list[str],
    elements: Elements,
) -> "matplotlib.figure.Figure":
    labels = [label.replace("\n", ", ") for label in labels]
    ends = {"worst": worst, "best": best}
    if elements.largest:
        return plot_largest(
            means[np.concatenate([worst[:4], best[:4]])],
            elements.names if elements.named else (),
            x[np.concatenate([worst[:4], best[:4]])],
            "The guide is worst and best for these: their largest elements",
            [f"{end}: {labels[row]}" for end, rows in ends.items() for row in rows[:4]],
        )
    panels, panel_labels = {}, {}
    for end, rows in ends.items():
        for name, vectors in (("data", x), ("model", means)):
            panels[f"{end}: {name}"] = vectors[rows]
            panel_labels[f"{end}: {name}"] = [labels[row] for row in rows]
    title = f"The {nouns()} whose guide is worst, by highest k-hat, then lowest ESS, and best"
    return plot_vectors(panels, elements, title, labels=panel_labels)


def _quality(subject: Subject) -> GuideQuality:
    weights = subject.evaluation.importance_weighting
    return GuideQuality(weights.khat, weights.ess, weights.num_samples, weights.withheld)


def _headline(quality: GuideQuality) -> dict[str, str]:
    numbers = {}
    if quality.khat_share_above is not None:
        threshold = khat_threshold(quality.num_samples)
        numbers["k-hat above threshold"] = (
            f"{quality.khat_share_above:.1%} of {nouns()}, threshold {threshold:.2f}"
        )
    draws = f"{np.median(quality.ess):.0f} of {quality.num_samples}"
    return numbers | {"effective draws, median": draws}


def _record(quality: GuideQuality) -> dict[str, Any]:
    khat = quality.khat
    return {
        "khat": {
            "share_above": quality.khat_share_above,
            "threshold": khat_threshold(quality.num_samples),
            "median": None if khat is None else np.median(khat),
        },
        "ess": {"median": np.median(quality.ess), "num_samples": quality.num_samples},
    }


QUALITY = Check(
    "quality",
    _quality,
    plots=(
        Plot(
            "quality",
            "How heavy are the tails of the guide's importance weights, and how many draws count?",
            lambda found, _: plot_guide_quality(found.khat, found.ess, found.num_samples),
        ),
        Plot(
            "worst",
            "For which data is the guide worst?",
            lambda found, subject: plot_worst_images(
                subject.real,
                subject.reconstructions,
                found,
                subject.limits,
                elements=subject.elements,
            ),
        ),
    ),
    headline=_headline,
    record=_record,
    shared=("importance weights",),
)
