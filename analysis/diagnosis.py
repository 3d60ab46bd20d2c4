"""Running the sections of a diagnosis.

A check that is not defined for a program or its data is left out, and the reason recorded. Warnings of
numerical libraries become notes of the check that raised them.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.check import Check, UndefinedCheckError
from analysis.subject import Subject
from pyro_vae.json_values import to_jsonable
from pyro_vae.log_densities import NoDensityError

if TYPE_CHECKING:
    import matplotlib.figure

Made = TypeVar("Made")

# Errors that mean "not defined for this program or these data"; torch raises the last one for what a
# distribution lacks. Any other error is a mistake, and ends the program.
UNDEFINED = (UndefinedCheckError, NoDensityError, NotImplementedError)
# The modules whose warnings become notes.
LIBRARIES = r"(numpy|scipy|sklearn)\b"
UNUSED_PRIOR = (
    "New data are decoded from z ~ p(z), but the training objective has no term of this prior: their "
    "distance from real data measures how far the codes are from the prior, not the decoder."
)


@dataclass(frozen=True)
class SectionResult:
    """The results of a section's checks.

    Args:
        record: JSON values by check, with a "reading" of the whole section.
        figures: By name.
        captions: The question that each figure answers, by name.
        numbers: The numbers to print first: label and formatted value.
        readings: One sentence for each check.
        left_out: The reasons of checks and figures that are not defined.
        results: Each check's result.
    """

    record: dict[str, Any] = field(default_factory=dict)
    figures: "dict[str, matplotlib.figure.Figure]" = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    readings: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A question about a trained VAE, and the checks that answer it.

    Args:
        question: The question.
        checks: The checks, in the order of the report.
        default: Whether a diagnosis has the section without being asked for it.
        new_data: Whether it is about data generated from the prior: it then states first that
            training did not use the prior, if so.
        min_examples: The fewest examples for which it is defined.
    """

    question: str
    checks: tuple[Check, ...]
    default: bool = True
    new_data: bool = False
    min_examples: int = 1

    def steps(self, name: str) -> list[str]:
        """The steps that the section of this name may take."""
        shared = [step for check in self.checks for step in check.shared]
        names = [*(check.name for check in self.checks), "figures"]
        return [*shared, *(f"{name}: {each}" for each in names)]

    def run(self, name: str, subject: Subject) -> SectionResult:
        """Run the checks.

        Raises:
            UndefinedCheckError: If there are fewer than `min_examples` examples, or no check is defined.
        """
        subject.check_size(self.min_examples)
        parts = Parts(subject, name)
        for check in self.checks:
            parts.check(check)
        return parts.section(of_new_data=self.new_data)


@contextmanager
def library_warnings() -> Iterator[list[str]]:
    """Collect the warnings of numerical libraries, once each, instead of printing them."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("default", module=LIBRARIES)
        yield notes
    for warning in caught:
        text = " ".join(str(warning.message).split())
        note = f"Note: {text.rstrip('.')}."
        if note not in notes:
            notes.append(note)


class Parts:
    """A section while it is being computed.

    Args:
        subject: The subject of the diagnosis.
        name: The section's name.
    """

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject = subject
        self.name = name
        self.found = SectionResult()
        self.record = self.found.record
        self.numbers = self.found.numbers
        self.readings = self.found.readings
        self.left_out = self.found.left_out

    def add(
        self, name: str, make: Callable[[], Made], reading: Callable[[Any], str] | None = None
    ) -> Made | None:
        """Compute and record a part; None if it is not defined.

        Args:
            name: The part's name.
            make: Computes its result.
            reading: See `Check`.
        """
        try:
            with self.subject.step(f"{self.name}: {name}"), library_warnings() as notes:
                made = make()
                summary = dict(made if isinstance(made, Mapping) else made.summary())  # pyright: ignore
        except UNDEFINED as error:
            self.left_out[name] = str(error)
            self.record[name] = {"left_out": str(error)}
            return None
        if reading is not None:
            summary["reading"] = reading(made)
            summary.pop("verdicts", None)
        if notes:
            summary["notes"] = notes
        self.record[name] = summary
        self.readings[name] = " ".join([summary["reading"], *notes])
        self.found.results[name] = made
        return made

    def check(self, check: Check) -> Any:
        """Run a check, record it and draw its figures; None if it is not defined on these data."""
        if not check.when(self.subject):
            return None
        if any(each.name not in self.found.results for each in check.requires):
            return None
        found = self.add(check.name, lambda: self.subject.compute(check.compute), check.reading)
        if found is None:
            return None
        self.record.update(to_jsonable(check.record(found)))
        self.numbers.update(check.headline(found))
        for plot in check.plots:
            if plot.when(found):
                self.draw(plot.name, plot.caption, partial(plot.draw, found, self.subject))
        return found

    def draw(
        self, name: str, caption: str, plot: "Callable[[], matplotlib.figure.Figure]"
    ) -> None:
        """Draw a figure; one that is not defined for these data is left out."""
        try:
            with self.subject.step(f"{self.name}: figures"):
                self.found.figures[name] = plot()
            self.found.captions[name] = caption
        except UNDEFINED as error:
            self.left_out[f"{name}.png"] = str(error)

    def section(self, *, of_new_data: bool = False) -> SectionResult:
        """The section's result.

        Args:
            of_new_data: See `Section.new_data`.

        Raises:
            UndefinedCheckError: If all parts were left out.
        """
        if not self.readings:
            raise UndefinedCheckError(next(iter(self.left_out.values())))
        if of_new_data and not self.subject.uses_prior:
            self.record["prior"] = {"reading": UNUSED_PRIOR}
            checks = dict(self.readings)
            self.readings.clear()
            self.readings.update({"prior": UNUSED_PRIOR, **checks})
        self.record["reading"] = " ".join(self.readings.values())
        return self.found
