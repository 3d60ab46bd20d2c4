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
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from analysis.plotting.style import (
    list_names,
    shorten,
)
from analysis.result import ANNEALING, Result
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.inference_data.terms import format_rows
from pyro_vae.statistics import (
    khat_threshold,
    rounding_error,
    share_above_threshold,
    standard_error,
    withheld,
)

# A smaller difference, in standard errors, is not shown by the data.
STANDARD_ERRORS = 2.0
# Shares of k-hats above the threshold that differ by less are alike.
ALIKE = 0.05
# A model's log p(x) is too low as a whole if more than this share of examples has a k-hat above
# the threshold.
MOST_KHATS_ABOVE = 0.1


@dataclass(frozen=True)
class HeldOut:
    """log p(x) of one model for each of n held-out examples.

    Args:
        name: The model's name.
        log_evidence: log p(x) of each example, in nats, in the same order for all models.
        khat: The tail shape of each example's importance weights; None where there is none, as for
            annealing, or for fewer than 25 draws.
        num_samples: The number of draws, or of chains, per example.
        rounding: The approximate rounding error of each log p(x), as
            `ImportanceWeighting.rounding`; None to estimate it from its size in float32.
    """

    name: str
    log_evidence: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int
    rounding: Float[np.ndarray, " n"] | None = None

    @property
    def rounding_errors(self) -> Float[np.ndarray, " n"]:
        """The approximate rounding error of each log p(x), in nats."""
        return rounding_error(self.log_evidence) if self.rounding is None else self.rounding

    @property
    def khat_share_above(self) -> float | None:
        """The share of examples with a k-hat above the threshold, whose log p(x) is too low.

        None where there is no k-hat, or rounding errors exceed the differences of the weights.
        """
        if withheld(self.rounding_errors, self.log_evidence):
            return None
        return share_above_threshold(self.khat, self.num_samples)

    @property
    def too_low(self) -> bool:
        """Whether that share is above 10 %: the mean is then too low by an unknown amount."""
        return (self.khat_share_above or 0.0) > MOST_KHATS_ABOVE

    def take(self, rows: Bool[np.ndarray, " n"]) -> "HeldOut":
        """Select examples."""
        khat = None if self.khat is None else self.khat[rows]
        rounding = None if self.rounding is None else self.rounding[rows]
        return HeldOut(self.name, self.log_evidence[rows], khat, self.num_samples, rounding)


def elpd_data(held_out: HeldOut) -> Any:
    """sum_i log p(x_i) as the `ELPDData` that `arviz_stats.compare` takes.

    It holds the sum, its standard error, and log p(x) and k-hat of each example. `warning` is set
    where more than 10 % of k-hats are above `good_k`, so that the sum is too low. The effective
    number of parameters, `p`, is NaN, as nothing is fitted to held-out data.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari
        et al., 2017), https://arxiv.org/abs/1507.04544
    """
    import xarray
    from arviz_stats.utils import ELPDData

    n = len(held_out.log_evidence)
    # From ArviZ 1 on the class itself states the kind.
    has_kind = "kind" in inspect.signature(ELPDData).parameters
    kind: dict[str, Any] = {"kind": "held_out"} if has_kind else {}
    khat = held_out.khat
    # It may be None, whatever its annotation says.
    shape: Any = None if khat is None else xarray.DataArray(khat, dims="datum", name="pareto_k")
    return ELPDData(
        **kind,
        elpd=float(held_out.log_evidence.sum()),
        se=n * (standard_error(held_out.log_evidence) or math.nan),
        p=math.nan,
        n_samples=held_out.num_samples,
        n_data_points=n,
        scale="log",
        warning=held_out.too_low,
        good_k=math.nan if khat is None else khat_threshold(held_out.num_samples),
        elpd_i=xarray.DataArray(held_out.log_evidence, dims="datum", name="elpd_i"),
        pareto_k=shape,
    )


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
            f"{nouns()}; check them, use a likelihood with a positive density for all data, or "
            "pass leave_out_non_finite=True."
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
