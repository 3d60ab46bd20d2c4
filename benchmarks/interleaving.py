"""Ways side by side: each in a process of its own, an epoch each in turn, and again.

A machine's speed drifts, and caches, threads and allocators of one library disturb another. So only
one process runs at a time, neighbours in time are compared, and the first epoch, in which libraries
compile and fill their caches, is kept apart.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.images import grey_images
from benchmarks.registry import WAYS
from benchmarks.way import Setting, missing_packages

# A second one, because a last batch of another size may be compiled when it comes again.
WARM_UP_EPOCHS = 2

# How long a process may take to end, in seconds.
PATIENCE = 10

INSTALL = "pip install -e '.[benchmark]'"


class WayFailed(RuntimeError):
    """A way could not be prepared, or not be trained."""


@dataclass
class Measurement:
    """What was measured of a way.

    Args:
        title: What it is.
        note: What it does otherwise than the others.
        status: "measured", or why not.
        images: The number of images an epoch.
        prepare_seconds: The time of networks and of what a way imports itself, before the first
            step. Torch and Pyro are there: every process imports them.
        warm_up_seconds: The time of each warm-up epoch, compilation in it included.
        compile_seconds: The time of compilation, where the way can tell.
        seconds: The time of each later epoch, one a round.
        losses: The mean loss per image in each epoch, warm-up included, in nats.
        peak_bytes: The most memory its process held.
    """

    title: str
    note: str = ""
    status: str = "measured"
    images: int | None = None
    prepare_seconds: float | None = None
    warm_up_seconds: list[float] = field(default_factory=list)
    compile_seconds: float | None = None
    seconds: list[float] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Surroundings:
    """What all ways share beside the task.

    Args:
        data: The set of images.
        data_root: The folder of data sets; the default one if None.
        threads: The number of cores that a process may use.
        images: The number of images, by way; what is not here has all, once.
    """

    data: str = "mnist"
    data_root: str | None = None
    threads: int = 1
    images: Mapping[str, int] = field(default_factory=dict)


class Worker:
    """The process of one way, started and prepared, until it is closed.

    Raises:
        WayFailed: If it cannot be prepared.
    """

    def __init__(self, name: str, setting: Setting, around: Surroundings) -> None:
        self.name = name
        # What libraries print, for the message should one die.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **thread_variables(around.threads)},
        )
        job = {
            "way": name,
            "setting": asdict(setting),
            "data": around.data,
            "data_root": around.data_root,
            "threads": around.threads,
            "images": around.images.get(name),
        }
        try:
            self.prepared = self._ask(json.dumps(job))
        except WayFailed:
            self.close()
            raise

    def epoch(self) -> dict[str, Any]:
        """Train an epoch: its `seconds`, `loss`, `compile_seconds` and `peak_bytes`.

        Raises:
            WayFailed: If it cannot be trained.
        """
        return self._ask("epoch")

    def close(self) -> None:
        """End the process: it cleans up after itself, if it is not in the middle of something."""
        assert self._process.stdin is not None
        # What a dead process has not read cannot be flushed.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._errors):
            assert stream is not None
            stream.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # A dead process is noticed below, by its silence.
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            said = self._errors.read().split("\n")
            last = next((line.strip() for line in reversed(said) if line.strip()), "no message")
            raise WayFailed(f"its process ended with code {self._process.wait()}: {last[:300]}")
        values = json.loads(answer)
        if "error" in values:
            raise WayFailed(values["error"])
        return values


def thread_variables(threads: int) -> dict[str, str]:
    """The environment variables that keep libraries to so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def measure(
    names: Sequence[str],
    setting: Setting,
    around: Surroundings,
    rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Measurement]:
    """Time whole epochs of several ways, in rounds.

    Args:
        names: Names in `WAYS`.
        setting: The task.
        around: Data and threads.
        rounds: The number of epochs of each, after the warm-up.
        say: Called with a line on how far it is.

    Returns:
        A measurement for each name, whatever became of it.

    Raises:
        ValueError: If there are no such images.
    """
    # Here, rather than in each process.
    grey_images(around.data, around.data_root, 1)
    measured = {name: Measurement(WAYS[name].title, WAYS[name].note) for name in names}
    workers: dict[str, Worker] = {}
    try:
        for name in names:
            if missing := missing_packages(WAYS[name]):
                measured[name].status = f"not installed ({INSTALL})"
                say(f"{name}: {', '.join(missing)} not installed ({INSTALL})")
                continue
            say(f"{name}: preparing, and {WARM_UP_EPOCHS} epochs of warm-up")
            with _failure_told(measured[name], say, name):
                workers[name] = Worker(name, setting, around)
                measured[name].images = workers[name].prepared["images"]
                measured[name].prepare_seconds = workers[name].prepared["prepare_seconds"]
                for _ in range(WARM_UP_EPOCHS):
                    _one_epoch(workers[name], measured[name], measured[name].warm_up_seconds)
        for turn in range(rounds):
            # There and back again: what drifts within a round favours nobody.
            for name in list(workers) if turn % 2 == 0 else list(reversed(workers)):
                if measured[name].status != "measured":
                    continue
                with _failure_told(measured[name], say, name):
                    _one_epoch(workers[name], measured[name], measured[name].seconds)
                    say(f"round {turn + 1} of {rounds}: {name} {measured[name].seconds[-1]:.3f} s")
    finally:
        for worker in workers.values():
            worker.close()
    return measured


def _one_epoch(worker: Worker, measurement: Measurement, seconds: list[float]) -> None:
    values = worker.epoch()
    seconds.append(values["seconds"])
    measurement.losses.append(values["loss"])
    measurement.compile_seconds = values["compile_seconds"]
    measurement.peak_bytes = values["peak_bytes"]


@contextmanager
def _failure_told(
    measurement: Measurement, say: Callable[[str], None], name: str
) -> Iterator[None]:
    """A context in which a way's failure becomes its status, and no other's."""
    try:
        yield
    except WayFailed as error:
        measurement.status = f"failed: {error}"
        say(f"{name}: {measurement.status}")
