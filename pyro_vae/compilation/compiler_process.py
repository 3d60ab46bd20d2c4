"""The process that compiles a graph: reads a job from standard input, and writes a library.

It imports torch, and of this package only what it needs.
"""

import gc

# The compiler makes millions of objects and little garbage.
gc.disable()

import hashlib
import logging
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_OPTIONS = {
    # Eager random numbers: the same seed gives the same noise, and the compiler's generator is
    # slower on a CPU.
    "fallback_random": True,
    # The wrapper only calls kernels.
    "aot_inductor.compile_wrapper_opt_level": "O0",
    "aot_inductor.precompile_headers": False,
}


def main() -> None:
    """Compile the job's graph, and move its library to where the job says."""
    warnings.simplefilter("ignore")
    logging.disable()
    import torch
    import torch._inductor
    import torch._inductor.compile_fx
    import torch._inductor.cpu_vec_isa
    from torch._inductor import config
    from torch.fx.experimental.proxy_tensor import make_fx

    _skip_init("pyro_vae", Path(__file__).parents[1])
    _skip_init("pyro_vae.compilation", Path(__file__).parent)
    from pyro_vae.compilation.decompositions import DECOMPOSITIONS
    from pyro_vae.compilation.products import choose_products

    job: dict[str, Any] = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(job["threads"])
    inputs = [
        torch.empty_strided(shape, strides, dtype=dtype, device=device)
        for shape, strides, dtype, device in job["inputs"]
    ]
    graph = make_fx(
        _function(job["code"]), decomposition_table=DECOMPOSITIONS, tracing_mode="fake"
    )(*inputs)
    choose_products(graph.graph)
    graph.recompile()
    library = Path(job["library"])
    library.parent.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=library.parent.parent, prefix=".compiling-"))
    try:
        _compile_side_by_side()
        # Otherwise six programs are compiled to try what /proc/cpuinfo says: five seconds.
        isa: Any = torch._inductor.cpu_vec_isa.VecISA
        isa.check_build = lambda *_: True
        options = _OPTIONS | {"aot_inductor.output_path": str(folder / library.name)}
        with config.patch(options), torch.no_grad():
            torch._inductor.aot_compile(graph, tuple(inputs))
        for name in folder.iterdir():
            if name.suffix in (".cpp", ".o", ".S"):
                name.unlink()
        written = folder / library.name
        # Operations that the compiler leaves to PyTorch, which are looked for beside the library.
        for name in folder.glob("*.wrapper.json"):
            name.rename(written.with_suffix(".json"))
        digest = hashlib.sha256(written.read_bytes()).hexdigest()
        written.with_suffix(".sha256").write_text(digest, encoding="utf-8")
        try:
            os.replace(folder, library.parent)
        except OSError:
            if not library.exists():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compile_side_by_side() -> None:
    """Let the compiler work on a graph's kernels and on their wrapper at the same time."""
    import torch._inductor.cpp_builder

    at_work: list[subprocess.Popen[bytes]] = []

    def wait() -> None:
        while at_work:
            process = at_work.pop()
            output, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(output.decode(errors="replace").strip() or process.args)

    def run(command: str, cwd: str) -> None:
        words = shlex.split(command)
        alone = not any(word.endswith((".wrapper.cpp", ".kernel.cpp")) for word in words)
        if alone and "-c" not in words:  # Links what was compiled.
            wait()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        at_work.append(process)
        if alone:
            wait()

    torch._inductor.cpp_builder.run_compile_cmd = run


def _function(code: str) -> Callable[..., Any]:
    """A graph as a function, from its code.

    A pickled graph is no graph of the same program: reading it computes what has no inputs once,
    random numbers among it.
    """
    from torch.fx.graph import _custom_builtins

    names: dict[str, Any] = {name: value.obj for name, value in _custom_builtins.items()}
    exec(code, names)  # noqa: S102
    return partial(names["forward"], None)


def _skip_init(name: str, path: Path) -> None:
    """Let a package's modules be imported without the package's own, which imports Pyro."""
    package = types.ModuleType(name)
    package.__path__ = [str(path)]
    sys.modules[name] = package


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001 - the other process reads any of them.
        lines = str(error).strip().splitlines()
        sys.stdout.write(f"{type(error).__name__}: {lines[0] if lines else ''}"[:300])
        sys.exit(1)
