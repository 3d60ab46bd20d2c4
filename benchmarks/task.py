"""The task that every implementation trains, its images, and the options of a measurement."""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from pyro_vae.compilation.products import processor
from pyro_vae.data import DATASETS, default_root
from pyro_vae.runs.run_directory import provenance

# `digits` is small and always available, for trials.
IMAGE_SETS = ("mnist", "digits")
# Forms of a batch run eagerly in the first epoch, are recorded in the second and switched over in
# the third: a smaller last batch occurs once in each.
WARM_UP_EPOCHS = 3
# More than anyone runs: epochs are run one at a time.
EPOCHS = 1_000_000
# The instruction sets that times depend on, as torch names them.
INSTRUCTION_SETS = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
# The packages whose versions affect times.
PACKAGES = ("torch", "pyro-ppl", "numpy", "numpyro", "jax", "jaxlib", "pythae")


# The options of scripts/svi_train.py for `Setting()`.
NETWORK = (
    *("--latent-dim", "50", "--network.hidden", "[400]", "--network.activation", "softplus"),
    *("--batch-size", "256"),
)


@dataclass(frozen=True)
class Setting:
    """The task: a VAE with one hidden layer on each side, on dynamically binarised images.

    p(z) = N(0, I), q(z | x) is a diagonal Normal and p(x | z) a Bernoulli given its logits. The
    last batch of an epoch may be smaller.

    Args:
        hidden: The width of the hidden layers.
        activation: Their nonlinearity: "softplus" or "relu".
        latent_dim: The dimension of z.
        batch_size: The number of images per step.
        lr: Adam's learning rate.
        num_particles: The number K of draws of z per image.
        device: The device to train on.
        seed: The seed of networks, order and noise.
    """

    hidden: int = 400
    latent_dim: int = 50
    batch_size: int = 256
    lr: float = 1e-3
    num_particles: int = 1
    device: str = "cpu"
    seed: int = 0
    activation: Literal["softplus", "relu"] = "softplus"


class Implementation(ABC):
    """One implementation of the task. A subclass defines `prepare` and `run_epoch`.

    A peer's package is imported in these two methods, not at the top of a file: it may not be
    installed, and its import is part of its start.

    Args:
        images: Grey levels 0 to 255, one flat image per row, on the CPU.
        setting: The task.
    """

    title: ClassVar[str]
    # The packages it needs besides those of this project.
    requires: ClassVar[tuple[str, ...]] = ()
    # How it differs from the others.
    note: ClassVar[str] = ""

    # The mean loss per image over the last epoch, a negative ELBO in nats, if it has one.
    loss: float | None = None
    # The time of compilation in seconds, if it is known.
    compile_seconds: float | None = None

    def __init__(self, images: UInt8[Tensor, "n pixels"], setting: Setting) -> None:
        self.images = images
        self.setting = setting
        self.device = torch.device(setting.device)

    @abstractmethod
    def prepare(self) -> None:
        """Do everything that is possible before the first step: imports, networks, compilation."""

    @abstractmethod
    def run_epoch(self) -> float | None:
        """Train on every image once, and return the mean loss per image in nats."""

    def epoch(self) -> float:
        """Train on every image once; return the seconds, with the device synchronised."""
        self._synchronize()
        started = time.perf_counter()
        self.loss = self.run_epoch()
        self._synchronize()
        return time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def missing_packages(implementation: type[Implementation]) -> list[str]:
    """The packages that an implementation needs and that are not installed."""
    return [name for name in implementation.requires if importlib.util.find_spec(name) is None]


def grey_images(
    name: str, root: str | None = None, count: int | None = None
) -> UInt8[Tensor, "n pixels"]:
    """Training images with grey levels 0 to 255, one flat image per row.

    Args:
        name: One of `IMAGE_SETS`.
        root: The folder of data sets; None for the default one.
        count: The number of images: the first ones, repeated if there are fewer. None for all.

    Raises:
        ValueError: If there is no such set, or its files are missing.
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"data must be one of {', '.join(IMAGE_SETS)}, got {name!r}.")
    folder = default_root() if root is None else Path(root)
    dataset = DATASETS[name](**({} if name == "digits" else {"root": folder}))
    images = dataset.split("train").flatten(1)
    top = (dataset.levels or 2) - 1
    if top != 255:
        images = (images.to(torch.int64) * 255 // top).to(torch.uint8)
    if count is None:
        return images
    return images.repeat(-(-count // len(images)), 1)[:count].contiguous()


class SkippedError(RuntimeError):
    """A suite cannot run on this machine."""


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Options:
    """The options of a suite.

    Args:
        rounds: The number of repetitions.
        names: The implementations to compare; None for those of the suite.
        images: The number of images from which `evaluation` extrapolates.
        data: The image set.
        data_root: The folder of data sets; None for the default one.
        threads: The number of cores to use.
        say: Called with lines on the progress.
        baseline: Another checkout, to compare whole commands with.
        part: The only axis or task of the suite to measure; None for all.
        stored: The suite's earlier result, which this one adds to.
    """

    rounds: int = 5
    names: tuple[str, ...] | None = None
    images: int = 300
    data: str = "mnist"
    data_root: str | None = None
    threads: int = field(default_factory=available_cores)
    say: Callable[[str], None] = lambda line: None
    baseline: Path | None = None
    part: str | None = None
    stored: Mapping[str, Any] | None = None


def shown_command(arguments: Sequence[str]) -> str:
    """How a user types a run of scripts/svi_train.py."""
    return shlex.join(["python", "scripts/svi_train.py", *arguments])


def made_by(command: str, threads: int) -> dict[str, Any]:
    """Command, commit, versions and machine. Call it before measuring: the code may change."""
    return {
        "command": command,
        "git_commit": provenance()["git_commit"],
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "machine": {
            "processor": processor(),
            **processor_details(),
            "cores": os.cpu_count(),
            "cores_available": available_cores(),
            "threads": threads,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(terse=True),
        },
    }


def processor_details() -> dict[str, Any]:
    """The processor's stepping, and those of its instruction sets that times depend on."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    stepping = re.search(r"^stepping\s*:\s*(\d+)", text, re.MULTILINE)
    capabilities = torch.cpu.get_capabilities()
    return {
        "stepping": int(stepping[1]) if stepping else None,
        "instruction_sets": [name for name in INSTRUCTION_SETS if capabilities.get(name)],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
