"""Check whether statistics of real data are uniformly ranked among those of generated data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.check import Check, Plot
from analysis.plotting.style import BLUE, GREY, ORANGE, pit_figure, tidy
from analysis.predictive.two_sample import SIMULATIONS, Comparison, compare_scores, pit_band
from analysis.result import Result
from analysis.subject import Subject

if TYPE_CHECKING:
    import matplotlib.figure


COLUMNS, LONGEST_LABEL = 4, 30


def plot_pit(comparisons: Sequence[Comparison]) -> "matplotlib.figure.Figure":
    """ECDF of the PITs minus the diagonal, by `arviz_plots.plot_ecdf_pit`, a panel per statistic.

    Under a true model the whole curve stays in its band in 95 % of cases. A curve that rises,
    falls and rises again about the middle is of PITs heaped at both ends: the model is too narrow.
    The band is that of `pit_band`; ArviZ's is for independent PITs.

    Args:
        comparisons: Of the same number of real examples each, with different names.

    Raises:
        ValueError: If there are none, their numbers of examples differ, or they share a name.
    """
    sizes, names = ({f(c) for c in comparisons} for f in (lambda c: len(c.pit), lambda c: c.name))
    if len(sizes) != 1 or len(names) != len(comparisons):
        raise ValueError(
            "comparisons must be at least one, of the same number of data and with different "
            f"names, got {[(c.name, len(c.pit)) for c in comparisons]}."
        )
    columns = min(COLUMNS, len(comparisons))
    # A variable's name is what ArviZ writes above its panel.
    figure = pit_figure(
        {_panel_title(c): c.pit for c in comparisons},
        columns=columns,
        width=max(3.0 * columns, 6.5),
        height=2.7 * math.ceil(len(comparisons) / columns) + 1.0,
    )
    # ArviZ leaves the panels in their order, and hides those of a last row that is not full.
    panels = figure.axes[: len(comparisons)]
    for place, (ax, comparison) in enumerate(zip(panels, comparisons, strict=True)):
        levels, lowest, highest = pit_band(len(comparison.pit), len(comparison.generated))
        ax.fill_between(levels, lowest, highest, color=GREY, alpha=0.25, linewidth=0)
        (curve,) = ax.lines
        curve.set_color(BLUE if comparison.departure == "none" else ORANGE)
        ax.axhline(0, color=GREY, linestyle="--", linewidth=1)
        height = 1.15 * max(comparison.largest_departure, -lowest.min(), highest.max())
        ax.set(xlim=(0, 1), ylim=(-height, height))
        ax.tick_params(labelbottom=place + columns >= len(panels))
    tidy(panels, grid="both")
    found = sum(c.departure != "none" for c in comparisons)
    figure.suptitle(
        f"PITs of real data among generated: {found} of {len(comparisons)} statistics leave the "
        f"{'' if columns > 2 else chr(10)}95% band of a true model"
    )
    figure.supxlabel("PIT, the share of generated data below")
    figure.supylabel("ECDF of the PITs - PIT")
    return figure


@dataclass(frozen=True)
class PitComparisons(Result):
    """The PITs of all statistics."""

    comparisons: tuple[Comparison, ...]

    @property
    def departing(self) -> list[Comparison]:
        """Those that differ significantly."""
        return [c for c in self.comparisons if c.departure != "none"]

    @property
    def furthest(self) -> Comparison:
        """The one with the largest departure."""
        return max(self.comparisons, key=lambda c: c.largest_departure)

    def extra(self) -> Mapping[str, Any]:
        """Each statistic's values by name."""
        return {c.name: c.pit_summary() for c in self.comparisons}

    def reading(self) -> str:
        """The number of statistics that differ, and the one that differs most."""
        return (
            f"{len(self.departing)} of {len(self.comparisons)} statistics are distributed "
            "differently in real and in generated data; furthest off: "
            f"{self.furthest.pit_reading()}"
        )


def _compute(subject: Subject) -> PitComparisons:
    subject.check_size()
    real, generated = subject.real_statistics, subject.generated_statistics
    return PitComparisons(
        tuple(
            compare_scores(
                s.name,
                real[s.name],
                generated[s.name].ravel(),
                label=s.title,
                seed=subject.seed_of(f"pit of {s.name}"),
            )
            for s in subject.statistics
        )
    )


STATISTICS_PIT = Check(
    "statistics",
    _compute,
    plots=(
        Plot(
            "statistics",
            "Are real data too low, too high, too wide or too narrow among new ones?",
            lambda found, _: plot_pit(found.comparisons),
        ),
    ),
    headline=lambda found: {
        "furthest off": f"{found.furthest.title}, distance {found.furthest.largest_departure:.2f}",
        "statistics off": f"{len(found.departing)} of {len(found.comparisons)}",
    },
    shared=("new data from the model", "statistics of new data"),
)


def _panel_title(comparison: Comparison) -> str:
    words = comparison.label
    if len(words) > LONGEST_LABEL:
        words = f"{words[: LONGEST_LABEL - 1]}…"
    least = 1 / (SIMULATIONS + 1)
    p_value, departure = comparison.p_value, comparison.departure
    p = f"p < {2 * least:.4f}" if p_value < 1.5 * least else f"p = {p_value:.2g}"
    return f"{words}\n{p}" + ("" if departure == "none" else f"\n{departure}")
