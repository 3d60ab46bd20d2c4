"""Robustness to corrupted data: shift of the code, reconstruction, accuracy and log p(x)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.check import Check, Plot
from analysis.model_samples import embed_data, has_density, mean_data, to_array
from analysis.plotting.images import Limits, draw_grid
from analysis.plotting.style import GREY, LINE_COLOURS, new_figure, shorten
from analysis.representation.codes import with_error
from analysis.representation.corruptions import (
    STRENGTHS,
    AnyCorruption,
    corrupt,
    draw_curves,
    name_lines,
    select_corruptions,
    set_title,
    strength_panels,
)
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.probes import PROBE, STANDARD_ERRORS, binomial_error, chance_level
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject
from analysis.verdicts import Verdict, judge_robustness
from pyro_vae.data.nouns import noun
from pyro_vae.evidence import importance_weighting
from pyro_vae.evidence.evaluation import fixed_rows
from pyro_vae.rng import derive_seed, evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure


# The share of the accuracy above chance that must be lost for a code to count as lost.
LOST = 0.5
# Pairs whose mean distance is the typical one: enough for a relative error below 1 %.
PAIRS = 20_000
# In a diagnosis: corrupted data, and draws for each log p(x), a lower bound.
CORRUPTED, CORRUPTED_SAMPLES = 500, 20

# The measures, and their axis labels.
MEASURES = {
    "accuracy": "accuracy\nof the probe",
    "latent_shift": "shift of the code\n(1: to another code)",
    "reconstruction": "error against clean\n(1: that of the mean)",
    "log_evidence": "log p(x) against clean,\nnats",
}


@dataclass(frozen=True)
class Robustness(Result):
    """Measures of n examples by corruption and strength; the first strength is 0, clean data.

    Args:
        corruptions: The names of the corruptions.
        strengths: Increasing from 0.
        values: By measure, in the order of `MEASURES`, one value per example: accuracy, 1 where
            the classifier of clean codes is right about the corrupted example's code;
            latent_shift, |embed(corrupted) - embed(clean)| over the mean distance between codes;
            reconstruction, the squared error of the mean of p(x | z) at the corrupted example's
            code against the clean one, over the mean squared error of the mean example;
            log_evidence, log p(corrupted x) in nats.
        chance: The accuracy of the most frequent label; None without labels.
    """

    FIELDS: ClassVar = ("n", "strengths", "chance", "above_chance")

    corruptions: tuple[str, ...]
    strengths: tuple[float, ...]
    values: dict[str, Float[np.ndarray, "corruptions strengths n"]]
    chance: float | None

    @property
    def n(self) -> int:
        """The number of examples."""
        return next(iter(self.values.values())).shape[-1]

    @property
    def above_chance(self) -> bool | None:
        """Whether the clean accuracy is above chance; None without labels."""
        if self.chance is None or "accuracy" not in self.values:
            return None
        clean = float(self.mean("accuracy")[0, 0])
        return clean - self.chance > STANDARD_ERRORS * binomial_error(clean, self.n)

    def mean(self, measure: str) -> Float[np.ndarray, "corruptions strengths"]:
        """The mean over examples."""
        return self.values[measure].mean(-1)

    def standard_error(self, measure: str) -> Float[np.ndarray, "corruptions strengths"]:
        """The standard error of the mean, from the choice of data."""
        return _standard_error(self.values[measure])

    def area(self, measure: str, corruption: str | None = None) -> tuple[float, float]:
        """The mean over strengths relative to the clean value, and its standard error.

        Accuracy and reconstruction error are divided by the clean value: 1 is no loss. The clean
        value is subtracted from log p(x): 0 is no change, in nats. The latent shift, whose clean
        value is 0, is unchanged.

        Args:
            measure: One of `MEASURES`.
            corruption: One of `corruptions`; None for the mean over all.
        """
        rows = slice(None) if corruption is None else [self.corruptions.index(corruption)]
        values = self.values[measure][rows]
        harmed, clean = values[:, 1:].mean((0, 1)), values[:, 0].mean(0)
        if measure == "latent_shift":
            return float(harmed.mean()), float(_standard_error(harmed))
        if measure == "log_evidence":
            with np.errstate(invalid="ignore"):  # log p(x) may be infinite.
                change = harmed - clean
            return float(change.mean()), float(_standard_error(change))
        if not clean.mean() > 0:
            return math.nan, math.nan
        ratio = float(harmed.mean() / clean.mean())
        return ratio, float(_standard_error((harmed - ratio * clean) / clean.mean()))

    def half_lost(self, corruption: str) -> float | None:
        """The strength at which half of the accuracy above chance is lost; None if never."""
        if self.chance is None:
            return None
        curve = self.mean("accuracy")[self.corruptions.index(corruption)]
        level = self.chance + LOST * (curve[0] - self.chance)
        below = np.flatnonzero(curve <= level)
        if not curve[0] > self.chance or len(below) == 0:
            return None
        x0, x1 = self.strengths[below[0] - 1 : below[0] + 1]
        y0, y1 = curve[below[0] - 1 : below[0] + 1]
        return float(x0 + (x1 - x0) * (y0 - level) / (y0 - y1))

    @property
    def by_harm(self) -> list[str]:
        """Corruptions, the most harmful first: by accuracy, or without labels by latent shift."""
        measure, sign = ("accuracy", 1) if "accuracy" in self.values else ("latent_shift", -1)
        return sorted(self.corruptions, key=lambda name: sign * self.area(measure, name)[0])

    def extra(self) -> dict[str, Any]:
        """The area of each measure, in all and by corruption, and curves."""
        curves = {name: (self.mean(name), self.standard_error(name)) for name in self.values}
        return {
            "area": self._areas(None),
            "damages": {
                corruption: {
                    "area": self._areas(corruption),
                    "half_lost_at": self.half_lost(corruption),
                    "curves": {
                        name: {"mean": mean[row], "standard_error": error[row]}
                        for name, (mean, error) in curves.items()
                    },
                }
                for row, corruption in enumerate(self.corruptions)
            },
            "worst": self.by_harm[0],
            "verdicts": [],
        }

    def _areas(self, corruption: str | None) -> dict[str, dict[str, float] | None]:
        return {
            name: dict(zip(("value", "standard_error"), self.area(name, corruption), strict=True))
            if name in self.values
            else None
            for name in MEASURES
        }

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether codes are robust; nothing without labels."""
        if self.chance is None or "accuracy" not in self.values:
            return ()
        harmed = self.values["accuracy"][:, 1:].mean((0, 1))
        clean, error = float(self.mean("accuracy")[0, 0]), float(_standard_error(harmed))
        above_chance = bool(self.above_chance)
        return (
            judge_robustness(
                clean, float(harmed.mean()), error, self.chance, above_chance=above_chance
            ),
        )

    def reading(self) -> str:
        """The verdict, the most harmful corruption, and how far it moves codes."""
        worst = self.by_harm[0]
        which = f"The most harmful corruption, {worst}," if len(self.corruptions) > 1 else worst
        shift = self.area("latent_shift", worst)[0]
        text = f"{super().reading()} {which} moves a code by {shift:.2f} of the mean distance"
        if (at := self.half_lost(worst)) is not None:
            text += f"; half of the accuracy above chance is lost at strength {at:.2f}"
        return f"{text}.".lstrip()


def robustness(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    labels: Int[Tensor, " labels"] | Int[np.ndarray, " labels"] | None = None,
    classifier: Any = None,
    corruptions: Mapping[str, AnyCorruption] | Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    num_samples: int = 50,
    seed: int = 0,
) -> Robustness:
    """Codes of corrupted data compared with those of clean data, by corruption and strength.

    An example is corrupted with the same draws at every strength, and weighted with the same draws
    throughout: curves are smooth, and models with the same data and seed see the same corrupted
    data.

    Args:
        vae: A program with `embed(x)`, `decode(z)`, `model` and `guide`.
        x: Clean test data in the likelihood's support, on the program's device.
        labels: Of the data, as the classifier predicts them; None for no accuracy.
        classifier: A classifier fitted to codes of clean training data, with `predict`.
        corruptions: Corruptions, or names of them; None for all that apply.
        strengths: From 0 to 1, increasing; 0 is added if missing.
        num_samples: Draws from the guide for each log p(x); 0 for none. A guide without a density,
            such as an autoencoder's, has none.
        seed: The seed of corruptions and draws.

    Raises:
        UndefinedCheckError: If all codes are the same.
        ValueError: If there are fewer than two data, only one of labels and classifier is given,
            their number differs from the data's, or strengths do not increase from 0 to 1.

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
        raise ValueError(f"each example needs a label, got {len(x)} data and {len(truth)} labels.")
    chosen, levels = select_corruptions(vae, x, corruptions, strengths)
    num_samples = num_samples if num_samples and has_density(vae, x) else 0
    measure_seed = derive_seed(seed, "robustness")
    clean_codes, clean = embed_data(vae, x), to_array(x).astype(np.float64)
    distance = typical_distance(clean_codes, seed)
    mean_error = float(((clean - clean.mean(0)) ** 2).sum() / len(x))

    def measure(x: Tensor) -> dict[str, np.ndarray]:
        codes = embed_data(vae, x)
        found = {}
        if classifier is not None:
            found["accuracy"] = (classifier.predict(codes) == truth).astype(float)
        found["latent_shift"] = np.linalg.norm(codes - clean_codes, axis=1) / distance
        means = _with_total_of(clean, vae, mean_data(vae, codes).astype(np.float64))
        error = ((means - clean) ** 2).reshape(len(clean), -1).sum(1)
        found["reconstruction"] = error / mean_error
        if num_samples:
            with evaluation_mode(vae, seed=measure_seed):
                found["log_evidence"] = importance_weighting(
                    vae.model, vae.guide, x, num_samples=num_samples, compile="off"
                ).log_evidence
        return found

    first = measure(x)
    rows = [
        [first, *(measure(corrupt(vae, each, x, level, seed)) for level in levels[1:])]
        for each in chosen.values()
    ]
    values = {name: np.array([[m[name] for m in row] for row in rows], float) for name in first}
    chance = None if truth is None else chance_level(truth)
    return Robustness(tuple(chosen), levels, values, chance)


def typical_distance(codes: Float[np.ndarray, "n latent"], seed: int = 0) -> float:
    """The mean distance between the codes of two different examples.

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


def _with_total_of(x: np.ndarray, vae: Any, means: np.ndarray) -> np.ndarray:
    """Scale means to each example's total, where the likelihood is conditional on it."""
    if getattr(getattr(vae, "likelihood", None), "given_total", False):
        axes = tuple(range(1, means.ndim))
        return means * (x.sum(axes, keepdims=True) / means.sum(axes, keepdims=True))
    return means


def _standard_error(values: np.ndarray) -> Any:
    n = values.shape[-1]
    with np.errstate(invalid="ignore"):  # log p(x) may be infinite.
        return values.std(-1, ddof=1) / math.sqrt(n) if n > 1 else values[..., 0] * np.nan


def plot_robustness(results: Mapping[str, Robustness]) -> "matplotlib.figure.Figure":
    """Draw each measure by strength, a column per corruption and a line per model.

    The dashed lines are the accuracy of the most frequent label, the distance to another code, and
    the error of the mean example. log p(x) is relative to that of clean data, on a scale that is
    logarithmic beyond 10 nats.

    Args:
        results: By the models' names, of the same corruptions and strengths.

    Raises:
        ValueError: If there are none, or their corruptions or strengths differ.
    """
    measures = [m for m in MEASURES if any(m in found.values for found in results.values())]
    figure, axes = strength_panels(results, [MEASURES[name] for name in measures])
    first = next(iter(results.values()))
    levels = {"accuracy": first.chance, "latent_shift": 1.0, "reconstruction": 1.0}
    lines = []
    for found, colour in zip(results.values(), LINE_COLOURS * len(results), strict=False):
        for row, measure in zip(axes, measures, strict=True):
            if measure in found.values:
                values = found.values[measure]
                if measure == "log_evidence":
                    with np.errstate(invalid="ignore"):
                        values = values - values[:, :1]
                draw_curves(row, first.strengths, values.mean(-1), _standard_error(values), colour)
        lines += axes[0, 0].plot([], [], "o-", ms=3, lw=1.4, color=colour)
    for row, measure in zip(axes, measures, strict=True):
        for ax in row:
            if levels.get(measure) is not None:
                ax.axhline(levels[measure], color=GREY, linestyle="--", lw=1, zorder=1)
            if measure != "log_evidence":
                ax.set_ylim(bottom=0)
        if measure == "log_evidence":
            row[0].set_yscale("symlog", linthresh=10)
            row[0].axhline(0, color=GREY, lw=1, zorder=1)
            low, high = row[0].get_ylim()
            ticks = [0.0, *(sign * 10.0**power for sign in (-1, 1) for power in range(1, 7))]
            row[0].set_yticks(sorted(tick for tick in ticks if low <= tick <= high))
            row[0].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if len(results) > 1:
        name_lines(figure, lines, [shorten(name) for name in results])
    measure = (
        "accuracy" if all("accuracy" in f.values for f in results.values()) else "latent_shift"
    )
    label = "clean accuracy kept" if measure == "accuracy" else "shift of codes"
    areas = [f"{shorten(name)} {f.area(measure)[0]:.2f}" for name, f in results.items()]
    worst = (
        f"; {first.by_harm[0]} hurts most" if len(results) == 1 < len(first.corruptions) else ""
    )
    set_title(figure, f"Mean {label} under corruption: {', '.join(areas)}{worst}")
    return figure


def plot_corruptions(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    row: int = 0,
    corruptions: Mapping[str, AnyCorruption] | Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    limits: Limits = (0.0, 1.0),
    seed: int = 0,
) -> "matplotlib.figure.Figure":
    """Draw an example under each corruption and strength, above the mean of p(x | z) at its code.

    Args:
        vae: A program with `embed(x)` and `decode(z)`.
        x: Clean data in the likelihood's support; the range and spread of real ones matter.
        row: The example to show.
        corruptions: As in `robustness`.
        strengths: From 0 to 1, increasing; 0 is added if missing.
        limits: The values drawn black and white, or at the bottom and top of a profile.
        seed: The seed of the corruptions, which are those of `robustness` with the same seed.
    """
    chosen, levels = select_corruptions(vae, x, corruptions, strengths)
    across = min(2, len(chosen))
    down = -(-len(chosen) // across)
    figure = new_figure(max(across * (0.82 * len(levels) + 0.8), 6.0), 2.15 * down + 0.5)
    blocks = figure.subfigures(down, across, squeeze=False, wspace=0.04, hspace=0.02).flat
    for block, (name, corruption) in zip(blocks, chosen.items(), strict=False):
        rows: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        for strength in levels:
            found = corrupt(vae, corruption, x, strength, seed)[row : row + 1]
            mean = _with_total_of(
                to_array(x[row : row + 1]), vae, mean_data(vae, embed_data(vae, found))
            )
            for row_of, data in zip(rows, (to_array(found), mean), strict=True):
                row_of.append(data[0])
        titles = {column: f"{strength:g}" for column, strength in enumerate(levels)}
        draw_grid(block, rows, limits, names=("corrupted", "model"), titles=titles, size=9)
        block.suptitle(f"{name}, by strength", fontsize=11)
    figure.suptitle("Corrupted data above their reconstructions", fontsize=12)
    return figure


def _diagnose(subject: Subject) -> Robustness:
    subject.check_size()
    inputs = subject.compute(RepresentationInputs)
    try:
        x, labels = inputs.labelled_x, inputs.labels
        classifier = subject.compute(PROBE.compute).classifier
    except UndefinedCheckError:
        x, labels, classifier = subject.x, None, None
    rows = fixed_rows(len(x), CORRUPTED)
    return robustness(
        subject.vae,
        x[rows.to(x.device)],
        labels=None if labels is None else labels[rows.numpy()],
        classifier=classifier,
        num_samples=CORRUPTED_SAMPLES,
        seed=subject.seed_of("robustness"),
    )


def _headline(found: Robustness) -> dict[str, str]:
    numbers = {}
    for measure, label, form in (
        ("accuracy", "accuracy", ".3f"),
        ("log_evidence", f"log p(x), {CORRUPTED_SAMPLES} draws (nats)", ".1f"),
    ):
        if measure in found.values:
            values = found.values[measure]
            for name, each in (("clean", values[0, 0]), ("damaged", values[:, 1:].mean((0, 1)))):
                number = with_error(each.mean(), float(_standard_error(each)), form)
                known = np.isfinite(each).all()
                numbers[f"{label}, {name} data"] = number if known else "not defined"
    shift = f"shift of damaged data's codes (1: another {noun()})"
    return numbers | {shift: with_error(*found.area("latent_shift"), ".2f")}


ROBUSTNESS = Check(
    "robustness",
    _diagnose,
    (
        Plot(
            "robustness",
            "What do codes lose when data are corrupted, by corruption and strength?",
            lambda found, _: plot_robustness({"this run": found}),
        ),
    ),
    headline=_headline,
)
