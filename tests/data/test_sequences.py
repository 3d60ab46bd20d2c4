"""Sets of sequences."""

import numpy as np
import pytest
import torch

from pyro_vae.data import Dataset, array_file, freyface_sequences, pendulum, windows
from pyro_vae.data.sequences import pendulum_angles


def test_no_frame_of_the_test_split_is_in_a_training_window(data_root):
    data = freyface_sequences(data_root, length=10, stride=3)
    assert data.event_shape == (10, 1, 28, 20)
    frames = [
        {frame.numpy().tobytes() for frame in split.flatten(0, 1)}
        for split in (data.train, data.validation, data.test)
    ]
    assert not frames[0] & frames[1]
    assert not frames[0] & frames[2]
    assert not frames[1] & frames[2]
    assert torch.equal(data.train[1, 0], data.train[0, 3])
    assert torch.equal(windows(torch.arange(6).view(3, 2), 2)[1], torch.tensor([[2, 3], [4, 5]]))
    with pytest.raises(ValueError, match="needs as many frames, got 200"):
        freyface_sequences(data_root, length=201)


def test_the_pendulum_is_its_seed_and_swings():
    one, same, other = (pendulum(20, 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.train, same.train)
    assert not torch.equal(one.train, other.train)
    assert one.event_shape == (4, 1, 16, 16)
    # Small swings without a kick have the period 2 pi / sqrt(9.81), two seconds: 20 frames.
    theta = pendulum_angles(np.random.default_rng(0), 400, 21)
    assert np.abs(theta).max() < 20
    position = pendulum(20, 4, "position", noise=0.0)
    radius = position.train.norm(dim=-1)
    torch.testing.assert_close(radius, torch.ones_like(radius))


@pytest.mark.parametrize(
    ("shape", "event", "units"),
    [
        ((5, 3), (5, 3), (3,)),
        ((5, 4, 4), (5, 1, 4, 4), (1, 1, 1)),
        ((5, 2, 4, 4),) * 2 + ((2, 1, 1),),
    ],
)
def test_an_array_file_holds_sequences(tmp_path, shape, event, units):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((40, *shape)))
    data = array_file(path=path, layout="sequence")
    assert data.event_shape == event
    assert data.noun == "sequence"
    # Of an element of a vector and of a channel of an image, at all times.
    assert data.units.center.shape == units
    frames = data.train.flatten(0, 1).double()
    mean = frames.mean(0) if len(units) == 1 else frames.mean((0, 2, 3)).view(units)
    torch.testing.assert_close(data.units.center, mean)


def test_sequences_need_their_layout():
    with pytest.raises(ValueError, match="layout sequence"):
        Dataset.from_array(torch.zeros(30, 5, 1, 2, 2))
