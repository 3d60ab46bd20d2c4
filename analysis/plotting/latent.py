"""The latent space: which dimensions carry information, and where the data lie."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Real, Shaped

from analysis.plotting.style import BLUE, GREY, LABEL_COLOURS, ORANGE, new_figure, tidy
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import ACTIVE_VARIANCE, unit_activity

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# So many panels are still readable.
MOST_FACTORS = 6
# More labels than these have no colours that can be told apart.
MOST_CLASSES = 20


def plot_dimensions(
    kl: Real[np.ndarray, " latent"] | None,
    codes: Float[np.ndarray, "n latent"],
) -> "matplotlib.figure.Figure":
    """What each latent dimension carries: its KL, and how far its code moves with the data.

    The dimensions are sorted by KL, or by variance where the KL does not split into dimensions. A
    dimension low in both panels is ignored by the model: its posterior is its prior.

    Args:
        kl: KL(q(z_i | x) || p(z_i)), a mean over data in nats, or None where there is none.
        codes: The embedded data.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), section 5.2 (active units),
        https://arxiv.org/abs/1509.00519
    """
    variance = unit_activity(codes)
    latent = len(variance)
    order = np.argsort(variance if kl is None else kl)[::-1]
    rank = np.arange(latent)
    active = variance[order] > ACTIVE_VARIANCE
    figure = new_figure(max(6.0, min(0.22 * latent + 3, 12.0)), 3.0 if kl is None else 5.0)
    panels = figure.subplots(1 if kl is None else 2, 1, sharex=True, squeeze=False)[:, 0]
    if kl is not None:
        colours = np.where(active, BLUE, GREY).tolist()
        panels[0].bar(rank, kl[order], color=colours)
        # Of a collapsed model there is nothing to see, and that at a sensible scale.
        panels[0].set(ylabel="KL to the prior (nats)", ylim=(0, max(1.05 * kl.max(), 0.01)))
    # A variance of 0 has no logarithm and is drawn at the foot.
    low = max(min(variance.min(), ACTIVE_VARIANCE) / 3, 1e-8)
    drawn = np.maximum(variance[order], 1.5 * low)
    for where, colour, name in ((active, BLUE, "active"), (~active, GREY, "ignored")):
        if where.any():
            panels[-1].plot(rank[where], drawn[where], "o", color=colour, label=name)
    panels[-1].axhline(
        ACTIVE_VARIANCE, color=ORANGE, linestyle="--", label=f"threshold {ACTIVE_VARIANCE}"
    )
    panels[-1].set(
        yscale="log",
        ylim=(low, 12 * max(variance.max(), ACTIVE_VARIANCE)),
        ylabel="variance of the code",
        xlabel=f"latent dimension, sorted by {'variance' if kl is None else 'KL'}",
    )
    panels[-1].legend(frameon=False, ncols=3, fontsize=9)
    step = max(1, latent // 25)
    panels[-1].set_xticks(rank[::step], [str(index) for index in order[::step]])
    total = "" if kl is None else f"KL {kl.sum():.1f} nats in all; "
    figure.suptitle(f"{total}{active.sum()} of {latent} units active")
    tidy(panels)
    return figure


@dataclass(frozen=True)
class Projection:
    """Codes in the plane.

    Args:
        points: Where each datum lies.
        axes: What the two axes are.
        isotropic: Whether both axes have one unit.
    """

    points: Float[np.ndarray, "n 2"]
    axes: tuple[str, str]
    isotropic: bool = True


def project(codes: Float[np.ndarray, "n latent"]) -> Projection:
    """Codes as they are in two dimensions, otherwise on their first two principal components.

    One dimension is drawn against the order of the data, which has no meaning.
    """
    if codes.shape[1] == 1:
        order = np.arange(len(codes), dtype=codes.dtype)
        return Projection(np.stack([codes[:, 0], order], 1), ("z[0]", f"test {noun()}"), False)
    if codes.shape[1] == 2:
        return Projection(codes, ("z[0]", "z[1]"))
    from sklearn.decomposition import PCA

    # A constant code, of a collapsed model, has no components to divide the variance among but rounding.
    if np.ptp(codes, 0).max() <= 1e-6 * np.abs(codes).max():
        return Projection(codes[:, :2], ("z[0], constant", "z[1], constant"))
    pca = PCA(2, svd_solver="full").fit(codes)
    first, second = (
        f"principal component {index} ({share:.0%} of the variance)"
        for index, share in enumerate(pca.explained_variance_ratio_, start=1)
    )
    return Projection(pca.transform(codes), (first, second))


def plot_latent_space(
    codes: Float[np.ndarray, "n latent"],
    labels: Shaped[np.ndarray, " n *factors"] | None = None,
    names: Sequence[str] = (),
) -> "matplotlib.figure.Figure":
    """The embedded test data in the plane, coloured by label.

    Up to 20 labels get a colour each and stand written at the median of their data; real-valued or
    more labels get a colour scale. Factors get a panel each. Data without a label, -1 or NaN, are grey.

    Args:
        codes: The embedded data.
        labels: A label, or a row of factors, for each, if there are any.
        names: What label 0, 1, ... is called; of factors, what the first, second, ... is.
    """
    projection = project(codes)
    if labels is not None and labels.ndim > 1:
        return _plot_factors(projection, labels, names)
    figure = new_figure(7.2, 6.0)
    ax = figure.subplots()
    size = float(np.clip(8000 / len(codes), 3, 20))
    known = _labelled(labels) if labels is not None else np.zeros(len(codes), bool)
    if labels is None or not known.any():
        ax.scatter(*projection.points.T, s=size, color=BLUE, alpha=0.7, linewidth=0)
    else:
        ax.scatter(*projection.points[~known].T, s=size, color=GREY, alpha=0.4, linewidth=0)
        shown = replace(projection, points=projection.points[known])
        if len(np.unique(labels[known])) > MOST_CLASSES:
            drawn = ax.scatter(
                *shown.points.T, s=size, c=labels[known], cmap="viridis", linewidth=0
            )
            figure.colorbar(drawn, ax=ax, label="label")
        else:
            _scatter_classes(ax, shown, labels[known], size, names)
    ax.set(xlabel=projection.axes[0], ylabel=projection.axes[1])
    if projection.isotropic:
        ax.set_aspect("equal", adjustable="datalim")
    by_label = ", by label" if known.any() else ""
    ax.set_title(f"Codes of {len(codes)} test {nouns()}{by_label}")
    tidy([ax], grid="both")
    return figure


def _labelled(labels: np.ndarray) -> np.ndarray:
    """Which data have a label: classes and factors from 0 on, targets that are numbers, or words."""
    if labels.dtype.kind == "f":
        return np.isfinite(labels)
    return labels >= 0 if labels.dtype.kind == "i" else np.ones(labels.shape, bool)


def _plot_factors(
    projection: Projection, factors: np.ndarray, names: Sequence[str]
) -> "matplotlib.figure.Figure":
    """A panel for each of the first factors, whose values are a colour scale."""
    shown = min(factors.shape[1], MOST_FACTORS)
    columns = min(shown, 3)
    rows = -(-shown // columns)
    figure = new_figure(3.4 * columns + 0.6, 3.2 * rows + 0.6)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    size = float(np.clip(4000 / len(factors), 2, 12))
    for index, ax in enumerate(axes.flat):
        if index >= shown:
            ax.set_axis_off()
            continue
        known = _labelled(factors[:, index])
        values, points = factors[known, index], projection.points[known]
        if known.any():
            drawn = ax.scatter(*points.T, s=size, c=values, cmap="viridis", linewidth=0)
            figure.colorbar(drawn, ax=ax)
        ax.set_title(names[index] if index < len(names) else f"factor {index}")
    figure.supxlabel(projection.axes[0])
    figure.supylabel(projection.axes[1])
    of = f" (the first {shown} of {factors.shape[1]})" if shown < factors.shape[1] else ""
    figure.suptitle(f"Codes of {len(factors)} test {nouns()}, by factor{of}")
    tidy(list(axes.flat[:shown]), grid="both")
    return figure


def _scatter_classes(
    ax: "matplotlib.axes.Axes",
    projection: Projection,
    labels: np.ndarray,
    size: float,
    names: Sequence[str],
) -> None:
    """A colour for each label, whose name stands in the legend and among its data."""
    points = projection.points
    classes = np.unique(labels)
    medians = np.stack([np.median(points[labels == label], axis=0) for label in classes])
    span = np.ptp(points, axis=0)
    # In shares of the panel, whose two axes have one unit or each its own.
    unit = np.maximum(span.max() if projection.isotropic else span, 1e-12)
    places = unit * _apart(medians / unit, distance=0.055)
    for index, label in enumerate(classes):
        mine = points[labels == label]
        numbered = np.issubdtype(labels.dtype, np.integer) and 0 <= label < len(names)
        called = names[int(label)] if numbered else str(label)
        # The colours come round again after ten labels, with another mark.
        colour = LABEL_COLOURS[index % len(LABEL_COLOURS)]
        marker = "o" if index < len(LABEL_COLOURS) else "^"
        ax.scatter(
            *mine.T, s=size, color=colour, marker=marker, alpha=0.8, linewidth=0, label=called
        )
        x, y = places[index]
        box = {
            "boxstyle": "round,pad=0.2",
            "facecolor": "white",
            "edgecolor": colour,
            "alpha": 0.9,
        }
        ax.text(x, y, called, ha="center", va="center", fontweight="bold", bbox=box)
    # The marks of the legend have one size, however many data there are.
    ax.legend(
        title="label",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        markerscale=float(np.sqrt(40 / size)),
    )


def _apart(places: np.ndarray, distance: float, rounds: int = 50) -> np.ndarray:
    """Push places away from one another until all, or nearly all, are this far apart."""
    # Places on top of one another have no direction to go, so they start on a tiny circle.
    angle = np.arange(len(places))
    places = places + 1e-3 * distance * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for _ in range(rounds):
        gap = places[:, None] - places
        length = np.linalg.norm(gap, axis=-1) + np.eye(len(places))
        missing = np.clip(distance - length, 0, None) * (1 - np.eye(len(places)))
        places = (
            places + (gap / np.maximum(length, 1e-12)[..., None] * missing[..., None]).sum(1) / 2
        )
    return places
