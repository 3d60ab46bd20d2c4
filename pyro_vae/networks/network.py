"""What all networks share: leading axes are flattened here, once, and nowhere else."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Real
from torch import Tensor, nn

# What `encoder` and `decoder` are: the shape wanted to a network that gives it.
NetworkFactory = Callable[[tuple[int, ...]], nn.Module]


class Network(nn.Module):
    """head(layers(inputs)), with the leading axes made one for the layers and put back afterwards.

    Abstract: a network gives its own layers.

    Args:
        input_shape: The shape of what it reads, leading axes apart.
        output_shape: The shape of what it gives, leading axes apart.
        layers: What runs on `(n, *reads)`, one after the other.
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
        axes = inputs.dim() - len(self.input_shape)
        leading, event = inputs.shape[: max(axes, 0)], inputs.shape[max(axes, 0) :]
        if event != self.input_shape:
            # A reshape would take (28, 28, 1) for (1, 28, 28) in silence.
            raise ValueError(
                f"{type(self).__name__} reads {self.input_shape} after any leading axes, "
                f"got {tuple(inputs.shape)}."
            )
        # Counts arrive as integers; products need floats.
        dtype = next(self.head.parameters()).dtype
        flat = inputs.reshape(-1, *self.reads).to(dtype)
        outputs = self.head(self.layers(flat)).reshape(*leading, *self.output_shape)
        # Under autocast the head's product is bfloat16; a scale or a KL needs more digits than that.
        return outputs.to(dtype)
