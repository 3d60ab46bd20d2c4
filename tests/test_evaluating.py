"""Streams of random numbers beside one another."""

import torch

from pyro_vae.evaluating import seed_apart


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(4, generator=torch.Generator().manual_seed(seed))


def test_a_seed_apart_gives_other_numbers():
    # A seed's high bits are not read, so that moving it far is not moving it.
    assert torch.equal(drawn(7), drawn(7 + 2**41))
    seeds = [7, seed_apart(7, "one"), seed_apart(7, "other"), seed_apart(8, "one")]
    assert len({tuple(drawn(seed).tolist()) for seed in seeds}) == 4
    assert seed_apart(7, "one") == seed_apart(7, "one") < 2**32
