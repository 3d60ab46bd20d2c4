"""Draws as the groups of a tree: names of variables and dimensions, coordinates and attributes."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike

from pyro_vae.inference_data.sampling import Sample, first_data
from pyro_vae.inference_data.sites import Layout, Site, read_sites
from pyro_vae.inference_data.terms import STATISTICS, TERMS, estimated_kl_sites

if TYPE_CHECKING:
    import xarray

SAMPLES = ("chain", "draw")
# The suffixes of variables of `per_datum` that summarise a latent site.
SUMMARIES = ("mean", "sd")
GROUPS = {
    "posterior": "draws of the latent sites from the guide, and what the model computes from them",
    "sample_stats": "the terms of each draw",
    "log_likelihood": (
        "log p(x_i | z) of each example at each draw, for arviz_stats.loo_approximate_posterior "
        "with log_p = log_p_x_given_z + log_p_z and log_q = log_q_z_given_x; loo takes the "
        "guide's draws for the posterior's"
    ),
    "posterior_predictive": "replicates of the data, drawn at the posterior's draws",
    "prior": "draws of the latent sites from the model, and what it computes from them",
    "prior_predictive": "new data, drawn at the prior's draws",
    "observed_data": "the data whose draws are stored",
    "constant_data": "further variables of the data",
    "per_datum": (
        "statistics per example, for all data, including those whose draws are not stored"
    ),
}

# Dimensions, values and attributes.
Variable = tuple[Sequence[str], np.ndarray, dict[str, Any]]


class Names:
    """The names of variables and dimensions of sites, the same in every group.

    A dimension never has the name of a variable, which would be taken for its coordinates: the
    dimension of a site called `image` is `image_dim`. ArviZ's own dimensions keep their names, so
    the variable of a site called `draw` is `draw_site`. Characters with a meaning in files are
    percent-encoded: `a/b` is `a%2Fb`, which `urllib.parse.unquote` decodes.

    Args:
        data_plate: The name of the plate over data.
        data_dim: The name of its dimension. None for that of the plate, or `image` for images.
        event_dims: Site -> the names of its event axes, where the defaults are not wanted.
        sites: The sites of the model.
        others: The names of variables that are neither sites nor their summaries.

    Raises:
        ValueError: If a site or a given name cannot be stored, or a given dimension is a
            variable's.
    """

    def __init__(
        self,
        data_plate: str | None,
        data_dim: str | None,
        event_dims: Mapping[str, Sequence[str]],
        sites: Mapping[str, Site],
        others: Collection[str] = (),
    ) -> None:
        self._variables: dict[str, str] = {}
        for name in sites:
            variable = storable_name(name, "site")
            while variable in SAMPLES or variable in self._variables.values():
                variable += "_site"
            self._variables[name] = variable
        summaries = [f"{v}_{suffix}" for v in self._variables.values() for suffix in SUMMARIES]
        self.used = {*SAMPLES, *self._variables.values(), *summaries, *others}
        # The wanted name of a dimension -> its actual name.
        self.renamed: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._plates: dict[str | None, str] = {}

        data = [s for s in sites.values() if s.kind == "observed" and data_plate in s.plates]
        is_image = any(len(site.event_shape) in (2, 3) for site in data)
        if data_dim is None:
            data_dim = self._unused(("image" if is_image else data_plate) or "datum")
        else:
            self.check(data_dim, "data_dim")
        self.data_plate, self.data_dim = data_plate, data_dim
        self._plates[data_plate] = data_dim
        for plate in dict.fromkeys(plate for site in sites.values() for plate in site.plates):
            if plate != data_plate:
                self._plates[plate] = self._unused(plate)
        self._events = {
            name: self._event(site, event_dims.get(name)) for name, site in sites.items()
        }

    def variable(self, site_name: str) -> str:
        """The name of a site's variable."""
        return self._variables[site_name]

    def attributes(self, site_name: str) -> dict[str, str]:
        """The attribute `site` of a variable with another name than its site."""
        is_same = self._variables[site_name] == site_name
        return {} if is_same else {"site": site_name}

    def plates(self, site: Site) -> list[str]:
        """The dimensions of a site's plates."""
        return [self.plate(name) for name in site.plates]

    def plate(self, name: str) -> str:
        """The dimension of a plate."""
        return self._plates.get(name, name)

    def event(self, site: Site) -> list[str]:
        """The dimensions of a site's events."""
        return self._events[site.name]

    def dims(self, site: Site) -> list[str]:
        """The dimensions of a site's values, without those of draws."""
        return [*self.plates(site), *self.event(site)]

    def check(self, name: str, option: str) -> None:
        """Check that a dimension can have a given name.

        Raises:
            ValueError: If it cannot.
        """
        if storable_name(name, option) != name:
            raise ValueError(
                f"{option} must name dimensions without '/', '\\', '%' and a leading '.', got "
                f"{name!r}."
            )
        if name in self.used:
            owner = (
                "ArviZ's dimension of draws" if name in SAMPLES else "a variable, such as a site"
            )
            raise ValueError(
                f"{option} names the dimension {name!r}, which is the name of {owner}: choose "
                "another."
            )

    def _event(self, site: Site, given: Sequence[str] | None) -> list[str]:
        """The dimensions of a site's events, which no other site uses for another length."""
        shape = site.event_shape
        by_length = {
            1: ["element" if site.kind == "observed" else "latent_dim"],
            2: ["row", "column"],
            3: ["channel", "row", "column"],
        }
        names = [f"{site.name}_dim_{axis}" for axis in range(len(shape))]
        if given is not None:
            names = list(given)
            for name in names:
                self.check(name, f"dims of site {site.name!r}")
        elif self.data_plate in site.plates and site.kind != "deterministic":
            names = by_length.get(len(shape), names)
        if len(names) != len(shape) or len(set(names)) != len(names):
            raise ValueError(
                f"dims must give the {len(shape)} event axes of site {site.name!r} different "
                f"names, got {names}."
            )
        if any(self._is_used(name, n) for name, n in zip(names, shape, strict=True)):
            names = [f"{site.name}_{name}" for name in names]
        names = [self._unused(name, n) for name, n in zip(names, shape, strict=True)]
        self._sizes.update(zip(names, shape, strict=True))
        return names

    def _is_used(self, name: str, size: int | None) -> bool:
        """Whether a dimension is a plate's, or an event's of another length."""
        return name in self._plates.values() or self._sizes.get(name, size) != size

    def _unused(self, name: str, size: int | None = None) -> str:
        """A name for a dimension, with a suffix if it is in use."""
        unused = storable_name(name, "dimension")
        while unused in self.used or self._is_used(unused, size):
            unused += "_dim"
        if unused != name:
            self.renamed[name] = unused
        return unused


def storable_name(name: str, what: str) -> str:
    r"""A name with all that NetCDF, Zarr or xarray would take for a path percent-encoded.

    >>> [storable_name(name, "site") for name in ("w", "a/b", "a\\b", "..", "50%")]
    ['w', 'a%2Fb', 'a%5Cb', '%2E.', '50%25']

    Args:
        name: The name.
        what: What is named, for the message.

    Raises:
        ValueError: If the name is not a string, is empty, or has a character that no file can
            store.
    """
    if not isinstance(name, str) or not name or re.search("[\0\ud800-\udfff]", name):
        raise ValueError(
            f"the {what} {name!r} cannot be stored: its name must be one or more characters, "
            "without NUL and surrogates."
        )
    # `quote` never encodes a full stop.
    name = re.sub(r"[/\\%]", lambda found: quote(found[0], safe=""), name)
    return "%2E" + name[1:] if name.startswith(".") else name


def names_of(
    layout: Layout,
    data_dim: str | None,
    dims: Mapping[str, Sequence[str]],
    constants: Collection[str],
) -> Names:
    """The names of all variables and dimensions, from one draw.

    Raises:
        ValueError: As `Names`, or if a variable of `constant_data` has the name of one of
            `per_datum`.
    """
    sites = read_sites(layout.model_trace, layout, draws=1, densities=False)
    names = Names(layout.data_plate, data_dim, dims, sites, {*TERMS, *STATISTICS, *constants})
    summaries = {f"{names.variable(site)}_{suffix}" for site in sites for suffix in SUMMARIES}
    for name in constants:
        if name in {*STATISTICS, *summaries}:
            raise ValueError(
                f"constant_data cannot be called {name!r}, which is a variable of per_datum: "
                "choose another name."
            )
        for dim in dims.get(name, ()):
            names.check(names.renamed.get(dim, dim), f"dims of {name!r}")
    return names


def groups_of(
    sample: Sample, prior: Mapping[str, Site], names: Names
) -> dict[str, dict[str, Variable]]:
    """The groups that hold draws, data and statistics."""
    model, guide, layout = sample.draws.model, sample.draws.guide, sample.layout
    plate = layout.data_plate if layout.is_local else None
    if plate is not None:
        prior = first_data(prior, plate, sample.terms["log_p_x_given_z"].shape[1])
    observed = [name for name, site in model.items() if site.kind == "observed"]
    latent = [name for name, site in model.items() if site.kind in ("latent", "deterministic")]
    # Point masses that are computed from auxiliary sites are draws.
    has_auxiliary = not set(guide) <= set(model)

    def draws(sites: Mapping[str, Site], chosen: list[str], meaning: str) -> dict[str, Variable]:
        return {
            names.variable(name): (
                [*SAMPLES, *names.dims(sites[name])],
                _compact(sites[name])[None],
                {"long_name": meaning.format(name), **names.attributes(name)},
            )
            for name in chosen
            if name in sites
        }

    posterior = draws(model, latent, "{} ~ q(z | x)")
    for name in latent:
        attributes = posterior[names.variable(name)][2]
        if model[name].kind == "deterministic":
            attributes["long_name"] = f"{name}, computed from latent sites"
        elif name not in guide:
            attributes["long_name"] = f"{name}, drawn from the model: the guide has no such site"
        elif guide[name].is_point and not has_auxiliary:
            attributes["long_name"] = f"{name}, a point mass of the guide"
    return {
        "posterior": posterior,
        "sample_stats": {
            name: (
                [*SAMPLES, *([names.data_dim] if plate else [])],
                values[None],
                {"long_name": TERMS[name], "units": "nats"},
            )
            for name, values in sample.terms.items()
        },
        "log_likelihood": {
            names.variable(name): (
                [*SAMPLES, *names.plates(model[name])],
                model[name].log_density[None],
                {"long_name": f"log p({name} | z)", "units": "nats", **names.attributes(name)},
            )
            for name in observed
            if plate is None and model[name].plates
        },
        "posterior_predictive": draws(
            sample.draws.replicates, observed, "replicates of {}, z ~ q(z | x)"
        ),
        "prior": draws(prior, latent, "{} from the model alone"),
        "prior_predictive": draws(prior, observed, "new {}, z ~ p(z)"),
        # Observed values are the same in all draws.
        "observed_data": {
            names.variable(name): (
                names.dims(model[name]),
                np.asarray(_compact(model[name])[0]),
                {"long_name": f"observed {name}", **names.attributes(name)},
            )
            for name in observed
        },
        "per_datum": _per_datum(sample, names),
    }


def _per_datum(sample: Sample, names: Names) -> dict[str, Variable]:
    variables: dict[str, Variable] = {}
    num_draws = len(next(iter(sample.terms.values())))
    estimated = estimated_kl_sites(sample.draws)
    for name, values in sample.statistics.items():
        if name in STATISTICS:
            meaning, unit = STATISTICS[name]
            attributes: dict[str, Any] = {"long_name": meaning, "units": unit}
            if name == "kl":
                sites = ", ".join(estimated)
                attributes["estimate"] = f"mean over draws at {sites}" if sites else "closed form"
            if name != "kl" or estimated:
                attributes["num_draws"] = num_draws
            variables[name] = ([names.data_dim], values, attributes)
            continue
        site_name, suffix = name.rsplit("_", 1)
        site = sample.draws.model[site_name]
        plates = [dim for dim in names.plates(site) if dim != names.data_dim]
        statistic = "mean" if suffix == "mean" else "standard deviation"
        variables[f"{names.variable(site_name)}_{suffix}"] = (
            [names.data_dim, *plates, *names.event(site)],
            values,
            {
                "long_name": f"{statistic} of {site_name} ~ q(z | x)",
                "num_draws": num_draws,
                **names.attributes(site_name),
            },
        )
    return variables


def constants_of(
    constants: Mapping[str, ArrayLike],
    dims: Mapping[str, Sequence[str]],
    names: Names,
    *,
    size: int | None,
    stored: int | None,
) -> tuple[dict[str, Variable], dict[str, Variable]]:
    """Variables that are not sites: for the stored data, and for all those of one value each.

    Args:
        constants: The variables.
        dims: The names of their axes, where the defaults are not wanted.
        names: The names of dimensions.
        size: The number of all data.
        stored: The number of stored data.
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
    """Variables with their coordinates, by default integers.

    Raises:
        ValueError: If a variable has more axes than names.
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
        {name: (list(dims), values, attrs) for name, (dims, values, attrs) in variables.items()},
        coords=labels,
        attrs=dict(attrs),
    )


def narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the narrowest integer type: binary images in a quarter of the bytes."""
    if not values.size or not np.isfinite(values).all():
        return values
    lowest, highest = int(values.min()), int(values.max())
    dtype = np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest))
    # Beyond 64 bits there is no integer type.
    return values if dtype == object else values.astype(dtype)


def _compact(site: Site) -> np.ndarray:
    return narrow(site.values) if site.is_discrete else site.values
