"""Does the model make data like the real ones? All checks of new data against data held out.

The new data are full draws x ~ p(x | z) with z from the *prior*. Replicates with z ~ q(z | x) have
seen the image that they are compared with, and fail such a check even when the model is true. The
real data must not have trained the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.comparison.p_values import holm
from analysis.comparison.resampling_tests import (
    ProfileComparison,
    SpectrumComparison,
    compare_profiles,
    compare_spectra,
)
from analysis.plotting.images import is_image
from analysis.predictive.data_statistics import (
    Nearest,
    Statistic,
    blocks,
    measured,
    nearest_training,
    profiles_for,
    standardisation,
    statistics_for,
)
from analysis.predictive.plots import (
    plot_comparisons,
    plot_nearest,
    plot_profiles,
    plot_spectrum,
)
from analysis.predictive.two_sample import Comparison, compare_scores
from analysis.representation.classifier_two_sample import MIN_DRAWS, TwoSampleTest, two_sample_test
from analysis.verdicts import Verdict, like_data
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import finite

__all__ = [
    "PredictiveChecks",
    "compare_statistics",
    "plot_comparisons",
    "plot_nearest",
    "plot_profiles",
    "plot_spectrum",
    "predictive_checks",
]

# A generated datum this much nearer to the training data than test data are, in the median, is taken
# for a copy rather than a new one.
_COPY_RATIO = 0.5

_LEVEL = 0.05

# A classifier sees at most so many data of each kind, on so many principal axes.
MOST_CLASSIFIED, _AXES = 2000, 20

MeasuredStatistics: TypeAlias = Mapping[str, Float[np.ndarray, " _"]]


@dataclass(frozen=True)
class PredictiveChecks:
    """What tells generated data from real data that did not train the model, and what does not.

    Args:
        comparisons: Of each statistic, of the distance to the nearest training datum, and of each
            score.
        profiles: Of row and column means, or of the elements.
        spectrum: Of the covariance; None for data of which there are too few, or that do not vary.
        nearest: The training datum nearest to each generated datum.
        nearest_real: The training datum nearest to each real datum.
        told_apart: How well a classifier tells generated from real data, by their leading principal axes
            and their statistics; None for too few data.
        training_told_apart: The same of training data against the real ones, which should be near 0.5.
    """

    comparisons: tuple[Comparison, ...]
    profiles: tuple[ProfileComparison, ...] = ()
    spectrum: SpectrumComparison | None = None
    nearest: Nearest | None = None
    nearest_real: Nearest | None = None
    told_apart: TwoSampleTest | None = None
    training_told_apart: TwoSampleTest | None = None

    @cached_property
    def p_values(self) -> dict[str, float]:
        """Every p-value that was computed, by name."""
        named = [*self.comparisons, *self.profiles]
        others = {"spectrum": self.spectrum, "classifier": self.told_apart}
        return {check.name: check.p_value for check in named} | {
            name: check.p_value for name, check in others.items() if check is not None
        }

    @cached_property
    def furthest(self) -> Comparison:
        """The comparison with the largest Kolmogorov-Smirnov distance."""
        return max(self.comparisons, key=lambda comparison: comparison.ks_distance)

    @property
    def num_below(self) -> int:
        """How many p-values are below 0.05."""
        return sum(p < _LEVEL for p in self.p_values.values())

    @property
    def smallest_holm(self) -> float:
        """The smallest p-value after Holm's correction for their number."""
        return float(holm(np.array(list(self.p_values.values()))).min())

    def summary(self) -> dict[str, Any]:
        """Every p-value, what they come to, each check's own summary, and a reading."""
        return {
            "n_real": len(self.comparisons[0].real),
            "n_generated": len(self.comparisons[0].generated),
            "num_p_values": len(self.p_values),
            "num_p_values_below_0.05": self.num_below,
            "smallest_holm_p_value": finite(self.smallest_holm),
            "p_values": {name: finite(p) for name, p in self.p_values.items()},
            "furthest": self.furthest.name,
            "furthest_ks_distance": finite(self.furthest.ks_distance),
            "comparisons": {c.name: c.summary() for c in self.comparisons},
            "profiles": {p.name: p.summary() for p in self.profiles},
            "spectrum": None if self.spectrum is None else self.spectrum.summary(),
            "nearest_training": self._nearest_summary(),
            "classifier_auroc": None if self.told_apart is None else self.told_apart.best,
            "classifier_auroc_training": None
            if self.training_told_apart is None
            else self.training_told_apart.best,
            "verdicts": [self.verdict().summary()],
            "reading": self.reading(),
        }

    def verdict(self) -> Verdict:
        """Whether generated data are like the real ones."""
        return like_data(
            None if self.told_apart is None else self.told_apart.best,
            self.furthest.title,
            self.furthest.ks_distance,
            self.smallest_holm,
        )

    def reading(self) -> str:
        """How far generated data are from real ones, in what, and how many p-values say so."""
        worst, count = self.furthest, len(self.p_values)
        text = f"{self.verdict()} In {worst.title} generated data have {worst.direction()}. "
        if self.training_told_apart is not None:
            text += (
                f"The same classifier tells training from held-out data in {self.training_told_apart.best:.0%} "
                "of pairs. "
            )
        text += (
            f"{self.num_below} of {count} p-values are below {_LEVEL}, where a true model has "
            f"{_LEVEL * count:.1f} on average."
        )
        copies = self._copies()
        if copies is not None and copies > 2 * _LEVEL:
            text += (
                f" {copies:.0%} of the generated data are less than half as far from a training "
                f"{noun()} as the median test {noun()}: the model may copy its training data."
            )
        return text

    def _copies(self) -> float | None:
        """The excess share of generated data over real ones that lie very near a training datum."""
        if self.nearest is None or self.nearest_real is None:
            return None
        limit = _COPY_RATIO * float(np.median(self.nearest_real.distance))
        copied, chance = (
            float((d < limit).mean()) for d in (self.nearest.distance, self.nearest_real.distance)
        )
        return max(0.0, copied - chance)

    def _nearest_summary(self) -> dict[str, Any] | None:
        if self.nearest is None or self.nearest_real is None:
            return None
        return {
            "real_median": finite(np.median(self.nearest_real.distance)),
            "generated_median": finite(np.median(self.nearest.distance)),
            "generated_smallest": finite(self.nearest.distance.min()),
            "share_of_copies": finite(self._copies()),
        }


def predictive_checks(
    real: Real[np.ndarray, " n *event"],
    generated: Real[np.ndarray, " m *event"],
    train: Real[np.ndarray, " t *event"],
    *,
    support: str,
    scores: Mapping[str, tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]] | None = None,
    labels: Mapping[str, str] | None = None,
    statistics: tuple[MeasuredStatistics, MeasuredStatistics] | None = None,
    seed: int = 0,
) -> PredictiveChecks:
    """T(x), x ~ data, against T(x'), x' ~ p(x | z), z ~ p(z), for a family of statistics T.

    The statistics are those of `statistics_for`, the distance to the nearest training datum, and any
    scores; then the means of `profiles_for` and the spectrum of the covariance. Distances and
    spectrum of counts are those of log(1 + x), or a few large counts would be all there is to see;
    those of columns in different units, and their statistics, are of standardised ones.

    Args:
        real: Data that did not train the model.
        generated: New data from the model, `analysis.predictive.model_samples.new_data`.
        train: Its training data, without the real ones.
        support: "binary", "unit", "integers", "counts" or "real".
        scores: Of real and of generated data by name, such as the ELBO; the numbers of data may be
            others.
        labels: What the scores are, for axes, "name: explanation"; their names, if not given.
        statistics: The statistics of real and of generated data, if they are measured already.
        seed: The seed of ties, permutations, and data chosen.

    Returns:
        Every p-value computed, and effect sizes. Read those first: with enough data every wrong
        model is rejected.

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
    comparisons = compare_statistics(real, generated, family, statistics, seed=seed)
    near_real, near = (
        nearest_training(data, train, transform=transform) for data in (real, generated)
    )
    given = dict(scores or {})
    taken = given.keys() & {"nearest_training", "spectrum", *(s.name for s in family)}
    if taken:
        raise ValueError(f"scores must have names of their own, got {', '.join(sorted(taken))}.")
    measure = f"distance to the nearest training {noun()}: rms" + (
        " of log(1 + x)" if support == "counts" else " of standardised elements" if scaled else ""
    )
    more = [
        compare_scores(
            "nearest_training", near_real.distance, near.distance, label=measure, seed=seed
        ),
        *(
            compare_scores(name, *pair, label=(labels or {}).get(name, ""), seed=seed)
            for name, pair in given.items()
        ),
    ]
    profiles = [
        compare_profiles(
            profile.name,
            *(
                np.concatenate([profile.measure(block) for block in blocks(data)])
                for data in (real, generated)
            ),
            label=profile.label,
            seed=seed,
        )
        for profile in profiles_for(real.shape[1:])
    ]
    spectrum = compare_spectra(
        *(data.reshape(len(data), -1) for data in (real, generated)),
        seed=seed,
        transform=transform,
    )
    of_new, of_training = _told_apart(
        (real, generated, train), statistics or (None, None), family, transform, seed
    )
    return PredictiveChecks(
        (*comparisons, *more), tuple(profiles), spectrum, near, near_real, of_new, of_training
    )


def _told_apart(
    samples: tuple[np.ndarray, np.ndarray, np.ndarray],
    given: tuple[MeasuredStatistics | None, MeasuredStatistics | None],
    family: Sequence[Statistic],
    transform: Callable[[np.ndarray], np.ndarray] | None,
    seed: int,
) -> tuple[TwoSampleTest | None, TwoSampleTest | None]:
    """A classifier of generated, and of training data, against real ones.

    It sees the statistics, and the coordinates on the leading principal axes of all data together, which
    do not know who is real.
    """
    from sklearn.utils.extmath import randomized_svd

    if min(map(len, samples[:2])) < MIN_DRAWS:
        return None, None
    chosen = [spread_rows(len(x), MOST_CLASSIFIED) for x in samples]
    taken = [x[rows] for x, rows in zip(samples, chosen, strict=True)]
    flat = np.concatenate([x.reshape(len(x), -1) for x in taken]).astype(np.float64)
    flat = flat if transform is None else transform(flat)
    flat -= flat.mean(0)
    if not is_image(samples[0].shape[1:]):
        # Columns of a table have units of their own.
        scale = flat.std(0)
        flat /= np.where(scale > 0, scale, 1.0)
    left, scale, _ = randomized_svd(flat, min(_AXES, *flat.shape), random_state=seed)
    measures = [
        measured(x, family)
        if values is None
        else {name: column[rows] for name, column in values.items()}
        for x, values, rows in zip(taken, (*given, None), chosen, strict=True)
    ]
    columns = [np.concatenate([each[s.name] for each in measures]) for s in family]
    features = np.nan_to_num(np.column_stack([left * scale, *columns]))
    real, generated, train = np.split(features, np.cumsum([len(x) for x in taken])[:2])
    return (
        two_sample_test(generated, real, seed=seed),
        two_sample_test(train, real, seed=seed) if len(train) >= MIN_DRAWS else None,
    )


def spread_rows(n: int, most: int) -> Int[np.ndarray, " rows"]:
    """At most so many rows of n, evenly spread."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def compare_statistics(
    real: Real[np.ndarray, " n *event"],
    generated: Real[np.ndarray, " m *event"],
    statistics: Sequence[Statistic],
    given: tuple[MeasuredStatistics, MeasuredStatistics] | None = None,
    *,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """`compare_scores` of each statistic, in order.

    Args:
        real: Data that did not train the model.
        generated: New data from the model.
        statistics: From `statistics_for`.
        given: Their values of real and of generated data, if they are measured already.
        seed: The seed of the ties.
    """
    of_real, of_generated = given or (measured(data, statistics) for data in (real, generated))
    return tuple(
        compare_scores(s.name, of_real[s.name], of_generated[s.name], label=s.label, seed=seed)
        for s in statistics
    )
