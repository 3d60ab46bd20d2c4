"""The rate of each latent dimension, and the check of the decomposition of the rate."""

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.check import Check, Plot
from analysis.elbo.rate_decomposition import PARTS, RateDecomposition
from analysis.elbo.terms import ElboTerms, elbo_terms, rate_of_training
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy, wrap_title
from analysis.result import UndefinedCheckError
from pyro_vae.statistics import ACTIVE_VARIANCE, unit_activity

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def plot_spectrum(
    decomposition: RateDecomposition, terms: ElboTerms | None = None
) -> "matplotlib.figure.Figure":
    """The rate of each latent dimension, I(x; z_d) + KL(q(z_d) || p(z_d)), in falling order.

    They sum to the rate only if the dimensions are independent, both given x and without it. The
    model ignores grey dimensions.

    Args:
        decomposition: The decomposition of the rate.
        terms: The terms of other data, to show the variance of their codes as well.

    Raises:
        UndefinedCheckError: If the guide's coordinates have no densities.
    """
    from matplotlib.patches import Patch

    spectrum = decomposition.by_dimension
    if spectrum is None:
        raise UndefinedCheckError(f"no spectrum: {decomposition.undefined}")
    information, marginal = spectrum.mutual_information, spectrum.marginal_kl
    extra = np.zeros_like(information) if marginal is None else marginal
    order = np.argsort(-(information + extra), kind="stable")
    information, extra = information[order], extra[order]
    latent, rank = len(order), np.arange(len(order))
    active = decomposition.active[order]
    figure = new_figure(max(8.0, min(0.22 * latent + 3, 12.0)), 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    upper.bar(rank, information, color=np.where(active, BLUE, "0.75").tolist())
    # The estimate of a value near 0 may be negative.
    upper.bar(rank, np.maximum(extra, 0), bottom=np.maximum(information, 0), color=ORANGE)
    handles: list[Any] = [Patch(color=BLUE, label="mutual information I(x; z_d)")]
    if marginal is not None:
        handles.append(Patch(color=ORANGE, label="KL(q(z_d) || p(z_d)), best near 0"))
    height = float((information + extra).max(initial=0.0))
    flags = decomposition.saturated_dimensions
    if flags is not None and flags.any():
        line = upper.axhline(decomposition.log_n, color=GREY, linestyle=":")
        line.set_label("log N, the upper bound; *: saturated, a lower bound")
        handles.append(line)
        height = max(height, decomposition.log_n)
        for place in rank[flags[order]]:
            top = (place, (information + extra)[place])
            upper.annotate("*", top, ha="center", fontsize=12)
    upper.set(ylabel="nats", ylim=(0, max(1.25 * height, 0.01)))
    upper.legend(handles=handles, frameon=False, fontsize=9, loc="upper right")
    _draw_activity(lower, decomposition.activity[order], terms, order)
    step = max(1, latent // 25)
    lower.set_xticks(rank[::step], [str(index) for index in order[::step]])
    lower.set_xlabel("latent dimension d, sorted by its KL to the prior")
    sums = f"I(x; z_d) sums to {information.sum():.1f} nats" + (
        "; under this prior, the dimensions have no KL of their own"
        if marginal is None
        else f", KL(q(z_d) || p(z_d)) to {marginal.sum():.2f}"
    )
    title = f"{active.sum()} of {latent} units active; {sums}"
    figure.suptitle(wrap_title(title, figure.get_figwidth()))
    tidy([upper, lower])
    return figure


def _draw_activity(
    ax: "matplotlib.axes.Axes", activity: np.ndarray, terms: ElboTerms | None, order: np.ndarray
) -> None:
    active, rank = activity > ACTIVE_VARIANCE, np.arange(len(activity))
    low = max(min(activity.min(), ACTIVE_VARIANCE) / 3, 1e-8)
    for where, colour, name in ((active, BLUE, "active"), (~active, GREY, "ignored")):
        if where.any():
            drawn = np.maximum(activity[where], 1.5 * low)
            ax.plot(rank[where], drawn, "o", color=colour, label=name)
    high = max(activity.max(), ACTIVE_VARIANCE)
    if terms is not None and len(terms.embeddings) > 1:
        other = np.maximum(unit_activity(terms.embeddings)[order], 1.5 * low)
        ax.plot(rank, other, "x", color="black", ms=5, label="evaluated data")
        high = max(high, other.max())
    ax.axhline(ACTIVE_VARIANCE, color=ORANGE, linestyle="--", label=f"threshold {ACTIVE_VARIANCE}")
    ax.set(yscale="log", ylim=(low, 20 * high), ylabel="variance of the code")
    ax.legend(frameon=False, ncols=4, fontsize=9, loc="upper right")


def _parts(found: RateDecomposition) -> dict[str, str]:
    numbers = {}
    for name, label in PARTS.items():
        value, error = getattr(found, name), getattr(found, f"{name}_se")
        numbers[label] = "not defined" if value is None else f"{value:.2f} +- {error:.2f} nats"
    return numbers


DECOMPOSITION = Check(
    "decomposition",
    rate_of_training,
    plots=(
        Plot(
            "spectrum",
            "Which latent dimensions carry the rate?",
            lambda found, subject: plot_spectrum(found, elbo_terms(subject.evaluation)),
        ),
    ),
    headline=_parts,
    record=lambda found: {
        key: getattr(found, key) for name in PARTS for key in (name, f"{name}_se")
    },
)
