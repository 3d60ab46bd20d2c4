"""Curves of robustness over strength, and examples of damaged data with their reconstructions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Real
from torch import Tensor

from analysis.plotting.images import Limits, draw_datum, strip
from analysis.plotting.style import GREY, LINE_COLOURS, new_figure, shortened
from analysis.predictive.model_samples import embedded, mean_data, to_array
from analysis.representation.corrupted_data import (
    STRENGTHS,
    AnyDamage,
    check_strengths,
    chosen_damages,
    damaged,
)
from analysis.representation.robustness import MEASURES, Robustness
from analysis.representation.strength_panels import (
    check_alike,
    entitle,
    name_lines,
    strength_panels,
)
from pyro_vae.data.nouns import noun

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# As they stand beside the rows, in lines that fit.
_ROWS = {
    "accuracy": "accuracy\nof the probe",
    "latent_shift": "shift of the code\n(1: to another code)",
    "reconstruction": "error against clean\n(1: that of the mean)",
    "log_evidence": "log p(x) against clean,\nnats",
}


def plot_robustness(results: Mapping[str, Robustness]) -> "matplotlib.figure.Figure":
    """Each measure by strength: a column for each damage, a line for each model, with two standard errors.

    The dashed lines are the accuracy of the commonest label, the distance to another datum, and the
    error of the mean datum. The left end of each curve is the clean data, from whose log p(x) that of
    damaged data is counted, on a scale that is logarithmic beyond 10 nats on either side.

    Args:
        results: By the models' names, of the same damages and strengths.

    Raises:
        ValueError: If there are none, or their damages or strengths differ.
    """
    check_alike(list(results), [(found.damages, found.strengths) for found in results.values()])
    first = next(iter(results.values()))
    measures = [
        name for name in MEASURES if any(name in found.values for found in results.values())
    ]
    figure, axes = strength_panels(
        first.damages, [_ROWS[name] for name in measures], first.strengths
    )
    lines = []
    for found, colour in zip(results.values(), LINE_COLOURS * len(results), strict=False):
        for row, measure in enumerate(measures):
            if measure not in found.values:
                continue
            mean, error = _curves(found, measure)
            for ax, middle, half in zip(axes[row], mean, 2 * error, strict=True):
                ax.plot(first.strengths, middle, "o-", ms=3, lw=1.4, color=colour)
                ax.fill_between(
                    first.strengths, middle - half, middle + half, color=colour, alpha=0.2, lw=0
                )
        lines += axes[0, 0].plot([], [], "o-", ms=3, lw=1.4, color=colour)
    levels = {"accuracy": first.chance, "latent_shift": 1.0, "reconstruction": 1.0}
    for row, measure in zip(axes, measures, strict=True):
        for ax in row:
            if levels.get(measure) is not None:
                ax.axhline(levels[measure], color=GREY, linestyle="--", lw=1, zorder=1)
            if measure != "log_evidence":
                ax.set_ylim(bottom=0)
        if measure == "log_evidence":
            _symlog(row[0])
    if len(results) > 1:
        name_lines(figure, lines, [shortened(name) for name in results])
    entitle(figure, _title(results))
    return figure


def plot_damages(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    row: int = 0,
    damages: Mapping[str, AnyDamage] | Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    limits: Limits = (0.0, 1.0),
    seed: int = 0,
) -> "matplotlib.figure.Figure":
    """A datum under each damage and strength, above its reconstruction, the mean of p(x | z) at its code.

    Args:
        vae: A program with `embed(x)` and `decode(z)`.
        x: Clean data in the likelihood's support; of real ones the range and the spread are taken.
        row: The datum to show.
        damages: As in `robustness`.
        strengths: From 0 to 1, rising; 0 is added where it is missing.
        limits: The values drawn black and white, or at the foot and the head of a profile.
        seed: The seed of the damages; the same damages as in `robustness` with it.
    """
    strengths, chosen = check_strengths(strengths), chosen_damages(vae, x, damages)
    across = min(2, len(chosen))
    down = -(-len(chosen) // across)
    figure = new_figure(max(across * (0.82 * len(strengths) + 0.8), 6.0), 2.15 * down + 0.5)
    blocks = figure.subfigures(down, across, squeeze=False, wspace=0.04, hspace=0.02).flat
    for block, (name, damage) in zip(blocks, chosen.items(), strict=False):
        cells = block.subplots(2, len(strengths))
        for column, strength in enumerate(strengths):
            found = damaged(vae, damage, x, strength, seed)[row : row + 1]
            mean = mean_data(vae, embedded(vae, found))[0]
            draw_datum(cells[0, column], to_array(found)[0], limits)
            draw_datum(cells[1, column], _with_total(vae, mean, to_array(x)[row]), limits)
            cells[0, column].set_title(f"{strength:g}", fontsize=9)
        for ax in cells.flat:
            strip(ax)
        for ax, word in zip(cells[:, 0], ("damaged", "model"), strict=True):
            ax.set_ylabel(word, rotation="horizontal", ha="right", va="center", fontsize=9)
        block.suptitle(f"{name}, by strength", fontsize=11)
    figure.suptitle("Damaged data above what the model makes of them", fontsize=12)
    return figure


def _curves(found: Robustness, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error; of log p(x) those of its change from clean data."""
    if measure != "log_evidence":
        return found.mean(measure), found.standard_error(measure)
    values = found.values[measure]
    change = values - values[:, :1]
    with np.errstate(invalid="ignore"):  # Of a log p(x) that is not finite.
        return change.mean(-1), change.std(-1, ddof=1) / np.sqrt(change.shape[-1])


def _symlog(ax: "matplotlib.axes.Axes") -> None:
    """Linear within 10 nats, logarithmic beyond."""
    ax.set_yscale("symlog", linthresh=10)
    ax.axhline(0, color=GREY, lw=1, zorder=1)
    low, high = ax.get_ylim()
    powers = [10.0**power for power in range(1, 7)]
    ax.set_yticks([t for t in [*(-p for p in powers[::-1]), 0.0, *powers] if low <= t <= high])
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _with_total(vae: Any, mean: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """A mean of the datum's own total, where the likelihood is given one."""
    if getattr(getattr(vae, "likelihood", None), "given_total", False):
        return mean * (clean.sum() / mean.sum())
    return mean


def _title(results: Mapping[str, Robustness]) -> str:
    first = next(iter(results.values()))
    if all("accuracy" in found.values for found in results.values()):
        kept = {name: found.area("accuracy")[0] for name, found in results.items()}
        most, least = (
            max(kept, key=lambda name: kept[name]),
            min(kept, key=lambda name: kept[name]),
        )
        if len(results) == 1:
            clean, *harmed = first.mean("accuracy").mean(0)
            return (
                f"Accuracy of the probe: {clean:.3f} on clean data, {np.mean(harmed):.3f} on damaged ones"
                f"{'' if first.above_chance else ', not above chance'}{_most(first)}"
            )
        return (
            f"{shortened(most)} keeps most of its clean accuracy, {kept[most]:.0%} on average over damages "
            f"and strengths; {shortened(least)} least, {kept[least]:.0%}"
        )
    moved = {name: found.area("latent_shift")[0] for name, found in results.items()}
    least = min(moved, key=lambda name: moved[name])
    whose = "Damage moves codes" if len(results) == 1 else f"{shortened(least)} moves least,"
    return f"{whose} by {moved[least]:.2f} of the distance to another {noun()}, on average{_most(first)}"


def _most(found: Robustness) -> str:
    """The most harmful of several damages."""
    return f"; {found.by_harm[0]} hurts most" if len(found.damages) > 1 else ""
