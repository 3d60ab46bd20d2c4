"""The task with this project: the same program, eager, compiled, and compiled in bfloat16."""

from functools import partial
from typing import Any, ClassVar

import torch

from benchmarks.way import Way
from pyro_vae import build, likelihoods, networks, posteriors, priors
from pyro_vae.compilation import CompileMode
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.objectives import ELBO
from pyro_vae.training import Training
from pyro_vae.training.batch_loss import Precision

# More than anyone runs: an epoch at a time is asked for.
EPOCHS = 1_000_000


class ThisEager(Way):
    """`Training` with the step as Pyro runs it."""

    title: ClassVar[str] = "this project, eager"
    compile: ClassVar[CompileMode] = "off"
    precision: ClassVar[Precision] = "float32"

    def prepare(self) -> None:
        """Build VAE and training. What is compiled is compiled at the first step."""
        torch.manual_seed(self.setting.seed)
        # One image to validate on: validation is no part of an epoch's steps.
        one = self.images[:1]
        data = Dataset("images", "integers", 256, train=self.images, validation=one, test=one)
        vae = build(
            data.event_shape,
            self.setting.latent_dim,
            prior=priors.StandardNormal,
            likelihood=likelihoods.Bernoulli,
            posterior=posteriors.DiagonalNormal,
            network=partial(networks.MLP, hidden=(self.setting.hidden,), activation="softplus"),
        )
        self.training = Training(
            vae.to(self.device),
            PreparedData(data, "binary", binarisation="dynamic"),
            ELBO(num_particles=self.setting.num_particles),
            epochs=EPOCHS,
            batch_size=self.setting.batch_size,
            lr=self.setting.lr,
            compile=self.compile,
            precision=self.precision,
        )

    def run_epoch(self) -> float | None:
        """The next epoch, and a validation of one image."""
        done = len(self.training.history)
        self.training.run(stop=lambda: len(self.training.history) > done)
        elbo = self.training.history[-1].get("elbo")
        return None if elbo is None else -float(elbo)


class ThisCompiled(ThisEager):
    """`Training` with the step traced once and compiled."""

    title: ClassVar[str] = "this project, compiled"
    compile: ClassVar[CompileMode] = "on"

    def run_epoch(self) -> float | None:
        """The next epoch. The first ones compile.

        Raises:
            RuntimeError: If the step went back to eager: its time would be another's.
        """
        loss = super().run_epoch()
        training: Any = self.training
        if training.compiled != "on":
            raise RuntimeError("the step was not compiled, and ran eagerly; its log says why.")
        self.compile_seconds = training.compile_seconds
        return loss


class ThisBfloat16(ThisCompiled):
    """`Training` with the compiled step in bfloat16."""

    title: ClassVar[str] = "this project, compiled, bfloat16"
    precision: ClassVar[Precision] = "bfloat16"
