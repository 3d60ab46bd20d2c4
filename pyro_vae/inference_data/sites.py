"""The sites and plates of a model and a guide, read from their traces."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.log_densities import prior_may_read_draw
from pyro_vae.traces import Program, is_deterministic

Kind = Literal["latent", "observed", "deterministic", "factor"]


@dataclass(frozen=True)
class Site:
    """A site of a program, in all draws.

    Args:
        name: Its name.
        kind: Its kind; in a guide's trace, every drawn site is "latent".
        values: `(draw, *plates, *event)`.
        log_density: Its log density in nats, `(draw, *plates)`, in float64; with masks, but
            without scales and subsampling.
        plates: The names of its plates, the outermost first.
        shares: Plate -> the ratio of its full to its subsampled size, including plates in a loop.
        is_discrete: Whether its values are whole numbers.
        is_category: Whether they are categories, which have no mean.
        is_point: Whether it is a point mass.
        kl: At a guide's site, KL(q || p) to the model's site in nats, `(draw, *plates)`; None
            without a closed form.
    """

    name: str
    kind: Kind
    values: np.ndarray
    log_density: np.ndarray
    plates: tuple[str, ...]
    shares: Mapping[str, float]
    is_discrete: bool
    is_category: bool
    is_point: bool
    kl: np.ndarray | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one value."""
        return self.values.shape[1 + len(self.plates) :]

    def total(self, data_plate: str | None = None) -> np.ndarray:
        """The log density summed over all plates but one.

        Args:
            data_plate: The plate to keep: `(draw, data)`. None to sum over all, `(draw,)`. Sums
                over a subsample are scaled to all data.
        """
        axes = tuple(1 + axis for axis, p in enumerate(self.plates) if p != data_plate)
        share = math.prod(n for plate, n in self.shares.items() if plate != data_plate)
        return share * self.log_density.sum(axes)


# ---- nodes of a trace -------------------------------------------------------------------------


def sample_nodes(trace: Trace) -> dict[str, dict[str, Any]]:
    """The trace's sample sites by name, without the subsamples of plates."""
    nodes = cast("dict[str, dict[str, Any]]", trace.nodes)
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not site_is_subsample(cast("Any", node))
    }


def kind_of(node: Mapping[str, Any]) -> Kind:
    """The kind of a node. A site computed by a reparameterisation is deterministic."""
    if is_deterministic(node):
        return "deterministic"
    if not node["is_observed"]:
        return "latent"
    return "observed" if node["value"].numel() > 0 else "factor"


def plate_frames(node: Mapping[str, Any]) -> list[Any]:
    """The vectorised plates around a site, the outermost first."""
    return sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)


def _event_dim(node: Mapping[str, Any]) -> int:
    """The number of event axes of a site's value, in one draw.

    By default `pyro.deterministic` counts all axes as the event's. Here leading axes that match
    the plates are the plates'.
    """
    value, event_dim = node["value"], node["fn"].event_dim
    if not is_deterministic(node) or event_dim < value.dim():
        return event_dim
    sizes = {frame.dim: frame.size for frame in plate_frames(node)}
    depth = -min(sizes, default=0)
    if value.dim() < depth:
        return 0
    lengths = [sizes.get(dim, 1) for dim in range(-depth, 0)]
    fits = all(n in (1, m) for n, m in zip(value.shape[:depth], lengths, strict=True))
    return value.dim() - depth if fits else value.dim()


# ---- the layout of a pair ---------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """The plates of a guide and a model, from one draw.

    Args:
        data_plate: The plate over data: the outermost one that contains an observed site. None if
            there is none.
        data_size: The number of data in it.
        is_local: Whether every site of both is in that plate, so that each data point has its own
            terms.
        max_plate_nesting: The number of axes of plates.
        event_dims: Deterministic site -> the number of its event axes.
        subsample: The subsamples of plates, which all draws share.
        guide_trace: The trace of the guide's draw.
        model_trace: The trace of the model at that draw.
        at_once: Whether draws can be vectorised; None if not known yet.
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

    def subsamples(self) -> dict[str, tuple[int, np.ndarray]]:
        """Subsampled plate -> its full size and the indices in the subsample."""
        nodes = cast("dict[str, Any]", self.subsample.nodes)
        return {
            name: (node["fn"].size, node["value"].cpu().numpy()) for name, node in nodes.items()
        }


def inspect_plates(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    data_plate: str | None = None,
    max_plate_nesting: int | None = None,
) -> Layout:
    """Take one draw, and read the layout of the programs from it.

    Raises:
        ValueError: If no observed site is in the given plate over data.
    """
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(replay(model, guide_trace)).get_trace(*args, **kwargs)
    subsample = Trace()
    for trace in (guide_trace, model_trace):
        for name, node in cast("dict[str, Any]", trace.nodes).items():
            is_new = site_is_subsample(node) and name not in subsample.nodes
            if is_new and len(node["value"]) < node["fn"].size:
                subsample.add_node(name, **node)
    nodes = [*sample_nodes(guide_trace).values(), *sample_nodes(model_trace).values()]
    observed = [n for n in sample_nodes(model_trace).values() if kind_of(n) == "observed"]
    plates = {f.name: f for n in reversed(observed) for f in reversed(plate_frames(n))}
    if data_plate is None:
        outermost = [plate_frames(node)[0] for node in observed if plate_frames(node)]
        data_plate = outermost[0].name if outermost else None
    elif data_plate not in plates:
        raise ValueError(
            f"data_plate must be a plate around an observed site, one of {sorted(plates)}, "
            f"got {data_plate!r}."
        )
    deepest = max((-f.dim for node in nodes for f in plate_frames(node)), default=0)
    return Layout(
        data_plate=data_plate,
        data_size=None if data_plate is None else plates[data_plate].size,
        is_local=data_plate is not None
        and all(
            data_plate in [f.name for f in plate_frames(node)]
            for node in nodes
            if kind_of(node) != "deterministic"
        ),
        max_plate_nesting=deepest if max_plate_nesting is None else max_plate_nesting,
        event_dims={
            node["name"]: _event_dim(node) for node in nodes if kind_of(node) == "deterministic"
        },
        subsample=subsample,
        guide_trace=guide_trace,
        model_trace=model_trace,
    )


# ---- values and densities ---------------------------------------------------------------------


def read_sites(
    trace: Trace, layout: Layout, *, draws: int, densities: bool = True
) -> dict[str, Site]:
    """The sites of a trace, with an axis of several draws left of the plates.

    Args:
        trace: A trace of the model or the guide.
        layout: Their layout.
        draws: The number of draws.
        densities: Whether to compute log densities; otherwise they are 0.

    Raises:
        ValueError: If a site's axes are not those of its plates.
    """
    if densities:
        trace.compute_log_prob()
    nesting = layout.max_plate_nesting
    sites = {}
    for name, node in sample_nodes(trace).items():
        frames = [frame for frame in plate_frames(node) if frame.dim >= -nesting]
        kind = kind_of(node)
        fn: Any = node["fn"]
        density = torch.zeros((), device=node["value"].device)
        if densities:
            density = scale_and_mask(node["unscaled_log_prob"], mask=node["mask"])
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        plates = {frame.dim: frame.size for frame in frames}
        event_dim = cast("int", layout.event_dims.get(name, fn.event_dim))
        values = _as_draws(node["value"], event_dim, plates, nesting, draws)
        log_density = _as_draws(density, 0, plates, nesting, draws)
        if values is None or log_density is None:
            raise ValueError(
                f"site {name!r} must have the axes of its plates and {draws} draws, got "
                f"{tuple(node['value'].shape)}."
            )
        sites[name] = Site(
            name=name,
            kind=kind,
            values=values,
            log_density=log_density.astype(np.float64),
            plates=tuple(frame.name for frame in frames),
            shares={
                frame.name: (frame.full_size or frame.size) / frame.size
                for frame in node["cond_indep_stack"]
            },
            is_discrete=kind != "deterministic" and fn.support.is_discrete,
            is_category=isinstance(base, torch.distributions.Categorical),
            is_point=isinstance(base, dist.Delta),
        )
    return sites


def closed_form_kl(
    guide_trace: Trace, model_trace: Trace, site: Site, nesting: int
) -> np.ndarray | None:
    """KL(q || p) in nats at a site of the guide, `(draw, *plates)`; None without a closed form.

    Also None for a point mass, for a site that is masked, that the model lacks or computes, for
    one in other plates than the model's, and where p may depend on the site's own draw.
    """
    guide, model = (sample_nodes(trace).get(site.name) for trace in (guide_trace, model_trace))
    if guide is None or model is None or site.is_point or kind_of(model) != "latent":
        return None
    plates = [{frame.dim: frame.size for frame in plate_frames(node)} for node in (guide, model)]
    if prior_may_read_draw(guide_trace, model_trace, site.name):
        return None
    if plates[0] != plates[1] or guide["mask"] is not None or model["mask"] is not None:
        return None
    try:
        kl = torch.distributions.kl_divergence(guide["fn"], model["fn"])
    except NotImplementedError:
        return None
    inside = {dim: size for dim, size in plates[0].items() if dim >= -nesting}
    values = _as_draws(kl, 0, inside, nesting, len(site.values))
    return None if values is None else values.astype(np.float64)


def _as_draws(
    tensor: Tensor, event_dim: int, plates: Mapping[int, int], nesting: int, draws: int
) -> np.ndarray | None:
    """A tensor as `(draw, *plates, *event)`; None if it has other axes."""
    event = tuple(tensor.shape[tensor.dim() - event_dim :])
    batch = tuple(tensor.shape[: tensor.dim() - event_dim])
    if len(batch) > nesting + 1:
        return None
    batch = (1,) * (nesting + 1 - len(batch)) + batch
    # A constant or an observation may lack axes that its plates would broadcast.
    lengths = (draws, *(plates.get(dim, 1) for dim in range(-nesting, 0)))
    if any(n not in (1, length) for n, length in zip(batch, lengths, strict=True)):
        return None
    tensor = tensor.detach().reshape(*batch, *event).expand(*lengths, *event)
    return tensor.cpu().numpy().reshape(draws, *(plates[dim] for dim in sorted(plates)), *event)


# ---- programs with other values ---------------------------------------------------------------


def replay(program: Program, *traces: Trace) -> Program:
    """The program with the latent values and subsamples of traces, where it has their sites."""
    merged = Trace()
    for trace in traces:
        for name, node in cast("dict[str, dict[str, Any]]", trace.nodes).items():
            if node["type"] == "sample" and not node["is_observed"] and name not in merged.nodes:
                merged.add_node(name, **node)
    return poutine.replay(program, trace=merged)
