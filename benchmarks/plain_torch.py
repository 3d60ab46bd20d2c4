"""The task in plain PyTorch: eager, compiled, as one CUDA graph, and its matrix products alone."""

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.task import Implementation, Setting

# The lower bound of scales in `pyro_vae.posteriors`.
MINIMUM_SCALE = 1e-5
# Steps before a CUDA graph is captured, in which libraries initialise themselves, as torch
# requires.
WARM_UP_STEPS = 3


class PlainVAE(nn.Module):
    """p(x, z) = N(z | 0, I) prod_i Bernoulli(x_i | f_i(z)), with a diagonal normal guide.

    Args:
        pixels: The length of an example.
        setting: Gives the sizes.
    """

    def __init__(self, pixels: int, setting: Setting) -> None:
        super().__init__()
        hidden, latent_dim = setting.hidden, setting.latent_dim
        self.encoder_hidden = nn.Linear(pixels, hidden)
        self.encoder_head = nn.Linear(hidden, 2 * latent_dim)
        self.decoder_hidden = nn.Linear(latent_dim, hidden)
        self.decoder_head = nn.Linear(hidden, pixels)
        self.activation = getattr(F, setting.activation)

    def forward(
        self, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "particles batch latent"]
    ) -> Float[Tensor, ""]:
        """The negative ELBO for standard normal noise, with an analytic KL: a mean in nats."""
        loc, raw_scale = self.encoder_head(self.activation(self.encoder_hidden(x))).chunk(
            2, dim=-1
        )
        scale = F.softplus(raw_scale) + MINIMUM_SCALE
        # Two axes give products of matrices, not of batches of matrices.
        z = (loc + scale * noise).flatten(0, 1)
        logits = self.decoder_head(self.activation(self.decoder_hidden(z)))
        repeated = x if len(noise) == 1 else x.repeat(len(noise), 1)
        nll = F.binary_cross_entropy_with_logits(logits, repeated, reduction="sum") / len(noise)
        kl = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum()
        return (nll + kl) / len(x)


def binarise(
    images: UInt8[Tensor, "n pixels"], rows: Int[Tensor, " batch"]
) -> Float[Tensor, "batch pixels"]:
    """Draw x ~ Bernoulli(v / 255) of some rows."""
    p = images.index_select(0, rows).to(torch.float32).div_(255)
    # On a CPU, three times as fast as torch.bernoulli.
    return (torch.rand_like(p) < p).to(torch.float32)


class PlainTorch(Implementation):
    """A training loop with all that is known to be fast and easy to write.

    Images stay on the device as bytes and are gathered by index; there is no loader, one host read
    per epoch, and a fused Adam.
    """

    title: ClassVar[str] = "plain PyTorch, in memory, eager"

    def prepare(self) -> None:
        """Build the network and its optimizer."""
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
            x = binarise(self.images, rows)
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


class PlainTorchCompiled(PlainTorch):
    """The same loop, with loss and gradient through `torch.compile`.

    Noise is drawn outside the compiled function: on a CPU, compiled random numbers are slower.
    """

    title: ClassVar[str] = "plain PyTorch, in memory, compiled"

    def prepare(self) -> None:
        """Build the network, which is compiled at its first call."""
        super().prepare()
        # One graph per batch size: the last batch's would make all of them dynamic.
        self.loss_of = torch.compile(self.network, dynamic=False)


class PlainTorchCudaGraph(PlainTorch):
    """Gather, binarise, forward, backward and Adam, captured once and replayed at each step.

    The graph advances the position of its rows itself, so a step is one replay. Without CUDA the
    same step runs eagerly.
    """

    title: ClassVar[str] = "plain PyTorch, one CUDA graph per step"

    def prepare(self) -> None:
        """Allocate what the graph reads and writes in place, and capture it."""
        super().prepare()
        capturable = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.setting.lr, fused=True, capturable=capturable
        )
        self.order = torch.arange(len(self.images), device=self.device)
        batch_size = min(self.setting.batch_size, len(self.images))
        self.offsets = torch.arange(batch_size, device=self.device)
        self.position = torch.zeros((), dtype=torch.int64, device=self.device)
        self.total = torch.zeros((), device=self.device)
        self.replay: Callable[[], object] = self._capture() if capturable else self._whole_batch

    def run_epoch(self) -> float | None:
        """A shuffled pass: a replay for each whole batch, then the last one eagerly."""
        self.order.copy_(torch.randperm(len(self.images), device=self.device))
        self.position.zero_()
        self.total.zero_()
        batches, last = divmod(len(self.images), len(self.offsets))
        for _ in range(batches):
            self.replay()
        if last:
            self._step(self.order[-last:])
        return float(self.total) / len(self.images)

    def _whole_batch(self) -> None:
        self._step(self.order.index_select(0, self.offsets + self.position))
        self.position += len(self.offsets)

    def _step(self, rows: Tensor) -> None:
        loss = self.network(binarise(self.images, rows), self.noise(len(rows)))
        # None at capture, so that the graph's own memory holds the gradients.
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach() * len(rows)

    def _capture(self) -> Callable[[], object]:
        # Warm up on a side stream, as capture runs on one; `position` returns to the start each
        # time.
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self.position.zero_()
                self._whole_batch()
        torch.cuda.current_stream(self.device).wait_stream(side)
        self.position.zero_()
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._whole_batch()
        return graph.replay


class MatrixProducts(Implementation):
    """The matrix products of each step, forward and backward, and nothing else.

    Eleven: four layers forward, four gradients by weights, three by inputs, as the images need
    none. Both heads of the encoder are one layer. Outputs are allocated once.
    """

    title: ClassVar[str] = "matrix products alone"
    note: ClassVar[str] = "trains nothing; float32"

    def prepare(self) -> None:
        """Allocate the matrices of whole batches and of the last one."""
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
        """The two factors and the output of each product."""
        pixels, setting = self.images.shape[1], self.setting
        hidden, latent_dim = setting.hidden, setting.latent_dim
        draws = batch * setting.num_particles
        layers = (
            (batch, pixels, hidden),
            (batch, hidden, 2 * latent_dim),
            (draws, latent_dim, hidden),
            (draws, hidden, pixels),
        )

        def matrix(*shape: int) -> Tensor:
            return torch.randn(shape, device=self.device)

        for layer, (rows, inputs, outputs) in enumerate(layers):
            x, weight, y = matrix(rows, inputs), matrix(outputs, inputs), matrix(rows, outputs)
            yield x, weight.t(), y
            yield matrix(rows, outputs).t(), x, matrix(outputs, inputs)
            if layer:
                yield y, weight, matrix(rows, inputs)
