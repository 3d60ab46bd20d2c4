"""The data with the worst and the best ELBO, reconstruction and rate, beside what the model makes of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real, Shaped

from analysis.plotting.images import Limits, draw_datum, strip
from analysis.plotting.style import new_figure
from analysis.plotting.vectors import Elements, draw_vectors, plot_largest
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.figure

    import analysis.elbo.terms


def plot_extremes(
    x: Real[np.ndarray, " n *event"],
    terms: "analysis.elbo.terms.ElboTerms",
    means: Real[np.ndarray, " n *event"] | Callable[[np.ndarray], np.ndarray],
    *,
    labels: Shaped[np.ndarray, " n"] | None = None,
    elements: Elements | None = None,
    limits: Limits = (0.0, 1.0),
) -> "matplotlib.figure.Figure":
    """The data with the worst and the best reconstruction, rate and ELBO, above the model's means.

    Each stands with its number of nats. A bad reconstruction is what the decoder cannot make; a
    high rate is what the guide has to say at length; a low ELBO is what the model finds unlikely.

    Args:
        x: The data of which `terms` are.
        terms: Their terms.
        means: The means of p(x | z) at their codes, or a function that gives those of a few codes.
        labels: A label for each datum, if there are any.
        elements: Of vectors, names and scale of their elements.
        limits: The values drawn black and white.

    Raises:
        ValueError: If the data are not those of the terms, by their number.
    """
    if len(x) != len(terms.rate):
        raise ValueError(f"x must have a datum for each of {len(terms.rate)} terms, got {len(x)}.")
    elements = elements or Elements.of(x)
    long = elements is not None and elements.largest
    chosen = terms.extremes(2) if long else terms.extremes()
    rows = np.concatenate([half for pair in chosen.values() for half in pair])
    made = means(terms.embeddings[rows]) if callable(means) else means[rows]
    said = []
    for name, pair in chosen.items():
        for word, half in zip(_ends(name), pair, strict=True):
            for row in half:
                label = "" if labels is None else f"\n{labels[row]}"
                said.append((name, word, f"{terms.terms[name][row]:.1f}{label}"))
    if elements is not None and long:
        return plot_largest(
            made,
            elements.names if elements.named else (),
            x[rows],
            f"The {nouns()} with the worst and the best terms: their largest elements",
            [f"{word} {_CALLED[name]}: {v} nats".replace("\n", " ") for name, word, v in said],
        )
    if elements is not None:
        return _plot_vectors(x[rows], made, chosen, [number for *_, number in said], elements)
    title = (
        f"The {nouns()} with the worst and the best terms, in nats, above the means of p(x | z)"
    )
    return _plot_bands(x[rows], made, chosen, [number for *_, number in said], title, limits)


_CALLED: Mapping[str, str] = {"reconstruction": "reconstruction", "rate": "rate", "elbo": "ELBO"}


def _ends(name: str) -> tuple[str, str]:
    return ("highest", "lowest") if name == "rate" else ("worst", "best")


def _plot_vectors(
    x: np.ndarray,
    means: np.ndarray,
    chosen: Mapping[str, tuple[np.ndarray, np.ndarray]],
    numbers: Sequence[str],
    elements: Elements,
) -> "matplotlib.figure.Figure":
    """A band a term, of data beside their means: the worst on the left, the best on the right."""
    figure = new_figure(10.0, len(chosen) * (0.2 * min(len(elements.names), 30) + 1.6) + 0.5)
    bands = figure.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    parts = np.split(np.arange(len(x)), len(chosen))
    for band, name, part in zip(bands, chosen, parts, strict=True):
        said = [str(numbers[index]).replace("\n", " ") for index in part]
        panels = {"data": x[part], "means of p(x | z)": means[part]}
        labels = dict.fromkeys(panels, said)
        which = draw_vectors(band, panels, elements, labels=labels, paired=True)
        worst, best = _ends(name)
        title = f"{worst} {_CALLED[name]} in nats, left;  {best}, right"
        band.suptitle(title + which.replace("\n", "; "), fontsize=10)
    figure.suptitle(f"The {nouns()} with the worst and the best terms of the ELBO")
    return figure


def _plot_bands(
    x: np.ndarray,
    means: np.ndarray,
    chosen: Mapping[str, tuple[np.ndarray, np.ndarray]],
    numbers: Sequence[str],
    title: str,
    limits: Limits,
) -> "matplotlib.figure.Figure":
    """A band a term, of data above their means: the worst on the left, the best on the right."""
    width = len(next(iter(chosen.values()))[0])
    figure = new_figure(max(2 * width + 1.0, 8.0), 2.55 * len(chosen) + 0.6)
    bands = figure.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    index = 0
    for band, name in zip(bands, chosen, strict=True):
        cells = band.subplots(2, 2 * width + 1, width_ratios=[*[1] * width, 0.3, *[1] * width])
        for ax in cells.flat:
            strip(ax)
        for column in (*range(width), *range(width + 1, 2 * width + 1)):
            draw_datum(cells[0, column], x[index], limits)
            draw_datum(cells[1, column], means[index], limits)
            cells[0, column].set_title(numbers[index], fontsize=9)
            index += 1
        for row, what in enumerate(("data", "model")):
            cells[row, 0].set_ylabel(what, rotation="horizontal", ha="right", va="center")
        worst, best = _ends(name)
        band.suptitle(f"{worst} {_CALLED[name]}, left;  {best}, right", fontsize=10)
    figure.suptitle(title)
    return figure
