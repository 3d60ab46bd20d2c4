"""How far the guide can be trusted, image by image: k-hat and ESS of its importance weights."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Real

from analysis.canvas import BLUE, GREY, ORANGE, new_figure, tidy
from pyro_vae.statistics import khat_threshold

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def plot_guide_quality(
    khat: Real[np.ndarray, " n"] | None, ess: Real[np.ndarray, " n"], num_samples: int
) -> "matplotlib.figure.Figure":
    """k-hat of each image, sorted, and the effective share of its draws.

    k-hat is one-sided: a guide too wide scores well on it, and shows in the ESS.

    Args:
        khat: The tail shape of each image's importance weights: -inf where they are constant (an
            exact guide, a collapsed latent), inf where none could be fitted; both are counted and
            not drawn. None if there were too few draws.
        ess: The effective sample size of each image's weights, up to `num_samples`.
        num_samples: The number S of draws from the guide for each image.
    """
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    if khat is None:
        left.set(xlabel="share of the images, sorted by k-hat", ylabel="Pareto k-hat")
        left.set_title(f"{num_samples} draws are too few for a k-hat")
    else:
        _draw_khat(left, khat, khat_threshold(num_samples))

    # Logarithms need more than the 0 of images whose weights are not finite.
    effective = np.clip(ess / num_samples, 1 / num_samples, 1)
    right.hist(effective, bins=np.geomspace(1 / num_samples, 1, 41).tolist(), color=BLUE)
    median = float(np.median(effective))
    right.axvline(median, color=ORANGE)
    right.set(
        xscale="log",
        xlabel=f"effective share of the {num_samples} draws, ESS / S",
        ylabel="images",
        title=f"Median ESS, the line: {median * num_samples:.0f} of {num_samples} draws",
    )
    tidy([left, right])
    figure.suptitle("Importance weights p(x, z) / q(z | x): low k-hat and high ESS are good")
    return figure


def _draw_khat(ax: "matplotlib.axes.Axes", khat: np.ndarray, threshold: float) -> None:
    ordered = np.sort(khat)
    share = (np.arange(len(khat)) + 0.5) / len(khat)
    poor = ordered > threshold
    for where, colour in ((~poor, BLUE), (poor, ORANGE)):
        where = where & np.isfinite(ordered)
        ax.plot(share[where], ordered[where], "o", ms=3, color=colour)
    ax.axhline(threshold, color=GREY, linestyle="--", label=f"threshold {threshold:.2f}")
    # Marks without ink, so that the legend says what the panel cannot show.
    for count, reason in (
        (np.isneginf(khat).sum(), "constant weights, k-hat = -inf"),
        (np.isposinf(khat).sum(), "no tail to fit, k-hat = inf"),
    ):
        if count:
            ax.plot([], [], " ", label=f"{count} images not drawn: {reason}")
    # The curve rises to the right, so this corner is free.
    legend = ax.legend(loc="upper left", frameon=False, fontsize=9)
    lowest, highest = ax.get_ylim()
    lowest = min(lowest, 0)
    headroom = 0.1 * len(legend.texts) * (highest - lowest)
    ax.set(
        xlim=(0, 1),
        ylim=(lowest, max(highest, threshold) + headroom),
        xlabel="share of the images, sorted by k-hat",
        ylabel="Pareto k-hat",
        title=f"{poor.mean():.1%} of {len(khat)} images above the threshold",
    )
