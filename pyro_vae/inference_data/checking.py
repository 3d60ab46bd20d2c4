"""Whether draws taken at once are those that the programs give one by one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine import Trace

from pyro_vae.inference_data.layout import Layout, Program
from pyro_vae.inference_data.sites import (
    Draws,
    Site,
    kind_of,
    nodes_of,
    read,
    replayed,
    unconditioned,
)

# How far log densities and computed values of one draw may be apart, alone and among all: matrix
# products of another shape round otherwise. A draw that reads another one's values is much further.
TOLERANCE = 0.01


def difference(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    layout: Layout,
    draws: Draws,
) -> str:
    """Where many draws are not what the programs say of the values of one; empty if nowhere.

    The first and the last draw are computed again alone: a program that reads one and the same draw
    for all, as `w[-1]` does, is right in that one. New data are computed again, too: what the model
    reads of them has no axis of draws while they are observed.

    Args:
        model: The model.
        guide: The guide.
        args: What both are called with.
        kwargs: What both are called with.
        layout: From `look`.
        draws: With the log densities of new data.
    """
    for index in (0, -1):
        alone = _alone(model, guide, args, kwargs, layout, draws, index)
        for one, many in zip(alone, (draws.guide, draws.model, draws.replicates), strict=True):
            if many and set(one) != set(many):
                return f"the sites {sorted(set(one) ^ set(many))} are not in all draws"
            for name in many:
                if not _is_close(one[name], many[name], index):
                    return f"the site {name!r} of a draw differs from that of the draw alone"
    return ""


def _alone(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    layout: Layout,
    draws: Draws,
    index: int,
) -> tuple[dict[str, Site], dict[str, Site], dict[str, Site]]:
    """The guide, the model and the model of new data at one draw's values."""

    def run(program: Program, *values: Trace) -> tuple[Trace, dict[str, Site]]:
        fixed = replayed(program, *values, layout.subsample)
        trace = poutine.trace(fixed).get_trace(*args, **kwargs)
        return trace, read(trace, layout.max_plate_nesting, layout.event_dims, draws=1)

    guide_trace, of_guide = run(guide, _chosen(layout.guide_trace, draws.guide, index))
    # The guide's own sites come first: it may have computed them.
    model_trace, of_model = run(
        model, guide_trace, _chosen(layout.model_trace, draws.model, index)
    )
    if not draws.replicates:
        return of_guide, of_model, {}
    new = _chosen(layout.model_trace, draws.replicates, index, kind="observed")
    return of_guide, of_model, run(unconditioned(model), model_trace, new)[1]


def _chosen(trace: Trace, sites: Mapping[str, Site], index: int, *, kind: str = "latent") -> Trace:
    """The trace of one draw with another draw's values, but those computed from others."""
    picked = Trace()
    for name, node in nodes_of(trace).items():
        if kind_of(node) == kind and not sites[name].is_point:
            value = torch.as_tensor(sites[name].values[index]).to(node["value"])
            value = value.reshape(node["value"].shape)
            picked.add_node(name, **{**node, "value": value, "is_observed": False})
    return picked


def _is_close(one: Site, many: Site, index: int) -> bool:
    """Whether a draw alone has the values and the log density that it has among many."""
    pairs = ((one.log_density[0], many.log_density[index]), (one.values[0], many.values[index]))
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for a, b in pairs
    )
