"""The part of `representation` on damaged and foreign data: are codes robust, and are they honest?"""

import numpy as np

from analysis.diagnosis import Parts
from analysis.predictive.model_samples import UndefinedCheckError
from analysis.representation.foreign_data import stand_ins
from analysis.representation.out_of_distribution import OutOfDistribution, out_of_distribution
from analysis.representation.out_of_distribution_figure import plot_out_of_distribution
from analysis.representation.robustness import Robustness, robustness
from analysis.representation.robustness_figures import plot_robustness
from analysis.representation.section_arrays import Represented
from analysis.representation.uncertainty_calibration import honest_uncertainty
from analysis.representation.uncertainty_calibration_figure import plot_honest_uncertainty
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.evaluation import fixed_rows
from pyro_vae.statistics import standard_error

# Data that are damaged, and draws for each one's log p(x), which is a lower bound.
DAMAGED, DAMAGED_SAMPLES = 500, 20
# Data that are told from as many foreign ones, and draws for each.
TOLD_APART, TOLD_APART_SAMPLES = 500, 50

PARTS = ("robustness", "honest_uncertainty", "out_of_distribution")


def add_robustness(parts: Parts, of: Represented) -> None:
    """What damage does to codes, whether q says so, and whether foreign data are told from own."""
    subject = parts.subject
    robust = parts.add("robustness", lambda: _robustness(of))
    if robust is not None:
        parts.numbers |= _numbers(robust)
        parts.draw(
            "robustness",
            "What do codes lose when data are damaged, by damage and strength?",
            lambda: plot_robustness({"this run": robust}),
        )
    rows = fixed_rows(len(subject.x), DAMAGED).to(subject.x.device)
    honest = parts.add(
        "honest_uncertainty",
        lambda: honest_uncertainty(
            subject.vae, subject.x[rows], seed=subject.seed_of("honest uncertainty")
        ),
    )
    if honest is not None:
        worst = float(honest.standardised_error.max())
        parts.numbers["error over q's scale, worst (right 1)"] = f"{worst:.2f}"
        parts.draw(
            "honest_uncertainty",
            "Does the guide grow less certain as data are damaged?",
            lambda: plot_honest_uncertainty(honest),
        )
    told = parts.add("out_of_distribution", lambda: _told_apart(of))
    if told is not None:
        best = told.auroc(told.best_score)
        if best:
            parts.numbers["foreign data, AUROC at least"] = f"{min(best.values()):.2f}"
            parts.numbers["foreign data, best score"] = told.best_score.replace("_", " ")
        parts.draw(
            "out_of_distribution",
            "Which score tells foreign data from own, and where does likelihood fail?",
            lambda: plot_out_of_distribution(told),
        )


def _robustness(of: Represented) -> Robustness:
    subject = of.subject
    subject.check_several()
    try:
        x, labels, classifier = of.labelled_x, of.labels, of.probe.classifier
    except UndefinedCheckError:
        x, labels, classifier = subject.x, None, None
    rows = fixed_rows(len(x), DAMAGED)
    return robustness(
        subject.vae,
        x[rows.to(x.device)],
        labels=None if labels is None else labels[rows.numpy()],
        classifier=classifier,
        num_samples=DAMAGED_SAMPLES,
        seed=subject.seed_of("robustness"),
    )


def _numbers(robust: Robustness) -> dict[str, str]:
    """Each measure of clean and of damaged data."""
    found = {}
    for measure, label, form in (
        ("accuracy", "accuracy", ".3f"),
        ("log_evidence", f"log p(x), {DAMAGED_SAMPLES} draws (nats)", ".1f"),
    ):
        if measure not in robust.values:
            continue
        values = robust.values[measure]
        for data, of_data in (("clean", values[0, 0]), ("damaged", values[:, 1:].mean((0, 1)))):
            known = np.isfinite(of_data).all()
            error = standard_error(of_data) or np.nan
            found[f"{label}, {data} data"] = (
                f"{of_data.mean():{form}} ± {error:{form}}" if known else "not defined"
            )
    value, error = robust.area("latent_shift")
    found[f"shift of damaged data's codes (1: another {noun()})"] = f"{value:.2f} ± {error:.2f}"
    return found


def _told_apart(of: Represented) -> OutOfDistribution:
    subject = of.subject
    x = subject.x[fixed_rows(len(subject.x), TOLD_APART).to(subject.x.device)]
    levels = getattr(getattr(subject.vae, "likelihood", None), "levels", None)
    foreign = stand_ins(
        x, support=subject.support, levels=levels, seed=subject.seed_of("stand-ins")
    )
    if subject.foreign is not None:
        data = subject.foreign.x
        named = data[fixed_rows(len(data), TOLD_APART).to(data.device)]
        foreign = {subject.foreign.name: named, **foreign}
    return out_of_distribution(
        subject.vae,
        of.train_x,
        x,
        foreign,
        num_samples=TOLD_APART_SAMPLES,
        seed=subject.seed_of("out of distribution"),
    )
