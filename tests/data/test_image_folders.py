"""`image_folder`: folders of images, good and bad."""

import builtins
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from pyro_vae.data import READERS, image_folder
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


def test_splits_and_groups_by_the_names_of_files(tmp_path):
    save(tmp_path / "mine" / "cat", GREY[:12])
    save(tmp_path / "mine" / "dog", GREY[12:])
    names = [f"cat/{i:03}.png" for i in range(12)] + [f"dog/{i:03}.png" for i in range(8)]
    words = ["test" if i % 4 == 0 else "train" for i in range(20)]
    lines = [f"{name},{word}" for name, word in zip(names, words, strict=True)]
    (tmp_path / "splits.csv").write_text("\n".join(["name,split", *lines[::-1]]))
    dataset = image_folder(tmp_path / "mine", split=str(tmp_path / "splits.csv"))
    assert dataset.rows["test"].tolist() == [0, 4, 8, 12, 16]
    assert len(dataset.validation) == 1
    assert torch.equal(dataset.split("test")[:, 0], torch.from_numpy(GREY[::4]))
    lines = [f"{name},patient {i // 2}" for i, name in enumerate(names)]
    (tmp_path / "groups.csv").write_text("\n".join(lines))
    dataset = image_folder(tmp_path / "mine", group=str(tmp_path / "groups.csv"))
    patients = [set((dataset.rows[split] // 2).tolist()) for split in SPLITS]
    assert sum(map(len, patients)) == 10
    (tmp_path / "groups.csv").write_text("\n".join(lines[:15]))
    with pytest.raises(ValueError, match=r"has no line for 'dog/003.png', 'dog/004.png'"):
        image_folder(tmp_path / "mine", group=str(tmp_path / "groups.csv"))


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
    with pytest.raises(ValueError, match=r"000.png is grey and .*colour.png is in colour; .*channels \(--data.channels 1"):  # fmt: skip
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
        ("empty", "holds no images; files must end in .png"),
        ("other files", "holds no images"),
        ("hidden", "holds no images"),
        ("few", "at least 10 rows to be split, got 3"),
        ("beside", r"holds images \(000.png\) beside folders of images \(cats\)"),
        ("beside splits", "holds images beside the folders test, train"),
        ("deeper", "is a folder in a folder of images"),
        ("cut short", "005.png is damaged or not an image"),
        ("empty file", "005.png is damaged or not an image"),
        ("text", "005.png is damaged or not an image"),
        ("directory", "holds no images"),
        ("16 bits", "one depth, but .*000.png holds uint8 and .*005.png uint16"),
        ("animated", "005.gif has 2 frames"),
        ("transparent", r"005.png is transparent in places.*--data.channels 4"),
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
    with pytest.raises(ValueError, match="channels must be 1, 3 or 4, got 2"):
        image_folder(tmp_path, channels=2)


def test_more_pictures_than_memory_are_refused(tmp_path, monkeypatch):
    save(tmp_path, GREY)
    monkeypatch.setattr("pyro_vae.data.memory_mapped._memory_bytes", lambda: 1000)
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


# ---- more than 8 bits, more than three channels ----------------------------------------------

image_rows = READERS["image_folder"]
DEEP = np.random.default_rng(2).integers(0, 4096, (12, 6, 5, 5), dtype=np.uint16)


def save_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG of 16 bits with any channels, which Pillow does not write."""
    height, width = pixels.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)),
        b"IEND": b"",
    }
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks.items()
        )
    )


def save_deep(folder: Path, pixels: np.ndarray, suffix: str) -> Path:
    folder.mkdir(exist_ok=True)
    for index, image in enumerate(pixels):
        if suffix == "png":
            save_png(folder / f"{index:03}.png", image)
        else:
            colours = image.ndim == 3 and image.shape[2] == 3
            tifffile.imwrite(
                folder / f"{index:03}.tif",
                image,
                photometric="rgb" if colours else "minisblack",
                planarconfig="contig" if image.ndim == 3 else None,
            )
    return folder


@pytest.mark.parametrize(
    ("suffix", "channels"), [("png", None), ("png", 3), ("tif", None), ("tif", 3), ("tif", 5)]
)
def test_pictures_of_16_bits_are_real_values_or_levels(tmp_path, suffix, channels):
    """Pillow alone reads 16-bit colours as 8 bits, silently."""
    pixels = DEEP[..., 0] if channels is None else DEEP[..., :channels]
    folder = save_deep(tmp_path / "deep", pixels, suffix)
    expected = pixels[:, None] if channels is None else np.moveaxis(pixels, -1, 1)
    dataset = image_folder(folder)
    assert (dataset.support, dataset.train.dtype) == ("real", torch.float32)
    assert sorted_rows(together(dataset)) == sorted_rows(expected.astype(np.float32))
    assert dataset.units.spread.min() > 1000
    (note,) = dataset.notes
    assert "taken as real values" in note
    for levels in map(int, re.findall(r"--data.levels (\d+)", note)):
        dataset = image_folder(folder, levels=levels)
        assert (dataset.support, dataset.levels, dataset.notes) == ("integers", levels, ())
        assert sorted_rows(together(dataset)) == sorted_rows(expected.astype(np.int32))
    assert levels == 65536
    assert image_folder(folder, support="counts").support == "counts"
    half = image_folder(folder, size=2)
    assert half.event_shape == (1 if channels is None else channels, 2, 2)
    assert abs(float(half.train.mean()) / float(pixels.mean()) - 1) < 0.2
    if channels == 3:
        grey = image_folder(folder, channels=1).train
        assert grey.shape[1:] == (1, 6, 5)
        assert float(grey.max()) > 255


@pytest.mark.parametrize("dtype", ["float64", "int8", "float16"])
@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (6, 5, 4), (4, 6, 5)])
def test_tiff_of_other_types_and_channels(tmp_path, dtype, shape):
    pixels = (np.random.default_rng(0).normal(size=(10, *shape)) * 90).astype(np.float64)
    pixels = (np.abs(pixels) if dtype == "uint32" else pixels).astype(dtype)
    for index, image in enumerate(pixels):
        channels = {"planarconfig": "separate"} if shape == (4, 6, 5) else {}
        channels = {"planarconfig": "contig"} if shape == (6, 5, 4) else channels
        tifffile.imwrite(tmp_path / f"{index}.tif", image, photometric="minisblack", **channels)
    expected = np.moveaxis(pixels, -1, 1) if shape == (6, 5, 4) else pixels.reshape(10, -1, 6, 5)
    rows = image_rows(tmp_path)
    assert rows.support == "real"
    np.testing.assert_array_equal(rows.values, expected.astype(rows.values.dtype))
    assert image_folder(tmp_path).support == "real"


def test_samples_beyond_the_third_are_not_dropped(tmp_path):
    """Near infrared beside RGB: Pillow opens it as RGB."""
    bands = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 4), dtype=np.uint8)
    for index, image in enumerate(bands):
        tifffile.imwrite(
            tmp_path / f"{index}.tif", image, photometric="rgb", extrasamples=["unspecified"]
        )
    assert sorted_rows(image_rows(tmp_path).values) == sorted_rows(bands.transpose(0, 3, 1, 2))
    assert image_folder(tmp_path).levels == 256
    with pytest.raises(ValueError, match="has 4 channels, which are not colours"):
        image_folder(tmp_path, channels=3)
    tifffile.imwrite(tmp_path / "0.tif", bands[:3, ..., 0], photometric="minisblack")
    with pytest.raises(ValueError, match=r"0.tif has 3 pages: save each as its own image"):
        image_folder(tmp_path)


def test_opacity_is_a_channel_if_it_is_asked_for(tmp_path):
    for index, image in enumerate(COLOUR[:10]):
        opened = Image.fromarray(image).convert("RGBA")
        opened.putalpha(Image.fromarray(GREY[index]))
        opened.save(tmp_path / f"{index}.png")
    expected = np.concatenate([np.moveaxis(COLOUR[:10], -1, 1), GREY[:10, None]], 1)
    assert sorted_rows(image_rows(tmp_path, channels=4).values) == sorted_rows(expected)
    save_deep(tmp_path / "deep", DEEP[..., :4], "png")
    with pytest.raises(ValueError, match="is transparent in places"):
        image_rows(tmp_path / "deep")
    assert image_rows(tmp_path / "deep", channels=4).values.shape == (12, 4, 6, 5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, np.fliplr),
        (3, lambda image: np.rot90(image, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: np.rot90(image, 2).T),
        (8, np.rot90),
    ],
)
def test_tiff_files_are_turned_as_the_camera_was_held(tmp_path, orientation, upright, dtype):
    """Pillow 13 scrambles those whose width and height change places."""
    picture = (DEEP[0, ..., 0] % 256).astype(dtype)
    extra = [(0x0112, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", picture, extratags=extra)
    np.testing.assert_array_equal(image_rows(tmp_path / "a.tif").values[0, 0], upright(picture))


# ---- what is left out, and new data ----------------------------------------------------------


def test_files_left_out_are_counted_and_named(tmp_path):
    save(tmp_path, GREY)
    (tmp_path / "notes.txt").touch()
    assert image_folder(tmp_path).notes == ("1 of 21 files was left out: notes.txt",)
    (tmp_path / "005.png").write_bytes((tmp_path / "005.png").read_bytes()[:6])
    with pytest.raises(ValueError, match=r"005.png is damaged .*--data.skip-damaged true"):
        image_folder(tmp_path)
    (note,) = image_folder(tmp_path, skip_damaged=True).notes
    assert note.startswith("2 of 21 files were left out: notes.txt, 005.png (")
    assert "object at" not in note
    rows = image_rows(tmp_path, skip_damaged=True)
    assert (len(rows), rows.notes) == (19, (note,))
    for index in range(7):
        (tmp_path / f"{index}.log").touch()
    assert "0.log, 1.log, 2.log, 3.log, 4.log and 4 more" in image_rows(tmp_path, skip_damaged=True).notes[0]  # fmt: skip
    for file in tmp_path.glob("*.png"):
        file.write_text("")
    with pytest.raises(ValueError, match="none of the 20 images can be read"):
        image_rows(tmp_path, skip_damaged=True)


def test_new_pictures_need_no_classes_and_no_company(tmp_path):
    for name, part in (("cat", GREY[:3]), ("dog", GREY[3:5])):
        save(tmp_path / "classes" / name, part)
    rows = image_rows(tmp_path / "classes")
    assert rows.labels.tolist() == ["cat"] * 3 + ["dog"] * 2
    assert rows.splits is None
    one = image_rows(save(tmp_path / "one", GREY[:1]))
    assert (one.values.shape, one.labels) == ((1, 1, 6, 5), None)
    picture = image_rows(tmp_path / "one" / "000.png")
    assert (picture.name, picture.values.tolist()) == ("000", one.values.tolist())
    for split, n in (("train", 2), ("test", 1)):
        save(tmp_path / "splits" / split / "cat", GREY[:n])
        save(tmp_path / "splits" / split / "dog", GREY[:n])
    rows = image_rows(tmp_path / "splits")
    assert rows.splits.tolist() == ["train"] * 4 + ["test"] * 2
    assert rows.labels.tolist() == ["cat"] * 2 + ["dog"] * 2 + ["cat", "dog"]


def test_a_class_may_have_no_test_pictures(tmp_path):
    for split, classes in (("train", "abc"), ("test", "ac")):
        for name in classes:
            save(tmp_path / split / name, GREY[:6])
    dataset = image_folder(tmp_path)
    assert dataset.label_names == ("a", "b", "c")
    assert dataset.labels["test"].unique().tolist() == [0, 2]
