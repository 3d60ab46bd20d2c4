"""The sections of a diagnosis: each a question about a trained VAE, and the checks that answer it.

A check is a constant `Check` in its own file; here it is listed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.calibration.element_pit import ELEMENT_PIT
from analysis.calibration.leave_one_out import FORECASTS
from analysis.calibration.reliability import ELEMENTS
from analysis.calibration.simulation_based_calibration import SBC
from analysis.diagnosis import Parts, Section, SectionResult
from analysis.elbo.aggregate_posterior import decompose_rate
from analysis.elbo.figures import plot_elbo_terms, plot_spectrum
from analysis.elbo.rate_decomposition import RateDecomposition
from analysis.elbo.terms import elbo_terms
from analysis.guide.psis_diagnostics import guide_quality, plot_guide_quality, plot_worst_images
from analysis.predictive.checks import CHECKS
from analysis.predictive.counts import COUNTS
from analysis.predictive.data_sets import DATA_SETS
from analysis.predictive.examples import BEFORE_TRAINING, SAME_IMAGE, plot_extremes
from analysis.predictive.generalisation import GENERALISATION
from analysis.predictive.pit import STATISTICS_PIT
from analysis.representation import section
from analysis.representation.section import representation
from analysis.subject import Subject
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import khat_threshold

RATE_PARTS = {
    "mutual_information": "mutual information",
    "total_correlation": "total correlation",
    "dimension_wise_kl": "dimension-wise KL",
}


def elbo(subject: Subject) -> SectionResult:
    """What the ELBO is made of, and what its rate says of the training data given."""
    parts = Parts(subject, "elbo")
    terms = parts.add("terms", lambda: elbo_terms(subject.evaluation))
    decomposition = parts.add(
        "decomposition",
        lambda: decompose_rate(subject.vae, subject.train, seed=subject.seed_of("decomposition")),
    )
    if terms is not None:
        for name, values in (("ELBO", terms.reconstruction - terms.rate), ("rate", terms.rate)):
            parts.numbers[name] = f"{values.mean():.2f} nats per {noun()}"
        parts.numbers["active units"] = f"{terms.active_units} of {terms.embeddings.shape[1]}"
        parts.draw(
            "terms",
            f"What is the ELBO made of, in each {noun()} and on average?",
            lambda: plot_elbo_terms(terms, decomposition),
        )
        parts.draw(
            "extremes",
            "Which data does the model describe best and worst?",
            lambda: plot_extremes(
                subject.real,
                terms,
                subject.reconstructions,
                elements=subject.elements,
                limits=subject.limits,
            ),
        )
    if terms is not None and decomposition is not None:
        parts.draw(
            "spectrum",
            "Which latent dimensions carry the rate?",
            lambda: plot_spectrum(decomposition, terms),
        )
    if decomposition is not None:
        for name, label in RATE_PARTS.items():
            for key in (name, f"{name}_se"):
                parts.record[key] = getattr(decomposition, key)
            parts.numbers[label] = _nats(decomposition, name)
    return parts.section()


def guide(subject: Subject) -> SectionResult:
    """Is q(z | x) the posterior: on real data by its weights, on simulated data by its ranks?"""
    parts = Parts(subject, "guide")
    evaluation = subject.evaluation
    quality = parts.add(
        "quality",
        lambda: guide_quality(
            evaluation.khat,
            evaluation.ess,
            evaluation.num_samples,
            evaluation.importance_weighting.withheld,
        ),
    )
    if quality is not None:
        khat, ess, draws = evaluation.khat, evaluation.ess, evaluation.num_samples
        threshold = khat_threshold(draws)
        parts.record["khat"] = {
            "share_above": evaluation.khat_share_above,
            "threshold": threshold,
            "median": None if khat is None else float(np.median(khat)),
        }
        parts.record["ess"] = {"median": float(np.median(ess)), "num_samples": draws}
        if evaluation.khat_share_above is not None:
            parts.numbers["k-hat above threshold"] = (
                f"{evaluation.khat_share_above:.1%} of {nouns()}, threshold {threshold:.2f}"
            )
        parts.numbers["effective draws, median"] = f"{np.median(ess):.0f} of {draws}"
        parts.draw(
            "quality",
            "How heavy are the tails of the guide's importance weights, and how many draws count?",
            lambda: plot_guide_quality(khat, ess, draws),
        )
        parts.draw(
            "worst",
            "For which data is the guide worst?",
            lambda: plot_worst_images(
                subject.real,
                subject.reconstructions,
                quality,
                subject.limits,
                elements=subject.elements,
            ),
        )
    parts.check(SBC)
    parts.check(GENERALISATION)
    return parts.section()


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
    "elbo": Maker(elbo, ("terms", "decomposition"), ("importance weights",)),
    "guide": Maker(guide, ("quality", "sbc", "generalisation"), ("importance weights",)),
    # A diagnosis of the model takes half as long without it.
    "representation": Maker(representation, section.PARTS, section.SHARED, default=False),
}


def _nats(decomposition: RateDecomposition, name: str) -> str:
    value, error = getattr(decomposition, name), getattr(decomposition, f"{name}_se")
    return "not defined" if value is None else f"{value:.2f} +- {error:.2f} nats"
