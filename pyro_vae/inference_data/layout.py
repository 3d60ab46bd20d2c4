"""How a guide and a model are laid out, seen from one draw."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample

from pyro_vae.inference_data.sites import event_dim_of, frames_of, kind_of, nodes_of, replayed

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
        obstacle: Why they cannot.
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
    obstacle: str = ""

    def subsampled(self) -> dict[str, tuple[int, np.ndarray]]:
        """For each plate with a subsample, how many data there are and which are in it."""
        nodes = cast("dict[str, Any]", self.subsample.nodes)
        return {
            name: (node["fn"].size, node["value"].cpu().numpy()) for name, node in nodes.items()
        }


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
        for name, node in cast("dict[str, Any]", trace.nodes).items():
            is_new = site_is_subsample(node) and name not in subsample.nodes
            if is_new and len(node["value"]) < node["fn"].size:
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
