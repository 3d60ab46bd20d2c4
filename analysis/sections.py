"""The sections of a diagnosis: each a question about a trained VAE, and the checks that answer it.

A check is a constant `Check` in its own file; here it is listed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from analysis.calibration.element_pit import ELEMENT_PIT
from analysis.calibration.leave_one_out import FORECASTS
from analysis.calibration.reliability import ELEMENTS
from analysis.calibration.simulation_based_calibration import SBC
from analysis.diagnosis import Section, SectionResult
from analysis.elbo.terms import ELBO_CHECKS
from analysis.guide.psis_diagnostics import QUALITY
from analysis.predictive.checks import CHECKS
from analysis.predictive.counts import COUNTS
from analysis.predictive.data_sets import DATA_SETS
from analysis.predictive.examples import BEFORE_TRAINING, SAME_IMAGE
from analysis.predictive.generalisation import GENERALISATION
from analysis.predictive.pit import STATISTICS_PIT
from analysis.representation import section
from analysis.representation.section import representation
from analysis.subject import Subject


@dataclass(frozen=True)
class Maker:
    """A section written as a function, until its checks are a tuple: see `Section`."""

    make: Callable[[Subject], SectionResult]
    parts: tuple[str, ...]
    shared: tuple[str, ...] = ()
    default: bool = True

    def steps(self, name: str) -> list[str]:
        """The steps that the section of this name may take."""
        return [*self.shared, *(f"{name}: {part}" for part in (*self.parts, "figures"))]

    def run(self, name: str, subject: Subject) -> SectionResult:
        """Run the checks."""
        return self.make(subject)


SECTIONS: dict[str, Section | Maker] = {
    "predictive": Section(
        "Does the model make data like the real ones, and what of that did training teach it?",
        (CHECKS, COUNTS, DATA_SETS, BEFORE_TRAINING, SAME_IMAGE),
        new_data=True,
    ),
    "calibration": Section(
        "Do forecasts of each element from the others come true, and where do they fail?",
        (FORECASTS, ELEMENTS),
    ),
    "pit": Section(
        "Where do real data fall among generated ones, and each element in its forecast?",
        (STATISTICS_PIT, ELEMENT_PIT),
        new_data=True,
    ),
    "elbo": Section("What is the ELBO made of, and what does its rate contain?", ELBO_CHECKS),
    "guide": Section(
        "Is q(z | x) the posterior: on real data by its weights, on simulated data by its ranks?",
        (QUALITY, SBC, GENERALISATION),
    ),
    # A diagnosis of the model takes half as long without it.
    "representation": Maker(representation, section.PARTS, section.SHARED, default=False),
}
