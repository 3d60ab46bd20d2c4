"""Figures drawn in a process of their own, while this one computes the next numbers."""

import gc
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pickle import PicklingError
from typing import TYPE_CHECKING, Any

import torch

from analysis.plotting.style import new_figure, to_png
from pyro_vae.data.nouns import noun, use_noun

if TYPE_CHECKING:
    import matplotlib.figure

# What figures import, in a second: the process does so while the model still trains.
IMPORTS = ("matplotlib.backends.backend_agg", "scipy.stats", "arviz_plots")
# A figure that is not there after so many seconds is drawn here.
PATIENCE = 60.0


class DrawingProcess:
    """A process that draws figures, or none: they are then drawn here, when they are asked for.

    It is a fork, which has everything imported that this process has, and only computes with
    NumPy. It holds no file and ends with this process, however that ends. If it fails, or a
    figure does, the figure is drawn here.

    >>> from contextlib import closing
    >>> from functools import partial
    >>> from pyro_vae.training.history import plot_learning_curves
    >>> with closing(DrawingProcess(start=False)) as drawing:
    ...     figure = drawing.submit(partial(plot_learning_curves, [{"epoch": 1, "elbo": -2.0}]))
    ...     figure()[1:4]
    b'PNG'

    Args:
        start: Whether to start it, where a second core is available and the system forks.
    """

    def __init__(self, start: bool = True) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None
        self._sent = 0
        self._drawn: dict[int, bytes | None] = {}
        if start and sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1:
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._pipe), daemon=True)
            with warnings.catch_warnings():
                # Of threads of this process, which the other one does not need.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._process.start()
            theirs.close()

    def submit(self, plot: Callable[[], "matplotlib.figure.Figure"]) -> Callable[[], bytes]:
        """Begin to draw a figure.

        Args:
            plot: Returns the figure: a function that can be pickled, such as a `partial`.

        Returns:
            A function that waits for the content of its PNG file, and raises what `plot` does.
        """
        number = self._sent
        self._sent += 1
        if self._pipe is not None:
            try:
                self._pipe.send((number, noun(), plot))
            except OSError:
                self.close()
            except (PicklingError, AttributeError, TypeError):
                self._drawn[number] = None

        def result() -> bytes:
            drawn = self._receive(number)
            return to_png(plot()) if drawn is None else drawn

        return result

    def _receive(self, number: int) -> bytes | None:
        """A figure of the process; None if it has not drawn it."""
        try:
            while self._pipe is not None and number not in self._drawn:
                if not self._pipe.poll(PATIENCE):
                    self.close()
                    break
                done, content = self._pipe.recv()
                self._drawn[done] = content
        except (OSError, EOFError):
            self.close()
        return self._drawn.pop(number, None)

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
            self._process.kill()
            self._process.join()


def _serve(pipe: Connection, parents: Connection) -> None:
    """Draw until the other end of the pipe is closed, which the parent's end does as well."""
    parents.close()
    # The parent is asked to stop, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The parent's threads do not exist here.
    torch.set_num_threads(1)
    # As bytes: reading a figure imports modules, and two threads that import wait for each other.
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    figures: queue.SimpleQueue[tuple[int, bytes | None]] = queue.SimpleQueue()

    def read() -> None:
        with suppress(Exception):
            while True:
                tasks.put(pipe.recv_bytes())
        os._exit(0)

    def send() -> None:
        # The thread above ends this process when the other end is closed.
        with suppress(OSError):
            while True:
                pipe.send(figures.get())

    # Threads of their own, so that neither end waits for the other to receive, which the other one
    # does last.
    for work in (read, send):
        threading.Thread(target=work, daemon=True).start()
    for name in IMPORTS:
        with suppress(ImportError):
            import_module(name)
    # The first figure reads the fonts, and imports what draws.
    with suppress(Exception):
        to_png(_first_figure())
    # No collection looks at what was imported.
    gc.freeze()
    while True:
        number, word, plot = pickle.loads(tasks.get())
        drawn = None
        with suppress(Exception), use_noun(word):
            drawn = to_png(plot())
        figures.put((number, drawn))


def _first_figure() -> "matplotlib.figure.Figure":
    figure = new_figure(1.0, 1.0)
    axes = figure.subplots()
    axes.plot([0.0, 1.0], [0.0, 1.0], label=r"$\mathdefault{x}$")
    axes.legend()
    return figure
