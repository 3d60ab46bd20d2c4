"""The bases of the likelihoods, and the wrapper of their encoders."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.checks import SCALES, check_choice, check_range
from pyro_vae.data import Units
from pyro_vae.networks import (
    NetworkFactory,
    UserUnits,
    on_log_scale,
    on_unit_scale,
    on_user_units,
)

ScaleKind = Literal["auto", "fixed", "learned", "element", "decoded"]

# Support -> how an encoder of such data is wrapped, to read them on a suitable scale.
ENCODER_WRAPPERS: dict[str, Callable[..., NetworkFactory]] = {
    "real": lambda encoder, event_shape, units, **_: on_user_units(encoder, event_shape, units),
    "counts": lambda encoder, **_: on_log_scale(encoder),
    "integers": lambda encoder, levels, **_: on_unit_scale(encoder, levels),
}


class Likelihood(nn.Module):
    """p(x | z) with parameters from a decoder, element by element. Abstract: define `forward`.

    Args:
        event_shape: The shape of a data point.
        decoder: Output shape -> network that reads z.
    """

    # The data on which the density is defined: binary, unit, real, integers or counts.
    support: ClassVar[str]
    # The number of decoder outputs per element of x. Not an option: the density determines it.
    outputs_per_element: int = 1
    # Whether the density is conditional on the total of x: its mass is one for each total.
    given_total: ClassVar[bool] = False

    def __init__(self, event_shape: Sequence[int], decoder: NetworkFactory) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.decoder = decoder((self.outputs_per_element, *self.event_shape))

    @property
    def event_dim(self) -> int:
        """The number of axes of a data point."""
        return len(self.event_shape)

    def outputs(self, z: Float[Tensor, "*batch latent"]) -> tuple[Tensor, ...]:
        """The decoder's outputs, each of shape `(*batch, *event_shape)`."""
        return self.decoder(z).unbind(-1 - self.event_dim)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> dist.Distribution:
        raise NotImplementedError


class LocationScale(Likelihood):
    """A likelihood with a decoded location for each element, and a scale. Abstract.

    For real data, both are decoded in units of the data's spread and returned in the data's units:
    see `Units`.

    Args:
        event_shape: The shape of a data point.
        decoder: Output shape -> network f that reads z.
        scale: "fixed" at `initial_scale`; one number "learned" for all elements; one learned
            number per "element"; "decoded", a second output of the decoder; or "auto", which is
            "element" for data of one axis and "learned" for images and series.
        initial_scale: The scale at initialisation.
        minimum_scale: A floor under a scale that is not fixed; the resolution of the data is
            added.
        units: The units of real data; None for 0 and 1 until `UserUnits.set`.

    Raises:
        ValueError: If `scale` is unknown, or `initial_scale` is not above `minimum_scale` > 0.
    """

    raw_scale: Tensor
    # Decoder outputs per element besides the location and a decoded scale.
    further_outputs: int = 0

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        scale: ScaleKind = "auto",
        initial_scale: float = 0.2,
        minimum_scale: float = 1e-2,
        units: Units | None = None,
    ) -> None:
        check_choice(ScaleKind, scale=scale)
        if not 0 < minimum_scale < initial_scale < math.inf:
            raise ValueError(
                "the scales must satisfy 0 < minimum_scale < initial_scale, "
                f"got minimum_scale {minimum_scale} and initial_scale {initial_scale}."
            )
        check_range(SCALES, initial_scale=initial_scale)
        if scale == "auto":
            scale = "element" if len(event_shape) == 1 else "learned"
        # Before the decoder is built, which needs the number.
        self.outputs_per_element = 1 + (scale == "decoded") + self.further_outputs
        super().__init__(event_shape, decoder)
        self.minimum_scale = minimum_scale
        self.decoded = scale == "decoded"
        self.fixed = scale == "fixed"
        self.units = UserUnits(self.event_shape, units) if self.support == "real" else None
        shape = self.event_shape if scale == "element" else ()
        # softplus^-1, so that the scale starts at `initial_scale`.
        above = initial_scale - minimum_scale
        raw_scale = torch.full(shape, above + math.log(-math.expm1(-above)))
        if scale in ("learned", "element"):
            self.raw_scale = nn.Parameter(raw_scale)
        else:
            self.register_buffer("raw_scale", raw_scale, persistent=False)

    def loc_and_scale(
        self, z: Float[Tensor, "*batch latent"]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The location and the scale, both `(*batch, *event_shape)`, and the further outputs."""
        loc, *rest = self.outputs(z)
        raw_scale = self.raw_scale + rest.pop(0) if self.decoded else self.raw_scale
        scale = F.softplus(raw_scale) + self.minimum_scale
        if self.units is not None:
            loc, scale = self.units.outside(loc), self.scale_in_user_units(scale)
        return loc, scale.expand_as(loc), tuple(rest)

    def scale_in_user_units(self, scale: Tensor) -> Tensor:
        """A scale in the data's units, plus their resolution unless it is fixed."""
        assert self.units is not None
        return self.units.spread * (scale if self.fixed else scale + self.units.floor)


def wrap_encoder(likelihood: Any, encoder: NetworkFactory, **data: Any) -> NetworkFactory:
    """An encoder that reads a likelihood's data on a suitable scale.

    Args:
        likelihood: The likelihood's class. Its static method `wrap_encoder(encoder, **data)` is
            used, if it has one; otherwise the wrapper for its support, if there is one.
        encoder: Output shape -> network that reads x.
        **data: The data's `event_shape`, `levels` and `units`, each None if there are none.
    """
    wrap = getattr(likelihood, "wrap_encoder", None) or ENCODER_WRAPPERS.get(likelihood.support)
    return encoder if wrap is None else wrap(encoder, **data)


def find_units(likelihood: Any, train_data: Any) -> Units | None:
    """The units of training data, if there are any and the likelihood is one of real data."""
    if train_data is None or likelihood.support != "real":
        return None
    return Units.from_data(train_data)
