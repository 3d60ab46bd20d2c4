"""Overfitting, of the decoder and of the encoder: the same numbers on training and on test data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.predictive.model_samples import to_array
from analysis.verdicts import CLEAR, DECODER, ENCODER, MOST_KHATS_ABOVE, Verdict, overfits
from pyro_vae.data.nouns import noun
from pyro_vae.evidence import (
    NoLocalGuideError,
    fixed_rows,
    importance_weighting,
    inference_gaps,
)
from pyro_vae.evidence.baseline_densities import independent_density, negative_binomial_log_density
from pyro_vae.evidence.baselines import Baseline
from pyro_vae.evidence.numbers import finite
from pyro_vae.rng import evaluation_mode
from pyro_vae.statistics import khat_threshold, standard_error

if TYPE_CHECKING:
    import matplotlib.figure

# Fits of a density without latent variables, and the training data that each sees at most.
FOLDS, REFERENCE_DATA = 5, 10_000
# The share of a difference that a reference may miss.
REMAINDER = 0.02
# Sizes of a row of counts.
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
class Generalisation:
    """What each of some numbers is for each training and each test datum, in nats but `khat_above`.

    log p(x) - ELBO = inference gap = approximation gap + amortisation gap, of which the first is of
    all data by importance weighting with the encoder's guide, and the other two are of fewer, with
    guides fitted to each.

    Args:
        train: By name, of the training data.
        test: The same names, of the test data.
        num_samples: The number of draws for each datum.
        left_out: Why the gaps are missing; None if they are not.
        trust: What `InferenceGaps.trust` says of the gaps on training and on test data.
        withheld: Why rounding errors allow no verdict; None where they are small.
        reference: A density without latent variables, whose "reference" is among the numbers: log p_0(x) of
            the same data, none of which it was fitted to. None without one.
    """

    train: Mapping[str, Float[np.ndarray, " _"]]
    test: Mapping[str, Float[np.ndarray, " _"]]
    num_samples: int
    left_out: str | None
    trust: tuple[str, ...] = ()
    withheld: str | None = None
    reference: str | None = None

    @property
    def slope(self) -> float:
        """b of log p(x) = a + b log p_0(x) within each split: what is easy for both. 0 without a reference."""
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
        """The difference of log p(x) - b log p_0(x), training less test, and its standard error.

        Rows that are larger or rarer are harder for any density. With the reference as a control variate
        (an analysis of covariance) what is left is the model's own, but for a fiftieth of what the reference
        takes away, which counts as an error.
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

    def difference(self, name: str) -> tuple[float, float]:
        """The mean on training data less that on test data, and its standard error.

        The data are different ones, so that their errors add in squares. NaN for one datum.
        """
        return _difference(self.train[name], self.test[name])

    def clearly_above(self, name: str, sign: int) -> bool:
        """Whether training data are above (sign 1), or below (-1), test data by two standard errors."""
        difference, error = self.difference(name)
        return sign * difference > CLEAR * error

    def summary(self) -> dict[str, Any]:
        """Means and standard errors on both, and their difference, in nats per datum."""
        terms = {}
        for name in self.train:
            difference, error = self.difference(name)
            terms[name] = {
                "train": finite(self.train[name].mean()),
                "train_se": finite(standard_error(self.train[name])),
                "test": finite(self.test[name].mean()),
                "test_se": finite(standard_error(self.test[name])),
                "difference": finite(difference),
                "difference_se": finite(error),
                "n_train": len(self.train[name]),
                "n_test": len(self.test[name]),
            }
        return {
            "num_samples": self.num_samples,
            "terms": terms,
            "gaps_left_out": self.left_out,
            "gaps_trust": list(self.trust),
            "reference": self.reference,
            "adjusted": {
                "slope": self.slope,
                **dict(
                    zip(("difference", "difference_se"), map(finite, self.adjusted()), strict=True)
                ),
            },
            "verdicts": [] if self.withheld else [each.summary() for each in self.verdicts()],
            "reading": self.reading(),
        }

    def verdicts(self) -> tuple[Verdict, Verdict]:
        """Whether decoder and encoder do worse on test data than on training data."""
        difference, error = self.adjusted()
        what = "log p(x) of training less test data"
        if self.reference is not None:
            what += f", adjusted by that of {self.reference} on the same data,"
        name = "inference" if self.left_out else "amortisation"
        gap, gap_error = self.difference(name)
        return (
            overfits(DECODER, what, difference, error),
            overfits(ENCODER, f"the {LABELS[name]} of test less training data", -gap, gap_error),
        )

    def reading(self) -> str:
        """Whether decoder and encoder do worse on test data than on training data."""
        if self.withheld:
            return self.withheld
        decoder, encoder = self.verdicts()
        sentences = [str(decoder)]
        if self.reference is not None and decoder.answer != "not known":
            raw, raw_error = self.difference("log_evidence")
            of_reference, _ = self.difference("reference")
            sentences.append(
                f"Without that adjustment it is {raw:+.2f} ± {raw_error:.2f}; the reference, fitted to "
                f"other training data, differs by {of_reference:+.2f}: so much harder are the test data for it."
            )
        if decoder.answer == "yes":
            sentences.append("Stop earlier, take a smaller network, or use more data.")
        sentences.append(str(encoder))
        if encoder.answer == "yes":
            sentences.append(f"Regularise it, or refine its answer for each test {noun()}.")
        if self.left_out:
            sentences.append(f"The gap is not taken apart: {self.left_out}")
        if "khat_above" in self.train:
            shares = [split["khat_above"].mean() for split in (self.train, self.test)]
            if max(shares) > MOST_KHATS_ABOVE:
                sentences.append(
                    f"With {self.num_samples} draws each, k-hat is high for {shares[0]:.0%} of training and {shares[1]:.0%} of test data, whose log p(x) is "
                    "too low: part of a difference may be the guide's."
                )
        return " ".join(sentences)


def _difference(
    train: Float[np.ndarray, " _"], test: Float[np.ndarray, " _"]
) -> tuple[float, float]:
    errors = [standard_error(values) for values in (train, test)]
    error = math.nan if None in errors else math.hypot(*(e for e in errors if e is not None))
    return float(train.mean() - test.mean()), error


def reference_log_density(
    train: Real[np.ndarray, " n *event"],
    rows: Int[np.ndarray, " k"],
    test: Real[np.ndarray, " m *event"],
    fit: Callable[[np.ndarray], Baseline],
) -> tuple[str, Float[np.ndarray, " k"], Float[np.ndarray, " m"]]:
    """log p_0(x) of some training rows and of test data by fits that did not see them.

    Each fifth of the rows is scored by a density that is fitted to the other training data, and test data
    by the mean of the five: what the reference itself overfits is in neither.

    Args:
        train: Training data.
        rows: The rows that are scored.
        test: Test data.
        fit: A density without latent variables from training data.
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

    The decoder overfits if log p(x) is lower on test data by more than the rows themselves explain, as a
    density without latent variables sees them (`Generalisation.adjusted`); the encoder if the amortisation gap, what
    it loses to a guide of its own family fitted to the datum, is larger there.

    Args:
        vae: A program with `model(x)` and `guide(x)`.
        x_train: Training data in the likelihood's support, on the program's device, binarised or
            dequantised as the test data are.
        x_test: Test data.
        num_samples: The number of draws from the guide for each datum.
        num_data: The number of data of each split, at most, always the same ones.
        gap_steps: The steps of Adam to each datum's own guide.
        num_gap_data: The number of those data that get one, at most.
        support: Of the data, "binary", "unit", "integers", "counts" or "real": log p(x) is then judged beside
            that of a density without latent variables. None for no reference.
        seed: The seed of the draws. The global random stream does not move.

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
    reasons: list[str | None] = []
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
        reasons.append(weighted.withheld)
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
    reference = None
    if support is not None and len(x_train) > 1:
        reference, *scores = _reference(vae, x_train, x_test, num_data, support)
        for split, values in zip(splits, scores, strict=True):
            split["reference"] = values
    reason = next(filter(None, reasons), None)
    return Generalisation(
        splits[0], splits[1], num_samples, left_out, tuple(trust), reason, reference
    )


def _reference(
    vae: Any, x_train: Tensor, x_test: Tensor, num_data: int, support: str
) -> tuple[str, np.ndarray, np.ndarray]:
    """The name of `independent_density`, and its log density of the rows that are evaluated."""
    known = fixed_rows(len(x_train), max(num_data, REFERENCE_DATA))
    rows = fixed_rows(len(x_train), num_data)
    place = np.searchsorted(known.numpy(), rows.numpy())
    train, test = (
        to_array(x[chosen.to(x.device)]).reshape(len(chosen), -1)
        for x, chosen in ((x_train, known), (x_test, fixed_rows(len(x_test), num_data)))
    )
    likelihood = getattr(vae, "likelihood", None)
    given_total = bool(getattr(likelihood, "given_total", False))
    if support == "counts" and not given_total:
        totals = np.concatenate([train.sum(1), test.sum(1)])
        return reference_log_density(train, place, test, lambda x: sized_counts(x, totals))
    levels = getattr(likelihood, "levels", None) if support == "integers" else None
    return reference_log_density(
        train,
        place,
        test,
        lambda x: independent_density(x, support, levels=levels, given_total=given_total),
    )


def sized_counts(train: Real[np.ndarray, "n genes"], totals: Real[np.ndarray, " _"]) -> Baseline:
    """log 1/S sum_s prod_i NB(x_i | mean s m_i, dispersion r_i): counts of rows of any size s.

    Without a size, a row larger than all others would look worse to the reference than to any model that
    has a latent variable. The sizes are S from the smallest to the largest total, evenly on a logarithmic
    scale; m_i and r_i are found by moments.

    Args:
        train: Counts.
        totals: The totals of all rows that may be scored.
    """
    size = train.sum(1) / max(train.sum(1).mean(), 1e-12)
    mean = np.maximum(train.sum(0) / size.sum(), 1 / len(train))
    expected = size[:, None] * mean
    excess = np.square(train - expected).sum(0) - expected.sum(0)
    largest = np.square(expected).sum(0)
    dispersion = np.clip(largest / np.maximum(excess, 1e-5 * largest), 1e-3, 1e5)
    ends = np.maximum(
        np.array([totals.min(), totals.max()]) / max(train.sum(1).mean(), 1e-12), 1e-3
    )
    sizes = np.geomspace(*ends, SIZES)
    return Baseline(
        "a negative binomial for each element, of any size",
        lambda x: negative_binomial_log_density(x.astype(np.int64), mean, dispersion, sizes),
    )


def plot_generalisation(result: Generalisation) -> "matplotlib.figure.Figure":
    """Each number's mean on training less that on test data, and the gaps on both.

    The bars are two standard errors from the choice of data.
    """
    figure = new_figure(11.0, 4.0)
    left, right = figure.subplots(1, 2)
    names = ("log_evidence", "reference", "elbo", "reconstruction", "rate")
    levels = [name for name in names if name in result.train]
    for place, name in enumerate(levels):
        difference, se = result.difference(name)
        left.errorbar(difference, place, xerr=2 * se, fmt="o", color=BLUE, capsize=3)
    log_evidence, error = result.difference("log_evidence")
    adjusted = ""
    if result.reference is not None:
        adjusted = f"\nadjusted by the reference: {result.adjusted()[0]:+.2f} ± {result.adjusted()[1]:.2f}"
    left.axvline(0, color=GREY, linestyle="--")
    left.set(
        yticks=range(len(levels)),
        yticklabels=[LABELS[name] for name in levels],
        ylim=(len(levels) - 0.5, -0.5),
        xlabel=f"training less test data, nats per {noun()}",
        title=f"log p(x), training less test: {log_evidence:+.2f} ± {error:.2f} nats{adjusted}",
    )
    gaps = [name for name in ("inference", *_GAPS) if name in result.train]
    for split, colour, name, moved in (
        (result.train, BLUE, "training", -0.1),
        (result.test, ORANGE, "test", 0.1),
    ):
        means = [split[gap].mean() for gap in gaps]
        errors = [2 * (standard_error(split[gap]) or 0.0) for gap in gaps]
        right.errorbar(
            means,
            np.arange(len(gaps)) + moved,
            xerr=errors,
            fmt="o",
            color=colour,
            capsize=3,
            label=name,
        )
    right.set(
        yticks=range(len(gaps)),
        yticklabels=[
            f"{LABELS[gap]}\n{len(result.train[gap])} and {len(result.test[gap])} data"
            for gap in gaps
        ],
        ylim=(len(gaps) - 0.5, -0.5),
        xlabel=f"nats per {noun()}",
        title="An encoder that overfits loses more on test data",
    )
    right.set_xlim(left=min(0.0, right.get_xlim()[0]))
    right.legend(frameon=False)
    tidy([left, right], grid="x")
    figure.suptitle(
        f"Training against test data, {len(result.train['elbo'])} and {len(result.test['elbo'])}: "
        "means with two standard errors"
    )
    return figure
