"""The origin of a number: versions, commit, model and data."""

import importlib.metadata
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_vae.configuration.strict_yaml import Configuration
from pyro_vae.data import PreparedData


def provenance(libraries: Sequence[str] = ()) -> dict[str, str | None]:
    """The versions of torch, Pyro and other libraries, and the commit of this checkout.

    The commit ends in "-dirty" if a tracked file has changed since, and is None outside of a checkout.
    Call this when a program starts: files may change while it runs.
    """
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        commit = answer.stdout.strip() if answer.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired):
        commit = None
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "git_commit": commit,
        **versions,
    }


def run_header(configuration: Configuration, data: PreparedData, split: str) -> dict[str, Any]:
    """The data and the model that a record of numbers is about."""
    return {
        "data": data.dataset.name,
        "binarisation": data.binarisation,
        "split": split,
        **{part: configuration[part]["name"] for part in ("prior", "likelihood", "posterior")},
        "latent_dim": configuration["latent_dim"],
    }
