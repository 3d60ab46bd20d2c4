"""Batch and layer normalisation, and which statistics are used when."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["none", "batch", "layer"]


class _BatchStatistics(nn.Module):
    """A mean and a variance of each feature, of the batches seen so far: the running statistics.

    Abstract: a layer says what it does with them, and moves them.

    They are the plain mean of the first batches' and, once that gives a batch less weight than
    `momentum`, move by `momentum`: they are those of data from the first step on. torch's start at
    0 and 1 and hold a part of that for dozens of steps. A batch whose statistics are not finite
    leaves no mark, as its step leaves none on the parameters.

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

    Features are axis 1. Which statistics m and v are:

    - in training, those of the batch, over every other axis: data, particles and positions alike;
      the running statistics move towards them;
    - in evaluation, the running statistics, so that a bound does not depend on a datum's company;
    - in training, too, the running statistics where there is but one value a feature (one datum
      in a dense layer), which has no variance, and inside `running_statistics`. They do not move.

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
            # Copies: backward reads them, and the next batch may have moved the buffers by then.
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            return F.batch_norm(h, mean, variance, **affine)
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        # With momentum 1 this writes the batch's statistics into the two tensors.
        normalised = F.batch_norm(h, mean, variance, training=True, momentum=1.0, **affine)
        self._move(mean, variance)
        return normalised


class Standardised(_BatchStatistics):
    """(h - m) / sqrt(v): in a batch each feature has mean 0 and variance 1 exactly, however small v is.

    `BatchNorm` divides by sqrt(v + eps), and what comes out of a small v has a variance below 1.
    Here nothing is added. In float64, where a float32 feature that is not constant cannot have a
    standard deviation below 2^-40 of its largest value, a smaller one is rounding: the feature is
    constant and becomes 0.

    Which statistics are used when is as in `BatchNorm`; its variance in a batch is that of the
    batch (divided by n), in the running statistics an estimate of the population's (by n - 1).

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
    """Make sure that no part of a module looks at the batch as a whole.

    Raises:
        ValueError: If there is batch normalisation: processes that share a batch see a part each.
    """
    names = [name for name, part in module.named_modules() if isinstance(part, _BATCH_NORMS)]
    if names:
        raise ValueError(
            f"batch normalisation ({names[0]}) needs the whole batch, of which each of several processes "
            "sees a part: use layer normalisation (--network.norm layer), or one process."
        )


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in `module` uses its running statistics and leaves them alone.

    This is how inputs that are not data pass through an encoder in training, such as a VampPrior's
    pseudo-inputs. Neither of the other choices is the prior that evaluation reports:

    - with statistics of their own, pseudo-inputs are shifted and scaled to look like data, whatever
      they are, and in evaluation, when the data's statistics are used, they are other components:
      on the digits, from a uniform start, an ELBO of -23 in training was -42 in evaluation;
    - with those of the data batch, p(z) is another distribution for each batch.

    The running statistics are the data's, and make p(z) one distribution, the same in training and
    in evaluation. All other layers keep their mode.

    Args:
        module: A module that holds `BatchNorm`, `Standardised`, or torch's own, anywhere inside.
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
    """The layer that a word names, for `(n, features, *positions)`.

    Layer normalisation is over features and positions of each datum, with a scale and a shift for
    each feature.

    Raises:
        ValueError: If the word is unknown.

    References:
        Layer Normalization (Ba, Kiros & Hinton, 2016), https://arxiv.org/abs/1607.06450
    """
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}.")
    if norm == "batch":
        return BatchNorm(features)
    return nn.GroupNorm(1, features) if norm == "layer" else nn.Identity()
