"""Figures of calibration: the reliability diagram, the PIT, and where in the picture forecasts fail."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Real

from analysis.comparison.p_values import p_text
from analysis.plotting.arviz import arviz_figure
from analysis.plotting.images import is_image
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, shortened, tidy
from analysis.plotting.vectors import Elements
from pyro_vae.data.nouns import noun, nouns

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

    from analysis.calibration.calibration import Calibration
    from analysis.predictive.element_pit import ElementMap, ElementPit

# Elements that the isotonic regression takes, and draws for its band.
MOST_ELEMENTS = 20_000
BAND_DRAWS = 100


def plot_reliability(
    calibration: "Calibration",
    descriptive: "Calibration | None" = None,
    simulated: "Calibration | None" = None,
) -> "matplotlib.figure.Figure":
    """Observed shares against forecasts, and the gap between them on a scale of its own.

    Forecasts that come true lie on the diagonal. Above it where p > 1/2 and below where p < 1/2, they are
    too unsure; the other way round too sure. Bands are 95 %, by bootstrap over images.

    Args:
        calibration: Of the leave-one-out forecasts.
        descriptive: Of `same_image_probability`, which has seen the element: it is off for a true model.
        simulated: Of leave-one-out forecasts of data that the model made: what the guide does alone.
    """
    figure = new_figure(11.0, 5.4)
    axes = figure.subplots(2, 2, sharex="col", height_ratios=[3, 1.1])
    left, right = axes[0]
    left.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
    right.axhline(0, color="black", linewidth=1, linestyle="--")
    if descriptive is not None:
        gap = descriptive.observed - descriptive.forecast
        name = "with the element in sight: no test"
        left.plot(descriptive.forecast, descriptive.observed, color=GREY, linewidth=1, label=name)
        right.plot(descriptive.forecast, gap, color=GREY, linewidth=1)
    for shown, colour, name in (
        (simulated, ORANGE, "the model's own data, same guide"),
        (calibration, BLUE, "data, each element from the others"),
    ):
        if shown is None:
            continue
        f = shown.forecast
        for ax, shift in ((left, 0.0), (right, f)):
            values = shown.observed - shift
            ends = np.stack([shown.observed - shown.low, shown.high - shown.observed])
            ax.errorbar(
                f,
                values,
                ends,
                fmt="o-",
                ms=4,
                linewidth=1.2,
                elinewidth=1.2,
                color=colour,
                label=name,
            )
    left.legend(frameon=False, fontsize=9, loc="upper left")
    left.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02), ylabel="observed share of ones")
    left.set_title(f"Bars: 95 %, by bootstrap over {calibration.n} {nouns()}", fontsize=10)
    right.set(xlim=(-0.01, 1.01), ylabel="observed - forecast")
    right.set_title(
        f"In doubtful elements off by {calibration.doubtful_error:.3f}, "
        f"by chance {calibration.doubtful_error_by_chance:.3f}",
        fontsize=10,
    )
    for ax, values, label in (
        (axes[1, 0], calibration.count, "elements"),
        (axes[1, 1], np.nan_to_num(calibration.bin_t), "gap in s.e."),
    ):
        ax.bar(calibration.forecast, values, width=0.03, color=BLUE)
        ax.set(xlabel="forecast p(x_i = 1 | all other elements)", ylabel=label)
    # Bars on a logarithmic axis start at one element, so that their lengths can be compared.
    axes[1, 0].set(yscale="log", ylim=(1, None))
    axes[1, 1].axhline(0, color="0.6", linewidth=1)
    tidy(axes.flat, grid="both")
    figure.suptitle(f"{_verdict(calibration)}: on the diagonal, forecasts come true")
    figure.align_ylabels(axes[:, 0])
    figure.align_ylabels(axes[:, 1])
    return figure


def plot_element_pit(pit: "ElementPit") -> "matplotlib.figure.Figure":
    """The histogram of the leave-one-out PIT, flat where forecasts come true, with 95 % bands over data."""
    figure = new_figure(8.0, 4.6)
    ax = figure.subplots()
    centres = (pit.edges[:-1] + pit.edges[1:]) / 2
    ends = np.stack([pit.density - pit.low, pit.high - pit.density])
    ax.bar(centres, pit.density, width=0.94 * np.diff(pit.edges), color=BLUE, alpha=0.55)
    ax.errorbar(centres, pit.density, np.maximum(ends, 0), fmt="none", color=BLUE, elinewidth=1.5)
    ax.axhline(1, color="black", linestyle="--", linewidth=1, label="forecasts come true")
    top = pit.density.max()
    if pit.model_density is not None:
        name = "the model's own data, same guide"
        ax.stairs(pit.model_density, pit.edges, color=ORANGE, linewidth=1.5, label=name)
        top = max(top, pit.model_density.max())
    ax.legend(frameon=False, loc="upper center", fontsize=9, ncols=2)
    ax.set(
        xlim=(0, 1),
        # Room for the legend above what is drawn.
        ylim=(0, 1.25 * max(top, float(pit.high.max()))),
        xlabel="PIT of an element, forecast from all others (0: as low as can be)",
        ylabel="density over all elements",
    )
    ax.set_title(
        f"Mean {0.5 + pit.bias:.3f} (0.5 is right), variance {pit.spread:.2f} of a uniform one's. "
        f"Bars: 95 %, by bootstrap over {pit.n} {nouns()}\n"
        "High ends: forecasts too narrow; high middle: too wide",
        fontsize=9,
    )
    figure.suptitle(_verdict(pit))
    tidy([ax])
    return figure


def plot_calibration_map(
    result: "Calibration | ElementPit", elements: Elements | None = None
) -> "matplotlib.figure.Figure":
    """Where in the picture forecasts fail: each element's mean error over its standard error, failures marked.

    A vector's elements are drawn from left to right. Elements that vary too little to be judged are blank.

    Args:
        result: A `Calibration`, or an `ElementPit`, which has a map of location and one of width.
        elements: Of vectors, the names of their elements.
    """
    from analysis.predictive.element_pit import ElementPit

    if isinstance(result, ElementPit):
        maps = {
            "Location: {} where data are larger than forecast": result.location,
            "Width: {} where forecasts are too narrow": result.width,
        }
    else:
        maps = {"{} where ones are more than forecast": result.elements}
    pictures = is_image(next(iter(maps.values())).mean.shape)
    figure = new_figure(6.0 * len(maps), 5.2) if pictures else new_figure(10.0, 3.4 * len(maps))
    shape = (1, len(maps)) if pictures else (len(maps), 1)
    panels = figure.subplots(*shape, squeeze=False, sharex=not pictures).flat
    for ax, (title, shown) in zip(panels, maps.items(), strict=True):
        if pictures:
            _draw_picture(ax, shown)
        else:
            _draw_profile(ax, shown)
        judged = shown.t.size - shown.left_out
        limit = "" if shown.threshold is None else f" (beyond {shown.threshold:.1f} s.e.;"
        chance = f"{limit} by chance in 1 map of 20)" if limit else ""
        if elements is not None and not elements.has_room and shown.fails.any():
            t = np.abs(np.nan_to_num(shown.t)) * shown.fails
            most = [elements.names[i] for i in np.argsort(-t)[: min(4, shown.fails.sum())]]
            chance += f"; furthest: {', '.join(map(shortened, most))}"
        where = title.format("red" if pictures else "above 0")
        ax.set_title(
            f"{where[0].upper()}{where[1:]}\n{shown.fails.sum()} of {judged} elements fail{chance}",
            fontsize=10,
        )
    if not pictures:
        # Below the lowest of the panels, which have one axis.
        panels[-1].set_xlabel("element")
        if elements is not None:
            elements.draw_ticks(panels[-1])
    if result.p_value_against_model is not None:
        title = f"Where data fail more than the model's own ({result.n} {nouns()})"
    elif result.trusted is False:
        title = f"Where forecasts fail ({result.n} {nouns()}; guide not trusted)"
    else:
        title = f"Where forecasts fail ({result.n} {nouns()})"
    figure.suptitle(title)
    return figure


def plot_isotonic(
    probability: Float[np.ndarray, " n *event"],
    outcome: Real[np.ndarray, " n *event"],
    *,
    seed: int = 0,
) -> "matplotlib.figure.Figure":
    """P(x_i = 1 | p_i) by isotonic regression, without bins, as `arviz_plots.plot_ppc_pava` draws it.

    ArviZ takes the forecast to be the mean of draws from the posterior predictive. Here the draws are
    outcomes drawn from each forecast, stratified so that their mean is the forecast but for 1 / 100. Its
    band is what forecasts that come true give in 95 % of cases if all elements are independent. Those of
    one image are not, and the band is too narrow by what that makes: `calibration` has the test. Where
    there are more than 20,000 elements, so many are taken by chance, which leaves few of an image.

    Args:
        probability: The forecasts.
        outcome: What came, 0 or 1.
        seed: The seed of the draws, and of the choice of elements.

    References:
        Stable reliability diagrams for probabilistic classifiers (Dimitriadis, Gneiting & Jordan, 2021),
        https://doi.org/10.1073/pnas.2016191118
    """
    from arviz_base import from_dict
    from arviz_plots import plot_ppc_pava

    generator = np.random.default_rng(seed)
    p, x = probability.reshape(-1), outcome.reshape(-1).astype(np.float64)
    total = len(p)
    if total > MOST_ELEMENTS:
        chosen = generator.choice(total, MOST_ELEMENTS, replace=False)
        p, x = p[chosen], x[chosen]
    strata = np.broadcast_to(np.arange(BAND_DRAWS)[:, None], (BAND_DRAWS, len(p)))
    uniform = (generator.permuted(strata, axis=0) + generator.random(strata.shape)) / BAND_DRAWS
    draws = (uniform < p).astype(np.float64)
    tree = from_dict({"posterior_predictive": {"x": draws[None]}, "observed_data": {"x": x}})
    figure = arviz_figure(
        plot_ppc_pava,
        tree,
        width=6.6,
        height=6.2,
        data_type="binary",
        ci_prob=0.95,
        visuals={
            "xlabel": {"text": "forecast p(x_i = 1 | all other elements)"},
            "ylabel": {"text": "observed share of ones, isotonic"},
            "title": False,
        },
    )
    (ax,) = figure.axes
    ax.set_aspect("equal")
    ax.set_title(
        f"{len(p):,} of {total:,} elements. Band: 95 % if forecasts come true and\n"
        f"elements are independent; those of one {noun()} are not, so it is too narrow",
        fontsize=10,
    )
    figure.suptitle("On the diagonal, forecasts come true")
    return figure


def _verdict(result: "Calibration | ElementPit") -> str:
    """The finding, and the p-value it rests on."""
    verdict = result.verdict()
    if verdict is None:
        return "Nothing to judge"
    p_value, against = result.p_value, result.p_value_against_model
    tested = "" if p_value is None else f", p {p_text(p_value)}"
    if against is not None:
        tested = f", p {p_text(against)} against the model's own data"
    doubt = "; guide not trusted" if result.trusted is False and against is None else ""
    return f"Do forecasts come true? {verdict.answer.capitalize()}{tested}{doubt}"


def _draw_picture(ax: "matplotlib.axes.Axes", shown: "ElementMap") -> None:
    """t as colours, of colour images the furthest channel's, and a dot on each failing element."""
    t, fails = shown.t, shown.fails
    if t.ndim == 3:
        furthest = np.nan_to_num(np.abs(t)).argmax(0)[None]
        t, fails = np.take_along_axis(t, furthest, 0)[0], fails.any(0)
    known = np.abs(t[np.isfinite(t)])
    # What chance gives stays pale, and a few extreme elements do not make all others so.
    limit = max(1.5 * (shown.threshold or 1), float(np.quantile(known, 0.98)) if known.size else 1)
    image = ax.imshow(t, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_facecolor("0.85")
    rows, columns = np.nonzero(fails)
    ax.scatter(columns, rows, s=float(np.clip(4000 / t.size, 1.5, 30)), color="black", linewidth=0)
    unknown = "; grey: too nearly certain to be judged" if shown.left_out else ""
    ax.set(xticks=[], yticks=[], xlabel=f"black dots: failing elements{unknown}")
    bar = ax.figure.colorbar(
        image, ax=ax, label=f"{shown.what}, in s.e.", extend="both", shrink=0.9
    )
    if shown.threshold is not None:
        for end in (-shown.threshold, shown.threshold):
            bar.ax.axhline(end, color="black", linewidth=1)


def _draw_profile(ax: "matplotlib.axes.Axes", shown: "ElementMap") -> None:
    """t of each element from left to right."""
    t = shown.t.reshape(-1)
    fails = shown.fails.reshape(-1)
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
