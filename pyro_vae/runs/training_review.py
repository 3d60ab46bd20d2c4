"""Review of a training: one line for each problem in its numbers, with what to do about it."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Real
from torch import Tensor, nn

from pyro_vae.data import PreparedData
from pyro_vae.evidence import Comparison, Evaluation, compare_with_baselines
from pyro_vae.json_values import to_jsonable
from pyro_vae.notebooks import SummaryTable
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.training.history import Record
from pyro_vae.training.validation import (
    FEWEST_STEPS,
    PATIENCE_STEPS,
    describe_collapse,
    has_collapsed,
    has_exploded,
    remedies,
)

# Standard errors, or standard deviations of noise, that a difference must exceed.
BEYOND = 3.0
# The learning rate suggested after a larger one diverged: the default.
DEFAULT_LR = 1e-3
# Epochs in which a trend is sought at least; otherwise in the last third.
_TREND_EPOCHS = 5
# A gain or a loss that matters, as a share of the difference from the baseline.
RELEVANT_SHARE = 0.05


@dataclass(frozen=True)
class Plan:
    """The plan of a training, for the commands in its review.

    Args:
        run: The run directory; None for a training by `fit`, whose commands are Python calls.
        epochs: The number of epochs planned.
        max_steps: The largest number of steps, if there is one.
        steps_per_epoch: The number of steps of an epoch.
        extensible: Whether the run can be extended: some schedules depend on its length.
        stopped_early: Whether training ended because validation did not improve.
        trust_model_file: Whether the run has its own model file, which its commands must trust.
    """

    run: Path | None = None
    epochs: int | None = None
    max_steps: int | None = None
    steps_per_epoch: int = 1
    extensible: bool = True
    stopped_early: bool = False
    trust_model_file: bool = False

    def train_on(self, step: int, least: int = 0) -> str:
        """The command that trains twice as long, and for at least `least` steps."""
        if self.run is None:
            return "fit(vae, data, ...) once more"
        epochs, steps = self.epochs or 1, max(2 * step, least)
        needed = math.ceil(steps / self.steps_per_epoch)
        longer = {"epochs": max(2 * epochs, math.ceil(least / self.steps_per_epoch))}
        if self.max_steps is not None and step >= self.max_steps:
            longer = {"max_steps": steps} | ({"epochs": needed} if needed > epochs else {})
        if not self.extensible:
            return self.again(longer)
        return self._command("--resume", "--out", str(self.run), *_options(longer))

    def again(self, changed: Mapping[str, Any]) -> str:
        """The command that trains from the start with changed options."""
        if self.run is None:
            options = ", ".join(f"{name}={value}" for name, value in changed.items())
            return f"rebuild the VAE and fit(vae, data, {options}, ...)"
        return self._command("--config", str(self.run / "config.yaml"), *_options(changed))

    def _command(self, *words: str) -> str:
        trust = ["--trust-model-file"] if self.trust_model_file else []
        return shlex.join(["python", "scripts/svi_train.py", *words, *trust])


def _options(changed: Mapping[str, Any]) -> list[str]:
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in changed.items()]
    return [word for pair in pairs for word in pair]


@dataclass(frozen=True)
class Review(SummaryTable):
    """The problems of a trained VAE, and its comparison with baselines.

    Args:
        comparisons: The baselines without latent variables, see `compare_with_baselines`.
        best_epoch: The epoch of the best validation score; None if none was finite.
        epochs: The number of epochs trained.
        verdicts: A line for each problem, which starts with its name: "diverging", "collapsed",
            "too short", "still rising", "overfitting", "below the baseline", "not clearly above
            the baseline".
    """

    comparisons: tuple[Comparison, ...]
    best_epoch: int | None
    epochs: int
    verdicts: tuple[str, ...]

    @property
    def praise(self) -> str | None:
        """A line for a run without problems: how far it is above its baselines."""
        known = [each for each in self.comparisons if each.above is not None]
        if self.verdicts or not known:
            return None
        return f"above {' and '.join(f'{each.name} by {_nats(each)}' for each in known)}"

    def summary(self) -> dict[str, Any]:
        """The entries of `metrics.json`: finite numbers, or None."""
        by_kind = {each.factors is not None: each for each in reversed(self.comparisons)}
        independent, factor = by_kind.get(False), by_kind.get(True)
        return {
            "baseline": independent and independent.name,
            "baseline_log_density": independent and independent.log_density,
            "above_baseline": independent and independent.above,
            "above_baseline_se": independent and independent.above_se,
            "factor_analysis_log_density": factor and factor.log_density,
            "above_factor_analysis": factor and factor.above,
            "above_factor_analysis_se": factor and factor.above_se,
            "factors": factor and factor.factors,
            "best_validation_epoch": self.best_epoch,
            "verdicts": list(self.verdicts),
        }


def review(
    vae: nn.Module,
    data: PreparedData,
    x: Real[Tensor, " n *event"],
    evaluation: Evaluation,
    history: Sequence[Record],
    *,
    objective: Objective | None = None,
    kept_epoch: int | None = None,
    plan: Plan | None = None,
) -> Review:
    """Compare a trained VAE with densities without latent variables, and find its problems.

    >>> from pyro_vae import build, fit
    >>> from pyro_vae.data import digits
    >>> from pyro_vae.evidence import evaluate
    >>> vae, data = build((1, 8, 8)), PreparedData(digits(), "binary")
    >>> history = fit(vae, data, epochs=1, max_steps=5)
    >>> x = data.fixed("test")[:100]
    >>> found = review(vae, data, x, evaluate(vae, x, num_samples=10), history)
    >>> found.verdicts[0]
    'too short: 5 steps, one epoch. Train on: fit(vae, data, ...) once more'

    Args:
        vae: The trained VAE, or another program.
        data: Its training data.
        x: The examples it was evaluated on, in the likelihood's support.
        evaluation: The result of `evaluate` on x.
        history: The records of training, as `fit` returns them.
        objective: The objective; the ELBO if None.
        kept_epoch: The epoch whose parameters the VAE has, if not the last one.
        plan: The plan of training, for the commands; None for a training by `fit`.
    """
    history = list(history)
    objective = ELBO() if objective is None else objective
    plan = Plan() if plan is None else plan
    found = compare_with_baselines(evaluation, data, x, getattr(vae, "likelihood", None))
    best = kept_epoch or best_epoch(history, objective.score)
    verdicts: list[str] = []
    if history:
        sites = getattr(vae, "latent_sites", ())
        units = evaluation.embeddings.shape[1] if sites else None
        verdict = (
            diverging(history, units, objective=objective, kept_epoch=kept_epoch, plan=plan)
            or _collapsed(vae, data, history[: kept_epoch or None], units, objective)
            or _too_short(history, plan)
            or _still_rising(history, objective, evaluation, found, plan)
            or _overfitting(history, objective, best, kept_epoch, plan)
        )
        verdicts += [] if verdict is None else [verdict]
    verdicts += [line for each in found if (line := _below(each, data.dataset.noun)) is not None]
    return Review(tuple(found), best, len(history), tuple(verdicts))


def best_epoch(history: Sequence[Record], score: str = "elbo") -> int | None:
    """The last epoch with the best validation score; None if no score is known."""
    known = [
        (value, int(record["epoch"] or 0))
        for record in history
        if (value := record.get(f"validation_{score}")) is not None
    ]
    return max(known)[1] if known else None


def diverging(
    history: Sequence[Record],
    units: int | None,
    *,
    objective: Objective,
    kept_epoch: int | None = None,
    plan: Plan | None = None,
) -> str | None:
    """A line if training has diverged; otherwise None.

    It has if the validation score became infinite or NaN; if the scores of validation and training
    both lost half of their gain, beyond their noise; or if the KL of a unit exceeds 30 nats, the
    precision of float32, although the objective penalizes it.

    Args:
        history: The records of training.
        units: The number of latent units; None if unknown.
        objective: The objective.
        kept_epoch: The epoch whose parameters the VAE has, if not the last one.
        plan: The plan of training, for the command.
    """
    last, first = history[-1], history[0]
    name, word = f"validation_{objective.score}", _word(objective.score)
    scores = _series(history, name)
    reason = None
    if np.isfinite(scores).any() and not math.isfinite(scores[-1]):
        reason = f"the validation {word} is no longer finite"
    elif objective.settled(0.0) and _fell(scores) and _fell(_series(history, objective.score)):
        reason = (
            f"the validation {word} fell from {np.nanmax(scores):,.1f} to {scores[-1]:,.1f} nats"
        )
    elif (
        units is not None
        and has_exploded(last, units)
        and objective.uses_prior
        and objective.settled(float(last["epoch"] or 0))
        and _weight(objective) >= 0.5
    ):
        kl = last["validation_kl"] or 0.0
        reason = f"the KL is {kl:,.0f} nats, {kl / units:,.0f} for each of {units} units"
    if reason is None:
        return None
    lr = float(first["lr"] or DEFAULT_LR)
    smaller = DEFAULT_LR if lr > DEFAULT_LR else lr / 10
    kept = "" if kept_epoch is None else f" The parameters of epoch {kept_epoch} are kept."
    return (
        f"diverging: {reason}.{kept} The learning rate {lr:g} is too large; try {smaller:g}: "
        f"{(plan or Plan()).again({'lr': smaller})}"
    )


def _fell(scores: np.ndarray) -> bool:
    """Whether scores end below their best by more than their noise and half of their gain."""
    noise = _noise(scores)
    if noise is None or not np.isfinite(scores[[0, -1]]).all():
        return False
    best = np.nanmax(scores)
    return bool(best - scores[-1] > max(BEYOND * noise, 0.5 * (best - scores[0])))


def _collapsed(
    vae: nn.Module,
    data: PreparedData,
    history: Sequence[Record],
    units: int | None,
    objective: Objective,
) -> str | None:
    """A line if the alarm of training applies to the epoch whose parameters are kept."""
    record = history[-1]
    most = max(int(each.get("active_units") or 0) for each in history)
    if int(record["step"] or 0) < FEWEST_STEPS or not has_collapsed(record, most):
        return None
    rows = data.fixed("validation")[:1000]
    advice = remedies(vae, objective, rows.to(next(vae.parameters()).device))
    what = describe_collapse(record, units, most)
    return f"collapsed: {what}. {advice}"


def _too_short(history: Sequence[Record], plan: Plan) -> str | None:
    step = int(history[-1]["step"] or 0)
    if plan.stopped_early or step >= (FEWEST_STEPS if len(history) > 1 else PATIENCE_STEPS):
        return None
    length = "one epoch" if len(history) == 1 else f"{len(history)} epochs"
    return f"too short: {step:,} steps, {length}. Train on: {plan.train_on(step, PATIENCE_STEPS)}"


def _still_rising(
    history: Sequence[Record],
    objective: Objective,
    evaluation: Evaluation,
    comparisons: Sequence[Comparison],
    plan: Plan,
) -> str | None:
    """A line if the last third of the validation scores rises beyond noise, and relevantly.

    Relevant is more than the standard error of log p(x), or a twentieth of its difference from the
    baseline.
    """
    scores = _series(history, f"validation_{objective.score}")
    if plan.stopped_early or len(scores) < 2 or not np.isfinite(scores).all():
        return None
    epochs = max(min(_TREND_EPOCHS, len(scores)), len(scores) // 3)
    slope, error = _slope(scores[-epochs:])
    gain = slope * (epochs - 1)
    weights = evaluation.weights
    scales = [] if weights is None else [to_jsonable(weights.log_evidence_se) or 0.0]
    scales += [
        max(0.0, RELEVANT_SHARE * each.above) for each in comparisons if each.above is not None
    ]
    recent = len(scores) - 1 - int(scores.argmax()) <= len(scores) // 10
    if not (recent and slope > BEYOND * error and gain > min(scales, default=0.0)):
        return None
    span = "epoch" if epochs == 2 else f"{epochs - 1} epochs"
    return (
        f"still rising: the validation {_word(objective.score)} gained {gain:,.2f} nats in the "
        f"last {span}. Train on: {plan.train_on(int(history[-1]['step'] or 0))}"
    )


def _overfitting(
    history: Sequence[Record],
    objective: Objective,
    best: int | None,
    kept_epoch: int | None,
    plan: Plan,
) -> str | None:
    """A line if validation fell beyond noise after its best epoch while training rose."""
    scores = _series(history, f"validation_{objective.score}")
    trained = _series(history, objective.score)
    if best is None or plan.stopped_early or not np.isfinite(scores).all():
        return None
    index = [int(record["epoch"] or 0) for record in history].index(best)
    width, noise = max(1, len(scores) // 20), _noise(scores)
    if noise is None or index >= 0.8 * len(scores):
        return None
    around = slice(max(0, index - width), index + width + 1)
    fell = float(scores[around].mean() - scores[-width:].mean())
    rose = trained[-width:].mean() > trained[around].mean()
    if fell <= BEYOND * noise / math.sqrt(width) or not rose:
        return None
    kept = (
        f"the parameters of epoch {kept_epoch} are kept"
        if kept_epoch == best
        else "the last parameters are evaluated; to keep the best: "
        f"{plan.again({'early_stopping': max(1, len(history) // 5)})}"
    )
    return (
        f"overfitting: the validation {_word(objective.score)} fell by {fell:,.2f} nats after "
        f"epoch {best} of {len(history)}, while that of training rose; {kept}"
    )


def _below(each: Comparison, noun: str) -> str | None:
    """A line if log p(x) is not above a baseline by two standard errors."""
    if each.above is None or each.above > 2 * (each.above_se or 0.0):
        return None
    if each.above < -2 * (each.above_se or 0.0):
        return f"below the baseline: {each.name} is better by {_nats(each, -1)}"
    sign, side = (1, "above") if each.above > 0 else (-1, "below")
    mean = f"the mean of log p(x) is {_nats(each, sign)} {side}"
    if each.share_above is not None and each.share_above < 0.25:
        return (
            f"not clearly above the baseline: {each.name} is better for "
            f"{1 - each.share_above:.0%} of {noun}s, and {mean} it"
        )
    return f"not clearly above the baseline: {mean} {each.name}, within two standard errors"


def _nats(each: Comparison, sign: int = 1) -> str:
    error = "" if each.above_se is None else f" +- {each.above_se:,.2f}"
    return f"{sign * (each.above or 0.0):,.2f}{error} nats"


def _series(history: Sequence[Record], name: str) -> np.ndarray:
    values = [record.get(name) for record in history]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _noise(scores: np.ndarray) -> float | None:
    """The standard deviation of a score about its trend, from its second differences."""
    scores = scores[np.isfinite(scores)]
    if len(scores) < 3:
        return None
    second = np.diff(scores, 2)
    # A second difference of white noise has 6 times its variance.
    return float(np.median(np.abs(second)) / 0.6745 / math.sqrt(6))


def _slope(values: np.ndarray) -> tuple[float, float]:
    """The least-squares slope and its standard error, which is 0 for two values."""
    n = len(values)
    epochs = np.arange(n) - (n - 1) / 2
    slope = float(epochs @ values / (epochs @ epochs)) if n > 1 else 0.0
    if n < 3:
        return slope, 0.0
    residuals = values - values.mean() - slope * epochs
    return slope, float(np.sqrt((residuals**2).sum() / (n - 2) / (epochs @ epochs)))


def _weight(objective: Objective) -> float:
    beta = getattr(objective, "beta", None)
    return float(beta) if isinstance(beta, Tensor) and beta.dim() == 0 else 1.0


def _word(score: str) -> str:
    return "ELBO" if score == "elbo" else score
