"""Paths between codes, decoded: how long they are, how even, and whether their middle looks like data."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.predictive.model_samples import (
    column_spreads,
    device_of,
    has_density,
    mean_data,
    new_data,
)
from analysis.representation.interpolation_reading import Interpolation, Profiles
from analysis.representation.latent_space import (
    at_codes,
    check_codes,
    continuous_support,
)
from pyro_vae.evidence import importance_weighting
from pyro_vae.generation import latent_path
from pyro_vae.rng import derive_seed, evaluation_mode

# log p(x) is computed at so many points of a path, its ends among them: a few say where it dips.
EVIDENCE_STEPS = 9
# Draws of the prior and real data that the paths are set beside, at most.
REFERENCES = 500
# So many paths are kept whole, for a picture.
SHOWN = 5


def interpolation(
    vae: Any,
    codes: Float[np.ndarray, "n latent"],
    *,
    x: Real[Tensor, " data *event"] | None = None,
    pairs: int = 50,
    steps: int = 21,
    num_samples: int = 50,
    seed: int = 0,
) -> Interpolation:
    """x(t) = E[x | z(t)], z(t) from z_a to z_b: its length, its speed, and log p along it.

    z(t) is the straight line at even steps; on the sphere the shorter great circle. Lines stay in
    every support that is convex: R^d, positive codes, the unit cube, the simplex.

    log p(x) is that of a draw x ~ p(x | z(t)), and not of the mean. A mean is no datum: that of
    binary pixels is grey, which has no probability, and that of noisy ones lacks the noise, which makes
    it far more probable than any datum. It is a lower bound by importance weighting, low for x whose
    code the guide does not find; so it is set beside the same bound of real data, and beside that of
    the cross-fade (1 - t) x_a + t x_b of the same data, which leaves the data: for whole numbers each
    element is rounded up or down at random, with that mean.

    Args:
        vae: A program with `model(x)`, `guide(x)`, `decode(z)` and one latent site.
        codes: Of data that did not train it, `vae.embed(x)`.
        x: Those data, in the likelihood's support; without them no real data and no cross-fade.
        pairs: How many pairs of different codes, chosen at random.
        steps: The number of points on a path, with both ends.
        num_samples: Draws from the guide for each log p(x).
        seed: The seed of the pairs and of all draws.

    Returns:
        What was found, with lengths in units of the data, or in spreads of the columns of a table in
        different units; read `middle_below` beside `end_below` and the cross-fade's.

    Raises:
        UndefinedCheckError: If there are several latent sites, or codes are one-hot.
        ValueError: If there are fewer than two codes, they are not finite, `pairs` or `num_samples` is
            below 1 or `steps` below 3, or the numbers of data and codes differ.

    References:
        Sampling Generative Networks (White, 2016), https://arxiv.org/abs/1609.04468 (great circles);
        Latent Space Oddity: on the Curvature of Deep Generative Models (Arvanitidis, Hansen &
        Hauberg, 2018), https://arxiv.org/abs/1710.11379 (lengths in data space)
    """
    support = continuous_support(vae)
    check_codes(codes, 2)
    for name, value, least in (
        ("pairs", pairs, 1),
        ("steps", steps, 3),
        ("num_samples", num_samples, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
    if x is not None and len(x) != len(codes):
        raise ValueError(f"each datum needs a code, got {len(x)} data and {len(codes)} codes.")
    chosen = random_pairs(len(codes), pairs, seed)
    z = latent_path(codes[chosen[:, 0]], codes[chosen[:, 1]], steps, support)
    means = mean_data(vae, z.reshape(-1, z.shape[-1]))
    decoded = means.reshape(*z.shape[:2], *means.shape[1:])
    at = np.unique(np.linspace(0, steps - 1, min(steps, EVIDENCE_STEPS)).round().astype(int))
    if (steps - 1) // 2 not in at:
        at = np.unique(np.append(at, (steps - 1) // 2))
    profiles = None
    like = torch.as_tensor(means[:1], device=device_of(vae)) if x is None else x[:1]
    if has_density(vae, like):
        profiles = _profiles(vae, z, at, chosen, x, like, support, num_samples, seed)
    return Interpolation(
        **decoded_steps(decoded / column_spreads(vae)),
        steps=steps,
        support=support,
        profiles=profiles,
        shown=decoded[:SHOWN],
        ends=None if x is None else x[chosen[:SHOWN].ravel()].cpu().numpy(),
    )


def decoded_steps(
    path: Float[np.ndarray, "pairs steps *event"],
) -> dict[str, Float[np.ndarray, " pairs"]]:
    """sum_i |x_{i+1} - x_i| of each path, |x_b - x_a|, its largest and mean step, and its bend.

    The bend is sum_i |x_{i+1} - 2 x_i + x_{i-1}| over the length: 0 for a straight path of even
    steps, and about 2 for one that turns back at each step.
    """
    path = path.reshape(*path.shape[:2], -1).astype(np.float64)
    differences = np.diff(path, axis=1)
    sizes = np.linalg.norm(differences, axis=-1)
    length = sizes.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        bend = np.linalg.norm(np.diff(differences, axis=1), axis=-1).sum(1) / length
    return {
        "length": length,
        "distance": np.linalg.norm(path[:, -1] - path[:, 0], axis=-1),
        "largest_step": sizes.max(1),
        "mean_step": sizes.mean(1),
        "bend": bend,
    }


def random_pairs(n: int, pairs: int, seed: int) -> np.ndarray:
    """Pairs of different rows, chosen at random."""
    rng = np.random.default_rng(derive_seed(seed, "pairs of codes"))
    first = rng.integers(n, size=pairs)
    return np.stack([first, (first + rng.integers(1, n, size=pairs)) % n], 1)


def cross_fade(
    start: Real[Tensor, " pairs *event"],
    end: Real[Tensor, " pairs *event"],
    shares: Float[np.ndarray, " steps"],
    *,
    seed: int,
) -> Float[Tensor, " pairs steps *event"]:
    """(1 - t) x_a + t x_b; of whole numbers rounded up or down at random, with that mean.

    Args:
        start: x_a.
        end: x_b.
        shares: t.
        seed: The seed of the rounding.
    """
    t = torch.as_tensor(shares, dtype=torch.get_default_dtype(), device=start.device)
    t = t.reshape(-1, *(1,) * (start.dim() - 1))
    first, second = (v.unsqueeze(1).to(t.dtype) for v in (start, end))
    mixed = (1 - t) * first + t * second
    if bool((first == first.floor()).all() and (second == second.floor()).all()):
        generator = torch.Generator().manual_seed(derive_seed(seed, "cross-fade"))
        mixed = (mixed + torch.rand(mixed.shape, generator=generator).to(mixed)).floor()
        # Rounding of the sum may reach the next number where the mean is whole.
        mixed = mixed.minimum(torch.maximum(first, second))
    return mixed


def _profiles(
    vae: Any,
    z: np.ndarray,
    at: np.ndarray,
    chosen: np.ndarray,
    x: Tensor | None,
    like: Tensor,
    support: str,
    num_samples: int,
    seed: int,
) -> Profiles:
    points = z[:, at]
    drawn = at_codes(
        vae, points.reshape(-1, z.shape[-1]), like, seed=derive_seed(seed, "paths of data")
    )
    log_prior = drawn.log_prior.reshape(points.shape[:2])
    new = new_data(vae, like, REFERENCES, seed=derive_seed(seed, "references"))
    of_prior = at_codes(vae, new.z.reshape(REFERENCES, -1), like, seed=seed).log_prior
    # A density with respect to a measure with masses at 0 has no one unit along a path.
    defined = support != "sparse" and bool(np.isfinite(log_prior).all())

    reasons: list[str | None] = []

    def evidence(data: Any, what: str) -> np.ndarray:
        with evaluation_mode(vae, seed=derive_seed(seed, f"log p(x) of {what}")):
            found = importance_weighting(
                vae.model,
                vae.guide,
                torch.as_tensor(data, device=like.device),
                num_samples=num_samples,
            )
        reasons.append(found.withheld)
        return found.log_evidence

    shares = at / (z.shape[1] - 1)
    fade = real = None
    if x is not None:
        mixed = cross_fade(x[chosen[:, 0]], x[chosen[:, 1]], shares, seed=seed)
        fade = evidence(mixed.flatten(0, 1), "cross-fades").reshape(points.shape[:2])
        rng = np.random.default_rng(derive_seed(seed, "real data"))
        rows = rng.permutation(len(x))[:REFERENCES]
        real = evidence(x[torch.as_tensor(rows, device=x.device)], "data")
    of_paths, of_new = evidence(drawn.x, "paths"), evidence(new.x, "new data")
    return Profiles(
        shares=shares,
        log_prior=log_prior if defined else None,
        prior_draws=of_prior if defined else None,
        log_evidence=of_paths.reshape(points.shape[:2]),
        cross_fade=fade,
        data=real,
        model_draws=of_new,
        num_samples=num_samples,
        withheld=next(filter(None, reasons), None),
    )
