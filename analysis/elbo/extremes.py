"""Show the data with the worst and the best ELBO, reconstruction and rate, with the model's means."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real, Shaped

from analysis.plotting.images import Limits, draw_example, hide_axes
from analysis.plotting.style import new_figure
from analysis.plotting.vectors import Elements, draw_vectors, plot_largest
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.figure

    import analysis.elbo.terms

_TERMS: Mapping[str, str] = {"reconstruction": "reconstruction", "rate": "rate", "elbo": "ELBO"}


def plot_extremes(
    x: Real[np.ndarray, " n *event"],
    terms: "analysis.elbo.terms.ElboTerms",
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
        raise ValueError(f"x must have a datum for each of {len(terms.rate)} terms, got {len(x)}.")
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
    """Draw data above their means, with a gap between the worst and the best."""
    half = len(x) // 2
    cells = sheet.subplots(2, 2 * half + 1, width_ratios=[*[1] * half, 0.3, *[1] * half])
    for ax in cells.flat:
        hide_axes(ax)
    for index, column in enumerate((*range(half), *range(half + 1, 2 * half + 1))):
        draw_example(cells[0, column], x[index], limits)
        draw_example(cells[1, column], means[index], limits)
        cells[0, column].set_title(numbers[index], fontsize=9)
    for row, name in enumerate(("data", "model")):
        cells[row, 0].set_ylabel(name, rotation="horizontal", ha="right", va="center")
