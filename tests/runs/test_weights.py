"""Parameters as safetensors: bit for bit, tensors of several names, metadata, damaged files."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae import build, fit
from pyro_vae.runs.weights import load_safetensors, write_safetensors

safetensors = pytest.importorskip("safetensors")


class Tied(nn.Module):
    """Two names of one tensor, a view of another, and an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        base = torch.arange(12.0)
        self.register_buffer("base", base)
        self.register_buffer("view", base.view(3, 4).t())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("empty", torch.zeros(0, 2))
        self.register_buffer("precise", torch.tensor([1e-300], dtype=torch.float64))


def equal(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(
        each.dtype == other[name].dtype and torch.equal(each, other[name])
        for name, each in mine.items()
    )


@pytest.mark.parametrize("prior", ["standard_normal", "vamp", "flow"])
def test_a_program_comes_back_bit_for_bit(tmp_path, prior):
    x = np.random.default_rng(0).normal(size=(50, 4))
    made = [build((4,), 2, prior=prior, kind="real", likelihood="student_t",
                  train_data=torch.tensor(x).float(), train_size=50) for _ in range(2)]  # fmt: skip
    fit(made[0], x, epochs=1)
    write_safetensors(made[0], tmp_path / "model.safetensors", checkpoint_sha256="ab")
    assert not equal(*made)
    metadata = load_safetensors(made[1], tmp_path / "model.safetensors")
    assert equal(*made)
    assert metadata["checkpoint_sha256"] == "ab"
    assert metadata["format"] == "pt"
    assert json.loads(metadata["event_shape"]) == [4]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_tensors_of_several_names_and_views(tmp_path):
    tied = Tied()
    path = tmp_path / "tied.safetensors"
    write_safetensors(tied, path)
    with safetensors.safe_open(path, framework="pt") as file:
        assert "second.weight" not in {*file.keys()}
    other = Tied()
    nn.init.zeros_(other.first.weight)
    metadata = load_safetensors(other, path)
    assert json.loads(metadata["shared"]) == {"second.weight": "first.weight"}
    assert equal(tied, other)
    assert other.second.weight is other.first.weight


def test_what_does_not_fit_is_refused(tmp_path):
    tied = Tied()
    path = tmp_path / "tied.safetensors"
    write_safetensors(tied, path)
    before = copy.deepcopy(tied.state_dict())
    with pytest.raises(ValueError, match="of another Linear"):
        load_safetensors(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="no safetensors file at"):
        load_safetensors(tied, tmp_path / "none")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged, or not a safetensors file"):
        load_safetensors(tied, path)
    assert all(torch.equal(before[name], each) for name, each in tied.state_dict().items())


def test_sparse_tensors_are_refused(tmp_path):
    module = nn.Module()
    module.register_buffer("sparse", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match="dense tensors, and sparse is a"):
        write_safetensors(module, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()
