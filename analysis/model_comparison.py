"""Which of several models gives held-out data the higher log p(x): paired differences, through ArviZ.

Two models are compared on the same data, datum by datum. What makes a datum hard is common to both and
cancels, so that a difference is known far better than either mean. LOO on log p(x | z), with the image
as observation, will not do: it ranks the worst guide first.
"""

import inspect
import math
import textwrap
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from analysis.arviz_figures import arviz_figure
from analysis.canvas import BLUE, GREY, ORANGE, tidy
from pyro_vae.evidence.numbers import finite, share_above_threshold, standard_error
from pyro_vae.statistics import khat_threshold

if TYPE_CHECKING:
    import matplotlib.figure

# A difference within so many standard errors is none that these data show.
STANDARD_ERRORS = 2.0

# The share of data with a k-hat above the threshold from which a model's log p(x) is too low as a whole.
MOST_KHATS_ABOVE = 0.1

# Shares that differ by less are alike.
ALIKE = 0.05

# So many names are listed in a sentence; the others are counted.
_MOST_NAMES = 4


@dataclass(frozen=True)
class HeldOut:
    """log p(x) of one model for each of n held-out data.

    Args:
        name: The model's.
        log_evidence: log p(x) of each datum, in nats, in the same order for all models.
        khat: The tail shape of each datum's importance weights; None where there is none, as of
            annealing, or of fewer than 25 draws.
        num_samples: The number of draws, or of chains, for each datum.
    """

    name: str
    log_evidence: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int

    @property
    def khat_share_above(self) -> float | None:
        """The share of data with a k-hat above the threshold, whose log p(x) is too low; or None."""
        return share_above_threshold(self.khat, self.num_samples)

    @property
    def too_low(self) -> bool:
        """Whether that share is above 10 %: the mean is then too low by an unknown amount."""
        return (self.khat_share_above or 0.0) > MOST_KHATS_ABOVE

    def rows(self, kept: np.ndarray) -> "HeldOut":
        """The same on some of the data."""
        khat = None if self.khat is None else self.khat[kept]
        return HeldOut(self.name, self.log_evidence[kept], khat, self.num_samples)


def elpd_data(held_out: HeldOut) -> Any:
    """sum_i log p(x_i) as the `ELPDData` that `arviz_stats.compare` takes.

    The sum, its standard error, each datum's log p(x) and k-hat are there. `warning` is set where more
    than 10 % of k-hats are above `good_k`, and the sum is then too low. The effective number of
    parameters, `p`, is NaN: nothing is fitted to held-out data.

    Args:
        held_out: log p(x) of a model on data that did not train it.

    References:
        Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC (Vehtari et
        al., 2017), https://arxiv.org/abs/1507.04544
    """
    import xarray
    from arviz_stats.utils import ELPDData

    n = len(held_out.log_evidence)
    # Since ArviZ 1, the class itself says the kind, and the bare one has none.
    older = "kind" in inspect.signature(ELPDData).parameters
    kind: dict[str, Any] = {"kind": "held_out"} if older else {}
    khat = held_out.khat
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
        pareto_k=None if khat is None else xarray.DataArray(khat, dims="datum", name="pareto_k"),
    )


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
        left_out: The number of data that were left out because log p(x) of a model was not finite.
        perhaps_by_chance: Whether, of so many models, the best would be so far ahead by chance. ArviZ
            judges this from 12 models on.

    References:
        Using Stacking to Average Bayesian Predictive Distributions (Yao et al., 2018),
        https://arxiv.org/abs/1704.02030
    """

    models: tuple[HeldOut, ...]
    weights: Float[np.ndarray, " models"]
    left_out: int = 0
    perhaps_by_chance: bool = False

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
        """Whether each model's difference to the best is more than 2 standard errors."""
        return self.differences > STANDARD_ERRORS * self.difference_standard_errors

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
                "weight": finite(self.weights[rank]),
                "khat_share_above": model.khat_share_above,
                "num_samples": model.num_samples,
            }
            for rank, model in enumerate(self.models)
        ]
        return {
            "n": n,
            "left_out": self.left_out,
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
        parts = [self._finding(), self._bias()]
        draws = {model.num_samples for model in self.models}
        if len(draws) > 1:
            parts.append(
                f"The models have from {min(draws)} to {max(draws)} draws for each datum: a bound with "
                "fewer is lower, so give all the same."
            )
        if self.perhaps_by_chance:
            parts.append("Of so many models, the best may be ahead by chance: try it on new data.")
        if self.left_out:
            parts.append(
                f"Left out were {self.left_out:,} of {self.n + self.left_out:,} data, for which log "
                "p(x) of a model is not finite: this favours the models that fail there."
            )
        parts.append(
            "A standard error is that of the choice of data, with one training of each model: it does "
            "not hold the variation over training seeds."
        )
        return " ".join(parts)

    def finding(self) -> str:
        """The result in a few words, for a title."""
        best, second = (shortened(name) for name in self.names[:2])
        amount = _amount(self.differences[1], self.difference_standard_errors[1])
        if self.told_apart[1]:
            return f"{best} leads {second} by {amount} nats per datum"
        equal = int((~self.told_apart).sum())
        if equal > 2:
            return (
                f"{equal} of {len(self.models)} models cannot be told apart from {best}, the best"
            )
        return f"{best} and {second} cannot be told apart: {amount} nats per datum"

    def _finding(self) -> str:
        best, *others = self.names
        amounts = [
            _amount(*pair)
            for pair in zip(self.differences, self.difference_standard_errors, strict=True)
        ]
        equal = [
            f"{name} ({amount})"
            for name, amount, apart in zip(others, amounts[1:], self.told_apart[1:], strict=True)
            if not apart
        ]
        head = f"{best} has the highest log p(x) of {self.n:,} held-out data, {self.means[0]:.2f} nats per datum"
        if not equal:
            return f"{head}, {amounts[1]} above {others[0]}, the next."
        return (
            f"{head}, and on these data is indistinguishable from {_listed(equal)}: within "
            f"{STANDARD_ERRORS:g} standard errors of the paired difference."
        )

    def _bias(self) -> str:
        """What k-hat says of the differences: each log p(x) is a lower bound in expectation."""
        unknown = [model.name for model in self.models if model.khat_share_above is None]
        low = [model for model in self.models if model.too_low]
        if not low:
            if unknown:
                whose = "" if len(unknown) == len(self.models) else f" of {_listed(unknown)}"
                return f"There is no k-hat{whose} to warn of a log p(x) that is too low."
            most = max(model.khat_share_above or 0.0 for model in self.models)
            return (
                f"k-hat is above its threshold for at most {most:.1%} of data of any model (at most "
                f"{MOST_KHATS_ABOVE:.0%} is fine)."
            )
        best, others = self.models[0], [model for model in low if model is not self.models[0]]
        shares = _listed([f"{model.khat_share_above:.0%} ({model.name})" for model in low])
        said = (
            "log p(x) is too low by an unknown amount where k-hat is above its threshold, as for "
            f"{shares} of data: "
        )
        if not others:
            said += f"the lead of {best.name} is, if anything, too small"
        elif not best.too_low:
            names = _listed([model.name for model in others])
            said += f"the lead of {best.name} over {names} may be too large, and the order wrong"
        else:
            worst = max(low, key=lambda model: model.khat_share_above or 0.0)
            more = (worst.khat_share_above or 0.0) - (best.khat_share_above or 0.0)
            least = min(model.khat_share_above or 0.0 for model in others)
            if more > ALIKE:
                said += (
                    f"{worst.name} suffers more than {best.name}, whose lead over it is more likely "
                    "too large than too small"
                )
            elif (best.khat_share_above or 0.0) - least > ALIKE:
                said += (
                    f"{best.name} suffers more than others, over which its lead is more likely too "
                    "small than too large"
                )
            else:
                said += "they suffer alike, so that a difference may be wrong either way"
        return f"{said}; `scripts/evaluate.py RUN --methods annealing` is surer."


def compare_models(
    models: Sequence[HeldOut], *, leave_out_non_finite: bool = False
) -> ModelComparison:
    """Rank models by held-out log p(x), with paired differences and stacking weights.

    Order and weights are those of `arviz_stats.compare`. For the weights it exponentiates log p(x),
    which below -745 and above 709 nats gives equal weights to all models without an error. So each datum's
    highest log p(x) is first taken away from all models: it changes no difference and no weight.

    Args:
        models: At least two, on the same data in the same order.
        leave_out_non_finite: Compare on the data that all models give a finite log p(x), and count the
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
    kept = np.isfinite(np.stack([model.log_evidence for model in models])).all(0)
    if not (kept.all() or leave_out_non_finite):
        bad = {model.name: int((~np.isfinite(model.log_evidence)).sum()) for model in models}
        counts = _listed([f"{count:,} of {name}" for name, count in bad.items() if count])
        raise ValueError(
            f"log p(x) must be finite, and is not for {counts} of {len(kept):,} data, the first in row "
            f"{int(np.argmin(kept))}; leave_out_non_finite=True compares on the others, and counts them."
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
        left_out=int((~kept).sum()),
        perhaps_by_chance=any("due to chance" in message for message in warned),
    )


def plot_model_comparison(comparison: ModelComparison) -> "matplotlib.figure.Figure":
    """Mean log p(x) of each model below the best's, with 2 paired standard errors, as ArviZ draws it.

    A bar that reaches the dashed line is of a model that these data do not tell from the best. On the
    right stand the mean itself, the share of k-hats above the threshold, and the stacking weight; a
    model whose log p(x) is too low, as k-hat says, is orange.

    Args:
        comparison: Of two models or more.
    """
    import arviz_plots
    import pandas as pd

    models = comparison.models
    # Of these names plot_compare takes the mean log p(x), and both of its lines draw them alike.
    table = pd.DataFrame(
        {
            "mlpd": -comparison.differences,
            "se": STANDARD_ERRORS * comparison.difference_standard_errors,
        },
        index=pd.Index([shortened(name) for name in comparison.names]),
    )
    figure = arviz_figure(
        arviz_plots.plot_compare,
        table,
        width=10.0,
        height=1.9 + 0.42 * len(models),
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
        f"log p(x) minus that of {shortened(comparison.names[0])}, nats per datum, "
        f"± {STANDARD_ERRORS:g} paired standard errors",
        fontsize=10,
    )
    ax.tick_params(labelsize=10)
    numbers = ax.twinx()
    numbers.set_ylim(ax.get_ylim())
    notes = [
        f"{mean:.2f} nats, k-hat high {'?' if share is None else f'{share:.0%}'}, weight {weight:.2f}"
        for mean, share, weight in zip(
            comparison.means,
            [model.khat_share_above for model in models],
            comparison.weights,
            strict=True,
        )
    ]
    numbers.set_yticks(range(len(models), 0, -1), notes, fontsize=9)
    numbers.tick_params(length=0)
    tidy([ax, numbers], grid=None)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    figure.suptitle(wrapped(f"Of {comparison.n:,} data: {comparison.finding()}"), fontsize=12)
    return figure


def shortened(name: str, most: int = 28) -> str:
    """A name that fits beside an axis: its middle is left out if it is long."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"


def wrapped(title: str) -> str:
    """A title in lines that fit on a sheet of 10 inches."""
    return textwrap.fill(title, 95)


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
    import arviz_stats

    highest = np.max([model.log_evidence for model in models], axis=0)
    below = {
        model.name: elpd_data(
            HeldOut(model.name, model.log_evidence - highest, model.khat, model.num_samples)
        )
        for model in models
    }
    # The older line does not round.
    options = inspect.signature(arviz_stats.compare).parameters
    exact: dict[str, Any] = {"round_to": "none"} if "round_to" in options else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = arviz_stats.compare(below, **exact)
    return table, [str(warning.message) for warning in caught]


def _amount(value: float, error: float) -> str:
    """A difference with its standard error, to the error's second digit."""
    digits = 2 if error <= 0 else int(np.clip(1 - math.floor(math.log10(error)), 0, 6))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _listed(words: Sequence[str]) -> str:
    if len(words) > _MOST_NAMES + 1:
        words = [*words[:_MOST_NAMES], f"{len(words) - _MOST_NAMES} others"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
