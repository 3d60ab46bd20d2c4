"""The suites `memory` and `precision`: whole runs of training."""

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

from analysis.study import metrics_of, trained
from analysis.study_results import StudyError, markdown
from benchmarks.epochs import SuiteResult
from benchmarks.task import NETWORK, Options, shown_command
from benchmarks.timing import (
    ProcessError,
    at_most,
    memory_bytes,
    run_in_process,
)

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
        "command": shown_command(arguments("bfloat16", 0)),
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
