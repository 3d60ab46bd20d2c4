"""Priors that are flows of the package zuko: autoregressive splines and affine maps.

zuko (the extra `flows`) is imported when such a prior is made, not before.
"""

import math
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.distributions import NormalFlow
from pyro_vae.distributions.ranges import BOUNDS, check_range
from pyro_vae.networks.coupling import check_hidden

# zuko's own is 1e-3; with it, a saturated network's splines have draws whose square root rounds to nan.
SMALLEST_SLOPE = 1e-2


class SplineFlow(nn.Module):
    """p(z) = N(f(z) | 0, I) |det df/dz|, f_i a rational-quadratic spline of z_i given z_1, ..., z_i-1.

    f is a chain of such maps, whose order of the coordinates turns round from one to the next. A
    density costs one pass through each, a draw `latent_dim` passes. Untrained, p(z) is N(0, I).

    A spline maps [-5, 5] onto itself, and outside z_i stays as it is: |z_i| > 5 has a normal's
    probability, 6e-7, whatever is learned, and given it z_i a normal's tail. Standardise a
    representation that is given before its density is learned; a VAE's posterior learns to keep
    inside.

    Args:
        latent_dim: The dimension of z. With 1, f is a chain of splines with constant knots.
        transforms: The number of maps in the chain.
        hidden: The widths of the masked network that gives a map its knots. A layer narrower than
            `latent_dim` - 1 hides the last of the coordinates before it from a conditional.
        bins: The number of pieces of a spline.

    Raises:
        ValueError: If an option is out of its range.
        ImportError: If zuko is not installed.

    References:
        Neural Spline Flows (Durkan, Bekasov, Murray & Papamakarios, 2019),
        https://arxiv.org/abs/1906.04032
    """

    support: ClassVar[str] = "real"
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        transforms: int = 3,
        hidden: Sequence[int] = (128, 128),
        bins: int = 8,
    ) -> None:
        super().__init__()
        _check(latent_dim, transforms, hidden)
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}.")
        self.latent_dim = latent_dim
        self.flow = _Inverted(
            import_zuko().flows.NSF(
                latent_dim,
                bins=bins,
                slope=SMALLEST_SLOPE,
                transforms=transforms,
                hidden_features=tuple(hidden),
            )
        )
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return NormalFlow(self.loc, self.scale, self.flow)


class AutoregressiveFlow(nn.Module):
    """p(z) = N(f(z) | 0, I) |det df/dz|, f_i(z) = exp(s_i) z_i + t_i, s_i, t_i of z_1, ..., z_i-1.

    f is a chain of such maps, whose order of the coordinates turns round from one to the next. A
    density costs one pass through each, a draw `latent_dim` passes. Untrained, p(z) is N(0, I).

    Args:
        latent_dim: The dimension of z. With 1, f is affine and p(z) a normal.
        transforms: The number of maps in the chain.
        hidden: The widths of the masked network that gives a map s and t. A layer narrower than
            `latent_dim` - 1 hides the last of the coordinates before it from a conditional.
        bound: The bound on the |s_i| of a map, approached smoothly; from 1e-6 to 80.

    Raises:
        ValueError: If an option is out of its range.
        ImportError: If zuko is not installed.

    References:
        Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou & Murray, 2017),
        https://arxiv.org/abs/1705.07057
    """

    support: ClassVar[str] = "real"
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        transforms: int = 5,
        hidden: Sequence[int] = (128, 128),
        bound: float = 2.0,
    ) -> None:
        super().__init__()
        _check(latent_dim, transforms, hidden)
        # Of exp(-bound), zuko's smallest slope, float32 has the logarithm.
        if not 0 < bound <= 80:
            raise ValueError(f"bound must be above 0 and at most 80, got {bound}.")
        check_range("bound", bound, BOUNDS)
        self.latent_dim = latent_dim
        zuko = import_zuko()
        self.flow = _Inverted(
            zuko.flows.MAF(
                latent_dim,
                transforms=transforms,
                hidden_features=tuple(hidden),
                univariate=partial(
                    zuko.transforms.MonotonicAffineTransform, slope=math.exp(-bound)
                ),
            )
        )
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return NormalFlow(self.loc, self.scale, self.flow)


class _Inverted(nn.Module):
    """The map from u to z of a flow of zuko's, whose own transform goes from z to u.

    Starts as the identity: what gives a map its parameters is zero in its last layer.
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.transform: nn.Module = flow.transform  # pyright: ignore
        for part in self.transform.transforms:  # pyright: ignore
            # In one dimension no network is needed, and zuko has the parameters themselves.
            last = part.hyper[-1] if hasattr(part, "hyper") else part
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, u: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """z, as many passes as it has coordinates, and log |det dz/du|."""
        z = self.transform().inv(u)
        return z, -self.transform().call_and_ladj(z)[1]

    def inverse(
        self, z: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """u, in one pass, and log |det dz/du|."""
        u, log_det = self.transform().call_and_ladj(z)
        return u, -log_det


def import_zuko() -> ModuleType:
    """The package zuko, imported without zuko's effect on others.

    Raises:
        ImportError: If zuko is not installed.
    """
    # `import zuko` ends the validation of every distribution in the process.
    validated = torch.distributions.Distribution._validate_args
    try:
        import zuko
    except ImportError as error:
        raise ImportError(
            "spline_flow and autoregressive_flow need the package zuko: "
            f"pip install 'pyro-vae[flows]' ({error})."
        ) from error
    finally:
        torch.distributions.Distribution.set_default_validate_args(validated)
    return zuko


def _check(latent_dim: int, transforms: int, hidden: Sequence[int]) -> None:
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, got {latent_dim}.")
    if transforms < 1:
        raise ValueError(f"transforms must be at least 1, got {transforms}.")
    check_hidden(hidden)
