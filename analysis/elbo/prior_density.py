"""A prior's density as a picture with two dimensions, whatever its support is.

Two of the support's own dimensions: a simplex of three corners and a sphere in three dimensions
have as many as a plane. Codes of one-hot variables are few, and each has its probability.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from analysis.plotting.style import ORANGE

if TYPE_CHECKING:
    import matplotlib.axes

# The latent_dim with which a support has two dimensions, and a one-hot prior two variables.
LATENT_DIM = {"simplex": 3, "sphere": 3, "one_hot": 8}
# Where a picture of an unbounded support ends at least.
SMALLEST_END = 4.0
# The share of codes, and of draws, that a picture of an unbounded support holds at least: the long
# tails of positive ones would leave the rest in a corner.
HELD, HELD_IF_POSITIVE = 0.995, 0.97
POINTS = 160
# Shades follow a root of the density: the tails of a narrow peak would be white otherwise.
SHADE = 0.5
# The darkest shade is of so many times the highest: dots have to stand out.
LIGHTER = 1.4
# Draws shown where there is no density to shade.
DRAWS = 1500
_ROOT_3 = math.sqrt(3.0)


def latent_dim(support: str) -> int:
    """The `latent_dim` for which a picture shows the whole of a prior."""
    return LATENT_DIM.get(support, 2)


def draw_density(
    ax: "matplotlib.axes.Axes",
    prior: Any,
    codes: Float[torch.Tensor, "n latent"] | None = None,
    end: float = SMALLEST_END,
) -> None:
    """Shade a prior's density, and put the codes of data over it.

    Real, positive and unit priors are shaded over the plane; a simplex over the triangle between its
    corners; a sphere by longitude and sine of latitude, a map on which areas are true; one-hot variables
    cell by cell. A prior with exact zeros has no density: draws are shown.

    Args:
        ax: Where to draw.
        prior: A prior whose `latent_dim` is what `latent_dim(prior.support)` says.
        codes: Embedded data.
        end: Where a picture of an unbounded support ends, in the prior's unit.

    Raises:
        ValueError: If the prior has more dimensions than a picture.
    """
    wanted = latent_dim(prior.support)
    if prior.latent_dim != wanted:
        raise ValueError(
            f"a {prior.support} prior is drawn with latent_dim {wanted}, got {prior.latent_dim}."
        )
    with torch.no_grad():
        if prior.support == "one_hot":
            _shade_cells(ax, prior)
        elif prior.support == "sparse":
            _scatter_draws(ax, prior, end)
        else:
            _shade(ax, prior, end)
            if codes is not None:
                x, y = _flat(codes.detach().cpu().numpy().astype(float), prior.support)
                ax.plot(x, y, ".", color=ORANGE, markersize=1.5, alpha=0.6)
    ax.set(xticks=[], yticks=[])


def end_for(prior: Any, codes: Float[torch.Tensor, "n latent"]) -> float:
    """Where a picture of an unbounded support has to end to hold a prior's draws and codes."""
    with torch.no_grad():
        both = torch.cat([prior().sample((DRAWS,)), codes.detach()]).abs()
    held = HELD_IF_POSITIVE if prior.support == "positive" else HELD
    return max(SMALLEST_END, float(both.amax(-1).quantile(held)))


def _shade(ax: "matplotlib.axes.Axes", prior: Any, end: float) -> None:
    left, right, bottom, top = _window(prior.support, end)
    xs = left + (right - left) * (np.arange(POINTS) + 0.5) / POINTS
    ys = bottom + (top - bottom) * (np.arange(POINTS) + 0.5) / POINTS
    x, y = np.meshgrid(xs, ys)
    z, inside = _on_support(x, y, prior.support)
    density = np.zeros(x.shape)
    points = torch.as_tensor(z[inside], dtype=torch.get_default_dtype())
    density[inside] = prior().log_prob(points).double().exp().numpy()
    ax.imshow(
        density**SHADE,
        origin="lower",
        extent=(left, right, bottom, top),
        cmap="Blues",
        aspect="auto",
        interpolation="bilinear",
        vmin=0,
        vmax=LIGHTER * max(float((density**SHADE).max()), 1e-30),
    )
    ax.set(xlim=(left, right), ylim=(bottom, top))
    if prior.support == "simplex":
        ax.plot([0, 1, 0.5, 0], [0, 0, _ROOT_3 / 2, 0], color="0.6", linewidth=0.8)
        ax.set_frame_on(False)


def _window(support: str, end: float) -> tuple[float, float, float, float]:
    """What the picture shows: left, right, bottom, top."""
    return {
        "real": (-end, end, -end, end),
        "positive": (0.0, end, 0.0, end),
        "unit": (0.0, 1.0, 0.0, 1.0),
        "simplex": (-0.02, 1.02, -0.02, _ROOT_3 / 2 + 0.02),
        "sphere": (-math.pi, math.pi, -1.0, 1.0),
    }[support]


def _on_support(x: np.ndarray, y: np.ndarray, support: str) -> tuple[np.ndarray, np.ndarray]:
    """Points of the picture as points of the support, and which of them are inside it."""
    everywhere = np.ones(x.shape, dtype=bool)
    if support == "sphere":
        across = np.sqrt(1 - y**2)
        return np.stack([across * np.cos(x), across * np.sin(x), y], -1), everywhere
    if support == "simplex":
        third = y / (_ROOT_3 / 2)
        second = x - third / 2
        z = np.stack([1 - second - third, second, third], -1)
        return z, np.asarray((z > 1e-4).all(-1))
    return np.stack([x, y], -1), everywhere


def _flat(z: np.ndarray, support: str) -> tuple[np.ndarray, np.ndarray]:
    """Points of the support as points of the picture."""
    if support == "sphere":
        return np.arctan2(z[:, 1], z[:, 0]), z[:, 2]
    if support == "simplex":
        return z[:, 1] + z[:, 2] / 2, z[:, 2] * _ROOT_3 / 2
    return z[:, 0], z[:, 1]


def _shade_cells(ax: "matplotlib.axes.Axes", prior: Any) -> None:
    """The probability of each value of the first variable with each of the second: a product."""
    first, second = prior().mean.unflatten(-1, (-1, prior.values))[:2].numpy()
    cells = np.outer(second, first)
    ax.imshow(
        cells, origin="lower", cmap="Blues", vmin=0, vmax=LIGHTER * cells.max(), aspect="auto"
    )


def _scatter_draws(ax: "matplotlib.axes.Axes", prior: Any, end: float) -> None:
    """Draws: points on an axis have a zero, and those of the corner cross have two."""
    z = prior().sample((DRAWS,)).numpy()
    ax.axhline(0, color="0.85", linewidth=0.8)
    ax.axvline(0, color="0.85", linewidth=0.8)
    ax.plot(z[:, 0], z[:, 1], ".", markersize=2, alpha=0.5)
    zeros = float((z == 0).all(-1).mean())
    if zeros > 0:
        ax.plot(0, 0, "o", color=ORANGE, markersize=2 + 12 * math.sqrt(zeros))
    ax.set(xlim=(-end, end), ylim=(-end, end))
