"""What each level of `pyro_vae.programs.hierarchical` holds: its KL, its units, its samples."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.model_samples import embed_data, guide_blocks, mean_data, to_array
from analysis.plotting.images import draw_grid, is_image, value_limits
from analysis.plotting.style import BLUE, GREY, ORANGE, new_figure, tidy
from pyro_vae.rng import evaluation_mode
from pyro_vae.statistics import ACTIVE_VARIANCE, active_units

if TYPE_CHECKING:
    import matplotlib.figure

    from analysis.programs import HeldOut

# Held-out examples of the scores, and draws of the guide for each.
EXAMPLES, DRAWS = 1000, 16
# Rows and columns of the figures of samples.
ROWS, COLUMNS = 8, 10
SEED = 0


def scores(program: Any, held_out: "HeldOut") -> dict[str, float | int | None]:
    """The KL and the active units of each level, on at most 1,000 held-out examples.

    `kl_z1` and `kl_z2` are E_q[log q(z1 | .) - log p(z1 | z2)] and E_q[log q(z2 | .) - log p(z2)]
    in nats per example, which add up to the KL of the ELBO. In top_down both are divergences; in
    bottom_up that of z1 is not, and may be below 0. `active_units_z1` and `active_units_z2` count
    the coordinates of `embed` that vary over the examples, of `latent_units` in all. Those of z1
    vary with z2 alone, too, by p(z1 | z2): where `kl_z1` is near 0, they add nothing to it.
    """
    x = held_out.x[:EXAMPLES]
    kl = kl_by_level(program, x)
    codes = codes_by_level(program, x)
    return {
        **{f"kl_{name}": value for name, value in kl.items()},
        **{f"active_units_{name}": active_units(values) for name, values in codes.items()},
        "latent_units": sum(program.latent_dims),
    }


def kl_by_level(program: Any, x: Real[Tensor, " n *event"]) -> dict[str, float]:
    """The KL of each level in nats per example, in closed form at each draw where there is one."""
    totals = dict.fromkeys(program.latent_sites, 0.0)
    for _, terms in guide_blocks(program, x, DRAWS, seed=SEED):
        for name in totals:
            kl = terms.closed_form_kl(name)
            if kl is None:
                kl = terms.guide_sites[name] - terms.model_sites[name]
            totals[name] += float(kl.double().mean(0).sum())
    return {name: total / len(x) for name, total in totals.items()}


def codes_by_level(
    program: Any, x: Real[Tensor, " n *event"]
) -> dict[str, Float[np.ndarray, "n latent"]]:
    """The part of `embed(x)` of each level."""
    codes = np.split(embed_data(program, x), [program.latent_dims[0]], 1)
    return dict(zip(program.latent_sites, codes, strict=True))


def level_samples(
    program: Any, *, rows: int = ROWS, columns: int = COLUMNS, seed: int = SEED
) -> dict[str, Float[np.ndarray, "rows columns *event"]]:
    """Means of p(x | z1) with a level held fixed along each row.

    Of `z2`, z2 ~ p(z2) is drawn once for each row and z1 ~ p(z1 | z2) for each column. Of `z1`,
    the standardised noise (z1 - mu(z2)) / sigma(z2) is drawn once for each row and z2 for each
    column: with z1 itself fixed nothing would change where the decoder reads z1 alone.
    """
    codes = {}
    with evaluation_mode(program, seed=seed):
        z2 = program.prior().sample((rows, columns))
        noise = torch.randn_like(program.conditional(z2).mean)
        for held, z, e in (("z2", z2[:, :1].expand_as(z2), noise), ("z1", z2, noise[:, :1])):
            p = program.conditional(z)
            codes[held] = torch.cat([p.mean + p.stddev * e, z], -1).flatten(0, 1)
    drawn = {held: mean_data(program, to_array(z)) for held, z in codes.items()}
    return {held: x.reshape(rows, columns, *x.shape[1:]) for held, x in drawn.items()}


def figures(
    program: Any, held_out: "HeldOut"
) -> "dict[str, Callable[[], matplotlib.figure.Figure]]":
    """Samples with each level held fixed, if examples are images, and the KL by level."""
    x = held_out.x[:EXAMPLES]
    drawn: dict[str, Callable[[], Any]] = {"kl_by_level": lambda: plot_levels(program, x)}
    if is_image(tuple(x.shape[1:])):
        titles = {
            "z2": "z2 fixed in each row, z1 ~ p(z1 | z2): the mean of p(x | z)",
            "z1": "the noise of z1 fixed in each row, z2 ~ p(z2): the mean of p(x | z)",
        }
        for held, title in titles.items():
            drawn[f"samples_{held}_fixed"] = lambda held=held, title=title: _plot_rows(
                level_samples(program)[held], title
            )
    return drawn


def _plot_rows(
    samples: Float[np.ndarray, "rows columns *event"], title: str
) -> "matplotlib.figure.Figure":
    rows, columns = samples.shape[:2]
    figure = new_figure(max(0.75 * columns, 6.0), 0.75 * rows + 0.5)
    draw_grid(figure, list(samples), value_limits(samples.reshape(-1, *samples.shape[2:])))
    figure.suptitle(title)
    return figure


def plot_levels(program: Any, x: Real[Tensor, " n *event"]) -> "matplotlib.figure.Figure":
    """The KL of each level, and the variance over examples of each coordinate's mean."""
    kl, codes = kl_by_level(program, x), codes_by_level(program, x)
    figure = new_figure(9.0, 3.6)
    bars, lines = figure.subplots(1, 2, width_ratios=[1, 2])
    for name, colour in zip(kl, (BLUE, ORANGE), strict=True):
        bars.bar(name, kl[name], color=colour)
        variance = np.sort(codes[name].var(0))[::-1]
        label = f"{name}: {active_units(codes[name])} of {len(variance)} active"
        lines.semilogy(1 + np.arange(len(variance)), variance, "o-", color=colour, label=label)
    lines.axhline(ACTIVE_VARIANCE, color=GREY, linestyle="--", label="threshold of active units")
    bars.set(title=f"KL, together {sum(kl.values()):.1f} nats", ylabel="nats per example")
    lines.set(title="Variance of the mean of q over examples", xlabel="coordinate, sorted")
    lines.legend(frameon=False)
    tidy((bars, lines))
    return figure
