"""The sections of a diagnosis: what is asked of a trained VAE, one function and one line in `SECTIONS` each.

Each takes a `Subject` and gives a `Section`: a record for a file, figures, and what a person reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.aggregate_posterior import decompose_rate
from analysis.calibration import (
    Calibration,
    ElementPit,
    calibration,
    element_pit,
    plot_calibration_map,
    plot_element_pit,
    plot_isotonic,
    plot_reliability,
    same_image_probability,
)
from analysis.diagnosis import FORECAST_SAMPLES, Parts, Section, Subject, replicates
from analysis.elbo import elbo_terms
from analysis.elbo_figures import plot_elbo_terms, plot_spectrum
from analysis.extremes import plot_extremes
from analysis.generalisation import generalisation, plot_generalisation
from analysis.guide import guide_quality, plot_guide_quality, plot_worst_images
from analysis.pit import PitCheck, pit_check, plot_pit
from analysis.predictive import (
    plot_comparisons,
    plot_nearest,
    plot_profiles,
    predictive_checks,
)
from analysis.predictive import plot_spectrum as plot_covariance
from analysis.predictive_figures import (
    plot_distributions,
    plot_prior_predictive,
    plot_rootogram,
    plot_same_image,
    plot_test_statistics,
    predictive_tree,
)
from analysis.rate_decomposition import RateDecomposition
from analysis.simulation_based_calibration import (
    SimulationBasedCalibration,
    plot_coverage,
    plot_sbc,
    simulated_ranks,
    simulation_based_calibration,
)
from analysis.two_sample import compare_scores
from pyro_vae.statistics import khat_threshold

# Data with replicates, and replicates of each.
SHOWN, REPLICATES = 8, 5


def predictive(subject: Subject) -> Section:
    """Does the model make data like the real ones, and what of that did training teach it?"""
    parts = Parts(subject, "predictive")
    checks = parts.add(
        "checks",
        lambda: predictive_checks(
            subject.real,
            subject.generated,
            subject.training,
            support=subject.support,
            scores=subject.scores,
            seed=subject.seed_of("predictive checks"),
        ),
    )
    if checks is not None:
        parts.record["p_values"] = checks.summary()["p_values"]
        parts.numbers["p-values below 0.05"] = f"{checks.num_below} of {len(checks.p_values)}"
        parts.numbers["furthest off"] = (
            f"{checks.furthest.name}, distance {checks.furthest.ks_distance:.2f}"
        )
        parts.draw("comparisons", lambda: plot_comparisons(checks))
        parts.draw("profiles", lambda: plot_profiles(checks))
        parts.draw("covariance", lambda: plot_covariance(checks))
        if (nearest := checks.nearest) is not None:
            parts.draw(
                "nearest",
                lambda: plot_nearest(
                    subject.generated, subject.training, nearest, checks.nearest_real
                ),
            )
        tree = predictive_tree(subject.real_statistics, subject.generated_statistics)
        parts.draw("distributions", lambda: plot_distributions(tree))
        parts.draw("test_statistics", lambda: plot_test_statistics(tree))
        if subject.support == "counts":
            flat = subject.real.reshape(len(subject.real), -1)
            sets = subject.all_generated.reshape(subject.data_sets, *flat.shape)
            parts.draw("rootogram", lambda: plot_rootogram(flat, sets))
    if parts.add("before_training", lambda: _before_training(subject)) is not None:
        parts.draw(
            "prior_predictive",
            lambda: plot_prior_predictive(
                subject.real, subject.before_training, subject.generated
            ),
        )
    if parts.add("same_image", lambda: _same_image(subject)) is not None:
        x = subject.x[:SHOWN]
        seed = subject.seed_of("replicates")
        parts.draw(
            "same_image",
            lambda: plot_same_image(
                subject.real[:SHOWN], replicates(subject.vae, x, REPLICATES, seed=seed)
            ),
        )
    return parts.section()


def calibrated(subject: Subject) -> Section:
    """Do forecasts of each element from the others come true, and where do they fail?"""
    parts = Parts(subject, "calibration")
    parts.add("forecasts", lambda: subject.leave_one_out)
    if "forecasts" in parts.left_out:
        return parts.section()
    forecasts = subject.leave_one_out
    seed = subject.seed_of("calibration")
    probability = forecasts.probability
    if probability is None:
        found = parts.add("elements", lambda: element_pit(forecasts.pit, seed=seed))
    else:
        found = parts.add(
            "elements", lambda: calibration(probability, forecasts.outcome, seed=seed)
        )
        if found is not None:
            with subject.step("calibration: reconstructions"):
                seen = calibration(_seen(subject), forecasts.outcome, seed=seed)
            parts.draw("reliability", lambda: plot_reliability(found, descriptive=seen))
            parts.draw("isotonic", lambda: plot_isotonic(probability, forecasts.outcome))
    if found is not None:
        parts.numbers |= _calibration_numbers(found)
        parts.draw("map", lambda: plot_calibration_map(found))
    return parts.section()


def pit(subject: Subject) -> Section:
    """Where do real data fall among generated ones, and each element in its forecast?"""
    parts = Parts(subject, "pit")
    checks = parts.add("statistics", lambda: _Pits(_pit_checks(subject)))
    if checks is not None:
        off = [check for check in checks.checks if check.departure != "none"]
        parts.numbers["statistics off"] = f"{len(off)} of {len(checks.checks)}"
        parts.draw("statistics", lambda: plot_pit(checks.checks))
    seed = subject.seed_of("element pit")
    elements = parts.add("elements", lambda: element_pit(subject.leave_one_out.pit, seed=seed))
    if elements is not None:
        parts.draw("elements", lambda: plot_element_pit(elements))
    return parts.section()


def elbo(subject: Subject) -> Section:
    """What the ELBO is made of, and what its rate says of the training data given."""
    parts = Parts(subject, "elbo")
    terms = parts.add("terms", lambda: elbo_terms(subject.evaluation))
    decomposition = parts.add(
        "decomposition",
        lambda: decompose_rate(subject.vae, subject.train, seed=subject.seed_of("decomposition")),
    )
    if terms is not None:
        for name, values in (("ELBO", terms.reconstruction - terms.rate), ("rate", terms.rate)):
            parts.numbers[name] = f"{values.mean():.2f} nats per datum"
        parts.draw("terms", lambda: plot_elbo_terms(terms, decomposition))
        parts.draw(
            "extremes",
            lambda: plot_extremes(
                subject.real,
                terms,
                subject.reconstructions,
                names=subject.event_names,
                limits=subject.limits,
            ),
        )
    if terms is not None and decomposition is not None:
        parts.draw("spectrum", lambda: plot_spectrum(decomposition, terms))
    if decomposition is not None:
        for name in ("mutual_information", "total_correlation", "dimension_wise_kl"):
            for key in (name, f"{name}_se"):
                parts.record[key] = getattr(decomposition, key)
            parts.numbers[name.replace("_", " ")] = _nats(decomposition, name)
    return parts.section()


def guide(subject: Subject) -> Section:
    """Is q(z | x) the posterior: on real data by its weights, on simulated data by its ranks?"""
    parts = Parts(subject, "guide")
    evaluation = subject.evaluation
    khat, ess, draws = evaluation.khat, evaluation.ess, evaluation.num_samples
    quality = parts.add("quality", lambda: guide_quality(khat, ess, draws))
    if quality is not None:
        threshold = khat_threshold(draws)
        parts.record["khat"] = {
            "share_above": evaluation.khat_share_above,
            "threshold": threshold,
            "median": None if khat is None else float(np.median(khat)),
        }
        parts.record["ess"] = {"median": float(np.median(ess)), "num_samples": draws}
        if evaluation.khat_share_above is not None:
            parts.numbers["k-hat above threshold"] = (
                f"{evaluation.khat_share_above:.1%} of data, threshold {threshold:.2f}"
            )
        parts.numbers["effective draws, median"] = f"{np.median(ess):.0f} of {draws}"
        parts.draw("quality", lambda: plot_guide_quality(khat, ess, draws))
        parts.draw(
            "worst",
            lambda: plot_worst_images(
                subject.real, subject.reconstructions, quality, subject.limits
            ),
        )
    sbc = parts.add("sbc", lambda: _ranked(subject))
    if sbc is not None:
        parts.numbers["told from the posterior"] = f"{sbc.told_apart:.1%} of pairs, 50% is chance"
        parts.draw("sbc", lambda: plot_sbc(sbc))
        parts.draw("coverage", lambda: plot_coverage(sbc))
    gaps = parts.add(
        "generalisation",
        lambda: generalisation(
            subject.vae,
            subject.train.to(subject.x.device),
            subject.x,
            seed=subject.seed_of("generalisation"),
        ),
    )
    if gaps is not None:
        parts.draw("generalisation", lambda: plot_generalisation(gaps))
    return parts.section()


@dataclass(frozen=True)
class Maker:
    """A section's function, and what of the bar is its own.

    Args:
        make: The function.
        parts: The names of its parts.
        shared: The steps that it may share with other sections.
    """

    make: Callable[[Subject], Section]
    parts: tuple[str, ...]
    shared: tuple[str, ...] = ()

    def all_steps(self, name: str) -> list[str]:
        """The steps that the section of this name may take."""
        return [*self.shared, *(f"{name}: {part}" for part in (*self.parts, "figures"))]


_NEW = ("new data from the model", "statistics of new data")

SECTIONS = {
    "predictive": Maker(
        predictive,
        ("checks", "before_training", "same_image"),
        (*_NEW, "scores of new data", "new data before training"),
    ),
    "calibration": Maker(
        calibrated, ("forecasts", "elements", "reconstructions"), ("forecasts of elements",)
    ),
    "pit": Maker(pit, ("statistics", "elements"), (*_NEW, "forecasts of elements")),
    "elbo": Maker(elbo, ("terms", "decomposition"), ("importance weights",)),
    "guide": Maker(guide, ("quality", "sbc", "generalisation"), ("importance weights",)),
}


@dataclass(frozen=True)
class _Pits:
    """The PITs of all statistics."""

    checks: list[PitCheck]

    def summary(self) -> dict[str, Any]:
        return {
            **{check.name: check.summary() for check in self.checks},
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """How many leave their bands, and the worst of them in full."""
        off = [check for check in self.checks if check.departure != "none"]
        if not off:
            return (
                f"None of {len(self.checks)} statistics of real data departs from those of "
                "generated data."
            )
        worst = max(off, key=lambda check: check.largest_departure)
        return (
            f"{len(off)} of {len(self.checks)} statistics of real data do not fall among those of "
            f"generated data as they should; furthest is {worst.reading()}"
        )


def _pit_checks(subject: Subject) -> list[PitCheck]:
    real, generated = subject.real_statistics, subject.generated_statistics
    return [
        pit_check(
            statistic.name,
            real[statistic.name],
            generated[statistic.name].ravel(),
            seed=subject.seed_of(f"pit of {statistic.name}"),
            label=statistic.label.partition(":")[0],
        )
        for statistic in subject.statistics
    ]


def _before_training(subject: Subject) -> dict[str, Any]:
    """How far generated data are from real ones before training, and after it."""
    from analysis.data_statistics import measured

    before = measured(subject.before_training, subject.statistics)
    after = subject.generated_statistics
    distances = {
        statistic.name: {
            "before": compare_scores(name, real, before[name]).ks_distance,
            "after": compare_scores(name, real, after[name][0]).ks_distance,
        }
        for statistic in subject.statistics
        for name, real in ((statistic.name, subject.real_statistics[statistic.name]),)
    }
    medians = {
        when: float(np.median([d[when] for d in distances.values()]))
        for when in ("before", "after")
    }
    better = sum(d["after"] < d["before"] for d in distances.values())
    return {
        "ks_distance": distances,
        "median_ks_distance": medians,
        "reading": (
            f"Training brought new data nearer to real ones in {better} of {len(distances)} "
            f"statistics: the median distance of the distributions was {medians['before']:.2f} before it "
            f"and is {medians['after']:.2f} now (0 is equal, 1 apart)."
        ),
    }


def _same_image(subject: Subject) -> dict[str, Any]:
    error = np.square(subject.reconstructions - subject.real.astype(np.float64))
    return {
        "reconstruction_rmse": float(np.sqrt(error.mean())),
        "reading": (
            "Replicates of an image from its own code show what the code keeps. They have seen the "
            "image, describe it, and test nothing."
        ),
    }


def _seen(subject: Subject) -> np.ndarray:
    return same_image_probability(
        subject.vae, subject.x, num_samples=FORECAST_SAMPLES, seed=subject.seed_of("seen")
    )


def _calibration_numbers(found: Calibration | ElementPit) -> dict[str, str]:
    p_value = "not defined" if found.p_value is None else f"{found.p_value:.2g}"
    numbers = {"p-value": p_value}
    if isinstance(found, Calibration):
        numbers["error in doubtful elements"] = (
            f"{found.doubtful_error:.4f}, by chance {found.doubtful_error_by_chance:.4f}"
        )
    return numbers


def _ranked(subject: Subject) -> SimulationBasedCalibration:
    ranks = simulated_ranks(
        subject.vae, subject.x, len(subject.x), seed=subject.seed_of("simulated ranks")
    )
    return simulation_based_calibration(ranks)


def _nats(decomposition: RateDecomposition, name: str) -> str:
    value, error = getattr(decomposition, name), getattr(decomposition, f"{name}_se")
    return "not defined" if value is None else f"{value:.2f} +- {error:.2f} nats"
