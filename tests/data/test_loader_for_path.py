"""`loader_for_path`, and paths on the command line."""

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from pyro_vae.configuration import ConfigurationError
from pyro_vae.configuration.components import load_data
from pyro_vae.configuration.parser import parse
from pyro_vae.data import DATASETS, loader_for_path

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder, the current one, with something of each kind in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "faces" / f"{index}.png")
    np.save("x.npy", IMAGES)
    np.savez("x.npz", x=IMAGES)
    sparse.save_npz("s.npz", sparse.csr_array(IMAGES[:, 0]))
    np.savetxt(
        "t.csv", IMAGES[:, 0], delimiter=",", fmt="%d", header="a,b,c,d,e,f,g,h", comments=""
    )
    (tmp_path / "notes.txt").write_text("1 2 3")
    (tmp_path / "notes").write_text("1 2 3")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "loader", "support"),
    [
        ("faces", "image_folder", "integers"),
        ("./faces/", "image_folder", "integers"),
        ("x.npy", "array_file", "integers"),
        ("x.npz", "array_file", "integers"),
        ("s.npz", "count_file", "counts"),
        ("t.csv", "table_file", "counts"),
    ],
)
def test_a_path_is_a_data_set(folder, path, loader, support):
    assert loader_for_path(path) == loader
    for line in (["--data", path], [f"--data={folder / path}"]):
        configuration = parse(line)
        assert configuration["data"]["name"] == loader
        dataset = load_data(configuration, folder)
        assert dataset.support == support
        assert len(dataset.train) == 14


def test_missing_paths_are_known_by_their_suffix(folder):
    for suffix, loader in {
        ".npy": "array_file",
        ".npz": "array_file",
        ".csv": "table_file",
        ".parquet": "table_file",
    }.items():
        path = f"some/where{suffix}"
        assert loader_for_path(path) == loader
        with pytest.raises(ValueError, match=f"{path} must be .* but there is no such file"):
            DATASETS[loader](path)


def test_options_of_a_path_are_its_loaders(folder):
    configuration = parse(["--data", "faces", "--data.size", "4", "--data.channels", "3"])
    assert load_data(configuration, folder).event_shape == (3, 4, 4)
    assert load_data(parse(["--data", "t.csv", "--data.label", "a"]), folder).labels
    with pytest.raises(ConfigurationError, match=r"--data.channels must be"):
        parse(["--data", "faces", "--data.channels", "2"])


def test_a_name_comes_before_a_folder(folder):
    (folder / "digits").mkdir()
    assert parse(["--data", "digits"])["data"]["name"] == "digits"
    assert parse(["--data", "./digits"])["data"]["name"] == "image_folder"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("notes.txt", "a folder of images, or a .npy, .npz, .csv.* file, got notes.txt"),
        ("notes", "a folder of images, or .*, got notes"),
        ("nowhere/faces", "a folder of images, or .*, but there is no nowhere/faces"),
        ("x.xlsx", "a folder of images, or .*, but there is no x.xlsx"),
        (
            "mnits",
            "--data must be one of digits.*: a folder of images, or a .npy.* got 'mnits'; did you mean mnist",
        ),
        ("", "--data must be one of digits"),
        ("a" * 5000, "--data must be one of digits"),
        ("a\0b", "--data must be one of digits"),
        ("a" * 5000 + "/b", "but there is no"),
    ],
)
def test_what_is_neither_name_nor_path_is_refused_in_one_line(folder, path, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse(["--data", path])
    assert "\n" not in str(caught.value)
