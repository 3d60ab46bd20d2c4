"""What made a number: versions and commit."""

import subprocess
from pathlib import Path

import pyro
import torch


def provenance() -> dict[str, str | None]:
    """The versions of torch and Pyro, and the commit of this checkout; None outside of one.

    A commit ends in "-dirty" if a file that git tracks was changed since: call this when a program
    starts, not when it ends.
    """
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        commit = answer.stdout.strip() if answer.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    return {"torch": torch.__version__, "pyro": pyro.__version__, "git_commit": commit}
