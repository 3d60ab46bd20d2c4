"""The compiler in another process, its library on disk, and what is done without one."""

import gc
import logging
import os
import subprocess
import sys

import pytest
import torch

from pyro_vae.compilation import CompiledFunction, inductor, trace
from pyro_vae.compilation.inductor import Compilation

W = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


def function(x):
    return ((x @ W).tanh().exp().sum(1),)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


def a_trace():
    return trace(function, torch.randn(32, 64))


def no_process(*_, **__):
    raise AssertionError("a process was started.")


@pytest.mark.slow
def test_a_library_is_found_again_and_made_again_if_it_was_cut(cache, monkeypatch):
    x = torch.randn(32, 64)
    torch.testing.assert_close(Compilation(a_trace()).load()(x), function(x))
    (library,) = cache.rglob("graph.so")
    assert not [*cache.rglob("*.cpp"), *cache.rglob(".compiling-*")]
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", no_process)
        again = Compilation(a_trace())
        assert again.ready
        torch.testing.assert_close(again.load()(x), function(x))
    # Another file: the first one is in use.
    part = library.read_bytes()[:1000]
    library.unlink()
    library.write_bytes(part)
    made = Compilation(a_trace())
    assert not made.ready
    torch.testing.assert_close(made.load()(x), function(x))
    assert library.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_without_a_cpp_compiler_the_graph_goes_on(monkeypatch, caplog):
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    compiled = CompiledFunction(
        function, "on", lambda form: 100, name="function", outputs={"sum": 1e-4}
    )
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        for _ in range(8):
            x = torch.randn(32, 64)
            assert torch.equal(compiled(x)[0], function(x)[0])
            compiled.wait()
    assert compiled.decisions == {"32x64": "graph"}
    (record,) = (record for record in caplog.records if record.name.startswith("pyro_vae"))
    assert "graph, it runs without a compiler" in record.message
    assert "\n" not in record.message


def is_running(process):
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    return process.poll() is None


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("end", ["cancel", "garbage"])
def test_the_process_ends_with_its_run(end):
    compilation = Compilation(a_trace())
    process = compilation._process
    assert is_running(process)
    assert not compilation.ready
    if end == "cancel":
        compilation.cancel()
        assert not compilation.ready
    del compilation
    gc.collect()
    assert not is_running(process)


@pytest.mark.usefixtures("cache")
def test_a_closed_function_goes_on_as_a_graph(caplog):
    compiled = CompiledFunction(
        function, "on", lambda form: 100, name="function", outputs={"sum": 1e-4}
    )
    x = torch.randn(32, 64)
    for call in range(6):
        assert torch.equal(compiled(x)[0], function(x)[0])
        if call == 3:
            compiled.close()
    assert compiled.decisions == {"32x64": "compiling"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not inductor._waiting


@pytest.mark.usefixtures("cache")
def test_one_graph_is_compiled_at_a_time(monkeypatch):
    """The second waits for the first, and takes its place if that is cancelled."""

    def sleeping_process():
        program = [sys.executable, "-c", "import sys, time; sys.stdin.read(); time.sleep(60)"]
        return subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    monkeypatch.setattr(inductor, "_new_process", sleeping_process)
    x = torch.randn(4)
    first, second = (Compilation(trace(f, x)) for f in (lambda x: (x + 1,), lambda x: (x + 2,)))
    assert not second.ready
    assert (first._process is None, second._process is None) == (False, True)
    first.cancel()
    assert not second.ready
    assert second._process is not None
    second.cancel()
    assert second.ended


@pytest.mark.usefixtures("cache")
def test_a_process_that_cannot_be_started_is_a_compiler_error(monkeypatch):
    def no_program():
        raise OSError("no such program")

    monkeypatch.setattr(inductor, "_new_process", no_program)
    compilation = Compilation(trace(lambda x: (x + 3,), torch.randn(4)))
    assert compilation.ready
    with pytest.raises(inductor.CompilerError, match="no such program"):
        compilation.load()
