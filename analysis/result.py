"""The result of a check, the error of a check without one, and the commands that messages name."""

from collections.abc import Mapping
from typing import Any, ClassVar

from analysis.verdicts import Verdict
from pyro_vae.json_values import to_jsonable
from pyro_vae.notebooks import SummaryTable

# RUN and DATA are placeholders; `diagnose.py` replaces RUN.
ANNEALING = "python scripts/evaluate.py RUN --methods annealing"
GAPS = "python scripts/evaluate.py RUN --methods gaps"
GUIDE = "python scripts/diagnose.py RUN --only guide"
AGAIN = "python scripts/diagnose.py RUN --only SECTION"
MORE_DRAWS = f"{GUIDE} --samples 10000"
REPRESENTATION = "python scripts/diagnose.py RUN --only representation"
FOREIGN = f"{REPRESENTATION} --against DATA"


class UndefinedCheckError(ValueError):
    """A check that is not defined for a program or its data; the message gives the reason."""


class Result(SummaryTable):
    """The result of a check, recorded as finite JSON values.

    Subclasses are dataclasses. They list in `FIELDS` the attributes and properties to record, in
    order, add nested values in `extra`, and state in `reading` what was found, in one sentence;
    the explanation of the numbers is in `docs/`.
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

    def verdicts(self) -> tuple[Verdict, ...]:
        """The answers to questions of the diagnosis."""
        return ()

    def reading(self) -> str:
        """What was found, in one sentence: by default the verdicts."""
        return " ".join(str(verdict) for verdict in self.verdicts())
