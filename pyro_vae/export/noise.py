"""Random draws as functions of given noise: normal and uniform numbers in place of a generator.

A program draws as always. Within `RecordedNoise` its draws are counted, within `GivenNoise` they
are taken from two matrices, row by row. What torch draws by rejection is computed by inversion.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Normal numbers beyond are moved to it: the probability is 1e-15.
_LARGEST_NORMAL = 8.0
# Cubics between nodes at this distance have a relative error below 1e-8.
_NODES_PER_UNIT = 32


class _Noise(TorchFunctionMode):
    """Replaces the random functions of torch. Abstract: define `normal`, `uniform` and `gamma`."""

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
        """Standard normal numbers of a shape, whose first axis is that of the rows."""
        raise NotImplementedError

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
        """Numbers uniform on [0, 1), likewise."""
        raise NotImplementedError

    def gamma(self, concentration: Tensor) -> Tensor:
        """Draws of Gamma(a, 1)."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func)
        if replacement is None:
            return func(*args, **(kwargs or {}))
        return replacement(self, *args, **(kwargs or {}))


class RecordedNoise(_Noise):
    """Draws as torch does, and counts the numbers drawn.

    `columns` is the number of normal and uniform numbers of a row; `concentrations` holds the
    parameters of the gamma draws, the same for all rows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.columns = {"normal": 0, "uniform": 0}
        self.concentrations: list[Tensor] = []
        self.drawn: list[Tensor] = []

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
        self.columns["normal"] += math.prod(shape[1:])
        return torch.randn(*shape, dtype=dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
        self.columns["uniform"] += math.prod(shape[1:])
        self.drawn.append(torch.rand(*shape, dtype=dtype))
        return self.drawn[-1]

    def gamma(self, concentration: Tensor) -> Tensor:
        if not (concentration == concentration[:1]).all():
            raise ValueError("gamma variables whose parameters are drawn cannot be exported.")
        self.concentrations.append(concentration[0].detach().double().cpu())
        self.normal(concentration.shape, None)
        return torch._standard_gamma(concentration)  # pyright: ignore[reportPrivateImportUsage]


class GivenNoise(_Noise):
    """Takes the numbers from matrices, in the order in which the program draws them.

    Args:
        normal: Standard normal numbers, a row for each draw; None if none are needed.
        uniform: Numbers uniform on [0, 1), likewise.
        quantiles: `GammaQuantiles` for each draw of gamma variables.
    """

    def __init__(
        self,
        normal: Float[Tensor, "n normals"] | None,
        uniform: Float[Tensor, "n uniforms"] | None,
        quantiles: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> None:
        super().__init__()
        self._given = {"normal": normal, "uniform": uniform}
        self._start = {"normal": 0, "uniform": 0}
        self._quantiles = iter(quantiles)

    def _take(self, kind: str, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
        given, start = self._given[kind], self._start[kind]
        assert given is not None
        end = self._start[kind] = start + math.prod(shape[1:])
        part = given[:, start:end].reshape(-1, *shape[1:])
        return part.to(torch.get_default_dtype() if dtype is None else dtype)

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
        return self._take("normal", shape, dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None) -> Tensor:
        return self._take("uniform", shape, dtype)

    def gamma(self, concentration: Tensor) -> Tensor:
        normal = self.normal(concentration.shape, torch.float64)
        return next(self._quantiles)(normal).to(concentration.dtype)


class GammaQuantiles:
    """t -> F^-1(Phi(t)), F the distribution function of Gamma(a, 1): a draw for t ~ N(0, 1).

    log F^-1(Phi(t)) is smooth in t for every a of at least 1, and is interpolated by cubic splines
    between nodes on [-8, 8].

    Args:
        concentration: a of each element of a row.
    """

    def __init__(self, concentration: Float[Tensor, "*elements"]) -> None:
        from scipy.interpolate import CubicSpline
        from scipy.special import gammainccinv, gammaincinv, ndtr

        distinct, self.which = concentration.flatten().unique(return_inverse=True)
        nodes = np.linspace(
            -_LARGEST_NORMAL, _LARGEST_NORMAL, int(2 * _LARGEST_NORMAL * _NODES_PER_UNIT) + 1
        )
        tables = []
        for a in distinct.tolist():
            value = np.where(nodes < 0, gammaincinv(a, ndtr(nodes)), gammainccinv(a, ndtr(-nodes)))
            tables.append(CubicSpline(nodes, np.log(value)).c.T)
        # Of each distinct a and each cell, four coefficients, the highest power first.
        self.coefficients = torch.from_numpy(np.stack(tables))

    def __call__(
        self, normal: Float[Tensor, "*batch_elements"]
    ) -> Float[Tensor, "*batch_elements"]:
        """Draws in float64."""
        t = normal.flatten(1).clamp(-_LARGEST_NORMAL, _LARGEST_NORMAL)
        place = (t + _LARGEST_NORMAL) * _NODES_PER_UNIT
        cell = place.floor().clamp(max=self.coefficients.shape[1] - 1)
        step = (place - cell) / _NODES_PER_UNIT
        c = self.coefficients[self.which, cell.long()]
        log_value = ((c[..., 0] * step + c[..., 1]) * step + c[..., 2]) * step + c[..., 3]
        return log_value.exp().reshape(normal.shape)


# ---- replacements of torch's functions ----------------------------------------------------------


def _shape(size: Sequence[Any], options: Any) -> Sequence[int]:
    size = size or (options["size"],)
    return size[0] if isinstance(size[0], Sequence) else size


def _randn(noise: _Noise, *size: Any, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
    return noise.normal(_shape(size, rest), dtype)


def _rand(noise: _Noise, *size: Any, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
    return noise.uniform(_shape(size, rest), dtype)


def _rand_like(noise: _Noise, like: Tensor, **options: Any) -> Tensor:
    return noise.uniform(like.shape, options.get("dtype", like.dtype))


def _randn_like(noise: _Noise, like: Tensor, **options: Any) -> Tensor:
    return noise.normal(like.shape, options.get("dtype", like.dtype))


def _randint(noise: _Noise, high: int, size: Sequence[int], **_: Any) -> Tensor:
    return (noise.uniform(size, torch.float64) * high).floor().long()


def _normal(noise: _Noise, mean: Tensor, std: Tensor) -> Tensor:
    return mean + std * noise.normal(mean.shape, mean.dtype)


def _normal_(noise: _Noise, like: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * noise.normal(like.shape, like.dtype)


def _uniform_(noise: _Noise, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * noise.uniform(like.shape, like.dtype)


def _multinomial(noise: _Noise, weights: Tensor, number: int, replacement: bool = False) -> Tensor:
    """By inversion; of one distribution for all rows, or a number of draws from that of a row."""
    if not replacement and number != 1:
        raise ValueError("draws without replacement cannot be exported.")
    given, weights = weights, weights.reshape(-1, weights.shape[-1])
    shared = weights.shape[0] == 1
    ends = weights.double().cumsum(-1)
    # Of one distribution the numbers are rows; of several, each row has its own.
    u = noise.uniform((number, 1) if shared else (weights.shape[0], number), torch.float64)
    drawn = _searchsorted(noise, ends[:, :-1], u * ends[:, -1:], right=True)
    return drawn.reshape(*given.shape[:-1], -1) if shared else drawn


def _standard_gamma(noise: _Noise, concentration: Tensor) -> Tensor:
    return noise.gamma(concentration)


def _searchsorted(
    noise: _Noise, ends: Tensor, values: Tensor, *, right: bool = False, side: str | None = None
) -> Tensor:
    """By comparisons: ONNX has no such operator."""
    before = torch.le if right or side == "right" else torch.lt
    return before(ends.unsqueeze(-2), values.unsqueeze(-1)).sum(-1)


_REPLACEMENTS: dict[Any, Callable[..., Tensor]] = {
    torch.randn: _randn,
    torch.rand: _rand,
    torch.randn_like: _randn_like,
    torch.rand_like: _rand_like,
    torch.randint: _randint,
    torch.normal: _normal,
    Tensor.normal_: _normal_,
    Tensor.uniform_: _uniform_,
    torch.multinomial: _multinomial,
    torch._standard_gamma: _standard_gamma,  # pyright: ignore[reportPrivateImportUsage]
    torch.searchsorted: _searchsorted,
}
