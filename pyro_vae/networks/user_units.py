"""Standardisation of real data at the encoder's input, and its inverse."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.networks.network import NetworkFactory


class UserUnits(nn.Module):
    """u = (x - center) / spread, element by element, and x = center + spread u.

    The three are buffers, saved with the model: 0, 1 and 0 until the data are known.

    Args:
        event_shape: The shape of a datum. One axis has a value for each element; of several axes, the
            first one, that of channels, has.
        units: What has `center`, `spread`, `floor` and `double`, as `pyro_vae.data.Units`.
    """

    center: Tensor
    spread: Tensor
    floor: Tensor

    def __init__(self, event_shape: Sequence[int], units: Any = None) -> None:
        super().__init__()
        shape = (event_shape[0], *[1] * (len(event_shape) - 1))
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))
        self.register_buffer("floor", torch.zeros(shape))
        if units is not None:
            self.set(units)

    def set(self, units: Any) -> None:
        """Take the units of data, in float64 if those are kept in float64."""
        dtype = torch.float64 if units.double else torch.get_default_dtype()
        for name in ("center", "spread", "floor"):
            old = getattr(self, name)
            setattr(self, name, getattr(units, name).to(old.device, dtype))

    @property
    def known(self) -> bool:
        """Whether they were set or loaded: they are not all 0, 1 and 0."""
        return bool(self.center.any() or (self.spread != 1).any() or self.floor.any())

    def inside(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_event"]:
        """u, in the default type of floats."""
        return ((x - self.center) / self.spread).to(torch.get_default_dtype())

    def outside(self, u: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch_event"]:
        """x."""
        return self.center + self.spread * u

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The type goes with the data, which may need float64.
        for name in ("center", "spread", "floor"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, getattr(self, name).to(saved.dtype))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class OnUserUnits(nn.Module):
    """f((x - center) / spread): a network f that reads real data of any unit.

    Args:
        network: f.
        units: The units.
    """

    def __init__(self, network: nn.Module, units: UserUnits) -> None:
        super().__init__()
        self.network = network
        self.units = units

    def forward(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*outputs"]:
        return self.network(self.units.inside(x))


def on_user_units(
    encoder: NetworkFactory, event_shape: Sequence[int], units: Any = None
) -> NetworkFactory:
    """The same encoder, reading (x - center) / spread."""
    return lambda output_shape: OnUserUnits(encoder(output_shape), UserUnits(event_shape, units))


def user_units(module: nn.Module) -> UserUnits | None:
    """The units that a module works in; None if its data are no real numbers."""
    return next((m for m in module.modules() if isinstance(m, UserUnits)), None)
