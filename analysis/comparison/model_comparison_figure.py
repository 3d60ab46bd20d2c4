"""Models below the best of them, by held-out log p(x), as ArviZ draws it."""

from typing import TYPE_CHECKING

from analysis.comparison.comparison_reading import STANDARD_ERRORS
from analysis.comparison.heldout_elpd import MOST_KHATS_ABOVE
from analysis.comparison.model_comparison import ModelComparison
from analysis.plotting.arviz import arviz_figure
from analysis.plotting.style import BLUE, GREY, ORANGE, shortened, tidy, wrapped
from pyro_vae.data.nouns import noun, nouns

if TYPE_CHECKING:
    import matplotlib.figure


def plot_model_comparison(comparison: ModelComparison) -> "matplotlib.figure.Figure":
    """Mean log p(x) of each model below the best's, with 2 paired standard errors, as ArviZ draws it.

    A bar that reaches the dashed line is of a model that these data do not tell from the best. On the
    right stand the mean itself, the share of k-hats above the threshold, and the stacking weight; a
    model whose log p(x) is too low, as k-hat says, is orange.

    Args:
        comparison: Of two models or more.
    """
    import arviz_plots
    import pandas as pd

    models = comparison.models
    # Of these names plot_compare takes the mean log p(x), and both of its lines draw them alike.
    table = pd.DataFrame(
        {
            "mlpd": -comparison.differences,
            "se": STANDARD_ERRORS * comparison.difference_standard_errors,
        },
        index=pd.Index([shortened(name) for name in comparison.names]),
    )
    figure = arviz_figure(
        arviz_plots.plot_compare,
        table,
        width=10.0,
        height=2.1 + 0.42 * len(models),
        relative_scale=False,
        visuals={"title": False, "point_estimate": {"color": BLUE}, "ref_line": {"color": GREY}},
    )
    ax = figure.axes[0]
    colours = [ORANGE if model.too_low else BLUE for model in models]
    for line, colour in zip(ax.lines, colours, strict=False):
        line.set_color(colour)
    ax.collections[0].set(facecolor=colours, edgecolor=colours, zorder=3)
    ax.set_ylim(0.4, len(models) + 0.6)
    ax.set_xlabel(
        f"log p(x) minus that of {shortened(comparison.names[0])}, nats per {noun()}, "
        f"± {STANDARD_ERRORS:g} paired standard errors",
        fontsize=10,
    )
    if any(model.too_low for model in models):
        figure.supxlabel(
            f"orange: log p(x) is too low, as k-hat is above its threshold for more than "
            f"{MOST_KHATS_ABOVE:.0%} of data",
            fontsize=9,
            color=ORANGE,
        )
    ax.tick_params(labelsize=10)
    numbers = ax.twinx()
    numbers.set_ylim(ax.get_ylim())
    notes = [
        f"{mean:.2f} nats, k-hat high {'?' if share is None else f'{share:.0%}'}, weight {weight:.2f}"
        for mean, share, weight in zip(
            comparison.means,
            [model.khat_share_above for model in models],
            comparison.weights,
            strict=True,
        )
    ]
    numbers.set_yticks(range(len(models), 0, -1), notes, fontsize=9)
    numbers.tick_params(length=0)
    tidy([ax, numbers], grid=None)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    figure.suptitle(wrapped(f"Of {comparison.n:,} {nouns()}: {comparison.finding()}"), fontsize=12)
    return figure
