"""Run a program of a checkout, and write when it was imported and when each step was taken.

`python step_clock.py TIMES PROGRAM ARGUMENTS...` runs `python PROGRAM ARGUMENTS...`. The first
line of TIMES is when the program was imported, and each further line when a training step began
and ended, in seconds since the epoch. This file is run by its path, so that it imports nothing of
the checkout that it measures before the program does.
"""

import importlib
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the program and leave as it does."""
    times, program, *arguments = sys.argv[1:]
    file = os.open(times, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    # As if it had been started itself.
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent)
    module = runpy.run_path(program, run_name="timed")
    os.write(file, f"{time.time():.6f}\n".encode())
    training: Any = importlib.import_module("pyro_vae.training.loop").Training
    # Names of older checkouts are read as well.
    name = "take_step" if hasattr(training, "take_step") else "_one_step"
    take_step = getattr(training, name)

    def timed(self: Any) -> None:
        started = time.time()
        take_step(self)
        os.write(file, f"{started:.6f} {time.time():.6f}\n".encode())

    setattr(training, name, timed)
    end = module.get("exit_process") or module.get("leave") or sys.exit
    end(module["main"](arguments))


if __name__ == "__main__":
    main()
