"""A check of a trained model: its result, its figures and its entry in a section of the diagnosis.

A check is one file: the class of its result, the function that computes it, its figures, and a `Check`
that `analysis.sections` lists.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pyro_vae.json_values import to_jsonable

if TYPE_CHECKING:
    import matplotlib.figure

    from analysis.subject import Subject
    from analysis.verdicts import Verdict


class UndefinedCheckError(ValueError):
    """A check that is not defined for a program or its data; the message gives the reason."""


class Result:
    """The result of a check, recorded as finite JSON values.

    Subclasses are dataclasses. They list in `FIELDS` the attributes and properties to record, in order,
    add nested values in `extra`, and state in `reading` what was found, in one sentence; the explanation
    of the numbers is in `docs/`.
    """

    FIELDS: ClassVar[tuple[str, ...]] = ()

    def summary(self) -> dict[str, Any]:
        """The recorded values: `FIELDS`, `extra()`, "verdicts" if there are any, and "reading"."""
        record = {name: getattr(self, name) for name in self.FIELDS} | dict(self.extra())
        if verdicts := self.verdicts():
            record["verdicts"] = [verdict.summary() for verdict in verdicts]
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
        name: Part of the figure's file name.
        caption: The question that it answers.
        draw: Draws it from the check's result and the subject. A figure that needs the result of
            another check takes it from `subject.compute(check.compute)`.
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
        compute: Computes its `Result`; called once for a subject.
        plots: Its figures.
        headline: The numbers to print first, from its result: label and formatted value.
        record: Values to record for the whole section, from its result.
        shared: Steps of the progress bar that it may share with other checks.
        requires: Checks without whose results it is skipped.
        when: Whether a subject has this check; it is skipped silently otherwise. A `compute` that raises
            `UndefinedCheckError` is recorded as left out, with the reason.
        reading: Replaces the reading of a result whose verdicts another section gives; the verdicts are
            then not recorded.
    """

    name: str
    compute: "Callable[[Subject], Any]"
    plots: tuple[Plot, ...] = ()
    headline: Callable[[Any], Mapping[str, str]] = lambda _: {}
    record: Callable[[Any], Mapping[str, Any]] = lambda _: {}
    shared: tuple[str, ...] = ()
    requires: "tuple[Check, ...]" = ()
    when: "Callable[[Subject], bool]" = lambda _: True
    reading: Callable[[Any], str] | None = None
