"""Priors that transform a standard normal by a learned invertible map.

The package zuko (the extra `flows`) is imported when one of its flows is constructed.
"""

import math
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.checks import BOUNDS, check_at_least, check_positive, check_range
from pyro_vae.distributions import NormalFlow
from pyro_vae.networks import CouplingFlow
from pyro_vae.networks.flows import check_hidden
from pyro_vae.priors.prior import Prior


class Flow(Prior):
    """p(z) = N(f^-1(z) | 0, I) |det df^-1/dz|, f a chain of affine couplings.

    Both directions take one pass, so a density costs as much as a draw. At initialisation p(z) is
    N(0, I).

    Args:
        latent_dim: The dimension of z. With 1, f is affine.
        couplings: The number of couplings; each moves half of the coordinates given the other
            half.
        hidden: The widths of each coupling's network.
        bound: The bound on the |log scale| of a coupling, approached by a tanh; from 1e-6 to 80.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Density Estimation Using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017),
        https://arxiv.org/abs/1605.08803;
        as a VAE's prior: Variational Lossy Autoencoder (Chen et al., 2017),
        https://arxiv.org/abs/1611.02731
    """

    support: ClassVar[str] = "real"

    def __init__(
        self,
        latent_dim: int,
        couplings: int = 12,
        hidden: Sequence[int] = (256, 256),
        bound: float = 2.0,
    ) -> None:
        super().__init__(latent_dim)
        check_positive(BOUNDS, bound=bound)
        self.flow = CouplingFlow(latent_dim, couplings, hidden, bound=bound)

    def forward(self) -> dist.Distribution:
        return NormalFlow(self.zeros, self.full(1.0), self.flow)


# zuko's default is 1e-3, with which a saturated network's splines have draws whose root rounds to
# nan.
SMALLEST_SLOPE = 1e-2


class _ZukoFlow(Prior):
    """A standard normal transformed by a flow of zuko's. Abstract."""

    support: ClassVar[str] = "real"
    flow: "_Inverted"

    def __init__(self, latent_dim: int, transforms: int, hidden: Sequence[int]) -> None:
        super().__init__(latent_dim)
        check_at_least(1, transforms=transforms)
        check_hidden(hidden)
        self._options: dict[str, Any] = {
            "features": latent_dim,
            "transforms": transforms,
            "hidden_features": tuple(hidden),
        }

    def forward(self) -> dist.Distribution:
        return NormalFlow(self.zeros, self.full(1.0), self.flow)


class SplineFlow(_ZukoFlow):
    """p(z) = N(f(z) | 0, I) |det df/dz|, f_i a rational-quadratic spline of z_i, given z_<i.

    f is a chain of such maps with alternating order of the coordinates. A density takes one pass
    through each, a draw `latent_dim` passes. At initialisation p(z) is N(0, I).

    A spline maps [-5, 5] onto itself and is the identity outside: |z_i| > 5 has the probability of
    a standard normal, 6e-7, whatever is learned, and a normal's tail. Standardise a given
    representation before learning its density; a VAE's posterior learns to stay inside.

    Args:
        latent_dim: The dimension of z. With 1, f is a chain of splines with constant knots.
        transforms: The number of maps in the chain.
        hidden: The widths of the masked network that outputs a map's knots. A layer narrower than
            `latent_dim` - 1 hides the last preceding coordinates from a conditional.
        bins: The number of pieces of a spline.

    Raises:
        ValueError: If an option is out of its range.
        ImportError: If zuko is not installed.

    References:
        Neural Spline Flows (Durkan, Bekasov, Murray & Papamakarios, 2019),
        https://arxiv.org/abs/1906.04032
    """

    def __init__(
        self,
        latent_dim: int,
        transforms: int = 3,
        hidden: Sequence[int] = (128, 128),
        bins: int = 8,
    ) -> None:
        super().__init__(latent_dim, transforms, hidden)
        check_at_least(2, bins=bins)
        flows = import_zuko().flows
        self.flow = _Inverted(flows.NSF(**self._options, bins=bins, slope=SMALLEST_SLOPE))


class AutoregressiveFlow(_ZukoFlow):
    """p(z) = N(f(z) | 0, I) |det df/dz|, f_i(z) = exp(s_i) z_i + t_i, s_i, t_i of z_1, ..., z_i-1.

    f is a chain of such maps with alternating order of the coordinates. A density takes one pass
    through each, a draw `latent_dim` passes. At initialisation p(z) is N(0, I).

    Args:
        latent_dim: The dimension of z. With 1, f is affine and p(z) a normal.
        transforms: The number of maps in the chain.
        hidden: The widths of the masked network that outputs a map's s and t. A layer narrower
            than `latent_dim` - 1 hides the last preceding coordinates from a conditional.
        bound: The bound on the |s_i| of a map, approached smoothly; from 1e-6 to 80.

    Raises:
        ValueError: If an option is out of its range.
        ImportError: If zuko is not installed.

    References:
        Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou & Murray, 2017),
        https://arxiv.org/abs/1705.07057
    """

    def __init__(
        self,
        latent_dim: int,
        transforms: int = 5,
        hidden: Sequence[int] = (128, 128),
        bound: float = 2.0,
    ) -> None:
        super().__init__(latent_dim, transforms, hidden)
        # float32 has the logarithm of exp(-bound), zuko's smallest slope.
        if not 0 < bound <= 80:
            raise ValueError(f"bound must be above 0 and at most 80, got {bound}.")
        check_range(BOUNDS, bound=bound)
        zuko = import_zuko()
        affine = partial(zuko.transforms.MonotonicAffineTransform, slope=math.exp(-bound))
        self.flow = _Inverted(zuko.flows.MAF(**self._options, univariate=affine))


class _Inverted(nn.Module):
    """The map from u to z of a flow of zuko's, whose own transform goes from z to u.

    It starts as the identity: the last layer of each map's network is zero.
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.transform: nn.Module = flow.transform  # pyright: ignore
        for part in self.transform.transforms:  # pyright: ignore
            # In one dimension zuko has no network, but the parameters themselves.
            last = part.hyper[-1] if hasattr(part, "hyper") else part
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, u: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """z, in as many passes as it has coordinates, and log |det dz/du|."""
        z = self.transform().inv(u)
        return z, -self.transform().call_and_ladj(z)[1]

    def inverse(
        self, z: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch"]]:
        """u, in one pass, and log |det dz/du|."""
        u, log_det = self.transform().call_and_ladj(z)
        return u, -log_det


def import_zuko() -> ModuleType:
    """The package zuko, imported without its side effect.

    Raises:
        ImportError: If zuko is not installed.
    """
    # `import zuko` turns off the validation of every distribution in the process.
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
