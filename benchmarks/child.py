"""A measurement in a process of its own, whose memory and threads are nobody else's."""

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.interleaving import thread_variables


class ChildFailed(RuntimeError):
    """The process ended with an error; the message is its last line."""


def result_of(module: str, job: str, threads: int) -> dict[str, Any]:
    """What `python -m module job` prints as its last line, read as JSON.

    Raises:
        ChildFailed: If it ends with another exit code than 0.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, job],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **thread_variables(threads)},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ChildFailed(lines[-1][:300])
    return json.loads(done.stdout.splitlines()[-1])
