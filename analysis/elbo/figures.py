"""Figures of the ELBO's terms, and of what each latent dimension adds to the rate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.elbo.rate_decomposition import RateDecomposition
from analysis.elbo.terms import ElboTerms
from analysis.plotting.style import BLUE, GREEN, GREY, ORANGE, new_figure, tidy
from analysis.predictive.model_samples import UndefinedCheckError
from pyro_vae.data.nouns import noun
from pyro_vae.statistics import ACTIVE_VARIANCE, standard_error, unit_activity

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# More data than these are drawn as a density.
MOST_POINTS = 5000


def plot_elbo_terms(
    terms: ElboTerms, decomposition: RateDecomposition | None = None
) -> "matplotlib.figure.Figure":
    """Reconstruction and rate of each datum, and how the mean ELBO comes about.

    Data on one of the thin lines have the same ELBO; towards the upper left it is better. On the
    right each bar takes away from the mean reconstruction what its term costs.

    Args:
        terms: The terms of each datum.
        decomposition: The rate taken apart; it is of the training data, so that a last step leads
            from their rate to that of these data.
    """
    figure = new_figure(10.0, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_plane(left, terms)
    steps = _steps(terms, decomposition)
    _draw_steps(right, terms, steps)
    if decomposition is not None:
        figure.supxlabel("\n".join(_notes(decomposition)), fontsize=9, color="0.25")
    elbo = terms.elbo
    error = standard_error(elbo)
    figure.suptitle(
        f"ELBO {elbo.mean():.2f}{'' if error is None else f' ± {error:.2f}'} nats over {len(elbo)} "
        "data, and its terms"
    )
    return figure


def _draw_plane(ax: "matplotlib.axes.Axes", terms: ElboTerms) -> None:
    rate, reconstruction = terms.rate, terms.reconstruction
    shown = np.isfinite(rate) & np.isfinite(reconstruction)
    rate, reconstruction = rate[shown], reconstruction[shown]
    if len(rate) > MOST_POINTS:
        ax.hexbin(
            rate, reconstruction, gridsize=50, mincnt=1, bins="log", cmap="Blues", linewidths=0
        )
    else:
        size = float(np.clip(8000 / max(len(rate), 1), 3, 16))
        ax.scatter(rate, reconstruction, s=size, color=BLUE, alpha=0.5, linewidth=0)
    if len(rate):
        limits = ax.get_xlim(), ax.get_ylim()
        for level in np.quantile(terms.elbo[shown], (0.01, 0.25, 0.5, 0.75, 0.99)):
            ax.axline((0, level), slope=1, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
            # Written where the line leaves the panel, at its right or at its head.
            x = min(limits[0][1], limits[1][1] - level)
            if limits[0][0] < x and limits[1][0] < x + level:
                ax.annotate(
                    f"{level:.0f}",
                    (x, x + level),
                    xytext=(3, 2),
                    textcoords="offset points",
                    fontsize=8,
                    color="0.35",
                    annotation_clip=False,
                )
        ax.set(xlim=limits[0], ylim=limits[1])
        ax.plot(rate.mean(), reconstruction.mean(), "o", color=ORANGE, label="mean")
        ax.plot([], [], "--", color=GREY, linewidth=0.8, label="equal ELBO (1, 25, 50, 75, 99 %)")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.05), fontsize=8, frameon=False, ncols=2)
    ax.set(
        xlabel="rate KL(q(z | x) || p(z)), nats",
        ylabel="reconstruction E[log p(x | z)], nats",
    )
    tidy([ax], grid=None)


def _steps(
    terms: ElboTerms, decomposition: RateDecomposition | None
) -> list[tuple[str, float, str]]:
    """What leads from the mean reconstruction down to the mean ELBO: names, nats and colours."""
    rate = float(terms.rate.mean())
    if decomposition is None:
        return [("rate", rate, BLUE)]
    steps = [("mutual information", decomposition.mutual_information, BLUE)]
    if decomposition.total_correlation is None or decomposition.dimension_wise_kl is None:
        steps.append(("marginal KL", decomposition.marginal_kl, ORANGE))
    else:
        steps.append(("total correlation", decomposition.total_correlation, ORANGE))
        name = "KL" if decomposition.dimension_wise_is_kl else "term*"
        steps.append((f"dimension-wise {name}", decomposition.dimension_wise_kl, GREEN))
    steps.append(("these data's rate\nless the training data's", rate - decomposition.rate, GREY))
    return steps


def _notes(decomposition: RateDecomposition) -> list[str]:
    """What has to be known to read the steps: whose they are, and where a term is none of its name."""
    notes = [f"The rate is taken apart over {decomposition.num_data:,} training data."]
    if decomposition.saturated:
        rest = "marginal KL" if decomposition.total_correlation is None else "total correlation"
        notes[0] += (
            f" Mutual information is saturated, at log N = {decomposition.log_n:.1f}: it may be larger, "
            f"and the {rest} smaller."
        )
    if decomposition.total_correlation is not None and not decomposition.dimension_wise_is_kl:
        notes.append(
            "*: no KL, and it may be negative, as the prior's dimensions depend on one another; total "
            "correlation and this add up to KL(q(z) || p(z))."
        )
    return notes


def _draw_steps(
    ax: "matplotlib.axes.Axes", terms: ElboTerms, steps: Sequence[tuple[str, float, str]]
) -> None:
    start, end = float(terms.reconstruction.mean()), float(terms.elbo.mean())
    ax.axvline(start, color="0.7", linewidth=0.8, zorder=1)
    level = start
    low = high = start
    for row, (_, nats, colour) in enumerate(steps, start=1):
        ax.barh(row, -nats, left=level, color=colour, height=0.6)
        low, high = min(low, level - nats), max(high, level - nats)
        level -= nats
    span = max(high - low, 0.1)
    ax.set_xlim(low - 0.12 * span, high + 0.28 * span)
    level = start
    for row, (_, nats, _) in enumerate(steps, start=1):
        ax.text(max(level, level - nats) + 0.02 * span, row, f"{-nats:+.2f}", va="center")
        level -= nats
    for row, value in ((0, start), (len(steps) + 1, end)):
        ax.plot([value, value], [row - 0.3, row + 0.3], color="black", linewidth=3)
        ax.text(value + 0.03 * span, row, f"{value:.2f}", va="center", fontweight="bold")
    names = ["reconstruction", *(f"- {name}" for name, _, _ in steps), "ELBO"]
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(f"nats per {noun()}, means")
    tidy([ax], grid="x")


def plot_spectrum(
    decomposition: RateDecomposition, terms: ElboTerms | None = None
) -> "matplotlib.figure.Figure":
    """What each latent dimension says of the datum, and how its distribution misses the prior.

    A dimension's KL is I(x; z_d) + KL(q(z_d) || p(z_d)); they add up to the rate only if the
    dimensions are independent, given x as without it. Dimensions are sorted by the sum. A grey
    one is ignored by the model.

    Args:
        decomposition: The rate taken apart.
        terms: The terms of other data, to mark the variance of their codes as well.

    Raises:
        UndefinedCheckError: If the guide's coordinates have no densities of their own.
    """
    from matplotlib.patches import Patch

    spectrum = decomposition.by_dimension
    if spectrum is None:
        raise UndefinedCheckError(f"no spectrum: {decomposition.undefined}")
    information, marginal = spectrum.mutual_information, spectrum.marginal_kl
    extra = np.zeros_like(information) if marginal is None else marginal
    order = np.argsort(-(information + extra), kind="stable")
    latent, rank = len(order), np.arange(len(order))
    active = decomposition.active[order]
    figure = new_figure(max(8.0, min(0.22 * latent + 3, 12.0)), 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    colours = np.where(active, BLUE, "0.75").tolist()
    upper.bar(rank, information[order], color=colours)
    # Noise may make an estimate of next to nothing negative: nothing to see.
    upper.bar(
        rank, np.maximum(extra[order], 0), bottom=np.maximum(information[order], 0), color=ORANGE
    )
    handles: list[Any] = [Patch(color=BLUE, label="mutual information I(x; z_d)")]
    if marginal is not None:
        handles.append(Patch(color=ORANGE, label="KL(q(z_d) || p(z_d)), best near 0"))
    flags = decomposition.saturated_dimensions
    saturated = np.zeros(latent, bool) if flags is None else flags[order]
    height = float((information + extra).max(initial=0.0))
    if saturated.any():
        line = upper.axhline(decomposition.log_n, color=GREY, linestyle=":")
        line.set_label("log N, the most that is seen; *: saturated, a lower bound")
        handles.append(line)
        height = max(height, decomposition.log_n)
        for place in rank[saturated]:
            upper.annotate(
                "*", (place, (information + extra)[order][place]), ha="center", fontsize=12
            )
    upper.set(ylabel="nats", ylim=(0, max(1.25 * height, 0.01)))
    upper.legend(handles=handles, frameon=False, fontsize=9, loc="upper right")
    _draw_activity(lower, decomposition.activity[order], terms, order)
    step = max(1, latent // 25)
    lower.set_xticks(rank[::step], [str(index) for index in order[::step]])
    lower.set_xlabel("latent dimension d, sorted by its KL to the prior")
    said = (
        ". The prior's dimensions depend on one another: no KL of each"
        if marginal is None
        else f", KL(q(z_d) || p(z_d)) to {marginal.sum():.2f}"
    )
    figure.suptitle(
        f"{active.sum()} of {latent} units active; I(x; z_d) sums to {information.sum():.1f} nats{said}"
    )
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
        other = unit_activity(terms.embeddings)[order]
        ax.plot(
            rank, np.maximum(other, 1.5 * low), "x", color="black", ms=5, label="evaluated data"
        )
        high = max(high, other.max())
    ax.axhline(ACTIVE_VARIANCE, color=ORANGE, linestyle="--", label=f"threshold {ACTIVE_VARIANCE}")
    ax.set(yscale="log", ylim=(low, 20 * high), ylabel="variance of the code")
    ax.legend(frameon=False, ncols=4, fontsize=9, loc="upper right")
