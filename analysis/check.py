"""What every check of a trained model has in common: its result, its figures and its entry in a section.

A check is one file: the class of its result, the function that computes it, its figures, and a `Check`
that puts them into a section of the diagnosis.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pyro_vae.json_values import to_jsonable

if TYPE_CHECKING:
    import matplotlib.figure

    from analysis.diagnosis import Subject
    from analysis.verdicts import Verdict


class Result:
    """The result of a check, recorded as finite JSON values.

    Subclasses are dataclasses. They list in `FIELDS` the attributes and properties to record, in order,
    add nested values in `extra`, and say in `reading` what was found, in one sentence; the explanation
    of the numbers is in `docs/`.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ()

    def summary(self) -> dict[str, Any]:
        """The recorded values: `FIELDS`, `extra()`, "verdicts" if there are any, and "reading"."""
        record = {name: getattr(self, name) for name in self.FIELDS} | dict(self.extra())
        if verdicts := self.verdicts():
            record["verdicts"] = [verdict.plain() for verdict in verdicts]
        record["reading"] = self.reading()
        return to_jsonable(record)

    def extra(self) -> Mapping[str, Any]:
        """Further values to record."""
        return {}

    def verdicts(self) -> "tuple[Verdict, ...]":
        """The answers to questions of the diagnosis."""
        return ()

    def reading(self) -> str:
        """What was found, in one sentence: by default the verdicts."""
        return " ".join(str(verdict) for verdict in self.verdicts())


@dataclass(frozen=True)
class Plot:
    """A figure of a check.

    Args:
        name: The figure's name, a part of its file name.
        caption: The question that it answers.
        draw: Draws it from the check's result and the subject.
        when: Whether a result has this figure.
    """

    name: str
    caption: str
    draw: "Callable[[Any, Subject], matplotlib.figure.Figure]"
    when: Callable[[Any], bool] = lambda _: True


@dataclass(frozen=True)
class Check:
    """A check as an entry in a section of the diagnosis.

    Args:
        name: Its key in the section's record.
        compute: Computes its `Result`.
        plots: Its figures.
        headline: Numbers that are printed first: label and formatted value.
        record: Values that are recorded for the whole section.
        shared: Steps of the progress bar that it may share with other checks.
    """

    name: str
    compute: "Callable[[Subject], Any]"
    plots: tuple[Plot, ...] = ()
    headline: Callable[[Any], Mapping[str, str]] = lambda _: {}
    record: Callable[[Any], Mapping[str, Any]] = lambda _: {}
    shared: tuple[str, ...] = ()
