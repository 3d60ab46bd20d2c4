"""A function as a graph: the same numbers, one line where it cannot be, and decompositions."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from pyro_vae.compilation import CompiledFunction, TracingError, compile_graph, record, trace
from pyro_vae.compilation.decompositions import (
    DECOMPOSITIONS,
    binary_cross_entropy_with_logits,
    log1p_exp,
)


class Counter(nn.Module):
    """Has a parameter, and a count in a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("running", torch.zeros(2))

    def forward(self, x):
        self.count += 1
        with torch.no_grad():
            self.running.mul_(0.9).add_(x.mean(0))
        (gradient,) = torch.autograd.grad((self.weight * x).pow(2).sum(), [self.weight])
        return gradient * self.count, torch.rand(3)


def test_a_trace_computes_and_changes_nothing():
    module, x = Counter(), torch.ones(4, 2)
    noise = torch.get_rng_state()
    trace(module, x, modules=[module])
    assert int(module.count) == 0
    assert (module.running == 0).all()
    assert (torch.get_rng_state() == noise).all()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_graph_is_the_function_and_its_changes(compiled):
    module, other = Counter(), Counter()
    traced = trace(module, torch.ones(4, 2))
    assert traced.changes_state
    graph = compile_graph(traced) if compiled else traced
    for step in range(3):
        x = torch.randn(4, 2)
        torch.manual_seed(step)
        mine = graph(x)
        torch.manual_seed(step)
        for ours, theirs in zip(mine, other(x), strict=True):
            torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(module.running, other.running)
        assert module.count == other.count
    # The graph reads what is there: a parameter changed in place is seen.
    with torch.no_grad():
        module.weight.fill_(0.0)
    assert (graph(x)[0] == 0).all()


class Binds(nn.Module):
    """Replaces a tensor instead of changing it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x):
        self.mean = 0.9 * self.mean + x.mean(0)
        return (self.mean,)


def test_what_is_bound_anew_is_named_and_put_back():
    module = Binds()
    before = module.mean
    with pytest.raises(TracingError, match=r"binds a new tensor to Binds\.mean"):
        trace(module, torch.ones(4, 2), modules=[module])
    assert module.mean is before


class Caches(nn.Module):
    """Keeps a tensor for the rest of a call, as Pyro's coupling transforms do."""

    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        self.kept = 2 * x
        self.new = x
        return (self.kept + 1,)


def test_a_cache_within_a_call_is_no_state():
    module = Caches()
    trace(module, torch.ones(2), modules=[module])
    assert module.kept is None
    assert not hasattr(module, "new")
    module(torch.ones(2))
    before = module.kept
    traced = trace(module, torch.ones(2), modules=[module])
    assert module.kept is before
    assert (traced(torch.full((2,), 3.0))[0] == 7).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x.sum().item() * x,), "reads the content of a tensor"),
        (lambda x: (x if x.sum() > 0 else -x,), "reads the content of a tensor"),
        (lambda x: (x if torch.tensor(3) + 1 > 3 else -x,), "reads the content of a tensor"),
        (lambda x: (x @ torch.ones(3),), "RuntimeError: .*"),
    ],
)
def test_what_cannot_be_a_graph_is_told_in_one_line(function, message):
    with pytest.raises(TracingError, match=message) as raised:
        trace(function, torch.ones(4, 2))
    assert "\n" not in str(raised.value)


# ---- what a graph has as constants --------------------------------------------------------------


def as_compiled(function, **options):
    return CompiledFunction(
        function, "graph", lambda form: 100, name="function", outputs={"value": 0.0}, **options
    )


def bake_numpy(x):
    return (x * np.random.default_rng().random(),)


def bake_content(x):
    return (x * float(x.numpy().mean()),)


class MakesItsState(nn.Module):
    """Has a state from its first call on, and a new one at each call."""

    def __init__(self, anew):
        super().__init__()
        self.anew = anew
        self.total = None

    def forward(self, x):
        if self.total is None:
            self.total = torch.zeros(2)
        if self.anew:
            self.total = self.total + x.mean(0)
        else:
            self.total += x.mean(0)
        return (x + self.total,)


@pytest.mark.parametrize(
    ("make", "decision", "reason"),
    [
        (lambda: bake_numpy, "off", "compiled and eager differ"),
        (lambda: bake_content, "off", "compiled and eager differ"),
        (lambda: lambda x: (x * x.sum().item(),), "off", "reads the content of a tensor"),
        (lambda: lambda x: (x * sum(x[0].tolist()),), "off", "compiled and eager differ"),
        (lambda: lambda x: (x[x > 0].sum(),), "off", "depends on the content of a tensor"),
        (lambda: lambda x: (x.nonzero().sum(),), "off", "depends on the content of a tensor"),
        (lambda: MakesItsState(anew=True), "off", "binds a new tensor to MakesItsState.total"),
        (lambda: MakesItsState(anew=False), "graph", None),
    ],
)
def test_what_no_graph_can_do_is_done_eagerly(make, decision, reason, caplog):
    function, other = make(), make()
    modules = [function] if isinstance(function, nn.Module) else []
    compiled = as_compiled(function, modules=modules)
    for _ in range(6):
        x = torch.randn(4, 2)
        value = compiled(x)[0]
        if function is not bake_numpy:
            assert torch.equal(value, other(x)[0])
    assert compiled.decisions == {"4x2": decision}
    messages = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(messages) == (reason is not None)
    if reason is not None:
        assert reason in messages[0]
        assert "\n" not in messages[0]


def test_errors_are_the_functions_own_and_changes_are_undone_in_a_trace():
    state = torch.zeros(2)

    def fails(x):
        state.add_(1)
        torch.rand(3)
        raise KeyError("of the function")

    noise = torch.get_rng_state()
    with pytest.raises(TracingError, match="KeyError: 'of the function'"):
        trace(fails, torch.ones(2))
    assert (state == 0).all()
    assert (torch.get_rng_state() == noise).all()
    with pytest.raises(KeyError, match="of the function"):
        record(fails, torch.ones(2))
    assert (state == 1).all()
    compiled = as_compiled(fails)
    for call in range(3):
        with pytest.raises(KeyError, match="of the function"):
            compiled(torch.ones(2))
        assert (state == call + 2).all()


# ---- decompositions -----------------------------------------------------------------------------


X = torch.cat([torch.linspace(-120, 120, 4801), torch.tensor([0.0, -1e-8, 1e-8, 20.0, 20.1])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log1p_exp(dtype):
    """Against float64, to a few roundings of the value."""
    a = -X.abs().to(dtype)
    exact = torch.log1p(torch.exp(a.double()))
    relative = ((log1p_exp(a).double() - exact) / exact.clamp(min=1e-30)).abs()
    assert relative[exact > 1e-30].max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    "function",
    [
        F.softplus,
        lambda x: F.softplus(x, beta=2.0, threshold=5.0),
        F.logsigmoid,
        lambda x: F.binary_cross_entropy_with_logits(x, (x > 1).to(x.dtype), reduction="none"),
    ],
)
def test_functions_and_gradients(function):
    def with_gradient(x):
        value = function(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    x = X.clone().requires_grad_()
    traced = trace(with_gradient, x)
    graph = make_fx(traced.graph, DECOMPOSITIONS, tracing_mode="fake")(*traced.state, x.detach())
    assert not {node.target for node in graph.graph.nodes} & set(DECOMPOSITIONS)
    for mine, exact in zip(
        graph(*traced.state, x.detach()),
        with_gradient(x.detach().double().requires_grad_()),
        strict=True,
    ):
        torch.testing.assert_close(mine.double(), exact, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binary_cross_entropy_is_torchs(reduction, weighted, dtype):
    logits = torch.cat([30 * torch.randn(50, 4), torch.tensor([[-1e4, -0.0, 0.0, 1e4]])]).to(dtype)
    target = torch.rand(51, 4, dtype=dtype)
    weight, pos_weight = (torch.rand(4, dtype=dtype), 3 * torch.rand(4, dtype=dtype))
    weights = (weight, pos_weight) if weighted else (None, None)
    mine = binary_cross_entropy_with_logits(
        logits, target, *weights, ("none", "mean", "sum").index(reduction)
    )
    theirs = F.binary_cross_entropy_with_logits(
        logits, target, weight=weights[0], pos_weight=weights[1], reduction=reduction
    )
    torch.testing.assert_close(mine, theirs)
