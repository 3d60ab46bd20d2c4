"""How sections run their checks."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from analysis.check import UNUSED_PRIOR, Check, Plot, Section
from analysis.plotting.style import new_figure
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Steps, Subject
from analysis.verdicts import Verdict, judge_code_use


def a_subject(n=2, **options):
    return Subject(None, torch.zeros(n, 1), torch.zeros(2, 1), "real", lambda: None, **options)


@dataclass(frozen=True)
class Mean(Result):
    """A result with one number and one verdict."""

    FIELDS = ("mean",)
    mean: float

    def verdicts(self) -> tuple[Verdict, ...]:
        return (judge_code_use(self.mean, 1, 1),)

    def reading(self) -> str:
        return f"Mean {self.mean}."


def undefined(_):
    raise UndefinedCheckError("not here")


MEAN = Check(
    "mean",
    lambda subject: Mean(float("nan") if len(subject.x) > 2 else 3.0),
    (
        Plot("line", "What?", lambda result, subject: new_figure(1.0, 1.0)),
        Plot("no", "What?", lambda result, subject: new_figure(1.0, 1.0), when=lambda _: False),
        Plot("undefined", "What?", lambda result, subject: undefined(subject)),
    ),
    headline=lambda result: {"mean": f"{result.mean:.1f}"},
    record=lambda result: {"all": np.array([result.mean])},
    shared=("data",),
)
UNDEFINED = Check("undefined", undefined)


def test_a_section_records_what_is_defined_and_why_the_rest_is_not():
    after = Check("after", MEAN.compute, requires=(MEAN,), reading=lambda result: "Again.")
    without = Check("without", MEAN.compute, requires=(UNDEFINED,))
    never = Check("never", undefined, when=lambda subject: False)
    section = Section("What?", (MEAN, UNDEFINED, after, without, never))
    found = section.run("numbers", a_subject())
    assert found.record["mean"]["mean"] == 3.0
    assert found.record["all"] == [3.0]
    assert found.record["undefined"] == {"left_out": "not here"}
    # Its verdict is given by another check.
    assert found.record["after"] == {"mean": 3.0, "reading": "Again."}
    assert found.record["mean"]["verdicts"][0]["answer"] == "yes"
    assert found.record["reading"] == "Mean 3.0. Again."
    assert found.numbers == {"mean": "3.0"}
    assert list(found.results) == ["mean", "after"]
    assert list(found.figures) == list(found.captions) == ["line"]
    assert found.left_out == {"undefined.png": "not here", "undefined": "not here"}
    assert set(section.steps("numbers")) > {"data", "numbers: mean", "numbers: figures"}


def test_what_is_not_finite_is_null():
    found = Section("What?", (MEAN,)).run("numbers", a_subject(3))
    assert found.record["mean"]["mean"] is None
    assert found.record["all"] == [None]


def test_a_section_without_a_result_or_enough_examples_is_undefined():
    with pytest.raises(UndefinedCheckError, match="not here"):
        Section("What?", (UNDEFINED,)).run("numbers", a_subject())
    with pytest.raises(UndefinedCheckError, match="expected at least 2 examples, got 1"):
        Section("What?", (MEAN,), min_examples=2).run("numbers", a_subject(1))


def test_a_section_of_new_data_states_an_unused_prior_first():
    section = Section("What?", (MEAN,), new_data=True)
    found = section.run("numbers", a_subject(uses_prior=False))
    assert list(found.readings) == ["prior", "mean"]
    assert found.record["prior"] == {"reading": UNUSED_PRIOR}
    assert "prior" not in section.run("numbers", a_subject()).record


def test_shared_values_are_computed_once():
    calls = []
    subject = a_subject()
    for _ in range(2):
        assert subject.compute(calls.append) is None
    assert calls == [subject]


def test_steps_are_timed_without_those_inside_them():
    step = Steps(["outer", "inner", "never"])
    with step("outer"), step("inner"):
        sum(range(10**5))
    assert step.seconds["inner"] > 0
    assert step.seconds["outer"] < step.seconds["inner"]


def two_points(_):
    """Ten clusters of two different points: scikit-learn warns."""
    KMeans(10, n_init=2, random_state=0).fit(np.repeat([[0.0], [1.0]], 20, axis=0))
    return Mean(1.0)


def test_a_warning_of_a_library_is_a_note(capsys):
    again = Check("again", lambda subject: two_points(subject))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        found = Section("What?", (Check("clustering", two_points), again)).run("x", a_subject())
    assert capsys.readouterr().err == ""
    (note,) = found.record["clustering"]["notes"]
    assert note.startswith(
        "Note: Number of distinct clusters (2) found smaller than n_clusters (10)"
    )
    assert found.readings["clustering"] == f"Mean 1.0. {note}"
    assert found.record["again"]["notes"] == [note]


def test_a_warning_of_our_own_stays_an_error_in_tests():
    def ours(_):
        warnings.warn("ours", RuntimeWarning, stacklevel=1)

    with pytest.raises(RuntimeWarning, match="ours"):
        Section("What?", (Check("probe", ours),)).run("x", a_subject())
