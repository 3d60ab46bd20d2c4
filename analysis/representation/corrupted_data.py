"""A program's data, damaged: which damages fit its likelihood, by which strengths."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Real
from torch import Tensor

from analysis.representation.corruptions import damages_for

# A `Damage`, or what is called as one: `(x, strength, seed, *, support, levels)` -> x, damaged.
AnyDamage = Callable[..., Any]

STRENGTHS = (0.0, 0.1, 0.2, 0.4, 0.6)


def support_of(vae: Any, x: Real[Tensor, " n *event"]) -> str:
    """The likelihood's support, or what the data look like where the program does not say."""
    declared = getattr(getattr(vae, "likelihood", None), "support", None)
    if declared is not None:
        return declared
    if ((x == 0) | (x == 1)).all():
        return "binary"
    return "real" if x.is_floating_point() else "counts"


def damaged(
    vae: Any, damage: AnyDamage, x: Real[Tensor, " n *event"], strength: float, seed: int
) -> Real[Tensor, " n *event"]:
    """x, damaged inside the support of the program's likelihood."""
    levels = getattr(getattr(vae, "likelihood", None), "levels", None)
    return damage(x, strength, seed, support=support_of(vae, x), levels=levels)


def chosen_damages(
    vae: Any, x: Real[Tensor, " n *event"], damages: Mapping[str, AnyDamage] | Sequence[str] | None
) -> dict[str, AnyDamage]:
    """The damages asked for, or all that fit the data.

    Raises:
        ValueError: If none fits, or one asked for does not.
    """
    if isinstance(damages, Mapping):
        return dict(damages)
    fitting = damages_for(tuple(x.shape[1:]), support_of(vae, x))
    names = tuple(fitting) if damages is None else tuple(damages)
    if not names or not set(names) <= set(fitting):
        raise ValueError(f"damages must be some of {', '.join(fitting)}, got {', '.join(names)}.")
    return {name: fitting[name] for name in names}


def check_strengths(strengths: Sequence[float]) -> tuple[float, ...]:
    """The strengths, with 0 before them.

    Raises:
        ValueError: If none is above 0, or they do not rise to 1 at most.
    """
    found = tuple(float(strength) for strength in strengths)
    if 0.0 not in found[:1]:
        found = (0.0, *found)
    if len(found) < 2 or not (np.diff(found) > 0).all() or found[-1] > 1:
        raise ValueError(f"strengths must rise from 0 to at most 1, got {tuple(strengths)}.")
    return found
