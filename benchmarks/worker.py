"""A process that holds one way and trains an epoch of it whenever it is told to.

It reads JSON lines on standard input, the job first, and answers each on standard output. Between
its turns it waits, so that several can be kept ready while one runs.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def main() -> int:
    """Serve until standard input ends."""
    job = json.loads(sys.stdin.readline())
    # Before numpy and torch make their threads: those inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    with _own_output() as output:

        def answer(**values: Any) -> None:
            print(json.dumps(values), file=output, flush=True)

        try:
            started = time.perf_counter()
            way = _way(job)
            loaded = time.perf_counter()
            way.prepare()
            answer(
                load_seconds=loaded - started,
                prepare_seconds=time.perf_counter() - loaded,
                images=len(way.images),
            )
            for _ in sys.stdin:
                seconds = way.epoch()
                answer(
                    seconds=seconds,
                    loss=way.loss,
                    compile_seconds=way.compile_seconds,
                    peak_bytes=peak_bytes(),
                )
        # Whatever a peer raises is its result; the others go on.
        except Exception as error:  # noqa: BLE001
            answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return 1
    return 0


def peak_bytes() -> int:
    """The most memory that this process has held, in bytes.

    Not `getrusage`: its peak is that of the parent, too, if the parent was larger.
    """
    return _status_bytes("VmHWM")


def held_bytes() -> int:
    """The memory that this process holds now, in bytes."""
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; memory can be measured on Linux only.")


@contextmanager
def _own_output() -> Iterator[IO[str]]:
    """Standard output for answers alone: what a peer prints there goes to standard error."""
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        yield output


def _way(job: dict[str, Any]) -> Any:
    from benchmarks.images import grey_images
    from benchmarks.registry import WAYS
    from benchmarks.way import Setting

    images = grey_images(job["data"], job["data_root"], job["images"])
    return WAYS[job["way"]](images, Setting(**job["setting"]))


if __name__ == "__main__":
    sys.exit(main())
