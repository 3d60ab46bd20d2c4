"""The sections of a diagnosis: each a question about a trained VAE, and the checks that answer it.

A check is a constant `Check` in its own file; here it is listed. Those of disentanglement, whose
files need arrays only, are defined here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analysis.calibration.element_pit import ELEMENT_PIT
from analysis.calibration.leave_one_out import FORECASTS
from analysis.calibration.reliability import ELEMENTS
from analysis.calibration.simulation_based_calibration import SBC
from analysis.check import Check, Plot, Section, SectionResult
from analysis.comparison.comparability import run_table
from analysis.disentanglement.scores import (
    SCORES,
    Disentanglement,
    disentanglement,
    plot_disentanglement,
)
from analysis.disentanglement.traversals import Traversals, plot_traversals, traversals
from analysis.elbo.rate_decomposition import DECOMPOSITION
from analysis.elbo.terms import TERMS
from analysis.guide.psis_diagnostics import QUALITY
from analysis.model_samples import latent_site
from analysis.predictive.checks import CHECKS
from analysis.predictive.counts import COUNTS
from analysis.predictive.data_sets import DATA_SETS
from analysis.predictive.examples import BEFORE_TRAINING, SAME_IMAGE
from analysis.predictive.generalisation import GENERALISATION
from analysis.predictive.pit import STATISTICS_PIT
from analysis.representation.clustering import CLUSTERING, LOCAL_AGREEMENT, MIXTURE_COMPONENTS
from analysis.representation.decoder_geometry import DECODER_GEOMETRY
from analysis.representation.fine_tuning import FINE_TUNING
from analysis.representation.holes import HOLES
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.interpolation import INTERPOLATION
from analysis.representation.label_efficiency import (
    BASELINES,
    LABEL_EFFICIENCY,
    plot_label_efficiency,
)
from analysis.representation.out_of_distribution import OUT_OF_DISTRIBUTION
from analysis.representation.probes import NEIGHBOURS, PROBE
from analysis.representation.robustness import ROBUSTNESS, plot_robustness
from analysis.representation.transfer import TRANSFER
from analysis.representation.uncertainty_calibration import UNCERTAINTY_CALIBRATION
from analysis.result import UndefinedCheckError
from analysis.subject import Subject
from pyro_vae.notebooks import html_table

if TYPE_CHECKING:
    import matplotlib.figure


def _disentanglement(subject: Subject) -> Disentanglement:
    codes, factors = subject.compute(RepresentationInputs).scored_codes_and_factors
    seed = subject.seed_of("disentanglement")
    return disentanglement(codes, factors, names=subject.label_names, seed=seed)


def _disentanglement_headline(found: Disentanglement) -> dict[str, str]:
    numbers = {}
    for name, label in SCORES.items():
        value, error = found.scores[name], found.standard_errors[name]
        if math.isfinite(value):
            numbers[label] = f"{value:.2f}" + ("" if error is None else f" ± {error:.2f}")
    return numbers


def _traversals(subject: Subject) -> Traversals:
    latent_site(subject.vae)  # Of several levels, a decoder need not read all.
    inputs = subject.compute(RepresentationInputs)
    try:
        codes, factors = inputs.codes_and_factors
    except UndefinedCheckError:
        codes, factors = inputs.codes, None
    return traversals(
        subject.vae,
        codes,
        factors=factors,
        names=() if factors is None else subject.label_names,
        event_names=subject.event_names,
        seed=subject.seed_of("traversals"),
    )


DISENTANGLEMENT = Check(
    "disentanglement",
    _disentanglement,
    (
        Plot(
            "disentanglement",
            "Does each coordinate follow one factor, and each factor one coordinate?",
            lambda found, _: plot_disentanglement(found),
        ),
    ),
    headline=_disentanglement_headline,
    shared=("codes of all held-out data",),
)
TRAVERSALS = Check(
    "traversals",
    _traversals,
    (
        Plot(
            "traversals",
            "What moves when one coordinate of the code does?",
            lambda found, _: plot_traversals(found),
        ),
    ),
)
# Checks whose numbers are about the labels of the data.
LABEL_CHECKS = (
    *(PROBE, NEIGHBOURS, LABEL_EFFICIENCY, BASELINES),
    *(CLUSTERING, MIXTURE_COMPONENTS, LOCAL_AGREEMENT, FINE_TUNING),
)


@dataclass(frozen=True)
class RepresentationSection(Section):
    """A section whose headline numbers name the factor that serves as the label."""

    def run(self, name: str, subject: Subject) -> SectionResult:
        """Run the checks."""
        section = super().run(name, subject)
        if factor := subject.compute(RepresentationInputs).label_name:
            about_labels = {
                label
                for check in LABEL_CHECKS
                if check.name in section.results
                for label in check.headline(section.results[check.name])
            }
            numbers = dict(section.numbers)
            section.numbers.clear()
            for label, number in numbers.items():
                section.numbers[f"{label}, {factor}" if label in about_labels else label] = number
        return section


REPRESENTATION = RepresentationSection(
    "Are codes useful with few labels, is their space continuous, and are they robust?",
    (
        *LABEL_CHECKS,
        TRANSFER,
        *(INTERPOLATION, DECODER_GEOMETRY, HOLES),
        *(DISENTANGLEMENT, TRAVERSALS),
        *(ROBUSTNESS, UNCERTAINTY_CALIBRATION, OUT_OF_DISTRIBUTION),
    ),
    # A diagnosis takes half as long without it.
    default=False,
    min_examples=2,
    complete=True,
)
SECTIONS = {
    "predictive": Section(
        "Does the model make data like the real ones, and what of that did training teach it?",
        (CHECKS, COUNTS, DATA_SETS, BEFORE_TRAINING, SAME_IMAGE),
        new_data=True,
        complete=True,
    ),
    "calibration": Section(
        "Do forecasts of each element from the others come true, and where do they fail?",
        (FORECASTS, ELEMENTS),
        complete=True,
    ),
    "pit": Section(
        "Where do real data fall among generated ones, and each element in its forecast?",
        (STATISTICS_PIT, ELEMENT_PIT),
        new_data=True,
        complete=True,
    ),
    "elbo": Section(
        "What is the ELBO made of, and what does its rate contain?", (TERMS, DECOMPOSITION)
    ),
    "guide": Section(
        "Is q(z | x) the posterior: on real data by its weights, on simulated data by its ranks?",
        (QUALITY, SBC, GENERALISATION),
    ),
    "representation": REPRESENTATION,
}
# The sections of a group share draws; those of two groups only the importance weights.
GROUPS = (("predictive", "calibration", "pit"), ("elbo",), ("guide",), ("representation",))
WEIGHTED = {"elbo", "guide"}


@dataclass(frozen=True)
class SideBySide:
    """Numbers of several runs, and figures that overlay them.

    Args:
        measures: By measure and run, as text; "not defined" where a run has none.
        figures: By name.
        captions: The question that each figure answers, by name.
    """

    measures: dict[str, dict[str, str]]
    figures: "dict[str, matplotlib.figure.Figure]" = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)

    def table(self, width: int) -> list[str]:
        """Lines of a table, a row per measure and a column per run, in blocks of the width."""
        return run_table(self.measures, width)

    def _repr_html_(self) -> str:
        runs = list(dict.fromkeys(run for each in self.measures.values() for run in each))
        rows = [(name, *(each[run] for run in runs)) for name, each in self.measures.items()]
        return html_table("", ("measure", *runs), rows)


def side_by_side(sections: Mapping[str, SectionResult]) -> SideBySide:
    """Compare the sections of several runs of the same data.

    Args:
        sections: By the run's name.
    """
    labels = dict.fromkeys(label for section in sections.values() for label in section.numbers)
    measures = {
        label: {run: each.numbers.get(label, "not defined") for run, each in sections.items()}
        for label in labels
    }
    found = SideBySide(measures)
    for check, plot, caption in (
        (
            LABEL_EFFICIENCY,
            plot_label_efficiency,
            "How many labels does a classifier of each run's codes need?",
        ),
        (ROBUSTNESS, plot_robustness, "Whose codes keep more when data are corrupted?"),
    ):
        name = check.name
        results = {
            run: each.results[name] for run, each in sections.items() if name in each.results
        }
        if results:
            found.figures[name], found.captions[name] = plot(results), caption
    return found
