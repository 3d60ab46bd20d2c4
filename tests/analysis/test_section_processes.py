"""Sections of other processes: equal to those computed here, and computed here when one fails."""

import os
import signal
import sys
import time
from contextlib import closing

import pytest
import torch

from analysis import section_processes, subject
from analysis.result import UndefinedCheckError
from analysis.section_processes import ComputedSection, compute_sections
from analysis.subject import Steps

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
GROUPS = (("a", "b"), ("c",))


def section(**record):
    return ComputedSection(None, record, {"figure": b"png"}, 0.5)


def records(compute, step=None, groups=GROUPS):
    found = compute_sections(groups, compute, step or Steps())
    return {name: each.record for name, each in found}


def test_groups_have_processes_and_their_sections_share_what_was_computed():
    shared = []

    def compute(name):
        shared.append(name)
        return section(shared=list(shared), pid=os.getpid())

    found = records(compute)
    assert {name: each["shared"] for name, each in found.items()} == {
        "a": ["a"],
        "b": ["a", "b"],
        "c": ["c"],
    }
    assert found["a"]["pid"] == found["b"]["pid"]
    assert len({os.getpid(), found["a"]["pid"], found["c"]["pid"]}) == 3
    assert shared == []


def test_one_group_is_computed_here():
    found = records(lambda name: section(pid=os.getpid()), groups=[("a", "b")])
    assert found == {name: {"pid": os.getpid()} for name in "ab"}


def test_the_bar_and_the_seconds_are_those_of_all_processes(monkeypatch):
    shown = []

    class Bar:
        def __init__(self, **options):
            pass

        def set_description(self, name):
            shown.append(name)

        def update(self, count):
            shown.append(count)

        def close(self):
            pass

    monkeypatch.setattr(subject, "tqdm", Bar)
    step = Steps(("a", "b", "c"))

    def compute(name):
        with step(name):
            time.sleep(0.01)
        return section()

    records(compute, step)
    assert {"a", "b", "c"} <= set(shown)
    assert sum(count for count in shown if isinstance(count, int)) == 3
    assert step.seconds.keys() == {"a", "b", "c"}
    assert min(step.seconds.values()) >= 0.01


def test_threads_start_anew_in_a_process():
    """OpenMP's threads are not there after a fork, and a process that waited for them would stop."""
    square = torch.ones(700, 700)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        square @ square  # Starts them here.

        def compute(name):
            return section(threads=torch.get_num_threads(), entry=float((square @ square)[0, 0]))

        found = records(compute)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)
    assert found == {name: {"threads": 2, "entry": 700.0} for name in "abc"}


class OwnError(Exception):
    """An error that pickle does not restore."""

    def __init__(self, one, two):
        super().__init__(one)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UndefinedCheckError("none"), UndefinedCheckError), (OwnError(1, 2), RuntimeError)],
)
def test_an_error_is_raised_here(error, kind):
    """With its traceback, which is all that is left of an error that cannot be sent."""

    def compute(name):
        if name == "b":
            raise error
        if name == "c":
            time.sleep(60)
        return section()

    found = compute_sections(GROUPS, compute, Steps())
    assert next(found)[0] == "a"
    with pytest.raises(kind) as raised:
        next(found)
    assert "in compute" in "".join([str(raised.value), *getattr(raised.value, "__notes__", ())])


def test_sections_of_a_killed_process_are_computed_here():
    here = os.getpid()

    def compute(name):
        if name == "b" and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return section(here=os.getpid() == here)

    found = records(compute)
    assert found == {"a": {"here": False}, "b": {"here": True}, "c": {"here": False}}


def test_closing_ends_the_processes(monkeypatch):
    workers = []
    start = section_processes._Worker.start
    monkeypatch.setattr(
        section_processes._Worker, "start", lambda *a: workers.append(a[0]) or start(*a)
    )

    def compute(name):
        if name != "a":
            time.sleep(60)
        return section()

    with closing(compute_sections(GROUPS, compute, Steps())) as found:
        assert next(found)[0] == "a"
    assert [worker._process.exitcode for worker in workers] == 2 * [-signal.SIGKILL]
