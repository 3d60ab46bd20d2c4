"""What a logger is, and what it can read of a training."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Real
from pyro import poutine
from torch import Tensor

from pyro_vae.data.labels import are_classes
from pyro_vae.labelled_rows import rows_of
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.traces import unconditioned
from pyro_vae.training.history import Record

if TYPE_CHECKING:
    from pyro_vae.training.loop import Training

# Every epoch has the same noise, so that pictures of two epochs compare.
SEED = 20_140_402


class Logger:
    """Writes what happens in a training; this one writes nothing.

    >>> class Losses(Logger):
    ...     def end_epoch(self, epoch):
    ...         print(epoch.record["epoch"], epoch.reconstructions(4).shape)
    >>> from pyro_vae import build, fit
    >>> from pyro_vae.data import digits
    >>> history = fit(build((1, 8, 8)), digits(), epochs=1, loggers=[Losses()])
    1 torch.Size([4, 1, 8, 8])

    All methods are called between two steps, by the first of several processes, in evaluation mode
    without gradients, and under a random stream of their own: a training with a logger has the
    same random numbers, and ends with the same parameters, as one without.
    """

    def begin(self, training: "Training") -> None:
        """Called before the first step.

        Args:
            training: The training. Its `history` has the epochs before this step if it is resumed;
                what a logger has written of later ones will come again.
        """

    def end_epoch(self, epoch: "Snapshot") -> None:
        """Called after each epoch."""

    def close(self) -> None:
        """Called at the end, also of an interrupted or failed training, once `begin` was."""


class Snapshot:
    """A training after an epoch.

    Data are some rows of the validation split, the same after every epoch, in the units of the
    data. Everything is computed when it is asked for.

    Args:
        training: The training.
    """

    def __init__(self, training: "Training") -> None:
        self.training = training

    @property
    def record(self) -> Record:
        """The numbers of the epoch by name, in nats per example."""
        return self.training.history[-1]

    @property
    def step(self) -> int:
        """The number of steps so far."""
        return self.training.step

    def data(self, n: int) -> Real[Tensor, " n *event"]:
        """At most n rows."""
        split = self.training.data.fixed("validation")
        x = as_floats(split[self._rows(n)])
        return self.training.contract.to_data_units(x, draws=False)

    def reconstructions(self, n: int) -> Float[Tensor, " n *event"] | None:
        """The mean of p(x | z) at a draw of q(z | x) for each of `data(n)`.

        None if the program has no site "x".
        """
        program, x = self._program_and_rows(n)
        trace = poutine.trace(program.guide).get_trace(x)
        return self._mean(poutine.replay(program.model, trace), x)

    def samples(self, n: int) -> Float[Tensor, " n *event"] | None:
        """The mean of p(x | z) at draws of p(z), as many as `data(n)`; with their labels if any.

        None if the program has no site "x".
        """
        program, x = self._program_and_rows(n)
        return self._mean(unconditioned(program.model), x)

    def codes(self, n: int) -> Float[Tensor, "n latent"] | None:
        """The embedding of each of `data(n)`; None if the program has no `embed`."""
        program, x = self._program_and_rows(n)
        return program.embed(x).flatten(1).cpu() if hasattr(program, "embed") else None

    def labels(self, n: int) -> dict[str, list[str]]:
        """The label, or the factors, of each of `data(n)` as text by name; may be empty."""
        dataset = self.training.data.dataset
        labels, names = dataset.labels.get("validation"), dataset.label_names
        if labels is None:
            return {}
        rows = labels[self._rows(n)]
        if rows.dim() > 1:
            names = names or tuple(f"factor {i}" for i in range(rows.shape[1]))
            return {
                name: [f"{value:g}" for value in column]
                for name, column in zip(names, rows.T.tolist(), strict=True)
            }
        named = list(names) if are_classes(labels) else []
        texts = [named[v] if 0 <= v < len(named) else f"{v:g}" for v in rows.tolist()]
        return {"label": texts}

    def _rows(self, n: int) -> Tensor:
        # The evaluation is imported late.
        from pyro_vae.evidence import fixed_rows

        return fixed_rows(len(self.training.data.fixed("validation")), n)

    def _program_and_rows(self, n: int) -> tuple[Any, Tensor]:
        training, rows = self.training, self._rows(n)
        labels = training.data.dataset.labels.get("validation")
        x = as_floats(training.data.fixed("validation")[rows].to(training.device))
        y = None if labels is None else labels[rows].to(training.device)
        return rows_of(training.program, x, y)

    def _mean(self, model: Callable[..., Any], x: Tensor) -> Tensor | None:
        """The mean of the site "x", in the units of the data."""
        site: Any = poutine.trace(model).get_trace(x).nodes.get("x")
        if site is None:
            return None
        try:
            mean = site["fn"].mean
        except (NotImplementedError, AttributeError):
            mean = site["fn"].sample()
        return self.training.contract.to_data_units(mean, draws=False).cpu()


@contextmanager
def following(training: "Training", loggers: Sequence[Logger]) -> Iterator[Callable[[], None]]:
    """Begin and close loggers; the value is a function to call after each epoch.

    Args:
        training: The training.
        loggers: Its loggers; of several processes only the first has any.
    """

    def call(function: Callable[[Any], None], argument: Any) -> None:
        with evaluation_mode(training.program, seed=SEED):
            function(argument)

    def end_epoch() -> None:
        for logger in active:
            call(logger.end_epoch, Snapshot(training))

    first = training.processes.first
    active = [logger for logger in loggers if first and type(logger) is not Logger]
    with ExitStack() as stack:
        for logger in active:
            stack.callback(logger.close)
            call(logger.begin, training)
        yield end_epoch
