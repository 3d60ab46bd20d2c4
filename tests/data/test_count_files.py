"""Newsgroup posts and mouse bladder cells from the files of the data root."""

import pytest
import torch

from pyro_vae.data import mouse_bladder, newsgroups, newsgroups_halves
from pyro_vae.data.dataset import SPLITS


def test_newsgroups(data_root):
    dataset = newsgroups(data_root)
    assert (dataset.support, dataset.levels, dataset.event_shape) == ("counts", None, (3072,))
    assert [len(dataset.split(split)) for split in SPLITS] == [11_214, 100, 7_531]
    # The narrowest type that holds 800.
    assert {dataset.split(split).dtype for split in SPLITS} == {torch.int16}
    assert dataset.train.max() == 800
    assert len(set(dataset.event_names)) == 3072
    assert dataset.labels == {}
    # Document completion's halves make the test posts, so rows and columns are where they belong.
    first, second = newsgroups_halves(data_root)
    assert first.dtype == torch.int16
    assert torch.equal(first + second, dataset.test)
    # Halves of each post, to a word.
    assert (first.sum(1) - second.sum(1)).abs().max() <= 1
    # "windows" and "dos" go together.
    index = dataset.event_names.index
    counts = dataset.train[:, [index("windows"), index("dos"), index("god")]].float()
    together = torch.corrcoef(counts.T)
    assert together[0, 1] > 0.1 > together[0, 2]


def test_mouse_bladder(data_root):
    dataset = mouse_bladder(data_root)
    assert (dataset.support, dataset.event_shape) == ("counts", (1000,))
    assert [len(dataset.split(split)) for split in SPLITS] == [1_680, 210, 210]
    assert dataset.train.dtype == torch.int16
    assert dataset.label_names == tuple(str(kind) for kind in range(1, 17))
    assert torch.cat([dataset.labels[split] for split in SPLITS]).bincount().tolist() == [
        *(550, 299, 268, 229, 184, 158, 102, 60, 53, 45, 30, 33, 33, 27, 21, 8)
    ]
    # The split that reported numbers stand on: it must not drift with versions of torch.
    assert dataset.labels["test"][:8].tolist() == [2, 0, 6, 10, 0, 3, 1, 6]


def test_genes_are_the_most_variable_of_the_training_cells(data_root):
    everything = mouse_bladder(data_root, genes=20_670)
    dataset = mouse_bladder(data_root, genes=50)
    genes = [int(name) for name in dataset.event_names]
    assert genes == sorted(genes)
    for split in SPLITS:
        assert torch.equal(dataset.split(split), everything.split(split)[:, genes])
        assert torch.equal(dataset.labels[split], everything.labels[split])
    # By the definition, on dense training data alone.
    counts = everything.train.double()
    totals = counts.sum(1)
    variance = (1 + counts * (totals.quantile(0.5) / totals)[:, None]).log().var(0, correction=0)
    assert genes == variance.topk(50).indices.sort().values.tolist()


def test_no_cell_is_in_two_splits(data_root):
    dataset = mouse_bladder(data_root, genes=20_670)
    cells = [cell.tobytes() for split in SPLITS for cell in dataset.split(split).numpy()]
    assert len(set(cells)) == 2_100


@pytest.mark.parametrize("genes", [0, -1, 20_671])
def test_other_numbers_of_genes_are_refused(tmp_path, genes):
    with pytest.raises(ValueError, match=f"genes must be between 1 and 20670, got {genes}"):
        mouse_bladder(tmp_path, genes=genes)
