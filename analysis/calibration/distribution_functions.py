"""P(x' < x) and P(x' = x) of the distributions for which they cost less than draws."""

from functools import singledispatch

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Laplace, Normal, Poisson

from pyro_vae.distributions import CategoricalLevels, DiscretizedLogistic, NegativeBinomial

# Up to this count a sum over the smaller ones is cheaper than an incomplete beta function.
LARGEST_SUM = 64


@singledispatch
def distribution_function(
    distribution: Distribution, x: Float[Tensor, " *event"], log_prob: Float[Tensor, " *batch"]
) -> tuple[Tensor, Tensor] | None:
    """P(x' < x) and P(x' = x), to be broadcast with each other; None where draws have to do.

    Args:
        distribution: Of single elements.
        x: Where, in the last axes of the distribution's batch shape.
        log_prob: Its `log_prob(x)`, which is known by then.
    """
    return None


@distribution_function.register(Normal)
@distribution_function.register(Laplace)
def _(distribution: Distribution, x: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    return distribution.cdf(x), torch.zeros(())


@distribution_function.register
def _(distribution: Poisson, x: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    equal = log_prob.exp()
    upper = torch.special.gammaincc(x + 1, distribution.rate)
    return (upper - equal).clamp_(min=0), equal


@distribution_function.register
def _(distribution: DiscretizedLogistic, x: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    below = torch.sigmoid((x - 0.5 - distribution.loc) / distribution.scale)
    return torch.where(x <= 0, 0.0, below), log_prob.exp()


@distribution_function.register
def _(distribution: CategoricalLevels, x: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    equal = log_prob.exp()
    level = x.long().expand(equal.shape).unsqueeze(-1)
    return (distribution.probs.cumsum(-1).gather(-1, level).squeeze(-1) - equal).clamp_(0), equal


@distribution_function.register
def _(distribution: NegativeBinomial, x: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """Zero where x = 0, which most counts are; a sum up to it, or 1 - I_q(x, t), where it is not."""
    from scipy.special import betainc

    equal = log_prob.exp()
    shape, event = equal.shape, x.numel()

    def at(parameter: Tensor, where: Tensor) -> Tensor:
        return parameter.expand(shape).reshape(-1, event)[:, where].double()

    # Largest first: those that the sum has not reached yet are the first few.
    counts, order = x.reshape(-1).sort(descending=True)
    large, positive = (int((counts > limit).sum()) for limit in (LARGEST_SUM, 0))
    where = order[:positive]
    log_t, log_mean = (
        at(parameter, where)
        for parameter in (distribution.log_inverse_dispersion, distribution.log_mean)
    )
    t, q = log_t.exp(), torch.sigmoid(log_mean - log_t)
    found = torch.zeros_like(t)
    if large:
        a = counts[:large].double().expand(len(t), large)
        upper = betainc(a.cpu().numpy(), t[:, :large].cpu().numpy(), q[:, :large].cpu().numpy())
        found[:, :large] = 1 - torch.as_tensor(upper, device=found.device)
    term = torch.exp(-t * torch.nn.functional.softplus(log_mean - log_t))[:, large:]
    t, q, small = t[:, large:], q[:, large:], counts[large:positive]
    for k in range(int(small[0]) if len(small) else 0):
        left = int((small > k).sum())
        term = term[:, :left]
        found[:, large : large + left] += term
        term = term * (k + t[:, :left]) / (k + 1) * q[:, :left]
    if distribution.gate_logits is not None:
        gate = torch.sigmoid(at(distribution.gate_logits, where))
        found = gate + (1 - gate) * found
    below = torch.zeros_like(equal).reshape(-1, event)
    below[:, where] = found.clamp_(0, 1).to(below.dtype)
    return below.reshape(shape), equal
