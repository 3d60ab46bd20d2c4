"""A function as a graph: the same numbers, nothing changed by tracing, and one line where it cannot be."""

import pytest
import torch
from torch import nn

from pyro_vae.compilation import TracingError, compile_graph, trace


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
    # Copies that only the trace made would be found too; nothing that changes is missed.
    changed = {tensor.data_ptr() for tensor in traced.changed}
    assert {module.count.data_ptr(), module.running.data_ptr()} <= changed
    graph = compile_graph(traced, torch.ones(4, 2)) if compiled else traced
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
