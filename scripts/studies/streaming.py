"""Training from a `.npy` larger than memory: the most memory it takes, and how fast it reads.

`python scripts/studies/streaming.py` writes files of 0.5, 2 and 6 GB of 28x28 pictures, one after
another, and in a process of its own for each trains for some steps and reads an epoch; the smallest
it trains from memory as well, to compare. Numbers are kept in `streaming.json`. `--table` prints
them, `--write PAGE` puts them between that page's markers. It needs as much space in
`--folder` as the largest file, and takes a few minutes.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.study import (
    Cell,
    Results,
    StudyError,
    fill_cell,
    made_with,
    markdown,
    run_study,
    study_parser,
)

SIZES = (0.5, 2.0, 6.0)
SHAPE = (28, 28)
BATCH_SIZE = 128
SEED = 0
RESULTS = Path(__file__).with_suffix(".json")
GIGABYTE = 10**9


def write_pictures(path: Path, size: float) -> None:
    """Write a `.npy` of so many GB of pictures, the same 40,000 over and over."""
    rows = int(size * GIGABYTE) // (SHAPE[0] * SHAPE[1])
    some = np.random.default_rng(SEED).integers(0, 256, (40_000, *SHAPE), dtype=np.uint8)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, rows, len(some)):
            file.write(some[: rows - first].data)
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Ask the system to forget what it holds of a file, so that reading is from the disk."""
    if not hasattr(os, "posix_fadvise"):  # Not Linux.
        return
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_memory() -> int:
    """The most memory that this process has had so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(path: Path, steps: int, memory_map: bool) -> Cell:
    """Check the file, train for some steps, and read an epoch."""
    import pyro
    import torch

    from pyro_vae import build
    from pyro_vae.data import PreparedData, array_file
    from pyro_vae.runs.provenance import provenance
    from pyro_vae.training import Training
    from pyro_vae.training.loaders import Batches, make_loader

    def trained(data: PreparedData, steps: int) -> float:
        pyro.set_rng_seed(SEED)
        vae = build(data.dataset.event_shape)
        started = time.perf_counter()
        Training(vae, data, batch_size=BATCH_SIZE, max_steps=steps).run()
        return steps / (time.perf_counter() - started)

    # What the program itself takes, on data of no size.
    trained(PreparedData(_few(), "binary"), 2)
    before = peak_memory()
    forget(path)
    started = time.perf_counter()
    data = PreparedData(array_file(path, memory_map=memory_map), "binary")
    check_seconds = time.perf_counter() - started
    steps_per_second = trained(data, steps)
    batches = Batches(len(data.train), BATCH_SIZE)
    made = make_loader(data, batches, SEED, torch.device("cpu"))
    forget(path)
    started = time.perf_counter()
    read = sum(
        len(made.gather(made.fetch(step))) for step in range(-(-batches.rows // BATCH_SIZE))
    )
    epoch_seconds = time.perf_counter() - started
    made.close()
    if read != len(data.train):
        raise StudyError(f"an epoch of {len(data.train)} rows gave {read}.")
    return {
        "file_bytes": path.stat().st_size,
        "memory_map": memory_map,
        "n_train": len(data.train),
        "batch_size": BATCH_SIZE,
        "order": made.order,
        "steps": steps,
        "peak_bytes": peak_memory(),
        "peak_bytes_before": before,
        "check_seconds": check_seconds,
        "steps_per_second": steps_per_second,
        "epoch_read_seconds": epoch_seconds,
        "epoch_read_bytes_per_second": read * SHAPE[0] * SHAPE[1] / epoch_seconds,
        "threads": torch.get_num_threads(),
        **provenance(),
    }


def _few() -> Any:
    from pyro_vae.data import Dataset

    images = np.random.default_rng(SEED).integers(0, 256, (1000, *SHAPE), dtype=np.uint8)
    return Dataset.from_array(images)


def cell(folder: Path, size: float, steps: int, memory_map: bool) -> Cell:
    """Write a file, measure it in a process of its own, and delete it.

    Raises:
        StudyError: If that process ends with an error, which it has printed.
    """
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        path = Path(directory) / "pictures.npy"
        write_pictures(path, size)
        command = [sys.executable, __file__, "--measure", str(path), "--steps", str(steps)]
        done = subprocess.run(
            command + ([] if memory_map else ["--in-memory"]),
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        raise StudyError(f"measuring {size:g} GB ended with exit code {done.returncode}.")
    return json.loads(done.stdout)


def tables(results: Results) -> str:
    """The results in Markdown, a row a file."""
    header = (
        "file",
        "pictures",
        "training data",
        "peak memory",
        "of it data",
        "an epoch's reading",
    )
    rows = [
        (
            f"{one['file_bytes'] / GIGABYTE:.1f} GB",
            f"{one['n_train']:,}",
            "on the disk" if one["memory_map"] else "in memory",
            f"{one['peak_bytes'] / GIGABYTE:.2f} GB",
            f"{(one['peak_bytes'] - one['peak_bytes_before']) / GIGABYTE:.2f} GB",
            f"{one['epoch_read_bytes_per_second'] / 10**6:,.0f} MB/s",
        )
        for one in sorted(results.values(), key=lambda one: (one["memory_map"], one["file_bytes"]))
    ]
    note = (
        "Peak memory is the process's largest resident set, programs and libraries included; `of it "
        "data` is what it grew by over the same training on 1,000 pictures. "
    )
    return f"{markdown(header, rows)}\n\n{note}{made_with(results)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES, help="In GB.")
    parser.add_argument("--steps", type=int, default=300, help="The number of training steps.")
    parser.add_argument("--folder", type=Path, help="Where files are written, and deleted again.")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, options.steps, not options.in_memory)))
        return 0
    return run_study("streaming", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Measure what is not there yet, and store it file by file."""
    chosen = [(size, True) for size in options.sizes] + [(min(options.sizes), False)]
    for size, memory_map in chosen:
        name = f"{size:g} GB, {'on the disk' if memory_map else 'in memory'}"
        given = ["--sizes", f"{size:g}", "--steps", str(options.steps)]
        command = shlex.join(["python", "scripts/studies/streaming.py", *given])
        make = partial(cell, options.folder, size, options.steps, memory_map)
        fill_cell(options.results, name, command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
