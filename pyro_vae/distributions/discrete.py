"""One-hot vectors and spike and slab, with straight-through gradients, and binary sequences."""

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import Normal, constraints
from torch.nn import functional as F
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution

Estimator = Literal["gumbel_softmax", "straight_through"]


class _OneHots(constraints.Constraint):
    """Vectors of zeros with a single one in each run of `values` elements."""

    is_discrete = True
    event_dim = 1

    def __init__(self, values: int) -> None:
        self.values = values
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        runs = value.unflatten(-1, (-1, self.values))
        binary = ((runs == 0) | (runs == 1)).all(-1)
        return (binary & (runs.sum(-1) == 1)).all(-1)


class OneHots(Distribution):
    r"""p(z) = prod_v prod_k pi_vk^z_vk, pi_v = softmax(logits_v): V flattened one-hot vectors.

    `log_prob` is the mass of a vertex, never the density of a relaxation, so that bounds compare
    mass with mass. `rsample` returns a vertex with the gradient of another point, which is biased:
    with Gumbel noise g, that of softmax((logits + g) / temperature), or that of pi.

    Args:
        logits: log pi, up to a constant for each variable, `(*batch, variables, values)`.
        temperature: The temperature of the relaxation: lower is less biased and noisier.
        estimator: "gumbel_softmax", or "straight_through" for the gradient of pi.

    References:
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017),
        https://arxiv.org/abs/1611.01144;
        The Concrete Distribution (Maddison et al., 2017), https://arxiv.org/abs/1611.00712;
        Estimating or Propagating Gradients Through Stochastic Neurons (Bengio et al., 2013),
        https://arxiv.org/abs/1308.3432
    """

    arg_constraints = {"logits": constraints.independent(constraints.real, 2)}
    batched = ("logits",)
    has_rsample = True

    def __init__(
        self,
        logits: Float[Tensor, "*batch variables values"],
        temperature: float = 1.0,
        estimator: Estimator = "gumbel_softmax",
        validate_args: bool | None = None,
    ) -> None:
        self.logits = logits.log_softmax(-1)
        self.temperature, self.estimator = temperature, estimator
        variables, values = logits.shape[-2:]
        super().__init__(
            logits.shape[:-2], torch.Size((variables * values,)), validate_args=validate_args
        )

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Vectors with a single one for each variable."""
        return _OneHots(self.logits.shape[-1])

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Vertices, `(*sample_shape, *batch_shape, variables * values)`."""
        shape = torch.Size(sample_shape) + self.logits.shape
        uniform = _open_uniform(shape, self.logits)
        perturbed = self.logits - (-uniform.log()).log()
        soft = (
            (perturbed / self.temperature).softmax(-1)
            if self.estimator == "gumbel_softmax"
            else self.logits.exp().expand(shape)
        )
        # A comparison, because F.one_hot reads its argument in Python and cannot be traced.
        values = torch.arange(shape[-1], device=uniform.device)
        hard = (perturbed.argmax(-1, keepdim=True) == values).to(soft.dtype)
        return (hard + (soft - soft.detach())).flatten(-2)  # Exactly `hard`: the rest is 0.

    def log_prob(self, value: Float[Tensor, "*points dim"]) -> Float[Tensor, "*broadcast"]:
        """The logarithm of a vertex's mass."""
        if self._validate_args:
            self._validate_sample(value)
        runs = value.unflatten(-1, tuple(self.logits.shape[-2:]))
        return (runs * self.logits).sum((-2, -1))

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        """The probabilities pi, flattened."""
        return self.logits.exp().flatten(-2)

    @property
    def variance(self) -> Float[Tensor, "*batch dim"]:
        """pi (1 - pi), flattened."""
        return self.mean * (1 - self.mean)


class SpikeAndSlab(Distribution):
    r"""p(z) = (1 - gamma) delta_0(z) + gamma N(z | m, s^2), with gamma = sigmoid(logits).

    A density with respect to Lebesgue measure plus a point mass at 0: `log_prob(0)` is
    log(1 - gamma), elsewhere it is log gamma + log N(z | m, s^2).

    Draws are exactly 0 with probability 1 - gamma. Their gradients in m and s are exact in
    expectation. The gradient in the logits is a straight-through one, that of a gate
    sigmoid((logits + logistic noise) / temperature), and is biased: the gate steps from 0 to 1,
    and its true derivative, 0 wherever it exists, is replaced by that of the relaxation.

    Args:
        logits: log gamma / (1 - gamma), `(*batch)`.
        loc: m, `(*batch)`.
        scale: s, `(*batch)`.
        temperature: The temperature of the relaxed gate: lower is less biased and noisier.

    References:
        Bayesian Variable Selection in Linear Regression (Mitchell & Beauchamp, 1988),
        https://doi.org/10.1080/01621459.1988.10478694;
        Variational Sparse Coding (Tonolini et al., 2020),
        https://proceedings.mlr.press/v115/tonolini20a.html
    """

    arg_constraints = {
        "logits": constraints.real,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real  # pyright: ignore
    batched = ("logits", "loc", "scale")
    has_rsample = True

    def __init__(
        self,
        logits: Float[Tensor, "*#batch"],
        loc: Float[Tensor, "*#batch"],
        scale: Float[Tensor, "*#batch"],
        temperature: float = 0.5,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.loc, self.scale = torch.broadcast_tensors(logits, loc, scale)
        self.temperature = temperature
        super().__init__(self.logits.shape, validate_args=validate_args)

    @property
    def slab(self) -> Normal:
        """N(m, s^2)."""
        return Normal(self.loc, self.scale, validate_args=False)

    @property
    def probs(self) -> Tensor:
        """gamma, the probability that a draw is not 0."""
        return self.logits.sigmoid()

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draws with exact zeros, `(*sample_shape, *batch_shape)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = _open_uniform(shape, self.loc)
        perturbed = self.logits + uniform.log() - (-uniform).log1p()
        soft = (perturbed / self.temperature).sigmoid()
        gate = (perturbed > 0).to(soft.dtype) + (soft - soft.detach())
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return gate * (self.loc + self.scale * noise)

    def log_prob(self, value: Float[Tensor, "*points"]) -> Float[Tensor, "*broadcast"]:
        """The density with respect to Lebesgue measure plus a point mass at 0."""
        if self._validate_args:
            self._validate_sample(value)
        density = F.logsigmoid(self.logits) + self.slab.log_prob(value)
        return torch.where(value == 0, F.logsigmoid(-self.logits), density)

    @property
    def mean(self) -> Tensor:
        """gamma m."""
        return self.probs * self.loc

    @property
    def variance(self) -> Tensor:
        """gamma (s^2 + (1 - gamma) m^2)."""
        return self.probs * (self.scale.square() + (1 - self.probs) * self.loc.square())


def _open_uniform(shape: _size, like: Tensor) -> Tensor:
    """Uniform numbers inside (0, 1), of the type and device of a tensor."""
    limits = torch.finfo(like.dtype)
    uniform = torch.rand(shape, dtype=like.dtype, device=like.device)
    return uniform.clamp(limits.tiny, 1 - limits.eps)


@runtime_checkable
class Masked(Protocol):
    """A network of one hidden layer whose output i reads only the elements before i."""

    def __call__(self, x: Tensor, start: Tensor) -> Tensor:
        """The outputs for all elements, given the initial values of the hidden units."""
        ...

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Element to hidden unit, hidden unit to output, element to output."""
        ...


class AutoregressiveBernoulli(Distribution):
    r"""p(x) = prod_i Bernoulli(x_i | sigmoid(f_i + g_i(x_<i))), elements in row-major order.

    log p is one pass of the network g. Draws go through the elements one by one, but add each to
    the hidden units only once, so they take as many operations as a single pass.

    Args:
        logits: f, `(*batch, *event)`.
        start: The initial values of g's hidden units, `(*batch, hidden)`.
        network: g.
        event_dim: The number of axes of an event, at least 1.
    """

    batched = ("logits", "start")
    has_rsample = False

    def __init__(
        self,
        logits: Float[Tensor, "*batch_event"],
        start: Float[Tensor, "*batch hidden"],
        network: Masked,
        event_dim: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        event = logits.shape[-event_dim:]
        self.logits, self.start, self.network = logits.flatten(-event_dim), start, network
        super().__init__(start.shape[:-1], event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Binary events."""
        return constraints.independent(constraints.boolean, len(self.event_shape))

    def log_prob(self, value: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), in one pass."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.flatten(-len(self.event_shape)).to(self.logits.dtype)
        logits = self.logits + self.network(x, self.start)
        return (x * logits - F.softplus(logits)).sum(-1)

    def _in_order(self, shape: _size, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """Go through the elements: `choose` gets each one's probability given those before."""
        read, give, skip = self.network.weights()
        hidden = self.start.expand(*shape, self.start.shape[-1])
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        chosen = []
        for i in range(logits.shape[-1]):
            logit = logits[..., i] + F.relu(hidden) @ give[i]
            if chosen:
                logit = logit + torch.stack(chosen, -1) @ skip[i, :i]
            x = choose(torch.sigmoid(logit))
            hidden = hidden + x[..., None] * read[:, i]
            chosen.append(x)
        return torch.stack(chosen, -1).view(*shape, *self.event_shape)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape, *event_shape)`, without a gradient."""
        with torch.no_grad():
            return self._in_order(torch.Size(sample_shape) + self.batch_shape, torch.bernoulli)

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """A mean-field pass: sigmoid(f_i + g_i(m_<i)), with probabilities m in place of draws.

        This is E[x_i] for the first element, and for all elements where g is 0. E[x] itself is a
        sum over all events.
        """
        return self._in_order(self.batch_shape, lambda probability: probability)
