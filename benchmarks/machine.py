"""What a time was measured on: a time without its machine says nothing."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.suite import available_cores
from pyro_vae.runs.provenance import provenance

# Whose versions a time depends on.
PACKAGES = ("torch", "pyro-ppl", "numpy", "numpyro", "jax", "jaxlib", "pythae")


def machine(threads: int) -> dict[str, Any]:
    """The processor, the cores used, and the GPU if there is one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_available": available_cores(),
        "threads": threads,
        "gpu": gpu,
        "system": platform.platform(terse=True),
    }


def made_by(command: str, threads: int) -> dict[str, Any]:
    """Command, commit, versions and machine. Call it before measuring: the code may change."""
    return {
        "command": command,
        "git_commit": provenance()["git_commit"],
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": machine(threads),
    }


def processor() -> str:
    """The processor's name, with the families that tell two of one name apart."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    name = fields.get("model name", platform.machine())
    return f"{name}, family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
