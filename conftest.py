"""What all tests share: validation on, and shapes checked everywhere.

pytest's doctest collection under importlib bypasses jaxtyping's import hook for modules that are
not imported yet, so the packages are imported here, first.
"""

import os

# Of several processes that share the cores each takes one: torch's threads would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyro
import pytest

import analysis
import benchmarks
import pyro_vae
from pyro_vae.compilation import compiled_function, inductor, stages
from pyro_vae.compilation.simplification import run_graph

__all__ = ["analysis", "benchmarks", "pyro_vae"]


@pytest.fixture(autouse=True)
def _validated_and_seeded():
    pyro.enable_validation(True)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.fixture
def set_compiler(monkeypatch):
    """Replace the compiler by a function of a graph, which is ready at once.

    Without one, graphs run operation by operation: that the compiler is right is another test.
    """

    def replace(compile_graph=run_graph):
        class Compilation:
            ready = True
            seconds = 1.0

            def __init__(self, traced):
                self.traced = traced

            def load(self):
                return compile_graph(self.traced)

            def wait(self):
                pass

            def cancel(self):
                pass

        monkeypatch.setattr(stages, "Compilation", Compilation)
        monkeypatch.setattr(compiled_function, "start_compiler", lambda: None)

    return replace


@pytest.fixture
def wait_for_compiler(monkeypatch):
    """Let each function wait for its compiler, which a short one would not see at its end."""
    monkeypatch.setattr(
        inductor.Compilation, "ready", property(lambda compilation: compilation.wait() is None)
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a test that is skipped has failed, unless what is missing is a GPU."""
    report = (yield).get_result()
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "CUDA" not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
