"""Affine coupling flows: invertible maps whose two directions take one pass each."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.checks import check_at_least, check_positive


class _Coupling(nn.Module):
    """y_a = u_a, y_b = u_b exp(s(u_a, h)) + t(u_a, h), s within +-bound by a tanh.

    It starts as the identity: the last layer is zero.
    """

    def __init__(
        self, kept: int, moved: int, hidden: Sequence[int], context: int, bound: float
    ) -> None:
        super().__init__()
        self.kept, self.moved, self.bound = kept, moved, bound
        # In one dimension nothing is kept, and the map is affine.
        self.first = nn.Linear(max(kept, 1), hidden[0])
        self.of_context = nn.Linear(context, hidden[0], bias=False) if context else None
        layers: list[nn.Module] = [nn.ReLU()]
        for width, following in pairwise(hidden):
            layers += [nn.Linear(width, following), nn.ReLU()]
        last = nn.Linear(hidden[-1], 2 * moved)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.rest = nn.Sequential(*layers, last)

    def _log_scale_and_shift(self, a: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.first(a if self.kept else a.new_zeros(*a.shape[:-1], 1))
        if self.of_context is not None:
            h = h + self.of_context(context)
        raw, shift = self.rest(h).chunk(2, -1)
        return self.bound * torch.tanh(raw / self.bound), shift

    def forward(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b = u.split((self.kept, self.moved), -1)
        log_scale, shift = self._log_scale_and_shift(a, context)
        b = b * log_scale.exp() + shift
        return torch.cat([a.expand(*b.shape[:-1], -1), b], -1), log_scale.sum(-1)

    def inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b = y.split((self.kept, self.moved), -1)
        log_scale, shift = self._log_scale_and_shift(a, context)
        b = (b - shift) * (-log_scale).exp()
        return torch.cat([a.expand(*b.shape[:-1], -1), b], -1), log_scale.sum(-1)


class CouplingFlow(nn.Module):
    """f = f_L o ... o f_1, affine couplings with permutations of the coordinates in between.

    Each pair of couplings halves the coordinates at random and moves each half given the other. At
    initialisation f is the identity.

    Args:
        dim: The number of coordinates. With 1 the map is affine.
        couplings: The number L of couplings.
        hidden: The widths of each coupling's network.
        context: The width of the context h; 0 for none.
        bound: The bound on a coupling's |log scale|, approached by a tanh.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Density Estimation Using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017),
        https://arxiv.org/abs/1605.08803
    """

    orders: Tensor
    places: Tensor

    def __init__(
        self,
        dim: int,
        couplings: int,
        hidden: Sequence[int],
        context: int = 0,
        bound: float = 2.0,
    ) -> None:
        super().__init__()
        check_at_least(1, latent_dim=dim, couplings=couplings)
        check_hidden(hidden)
        check_positive(bound=bound)
        halves = dim // 2, dim - dim // 2
        self.couplings = nn.ModuleList()
        orders = []
        for i in range(couplings):
            # A coupling moves its last coordinates; the second of a pair swaps the halves.
            kept, moved = halves if i % 2 == 0 or dim == 1 else halves[::-1]
            order = torch.randperm(dim) if i % 2 == 0 else orders[-1].roll(-(dim // 2))
            orders.append(order)
            self.couplings.append(_Coupling(kept, moved, hidden, context, bound))
        # Persistent buffers: they are random, so a checkpoint must hold them.
        self.register_buffer("orders", torch.stack(orders))
        self.register_buffer("places", torch.stack(orders).argsort(-1))

    def forward(
        self, u: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*broadcast dim"], Float[Tensor, "*broadcast"]]:
        """f(u, h) and log |det df/du|."""
        log_det = u.new_zeros(u.shape[:-1])
        for i, coupling in enumerate(self.couplings):
            u, term = coupling(u[..., self.orders[i]], context)
            u = u[..., self.places[i]]
            log_det = log_det + term
        return u, log_det

    def inverse(
        self, z: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*broadcast dim"], Float[Tensor, "*broadcast"]]:
        """f^-1(z, h), and log |det df/du| there."""
        log_det = z.new_zeros(z.shape[:-1])
        for i, coupling in reversed(list(enumerate(self.couplings))):
            z, term = coupling.inverse(z[..., self.orders[i]], context)
            z = z[..., self.places[i]]
            log_det = log_det + term
        return z, log_det


def check_hidden(hidden: Sequence[int]) -> None:
    """Check that there is a hidden layer and that none is empty.

    Raises:
        ValueError: If not.
    """
    if not hidden or min(hidden) < 1:
        raise ValueError(f"hidden must be one or more widths of at least 1, got {list(hidden)}.")
