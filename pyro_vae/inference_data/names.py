"""The names of dimensions: plates by their own names, events by what they are, and coordinates."""

from collections.abc import Mapping, Sequence

import numpy as np

from pyro_vae.inference_data.sites import Site

SAMPLES = ("chain", "draw")


class Names:
    """Gives each site the names of its dimensions, the same in every group.

    Args:
        data_plate: The name of the plate over data.
        data_dim: The name of its dimension. None for the plate's own, or `image` where the data are.
        event_dims: Site -> the names of its event axes, where the defaults are not wanted.
        sites: The sites of the model.
    """

    def __init__(
        self,
        data_plate: str | None,
        data_dim: str | None,
        event_dims: Mapping[str, Sequence[str]],
        sites: Mapping[str, Site],
    ) -> None:
        self.data_plate = data_plate
        data = [s for s in sites.values() if s.kind == "observed" and data_plate in s.plates]
        is_image = any(len(site.event_shape) in (2, 3) for site in data)
        self.data_dim = data_dim or ("image" if is_image else data_plate) or "datum"
        self._given = event_dims
        self._sizes: dict[str, int] = {}
        self._events: dict[str, list[str]] = {}
        for name, site in sites.items():
            self._events[name] = self._event(site)

    def plates(self, site: Site) -> list[str]:
        """The names of a site's plates."""
        for name in site.plates:
            if name in SAMPLES:
                raise ValueError(
                    f"no plate can be called {name!r}, which is ArviZ's own dimension."
                )
        return [self.data_dim if name == self.data_plate else name for name in site.plates]

    def event(self, site: Site) -> list[str]:
        """The names of the axes of a site's events."""
        return self._events[site.name]

    def dims(self, site: Site) -> list[str]:
        """The names of the dimensions of a site's values, without those of draws."""
        return [*self.plates(site), *self.event(site)]

    def _event(self, site: Site) -> list[str]:
        """The names of a site's event axes, which no other site uses for another length."""
        shape = site.event_shape
        by_length = {
            1: ["element" if site.kind == "observed" else "latent_dim"],
            2: ["row", "column"],
            3: ["channel", "row", "column"],
        }
        default = [f"{site.name}_dim_{axis}" for axis in range(len(shape))]
        if self.data_plate in site.plates and site.kind != "deterministic":
            default = by_length.get(len(shape), default)
        names = list(self._given.get(site.name, default))
        if len(names) != len(shape):
            raise ValueError(
                f"dims must name the {len(shape)} event axes of site {site.name!r}, got {names}."
            )
        if any(self._sizes.get(name, n) != n for name, n in zip(names, shape, strict=True)):
            names = [f"{site.name}_{name}" for name in names]
        self._sizes.update(zip(names, shape, strict=True))
        return names


def narrow(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the narrowest integer type: binary images in a quarter of the bytes."""
    if not values.size or not np.isfinite(values).all():
        return values
    lowest, highest = int(values.min()), int(values.max())
    return values.astype(np.result_type(np.min_scalar_type(lowest), np.min_scalar_type(highest)))
