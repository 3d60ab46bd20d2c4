"""Draws from a guide and a model, all at once where the programs allow it, otherwise one by one."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample

from pyro_vae.inference_data.sites import (
    Site,
    event_dim_of,
    frames_of,
    kind_of,
    nodes_of,
    read,
    replayed,
    unconditioned,
)

# How far log densities and computed values of one draw may be apart, alone and among all: matrix
# products of another shape round otherwise. A draw that reads another one's values is much further.
TOLERANCE = 0.01

Program = Callable[..., Any]


@dataclass(frozen=True)
class Layout:
    """What one draw from a guide and a model says of them.

    Args:
        data_plate: The plate over data: the outermost one that holds an observed site. None if
            there is none.
        data_size: The number of data in it.
        is_local: Whether every site of both is in that plate, so that each datum has terms of its own.
        max_plate_nesting: The number of axes that plates take.
        event_dims: Computed site -> the number of its event's axes.
        subsample: The subsamples of plates, which all draws share.
        guide_trace: The draw's trace.
        model_trace: The draw's trace, of the model with the guide's values.
        at_once: Whether draws can be taken at once; None if it is not known.
    """

    data_plate: str | None
    data_size: int | None
    is_local: bool
    max_plate_nesting: int
    event_dims: dict[str, int]
    subsample: Trace
    guide_trace: Trace
    model_trace: Trace
    at_once: bool | None = None

    def subsampled(self) -> dict[str, np.ndarray]:
        """For each plate with a subsample, which of its data are in it."""
        nodes = cast("dict[str, Any]", self.subsample.nodes)
        return {name: node["value"].cpu().numpy() for name, node in nodes.items()}


@dataclass(frozen=True)
class Draws:
    """The sites of a guide, of the model at the guide's values, and of new data at those."""

    model: dict[str, Site]
    guide: dict[str, Site]
    replicates: dict[str, Site]


def look(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    data_plate: str | None = None,
    max_plate_nesting: int | None = None,
) -> Layout:
    """Take one draw, and see how the programs are laid out.

    Raises:
        ValueError: If no observed site is in the plate named as the one over data.
    """
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(replayed(model, guide_trace)).get_trace(*args, **kwargs)
    subsample = Trace()
    for trace in (guide_trace, model_trace):
        for name, node in trace.nodes.items():
            if site_is_subsample(node) and name not in subsample.nodes:
                size = node["fn"].size
                if len(node["value"]) < size:
                    subsample.add_node(name, **node)
    nodes = [*nodes_of(guide_trace).values(), *nodes_of(model_trace).values()]
    observed = [n for n in nodes_of(model_trace).values() if kind_of(n) == "observed"]
    plates = {f.name: f for n in reversed(observed) for f in reversed(frames_of(n))}
    if data_plate is None:
        outermost = [frames_of(node)[0] for node in observed if frames_of(node)]
        data_plate = outermost[0].name if outermost else None
    elif data_plate not in plates:
        raise ValueError(
            f"data_plate must be a plate around an observed site, one of {sorted(plates)}, "
            f"got {data_plate!r}."
        )
    deepest = max((-f.dim for node in nodes for f in frames_of(node)), default=0)
    return Layout(
        data_plate=data_plate,
        data_size=None if data_plate is None else plates[data_plate].size,
        is_local=data_plate is not None
        and all(
            data_plate in [f.name for f in frames_of(node)]
            for node in nodes
            if kind_of(node) != "deterministic"
        ),
        max_plate_nesting=deepest if max_plate_nesting is None else max_plate_nesting,
        event_dims={
            node["name"]: event_dim_of(node) for node in nodes if kind_of(node) == "deterministic"
        },
        subsample=subsample,
        guide_trace=guide_trace,
        model_trace=model_trace,
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
    particles. Programs that are not written for that fail, or broadcast wrongly. So one of the
    draws is computed again alone; if it differs, or anything fails, draws are taken one by one.

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
        # What has to be computed of new data is their values alone.
        return Draws(
            read(model_trace, nesting, event_dims, draws=number),
            read(guide_trace, nesting, event_dims, draws=number),
            read(new, nesting, event_dims, draws=number, densities=False),
        )

    def at_once(program: Program) -> Program:
        return pyro.plate("num_particles_vectorized", num_draws, dim=-nesting - 1)(program)

    if layout.at_once is not False and num_draws > 1:
        if layout.at_once:
            return some(num_draws, at_once), layout
        # Whatever a program does that was not written for many draws at once: the reference is the
        # program as it is written, and what is wrong there is raised below.
        with suppress(Exception):
            draws = some(num_draws, at_once)
            if _is_right(model, guide, args, kwargs, layout, draws):
                return draws, replace(layout, at_once=True)
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


def _is_right(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    layout: Layout,
    draws: Draws,
) -> bool:
    """Whether the last of many draws is what the programs say of its values alone."""

    def chosen(trace: Trace, sites: Mapping[str, Site]) -> Trace:
        """The trace of one draw with the last draw's values, but those computed from others."""
        picked = Trace()
        for name, node in nodes_of(trace).items():
            if kind_of(node) == "latent" and not sites[name].is_point:
                value = torch.as_tensor(sites[name].values[-1]).to(node["value"])
                picked.add_node(name, **{**node, "value": value.reshape(node["value"].shape)})
        return picked

    def alone(program: Program, *values: Trace) -> tuple[Trace, dict[str, Site]]:
        trace = poutine.trace(replayed(program, *values, layout.subsample)).get_trace(
            *args, **kwargs
        )
        return trace, read(trace, layout.max_plate_nesting, layout.event_dims, draws=1)

    guide_trace, guide_sites = alone(guide, chosen(layout.guide_trace, draws.guide))
    of_model = chosen(layout.model_trace, draws.model)
    for name in guide_sites:  # The guide's own, which it may have computed.
        if name in of_model.nodes:
            of_model.remove_node(name)
    _, model_sites = alone(model, guide_trace, of_model)
    for one, many in ((guide_sites, draws.guide), (model_sites, draws.model)):
        if set(one) != set(many):
            return False
        for name, site in one.items():
            for a, b in (
                (site.log_density[0], many[name].log_density[-1]),
                (site.values[0], many[name].values[-1]),
            ):
                close = {"rtol": TOLERANCE, "atol": TOLERANCE, "equal_nan": True}
                if a.shape != b.shape or not np.allclose(a, b, **close):
                    return False
    return True


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
        )
        for name, site in first.items()
    }
