"""The task without Pyro: plain PyTorch, and its matrix products alone."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.way import Setting, Way

# As in `pyro_vae.posteriors`: a floor under every scale.
MINIMUM_SCALE = 1e-5


class PlainVAE(nn.Module):
    """N(z | 0, I) prod_i Bernoulli(x_i | f_i(z)), with the guide N(z | mu(x), diag(sigma(x)^2)).

    Called on x and standard normal noise it gives the negative ELBO, its KL in closed form: the mean
    over data, in nats.

    Args:
        pixels: The length of a datum.
        setting: Gives the sizes.
    """

    def __init__(self, pixels: int, setting: Setting) -> None:
        super().__init__()
        hidden, latent_dim = setting.hidden, setting.latent_dim
        self.encoder_hidden = nn.Linear(pixels, hidden)
        self.encoder_head = nn.Linear(hidden, 2 * latent_dim)
        self.decoder_hidden = nn.Linear(latent_dim, hidden)
        self.decoder_head = nn.Linear(hidden, pixels)

    def forward(
        self, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "particles batch latent"]
    ) -> Float[Tensor, ""]:
        """The negative ELBO per datum."""
        loc, raw_scale = self.encoder_head(F.softplus(self.encoder_hidden(x))).chunk(2, dim=-1)
        scale = F.softplus(raw_scale) + MINIMUM_SCALE
        # Two axes for one particle: products of matrices, not of batches of them.
        z = (loc + scale * noise).flatten(0, 1)
        logits = self.decoder_head(F.softplus(self.decoder_hidden(z)))
        repeated = x if len(noise) == 1 else x.repeat(len(noise), 1)
        nll = F.binary_cross_entropy_with_logits(logits, repeated, reduction="sum") / len(noise)
        kl = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum()
        return (nll + kl) / len(x)


def binarised(
    images: UInt8[Tensor, "n pixels"], rows: Int[Tensor, " batch"]
) -> Float[Tensor, "batch pixels"]:
    """x ~ Bernoulli(v / 255) of some rows, drawn anew."""
    p = images.index_select(0, rows).to(torch.float32).div_(255)
    # On a CPU, three times as fast as torch.bernoulli.
    return (torch.rand_like(p) < p).to(torch.float32)


class ByHand(Way):
    """A loop in plain PyTorch, with all that is known to be fast and easy to write.

    Images stay on the device as bytes and are gathered by index; there is no loader, no host read
    but one an epoch, and Adam is fused.
    """

    title: ClassVar[str] = "PyTorch by hand, in memory, eager"

    def prepare(self) -> None:
        """Build the network and its optimiser."""
        torch.manual_seed(self.setting.seed)
        self.images = self.images.to(self.device)
        self.network = PlainVAE(self.images.shape[1], self.setting).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.setting.lr, fused=True
        )
        self.loss_of: Callable[..., Tensor] = self.network

    def run_epoch(self) -> float | None:
        """A shuffled pass over the images."""
        total = torch.zeros((), device=self.device)
        order = torch.randperm(len(self.images), device=self.device)
        for rows in order.split(self.setting.batch_size):
            x = binarised(self.images, rows)
            loss = self.loss_of(x, self.noise(len(rows)))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(rows)
        return float(total) / len(self.images)

    def noise(self, batch: int) -> Float[Tensor, "particles batch latent"]:
        """Standard normal draws for the particles of a batch."""
        shape = (self.setting.num_particles, batch, self.setting.latent_dim)
        return torch.randn(shape, device=self.device)


class ByHandCompiled(ByHand):
    """The same loop, with loss and gradient through `torch.compile`.

    Noise is drawn outside of what is compiled: on a CPU, compiled random numbers are the slower ones.
    """

    title: ClassVar[str] = "PyTorch by hand, in memory, compiled"

    def prepare(self) -> None:
        """Build the network, and mark it for compilation at its first call."""
        super().prepare()
        # One graph for each batch size: the last batch's would make all of them dynamic.
        self.loss_of = torch.compile(self.network, dynamic=False)


class MatrixProducts(Way):
    """The matrix products of each step, forward and backward, and nothing else.

    Eleven: four layers forward, four gradients by weights, three by inputs (the images need none).
    Both heads of the encoder are one layer. What is written to is allocated once.
    """

    title: ClassVar[str] = "matrix products alone"
    note: ClassVar[str] = "trains nothing; float32"

    def prepare(self) -> None:
        """Allocate, for whole batches and for the last one."""
        torch.manual_seed(self.setting.seed)
        batches, last = divmod(len(self.images), self.setting.batch_size)
        self.whole, self.batches = list(self._products(self.setting.batch_size)), batches
        self.last = list(self._products(last)) if last else []

    def run_epoch(self) -> float | None:
        """The products of an epoch's steps."""
        for _ in range(self.batches):
            for left, right, out in self.whole:
                torch.mm(left, right, out=out)
        for left, right, out in self.last:
            torch.mm(left, right, out=out)
        return None

    def _products(self, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The two factors of each product, and what it is written to."""
        pixels, hidden, latent_dim = (
            self.images.shape[1],
            self.setting.hidden,
            self.setting.latent_dim,
        )
        draws = batch * self.setting.num_particles

        def matrix(*shape: int) -> Tensor:
            return torch.randn(shape, device=self.device)

        for layer, (rows, inputs, outputs) in enumerate(
            (
                (batch, pixels, hidden),
                (batch, hidden, 2 * latent_dim),
                (draws, latent_dim, hidden),
                (draws, hidden, pixels),
            )
        ):
            x, weight, y = matrix(rows, inputs), matrix(outputs, inputs), matrix(rows, outputs)
            yield x, weight.t(), y
            yield matrix(rows, outputs).t(), x, matrix(outputs, inputs)
            if layer:
                yield y, weight, matrix(rows, inputs)
