"""Foreign data to try a detector on: made from the model's own, in the likelihood's support."""

from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor

from analysis.plotting.images import is_image
from pyro_vae.rng import derive_seed

# What is wrong with the stand-ins, in a word or two, for axes and tables.
STAND_INS = {
    "inverted": "light and dark exchanged",
    "flipped": "upside down",
    "rotated": "turned by 90 degrees",
    "shuffled": "elements in another order",
    "noise": "elements drawn independently",
    "constant": "all elements alike",
    "pooled": "totals kept, proportions of all data",
}


def support_of(vae: Any) -> str | None:
    """What the program's likelihood is a density on; None if it does not say."""
    return getattr(getattr(vae, "likelihood", None), "support", None)


def check_foreign(
    own: Real[Tensor, " n *event"],
    foreign: Tensor,
    support: str | None,
    *,
    levels: int | None = None,
    name: str = "foreign data",
) -> None:
    """Raise unless foreign data are of the same shape as the model's own, and in its support.

    Args:
        own: The model's own data.
        foreign: The others.
        support: What the likelihood is a density on: binary, unit, real, integers or counts; None if
            unknown, and then binary if own data are.
        levels: The number of levels of integers, if known.
        name: What to call the foreign data.

    Raises:
        ValueError: If there are none, their events have another shape, or values are not in the support.
    """
    if len(foreign) == 0:
        raise ValueError(f"{name}: there must be at least one datum, got none.")
    if foreign.shape[1:] != own.shape[1:]:
        raise ValueError(
            f"{name}: data must have the shape {tuple(own.shape[1:])} of the model's own, got "
            f"{tuple(foreign.shape[1:])}."
        )
    if support is None and _is_binary(own):
        support = "binary"
    low, high = float(foreign.min()), float(foreign.max())
    whole = not foreign.is_floating_point() or bool((foreign == foreign.floor()).all())
    fits = {
        "binary": whole and low >= 0 and high <= 1,
        "unit": low >= 0 and high <= 1,
        "integers": whole and low >= 0 and (levels is None or high <= levels - 1),
        "counts": whole and low >= 0,
    }
    finite = torch.isfinite(torch.tensor([low, high])).all()
    if not (finite and fits.get(str(support), True)):
        kind = "values" if whole else "fractions"
        raise ValueError(
            f"{name}: data must be prepared as the model's own, for a {support} likelihood, got {kind} "
            f"from {low:.3g} to {high:.3g}."
        )


def stand_ins(
    x: Real[Tensor, " n *event"],
    *,
    seed: int = 0,
    support: str | None = None,
    levels: int | None = None,
) -> dict[str, Real[Tensor, " n *event"]]:
    """Foreign data that need no other data set: each changes one thing about the model's own.

    `shuffled` keeps each element's distribution but for its place: one permutation of the elements, the
    same for all data. `noise` keeps each element's distribution in its place and nothing else: each
    element's values are dealt anew among the data, draws from the product of the marginals. `inverted`
    is levels - 1 - v, 1 - x, or a reflection about each element's mean. `constant` has all elements
    alike: the commonest value of binary data, otherwise a value between the lowest and highest, drawn
    for each datum. Images are `flipped` upside down and, if square, `rotated` by 90 degrees as well:
    these are near, and a model may rightly find some of them ordinary (a 0 or an 8). Counts are
    `shuffled`, `noise`, and `pooled`: each datum's total dealt by the proportions of all data.

    Args:
        x: Own data in the likelihood's support.
        seed: The seed of permutations and draws.
        support: binary, unit, real, integers or counts; guessed from the values if None: whole numbers
            are integers in images and counts elsewhere.
        levels: The number of levels of integers; the largest value and one more if None.

    Returns:
        By name, in the type of x and in its support.

    Raises:
        ValueError: If there are no data.
    """
    if len(x) == 0:
        raise ValueError("stand-ins are made from at least one datum, got none.")
    support = support or _guessed(x)
    generator = torch.Generator().manual_seed(derive_seed(seed, "stand-ins"))
    flat = x.flatten(1)
    n, elements = flat.shape
    made: dict[str, Tensor] = {}

    def put(name: str, rows: Tensor) -> None:
        made[name] = rows.reshape(x.shape).to(x.dtype)

    image = is_image(tuple(x.shape[1:])) and support != "counts"
    if support != "counts":
        put("inverted", _inverted(flat, support, levels))
    if image:
        put("flipped", x.flip(-2))
        if x.shape[-1] == x.shape[-2]:
            put("rotated", x.rot90(1, (-2, -1)))
    put("shuffled", flat[:, torch.randperm(elements, generator=generator).to(x.device)])
    dealt = torch.rand(n, elements, generator=generator).argsort(0).to(x.device)
    put("noise", flat.gather(0, dealt))
    if support == "counts":
        put("pooled", _pooled(flat, generator))
    else:
        put("constant", _constant(flat, support, generator).expand(n, elements))
    return made


def _inverted(flat: Tensor, support: str, levels: int | None) -> Tensor:
    if support == "real":
        return 2 * flat.mean(0) - flat
    if support == "integers":
        return (int(flat.max()) if levels is None else levels - 1) - flat
    return 1 - flat


def _constant(flat: Tensor, support: str, generator: torch.Generator) -> Tensor:
    """A value for each datum, in a column."""
    if support == "binary":
        commonest = float(flat.double().mean() >= 0.5)
        return torch.full((len(flat), 1), commonest, device=flat.device)
    low, high = float(flat.min()), float(flat.max())
    share = torch.rand(len(flat), 1, generator=generator).to(flat.device)
    if support == "integers":
        return (low + share * (high + 1 - low)).floor().clamp(max=high)
    return low + share * (high - low)


def _pooled(flat: Tensor, generator: torch.Generator) -> Tensor:
    """Multinomial(total of the datum, proportions of all data)."""
    proportions = flat.double().sum(0).cpu()
    drawn = torch.zeros(flat.shape, dtype=torch.double)
    for row, total in enumerate(flat.double().sum(1).long().tolist()):
        if total:
            taken = torch.multinomial(proportions, total, replacement=True, generator=generator)
            drawn[row] = torch.bincount(taken, minlength=flat.shape[1]).double()
    return drawn.to(flat.device)


def _guessed(x: Tensor) -> str:
    """The support that data of these values have."""
    if _is_binary(x):
        return "binary"
    if x.min() < 0:
        return "real"
    if not x.is_floating_point() or bool((x == x.floor()).all()):
        return "integers" if is_image(tuple(x.shape[1:])) else "counts"
    return "unit" if x.max() <= 1 else "real"


def _is_binary(x: Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())
