"""Interleaved timing: each implementation in its own process, one epoch each in turn.

The speed of a machine drifts, and the caches, threads and allocators of one library disturb
another. So one process runs at a time, neighbours in time are compared, and the first epochs, in
which libraries compile and fill their caches, are recorded apart.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.task import WARM_UP_EPOCHS, Setting, grey_images, missing_packages

# The time a process has to exit, in seconds.
PATIENCE = 10
INSTALL = "pip install -e '.[benchmark]'"

# A target with its value: "target", "value", "bound", "unit", "verdict", and the range over rounds
# in "lowest" and "highest".
TargetResult = dict[str, Any]


class ProcessError(RuntimeError):
    """A process ended with an error; the message is its last line or its exception."""


@dataclass
class Measurement:
    """The measurement of one implementation.

    Args:
        title: Its title.
        note: How it differs from the others.
        status: "measured", or the reason why not.
        images: The number of images per epoch.
        prepare_seconds: The time of `Implementation.prepare`. It does not include the import of
            torch and Pyro, which is the same for all.
        warm_up_seconds: The time of each warm-up epoch, with compilation.
        compile_seconds: The time of compilation, if it is known.
        seconds: The time of each later epoch, one per round.
        losses: The mean loss per image of each epoch in nats, with warm-up.
        peak_bytes: The peak memory of its process.
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

    @property
    def seconds_per_image(self) -> list[float]:
        """Times that compare epochs of different numbers of images; none after a failure."""
        if self.status != "measured" or not self.images:
            return []
        return [seconds / self.images for seconds in self.seconds]


@dataclass(frozen=True)
class Environment:
    """What all implementations share besides the task.

    Args:
        data: The image set.
        data_root: The folder of data sets; None for the default one.
        threads: The number of cores of a process.
        images: The number of images by implementation; by default all, once.
    """

    data: str = "mnist"
    data_root: str | None = None
    threads: int = 1
    images: Mapping[str, int] = field(default_factory=dict)


class Worker:
    """The process of one implementation, prepared, until it is closed.

    Raises:
        ProcessError: If it cannot be prepared.
    """

    def __init__(self, name: str, setting: Setting, environment: Environment) -> None:
        self.name = name
        # The output of libraries, for the message if the process dies.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        with limited_cores(environment.threads) as variables:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.timing"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=variables,
            )
        data = [environment.data, environment.data_root, environment.images.get(name)]
        try:
            job = {"name": name, "setting": asdict(setting), "data": data}
            self.prepared = self._ask(json.dumps(job))
        except ProcessError:
            self.close()
            raise

    def epoch(self) -> dict[str, Any]:
        """Train an epoch, and return its `seconds`, `loss`, `compile_seconds` and `peak_bytes`.

        Raises:
            ProcessError: If it cannot be trained.
        """
        return self._ask("epoch")

    def close(self) -> None:
        """End the process, which cleans up after itself unless it is busy."""
        assert self._process.stdin is not None
        # A dead process does not read what is left to flush.
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
        # A dead process is noticed by its missing answer.
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            last, code = last_line(self._errors.read()), self._process.wait()
            raise ProcessError(f"its process ended with code {code}: {last}")
        values = json.loads(answer)
        if "error" in values:
            raise ProcessError(values["error"])
        return values


def run_in_process(function: str, *arguments: Any, threads: int) -> dict[str, Any]:
    """The result of a function in its own process, whose memory and threads it does not share.

    Args:
        function: "module:name".
        *arguments: Values that JSON can hold.
        threads: The number of cores.

    Raises:
        ProcessError: If the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.timing", function, json.dumps(arguments)]
    with limited_cores(threads) as variables:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        raise ProcessError(last_line(done.stderr))
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def limited_cores(threads: int) -> Iterator[dict[str, str]]:
    """A context whose new processes inherit `threads` cores, and their environment variables."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        yield {**os.environ, **dict.fromkeys(names, str(threads))}
    finally:
        os.sched_setaffinity(0, cores)


def last_line(text: str) -> str:
    """The last line that is not empty, for a message."""
    lines = text.replace("\r", "\n").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no message")


def measure(
    names: Sequence[str],
    setting: Setting,
    environment: Environment,
    rounds: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Measurement]:
    """Time whole epochs of several implementations, in rounds.

    Args:
        names: Names in `IMPLEMENTATIONS`.
        setting: The task.
        environment: Data and threads.
        rounds: The number of epochs of each, after the warm-up.
        say: Called with lines on the progress.

    Returns:
        A measurement for each name; its status tells whether it succeeded.

    Raises:
        ValueError: If there are no such images.
    """
    # Check here, rather than in each process.
    grey_images(environment.data, environment.data_root, 1)
    kinds = {name: IMPLEMENTATIONS[name] for name in names}
    measured = {name: Measurement(kind.title, kind.note) for name, kind in kinds.items()}
    workers: dict[str, Worker] = {}

    @contextmanager
    def record_failure(name: str) -> Iterator[None]:
        try:
            yield
        except ProcessError as error:
            measured[name].status = f"failed: {error}"
            say(f"{name}: {measured[name].status}")

    try:
        for name in names:
            if missing := missing_packages(kinds[name]):
                measured[name].status = f"not installed ({INSTALL})"
                say(f"{name}: {', '.join(missing)} not installed ({INSTALL})")
                continue
            say(f"{name}: preparing, and {WARM_UP_EPOCHS} epochs of warm-up")
            with record_failure(name):
                workers[name] = Worker(name, setting, environment)
                measured[name].images = workers[name].prepared["images"]
                measured[name].prepare_seconds = workers[name].prepared["prepare_seconds"]
                for _ in range(WARM_UP_EPOCHS):
                    _run_epoch(workers[name], measured[name], measured[name].warm_up_seconds)
        for turn in range(rounds):
            # Alternate the order, so that drift within a round favours none.
            for name in list(workers) if turn % 2 == 0 else list(reversed(workers)):
                if measured[name].status != "measured":
                    continue
                with record_failure(name):
                    _run_epoch(workers[name], measured[name], measured[name].seconds)
                    say(f"round {turn + 1} of {rounds}: {name} {measured[name].seconds[-1]:.3f} s")
    finally:
        for worker in workers.values():
            worker.close()
    return measured


def _run_epoch(worker: Worker, measurement: Measurement, seconds: list[float]) -> None:
    values = worker.epoch()
    seconds.append(values["seconds"])
    measurement.losses.append(values["loss"])
    measurement.compile_seconds = values["compile_seconds"]
    measurement.peak_bytes = values["peak_bytes"]


class Spread(NamedTuple):
    """A median and a range."""

    median: float
    lowest: float
    highest: float


def show_spread(found: Spread | None, form: str) -> str:
    """A median and its range, if it has one; nothing for None.

    >>> show_spread(Spread(2.0, 1.0, 3.0), ".1f")
    '2.0 (1.0 to 3.0)'
    """
    if found is None:
        return ""
    if found.lowest == found.highest:
        return format(found.median, form)
    return f"{found.median:{form}} ({found.lowest:{form}} to {found.highest:{form}})"


def spread(values: Sequence[float]) -> Spread | None:
    """The median and the range of some values; None for none.

    >>> spread([3.0, 1.0, 2.0, 10.0])
    Spread(median=2.5, lowest=1.0, highest=10.0)
    """
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def ratio(values: Sequence[float], others: Sequence[float]) -> Spread | None:
    """The median and range of values / others by round; None without a round of both.

    A slow round slows both, so this is steadier than a ratio of medians.

    >>> ratio([1.0, 4.0, 3.0], [2.0, 4.0, 4.0]).median
    0.75
    """
    return spread([value / other for value, other in zip(values, others, strict=False)])


def at_most(what: str, value: float | Spread | None, bound: float, unit: str = "") -> TargetResult:
    """Whether a value, or the median of a range, is at most a bound.

    >>> at_most("start", 9.0, 8.0, "s")["verdict"]
    'missed by 12.5 %'
    """
    median = value.median if isinstance(value, Spread) else value
    if median is None:
        verdict = "not measured"
    elif median <= bound:
        verdict = "reached"
    else:
        verdict = f"missed by {100 * (median / bound - 1):.1f} %"
    found = {"target": what, "value": median, "bound": bound, "unit": unit, "verdict": verdict}
    if isinstance(value, Spread):
        found |= {"lowest": value.lowest, "highest": value.highest}
    return found


def ratio_targets(
    targets: Mapping[tuple[str, str], float], measured: Mapping[str, Measurement]
) -> list[TargetResult]:
    """The ratio of two implementations' times per image, for each target.

    Args:
        targets: The largest ratio by the names of the two.
        measured: Measurements by name.
    """
    times = {name: each.seconds_per_image for name, each in measured.items()}
    return [
        at_most(f"{name} / {other}", ratio(times.get(name, []), times.get(other, [])), bound)
        for (name, other), bound in targets.items()
    ]


def describe(found: TargetResult) -> str:
    """A target and its result, in one line."""
    unit = f" {found['unit']}" if found["unit"] else ""
    if found["bound"] is None:
        return f"{found['target']}: {found['verdict']}"
    line = f"{found['target']} <= {found['bound']:.3g}{unit}: {found['verdict']}"
    if found["value"] is None:
        return line
    line += f" ({found['value']:.3g}{unit}"
    if "lowest" in found:
        line += f"; by round {found['lowest']:.3g} to {found['highest']:.3g}"
    return line + ")"


def memory_bytes(name: str = "VmHWM") -> int:
    """The memory of this process in bytes: its peak, or with "VmRSS" the current one.

    Not `getrusage`, whose peak includes that of the parent.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; memory can be measured on Linux only.")


def _serve(output: IO[str]) -> int:
    """Prepare the implementation that standard input names, then train an epoch for each line."""

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=output, flush=True)

    try:
        job = json.loads(sys.stdin.readline())
        images = grey_images(*job["data"])
        implementation = IMPLEMENTATIONS[job["name"]](images, Setting(**job["setting"]))
        started = time.perf_counter()
        implementation.prepare()
        answer(prepare_seconds=time.perf_counter() - started, images=len(implementation.images))
        for _ in sys.stdin:
            seconds = implementation.epoch()
            answer(
                seconds=seconds,
                loss=implementation.loss,
                compile_seconds=implementation.compile_seconds,
                peak_bytes=memory_bytes(),
            )
    # Any error of a peer is its result, and the others continue.
    except Exception as error:  # noqa: BLE001
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return 1
    return 0


def _main(arguments: Sequence[str]) -> int:
    """Serve epochs, or call the function named by the arguments and print its result."""
    # Standard output is for answers; what libraries print goes to standard error.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        if not arguments:
            return _serve(output)
        module, _, name = arguments[0].partition(":")
        function = getattr(importlib.import_module(module), name)
        print(json.dumps(function(*json.loads(arguments[1]))), file=output)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
