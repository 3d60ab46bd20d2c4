"""The task with pythae: its VAE and its trainer."""

# The peer is an extra, and checked where it is installed.
# pyright: reportMissingImports=false

import shutil
import tempfile
import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.way import Way


class PythaeTrainer(Way):
    """`BaseTrainer.train_step`, an epoch of its training, with the networks of the task.

    Its trainer reads an array that does not change: images are binarised once. Its binary cross
    entropy takes probabilities. Adam is fused, which its configuration allows.
    """

    title: ClassVar[str] = "pythae, its trainer"
    requires: ClassVar[tuple[str, ...]] = ("pythae",)
    note: ClassVar[str] = "images binarised once, not at each visit"

    def prepare(self) -> None:
        """Build the model and its trainer, which writes to a temporary directory."""
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        pixels, setting = self.images.shape[1], self.setting
        if setting.num_particles != 1:
            raise ValueError(
                f"pythae's VAE draws z once, got num_particles {setting.num_particles}."
            )

        class Encoder(BaseEncoder):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.Sequential(
                    nn.Linear(pixels, setting.hidden),
                    nn.Softplus(),
                    nn.Linear(setting.hidden, 2 * setting.latent_dim),
                )

            def forward(self, x: Tensor) -> Any:
                loc, log_variance = self.layers(x).chunk(2, dim=-1)
                return ModelOutput(embedding=loc, log_covariance=log_variance)

        class Decoder(BaseDecoder):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.Sequential(
                    nn.Linear(setting.latent_dim, setting.hidden),
                    nn.Softplus(),
                    nn.Linear(setting.hidden, pixels),
                    nn.Sigmoid(),
                )

            def forward(self, z: Tensor) -> Any:
                return ModelOutput(reconstruction=self.layers(z))

        torch.manual_seed(setting.seed)
        directory = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        configuration = VAEConfig(
            input_dim=(pixels,), latent_dim=setting.latent_dim, reconstruction_loss="bce"
        )
        x = torch.bernoulli(self.images.to(torch.float32) / 255)
        self._trainer = BaseTrainer(
            VAE(configuration, encoder=Encoder(), decoder=Decoder()),
            BaseDataset(x, torch.zeros(len(x))),
            training_config=BaseTrainerConfig(
                output_dir=directory,
                per_device_train_batch_size=setting.batch_size,
                learning_rate=setting.lr,
                optimizer_params={"fused": True},
                seed=setting.seed,
                no_cuda=self.device.type == "cpu",
            ),
        )
        self._trainer.prepare_training()
        self._epochs = 0

    def run_epoch(self) -> float | None:
        """A shuffled pass. The loss is a mean over batches, the last as heavy as the others."""
        self._epochs += 1
        return float(self._trainer.train_step(self._epochs))
