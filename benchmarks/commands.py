"""Whole commands of a checkout, timed from outside: when files appear and when steps are taken."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.study import ROOT
from benchmarks import step_clock
from benchmarks.timing import ProcessError, last_line, limited_cores

# The longest time of a command, in seconds.
PATIENCE = 600
# The time that a program has to end when asked to, in seconds.
ENDING_SECONDS = 10
# The time between two looks at a running command.
POLL_SECONDS = 0.05
# The start of a line in train.log, as `logging` writes it.
_LOG_TIME = "%Y-%m-%d %H:%M:%S,%f"


@dataclass(frozen=True)
class Checkout:
    """A checkout of this project: the one that measures, or a baseline beside it.

    Args:
        path: Its root.
        commit: Its commit, if it is known.
    """

    path: Path
    commit: str | None

    @classmethod
    def at(cls, path: Path) -> "Checkout":
        """The checkout at a path.

        Raises:
            ValueError: If there is none.
        """
        if not (path / "scripts" / "svi_train.py").exists():
            raise ValueError(f"{path} is not a checkout: it has no scripts/svi_train.py.")
        command = ["git", "-C", str(path), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return cls(path.resolve(), found.stdout.strip() or None)


def checkouts(baseline: Path | None) -> dict[str, Checkout]:
    """This checkout, and the baseline if there is one."""
    found = {"this": Checkout.at(ROOT)}
    return found if baseline is None else {**found, "baseline": Checkout.at(baseline)}


class TimedCommand:
    """A run of `scripts/svi_train.py`, with its times in seconds from its start.

    Args:
        directory: The run directory.
        times: The file that `step_clock` writes.
        started: When it was started, in seconds since the epoch.
    """

    def __init__(self, directory: Path, times: Path, started: float) -> None:
        self.directory = directory
        self.started = started
        self.wall = 0.0
        self._times = times

    @property
    def steps(self) -> list[tuple[float, float]]:
        """When each step began and ended."""
        lines = self._times.read_text(encoding="ascii").splitlines()[1:]
        # A line that is being written is incomplete.
        both = [line.split() for line in lines if line.count(".") == 2 and len(line) > 30]
        return [(float(start) - self.started, float(end) - self.started) for start, end in both]

    @property
    def imported(self) -> float:
        """When the program had been imported."""
        return float(self._times.read_text(encoding="ascii").split("\n")[0]) - self.started

    def written(self, *patterns: str) -> float | None:
        """When the last of the files that match was written; None if there is none."""
        found = [path for pattern in patterns for path in self.directory.glob(pattern)]
        times = [path.stat().st_mtime for path in found if path.is_file()]
        return max(times) - self.started if times else None

    def logged(self, pattern: str) -> tuple[float, str] | None:
        """When the first line of train.log that matches was written, and the line."""
        log = self.directory / "train.log"
        for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
            if re.search(pattern, line):
                day, hour, _ = line.split(" ", 2)
                time = datetime.strptime(f"{day} {hour}", _LOG_TIME)
                return time.timestamp() - self.started, line
        return None

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return json.loads((self.directory / "metrics.json").read_text(encoding="utf-8"))


@contextmanager
def timed_command(
    checkout: Checkout,
    arguments: Sequence[str],
    threads: int,
    *,
    variables: Mapping[str, str] | None = None,
    until: Callable[[TimedCommand], bool] | None = None,
) -> Iterator[TimedCommand]:
    """Run `scripts/svi_train.py` to its end; its run directory exists as long as the context.

    Args:
        checkout: The checkout whose program is run.
        arguments: The program's arguments, without `--out`.
        threads: The number of cores.
        variables: Environment variables to set.
        until: The program is ended once this is true of it.

    Raises:
        ProcessError: If the program fails, ends before `until` or takes too long; the message is
            its last line.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as errors:
        run, times = Path(folder, "run"), Path(folder, "times")
        program = str(checkout.path / "scripts" / "svi_train.py")
        clock = [sys.executable, str(step_clock.__file__), str(times)]
        command = [*clock, program, *arguments, "--out", str(run)]
        with limited_cores(threads) as environment:
            environment |= {"PYTHONPATH": str(checkout.path), **(variables or {})}
            found = TimedCommand(run, times, time.time())
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        stopped = False
        try:
            while process.poll() is None and not stopped:
                if until is None:
                    process.wait(PATIENCE)
                else:
                    time.sleep(POLL_SECONDS)
                    stopped = until(found)
                if time.time() - found.started > PATIENCE:
                    raise ProcessError(f"it did not end within {PATIENCE} s")
            found.wall = time.time() - found.started
        except subprocess.TimeoutExpired:
            raise ProcessError(f"it did not end within {PATIENCE} s") from None
        finally:
            _end(process)
        if not stopped and (process.returncode or until is not None):
            errors.seek(0)
            raise ProcessError(last_line(errors.read()))
        yield found


def time_program(
    checkout: Checkout, program: str, arguments: Sequence[str], threads: int
) -> float:
    """Run a program of `scripts/` to its end, and return its seconds.

    Args:
        checkout: The checkout whose program is run.
        program: Its file's name.
        arguments: Its arguments.
        threads: The number of cores.

    Raises:
        ProcessError: If it fails or takes too long; the message is its last line.
    """
    command = [sys.executable, str(checkout.path / "scripts" / program), *arguments]
    with limited_cores(threads) as environment:
        environment["PYTHONPATH"] = str(checkout.path)
        started = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{program} did not end within {PATIENCE} s") from None
        seconds = time.perf_counter() - started
    if done.returncode:
        raise ProcessError(f"{program}: {last_line(done.stderr)}")
    return seconds


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """End a process, which has time to end those that it has started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=ENDING_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
