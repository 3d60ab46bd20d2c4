"""Streams of random numbers beside one another."""

import torch

from pyro_vae.rng import derive_seed


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(4, generator=torch.Generator().manual_seed(seed))


def test_a_seed_apart_gives_other_numbers():
    # A seed's high bits are not read, so that moving it far is not moving it.
    assert torch.equal(drawn(7), drawn(7 + 2**41))
    seeds = [7, derive_seed(7, "one"), derive_seed(7, "other"), derive_seed(8, "one")]
    assert len({tuple(drawn(seed).tolist()) for seed in seeds}) == 4
    assert derive_seed(7, "one") == derive_seed(7, "one") < 2**32
