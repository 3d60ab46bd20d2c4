"""Compile a graph with Inductor in another process, and load the library that it makes."""

import atexit
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compilation.products import cache_folder
from pyro_vae.compilation.simplification import merge_equal, run_graph
from pyro_vae.compilation.splitting import split_updates
from pyro_vae.compilation.tracing import Traced, one_line

# What a library depends on besides its graph.
_SOURCES = ("compiler_process.py", "decompositions.py", "products.py")


class CompilerError(RuntimeError):
    """A graph could not be compiled; the message gives the reason in one line."""


class Compilation:
    """A graph that another process compiles, while this one goes on.

    The library is stored in a folder of its own, by the graph, the processor and the version of
    torch, in `cache_folder`. Where it exists, no process is started.
    Loading it takes milliseconds, and neither imports nor waits for the compiler.

    The optimizer's update is left to PyTorch's own operation; see `split_updates`.

    Args:
        traced: The graph.
    """

    def __init__(self, traced: Traced) -> None:
        compute, update = split_updates(traced)
        self._compute, self._update = merge_equal(compute), run_graph(update)
        self._started = time.perf_counter()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        self._failure: str | None = None
        self._library = _folder(self._compute) / "graph.so"
        self._compiled = _is_whole(self._library)
        if self._compiled:
            while _waiting:
                _end(_waiting.pop())
        else:
            shutil.rmtree(self._library.parent, ignore_errors=True)
            _queue.append(weakref.ref(self))
            _start_next()

    @property
    def ready(self) -> bool:
        """Whether the compiler has ended, with a library or an error, and was not cancelled."""
        _start_next()
        return not self._cancelled and self.ended

    @property
    def ended(self) -> bool:
        """Whether there is nothing to wait for."""
        if self._process is None:
            return self._compiled or self._cancelled or self._failure is not None
        return self._process.poll() is not None

    def load(self) -> Callable[..., tuple[Tensor, ...]]:
        """Wait for the compiler, and load the library.

        Returns:
            The graph as a function of its arguments alone, which must have the same shapes and
            types.

        Raises:
            CompilerError: If the compiler failed for any reason, such as a missing C++ compiler.
        """
        self.wait()
        if self._process is not None and self._process.returncode:
            self._failure = _message(self._process)
        if self._failure is not None:
            raise CompilerError(self._failure)
        try:
            compute = _load(self._library, self._compute.device)
        except RuntimeError as error:
            # It must not be found again.
            shutil.rmtree(self._library.parent, ignore_errors=True)
            raise CompilerError(one_line(error)) from error
        state, update = self._compute.state, self._update

        def run(*inputs: Tensor) -> tuple[Tensor, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                results = compute([*state, *inputs])
            return update(*inputs, *results)

        return run

    @property
    def seconds(self) -> float:
        """The time since compiling began."""
        return time.perf_counter() - self._started

    def wait(self) -> None:
        """Wait until the compiler is ready, and those that began before."""
        while not self.ended:
            _start_next()
            first = _queue[0]()
            if first is not None and first._process is not None:
                first._process.wait()

    def cancel(self) -> None:
        """End the compiler. The graph is not to be loaded."""
        self._cancelled = True
        if self._process is not None:
            _end(self._process)

    def start(self) -> None:
        """Start the compiler."""
        job = {
            "code": self._compute.graph.code,
            "inputs": _inputs(self._compute),
            "library": str(self._library),
            "threads": torch.get_num_threads(),
        }
        try:
            self._process = _waiting.pop() if _waiting else _new_process()
        except OSError as error:
            self._failure = one_line(error)
            return
        weakref.finalize(self, _end, self._process)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            pickle.dump(job, stdin)


# Compilations in their order. One is at work at a time: two would take as long, and the training
# has the other cores.
_queue: list[weakref.ref[Compilation]] = []
# Processes without a job yet.
_waiting: list[subprocess.Popen[bytes]] = []


def _start_next() -> None:
    """Start the first compilation of the queue, once those before it have ended."""
    while _queue and ((first := _queue[0]()) is None or first.ended):
        _queue.pop(0)
    if _queue and (first := _queue[0]()) is not None and first._process is None:
        first.start()


def start_compiler() -> None:
    """Start the process of the next `Compilation`, which needs two seconds for its imports."""
    if not _waiting:
        with suppress(OSError):  # `Compilation` says why there is none.
            _waiting.append(_new_process())


def _new_process() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("compiler_process.py"))],
        stdin=subprocess.PIPE,
        # A line, if it fails.
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # Ctrl-C is this process's, which ends the other one.
        start_new_session=True,
    )
    atexit.register(_end, process)
    return process


def compile_graph(traced: Traced) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a graph, and wait for it; see `Compilation`.

    Raises:
        CompilerError: If the compiler fails.
    """
    return Compilation(traced).load()


def _load(library: Path, device: torch.device) -> Callable[[list[Tensor]], list[Tensor]]:
    runners: Any = torch._C._aoti  # pyright: ignore[reportAttributeAccessIssue]
    if device.type == "cuda":
        return runners.AOTIModelContainerRunnerCuda(str(library), 1, str(device), "").run
    return runners.AOTIModelContainerRunnerCpu(str(library), 1).run


def _inputs(traced: Traced) -> list[tuple[Any, ...]]:
    """Shape, strides, type and device of each input."""
    inputs = [node.meta for node in traced.graph.graph.nodes if node.op == "placeholder"]
    return [
        (tuple(m["val"].shape), m["val"].stride(), m["val"].dtype, str(m["device"]))
        for m in inputs
    ]


def _folder(traced: Traced) -> Path:
    """The folder of a graph's library."""
    content = hashlib.sha256()
    for name in _SOURCES:
        content.update(Path(__file__).with_name(name).read_bytes())
    device = f"{torch.cuda.get_device_name()}" if torch.cuda.is_initialized() else ""
    for part in (
        traced.graph.code,
        _inputs(traced),
        torch.__version__,
        torch.get_num_threads(),
        torch.cpu.get_capabilities(),
        device,
    ):
        content.update(repr(part).encode())
    return cache_folder() / content.hexdigest()[:32]


def _is_whole(library: Path) -> bool:
    """Whether a library is as it was written. Loading one that was cut would end the program."""
    try:
        written = library.with_suffix(".sha256").read_text(encoding="utf-8")
        return hashlib.sha256(library.read_bytes()).hexdigest() == written
    except OSError:
        return False


def _message(process: subprocess.Popen[bytes]) -> str:
    """What a process that failed has written."""
    assert process.stdout is not None
    line = process.stdout.read().decode(errors="replace").strip()
    return line or f"the compiler ended with exit code {process.returncode}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        # Its session is its own.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # What is left to write.
                pipe.close()
