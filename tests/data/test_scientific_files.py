"""`variable_file`: HDF5, NetCDF, Zarr and MATLAB files, good and bad."""

import json
import sys

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from scipy import io, sparse

from pyro_vae.data import READERS, loader_for_path, variable_file
from pyro_vae.data.scientific_files import variable_rows

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 6))
COUNTS = RANDOM.poisson(0.7, (40, 6))
Y = np.arange(40) % 3
WORDS = ["setosa", "virginica"] * 20


def write_hdf5(path, attributes=(), **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
            file[name].attrs.update(dict(attributes) if name == "x" else {})
    return path


def write_xarray(path, dataset, **options):
    if path.suffix == ".zarr":
        dataset.to_zarr(path, consolidated=False, **options)
    else:
        engine = "scipy" if path.stem == "classic" else "h5netcdf"
        dataset.to_netcdf(path, engine=engine, **options)
    return path


def write_matlab_73(path, words=None, **arrays):
    """As MATLAB writes it: HDF5 after 512 bytes, with the axes the other way round."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            if sparse.issparse(values):
                group = file.create_group(name)
                group.attrs.update(
                    {"MATLAB_sparse": values.shape[0], "MATLAB_class": np.bytes_("double")}
                )
                group["data"], group["ir"], group["jc"] = (
                    values.data,
                    values.indices,
                    values.indptr,
                )
                continue
            file[name] = values.T
            kind = {"float64": "double", "bool": "logical"}.get(
                str(values.dtype), str(values.dtype)
            )
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
        if words is not None:
            cells = [
                file.create_dataset(f"#refs#/{place}", data=[[ord(letter)] for letter in word])
                for place, word in enumerate(words)
            ]
            file["words"] = np.array([[cell.ref for cell in cells]], dtype=h5py.ref_dtype)
            file["words"].attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    return path


@pytest.fixture(params=["x.h5", "x.hdf5", "x.nc", "classic.nc", "x.zarr", "x.mat", "x73.mat"])
def file(tmp_path, request):
    """Data and labels in each kind of file."""
    path = tmp_path / request.param
    if path.suffix in (".h5", ".hdf5"):
        return write_hdf5(path, x=X, y=Y)
    if path.stem == "x73":
        return write_matlab_73(path, x=X, y=Y[:, None].astype(np.float64))
    if path.suffix == ".mat":
        io.savemat(path, {"x": X, "y": Y}, do_compression=True)
        return path
    return write_xarray(path, xr.Dataset({"x": (("row", "b"), X), "y": ("row", Y.astype("i4"))}))


def test_the_only_array_is_taken(file):
    assert loader_for_path(str(file)) == "variable_file"
    rows = READERS["variable_file"](file)
    assert (rows.values == X).all()
    labelled = variable_file(file, label="y")
    assert labelled.support == "real"
    assert torch.equal(labelled.labels["train"].long(), labelled.rows["train"] % 3)


def test_new_rows_need_no_labels_and_may_be_one(file):
    rows = variable_rows(file, label="z")
    assert rows.labels is None
    assert "there is no variable 'z'; there are x (40, 6), y (" in rows.notes[0]
    with pytest.raises(ValueError, match="there is no variable 'z'") as caught:
        variable_file(file, label="z")
    assert str(file) in str(caught.value)
    # Rows of columns, of which new data have one.
    assert variable_rows(file, row_axis=1).values.shape == (6, 40)


def test_damaged_files_are_refused_in_one_line(file):
    if file.is_dir():
        (file / "x" / "zarr.json").write_text("{")
    else:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"damaged or something else") as caught:
        variable_file(file, key="x")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.h5", "x.nc", "x.zarr", "x.mat"])
def test_missing_and_foreign_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ValueError, match=f"{name} must be .*, but there is no such file"):
        variable_file(path)
    path.write_text("1 2 3")
    with pytest.raises(ValueError, match=f"{name} must be .*damaged or something else"):
        variable_file(path)


def test_several_variables_are_listed_with_their_shapes(tmp_path):
    path = write_hdf5(tmp_path / "x.h5", **{"run/x": X, "run/images": COUNTS, "note": "of May"})
    with pytest.raises(ValueError, match=r"key \(--data.key run/images\): .*run/x \(40, 6\)"):
        variable_file(path)
    assert variable_file(path, key="/run/x").event_shape == (6,)
    with pytest.raises(
        ValueError, match=r"no variable 'x'; there are note text.*, run/x \(40, 6\)"
    ):
        variable_file(path, key="x")
    with pytest.raises(ValueError, match="note is text or objects, not an array of numbers"):
        variable_file(path, key="note")
    with pytest.raises(ValueError, match="note has shape"):
        variable_file(path, key="run/x", label="note")
    with pytest.raises(ValueError, match="no array of numbers with two axes"):
        variable_file(write_hdf5(tmp_path / "y.h5", y=Y))


def test_labels_of_words_and_of_another_axis(tmp_path):
    path = write_hdf5(tmp_path / "x.h5", x=X.T, y=WORDS, row=Y[:6])
    with pytest.raises(ValueError, match=r"one entry for each of the 6 rows .*--data.row-axis 1"):
        variable_file(path, label="y")
    rows = variable_rows(path, label="y", row_axis=-1)
    assert (rows.values == X).all()
    assert rows.labels[:3].tolist() == ["setosa", "virginica", "setosa"]
    assert variable_file(path, label="y", row_axis=1).label_names == ("setosa", "virginica")
    with pytest.raises(ValueError, match="x has 2 axes; there is no axis 2"):
        variable_file(path, row_axis=2)


def test_groups_splits_and_layouts(tmp_path):
    parts = ["train", "test", "validation", "train"] * 10
    path = write_hdf5(
        tmp_path / "x.h5", x=X.reshape(40, 3, 2), part=parts, site=np.arange(40) // 5
    )
    assert variable_file(path, layout="series", channels="first").event_shape == (3, 2)
    assert variable_file(path, layout="series", channels="last").event_shape == (2, 3)
    dataset = variable_file(path, split="part")
    assert (dataset.event_shape, len(dataset.train)) == ((1, 3, 2), 20)
    rows = variable_file(path, group="site").rows
    sites = [set((row // 5).tolist()) for row in rows.values()]
    assert sum(map(len, sites)) == len(set.union(*sites)) == 8
    np.save(tmp_path / "site.npy", np.arange(40) // 5)
    same = variable_file(path, group=str(tmp_path / "site.npy")).rows
    assert torch.equal(same["train"], rows["train"])
    with pytest.raises(ValueError, match=r"x.h5: sites must be a .npy, .csv or .txt file"):
        variable_file(path, group="sites")


@pytest.mark.parametrize("name", ["x.nc", "x.zarr"])
def test_groups_coordinates_and_bounds_of_xarray(tmp_path, name):
    bands = {"band": [450, 550, 650, 750, 850, 950], "time": np.arange(40.0)}
    dataset = xr.Dataset(
        {"x": (("time", "band"), X), "time_bnds": (("time", "two"), X[:, :2])}, bands
    )
    dataset["time"].attrs = {"bounds": "time_bnds", "units": "days since 2000-01-01"}
    path = write_xarray(tmp_path / name, dataset)
    rows = variable_rows(path)
    assert (rows.values == X).all()
    assert rows.event_names == ("450", "550", "650", "750", "850", "950")
    write_xarray(path, xr.Dataset({"x": (("n", "d"), X * 2)}), group="night", mode="a")
    assert (variable_rows(path, key="night/x").values == X * 2).all()
    with pytest.raises(ValueError, match=r"x \(40, 6\), night/x \(40, 6\)"):
        variable_rows(path)


@pytest.mark.parametrize("name", ["x.h5", "x.nc", "classic.nc", "x.zarr"])
def test_fill_values_and_scales_are_applied(tmp_path, name):
    def write(values, **attributes):
        path = tmp_path / name
        if name == "x.h5":
            # Often an array of one number.
            return write_hdf5(path, {key: [value] for key, value in attributes.items()}, x=values)
        dataset = xr.Dataset({"x": (("row", "b"), values, attributes)})
        return write_xarray(path, dataset, mode="w")

    packed = COUNTS.astype(np.int16)
    scaled = variable_rows(write(packed, scale_factor=0.1, add_offset=20.0)).values
    assert np.allclose(scaled, COUNTS * 0.1 + 20)
    whole = variable_rows(write(packed, _FillValue=np.int16(-999))).values
    assert whole.dtype == np.int16
    assert (whole == COUNTS).all()
    packed[3, 1:3] = -999
    said = (
        r"x has no value in 2 of 240 places \(fill value -999\), in 1 of 40 entries .*: fill them"
    )
    with pytest.raises(ValueError, match=said):
        variable_file(write(packed, _FillValue=np.int16(-999)))


def test_kinds_of_matlab(tmp_path):
    cells = np.empty((40, 1), object)
    cells[:, 0] = WORDS
    matrix = sparse.csc_matrix(COUNTS.astype(np.float64))
    old, new = tmp_path / "old.mat", tmp_path / "new.mat"
    io.savemat(old, {"x": matrix, "words": cells, "s": {"a": X}, "text": WORDS, "m": X > 0})
    write_matlab_73(new, words=WORDS, x=matrix, m=X > 0)
    for path in (old, new):
        rows = variable_rows(path, key="x", label="words")
        assert (rows.values.toarray() == COUNTS).all()
        assert rows.support == "counts"
        assert rows.labels.tolist() == WORDS
        assert variable_file(path, key="x").support == "counts"
        assert variable_file(path, key="m").support == "binary"
        with pytest.raises(ValueError, match=r"words is a cell array, not an array of numbers"):
            variable_file(path, key="words")
    assert variable_rows(old, key="x", label="text").labels.tolist() == WORDS
    with pytest.raises(ValueError, match=r"s is a struct array, not .*: save its numbers as"):
        variable_file(old, key="s")


def test_one_new_row_of_matlab(tmp_path):
    io.savemat(tmp_path / "x.mat", {"x": X[:1], "y": 2.0})
    rows = variable_rows(tmp_path / "x.mat", label="y")
    assert rows.values.shape == (1, 6)
    assert rows.labels.tolist() == [2]


def test_what_does_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (2**30, 2**20), "f4", chunks=True, compression="gzip")
    io.savemat(tmp_path / "x.mat", {"x": np.zeros((2**20, 8))}, do_compression=True)
    with pytest.raises(ValueError, match=r"x would be an array .* Keep fewer"):
        variable_file(tmp_path / "x.h5")
    monkeypatch.setattr("pyro_vae.data.memory_mapped._memory_bytes", lambda: 2.0**26)
    with pytest.raises(ValueError, match=r"x would be an array .* Keep fewer"):
        variable_file(tmp_path / "x.mat")


def test_pickles_of_zarr_are_refused(tmp_path):
    path = write_xarray(tmp_path / "x.zarr", xr.Dataset({"x": (("n", "d"), X)}), zarr_format=2)
    metadata = json.loads((path / "x" / ".zarray").read_text())
    metadata["filters"] = [{"id": "pickle", "protocol": 4}]
    (path / "x" / ".zarray").write_text(json.dumps(metadata).replace("pickle", "\\u0070ickle"))
    with pytest.raises(ValueError, match=r"x/\.zarray names a pickle"):
        variable_file(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = write_hdf5(tmp_path / "x.h5", x=X)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert loader_for_path(str(path)) == "variable_file"
    with pytest.raises(ImportError, match=r"an HDF5 file is read by h5py.*pip install h5py"):
        variable_file(path)


@pytest.mark.parametrize("fill", [{}, {"_FillValue": np.int8(-1)}])
@pytest.mark.parametrize("name", ["x.nc", "classic.nc", "x.h5"])
def test_signed_integers_that_stand_for_unsigned_ones(tmp_path, name, fill):
    values = RANDOM.integers(0, 255, (40, 6)).astype(np.uint8)
    attributes = {"_Unsigned": "true", **fill}
    if name == "x.h5":
        path = write_hdf5(tmp_path / name, attributes, x=values.view(np.int8))
    else:
        variable = (("row", "column"), values.view(np.int8), attributes)
        path = write_xarray(tmp_path / name, xr.Dataset({"x": variable}))
    rows = variable_rows(path)
    assert rows.values.dtype == np.uint8
    np.testing.assert_array_equal(rows.values, values)


def test_whole_numbers_that_a_fill_value_would_round(tmp_path):
    variable = (("row", "column"), 2**60 + np.arange(72).reshape(12, 6), {"_FillValue": -1})
    path = write_xarray(tmp_path / "x.nc", xr.Dataset({"x": variable}))
    with pytest.raises(ValueError, match="save it without _FillValue"):
        variable_rows(path)


def test_names_are_those_of_the_elements_of_a_row(tmp_path):
    names = {axis: [f"{axis}{place}" for place in range(12)] for axis in ("gene", "cell")}
    square = xr.Dataset({"x": (("gene", "cell"), RANDOM.normal(size=(12, 12)))}, names)
    path = write_xarray(tmp_path / "x.nc", square)
    assert list(variable_rows(path).event_names) == names["cell"]
    assert list(variable_rows(path, row_axis=1).event_names) == names["gene"]
    assert list(variable_rows(path, row_axis=-2).event_names) == names["cell"]
