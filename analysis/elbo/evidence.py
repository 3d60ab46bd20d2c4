"""Figures of the bounds on log p(x) by the number of draws, and of their gap to log p(x)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from analysis.plotting.style import BLUE, GREEN, LABEL_COLOURS, ORANGE, new_figure, tidy
from pyro_vae.data.nouns import noun, nouns

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_COLOURS = (BLUE, ORANGE, GREEN, *LABEL_COLOURS)


def plot_iwae_curve(
    curve_samples: Int[np.ndarray, " points"],
    curve: Float[np.ndarray, "points n"],
    annealed: Float[np.ndarray, " n"] | None = None,
    num_chains: int | None = None,
) -> "matplotlib.figure.Figure":
    """The IWAE-k bounds from k = 1, the ELBO, to k = K, and log p(x) by annealing.

    On the left are means over data, with bands of one standard error, most of which is common to
    all. On the right are paired differences: how far each bound is below annealing, or without it,
    below the last bound. Data whose bounds are not finite are counted in the title and not drawn.

    Args:
        curve_samples: The k of each point, rising.
        curve: The bound of each example at each k, in nats, as `ImportanceWeighting.curve`.
        annealed: log p(x) of the same data by annealing, if it was estimated.
        num_chains: The number of annealing chains.

    Raises:
        ValueError: If the numbers of points or data differ, or there are none.
    """
    if curve.size == 0 or len(curve) != len(curve_samples):
        raise ValueError(
            f"expected a curve of {len(curve_samples)} points and at least one example, got "
            f"{curve.shape}."
        )
    if annealed is not None and annealed.shape != curve.shape[1:]:
        raise ValueError(
            f"annealed must be of the curve's {curve.shape[1]} {nouns()}, got {annealed.shape}."
        )
    finite = np.isfinite(curve).all(0)
    if annealed is not None:
        finite &= np.isfinite(annealed)
    shown = curve[:, finite]
    reference = None if annealed is None else annealed[finite]

    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    if shown.shape[1]:
        _draw_bounds(left, curve_samples, shown, reference, num_chains)
        _draw_gaps(right, curve_samples, shown, reference)
    for ax in (left, right):
        if not shown.shape[1]:
            ax.set_title(f"no {noun()} has a finite bound")
        ax.set(xscale="log", xlabel="draws k from the guide")
        if len(curve_samples) == 1:
            ax.set_xlim(0.5 * curve_samples[0], 2 * curve_samples[0])
    left.set_ylabel(f"log p(x), nats per {noun()}")
    right.set_ylabel(f"nats per {noun()}")
    omitted = int((~finite).sum())
    figure.suptitle(
        f"IWAE-k bounds on log p(x), means over {shown.shape[1]:,} {nouns()}"
        + (f"; {omitted} not finite, and left out" if omitted else "")
    )
    tidy([left, right])
    return figure


@dataclass(frozen=True)
class EvidenceCurve:
    """Mean bounds on log p(x) over data, in nats per example.

    Args:
        samples: The numbers k of draws, rising.
        bounds: The IWAE-k bound at each.
        annealed: log p(x) by annealed importance sampling, of the same data.
    """

    samples: Sequence[int]
    bounds: Sequence[float]
    annealed: float


def plot_evidence_curves(curves: Mapping[str, EvidenceCurve]) -> "matplotlib.figure.Figure":
    """The IWAE-k bound against k, one colour per model, with a dashed line at its log p(x) by AIS.

    Both are at most log p(x) in expectation: importance weighting misses at least the gap between
    the end of the curve and the line.

    Raises:
        ValueError: If there are none.
    """
    if not curves:
        raise ValueError("curves must hold at least one model, got none.")
    figure = new_figure(7.0, 4.4)
    ax = figure.subplots()
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        ax.plot(curve.samples, curve.bounds, "o-", color=colour, ms=4, label=f"{name}, IWAE-k")
        ax.axhline(curve.annealed, color=colour, linestyle="--", label=f"{name}, AIS")
    ax.set(xscale="log", xlabel="importance samples k", ylabel=f"bound of log p(x), nats/{noun()}")
    # Below the axes: curves of several models leave no corner free.
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
    ax.legend(frameon=False, ncols=len(curves), fontsize=8, **place)
    tidy([ax], grid="both")
    return figure


def _draw_bounds(
    ax: "matplotlib.axes.Axes",
    samples: np.ndarray,
    curve: np.ndarray,
    annealed: np.ndarray | None,
    num_chains: int | None,
) -> None:
    if annealed is not None:
        chains = "" if num_chains is None else f", {num_chains} chains"
        mean, error = float(annealed.mean()), float(_standard_error(annealed))
        ax.axhline(mean, color=ORANGE, label=f"annealed importance sampling{chains}")
        ax.axhspan(mean - error, mean + error, color=ORANGE, alpha=0.15, linewidth=0)
    _draw_curve(ax, samples, curve, BLUE, "IWAE-k; k = 1 is the ELBO")
    ax.set_title("Bounds and log p(x), ± one standard error over data", fontsize=10)
    # The curve rises to the right, so that this corner is free.
    ax.legend(loc="lower right", frameon=False, fontsize=9)


def _draw_gaps(
    ax: "matplotlib.axes.Axes", samples: np.ndarray, curve: np.ndarray, annealed: np.ndarray | None
) -> None:
    reference = curve[-1] if annealed is None else annealed
    name = f"IWAE-{samples[-1]}" if annealed is None else "annealed importance sampling"
    title = "Gain of the last bound" if annealed is None else "Gap of the bounds"
    _draw_curve(ax, samples, reference - curve, GREEN, f"{name} minus IWAE-k")
    ax.set_title(f"{title}, ± one standard error", fontsize=10)
    ax.axhline(0, color="0.4", linewidth=0.8)
    ax.legend(loc="upper right", frameon=False, fontsize=9)


def _draw_curve(
    ax: "matplotlib.axes.Axes", samples: np.ndarray, values: np.ndarray, colour: str, label: str
) -> None:
    mean, error = values.mean(1), _standard_error(values)
    ax.plot(samples, mean, "o-", color=colour, ms=3.5, label=label)
    ax.fill_between(samples, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)


def _standard_error(values: np.ndarray) -> np.ndarray:
    n = values.shape[-1]
    return np.asarray(values.std(-1, ddof=min(1, n - 1)) / np.sqrt(n))
