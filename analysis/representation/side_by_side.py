"""What the codes of several runs are good for, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.comparison.comparability import run_table
from analysis.diagnosis import SectionResult
from analysis.representation.label_efficiency import plot_label_efficiency
from analysis.representation.robustness_figures import plot_robustness

if TYPE_CHECKING:
    import matplotlib.figure

UNDEFINED = "not defined"


@dataclass(frozen=True)
class SideBySide:
    """Measures of each run, and figures that overlay them.

    Args:
        measures: By measure and run, as a person reads it; "not defined" where a run has none.
        figures: By name.
        captions: What each figure answers, by name.
    """

    measures: dict[str, dict[str, str]]
    figures: "dict[str, matplotlib.figure.Figure]"
    captions: dict[str, str]

    def table(self, width: int) -> list[str]:
        """Lines of a table, a row a measure and a column a run; as many columns at a time as fit.

        Args:
            width: The most characters of a line.
        """
        return run_table(self.measures, width)


def side_by_side(sections: Mapping[str, SectionResult]) -> SideBySide:
    """The sections `representation` of several runs of the same data, by name.

    Args:
        sections: By the run's name.
    """
    labels = list(dict.fromkeys(label for each in sections.values() for label in each.numbers))
    measures = {
        label: {run: each.numbers.get(label, UNDEFINED) for run, each in sections.items()}
        for label in labels
    }
    figures, captions = {}, {}
    for part, plot, caption in (
        (
            "label_efficiency",
            plot_label_efficiency,
            "How many labels does a classifier of each run's codes need?",
        ),
        ("robustness", plot_robustness, "Whose codes keep more when data are damaged?"),
    ):
        made = {run: each.results[part] for run, each in sections.items() if part in each.results}
        if made:
            figures[part], captions[part] = plot(made), caption
    return SideBySide(measures, figures, captions)
