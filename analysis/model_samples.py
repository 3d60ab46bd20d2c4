"""Draw arrays from a trained VAE in blocks: the thin layer between a program and the checks.

Everything here runs in evaluation mode under its own seed, and restores the global random state
and each module's mode. The block size bounds the memory; another block size is like another seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, cast

import numpy as np
import pyro
import torch
from jaxtyping import Float, Real
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, Laplace, Normal, Poisson

from analysis.result import UndefinedCheckError
from pyro_vae import networks
from pyro_vae.compilation.fast_functions import FastFunctions
from pyro_vae.distributions import CategoricalLevels, DiscretizedLogistic, NegativeBinomial
from pyro_vae.inference_data import unconditioned
from pyro_vae.log_densities import (
    LogDensities,
    NoDensityError,
    check_density,
    distribution_at,
    log_densities,
)
from pyro_vae.rng import as_floats, derive_seed, evaluation_mode

# Elements of data held at a time.
MAX_ELEMENTS = 8_000_000
# Largest count up to which a sum over smaller ones is cheaper than an incomplete beta function.
LARGEST_SUM = 64


@dataclass(frozen=True)
class NewData:
    """Full draws from the model: z ~ p(z), x ~ p(x | z).

    Args:
        z: The codes; of several latent sites, all of them beside one another.
        x: The data, in the narrowest type that holds them.
    """

    z: Float[np.ndarray, " n *latent"]
    x: Real[np.ndarray, " n *event"]


def new_data(vae: Any, like: Real[Tensor, " _ *event"], n: int, *, seed: int) -> NewData:
    """Generate n examples from the model.

    The random stream differs from the guide's under the same seed: a code is not one of its draws.

    Args:
        vae: A program with `model(x)`, `latent_sites` and the observed site `"x"`.
        like: At least one example in the likelihood's support, for its shape and device.
        n: The number of examples.
        seed: The seed of the draws.
    """
    size = block_size(like, 1)
    codes, data = [], []
    with evaluation_mode(vae, seed=derive_seed(seed, "new data")):
        for start in range(0, n, size):
            block = as_floats(like[:1]).expand(min(size, n - start), *like.shape[1:])
            trace = poutine.trace(unconditioned(vae.model)).get_trace(block)
            nodes = cast("dict[str, Any]", trace.nodes)
            z = [nodes[site]["value"] for site in vae.latent_sites]
            codes.append(to_array(z[0] if len(z) == 1 else torch.cat(z, -1)))
            data.append(narrow_dtype(to_array(nodes["x"]["value"])))
    return NewData(np.concatenate(codes), np.concatenate(data))


def mean_data(vae: Any, z: Float[np.ndarray, " n *latent"]) -> Float[np.ndarray, " n *event"]:
    """The mean of p(x | z) at each code."""
    device = device_of(vae)
    with evaluation_mode(vae):
        parts = torch.as_tensor(z, dtype=torch.get_default_dtype()).split(1000)
        return np.concatenate([to_array(vae.decode(part.to(device))) for part in parts])


def column_spreads(vae: Any) -> Float[np.ndarray, " columns"] | float:
    """The scale of each column of a table in different units (see `standardisation`); otherwise 1.

    Without it, distances between rows would be those of the column with the largest numbers.
    """
    spreads = networks.column_spreads(vae)
    return to_array(spreads.double()) if isinstance(spreads, Tensor) else spreads


def embed_data(vae: Any, x: Real[Tensor, " n *event"]) -> Float[np.ndarray, "n latent"]:
    """The code of each example as a vector, in float64."""
    with evaluation_mode(vae):
        codes = [to_array(vae.embed(as_floats(part))) for part in x.split(block_size(x, 1))]
    return np.concatenate(codes).reshape(len(x), -1).astype(np.float64)


def guide_blocks(
    vae: Any, x: Real[Tensor, " n *event"], num_draws: int, *, seed: int
) -> Iterator[tuple[slice, LogDensities]]:
    """Yield the terms of `num_draws` draws from the guide per example, by blocks of examples.

    Each block is a slice of the data and their `LogDensities`, of shape `(num_draws, block)`,
    whose traces hold the guide's and the model's distributions and values. Until the last block
    has been taken, random numbers that the caller draws come from the same stream.
    """
    size = block_size(x, num_draws)
    with evaluation_mode(vae, seed=seed):
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            with pyro.validation_enabled(start == 0), FastFunctions():
                block = as_floats(x[rows])
                terms = log_densities(vae.model, vae.guide, block, num_particles=num_draws)
            yield rows, terms


def element_distribution(terms: LogDensities, site: str = "x") -> Distribution:
    """p(x_i | z) of each element, of which p(x | z) is the product.

    Raises:
        UndefinedCheckError: If p(x | z) is no product over elements.
    """
    distribution = distribution_at(terms.model_trace, site)
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    if distribution.event_shape:
        raise UndefinedCheckError(
            f"p(x | z) is no product over elements: {type(distribution).__name__} has events of "
            f"shape {tuple(distribution.event_shape)}."
        )
    return distribution


def has_density(vae: Any, x: Real[Tensor, " n *event"]) -> bool:
    """Whether the guide has a density; an autoencoder's, which is a point, has none.

    Args:
        vae: A program with `guide(x)`.
        x: At least one example in the likelihood's support, on the program's device.
    """
    try:
        check_density(vae.guide, x, "what is asked")
    except NoDensityError:
        return False
    return True


def device_of(vae: Any) -> torch.device:
    """The device of the program's parameters."""
    return next((p.device for p in vae.parameters()), torch.device("cpu"))


def latent_site(vae: Any) -> str:
    """The name of the program's only latent site.

    Raises:
        UndefinedCheckError: If it has several.
    """
    if len(vae.latent_sites) != 1:
        raise UndefinedCheckError(
            f"one latent site can be checked, got {', '.join(vae.latent_sites)}."
        )
    return vae.latent_sites[0]


def block_size(
    x: Real[Tensor, " _ *event"], num_draws: int, max_elements: int = MAX_ELEMENTS
) -> int:
    """The number of examples that are held at once with their draws."""
    return max(1, max_elements // max(1, num_draws * x[0].numel()))


def to_array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array on the CPU."""
    return tensor.detach().cpu().numpy()


def narrow_dtype(x: np.ndarray) -> np.ndarray:
    """Convert whole numbers up to 255 to bytes, up to 65,535 to two bytes, others not at all."""
    for kind in (np.uint8, np.uint16):
        limits = np.iinfo(kind)
        # The first test is quick, and decides for most floats.
        if x.min() >= 0 and x.max() <= limits.max and (x == np.floor(x)).all():
            return x.astype(kind)
    return x


@singledispatch
def distribution_function(
    distribution: Distribution, x: Float[Tensor, " *event"], log_prob: Float[Tensor, " *batch"]
) -> tuple[Tensor, Tensor] | None:
    """P(x' < x) and P(x' = x), up to broadcasting; None where draws are needed instead.

    Args:
        distribution: A distribution of single elements.
        x: The values, in the last axes of the distribution's batch shape.
        log_prob: Its `log_prob(x)`.
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
    """Zero where x = 0, as for most counts; otherwise a sum up to x, or 1 - I_q(x, t)."""
    from scipy.special import betainc

    equal = log_prob.exp()
    shape, event = equal.shape, x.numel()

    def at(parameter: Tensor, where: Tensor) -> Tensor:
        return parameter.expand(shape).reshape(-1, event)[:, where].double()

    # In descending order: those that the sum has not reached yet come first.
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
        upper = betainc(*(v.cpu().numpy() for v in (a, t[:, :large], q[:, :large])))
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
