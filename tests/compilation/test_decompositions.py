"""Operations written anew are the same functions."""

from itertools import chain

import pytest
import torch
from torch.nn import functional as F

from pyro_vae.compilation import trace
from pyro_vae.compilation.tracing import (
    DECOMPOSITIONS,
    binary_cross_entropy_with_logits,
    log1p_exp,
)

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
    targets = {node.target for node in traced.graph.graph.nodes}
    assert not targets & set(DECOMPOSITIONS)
    for mine, exact in zip(
        traced(x), with_gradient(x.detach().double().requires_grad_()), strict=True
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


def a_step(parameters, moments, gradients, found_inf):
    torch._fused_adam_(
        parameters,
        gradients,
        moments[0],
        moments[1],
        [],
        moments[2],
        lr=torch.tensor(0.01, dtype=torch.float64),
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
        found_inf=found_inf,
    )


def test_adam_is_torchs_and_leaves_what_it_skips():
    shapes = [(3, 4), (5,)]

    def start():
        torch.manual_seed(0)
        parameters = [torch.randn(s) for s in shapes]
        zeros = [[torch.zeros(s) for s in shapes] for _ in range(2)]
        return parameters, [*zeros, [torch.zeros(()) for _ in shapes]]

    (mine, my_moments), (theirs, their_moments) = start(), start()
    gradients, skipped = [torch.zeros(s) for s in shapes], torch.zeros(())

    def traced_step(*_):
        # As the step of training does: the count comes first, and is taken back where it is skipped.
        torch._foreach_add_(my_moments[2], 1)
        a_step(mine, my_moments, gradients, skipped)
        torch._foreach_sub_(my_moments[2], [skipped] * 2)
        return ()

    graph = trace(traced_step, torch.zeros(1))
    for step in range(12):
        for gradient in gradients:
            gradient.normal_(generator=torch.Generator().manual_seed(step))
        skipped.fill_(float(step % 4 == 3))
        before = [p.clone() for p in mine]
        graph(torch.zeros(1))
        torch._foreach_add_(their_moments[2], 1)
        a_step(theirs, their_moments, gradients, skipped)
        torch._foreach_sub_(their_moments[2], [skipped] * 2)
        for ours, yours in zip(
            chain(mine, *my_moments), chain(theirs, *their_moments), strict=True
        ):
            torch.testing.assert_close(ours, yours, rtol=1e-5, atol=1e-7)
        assert all((a == b).all() for a, b in zip(mine, before, strict=True)) == (step % 4 == 3)
