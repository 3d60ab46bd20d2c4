"""Scores and latent units in use on the validation split, and posterior collapse."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from pyro_vae.compilation import CompiledFunction, CompileMode
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
from pyro_vae.rng import as_floats, evaluation_mode, owners_of
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


# The scores of `Validation`.
SCORES = ("elbo", "reconstruction", "kl")
# The number of epochs from which a graph saves more time than it takes.
GRAPH_EPOCHS = 20


@dataclass(frozen=True)
class UnitCounts:
    """The number of latent units in use."""

    active: int
    total: int
    # Units with a mean KL to the prior above 0.01 nats; None if guide or prior is not a product
    # over units.
    above_rate: int | None = None


class Validation:
    """ELBO, reconstruction and KL on the validation split, in nats, and the units in use.

    The ELBO has beta = 1 whatever trains the program. For a guide without a density only the
    reconstruction is known. Values that are not finite are None. All calls have the same noise.

    Args:
        program: A program.
        data: Its data.
        compile: "off" to run the program; otherwise a long training runs its graph on a CPU, with
            the same bits.
        epochs: The number of calls to expect.
    """

    def __init__(
        self, program: Any, data: PreparedData, compile: CompileMode = "off", *, epochs: int = 0
    ) -> None:
        self.program, self.data = program, data
        self.device = next(program.parameters()).device
        graph = compile != "off" and epochs >= GRAPH_EPOCHS and self.device.type == "cpu"
        # Known after the first batch.
        self._units: CountedUnits | None = None
        self._values = CompiledFunction(
            self._evaluate,
            "graph" if graph else "off",
            lambda form: 0,
            name="validation, data",
            outputs={"values": 0.0},  # On a CPU all bits are the program's.
            modules=owners_of(program),
        )

    def __call__(self) -> tuple[dict[str, float | None], UnitCounts | None]:
        """The scores by name, and the units."""
        split = self.data.fixed("validation")
        fitting = VALIDATION_ELEMENTS // max(1, math.prod(split.shape[1:]))
        batch = max(1, min(VALIDATION_BATCH, fitting))
        total = torch.zeros(len(SCORES), dtype=torch.float64, device=self.device)
        kl, counts = None, None
        with evaluation_mode(self.program, seed=VALIDATION_SEED):
            for start in range(0, len(split), batch):
                (values,) = self._values(*self._rows(start, batch))
                total += values[: len(SCORES)]
                kl = values[len(SCORES) :] if kl is None else kl
            # Last, so that an `embed` that draws random numbers changes no score.
            if (units := self._units) is not None:
                joined, x = rows_of(self.program, *self._rows(0, batch))
                codes = joined.embed(x).flatten(1) if units.embedded else None
                counts = units.count(kl, codes)
        means = zip(SCORES, (total / len(split)).tolist(), strict=True)
        return {name: mean if math.isfinite(mean) else None for name, mean in means}, counts

    def _rows(self, start: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Some rows and, if there are any, their labels."""
        part, labels = slice(start, start + count), self.data.dataset.labels.get("validation")
        x = as_floats(self.data.fixed("validation")[part].to(self.device))
        return x, None if labels is None else labels[part].to(self.device)

    def _evaluate(self, x: Tensor, y: Tensor | None) -> tuple[Tensor]:
        """The sum of each score, and the mean KL of each unit."""
        joined, x = rows_of(self.program, x, y)
        terms = log_densities(joined.model, joined.guide, x)
        objective = Reconstruction() if without_density(terms.guide_trace) else ELBO()
        values = objective(terms).values
        unknown = x.new_full((), math.nan, dtype=torch.float64)
        sums = [
            values[name].sum(dtype=torch.float64) if name in values else unknown for name in SCORES
        ]
        units, kl = CountedUnits.of(joined, x, terms)
        self._units = self._units or units
        return (torch.cat([torch.stack(sums), *([] if kl is None else [kl])]),)


def share_scores(
    scores: dict[str, float | None], processes: Processes, device: torch.device
) -> dict[str, float | None]:
    """The first process's scores for all processes, which must end at the same epoch."""
    if processes.size == 1:
        return scores
    values = [math.nan if (score := scores.get(name)) is None else score for name in SCORES]
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    processes.follow_first([shared])
    known = zip(SCORES, shared.tolist(), strict=True)
    return {name: value if math.isfinite(value) else None for name, value in known}


@dataclass(frozen=True)
class CountedUnits:
    """How latent units are counted.

    On the real line units in use are the `active_units` of the program's embedding, of all latent
    sites together. On other supports variances have another scale, and a unit is in use if its
    mean KL is above 0.01 nats, provided that guide and prior are products over units. They are not
    on the simplex and the sphere.

    Args:
        embedded: Whether the embedding counts.
        rated: Whether units have a KL each.
    """

    embedded: bool
    rated: bool

    @classmethod
    def of(
        cls, program: Any, x: Real[Tensor, " batch *event"], terms: LogDensities
    ) -> tuple["CountedUnits | None", Float[Tensor, " units"] | None]:
        """How they are counted, None if they cannot be, and the mean KL of each at x."""
        sites = getattr(program, "latent_sites", tuple(terms.guide_sites))
        if len(x) < 2 or not sites or set(sites) != set(terms.guide_sites):
            return None, None
        kl = None
        with suppress(ValueError):  # Not a product over units.
            kl = divergence_by_coordinate(terms, "auto", {}).detach().mean(0, dtype=torch.float64)
        embedded = all(_is_real(distribution_at(terms.guide_trace, site)) for site in sites)
        known = hasattr(program, "embed") if embedded else kl is not None
        return (cls(embedded, kl is not None), kl) if known else (None, None)

    def count(
        self, kl: Float[Tensor, " units"] | None, codes: Float[Tensor, "batch latent"] | None
    ) -> UnitCounts:
        """The counts, given the mean KL of each unit if `rated`, and codes if `embedded`."""
        rated = kl if self.rated else None
        above_rate = None if rated is None else int((rated > UNIT_NATS).sum())
        if codes is not None:
            return UnitCounts(active_units(codes.cpu().numpy()), codes.shape[1], above_rate)
        assert rated is not None
        assert above_rate is not None
        return UnitCounts(above_rate, len(rated), above_rate)


def _is_real(distribution: Distribution) -> bool:
    """Whether its support is the real line, coordinate by coordinate."""
    support: Any = distribution.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


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
