"""Inverse autoregressive steps: one pass from the noise, one coordinate after another back to it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.networks.masked import MaskedMLP

# Gates start at sigmoid(1.5) = 0.82: a step keeps most of what it is given.
_GATE = 1.5


class _GatedStep(nn.Module):
    """y_i = s_i u_i + (1 - s_i) m_i, s_i = sigmoid(1.5 + a_i): m_i and a_i read u_1, ..., u_i-1 and h.

    Both are a linear map of h, which is all that u_1 has, plus a masked perceptron. At the start they
    are 0: y = 0.82 u.
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
        """logit s. Bounded, so that the inverse divides by nothing near 0."""
        # Under autocast products are bfloat16; a determinant of many gates needs more digits than that.
        raw = raw.to(self.of_context.weight.dtype)
        return _GATE + self.bound * torch.tanh(raw / self.bound)

    def forward(self, u: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        centre, raw = self.of_context(context).chunk(2, -1)
        centre = centre + self.centre(u, self.centre.start(context))
        gates = self._gates(raw + self.gate(u, self.gate.start(context)))
        return centre + torch.sigmoid(gates) * (u - centre), F.logsigmoid(gates).sum(-1)

    def inverse(self, y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """u_i = y_i + (y_i - m_i) exp(-logit s_i), one i after another.

        A hidden unit is computed once, when all that it reads is known, and gives its part to the
        outputs that are to come: the multiplications are those of one pass.
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
        # The first gate reads h alone, and may lack y's leading axes.
        log_det = sum((F.logsigmoid(gate) for gate in gates), torch.zeros_like(u[0]))
        return torch.stack(u, -1), log_det


class InverseAutoregressiveFlow(nn.Module):
    """f = f_T o ... o f_1, each f_t a gated autoregressive step in an order opposite to the last one's.

    f and its Jacobian are one pass a step. f^-1 takes the coordinates one after another, in as many
    multiplications. Untrained, f multiplies by sigmoid(1.5)^T.

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
        if dim < 1:
            raise ValueError(f"latent_dim must be at least 1, got {dim}.")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")
        if context < 1:
            raise ValueError(f"context must be at least 1, got {context}.")
        if not 0 < bound < float("inf"):
            raise ValueError(f"bound must be above 0 and finite, got {bound}.")
        self.steps = nn.ModuleList(_GatedStep(dim, hidden, context, bound) for _ in range(steps))

    def forward(
        self, u: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*broadcast dim"], Float[Tensor, "*broadcast"]]:
        """f(u, h) and log |det df/du|."""
        log_det = u.new_zeros(u.shape[:-1])
        for i, step in enumerate(self.steps):
            u, term = step(_turned(u, i), context)
            u, log_det = _turned(u, i), log_det + term
        return u, log_det

    def inverse(
        self, z: Float[Tensor, "*batch dim"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "*broadcast dim"], Float[Tensor, "*broadcast"]]:
        """f^-1(z, h), and log |det df/du| there."""
        log_det = z.new_zeros(z.shape[:-1])
        for i, step in reversed(list(enumerate(self.steps))):
            z, term = step.inverse(_turned(z, i), context)
            z, log_det = _turned(z, i), log_det + term
        return z, log_det


def _turned(z: Tensor, step: int) -> Tensor:
    """The coordinates in the order in which a step takes them, or back from it."""
    return z if step % 2 == 0 else z.flip(-1)
