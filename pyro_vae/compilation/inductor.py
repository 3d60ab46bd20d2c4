"""Compile a traced graph with Inductor, its float32 products through oneDNN."""

import copy
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import Graph, Node

from pyro_vae.compilation.tracing import Traced, one_line

# Eager random numbers: the same seed gives the same noise, and the compiler's generator is slower
# on a CPU.
_OPTIONS = {"fallback_random": True}


class CompilerError(RuntimeError):
    """A graph could not be compiled; the message gives the reason in one line."""


def compile_graph(traced: Traced, *arguments: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a graph for arguments of these shapes and types.

    Earlier results, also of other processes, come from the compiler's cache on disk
    (`TORCHINDUCTOR_CACHE_DIR`). The graph is handed to Inductor directly: it contains no Python
    for Dynamo to analyse, and no guard to check at each call.

    Returns:
        A function of the arguments alone, which must have the same shapes and types.

    Raises:
        CompilerError: If the compiler fails for any reason, such as a missing C++ compiler.
    """
    try:
        compiled = _compile(traced, arguments)
    except CompilerError as error:
        if not _remove_truncated_library(error.__cause__):
            raise
        compiled = _compile(traced, arguments)
    state = traced.state

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(compiled(*state, *inputs))

    return run


def _compile(traced: Traced, arguments: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
    import torch._inductor.config
    from torch._inductor import standalone_compile

    graph = copy.deepcopy(traced.graph)
    use_onednn(graph.graph)
    graph.recompile()
    extension_log = logging.getLogger("torch.utils.cpp_extension")
    level = extension_log.level
    # Its only message here is that there is no GPU, where the CUDA toolkit is installed.
    extension_log.setLevel(logging.ERROR)
    try:
        with (
            torch._inductor.config.patch(_OPTIONS),
            torch.no_grad(),
            # The compiler's warnings are about its own parts; a user can do nothing about them.
            warnings.catch_warnings(action="ignore"),
        ):
            return standalone_compile(
                graph, [*traced.state, *arguments], dynamic_shapes="from_example_inputs"
            )
    # The errors that the compiler raises are listed nowhere.
    except Exception as error:
        raise CompilerError(one_line(error)) from error
    finally:
        extension_log.setLevel(level)


def _remove_truncated_library(error: BaseException | None) -> bool:
    """Remove a truncated library from the compiler's cache; a process was killed while writing it.

    Otherwise this graph would run eagerly from then on, and a resumed run would differ in the last
    bits from an uninterrupted one.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    found = re.search(r"(/\S+\.so): (?:file too short|invalid ELF header)", str(error))
    if found is None or Path(cache_dir()) not in Path(found[1]).parents:
        return False
    Path(found[1]).unlink(missing_ok=True)
    return True


# ---- products through oneDNN -------------------------------------------------------------------

# PyTorch hands float32 products to MKL, which leaves half of the speed of other makers' CPUs
# unused: 142 GFLOP/s where oneDNN reaches 300 to 370, on two cores of a Zen 5 CPU, for the
# products of a perceptron with 784 and 400 units at batch 256. Both are exact float32. Products of
# bfloat16 already use oneDNN.
_LIBRARY = torch.library.Library("pyro_vae", "DEF")
# Strides are those of the trace: the compiler makes no copy for an operation that needs none.
_LIBRARY.define("mm(Tensor a, Tensor b) -> Tensor", tags=(torch.Tag.needs_exact_strides,))

# A call costs 6 microseconds more than torch's own; this many multiplications make up for it.
_MINIMUM_MULTIPLICATIONS = 750_000


def _mm(a: Tensor, b: Tensor) -> Tensor:
    # A linear layer: x w^T + bias.
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


def _mm_shape(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


_LIBRARY.impl("mm", _mm, "CPU")
_LIBRARY.impl("mm", _mm_shape, "Meta")


def use_onednn(graph: Graph) -> None:
    """Replace the graph's large float32 products on a CPU by oneDNN's, in place."""
    if not torch.backends.mkldnn.is_available():
        return
    aten, mm = torch.ops.aten, torch.ops.pyro_vae.mm.default
    for node in list(graph.nodes):
        if node.target is aten.mm.default and _is_faster(*node.args):
            node.target, node.args = mm, _with_contiguous_rows(graph, node, *node.args)
        elif node.target is aten.addmm.default and not node.kwargs and _is_faster(*node.args[1:]):
            bias, *factors = node.args
            with graph.inserting_before(node):
                product = graph.call_function(mm, _with_contiguous_rows(graph, node, *factors))
                product.meta = dict(node.meta)
            node.target, node.args = aten.add.Tensor, (product, bias)


def _with_contiguous_rows(graph: Graph, product: Node, a: Node, b: Node) -> tuple[Node, Node]:
    """The factors, the first one made contiguous by a copy that the compiler fuses."""
    value = a.meta["val"]
    if value.is_contiguous():
        return a, b
    with graph.inserting_before(product):
        contiguous = graph.call_function(
            torch.ops.aten.clone.default, (a,), {"memory_format": torch.contiguous_format}
        )
    contiguous.meta["val"] = value.contiguous()
    return contiguous, b


def _is_faster(a: Node, b: Node) -> bool:
    values = [factor.meta["val"] for factor in (a, b)]
    return (
        all(v.device.type == "cpu" and v.dtype == torch.float32 for v in values)
        and values[0].shape[0] * values[1].numel() >= _MINIMUM_MULTIPLICATIONS
    )
