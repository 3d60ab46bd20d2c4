"""All disentanglement scores of a code side by side, with their figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.disentanglement.factors import best_gaps, check_codes, encode_factors
from analysis.disentanglement.information_metrics import (
    bootstrap_information,
    factor_information,
    maximum_gap,
    mean_modularity,
    mutual_information_gap,
)
from analysis.disentanglement.prediction_metrics import (
    GroupScore,
    beta_vae_score,
    dci_scores,
    factor_vae_score,
    forest_importance,
    threshold_accuracies,
)
from analysis.plotting.style import BLUE, GREY, ORANGE, list_names, new_figure, shorten, tidy
from analysis.result import Result, UndefinedCheckError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# In the order of summary and figure, with their labels.
SCORES = {
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "modularity": "modularity",
    "factor_vae": "FactorVAE score",
    "beta_vae": "beta-VAE score",
    "dci_informativeness": "DCI informativeness",
}
# The shares of the way from chance to the best MIG and informativeness that are called high and
# low.
HIGH = 0.5
LOW = 0.2
# If the bias of the mutual information is a larger share of a factor's entropy, MIG is not
# comparable between data sets of different size.
LARGEST_BIAS = 0.05
# With fewer data the scores for dSprites' 40 values are too noisy.
FEWEST_DATA = 10_000
# The most coordinates that the figure has room for.
MOST_COORDINATES = 24


@dataclass(frozen=True)
class Disentanglement(Result):
    """How far each coordinate of a code follows one factor, and each factor one coordinate.

    Args:
        scores: By name, see `SCORES`; NaN where one is not defined.
        standard_errors: Of MIG and modularity over bootstrap samples of the data, of accuracies
            binomial; None for those that would need new forests. They do not include the variation
            between trained models, which is larger: report a spread over seeds.
        best: The scores of a perfect code, the factors themselves.
        chance: The mean scores of noise.
        mutual_information: I(z_i; v_j) / H(v_j).
        importance: R_ij of DCI.
        accuracies: The held-out accuracy of the forest for each factor.
        guesses: The accuracy of predicting the most frequent value.
        informative: Which coordinates are informative on some factor.
        bias: An upper bound of the bias of I / H, the mean over coordinates.
        names: The factors' names.
        left_out: Factors with a single value in the data.
        undefined: Why a score is not defined.
        n: The number of data.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ("n", "left_out", "mutual_information", "importance")

    scores: dict[str, float]
    standard_errors: dict[str, float | None]
    best: dict[str, float]
    chance: dict[str, float]
    mutual_information: Float[np.ndarray, "dim factors"]
    importance: Float[np.ndarray, "dim factors"]
    accuracies: Float[np.ndarray, " factors"]
    guesses: Float[np.ndarray, " factors"]
    informative: Bool[np.ndarray, " dim"]
    bias: float
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    undefined: dict[str, str]
    n: int

    def extra(self) -> dict[str, Any]:
        """Each score with its error, best and chance value, and accuracies by factor."""
        return {
            "factors": self.names,
            "scores": {
                name: {
                    "value": self.scores[name],
                    "standard_error": self.standard_errors[name],
                    "best": self.best[name],
                    "chance": self.chance[name],
                    "undefined": self.undefined.get(name),
                }
                for name in SCORES
            },
            "accuracy": dict(zip(self.names, self.accuracies, strict=True)),
            "guess": dict(zip(self.names, self.guesses, strict=True)),
            "informative_coordinates": np.flatnonzero(self.informative),
            "mutual_information_bias": self.bias,
        }

    def reading(self) -> str:
        """Whether the factors have coordinates of their own."""
        mig, best = self.scores["mig"], self.best["mig"]
        accuracy, guess = self.scores["dci_informativeness"], self.chance["dci_informativeness"]
        if mig >= HIGH * best:
            verdict = "Most factors have a coordinate of their own"
        elif accuracy - guess < LOW * max(1 - guess, 1e-12):
            verdict = "The code holds little of the factors"
        elif mig < LOW * best:
            verdict = "The factors are mixed, or spread over several coordinates"
        else:
            verdict = "Some factors have a coordinate of their own, or all partly"
        text = (
            f"{verdict}: MIG is {mig:.2f} (noise 0, a perfect code {best:.2f}), and a forest "
            f"predicts a factor with accuracy {accuracy:.2f} (guessing {guess:.2f})."
        )
        if self.bias > LARGEST_BIAS:
            text += (
                f" With {self.n} data the mutual information is biased by up to {self.bias:.2f} "
                f"of a factor's entropy; use at least {FEWEST_DATA}."
            )
        if self.undefined:
            text += f" Not defined: {list_names(list(self.undefined))}."
        return text


def disentanglement(
    codes: Float[np.ndarray, "n dim"],
    factors: Int[np.ndarray, "n factors"],
    *,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Disentanglement:
    """MIG, SAP, DCI, modularity, FactorVAE and beta-VAE scores of codes, given the factors.

    Use held-out data drawn at random from all values of the factors: for dSprites the test set,
    not the training set, a grid of every fourth orientation and every second position, which has
    other numbers of values and so other scores. Use at least 10,000 data, and equally many for all
    codes that are compared. The factors should be independent in the data, as a coordinate that
    follows two of them counts as mixed.

    Args:
        codes: One row per data point, such as `vae.embed(x)`.
        factors: Class numbers; each integer is a class. A factor with a single value in the data
            is left out.
        names: The factors' names.
        seed: The seed of all draws, halves and forests.

    Returns:
        Eight scores, beside those of a perfect code and of noise. A score for which the data are
        too few is NaN, with the reason in `undefined`.

    Raises:
        ValueError: If the numbers of data or names do not match, or a code is not finite.
        UndefinedCheckError: If the code has one coordinate, or fewer than two factors vary.

    References:
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2019), https://arxiv.org/abs/1811.12359; each score's own reference is
        in its function.
    """
    encoded = encode_factors(factors, names)
    check_codes(codes, encoded, least=2)
    count = len(encoded.sizes)
    if count < 2:
        raise UndefinedCheckError(
            f"disentanglement needs at least 2 factors that vary, got {encoded.names[0]} only."
        )
    groups: dict[str, GroupScore] = {}
    undefined: dict[str, str] = {}
    for name, metric in (("factor_vae", factor_vae_score), ("beta_vae", beta_vae_score)):
        try:
            groups[name] = metric(codes, encoded, seed=seed)
        except UndefinedCheckError as error:
            undefined[name] = str(error)
    information = factor_information(codes, encoded, seed=seed)
    resampled = bootstrap_information(codes, encoded, seed=seed)
    importance = forest_importance(codes, encoded, seed=seed)
    dci, accuracies, guesses = (
        dci_scores(importance.matrix),
        importance.accuracies,
        importance.guesses,
    )

    def mig(nats: np.ndarray) -> float:
        return float(mutual_information_gap(nats, information.entropies).mean())

    def mean_modularity_of(nats: np.ndarray) -> float:
        return mean_modularity(nats, information.informative)

    return Disentanglement(
        scores={
            "mig": mig(information.nats),
            "sap": float(best_gaps(threshold_accuracies(codes, encoded, seed=seed)).mean()),
            "dci_disentanglement": dci[0],
            "dci_completeness": dci[1],
            "modularity": mean_modularity_of(information.nats),
            **dict.fromkeys(undefined, math.nan),
            **{name: score.accuracy for name, score in groups.items()},
            "dci_informativeness": float(accuracies.mean()),
        },
        standard_errors={
            **dict.fromkeys(SCORES),
            "mig": float(np.std([mig(nats) for nats in resampled], ddof=1)),
            "modularity": float(np.std([mean_modularity_of(nats) for nats in resampled], ddof=1)),
            **{name: score.standard_error for name, score in groups.items()},
            "dci_informativeness": float(
                np.sqrt((accuracies * (1 - accuracies)).sum() / importance.num_evaluated) / count
            ),
        },
        best={
            **dict.fromkeys(SCORES, 1.0),
            "mig": maximum_gap(encoded),
            "sap": float(np.mean([1 - 1 / size for size in encoded.sizes])),
        },
        chance={
            **dict.fromkeys(SCORES, 0.0),
            **dict.fromkeys(("factor_vae", "beta_vae"), 1 / count),
            "dci_informativeness": float(guesses.mean()),
        },
        mutual_information=information.normalized,
        importance=importance.matrix,
        accuracies=accuracies,
        guesses=guesses,
        informative=information.informative,
        bias=float((information.bias.mean(0) / information.entropies).max()),
        names=encoded.names,
        left_out=encoded.left_out,
        undefined=undefined,
        n=len(codes),
    )


def plot_disentanglement(result: Disentanglement) -> "matplotlib.figure.Figure":
    """Two heat maps, coordinates x factors, and each score from noise to a perfect code.

    Coordinates are sorted by their most informative factor. A disentangled code has one dark cell
    in each row and each column of both maps; two in a row are factors mixed in a coordinate, two
    in a column a factor spread over coordinates.
    """
    rows = _sorted_coordinates(result.mutual_information, result.informative)
    shown = rows[:MOST_COORDINATES]
    factors = len(result.names)
    figure = new_figure(
        float(np.clip(6.4 + 1.2 * factors, 10.8, 13.0)),
        float(np.clip(0.3 * len(shown) + 2.2, 4.4, 9.5)),
    )
    information, importance, scores = figure.subplots(
        1, 3, width_ratios=[max(factors, 4), max(factors, 4), 5]
    )
    _draw_matrix(information, result.mutual_information[shown], result.names)
    _draw_matrix(importance, result.importance[shown], result.names)
    information.set_title("Information, I(z; v) / H(v)", fontsize=11)
    importance.set_title("Importance, R of DCI", fontsize=11)
    information.set_yticks(range(len(shown)), [f"z[{row}]" for row in shown])
    importance.set_yticks([])
    if omitted := len(rows) - len(shown):
        information.set_xlabel(f"{omitted} less informative coordinates are not shown")
    _draw_scores(scores, result)
    figure.suptitle(
        f"MIG {result.scores['mig']:.2f} of at most {result.best['mig']:.2f}: a disentangled code "
        "has one dark cell in each column, and at most one in each row"
    )
    return figure


def _sorted_coordinates(information: np.ndarray, informative: np.ndarray) -> np.ndarray:
    """Sort by best factor, then by information, uninformative ones last."""
    ranked = np.argsort(-information.max(1), kind="stable")
    first = np.sort(ranked[:MOST_COORDINATES])
    known = information[first]
    order = np.lexsort((-known.max(1), known.argmax(1), ~informative[first]))
    return np.concatenate([first[order], ranked[MOST_COORDINATES:]])


def _draw_matrix(ax: "matplotlib.axes.Axes", matrix: np.ndarray, names: tuple[str, ...]) -> None:
    ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    size = 9 if len(matrix) <= 16 and matrix.shape[1] <= 6 else 7
    for (i, j), value in np.ndenumerate(matrix):
        # Zeros are left blank, so that the others stand out.
        if value >= 0.005:
            colour = "white" if value > 0.6 else "0.15"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=size, color=colour)
    long = sum(map(len, names)) > 7 * len(names) or len(names) > 6
    ax.set_xticks(
        range(len(names)),
        [shorten(name, 16) for name in names],
        rotation=35 if long else 0,
        ha="right" if long else "center",
        rotation_mode="anchor" if long else "default",
        fontsize=9,
    )
    ax.set_yticks(np.arange(1, len(matrix)) - 0.5, minor=True)
    ax.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)


def _draw_scores(ax: "matplotlib.axes.Axes", result: Disentanglement) -> None:
    for place, name in enumerate(SCORES):
        chance, best, value = result.chance[name], result.best[name], result.scores[name]
        ax.plot([chance, best], [place, place], color="0.85", linewidth=6, solid_capstyle="butt")
        for at, colour in ((chance, GREY), (best, BLUE)):
            ax.plot([at, at], [place - 0.24, place + 0.24], color=colour, linewidth=2)
        if not np.isfinite(value):
            middle = (chance + best) / 2
            ax.text(middle, place, "not defined", ha="center", va="center", fontsize=9)
            continue
        error = 2 * (result.standard_errors[name] or 0.0)
        ax.errorbar(value, place, xerr=error, fmt="o", color=ORANGE, zorder=3)
        ax.text(1.06, place, f"{value:.2f}", va="center", fontsize=9)
    ax.plot([], [], "o", color=ORANGE, label="this code, ± 2 s.e. if known")
    ax.plot([], [], "|", ms=10, mew=2, color=GREY, label="noise")
    ax.plot([], [], "|", ms=10, mew=2, color=BLUE, label="perfect code")
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.4, -0.08),
        ncols=3,
        frameon=False,
        fontsize=8,
        handletextpad=0.3,
        columnspacing=1.0,
    )
    ax.set_yticks(range(len(SCORES)), list(SCORES.values()))
    ax.invert_yaxis()
    ax.set_xlim(-0.03, 1.2)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    ax.set_title("Scores", fontsize=11)
    tidy([ax], grid="x")
