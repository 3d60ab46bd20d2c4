"""What is written anew is the same function."""

import pytest
import torch
from torch.nn import functional as F

from pyro_vae.compilation.decompositions import binary_cross_entropy_with_logits


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
