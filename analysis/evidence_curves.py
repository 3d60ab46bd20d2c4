"""How the bound of importance weighting grows with its draws, beside annealed importance sampling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.canvas import BLUE, GREEN, LABEL_COLOURS, ORANGE, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

_COLOURS = (BLUE, ORANGE, GREEN, *LABEL_COLOURS)


@dataclass(frozen=True)
class EvidenceCurve:
    """Means over data of what bounds log p(x), in nats per datum.

    Args:
        samples: The numbers k of draws, rising.
        bounds: The IWAE-k bound at each.
        annealed: log p(x) by annealed importance sampling, of the same data.
    """

    samples: Sequence[int]
    bounds: Sequence[float]
    annealed: float


def plot_evidence_curves(curves: Mapping[str, EvidenceCurve]) -> "matplotlib.figure.Figure":
    """The IWAE-k bound against k, a colour for each model, and a dashed line at its log p(x) by AIS.

    Both are at most log p(x) in expectation: where the curve ends below the line, importance
    weighting misses at least as much.

    Args:
        curves: By the name of the model.

    Raises:
        ValueError: If there is none.
    """
    if not curves:
        raise ValueError("curves must hold at least one model, got none.")
    figure = new_figure(7.0, 4.4)
    ax = figure.subplots()
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        ax.plot(curve.samples, curve.bounds, "o-", color=colour, ms=4, label=f"{name}, IWAE-k")
        ax.axhline(curve.annealed, color=colour, linestyle="--", label=f"{name}, AIS")
    ax.set(xscale="log", xlabel="importance samples k", ylabel="bound of log p(x), nats/datum")
    # The curves rise to the right, and the lines lie above them.
    ax.legend(loc="lower right", frameon=False, ncols=1, fontsize=8)
    tidy([ax], grid="both")
    return figure
