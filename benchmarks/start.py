"""The suite `start`: from typing the command to the first training step."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.study import SVI_TRAIN, markdown
from benchmarks.interleaving import thread_variables
from benchmarks.suite import Options, Result
from benchmarks.summary import spread
from benchmarks.targets import SECOND_START, at_most

STARTS = {
    "eager": "eager",
    "cold": "compiled, the compiler's cache empty",
    "warm": "compiled, a second time",
}
# The command of the setting that the ways have in common.
NETWORK = (
    *("--latent-dim", "50", "--network.hidden", "[400]", "--network.activation", "softplus"),
    *("--batch-size", "256"),
)
# The first step of a batch's shape is eager, the second compiles, the third is the compiled one.
STEPS = 3
# A run that has not begun by then, in seconds, never will.
PATIENCE = 600


class StartFailed(RuntimeError):
    """The program ended before its first step."""


def run(options: Options) -> Result:
    """Start `scripts/svi_train.py` anew, eager, compiled and compiled again, in rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    first: dict[str, list[float]] = {name: [] for name in STARTS}
    status = dict.fromkeys(STARTS, "measured")
    for turn in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name in STARTS:
                # A second compiled start has nothing to build on if the first failed.
                if status[name] != "measured" or (name == "warm" and status["cold"] != "measured"):
                    continue
                try:
                    times = seconds_to_steps(
                        arguments(name, options), _environment(cache, options)
                    )
                except StartFailed as error:
                    status[name] = f"failed: {error}"
                    options.say(f"{name}: {status[name]}")
                    continue
                first[name].append(times[0])
                seconds[name].append(times[-1])
                options.say(f"round {turn + 1} of {options.rounds}: {name} {times[-1]:.2f} s")
    if status["cold"] != "measured":
        status["warm"] = "not measured: the first compiled start failed"
    warm = spread(seconds["warm"])
    return {
        "data": options.data,
        "rounds": options.rounds,
        "starts": {
            name: {
                "title": title,
                "status": status[name],
                "first_step_seconds": first[name],
                "seconds": seconds[name],
                "command": shlex.join(
                    ["python", "scripts/svi_train.py", *arguments(name, options)]
                ),
            }
            for name, title in STARTS.items()
        },
        "targets": [
            at_most(
                "start to first compiled step of a second compiled run",
                None if warm is None else warm.median,
                SECOND_START,
                "s",
            )
        ],
    }


def arguments(start: str, options: Options) -> list[str]:
    """The command line of a start."""
    root = [] if options.data_root is None else ["--data-root", options.data_root]
    compile = ["--compile", "off" if start == "eager" else "on"]
    data = ["--data", options.data, *root]
    return [*data, *NETWORK, *compile, "--max-steps", str(STEPS), "--evaluate", "none"]


def seconds_to_steps(arguments: Sequence[str], environment: Mapping[str, str]) -> list[float]:
    """The times from starting the program to its progress bar counting each of `STEPS` steps.

    The bar is what a person waits for, and counts a step once it is done.

    Args:
        arguments: The program's, without `--out`.
        environment: Variables to set.

    Returns:
        The seconds to the end of step 1, 2, ...

    Raises:
        StartFailed: If it ends before, with the last line it printed.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            str(SVI_TRAIN),
            *arguments,
            "--out",
            str(Path(directory, "run")),
        ]
        # The bar is drawn at each step, however short.
        variables = {**os.environ, **environment, "TQDM_MININTERVAL": "0"}
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=variables
        )
        assert process.stderr is not None
        said, times = b"", []
        try:
            while chunk := os.read(process.stderr.fileno(), 4096):
                said += chunk
                now = time.perf_counter() - started
                while f" {len(times) + 1}/{STEPS} ".encode() in said:
                    times.append(now)
                if len(times) == STEPS:
                    return times
                if now > PATIENCE:
                    raise StartFailed(f"no step within {PATIENCE} s")
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    lines = said.decode(errors="replace").replace("\r", "\n").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    raise StartFailed(last[:300])


def table(result: Result) -> str:
    """The starts in Markdown."""
    rows = []
    for start in result["starts"].values():
        cells = []
        for found in (spread(start["first_step_seconds"]), spread(start["seconds"])):
            cells += (
                ["", ""]
                if found is None
                else [f"{found.median:.2f}", f"{found.lowest:.2f} to {found.highest:.2f}"]
            )
        remark = "" if start["status"] == "measured" else start["status"]
        rows.append((start["title"], *cells, remark))
    header = ("start", "seconds to step 1", "range", f"to step {STEPS}", "range", "")
    return (
        f"{markdown(header, rows)}\n\n"
        f"From starting the process to the end of a training step, medians and ranges of "
        f"{result['rounds']} rounds; a compiled run's step 1 is eager, and step {STEPS} is the first "
        f"that is compiled alone. `{result['starts']['cold']['command']}`"
    )


def _environment(cache: str, options: Options) -> dict[str, str]:
    """Caches in a folder of this round's: whatever was compiled before is not found."""
    folders = {
        "TORCHINDUCTOR_CACHE_DIR": str(Path(cache, "inductor")),
        "TRITON_CACHE_DIR": str(Path(cache, "triton")),
        "XDG_CACHE_HOME": str(Path(cache, "other")),
    }
    return {**thread_variables(options.threads), **folders}
