"""Does the model make data like the real ones? Statistics of real data and of new data from it.

The new data are full draws x ~ p(x | z) with z from the *prior*. Replicates with z ~ q(z | x) have
seen the image that they are compared with, and fail such a check even when the model is true. The
real data must not have trained the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Real

from analysis.canvas import BLUE, ORANGE, new_figure, tidy
from analysis.images import is_image

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Comparison:
    """A statistic of n real and m new data, and how far apart their distributions are.

    Under a true model both are draws from one distribution: the difference of means is then about
    standard normal, and the p-value uniform, or above uniform where values tie.

    Args:
        statistic: What was measured.
        real: The statistic of each real datum.
        new: The statistic of each datum from the model.
        standard_errors: Mean of the new less mean of the real, in standard errors of the
            difference. NaN if neither varies.
        ks: The Kolmogorov-Smirnov distance, the largest gap between the distribution functions.
        p_value: The chance of a larger distance under a true model.
    """

    statistic: str
    real: Float[np.ndarray, " n"]
    new: Float[np.ndarray, " m"]
    standard_errors: float
    ks: float
    p_value: float


def compare(
    real: Real[np.ndarray, " n *event"], new: Real[np.ndarray, " m *event"]
) -> list[Comparison]:
    """Compare three statistics of real data and of new data from the model.

    Of images: ink, total variation and left-right symmetry; of other data: mean, variance and the
    share of zeros.

    Args:
        real: Data that did not train the model.
        new: Draws x ~ p(x | z), z ~ p(z).
    """
    from scipy.stats import ks_2samp

    of_real, of_new = statistics(real), statistics(new)
    comparisons = []
    for name, a in of_real.items():
        b = of_new[name]
        variance = a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)
        difference = (b.mean() - a.mean()) / np.sqrt(variance) if variance > 0 else np.nan
        ks, p_value = np.asarray(ks_2samp(a, b, method="asymp"))
        comparisons.append(Comparison(name, a, b, float(difference), float(ks), float(p_value)))
    return comparisons


def statistics(data: Real[np.ndarray, " n *event"]) -> dict[str, Float[np.ndarray, " n"]]:
    """Three statistics of each datum, by name."""
    data = data.astype(np.float64)
    if not is_image(data.shape[1:]):
        flat = data.reshape(len(data), -1)
        return {
            "mean of the elements": flat.mean(1),
            "variance of the elements": flat.var(1),
            "share of zeros": (flat == 0).mean(1),
        }
    elements = tuple(range(1, data.ndim))
    return {
        "ink: mean intensity": data.mean(elements),
        "total variation: mean step between neighbours": total_variation(data),
        "left-right symmetry: correlation with the mirror image": symmetry(data),
    }


def total_variation(images: Float[np.ndarray, " n *axes"]) -> Float[np.ndarray, " n"]:
    """Mean |difference| of vertical and horizontal neighbours: edges and noise raise it."""
    steps = [np.abs(np.diff(images, axis=axis)).reshape(len(images), -1) for axis in (-2, -1)]
    return np.concatenate(steps, axis=1).mean(1)


def symmetry(images: Float[np.ndarray, " n *axes"]) -> Float[np.ndarray, " n"]:
    """Correlation of each image with its mirror image, 0 for an image of one intensity."""
    centred = images - images.mean(tuple(range(1, images.ndim)), keepdims=True)
    flat = centred.reshape(len(images), -1)
    mirrored = centred[..., ::-1].reshape(len(images), -1)
    scale = (flat**2).sum(1)
    return np.divide((flat * mirrored).sum(1), scale, out=np.zeros_like(scale), where=scale > 0)


def plot_predictive_check(comparisons: Sequence[Comparison]) -> "matplotlib.figure.Figure":
    """The distributions of each statistic over real and over new data, side by side.

    Args:
        comparisons: From `compare`.
    """
    figure = new_figure(3.9 * len(comparisons), 3.9)
    panels = figure.subplots(1, len(comparisons), squeeze=False)[0]
    for ax, comparison in zip(panels, comparisons, strict=True):
        samples: Mapping[str, tuple[np.ndarray, str]] = {
            f"{len(comparison.real)} test data": (comparison.real, BLUE),
            f"{len(comparison.new)} new, z ~ p(z)": (comparison.new, ORANGE),
        }
        edges = _bins(comparison.real, comparison.new)
        for name, (values, colour) in samples.items():
            weights = np.full(len(values), 1 / len(values))
            style = {"bins": edges, "weights": weights, "histtype": "stepfilled"}
            ax.hist(values, **style, color=colour, alpha=0.2)
            ax.hist(values, **style | {"histtype": "step"}, color=colour, lw=1.6, label=name)
        p = comparison.p_value
        off = f"new mean {comparison.standard_errors:+.1f} standard errors off"
        if np.isnan(comparison.standard_errors):
            off = "neither varies"
        ax.set_title(
            f"{off}\n"
            f"KS distance {comparison.ks:.2f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}",
            fontsize=10,
        )
        ax.set_xlabel(comparison.statistic.replace(": ", ":\n", 1))
        ax.margins(x=0.02)
    panels[0].set_ylabel("share of the data")
    tidy(panels)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    figure.suptitle("Does the model make data like the test data? The curves should coincide")
    return figure


def _bins(*samples: np.ndarray) -> list[float]:
    """Edges of at most 31 bins, each with as many of the values that a count can take.

    Else the ink of small binary images, a count over 64, would look like a comb.
    """
    values = np.unique(np.round(np.concatenate(samples), 9))
    low, high = values[0], values[-1]
    if low == high:
        return [low - 0.5, low + 0.5]
    step = np.diff(values).min()
    width = step * np.ceil((high - low) / step / 30)
    return [
        low - step / 2 + width * index for index in range(32) if index * width < high - low + width
    ]
