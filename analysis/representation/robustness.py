"""What damage to data does to their codes: shift, reconstruction, a classifier's accuracy and log p(x), by strength."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.plotting.style import listed
from analysis.predictive.model_samples import (
    UndefinedCheckError,
    embedded,
    has_density,
    mean_data,
    to_array,
)
from analysis.representation.corrupted_data import (
    STRENGTHS,
    AnyDamage,
    check_strengths,
    chosen_damages,
    damaged,
)
from analysis.verdicts import Verdict, robust
from pyro_vae.data.nouns import noun
from pyro_vae.evidence import importance_weighting
from pyro_vae.evidence.numbers import finite
from pyro_vae.rng import derive_seed, evaluation_mode
from pyro_vae.statistics import rounding_error

# An accuracy is told apart from chance by so many standard errors.
STANDARD_ERRORS = 2.0
# Of what a classifier has above chance: where so much is gone, its codes are called lost.
LOST = 0.5
# So many standard errors make a rise worth naming.
CLEAR = 3.0
# Pairs whose distances give the typical one: enough for a relative error below 1 %.
PAIRS = 20_000

# The measures, and what each is, as an axis or a row of a table has it.
MEASURES = {
    "accuracy": "accuracy of the probe",
    "latent_shift": "shift of the code (1: to another code)",
    "reconstruction": "error against clean data (1: that of the mean)",
    "log_evidence": "log p(x) (nats)",
}


@dataclass(frozen=True)
class Robustness:
    """Four measures of n data under each damage and strength; the first strength is 0, the clean data.

    Args:
        damages: The names of the damages.
        strengths: Rising from 0.
        values: For each measure there is, in the order of `MEASURES`, its value for each datum:
            accuracy, 1 where the classifier of clean codes is right about the code of the damaged
            datum; latent_shift, |embed(damaged) - embed(clean)| over the mean distance between the
            codes of two data; reconstruction, the squared error of the mean of p(x | z) at the code of
            the damaged datum against the clean one, over the mean squared error of the mean datum;
            log_evidence, log p(damaged x) in nats.
        chance: The accuracy of the commonest label; None without labels.
    """

    damages: tuple[str, ...]
    strengths: tuple[float, ...]
    values: dict[str, Float[np.ndarray, "damages strengths n"]]
    chance: float | None

    @property
    def above_chance(self) -> bool | None:
        """Whether the clean accuracy is above chance by two standard errors; None without labels."""
        if self.chance is None or "accuracy" not in self.values:
            return None
        clean = self.mean("accuracy")[0, 0]
        error = math.sqrt(clean * (1 - clean) / self.values["accuracy"].shape[-1])
        return bool(clean - self.chance > STANDARD_ERRORS * error)

    def mean(self, measure: str) -> Float[np.ndarray, "damages strengths"]:
        """The mean over data."""
        return self.values[measure].mean(-1)

    def standard_error(self, measure: str) -> Float[np.ndarray, "damages strengths"]:
        """Of the mean, from the choice of data."""
        values = self.values[measure]
        n = values.shape[-1]
        with np.errstate(invalid="ignore"):  # Of a log p(x) that is not finite.
            return values.std(-1, ddof=1) / math.sqrt(n) if n > 1 else values[..., 0] * np.nan

    def area(self, measure: str, damage: str | None = None) -> tuple[float, float]:
        """The mean over strengths above 0 against the clean value, and its standard error over data.

        Accuracy and reconstruction error are divided by the clean value: 1 is no loss. From log p(x)
        the clean value is taken away: 0 is no change, in nats. The latent shift, whose clean value is
        0, is as it is.

        Args:
            measure: One of `MEASURES`.
            damage: One of `damages`; None for the mean over all.
        """
        rows = slice(None) if damage is None else [self.damages.index(damage)]
        values = self.values[measure][rows]
        harmed, clean = values[:, 1:].mean((0, 1)), values[:, 0].mean(0)
        if measure == "latent_shift":
            return _mean(harmed)
        if measure == "log_evidence":
            with np.errstate(invalid="ignore"):
                return _mean(harmed - clean)
        if not clean.mean() > 0:
            return math.nan, math.nan
        ratio = float(harmed.mean() / clean.mean())
        return ratio, _mean((harmed - ratio * clean) / clean.mean())[1]

    def half_lost(self, damage: str) -> float | None:
        """The strength at which half of the accuracy above chance is lost; None if it never is.

        Between two strengths the curve is taken as straight.
        """
        if self.chance is None:
            return None
        curve = self.mean("accuracy")[self.damages.index(damage)]
        level = self.chance + LOST * (curve[0] - self.chance)
        below = np.flatnonzero(curve <= level)
        if not curve[0] > self.chance or len(below) == 0:
            return None
        (x0, x1), (y0, y1) = (
            (values[below[0] - 1], values[below[0]]) for values in (self.strengths, curve)
        )
        return float(x0 + (x1 - x0) * (y0 - level) / (y0 - y1))

    @property
    def by_harm(self) -> list[str]:
        """The damages, the one that hurts most first: by accuracy, or without labels by latent shift."""
        measure, sign = ("accuracy", 1) if "accuracy" in self.values else ("latent_shift", -1)
        return sorted(self.damages, key=lambda name: sign * self.area(measure, name)[0])

    def summary(self) -> dict[str, Any]:
        """The area of each measure, over all damages and for each; curves with their standard errors."""
        curves = {name: (self.mean(name), self.standard_error(name)) for name in self.values}
        return {
            "n": next(iter(self.values.values())).shape[-1],
            "strengths": list(self.strengths),
            "chance": self.chance,
            "above_chance": self.above_chance,
            "area": {name: self._areas(name, None) for name in MEASURES},
            "damages": {
                damage: {
                    "area": {name: self._areas(name, damage) for name in MEASURES},
                    "half_lost_at": self.half_lost(damage),
                    "curves": {
                        name: {
                            "mean": [finite(value) for value in mean[row]],
                            "standard_error": [finite(value) for value in error[row]],
                        }
                        for name, (mean, error) in curves.items()
                    },
                }
                for row, damage in enumerate(self.damages)
            },
            "worst": self.by_harm[0],
            "verdicts": [] if (verdict := self.verdict()) is None else [verdict.summary()],
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """What the codes of damaged data lose, under which damage most, and what to do about it."""
        worst, mildest = self.by_harm[0], self.by_harm[-1]
        strengths = f"strengths {_strengths(self.strengths)}"
        unit = "of the mean distance between the codes of two data"
        moved = {name: self.area("latent_shift", name)[0] for name in (worst, mildest)}
        verdict = self.verdict()
        if verdict is None:
            said = (
                f"Over {strengths}, {worst} moves a code by {moved[worst]:.2f} {unit}; from about 1 the code has "
                f"lost its {noun()}."
            )
            if worst != mildest:
                said += f" Of {len(self.damages)} damages that is most; {mildest} moves it by {moved[mildest]:.2f}."
            return said + self._evidence() + self._likelier()
        accuracy = self.mean("accuracy")[self.damages.index(worst)]
        at = self.half_lost(worst)
        lost = (
            "at no strength is half of the accuracy above chance lost"
            if at is None
            else f"half of the accuracy above chance is lost at strength {at:.2f}"
        )
        most = f", the most harmful of {len(self.damages)}" if worst != mildest else ""
        said = (
            f"{verdict} That is a mean over damages and {strengths}. Under {worst}{most}, accuracy falls from "
            f"{accuracy[0]:.3f} to {accuracy[1:].mean():.3f}, codes move by {moved[worst]:.2f} {unit}, and {lost}."
        )
        if verdict.answer == "no":
            said += " To meet such data, train the encoder or the classifier on data damaged so."
        return said + self._evidence() + self._likelier()

    def verdict(self) -> Verdict | None:
        """Whether codes are robust; None without labels."""
        if self.chance is None or "accuracy" not in self.values:
            return None
        accuracy = self.mean("accuracy")
        harmed = self.values["accuracy"][:, 1:].mean((0, 1))
        return robust(
            float(accuracy[0, 0]),
            *_mean(harmed),
            self.chance,
            above_chance=bool(self.above_chance),
        )

    def _evidence(self) -> str:
        """log p(x) of clean and of damaged data."""
        if "log_evidence" not in self.values:
            return ""
        mean = self.mean("log_evidence")
        if not np.isfinite(mean).all():
            return ""
        return (
            f" The mean log p(x) is {mean[0, 0]:,.1f} nats per {noun()} of clean and {mean[:, 1:].mean():,.1f} of "
            "damaged data."
        )

    def _likelier(self) -> str:
        """The damages under which log p(x) rises."""
        if "log_evidence" not in self.values:
            return ""
        areas = {name: self.area("log_evidence", name) for name in self.damages}
        sizes = self.mean("log_evidence")
        # Of the two means at most, in float32: as if all data erred in the same direction.
        rounding = 2 * float(rounding_error(sizes).max())
        names = [name for name, (rise, e) in areas.items() if rise > CLEAR * e + rounding]
        if not names:
            return ""
        return (
            f" Under {listed(names)} log p(x) rises: damaged data are likelier than clean ones, so that a "
            "low log p(x) is no alarm for it."
        )

    def _areas(self, measure: str, damage: str | None) -> dict[str, float | None] | None:
        if measure not in self.values:
            return None
        value, error = self.area(measure, damage)
        return {"value": finite(value), "standard_error": finite(error)}


def robustness(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    labels: Int[Tensor, " labels"] | Int[np.ndarray, " labels"] | None = None,
    classifier: Any = None,
    damages: Mapping[str, AnyDamage] | Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    num_samples: int = 50,
    seed: int = 0,
) -> Robustness:
    """Codes of damaged data against those of the clean data, by damage and strength.

    The same draws damage a datum at every strength, and weigh it at every damage: curves are smooth,
    and two models given the same data and seed meet the same damaged data.

    Args:
        vae: A program with `embed(x)`, `decode(z)`, `model` and `guide`.
        x: Clean data in the likelihood's support, on the program's device: test data.
        labels: Of the data, as the classifier gives them; None for no accuracy.
        classifier: What was fitted to codes of clean training data, with `predict`.
        damages: What to do to them, or the names of these; None for all that such data can suffer.
        strengths: From 0 to 1, rising; 0 is added where it is missing.
        num_samples: Draws from the guide for each log p(x); 0 for none. A guide without a density,
            such as an autoencoder's, has none.
        seed: The seed of damages and draws.

    Raises:
        UndefinedCheckError: If all codes are the same.
        ValueError: If there are fewer than two data, labels and classifier are not both given, their
            number differs from the data's, or strengths do not rise from 0 to 1.

    References:
        Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
        (Hendrycks & Dietterich, 2019), https://arxiv.org/abs/1903.12261
    """
    truth = None if labels is None else np.asarray(torch.as_tensor(labels).cpu())
    if len(x) < 2:
        raise ValueError(f"robustness needs at least two data, got {len(x)}.")
    if (truth is None) != (classifier is None):
        raise ValueError("labels and a classifier of codes go together, got one of them.")
    if truth is not None and len(truth) != len(x):
        raise ValueError(f"each datum needs a label, got {len(x)} data and {len(truth)} labels.")
    strengths, chosen = check_strengths(strengths), chosen_damages(vae, x, damages)
    measured = _Measured(vae, x, truth, classifier, num_samples, seed)
    clean = measured(x)
    values: dict[str, list[list[np.ndarray]]] = {name: [] for name in MEASURES if name in clean}
    for damage in chosen.values():
        found = [clean, *(measured(damaged(vae, damage, x, s, seed)) for s in strengths[1:])]
        for name, rows in values.items():
            rows.append([measures[name] for measures in found])
    return Robustness(
        damages=tuple(chosen),
        strengths=strengths,
        values={name: np.array(rows, np.float64) for name, rows in values.items()},
        chance=None
        if truth is None
        else float(np.unique(truth, return_counts=True)[1].max() / len(x)),
    )


class _Measured:
    """The measures of damaged versions of the same data."""

    def __init__(
        self,
        vae: Any,
        x: Tensor,
        labels: np.ndarray | None,
        classifier: Any,
        num_samples: int,
        seed: int,
    ) -> None:
        self.vae, self.labels, self.classifier = vae, labels, classifier
        self.num_samples = num_samples if num_samples and has_density(vae, x) else 0
        self.seed = derive_seed(seed, "robustness")
        self.clean = to_array(x).astype(np.float64)
        self.codes = embedded(vae, x)
        self.distance = typical_distance(self.codes, seed)
        self.mean_error = float(((self.clean - self.clean.mean(0)) ** 2).sum() / len(x))

    def __call__(self, x: Tensor) -> dict[str, np.ndarray]:
        codes = embedded(self.vae, x)
        shift = np.linalg.norm(codes - self.codes, axis=1) / self.distance
        found = {"latent_shift": shift, "reconstruction": self._error(codes) / self.mean_error}
        if self.classifier is not None:
            found["accuracy"] = (self.classifier.predict(codes) == self.labels).astype(float)
        if self.num_samples:
            with evaluation_mode(self.vae, seed=self.seed):
                found["log_evidence"] = importance_weighting(
                    self.vae.model, self.vae.guide, x, num_samples=self.num_samples, compile="off"
                ).log_evidence
        return found

    def _error(self, codes: np.ndarray) -> np.ndarray:
        means = mean_data(self.vae, codes).astype(np.float64)
        rows = tuple(range(1, means.ndim))
        if getattr(getattr(self.vae, "likelihood", None), "given_total", False):
            means *= self.clean.sum(rows, keepdims=True) / means.sum(rows, keepdims=True)
        return ((means - self.clean) ** 2).sum(rows)


def typical_distance(codes: Float[np.ndarray, "n latent"], seed: int = 0) -> float:
    """The mean distance between the codes of two different data.

    Raises:
        UndefinedCheckError: If all codes are the same.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(codes), PAIRS)
    second = (first + rng.integers(1, len(codes), PAIRS)) % len(codes)
    mean = float(np.linalg.norm(codes[first] - codes[second], axis=1).mean())
    if not mean > 0:
        raise UndefinedCheckError("all codes are the same: a shift of the code has no scale.")
    return mean


def _mean(values: np.ndarray) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):  # Of a log p(x) that is not finite.
        error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return float(values.mean()), float(error)


def _strengths(strengths: Sequence[float]) -> str:
    return f"{strengths[1]:g} to {strengths[-1]:g}"
