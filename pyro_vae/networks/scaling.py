"""Inputs of networks on a suitable scale, outputs as a direction, and the units of real data."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.checks import check_at_least
from pyro_vae.networks.layers import NetworkFactory

# The gradient of h / |h| is 1 / |h|: vectors shorter than this get a fixed direction.
_SHORTEST = 1e-6

# Columns of a table are in different units if one's spread is more than this times another's.
SAME_UNITS = 10.0


def unit_vector(h: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """h / |h|, of length 1 to rounding; the first axis where |h| is below 1e-6.

    The gradient is finite everywhere, and 0 there.
    """
    # In float64 the squares of large outputs do not overflow, and those of small ones do not
    # vanish.
    wide = h.double()
    first = (torch.arange(h.shape[-1], device=h.device) == 0).to(wide.dtype)
    # Before the division, so that its gradient is not nan where it is not used.
    safe = torch.where(wide.square().sum(-1, keepdim=True) > _SHORTEST**2, wide, first)
    return (safe / safe.norm(dim=-1, keepdim=True)).to(h.dtype)


class LogScale(nn.Module):
    """f(log(1 + x)): a network f that reads counts, which range over orders of magnitude.

    Values below 0, which a learned pseudo-input may have, are read as 0.

    Args:
        network: f.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), methods,
        https://doi.org/10.1038/s41592-018-0229-2
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Real[Tensor, "*leading"]) -> Float[Tensor, "*outputs"]:
        return self.network(x.clamp(min=0).log1p())


class UnitScale(nn.Module):
    """f(x / (levels - 1)): f reads the levels 0, ..., levels - 1 as numbers in [0, 1].

    Args:
        network: f.
        levels: The number of levels.

    Raises:
        ValueError: If `levels` is below 2.
    """

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        check_at_least(2, levels=levels)
        self.network = network
        self.levels = levels

    def forward(self, x: Real[Tensor, "*leading"]) -> Float[Tensor, "*outputs"]:
        return self.network(x / (self.levels - 1))


class SimplexScale(nn.Module):
    """f((z - 1/K) sqrt(K (K + 1))): f reads K shares of mean 0, for uniform z of variance 1 - 1/K.

    Both mean and spread of a share are near 1/K: a network that reads the shares themselves sees
    nearly equal codes at the start, and first learns to ignore them.

    Args:
        network: f.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Float[Tensor, "*batch corners"]) -> Float[Tensor, "*batch_output"]:
        corners = z.shape[-1]
        return self.network((z - 1 / corners) * (corners * (corners + 1)) ** 0.5)


class UserUnits(nn.Module):
    """u = (x - center) / spread, element by element, and x = center + spread u.

    All three are buffers, saved with the model: 0, 1 and 0 until the data are known.

    Args:
        event_shape: The shape of a data point. Data of one axis have a value for each element; of
            several axes, one for each channel, the first axis.
        units: An object with `center`, `spread`, `floor` and `double`, as `pyro_vae.data.Units`.
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
        """Take the units of data, in float64 if the data are.

        Raises:
            ValueError: If they are of data of another shape.
        """
        if units.center.shape != self.center.shape:
            raise ValueError(
                f"the units of the data have the shape {tuple(units.center.shape)}, and this part "
                f"has {tuple(self.center.shape)}: sequences are read with layout "
                '"sequence" (--data.layout sequence).'
            )
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
        # Take the type, too: the data may need float64.
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


def on_log_scale(encoder: NetworkFactory) -> NetworkFactory:
    """Make an encoder of counts read log(1 + x)."""
    return lambda output_shape: LogScale(encoder(output_shape))


def on_unit_scale(encoder: NetworkFactory, levels: int | None) -> NetworkFactory:
    """Make an encoder of levels read x / (levels - 1).

    Raises:
        ValueError: If `levels` is None.
    """
    if levels is None:
        raise ValueError(
            "a likelihood of integers needs the number of levels of the data, got None: "
            "build(..., levels=256) for 0 to 255."
        )
    return lambda output_shape: UnitScale(encoder(output_shape), levels)


def on_simplex_scale(decoder: NetworkFactory) -> NetworkFactory:
    """Make a decoder of proportions read them centred, over their spread."""
    return lambda output_shape: SimplexScale(decoder(output_shape))


def on_user_units(
    encoder: NetworkFactory, event_shape: Sequence[int], units: Any = None
) -> NetworkFactory:
    """Make an encoder of real data read (x - center) / spread."""
    return lambda output_shape: OnUserUnits(encoder(output_shape), UserUnits(event_shape, units))


def user_units(module: nn.Module) -> UserUnits | None:
    """The units that a module works in; None if its data are not real numbers."""
    return next((m for m in module.modules() if isinstance(m, UserUnits)), None)


def column_spreads(module: nn.Module) -> Tensor | float:
    """The spread of each column of a table in different units; otherwise 1.

    Without it, distances between rows would be those of the column with the largest numbers.
    """
    units = user_units(module)
    if units is None or units.spread.dim() != 1:
        return 1.0
    same = float(units.spread.max()) <= SAME_UNITS * float(units.spread.min())
    return 1.0 if same else units.spread
