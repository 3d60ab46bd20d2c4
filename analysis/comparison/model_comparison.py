"""Comparison of models by held-out log p(x): paired differences and stacking weights.

Models are compared on the same data, example by example. What makes an example hard is common to
all models and cancels, so that a difference is known far better than either mean. LOO with the
image as observation, on log p(x | z), is no substitute: it ranks the worst guide first.
"""

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from analysis.comparison.heldout_elpd import MOST_KHATS_ABOVE, HeldOut, elpd_data
from analysis.plotting.style import (
    BLUE,
    GREY,
    ORANGE,
    arviz_figure,
    list_names,
    shorten,
    tidy,
    wrap_title,
)
from analysis.result import ANNEALING, Result
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.inference_data.terms import format_rows

if TYPE_CHECKING:
    import matplotlib.figure

# A smaller difference, in standard errors, is not shown by the data.
STANDARD_ERRORS = 2.0
# Shares of k-hats above the threshold that differ by less are alike.
ALIKE = 0.05


@dataclass(frozen=True)
class ModelComparison(Result):
    """log p(x) of several models on the same n data, best first.

    A difference is the best minus the model, at least 0, whatever the version of ArviZ, whose
    versions have opposite signs. Standard errors are over data, for one training of each model:
    they do not include the variation between training seeds.

    Args:
        models: By their mean log p(x), highest first.
        weights: The stacking weight of each, which sum to 1: the mixture of models with the
            highest log p(x). A model that adds nothing to the others has 0, however good it is.
        left_out_rows: The rows, from 0, of the data that were left out because log p(x) of a model
            was not finite.
        perhaps_by_chance: Whether the best of so many models would lead by as much by chance.
            ArviZ checks this from 12 models on.

    References:
        Using Stacking to Average Bayesian Predictive Distributions (Yao et al., 2018),
        https://arxiv.org/abs/1704.02030
    """

    FIELDS: ClassVar[tuple[str, ...]] = (
        *("n", "left_out", "left_out_rows", "pairwise", "perhaps_by_chance"),
    )

    models: tuple[HeldOut, ...]
    weights: Float[np.ndarray, " models"]
    left_out_rows: tuple[int, ...] = ()
    perhaps_by_chance: bool = False

    @property
    def left_out(self) -> int:
        """The number of data that were left out."""
        return len(self.left_out_rows)

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, best first."""
        return tuple(model.name for model in self.models)

    @cached_property
    def log_evidence(self) -> Float[np.ndarray, "models n"]:
        """log p(x) of each example under each model, in nats."""
        return np.stack([model.log_evidence for model in self.models]).astype(np.float64)

    @property
    def n(self) -> int:
        """The number of data compared on."""
        return self.log_evidence.shape[1]

    @property
    def means(self) -> Float[np.ndarray, " models"]:
        """Mean log p(x), in nats per example; times n, ArviZ's `elpd`."""
        return self.log_evidence.mean(1)

    @property
    def standard_errors(self) -> Float[np.ndarray, " models"]:
        """The standard errors of `means`; differences are known better."""
        return self.log_evidence.std(1, ddof=1) / math.sqrt(self.n)

    @cached_property
    def pairwise(self) -> Float[np.ndarray, "models models"]:
        """Mean log p_row(x) - log p_column(x), in nats per example."""
        return np.stack([(one - self.log_evidence).mean(1) for one in self.log_evidence])

    @cached_property
    def pairwise_standard_errors(self) -> Float[np.ndarray, "models models"]:
        """The standard errors of `pairwise`."""
        deviations = [(one - self.log_evidence).std(1, ddof=1) for one in self.log_evidence]
        return np.stack(deviations) / math.sqrt(self.n)

    @property
    def differences(self) -> Float[np.ndarray, " models"]:
        """Mean log p_best(x) - log p(x), in nats per example: at least 0, and 0 for the best."""
        # Sums of equal numbers in another order may differ in the last digit.
        return np.maximum(self.pairwise[0], 0.0)

    @property
    def difference_standard_errors(self) -> Float[np.ndarray, " models"]:
        """The paired standard errors of `differences`; 0 for the best."""
        return self.pairwise_standard_errors[0]

    @property
    def difference_rounding(self) -> Float[np.ndarray, " models"]:
        """A bound of the rounding error of `differences`, as if all errors had the same sign."""
        errors = np.array([model.rounding_errors.mean() for model in self.models])
        return errors + errors[0]

    @property
    def _clear(self) -> Bool[np.ndarray, " models"]:
        return self.differences > STANDARD_ERRORS * self.difference_standard_errors

    @property
    def differs_from_best(self) -> Bool[np.ndarray, " models"]:
        """Whether each difference is above 2 standard errors and above rounding errors."""
        return self._clear & (self.differences > self.difference_rounding)

    @property
    def unresolved(self) -> Bool[np.ndarray, " models"]:
        """Whether each difference is above 2 standard errors, but within rounding errors."""
        return self._clear & ~self.differs_from_best

    def extra(self) -> dict[str, Any]:
        """Means, sums, shares and weights by model, and the order of `pairwise`."""
        per_example = {
            "log_evidence": (self.means, self.standard_errors),
            "difference": (self.differences, self.difference_standard_errors),
        }
        models = []
        for rank, model in enumerate(self.models):
            row: dict[str, Any] = {"name": model.name, "rank": rank}
            for name, (values, errors) in per_example.items():
                row |= {
                    name: values[rank],
                    f"{name}_se": errors[rank],
                    f"{name}_sum": self.n * values[rank],
                    f"{name}_sum_se": self.n * errors[rank],
                }
            models.append(
                row
                | {
                    "told_apart_from_best": self.differs_from_best[rank],
                    "difference_rounding": self.difference_rounding[rank],
                    "weight": self.weights[rank],
                    "khat_share_above": model.khat_share_above,
                    "num_samples": model.num_samples,
                }
            )
        return {
            "sign": "best minus model",
            "models": models,
            "pairwise_names": self.names,
            "pairwise_se": self.pairwise_standard_errors,
        }

    def reading(self) -> str:
        """Which model is best, how certainly, and what could make the order wrong."""
        parts = [self._ranking(), self._bias()]
        draws = {model.num_samples for model in self.models}
        if len(draws) > 1:
            parts.append(
                f"Models have from {min(draws)} to {max(draws)} draws per {noun()}; fewer draws "
                "give lower bounds."
            )
        if self.perhaps_by_chance:
            parts.append("Of so many models, the best may lead by chance.")
        if self.left_out:
            parts.append(
                f"Left out: {self.left_out:,} of {self.n + self.left_out:,} {nouns()} "
                f"({format_rows(list(self.left_out_rows))}), as log p(x) of a model is not finite."
            )
        return " ".join(filter(None, parts))

    def _ranking(self) -> str:
        best, *others = self.names
        if self.unresolved.any():
            names = [self.names[rank] for rank in np.flatnonzero(self.unresolved)]
            rounding = self.difference_rounding[self.unresolved].max()
            return (
                f"Withheld: the differences of {best} and {list_names(names)} are within the "
                f"rounding errors of up to {rounding:.1g} nats per {noun()}; train on "
                "standardised data (--data.scale standard), or compute in float64."
            )
        head = (
            f"{best} has the highest log p(x) of {self.n:,} held-out {nouns()}, "
            f"{self.means[0]:.2f} nats per {noun()}"
        )
        equal = [
            f"{self.names[rank]} ({self._amount(rank)})"
            for rank in np.flatnonzero(~self.differs_from_best).tolist()
            if rank
        ]
        if equal:
            return f"{head}, not distinguishable from {list_names(equal)}."
        return f"{head}, {self._amount(1)} above the next, {others[0]}."

    def _bias(self) -> str:
        """The bias of the differences according to k-hat: each log p(x) is a lower bound."""
        low = [model for model in self.models if model.too_low]
        if not low:
            names = [model.name for model in self.models if model.khat_share_above is None]
            return f"No k-hat is known for {list_names(names)}." if names else ""
        best, *others = (model.khat_share_above or 0.0 for model in self.models)
        direction = "may be too large or too small"
        if max(others) - best > ALIKE:
            direction = "may be too large, and the order wrong"
        elif best - min(others) > ALIKE:
            direction = "is, if anything, too small"
        shares = list_names([f"{model.khat_share_above:.0%} ({model.name})" for model in low])
        return (
            f"log p(x) is too low where k-hat is above its threshold, for {shares} of {nouns()}: "
            f"the lead of {self.names[0]} {direction}; `{ANNEALING}` is more accurate."
        )

    def _amount(self, rank: int) -> str:
        """A difference with its standard error, to the error's second digit."""
        value, error = self.differences[rank], self.difference_standard_errors[rank]
        digits = 2 if error <= 0 else int(np.clip(1 - math.floor(math.log10(error)), 0, 6))
        return f"{value:.{digits}f} ± {error:.{digits}f}"

    def title(self) -> str:
        """The result in a few words."""
        best, second = (shorten(name) for name in self.names[:2])
        equal = int((~self.differs_from_best).sum())
        if self.differs_from_best[1]:
            return f"{best} leads {second} by {self._amount(1)} nats per {noun()}"
        if equal > 2:
            count = len(self.models)
            return f"{equal} of {count} models are not distinguishable from the best, {best}"
        return f"{best} and {second} are not distinguishable: {self._amount(1)} nats per {noun()}"


def compare_models(
    models: Sequence[HeldOut], *, leave_out_non_finite: bool = False
) -> ModelComparison:
    """Rank models by held-out log p(x), with paired differences and stacking weights.

    Order and weights are those of `arviz_stats.compare`. It exponentiates log p(x), which silently
    gives equal weights to all models below -745 and above 709 nats. So the highest log p(x) of
    each example is subtracted first: this changes no difference and no weight.

    Args:
        models: At least two, on the same data in the same order.
        leave_out_non_finite: Compare on the data for which log p(x) is finite under all models,
            and record the others; otherwise such data are an error.

    Returns:
        The models, best first. Differences above 2 standard errors are shown by the data; read
        k-hat beside them.

    Raises:
        ValueError: If there are fewer than two models or data, names repeat, numbers of data
            differ, or log p(x) is not finite.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari
        et al., 2017), section 5.2, https://arxiv.org/abs/1507.04544
    """
    _check_models(models)
    finite = np.asarray(np.isfinite([model.log_evidence for model in models]).all(axis=0))
    if not (finite.all() or leave_out_non_finite):
        bad = {model.name: np.flatnonzero(~np.isfinite(model.log_evidence)) for model in models}
        counts = list_names(
            [
                f"{len(r):,} of {name} ({format_rows(r.tolist())})"
                for name, r in bad.items()
                if len(r)
            ]
        )
        raise ValueError(
            f"log p(x) must be finite, got other values for {counts} of {len(finite):,} "
            f"{nouns()}; check them, "
            "use a likelihood with a positive density for all data, or pass "
            "leave_out_non_finite=True."
        )
    if finite.sum() < 2:
        raise ValueError(
            f"a comparison needs at least two data with a finite log p(x), got {finite.sum()}."
        )
    models = [model.take(finite) for model in models]
    table, messages = _arviz_compare(models)
    by_name = {model.name: model for model in models}
    return ModelComparison(
        models=tuple(by_name[name] for name in table.index),
        weights=table["weight"].to_numpy(np.float64).clip(0, 1),
        left_out_rows=tuple(np.flatnonzero(~finite).tolist()),
        perhaps_by_chance=any("due to chance" in message for message in messages),
    )


def _check_models(models: Sequence[HeldOut]) -> None:
    if len(models) < 2:
        names = ", ".join(model.name for model in models) or "none"
        raise ValueError(f"a comparison needs at least two models, got {names}.")
    repeated = [name for name, count in Counter(m.name for m in models).items() if count > 1]
    if repeated:
        raise ValueError(f"names of models must differ, got {repeated[0]!r} more than once.")
    lengths = {model.name: len(model.log_evidence) for model in models}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise ValueError(f"models must be compared on the same data, got numbers of data {got}.")


def _arviz_compare(models: Sequence[HeldOut]) -> tuple[Any, list[str]]:
    """ArviZ's table of log p(x) relative to each example's best, and its warnings."""
    from arviz_stats import compare  # pyright: ignore[reportPrivateImportUsage]

    highest = np.max([model.log_evidence for model in models], axis=0)
    relative = {
        model.name: elpd_data(
            replace(
                model, log_evidence=model.log_evidence - highest, rounding=model.rounding_errors
            )
        )
        for model in models
    }
    # ArviZ 0.8 does not round.
    options = inspect.signature(compare).parameters
    exact: dict[str, Any] = {"round_to": "none"} if "round_to" in options else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = compare(relative, **exact)
    return table, [str(warning.message) for warning in caught]


def plot_model_comparison(comparison: ModelComparison) -> "matplotlib.figure.Figure":
    """Mean log p(x) of each model relative to the best, with 2 paired standard errors.

    A bar that reaches the dashed line is of a model that is not distinguishable from the best. On
    the right are the mean, the share of k-hats above the threshold, and the stacking weight.
    Models whose log p(x) is too low according to k-hat are orange.
    """
    import arviz_plots
    import pandas as pd

    models = comparison.models
    # With these columns plot_compare shows the mean log p(x), and both versions of ArviZ draw them
    # alike.
    table = pd.DataFrame(
        {
            "mlpd": -comparison.differences,
            "se": STANDARD_ERRORS * comparison.difference_standard_errors,
        },
        index=pd.Index([shorten(name) for name in comparison.names]),
    )
    figure = arviz_figure(
        arviz_plots.plot_compare,
        table,
        width=10.0,
        height=2.1 + 0.42 * len(models),
        relative_scale=False,
        visuals={"title": False, "point_estimate": {"color": BLUE}, "ref_line": {"color": GREY}},
    )
    ax = figure.axes[0]
    colours = [ORANGE if model.too_low else BLUE for model in models]
    for line, colour in zip(ax.lines, colours, strict=False):
        line.set_color(colour)
    ax.collections[0].set(facecolor=colours, edgecolor=colours, zorder=3)
    ax.set_ylim(0.4, len(models) + 0.6)
    ax.set_xlabel(
        f"log p(x) minus that of {shorten(comparison.names[0])}, nats per {noun()}, "
        f"± {STANDARD_ERRORS:g} paired standard errors",
        fontsize=10,
    )
    if any(model.too_low for model in models):
        figure.supxlabel(
            f"orange: log p(x) is too low, as k-hat is above its threshold for more than "
            f"{MOST_KHATS_ABOVE:.0%} of {nouns()}",
            fontsize=9,
            color=ORANGE,
        )
    ax.tick_params(labelsize=10)
    numbers = ax.twinx()
    numbers.set_ylim(ax.get_ylim())
    notes = []
    for model, mean, weight in zip(models, comparison.means, comparison.weights, strict=True):
        share = "?" if model.khat_share_above is None else f"{model.khat_share_above:.0%}"
        notes.append(f"{mean:.2f} nats, k-hat high {share}, weight {weight:.2f}")
    numbers.set_yticks(range(len(models), 0, -1), notes, fontsize=9)
    numbers.tick_params(length=0)
    tidy([ax, numbers], grid=None)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    figure.suptitle(
        wrap_title(f"Of {comparison.n:,} {nouns()}: {comparison.title()}"), fontsize=12
    )
    return figure
