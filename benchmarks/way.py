"""What a way of training is: one contract, so that all are measured alike."""

import importlib.util
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """The task: a VAE with one hidden layer each way, trained by Adam on images binarised anew.

    Encoder and decoder have softplus units, p(z) = N(0, I), q(z | x) a diagonal Normal, p(x | z) a
    Bernoulli given its logits. An epoch's last batch may be smaller.

    Args:
        hidden: The width of the hidden layers.
        latent_dim: The dimension of z.
        batch_size: The number of images a step.
        lr: Adam's learning rate.
        num_particles: The number K of draws of z for each image.
        device: Where to train.
        seed: Of networks, order and noise.
    """

    hidden: int = 400
    latent_dim: int = 50
    batch_size: int = 256
    lr: float = 1e-3
    num_particles: int = 1
    device: str = "cpu"
    seed: int = 0


class Way(ABC):
    """One way to train the task. A subclass gives `prepare` and `run_epoch`.

    A peer's package is imported in these two, never at the top of a file: it may not be installed,
    and importing it is part of its start.

    Args:
        images: Grey levels 0 to 255, one flat image a row, on the CPU.
        setting: The task.
    """

    title: ClassVar[str]
    # The packages that it needs beside this project's own.
    requires: ClassVar[tuple[str, ...]] = ()
    # What it does otherwise than the others.
    note: ClassVar[str] = ""

    # The mean loss per image over the last epoch, in nats: a negative ELBO. None if it has none.
    loss: float | None = None
    # The time compilation took, in seconds, where the way can tell.
    compile_seconds: float | None = None

    def __init__(self, images: UInt8[Tensor, "n pixels"], setting: Setting) -> None:
        self.images = images
        self.setting = setting
        self.device = torch.device(setting.device)

    @abstractmethod
    def prepare(self) -> None:
        """Everything before the first step that a way can do then: imports, networks, compilation."""

    @abstractmethod
    def run_epoch(self) -> float | None:
        """Train on every image once, and return the mean loss per image, in nats."""

    def epoch(self) -> float:
        """Train on every image once, and return the seconds that took, the device waited for."""
        self._wait()
        started = time.perf_counter()
        self.loss = self.run_epoch()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def missing_packages(way: type[Way]) -> list[str]:
    """The packages that a way needs and that are not installed."""
    return [name for name in way.requires if importlib.util.find_spec(name) is None]
