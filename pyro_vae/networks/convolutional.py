"""Convolutional networks for images and series of any size that can be halved at each stage."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.checks import check_at_least
from pyro_vae.networks.layers import (
    Activation,
    Layer,
    Network,
    Norm,
    activation_function,
    gate,
    normalisation,
)


class _Convolutional(Network):
    """An encoder that halves an image or a series at each stage, or its mirror. Abstract.

    Encoder: image, stages, a dense layer, a linear head. Decoder: z, two dense layers, stages, the
    last of which is the linear head. `refine` gives the layers after each change of size.
    """

    # The convolution, its transpose, and the number of their axes.
    down: ClassVar[type[nn.Module]] = nn.Conv2d
    up: ClassVar[type[nn.Module]] = nn.ConvTranspose2d
    axes: ClassVar[int] = 2

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        channels: Sequence[int],
        kernel: int,
        hidden: int,
        norm: Norm,
        nonlinearity: Callable[[Tensor], Tensor],
        refine: Callable[[int], Sequence[nn.Module]] = lambda _: (),
    ) -> None:
        if not channels or any(width < 1 for width in channels):
            raise ValueError(
                f"channels must name at least one stage, each of at least 1, got {list(channels)}."
            )
        # A kernel of 2 skips the last row of an odd size.
        check_at_least(3, kernel=kernel)
        check_at_least(1, hidden=hidden)
        encodes = self._encodes(tuple(input_shape), tuple(output_shape))
        event = tuple(input_shape if encodes else output_shape[1:])
        sides = event[-self.axes :]
        self._check_sides(sides, len(channels))
        sizes = [sides]
        for _ in channels:
            sizes.append(tuple(_halved(side, kernel) for side in sizes[-1]))
        innermost = (channels[-1], *sizes[-1])
        layer = partial(Layer, nonlinearity=nonlinearity, norm=norm)
        layers: list[nn.Module] = []
        if encodes:
            reads = (math.prod(event[: -self.axes]), *sides)
            for inputs, outputs in pairwise((reads[0], *channels)):
                layers += [layer(self._down(kernel), inputs, outputs), *refine(outputs)]
            layers += [nn.Flatten(), layer(nn.Linear, math.prod(innermost), hidden)]
            head = nn.Linear(hidden, math.prod(output_shape))
        else:
            reads = (math.prod(input_shape),)
            layers += [layer(nn.Linear, *reads, hidden)]
            layers += [layer(nn.Linear, hidden, math.prod(innermost))]
            layers += [nn.Unflatten(1, innermost), *refine(channels[-1])]
            *ups, last = (self._up(kernel, *pair) for pair in pairwise(reversed(sizes)))
            for up, (inputs, outputs) in zip(ups, pairwise(reversed(channels)), strict=True):
                layers += [layer(up, inputs, outputs), *refine(outputs)]
            head = last(channels[0], math.prod(output_shape[: -self.axes]))
        super().__init__(input_shape, output_shape, layers, head, reads)

    @classmethod
    def _encodes(cls, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> bool:
        """Whether the network is an encoder."""
        encodes = len(input_shape) == 3
        if not encodes and len(output_shape) != 4:
            raise ValueError(
                f"{cls.__name__} reads an image (channels, height, width) or returns "
                f"(outputs, channels, height, width), got {input_shape} to {output_shape}; for "
                "data of other shapes use mlp or gated_mlp, and for series conv1d."
            )
        return encodes

    @classmethod
    def _check_sides(cls, sides: tuple[int, ...], stages: int) -> None:
        if min(sides) >= 2**stages:
            return
        most = max(min(sides), 1).bit_length() - 1
        instead = f"give channels for at most {most}" if most else "use mlp or gated_mlp"
        data, size = ("an image", "sides") if cls.axes == 2 else ("a series", "a length")
        raise ValueError(
            f"{cls.__name__} with {stages} stages halves {data} {stages} times and needs {size} "
            f"of at least {2**stages}, got {' x '.join(map(str, sides))}; {instead}."
        )

    @classmethod
    def _down(cls, kernel: int) -> Callable[..., nn.Module]:
        """The convolution that halves a size."""
        return partial(cls.down, kernel_size=kernel, stride=2, padding=(kernel - 1) // 2)

    @classmethod
    def _up(
        cls, kernel: int, size: tuple[int, ...], wanted: tuple[int, ...]
    ) -> Callable[..., nn.Module]:
        """The transposed convolution from a halved size back to the original one."""
        # Two sizes halve to the same one: they differ by a row or column at the end.
        ends = tuple(full - 2 * half + kernel % 2 for half, full in zip(size, wanted, strict=True))
        return partial(
            cls.up,
            kernel_size=kernel,
            stride=2,
            padding=(kernel - 1) // 2,
            output_padding=ends,
        )


def _halved(side: int, kernel: int) -> int:
    """side / 2, rounded down by an even kernel and up by an odd one."""
    return (side + kernel % 2) // 2


class Conv(_Convolutional):
    """Strided convolutions and a dense layer; a decoder mirrors them with transposed convolutions.

    Each stage halves the image: with three, 28 x 28 becomes 14, 7 and 3. Odd sizes are restored
    exactly. An even kernel is divisible by the stride, which avoids checkerboard artefacts.

    Args:
        input_shape: The shape of the input, without leading axes: an image
            `(channels, height, width)`, or a decoder's `(latent_dim,)`.
        output_shape: The shape of the output: a decoder's is
            `(outputs_per_element, channels, height, width)`.
        channels: The number of channels of each stage, from the image inwards. The image's sides
            must be at least 2 to the number of stages. For 64 pixels a side use four.
        kernel: The side of the kernels, at least 3.
        hidden: The width of the dense layer.
        activation: The elementwise nonlinearity.
        norm: Normalisation over the batch, over an example's channels and positions, or none.

    Raises:
        ValueError: If neither shape is that of an image, the image is too small for the number of
            stages, or an option is out of its range.

    References:
        Striving for Simplicity: The All Convolutional Net (Springenberg et al., 2015),
        https://arxiv.org/abs/1412.6806
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        kernel: int = 4,
        hidden: int = 256,
        activation: Activation = "relu",
        norm: Norm = "none",
    ) -> None:
        super().__init__(
            *(input_shape, output_shape, channels, kernel, hidden, norm),
            nonlinearity=activation_function(activation),
        )


class Conv1d(Conv):
    """Strided convolutions along the last axis, and a dense layer: for series and spectra.

    An example is a series `(length,)` or `(channels, length)`; axes before the last are channels.
    Each stage halves the length: with three, 128 becomes 64, 32 and 16. Odd lengths are restored
    exactly.

    A series `(length,)` and a code `(latent_dim,)` both have one axis: the network is an encoder
    if its input is longer than its output.

    Args:
        input_shape: The shape of the input, without leading axes: a series, or a decoder's
            `(latent_dim,)`.
        output_shape: The shape of the output: a decoder's is `(outputs_per_element, *series)`.
        channels: The number of channels of each stage, from the series inwards. The length must be
            at least 2 to the number of stages.
        kernel: The length of the kernels, at least 3.
        hidden: The width of the dense layer.
        activation: The elementwise nonlinearity.
        norm: Normalisation over the batch, over an example's channels and positions, or none.

    Raises:
        ValueError: If the series is too short for the number of stages, or an option is out of its
            range.

    References:
        An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
        Modeling (Bai, Kolter & Koltun, 2018), https://arxiv.org/abs/1803.01271
    """

    down = nn.Conv1d
    up = nn.ConvTranspose1d
    axes = 1

    @classmethod
    def _encodes(cls, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> bool:
        if len(input_shape) == 1 and len(output_shape) == 2:
            return input_shape[0] > output_shape[1]
        return len(input_shape) > 1 or len(output_shape) == 1


class GatedConv(_Convolutional):
    """`Conv` with gated layers: h <- a * sigmoid(g), with (a, g) the two halves of the channels.

    Args:
        channels: The number of channels of each stage, from the image inwards. The image's sides
            must be at least 2 to the number of stages.
        kernel: The side of the kernels, at least 3.
        hidden: The width of the dense layer.
        norm: Normalisation over the batch, over an example's channels and positions, or none.

    Raises:
        ValueError: As `Conv`.

    References:
        Conditional Image Generation with PixelCNN Decoders (van den Oord et al., 2016),
        https://arxiv.org/abs/1606.05328; in a VAE: VAE with a VampPrior (Tomczak & Welling, 2018),
        https://arxiv.org/abs/1705.07120
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        kernel: int = 4,
        hidden: int = 256,
        norm: Norm = "none",
    ) -> None:
        super().__init__(
            *(input_shape, output_shape, channels, kernel, hidden, norm), nonlinearity=gate
        )


class ResNet(_Convolutional):
    """`Conv` with residual blocks at each size: h <- h + C act(norm(C act(norm(h)))).

    Args:
        channels: The number of channels of each stage, from the image inwards. The image's sides
            must be at least 2 to the number of stages.
        blocks: The number of residual blocks after each change of size.
        kernel: The side of the kernels that change the size, at least 3. Those of the blocks are
            3.
        hidden: The width of the dense layer.
        activation: The elementwise nonlinearity.
        norm: Normalisation over the batch, over an example's channels and positions, or none.

    Raises:
        ValueError: As `Conv`, and if `blocks` is below 1.

    References:
        Identity Mappings in Deep Residual Networks (He et al., 2016),
        https://arxiv.org/abs/1603.05027
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        channels: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        kernel: int = 4,
        hidden: int = 256,
        activation: Activation = "relu",
        norm: Norm = "none",
    ) -> None:
        check_at_least(1, blocks=blocks)
        nonlinearity = activation_function(activation)
        super().__init__(
            *(input_shape, output_shape, channels, kernel, hidden, norm),
            nonlinearity=nonlinearity,
            refine=lambda width: [ResidualBlock(width, nonlinearity, norm) for _ in range(blocks)],
        )


class ResidualBlock(nn.Module):
    """h + C2 f(norm2(C1 f(norm1(h)))), with 3 x 3 convolutions C1 and C2 that keep the size.

    Args:
        channels: The number of channels.
        nonlinearity: The function f.
        norm: The normalisation before each f.
    """

    def __init__(
        self, channels: int, nonlinearity: Callable[[Tensor], Tensor], norm: Norm
    ) -> None:
        super().__init__()
        self.norm = normalisation(norm, channels)
        self.inner = Layer(
            partial(nn.Conv2d, kernel_size=3, padding=1), channels, channels, nonlinearity, norm
        )
        self.outer = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.nonlinearity = nonlinearity

    def forward(
        self, h: Float[Tensor, "n channels height width"]
    ) -> Float[Tensor, "n channels height width"]:
        return h + self.outer(self.inner(self.nonlinearity(self.norm(h))))
