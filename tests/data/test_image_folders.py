"""`image_folder`: folders of pictures, good and bad."""

import builtins
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import image_folder
from pyro_vae.data.dataset import SPLITS

GREY = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)


def save(folder: Path, images: np.ndarray, suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03}.{suffix}")
    return folder


def sorted_rows(images: torch.Tensor | np.ndarray) -> list[list[int]]:
    return sorted(torch.as_tensor(images).flatten(1).tolist())


def together(dataset) -> torch.Tensor:
    return torch.cat([dataset.split(split) for split in SPLITS])


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "PNG"])
@pytest.mark.parametrize("images", [GREY, COLOUR])
def test_folder_without_classes(tmp_path, images, suffix):
    folder = save(tmp_path / "mine", images, suffix)
    # What other programs leave in folders.
    (folder / ".DS_Store").touch()
    (folder / "readme.txt").touch()
    (folder / "empty").mkdir()
    dataset = image_folder(folder)
    assert (dataset.name, dataset.support, dataset.levels) == ("mine", "integers", 256)
    assert [len(dataset.split(split)) for split in SPLITS] == [14, 2, 4]
    assert dataset.train.dtype == torch.uint8
    assert dataset.labels == {}
    expected = images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)
    assert dataset.event_shape == expected.shape[1:]
    assert sorted_rows(together(dataset)) == sorted_rows(expected)


def test_class_folders_are_labels(tmp_path):
    save(tmp_path / "dog", GREY[:12])
    save(tmp_path / "cat", GREY[12:] // 2)
    dataset = image_folder(tmp_path)
    assert dataset.label_names == ("cat", "dog")
    assert sorted(torch.cat([dataset.labels[split] for split in SPLITS]).tolist()) == [0] * 8 + [1] * 12  # fmt: skip
    cats = {tuple(image.flatten().tolist()) for image in GREY[12:] // 2}
    for split in SPLITS:
        for image, label in zip(dataset.split(split), dataset.labels[split], strict=True):
            assert (tuple(image.flatten().tolist()) in cats) == (label == 0)


def test_split_folders_are_splits(tmp_path):
    save(tmp_path / "train", GREY[:10])
    save(tmp_path / "test", GREY[10:])
    dataset = image_folder(tmp_path)
    assert [len(dataset.split(split)) for split in SPLITS] == [9, 1, 10]
    assert torch.equal(dataset.test[:, 0], torch.as_tensor(GREY[10:]))
    save(tmp_path / "validation", GREY[:3])
    dataset = image_folder(tmp_path)
    assert [len(dataset.split(split)) for split in SPLITS] == [10, 3, 10]
    assert dataset.labels == {}


def test_split_folders_with_classes(tmp_path):
    for split, n in (("train", 6), ("test", 3)):
        save(tmp_path / split / "a", GREY[:n])
        save(tmp_path / split / "b", GREY[10 : 10 + n])
    dataset = image_folder(tmp_path)
    assert dataset.labels["test"].tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.label_names == ("a", "b")
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "c")
    with pytest.raises(ValueError, match="must have the training data's classes, a, b, got a, c"):
        image_folder(tmp_path)
    shutil.rmtree(tmp_path / "test")
    save(tmp_path / "test", GREY)
    with pytest.raises(ValueError, match=r"classes, a, b, got \(none\)"):
        image_folder(tmp_path)


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("train",), ("train", "test", "cats")]
)
def test_splits_are_not_taken_for_classes(tmp_path, names):
    for name in names:
        save(tmp_path / name, GREY)
    with pytest.raises(ValueError, match="splits are train and test, and perhaps validation"):
        image_folder(tmp_path)


def test_size_cuts_the_middle_and_scales(tmp_path):
    wide = np.zeros((10, 8, 24), np.uint8)
    wide[:, :, 8:16] = 200
    save(tmp_path, wide)
    Image.fromarray(wide[0].T.copy()).save(tmp_path / "tall.png")
    dataset = image_folder(tmp_path, size=4)
    assert dataset.event_shape == (1, 4, 4)
    assert (together(dataset) == 200).all()
    with pytest.raises(ValueError, match=r"000.png has 24 x 8 pixels and .*tall.png has 8 x 24.*--data.size"):  # fmt: skip
        image_folder(tmp_path)


def test_channels_make_one_kind_of_two(tmp_path):
    save(tmp_path, GREY[:15])
    Image.fromarray(COLOUR[0]).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match=r"000.png is grey and .*colour.png is in colour; channels \(--data.channels 1"):  # fmt: skip
        image_folder(tmp_path)
    assert image_folder(tmp_path, channels=1).event_shape == (1, 6, 5)
    dataset = image_folder(tmp_path, channels=3)
    assert dataset.event_shape == (3, 6, 5)
    assert sorted_rows(COLOUR[:1].transpose(0, 3, 1, 2))[0] in sorted_rows(together(dataset))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_modes_of_8_bits_are_read(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    for index in range(10):
        Image.fromarray(COLOUR[index]).convert(mode).save(tmp_path / f"{index}.{suffix}")
    dataset = image_folder(tmp_path)
    assert dataset.event_shape == ((1, 6, 5) if mode in ("1", "LA") else (3, 6, 5))


def test_pictures_are_turned_as_the_camera_was_held(tmp_path):
    for index, image in enumerate(GREY[:10]):
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        Image.fromarray(image).save(tmp_path / f"{index}.png", exif=exif)
    dataset = image_folder(tmp_path)
    assert dataset.event_shape == (1, 5, 6)
    assert sorted_rows(together(dataset)) == sorted_rows(np.rot90(GREY[:10], -1, (1, 2)).copy())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "must be a folder of images, but there is no such folder"),
        ("file", "must be a folder of images, but there is no such folder"),
        ("empty", "holds no pictures; files must end in .png"),
        ("other files", "holds no pictures"),
        ("hidden", "holds no pictures"),
        ("few", "at least 10 rows to be split, got 3"),
        ("beside", r"holds pictures \(000.png\) beside folders of pictures \(cats\)"),
        ("beside splits", "holds pictures beside the folders test, train"),
        ("deeper", "is a folder in a folder of pictures"),
        ("cut short", "005.png is damaged or no picture"),
        ("empty file", "005.png is damaged or no picture"),
        ("text", "005.png is damaged or no picture"),
        ("directory", "holds no pictures"),
        ("16 bits", "005.png has pixels of Pillow's mode I;16.*npy"),
        ("animated", "005.gif has 2 frames"),
        ("transparent", "005.png is transparent in places"),
    ],
)
def test_bad_folders_are_refused_with_the_path(tmp_path, kind, message):
    folder = tmp_path / "mine"
    if kind not in ("missing", "file", "empty", "other files", "hidden"):
        save(folder, GREY[:3] if kind == "few" else GREY)
    picture = folder / "005.png"
    if kind == "file":
        folder.touch()
    elif kind in ("empty", "other files", "hidden"):
        folder.mkdir()
        if kind != "empty":
            (folder / ("data.npy" if kind == "other files" else ".0.png")).touch()
    elif kind == "beside":
        save(folder / "cats", GREY)
    elif kind == "beside splits":
        save(folder / "train", GREY)
        save(folder / "test", GREY)
    elif kind == "deeper":
        save(tmp_path / "mine" / "cats" / "black", GREY)
    elif kind == "cut short":
        picture.write_bytes(picture.read_bytes()[:50])
    elif kind in ("empty file", "text"):
        picture.write_text("" if kind == "empty file" else "not a picture")
    elif kind == "directory":
        shutil.rmtree(folder)
        (folder / "a.png").mkdir(parents=True)
    elif kind == "16 bits":
        Image.fromarray(GREY[0].astype(np.uint16)).save(picture)
    elif kind == "animated":
        frames = [Image.fromarray(image) for image in GREY[:2]]
        frames[0].save(folder / "005.gif", save_all=True, append_images=frames[1:])
        picture.unlink()
    elif kind == "transparent":
        image = Image.fromarray(COLOUR[0]).convert("RGBA")
        image.putalpha(Image.fromarray(GREY[0]))
        image.save(picture)
    with pytest.raises(ValueError, match=message) as caught:
        image_folder(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_options_are_refused(tmp_path, monkeypatch):
    save(tmp_path, GREY)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        image_folder(tmp_path, size=0)
    # Users run without the type checks that refuse the number first while tests run.
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match="channels must be 1 or 3, got 2"):
        image_folder(tmp_path, channels=2)


def test_more_pictures_than_memory_are_refused(tmp_path, monkeypatch):
    save(tmp_path, GREY)
    monkeypatch.setattr("pyro_vae.data.memory._memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"would be an array of shape \(20, 1, 6, 5\).*GiB"):
        image_folder(tmp_path)


def test_pillow_that_cannot_be_imported(tmp_path, monkeypatch):
    save(tmp_path, GREY)
    original = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object):
        if name == "PIL":
            raise ImportError("no PIL")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install pillow"):
        image_folder(tmp_path)
