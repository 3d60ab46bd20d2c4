"""The suites `start`, `memory` and `precision`: whole runs of training."""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analysis.study import ROOT, metrics_of, trained
from analysis.study_results import StudyError, markdown
from benchmarks.epochs import SuiteResult
from benchmarks.task import Options
from benchmarks.timing import (
    ProcessError,
    at_most,
    last_line,
    limited_cores,
    memory_bytes,
    run_in_process,
    spread,
)

# The options of `Setting()`, for scripts/svi_train.py.
NETWORK = (
    *("--latent-dim", "50", "--network.hidden", "[400]", "--network.activation", "softplus"),
    *("--batch-size", "256"),
)

STARTS = {
    "eager": "eager",
    "cold": "compiled, the compiler's cache empty",
    "warm": "compiled, a second time",
}
# The first step of a batch shape is eager, the second compiles, the third is compiled.
START_STEPS = 3
# The longest time to the first steps, in seconds.
PATIENCE = 600
# The longest time from the start to the first compiled step of a second compiled run, in seconds.
SECOND_START = 8.0

MEMORY_IMAGES = (10_000, 50_000, 100_000, 200_000, 400_000)
# The function that trains, by where the images are stored.
SOURCES = {"in memory": "benchmarks.runs:train_in_memory"}
MEMORY_STEPS = 50

PRECISIONS = ("float32", "bfloat16")
EPOCHS = 10
# The largest difference of test log p(x) in bfloat16, in nats.
PRECISION_GAP = 0.3


def _command(options: Options, *arguments: str) -> list[str]:
    """The arguments of scripts/svi_train.py for the task."""
    root = [] if options.data_root is None else ["--data-root", options.data_root]
    return ["--data", options.data, *root, *NETWORK, *arguments]


def _shown(arguments: Sequence[str]) -> str:
    return shlex.join(["python", "scripts/svi_train.py", *arguments])


def run_start(options: Options) -> SuiteResult:
    """Start `scripts/svi_train.py` eager, compiled and compiled again, in rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    first: dict[str, list[float]] = {name: [] for name in STARTS}
    status = dict.fromkeys(STARTS, "measured")
    steps = ("--max-steps", str(START_STEPS), "--evaluate", "none")
    commands = {
        name: _command(options, "--compile", "off" if name == "eager" else "on", *steps)
        for name in STARTS
    }
    for turn in range(options.rounds):
        # A new cache in each round: nothing compiled before is found.
        with tempfile.TemporaryDirectory() as cache:
            caches = {
                "TORCHINDUCTOR_CACHE_DIR": str(Path(cache, "inductor")),
                "TRITON_CACHE_DIR": str(Path(cache, "triton")),
                "XDG_CACHE_HOME": str(Path(cache, "other")),
            }
            for name in STARTS:
                # A second compiled start needs the cache of the first.
                if status[name] != "measured" or (name == "warm" and status["cold"] != "measured"):
                    continue
                try:
                    times = seconds_to_steps(commands[name], caches, options.threads)
                except ProcessError as error:
                    status[name] = f"failed: {error}"
                    options.say(f"{name}: {status[name]}")
                    continue
                first[name].append(times[0])
                seconds[name].append(times[-1])
                options.say(f"round {turn + 1} of {options.rounds}: {name} {times[-1]:.2f} s")
    if status["cold"] != "measured":
        status["warm"] = "not measured: the first compiled start failed"
    warm = spread(seconds["warm"])
    what = "start to first compiled step of a second compiled run"
    return {
        "data": options.data,
        "rounds": options.rounds,
        "starts": {
            name: {
                "title": title,
                "status": status[name],
                "first_step_seconds": first[name],
                "seconds": seconds[name],
                "command": _shown(commands[name]),
            }
            for name, title in STARTS.items()
        },
        "targets": [at_most(what, warm and warm.median, SECOND_START, "s")],
    }


def seconds_to_steps(
    arguments: Sequence[str], variables: Mapping[str, str], threads: int = 1
) -> list[float]:
    """The times from starting the program to the end of each of `START_STEPS` steps, in seconds.

    They are read from its progress bar, which is what a user waits for.

    Args:
        arguments: The program's arguments, without `--out`.
        variables: Environment variables to set.
        threads: The number of cores.

    Raises:
        ProcessError: If it ends before; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = str(Path(directory, "run"))
        command = [
            sys.executable,
            str(ROOT / "scripts" / "svi_train.py"),
            *arguments,
            "--out",
            out,
        ]
        started = time.perf_counter()
        with limited_cores(threads) as environment:
            # The bar is updated at each step, however short.
            environment |= {**variables, "TQDM_MININTERVAL": "0"}
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
            )
        assert process.stderr is not None
        output, times = b"", []
        try:
            while chunk := os.read(process.stderr.fileno(), 4096):
                output += chunk
                now = time.perf_counter() - started
                while f" {len(times) + 1}/{START_STEPS} ".encode() in output:
                    times.append(now)
                if len(times) == START_STEPS:
                    return times
                if now > PATIENCE:
                    raise ProcessError(f"no step within {PATIENCE} s")
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    raise ProcessError(last_line(output.decode(errors="replace")))


def start_table(result: SuiteResult) -> str:
    """The starts in Markdown."""
    rows = []
    for start in result["starts"].values():
        cells = []
        for times in (spread(start["first_step_seconds"]), spread(start["seconds"])):
            cells += (
                ["", ""]
                if times is None
                else [f"{times.median:.2f}", f"{times.lowest:.2f} to {times.highest:.2f}"]
            )
        status = "" if start["status"] == "measured" else start["status"]
        rows.append((start["title"], *cells, status))
    header = ("start", "seconds to step 1", "range", f"to step {START_STEPS}", "range", "")
    return (
        f"{markdown(header, rows)}\n\n"
        "From starting the process to the end of a training step, medians and ranges of "
        f"{result['rounds']} rounds; step 1 of a compiled run is eager, and step {START_STEPS} is "
        "the "
        f"first compiled one. `{result['starts']['cold']['command']}`"
    )


def run_memory(options: Options) -> SuiteResult:
    """Train a few steps on increasing numbers of images, each in its own process."""
    peaks: dict[str, list[dict[str, Any]]] = {}
    for source, function in SOURCES.items():
        peaks[source] = []
        for images in MEMORY_IMAGES:
            try:
                peak = run_in_process(function, images, threads=options.threads)
            except ProcessError as error:
                peak = {"bytes": None, "status": f"failed: {error}"}
            peaks[source].append({"images": images, **peak})
            options.say(f"{source}, {images:,} images: {_peak(peak)}")
    return {"data": options.data, "steps": MEMORY_STEPS, "peaks": peaks, "targets": []}


def train_in_memory(images: int) -> dict[str, Any]:
    """Train some steps on images in memory, and measure the peak memory."""
    import torch

    from pyro_vae import build, networks
    from pyro_vae.data import Dataset, PreparedData
    from pyro_vae.training.loop import Training

    # Random bytes, so that no two pages are equal.
    train = torch.randint(0, 256, (images, 784), dtype=torch.uint8)
    data = Dataset("images", "integers", 256, train=train, validation=train[:100], test=train[:1])
    vae = build((784,), 50, network=partial(networks.MLP, hidden=(400,)))
    prepared = PreparedData(data, "binary", binarisation="dynamic")
    Training(vae, prepared, batch_size=256, max_steps=MEMORY_STEPS).run()
    return {"bytes": memory_bytes(), "status": "measured"}


def memory_table(result: SuiteResult) -> str:
    """The peaks in Markdown."""
    numbers = [point["images"] for points in result["peaks"].values() for point in points]
    header = ("images", *(f"{n:,}" for n in dict.fromkeys(numbers)))
    rows = [(source, *map(_peak, points)) for source, points in result["peaks"].items()]
    return (
        f"{markdown(header, rows)}\n\nThe peak memory of a process in {result['steps']} training "
        "steps "
        "on 28 x 28 images; torch and Pyro alone are most of the first."
    )


def _peak(point: Mapping[str, Any]) -> str:
    return point["status"] if point["bytes"] is None else f"{point['bytes'] / 2**20:,.0f} MiB"


def run_precision(options: Options) -> SuiteResult:
    """Train and evaluate in both precisions, with one seed per round."""
    runs: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
    status = dict.fromkeys(PRECISIONS, "measured")

    def arguments(precision: str, seed: int) -> list[str]:
        options_of = ("--compile", "on", "--precision", precision, "--seed", str(seed))
        return _command(options, "--epochs", str(EPOCHS), *options_of)

    for seed in range(options.rounds):
        for precision in PRECISIONS:
            if status[precision] != "measured":
                continue
            try:
                with trained(arguments(precision, seed)) as run:
                    metrics = metrics_of(run)
            except StudyError as error:
                status[precision] = f"failed: {error}"
                options.say(f"{precision}: {status[precision]}")
                continue
            runs[precision].append({"seed": seed, **metrics})
            options.say(f"seed {seed}: {precision} log p(x) {metrics['log_evidence']}")
    gaps = [
        abs(low["log_evidence"] - full["log_evidence"])
        for full, low in zip(runs["float32"], runs["bfloat16"], strict=False)
        if full["log_evidence"] is not None and low["log_evidence"] is not None
    ]
    what = f"difference of test log p(x) in bfloat16 after {EPOCHS} epochs, mean over seeds"
    return {
        "data": options.data,
        "rounds": options.rounds,
        "runs": runs,
        "status": status,
        "command": _shown(arguments("bfloat16", 0)),
        "targets": [at_most(what, statistics.mean(gaps) if gaps else None, PRECISION_GAP, "nats")],
    }


def precision_table(result: SuiteResult) -> str:
    """Test log p(x) by seed, in Markdown."""
    rows = []
    for precision, runs in result["runs"].items():
        values = [run["log_evidence"] for run in runs]
        shown = ", ".join("not finite" if v is None else f"{v:.2f}" for v in values)
        status = result["status"][precision]
        rows.append((precision, shown, "" if status == "measured" else status))
    return (
        f"{markdown(('precision', 'test log p(x) by seed', ''), rows)}\n\n"
        f"Nats per image, each evaluated in float32: `{result['command']}`."
    )
