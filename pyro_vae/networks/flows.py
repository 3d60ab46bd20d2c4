"""Masked perceptrons, and the invertible maps of flows: autoregressive and coupling."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.checks import check_at_least, check_positive

# Gates start at sigmoid(1.5) = 0.82: a step keeps most of its input.
_GATE = 1.5


class MaskedMLP(nn.Module):
    """g_i(x_<i, c) = S_i x + V_i relu(W x + A c + b), S, W and V masked to hide x_i, x_i+1, ...

    One hidden layer and a skip connection. Hidden unit k reads the first d_k elements, d spread
    evenly over 1, ..., elements - 1, and feeds those from d_k on. The context c goes to every
    hidden unit.

    Pyro's ConditionalAutoRegressiveNN gives the same function. This one can be run element by
    element at the cost of one pass in total, and has no lower limit on its width.

    Args:
        elements: The number of elements of x.
        context: The length of c.
        hidden: The number of hidden units.

    Raises:
        ValueError: If `hidden` is below 1.

    References:
        MADE (Germain et al., 2015), https://arxiv.org/abs/1502.03509; the recursion: The Neural
        Autoregressive Distribution Estimator (Larochelle & Murray, 2011),
        https://proceedings.mlr.press/v15/larochelle11a.html
    """

    degrees: Int[Tensor, " hidden"]
    order: Int[Tensor, " elements"]

    def __init__(self, elements: int, context: int, hidden: int) -> None:
        super().__init__()
        check_at_least(1, hidden=hidden)
        self.context = nn.Linear(context, hidden)
        bound = 1 / math.sqrt(max(elements, 1))
        self.read = nn.Parameter(torch.empty(hidden, elements).uniform_(-bound, bound))
        bound = 1 / math.sqrt(hidden)
        self.give = nn.Parameter(torch.empty(elements, hidden).uniform_(-bound, bound))
        self.skip = nn.Parameter(torch.zeros(elements, elements))
        # A single element has nothing before it: its units read only the context.
        first, last = min(1, elements - 1), elements - 1
        # On the CPU even where the module is built on the meta device: the edges are plain
        # numbers.
        degrees = torch.linspace(first, last, hidden, device="cpu").round().long().tolist()
        # Units edges[i] to edges[i + 1] read just the first i elements.
        self.edges = [bisect_left(degrees, i) for i in range(elements + 1)]
        self.register_buffer("degrees", torch.tensor(degrees), persistent=False)
        self.register_buffer("order", torch.arange(elements), persistent=False)

    def start(self, context: Float[Tensor, "*batch context"]) -> Float[Tensor, "*batch hidden"]:
        """A c + b, the value of hidden units before any element."""
        return self.context(context)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, V and S, masked."""
        read = self.read * (self.order < self.degrees[:, None])
        give = self.give * (self.order[:, None] >= self.degrees)
        return read, give, self.skip.tril(-1)

    def forward(
        self, x: Float[Tensor, "*#batch elements"], start: Float[Tensor, "*#batch hidden"]
    ) -> Float[Tensor, "*broadcast elements"]:
        """g for all elements, in one pass."""
        read, give, skip = self.weights()
        return F.linear(F.relu(start + F.linear(x, read)), give) + F.linear(x, skip)


class _GatedStep(nn.Module):
    """y_i = s_i u_i + (1 - s_i) m_i, s_i = sigmoid(1.5 + a_i), m_i and a_i of u_<i and h.

    Both are a linear map of h plus a masked perceptron. They start at 0, so y = 0.82 u.
    """

    def __init__(self, dim: int, hidden: int, context: int, bound: float) -> None:
        super().__init__()
        self.dim, self.bound = dim, bound
        self.of_context = nn.Linear(context, 2 * dim)
        self.centre = MaskedMLP(dim, context, hidden)
        self.gate = MaskedMLP(dim, context, hidden)
        for weight in (*self.of_context.parameters(), self.centre.give, self.gate.give):
            nn.init.zeros_(weight)

    def _gates(self, raw: Tensor) -> Tensor:
        """logit s, bounded so that the inverse does not divide by numbers near 0."""
        # Under autocast products are bfloat16; a determinant of many gates needs more digits than
        # that.
        raw = raw.to(self.of_context.weight.dtype)
        return _GATE + self.bound * torch.tanh(raw / self.bound)

    def forward(self, u: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        centre, raw = self.of_context(context).chunk(2, -1)
        centre = centre + self.centre(u, self.centre.start(context))
        gates = self._gates(raw + self.gate(u, self.gate.start(context)))
        return centre + torch.sigmoid(gates) * (u - centre), F.logsigmoid(gates).sum(-1)

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """u_i = y_i + (y_i - m_i) exp(-logit s_i), one i after another.

        Each hidden unit is computed once, when all its inputs are known, and added to the later
        outputs, so the multiplications are those of one pass.
        """
        networks = self.centre, self.gate
        weights = [network.weights() for network in networks]
        starts = [network.start(context) for network in networks]
        outputs = list(self.of_context(context).chunk(2, -1))
        u: list[Tensor] = []
        gates: list[Tensor] = []
        for i in range(self.dim):
            units = slice(*self.gate.edges[i : i + 2])
            known = torch.stack(u, -1) if u else None
            values = []
            for k, (read, give, skip) in enumerate(weights):
                if units.stop > units.start:
                    before = starts[k][..., units]
                    if known is not None:
                        before = before + F.linear(known, read[units, :i])
                    outputs[k] = outputs[k] + F.linear(F.relu(before), give[:, units])
                value = outputs[k][..., i]
                values.append(value if known is None else value + known @ skip[i, :i])
            gates.append(self._gates(values[1]))
            u.append(y[..., i] + (y[..., i] - values[0]) * (-gates[i]).exp())
        # The first gate depends on h alone, and may lack y's leading axes.
        log_det = sum((F.logsigmoid(gate) for gate in gates), torch.zeros_like(u[0]))
        return torch.stack(u, -1), log_det


class InverseAutoregressiveFlow(nn.Module):
    """f = f_T o ... o f_1, gated autoregressive steps that alternate the order of the coordinates.

    f and its Jacobian take one pass per step. f^-1 computes the coordinates one by one, in as many
    multiplications. At initialisation f multiplies by sigmoid(1.5)^T.

    Args:
        dim: The number of coordinates. With 1 a step is affine.
        steps: The number T of steps.
        hidden: The number of hidden units of each of a step's two networks.
        context: The width of the context h, at least 1.
        bound: The bound on what a network adds to a gate's 1.5, approached by a tanh.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        https://arxiv.org/abs/1606.04934
    """

    def __init__(
        self, dim: int, steps: int, hidden: int, context: int, bound: float = 4.0
    ) -> None:
        super().__init__()
        check_at_least(1, latent_dim=dim, steps=steps, context=context)
        check_positive(bound=bound)
        self.steps = nn.ModuleList(_GatedStep(dim, hidden, context, bound) for _ in range(steps))

    def forward(
        self, u: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*broadcast dim"], Float[Tensor, "*broadcast"]]:
        """f(u, h) and log |det df/du|."""
        log_det = u.new_zeros(u.shape[:-1])
        for i, step in enumerate(self.steps):
            u, term = step(_reorder(u, i), context)
            u, log_det = _reorder(u, i), log_det + term
        return u, log_det

    def inverse(
        self, z: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*broadcast dim"], Float[Tensor, "*broadcast"]]:
        """f^-1(z, h), and log |det df/du| there."""
        log_det = z.new_zeros(z.shape[:-1])
        for i, step in reversed(list(enumerate(self.steps))):
            z, term = step.inverse(_reorder(z, i), context)
            z, log_det = _reorder(z, i), log_det + term
        return z, log_det


def _reorder(z: Tensor, step: int) -> Tensor:
    """The coordinates in the order of a step, or back from it."""
    return z if step % 2 == 0 else z.flip(-1)


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
