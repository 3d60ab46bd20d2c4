"""Overfitting of the decoder and of the encoder: the same numbers on training and on test data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.check import Check, Plot
from analysis.model_samples import to_array
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.result import Result
from analysis.subject import Subject
from analysis.verdicts import CLEAR, DECODER, ENCODER, MOST_KHATS_ABOVE, Verdict, judge_overfitting
from pyro_vae.compilation.fast_functions import FastFunctions
from pyro_vae.data.nouns import noun
from pyro_vae.evidence import NoLocalGuideError, fixed_rows, importance_weighting, inference_gaps
from pyro_vae.evidence.baseline_densities import independent_density, negative_binomial_log_density
from pyro_vae.evidence.baselines import Baseline
from pyro_vae.rng import evaluation_mode
from pyro_vae.statistics import khat_threshold, standard_error

if TYPE_CHECKING:
    import matplotlib.figure


# Draws per example in a diagnosis: the bias of few draws cancels in the difference.
NUM_SAMPLES = 200
# Fits of a density without latent variables, and training examples for each at most.
FOLDS, REFERENCE_DATA = 5, 10_000
# The fraction of a difference that a reference may miss.
REMAINDER = 0.02
# Number of sizes of a row of counts.
SIZES = 40

LABELS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "reconstruction": "reconstruction",
    "rate": "rate",
    "inference": "inference gap",
    "approximation": "approximation gap",
    "amortisation": "amortisation gap",
    "khat_above": "share of k-hats above",
    "reference": "log p(x) of the reference",
}
_GAPS = ("approximation", "amortisation")


@dataclass(frozen=True)
class Generalisation(Result):
    """Numbers of each training and each test example, in nats except for `khat_above`.

    log p(x) - ELBO = inference gap = approximation gap + amortisation gap. The first is of all
    examples, by importance weighting with the encoder's guide; the other two are of fewer, with
    guides fitted to each.

    Args:
        train: The numbers by name, of the training data.
        test: The same names, of the test data.
        num_samples: The number of draws per example.
        left_out: Why the gaps are missing; None if they are not.
        trust: `InferenceGaps.trust` of the gaps on training and on test data.
        withheld: Why rounding errors allow no verdict; None where they are small.
        reference: The name of a density without latent variables, whose log p_0(x) of the same
            data, to none of which it was fitted, is among the numbers as "reference". None without
            one.
    """

    train: Mapping[str, Float[np.ndarray, " _"]]
    test: Mapping[str, Float[np.ndarray, " _"]]
    num_samples: int
    left_out: str | None
    trust: tuple[str, ...] = ()
    withheld: str | None = None
    reference: str | None = None

    FIELDS = ("num_samples", "reference")

    @property
    def slope(self) -> float:
        """b of log p(x) = a + b log p_0(x) within each split; 0 without a reference."""
        if self.reference is None:
            return 0.0
        pairs = [
            [values - values.mean() for values in (split["log_evidence"], split["reference"])]
            for split in (self.train, self.test)
        ]
        products = sum(float(p @ r) for p, r in pairs)
        squares = sum(float(r @ r) for _, r in pairs)
        return products / squares if squares > 0 and math.isfinite(products) else 0.0

    def adjusted(self) -> tuple[float, float]:
        """The difference of log p(x) - b log p_0(x), training minus test, and its standard error.

        Larger or rarer rows are harder for any density. With the reference as a control variate
        (an analysis of covariance) the model's own difference is left, except for a fiftieth of
        what the reference removes, which is added to the error.
        """
        if self.reference is None:
            return self.difference("log_evidence")
        splits = [
            split["log_evidence"] - self.slope * split["reference"]
            for split in (self.train, self.test)
        ]
        difference, error = _difference(*splits)
        removed = self.difference("log_evidence")[0] - difference
        return difference, math.hypot(error, REMAINDER * removed)

    def above_reference(self) -> dict[str, float | None] | None:
        """The mean of log p(x) - log p_0(x) over test data, with its standard error."""
        if self.reference is None:
            return None
        differences = self.test["log_evidence"] - self.test["reference"]
        error = standard_error(differences)
        return {"difference": float(differences.mean()), "difference_se": error}

    def difference(self, name: str) -> tuple[float, float]:
        """The mean on training data minus that on test data, and its standard error.

        Training and test data are independent: their errors add in squares. NaN for one example.
        """
        return _difference(self.train[name], self.test[name])

    def clearly_above(self, name: str, sign: int) -> bool:
        """Whether training data are above (1) or below (-1) test data by two standard errors."""
        difference, error = self.difference(name)
        return sign * difference > CLEAR * error

    def extra(self) -> Mapping[str, Any]:
        """Means and standard errors on both splits, and their difference, in nats per example."""
        terms = {}
        for name in self.train:
            difference, error = self.difference(name)
            terms[name] = {"difference": difference, "difference_se": error}
            for split, values in (("train", self.train[name]), ("test", self.test[name])):
                keys = (split, f"{split}_se", f"n_{split}")
                numbers = (values.mean(), standard_error(values), len(values))
                terms[name] |= dict(zip(keys, numbers, strict=True))
        difference, error = self.adjusted()
        return {
            "terms": terms,
            "gaps_left_out": self.left_out,
            "gaps_trust": self.trust,
            "adjusted": {"slope": self.slope, "difference": difference, "difference_se": error},
            "above_reference": self.above_reference(),
            "verdicts": [],
        }

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether decoder and encoder do worse on test data than on training data."""
        if self.withheld:
            return ()
        what = "log p(x) of training less test data"
        if self.reference is not None:
            what += f", adjusted by that of {self.reference} on the same data,"
        name = "inference" if self.left_out else "amortisation"
        gap, gap_error = self.difference(name)
        return (
            judge_overfitting(DECODER, what, *self.adjusted()),
            judge_overfitting(
                ENCODER, f"the {LABELS[name]} of test less training data", -gap, gap_error
            ),
        )

    def reading(self) -> str:
        """The verdicts, why the gap is not decomposed, and a warning of high k-hats."""
        if self.withheld:
            return self.withheld
        sentences = [super().reading()]
        if self.left_out:
            sentences.append(f"The gap is not decomposed: {self.left_out}")
        shares = [split.get("khat_above", np.zeros(1)).mean() for split in (self.train, self.test)]
        if max(shares) > MOST_KHATS_ABOVE:
            sentences.append(
                f"k-hat is high for {shares[0]:.0%} of training and {shares[1]:.0%} of test data, "
                "whose log p(x) is too low: part of a difference may be the guide's."
            )
        return " ".join(sentences)


def _difference(
    train: Float[np.ndarray, " _"], test: Float[np.ndarray, " _"]
) -> tuple[float, float]:
    errors = [standard_error(values) for values in (train, test)]
    error = math.nan if None in errors else math.hypot(*(e for e in errors if e is not None))
    return float(train.mean() - test.mean()), error


def generalisation(
    vae: Any,
    x_train: Real[Tensor, " n *event"],
    x_test: Real[Tensor, " m *event"],
    *,
    num_samples: int = 500,
    num_data: int = 500,
    gap_steps: int = 300,
    num_gap_data: int = 64,
    support: str | None = None,
    seed: int = 0,
) -> Generalisation:
    """log p(x), the ELBO with its terms, and the inference gaps, on training and on test data.

    The decoder overfits if log p(x) is lower on test data by more than the rows themselves
    explain, as judged by a density without latent variables (`Generalisation.adjusted`); the
    encoder if the amortisation gap, its loss against a guide of its own family fitted to the
    example, is larger there.

    Args:
        vae: A program with `model(x)` and `guide(x)`.
        x_train: Training data in the likelihood's support, on the program's device, binarised or
            dequantised as the test data are.
        x_test: Test data.
        num_samples: The number of draws from the guide per example.
        num_data: The number of examples of each split at most, always the same ones.
        gap_steps: The steps of Adam to each example's own guide.
        num_gap_data: The number of those examples with their own guide at most.
        support: The data's support, "binary", "unit", "integers", "counts" or "real", to compare
            log p(x) with that of a density without latent variables. None for no reference.
        seed: The seed of the draws. The global random state is not changed.

    Raises:
        ValueError: If a split has no data, or an option is out of its range.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018),
        https://arxiv.org/abs/1801.03558; On the Quantitative Analysis of Decoder-Based Generative
        Models (Wu et al., 2017), https://arxiv.org/abs/1611.04273
    """
    for word, value in (("num_data", num_data), ("num_gap_data", num_gap_data)):
        if value < 1:
            raise ValueError(f"{word} must be at least 1, got {value}.")
    splits: list[dict[str, np.ndarray]] = []
    left_out: str | None = None
    trust: list[str] = []
    withheld: str | None = None
    for x in (x_train, x_test):
        rows = x[fixed_rows(len(x), num_data)]
        with evaluation_mode(vae, seed=seed):
            weighted = importance_weighting(vae.model, vae.guide, rows, num_samples=num_samples)
        found = {
            "log_evidence": weighted.log_evidence,
            "elbo": weighted.elbo,
            "reconstruction": weighted.reconstruction,
            "rate": weighted.kl,
            "inference": weighted.log_evidence - weighted.elbo,
        }
        withheld = withheld or weighted.withheld
        if weighted.khat is not None:
            found["khat_above"] = (weighted.khat > khat_threshold(num_samples)).astype(np.float64)
        if left_out is None:
            try:
                gaps = inference_gaps(
                    vae,
                    rows[fixed_rows(len(rows), num_gap_data)],
                    steps=gap_steps,
                    num_samples=num_samples,
                    seed=seed,
                )
                found |= {name: getattr(gaps, name) for name in _GAPS}
                trust.append(gaps.trust())
            except NoLocalGuideError as error:
                left_out = str(error)
        splits.append(found)
    train, test = splits
    reference = None
    if support is not None and len(x_train) > 1:
        reference, train["reference"], test["reference"] = _reference(
            vae, x_train, x_test, num_data, support
        )
    return Generalisation(train, test, num_samples, left_out, tuple(trust), withheld, reference)


def reference_log_density(
    train: Real[np.ndarray, " n *event"],
    rows: Int[np.ndarray, " k"],
    test: Real[np.ndarray, " m *event"],
    fit: Callable[[np.ndarray], Baseline],
) -> tuple[str, Float[np.ndarray, " k"], Float[np.ndarray, " m"]]:
    """log p_0(x) of some training rows and of test data by fits that did not see them.

    Each fifth of the rows is scored by a density fitted to the other training data, and test data
    by the mean of the five: neither contains the overfitting of the reference itself.

    Args:
        train: Training data.
        rows: The rows to score.
        test: Test data.
        fit: Fits a density without latent variables to training data.
    """
    name, of_train, of_test = "", np.empty(len(rows)), np.zeros(len(test))
    folds = min(FOLDS, len(train))
    for fold in range(folds):
        scored = np.arange(len(rows)) % folds == fold
        density = fit(np.delete(train, rows[scored], axis=0))
        name = density.name
        of_train[scored] = density.log_density(train[rows[scored]])
        of_test += density.log_density(test) / folds
    return name, of_train, of_test


def _reference(
    vae: Any, x_train: Tensor, x_test: Tensor, num_data: int, support: str
) -> tuple[str, np.ndarray, np.ndarray]:
    known = fixed_rows(len(x_train), max(num_data, REFERENCE_DATA))
    rows = fixed_rows(len(x_train), num_data)
    place = np.searchsorted(known.numpy(), rows.numpy())
    train, test = (
        to_array(x[chosen.to(x.device)]).reshape(len(chosen), -1)
        for x, chosen in ((x_train, known), (x_test, fixed_rows(len(x_test), num_data)))
    )
    likelihood = getattr(vae, "likelihood", None)
    given_total = bool(getattr(likelihood, "given_total", False))
    levels = getattr(likelihood, "levels", None) if support == "integers" else None

    def fit(x: np.ndarray) -> Baseline:
        if support == "counts" and not given_total:
            return sized_counts(x, np.concatenate([train.sum(1), test.sum(1)]))
        return independent_density(x, support, levels=levels, given_total=given_total)

    return reference_log_density(train, place, test, fit)


def sized_counts(train: Real[np.ndarray, "n genes"], totals: Real[np.ndarray, " _"]) -> Baseline:
    """log 1/S sum_s prod_i NB(x_i | mean s m_i, dispersion r_i): counts of rows of any size s.

    Without a size, a row larger than all others would look worse to the reference than to any
    model with a latent variable. There are S sizes from the smallest to the largest total, evenly
    on a logarithmic scale; m_i and r_i are estimated by moments.

    Args:
        train: Counts.
        totals: The totals of all rows that may be scored.
    """
    average = max(train.sum(1).mean(), 1e-12)
    size = train.sum(1) / average
    mean = np.maximum(train.sum(0) / size.sum(), 1 / len(train))
    expected = size[:, None] * mean
    excess = np.square(train - expected).sum(0) - expected.sum(0)
    largest = np.square(expected).sum(0)
    dispersion = np.clip(largest / np.maximum(excess, 1e-5 * largest), 1e-3, 1e5)
    ends = np.maximum(np.array([totals.min(), totals.max()]) / average, 1e-3)
    sizes = np.geomspace(*ends, SIZES)
    return Baseline(
        "a negative binomial for each element, of any size",
        lambda x: negative_binomial_log_density(x.astype(np.int64), mean, dispersion, sizes),
    )


def plot_generalisation(result: Generalisation) -> "matplotlib.figure.Figure":
    """Each number's mean on training minus that on test data, and the gaps on both.

    The bars are two standard errors over examples.
    """
    figure = new_figure(11.0, 4.0)
    left, right = figure.subplots(1, 2)
    names = ("log_evidence", "reference", "elbo", "reconstruction", "rate")
    levels = [name for name in names if name in result.train]
    for place, name in enumerate(levels):
        difference, error = result.difference(name)
        left.errorbar(difference, place, xerr=2 * error, fmt="o", color=BLUE, capsize=3)
    difference, error = result.difference("log_evidence")
    title = f"log p(x), training less test: {difference:+.2f} ± {error:.2f} nats"
    if result.reference is not None:
        difference, error = result.adjusted()
        title += f"\nadjusted by the reference: {difference:+.2f} ± {error:.2f}"
    left.axvline(0, color=GREY, linestyle="--")
    left.set(xlabel=f"training less test data, nats per {noun()}", title=title)
    gaps = [name for name in ("inference", *_GAPS) if name in result.train]
    for split, colour, name, offset in (
        (result.train, BLUE, "training", -0.1),
        (result.test, ORANGE, "test", 0.1),
    ):
        errors = [2 * (standard_error(split[gap]) or 0.0) for gap in gaps]
        means, places = [split[gap].mean() for gap in gaps], np.arange(len(gaps)) + offset
        style = {"fmt": "o", "color": colour, "capsize": 3, "label": name}
        right.errorbar(means, places, xerr=errors, **style)
    right.set(
        xlabel=f"nats per {noun()}", title="An encoder that overfits loses more on test data"
    )
    sizes = [f"\n{len(result.train[gap])} and {len(result.test[gap])} data" for gap in gaps]
    for ax, shown, notes in ((left, levels, [""] * len(levels)), (right, gaps, sizes)):
        labels = [LABELS[name] + note for name, note in zip(shown, notes, strict=True)]
        ax.set_yticks(range(len(shown)), labels)
        ax.set_ylim(len(shown) - 0.5, -0.5)
    right.set_xlim(left=min(0.0, right.get_xlim()[0]))
    right.legend(frameon=False)
    tidy([left, right], grid="x")
    figure.suptitle(
        f"Training against test data, {len(result.train['elbo'])} and {len(result.test['elbo'])}: "
        "means with two standard errors"
    )
    return figure


def _compute(subject: Subject) -> Generalisation:
    with FastFunctions():
        return generalisation(
            subject.vae,
            subject.train.to(subject.x.device),
            subject.x,
            num_samples=min(NUM_SAMPLES, subject.num_samples),
            support=subject.support,
            seed=subject.seed_of("generalisation"),
        )


GENERALISATION = Check(
    "generalisation",
    _compute,
    plots=(
        Plot(
            "generalisation",
            "How much better are training data modelled than test data?",
            lambda result, _: plot_generalisation(result),
        ),
    ),
)
