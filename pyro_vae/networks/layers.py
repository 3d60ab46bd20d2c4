"""The base of all networks, their layers, and batch and layer normalisation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_vae.checks import check_choice

Norm = Literal["none", "batch", "layer"]


class _BatchStatistics(nn.Module):
    """Running mean and variance of each feature over the batches so far. Abstract.

    They are the plain average of the first batches and, once a new batch would weigh less than
    `momentum`, an exponential moving average, so that they describe the data from the first step
    on. torch's start at 0 and 1, which still count after dozens of steps. A batch whose statistics
    are not finite is skipped, as its optimizer step is.

    Args:
        features: The number of features.
        momentum: The weight of the newest batch.
    """

    running_mean: Tensor
    running_var: Tensor
    batches: Tensor

    def __init__(self, features: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("batches", torch.tensor(0))

    @torch.no_grad()
    def _move(
        self, mean: Float[Tensor, " features"], variance: Float[Tensor, " features"]
    ) -> None:
        self.batches += 1
        newest = (1 / self.batches).clamp(min=self.momentum).to(mean.dtype)
        for running, batch in ((self.running_mean, mean), (self.running_var, variance)):
            moved = torch.lerp(running, batch, newest)
            running.copy_(torch.where(moved.isfinite(), moved, running))


class BatchNorm(_BatchStatistics):
    """gamma (h - m) / sqrt(v + eps) + beta, with a mean m and a variance v for each feature.

    Features are axis 1. m and v are:

    - in training, the statistics of the batch over all other axes (data, particles and
      positions), with which the running statistics are updated;
    - in evaluation, the running statistics, so that a bound does not depend on the other examples;
    - in training with a single value per feature (one example in a dense layer), which has no
      variance, or inside `running_statistics`: the running statistics, without an update.

    Args:
        features: The length of axis 1.
        momentum: The weight of the newest batch in the running statistics.
        eps: Added to the variance.

    References:
        Batch Normalization (Ioffe & Szegedy, 2015), https://arxiv.org/abs/1502.03167
    """

    def __init__(self, features: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(features, momentum)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(
        self, h: Float[Tensor, " n features *positions"]
    ) -> Float[Tensor, " n features *positions"]:
        affine = {"weight": self.weight, "bias": self.bias, "eps": self.eps}
        if not self.training or h.numel() // h.shape[1] < 2:
            # Copies: the next batch may change the buffers before backward reads them.
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(h, mean, variance, **affine)
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # With momentum 1 this writes the batch's statistics into the two tensors.
        normalised = F.batch_norm(h, mean, variance, training=True, momentum=1.0, **affine)
        self._move(mean, variance)
        return normalised


class Standardised(_BatchStatistics):
    """(h - m) / sqrt(v): over a batch exactly of mean 0 and variance 1, however small v is.

    `BatchNorm` divides by sqrt(v + eps), which leaves a feature of small v with a variance below
    1. Here nothing is added. Computed in float64, the standard deviation of a float32 feature that
    varies cannot be below 2^-40 of its largest value; a smaller one is rounding, and the feature
    becomes 0.

    m and v are chosen as in `BatchNorm`. The variance is that of the batch (divided by n), in the
    running statistics an estimate of the population's (by n - 1).

    Args:
        features: The length of axis 1.
        momentum: The weight of the newest batch in the running statistics.

    References:
        Batch Normalization (Ioffe & Szegedy, 2015), https://arxiv.org/abs/1502.03167
    """

    def __init__(self, features: int, momentum: float = 0.1) -> None:
        super().__init__(features, momentum)

    def forward(self, h: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
        if not self.training or len(h) < 2:
            mean, variance = self.running_mean.double(), self.running_var.double()
            return _standardised(h.double() - mean, variance, variance > 0).to(h.dtype)
        values = h.double()
        mean = values.mean(0)
        variance = (values - mean).square().mean(0)
        rounding = values.detach().abs().amax(0) * 2.0**-40
        varies = variance > rounding.square()
        unbiased = torch.where(varies, variance, 0.0) * (len(h) / (len(h) - 1))
        self._move(mean.to(h.dtype), unbiased.to(h.dtype))
        return _standardised(values - mean, variance, varies).to(h.dtype)


def _standardised(
    centred: Float[Tensor, "n features"],
    variance: Float[Tensor, " features"],
    varies: Bool[Tensor, " features"],
) -> Float[Tensor, "n features"]:
    # The inner where keeps the root's infinite derivative at 0 out of the gradient.
    scale = torch.where(varies, variance, 1.0).sqrt()
    return torch.where(varies, centred / scale, centred)


_BATCH_NORMS = (_BatchStatistics, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def require_separable(module: nn.Module) -> None:
    """Check that no part of a module depends on the whole batch.

    Raises:
        ValueError: If there is batch normalisation: processes that share a batch see only a part.
    """
    names = [name for name, part in module.named_modules() if isinstance(part, _BATCH_NORMS)]
    if names:
        raise ValueError(
            f"batch normalisation ({names[0]}) needs the whole batch, of which each of several "
            "processes sees a part: use layer normalisation (--network.norm layer), or one "
            "process."
        )


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Make batch normalisation in `module` use its running statistics, without an update.

    In training, inputs that are not data pass through an encoder like this, such as a VampPrior's
    pseudo-inputs. With any other statistics the prior would differ from the one in evaluation:

    - with their own, pseudo-inputs are normalised to look like data, and become other
      components in evaluation, where the data's statistics are used: on the digits, from a
      uniform start, an ELBO of -23 in training was -42 in evaluation;
    - with those of the data batch, p(z) differs from batch to batch.

    All other layers keep their mode.

    Args:
        module: A module with `BatchNorm`, `Standardised` or torch's own layers anywhere inside.
    """
    training = [m for m in module.modules() if isinstance(m, _BATCH_NORMS) and m.training]
    try:
        for layer in training:
            layer.training = False
        yield
    finally:
        for layer in training:
            layer.training = True


def normalisation(norm: Norm, features: int) -> nn.Module:
    """The normalisation layer of a name, for `(n, features, *positions)`.

    Layer normalisation is over features and positions of each example, with a scale and a shift
    for each feature.

    Raises:
        ValueError: If the name is unknown.

    References:
        Layer Normalization (Ba, Kiros & Hinton, 2016), https://arxiv.org/abs/1607.06450
    """
    check_choice(Norm, norm=norm)
    if norm == "batch":
        return BatchNorm(features)
    return nn.GroupNorm(1, features) if norm == "layer" else nn.Identity()


# An encoder or decoder: from an output shape to a network with that output.
NetworkFactory = Callable[[tuple[int, ...]], nn.Module]

Activation = Literal["softplus", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh"]

# a * sigmoid(b) for the two halves a, b of the features: units that can be switched off.
gate: Callable[[Tensor], Tensor] = partial(F.glu, dim=1)


class Network(nn.Module):
    """head(layers(inputs)), with all leading axes flattened into one for the layers. Abstract.

    Args:
        input_shape: The shape of the input, without leading axes.
        output_shape: The shape of the output, without leading axes.
        layers: Modules applied to `(n, *reads)`, one after the other.
        head: The last, linear one.
        reads: The shape that the first layer reads: `input_shape`, or its product if it is dense.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        layers: Sequence[nn.Module],
        head: nn.Module,
        reads: Sequence[int],
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.output_shape = tuple(output_shape)
        self.reads = tuple(reads)
        self.layers = nn.Sequential(*layers)
        self.head = head

    def forward(self, inputs: Real[Tensor, "*leading"]) -> Float[Tensor, "*outputs"]:
        axes = max(inputs.dim() - len(self.input_shape), 0)
        leading, event = inputs.shape[:axes], inputs.shape[axes:]
        if event != self.input_shape:
            # A reshape would silently take (28, 28, 1) for (1, 28, 28).
            raise ValueError(
                f"{type(self).__name__} reads {self.input_shape} after any leading axes, "
                f"got {tuple(inputs.shape)}."
            )
        # Counts arrive as integers; products need floats.
        dtype = next(self.head.parameters()).dtype
        flat = inputs.reshape(-1, *self.reads).to(dtype)
        outputs = self.head(self.layers(flat)).reshape(*leading, *self.output_shape)
        # Under autocast the head's product is bfloat16; a scale or a KL needs more digits than
        # that.
        return outputs.to(dtype)


class Layer(nn.Module):
    """nonlinearity(norm(A h + b)), with features on axis 1.

    There is no b under batch normalisation, which removes the mean.

    Args:
        affine: The map's class, called with inputs, outputs and `bias`: `nn.Linear` or a
            convolution.
        inputs: The number of input features.
        outputs: The number of output features. For `gate`, the map gives twice as many.
        nonlinearity: The function applied last.
        norm: The normalisation between.
    """

    def __init__(
        self,
        affine: Callable[..., nn.Module],
        inputs: int,
        outputs: int,
        nonlinearity: Callable[[Tensor], Tensor],
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        features = 2 * outputs if nonlinearity is gate else outputs
        self.linear = affine(inputs, features, bias=norm != "batch")
        self.norm = normalisation(norm, features)
        self.nonlinearity = nonlinearity

    def forward(
        self, h: Float[Tensor, " n inputs *positions"]
    ) -> Float[Tensor, " n outputs *new_positions"]:
        return self.nonlinearity(self.norm(self.linear(h)))


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """The elementwise function of a name.

    Raises:
        ValueError: If the name is unknown.
    """
    check_choice(Activation, activation=name)
    return torch.tanh if name == "tanh" else getattr(F, name)
