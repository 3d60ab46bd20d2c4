"""The density of a prior in two dimensions, on any support, as an image.

Simplices of three corners and spheres in three dimensions are two-dimensional, too; one-hot codes
have a probability for each of their few values.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from analysis.plotting.style import ORANGE

if TYPE_CHECKING:
    import matplotlib.axes

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
    """Map points of the support to the image."""
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
