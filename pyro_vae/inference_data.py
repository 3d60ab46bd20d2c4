"""A Pyro SVI to ArviZ, for any model and guide: `from_svi` makes the tree, `write_netcdf` saves it.

ArviZ converts Pyro's MCMC alone, and no longer that from 1.0 on. This is written after its
`from_numpyro_svi`: named dimensions come from Pyro's plates and from the axes of the events.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
from numpy.typing import ArrayLike
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites

from pyro_vae.evaluating import evaluating
from pyro_vae.log_densities import log_densities

if TYPE_CHECKING:
    import xarray

SAMPLING = (
    "Independent draws from the guide q(z | x), neither reweighted nor a Markov chain: r_hat and "
    "ESS of them say nothing about the guide; k-hat and ESS of log_weight do. "
    "posterior_predictive holds replicates of the same data, x ~ p(x | z) with z ~ q(z | x); they "
    "describe the fit and are no calibrated test of it. prior_predictive holds new data, z ~ p(z)."
)
# Names that ArviZ gives no meaning of its own: it takes `log_likelihood` for pointwise LOO, which
# ranks the worst guide first when the datum is an image.
SAMPLE_STATS = {
    "log_p_x_given_z": "log p(x | z), summed over the observed sites",
    "log_p_z": "log p(z), summed over the latent sites",
    "log_q_z_given_x": "log q(z | x), summed over the guide's sites",
    "log_weight": "log p(x | z) + log p(z) - log q(z | x)",
}


def from_svi(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_draws: int = 100,
    num_prior_draws: int = 25,
    coords: Mapping[str, ArrayLike] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    constant_data: Mapping[str, ArrayLike] | None = None,
    configuration: Mapping[str, Any] | None = None,
    data_plate: str = "data",
    data_dim: str = "image",
    max_plate_nesting: int = 1,
    **kwargs: Any,
) -> "xarray.DataTree":
    """Draws from a model and its guide, as the groups that ArviZ reads.

    `posterior` holds z ~ q(z | x); `sample_stats` the terms of each draw and datum in nats;
    `posterior_predictive` x ~ p(x | z) at the posterior's z; `prior` and `prior_predictive` z and x
    from the model alone; then `observed_data` and `constant_data`. Variables have the dimensions
    `(chain, draw, data_dim, other plates, event axes)`, with one chain. Every draw of every datum
    is kept, so pass few data: at most 64 images.

    Modules among `model` and `guide`, or whose methods they are, are in evaluation mode meanwhile.

    Args:
        model: A Pyro model.
        guide: Its guide.
        *args: What both are called with.
        num_draws: The number of draws from the guide for each datum.
        num_prior_draws: The number of draws from the model, each of as many data as are observed.
        coords: Dimension -> the values along it. Without, integers from 0.
        dims: Site -> the names of its event axes. Without, `row, column` after a `channel` for two
            or three axes; for one, `latent_dim` if the site is latent and `element` if observed.
            For a variable of `constant_data`, the names of all its axes.
        constant_data: Variables that are no site, such as labels; their first axis is the data's.
        configuration: The options of the run, stored as the attribute `configuration` in JSON.
        data_plate: The name of the plate over data.
        data_dim: The name of the data's dimension in the tree.
        max_plate_nesting: The number of plates nested in one another.
        **kwargs: What both are called with.

    Raises:
        ValueError: If a number of draws is below 1.
    """
    from arviz_base import from_dict

    for name, number in (("num_draws", num_draws), ("num_prior_draws", num_prior_draws)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")

    def run(program: Callable[..., Any], draws: int) -> Trace:
        particles = pyro.plate("num_particles_vectorized", draws, dim=-max_plate_nesting - 1)
        trace = poutine.trace(particles(program)).get_trace(*args, **kwargs)
        return prune_subsample_sites(trace)

    # `Predictive(model, guide=guide)` would return the data.
    free_model = unconditioned(model)
    with evaluating(model, guide):
        terms = log_densities(
            model,
            guide,
            *args,
            num_particles=num_draws,
            data_plate=data_plate,
            max_plate_nesting=max_plate_nesting,
            **kwargs,
        )
        replicated = run(poutine.replay(free_model, trace=terms.guide_trace), num_draws)
        new = run(free_model, num_prior_draws)

    read = _Reader(data_plate, data_dim, max_plate_nesting + 1, dims or {})
    conditioned = terms.model_trace.nodes
    observed = [name for name, node in conditioned.items() if _is_datum(node)]
    latent = [name for name in terms.model_trace.stochastic_nodes if name in terms.model_sites]
    stats = {
        "log_p_x_given_z": terms.log_likelihood,
        "log_p_z": terms.log_prior,
        "log_q_z_given_x": terms.log_posterior,
    }
    # The subtraction cancels hundreds of nats, so it is done in float64.
    stats = {name: value.cpu().numpy().astype(np.float64) for name, value in stats.items()}
    stats["log_weight"] = stats["log_p_x_given_z"] + stats["log_p_z"] - stats["log_q_z_given_x"]
    constants = {name: np.asarray(value) for name, value in (constant_data or {}).items()}
    groups = {
        "posterior": {name: read(name, conditioned[name]) for name in latent},
        "sample_stats": stats,
        "posterior_predictive": {name: read(name, replicated.nodes[name]) for name in observed},
        "prior": {name: read(name, new.nodes[name]) for name in latent},
        "prior_predictive": {name: read(name, new.nodes[name]) for name in observed},
        # What is observed has no draws: the first stands for all.
        "observed_data": {name: read(name, conditioned[name])[0] for name in observed},
        "constant_data": constants,
    }
    for name in stats:
        read.dims[name] = [data_dim]
    for name, value in constants.items():
        axes = [data_dim, *(f"{name}_dim_{axis}" for axis in range(1, value.ndim))]
        read.dims.setdefault(name, axes[: value.ndim])
    library = {"inference_library": "pyro", "inference_library_version": pyro.__version__}
    root = library | {"sampling": SAMPLING}
    if configuration is not None:
        # NetCDF attributes are strings or numbers: None, booleans and mappings are refused.
        root["configuration"] = json.dumps(dict(configuration), default=str)
    groups = {
        # The chain's axis leads every group but those of data.
        group: values if group.endswith("_data") else {k: v[None] for k, v in values.items()}
        for group, values in groups.items()
        if values
    }
    tree = from_dict(
        groups,
        coords=dict(coords or {}),
        dims=read.dims,
        attrs={"/": root} | dict.fromkeys(groups, library),
    )
    for name, meaning in SAMPLE_STATS.items():
        tree["sample_stats"][name].attrs.update(long_name=meaning, units="nats")
    return tree


def write_netcdf(tree: "xarray.DataTree", path: str | os.PathLike[str]) -> Path:
    """Write a tree to a NetCDF file, compressed, all of it or nothing.

    `xarray.open_datatree`, `arviz_base.convert_to_datatree` and either line's `arviz.from_netcdf`
    open the file.

    Args:
        tree: What `from_svi` returns.
        path: The file, which is replaced if it exists.

    Returns:
        The path.
    """
    path = Path(path)
    encoding = {
        node.path: {name: {"zlib": True, "complevel": 4} for name, v in node.items() if v.ndim}
        for node in tree.leaves
    }
    # In the same directory, so that the replacement is one step on one file system.
    # One name for all: what a killed process left behind is overwritten by the next.
    partial = path.with_name(f".{path.name}.tmp")
    try:
        tree.to_netcdf(partial, engine="h5netcdf", encoding=encoding)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def unconditioned(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with its observed sites free: they are drawn, whatever it is called with.

    Deterministic sites are left alone and stay out of traces. `poutine.uncondition` would draw
    them too, and give them the axes of the plates around them a second time.
    """

    def is_deterministic(site: Mapping[str, Any]) -> bool:
        return bool((site.get("infer") or {}).get("_deterministic", False))

    return poutine.uncondition(poutine.block(model, hide_fn=is_deterministic))


class _Reader:
    """Takes values out of vectorised traces and keeps the names of their dimensions.

    Args:
        data_plate: The name of the plate over data.
        data_dim: The name of its dimension.
        batch_axes: The number of axes left of the event: those of plates, and the draws'.
        event_dims: Site -> the names of its event axes, where the defaults are not wanted.
    """

    def __init__(
        self,
        data_plate: str,
        data_dim: str,
        batch_axes: int,
        event_dims: Mapping[str, Sequence[str]],
    ) -> None:
        self.data_plate = data_plate
        self.data_dim = data_dim
        self.batch_axes = batch_axes
        self.event_dims = event_dims
        self.dims: dict[str, list[str]] = {name: list(names) for name, names in event_dims.items()}
        self.sizes: dict[str, int] = {}

    def __call__(self, site: str, node: Mapping[str, Any]) -> np.ndarray:
        """The value of a site, from its node, as `(draw, data, *other plates, *event)`."""
        value, event_dim = node["value"], node["fn"].event_dim
        event_shape = tuple(value.shape[value.dim() - event_dim :])
        plates = sorted(
            (frame for frame in node["cond_indep_stack"] if frame.dim > -self.batch_axes),
            key=lambda frame: (frame.name != self.data_plate, frame.dim),
        )
        # A constant or an observation may lack axes that its plates would broadcast.
        sizes = {frame.dim: frame.size for frame in plates}
        batch_shape = [sizes.get(dim, 1) for dim in range(1 - self.batch_axes, 0)]
        missing = self.batch_axes + event_dim - value.dim()
        value = value.reshape((1,) * missing + tuple(value.shape))
        value = value.expand(-1, *batch_shape, *event_shape)
        value = value.movedim(
            [frame.dim - event_dim for frame in plates], list(range(1, 1 + len(plates)))
        )
        value = value.reshape(len(value), *(frame.size for frame in plates), *event_shape)

        is_datum = _is_datum(node) or node["infer"].get("was_observed", False)
        self.dims[site] = [
            *(self.data_dim if p.name == self.data_plate else p.name for p in plates),
            *self._event_dims(site, event_shape, is_datum),
        ]
        values = value.cpu().numpy()
        return _narrow(values) if node["fn"].support.is_discrete else values

    def _event_dims(self, site: str, shape: tuple[int, ...], is_datum: bool) -> list[str]:
        """The names of a site's event axes, which no other site uses for another length."""
        by_length = {
            0: [],
            1: ["element" if is_datum else "latent_dim"],
            2: ["row", "column"],
            3: ["channel", "row", "column"],
        }
        default = by_length.get(len(shape), [f"{site}_dim_{axis}" for axis in range(len(shape))])
        names = list(self.event_dims.get(site, default))
        if any(self.sizes.get(name, n) != n for name, n in zip(names, shape, strict=True)):
            names = [f"{site}_{name}" for name in names]
        self.sizes.update(zip(names, shape, strict=True))
        return names


def _is_datum(node: Mapping[str, Any]) -> bool:
    """Whether a trace's node is observed data: neither a deterministic site nor a factor."""
    return (
        node["type"] == "sample"
        and node["is_observed"]
        and not node["infer"].get("_deterministic", False)
        and node["value"].numel() > 0
    )


def _narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the narrowest integer type: binary images in a quarter of the bytes."""
    lowest, highest = int(values.min()), int(values.max())
    return values.astype(np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest)))
