"""Compile a traced graph with Inductor."""

import copy
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pyro_vae.compilation.products import choose_products
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
    choose_products(graph.graph)
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
