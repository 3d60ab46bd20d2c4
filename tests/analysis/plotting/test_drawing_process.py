"""Figures of another process: equal to those drawn here, and drawn here when it fails."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from analysis.plotting.drawing_process import DrawingProcess
from analysis.plotting.style import to_png
from pyro_vae.data.nouns import use_noun
from pyro_vae.training.history import plot_learning_curves

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
PLOT = partial(plot_learning_curves, [{"epoch": e, "elbo": -2.0 / e} for e in (1, 2)])


def test_figures_are_those_drawn_here():
    with use_noun("cell"), closing(DrawingProcess()) as drawing:
        figures = [drawing.submit(PLOT) for _ in range(2)]
        # In any order.
        contents = [figures[1](), figures[0]()]
        assert contents == 2 * [to_png(PLOT())]


def drawn(mark):
    figure = PLOT()
    mark.touch()
    return figure


def test_it_draws_on_although_nobody_receives(tmp_path):
    # More than a pipe holds.
    marks = [tmp_path / str(number) for number in range(12)]
    with closing(DrawingProcess()) as drawing:
        figures = [drawing.submit(partial(drawn, mark)) for mark in marks]
        end = time.monotonic() + 60
        while not marks[-1].exists():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert sum(len(figure()) for figure in figures) > 2**18


def fail():
    raise ValueError(f"in {os.getpid()}")


def test_what_fails_there_fails_here():
    with closing(DrawingProcess()) as drawing:
        figures = [drawing.submit(plot) for plot in (fail, lambda: PLOT(), PLOT)]
        with pytest.raises(ValueError, match=f"in {os.getpid()}"):
            figures[0]()
        # A function that cannot be pickled is drawn here.
        assert figures[1]() == figures[2]()


def test_a_killed_process_is_replaced_by_this_one():
    with closing(DrawingProcess()) as drawing:
        figure = drawing.submit(PLOT)
        os.kill(drawing._process.pid, signal.SIGKILL)
        assert figure()[1:4] == b"PNG"
        assert drawing.submit(PLOT)()[1:4] == b"PNG"


CODE = """
import os, signal, sys, time
from analysis.plotting.drawing_process import DrawingProcess
drawing = DrawingProcess()
print(drawing._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_parent(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(number)
    parent.communicate()
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        # Ended, but not yet removed by the system's first process.
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the drawing process is still there")
