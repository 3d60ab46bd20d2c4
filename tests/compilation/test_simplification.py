"""Graphs that are simplified and split compute what their functions do, to the bit."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_vae.compilation import trace
from pyro_vae.compilation.simplification import merge_equal, run_graph, simplify
from pyro_vae.compilation.splitting import split_updates

aten = torch.ops.aten


def run_split(traced):
    """The parts that are compiled and that are not, one after the other."""
    compute, update = (run_graph(part) for part in split_updates(traced))
    return lambda *arguments: update(*arguments, *compute(*arguments))


def targets(traced):
    """The names of a graph's operations."""
    nodes = (node for node in traced.graph.graph.nodes if node.op.startswith("call"))
    return [getattr(node.target, "__name__", node.target).split(".")[0] for node in nodes]


class Function:
    """A function of x and of a state of its own, which returns copies of its results."""

    def __init__(self, call, **state):
        self.call = call
        self.state = {name: value.clone() for name, value in state.items()}

    def __call__(self, x):
        results = self.call(x, **self.state)
        return results if self.call is returned_twice else tuple(r.clone() for r in results)


W = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
Z = torch.zeros(())


def transposes(x, w):
    return x.t().t() @ w.t().t().t(), (x.t() @ w).t().t().sum(0)


def reads_around_a_change(x, w):
    before = w.exp()
    w.add_(x.mean())
    return before + x, w.exp() + x


def reads_of_views_around_a_change(x, w):
    row = w[1]
    before = row + 1
    w.mul_(x.sum())
    return before, row + 1, w[1] + 1


def a_change_of_a_view(x, w):
    before = w + 1
    w[2].copy_(x[0])
    return before, w + 1


def an_output_argument(x, w):
    result = torch.empty(4, 3)
    view = result.t()
    torch.mul(x, w, out=result)
    before = view + 1
    result.add_(1)
    return before, view + 1


def draws(x):
    torch.rand(2)  # Its result is not used, but it moves the generator.
    return torch.randn(3), torch.randn(3), F.dropout(x, 0.5), torch.bernoulli(x.sigmoid())


def copies_that_are_changed(x, w):
    one, other = w * 2, w * 2
    one.add_(x)
    same = x * 1
    same.add_(1)
    filled, zeros = torch.zeros_like(x), torch.zeros(3)
    filled.add_(x)
    zeros += x.sum(0)
    return one, other, same, x + 1, filled, zeros


def numbers_that_are_changed(x):
    total = torch.tensor(0.0)
    total += x.sum()
    pair = torch.tensor([1.0, 2.0])
    view = pair[1:]
    view.mul_(x.sum())
    return total.clone(), pair * 3, torch.tensor([3.0, 4.0]) * x.sum()


def sums_that_keep_their_axes(x):
    y = x * 2
    kept = y.sum(0, keepdim=True)
    dropped = y.sum(0, keepdim=True).view(3)
    other = x * 5
    before = other.sum(0, keepdim=True)
    other.mul_(3)
    later = before.view(3)
    again = x.sum(0, keepdim=True).view(3) + x.sum(0, keepdim=True)
    return kept + 1, dropped + 1, later + 1, again


def single_elements_of_parts(x):
    """Views at other places of one memory."""
    parts = x[0], x[1:2].sum(0), x[2:3].mean(0), torch.stack([x[3]])
    return tuple(part + 1 for part in parts)


def items(x, w, v, m):
    variance, mean = torch.var_mean(x)
    v.copy_(variance)
    m.copy_(mean)
    norm, loc, scale = torch.native_layer_norm(x, [3], None, None, 1e-5)
    one, two = w.split(2)
    largest, place = x.max(1)
    _, unused = torch.var_mean(w)
    m.add_(unused)
    return norm + loc, scale, one + 1, two + 1, largest, place


def shared_memory(x, w, row):
    before = row * 2
    w.add_(x)
    after = row * 2
    row.add_(1)
    return before, after, w * 2


def complex_views(x):
    z = torch.view_as_complex(x[:, :2].contiguous())
    return torch.view_as_real(z.conj() * (1 + 2j)), (z + z.conj()).real, z.conj().imag + 1


def ones_and_true(x):
    return (x > 1).sum(), x * 1 + x * True, x + 1, x + 1.0, (x > 0) * 1


def returned_twice(x):
    """The caller may change what it gets."""
    return torch.ones(3), x * 1, x + 1, x + 1


def spectral_norm(x, w, u):
    with torch.no_grad():
        v = F.normalize(w.t() @ u, dim=0)
        u.copy_(F.normalize(w @ v, dim=0))
    return (x @ (w / (u @ (w @ v))).t(),)


def a_step(x, w, m, count):
    """Gradient, momentum, and a step that is skipped if the norm is large."""
    leaf = w.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.softplus(leaf * x).sum(), leaf)
    taken = (torch.linalg.vector_norm(gradient) < 3.4).float()
    m.mul_(0.9).add_(gradient)
    w.addcmul_(m, taken, value=-0.1)
    count.add_(taken)
    return (gradient,)


def adam(x, w, m, v, count, scale=None):
    """Gradients are changed where they are rescaled."""
    slope = (x * 2).t().t()
    count.add_(1)
    torch._fused_adam_(
        *([w], [slope], [m], [v], [], [count]),
        lr=0.1,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
        grad_scale=scale,
        found_inf=None,
    )
    return slope + 1, x * 2 + 1, x * 3


MOMENTS = {"w": W, "m": 0 * W, "v": 0 * W, "count": Z}


class Normalised(nn.Module):
    """torch's batch normalisation, with a gradient."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        y = self.norm(x)
        (gradient,) = torch.autograd.grad(y.pow(3).sum(), [self.norm.weight])
        return y.detach(), gradient


BASE = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
FUNCTIONS = {
    "transposes": partial(Function, transposes, w=W),
    "reads around a change": partial(Function, reads_around_a_change, w=W),
    "reads of views around a change": partial(Function, reads_of_views_around_a_change, w=W),
    "a change of a view": partial(Function, a_change_of_a_view, w=W),
    "an output argument": partial(Function, an_output_argument, w=W),
    "draws": partial(Function, draws),
    "copies that are changed": partial(Function, copies_that_are_changed, w=W),
    "numbers that are changed": partial(Function, numbers_that_are_changed),
    "sums that keep their axes": partial(Function, sums_that_keep_their_axes),
    "single elements of parts": partial(Function, single_elements_of_parts),
    "items": partial(Function, items, w=W, v=Z, m=Z),
    "complex views": partial(Function, complex_views),
    "ones and True": partial(Function, ones_and_true),
    "returned twice": partial(Function, returned_twice),
    "spectral norm": partial(Function, spectral_norm, w=W, u=torch.ones(4)),
    "a step": partial(Function, a_step, w=W, m=0 * W, count=Z),
    "batch normalisation": Normalised,
    "adam": partial(Function, adam, **MOMENTS),
    "adam that rescales": partial(Function, adam, **MOMENTS, scale=torch.tensor(4.0)),
}


def with_shared_memory():
    function = Function(shared_memory, w=W)
    function.state["row"] = function.state["w"][1]
    return function


FUNCTIONS["shared memory"] = with_shared_memory


def state_of(function):
    return function.state if isinstance(function, Function) else function.state_dict()


@pytest.mark.parametrize("run", [lambda traced: traced, run_graph, run_split, merge_equal])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_is_its_function(name, run):
    """Over calls with other data: outputs, what is changed, and the random stream."""
    torch.manual_seed(1)
    function, other = FUNCTIONS[name](), FUNCTIONS[name]()
    graph = run(trace(function, torch.randn(4, 3)))
    for call in range(3):
        x = torch.randn(4, 3)
        after = []
        for callable, copy in ((graph, x.clone()), (other, x.clone())):
            torch.manual_seed(call)
            outputs = callable(copy)
            after.append((*outputs, copy, torch.get_rng_state()))
        for mine, yours in zip(*after, strict=True):
            assert mine.dtype == yours.dtype
            assert torch.equal(mine, yours)
        for key, value in state_of(other).items():
            assert torch.equal(state_of(function)[key], value), key
        # The caller may change what it got.
        places = [len({output.data_ptr() for output in outputs[:-2]}) for outputs in after]
        assert places[0] == places[1]
        for output in after[0][:-2]:
            output.zero_()


# ---- what is left of them -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: (x.t().t() @ x.t().t().t(),), ["t", "mm"]),
        (lambda x: (x.exp() + x.exp().t().t(),), ["exp", "add"]),
        # The constants are inputs of the graph.
        (lambda x: (x * torch.arange(3).exp() + torch.ones_like(x).log(),), ["mul", "add"]),
        (lambda x: (x * torch.tensor([1.0, 2.0, 3.0]),), ["mul"]),
        (lambda x: (x.view(4, 1, 3).sum(1).mul(1).exp(),), ["exp"]),
        (lambda x: (x.sum(0, keepdim=True).view(3).exp(),), ["sum", "exp"]),
        (lambda x: (x.sin(), x.exp())[1:], ["exp"]),
        (lambda x: (torch.randn(2), x.exp())[1:], ["randn", "exp"]),
        (lambda x: (W.t()[0] * x[:, 0],), ["select", "mul"]),
    ],
)
def test_what_is_simplified(function, left):
    assert targets(simplify(trace(function, torch.randn(4, 3)))) == left


@pytest.mark.parametrize(("name", "products"), [("adam", 2), ("adam that rescales", 3)])
def test_gradients_are_merged_unless_they_are_rescaled(name, products):
    left = targets(simplify(trace(FUNCTIONS[name](), torch.randn(4, 3))))
    assert left.count("mul") == products
    assert left.count("t") == 2 * (products - 2)


def test_what_is_left_to_the_update():
    """The norm, and what is changed; the compiler gets the gradient."""
    function = FUNCTIONS["a step"]()
    compute, update = split_updates(trace(function, torch.randn(4, 3)))
    assert not compute.changes_state
    assert "linalg_vector_norm" in targets(update)
    assert "softplus_backward" in targets(compute)
    # What the compiler returns are tensors, not tuples of them.
    compute, _ = split_updates(trace(FUNCTIONS["items"](), torch.randn(4, 3)))
    (output,) = (node for node in compute.graph.graph.nodes if node.op == "output")
    assert all("val" in node.meta for node in output.args[0])
