"""Matrix products of a compiled graph on a CPU, through oneDNN.

PyTorch hands float32 products to MKL, which on CPUs of other makers than its own leaves half of
their speed unused: 142 GFLOP/s where oneDNN reaches 300 to 370, on two cores of a Zen 5 CPU, for the
products of a perceptron of 784 and 400 units at batch 256. Both are exact float32. Products of
bfloat16 are oneDNN's already.
"""

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("pyro_vae", "DEF")
# The strides are the trace's: the compiler makes no copy for an operation that needs none.
_LIBRARY.define("mm(Tensor a, Tensor b) -> Tensor", tags=(torch.Tag.needs_exact_strides,))


def _mm(a: Tensor, b: Tensor) -> Tensor:
    # It is a linear layer's: x w^T + bias.
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def _mm_shape(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


_LIBRARY.impl("mm", _mm, "CPU")
_LIBRARY.impl("mm", _mm_shape, "Meta")

# The call costs 6 microseconds more than torch's own, which so many multiplications earn back.
_SMALLEST = 750_000


def through_onednn(graph: torch.fx.Graph) -> None:
    """Replace the graph's float32 products on a CPU, in place. Elsewhere nothing changes."""
    if not torch.backends.mkldnn.is_available():
        return
    aten, mm = torch.ops.aten, torch.ops.pyro_vae.mm.default
    for node in list(graph.nodes):
        if node.target is aten.mm.default and _gains(*node.args):
            node.target, node.args = mm, _rows_in_order(graph, node, *node.args)
        elif node.target is aten.addmm.default and not node.kwargs and _gains(*node.args[1:]):
            bias, *factors = node.args
            with graph.inserting_before(node):
                product = graph.call_function(mm, _rows_in_order(graph, node, *factors))
                product.meta = dict(node.meta)
            node.target, node.args = aten.add.Tensor, (product, bias)


def _rows_in_order(
    graph: torch.fx.Graph, product: torch.fx.Node, a: torch.fx.Node, b: torch.fx.Node
) -> tuple[torch.fx.Node, torch.fx.Node]:
    """The factors, the first one contiguous: oneDNN would copy it, where the compiler fuses the copy."""
    value = a.meta["val"]
    if value.is_contiguous():
        return a, b
    with graph.inserting_before(product):
        ordered = graph.call_function(
            torch.ops.aten.clone.default, (a,), {"memory_format": torch.contiguous_format}
        )
    ordered.meta["val"] = value.contiguous()
    return ordered, b


def _gains(a: torch.fx.Node, b: torch.fx.Node) -> bool:
    values = [factor.meta["val"] for factor in (a, b)]
    return (
        all(v.device.type == "cpu" and v.dtype == torch.float32 for v in values)
        and values[0].shape[0] * values[1].numel() >= _SMALLEST
    )
