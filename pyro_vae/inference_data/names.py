"""The names of variables and dimensions, which differ, and are names that a file can hold."""

import re
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import quote

import numpy as np

from pyro_vae.inference_data.sites import Site

SAMPLES = ("chain", "draw")
# What `per_datum` says of a latent site.
SUMMARIES = ("mean", "sd")


class Names:
    """Gives each site the name of its variable and those of its dimensions, the same in every group.

    No dimension has the name of a variable, which would be taken for its coordinates: the dimension
    of a site called `image` is `image_dim`. ArviZ's own dimensions keep their names, so that the
    variable of a site called `draw` is `draw_site`. Characters that files have a meaning for are
    percent-encoded: `a/b` is `a%2Fb`, and `urllib.parse.unquote` gives it back.

    Args:
        data_plate: The name of the plate over data.
        data_dim: The name of its dimension. None for the plate's own, or `image` where the data are.
        event_dims: Site -> the names of its event axes, where the defaults are not wanted.
        sites: The sites of the model.
        others: The names of variables that are no site, and no summary of one.

    Raises:
        ValueError: If a site or a given name cannot be stored, or a given dimension is a variable's.
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
        summaries = [f"{v}_{what}" for v in self._variables.values() for what in SUMMARIES]
        self.taken = {*SAMPLES, *self._variables.values(), *summaries, *others}
        # What a dimension would be called -> what it is called.
        self.renamed: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._plates: dict[str | None, str] = {}

        data = [s for s in sites.values() if s.kind == "observed" and data_plate in s.plates]
        is_image = any(len(site.event_shape) in (2, 3) for site in data)
        if data_dim is None:
            data_dim = self._free(("image" if is_image else data_plate) or "datum")
        else:
            self.check(data_dim, "data_dim")
        self.data_plate, self.data_dim = data_plate, data_dim
        self._plates[data_plate] = data_dim
        for plate in dict.fromkeys(plate for site in sites.values() for plate in site.plates):
            if plate != data_plate:
                self._plates[plate] = self._free(plate)
        self._events = {
            name: self._event(site, event_dims.get(name)) for name, site in sites.items()
        }

    def variable(self, site_name: str) -> str:
        """The name of a site's variable."""
        return self._variables[site_name]

    def about(self, site_name: str) -> dict[str, str]:
        """The attribute `site` of a variable that is not called as its site is."""
        is_same = self._variables[site_name] == site_name
        return {} if is_same else {"site": site_name}

    def plates(self, site: Site) -> list[str]:
        """The names of a site's plates."""
        return [self.plate(name) for name in site.plates]

    def plate(self, name: str) -> str:
        """The name of a plate's dimension."""
        return self._plates.get(name, name)

    def event(self, site: Site) -> list[str]:
        """The names of the axes of a site's events."""
        return self._events[site.name]

    def dims(self, site: Site) -> list[str]:
        """The names of the dimensions of a site's values, without those of draws."""
        return [*self.plates(site), *self.event(site)]

    def check(self, name: str, option: str) -> None:
        """Make sure that a dimension can have the name that was asked for."""
        if storable_name(name, option) != name:
            raise ValueError(
                f"{option} must name dimensions without '/', '\\', '%' and a leading '.', got {name!r}."
            )
        if name in self.taken:
            whose = (
                "ArviZ's dimension of draws" if name in SAMPLES else "a variable, such as a site"
            )
            raise ValueError(
                f"{option} names the dimension {name!r}, which is the name of {whose}: choose another."
            )

    def _event(self, site: Site, given: Sequence[str] | None) -> list[str]:
        """The names of a site's event axes, which no other site uses for another length."""
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
                f"dims must name the {len(shape)} event axes of site {site.name!r}, got {names}: give each a "
                "name of its own."
            )
        if any(self._is_used(name, n) for name, n in zip(names, shape, strict=True)):
            names = [f"{site.name}_{name}" for name in names]
        names = [self._free(name, n) for name, n in zip(names, shape, strict=True)]
        self._sizes.update(zip(names, shape, strict=True))
        return names

    def _is_used(self, name: str, size: int | None) -> bool:
        """Whether a dimension is a plate's, or another event's axis of another length."""
        return name in self._plates.values() or self._sizes.get(name, size) != size

    def _free(self, name: str, size: int | None = None) -> str:
        """The name for a dimension, or a longer one where that is taken."""
        free = storable_name(name, "dimension")
        while free in self.taken or self._is_used(free, size):
            free += "_dim"
        if free != name:
            self.renamed[name] = free
        return free


def storable_name(name: str, what: str) -> str:
    r"""A name with all that NetCDF, Zarr or xarray would take for a path percent-encoded.

    >>> [storable_name(name, "site") for name in ("w", "a/b", "a\\b", "..", "50%")]
    ['w', 'a%2Fb', 'a%5Cb', '%2E.', '50%25']

    Args:
        name: The name.
        what: What it is the name of.

    Raises:
        ValueError: If the name is no string, is empty, or holds what no file can.
    """
    if not isinstance(name, str) or not name or re.search("[\0\ud800-\udfff]", name):
        raise ValueError(
            f"the {what} {name!r} cannot be stored: give it a name of one or more characters, none "
            "of them NUL or a surrogate."
        )
    # `quote` never encodes a full stop.
    name = re.sub(r"[/\\%]", lambda found: quote(found[0], safe=""), name)
    return "%2E" + name[1:] if name.startswith(".") else name


def narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the narrowest integer type: binary images in a quarter of the bytes."""
    if not values.size or not np.isfinite(values).all():
        return values
    lowest, highest = int(values.min()), int(values.max())
    dtype = np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest))
    # Beyond 64 bits there is no integer type.
    return values if dtype == object else values.astype(dtype)
