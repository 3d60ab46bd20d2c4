"""A traced graph to machine code, with PyTorch's compiler."""

import copy
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from pyro_vae.compilation.products import through_onednn
from pyro_vae.compilation.tracing import Traced, one_line

# Eager's own random numbers: the same seed gives both the same noise, and on a CPU the compiler's
# generator is the slower one.
_OPTIONS = {"fallback_random": True}


class CompilerError(RuntimeError):
    """A graph could not be compiled here; the message says why in one line."""


def compile_graph(traced: Traced, *arguments: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a graph for arguments of these shapes and types.

    What was compiled before, in this or another process, comes from the compiler's cache on disk
    (`TORCHINDUCTOR_CACHE_DIR`). The graph is handed to Inductor directly: there is no Python left in
    it for Dynamo to look at, and no guard to check at each call.

    Returns:
        A function of the arguments alone. It must only be given the same shapes and types.

    Raises:
        CompilerError: Whatever the compiler fails at, such as without a C++ compiler.
    """
    try:
        compiled = _compiled(traced, arguments)
    except CompilerError as error:
        if not _removed_what_was_cut(error.__cause__):
            raise
        compiled = _compiled(traced, arguments)
    state = traced.state

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(compiled(*state, *inputs))

    return run


def _compiled(traced: Traced, arguments: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
    import torch._inductor.config
    from torch._inductor import standalone_compile

    graph = copy.deepcopy(traced.graph)
    through_onednn(graph.graph)
    graph.recompile()
    quiet = logging.getLogger("torch.utils.cpp_extension")
    level = quiet.level
    # It says that there is no GPU, where the CUDA toolkit is installed, and nothing else.
    quiet.setLevel(logging.ERROR)
    try:
        with (
            torch._inductor.config.patch(_OPTIONS),
            torch.no_grad(),
            # The compiler's of its own parts, none of which a user could mend.
            warnings.catch_warnings(action="ignore"),
        ):
            return standalone_compile(
                graph, [*traced.state, *arguments], dynamic_shapes="from_example_inputs"
            )
    # A compiler is large: what it raises is listed nowhere.
    except Exception as error:
        raise CompilerError(one_line(error)) from error
    finally:
        quiet.setLevel(level)


def _removed_what_was_cut(error: BaseException | None) -> bool:
    """Remove a library that the compiler's cache holds in part: a process was killed as it was written.

    Otherwise this graph would run eagerly from then on, and a run that is resumed would end with other
    last bits than one that was never stopped.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    found = re.search(r"(/\S+\.so): (?:file too short|invalid ELF header)", str(error))
    if found is None or Path(cache_dir()) not in Path(found[1]).parents:
        return False
    Path(found[1]).unlink(missing_ok=True)
    return True
