"""This project, Pyro, NumPyro and pythae on the task, and all implementations by name."""

# Peers are extras, and only checked where they are installed.
# pyright: reportMissingImports=false

import math
import shutil
import tempfile
import weakref
from typing import Any, ClassVar, cast

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.plain_torch import (
    MINIMUM_SCALE,
    MatrixProducts,
    PlainTorch,
    PlainTorchCompiled,
    PlainTorchCudaGraph,
    binarise,
)
from benchmarks.task import Implementation, Setting
from benchmarks.this_project import (
    OneStepClusteringCompiled,
    ThisBfloat16,
    ThisCompiled,
    ThisEager,
    ThisGraph,
    TwoStepClusteringCompiled,
)

ACTIVATIONS = {"softplus": nn.Softplus, "relu": nn.ReLU}


class PyroNetworks(nn.Module):
    """Encoder and decoder, and the model and guide that register them in Pyro's store.

    Args:
        pixels: The length of an example.
        setting: Gives the sizes.
    """

    def __init__(self, pixels: int, setting: Setting) -> None:
        super().__init__()
        hidden, latent_dim = setting.hidden, setting.latent_dim
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden),
            ACTIVATIONS[setting.activation](),
            nn.Linear(hidden, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            ACTIVATIONS[setting.activation](),
            nn.Linear(hidden, pixels),
        )
        self.latent_dim = latent_dim

    def model(self, x: Float[Tensor, "batch pixels"]) -> None:
        """z ~ N(0, I), x ~ Bernoulli(f(z))."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            loc = x.new_zeros(len(x), self.latent_dim)
            z = pyro.sample("z", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Float[Tensor, "batch pixels"]) -> None:
        """z ~ N(mu(x), diag(sigma(x)^2))."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, raw_scale = self.encoder(x).chunk(2, dim=-1)
            scale = F.softplus(raw_scale) + MINIMUM_SCALE
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class PyroInMemory(Implementation):
    """`SVI.step` on batches gathered and binarised on the device, with Pyro's validation off."""

    title: ClassVar[str] = "Pyro SVI, in memory"
    note: ClassVar[str] = "KL by Monte Carlo"

    def prepare(self) -> None:
        """Build the networks and the SVI, with an empty store."""
        pyro.clear_param_store()
        pyro.set_rng_seed(self.setting.seed)
        self.images = self.images.to(self.device)
        networks = PyroNetworks(self.images.shape[1], self.setting).to(self.device)
        particles = self.setting.num_particles
        elbo = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        optimizer = PyroOptim(torch.optim.Adam, {"lr": self.setting.lr})
        self.svi = SVI(networks.model, networks.guide, optimizer, loss=elbo)

    def run_epoch(self) -> float | None:
        """A shuffled pass; `SVI.step` reads the loss from the device each time."""
        total = 0.0
        order = torch.randperm(len(self.images), device=self.device)
        with pyro.validation_enabled(False):
            for rows in order.split(self.setting.batch_size):
                total += self._step(binarise(self.images, rows))
        return total / len(self.images)

    def _step(self, x: Tensor) -> float:
        """One step, and its loss, summed over the batch."""
        # Pyro's types allow several losses.
        return float(cast("float", self.svi.step(x)))


class _Pictures(TorchDataset):
    """Images as torchvision's MNIST returns them: a picture, transformed to a tensor.

    Args:
        images: Grey levels 0 to 255, one flat image per row.
    """

    def __init__(self, images: Tensor) -> None:
        from torchvision import transforms

        side = int(images.shape[1] ** 0.5)
        # Like torchvision's set, a tensor from which each image is converted to a numpy array.
        self.images = images.reshape(-1, side, side)
        self.transform = transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        return self.transform(Image.fromarray(np.asarray(self.images[index])))


class PyroExample(PyroInMemory):
    """`SVI.step` as in Pyro's VAE tutorial: a `DataLoader` with `ToTensor` and one worker process.

    Batches are binarised, as the tutorial's grey levels are not in a Bernoulli's support, and
    Pyro's validation is off.

    References:
        https://pyro.ai/examples/vae.html
    """

    title: ClassVar[str] = "Pyro SVI, DataLoader, as in Pyro's example"
    # As in the tutorial. 0 loads in this process.
    loader_workers: ClassVar[int] = 1

    def prepare(self) -> None:
        """Build the networks, the SVI and the loader."""
        pictures = _Pictures(self.images)
        super().prepare()
        self.loader = DataLoader(
            pictures,
            batch_size=self.setting.batch_size,
            shuffle=True,
            num_workers=self.loader_workers,
            pin_memory=self.device.type == "cuda",
        )

    def run_epoch(self) -> float | None:
        """A pass of the loader."""
        total = 0.0
        with pyro.validation_enabled(False):
            for pictures in self.loader:
                total += self._step(torch.bernoulli(pictures.to(self.device).flatten(1)))
        return total / len(self.images)


class NumPyroEpoch(Implementation):
    """NumPyro's `SVI.update` in `lax.scan`, shuffled and binarised within one `jit`.

    Networks are `numpyro.param`s with the initial values of `torch.nn.Linear`, and the KL is
    analytic.
    """

    title: ClassVar[str] = "NumPyro, the epoch jitted"
    requires: ClassVar[tuple[str, ...]] = ("jax", "numpyro")

    def prepare(self) -> None:
        """Build the SVI. The epoch is compiled at its first call."""
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from numpyro.infer import SVI, TraceMeanField_ELBO

        pixels, setting = self.images.shape[1], self.setting
        hidden, latent_dim = setting.hidden, setting.latent_dim

        activation = getattr(jax.nn, setting.activation)

        def linear(name: str, x: Any, inputs: int, outputs: int) -> Any:
            bound = 1 / math.sqrt(inputs)

            def initial(key: Any) -> Any:
                key_weight, key_bias = jax.random.split(key)
                weight = jax.random.uniform(key_weight, (inputs, outputs), float, -1, 1)
                bias = jax.random.uniform(key_bias, (outputs,), float, -1, 1)
                return {"weight": weight * bound, "bias": bias * bound}

            layer: Any = numpyro.param(name, initial)
            return x @ layer["weight"] + layer["bias"]

        def model(x: Any) -> None:
            with numpyro.plate("data", len(x)):
                prior = dist.Normal(jnp.zeros(latent_dim), 1.0).to_event(1)
                z: Any = numpyro.sample("z", prior)
                h = activation(linear("decoder_hidden", z, latent_dim, hidden))
                logits = linear("decoder_head", h, hidden, pixels)
                numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

        def guide(x: Any) -> None:
            h = activation(linear("encoder_hidden", x, pixels, hidden))
            outputs = linear("encoder_head", h, hidden, 2 * latent_dim)
            loc, raw_scale = jnp.split(outputs, 2, axis=-1)
            scale = jax.nn.softplus(raw_scale) + MINIMUM_SCALE
            with numpyro.plate("data", len(x)):
                numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

        elbo = TraceMeanField_ELBO(num_particles=setting.num_particles)
        svi = SVI(model, guide, numpyro.optim.Adam(setting.lr), elbo)
        n, size = len(self.images), min(setting.batch_size, len(self.images))

        def step(carry: Any, rows: Any) -> tuple[Any, None]:
            state, key, total, images = carry
            key, key_binarise = jax.random.split(key)
            p = images[rows].astype(jnp.float32) / 255
            x = jax.random.bernoulli(key_binarise, p).astype(jnp.float32)
            state, loss = svi.update(state, x)
            return (state, key, total + loss, images), None

        def epoch(state: Any, key: Any, images: Any) -> tuple[Any, Any, Any]:
            key, key_order = jax.random.split(key)
            order = jax.random.permutation(key_order, n)
            whole = n - n % size
            carry = (state, key, 0.0, images)
            carry, _ = jax.lax.scan(step, carry, order[:whole].reshape(-1, size))
            if whole < n:
                carry, _ = step(carry, order[whole:])
            return carry[:3]

        self._epoch = jax.jit(epoch)
        self._images = jnp.asarray(self.images.numpy())
        key_state, self._key = jax.random.split(jax.random.key(setting.seed))
        self._state: Any = svi.init(key_state, jnp.zeros((size, pixels)))

    def run_epoch(self) -> float | None:
        """A shuffled pass. Reading the loss waits for its end."""
        self._state, self._key, total = self._epoch(self._state, self._key, self._images)
        return float(total) / len(self.images)


class PythaeTrainer(Implementation):
    """pythae's `BaseTrainer.train_step`, one epoch, with the networks of the task.

    Its trainer reads a fixed array, so images are binarised once. Its binary cross-entropy takes
    probabilities. Adam is fused, as its configuration allows.
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
        hidden, latent_dim = setting.hidden, setting.latent_dim
        if setting.num_particles != 1:
            raise ValueError(
                f"pythae's VAE draws z once, got num_particles {setting.num_particles}."
            )

        class Encoder(BaseEncoder):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.Sequential(
                    nn.Linear(pixels, hidden),
                    ACTIVATIONS[setting.activation](),
                    nn.Linear(hidden, 2 * latent_dim),
                )

            def forward(self, x: Tensor) -> Any:
                loc, log_variance = self.layers(x).chunk(2, dim=-1)
                return ModelOutput(embedding=loc, log_covariance=log_variance)

        class Decoder(BaseDecoder):
            def __init__(self) -> None:
                super().__init__()
                head = (nn.Linear(hidden, pixels), nn.Sigmoid())
                self.layers = nn.Sequential(
                    nn.Linear(latent_dim, hidden), ACTIVATIONS[setting.activation](), *head
                )

            def forward(self, z: Tensor) -> Any:
                return ModelOutput(reconstruction=self.layers(z))

        torch.manual_seed(setting.seed)
        directory = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        configuration = VAEConfig(
            input_dim=(pixels,), latent_dim=latent_dim, reconstruction_loss="bce"
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
        """A shuffled pass. The loss is a mean over batches, in which the last one counts fully."""
        self._epochs += 1
        return float(self._trainer.train_step(self._epochs))


# The names are those of stored results and of the option --ways.
IMPLEMENTATIONS: dict[str, type[Implementation]] = {
    "matrix_products": MatrixProducts,
    "by_hand": PlainTorch,
    "by_hand_compiled": PlainTorchCompiled,
    "by_hand_cuda_graph": PlainTorchCudaGraph,
    "this_eager": ThisEager,
    "this_graph": ThisGraph,
    "this_compiled": ThisCompiled,
    "this_bfloat16": ThisBfloat16,
    "two_step_clustering": TwoStepClusteringCompiled,
    "one_step_clustering": OneStepClusteringCompiled,
    "numpyro": NumPyroEpoch,
    "pythae": PythaeTrainer,
    "pyro_memory": PyroInMemory,
    "pyro_example": PyroExample,
}
