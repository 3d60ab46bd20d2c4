"""Loggers: what is written while a VAE trains, to watch it.

A `Logger` is called before the first step, after each epoch and at the end. Another one is a class
with the methods that it needs, and a line in `LOGGERS`, which makes it a choice of `--log` with
its options. A parameter `directory` is not an option: it is the folder NAME of the run directory.
"""

from collections.abc import Callable

from pyro_vae.training.loggers.logger import Logger as Logger
from pyro_vae.training.loggers.logger import Snapshot as Snapshot
from pyro_vae.training.loggers.logger import following as following
from pyro_vae.training.loggers.tensorboard import TensorBoard

LOGGERS: dict[str, Callable[..., Logger]] = {"none": Logger, "tensorboard": TensorBoard}
