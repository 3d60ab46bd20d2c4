"""The latent space: its dimensions, codes in the plane, guide's intervals, a prior's density."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Real, Shaped

from analysis.plotting.style import (
    BLUE,
    GREY,
    LABEL_COLOURS,
    ORANGE,
    arviz_figure,
    new_figure,
    tidy,
)
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import ACTIVE_VARIANCE, unit_activity

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import xarray

# The largest number of panels, of labels with distinct colours, and of tick labels.
MOST_FACTORS, MOST_CLASSES, MOST_TICKS = 6, 20, 25
INTERVALS = (0.5, 0.9)


def plot_dimensions(
    kl: Real[np.ndarray, " latent"] | None,
    codes: Float[np.ndarray, "n latent"],
) -> "matplotlib.figure.Figure":
    """The KL of each latent dimension, and the variance of its code over the data.

    The dimensions are sorted by KL, or by variance where the KL does not split into dimensions.
    The model ignores a dimension that is low in both panels: its posterior is its prior.

    Args:
        kl: KL(q(z_i | x) || p(z_i)), the mean over data in nats; None if it is not defined.
        codes: The codes of the data.

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
        panels[0].bar(rank, kl[order], color=np.where(active, BLUE, GREY).tolist())
        # A collapsed model has no KL, and is drawn on a sensible scale.
        panels[0].set(ylabel="KL to the prior (nats)", ylim=(0, max(1.05 * kl.max(), 0.01)))
    # A variance of 0 has no logarithm, and is drawn at the bottom.
    low = max(min(variance.min(), ACTIVE_VARIANCE) / 3, 1e-8)
    heights = np.maximum(variance[order], 1.5 * low)
    for where, colour, name in ((active, BLUE, "active"), (~active, GREY, "ignored")):
        if where.any():
            panels[-1].plot(rank[where], heights[where], "o", color=colour, label=name)
    threshold = f"threshold {ACTIVE_VARIANCE}"
    panels[-1].axhline(ACTIVE_VARIANCE, color=ORANGE, linestyle="--", label=threshold)
    panels[-1].set(
        yscale="log",
        ylim=(low, 12 * max(variance.max(), ACTIVE_VARIANCE)),
        ylabel="variance of the code",
        xlabel=f"latent dimension, sorted by {'variance' if kl is None else 'KL'}",
    )
    panels[-1].legend(frameon=False, ncols=3, fontsize=9)
    step = max(1, latent // MOST_TICKS)
    panels[-1].set_xticks(rank[::step], [str(index) for index in order[::step]])
    total = "" if kl is None else f"KL {kl.sum():.1f} nats in all; "
    figure.suptitle(f"{total}{active.sum()} of {latent} units active")
    tidy(panels)
    return figure


class Projection(NamedTuple):
    """Codes in the plane: points, the axes' labels, and whether both axes have one unit."""

    points: Float[np.ndarray, "n 2"]
    axes: tuple[str, str]
    isotropic: bool = True


def project(codes: Float[np.ndarray, "n latent"]) -> Projection:
    """Codes of two dimensions unchanged, others on their first two principal components.

    One dimension is drawn against the order of the data, which has no meaning.
    """
    if codes.shape[1] == 1:
        order = np.arange(len(codes), dtype=codes.dtype)
        return Projection(np.stack([codes[:, 0], order], 1), ("z[0]", f"test {noun()}"), False)
    if codes.shape[1] == 2:
        return Projection(codes, ("z[0]", "z[1]"))
    # The principal components of a constant code, of a collapsed model, are rounding errors.
    if np.ptp(codes, 0).max() <= 1e-6 * np.abs(codes).max():
        return Projection(codes[:, :2], ("z[0], constant", "z[1], constant"))
    centred = codes - codes.mean(0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    # Each direction's largest component is positive, as in scikit-learn.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    directions = directions * np.sign(largest)
    first, second = (
        f"principal component {index} ({share:.0%} of the variance)"
        for index, share in enumerate((scales**2 / (scales**2).sum())[:2], start=1)
    )
    return Projection(centred @ directions[:2].T, (first, second))


def plot_latent_space(
    codes: Float[np.ndarray, "n latent"],
    labels: Shaped[np.ndarray, " n *factors"] | None = None,
    names: Sequence[str] = (),
) -> "matplotlib.figure.Figure":
    """The codes of test data in the plane, coloured by label.

    Up to 20 labels have a colour each, and a name at the median of their codes; real-valued or
    more labels have a colour scale. Factors have a panel each. Data without a label, -1 or NaN,
    are grey.

    Args:
        codes: The codes.
        labels: A label, or a row of factors, for each code, if there are any.
        names: The names of labels 0, 1, ...; with factors, of the factors.
    """
    projection = project(codes)
    points = projection.points
    if labels is not None and labels.ndim > 1:
        return _plot_factors(projection, labels, names)
    figure = new_figure(7.2, 6.0)
    ax = figure.subplots()
    size = float(np.clip(8000 / len(codes), 3, 20))
    known = _is_labelled(labels) if labels is not None else np.zeros(len(codes), bool)
    if labels is None or not known.any():
        ax.scatter(*points.T, s=size, color=BLUE, alpha=0.7, linewidth=0)
    else:
        ax.scatter(*points[~known].T, s=size, color=GREY, alpha=0.4, linewidth=0)
        if len(np.unique(labels[known])) > MOST_CLASSES:
            shown = ax.scatter(*points[known].T, s=size, c=labels[known], linewidth=0)
            figure.colorbar(shown, ax=ax, label="label")
        else:
            shown = projection._replace(points=points[known])
            _scatter_classes(ax, shown, labels[known], size, names)
    ax.set(xlabel=projection.axes[0], ylabel=projection.axes[1])
    if projection.isotropic:
        ax.set_aspect("equal", adjustable="datalim")
    by_label = ", by label" if known.any() else ""
    ax.set_title(f"Codes of {len(codes)} test {nouns()}{by_label}")
    tidy([ax], grid="both")
    return figure


def _is_labelled(labels: np.ndarray) -> np.ndarray:
    """Whether each label is known: integers from 0 on, finite floats, and any word."""
    if labels.dtype.kind == "f":
        return np.isfinite(labels)
    return labels >= 0 if labels.dtype.kind == "i" else np.ones(labels.shape, bool)


def _plot_factors(
    projection: Projection, factors: np.ndarray, names: Sequence[str]
) -> "matplotlib.figure.Figure":
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
        known = _is_labelled(factors[:, index])
        if known.any():
            colours, points = factors[known, index], projection.points[known]
            figure.colorbar(ax.scatter(*points.T, s=size, c=colours, linewidth=0), ax=ax)
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
    """Codes in a colour for each label, whose name is in the legend and among its codes."""
    points = projection.points
    classes = np.unique(labels)
    medians = np.stack([np.median(points[labels == label], axis=0) for label in classes])
    span = np.ptp(points, axis=0)
    # Distances are shares of the panel, whose axes have one unit or two.
    unit = np.maximum(span.max() if projection.isotropic else span, 1e-12)
    places = unit * _separate(medians / unit, distance=0.055)
    for index, label in enumerate(classes):
        numbered = np.issubdtype(labels.dtype, np.integer) and 0 <= label < len(names)
        name = names[int(label)] if numbered else str(label)
        # After ten labels the colours repeat with another marker.
        colour = LABEL_COLOURS[index % len(LABEL_COLOURS)]
        style = {"color": colour, "marker": "o" if index < len(LABEL_COLOURS) else "^"}
        mine = points[labels == label]
        ax.scatter(*mine.T, s=size, alpha=0.8, linewidth=0, label=name, **style)
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": colour, "alpha": 0.9}
        ax.text(*places[index], name, ha="center", va="center", fontweight="bold", bbox=box)
    # The legend's markers have one size, however many codes there are.
    scale = float(np.sqrt(40 / size))
    right = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    ax.legend(title="label", frameon=False, markerscale=scale, **right)


def _separate(places: np.ndarray, distance: float, rounds: int = 50) -> np.ndarray:
    """Push places apart until all, or nearly all, have at least this distance."""
    # Places start on a tiny circle, so that coinciding ones have a direction to move.
    angle = np.arange(len(places))
    places = places + 1e-3 * distance * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    others = 1 - np.eye(len(places))
    for _ in range(rounds):
        gap = places[:, None] - places
        length = np.maximum(np.linalg.norm(gap, axis=-1), 1e-12)
        push = np.clip(distance - length, 0, None) / length * others
        places = places + (gap * push[..., None]).sum(1) / 2
    return places


def plot_latents(
    tree: "xarray.DataTree", images: int = 3, dimensions: int = 8, site: str | None = None
) -> "matplotlib.figure.Figure":
    """Medians and central intervals of q(z | x) for the first examples of a tree.

    Args:
        tree: From `from_svi`: its `posterior` has the dimensions `(chain, draw, image, ...)`.
        images: The number of examples.
        dimensions: The number of latent dimensions of each.
        site: The latent site; by default the first.
    """
    import arviz_plots
    import xarray

    posterior = tree["posterior"].to_dataset()
    name = site or str(next(iter(posterior.data_vars)))
    chain, draw, image, *event = posterior[name].dims
    few = {image: slice(images)} | {dim: slice(dimensions) for dim in event}
    chosen = posterior[[name]].isel(few)
    sizes = chosen[name].sizes
    rows = chosen[name].size // (sizes[chain] * sizes[draw])
    figure = arviz_figure(
        arviz_plots.plot_forest,
        xarray.DataTree.from_dict({"posterior": chosen}),
        width=8.0,
        height=1.4 + 0.24 * rows,
        figure_kwargs={"width_ratios": [1, 4]},
        sample_dims=[chain, draw],
        combined=True,
        point_estimate="median",
        ci_kind="eti",
        ci_probs=INTERVALS,
        labels=[image, *event],
        shade_label=image,
        visuals={"shade": {"color": "0.6"}},
    )
    half, most = (f"{probability:.0%}" for probability in INTERVALS)
    names, forest = figure.axes
    # A centred last name would overlap the forest's axis.
    names.get_xticklabels()[-1].set_horizontalalignment("right")
    forest.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    spread = chosen[name].max([chain, draw]) - chosen[name].min([chain, draw])
    forest.set_xlabel(
        f"{name}: median, {half} and {most} intervals of q({name} | x)"
        if bool((spread > 0).any())
        else f"{name}: the code, a point without a spread"
    )
    figure.suptitle(f"The posterior q(z | x) of {sizes[image]} test {nouns()}")
    return figure


# The latent_dim for which a support has two dimensions, and a one-hot prior two variables.
LATENT_DIM = {"simplex": 3, "sphere": 3, "one_hot": 8}
# The smallest half-width of an image of an unbounded support.
SMALLEST_END = 4.0
# The share of codes, and of draws, that an image of an unbounded support contains: long tails of
# positive ones would leave the rest in a corner.
COVERAGE, POSITIVE_COVERAGE = 0.995, 0.97
POINTS = 160
# The exponent of the density that is shaded: the tails of a narrow peak would be white otherwise.
SHADE = 0.5
# The darkest shade is for this multiple of the maximum, so that dots stand out.
LIGHTER = 1.4
# The number of draws shown where there is no density.
DRAWS = 1500
_ROOT_3 = math.sqrt(3.0)


def latent_dim(support: str) -> int:
    """The `latent_dim` for which an image shows the whole prior."""
    return LATENT_DIM.get(support, 2)


def draw_density(
    ax: "matplotlib.axes.Axes",
    prior: Any,
    codes: Float[torch.Tensor, "n latent"] | None = None,
    end: float = SMALLEST_END,
) -> None:
    """Shade a prior's density, and draw the codes of data over it.

    Real, positive and unit priors are shaded over the plane; a simplex over a triangle; a sphere
    by longitude and sine of latitude, an equal-area map; one-hot variables cell by cell. A prior
    with exact zeros has no density, so that draws are shown.

    Args:
        ax: The axes to draw on.
        prior: A prior with `latent_dim` equal to `latent_dim(prior.support)`.
        codes: Embedded data.
        end: The half-width of an image of an unbounded support, in the prior's unit.

    Raises:
        ValueError: If the prior has more dimensions than an image.
    """
    wanted = latent_dim(prior.support)
    if prior.latent_dim != wanted:
        raise ValueError(
            f"a {prior.support} prior is drawn with latent_dim {wanted}, got {prior.latent_dim}."
        )
    with torch.no_grad():
        if prior.support == "one_hot":
            # The probability of each value of the first variable with each of the second.
            first, second = prior().mean.unflatten(-1, (-1, prior.values))[:2].numpy()
            cells = np.outer(second, first)
            shades = {"cmap": "Blues", "vmin": 0, "vmax": LIGHTER * cells.max()}
            ax.imshow(cells, origin="lower", aspect="auto", **shades)
        elif prior.support == "sparse":
            _scatter_draws(ax, prior, end)
        else:
            _shade(ax, prior, end)
            if codes is not None:
                x, y = _to_image(codes.detach().cpu().numpy().astype(float), prior.support)
                ax.plot(x, y, ".", color=ORANGE, markersize=1.5, alpha=0.6)
    ax.set(xticks=[], yticks=[])


def end_for(prior: Any, codes: Float[torch.Tensor, "n latent"]) -> float:
    """The half-width of an image that contains a prior's draws and codes."""
    with torch.no_grad():
        both = torch.cat([prior().sample((DRAWS,)), codes.detach()]).abs()
    coverage = POSITIVE_COVERAGE if prior.support == "positive" else COVERAGE
    return max(SMALLEST_END, float(both.amax(-1).quantile(coverage)))


def _shade(ax: "matplotlib.axes.Axes", prior: Any, end: float) -> None:
    left, right, bottom, top = {
        "real": (-end, end, -end, end),
        "positive": (0.0, end, 0.0, end),
        "unit": (0.0, 1.0, 0.0, 1.0),
        "simplex": (-0.02, 1.02, -0.02, _ROOT_3 / 2 + 0.02),
        "sphere": (-math.pi, math.pi, -1.0, 1.0),
    }[prior.support]
    centres = (np.arange(POINTS) + 0.5) / POINTS
    x, y = np.meshgrid(left + (right - left) * centres, bottom + (top - bottom) * centres)
    z, inside = _from_image(x, y, prior.support)
    shades = np.zeros(x.shape)
    points = torch.as_tensor(z[inside], dtype=torch.get_default_dtype())
    shades[inside] = prior().log_prob(points).double().exp().numpy() ** SHADE
    ax.imshow(
        shades,
        origin="lower",
        extent=(left, right, bottom, top),
        cmap="Blues",
        aspect="auto",
        interpolation="bilinear",
        vmin=0,
        vmax=LIGHTER * max(float(shades.max()), 1e-30),
    )
    ax.set(xlim=(left, right), ylim=(bottom, top))
    if prior.support == "simplex":
        ax.plot([0, 1, 0.5, 0], [0, 0, _ROOT_3 / 2, 0], color="0.6", linewidth=0.8)
        ax.set_frame_on(False)


def _from_image(x: np.ndarray, y: np.ndarray, support: str) -> tuple[np.ndarray, np.ndarray]:
    """Map points of the image to the support, and say which are inside it."""
    everywhere = np.ones(x.shape, dtype=bool)
    if support == "sphere":
        radius = np.sqrt(1 - y**2)
        return np.stack([radius * np.cos(x), radius * np.sin(x), y], -1), everywhere
    if support == "simplex":
        third = y / (_ROOT_3 / 2)
        second = x - third / 2
        z = np.stack([1 - second - third, second, third], -1)
        return z, np.asarray((z > 1e-4).all(-1))
    return np.stack([x, y], -1), everywhere


def _to_image(z: np.ndarray, support: str) -> tuple[np.ndarray, np.ndarray]:
    if support == "sphere":
        return np.arctan2(z[:, 1], z[:, 0]), z[:, 2]
    if support == "simplex":
        return z[:, 1] + z[:, 2] / 2, z[:, 2] * _ROOT_3 / 2
    return z[:, 0], z[:, 1]


def _scatter_draws(ax: "matplotlib.axes.Axes", prior: Any, end: float) -> None:
    """Draws: points on an axis have one zero, and the dot at the origin stands for two."""
    z = prior().sample((DRAWS,)).numpy()
    ax.axhline(0, color="0.85", linewidth=0.8)
    ax.axvline(0, color="0.85", linewidth=0.8)
    ax.plot(z[:, 0], z[:, 1], ".", markersize=2, alpha=0.5)
    zeros = float((z == 0).all(-1).mean())
    if zeros > 0:
        ax.plot(0, 0, "o", color=ORANGE, markersize=2 + 12 * math.sqrt(zeros))
    ax.set(xlim=(-end, end), ylim=(-end, end))
