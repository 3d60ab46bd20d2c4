"""Forecasts of sequences: errors and coverage by horizon beside persistence, and figures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from analysis.plotting.images import draw_grid, value_limits
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy, wrap_title
from pyro_vae.data.nouns import nouns
from pyro_vae.rng import as_floats, evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure

# The probability of a forecast interval, and its draws: the ends are the 5th from either side, as
# the k-th of S draws has the probability k / (S + 1) below it.
LEVEL, DRAWS, RANK = 0.9, 99, 5
# Draws x elements held at once.
_MAX_ELEMENTS = 30_000_000
# Sequences, frames and elements in a figure.
_SEQUENCES, _FRAMES = 3, 20
COLOURS = (BLUE, ORANGE, GREY)


@dataclass(frozen=True)
class Forecast:
    """Forecasts of the frames after the observed ones, in the units of the data.

    Args:
        mean: The mean of the means of p(x | z).
        low: The lower end of the 90 % interval of each element.
        high: The upper end.
    """

    mean: Float[np.ndarray, " n steps *frame"]
    low: Float[np.ndarray, " n steps *frame"]
    high: Float[np.ndarray, " n steps *frame"]

    def rmse(self, truth: Real[np.ndarray, " n steps *frame"]) -> Float[np.ndarray, " steps"]:
        """The root mean squared error at each horizon, over sequences and elements."""
        return np.sqrt(_by_step((truth - self.mean) ** 2))

    def coverage(self, truth: Real[np.ndarray, " n steps *frame"]) -> Float[np.ndarray, " steps"]:
        """The share of the elements within their interval; 0.9 if forecasts are calibrated."""
        return _by_step((truth >= self.low) & (truth <= self.high))

    def width(self) -> Float[np.ndarray, " steps"]:
        """The mean width of the intervals."""
        return _by_step(self.high - self.low)

    @classmethod
    def from_likelihood(cls, p: Any, contract: Any = None) -> "Forecast":
        """From p(x | z) at `DRAWS` draws of z: values at an end of an interval are within it."""
        ordered = _in_data_units(p.sample().sort(0).values[[RANK - 1, -RANK]], contract)
        return cls(_in_data_units(p.mean.mean(0), contract, draws=False), *ordered)


def forecast(
    program: Any,
    x: Real[Tensor, " n *event"],
    observed: int,
    contract: Any = None,
    *,
    seed: int = 0,
) -> tuple[Forecast, Float[np.ndarray, " n steps *frame"]]:
    """Forecasts of the frames after the first `observed` ones, and those frames.

    The global random stream is left unchanged.

    Args:
        program: A program with `next_frames`, as that of `pyro_vae.programs.sequence`.
        x: Sequences in the likelihood's support.
        observed: The number of observed frames.
        contract: The contract of the data, whose units the result is in; None for those of x.
        seed: The seed of the draws.
    """
    x, steps = as_floats(x), x.shape[1] - observed
    found = []
    with evaluation_mode(program, seed=seed):
        size = max(1, _MAX_ELEMENTS // (DRAWS * max(1, x[0].numel())))
        for part in x.split(size):
            p = program.next_frames(part[:, :observed], steps, DRAWS)
            found.append(Forecast.from_likelihood(p, contract))
    parts = zip(*((f.mean, f.low, f.high) for f in found), strict=True)
    truth = _in_data_units(x[:, observed:], contract)
    return Forecast(*map(np.concatenate, parts)), truth


def persistence_rmse(
    x: Real[np.ndarray, " n length *frame"], observed: int
) -> Float[np.ndarray, " steps"]:
    """The error at each horizon of the forecast that the last observed frame stays."""
    return np.sqrt(_by_step((x[:, observed:] - x[:, observed - 1 : observed]) ** 2))


def scores(program: Any, held_out: Any) -> dict[str, float | int | None]:
    """Forecasts of the second half of each sequence from the first, in the units of the data.

    Args:
        program: The trained program.
        held_out: Its test data.

    Returns:
        `latent_units`, of the whole chain; `forecast_observed` and `forecast_steps`, numbers of
        frames; and for the first and the last of these, and over all, the root mean squared errors
        `forecast_rmse_*` and `persistence_rmse_*`, and the coverage of 90 % intervals
        `forecast_coverage_90_*`.
    """
    x = held_out.x
    observed = x.shape[1] // 2
    found, truth = forecast(program, x, observed, held_out.contract)
    last = _in_data_units(x[:, observed - 1 : observed], held_out.contract)
    stay = Forecast(*(np.broadcast_to(last, truth.shape),) * 3)
    result: dict[str, float | int | None] = {
        # Of the whole chain, whose active units are counted.
        "latent_units": program.prior.latent_dim,
        "forecast_observed": observed,
        "forecast_steps": truth.shape[1],
    }
    for name, values, mean in (
        ("forecast_rmse", found.rmse(truth), _root_mean_square),
        ("persistence_rmse", stay.rmse(truth), _root_mean_square),
        ("forecast_coverage_90", found.coverage(truth), np.mean),
    ):
        result |= {
            f"{name}_first": float(values[0]),
            f"{name}_last": float(values[-1]),
            f"{name}_all": float(mean(values)),
        }
    return result


def figures(program: Any, held_out: Any) -> dict[str, "Callable[[], matplotlib.figure.Figure]"]:
    """`sequences`: test data, reconstructions and new ones. `forecasts`: with their bands.

    And `forecast_errors`: errors and coverage at each horizon, beside persistence.
    """
    x = as_floats(held_out.x)
    observed = x.shape[1] // 2
    shown = x[:_SEQUENCES]
    contract = held_out.contract
    found, truth = forecast(program, x, observed, contract)
    with evaluation_mode(program, seed=0):
        reconstructed = program.decode(program.embed(shown))
        new = program.decode(program.prior().sample((_SEQUENCES,)))
        seen = program.likelihood.frame(
            program.posterior.embed(shown[:, :observed]).unflatten(-1, (observed, -1))
        ).mean
        one = program.next_frames(shown[:, :observed], truth.shape[1], 1).sample()[0]
    data = _in_data_units(shown, contract)
    reconstructed, new, seen = (
        _in_data_units(part, contract, draws=False) for part in (reconstructed, new, seen)
    )
    few = Forecast(found.mean[:_SEQUENCES], found.low[:_SEQUENCES], found.high[:_SEQUENCES])
    persistence = persistence_rmse(_in_data_units(x, contract), observed)
    images = x.dim() == 5
    draw = _draw_forecast_images if images else _draw_forecast_lines
    errors = found.rmse(truth), persistence, found.coverage(truth), found.width()
    return {
        "sequences": partial(_draw_sequences, data, reconstructed, new),
        "forecasts": partial(draw, data, seen, few, _in_data_units(one, contract)),
        "forecast_errors": partial(_draw_errors, *errors),
    }


def _in_data_units(x: Tensor, contract: Any, *, draws: bool = True) -> np.ndarray:
    x = x if contract is None else contract.to_data_units(x, draws=draws)
    return x.detach().double().cpu().numpy()


def _by_step(values: np.ndarray) -> Float[np.ndarray, " steps"]:
    return values.mean((0, *range(2, values.ndim)))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


# ---- figures -----------------------------------------------------------------------------------


def _draw_sequences(
    data: np.ndarray, reconstructed: np.ndarray, new: np.ndarray
) -> "matplotlib.figure.Figure":
    """Test sequences above their reconstructions, and sequences from the prior."""
    title = (
        f"Test {nouns()}, their reconstructions, and new {nouns()}: means of p(x | z), z ~ p(z)"
    )
    if data.ndim == 5:
        pairs = [row for pair in zip(data, reconstructed, strict=True) for row in pair]
        names = ["data", "model"] * len(data) + ["new"] * len(new)
        return _draw_strips([*pairs, *new], names, title, data, groups=2)
    figure = new_figure(11.0, 2.2 * len(data) + 0.5)
    axes = figure.subplots(len(data), 2, squeeze=False, sharex=True, sharey="row")
    for i, (left, right) in enumerate(axes):
        for element, colour in enumerate(COLOURS[: data.shape[2]]):
            left.plot(data[i, :, element], ".", color=colour, label=f"element {element}")
            left.plot(reconstructed[i, :, element], color=colour)
            right.plot(new[i, :, element], color=colour)
    axes[0, 0].set_title("points: data; lines: reconstructions", fontsize=10)
    axes[0, 1].set_title("new", fontsize=10)
    axes[0, 0].legend(fontsize=8)
    tidy(axes.flat)
    figure.suptitle(wrap_title(title, 11.0))
    return figure


def _draw_forecast_images(
    data: np.ndarray, seen: np.ndarray, found: Forecast, one: np.ndarray
) -> "matplotlib.figure.Figure":
    """The data, above means given the observed frames alone, and one draw after these."""
    observed = seen.shape[1]
    rows, names = [], []
    for i, sequence in enumerate(data):
        rows += [sequence, np.concatenate([seen[i], found.mean[i]])]
        rows.append(np.concatenate([seen[i], one[i]]))
        names += ["data", "mean", "a draw"]
    title = (
        f"Forecasts from the first {observed} frames of test {nouns()}; framed, the first frame "
        "forecast"
    )
    return _draw_strips(rows, names, title, data, groups=3, mark=observed)


def _draw_forecast_lines(
    data: np.ndarray, seen: np.ndarray, found: Forecast, one: np.ndarray
) -> "matplotlib.figure.Figure":
    """Elements in time, with the 90 % bands of forecasts and one draw."""
    observed, length = seen.shape[1], data.shape[1]
    elements = min(len(COLOURS), data.shape[2])
    figure = new_figure(4.0 * elements + 1, 2.2 * len(data) + 0.5)
    axes = figure.subplots(len(data), elements, squeeze=False, sharex=True, sharey="col")
    ahead = np.arange(observed, length)
    for i, row in enumerate(axes):
        for element, ax in enumerate(row):
            ax.plot(data[i, :, element], ".", color="black", label="data")
            ax.plot(seen[i, :, element], color=BLUE, label="reconstruction")
            ax.plot(ahead, found.mean[i, :, element], color=ORANGE, label="forecast")
            band = found.low[i, :, element], found.high[i, :, element]
            ax.fill_between(ahead, *band, color=ORANGE, alpha=0.25, linewidth=0, label="90 %")
            ax.plot(ahead, one[i, :, element], color=GREY, linewidth=0.8, label="a draw")
            if i == 0:
                ax.set_title(f"element {element}", fontsize=10)
    axes[0, 0].legend(fontsize=8)
    tidy(axes.flat)
    figure.suptitle(f"Forecasts from the first {observed} frames of test {nouns()}")
    return figure


def _draw_errors(
    rmse: np.ndarray, persistence: np.ndarray, coverage: np.ndarray, width: np.ndarray
) -> "matplotlib.figure.Figure":
    """Errors, and coverage and width of intervals, at each horizon."""
    figure = new_figure(11.0, 3.4)
    axes = figure.subplots(1, 3)
    steps = np.arange(1, len(rmse) + 1)
    axes[0].plot(steps, rmse, "o-", color=ORANGE, label="forecast")
    axes[0].plot(steps, persistence, "o-", color=GREY, label="persistence")
    axes[0].legend(fontsize=8)
    axes[1].plot(steps, coverage, "o-", color=ORANGE)
    axes[1].axhline(LEVEL, color=GREY, linestyle="--")
    axes[1].set_ylim(0, 1.02)
    axes[2].plot(steps, width, "o-", color=ORANGE)
    axes[2].set_ylim(0, 1.1 * float(width.max()))
    titles = ("root mean squared error", "coverage of 90 % intervals", "mean width of intervals")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("frames ahead")
    tidy(axes)
    figure.suptitle(f"Forecasts of test {nouns()}, in the units of the data")
    return figure


def _draw_strips(
    rows: list[np.ndarray],
    names: list[str],
    title: str,
    data: np.ndarray,
    *,
    groups: int,
    mark: int | None = None,
) -> "matplotlib.figure.Figure":
    """Sequences of images as rows of frames, black and white where those of the data are.

    Of long sequences, evenly spaced frames.
    """
    limits = value_limits(data.reshape(-1, *data.shape[2:]))
    length = len(rows[0])
    index = np.unique(np.linspace(0, length - 1, min(length, _FRAMES)).round().astype(int))
    figure = new_figure(0.55 * len(index) + 1.5, 0.7 * len(rows) + 0.7)
    framed = []
    if mark is not None:
        column = int(np.searchsorted(index, mark))
        framed = [(row, column) for row in range(0, len(rows), groups)]
    kept = [row[index] for row in rows]
    draw_grid(figure, kept, limits, names=names, row_groups=groups, framed=framed)
    figure.suptitle(wrap_title(title, 0.55 * len(index) + 1.5))
    return figure
