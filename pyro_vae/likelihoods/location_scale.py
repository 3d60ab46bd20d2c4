"""What likelihoods with a decoded location and a scale share."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.data import Units
from pyro_vae.distributions.ranges import SCALES, check_range
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.networks import NetworkFactory, UserUnits

ScaleKind = Literal["auto", "fixed", "learned", "element", "decoded"]


class LocationScale(Likelihood):
    """A likelihood with a location for each element, from the decoder, and a scale. Abstract.

    For real data, both are decoded in units of the data's spread and given in the data's units: see
    `Units`.

    Args:
        event_shape: The shape of a datum.
        decoder: Output shape -> network f that reads z.
        scale: What the scale is: "fixed" at `initial_scale`; one number "learned" for all elements;
            one learned number an "element"; "decoded", a second output of the decoder; or "auto",
            an "element" for data of one axis and "learned" for images and series.
        initial_scale: The scale at the start.
        minimum_scale: A floor under a scale that is not fixed; the resolution of the data comes on top.
        units: The units of real data; None for 0 and 1 until `UserUnits.set`.

    Raises:
        ValueError: If `scale` is unknown, or `initial_scale` is not above `minimum_scale` > 0.
    """

    raw_scale: Tensor
    # Outputs of the decoder for each element beside the location and a decoded scale.
    further_outputs: int = 0

    def __init__(
        self,
        event_shape: Sequence[int],
        decoder: NetworkFactory,
        scale: ScaleKind,
        initial_scale: float,
        minimum_scale: float,
        units: Units | None = None,
    ) -> None:
        if scale not in get_args(ScaleKind):
            raise ValueError(
                f"scale must be one of {', '.join(get_args(ScaleKind))}, got {scale!r}."
            )
        if not 0 < minimum_scale < initial_scale < math.inf:
            raise ValueError(
                "the scales must satisfy 0 < minimum_scale < initial_scale, "
                f"got minimum_scale {minimum_scale} and initial_scale {initial_scale}."
            )
        check_range("initial_scale", initial_scale, SCALES)
        if scale == "auto":
            scale = "element" if len(event_shape) == 1 else "learned"
        # First: the decoder is asked for so many.
        self.outputs_per_element = 1 + (scale == "decoded") + self.further_outputs
        super().__init__(event_shape, decoder)
        self.minimum_scale = minimum_scale
        self.decoded = scale == "decoded"
        self.fixed = scale == "fixed"
        self.units = UserUnits(self.event_shape, units) if self.support == "real" else None
        shape = self.event_shape if scale == "element" else ()
        # softplus^-1, so that the scale starts where it was asked to.
        above = initial_scale - minimum_scale
        raw_scale = torch.full(shape, above + math.log(-math.expm1(-above)))
        if scale in ("learned", "element"):
            self.raw_scale = nn.Parameter(raw_scale)
        else:
            self.register_buffer("raw_scale", raw_scale, persistent=False)

    def parameters_of(
        self, z: Float[Tensor, "*batch latent"]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The location and the scale, both `(*batch, *event_shape)`, and the further outputs."""
        loc, *rest = self.outputs(z)
        raw_scale = self.raw_scale + rest.pop(0) if self.decoded else self.raw_scale
        scale = F.softplus(raw_scale) + self.minimum_scale
        if self.units is not None:
            loc, scale = self.units.outside(loc), self._in_user_units(scale)
        return loc, scale.expand_as(loc), tuple(rest)

    def _in_user_units(self, scale: Tensor) -> Tensor:
        """A scale in units of the spread, above the data's resolution unless it is fixed."""
        assert self.units is not None
        return self.units.spread * (scale if self.fixed else scale + self.units.floor)
