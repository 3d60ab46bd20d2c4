"""The task with Pyro as it comes: `SVI` with `Trace_ELBO`, in memory and as its tutorial has it."""

from typing import ClassVar, cast

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.plain_torch import MINIMUM_SCALE, binarised
from benchmarks.way import Setting, Way


class Networks(nn.Module):
    """Encoder and decoder, and the model and guide that register them with Pyro's store.

    Args:
        pixels: The length of a datum.
        setting: Gives the sizes.
    """

    def __init__(self, pixels: int, setting: Setting) -> None:
        super().__init__()
        hidden, latent_dim = setting.hidden, setting.latent_dim
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden), nn.Softplus(), nn.Linear(hidden, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.Softplus(), nn.Linear(hidden, pixels)
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


class PyroInMemory(Way):
    """`SVI.step` on batches gathered and binarised on the device, with Pyro's validation off."""

    title: ClassVar[str] = "Pyro SVI, in memory"
    note: ClassVar[str] = "KL by Monte Carlo"

    def prepare(self) -> None:
        """Build the networks and the SVI, with an empty store."""
        pyro.clear_param_store()
        pyro.set_rng_seed(self.setting.seed)
        self.images = self.images.to(self.device)
        networks = Networks(self.images.shape[1], self.setting).to(self.device)
        elbo = Trace_ELBO(
            num_particles=self.setting.num_particles,
            vectorize_particles=True,
            max_plate_nesting=1,
        )
        optimizer = PyroOptim(torch.optim.Adam, {"lr": self.setting.lr})
        self.svi = SVI(networks.model, networks.guide, optimizer, loss=elbo)

    def run_epoch(self) -> float | None:
        """A shuffled pass; `SVI.step` reads the loss from the device each time."""
        total = 0.0
        order = torch.randperm(len(self.images), device=self.device)
        with pyro.validation_enabled(False):
            for rows in order.split(self.setting.batch_size):
                total += self._step(binarised(self.images, rows))
        return total / len(self.images)

    def _step(self, x: Tensor) -> float:
        """A step, and its loss, summed over the batch."""
        # Pyro's types allow several losses.
        return float(cast("float", self.svi.step(x)))


class _Pictures(Dataset):
    """Images as torchvision's MNIST gives them: a picture, then its transform to a tensor.

    Args:
        images: Grey levels 0 to 255, one flat image a row.
    """

    def __init__(self, images: Tensor) -> None:
        from torchvision import transforms

        side = int(images.shape[1] ** 0.5)
        # torchvision's set is of tensors, too, and makes each a numpy array when it is asked for.
        self.images = images.reshape(-1, side, side)
        self.transform = transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        return self.transform(Image.fromarray(np.asarray(self.images[index])))


class PyroExample(PyroInMemory):
    """`SVI.step` as in Pyro's VAE tutorial: a `DataLoader` with `ToTensor` and one worker process.

    Each batch is binarised anew (the tutorial's grey levels are no data of a Bernoulli), and Pyro's
    validation is off.

    References:
        https://pyro.ai/examples/vae.html
    """

    title: ClassVar[str] = "Pyro SVI, DataLoader, as in Pyro's example"
    # The tutorial's. 0 loads in this process.
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
