"""Sets stored as `.npz` files in the data root."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae.data import (
    DATASETS,
    Dataset,
    dsprites,
    freyface,
    mouse_bladder,
    newsgroups,
    newsgroups_halves,
    omniglot,
    static_mnist,
)
from pyro_vae.data.dataset import SPLITS


def rows(images: torch.Tensor) -> list[bytes]:
    """Each image as its bytes."""
    return [image.tobytes() for image in images.flatten(1).numpy()]


def load(root: Path, *names: str) -> dict[str, np.ndarray]:
    arrays = {}
    for name in names:
        with np.load(root / name, allow_pickle=False) as file:
            arrays.update({key: file[key] for key in file.files})
    return arrays


def share_memory(dataset: Dataset) -> bool:
    behind = dataset.train.data_ptr() + dataset.train.numel() * dataset.train.element_size()
    return dataset.validation.data_ptr() == behind


def test_static_mnist(data_root):
    dataset = static_mnist(data_root)
    assert (dataset.support, dataset.event_shape) == ("binary", (1, 28, 28))
    assert [len(dataset.split(split)) for split in SPLITS] == [50_000, 10_000, 10_000]
    assert dataset.train.dtype == torch.uint8
    # The published means.
    for split, mean in zip(SPLITS, (0.1306, 0.1311, 0.1325), strict=True):
        assert dataset.split(split).float().mean() == pytest.approx(mean, abs=5e-5)
    assert torch.equal(dataset.labels["test"].sort().values, dataset.labels["test"])
    assert all(dataset.labels[split].unique().tolist() == list(range(10)) for split in SPLITS)


def test_static_mnist_is_a_binarisation_of_mnist(data_root):
    mnist = DATASETS["mnist"](data_root)
    index = load(data_root, "MNIST_static/binarized_mnist_packed.npz")["test_mnist_index"]
    grey = mnist.test[torch.from_numpy(index).long()]
    dataset = static_mnist(data_root)
    assert not ((dataset.test == 1) & (grey == 0)).any()
    assert not ((dataset.test == 0) & (grey == 255)).any()
    assert torch.equal(
        dataset.labels["test"], mnist.labels["test"][torch.from_numpy(index).long()]
    )


def test_omniglot(data_root):
    dataset = omniglot(data_root)
    assert (dataset.support, dataset.levels) == ("integers", 256)
    assert dataset.event_shape == (1, 28, 28)
    assert [len(dataset.split(split)) for split in SPLITS] == [17_352, 1_928, 13_180]
    assert share_memory(dataset)
    # No alphabet of the test set is in training; all of training's are in the validation set.
    alphabets = {split: set(dataset.labels[split].tolist()) for split in SPLITS}
    assert alphabets["train"] == alphabets["validation"] == set(range(30))
    assert alphabets["test"] == set(range(30, 50))
    assert dataset.label_names[14] == "Greek"
    # Each image once, with its label.
    file = load(data_root, "omniglot/omniglot_28x28.npz")
    ours = sorted(
        zip(
            rows(torch.cat([dataset.split(split) for split in SPLITS])),
            torch.cat([dataset.labels[split] for split in SPLITS]).tolist(),
            strict=True,
        )
    )
    theirs = sorted(
        zip(rows(torch.from_numpy(file["images"])), file["alphabet"].tolist(), strict=True)
    )
    assert ours == theirs
    assert not set(rows(dataset.test)) & set(rows(dataset.train))
    # The split that reported numbers stand on: it must not drift with versions of torch.
    assert dataset.labels["validation"][:6].tolist() == [14, 13, 8, 10, 19, 10]


def test_freyface(data_root):
    dataset = freyface(data_root)
    assert (dataset.support, dataset.levels) == ("integers", 256)
    assert dataset.event_shape == (1, 28, 20)
    assert [len(dataset.split(split)) for split in SPLITS] == [1_565, 200, 200]
    assert share_memory(dataset)
    together = rows(torch.cat([dataset.split(split) for split in SPLITS]))
    assert sorted(together) == sorted(
        rows(torch.from_numpy(load(data_root, "freyface/freyface.npz")["images"]))
    )
    assert len(set(together)) == 1_965
    # As above.
    assert dataset.test.sum(dtype=torch.int64) == 17_284_621


@pytest.mark.slow
def test_dsprites(data_root):
    dataset = dsprites(data_root)
    assert (dataset.support, dataset.event_shape) == ("binary", (1, 64, 64))
    assert [len(dataset.split(split)) for split in SPLITS] == [46_080, 5_000, 13_601]
    assert dataset.train.dtype == torch.uint8
    assert dataset.label_names == ("shape", "scale", "orientation", "x", "y")
    # The training set is a whole grid, in its order.
    grid = torch.cartesian_prod(
        *(
            torch.arange(0, size, step)
            for size, step in ((3, 1), (6, 1), (40, 4), (32, 2), (32, 2))
        )
    )
    assert torch.equal(dataset.labels["train"], grid)
    # Factors mean the same in every split: where the shape is, and how much of the image it fills.
    for split in SPLITS:
        images, labels = dataset.split(split)[:, 0].float(), dataset.labels[split]
        assert labels.amax(0).tolist() <= [2, 5, 39, 31, 31]
        filled = images.sum((1, 2))
        columns = (images.sum(1) * torch.arange(64)).sum(1) / filled
        lines = (images.sum(2) * torch.arange(64)).sum(1) / filled
        # The centre of a shape moves over 32 of the 64 pixels.
        assert ((columns - 16 - labels[:, 3]).abs() < 3).all()
        assert ((lines - 16 - labels[:, 4]).abs() < 3).all()
        areas = [filled[labels[:, 1] == scale].mean() for scale in range(6)]
        assert areas == sorted(areas)
    # The split must not drift with versions of torch.
    assert dataset.test.sum() == 2_365_516


@pytest.mark.parametrize("size", [32])
def test_no_sprite_is_in_two_splits(data_root, size):
    dataset = dsprites(data_root, size=size)
    images = {split: rows(dataset.split(split)) for split in SPLITS}
    train, validation, test = (set(images[split]) for split in SPLITS)
    assert not train & validation
    assert not (train | validation) & test
    # Held-out images differ among themselves too.
    assert (len(validation), len(test)) == (len(images["validation"]), len(images["test"]))


@pytest.mark.slow
def test_half_size_sprites(data_root):
    dataset = dsprites(data_root, size=32)
    assert dataset.event_shape == (1, 32, 32)
    assert [len(dataset.split(split)) for split in SPLITS] == [46_080, 5_000, 13_252]
    large = dsprites(data_root).train[:100].float()
    area = torch.nn.functional.avg_pool2d(large, 2)
    assert torch.equal(dataset.train[:100], (area >= 0.5).to(torch.uint8))


def test_other_sizes_of_sprites_are_refused(tmp_path, monkeypatch):
    # Users run without the type checks that refuse the number first while tests run.
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match="size must be 32 or 64, got 16"):
        dsprites(tmp_path, size=16)


FILES = {
    "static_mnist": "MNIST_static/binarized_mnist_packed.npz",
    "omniglot": "omniglot/omniglot_28x28.npz",
    "freyface": "freyface/freyface.npz",
    "freyface_sequences": "freyface/freyface.npz",
    "dsprites": "dsprites/dsprites_grid_46080.npz",
    "newsgroups": "20news/20ng_bow_3072.npz",
    "mouse_bladder": "scrna/mouse_bladder_2100.npz",
}


@pytest.mark.parametrize("name", FILES)
def test_missing_file_says_what_where_and_from_where(tmp_path, name):
    message = (
        rf"{FILES[name]} is not in {tmp_path}.*--data-root.*PYRO_VAE_DATA.*original source is"
    )
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=message) as caught:
            DATASETS[name](root)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_another_file_is_refused_before_it_is_read(tmp_path, name):
    path = tmp_path / FILES[name]
    path.parent.mkdir()
    for content in (b"", b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match="damaged or another file: its SHA-256 hash"
        ) as caught:
            DATASETS[name](tmp_path)
        assert str(path) in str(caught.value)


def test_the_second_file_of_dsprites_is_needed(tmp_path, data_root):
    (tmp_path / "dsprites").mkdir()
    grid = "dsprites/dsprites_grid_46080.npz"
    (tmp_path / grid).write_bytes((data_root / grid).read_bytes())
    with pytest.raises(ValueError, match=r"dsprites/dsprites_random_20000.npz is not in"):
        dsprites(tmp_path)


def test_arrays_of_another_shape_are_refused(tmp_path, monkeypatch):
    (tmp_path / "freyface").mkdir()
    path = tmp_path / FILES["freyface"]
    for arrays, got in (({"images": np.zeros((9, 2))}, r"\(9, 2\)"), ({"faces": [1]}, r"\(0,\)")):
        np.savez(path, **arrays)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr("pyro_vae.data.npz_sets._FREYFACE_SHA256", digest)
        with pytest.raises(ValueError, match=rf"images of shape \(1965, 28, 20\), got {got}"):
            freyface(tmp_path)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    (tmp_path / "freyface").mkdir()
    path = tmp_path / FILES["freyface"]
    np.savez(path, images=np.array([{}], dtype=object))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("pyro_vae.data.npz_sets._FREYFACE_SHA256", digest)
    with pytest.raises(ValueError, match="allow_pickle"):
        freyface(tmp_path)


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


@pytest.mark.slow
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
