"""Whether the code says anything about the data: what training watches, and the alarm it raises."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from pyro_vae.data.nouns import noun
from pyro_vae.likelihoods.likelihood import LocationScale
from pyro_vae.log_densities import LogDensities, distribution_at
from pyro_vae.objectives.divergence import divergence_by_coordinate
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import active_units

# The mean KL to the prior bounds what the code says about a datum. Below 0.1 nats, a seventh of a bit,
# it cannot tell two data apart.
COLLAPSED_NATS = 0.1

# Of one coordinate; about what a normal with the least active mean, a variance of 0.01, must have.
UNIT_NATS = 0.01

# A unit whose mean KL is above this has left the prior, and training diverges: all that a float32 can
# say is 17 nats.
EXPLODED_NATS = 30.0

# At the start of training a code may be unused, and for an epoch by chance: alarm is raised after so
# many steps, and so many epochs in a row.
PATIENCE_STEPS = 1000
PATIENCE_EPOCHS = 3

# What a training that ends has to have had for its end to say something.
FEWEST_STEPS = 200

# Units that the prior prunes are no alarm, unless so many times fewer are left than once were.
PRUNED = 4

# Of a fixed scale: where the widest direction of the data has no larger variance in units of sigma^2.
LARGE_DIRECTION = 2.0

# Below the largest eigenvalue of shuffled columns times this, elements are not correlated.
SHUFFLED = 1.05
SHUFFLES = 4

FREE_BITS = "free nats (--objective.free-bits 0.1)"
BATCH_NORMALISED = "a posterior that cannot collapse (--posterior batch_normalised)"
# Those for an ELBO and a diagonal normal; `remedies` looks at the program and its data.
REMEDIES = f"What helps: {FREE_BITS}, or {BATCH_NORMALISED}."

# As the training loop's: plain numbers by name.
Record = Mapping[str, float | int | None]


@dataclass(frozen=True)
class Units:
    """How many units of a code are in use.

    Args:
        active: Those that are.
        total: All.
        above_rate: Those whose mean KL to the prior is above 0.01 nats; None where guide or prior is no
            product over units.
    """

    active: int
    total: int
    above_rate: int | None = None


def units_in_use(
    program: Any, x: Real[Tensor, " batch *event"], terms: LogDensities
) -> Units | None:
    """The units of a code that say something about x; None where there is no way to count them.

    On the real line these are the `active_units` of the program's embedding. Elsewhere a variance has
    another scale, so that a unit is in use if its mean KL is above 0.01 nats, provided that guide and
    prior are products over units. They are not on the simplex and the sphere.

    Args:
        program: A program in evaluation mode.
        x: Data.
        terms: The terms of the program at x.
    """
    if len(x) < 2 or len(terms.guide_sites) != 1:
        return None
    (site,) = terms.guide_sites
    above_rate, total = None, 0
    with suppress(ValueError):  # No product over units.
        kl = divergence_by_coordinate(terms, "auto", {}).detach().mean(0, dtype=torch.float64)
        above_rate, total = int((kl > UNIT_NATS).sum()), len(kl)
    if not _on_the_real_line(distribution_at(terms.guide_trace, site).support):
        return None if above_rate is None else Units(above_rate, total, above_rate)
    embed = getattr(program, "embed", None)
    if embed is None:
        return None
    embeddings = embed(x).detach().flatten(1)
    return Units(active_units(embeddings.cpu().numpy()), embeddings.shape[1], above_rate)


def collapse_alarm(
    history: Sequence[Record],
    total: int | None,
    *,
    settled: Callable[[float], bool],
    ended: bool,
    remedies: Callable[[], str] = lambda: REMEDIES,
) -> str | None:
    """What to warn of after the last epoch of the history; None for nothing new.

    It is a function of the history alone, so that a resumed training says what it would have said.
    It speaks once: when the code has been collapsed for three epochs, or is at the end of training.

    Args:
        history: The records of all epochs.
        total: The number of units; None if unknown.
        settled: Whether the objective's weights have their last values after so many epochs. Before,
            a code may well be unused.
        ended: Whether training has ended.
        remedies: Gives what to do about it.
    """
    # How many epochs in a row, up to each one, that count for an alarm.
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
        return f"{epoch}: training diverges: the rate is {rate:,.0f} nats/{noun()}. A smaller --lr helps."
    return f"{epoch}: {describe_collapse(history[-1], total, most)}. {remedies()}"


def remedies(program: Any, objective: Any, x: Real[Tensor, " n *event"]) -> str:
    """What helps against the collapse of this program's code, by the options of the command line.

    Only what fits the program and the objective is named: each is tried on a planted collapse in the
    tests. A warm-up, cyclical weights, a committed rate and aggressive steps did not end the collapse
    that an autoregressive decoder causes there.

    Args:
        program: A program, whose code has collapsed.
        objective: What trained it.
        x: Data, such as the validation split's; 1,000 are enough.
    """
    varies, shuffled = _largest_eigenvalues(x)
    if varies is not None and shuffled is not None and varies <= SHUFFLED * shuffled:
        return (
            "No option helps: the elements of these data are not correlated, so that there is little or "
            "nothing for a code to say."
        )
    beta = getattr(objective, "beta", None)
    weight = float(beta) if isinstance(beta, Tensor) else 1.0
    smaller, alone = _scale_advice(program, x)
    if alone or (smaller is not None and weight <= 1 and objective.uses_prior):
        return (
            f"What helps: {smaller}, fixed or learned (--likelihood.scale learned). Beside a large one a code "
            "does not pay, and one that is learned from a large start settles at the spread of the data."
        )
    if not objective.uses_prior:
        return (
            "What may help: more steps or a larger learning rate (--lr). No KL presses on this code, as the "
            "objective has none."
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
    """A smaller scale to start from, and whether a fixed one alone explains the collapse.

    A linear decoder uses a code where the largest eigenvalue of the data's covariance is above sigma^2. A
    scale that is learned from a large start settles at the spread of the data before the code is used.
    """
    likelihood = getattr(program, "likelihood", None)
    if not isinstance(likelihood, LocationScale) or likelihood.support != "real":
        return None, False
    data = as_floats(x)
    with evaluation_mode(program):
        _, scale, _ = likelihood.loc_and_scale(program.embed(data[:2]))
        # In the unit of the option; half of the spread leaves the rest to the code.
        now = F.softplus(likelihood.raw_scale).mean() + likelihood.minimum_scale
        standard = (data / scale[0]).flatten(1).double()
        smaller = 0.5 * float(now) * float(standard.var(0).mean().sqrt())
    largest, _ = _largest_eigenvalues(standard, standardised=False)
    if largest is None or smaller <= likelihood.minimum_scale:
        return None, False
    advice = f"a smaller scale of the likelihood to start from (--likelihood.initial-scale {smaller:.1g})"
    return advice, likelihood.fixed and largest <= LARGE_DIRECTION


def _largest_eigenvalues(
    x: Tensor, *, standardised: bool = True
) -> tuple[float | None, float | None]:
    """The largest eigenvalue of the correlation, or covariance, of elements, and that of shuffled columns.

    Elements are shuffled over data, each on its own, which leaves no dependence between them. None
    where fewer than two elements vary.
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


def has_exploded(record: Record, total: int) -> bool:
    """Whether the rate of an epoch is more than so many units can say."""
    rate = record.get("validation_kl")
    return rate is not None and rate > EXPLODED_NATS * total


def has_collapsed(record: Record, most: int) -> bool:
    """Whether the rate is below its threshold, or too few units are left of the most there were."""
    rate, active = record.get("validation_kl"), record.get("active_units")
    if rate is not None and rate < COLLAPSED_NATS:
        return True
    return active is not None and (active == 0 or PRUNED * active < most)


def describe_collapse(record: Record, total: int | None, most: int) -> str:
    """How much of the code is in use after an epoch, of so many units and the most that ever were."""
    rate, active = record.get("validation_kl"), record.get("active_units")
    below = rate is not None and rate < COLLAPSED_NATS
    reasons = []
    if active is not None and total is not None:
        reasons.append(f"{total - int(active)} of {total} units are inactive")
    if (above := record.get("units_above_rate")) is not None and total is not None:
        reasons.append(f"{total - int(above)} have a rate below {UNIT_NATS} nats")
    if rate is not None:
        threshold = f", {'below' if below else 'not below'} {COLLAPSED_NATS}"
        reasons.append(f"its rate is {rate:.3g} nats/{noun()}{threshold}")
    what = (
        f"most of the code has died, of which {most} units were active"
        if active and not below
        else "the code has collapsed and says next to nothing about x"
    )
    return f"{what}: {', '.join(reasons)}"


def _on_the_real_line(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
