"""Distributions of levels 0, ..., levels - 1: categorical, logistic, logistic mixtures."""

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F
from torch.types import _size

from pyro_vae.distributions.distribution import Distribution


class CategoricalLevels(dist.Categorical):
    """Categorical(x | softmax(logits)) for the levels x = 0, ..., levels - 1.

    Unlike torch's, whose moments are nan, it has a mean and a variance: levels are numbers.
    """

    def _expectation(self, power: int) -> Tensor:
        levels = torch.arange(self.probs.shape[-1], device=self.probs.device)
        return self.probs @ (levels.to(self.probs.dtype) ** power)

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """sum_k k p_k."""
        return self._expectation(1)

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        """sum_k k^2 p_k - mean^2."""
        return self._expectation(2) - self.mean.square()


def discretized_logistic_log_prob(
    x: Real[Tensor, "*#shape"],
    loc: Float[Tensor, "*#shape"],
    scale: Float[Tensor, "*#shape"],
    levels: int,
) -> Float[Tensor, "*broadcast"]:
    """log(F(x + 1/2) - F(x - 1/2)), F the logistic's CDF; the end levels take the tails.

    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)) is a product whose logarithm
    is exact in the tails, where the difference is 0 in float32.
    """
    below = F.logsigmoid((x + 0.5 - loc) / scale)
    above = F.logsigmoid((loc - x + 0.5) / scale)
    between = below + above + (-torch.expm1(-1 / scale)).log()
    return torch.where(x <= 0, below, torch.where(x >= levels - 1, above, between))


def discretized_logistic_mean(
    loc: Float[Tensor, "*#shape"], scale: Float[Tensor, "*#shape"], levels: int
) -> Float[Tensor, "*broadcast"]:
    """E[x] = sum_{k=1}^{levels - 1} P(x >= k), one level at a time to save memory."""
    mean = torch.zeros_like(loc + scale)
    for level in range(1, levels):
        mean = mean + torch.sigmoid((loc - level + 0.5) / scale)
    return mean


def discretized_logistic_sample(
    loc: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"], levels: int
) -> Float[Tensor, "*shape"]:
    """The level nearest to a draw of the logistic distribution."""
    # In float64, whose uniform numbers reach into the tails.
    noise = torch.rand(loc.shape, dtype=torch.float64, device=loc.device).logit(eps=1e-16)
    return (loc + scale * noise).round().clamp(0, levels - 1).to(loc.dtype)


class DiscretizedLogistic(Distribution):
    r"""p(x) = F((x + 1/2 - loc) / scale) - F((x - 1/2 - loc) / scale), x = 0, ..., levels - 1.

    F is the sigmoid. The lowest level has all mass below 1/2, the highest all above levels - 3/2.

    Args:
        loc: The logistic's location, in levels.
        scale: Its scale, in levels; broadcasts with `loc`.
        levels: The number of levels, at least 2.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016),
        section 5, https://arxiv.org/abs/1606.04934
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    batched = ("loc", "scale")
    has_rsample = False

    def __init__(
        self,
        loc: Float[Tensor, "*#batch"],
        scale: Float[Tensor, "*#batch"],
        levels: int,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """The levels."""
        return constraints.integer_interval(0, self.levels - 1)

    def log_prob(self, value: Real[Tensor, "*#batch"]) -> Float[Tensor, "*broadcast"]:
        """log p(x), element by element."""
        if self._validate_args:
            self._validate_sample(value)
        return discretized_logistic_log_prob(value, self.loc, self.scale, self.levels)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws, `(*sample_shape, *batch_shape)`, without a gradient."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            loc, scale = self.loc.expand(shape), self.scale.expand(shape)
            return discretized_logistic_sample(loc, scale, self.levels)

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """E[x], the sum over the levels."""
        return discretized_logistic_mean(self.loc, self.scale, self.levels)

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        """E[(x - m)^2] - (E[x] - m)^2 about the level m nearest to the location.

        E[(x - m)^2] = sum_{j >= 1} (2 j - 1) (P(x >= m + j) + P(x <= m - j)), one level at a time.
        """
        center = self.loc.round().clamp(0, self.levels - 1)
        first, second = torch.zeros_like(center), torch.zeros_like(center)
        for level in range(1, self.levels):
            # P(x >= level) of a level above the center, P(x <= level - 1) of another.
            sign = torch.where(level > center, 1.0, -1.0)
            mass = torch.sigmoid(sign * (self.loc - level + 0.5) / self.scale)
            first = first + sign * mass
            second = second + (2 * sign * (level - 0.5 - center)) * mass
        return second - first.square()


class LogisticMixture(Distribution):
    r"""p(x) = prod_pixels sum_k w_k prod_c p_k(x_c | x_<c), mixtures of discretized logistics.

    Without coefficients each element has its own mixture. With them an event is (3, ...): the red,
    green and blue of a pixel share the component, and in component k green's location moves by
    a_k (x_red - m), blue's by b_k (x_red - m) + c_k (x_green - m), m = (levels - 1) / 2.

    Args:
        logits: log w up to a constant, `(*batch, components, *event)`, or with coefficients
            `(*batch, components, 1, *positions)`.
        loc: Locations in levels, `(*batch, components, *event)`.
        scale: Scales in levels, of the same shape.
        levels: The number of levels, at least 2.
        event_dim: The number of axes of an event, at least 1.
        coefficients: a, b and c, `(*batch, components, 3, *positions)`; None for elements that are
            independent given the parameters.

    References:
        PixelCNN++ (Salimans et al., 2017), sections 2.1 and 2.2, https://arxiv.org/abs/1701.05517
    """

    batched = ("logits", "loc", "scale", "coefficients")
    has_rsample = False

    def __init__(
        self,
        logits: Float[Tensor, "*logits"],
        loc: Float[Tensor, "*parameters"],
        scale: Float[Tensor, "*parameters"],
        levels: int,
        event_dim: int = 1,
        coefficients: Float[Tensor, "*parameters"] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.axis = -1 - event_dim
        self.logits, self.loc, self.scale, self.coefficients = logits, loc, scale, coefficients
        self.levels = levels
        super().__init__(
            loc.shape[: self.axis], loc.shape[self.axis + 1 :], validate_args=validate_args
        )

    @property
    def support(self) -> constraints.Constraint:  # pyright: ignore
        """Events of levels."""
        level = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(level, len(self.event_shape))

    def _conditional_loc(self, x: Tensor, loc: Tensor, coefficients: Tensor | None) -> Tensor:
        """Locations given the preceding channels of x."""
        if coefficients is None:
            return loc
        axis = self.axis + 1
        red, green, _ = (x - (self.levels - 1) / 2).split(1, axis)
        a, b, c = coefficients.split(1, axis)
        moved = torch.cat([torch.zeros_like(a * red), a * red, b * red + c * green], axis)
        return loc + moved

    def log_prob(self, value: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*broadcast"]:
        """log p(x)."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.to(self.loc.dtype).unsqueeze(self.axis)
        loc = self._conditional_loc(x, self.loc, self.coefficients)
        log_prob = discretized_logistic_log_prob(x, loc, self.scale, self.levels)
        if self.coefficients is not None:
            log_prob = log_prob.sum(self.axis + 1, keepdim=True)
        log_prob = torch.logsumexp(self.logits.log_softmax(self.axis) + log_prob, self.axis)
        return log_prob.sum(tuple(range(self.axis + 1, 0)))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """A component for each pixel, then channel after channel, without a gradient."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            p = self.expand(shape[: len(shape) - len(self.event_shape)])
            # The Gumbel-max trick: torch.multinomial wants the components on the last axis.
            noise = torch.rand_like(p.logits.contiguous()).clamp(min=1e-20).log().neg().log().neg()
            component = (p.logits + noise).argmax(self.axis, keepdim=True)

            def chosen(parameter: Tensor) -> Tensor:
                index = component.expand(
                    *parameter.shape[: self.axis], 1, *parameter.shape[self.axis + 1 :]
                )
                return parameter.gather(self.axis, index).squeeze(self.axis)

            loc, scale = chosen(p.loc), chosen(p.scale)
            if p.coefficients is None:
                return discretized_logistic_sample(loc, scale, self.levels)
            coefficients = chosen(p.coefficients)
            x = torch.full_like(loc, (self.levels - 1) / 2)
            # A pass sets one channel: later channels depend on the value that was kept.
            axis = self.axis + 1
            for channel in range(3):
                given = self._conditional_loc(x, loc, coefficients)
                drawn = discretized_logistic_sample(
                    given.narrow(axis, channel, 1), scale.narrow(axis, channel, 1), self.levels
                )
                x.narrow(axis, channel, 1).copy_(drawn)
            return x

    @property
    def mean(self) -> Float[Tensor, "*batch_event"]:
        """E[x]; with coefficients, green's and blue's given the mean of the preceding channels.

        The latter is exact except for the clipping to the levels: a location within their range
        moves linearly with the preceding channel.
        """
        loc = self.loc
        mean = discretized_logistic_mean(loc, self.scale, self.levels)
        if self.coefficients is not None:
            for _ in range(2):  # Green's mean is right after the first, blue's after the second.
                loc = self._conditional_loc(mean, self.loc, self.coefficients)
                mean = discretized_logistic_mean(loc, self.scale, self.levels)
        return (self.logits.softmax(self.axis) * mean).sum(self.axis)
