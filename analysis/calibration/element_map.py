"""Forecasts of elements compared with the data: which elements fail, and by how much."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Real

from analysis.hypothesis_tests import NUM_FLIPS, p_text, sign_flips
from analysis.plotting.images import is_image
from analysis.plotting.style import GREY, ORANGE, new_figure, shorten, tidy
from analysis.plotting.vectors import Elements
from analysis.result import Result
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


@dataclass(frozen=True)
class ElementMap(Result):
    """The mean over examples for each element, and where it is not zero.

    Args:
        what: The quantity.
        mean: Its mean over examples, or the difference from generated data.
        t: The mean over its standard error; NaN where an element was left out.
        threshold: The |t| that the largest of all elements exceeds by chance in 5 % of cases.
        fails: The elements above it.
        p_value: Of the largest |t| of all, by sign flips of whole examples; None if all were left
            out.
    """

    what: str
    mean: Float[np.ndarray, " *event"]
    t: Float[np.ndarray, " *event"]
    threshold: float | None
    fails: Bool[np.ndarray, " *event"]
    p_value: float | None

    FIELDS = ("judged", "left_out", "threshold", "p_value")

    @property
    def left_out(self) -> int:
        """The number of elements that vary too little to be judged."""
        return int(np.isnan(self.t).sum())

    @property
    def judged(self) -> int:
        """The number of all others."""
        return self.t.size - self.left_out

    def extra(self) -> Mapping[str, Any]:
        """The number of failing elements, and the one that is furthest off."""
        worst, mean, t = None, None, None
        if self.judged:
            worst = np.unravel_index(np.nanargmax(np.abs(self.t)), self.t.shape)
            mean, t = self.mean[worst], self.t[worst]
        place = worst and [int(i) for i in worst]
        failing = int(self.fails.sum())
        return {"failing": failing, "worst_element": place, "worst_mean": mean, "worst_t": t}

    def reading(self) -> str:
        """The number of failing elements."""
        if not self.judged:
            return "No element varies enough to be judged."
        left_out = f" ({self.left_out} vary too little to be judged)" if self.left_out else ""
        return f"{self.fails.sum()} of {self.judged} elements fail alone{left_out}."


def element_map(
    scores: Real[np.ndarray, " n *event"],
    what: str,
    *,
    seed: int,
    least_variance: Float[np.ndarray, " *event"] | None = None,
    keep: Bool[np.ndarray, " *event"] | None = None,
    num_flips: int = NUM_FLIPS,
) -> ElementMap:
    """mean_n s_n for each element, with a threshold that holds for all of them together.

    Args:
        scores: Contributions with mean zero where all is well.
        what: The quantity.
        seed: The seed of the signs.
        least_variance: See `sign_flips`.
        keep: The elements to judge.
        num_flips: The number of choices of signs.
    """
    flips = sign_flips(
        scores.reshape(len(scores), -1),
        seed=seed,
        least_variance=None if least_variance is None else least_variance.reshape(-1),
        keep=None if keep is None else keep.reshape(-1),
        num_flips=num_flips,
    )
    t, fails = (values.reshape(scores.shape[1:]) for values in (flips.t, flips.fails))
    return ElementMap(what, scores.mean(0), t, flips.threshold, fails, flips.p_value)


@dataclass(frozen=True, kw_only=True)
class ElementForecasts(Result):
    """Forecasts of elements compared with the data: the part that all kinds of data share.

    Args:
        p_value: Of the largest departure of all, by sign flips of whole examples; None where every
            element is certain. It judges model and guide together.
        p_value_against_model: The same for the difference between real data and data that the
            model generated, which cancels the effect of the guide. None without such data.
        trusted: Whether the guide's weights can be trusted; None if unknown.
        n: The number of examples.
    """

    p_value: float | None
    p_value_against_model: float | None
    trusted: bool | None
    n: int

    @property
    def maps(self) -> dict[str, ElementMap]:
        """The maps by their titles, with "{}" for how failures look."""
        raise NotImplementedError

    def headline(self) -> dict[str, str]:
        """The p-values, the one that does not depend on the guide first."""
        p_values = {
            "p-value against the model's own data": self.p_value_against_model,
            "p-value of model and guide together": self.p_value,
        }
        return {k: "not defined" if p is None else f"{p:.2g}" for k, p in p_values.items()}

    def extra(self) -> Mapping[str, Any]:
        """Whether the guide is trusted, as 0 or 1; no verdicts where there is nothing to judge."""
        return {"trusted": None if self.trusted is None else int(self.trusted), "verdicts": []}

    def title(self) -> str:
        """The verdict and its p-value, as a figure's title."""
        if not self.verdicts():
            return "Nothing to judge"
        p, against = self.p_value, self.p_value_against_model
        tested = "" if p is None else f", p {p_text(p)}"
        if against is not None:
            tested = f", p {p_text(against)} against the model's own data"
        doubt = "; guide not trusted" if self.trusted is False and against is None else ""
        return f"Do forecasts come true? {self.verdicts()[0].answer.capitalize()}{tested}{doubt}"


def plot_calibration_map(
    result: ElementForecasts, elements: Elements | None = None
) -> "matplotlib.figure.Figure":
    """Where forecasts fail: each element's mean error over its standard error, failures marked.

    A vector's elements are drawn from left to right. Elements that vary too little are blank.

    Args:
        result: A `Calibration`, or an `ElementPit`, which has a map of location and one of width.
        elements: The names of the elements of vectors.
    """
    maps = result.maps
    pictures = is_image(next(iter(maps.values())).mean.shape)
    figure = new_figure(6.0 * len(maps), 5.2) if pictures else new_figure(10.0, 3.4 * len(maps))
    shape = (1, len(maps)) if pictures else (len(maps), 1)
    panels = figure.subplots(*shape, squeeze=False, sharex=not pictures).flat
    for ax, (title, shown) in zip(panels, maps.items(), strict=True):
        (_draw_picture if pictures else _draw_profile)(ax, shown)
        note = ""
        if shown.threshold is not None:
            note = f" (beyond {shown.threshold:.1f} s.e.; by chance in 1 map of 20)"
        if elements is not None and not elements.has_room and shown.fails.any():
            t = np.abs(np.nan_to_num(shown.t)) * shown.fails
            most = [elements.names[i] for i in np.argsort(-t)[: min(4, shown.fails.sum())]]
            note += f"; furthest: {', '.join(map(shorten, most))}"
        where = title.format("red" if pictures else "above 0")
        counts = f"{shown.fails.sum()} of {shown.judged} elements fail{note}"
        ax.set_title(f"{where[0].upper()}{where[1:]}\n{counts}", fontsize=10)
    if not pictures:
        panels[-1].set_xlabel("element")
        if elements is not None:
            elements.draw_ticks(panels[-1])
    doubt = ""
    if result.p_value_against_model is not None:
        doubt = " more than the model's own"
    elif result.trusted is False:
        doubt = "; guide not trusted"
    figure.suptitle(f"Where forecasts fail{doubt} ({result.n} {nouns()})")
    return figure


def _draw_picture(ax: "matplotlib.axes.Axes", shown: ElementMap) -> None:
    """Draw t as colours, a dot on each failing element; of colour images the furthest channel."""
    t, fails = shown.t, shown.fails
    if t.ndim == 3:
        furthest = np.nan_to_num(np.abs(t)).argmax(0)[None]
        t, fails = np.take_along_axis(t, furthest, 0)[0], fails.any(0)
    known = np.abs(t[np.isfinite(t)])
    # Values that chance explains stay pale, and few extreme elements do not make all others so.
    limit = max(1.5 * (shown.threshold or 1), float(np.quantile(known, 0.98)) if known.size else 1)
    image = ax.imshow(t, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_facecolor("0.85")
    rows, columns = np.nonzero(fails)
    ax.scatter(columns, rows, s=float(np.clip(4000 / t.size, 1.5, 30)), color="black", linewidth=0)
    unknown = "; grey: too nearly certain to be judged" if shown.left_out else ""
    ax.set(xticks=[], yticks=[], xlabel=f"black dots: failing elements{unknown}")
    label = f"{shown.what}, in s.e."
    bar = ax.figure.colorbar(image, ax=ax, label=label, extend="both", shrink=0.9)
    if shown.threshold is not None:
        for end in (-shown.threshold, shown.threshold):
            bar.ax.axhline(end, color="black", linewidth=1)


def _draw_profile(ax: "matplotlib.axes.Axes", shown: ElementMap) -> None:
    t, fails = shown.t.reshape(-1), shown.fails.reshape(-1)
    where = np.arange(len(t))
    size = float(np.clip(1500 / len(t), 3, 25))
    ax.axhline(0, color="0.6", linewidth=1)
    if shown.threshold is not None:
        for end in (-shown.threshold, shown.threshold):
            ax.axhline(end, color=ORANGE, linestyle="--", linewidth=1)
    ax.scatter(where[~fails], t[~fails], s=size, color=GREY, linewidth=0, label="as forecast")
    ax.scatter(where[fails], t[fails], s=2 * size, color=ORANGE, linewidth=0, label="fails")
    ax.legend(frameon=False, ncols=2, fontsize=9, loc="upper right")
    low, high = ax.get_ylim()
    ax.set(ylim=(low, high + 0.15 * (high - low)), ylabel=f"{shown.what}\nin s.e.")
    tidy([ax])
