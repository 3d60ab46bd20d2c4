"""What a Pyro trace says of each site: its kind, its plates, its values and its log density."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Kind = Literal["latent", "observed", "deterministic", "factor"]


@dataclass(frozen=True)
class Site:
    """One site of a program, in all draws.

    Args:
        name: Its name.
        kind: What it is; in a guide's trace, everything that it draws is "latent".
        values: `(draw, *plates, *event)`.
        log_density: Its log density in nats, `(draw, *plates)`, in float64. Masks enter, scales and
            subsampling do not.
        plates: The names of its plates, the outermost first.
        shares: Plate -> how many of the data there are for each that is in the subsample, of plates
            in a loop, too.
        is_discrete: Whether its values are whole numbers.
        is_category: Whether they are categories, which have no mean.
        is_point: Whether it has all its mass in one point.
        kl: Of a guide's site, KL(q || p) to the model's site in nats, `(draw, *plates)`; None where it has
            no closed form.
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
            data_plate: The plate that is kept: `(draw, data)`. None to sum over all, `(draw,)`. Of
                the plates summed over, a subsample stands for all data.
        """
        axes = tuple(1 + axis for axis, p in enumerate(self.plates) if p != data_plate)
        share = math.prod(n for plate, n in self.shares.items() if plate != data_plate)
        return share * self.log_density.sum(axes)


@dataclass(frozen=True)
class Draws:
    """The sites of a guide, of the model at the guide's values, and of new data at those."""

    model: dict[str, Site]
    guide: dict[str, Site]
    replicates: dict[str, Site]


def nodes_of(trace: Trace) -> dict[str, dict[str, Any]]:
    """The trace's sample sites by name, without the subsamples of plates."""
    nodes = cast("dict[str, dict[str, Any]]", trace.nodes)
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not site_is_subsample(cast("Any", node))
    }


def kind_of(node: Mapping[str, Any]) -> Kind:
    """What a trace's node is. A site that a reparameterisation computes is deterministic."""
    if is_deterministic(node):
        return "deterministic"
    if not node["is_observed"]:
        return "latent"
    return "observed" if node["value"].numel() > 0 else "factor"


def is_deterministic(node: Mapping[str, Any]) -> bool:
    """Whether a site is `pyro.deterministic`, or what Pyro's reparameterisations put in a site's place."""
    if (node.get("infer") or {}).get("_deterministic", False):
        return True
    fn = node["fn"]
    return (
        node["is_observed"]
        and isinstance(fn, dist.MaskedDistribution)
        and fn._mask is False
        and isinstance(fn.base_dist, dist.Delta)
    )


def frames_of(node: Mapping[str, Any]) -> list[Any]:
    """The vectorised plates around a site, the outermost first."""
    return sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)


def event_dim_of(node: Mapping[str, Any]) -> int:
    """How many axes of a site's value, of one draw, are the event's.

    `pyro.deterministic` takes all axes for the event's unless it is told. What stands at the left and
    is as long as the plates are, is theirs.
    """
    value, event_dim = node["value"], node["fn"].event_dim
    if not is_deterministic(node) or event_dim < value.dim():
        return event_dim
    sizes = {frame.dim: frame.size for frame in frames_of(node)}
    depth = -min(sizes, default=0)
    if value.dim() < depth:
        return 0
    lengths = [sizes.get(dim, 1) for dim in range(-depth, 0)]
    fits = all(n in (1, m) for n, m in zip(value.shape[:depth], lengths, strict=True))
    return value.dim() - depth if fits else value.dim()


def read(
    trace: Trace,
    max_plate_nesting: int,
    event_dims: Mapping[str, int],
    *,
    draws: int,
    densities: bool = True,
) -> dict[str, Site]:
    """The sites of a trace whose draws, if there are several, lie left of the plates.

    Args:
        trace: A trace of a model or a guide.
        max_plate_nesting: The number of axes for plates.
        event_dims: Site -> the number of its event's axes, where its distribution does not say.
        draws: The number of draws.
        densities: Whether to compute log densities; without, they are 0.

    Raises:
        ValueError: If a site's axes are not those of its plates.
    """
    if densities:
        trace.compute_log_prob()
    sites = {}
    for name, node in nodes_of(trace).items():
        frames = [frame for frame in frames_of(node) if frame.dim >= -max_plate_nesting]
        fn, kind = node["fn"], kind_of(node)
        density = torch.zeros((), device=node["value"].device)
        if densities:
            density = scale_and_mask(node["unscaled_log_prob"], mask=node["mask"])
        event_dim = event_dims.get(name, fn.event_dim)
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist

        plates = {frame.dim: frame.size for frame in frames}
        values = _axes(node["value"], event_dim, plates, max_plate_nesting, draws)
        log_density = _axes(density, 0, plates, max_plate_nesting, draws)
        if values is None or log_density is None:
            raise ValueError(
                f"site {name!r} has not the axes of its plates and {draws} draws: "
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
    guide_trace: Trace, model_trace: Trace, name: str, site: Site, nesting: int
) -> np.ndarray | None:
    """KL(q || p) in nats at a site of the guide, `(draw, *plates)`; None where it has no closed form.

    None, too, for a point, for a site that is masked, that the model lacks or computes, and for one in
    other plates than the model's.
    """
    guide, model = (nodes_of(trace).get(name) for trace in (guide_trace, model_trace))
    if guide is None or model is None or site.is_point or kind_of(model) != "latent":
        return None
    plates = [{frame.dim: frame.size for frame in frames_of(node)} for node in (guide, model)]
    if plates[0] != plates[1] or guide["mask"] is not None or model["mask"] is not None:
        return None
    try:
        kl = torch.distributions.kl_divergence(guide["fn"], model["fn"])
    except NotImplementedError:
        return None
    inside = {dim: size for dim, size in plates[0].items() if dim >= -nesting}
    found = _axes(kl, 0, inside, nesting, len(site.values))
    return None if found is None else found.astype(np.float64)


def _axes(
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


class _Free(Messenger):
    """Draws observed sites from their distributions, and leaves computed ones and factors alone."""

    def _pyro_sample(self, msg: Any) -> None:
        if (
            msg["is_observed"]
            and not is_deterministic(msg)
            and not isinstance(msg["fn"], dist.Unit)
        ):
            msg["infer"] = {**(msg["infer"] or {}), "was_observed": True, "obs": msg["value"]}
            msg["is_observed"] = False
            msg["value"] = None
            msg["done"] = False


def unconditioned(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with its observed sites free: they are drawn, whatever it is called with.

    Deterministic sites stay computed. `poutine.uncondition` would draw them too, and give them the
    axes of the plates around them a second time.
    """

    def free(*args: Any, **kwargs: Any) -> Any:
        with _Free():
            return model(*args, **kwargs)

    return free


def replayed(program: Callable[..., Any], *traces: Trace) -> Callable[..., Any]:
    """The program with the latent values and the subsamples of traces, where it has their sites."""
    merged = Trace()
    for trace in traces:
        for name, node in cast("dict[str, dict[str, Any]]", trace.nodes).items():
            if node["type"] == "sample" and not node["is_observed"] and name not in merged.nodes:
                merged.add_node(name, **node)
    return poutine.replay(program, trace=merged)
