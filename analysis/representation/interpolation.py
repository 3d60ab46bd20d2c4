"""Decoded paths between codes: length, evenness, and whether their middle is like data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.check import Check, Plot
from analysis.model_samples import column_spreads, device_of, has_density, mean_data
from analysis.plotting.images import Limits, draw_grid, is_image
from analysis.plotting.style import BLUE, ORANGE, new_figure, tidy
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.latent_space import (
    UNLIKELY,
    Profiles,
    check_codes,
    continuous_support,
    draw_profiles,
    path_profiles,
    random_pairs,
)
from analysis.result import Result
from pyro_vae.latent_paths import latent_path

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# A step this many times the mean step is a jump.
JUMP = 3.0
# Paths in a figure, and points of each.
SHOWN, COLUMNS = 5, 11


@dataclass(frozen=True)
class Interpolation(Result):
    """Decoded paths between random pairs of codes, in the units of the data.

    Args:
        length: sum_i |x_{i+1} - x_i| of each path of means, a lower bound of the curve's length.
        distance: |x_b - x_a| of its ends.
        largest_step: Of each path.
        mean_step: Of each path.
        bend: sum_i |second differences| over the length: 0 is straight and even.
        steps: The number of points.
        support: Of z: "sphere" if paths are great circles, otherwise they are straight.
        profiles: Of log densities; None for a guide without a density.
        shown: A few decoded paths, for the figure.
        ends: The data at both ends of each of these; None if not given.
    """

    FIELDS: ClassVar = ("pairs", "steps", "path", "pairs_that_move")

    length: Float[np.ndarray, " pairs"]
    distance: Float[np.ndarray, " pairs"]
    largest_step: Float[np.ndarray, " pairs"]
    mean_step: Float[np.ndarray, " pairs"]
    bend: Float[np.ndarray, " pairs"]
    steps: int
    support: str
    profiles: Profiles | None
    shown: Float[np.ndarray, " few steps *event"]
    ends: Real[np.ndarray, " ends *event"] | None = None

    pairs = property(lambda self: len(self.length))
    path = property(lambda self: "great circle" if self.support == "sphere" else "straight line")
    pairs_that_move = property(lambda self: int(self._moves.sum()))

    @property
    def ratio(self) -> Float[np.ndarray, " moving"]:
        """Length over distance, at least 1, of the paths whose ends differ."""
        return self.length[self._moves] / self.distance[self._moves]

    @property
    def largest_relative_step(self) -> Float[np.ndarray, " moving"]:
        """Largest over mean step, from 1, even speed, to `steps` - 1, a single jump."""
        return self.largest_step[self._moves] / self.mean_step[self._moves]

    @property
    def _moves(self) -> np.ndarray:
        # If the decoder ignores the code, the ends differ by rounding errors.
        return self.distance > 1e-6 * max(1.0, float(np.abs(self.shown).max()))

    def extra(self) -> dict[str, Any]:
        """Medians over pairs with quartiles, and the profiles."""
        record: dict[str, Any] = {}
        for name, values in (
            ("length", self.length),
            ("distance", self.distance),
            ("length_ratio", self.ratio),
            ("largest_relative_step", self.largest_relative_step),
            ("bend", self.bend[self._moves]),
        ):
            quartiles = np.quantile(values, [0.25, 0.5, 0.75]) if len(values) else [None] * 3
            record |= {name: quartiles[1], f"{name}_quartiles": [quartiles[0], quartiles[2]]}
        return record | {"density": self.profiles and self.profiles.record()}

    def reading(self) -> str:
        """How the decoder moves along a path, and whether the middle is as probable as data."""
        if not len(self.ratio):
            return "Decoded data do not move along any path: the decoder ignores the code."
        ratio, jump = (float(np.median(v)) for v in (self.ratio, self.largest_relative_step))
        density = " The guide has no density, so log p(x) along the path is not defined."
        if self.profiles is not None:
            density = f" {self.profiles.reading()}"
        return (
            f"A decoded path is {ratio:.2f} times as long as the straight line between its ends "
            "and moves "
            f"{'with' if jump > JUMP else 'without'} jumps (largest step {jump:.1f} mean "
            f"steps).{density}"
        )


def interpolation(
    vae: Any,
    codes: Float[np.ndarray, "n latent"],
    *,
    x: Real[Tensor, " data *event"] | None = None,
    pairs: int = 50,
    steps: int = 21,
    num_samples: int = 50,
    seed: int = 0,
) -> Interpolation:
    """x(t) = E[x | z(t)], z(t) from z_a to z_b: its length, its speed, and log p along it.

    z(t) is the straight line at even steps; on the sphere the shorter great circle. Lines stay in
    every convex support: R^d, positive codes, the unit cube, the simplex.

    log p(x) is that of a draw x ~ p(x | z(t)), not of the mean, which is not a data point: that of
    binary pixels is grey, which has no probability, and that of noisy ones lacks the noise, which
    makes it far more probable than any data. It is a lower bound by importance weighting, low for
    x whose code the guide does not find. It is therefore compared with the same bound of real
    data, and with that of the cross-fade (1 - t) x_a + t x_b, which leaves the data: for whole
    numbers each element is rounded up or down at random, with that mean.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `decode(z)` and one latent site.
        codes: Of held-out data, `vae.embed(x)`.
        x: Those data, in the likelihood's support; without them there are no real data and no
            cross-fades.
        pairs: The number of pairs of different codes, chosen at random.
        steps: The number of points on a path, with both ends.
        num_samples: Draws from the guide for each log p(x).
        seed: The seed of the pairs and of all draws.

    Returns:
        Lengths in units of the data, or in spreads of the columns of a table with different units;
        compare `middle_below` with `end_below` and the cross-fade's.

    Raises:
        UndefinedCheckError: If there are several latent sites, or codes are one-hot.
        ValueError: If there are fewer than two codes, they are not finite, `pairs` or
            `num_samples` is below 1 or `steps` below 3, or the numbers of data and codes differ.

    References:
        Sampling Generative Networks (White, 2016), https://arxiv.org/abs/1609.04468 (great
        circles); Latent Space Oddity: on the Curvature of Deep Generative Models (Arvanitidis,
        Hansen & Hauberg, 2018), https://arxiv.org/abs/1710.11379 (lengths in data space)
    """
    support = continuous_support(vae)
    check_codes(codes, 2)
    options = {"pairs": (pairs, 1), "steps": (steps, 3), "num_samples": (num_samples, 1)}
    for name, (value, least) in options.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    if x is not None and len(x) != len(codes):
        raise ValueError(f"each example needs a code, got {len(x)} data and {len(codes)} codes.")
    chosen = random_pairs(len(codes), pairs, seed)
    z = latent_path(codes[chosen[:, 0]], codes[chosen[:, 1]], steps, support)
    means = mean_data(vae, z.reshape(-1, z.shape[-1]))
    decoded = means.reshape(*z.shape[:2], *means.shape[1:])
    profiles = None
    like = torch.as_tensor(means[:1], device=device_of(vae)) if x is None else x[:1]
    if has_density(vae, like):
        profiles = path_profiles(vae, z, chosen, x, like, support, num_samples, seed)
    return Interpolation(
        **path_lengths(decoded / column_spreads(vae)),
        steps=steps,
        support=support,
        profiles=profiles,
        shown=decoded[:SHOWN],
        ends=None if x is None else x[chosen[:SHOWN].ravel()].cpu().numpy(),
    )


def path_lengths(
    path: Float[np.ndarray, "pairs steps *event"],
) -> dict[str, Float[np.ndarray, " pairs"]]:
    """sum_i |x_{i+1} - x_i| of each path, |x_b - x_a|, its largest and mean step, and its bend.

    The bend is sum_i |x_{i+1} - 2 x_i + x_{i-1}| over the length: 0 for a straight path of even
    steps, and about 2 for one that turns back at each step.
    """
    path = path.reshape(*path.shape[:2], -1).astype(np.float64)
    differences = np.diff(path, axis=1)
    sizes = np.linalg.norm(differences, axis=-1)
    length = sizes.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        bend = np.linalg.norm(np.diff(differences, axis=1), axis=-1).sum(1) / length
    return {
        "length": length,
        "distance": np.linalg.norm(path[:, -1] - path[:, 0], axis=-1),
        "largest_step": sizes.max(1),
        "mean_step": sizes.mean(1),
        "bend": bend,
    }


def plot_interpolation(
    found: Interpolation, limits: Limits = (0.0, 1.0)
) -> "matplotlib.figure.Figure":
    """Draw a few decoded paths as strips of images, above log p(x) and log p(z) along all paths.

    Data that are not images have the profiles alone. Where the guide has no density, the lengths
    and the largest steps of the paths are drawn instead.

    Args:
        found: The result of `interpolation`.
        limits: The values drawn black and white.
    """
    rows = len(found.shown) if is_image(found.shown.shape[2:]) else 0
    figure = lower = new_figure(10.0, 0.72 * rows + 3.9)
    if rows:
        upper, lower = figure.subfigures(2, 1, height_ratios=[0.72 * rows + 0.5, 3.4])
        _draw_strips(upper, found, limits)
    left, right = lower.subplots(1, 2)
    profiles = found.profiles
    if profiles is None:
        _draw_histogram(
            left, found.ratio, "path length over the distance of its ends (1: straight)"
        )
        _draw_histogram(
            right, found.largest_relative_step, "largest step over mean step (1: even)"
        )
    else:
        name = "new data" if profiles.data is None else "real data"
        bands = [(profiles.log_evidence, BLUE, "x ~ p(x | z(t))")]
        title = f"Middles below the band: {profiles.middle_below:.0%}"
        if profiles.cross_fade is not None:
            bands.append((profiles.cross_fade, ORANGE, "cross-fade of the data"))
            title += f", cross-fades {profiles.cross_fade_below:.0%}"
        draw_profiles(left, profiles, profiles.reference, name, bands)
        left.set(ylabel="log p(x) (nats, lower bound)")
        left.set_title(f"{title}, chance {UNLIKELY:.0%}", fontsize=10)
        if profiles.log_prior is None or profiles.prior_draws is None:
            label = "path length over the distance of its ends (1: straight)"
            _draw_histogram(right, found.ratio, label)
        else:
            bands = [(profiles.log_prior, BLUE, "z(t)")]
            draw_profiles(right, profiles, profiles.prior_draws, "draws of p(z)", bands)
            right.set(ylabel="log p(z) (nats)")
    tidy([left, right])
    return figure


def _draw_strips(
    figure: "matplotlib.figure.SubFigure", found: Interpolation, limits: Limits
) -> None:
    steps = found.shown.shape[1]
    at = np.linspace(0, steps - 1, min(COLUMNS, steps)).round().astype(int)
    images = [[path[step] for step in at] for path in found.shown]
    titles = {0: "t = 0", len(at) - 1: "t = 1"}
    if found.ends is not None:
        ends = found.ends.reshape(len(images), 2, *found.ends.shape[1:])
        images = [[a, *path, b] for (a, b), path in zip(ends, images, strict=True)]
        titles = {0: "data", 1: "t = 0", len(at): "t = 1", len(at) + 1: "data"}
    draw_grid(figure, images, limits, titles=titles, size=9)
    figure.suptitle(f"Means of p(x | z) along {found.path}s between codes of test data")


def _draw_histogram(ax: "matplotlib.axes.Axes", values: np.ndarray, xlabel: str) -> None:
    if len(values):
        ax.hist(values, bins=min(30, max(5, len(values) // 3)), color=BLUE)
        ax.axvline(1, color=ORANGE)
    ax.set(xlabel=xlabel, ylabel="paths")


def _headline(found: Interpolation) -> dict[str, str]:
    numbers = {}
    if len(found.ratio):
        numbers["decoded path / straight line"] = f"{np.median(found.ratio):.2f}"
    if found.profiles is not None:
        share = f"{found.profiles.middle_below:.0%}"
        numbers["unlikely middles of paths (chance 5%)"] = share
    return numbers


INTERPOLATION = Check(
    "interpolation",
    lambda subject: interpolation(
        subject.vae,
        subject.compute(RepresentationInputs).codes,
        x=subject.x,
        seed=subject.seed_of("interpolation"),
    ),
    (
        Plot(
            "interpolation",
            "What lies between two data, and is it as probable as data?",
            lambda found, subject: plot_interpolation(found, subject.limits),
        ),
    ),
    headline=_headline,
)
