"""Fine-tuning: of the encoder, from scratch, and of the head alone, on the same few labels."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from analysis.representation.codes import held_out_rows
from analysis.representation.fine_tuning import FineTuning, fine_tuning, plot_fine_tuning
from analysis.result import UndefinedCheckError
from pyro_vae.model import build
from pyro_vae.posteriors import DiagonalNormal


class Program(nn.Module):
    """An encoder; the decoder is not to be trained."""

    def __init__(self, encoder, detached=False):
        super().__init__()
        self.encoder, self.decoder = encoder, nn.Linear(2, 4)
        self.detached = detached

    def embed(self, x):
        code = self.encoder(x)
        return code.detach() if self.detached else code


def network():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


def classes(n, seed):
    """Two well separated clouds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    return torch.randn(n, 4, generator=generator) + 6 * (labels - 0.5)[:, None], labels


def xor(n, seed):
    """Labels that no line tells apart, in two of four elements."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()


def test_all_ways_tell_separated_classes_apart():
    found = fine_tuning(
        Program(network()), *classes(200, 0), *classes(100, 1), sizes=(20, 60), steps=30, repeats=2
    )
    assert found.sizes == (20, 60)
    for values in found.accuracy.values():
        np.testing.assert_allclose(values, 1)
    assert "not clear" in found.reading()
    row = found.summary()["sizes"][0]
    assert row["labels"] == 20
    assert row["frozen"] == {"accuracy": 1.0, "spread": 0.0, "repeats": 2}
    assert found.summary()["chance"] == 0.5


def test_a_code_that_holds_the_answer_beats_scratch():
    class Answer(nn.Module):
        """The product of the first two elements, and one weight for a gradient."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.tanh(5 * self.weight * x[:, :1] * x[:, 1:2])

    data = (*xor(300, 0), *xor(500, 1))
    good = fine_tuning(
        Program(Answer()), *data, sizes=(20,), steps=40, untrained=lambda: Program(network())
    )
    assert good.accuracy["frozen"].mean() > 0.93
    assert good.accuracy["fine-tuned"].mean() > 0.93
    assert good.accuracy["from scratch"].mean() < 0.8
    assert "points against from scratch," in good.reading()


@pytest.mark.slow
def test_a_code_of_the_wrong_element_must_move():
    x, test_x = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (200, 300))
    encoder = nn.Linear(4, 1)
    encoder.weight.data = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    labels, test_labels = (x[:, 0] > 0).long(), (test_x[:, 0] > 0).long()
    found = fine_tuning(
        Program(encoder), x, labels, test_x, test_labels, sizes=(200,), steps=150, repeats=1
    )
    assert found.accuracy["frozen"].mean() < 0.65
    assert found.accuracy["fine-tuned"].mean() > 0.9


@pytest.mark.parametrize("training", [True, False])
def test_the_program_stays_as_it_is_and_seeds_decide(training):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))
    program = Program(encoder).train(training)
    program.encoder[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in program.state_dict().items()}
    state = torch.get_rng_state()
    data = (*xor(60, 0), *xor(50, 1))
    first, second = (
        fine_tuning(program, *data, sizes=(30,), steps=25, repeats=2, seed=4) for _ in range(2)
    )
    assert all(torch.equal(value, before[name]) for name, value in program.state_dict().items())
    assert all(module.training == training for module in program.modules())
    assert not program.encoder[0].weight.requires_grad
    assert all(p.grad is None for p in program.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert first.summary() == second.summary()


def test_a_vae_of_the_project():
    vae = build((4,), 2, posterior=DiagonalNormal)
    x = (torch.rand(40, 4) > 0.5).to(torch.uint8)
    found = fine_tuning(
        vae, x, x[:, 0].long(), x, x[:, 0].long(), sizes=(40, 99), steps=40, repeats=1
    )
    assert found.sizes == (40,)
    assert found.summary()["sizes"][0]["frozen"]["spread"] is None


def test_what_cannot_be_tuned():
    data = (*classes(20, 0), *classes(20, 1))
    with pytest.raises(UndefinedCheckError, match="has no gradient"):
        fine_tuning(Program(network(), detached=True), *data, sizes=(10,))

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(4))

        def forward(self, x):
            return x @ self.weight

    with pytest.raises(UndefinedCheckError, match="encoder cannot be reset"):
        fine_tuning(Program(Bare()), *data, sizes=(10,))
    with pytest.raises(ValueError, match=r"sizes must be from 5 to 20.* got \[4, 30\]"):
        fine_tuning(Program(network()), *data, sizes=(4, 30))
    with pytest.raises(ValueError, match="labels must be from 0 on, got -1"):
        fine_tuning(Program(network()), *data[:3], data[3] - 1, sizes=(10,))


def test_figure(words):
    accuracy = {
        "fine-tuned": np.array([[0.8, 0.9], [0.95, 0.95]]),
        "from scratch": np.array([[0.7, 0.6], [0.9, 0.92]]),
        "frozen": np.array([[0.8, 0.8], [0.85, 0.86]]),
    }
    stopped = {name: np.full((2, 2), 100.0) for name in accuracy} | {
        "from scratch": np.array([[300.0, 300.0], [300.0, 100.0]])
    }
    found = FineTuning((100, 1000), accuracy, stopped, 300, 0.11)
    _, text = words(plot_fine_tuning(found))
    assert "With 100 labels a trained encoder gains +20.0 ± 10.0 points over scratch" in text
    assert "1,000 labels" in text
    # 10 and 30 points: 20 +- 10 is just two standard errors.
    assert "+20.0 ± 10.0 points against from scratch," in found.reading()
    assert found.unfinished == {"fine-tuned": 0, "from scratch": 0.75, "frozen": 0}
    assert "Still improving at step 300: from scratch." in found.reading()


def blobs(per_class, seed, num_classes=100):
    """Classes around points of a fixed grid, in order of class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    centers = torch.randn(num_classes, 16, generator=torch.Generator().manual_seed(7))
    return centers[labels] + 0.1 * torch.randn(len(labels), 16, generator=generator), labels


@pytest.mark.slow
@pytest.mark.parametrize(("size", "too_few"), [(100, (100,)), (200, ())])
def test_a_hundred_classes_are_all_trained_on(size, too_few):
    found = fine_tuning(
        Program(nn.Linear(16, 16)), *blobs(5, 0), *blobs(3, 1), sizes=(size,), steps=300, repeats=1
    )
    assert found.accuracy["fine-tuned"].item() > 0.8
    assert found.accuracy["frozen"].item() > 0.8
    assert found.without_validation == too_few
    assert ("Too few" in found.reading()) == bool(too_few)
    json.dumps(found.summary(), allow_nan=False)


@pytest.mark.parametrize(
    ("counts", "held"), [([10] * 10, [2] * 10), ([90, 10], [18, 2]), ([2] * 5, None)]
)
def test_labels_are_held_out_of_each_class_alike(counts, held):
    labels = np.repeat(np.arange(len(counts)), counts)
    mask = held_out_rows(labels, 0.2)
    if held is None:
        assert mask.sum() == 2
        assert set(labels[~mask]) == set(labels)
    else:
        assert np.bincount(labels[mask]).tolist() == held
    assert held_out_rows(np.arange(100), 0.2) is None
