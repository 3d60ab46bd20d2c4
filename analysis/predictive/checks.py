"""Check whether generated data are distributed like held-out data, by all statistics at once.

Generated data are full draws x ~ p(x | z) with z from the *prior*. Replicates with z ~ q(z | x)
have seen the example that they are compared with, and fail such a check even when the model is
true. The real data must not have trained the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Real

from analysis.check import Check, Plot
from analysis.data_statistics import (
    Nearest,
    Statistic,
    Transform,
    compute_statistics,
    nearest_training,
    profiles_for,
    standardisation,
    statistics_for,
)
from analysis.hypothesis_tests import MIN_DRAWS, TwoSampleTest, holm, two_sample_test
from analysis.plotting.images import is_image
from analysis.predictive.figures import (
    plot_comparisons,
    plot_nearest,
    plot_profiles,
    plot_spectrum,
)
from analysis.predictive.permutation_tests import (
    ProfileComparison,
    SpectrumComparison,
    compare_profiles,
    compare_spectra,
)
from analysis.predictive.two_sample import Comparison, compare_scores
from analysis.result import Result
from analysis.subject import SCORES, Subject
from analysis.verdicts import SIGNIFICANT, Verdict, judge_samples
from pyro_vae.data.nouns import noun

# A generated example nearer to the training data than this fraction of the median distance of test
# data is taken for a copy.
_COPY_RATIO = 0.5
# Number of examples of each sample, and of principal axes, that a classifier sees at most.
MOST_CLASSIFIED, _AXES = 2000, 20

StatisticValues: TypeAlias = Mapping[str, Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class PredictiveChecks(Result):
    """Differences between generated data and real data that did not train the model.

    Args:
        comparisons: Of each statistic, of the distance to the nearest training example, and of
            each score.
        profiles: Of row and column means, or of the elements.
        spectrum: Of the covariance; None for too few data, or data that do not vary.
        nearest: The training example nearest to each generated example.
        nearest_real: The training example nearest to each real example.
        classifier: How well a classifier tells generated from real data, by their leading
            principal axes and their statistics; None for too few data.
        training_classifier: The same for training data and real data, which should be near 0.5.
    """

    comparisons: tuple[Comparison, ...]
    profiles: tuple[ProfileComparison, ...] = ()
    spectrum: SpectrumComparison | None = None
    nearest: Nearest | None = None
    nearest_real: Nearest | None = None
    classifier: TwoSampleTest | None = None
    training_classifier: TwoSampleTest | None = None

    FIELDS = ("p_values",)

    @cached_property
    def p_values(self) -> dict[str, float]:
        """Every p-value, by name."""
        others = {"spectrum": self.spectrum, "classifier": self.classifier}
        named = {check.name: check for check in (*self.comparisons, *self.profiles)} | others
        return {name: check.p_value for name, check in named.items() if check is not None}

    @cached_property
    def furthest(self) -> Comparison:
        """The comparison with the largest Kolmogorov-Smirnov distance."""
        return max(self.comparisons, key=lambda comparison: comparison.ks_distance)

    @property
    def num_below(self) -> int:
        """The number of p-values below 0.05."""
        return sum(p < SIGNIFICANT for p in self.p_values.values())

    @property
    def smallest_holm(self) -> float:
        """The smallest p-value after Holm's correction for their number."""
        return float(holm(np.array(list(self.p_values.values()))).min())

    @property
    def copies(self) -> float | None:
        """The excess over real data of the share of examples very near a training example."""
        if self.nearest is None or self.nearest_real is None:
            return None
        limit = _COPY_RATIO * float(np.median(self.nearest_real.distance))
        near = [(each.distance < limit).mean() for each in (self.nearest, self.nearest_real)]
        return max(0.0, float(near[0] - near[1]))

    def extra(self) -> Mapping[str, Any]:
        """Counts, the largest difference, and the values of each check."""
        nearest, nearest_real = self.nearest, self.nearest_real
        return {
            "n_real": len(self.comparisons[0].real),
            "n_generated": len(self.comparisons[0].generated),
            "num_p_values": len(self.p_values),
            "num_p_values_below_0.05": self.num_below,
            "smallest_holm_p_value": self.smallest_holm,
            "furthest": self.furthest.name,
            "furthest_ks_distance": self.furthest.ks_distance,
            "comparisons": {c.name: c.summary() for c in self.comparisons},
            "profiles": {p.name: p.summary() for p in self.profiles},
            "spectrum": self.spectrum and self.spectrum.summary(),
            "nearest_training": nearest
            and nearest_real
            and {
                "real_median": np.median(nearest_real.distance),
                "generated_median": np.median(nearest.distance),
                "generated_smallest": nearest.distance.min(),
                "share_of_copies": self.copies,
            },
            "classifier_auroc": self.classifier and self.classifier.best,
            "classifier_auroc_training": self.training_classifier
            and self.training_classifier.best,
        }

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether generated data are like held-out data."""
        return (
            judge_samples(
                self.classifier and self.classifier.best,
                self.furthest.title,
                self.furthest.ks_distance,
                self.smallest_holm,
            ),
        )

    def reading(self) -> str:
        """The verdict, with a warning if the model seems to copy its training data."""
        if self.copies is None or self.copies <= 2 * SIGNIFICANT:
            return super().reading()
        return (
            f"{super().reading()} {self.copies:.0%} of the generated data are less than half as "
            f"far from a training {noun()} as the median test {noun()}: the model may copy its "
            "training data."
        )


def predictive_checks(
    real: Real[np.ndarray, " n *event"],
    generated: Real[np.ndarray, " m *event"],
    train: Real[np.ndarray, " t *event"],
    *,
    support: str,
    scores: Mapping[str, tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]] | None = None,
    labels: Mapping[str, str] | None = None,
    statistics: tuple[StatisticValues, StatisticValues] | None = None,
    seed: int = 0,
) -> PredictiveChecks:
    """T(x), x ~ data, against T(x'), x' ~ p(x | z), z ~ p(z), for a family of statistics T.

    The statistics are those of `statistics_for`, the distance to the nearest training example, and
    any scores; then the means of `profiles_for` and the spectrum of the covariance. Distances and
    spectrum of counts are those of log(1 + x), since a few large counts would dominate otherwise;
    those of columns in different units, and their statistics, are of standardised ones.

    Args:
        real: Data that did not train the model.
        generated: Data from the model, see `analysis.model_samples.new_data`.
        train: Its training data, without the real ones.
        support: "binary", "unit", "integers", "counts" or "real".
        scores: Scores of real and of generated data by name, such as the ELBO; their numbers may
            differ from those of the data.
        labels: Labels of the scores for axes, "name: explanation"; by default their names.
        statistics: The statistics of real and of generated data, if already computed.
        seed: The seed of ties, permutations, and subsets.

    Returns:
        Every p-value, and effect sizes. Read those first: with enough data every wrong model is
        rejected.

    Raises:
        ValueError: If the shapes differ, there are no data, or a score has a statistic's name.

    References:
        Posterior predictive assessment of model fitness via realized discrepancies (Gelman, Meng &
        Stern, 1996), http://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
    """
    if not len(real) or not len(generated) or real.shape[1:] != generated.shape[1:]:
        raise ValueError(
            "real and generated must hold data of one shape, got arrays of shape "
            f"{real.shape} and {generated.shape}."
        )
    scaled = standardisation(train, support)
    transform = np.log1p if support == "counts" else scaled
    family = statistics_for(real.shape[1:], support, scaled)
    reserved = {"nearest_training", "spectrum", *(s.name for s in family)}
    if taken := reserved & set(scores or ()):
        raise ValueError(f"scores must have names of their own, got {', '.join(sorted(taken))}.")
    values = statistics or tuple(compute_statistics(x, family) for x in (real, generated))
    # Together, as each pass over the training data takes time.
    both = nearest_training(np.concatenate([real, generated]), train, transform=transform)
    nearest_real, nearest = (
        Nearest(both.distance[part], both.row[part])
        for part in (slice(len(real)), slice(len(real), None))
    )
    unit = "log(1 + x)" if support == "counts" else "standardised elements" if scaled else ""
    measure = f"distance to the nearest training {noun()}: rms{unit and f' of {unit}'}"
    pairs = {"nearest_training": (nearest_real.distance, nearest.distance), **(scores or {})}
    titles = {"nearest_training": measure, **(labels or {})}
    profiles = profiles_for(real.shape[1:])
    vectors = [compute_statistics(data, profiles) for data in (real, generated)]
    classifiers = _classify((real, generated, train), values, family, transform, seed)
    return PredictiveChecks(
        comparisons=(
            *compare_statistics(real, generated, family, values, seed=seed),
            *(
                compare_scores(name, *pair, label=titles.get(name, ""), seed=seed)
                for name, pair in pairs.items()
            ),
        ),
        profiles=tuple(
            compare_profiles(p.name, *(v[p.name] for v in vectors), label=p.label, seed=seed)
            for p in profiles
        ),
        spectrum=compare_spectra(
            *(data.reshape(len(data), -1) for data in (real, generated)),
            seed=seed,
            transform=transform,
        ),
        nearest=nearest,
        nearest_real=nearest_real,
        classifier=classifiers[0],
        training_classifier=classifiers[1],
    )


def compare_statistics(
    real: Real[np.ndarray, " n *event"],
    generated: Real[np.ndarray, " m *event"],
    statistics: Sequence[Statistic],
    values: tuple[StatisticValues, ...] | None = None,
    *,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """`compare_scores` of each statistic, in order.

    Args:
        real: Data that did not train the model.
        generated: Data from the model.
        statistics: From `statistics_for`.
        values: Their values for real and for generated data, if already computed.
        seed: The seed of the ties.
    """
    first, second = values or (compute_statistics(x, statistics) for x in (real, generated))
    return tuple(
        compare_scores(s.name, first[s.name], second[s.name], label=s.label, seed=seed)
        for s in statistics
    )


def _classify(
    samples: tuple[np.ndarray, np.ndarray, np.ndarray],
    values: tuple[StatisticValues, ...],
    family: Sequence[Statistic],
    transform: Transform | None,
    seed: int,
) -> tuple[TwoSampleTest | None, TwoSampleTest | None]:
    """Classify generated, and training data, against real ones.

    Features are the statistics, and the coordinates on the leading principal axes of all data
    together.
    """
    from sklearn.utils.extmath import randomized_svd

    if min(map(len, samples[:2])) < MIN_DRAWS:
        return None, None
    rows = [np.linspace(0, len(x) - 1, min(len(x), MOST_CLASSIFIED)).astype(int) for x in samples]
    chosen = [x[row] for x, row in zip(samples, rows, strict=True)]
    flat = np.concatenate([x.reshape(len(x), -1) for x in chosen]).astype(np.float64)
    flat = flat if transform is None else transform(flat)
    flat -= flat.mean(0)
    if not is_image(samples[0].shape[1:]):
        # Columns of a table have units of their own.
        scale = flat.std(0)
        flat /= np.where(scale > 0, scale, 1.0)
    left, scale, _ = randomized_svd(flat, min(_AXES, *flat.shape), random_state=seed)
    known = [
        {name: column[row] for name, column in value.items()}
        for value, row in zip(values, rows, strict=False)
    ]
    known.append(compute_statistics(chosen[2], family))
    columns = [np.concatenate([value[s.name] for value in known]) for s in family]
    features = np.nan_to_num(np.column_stack([left * scale, *columns]))
    real, generated, train = np.split(features, np.cumsum([len(x) for x in chosen])[:2])
    return (
        two_sample_test(generated, real, seed=seed),
        two_sample_test(train, real, seed=seed) if len(train) >= MIN_DRAWS else None,
    )


def _compute(subject: Subject) -> PredictiveChecks:
    first = {name: sets[0] for name, sets in subject.generated_statistics.items()}
    return predictive_checks(
        subject.real,
        subject.generated,
        subject.training,
        support=subject.support,
        scores=subject.scores,
        labels=SCORES,
        statistics=(subject.real_statistics, first),
        seed=subject.seed_of("predictive checks"),
    )


def _headline(checks: PredictiveChecks) -> dict[str, str]:
    numbers = {
        "furthest off": f"{checks.furthest.title}, distance {checks.furthest.ks_distance:.2f}",
        "p-values below 0.05": f"{checks.num_below} of {len(checks.p_values)}",
    }
    if checks.classifier is None:
        return numbers
    found = f"{checks.classifier.best:.1%} of pairs, 50% is chance"
    return {"told from held-out data": found, **numbers}


CHECKS = Check(
    "checks",
    _compute,
    plots=(
        Plot(
            "comparisons",
            "Are statistics and scores of new data distributed as those of real data?",
            lambda checks, _: plot_comparisons(checks.comparisons),
        ),
        Plot(
            "profiles",
            "Where do new data differ from real ones?",
            lambda checks, subject: plot_profiles(checks.profiles, subject.elements),
        ),
        Plot(
            "covariance",
            "Do new data vary along as many directions as real ones, and as much?",
            lambda checks, _: plot_spectrum(checks.spectrum),
        ),
        Plot(
            "nearest",
            "Does the model copy its training data?",
            lambda checks, subject: plot_nearest(
                subject.generated,
                subject.training,
                checks.nearest,
                checks.nearest_real,
                subject.elements,
            ),
            when=lambda checks: checks.nearest is not None,
        ),
    ),
    headline=_headline,
    record=lambda checks: {"p_values": checks.p_values},
    shared=("new data from the model", "statistics of new data", "scores of new data"),
)
