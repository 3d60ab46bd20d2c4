"""The loss of a batch, from loader to objective, and the noise that processes share."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from jaxtyping import Real
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.compilation import Traced, TracingError, multiplies_bfloat16, trace
from pyro_vae.data import PreparedData
from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import Objective, ObjectiveValue, objective_value
from pyro_vae.programs import labels_of_program
from pyro_vae.rng import evaluation_mode
from pyro_vae.training.loaders import Loader, Share
from pyro_vae.training.processes import Processes
from pyro_vae.training.step import MAX_SKIPPED_IN_A_ROW, Loss, Totals

Precision = Literal["float32", "bfloat16"]


class NonFiniteError(RuntimeError):
    """Training ended because too many consecutive steps had no finite loss and gradient."""


class BatchLoss:
    """The mean loss of a batch: rows of the loader, transformed and evaluated by the objective.

    Args:
        program: A module with `model(x)` and `guide(x)`, on its device; `model(x, y)` and
            `guide(x, y)` if it is trained with labels.
        objective: The objective to maximise.
        transform: Turns rows of the data set into the likelihood's support.
        loader: Gathers the rows of a batch.
        precision: The type in which the networks' products are computed.
        processes: The processes that train together, which share the noise of a batch.

    Raises:
        ValueError: If the precision is bfloat16 and the CPU would emulate it.
    """

    def __init__(
        self,
        program: nn.Module,
        objective: Objective,
        transform: Callable[[Tensor], Tensor],
        loader: Loader,
        *,
        precision: Precision = "float32",
        processes: Processes | None = None,
    ) -> None:
        self.program = program
        self.objective = objective
        self.transform = transform
        self.loader = loader
        self.precision = precision
        self.processes = processes or Processes()
        self._device = next(program.parameters()).device
        # The labels of all rows, for a program that is trained with them; see `read_labels`.
        self.labels: Tensor | None = None
        if precision == "bfloat16" and self._device.type == "cpu" and not multiplies_bfloat16():
            raise ValueError(
                "precision must be float32 on this CPU, got 'bfloat16': it has no instructions "
                "for products of bfloat16, such as AVX512-BF16 or AMX."
            )
        # The random draws of the loss for each share of a batch, if processes share the noise.
        self._draws: dict[tuple[int, int], list[Draw]] = {}

    def read_labels(self, data: PreparedData) -> None:
        """Read the labels that the program is trained with, if any: again once it is loaded.

        Raises:
            ValueError: If there are none, or the numbers of a batch's rows are not known.
        """
        labels = training_labels(self.program, data)
        if labels is not None and self.loader.indices(0) is None:
            raise ValueError(
                f"{type(self.program).__name__} is trained with labels, which needs data in "
                "memory, and these are read from disk."
            )
        self.labels = None if labels is None else labels.to(self._device)

    def labels_of(self, step: int) -> tuple[Tensor, ...]:
        """The labels of batch `step`, if any."""
        if self.labels is None:
            return ()
        indices = self.loader.indices(step)
        assert indices is not None
        return (self.labels.index_select(0, indices),)

    def __call__(self, fetched: Tensor, share: Share, *y: Tensor) -> Loss:
        """The mean loss of a share of a batch, and the metrics to log."""
        noise: AbstractContextManager[Any] = nullcontext()
        if self.processes.size > 1:
            noise = SharedNoise(self._draws[share.rows, share.of], share.start, share.rows)
        with noise:
            value = self.value(fetched, *y)
        sums = {name: v.sum(dtype=torch.float64) for name, v in value.values.items()}
        own = None if value.own_loss is None else value.own_loss.mean()
        return Loss(value.loss.mean(), share.rows, sums, share.weight, own)

    def value(self, fetched: Tensor, *y: Tensor) -> ObjectiveValue:
        """The objective's value at each row of a batch."""
        autocast = torch.autocast(
            self._device.type,
            torch.bfloat16,
            enabled=self.precision == "bfloat16",
            cache_enabled=False,
        )
        with autocast:
            x = self.transform(self.loader.gather(fetched))
            return objective_value(self.program, self.objective, x, *y)

    def find_draws(self, fetched: Tensor, share: Share, *y: Tensor) -> None:
        """Find the random draws for a share of this form, before its first step."""
        if self.processes.size > 1 and (share.rows, share.of) not in self._draws:
            with pyro.validation_enabled(False):
                draws = draws_of(lambda *part: self.value(*part).loss, share.of, fetched, *y)
            self._draws[share.rows, share.of] = draws

    def check(self, rows: Tensor) -> None:
        """Check that the objective can serve the program, on a few rows of the data set.

        Raises:
            ValueError: If it cannot.
        """
        if self.processes.size > 1 and self.objective.couples_batch:
            raise ValueError(
                f"{type(self.objective).__name__} couples the examples of a batch, of which each "
                "process sees a part: train in one process."
            )
        program: Any = self.program
        # In evaluation mode, so that no running statistics move.
        with (
            evaluation_mode(program, seed=0),
            pyro.validation_enabled(True),
            pyro.get_param_store().scope(),
        ):
            x = self.transform(rows).to(self._device)
            particles = self.objective.num_particles
            y = () if self.labels is None else (self.labels[: len(rows)],)
            self.objective.check(
                log_densities(program.model, program.guide, x, *y, num_particles=particles)
            )

    def check_finite(self, totals: Totals, loader: Loader, what: str = "step") -> None:
        """Check that not too many consecutive steps were skipped, by their totals.

        Raises:
            NonFiniteError: If there were, with the first term of the batch that is not finite.
        """
        if int(totals.in_a_row) < MAX_SKIPPED_IN_A_ROW:
            return
        step = int(totals.first_skipped)
        x = self.transform(loader.gather(loader.fetch(step)))
        y = self.labels_of(step)
        raise NonFiniteError(
            f"{MAX_SKIPPED_IN_A_ROW} {what}s in a row had no finite loss and gradient, from "
            f"{what} {step + 1} on: {_explain(self.program, self.objective, x, *y)}."
        )


def _explain(
    program: Any, objective: Objective, x: Real[Tensor, " batch *event"], *y: Tensor
) -> str:
    """Repeat a batch with validation and new noise, and name the first term that is not finite."""
    with pyro.validation_enabled(False):
        terms = log_densities(program.model, program.guide, x, *y)
    named = [(f"log q at site {name!r} of the guide", v) for name, v in terms.guide_sites.items()]
    named += [(f"log p at site {name!r} of the model", v) for name, v in terms.model_sites.items()]
    term = next((name for name, value in named if not value.isfinite().all()), None)
    parameters = {
        name: p
        for name, p in (*program.named_parameters(), *objective.named_parameters())
        if p.requires_grad
    }
    gradients: tuple[Tensor | None, ...] = ()
    reason = ""
    with pyro.validation_enabled(True):
        try:
            loss = objective_value(program, objective, x, *y).loss.mean()
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        except (ValueError, RuntimeError) as error:
            reason = f" ({' '.join(str(error).split())[:200]})"
    if term is not None:
        return f"{term} is not finite{reason}"
    for name, gradient in zip(parameters, gradients, strict=False):
        if gradient is not None and not gradient.isfinite().all():
            return f"the gradient of {name} is not finite{reason}"
    return f"all terms of the batch are finite with new noise{reason}"


def training_labels(program: Any, data: PreparedData) -> Tensor | None:
    """The labels that a program is trained with; None if it uses none.

    Raises:
        ValueError: If the data have none.
    """
    if labels_of_program(program) == "none":
        return None
    labels = data.dataset.labels.get("train")
    if labels is None:
        raise ValueError(
            f"{type(program).__name__} is trained with labels, and {data.dataset.name} has none."
        )
    select = getattr(program, "training_labels", None)
    return labels if select is None else select(labels)


# ---- noise of several processes ----------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """A random draw of a program."""

    operation: Any
    shape: torch.Size  # For the whole batch.
    axis: (
        int | None
    )  # The axis of the batch; None if the draw has none, and all processes use all of it.


class SharedNoise(TorchDispatchMode):
    """Make each draw for the whole batch, and cut it to this process's rows.

    Every process draws the same numbers, so their random streams stay together, and together they
    see the noise that one process would.
    """

    def __init__(self, draws: Sequence[Draw], start: int, rows: int) -> None:
        super().__init__()
        self._draws = draws
        self._start = start
        self._rows = rows
        self._next = 0

    def __enter__(self) -> Any:
        self._next = 0
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        draw, self._next = self._draws[self._next], self._next + 1
        if draw.axis is None:
            return func(*args, **kwargs)
        arguments = [a.name for a in func._schema.arguments]
        if "size" in arguments and not func._schema.is_mutable:
            place = arguments.index("size")
            whole = func(*args[:place], list(draw.shape), *args[place + 1 :], **kwargs)
        else:
            whole = func(args[0].new_empty(draw.shape), *args[1:], **kwargs)
        part = whole.narrow(draw.axis, self._start, self._rows)
        return args[0].copy_(part) if func._schema.is_mutable else part


def draws_of(function: Callable[..., Any], rows: int, *part: Tensor) -> list[Draw]:
    """The random draws of a function of a batch, found by tracing it for a part and for all.

    Args:
        function: A function of the rows of a batch, and perhaps their labels.
        rows: The number of rows of the whole batch.
        *part: Its arguments for a part of the batch.

    Raises:
        ValueError: If the function cannot be traced, or draws in a way that cannot be shared.
    """
    try:
        for_part = _random_nodes(trace(function, *part))
        # As many rows as the whole batch has.
        order = torch.arange(rows, device=part[0].device) % len(part[0])
        for_whole = _random_nodes(trace(function, *(each.index_select(0, order) for each in part)))
    except TracingError as error:
        raise ValueError(
            f"several processes need a program that can be traced, to share its noise: {error}."
        ) from error
    if [target for target, _ in for_part] != [target for target, _ in for_whole]:
        raise ValueError(
            "several processes need a program whose draws do not depend on the number of examples."
        )
    return [
        Draw(target, whole, _batch_axis(target, local, whole, len(part[0]), rows))
        for (target, local), (_, whole) in zip(for_part, for_whole, strict=True)
    ]


def _random_nodes(traced: Traced) -> list[tuple[Any, torch.Size]]:
    return [
        (node.target, node.meta["val"].shape)
        for node in traced.graph.graph.nodes
        if node.op == "call_function" and _is_random(node.target)
    ]


def _is_random(operation: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())


def _batch_axis(
    operation: Any, local: torch.Size, whole: torch.Size, part: int, rows: int
) -> int | None:
    different = [axis for axis, (a, b) in enumerate(zip(local, whole, strict=True)) if a != b]
    if not different:
        return None
    tensors = [a for a in operation._schema.arguments if str(a.type) == "Tensor"]
    shaped = operation._schema.is_mutable or not tensors or "_like" in str(operation)
    (axis, *others) = different
    if others or not shaped or len(tensors) > 1 or (local[axis], whole[axis]) != (part, rows):
        raise ValueError(
            f"several processes cannot share the noise of {operation}, whose shape for {part} and "
            f"for {rows} examples is {tuple(local)} and {tuple(whole)}: train in one process."
        )
    return axis
