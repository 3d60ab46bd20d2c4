"""Draws as xarray's groups, with dimensions, coordinates and attributes."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.inference_data.layout import Layout
from pyro_vae.inference_data.names import SAMPLES, SUMMARIES, Names, narrow
from pyro_vae.inference_data.sites import Site, read
from pyro_vae.inference_data.taking import Taken, first
from pyro_vae.inference_data.terms import STATISTICS, TERMS, estimated_kl_sites

if TYPE_CHECKING:
    import xarray

SAMPLING = (
    "Independent draws from the guide q(z | x), neither reweighted nor a Markov chain: r_hat and "
    "ESS of them say nothing about the guide; k-hat and ESS of log_weight do. "
    "posterior_predictive holds replicates of the same data, x ~ p(x | z) with z ~ q(z | x); they "
    "describe the fit and are no calibrated test of it. prior_predictive holds new data, z ~ p(z)."
)
GROUPS = {
    "posterior": "draws of the latent sites from the guide, and what the model computes of them",
    "sample_stats": "the terms of each draw",
    "log_likelihood": (
        "log p(x_i | z) of each datum at each draw, for arviz_stats.loo_approximate_posterior with "
        "log_p = log_p_x_given_z + log_p_z and log_q = log_q_z_given_x; loo takes the guide's draws "
        "for the posterior's"
    ),
    "posterior_predictive": "replicates of the data, drawn at the posterior's draws",
    "prior": "draws of the latent sites from the model, and what it computes of them",
    "prior_predictive": "new data, drawn at the prior's draws",
    "observed_data": "the data of which draws are stored",
    "constant_data": "what is known of the data beside them",
    "per_datum": "what the draws say of each datum, of all data and not of those stored alone",
}

Variable = tuple[Sequence[str], np.ndarray, dict[str, Any]]


def names_of(
    layout: Layout,
    data_dim: str | None,
    dims: Mapping[str, Sequence[str]],
    constants: Collection[str],
) -> Names:
    """The names of all variables and dimensions, from one draw.

    Raises:
        ValueError: As `Names`, or if a variable of `constant_data` is called as one of `per_datum`.
    """
    sites = read(
        layout.model_trace, layout.max_plate_nesting, layout.event_dims, draws=1, densities=False
    )
    names = Names(layout.data_plate, data_dim, dims, sites, {*TERMS, *STATISTICS, *constants})
    made = {*STATISTICS, *(f"{names.variable(s)}_{what}" for s in sites for what in SUMMARIES)}
    for name in constants:
        if name in made:
            raise ValueError(
                f"constant_data cannot be called {name!r}, which is a variable of per_datum: choose "
                "another name."
            )
        for dim in dims.get(name, ()):
            names.check(names.renamed.get(dim, dim), f"dims of {name!r}")
    return names


def groups_of(
    taken: Taken, prior: Mapping[str, Site], names: Names
) -> dict[str, dict[str, Variable]]:
    """The groups that hold draws, data and statistics."""
    model, layout = taken.draws.model, taken.layout
    plate = layout.data_plate if layout.is_local else None
    if plate is not None:
        prior = first(prior, plate, taken.terms["log_p_x_given_z"].shape[1])
    observed = [name for name, site in model.items() if site.kind == "observed"]
    latent = [name for name, site in model.items() if site.kind in ("latent", "deterministic")]

    def drawn(sites: Mapping[str, Site], chosen: list[str], meaning: str) -> dict[str, Variable]:
        return {
            names.variable(name): (
                [*SAMPLES, *names.dims(sites[name])],
                _stored(sites[name])[None],
                {"long_name": meaning.format(name), **names.about(name)},
            )
            for name in chosen
            if name in sites
        }

    terms: dict[str, Variable] = {
        name: (
            [*SAMPLES, *([names.data_dim] if plate else [])],
            values[None],
            {"long_name": TERMS[name], "units": "nats"},
        )
        for name, values in taken.terms.items()
    }
    posterior = drawn(model, latent, "{} ~ q(z | x)")
    for name in latent:
        about = posterior[names.variable(name)][2]
        if model[name].kind == "deterministic":
            about["long_name"] = f"{name}, computed from latent sites"
        elif name not in taken.draws.guide:
            about["long_name"] = f"{name}, drawn from the model: the guide has no such site"
        elif taken.draws.guide[name].is_point and not _has_auxiliary(taken):
            about["long_name"] = f"{name}, a point: the guide has no spread"
    return {
        "posterior": posterior,
        "sample_stats": terms,
        "log_likelihood": {
            names.variable(name): (
                [*SAMPLES, *names.plates(model[name])],
                model[name].log_density[None],
                {"long_name": f"log p({name} | z)", "units": "nats", **names.about(name)},
            )
            for name in observed
            if plate is None and model[name].plates
        },
        "posterior_predictive": drawn(
            taken.draws.replicates, observed, "replicates of {}, z ~ q(z | x)"
        ),
        "prior": drawn(prior, latent, "{} from the model alone"),
        "prior_predictive": drawn(prior, observed, "new {}, z ~ p(z)"),
        # What is observed has no draws: the first stands for all.
        "observed_data": {
            names.variable(name): (
                names.dims(model[name]),
                np.asarray(_stored(model[name])[0]),
                {"long_name": f"observed {name}", **names.about(name)},
            )
            for name in observed
        },
        "per_datum": _per_datum(taken, names),
    }


def constants_of(
    constants: Mapping[str, ArrayLike],
    dims: Mapping[str, Sequence[str]],
    names: Names,
    *,
    size: int | None,
    stored: int | None,
) -> tuple[dict[str, Variable], dict[str, Variable]]:
    """Variables that are no site: of the stored data, and, those with one value a datum, of all.

    Args:
        constants: The variables.
        dims: The names of their axes, where they are not to be made up.
        names: The names of dimensions.
        size: The number of all data.
        stored: The number of stored ones.
    """
    few: dict[str, Variable] = {}
    every: dict[str, Variable] = {}
    for name, values in constants.items():
        array = np.asarray(values)
        axes = [f"{name}_dim_{axis}" for axis in range(array.ndim)]
        if array.ndim and len(array) in (size, stored):
            axes[0] = names.data_dim
        axes = [names.renamed.get(axis, axis) for axis in dims.get(name, axes)]
        if array.ndim and axes[0] == names.data_dim and len(array) == size:
            if array.ndim == 1:
                every[name] = (axes, array, {})
            array = array[:stored]
        few[name] = (axes, array, {})
    return few, every


def dataset_of(
    variables: Mapping[str, Variable],
    coords: Mapping[str, np.ndarray],
    attrs: Mapping[str, Any],
) -> "xarray.Dataset":
    """Variables with their coordinates: integers where none are given.

    Raises:
        ValueError: If a coordinate is shorter than its dimension, or a variable has an axis too many.
    """
    import xarray

    sizes: dict[str, int] = {}
    for name, (dims, values, _) in variables.items():
        if len(dims) != values.ndim:
            raise ValueError(
                f"dims must name the {values.ndim} axes of {name!r}, got {list(dims)}."
            )
        sizes.update(zip(dims, values.shape, strict=True))
    labels = {}
    for dim, size in sizes.items():
        given = coords.get(dim)
        labels[dim] = np.arange(size) if given is None or len(given) < size else given[:size]
    return xarray.Dataset(
        {name: (list(dims), values, about) for name, (dims, values, about) in variables.items()},
        coords=labels,
        attrs=dict(attrs),
    )


def about() -> dict[str, str]:
    """What made the tree, and when."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "pyro_vae.inference_data",
        "inference_library": "pyro",
        "inference_library_version": version("pyro-ppl"),
        "torch_version": version("torch"),
    }


def name_of(program: Any) -> str:
    """What a program is called: a function, a method or a module."""
    owner = getattr(program, "__self__", None)
    name = getattr(program, "__name__", type(program).__name__)
    return name if owner is None else f"{type(owner).__name__}.{name}"


def _per_datum(taken: Taken, names: Names) -> dict[str, Variable]:
    variables: dict[str, Variable] = {}
    num_draws = len(next(iter(taken.terms.values())))
    estimated = estimated_kl_sites(taken.draws)
    for name, values in taken.statistics.items():
        if name in STATISTICS:
            meaning, unit = STATISTICS[name]
            said: dict[str, Any] = {"long_name": meaning, "units": unit}
            if name == "kl":
                of = f"mean over draws at {', '.join(estimated)}" if estimated else "closed form"
                said["estimate"] = of
            if name != "kl" or estimated:
                said["num_draws"] = num_draws
            variables[name] = ([names.data_dim], values, said)
            continue
        site_name, what = name.rsplit("_", 1)
        site = taken.draws.model[site_name]
        plates = [dim for dim in names.plates(site) if dim != names.data_dim]
        words = "mean" if what == "mean" else "standard deviation"
        variables[f"{names.variable(site_name)}_{what}"] = (
            [names.data_dim, *plates, *names.event(site)],
            values,
            {
                "long_name": f"{words} of {site_name} ~ q(z | x)",
                "num_draws": num_draws,
                **names.about(site_name),
            },
        )
    return variables


def _stored(site: Site) -> np.ndarray:
    return narrow(site.values) if site.is_discrete else site.values


def _has_auxiliary(taken: Taken) -> bool:
    """Whether the guide has sites that the model lacks, of which its other ones are computed."""
    return not set(taken.draws.guide) <= set(taken.draws.model)
