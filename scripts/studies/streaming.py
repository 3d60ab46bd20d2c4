"""Training from a `.npy` larger than memory: peak memory and reading speed.

Writes files of 28 x 28 images, one after another, and in a process of its own for each trains for
some steps and reads an epoch; the smallest is also trained from memory. It needs as much space in
`--folder` as the largest file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.study import Row, Study
from analysis.study_results import Cell, StudyError

SHAPE = (28, 28)
BATCH_SIZE = 128
SEED = 0
GIGABYTE = 10**9


def write_images(path: Path, size: float) -> None:
    """Write a `.npy` of this many GB of images, the same 40,000 repeated."""
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
    from pyro_vae.runs.run_directory import provenance
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


def cell(size: float, memory_map: bool, _seed: int, options: argparse.Namespace) -> Cell:
    """Write a file, measure it in a process of its own, and delete it.

    Raises:
        StudyError: If that process ends with an error, which it has printed.
    """
    with tempfile.TemporaryDirectory(dir=options.folder) as directory:
        path = Path(directory) / "images.npy"
        write_images(path, size)
        command = [sys.executable, __file__, "--measure", str(path), str(options.steps)]
        done = subprocess.run(
            [*command, str(int(memory_map))], check=False, stdout=subprocess.PIPE, text=True
        )
    if done.returncode:
        raise StudyError(f"measuring {size:g} GB ended with exit code {done.returncode}.")
    return json.loads(done.stdout)


def gigabytes(*names: str) -> Callable[[list[Cell]], str]:
    """A column of an entry in GB, less another if one is named."""

    def text(cells: list[Cell]) -> str:
        value, *less = (cells[0][name] for name in names)
        return f"{(value - sum(less)) / GIGABYTE:.2f} GB"

    return text


STUDY = Study(
    name="streaming",
    about=__doc__,
    rows={
        f"{size:g} GB, {'on the disk' if mapped else 'in memory'}": Row(
            make=partial(cell, size, mapped), once=True
        )
        for size, mapped in ((0.5, False), (0.5, True), (2.0, True), (6.0, True))
    },
    command="python scripts/studies/streaming.py --only {row} --steps {steps}",
    options={"steps": 300, "folder": None},
    seeds=(0,),
    first="file, training data",
    columns=(
        ("images", lambda cells: f"{cells[0]['n_train']:,}"),
        ("peak memory", gigabytes("peak_bytes")),
        ("of it data", gigabytes("peak_bytes", "peak_bytes_before")),
        (
            "reading an epoch",
            lambda cells: f"{cells[0]['epoch_read_bytes_per_second'] / 10**6:,.0f} MB/s",
        ),
    ),
    note=(
        "Peak memory is the largest resident set of the process, with programs and libraries; "
        "`of it data` is its growth over the same training on 1,000 images."
    ),
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1")))
        sys.exit(0)
    sys.exit(STUDY.main())
