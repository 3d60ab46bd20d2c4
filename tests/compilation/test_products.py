"""The choice between MKL and oneDNN for matrix products, and its file."""

import json

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from pyro_vae.compilation import compile_graph, products, trace
from pyro_vae.compilation.products import choose_products

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The file of choices, in a cache of its own."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return products._choices_path()


def choose(monkeypatch, library):
    """Let every product be computed by one library; count the measurements."""
    measured = []
    monkeypatch.setattr(products, "_faster", lambda *size: measured.append(size) or library)
    return measured


def a_layer(x, w, g, b):
    """A layer, its gradients, and factors that are views."""
    return (
        x @ w.t(),
        g @ w,
        g.t() @ x,
        torch.addmm(b, x, w.t()),
        x[:, ::2] @ w[:, ::2].t(),
        g[::2].t() @ x[::2],
    )


def arguments(dtype):
    torch.manual_seed(0)
    shapes = ((128, 120), (100, 120), (128, 100), (100,))
    return [torch.randn(shape, dtype=dtype) for shape in shapes]


def graph_of(function, *values):
    """A graph as the compiler has it."""
    return make_fx(function, tracing_mode="fake")(*values)


def targets(graph):
    return [node.target for node in graph.nodes if node.op == "call_function"]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", ROUNDING)
def test_products_of_onednn(dtype, monkeypatch):
    """In every orientation that a layer and its gradients have, with and without a bias."""
    choose(monkeypatch, "onednn")
    graph = graph_of(a_layer, *arguments(dtype))
    exact = [value.to(dtype) for value in a_layer(*(v.double() for v in arguments(dtype)))]
    choose_products(graph.graph)
    graph.recompile()
    found = targets(graph.graph)
    assert found.count(torch.ops.pyro_vae.onednn_mm.default) == 6
    assert torch.ops.aten.mm.default not in found
    for mine, right in zip(graph(*arguments(dtype)), exact, strict=True):
        torch.testing.assert_close(mine, right, rtol=ROUNDING[dtype], atol=1e-4 + ROUNDING[dtype])


@pytest.mark.slow
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", ROUNDING)
def test_compiled_products(dtype, monkeypatch):
    choose(monkeypatch, "onednn")

    def layers(*values):
        return tuple(F.softplus(v) for v in a_layer(F.softplus(values[0]), *values[1:]))

    traced = trace(layers, *arguments(dtype))
    compiled = compile_graph(traced)(*arguments(dtype))
    exact = layers(*(v.double() for v in arguments(dtype)))
    for mine, right in zip(compiled, exact, strict=True):
        tolerance = ROUNDING[dtype]
        torch.testing.assert_close(mine.double(), right, rtol=tolerance, atol=50 * tolerance)


def test_other_products_stay(path, monkeypatch):
    """Small ones, those of other types, and those that MKL computes faster."""
    choose(monkeypatch, "mkl")
    graph = graph_of(
        lambda x, w: (x @ w.t(), x.double() @ w.double().t(), x[:4] @ w.t(), x[:, :1] @ w[:1]),
        *arguments(torch.float32)[:2],
    )
    before = targets(graph.graph)
    choose_products(graph.graph)
    assert targets(graph.graph) == before
    assert json.loads(path.read_text()) == {"128x120x100 rc float32": "mkl"}


def test_sizes_are_measured_once(path, monkeypatch):
    measured = choose(monkeypatch, "mkl")
    choose_products(graph_of(a_layer, *arguments(torch.float32)).graph)
    assert len(measured) == 5  # That with a bias has the size of the one without.
    # What the file says is done.
    path.write_text(path.read_text().replace("mkl", "onednn"))
    again = graph_of(a_layer, *arguments(torch.float32)).graph
    choose_products(again)
    assert len(measured) == 5
    assert targets(again).count(torch.ops.pyro_vae.onednn_mm.default) == 6


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"128x120x100 rc float32": 3}', None]
)
def test_a_damaged_file_is_written_again(path, content, monkeypatch):
    choose(monkeypatch, "onednn")
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    choose_products(graph_of(a_layer, *arguments(torch.float32)).graph)
    stored = json.loads(path.read_text())
    assert len(stored) == 5
    assert set(stored.values()) == {"onednn"}
    assert list(path.parent.iterdir()) == [path]


def test_a_cache_that_cannot_be_written(path, monkeypatch):
    measured = choose(monkeypatch, "onednn")
    path.parent.write_text("a file where the folder should be")
    choose_products(graph_of(a_layer, *arguments(torch.float32)).graph)
    assert len(measured) == 5


@pytest.mark.parametrize("orders", ["rr", "rc", "cr", "cc"])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_measurement(orders, dtype):
    assert products._faster((40, 50, 60), orders, dtype) in ("mkl", "onednn")


def test_the_measurement_leaves_the_random_stream(path):
    graph = graph_of(a_layer, *arguments(torch.float32)).graph
    before = torch.get_rng_state()
    choose_products(graph)
    assert torch.equal(torch.get_rng_state(), before)
    assert path.exists()
