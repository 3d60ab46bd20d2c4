"""Rows with their labels side by side, for functions of data alone."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.programs import Labels, labels_of_program


class WithLabels(nn.Module):
    """A program of x and y as a program of rows, each of which holds x and y.

    Evidence, encodings and other functions of `model(x)` and `guide(x)` then work on programs
    whose densities are conditional on y, as log p(x | y). Everything else is the program's.

    Args:
        program: A program with `model(x, y)`, `guide(x, y)` and `embed(x, y)`.
        x: Data; only its shape is used.
        y: Labels `(n,)`, or several columns `(n, columns)`; only shape and type are used.
    """

    # The rows hold them.
    labels: ClassVar[Labels] = "none"

    def __init__(self, program: Any, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.program = program
        self._event, self._columns = x.shape[1:], y.shape[1:]
        self._dtype = y.dtype

    def pack(
        self, x: Real[Tensor, " n *event"], y: Real[Tensor, " m *columns"]
    ) -> Float[Tensor, "n width"]:
        """The rows of x and y.

        Raises:
            ValueError: If there is not a label for each row.
        """
        if len(x) != len(y):
            raise ValueError(f"y must have a row for each of {len(x)} of x, got {len(y)}.")
        parts = (x.flatten(1), y.to(x.device).reshape(len(y), -1))
        return torch.cat([part.to(torch.get_default_dtype()) for part in parts], 1)

    def unpack(self, rows: Float[Tensor, "n width"]) -> tuple[Tensor, Tensor]:
        """x and y of the rows."""
        size = self._event.numel()
        x, y = rows[:, :size], rows[:, size:]
        return x.unflatten(1, self._event or (1,)), y.to(self._dtype).reshape(-1, *self._columns)

    def model(self, rows: Float[Tensor, "n width"]) -> Any:
        """The program's model."""
        return self.program.model(*self.unpack(rows))

    def guide(self, rows: Float[Tensor, "n width"]) -> Any:
        """The program's guide."""
        return self.program.guide(*self.unpack(rows))

    def embed(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n latent"]:
        """The program's codes."""
        return self.program.embed(*self.unpack(rows))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.program, name)


def rows_of(
    program: Any, x: Real[Tensor, " n *event"], y: Real[Tensor, " m *columns"] | None
) -> tuple[Any, Real[Tensor, " n *row"]]:
    """A program and data for functions of rows: with their labels, if it always needs them.

    Raises:
        ValueError: If it does and there are none, or not one for each row.
    """
    if labels_of_program(program) != "always":
        return program, x
    if y is None:
        raise ValueError(
            f"{type(program).__name__} needs labels with its data (p(x) is conditional on them): "
            "give y."
        )
    joined = WithLabels(program, x, y)
    return joined, joined.pack(x, y)


def distinct_labels(labels: Real[Tensor, " n *columns"]) -> Real[Tensor, " m *columns"]:
    """Rows that hold each class of each column, from which a program knows its sizes.

    Of a column with fractions the first values.
    """
    columns = labels.reshape(len(labels), -1).T
    whole = [bool((column == column.round()).all()) for column in columns]
    found = [c.unique() if w else c[:2] for c, w in zip(columns, whole, strict=True)]
    most = max(len(values) for values in found)
    padded = [torch.cat([v, v[-1:].expand(most - len(v))]) for v in found]
    return torch.stack(padded, 1).reshape(most, *labels.shape[1:])
