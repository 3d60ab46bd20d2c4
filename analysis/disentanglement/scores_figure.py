"""What each coordinate knows of each factor, and the scores made of it, between noise and perfect."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from analysis.disentanglement.scores import SCORES, Disentanglement
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, shortened, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# More rows have no room for their numbers.
MOST_COORDINATES = 24


def plot_disentanglement(result: Disentanglement) -> "matplotlib.figure.Figure":
    """Two heat maps, coordinates x factors, and each score from noise to a perfect code.

    Coordinates stand in the order of the factor they know best. A disentangled code has one dark
    cell in each row, and each column, of both maps; two in a row are factors mixed in a coordinate, two
    in a column a factor spread over coordinates.

    Args:
        result: Of `disentanglement`.
    """
    rows = _order(result.mutual_information, result.informative)
    shown = rows[:MOST_COORDINATES]
    factors = len(result.names)
    figure = new_figure(
        float(np.clip(6.4 + 1.2 * factors, 10.8, 13.0)),
        float(np.clip(0.3 * len(shown) + 2.2, 4.4, 9.5)),
    )
    knowledge, importance, scores = figure.subplots(
        1, 3, width_ratios=[max(factors, 4), max(factors, 4), 5]
    )
    names = [f"z[{row}]" for row in shown]
    for ax, matrix, title in (
        (knowledge, result.mutual_information, "Information, I(z; v) / H(v)"),
        (importance, result.importance, "Importance, R of DCI"),
    ):
        _draw_matrix(ax, matrix[shown], result.names)
        ax.set_title(title, fontsize=11)
    knowledge.set_yticks(range(len(shown)), names)
    importance.set_yticks([])
    omitted = len(rows) - len(shown)
    if omitted:
        knowledge.set_xlabel(f"{omitted} other coordinates know less and are not drawn")
    _draw_scores(scores, result)
    mig, best = result.scores["mig"], result.best["mig"]
    figure.suptitle(
        f"MIG {mig:.2f} of at most {best:.2f}: a disentangled code has one dark cell in each column, "
        "and at most one in each row"
    )
    return figure


def _order(
    known: Float[np.ndarray, "dim factors"], informative: np.ndarray
) -> Int[np.ndarray, " dim"]:
    """By best factor, then by knowledge, those that know nothing last; if too many, the best first."""
    rows = np.arange(len(known))
    if len(rows) > MOST_COORDINATES:
        kept = np.argsort(-known.max(1), kind="stable")
        first = np.sort(kept[:MOST_COORDINATES])
        return np.concatenate(
            [first[_order(known[first], informative[first])], kept[MOST_COORDINATES:]]
        )
    return np.lexsort((-known.max(1), known.argmax(1), ~informative))


def _draw_matrix(
    ax: "matplotlib.axes.Axes",
    matrix: Float[np.ndarray, "rows factors"],
    names: tuple[str, ...],
) -> None:
    ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    size = 9 if len(matrix) <= 16 and matrix.shape[1] <= 6 else 7
    for (i, j), value in np.ndenumerate(matrix):
        # Zeros are left out, so that the others are seen.
        if value >= 0.005:
            colour = "white" if value > 0.6 else "0.15"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=size, color=colour)
    turned = sum(map(len, names)) > 7 * len(names) or len(names) > 6
    ax.set_xticks(
        range(len(names)),
        [shortened(name, 16) for name in names],
        rotation=35 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
        fontsize=9,
    )
    ax.tick_params(length=0)
    ax.set_yticks(np.arange(1, len(matrix)) - 0.5, minor=True)
    ax.set_xticks(np.arange(1, len(names)) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="minor", length=0)
    ax.spines[:].set_visible(False)


def _draw_scores(ax: "matplotlib.axes.Axes", result: Disentanglement) -> None:
    for place, name in enumerate(SCORES):
        chance, best, value = result.chance[name], result.best[name], result.scores[name]
        ax.plot([chance, best], [place, place], color="0.85", linewidth=6, solid_capstyle="butt")
        for at, colour in ((chance, GREY), (best, BLUE)):
            ax.plot([at, at], [place - 0.24, place + 0.24], color=colour, linewidth=2)
        if not np.isfinite(value):
            ax.text(
                (chance + best) / 2, place, "not defined", ha="center", va="center", fontsize=9
            )
            continue
        error = result.standard_errors[name]
        ax.errorbar(value, place, xerr=2 * (error or 0.0), fmt="o", color=ORANGE, zorder=3)
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
