"""Scores and latent units in use on the validation split, and posterior collapse."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from pyro_vae.data import PreparedData
from pyro_vae.data.nouns import noun
from pyro_vae.labelled_rows import rows_of
from pyro_vae.likelihoods.likelihood import LocationScale
from pyro_vae.log_densities import (
    LogDensities,
    distribution_at,
    log_densities,
    without_density,
)
from pyro_vae.objectives import ELBO, Reconstruction
from pyro_vae.objectives.latent_sites import divergence_by_coordinate
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.programs import labels_of_program
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import active_units
from pyro_vae.training.processes import Processes

# The validation ELBO uses the same noise every epoch, so that epochs compare.
VALIDATION_SEED = 20_140_401
VALIDATION_BATCH = 1000
# Batches of large examples are smaller: the number of elements in one.
VALIDATION_ELEMENTS = 2**22

# The mean KL to the prior bounds the information of the code about an example. Below 0.1 nats, a
# seventh of a bit, it cannot distinguish two examples.
COLLAPSED_NATS = 0.1

# The same for one unit: about the KL of a normal with the least active mean, a variance of 0.01.
UNIT_NATS = 0.01

# Above this mean KL per unit the guide has left the prior, and training diverges: a float32 holds
# 17 nats.
EXPLODED_NATS = 30.0

# A code may be unused early in training, or for an epoch by chance: the warning needs this many
# steps, and this many epochs in a row.
PATIENCE_STEPS = 1000
PATIENCE_EPOCHS = 3

# Fewest steps after which the end of training is judged.
FEWEST_STEPS = 200

# Units that the prior prunes are no reason to warn, unless the largest number in use was this many
# times larger.
PRUNED = 4

# With a fixed scale, a code pays only if the widest direction of the data has a larger variance,
# in sigma^2.
LARGE_DIRECTION = 2.0

# Elements are uncorrelated if the largest eigenvalue is below that of shuffled columns times this.
SHUFFLED = 1.05
SHUFFLES = 4

FREE_BITS = "free nats (--objective.free-bits 0.1)"
BATCH_NORMALISED = "a posterior that cannot collapse (--posterior batch_normalised)"
# Remedies for an ELBO and a diagonal normal; `remedies` looks at the program and its data.
REMEDIES = f"What helps: {FREE_BITS}, or {BATCH_NORMALISED}."


@dataclass(frozen=True)
class UnitCounts:
    """The number of latent units in use."""

    active: int
    total: int
    # Units with a mean KL to the prior above 0.01 nats; None if guide or prior is not a product
    # over units.
    above_rate: int | None = None


def validate(
    program: Any, data: PreparedData, device: torch.device
) -> tuple[dict[str, float | None], UnitCounts | None]:
    """ELBO, reconstruction and KL on the validation split, in nats, and the units in use.

    The ELBO has beta = 1 whatever trains the program. For a guide without a density only the
    reconstruction is known. Values that are not finite are None.
    """
    split = data.fixed("validation")
    fitting = VALIDATION_ELEMENTS // max(1, math.prod(split.shape[1:]))
    batch = max(1, min(VALIDATION_BATCH, fitting))
    elbo, reconstruction = ELBO(), Reconstruction()
    sums = {"elbo": 0.0, "reconstruction": 0.0, "kl": 0.0}
    first: tuple[Any, Tensor, LogDensities] | None = None
    labels = data.dataset.labels.get("validation")
    with evaluation_mode(program, seed=VALIDATION_SEED):
        for start in range(0, len(split), batch):
            part = slice(start, start + batch)
            y = None if labels is None else labels[part].to(device)
            joined, x = rows_of(program, as_floats(split[part].to(device)), y)
            terms = log_densities(joined.model, joined.guide, x)
            objective = reconstruction if without_density(terms.guide_trace) else elbo
            values = objective(terms).values
            for name in sums:
                total = values[name].sum(dtype=torch.float64) if name in values else math.nan
                sums[name] += float(total)
            first = first or (joined, x, terms)
        # Last, so that an `embed` that draws random numbers changes no score.
        units = units_in_use(*first) if first else None
    means = {name: total / len(split) for name, total in sums.items()}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}, units


def share_scores(
    scores: dict[str, float | None], processes: Processes, device: torch.device
) -> dict[str, float | None]:
    """The first process's scores for all processes, which must end at the same epoch."""
    if processes.size == 1:
        return scores
    names = ("elbo", "reconstruction", "kl")
    values = [math.nan if (score := scores.get(name)) is None else score for name in names]
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    processes.follow_first([shared])
    known = zip(names, shared.tolist(), strict=True)
    return {name: value if math.isfinite(value) else None for name, value in known}


def units_in_use(
    program: Any, x: Real[Tensor, " batch *event"], terms: LogDensities
) -> UnitCounts | None:
    """The latent units in use at x; None where they cannot be counted.

    On the real line these are the `active_units` of the program's embedding. On other supports
    variances have another scale, and a unit is in use if its mean KL is above 0.01 nats, provided
    that guide and prior are products over units. They are not on the simplex and the sphere.

    Args:
        program: A program in evaluation mode.
        x: Data.
        terms: The program's terms at x.
    """
    if len(x) < 2 or len(terms.guide_sites) != 1:
        return None
    (site,) = terms.guide_sites
    above_rate, total = None, 0
    with suppress(ValueError):  # Not a product over units.
        kl = divergence_by_coordinate(terms, "auto", {}).detach().mean(0, dtype=torch.float64)
        above_rate, total = int((kl > UNIT_NATS).sum()), len(kl)
    support: Any = distribution_at(terms.guide_trace, site).support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is not constraints.real:
        return None if above_rate is None else UnitCounts(above_rate, total, above_rate)
    embed = getattr(program, "embed", None)
    if embed is None:
        return None
    embeddings = embed(x).detach().flatten(1)
    return UnitCounts(active_units(embeddings.cpu().numpy()), embeddings.shape[1], above_rate)


# ---- posterior collapse ------------------------------------------------------------------------


def collapse_alarm(
    history: Sequence[Mapping[str, float | int | None]],
    total: int | None,
    *,
    settled: Callable[[float], bool],
    ended: bool,
    remedies: Callable[[], str] = lambda: REMEDIES,
) -> str | None:
    """The warning of posterior collapse after the last epoch of the history, if any.

    It depends on the history alone, so that a resumed training gives the same warning. It is given
    once: when the code has been collapsed for three epochs, or is collapsed at the end of
        training.

    Args:
        history: The records of all epochs.
        total: The number of units; None if unknown.
        settled: Whether the objective's weights have their final values after this number of
            epochs. Before that, an unused code is normal.
        ended: Whether training has ended.
        remedies: Gives the remedies to name.
    """
    # For each epoch, the number of consecutive collapsed epochs up to it that count.
    most, row, rows, collapsed = 0, 0, [], False
    for record in history:
        most = max(most, int(record.get("active_units") or 0))
        collapsed = has_collapsed(record, most)
        late = int(record["step"] or 0) >= PATIENCE_STEPS and settled(float(record["epoch"] or 0))
        row = row + 1 if collapsed and late else 0
        rows.append(row)
    if not collapsed or max(rows[:-1], default=0) >= PATIENCE_EPOCHS:
        return None
    at_the_end = ended and int(history[-1]["step"] or 0) >= FEWEST_STEPS
    if rows[-1] < PATIENCE_EPOCHS and not at_the_end:
        return None
    epoch = f"epoch {history[-1]['epoch']}"
    if total is not None and has_exploded(history[-1], total):
        rate = history[-1]["validation_kl"]
        return (
            f"{epoch}: training diverges: the KL is {rate:,.0f} nats/{noun()}. A smaller --lr "
            "helps."
        )
    found = describe_collapse(history[-1], total, most)
    return f"{epoch}: posterior collapse: {found}. {remedies()}"


def remedies(program: Any, objective: Any, x: Real[Tensor, " n *event"]) -> str:
    """The remedies against the collapse of this program's code, as options of the command line.

    Only remedies that fit the program and the objective are named; the tests try each on a planted
    collapse. A warm-up, cyclical weights, a committed rate and aggressive steps did not end the
    collapse that an autoregressive decoder causes there.

    Args:
        program: A program whose code has collapsed.
        objective: The objective that trained it.
        x: Data, such as the validation split's; 1,000 are enough.
    """
    largest, shuffled = _largest_eigenvalues(x)
    if largest is not None and shuffled is not None and largest <= SHUFFLED * shuffled:
        return (
            "No option helps: the elements of these data are uncorrelated, so that a code has "
            "little or nothing to represent."
        )
    beta = getattr(objective, "beta", None)
    weight = float(beta) if isinstance(beta, Tensor) else 1.0
    smaller, alone = _scale_advice(program, x)
    if alone or (smaller is not None and weight <= 1 and objective.uses_prior):
        return (
            f"What helps: {smaller}, fixed or learned (--likelihood.scale learned). With a large "
            "scale a code does not pay, and a scale that is learned from a large start settles "
            "at the spread of the data."
        )
    if not objective.uses_prior:
        return (
            "What may help: more steps or a larger learning rate (--lr). The objective has no KL "
            "that could cause a collapse."
        )
    found = []
    if weight > 1:
        found.append(f"a smaller weight of the KL, which is {weight:g} (--objective.beta 1)")
    free_bits = getattr(objective, "free_bits", None)
    if free_bits is not None and not free_bits.minimum and objective.capacity is None:
        found.append(FREE_BITS)
    if isinstance(getattr(program, "posterior", None), DiagonalNormal):
        found.append(BATCH_NORMALISED)
    if not found:
        return (
            "No option is known to help this objective and posterior: try --objective elbo first."
        )
    return f"What helps: {', or '.join(found)}."


def _scale_advice(program: Any, x: Tensor) -> tuple[str | None, bool]:
    """A smaller initial scale, and whether a fixed scale alone explains the collapse.

    A linear decoder uses a code if the largest eigenvalue of the data's covariance is above
    sigma^2. A scale that is learned from a large start settles at the spread of the data before
    the code is used.
    """
    likelihood = getattr(program, "likelihood", None)
    conditional = labels_of_program(program) == "always"
    if conditional or not isinstance(likelihood, LocationScale) or likelihood.support != "real":
        return None, False
    data = as_floats(x)
    with evaluation_mode(program):
        _, scale, _ = likelihood.loc_and_scale(program.embed(data[:2]))
        # In the unit of the option; half of the spread leaves the rest to the code.
        current = F.softplus(likelihood.raw_scale).mean() + likelihood.minimum_scale
        standard = (data / scale[0]).flatten(1).double()
        smaller = 0.5 * float(current) * float(standard.var(0).mean().sqrt())
    largest, _ = _largest_eigenvalues(standard, standardised=False)
    if largest is None or smaller <= likelihood.minimum_scale:
        return None, False
    advice = (
        f"a smaller initial scale of the likelihood (--likelihood.initial-scale {smaller:.1g})"
    )
    return advice, likelihood.fixed and largest <= LARGE_DIRECTION


def _largest_eigenvalues(
    x: Tensor, *, standardised: bool = True
) -> tuple[float | None, float | None]:
    """The largest eigenvalue of correlation, or covariance, and that of shuffled columns.

    Each column is shuffled on its own, which removes all dependence. None if fewer than two
    elements vary.
    """
    flat = x.flatten(1).double().cpu()
    flat = flat - flat.mean(0)
    flat = flat[:, flat.std(0) > 0]
    if min(flat.shape) < 2 or not bool(flat.isfinite().all()):
        return None, None
    if standardised:
        flat = flat / flat.std(0)
    generator = torch.Generator().manual_seed(0)

    def largest(columns: Tensor) -> float:
        return float(torch.linalg.matrix_norm(columns, 2)) ** 2 / (len(columns) - 1)

    shuffled = [
        flat.gather(0, torch.rand(flat.shape, generator=generator).argsort(0))
        for _ in range(SHUFFLES)
    ]
    return largest(flat), max(map(largest, shuffled))


def has_exploded(record: Mapping[str, float | int | None], total: int) -> bool:
    """Whether the KL of an epoch is larger than this number of units can use."""
    rate = record.get("validation_kl")
    return rate is not None and rate > EXPLODED_NATS * total


def has_collapsed(record: Mapping[str, float | int | None], most: int) -> bool:
    """Whether the KL is below its threshold, or few of the most units are still in use."""
    rate, active = record.get("validation_kl"), record.get("active_units")
    if rate is not None and rate < COLLAPSED_NATS:
        return True
    return active is not None and (active == 0 or PRUNED * active < most)


def describe_collapse(
    record: Mapping[str, float | int | None], total: int | None, most: int
) -> str:
    """How much of the code is in use after an epoch."""
    rate, active = record.get("validation_kl"), record.get("active_units")
    below = rate is not None and rate < COLLAPSED_NATS
    reasons = []
    if active is not None and total is not None:
        reasons.append(f"{total - int(active)} of {total} units are inactive")
    if (above := record.get("units_above_rate")) is not None and total is not None:
        reasons.append(f"{total - int(above)} have a KL below {UNIT_NATS} nats")
    if rate is not None:
        threshold = f", {'below' if below else 'not below'} {COLLAPSED_NATS}"
        reasons.append(f"the KL is {rate:.3g} nats/{noun()}{threshold}")
    what = (
        f"few of the {most} units that were active still are"
        if active and not below
        else "the latent code carries almost no information about x"
    )
    return f"{what} ({', '.join(reasons)})"
