"""The terms of the ELBO for each example, reconstruction and rate, with their figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from analysis.check import Check, Plot
from analysis.elbo.rate_decomposition import RateDecomposition, rate_of_training
from analysis.plotting.images import Limits, draw_grid
from analysis.plotting.style import BLUE, GREEN, GREY, ORANGE, new_figure, tidy
from analysis.plotting.vectors import Elements, draw_vectors, plot_largest
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject
from analysis.verdicts import Verdict, judge_code_use
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.evidence import Evaluation
from pyro_vae.statistics import ACTIVE_VARIANCE, EQUAL_SHARE, standard_error, unit_activity

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
# The number of worst and of best examples that are recorded.
EXTREMES = 5
# A tail is long if the mean of the worst 1 % lies this many interquartile ranges below the median;
# for a normal distribution it is about 2.
LONG_TAIL = 4.0
# With more data the scatter plot becomes a density.
MOST_POINTS = 5000
_TERMS: Mapping[str, str] = {"reconstruction": "reconstruction", "rate": "rate", "elbo": "ELBO"}


@dataclass(frozen=True)
class ElboTerms(Result):
    """ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z)) of each example, in nats.

    Args:
        reconstruction: E_q[log p(x | z)].
        rate: KL(q(z | x) || p(z)).
        embeddings: The deterministic code of each example.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("active_units",)

    reconstruction: Float[np.ndarray, " n"]
    rate: Float[np.ndarray, " n"]
    embeddings: Float[np.ndarray, "n latent"]

    @property
    def elbo(self) -> Float[np.ndarray, " n"]:
        """The bound: at most log p(x) in expectation."""
        return self.reconstruction - self.rate

    @property
    def terms(self) -> dict[str, Float[np.ndarray, " n"]]:
        """The terms by name; high is good except for the rate, which is a cost."""
        return {"reconstruction": self.reconstruction, "rate": self.rate, "elbo": self.elbo}

    @property
    def active_units(self) -> int:
        """The number of latent dimensions whose code varies over data."""
        return int((unit_activity(self.embeddings) > ACTIVE_VARIANCE).sum())

    def extremes(
        self, count: int = EXTREMES
    ) -> dict[str, tuple[Int[np.ndarray, " worst"], Int[np.ndarray, " best"]]]:
        """The rows with the worst and with the best of each term, most extreme first.

        The worst rate is the highest. NaN is worse than any number.
        """
        rows = {}
        for name, values in self.terms.items():
            good = -values if name == "rate" else values
            order = np.lexsort((good, ~np.isnan(good)))
            rows[name] = (order[:count], order[::-1][:count])
        return rows

    def extra(self) -> dict[str, Any]:
        """The mean, standard error and quantiles of each term, and its worst and best rows."""
        extremes = self.extremes()
        record: dict[str, Any] = {"n": len(self.rate), "verdicts": []}
        for name, values in self.terms.items():
            finite = np.isfinite(values).all()
            record |= {
                name: values.mean(),
                f"{name}_se": standard_error(values),
                f"{name}_quantiles": {
                    q: np.quantile(values, q) if finite else None for q in QUANTILES
                },
                f"{name}_worst": extremes[name][0],
                f"{name}_best": extremes[name][1],
            }
        return record

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the code is used; none where the rate is not finite."""
        rate = float(self.rate.mean())
        if not math.isfinite(rate):
            return ()
        return (judge_code_use(rate, self.active_units, self.embeddings.shape[1]),)

    def reading(self) -> str:
        """Whether the code is used, and whether a few examples dominate the loss."""
        elbo = self.elbo
        if not np.isfinite(elbo).all():
            share = (~np.isfinite(elbo)).mean()
            return f"Not defined: the ELBO is not finite for {share:.1%} of {nouns()}."
        text = super().reading()
        low, median, high = np.quantile(elbo, (0.25, 0.5, 0.75))
        below = median - np.sort(elbo)[: max(1, len(elbo) // 100)].mean()
        # A smaller range is rounding.
        spread = high - low
        if spread > EQUAL_SHARE * max(1.0, abs(median)) and below > LONG_TAIL * spread:
            text += (
                f" The worst 1% of {nouns()} lie {below:.1f} nats below the median ELBO, "
                f"{below / spread:.1f} interquartile ranges (2 is usual)."
            )
        return text


def elbo_terms(evaluation: Evaluation) -> ElboTerms:
    """The terms of each evaluated example, means over its draws from the guide."""
    weights = evaluation.importance_weighting
    arrays = (weights.reconstruction, weights.kl, evaluation.embeddings)
    return ElboTerms(*(np.asarray(values, np.float64) for values in arrays))


def plot_elbo_terms(
    terms: ElboTerms, decomposition: RateDecomposition | None = None
) -> "matplotlib.figure.Figure":
    """Reconstruction and rate of each example, and the steps to the mean ELBO.

    Examples on a thin line have the same ELBO; towards the upper left it is better. On the right
    each bar subtracts what its term costs.

    Args:
        terms: The terms of each example.
        decomposition: The decomposition of the rate of the training data; a last step leads to the
            rate of these data.
    """
    figure = new_figure(10.0, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_plane(left, terms)
    _draw_steps(right, terms, _steps(terms, decomposition))
    if decomposition is not None:
        figure.supxlabel("\n".join(_notes(decomposition)), fontsize=9, color="0.25")
    error = standard_error(terms.elbo)
    spread = "" if error is None else f" ± {error:.2f}"
    figure.suptitle(
        f"ELBO {terms.elbo.mean():.2f}{spread} nats over {len(terms.rate)} {nouns()}, and its "
        "terms"
    )
    return figure


def _draw_plane(ax: "matplotlib.axes.Axes", terms: ElboTerms) -> None:
    shown = np.isfinite(terms.rate) & np.isfinite(terms.reconstruction)
    rate, reconstruction = terms.rate[shown], terms.reconstruction[shown]
    if len(rate) > MOST_POINTS:
        ax.hexbin(
            rate, reconstruction, gridsize=50, mincnt=1, bins="log", cmap="Blues", linewidths=0
        )
    else:
        size = float(np.clip(8000 / max(len(rate), 1), 3, 16))
        ax.scatter(rate, reconstruction, s=size, color=BLUE, alpha=0.5, linewidth=0)
    if len(rate):
        limits = ax.get_xlim(), ax.get_ylim()
        for level in np.quantile(terms.elbo[shown], (0.01, 0.25, 0.5, 0.75, 0.99)):
            ax.axline((0, level), slope=1, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
            # The label stands where the line leaves the panel, on the right or at the top.
            x = min(limits[0][1], limits[1][1] - level)
            if limits[0][0] < x and limits[1][0] < x + level:
                ax.annotate(
                    f"{level:.0f}",
                    (x, x + level),
                    xytext=(3, 2),
                    textcoords="offset points",
                    fontsize=8,
                    color="0.35",
                    annotation_clip=False,
                )
        ax.set(xlim=limits[0], ylim=limits[1])
        ax.plot(rate.mean(), reconstruction.mean(), "o", color=ORANGE, label="mean")
        ax.plot([], [], "--", color=GREY, linewidth=0.8, label="equal ELBO (1, 25, 50, 75, 99 %)")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.05), fontsize=8, frameon=False, ncols=2)
    ax.set(
        xlabel="rate KL(q(z | x) || p(z)), nats",
        ylabel="reconstruction E[log p(x | z)], nats",
    )
    tidy([ax], grid=None)


def _steps(
    terms: ElboTerms, decomposition: RateDecomposition | None
) -> list[tuple[str, float, str]]:
    """The steps from the mean reconstruction to the mean ELBO: names, nats and colours."""
    rate = float(terms.rate.mean())
    if decomposition is None:
        return [("rate", rate, BLUE)]
    steps = [("mutual information", decomposition.mutual_information, BLUE)]
    if decomposition.total_correlation is None or decomposition.dimension_wise_kl is None:
        steps.append(("marginal KL", decomposition.marginal_kl, ORANGE))
    else:
        steps.append(("total correlation", decomposition.total_correlation, ORANGE))
        name = "KL" if decomposition.dimension_wise_is_kl else "term*"
        steps.append((f"dimension-wise {name}", decomposition.dimension_wise_kl, GREEN))
    steps.append(("these data's rate\nless the training data's", rate - decomposition.rate, GREY))
    return steps


def _notes(decomposition: RateDecomposition) -> list[str]:
    notes = [f"The rate is decomposed over {decomposition.num_data:,} training {nouns()}."]
    if decomposition.saturated:
        rest = "marginal KL" if decomposition.total_correlation is None else "total correlation"
        notes[0] += (
            f" Mutual information is saturated at log N = {decomposition.log_n:.1f}: it may be "
            f"larger, and the {rest} smaller."
        )
    if decomposition.total_correlation is not None and not decomposition.dimension_wise_is_kl:
        notes.append(
            "*: not a KL, and possibly negative, as the prior's dimensions are dependent; with "
            "the total correlation it sums to KL(q(z) || p(z))."
        )
    return notes


def _draw_steps(
    ax: "matplotlib.axes.Axes", terms: ElboTerms, steps: list[tuple[str, float, str]]
) -> None:
    names, nats, colours = zip(*steps, strict=True)
    start, end = float(terms.reconstruction.mean()), float(terms.elbo.mean())
    levels = start - np.cumsum([0.0, *nats])
    span = max(np.ptp(levels), 0.1)
    ax.axvline(start, color="0.7", linewidth=0.8, zorder=1)
    ax.set_xlim(levels.min() - 0.12 * span, levels.max() + 0.28 * span)
    rows = range(1, len(steps) + 1)
    ax.barh(rows, np.negative(nats), left=levels[:-1], color=colours, height=0.6)
    for row, value in zip(rows, nats, strict=True):
        right = max(levels[row - 1], levels[row])
        ax.text(right + 0.02 * span, row, f"{-value:+.2f}", va="center")
    for row, value in ((0, start), (len(steps) + 1, end)):
        ax.plot([value, value], [row - 0.3, row + 0.3], color="black", linewidth=3)
        ax.text(value + 0.03 * span, row, f"{value:.2f}", va="center", fontweight="bold")
    labels = ["reconstruction", *(f"- {name}" for name in names), "ELBO"]
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set_xlabel(f"nats per {noun()}, means")
    tidy([ax], grid="x")


def plot_extremes(
    x: Real[np.ndarray, " n *event"],
    terms: ElboTerms,
    means: Real[np.ndarray, " n *event"] | Callable[[np.ndarray], np.ndarray],
    *,
    labels: Shaped[np.ndarray, " n"] | None = None,
    elements: Elements | None = None,
    limits: Limits = (0.0, 1.0),
) -> "matplotlib.figure.Figure":
    """The data with the worst and the best reconstruction, rate and ELBO, with the model's means.

    Each has its number of nats. The decoder cannot make data with a bad reconstruction; data with
    a high rate need a long code; data with a low ELBO are improbable under the model.

    Args:
        x: The data of `terms`.
        terms: Their terms.
        means: The means of p(x | z) at their codes, or a function that computes those of a few
            codes.
        labels: A label for each example.
        elements: Names and scale of the elements of vectors.
        limits: The values drawn black and white.

    Raises:
        ValueError: If the numbers of data and of terms differ.
    """
    if len(x) != len(terms.rate):
        raise ValueError(
            f"x must have an example for each of {len(terms.rate)} terms, got {len(x)}."
        )
    elements = elements or Elements.from_data(x)
    long = elements is not None and elements.largest
    chosen = terms.extremes(2) if long else terms.extremes()
    bands = {name: np.concatenate(pair) for name, pair in chosen.items()}
    rows = np.concatenate(list(bands.values()))
    made = means(terms.embeddings[rows]) if callable(means) else means[rows]
    means_of = dict(zip(bands, np.split(made, len(bands)), strict=True))
    numbers = {
        name: [
            f"{terms.terms[name][row]:.1f}" + ("" if labels is None else f"\n{labels[row]}")
            for row in band
        ]
        for name, band in bands.items()
    }
    title = f"The {nouns()} with the worst and the best terms"
    if elements is not None and long:
        ends = [
            f"{end} {_TERMS[name]}: {number} nats".replace("\n", " ")
            for name, values in numbers.items()
            for end, number in zip(np.repeat(_ends(name), len(values) // 2), values, strict=True)
        ]
        names = elements.names if elements.named else ()
        return plot_largest(made, names, x[rows], f"{title}: their largest elements", ends)
    height = 2.55 if elements is None else 0.2 * min(len(elements.names), 30) + 1.6
    width = max(len(rows) / len(bands) + 1.0, 8.0) if elements is None else 10.0
    figure = new_figure(width, height * len(bands) + 0.6)
    sheets = figure.subfigures(len(bands), 1, squeeze=False)[:, 0]
    for sheet, (name, band) in zip(sheets, bands.items(), strict=True):
        which = ""
        if elements is None:
            _draw_band(sheet, x[band], means_of[name], numbers[name], limits)
        else:
            panels = {"data": x[band], "means of p(x | z)": means_of[name]}
            labels_of = [number.replace("\n", " ") for number in numbers[name]]
            said = dict.fromkeys(panels, labels_of)
            which = draw_vectors(sheet, panels, elements, labels=said, paired=True)
        worst, best = _ends(name)
        text = f"{worst} {_TERMS[name]}, left;  {best}, right" + which.replace("\n", "; ")
        sheet.suptitle(text, fontsize=10)
    figure.suptitle(f"{title}, in nats, with the means of p(x | z)")
    return figure


def _ends(name: str) -> tuple[str, str]:
    return ("highest", "lowest") if name == "rate" else ("worst", "best")


def _draw_band(
    sheet: "matplotlib.figure.SubFigure",
    x: np.ndarray,
    means: np.ndarray,
    numbers: Sequence[str],
    limits: Limits,
) -> None:
    draw_grid(
        sheet,
        [x, means],
        limits,
        names=("data", "model"),
        titles=dict(enumerate(numbers)),
        column_groups=len(x) // 2,
        size=9,
    )


def _draw_terms(terms: ElboTerms, subject: Subject) -> "matplotlib.figure.Figure":
    try:
        decomposition = subject.compute(rate_of_training)
    except (UndefinedCheckError, NotImplementedError):
        decomposition = None
    return plot_elbo_terms(terms, decomposition)


TERMS = Check(
    "terms",
    lambda subject: elbo_terms(subject.evaluation),
    plots=(
        Plot(
            "terms",
            "What is the ELBO made of, in each example and on average?",
            _draw_terms,
        ),
        Plot(
            "extremes",
            "Which data does the model describe best and worst?",
            lambda terms, subject: plot_extremes(
                subject.real,
                terms,
                subject.reconstructions,
                elements=subject.elements,
                limits=subject.limits,
            ),
        ),
    ),
    headline=lambda terms: {
        "ELBO": f"{terms.elbo.mean():.2f} nats per {noun()}",
        "rate": f"{terms.rate.mean():.2f} nats per {noun()}",
        "active units": f"{terms.active_units} of {terms.embeddings.shape[1]}",
    },
    shared=("importance weights",),
)
