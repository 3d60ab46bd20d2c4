"""Scores and figures of the programs of `pyro_vae.programs`, a file for each."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Int, Real
from torch import Tensor

from pyro_vae.data import DataContract, PreparedData
from pyro_vae.programs import PROGRAMS, labels_of_program

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class HeldOut:
    """Held-out data of a program.

    Args:
        x: The data, in the likelihood's support, on the program's device.
        y: Their labels `(n,)`, -1 where unknown, or columns `(n, columns)`; None if there are
            none.
        label_names: The names of labels 0, 1, ...; with several columns, of the columns.
        event_names: The names of an example's elements.
        contract: The description of the data.
        complete: x before values were removed at random; None if none were.
    """

    x: Real[Tensor, " n *event"]
    y: Real[Tensor, " n *columns"] | None
    label_names: tuple[str, ...] = ()
    event_names: tuple[str, ...] = ()
    contract: DataContract | None = None
    complete: Real[Tensor, " n *event"] | None = None

    @classmethod
    def test_rows(
        cls, data: PreparedData, rows: Int[Tensor, " n"], contract: DataContract, device: Any
    ) -> "HeldOut":
        """Rows of the test split."""
        labels = data.dataset.labels.get("test")
        complete = None if data.complete is data else data.complete.fixed("test")
        return cls(
            x=data.fixed("test")[rows].to(device),
            y=None if labels is None else labels[rows].to(device),
            label_names=tuple(data.dataset.label_names),
            event_names=tuple(data.dataset.event_names),
            contract=contract,
            complete=None if complete is None else complete[rows].to(device),
        )

    def select(self, rows: Any) -> "HeldOut":
        """Some of the rows."""
        kept = {"x": self.x, "y": self.y, "complete": self.complete}
        return replace(self, **{k: v if v is None else v[rows] for k, v in kept.items()})

    def given(self, program: Any) -> tuple[Tensor, ...]:
        """The labels, if the program's densities are conditional on them."""
        always = labels_of_program(program) == "always"
        return (self.y,) if always and self.y is not None else ()


def program_scores(name: str, program: Any, held_out: HeldOut) -> dict[str, Any]:
    """The program's own entries of `metrics.json`, and "scores", their names.

    There are none for the VAE and a user's model file.
    """
    if name not in PROGRAMS:
        return {}
    found = _module(name).scores(program, held_out)
    return {**found, "scores": [*found]}


def program_figures(
    name: str, program: Any, held_out: HeldOut
) -> "dict[str, Callable[[], matplotlib.figure.Figure]]":
    """The program's own figures by name, each a function that draws it."""
    return _module(name).figures(program, held_out) if name in PROGRAMS else {}


def _module(name: str) -> Any:
    return importlib.import_module(f"analysis.programs.{name}")
