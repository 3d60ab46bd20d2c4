"""How several models compare, in words: which is best, how surely, and what k-hat says against it."""

import math
from typing import TYPE_CHECKING

import numpy as np

from analysis.commands import ANNEALING
from analysis.comparison.heldout_elpd import MOST_KHATS_ABOVE
from analysis.plotting.style import listed
from pyro_vae.data.nouns import noun, nouns

if TYPE_CHECKING:
    import analysis.comparison.model_comparison

# A difference within so many standard errors is none that these data show.
STANDARD_ERRORS = 2.0

# Shares that differ by less are alike.
ALIKE = 0.05


def finding(comparison: "analysis.comparison.model_comparison.ModelComparison") -> str:
    """Which model is best, and which others these data do not tell from it."""
    best, *others = comparison.names
    amounts = [
        amount_of(*pair)
        for pair in zip(comparison.differences, comparison.difference_standard_errors, strict=True)
    ]
    equal = [
        f"{name} ({amount})"
        for name, amount, apart in zip(others, amounts[1:], comparison.told_apart[1:], strict=True)
        if not apart
    ]
    if comparison.unresolved.any():
        rounding = comparison.difference_rounding[comparison.unresolved].max()
        names = [
            name
            for name, hidden in zip(comparison.names, comparison.unresolved, strict=True)
            if hidden
        ]
        return (
            f"Withheld: log densities of about {abs(comparison.means[0]):.0e} nats carry rounding errors that "
            f"move the difference of {best} and {listed(names)} by up to {rounding:.1g} nats per {noun()}, as much as "
            "it is; train on standardised data (--data.scale standard), or compute in float64."
        )
    head = f"{best} has the highest log p(x) of {comparison.n:,} held-out {nouns()}, {comparison.means[0]:.2f} nats per {noun()}"
    if not equal:
        return f"{head}, {amounts[1]} above {others[0]}, the next."
    return (
        f"{head}, and on these data is indistinguishable from {listed(equal)}: within "
        f"{STANDARD_ERRORS:g} standard errors of the paired difference."
    )


def bias(comparison: "analysis.comparison.model_comparison.ModelComparison") -> str:
    """What k-hat says of the differences: each log p(x) is a lower bound in expectation."""
    unknown = [model.name for model in comparison.models if model.khat_share_above is None]
    low = [model for model in comparison.models if model.too_low]
    if not low:
        if unknown:
            whose = "" if len(unknown) == len(comparison.models) else f" of {listed(unknown)}"
            return f"There is no k-hat{whose} to warn of a log p(x) that is too low."
        most = max(model.khat_share_above or 0.0 for model in comparison.models)
        return (
            f"k-hat is above its threshold for at most {most:.1%} of data of any model (at most "
            f"{MOST_KHATS_ABOVE:.0%} is fine)."
        )
    best, others = (
        comparison.models[0],
        [model for model in low if model is not comparison.models[0]],
    )
    shares = listed([f"{model.khat_share_above:.0%} ({model.name})" for model in low])
    said = (
        "log p(x) is too low by an unknown amount where k-hat is above its threshold, as for "
        f"{shares} of {nouns()}: "
    )
    if not others:
        said += f"the lead of {best.name} is, if anything, too small"
    elif not best.too_low:
        names = listed([model.name for model in others])
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
    return f"{said}; `{ANNEALING}` is surer."


def amount_of(value: float, error: float) -> str:
    """A difference with its standard error, to the error's second digit."""
    digits = 2 if error <= 0 else int(np.clip(1 - math.floor(math.log10(error)), 0, 6))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
