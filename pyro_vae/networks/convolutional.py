"""Convolutional networks: images of any size that halves often enough, and back to that very size."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from pyro_vae.networks.layers import Activation, Layer, activation_function, gate
from pyro_vae.networks.network import Network
from pyro_vae.networks.normalisation import Norm, normalisation


class _Convolutional(Network):
    """An encoder halves an image at each of its stages; a decoder is its mirror image.

    Encoder: image, stages, a dense layer, a linear head. Decoder: z, two dense layers, stages, of
    which the last is the linear head. `refine` gives what follows each change of size.
    """

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
        if kernel < 3:
            # A kernel of 2 leaves out the last row of an odd size.
            raise ValueError(f"kernel must be at least 3, got {kernel}.")
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}.")
        encodes = len(input_shape) == 3
        if not encodes and len(output_shape) != 4:
            raise ValueError(
                f"{type(self).__name__} reads an image (channels, height, width) or gives "
                f"(outputs, channels, height, width), got {tuple(input_shape)} to "
                f"{tuple(output_shape)}; for data of other shapes use mlp or gated_mlp."
            )
        *_, height, width = input_shape if encodes else output_shape
        _check_sides(type(self).__name__, (height, width), len(channels))
        sizes = [(height, width)]
        for _ in channels:
            sizes.append((_halved(sizes[-1][0], kernel), _halved(sizes[-1][1], kernel)))
        innermost = (channels[-1], *sizes[-1])
        layer = partial(Layer, nonlinearity=nonlinearity, norm=norm)
        layers: list[nn.Module] = []
        if encodes:
            reads = tuple(input_shape)
            for inputs, outputs in pairwise((input_shape[0], *channels)):
                layers += [layer(_down(kernel), inputs, outputs), *refine(outputs)]
            layers += [nn.Flatten(), layer(nn.Linear, math.prod(innermost), hidden)]
            head = nn.Linear(hidden, math.prod(output_shape))
        else:
            reads = (math.prod(input_shape),)
            layers += [layer(nn.Linear, *reads, hidden)]
            layers += [layer(nn.Linear, hidden, math.prod(innermost))]
            layers += [nn.Unflatten(1, innermost), *refine(channels[-1])]
            *ups, last = (_up(kernel, *pair) for pair in pairwise(reversed(sizes)))
            for up, (inputs, outputs) in zip(ups, pairwise(reversed(channels)), strict=True):
                layers += [layer(up, inputs, outputs), *refine(outputs)]
            head = last(channels[0], math.prod(output_shape[:2]))
        super().__init__(input_shape, output_shape, layers, head, reads)


def _check_sides(name: str, sides: tuple[int, int], stages: int) -> None:
    if min(sides) >= 2**stages:
        return
    most = max(min(sides), 1).bit_length() - 1
    instead = f"give channels for at most {most}" if most else "use mlp or gated_mlp"
    raise ValueError(
        f"{name} with {stages} stages halves an image {stages} times and needs sides of at least "
        f"{2**stages}, got {sides[0]} x {sides[1]}; {instead}."
    )


def _halved(side: int, kernel: int) -> int:
    """side / 2, rounded down by an even kernel and up by an odd one."""
    return (side + kernel % 2) // 2


def _down(kernel: int) -> Callable[..., nn.Conv2d]:
    """The convolution that halves a size."""
    return partial(nn.Conv2d, kernel_size=kernel, stride=2, padding=(kernel - 1) // 2)


def _up(
    kernel: int, size: tuple[int, int], wanted: tuple[int, int]
) -> Callable[..., nn.ConvTranspose2d]:
    """The transposed convolution from a halved size back to the one it came from."""
    # Two sizes halve to the same one: what tells them apart is a row or column at the end.
    rows, columns = (full - 2 * half + kernel % 2 for half, full in zip(size, wanted, strict=True))
    return partial(
        nn.ConvTranspose2d,
        kernel_size=kernel,
        stride=2,
        padding=(kernel - 1) // 2,
        output_padding=(rows, columns),
    )


class Conv(_Convolutional):
    """Strided convolutions and a dense layer; a decoder mirrors them with transposed convolutions.

    Each stage halves the image: with three, 28 x 28 becomes 14, 7 and 3. Odd sizes come back exactly.
    A kernel that is even, and so divided by the stride, avoids the checkerboard of one that is not.

    Args:
        input_shape: The shape of what it reads, leading axes apart: an image
            `(channels, height, width)`, or a decoder's `(latent_dim,)`.
        output_shape: The shape of what it gives: a decoder's is
            `(outputs_per_element, channels, height, width)`.
        channels: The number of channels of each stage, from the image inwards. The image's sides
            must be at least 2 to the number of stages. For 64 pixels a side take four.
        kernel: The side of the kernels, at least 3.
        hidden: The width of the dense layer.
        activation: The elementwise nonlinearity.
        norm: Normalisation over the batch, over a datum's channels and positions, or none.

    Raises:
        ValueError: If neither shape is an image's, the image is too small for so many stages, or an
            option is out of its range.

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


class GatedConv(_Convolutional):
    """As `Conv`, each layer gated: h <- a * sigmoid(g), with (a, g) the two halves of its channels.

    Args:
        input_shape: The shape of what it reads, leading axes apart: an image
            `(channels, height, width)`, or a decoder's `(latent_dim,)`.
        output_shape: The shape of what it gives: a decoder's is
            `(outputs_per_element, channels, height, width)`.
        channels: The number of channels of each stage, from the image inwards. The image's sides
            must be at least 2 to the number of stages.
        kernel: The side of the kernels, at least 3.
        hidden: The width of the dense layer.
        norm: Normalisation over the batch, over a datum's channels and positions, or none.

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
    """As `Conv`, with residual blocks at each size: h <- h + C activation(norm(C activation(norm(h)))).

    Args:
        input_shape: The shape of what it reads, leading axes apart: an image
            `(channels, height, width)`, or a decoder's `(latent_dim,)`.
        output_shape: The shape of what it gives: a decoder's is
            `(outputs_per_element, channels, height, width)`.
        channels: The number of channels of each stage, from the image inwards. The image's sides
            must be at least 2 to the number of stages.
        blocks: The number of residual blocks after each change of size.
        kernel: The side of the kernels that change the size, at least 3. Those of the blocks are 3.
        hidden: The width of the dense layer.
        activation: The elementwise nonlinearity.
        norm: Normalisation over the batch, over a datum's channels and positions, or none.

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
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {blocks}.")
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
