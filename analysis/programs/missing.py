"""Imputations of a VAE of data with missing values: their error, coverage and figures.

The values to compare with are those that `missing_rate` removed. Where nothing was removed, a
tenth of the observed values is hidden at random, with a fixed seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Real

from analysis.plotting.images import draw_grid, is_image, value_limits
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from pyro_vae.completion import complete_prepared
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.figure

# The share of observed values that are hidden where none were removed.
HIDDEN = 0.1
# Held-out rows and elements that are imputed at most, draws of each, and draws of z they are from.
ROWS, ELEMENTS, DRAWS, SAMPLES = 500, 200_000, 100, 200
LEVEL = 0.9
# Examples, draws of each, and values in the figures.
SHOWN, DRAWS_SHOWN, VALUES_SHOWN = 10, 3, 400


@dataclass(frozen=True)
class Imputations:
    """Imputed rows beside their true values, in the likelihood's support.

    Args:
        truth: The rows, NaN where they are not known.
        gaps: Which values the model did not see.
        mean: E[x_missing | x_observed], and the observed values.
        draws: Draws from p(x_missing | x_observed), likewise.
        start: Each element's mean over the observed values, as a simple imputation.
        spread: Each element's standard deviation, or each channel's, of the observed values; 1
            where they do not vary.
    """

    truth: Real[np.ndarray, " n *event"]
    gaps: Bool[np.ndarray, " n *event"]
    mean: Float[np.ndarray, " n *event"]
    draws: Real[np.ndarray, " draws n *event"]
    start: Float[np.ndarray, " *event"]
    spread: Float[np.ndarray, " *some_event"]

    @property
    def scored(self) -> Bool[np.ndarray, " n *event"]:
        """Which missing values are known."""
        return self.gaps & ~np.isnan(self.truth)

    def rmse(self, imputed: Real[np.ndarray, " *#n_event"]) -> float:
        """The root mean square error of the known missing values, in units of the spread."""
        error = (np.broadcast_to(imputed, self.truth.shape) - self.truth) / self.spread
        return float(np.sqrt(np.square(error[self.scored]).mean()))

    def ranks(self) -> Float[np.ndarray, " values"]:
        """The rank of each true value among its draws, in (0, 1), ties at random.

        Uniform if draws and truth have one distribution: see `interval_ranks`.
        """
        truth = self.truth[self.scored]
        return interval_ranks(truth, self.draws[:, self.scored])


def interval_ranks(
    truth: Real[np.ndarray, " values"], draws: Real[np.ndarray, "draws values"], seed: int = 0
) -> Float[np.ndarray, " values"]:
    """(number of draws below + U (ties + 1)) / (draws + 1), U uniform: uniform if calibrated.

    A central interval of probability L holds the value if its rank is within L / 2 of 1/2. With
    ties at random this is exact for counts and binary data, too, whose intervals of quantiles hold
    too much.

    Args:
        truth: The true values.
        draws: Draws of each.
        seed: The seed of U.
    """
    u = np.random.default_rng(seed).random(len(truth))
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return (below + u * (equal + 1)) / (len(draws) + 1)


def coverage(ranks: Float[np.ndarray, " values"], level: float = LEVEL) -> float:
    """The share of true values inside the central interval of a probability."""
    return float((np.abs(ranks - 0.5) <= level / 2).mean())


def impute(
    program: Any,
    held_out: Any,
    *,
    rows: int = ROWS,
    draws: int = DRAWS,
    num_samples: int = SAMPLES,
) -> Imputations:
    """Impute the held-out rows of a program, with values hidden where none were removed.

    Args:
        program: A `pyro_vae.programs.missing.Missing`.
        held_out: Held-out data: `x`, and perhaps `complete`, x before values were removed.
        rows: The largest number of rows.
        draws: The number of draws.
        num_samples: The number of draws of z that they are from.
    """
    rows = min(rows, max(1, ELEMENTS // held_out.x[:1].numel()))
    x = held_out.x[:rows]
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    complete = getattr(held_out, "complete", None)
    truth = x if complete is None else complete[:rows].to(x)
    if bool((x.isnan() == truth.isnan()).all()):
        generator = torch.Generator().manual_seed(0)
        hidden = torch.rand(x.shape, generator=generator) < HIDDEN
        x = x.masked_fill(hidden.to(x.device), torch.nan)
    found = complete_prepared(program, x, draws=draws, num_samples=num_samples, seed=0)
    gaps = x.isnan()
    known = x.numpy(force=True).astype(np.float64)
    seen = known if known.ndim == 2 else np.moveaxis(known, 1, -1).reshape(-1, known.shape[1])
    spread = np.nanstd(np.where(np.isnan(seen).all(0), 0.0, seen), 0)
    spread = np.where(spread > 0, spread, 1.0).reshape(-1, *(1,) * (known.ndim - 2))
    return Imputations(
        truth=truth.numpy(force=True).astype(np.float64),
        gaps=gaps.numpy(force=True),
        mean=found.mean.numpy(force=True),
        draws=found.values.movedim(1, 0).numpy(force=True),
        start=x.nanmean(0).nan_to_num(0.0).numpy(force=True),
        spread=spread,
    )


def scores(program: Any, held_out: Any) -> dict[str, float | None]:
    """Scores of imputations, for metrics.json.

    - `missing_share`: the share of the held-out values that are missing. The ELBO and log p are of
      the others alone.
    - `imputed_values`: the number of missing values whose truth is known; other scores are theirs.
    - `imputation_rmse`: the root mean square error of the mean given the observed values, in units
      of each column's, or channel's, standard deviation.
    - `imputation_rmse_of_means`: that of each element's mean.
    - `imputation_coverage_90`: the share inside the central 90 % interval of the draws.

    Args:
        program: A `pyro_vae.programs.missing.Missing`.
        held_out: See `impute`.
    """
    share = float(held_out.x.isnan().float().mean())
    found = impute(program, held_out)
    n = int(found.scored.sum())
    return {
        "missing_share": share,
        "imputed_values": float(n),
        "imputation_rmse": found.rmse(found.mean) if n else None,
        "imputation_rmse_of_means": found.rmse(found.start) if n else None,
        "imputation_coverage_90": coverage(found.ranks()) if n else None,
    }


def figures(program: Any, held_out: Any) -> dict[str, Callable[[], "matplotlib.figure.Figure"]]:
    """Rows with gaps beside imputations and truth, and the coverage of intervals.

    Args:
        program: A `pyro_vae.programs.missing.Missing`.
        held_out: See `impute`.
    """
    found = impute(program, held_out)
    if not found.scored.any():
        return {}
    images = is_image(found.truth.shape[1:])
    return {
        "imputations": partial(plot_images if images else plot_values, found),
        "imputation_coverage": partial(plot_coverage, found.ranks()),
    }


def plot_images(found: Imputations) -> "matplotlib.figure.Figure":
    """Images, what the model saw of them, the mean of what it did not see, and draws."""
    few = slice(min(SHOWN, len(found.truth)))
    seen = np.where(found.gaps, np.nan, found.truth)[few]
    rows = {"truth": found.truth[few], "observed": seen, "mean": found.mean[few]}
    rows |= {f"draw {i + 1}": found.draws[i, few] for i in range(DRAWS_SHOWN)}
    figure = new_figure(max(len(seen) + 1.0, 8.0), 0.9 * len(rows) + 0.6)
    limits = value_limits(np.nan_to_num(found.truth, nan=float(np.nanmin(found.truth))))
    draw_grid(figure, [*rows.values()], limits, names=[*rows])
    figure.suptitle(f"Test {nouns()} with missing values, and imputations given the observed ones")
    return figure


def plot_values(found: Imputations) -> "matplotlib.figure.Figure":
    """True values of missing elements against their mean and 90 % interval."""
    scored = found.scored
    shape = found.truth.shape

    def scaled(values: np.ndarray) -> np.ndarray:
        unit = (values - found.start) / found.spread
        return unit[..., np.broadcast_to(scored, shape)][..., :VALUES_SHOWN]

    truth, mean, draws = scaled(found.truth), scaled(found.mean), scaled(found.draws)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    figure = new_figure(6.5, 6.0)
    ax = figure.subplots()
    ax.vlines(truth, low, high, color=GREY, linewidth=0.7, label="90 % interval")
    ax.plot(truth, mean, ".", color=BLUE, markersize=4, label="mean")
    ends = [float(truth.min()), float(truth.max())]
    ax.plot(ends, ends, color=ORANGE, linewidth=1, label="truth")
    ax.set(
        xlabel="true value, in standard deviations from the element's mean",
        ylabel="imputation given the observed values",
        title=f"Missing values of test {nouns()}: {len(truth):,} of {int(scored.sum()):,}",
    )
    ax.legend(frameon=False)
    tidy([ax], "both")
    return figure


def plot_coverage(ranks: Float[np.ndarray, " values"]) -> "matplotlib.figure.Figure":
    """The share of true values inside central intervals, against their probability."""
    levels = np.linspace(0, 1, 51)
    covered = [coverage(ranks, level) for level in levels]
    figure = new_figure(5.5, 5.0)
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="calibrated")
    ax.plot(levels, covered, color=BLUE, label="imputations")
    ax.plot([LEVEL], [coverage(ranks)], "o", color=ORANGE)
    ax.annotate(
        f"{100 * coverage(ranks):.1f} % in the 90 % interval",
        (LEVEL, coverage(ranks)),
        xytext=(0.35, 0.92),
        color=ORANGE,
    )
    ax.set(
        xlabel="probability of the interval",
        ylabel="share of true values inside",
        title=f"Intervals of {len(ranks):,} missing values of test {nouns()}",
    )
    ax.legend(frameon=False, loc="lower right")
    tidy([ax], "both")
    return figure
