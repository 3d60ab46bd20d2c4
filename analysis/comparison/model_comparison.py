"""Which of several models gives held-out data the higher log p(x): paired differences, through ArviZ.

Two models are compared on the same data, datum by datum. What makes a datum hard is common to both and
cancels, so that a difference is known far better than either mean. LOO on log p(x | z), with the image
as observation, will not do: it ranks the worst guide first.
"""

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.comparison import comparison_reading
from analysis.comparison.comparison_reading import STANDARD_ERRORS, amount_of
from analysis.comparison.heldout_elpd import HeldOut, elpd_data
from analysis.plotting.labels import listed, shortened
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import finite
from pyro_vae.inference_data.terms import format_rows


@dataclass(frozen=True)
class ModelComparison:
    """log p(x) of several models on the same n data, the best first.

    A difference is the best minus the model, at least 0, whatever the line of ArviZ, whose two lines
    have opposite signs. Standard errors are those of the choice of data, for one training of each
    model: they do not hold what another seed of the training would change.

    Args:
        models: By their mean log p(x), the highest first.
        weights: The stacking weight of each, which sum to 1: the mixture of the models with the highest
            log p(x). A model that adds nothing to the others has 0, however good it is.
        left_out_rows: The rows, from 0, of the data that were left out because log p(x) of a model was
            not finite.
        perhaps_by_chance: Whether, of so many models, the best would be so far ahead by chance. ArviZ
            judges this from 12 models on.

    References:
        Using Stacking to Average Bayesian Predictive Distributions (Yao et al., 2018),
        https://arxiv.org/abs/1704.02030
    """

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
        """The best first."""
        return tuple(model.name for model in self.models)

    @cached_property
    def log_evidence(self) -> Float[np.ndarray, "models n"]:
        """log p(x) of each datum under each model, in nats."""
        return np.stack([model.log_evidence for model in self.models]).astype(np.float64)

    @property
    def n(self) -> int:
        """The number of data compared on."""
        return self.log_evidence.shape[1]

    @property
    def means(self) -> Float[np.ndarray, " models"]:
        """Mean log p(x), in nats per datum; n times as much is ArviZ's `elpd`."""
        return self.log_evidence.mean(1)

    @property
    def standard_errors(self) -> Float[np.ndarray, " models"]:
        """Of `means`: no measure of a difference, which is known better."""
        return self.log_evidence.std(1, ddof=1) / math.sqrt(self.n)

    @property
    def differences(self) -> Float[np.ndarray, " models"]:
        """Mean log p_best(x) - log p(x), in nats per datum: at least 0, and 0 for the best."""
        # Sums of equal numbers in another order may differ in the last digit.
        return np.maximum(self.pairwise[0], 0.0)

    @property
    def difference_standard_errors(self) -> Float[np.ndarray, " models"]:
        """Of `differences`, from the differences of each datum; 0 for the best."""
        return self.pairwise_standard_errors[0]

    @cached_property
    def pairwise(self) -> Float[np.ndarray, "models models"]:
        """Mean log p_row(x) - log p_column(x), in nats per datum."""
        return np.stack([(one - self.log_evidence).mean(1) for one in self.log_evidence])

    @cached_property
    def pairwise_standard_errors(self) -> Float[np.ndarray, "models models"]:
        """Of `pairwise`."""
        deviations = [(one - self.log_evidence).std(1, ddof=1) for one in self.log_evidence]
        return np.stack(deviations) / math.sqrt(self.n)

    @property
    def told_apart(self) -> np.ndarray:
        """Whether each model's difference to the best is more than 2 standard errors, and than rounding errors."""
        clear = self.differences > STANDARD_ERRORS * self.difference_standard_errors
        return clear & (self.differences > self.difference_rounding)

    @property
    def difference_rounding(self) -> Float[np.ndarray, " models"]:
        """About the rounding error of `differences` at most: as if all data erred in the same direction."""
        errors = np.array([model.rounding_errors.mean() for model in self.models])
        return errors + errors[0]

    @property
    def unresolved(self) -> np.ndarray:
        """Whether rounding errors swallow each model's difference to the best, which draws or data would show."""
        clear = self.differences > STANDARD_ERRORS * self.difference_standard_errors
        return clear & ~self.told_apart

    def summary(self) -> dict[str, Any]:
        """Nats per datum, sums in nats, shares and weights, model by model and pair by pair."""
        n = self.n
        models = [
            {
                "name": model.name,
                "rank": rank,
                "log_evidence": finite(self.means[rank]),
                "log_evidence_se": finite(self.standard_errors[rank]),
                "log_evidence_sum": finite(n * self.means[rank]),
                "log_evidence_sum_se": finite(n * self.standard_errors[rank]),
                "difference": finite(self.differences[rank]),
                "difference_se": finite(self.difference_standard_errors[rank]),
                "difference_sum": finite(n * self.differences[rank]),
                "difference_sum_se": finite(n * self.difference_standard_errors[rank]),
                "told_apart_from_best": bool(self.told_apart[rank]),
                "difference_rounding": finite(self.difference_rounding[rank]),
                "weight": finite(self.weights[rank]),
                "khat_share_above": model.khat_share_above,
                "num_samples": model.num_samples,
            }
            for rank, model in enumerate(self.models)
        ]
        return {
            "n": n,
            "left_out": self.left_out,
            "left_out_rows": list(self.left_out_rows),
            "sign": "best minus model",
            "models": models,
            "pairwise_names": list(self.names),
            "pairwise": self.pairwise.tolist(),
            "pairwise_se": self.pairwise_standard_errors.tolist(),
            "perhaps_by_chance": self.perhaps_by_chance,
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Which model is best, how surely, and what could make it wrong."""
        parts = [comparison_reading.finding(self), comparison_reading.bias(self)]
        draws = {model.num_samples for model in self.models}
        if len(draws) > 1:
            parts.append(
                f"The models have from {min(draws)} to {max(draws)} draws for each {noun()}: a bound with "
                "fewer is lower, so give all the same."
            )
        if self.perhaps_by_chance:
            parts.append("Of so many models, the best may be ahead by chance: try it on new data.")
        if self.left_out:
            parts.append(
                f"Left out were {self.left_out:,} of {self.n + self.left_out:,} data, "
                f"{named(list(self.left_out_rows))}, for which log p(x) of a model is not finite: this "
                "favours the models that fail there."
            )
        parts.append(
            "A standard error is that of the choice of data, with one training of each model: it does "
            "not hold the variation over training seeds."
        )
        return " ".join(parts)

    def finding(self) -> str:
        """The result in a few words, for a title."""
        best, second = (shortened(name) for name in self.names[:2])
        amount = amount_of(self.differences[1], self.difference_standard_errors[1])
        if self.told_apart[1]:
            return f"{best} leads {second} by {amount} nats per {noun()}"
        equal = int((~self.told_apart).sum())
        if equal > 2:
            return (
                f"{equal} of {len(self.models)} models cannot be told apart from {best}, the best"
            )
        return f"{best} and {second} cannot be told apart: {amount} nats per {noun()}"


def compare_models(
    models: Sequence[HeldOut], *, leave_out_non_finite: bool = False
) -> ModelComparison:
    """Rank models by held-out log p(x), with paired differences and stacking weights.

    Order and weights are those of `arviz_stats.compare`. For the weights it exponentiates log p(x),
    which below -745 and above 709 nats gives equal weights to all models without an error. So each datum's
    highest log p(x) is first taken away from all models: it changes no difference and no weight.

    Args:
        models: At least two, on the same data in the same order.
        leave_out_non_finite: Compare on the data that all models give a finite log p(x), and name the
            others; otherwise such data are refused.

    Returns:
        The models, best first. A difference of more than 2 standard errors is one that these data show;
        read k-hat beside it.

    Raises:
        ValueError: If there are fewer than two models or data, names repeat, numbers of data differ, or
            log p(x) is not finite.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari et
        al., 2017), section 5.2, https://arxiv.org/abs/1507.04544
    """
    _check(models)
    kept = np.asarray(np.isfinite([model.log_evidence for model in models]).all(axis=0))
    if not (kept.all() or leave_out_non_finite):
        bad = {model.name: np.flatnonzero(~np.isfinite(model.log_evidence)) for model in models}
        counts = listed(
            [
                f"{len(rows):,} of {name} ({named(rows.tolist())})"
                for name, rows in bad.items()
                if len(rows)
            ]
        )
        raise ValueError(
            f"log p(x) must be finite, and is not for {counts} of {len(kept):,} data, counted from 0: "
            "where it is -inf the model rules the datum out, so look at its values, or use a "
            "likelihood that gives them a positive density; leave_out_non_finite=True compares on the "
            "others, and names those left out."
        )
    if kept.sum() < 2:
        raise ValueError(
            f"a comparison needs at least two data with a finite log p(x), got {kept.sum()}."
        )
    models = [model.rows(kept) for model in models]
    table, warned = _arviz_compare(models)
    by_name = {model.name: model for model in models}
    return ModelComparison(
        models=tuple(by_name[name] for name in table.index),
        weights=table["weight"].to_numpy(np.float64).clip(0, 1),
        left_out_rows=tuple(np.flatnonzero(~kept).tolist()),
        perhaps_by_chance=any("due to chance" in message for message in warned),
    )


def _check(models: Sequence[HeldOut]) -> None:
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
    """ArviZ's table of log p(x) below each datum's best, and what it warned of."""
    from arviz_stats import compare  # pyright: ignore[reportPrivateImportUsage]

    highest = np.max([model.log_evidence for model in models], axis=0)
    below = {
        model.name: elpd_data(
            HeldOut(
                model.name,
                model.log_evidence - highest,
                model.khat,
                model.num_samples,
                model.rounding_errors,
            )
        )
        for model in models
    }
    # The older line does not round.
    options = inspect.signature(compare).parameters
    exact: dict[str, Any] = {"round_to": "none"} if "round_to" in options else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = compare(below, **exact)
    return table, [str(warning.message) for warning in caught]
