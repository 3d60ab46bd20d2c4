"""Groups of sections of a diagnosis, computed side by side by processes of their own.

Much of a section is work of one core: permutations, classifiers, figures. Two processes with a
core each are faster than one after the other with two.
"""

import contextvars
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from tqdm import tqdm

from analysis.check import SectionResult
from analysis.subject import Steps

# Of linux/prctl.h.
_PR_SET_PDEATHSIG = 1
# The variables that a library of parallel loops reads when it is loaded.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class ComputedSection:
    """A section as it is stored and printed.

    Args:
        section: The section without its figures and results; None if it is not defined.
        record: Its JSON values.
        files: The content of its figures' PNG files, by name.
        seconds: The time that it took.
    """

    section: SectionResult | None
    record: dict[str, Any]
    files: dict[str, bytes]
    seconds: float


Compute = Callable[[str], ComputedSection]


def compute_sections(
    groups: Sequence[Sequence[str]], compute: Compute, step: Steps
) -> Generator[tuple[str, ComputedSection], None, None]:
    """Yield each section's name and `compute(name)`, as soon as it is there.

    The sections of a group are computed in order, by one process, so that each finds what the
    earlier ones computed. Processes are forks, with what this process has, and share its cores.
    On a system without forks, with one core or a GPU, or for one group, there are none. If one
    ends unexpectedly, its other sections are computed here. Close the iterator to end them.

    Args:
        groups: The names of sections.
        compute: Computes a section.
        step: The steps that it uses. The bar shows those of all processes.
    """
    names = [name for group in groups for name in group]
    workers = [_Worker(group, compute, step) for group in _buckets(groups)]
    done: set[str] = set()
    try:
        for worker in workers:
            worker.start(max(1, torch.get_num_threads() // len(workers)))
        if workers:
            # What a page is written with, while there is nothing else to do here.
            with suppress(ImportError):
                import_module("xarray")
        running = {worker.pipe: worker for worker in workers if worker.pipe is not None}
        while running:
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                try:
                    kind, *content = pipe.recv()
                except EOFError:
                    running.pop(pipe).close()
                    continue
                if kind == "error":
                    raise content[0]
                if kind == "bar":
                    step.relayed(*content)
                else:
                    name, result, seconds = content
                    step.seconds |= seconds
                    done.add(name)
                    yield name, result
    finally:
        for worker in workers:
            worker.close()
    for name in names:
        if name not in done:
            yield name, compute(name)


def _buckets(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """The names of each process: at most as many as there are cores; none without processes."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if min(cores, len(groups)) < 2 or torch.cuda.is_initialized():
        return []
    buckets: list[list[str]] = [[] for _ in range(min(cores, len(groups)))]
    for group in sorted(groups, key=len, reverse=True):
        min(buckets, key=len).extend(group)
    return buckets


class _Worker:
    """A process that computes sections and sends them.

    Args:
        names: The sections.
        compute: Computes one.
        step: The steps that it uses.
    """

    def __init__(self, names: Sequence[str], compute: Compute, step: Steps) -> None:
        self.names = names
        self.compute = compute
        self.step = step
        self.pipe: Connection | None = None
        self._process: Any = None

    def start(self, threads: int) -> None:
        """Start it, with a number of threads."""
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=self._serve, args=(theirs, threads), daemon=True)
        with warnings.catch_warnings():
            # Of threads of this process, which the other one does not need.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()

    def close(self) -> None:
        """End it."""
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None
            self._process.kill()
            self._process.join()

    def _serve(self, pipe: Connection, threads: int) -> None:
        # The parent is asked to stop, and ends this process; the system does if it cannot.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # A thread that does not exist here may hold the other one.
        tqdm.set_lock(threading.RLock())
        # OpenMP's threads do not exist here either. A new thread starts its own.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._work, pipe, threads))
        thread.start()
        thread.join()

    def _work(self, pipe: Connection, threads: int) -> None:
        _limit_threads(threads)
        self.step.relay(lambda *message: pipe.send(("bar", *message)))
        for name in self.names:
            try:
                result = self.compute(name)
            except BaseException as error:  # noqa: BLE001 - the parent raises it.
                pipe.send(("error", _picklable(error)))
                return
            pipe.send(("result", name, result, self.step.seconds))


def _limit_threads(threads: int) -> None:
    """Limit the threads of all libraries, those that will be loaded included."""
    from threadpoolctl import threadpool_limits

    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    threadpool_limits(threads)
    torch.set_num_threads(threads)


def _picklable(error: BaseException) -> BaseException:
    """The error, with its traceback as a note; another one if it cannot be pickled."""
    text = traceback.format_exc()
    error.add_note(text)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - of any `__reduce__`.
        return RuntimeError(text)
    return error
