"""Draws from a guide and a model, vectorised where the programs allow it, in blocks of data."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.inference_data.sites import (
    Layout,
    Program,
    Site,
    closed_form_kl,
    inspect_plates,
    kind_of,
    read_sites,
    replay,
    sample_nodes,
)
from pyro_vae.inference_data.terms import Draws, statistics_of, terms_of
from pyro_vae.log_densities import without_density
from pyro_vae.rng import owners_of
from pyro_vae.traces import unconditioned

# The number of draws x data x elements of an example held at once, by default.
MAX_ELEMENTS = 4_000_000
# Tolerance of log densities and values of a draw alone and among all, absolute and relative:
# matrix products of another shape round differently. A draw that reads the values of another
# differs more.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Pair:
    """A model and its guide, with the arguments of both.

    Args:
        model: The model.
        guide: The guide.
        args: Their positional arguments.
        kwargs: Their keyword arguments.
    """

    model: Program
    guide: Program
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def size(self) -> int | None:
        """The length of the first argument that is a tensor or an array; None if none is."""
        first = self._first()
        return None if first is None else len(first)

    def rows(self, rows: slice) -> "Pair":
        """The pair with some rows of every tensor and array that is as long as the first one."""
        size = self.size

        def some(value: Any) -> Any:
            return value[rows] if _is_array(value) and len(value) == size else value

        kwargs = {name: some(value) for name, value in self.kwargs.items()}
        return replace(self, args=tuple(map(some, self.args)), kwargs=kwargs)

    def block_size(self, num_draws: int) -> int:
        """The number of data held at once, with their draws."""
        first = self._first()
        elements = 1 if first is None else int(np.prod(first.shape[1:]))
        return max(1, MAX_ELEMENTS // max(1, num_draws * elements))

    def trace(self, program: Program, *values: Trace) -> Trace:
        """The trace of a program with the values of others."""
        return poutine.trace(replay(program, *values)).get_trace(*self.args, **self.kwargs)

    def inspect(self, **options: Any) -> Layout:
        """The layout of both, from one draw."""
        return inspect_plates(self.model, self.guide, self.args, self.kwargs, **options)

    def _first(self) -> Any:
        return next(filter(_is_array, (*self.args, *self.kwargs.values())), None)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


# ---- draws for some data ------------------------------------------------------------------------


def sample_posterior(
    pair: Pair, layout: Layout, num_draws: int, *, replicate: bool = True
) -> tuple[Draws, Layout]:
    """Draws from the guide, the model's sites at them, and new data at them.

    Draws are vectorised in a plate left of all others, as by `Trace_ELBO`. Programs that are not
    written for that fail, or broadcast wrongly. So two of the draws are recomputed alone; if they
    differ, or anything fails, the draws are taken one by one.

    Args:
        pair: The model and the guide.
        layout: Their layout. `at_once=True` skips the check.
        num_draws: The number of draws.
        replicate: Whether to draw new data, too.

    Returns:
        The draws, and the layout with `at_once` determined.
    """

    def sample(draws: int, vectorise: Callable[[Program], Program]) -> Draws:
        def trace(program: Program, *values: Trace) -> Trace:
            return pair.trace(vectorise(program), *values, layout.subsample)

        guide = trace(pair.guide)
        model = trace(pair.model, guide)
        new = trace(unconditioned(pair.model), model) if replicate else Trace()
        sites = {
            name: replace(site, kl=closed_form_kl(guide, model, site, layout.max_plate_nesting))
            for name, site in read_sites(guide, layout, draws=draws).items()
        }
        # Only the check reads log densities of new data.
        densities = layout.at_once is None
        return Draws(
            read_sites(model, layout, draws=draws),
            sites,
            read_sites(new, layout, draws=draws, densities=densities),
        )

    if layout.at_once is not False and num_draws > 1:
        vectorise = _particles(num_draws, layout)
        if layout.at_once:
            return sample(num_draws, vectorise), layout
        try:
            draws = sample(num_draws, vectorise)
            obstacle = find_difference(pair, layout, draws)
        # A program that is not written for vectorised draws may raise anything. Errors of the
        # program itself are raised again below.
        except Exception as error:  # noqa: BLE001
            obstacle = _first_line(error)
        else:
            if not obstacle:
                return draws, replace(layout, at_once=True)
        layout = replace(layout, obstacle=obstacle)
    single = [sample(1, lambda program: program) for _ in range(num_draws)]
    draws = Draws(*(_join([getattr(one, f.name) for one in single]) for f in fields(Draws)))
    return draws, replace(layout, at_once=False)


def sample_prior(pair: Pair, layout: Layout, num_draws: int) -> dict[str, Site]:
    """Draws from the model alone, including data."""
    free = unconditioned(pair.model)

    def sample(draws: int, program: Program) -> dict[str, Site]:
        trace = pair.trace(program, layout.subsample)
        return read_sites(trace, layout, draws=draws, densities=False)

    if layout.at_once:
        return sample(num_draws, _particles(num_draws, layout)(free))
    return _join([sample(1, free) for _ in range(num_draws)])


def _particles(num_draws: int, layout: Layout) -> Callable[[Program], Program]:
    return pyro.plate("num_particles_vectorized", num_draws, dim=-layout.max_plate_nesting - 1)


def _first_line(error: Exception) -> str:
    reason = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {reason}"


def _join(draws: list[dict[str, Site]]) -> dict[str, Site]:
    """Concatenate single draws.

    Raises:
        ValueError: If a site is not in every draw, or differs in shape.
    """
    first = draws[0]
    for one in draws:
        for name in set(first) ^ set(one):
            raise ValueError(
                f"every draw must have the same sites, but site {name!r} is not in every one."
            )
        for name, site in one.items():
            if site.values.shape != first[name].values.shape:
                raise ValueError(
                    f"every draw of site {name!r} must have the same shape, got "
                    f"{first[name].values.shape[1:]} and {site.values.shape[1:]}."
                )
    return {
        name: _map_arrays(
            lambda field, name=name: np.concatenate([getattr(one[name], field) for one in draws]),
            site,
        )
        for name, site in first.items()
    }


def _map_arrays(change: Callable[[str], np.ndarray], site: Site) -> Site:
    """A site with new arrays: `change` returns each one by its field's name."""
    arrays = {name: change(name) for name in ("values", "log_density")}
    return replace(site, **arrays, kl=None if site.kl is None else change("kl"))


# ---- the check of vectorised draws --------------------------------------------------------------


def find_difference(pair: Pair, layout: Layout, draws: Draws) -> str:
    """How vectorised draws differ from the same draws alone; empty if they do not.

    The first and the last draw are recomputed alone: a program that reads one draw for all, as
    `w[-1]` does, is right at that one. New data are recomputed, too, because observed sites have
    no axis of draws.

    Args:
        pair: The model and the guide.
        layout: Their layout.
        draws: The draws, with the log densities of new data.
    """
    for index in (0, -1):
        alone = _recompute(pair, layout, draws, index)
        for one, many in zip(alone, (draws.guide, draws.model, draws.replicates), strict=True):
            if many and set(one) != set(many):
                return f"the sites {sorted(set(one) ^ set(many))} are not in all draws"
            for name in many:
                if not _is_close(one[name], many[name], index):
                    return f"the site {name!r} of a draw differs from that of the draw alone"
    return ""


def _recompute(
    pair: Pair, layout: Layout, draws: Draws, index: int
) -> tuple[dict[str, Site], dict[str, Site], dict[str, Site]]:
    """The sites of the guide, the model and new data at the values of one draw."""

    def run(program: Program, *values: Trace) -> tuple[Trace, dict[str, Site]]:
        trace = pair.trace(program, *values, layout.subsample)
        return trace, read_sites(trace, layout, draws=1)

    guide, of_guide = run(pair.guide, _at_draw(layout.guide_trace, draws.guide, index))
    # The guide's sites come first: some may be computed.
    model, of_model = run(pair.model, guide, _at_draw(layout.model_trace, draws.model, index))
    if not draws.replicates:
        return of_guide, of_model, {}
    new = _at_draw(layout.model_trace, draws.replicates, index, kind="observed")
    return of_guide, of_model, run(unconditioned(pair.model), model, new)[1]


def _at_draw(
    trace: Trace, sites: Mapping[str, Site], index: int, *, kind: str = "latent"
) -> Trace:
    """The trace with the values of one of the draws, without computed sites."""
    chosen = Trace()
    for name, node in sample_nodes(trace).items():
        if kind_of(node) == kind and not sites[name].is_point:
            value = torch.as_tensor(sites[name].values[index]).to(node["value"])
            value = value.reshape(node["value"].shape)
            chosen.add_node(name, **{**node, "value": value, "is_observed": False})
    return chosen


def _is_close(one: Site, many: Site, index: int) -> bool:
    """Whether a draw alone has the values and the log density that it has among many."""
    pairs = ((one.log_density[0], many.log_density[index]), (one.values[0], many.values[index]))
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        for a, b in pairs
    )


# ---- all data, in blocks ------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The blocks of data to draw for.

    Args:
        layout: The layout of the programs.
        size: The number of all data; None without a plate over data.
        blocks: The number of data in each block, and the pair with their arguments.
    """

    layout: Layout
    size: int | None
    blocks: list[tuple[int | None, Pair]]


@dataclass(frozen=True)
class Sample:
    """The draws for all data.

    Args:
        layout: The layout of the programs.
        draws: The draws of the stored data.
        terms: Their terms, `(draw, data)`, or `(draw,)` if examples have no terms of their own.
        statistics: The statistics of all examples; empty if they have no terms of their own.
    """

    layout: Layout
    draws: Draws
    terms: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def plan_blocks(
    pair: Pair,
    *,
    num_draws: int,
    num_stored: int,
    block_size: int | None,
    options: Mapping[str, Any],
) -> Plan:
    """Inspect one draw of the programs, and divide the data into blocks where that is possible.

    Raises:
        ValueError: If a block size is given and the data cannot be divided.
    """
    if pair.size is not None and pair.size > num_stored:
        try:
            _check_divisible(pair, options)
        except _NotDivisibleError as error:
            if block_size is not None:
                raise ValueError(
                    f"data cannot be taken in blocks, leave out block_size: {error}"
                ) from error
        else:
            rows = _blocks(pair.size, num_stored, block_size or pair.block_size(num_draws))
            blocks: list[tuple[int | None, Pair]] = [
                (some.stop - some.start, pair.rows(some)) for some in rows
            ]
            # The check of vectorised draws uses traces of the shapes of the first block.
            return Plan(blocks[0][1].inspect(**options), pair.size, blocks)
    layout = pair.inspect(**options)
    return Plan(layout, layout.data_size, [(layout.data_size, pair)])


def sample_in_blocks(plan: Plan, *, num_draws: int, num_stored: int) -> Sample:
    """Draw for all data, block by block, and keep the draws to be stored."""
    layout = plan.layout
    plate = layout.data_plate if layout.is_local else None
    stored: tuple[Draws, dict[str, np.ndarray]] | None = None
    statistics = []
    for length, pair in plan.blocks:
        # The same program runs in all blocks: validate the first one only.
        with pyro.validation_enabled(is_validation_enabled() and stored is None):
            draws, layout = sample_posterior(pair, layout, num_draws, replicate=stored is None)
        terms = terms_of(draws, plate, has_density=not without_density(layout.guide_trace))
        if plate is not None:
            if terms["log_p_x_given_z"].shape[1] != length:
                raise ValueError(
                    f"a block of {length} data must be as many in the plate {plate!r}, got "
                    f"{terms['log_p_x_given_z'].shape[1]}."
                )
            statistics.append(statistics_of(terms, draws, plate))
        stored = stored or (draws, terms)
    assert stored is not None
    draws, terms = stored
    if plate is not None:
        parts = (draws.model, draws.guide, draws.replicates)
        draws = Draws(*(first_data(part, plate, num_stored) for part in parts))
        terms = {name: values[:, :num_stored] for name, values in terms.items()}
    return Sample(
        layout=layout,
        draws=draws,
        terms=terms,
        statistics={
            name: np.concatenate([part[name] for part in statistics])
            for name in (statistics[0] if statistics else ())
        },
    )


def first_data(sites: Mapping[str, Site], plate: str, number: int) -> dict[str, Site]:
    """The sites of the first data only."""
    few = {}
    for name, site in sites.items():
        few[name] = site
        if plate in site.plates:
            rows = (slice(None),) * (1 + site.plates.index(plate)) + (slice(number),)
            few[name] = _map_arrays(
                lambda field, site=site, rows=rows: getattr(site, field)[rows], site
            )
    return few


def _blocks(size: int, first: int, block_size: int) -> Iterator[slice]:
    """The stored rows, so that their draws do not depend on the block size; then the rest."""
    yield slice(0, min(first, size))
    for start in range(first, size, block_size):
        yield slice(start, min(start + block_size, size))


class _NotDivisibleError(Exception):
    """Why data cannot be divided into blocks."""


def _check_divisible(pair: Pair, options: Mapping[str, Any]) -> None:
    """Check, on two data points, that the programs can be run on a part of the data.

    Raises:
        _NotDivisibleError: If they cannot.
    """
    # An automatic guide creates its parameters at the first call, for all data.
    if getattr(pair.guide, "prototype_trace", pair.guide) is None:
        pair.guide(*pair.args, **pair.kwargs)
    store = pyro.get_param_store()
    before = set(store.keys())
    own = {id(p) for owner in owners_of(pair.model, pair.guide) for p in owner.parameters()}
    with store.scope(store.get_state()):
        try:
            layout = pair.rows(slice(0, 2)).inspect(**options)
        # A program that is written for all data may raise anything.
        except Exception as error:
            raise _NotDivisibleError(f"of two data alone, {_first_line(error)}") from error
        new = [
            name
            for name, parameter in store.named_parameters()
            if name not in before and id(parameter) not in own and parameter.shape[:1] == (2,)
        ]
    if new:
        raise _NotDivisibleError(f"the parameter {new[0]!r} has a value per example.")
    if not layout.is_local:
        raise _NotDivisibleError("not every sample site is in the plate over data.")
    if layout.data_size != 2 or layout.subsample.nodes:
        raise _NotDivisibleError(
            f"of two data, the plate {layout.data_plate!r} contains {layout.data_size}."
        )
