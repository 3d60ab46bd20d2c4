"""Draws for all data, at once or in blocks: raw ones of those that are stored, statistics of all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
from pyro.infer.util import is_validation_enabled

from pyro_vae.inference_data.blocks import Arguments, blocks
from pyro_vae.inference_data.draws import draw
from pyro_vae.inference_data.layout import Layout, look
from pyro_vae.inference_data.sites import Draws, Site
from pyro_vae.inference_data.terms import statistics_of, terms_of
from pyro_vae.log_densities import without_density
from pyro_vae.rng import owners_of


@dataclass(frozen=True)
class Plan:
    """What is to be drawn.

    Args:
        layout: How the programs are laid out.
        size: The number of all data; None where no plate is over data.
        parts: The arguments of each block, and the number of its data.
    """

    layout: Layout
    size: int | None
    parts: list[tuple[int | None, Arguments]]


@dataclass(frozen=True)
class Taken:
    """What was drawn.

    Args:
        layout: How the programs are laid out.
        draws: The draws of the stored data.
        terms: Their terms, `(draw, data)`, or `(draw,)` if the data have none of their own.
        statistics: What is said of each of them; empty if they have no terms of their own.
    """

    layout: Layout
    draws: Draws
    terms: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def plan(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    arguments: Arguments,
    *,
    num_draws: int,
    num_stored: int,
    block_size: int | None,
    options: Mapping[str, Any],
) -> Plan:
    """Look at one draw from the programs, and cut the data into blocks where that can be done.

    Raises:
        ValueError: If a block is asked for and data cannot be taken in blocks.
    """
    if arguments.size is not None and arguments.size > num_stored:
        try:
            _look_at_two(model, guide, arguments, options)
        except _NoBlocksError as error:
            if block_size is not None:
                raise ValueError(
                    f"data cannot be taken in blocks, leave out block_size: {error}"
                ) from error
        else:
            rows = blocks(
                arguments.size, num_stored, block_size or arguments.block_size(num_draws)
            )
            parts = [(some.stop - some.start, arguments.rows(some)) for some in rows]
            # What many draws at once are checked against has the shapes of the first block.
            layout = look(model, guide, parts[0][1].args, parts[0][1].kwargs, **options)
            return Plan(layout, arguments.size, parts)
    layout = look(model, guide, arguments.args, arguments.kwargs, **options)
    return Plan(layout, layout.data_size, [(layout.data_size, arguments)])


def take(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    planned: Plan,
    *,
    num_draws: int,
    num_stored: int,
) -> Taken:
    """Draw for all data, at once or in blocks, and keep what is stored."""
    layout, parts = planned.layout, planned.parts
    plate = layout.data_plate if layout.is_local else None
    kept: tuple[Draws, dict[str, np.ndarray]] | None = None
    statistics = []
    for length, part in parts:
        # The same program runs in all blocks: the first one is validated.
        with pyro.validation_enabled(is_validation_enabled() and kept is None):
            draws, layout = draw(
                model, guide, part.args, part.kwargs, layout, num_draws, replicate=kept is None
            )
        has_density = not without_density(layout.guide_trace)
        terms = terms_of(draws, plate, has_density=has_density)
        if plate is not None:
            if terms["log_p_x_given_z"].shape[1] != length:
                raise ValueError(
                    f"a block of {length} data must be as many in the plate {plate!r}, got "
                    f"{terms['log_p_x_given_z'].shape[1]}."
                )
            statistics.append(statistics_of(terms, draws, plate))
        kept = kept or (draws, terms)
    assert kept is not None
    draws, terms = kept
    if plate is not None:
        draws = Draws(
            first(draws.model, plate, num_stored),
            first(draws.guide, plate, num_stored),
            first(draws.replicates, plate, num_stored),
        )
        terms = {name: values[:, :num_stored] for name, values in terms.items()}
    return Taken(
        layout=layout,
        draws=draws,
        terms=terms,
        statistics={
            name: np.concatenate([part[name] for part in statistics])
            for name in (statistics[0] if statistics else ())
        },
    )


def first(sites: Mapping[str, Site], plate: str, number: int) -> dict[str, Site]:
    """The sites of the first data alone."""
    few = {}
    for name, site in sites.items():
        if plate not in site.plates:
            few[name] = site
            continue
        axis = 1 + site.plates.index(plate)
        rows = (slice(None),) * axis + (slice(number),)
        few[name] = replace(
            site,
            values=site.values[rows],
            log_density=site.log_density[rows],
            kl=None if site.kl is None else site.kl[rows],
        )
    return few


class _NoBlocksError(Exception):
    """Why data cannot be taken in blocks."""


def _look_at_two(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    arguments: Arguments,
    options: Mapping[str, Any],
) -> None:
    """Make sure, from two data, that those of the programs can be taken in blocks.

    Raises:
        _NoBlocksError: If they cannot.
    """
    # An automatic guide makes its parameters at the first call, for all data.
    if getattr(guide, "prototype_trace", guide) is None:
        guide(*arguments.args, **arguments.kwargs)
    two = arguments.rows(slice(0, 2))
    store = pyro.get_param_store()
    before = set(store.keys())
    own = {id(p) for owner in owners_of(model, guide) for p in owner.parameters()}
    with store.scope(store.get_state()):
        try:
            layout = look(model, guide, two.args, two.kwargs, **options)
        # Whatever a program does that is written for all data.
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise _NoBlocksError(f"of two data alone, {type(error).__name__}: {reason}") from error
        made = [
            name
            for name, parameter in store.named_parameters()
            if name not in before and id(parameter) not in own and parameter.shape[:1] == (2,)
        ]
    if made:
        raise _NoBlocksError(f"the parameter {made[0]!r} has a value for each datum.")
    if not layout.is_local:
        raise _NoBlocksError("not every sample site is in the plate over data.")
    if layout.data_size != 2 or layout.subsample.nodes:
        raise _NoBlocksError(
            f"of two data, the plate {layout.data_plate!r} holds {layout.data_size}."
        )
