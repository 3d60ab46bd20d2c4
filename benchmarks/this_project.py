"""This project on the task: the VAE and the program `clustering`, by `Training`."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import nn

import pyro_vae
from benchmarks.task import EPOCHS, WARM_UP_EPOCHS, Implementation
from pyro_vae import likelihoods, networks, posteriors
from pyro_vae.compilation import CompileMode
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.objectives import ELBO
from pyro_vae.priors import StandardNormal
from pyro_vae.programs import clustering
from pyro_vae.training import Training
from pyro_vae.training.batch_loss import Precision


class ThisEager(Implementation):
    """`Training` with an eager step."""

    title: ClassVar[str] = "this project, eager"
    compile: ClassVar[CompileMode] = "off"
    precision: ClassVar[Precision] = "float32"
    # Event shape, latent dimension and parts -> program.
    build: ClassVar[Callable[..., nn.Module]] = staticmethod(
        partial(pyro_vae.build, prior=StandardNormal)
    )

    def prepare(self) -> None:
        """Build program and training. Compilation happens at the first steps."""
        torch.manual_seed(self.setting.seed)
        # Validate on one image: validation is not part of an epoch's steps.
        one = self.images[:1]
        data = Dataset("images", "integers", 256, train=self.images, validation=one, test=one)
        program = self.build(
            data.event_shape,
            self.setting.latent_dim,
            likelihood=likelihoods.Bernoulli,
            posterior=posteriors.DiagonalNormal,
            network=partial(
                networks.MLP, hidden=(self.setting.hidden,), activation=self.setting.activation
            ),
        )
        self.training = Training(
            program.to(self.device),
            PreparedData(data, "binary", binarisation="dynamic"),
            ELBO(num_particles=self.setting.num_particles),
            epochs=EPOCHS,
            batch_size=self.setting.batch_size,
            lr=self.setting.lr,
            compile=self.compile,
            precision=self.precision,
            # On one image they mean nothing.
            early_stopping=None,
            keep="last",
        )

    def run_epoch(self) -> float | None:
        """The next epoch, and a validation of one image."""
        done = len(self.training.history)
        self.training.run(stop=lambda: len(self.training.history) > done)
        elbo = self.training.history[-1].get("elbo")
        return None if elbo is None else -float(elbo)


class ThisGraph(ThisEager):
    """`Training` with a step that runs as a graph."""

    title: ClassVar[str] = "this project, graph without a compiler"
    compile: ClassVar[CompileMode] = "graph"

    def run_epoch(self) -> float | None:
        """The next epoch. The first ones record the step, and may compile it.

        Raises:
            RuntimeError: If steps run in another way than `compile`, after the warm-up or for
                good.
        """
        loss = super().run_epoch()
        found = set(self.training.optimizer_step.compiled.decisions.values())
        if len(self.training.history) < WARM_UP_EPOCHS:
            found -= {"seen", "compiling"}
        if not found <= {self.compile}:
            raise RuntimeError(
                f"with compile={self.compile!r} steps run {', '.join(sorted(found))}; the log "
                "gives the reason."
            )
        self.compile_seconds = self.training.compile_seconds
        return loss


class ThisCompiled(ThisGraph):
    """`Training` with a compiled step."""

    title: ClassVar[str] = "this project, compiled"
    compile: ClassVar[CompileMode] = "on"

    def epoch(self) -> float:
        """The next epoch's seconds. After it, wait for the compiler, so that later ones switch."""
        seconds = super().epoch()
        self.training.optimizer_step.compiled.wait()
        return seconds


class ThisBfloat16(ThisCompiled):
    """`Training` with a compiled step in bfloat16."""

    title: ClassVar[str] = "this project, compiled, bfloat16"
    precision: ClassVar[Precision] = "bfloat16"


class TwoStepClusteringCompiled(ThisCompiled):
    """The program `clustering` with y summed out of the model, K = 10."""

    title: ClassVar[str] = "clustering, two-step, compiled"
    note: ClassVar[str] = "KL by Monte Carlo"
    build: ClassVar[Callable[..., nn.Module]] = staticmethod(
        partial(clustering.build, form="two_step")
    )


class OneStepClusteringCompiled(ThisCompiled):
    """The program `clustering` with y enumerated in the guide, K = 10."""

    title: ClassVar[str] = "clustering, one-step, compiled"
    note: ClassVar[str] = "KL by Monte Carlo"
    build: ClassVar[Callable[..., nn.Module]] = staticmethod(
        partial(clustering.build, form="one_step")
    )
