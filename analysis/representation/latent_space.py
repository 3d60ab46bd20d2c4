"""What the checks of continuity ask of a program: its latent support, and p(z) and x ~ p(x | z) at given codes."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Real
from pyro import poutine
from torch import Tensor

from analysis.check import UndefinedCheckError
from analysis.predictive.model_samples import block_size, latent_site, narrow_dtype, to_array
from pyro_vae.inference_data import unconditioned
from pyro_vae.rng import as_floats, evaluation_mode


@dataclass(frozen=True)
class AtCodes:
    """log p(z) and a draw x ~ p(x | z) at each of n codes.

    Args:
        log_prior: log p(z), in nats.
        x: The draws, in the narrowest type that holds them.
    """

    log_prior: Float[np.ndarray, " n"]
    x: Real[np.ndarray, " n *event"]


def continuous_support(vae: Any) -> str:
    """The support of z, in the words that priors declare: "real", "positive", "unit", "simplex", "sphere", "sparse".

    A program without such a word is taken to be on R^d.

    Raises:
        UndefinedCheckError: If there are several latent sites, or z is one-hot: nothing lies between
            two of its values.
    """
    latent_site(vae)
    support = getattr(getattr(vae, "prior", None), "support", "real")
    if support == "one_hot":
        raise UndefinedCheckError(
            "continuity can be checked of a continuous code, got one-hot codes: nothing lies between two."
        )
    return support


def check_codes(codes: Float[np.ndarray, "n latent"], fewest: int) -> None:
    """Refuse codes that are too few or not finite.

    Raises:
        ValueError: If they are.
    """
    if len(codes) < fewest:
        raise ValueError(f"at least {fewest} codes are needed, got {len(codes)}.")
    if not np.isfinite(codes).all():
        bad = int((~np.isfinite(codes)).any(1).sum())
        raise ValueError(f"codes must be finite, got {bad} of {len(codes)} that are not.")


def at_codes(
    vae: Any,
    codes: Float[np.ndarray, "n latent"],
    like: Real[Tensor, " _ *event"],
    *,
    seed: int,
) -> AtCodes:
    """log p(z) and x ~ p(x | z), at codes that are given.

    Args:
        vae: A program with `model(x)`, one latent site and the observed site `"x"`.
        codes: In the support of z.
        like: A datum or more in the likelihood's support: of it the model reads shape and device.
        seed: The seed of the draws.
    """
    site = latent_site(vae)
    size = block_size(like, 1)
    densities, data = [], []
    with evaluation_mode(vae, seed=seed):
        for part in _tensors(codes, like).split(size):
            model = poutine.condition(unconditioned(vae.model), data={site: part})
            x = as_floats(like[:1]).expand(len(part), *like.shape[1:])
            trace = poutine.trace(model).get_trace(x)
            nodes = cast("dict[str, Any]", trace.nodes)
            densities.append(to_array(nodes[site]["fn"].log_prob(part)).astype(np.float64))
            data.append(narrow_dtype(to_array(nodes["x"]["value"])))
    return AtCodes(np.concatenate(densities).reshape(len(codes)), np.concatenate(data))


def _tensors(codes: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(codes, dtype=torch.get_default_dtype(), device=like.device)
