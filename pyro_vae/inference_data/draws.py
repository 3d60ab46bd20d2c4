"""Draws from a guide and a model, all at once where the programs allow it, otherwise one by one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
from pyro import poutine
from pyro.poutine import Trace

from pyro_vae.inference_data.checking import difference
from pyro_vae.inference_data.layout import Layout, Program
from pyro_vae.inference_data.sites import (
    Draws,
    Site,
    closed_form_kl,
    read,
    replayed,
    unconditioned,
)


def draw(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    layout: Layout,
    num_draws: int,
    *,
    replicate: bool = True,
) -> tuple[Draws, Layout]:
    """Draws from the guide, the model's sites at them and new data at them.

    Draws are taken at once in a plate left of all others, as by `Trace_ELBO` with vectorised
    particles. Programs that are not written for that fail, or broadcast wrongly. So two of the
    draws are computed again alone; if they differ, or anything fails, draws are taken one by one.

    Args:
        model: The model.
        guide: The guide.
        args: What both are called with.
        kwargs: What both are called with.
        layout: From `look`. `at_once=True` omits the check.
        num_draws: How many.
        replicate: Whether to draw new data, too.

    Returns:
        The draws, and the layout with what is known now of `at_once`.
    """
    nesting, event_dims = layout.max_plate_nesting, layout.event_dims

    def some(number: int, around: Callable[[Program], Program]) -> Draws:
        def trace(program: Program, *values: Trace) -> Trace:
            fixed = replayed(around(program), *values, layout.subsample)
            return poutine.trace(fixed).get_trace(*args, **kwargs)

        guide_trace = trace(guide)
        model_trace = trace(model, guide_trace)
        new = trace(unconditioned(model), model_trace) if replicate else Trace()
        sites = read(guide_trace, nesting, event_dims, draws=number)
        exact = {
            name: closed_form_kl(guide_trace, model_trace, name, site, nesting)
            for name, site in sites.items()
        }
        return Draws(
            read(model_trace, nesting, event_dims, draws=number),
            {name: replace(site, kl=exact[name]) for name, site in sites.items()},
            # Of new data, the check reads log densities, and nothing else does.
            read(new, nesting, event_dims, draws=number, densities=layout.at_once is None),
        )

    def at_once(program: Program) -> Program:
        return pyro.plate("num_particles_vectorized", num_draws, dim=-nesting - 1)(program)

    if layout.at_once is not False and num_draws > 1:
        if layout.at_once:
            return some(num_draws, at_once), layout
        try:
            draws = some(num_draws, at_once)
            obstacle = difference(model, guide, args, kwargs, layout, draws)
        # Whatever a program does that was not written for many draws at once: the reference is the
        # program as it is written, and what is wrong there is raised below.
        except Exception as error:  # noqa: BLE001
            reason = str(error).strip().split("\n")[0]
            obstacle = f"{type(error).__name__}: {reason}"
        else:
            if not obstacle:
                return draws, replace(layout, at_once=True)
        layout = replace(layout, obstacle=obstacle)
    single = [some(1, lambda program: program) for _ in range(num_draws)]
    parts = {
        what: _joined([getattr(one, what) for one in single])
        for what in ("model", "guide", "replicates")
    }
    return Draws(**parts), replace(layout, at_once=False)


def draw_prior(
    model: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    layout: Layout,
    num_draws: int,
) -> dict[str, Site]:
    """Draws from the model alone, data among them."""
    nesting = layout.max_plate_nesting
    free = unconditioned(model)

    def some(number: int, program: Program) -> dict[str, Site]:
        trace = poutine.trace(replayed(program, layout.subsample)).get_trace(*args, **kwargs)
        return read(trace, nesting, layout.event_dims, draws=number, densities=False)

    if layout.at_once:
        plate = pyro.plate("num_particles_vectorized", num_draws, dim=-nesting - 1)
        return some(num_draws, plate(free))
    return _joined([some(1, free) for _ in range(num_draws)])


def _joined(draws: list[dict[str, Site]]) -> dict[str, Site]:
    """The sites of many draws, one by one, as those of all.

    Raises:
        ValueError: If a site is not in every draw, or differs in shape.
    """
    first = draws[0]
    for one in draws:
        for name in set(first) ^ set(one):
            raise ValueError(
                f"every draw must have the same sites, but site {name!r} is not in every one."
            )
        for name, site in one.items():
            if site.values.shape != first[name].values.shape:
                raise ValueError(
                    f"every draw of site {name!r} must have the same shape, got "
                    f"{first[name].values.shape[1:]} and {site.values.shape[1:]}."
                )
    return {
        name: replace(
            site,
            values=np.concatenate([one[name].values for one in draws]),
            log_density=np.concatenate([one[name].log_density for one in draws]),
            kl=None if site.kl is None else np.concatenate([one[name].kl for one in draws]),  # pyright: ignore
        )
        for name, site in first.items()
    }
