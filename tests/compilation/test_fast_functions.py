"""Faster functions: those of PyTorch up to rounding, with their gradients, where they apply."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_vae.compilation import CompiledFunction, fast_functions
from pyro_vae.compilation.fast_functions import FastFunctions

GRID = torch.linspace(-40, 40, 8001)
BINARY = (torch.arange(8001) % 2).float()
FUNCTIONS = {
    "softplus": F.softplus,
    "ones": lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none"),
    "zeros": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.zeros_like(x), reduction="none"
    ),
    "grey": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.full_like(x, 0.3), reduction="none"
    ),
}


@pytest.fixture(autouse=True)
def _onednn(monkeypatch):
    """On any maker's CPU."""
    monkeypatch.setattr(fast_functions, "_uses_onednn", torch.backends.mkldnn.is_available)


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return nn.Linear(80, 60)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_exact_up_to_rounding(name):
    function = FUNCTIONS[name]
    exact_x = GRID.double().requires_grad_()
    exact = function(exact_x)
    exact.sum().backward()
    x = GRID.clone().requires_grad_()
    with FastFunctions():
        fast = function(GRID)
        with_gradient = function(x)
        with_gradient.sum().backward()
    assert torch.equal(fast, with_gradient.detach())
    # The last digit of 1 + exp(-|x|), and of x.
    limit = 1.2e-7 * (1 + GRID.double().abs())
    assert bool(((fast.double() - exact.detach()).abs() <= limit).all())
    torch.testing.assert_close(x.grad.double(), exact_x.grad, atol=2e-7, rtol=0)
    # It was not PyTorch's.
    assert not torch.equal(fast, function(GRID))


def test_linear_layers(layer):
    torch.manual_seed(1)
    x = torch.randn(50, 7, 80)
    weights = torch.randn(50, 7, 60)
    found = []
    for fast in (False, True):
        leaf = x.clone().requires_grad_()
        frozen = nn.Linear(80, 60).requires_grad_(False)
        frozen.load_state_dict(layer.state_dict())
        if fast:
            with FastFunctions():
                y = frozen(leaf)
                (y * weights).sum().backward()
                with torch.no_grad():
                    assert torch.equal(frozen(x), y)
        else:
            y = frozen(leaf)
            (y * weights).sum().backward()
        found.append((y.detach(), leaf.grad))
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, atol=2e-5, rtol=1e-5)


def test_parameters_keep_their_gradients(layer):
    with FastFunctions():
        layer(torch.ones(500, 80)).sum().backward()
    assert layer.weight.grad is not None
    assert bool((layer.weight.grad == 500).all())
    layer.zero_grad()


def test_what_is_not_faster_is_pytorchs(layer):
    targets = torch.rand(8001)
    cases = [
        lambda: F.softplus(GRID.double()),
        lambda: F.softplus(GRID[:100]),
        lambda: F.softplus(GRID, 2.0),
        lambda: F.binary_cross_entropy_with_logits(GRID, targets),
        lambda: F.binary_cross_entropy_with_logits(
            GRID, targets, pos_weight=torch.tensor(2.0), reduction="none"
        ),
        lambda: F.binary_cross_entropy_with_logits(GRID.double(), targets.double()),
        lambda: layer(torch.ones(2, 80)),
    ]
    for case in cases:
        plain = case()
        with FastFunctions():
            assert torch.equal(case(), plain)


def test_infinite_logits_are_as_pytorchs():
    x = torch.full((5000,), torch.inf)
    x[::2] *= -1
    for target in (torch.zeros(5000), torch.ones(5000)):
        plain = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        with FastFunctions():
            fast = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        torch.testing.assert_close(fast, plain, equal_nan=True)


def test_a_graph_recorded_with_them_has_their_bits(layer):
    def density(x):
        logits = F.softplus(layer(x))
        return (
            F.binary_cross_entropy_with_logits(
                logits, BINARY[:60].expand_as(logits), reduction="none"
            ).sum(-1),
        )

    function = CompiledFunction(density, "graph", lambda _: 10, name="", outputs={"x": 0.0})
    x = torch.rand(100, 80)
    with torch.no_grad(), FastFunctions():
        found = [function(x)[0] for _ in range(5)]
    assert function.decisions == {"100x80": "graph"}
    assert all(torch.equal(each, found[0]) for each in found)
