"""A check of a trained model, and a section of a diagnosis: a question, and checks to answer it.

A check is one file: the class of its result, the function that computes it, its figures, and a
`Check` that `analysis.sections` lists. A check that is not defined for a program or its data is
left out, and the reason recorded. Warnings of numerical libraries become notes of the check that
raised them.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from analysis.result import UndefinedCheckError
from analysis.subject import Subject
from pyro_vae.json_values import to_jsonable
from pyro_vae.log_densities import NoDensityError
from pyro_vae.notebooks import html_table

if TYPE_CHECKING:
    import matplotlib.figure

# Errors that mean "not defined for this program or these data"; torch raises the last one for what
# a distribution lacks. Any other error is a mistake, and ends the program.
UNDEFINED = (UndefinedCheckError, NoDensityError, NotImplementedError)
# The modules whose warnings become notes.
LIBRARIES = r"(numpy|scipy|sklearn)\b"
UNUSED_PRIOR = (
    "New data are decoded from z ~ p(z), but the training objective has no term of this prior: "
    "their distance from real data measures how far the codes are from the prior, not the decoder."
)


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
        when: Whether a subject has this check; it is skipped silently otherwise. A `compute` that
            raises `UndefinedCheckError` is recorded as left out, with the reason.
        reading: Replaces the reading of a result whose verdicts another section gives; the
            verdicts are then not recorded.
    """

    name: str
    compute: Callable[[Subject], Any]
    plots: tuple[Plot, ...] = ()
    headline: Callable[[Any], Mapping[str, str]] = lambda _: {}
    record: Callable[[Any], Mapping[str, Any]] = lambda _: {}
    shared: tuple[str, ...] = ()
    requires: "tuple[Check, ...]" = ()
    when: Callable[[Subject], bool] = lambda _: True
    reading: Callable[[Any], str] | None = None


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

    def _repr_html_(self) -> str:
        return html_table(" ".join(self.readings.values()), (), [*self.numbers.items()])


@dataclass(frozen=True)
class Section:
    """A question about a trained VAE, and the checks that answer it.

    Args:
        question: The question.
        checks: The checks, in the order of the report.
        default: Whether a diagnosis has the section without being asked for it.
        new_data: Whether it is about data generated from the prior. If training did not use the
            prior, it states this first.
        min_examples: The fewest examples for which it is defined.
        complete: Whether it is defined only for data without missing values.
    """

    question: str
    checks: tuple[Check, ...]
    default: bool = True
    new_data: bool = False
    min_examples: int = 1
    complete: bool = False

    def steps(self, name: str) -> list[str]:
        """The steps that the section of this name may take."""
        shared = [step for check in self.checks for step in check.shared]
        names = [*(check.name for check in self.checks), "figures"]
        return [*shared, *(f"{name}: {each}" for each in names)]

    def run(self, name: str, subject: Subject) -> SectionResult:
        """Run the checks, record their results and draw their figures.

        Raises:
            UndefinedCheckError: If there are fewer than `min_examples` examples, values are
                missing that it needs, or no check is defined.
        """
        subject.check_size(self.min_examples)
        if self.complete and bool(subject.x.isnan().any()):
            raise UndefinedCheckError(
                "it is not defined for data with missing values, on which its statistics depend."
            )
        section = SectionResult()
        for check in self.checks:
            missing = [each for each in check.requires if each.name not in section.results]
            if check.when(subject) and not missing:
                _run_check(check, name, subject, section)
        if not section.results:
            raise UndefinedCheckError(next(iter(section.left_out.values())))
        record, readings = section.record, section.readings
        if self.new_data and not subject.uses_prior:
            record["prior"] = {"reading": UNUSED_PRIOR}
            readings = {"prior": UNUSED_PRIOR, **readings}
        record["reading"] = " ".join(readings.values())
        return replace(section, readings=readings)


def _run_check(check: Check, name: str, subject: Subject, section: SectionResult) -> None:
    try:
        with subject.step(f"{name}: {check.name}"), library_warnings() as notes:
            result = subject.compute(check.compute)
            summary = dict(result.summary())
    except UNDEFINED as error:
        section.left_out[check.name] = str(error)
        section.record[check.name] = {"left_out": str(error)}
        return
    if check.reading is not None:
        summary["reading"] = check.reading(result)
        summary.pop("verdicts", None)
    if notes:
        summary["notes"] = notes
    section.results[check.name] = result
    section.record[check.name] = summary
    section.record.update(to_jsonable(check.record(result)))
    section.readings[check.name] = " ".join([summary["reading"], *notes])
    section.numbers.update(check.headline(result))
    for plot in check.plots:
        if plot.when(result):
            try:
                with subject.step(f"{name}: figures"):
                    section.figures[plot.name] = plot.draw(result, subject)
                section.captions[plot.name] = plot.caption
            except UNDEFINED as error:
                section.left_out[f"{plot.name}.png"] = str(error)


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
