"""Overfitting, of the decoder and of the encoder: the same numbers on training and on test data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from analysis.canvas import BLUE, GREY, ORANGE, new_figure, tidy
from analysis.guide import MOST_KHATS_ABOVE
from pyro_vae.evaluating import evaluating
from pyro_vae.evidence import (
    NoLocalGuideError,
    fixed_rows,
    importance_weighting,
    inference_gaps,
)
from pyro_vae.evidence.numbers import finite, standard_error
from pyro_vae.statistics import khat_threshold

if TYPE_CHECKING:
    import matplotlib.figure

# So many standard errors make a difference worth naming.
CLEAR = 2.0

LABELS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "reconstruction": "reconstruction",
    "rate": "rate",
    "inference": "inference gap",
    "approximation": "approximation gap",
    "amortisation": "amortisation gap",
    "khat_above": "share of k-hats above",
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
    """

    train: Mapping[str, Float[np.ndarray, " _"]]
    test: Mapping[str, Float[np.ndarray, " _"]]
    num_samples: int
    left_out: str | None
    trust: tuple[str, ...] = ()
    withheld: str | None = None

    def difference(self, name: str) -> tuple[float, float]:
        """The mean on training data less that on test data, and its standard error.

        The data are different ones, so that their errors add in squares. NaN for one datum.
        """
        train, test = self.train[name], self.test[name]
        errors = [standard_error(values) for values in (train, test)]
        error = math.nan if None in errors else math.hypot(*(e for e in errors if e is not None))
        return float(train.mean() - test.mean()), error

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
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether decoder and encoder do worse on test data than on training data."""
        if self.withheld:
            return self.withheld
        sentences = []
        seen = f"log p(x) of training less test data is {self._said('log_evidence', 1)}"
        if not self._judged("log_evidence"):
            sentences.append(f"Overfitting of the decoder cannot be judged: {seen}.")
        elif self.clearly_above("log_evidence", 1):
            sentences.append(
                f"The decoder overfits: {seen}; stop earlier, make it smaller, or use more data."
            )
        elif self.clearly_above("log_evidence", -1):
            sentences.append(
                f"No overfitting of the decoder is seen: {seen}, so that the test data are the easier "
                "ones for this model."
            )
        else:
            sentences.append(f"No overfitting of the decoder is seen: {seen}.")
        name = "inference" if self.left_out else "amortisation"
        seen = f"the {LABELS[name]} of test less training data is {self._said(name, -1)}"
        if not self._judged(name):
            sentences.append(f"Overfitting of the encoder cannot be judged: {seen}.")
        elif self.clearly_above(name, -1):
            sentences.append(
                f"The encoder overfits: {seen}; regularise it, or refine its answer for each test datum."
            )
        else:
            sentences.append(f"No overfitting of the encoder is seen: {seen}.")
        if self.left_out:
            sentences.append(f"The gap is not taken apart: {self.left_out}")
        if "khat_above" in self.train:
            shares = [split["khat_above"].mean() for split in (self.train, self.test)]
            if max(shares) > MOST_KHATS_ABOVE:
                sentences.append(
                    f"k-hat is high for {shares[0]:.0%} of training and {shares[1]:.0%} of test data, whose "
                    "log p(x) is too low: a difference there may be the guide's."
                )
        return " ".join(sentences)

    def _judged(self, name: str) -> bool:
        """Whether a difference and its error are numbers."""
        return all(math.isfinite(value) for value in self.difference(name))

    def _said(self, name: str, sign: int) -> str:
        """A difference with its sign and error, and what it is if nothing is seen."""
        if not self._judged(name):
            return "not finite, or of one datum, which has no standard error"
        difference, error = self.difference(name)
        said = f"{sign * difference:+.2f} ± {error:.2f} nats"
        if abs(difference) <= CLEAR * error:
            said += " (above 0 is overfitting; 0 is within two standard errors)"
        elif sign * difference < 0:
            said += " (above 0 would be overfitting)"
        return said


def generalisation(
    vae: Any,
    x_train: Real[Tensor, " n *event"],
    x_test: Real[Tensor, " m *event"],
    *,
    num_samples: int = 500,
    num_data: int = 500,
    gap_steps: int = 300,
    num_gap_data: int = 64,
    seed: int = 0,
) -> Generalisation:
    """log p(x), the ELBO with its terms, and the inference gaps, on training and on test data.

    The decoder overfits if log p(x) is lower on test data; the encoder if the amortisation gap, what
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
        with evaluating(vae, seed=seed):
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
    reason = next(filter(None, reasons), None)
    return Generalisation(splits[0], splits[1], num_samples, left_out, tuple(trust), reason)


def plot_generalisation(result: Generalisation) -> "matplotlib.figure.Figure":
    """Each number's mean on training less that on test data, and the gaps on both.

    The bars are two standard errors from the choice of data.
    """
    figure = new_figure(11.0, 4.0)
    left, right = figure.subplots(1, 2)
    levels = [
        name for name in ("log_evidence", "elbo", "reconstruction", "rate") if name in result.train
    ]
    for place, name in enumerate(levels):
        difference, se = result.difference(name)
        left.errorbar(difference, place, xerr=2 * se, fmt="o", color=BLUE, capsize=3)
    log_evidence, error = result.difference("log_evidence")
    left.axvline(0, color=GREY, linestyle="--")
    left.set(
        yticks=range(len(levels)),
        yticklabels=[LABELS[name] for name in levels],
        ylim=(len(levels) - 0.5, -0.5),
        xlabel="training less test data, nats per datum",
        title=f"log p(x), training less test: {log_evidence:+.2f} ± {error:.2f} nats",
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
        xlabel="nats per datum",
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
