"""The sections of a diagnosis: each a question about a trained VAE, and the checks that answer it.

A check is a constant `Check` in its own file; here it is listed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.calibration.calibration import (
    Calibration,
    ElementPit,
    calibration,
    plot_calibration_map,
    plot_element_pit,
    plot_isotonic,
    plot_reliability,
    same_image_probability,
)
from analysis.calibration.leave_one_out import LeaveOneOut
from analysis.calibration.simulation_based_calibration import (
    SimulationBasedCalibration,
    plot_calibration_by_dimension,
    plot_coverage,
    plot_sbc,
    simulated_ranks,
    simulation_based_calibration,
)
from analysis.diagnosis import Parts, Section, SectionResult
from analysis.elbo.terms import ELBO_CHECKS
from analysis.guide.psis_diagnostics import QUALITY
from analysis.predictive.checks import (
    plot_comparisons,
    plot_nearest,
    plot_profiles,
    predictive_checks,
)
from analysis.predictive.checks import plot_spectrum as plot_covariance
from analysis.predictive.counts import count_frequencies
from analysis.predictive.figures import (
    data_set_checks,
    plot_distributions,
    plot_prior_predictive,
    plot_rootogram,
    plot_same_image,
    plot_test_statistics,
    predictive_tree,
)
from analysis.predictive.generalisation import Generalisation, generalisation, plot_generalisation
from analysis.predictive.pit import PitCheck, pit_check, plot_pit
from analysis.predictive.two_sample import compare_scores
from analysis.representation.section import SECTION as REPRESENTATION
from analysis.subject import FORECAST_SAMPLES, SCORES, Subject, replicates
from pyro_vae.data.nouns import a_noun

# For each training and test datum: what both lose to few draws is gone from their difference.
GENERALISATION_SAMPLES = 200

# Data with replicates, and replicates of each.
SHOWN, REPLICATES = 8, 5


def predictive(subject: Subject) -> SectionResult:
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
            labels=SCORES,
            statistics=(
                subject.real_statistics,
                {name: sets[0] for name, sets in subject.generated_statistics.items()},
            ),
            seed=subject.seed_of("predictive checks"),
        ),
    )
    if checks is not None:
        parts.record["p_values"] = checks.summary()["p_values"]
        if checks.told_apart is not None:
            parts.numbers["told from held-out data"] = (
                f"{checks.told_apart.best:.1%} of pairs, 50% is chance"
            )
        parts.numbers["furthest off"] = (
            f"{checks.furthest.title}, distance {checks.furthest.ks_distance:.2f}"
        )
        parts.numbers["p-values below 0.05"] = f"{checks.num_below} of {len(checks.p_values)}"
        parts.draw(
            "comparisons",
            "Are statistics and scores of new data distributed as those of real data?",
            lambda: plot_comparisons(checks),
        )
        parts.draw(
            "profiles",
            f"Where in {a_noun()} do new data differ from real ones?",
            lambda: plot_profiles(checks, subject.elements),
        )
        parts.draw(
            "covariance",
            "Do new data vary along as many directions as real ones, and as much?",
            lambda: plot_covariance(checks),
        )
        if (nearest := checks.nearest) is not None:
            parts.draw(
                "nearest",
                "Does the model copy its training data?",
                lambda: plot_nearest(
                    subject.generated,
                    subject.training,
                    nearest,
                    checks.nearest_real,
                    subject.elements,
                ),
            )
        if subject.support == "counts":
            flat = subject.real.reshape(len(subject.real), -1)
            counts = subject.all_generated.reshape(subject.data_sets, *flat.shape)
            parts.add("counts", lambda: count_frequencies(flat, counts))
            parts.draw(
                "rootogram",
                "Does each count occur as often in new data as in real ones?",
                lambda: plot_rootogram(flat, counts),
            )
    sets = parts.add("data_sets", lambda: data_set_checks(*_titled(subject)))
    if sets is not None:
        parts.draw(
            "distributions",
            "Is the real data set one among the model's: whole distributions of statistics?",
            lambda: plot_distributions(predictive_tree(*_titled(subject))),
        )
        parts.draw(
            "test_statistics",
            "Is the whole real data set one among the model's: means and spreads of statistics?",
            lambda: plot_test_statistics(sets),
        )
    if parts.add("before_training", lambda: _before_training(subject)) is not None:
        parts.draw(
            "prior_predictive",
            "What do new data look like, and what did they before training?",
            lambda: plot_prior_predictive(
                subject.real,
                subject.before_training,
                subject.generated,
                elements=subject.elements,
            ),
        )
    if parts.add("same_image", lambda: _same_image(subject)) is not None:
        x = subject.x[:SHOWN]
        seed = subject.seed_of("replicates")
        parts.draw(
            "same_image",
            f"What does the code of {a_noun()} keep of it?",
            lambda: plot_same_image(
                subject.real[:SHOWN],
                replicates(subject.vae, x, REPLICATES, seed=seed),
                elements=subject.elements,
            ),
        )
    return parts.section(of_new_data=True)


def calibrated(subject: Subject) -> SectionResult:
    """Do forecasts of each element from the others come true, and where do they fail?"""
    parts = Parts(subject, "calibration")
    parts.add("forecasts", lambda: subject.leave_one_out)
    if "forecasts" in parts.left_out:
        return parts.section()
    forecasts = subject.leave_one_out
    seed = subject.seed_of("calibration")
    found: Calibration | ElementPit | None
    if forecasts.probability is None:
        found = parts.add("elements", lambda: _element_pit(subject))
    else:
        found = parts.add("elements", lambda: _calibration(subject, seed))
        if found is not None:
            seen, own = _seen(subject, seed), _own_calibration(subject, seed)
            parts.draw(
                "reliability",
                "Do forecasts of elements come true, for real data and for the model's own?",
                lambda: plot_reliability(found, descriptive=seen, simulated=own),
            )
            parts.draw(
                "isotonic",
                "The same without bins: which observed share goes with each forecast?",
                lambda: plot_isotonic(*_forecasts(forecasts), seed=seed),
            )
    if found is not None:
        parts.numbers |= _calibration_numbers(found)
        parts.draw(
            "map",
            f"Where in {a_noun()} do forecasts fail?",
            lambda: plot_calibration_map(found, subject.elements),
        )
    return parts.section()


def pit(subject: Subject) -> SectionResult:
    """Where do real data fall among generated ones, and each element in its forecast?"""
    parts = Parts(subject, "pit")
    checks = parts.add("statistics", lambda: _Pits(_pit_checks(subject)))
    if checks is not None:
        off = [check for check in checks.checks if check.departure != "none"]
        worst = max(checks.checks, key=lambda check: check.largest_departure)
        parts.numbers["furthest off"] = (
            f"{worst.label.partition(':')[0]}, distance {worst.largest_departure:.2f}"
        )
        parts.numbers["statistics off"] = f"{len(off)} of {len(checks.checks)}"
        parts.draw(
            "statistics",
            "Are real data too low, too high, too wide or too narrow among new ones?",
            lambda: plot_pit(checks.checks),
        )
    # Whether forecasts come true is for the section `calibration` to say.
    elements = parts.add("elements", lambda: _element_pit(subject), ElementPit.description)
    if elements is not None:
        parts.numbers |= _against_numbers(elements)
        parts.draw(
            "elements",
            "Are forecasts of elements too low, too high, too wide or too narrow?",
            lambda: plot_element_pit(elements),
        )
    return parts.section(of_new_data=True)


def guide(subject: Subject) -> SectionResult:
    """Is q(z | x) the posterior: on real data by its weights, on simulated data by its ranks?"""
    parts = Parts(subject, "guide")
    parts.check(QUALITY)
    sbc = parts.add("sbc", lambda: _ranked(subject))
    if sbc is not None:
        parts.numbers["told from the posterior"] = f"{sbc.told_apart:.1%} of pairs, 50% is chance"
        parts.draw(
            "sbc",
            "Where among the guide's draws does the true code of simulated data lie?",
            lambda: plot_sbc(sbc),
        )
        parts.draw(
            "dimensions",
            "In which dimensions is the guide shifted, too narrow or too wide?",
            lambda: plot_calibration_by_dimension(sbc),
        )
        parts.draw(
            "coverage",
            "Do the guide's intervals hold the true code as often as they say?",
            lambda: plot_coverage(sbc),
        )
    gaps = parts.add(
        "generalisation",
        lambda: _generalisation(subject),
    )
    if gaps is not None:
        parts.draw(
            "generalisation",
            "How much better are training data modelled than test data?",
            lambda: plot_generalisation(gaps),
        )
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


_FORECASTS = ("forecasts of elements", "forecasts of new data")
_NEW = ("new data from the model", "statistics of new data")

SECTIONS: dict[str, Section | Maker] = {
    "predictive": Maker(
        predictive,
        ("checks", "counts", "data_sets", "before_training", "same_image"),
        (*_NEW, "scores of new data", "new data before training"),
    ),
    "calibration": Maker(
        calibrated,
        ("forecasts", "elements", "reconstructions"),
        (_NEW[0], *_FORECASTS),
    ),
    "pit": Maker(pit, ("statistics", "elements"), (*_NEW, *_FORECASTS)),
    "elbo": Section("What is the ELBO made of, and what does its rate contain?", ELBO_CHECKS),
    "guide": Maker(guide, ("quality", "sbc", "generalisation"), ("importance weights",)),
    "representation": REPRESENTATION,
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
            f"{len(off)} of {len(self.checks)} statistics are distributed differently in real and in generated "
            f"data. Furthest off is {worst.reading()}"
        )


def _pit_checks(subject: Subject) -> list[PitCheck]:
    subject.check_several()
    real, generated = subject.real_statistics, subject.generated_statistics
    return [
        pit_check(
            statistic.name,
            real[statistic.name],
            generated[statistic.name].ravel(),
            seed=subject.seed_of(f"pit of {statistic.name}"),
            label=statistic.title,
        )
        for statistic in subject.statistics
    ]


def _before_training(subject: Subject) -> dict[str, Any]:
    """How far generated data are from real ones before training, and after it."""
    from analysis.predictive.data_statistics import measured

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
            "Replicates of data from their own codes show what a code keeps. They have seen the data, "
            "so that they describe and test nothing."
        ),
    }


def _titled(
    subject: Subject,
) -> tuple[dict[str, Float[np.ndarray, " n"]], dict[str, Float[np.ndarray, "sets n"]]]:
    """The statistics of the real data and of the new data sets by the labels that a person reads."""
    titles = {statistic.name: statistic.title for statistic in subject.statistics}
    real, generated = subject.real_statistics, subject.generated_statistics
    return (
        {titles[name]: values for name, values in real.items()},
        {titles[name]: values for name, values in generated.items()},
    )


def _element_pit(subject: Subject) -> ElementPit:
    subject.check_several()
    subject.check_resolved()
    return subject.element_pit


def _calibration(subject: Subject, seed: int) -> Calibration:
    subject.check_several()
    subject.check_resolved()
    return calibration(
        *_forecasts(subject.leave_one_out),
        simulated=_forecasts(subject.own_leave_one_out),
        trusted=subject.leave_one_out.trusted,
        seed=seed,
    )


def _own_calibration(subject: Subject, seed: int) -> Calibration:
    return calibration(*_forecasts(subject.own_leave_one_out), seed=seed)


def _seen(subject: Subject, seed: int) -> Calibration:
    with subject.step("calibration: reconstructions"):
        probability = same_image_probability(
            subject.vae, subject.x, num_samples=FORECAST_SAMPLES, seed=subject.seed_of("seen")
        )
        return calibration(probability, subject.leave_one_out.outcome, seed=seed)


def _forecasts(forecasts: LeaveOneOut) -> tuple[np.ndarray, np.ndarray]:
    assert forecasts.probability is not None
    return forecasts.probability, forecasts.outcome


def _against_numbers(found: Calibration | ElementPit) -> dict[str, str]:
    """First what no guide can spoil, then what it can."""
    return {
        label: "not defined" if p_value is None else f"{p_value:.2g}"
        for label, p_value in (
            ("p-value against the model's own data", found.p_value_against_model),
            ("p-value of model and guide together", found.p_value),
        )
    }


def _calibration_numbers(found: Calibration | ElementPit) -> dict[str, str]:
    if isinstance(found, Calibration):
        numbers = {
            "error in doubtful elements": (
                f"{found.doubtful_error:.4f}, by chance {found.doubtful_error_by_chance:.4f}"
            )
        }
    else:
        numbers = {
            "mean PIT (0.5 is right)": f"{0.5 + found.bias:.3f}",
            "variance of the PIT (1 is right)": f"{found.spread:.2f}",
        }
    return numbers | _against_numbers(found)


def _generalisation(subject: Subject) -> Generalisation:
    return generalisation(
        subject.vae,
        subject.train.to(subject.x.device),
        subject.x,
        num_samples=min(GENERALISATION_SAMPLES, subject.num_samples),
        support=subject.support,
        seed=subject.seed_of("generalisation"),
    )


def _ranked(subject: Subject) -> SimulationBasedCalibration:
    subject.check_several()
    ranks = simulated_ranks(
        subject.vae, subject.x, len(subject.x), seed=subject.seed_of("simulated ranks")
    )
    return simulation_based_calibration(ranks)
