"""Generated bad input: files, arrays, options, configurations and checkpoints.

Each ends in a `ValueError`, which the program prints in one line with exit code 2; none in another
error, a hang, a run directory, or numbers that the input does not hold. The examples are always the same.
"""

import atexit
import contextlib
import copy
import inspect
import io
import json
import runpy
import shutil
import tempfile
import types
import typing
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, configuration, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pyro_vae import build
from pyro_vae.configuration import ConfigurationError
from pyro_vae.configuration.components import FAMILIES, UNSAVED, to_yaml
from pyro_vae.configuration.parser import HANDED, parse, run_options
from pyro_vae.data import DATASETS, Dataset, PreparedData, array_file, digits
from pyro_vae.training import Training
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint

SCRIPT = Path(__file__).parents[2] / "scripts" / "svi_train.py"
HERE = Path(tempfile.mkdtemp(prefix="bad-input-"))
atexit.register(shutil.rmtree, HERE, ignore_errors=True)
# Not in the repository.
configuration.set_hypothesis_home_dir(HERE / "hypothesis")
# A hang is a failure: nothing here takes a second on a quiet machine.
DEADLINE = 10_000


def generated(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=DEADLINE,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


# ---- options ---------------------------------------------------------------------------------


def all_options() -> list[tuple[list[str], str, Any]]:
    """Every option there is: what selects its part, how it is typed, its annotation."""
    found = [([], name, p.annotation) for name, p in parameters(run_options)]
    found += [([], name, p.annotation) for name, p in parameters(Training)]
    found += [([], name, p.annotation) for name, p in parameters(PreparedData)]
    found.append(([], "latent_dim", int))
    for family, choices in FAMILIES.items():
        for part, constructor in choices.items():
            needed = [
                f"--{family}.{name}=x"
                for name, p in parameters(constructor)
                if p.default is inspect.Parameter.empty
            ]
            for name, p in parameters(constructor):
                found.append(([f"--{family}={part}", *needed], f"{family}.{name}", p.annotation))
    return [item for item in found if item[1].partition(".")[0] not in {"config"}]


def parameters(constructor: Any) -> list[tuple[str, inspect.Parameter]]:
    skipped = HANDED | {
        "program",
        "data",
        "objective",
        "processes",
        "dataset",
        "likelihood_support",
    }
    found = inspect.signature(constructor, eval_str=True).parameters.items()
    return [(name, p) for name, p in found if name not in skipped]


def accepts(annotation: Any, value: Any) -> bool:
    """Whether a value is of a type."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return value in inner
    if origin in (typing.Union, types.UnionType):
        return any(accepts(one, value) for one in inner)
    if annotation == Sequence[int] and type(value) is int and value >= 0:
        # A list of one.
        return True
    if origin in (list, tuple, Sequence):
        return isinstance(value, (list, tuple)) and all(accepts(inner[0], one) for one in value)
    if annotation is float:
        return type(value) in (int, float) and abs(value) < float("inf")
    if annotation in (str, Path) or (
        isinstance(annotation, type) and issubclass(annotation, Path)
    ):
        return True
    return annotation in (None, type(None), int, bool) and type(value) is (
        type(None) if annotation is None else annotation
    )


OPTIONS = all_options()
TYPED = [option for option in OPTIONS if not accepts(option[2], "some words")]
WORDS = st.sampled_from(["zzz", "some words", "0x", "1.2.3", "--", "/", "é", "\u2028", "a" * 3000])
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**20), st.floats(), WORDS, st.just("")
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "class_path", "init_args", "a"]), inner, min_size=1
        ),
    ),
    max_leaves=6,
)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@generated(100)
@given(st.sampled_from(TYPED), VALUES)
def test_an_option_of_a_wrong_type(option, value):
    selection, name, annotation = option
    assume(not accepts(annotation, value))
    with pytest.raises(ConfigurationError, match=r"\S"):
        parse([*selection, f"--{name}={as_text(value)}"])


@generated(30)
@given(st.from_regex(r"[a-z_]{1,12}(\.[a-z_]{1,12})?", fullmatch=True), WORDS)
def test_an_unknown_option(name, value):
    names = {option[1] for option in OPTIONS} | {*FAMILIES, *UNSAVED, "model", "help"}
    assume(name not in names and not name.endswith(".name"))
    with pytest.raises(ConfigurationError, match=r"\S"):
        parse([f"--{name}={value}"])


def test_every_option_is_of_a_plain_type():
    """So that none can name a class to be imported."""

    def plain(annotation: Any) -> bool:
        origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Literal:
            return True
        if origin in (typing.Union, types.UnionType, list, tuple, Sequence):
            return all(plain(one) for one in inner if one is not ...)
        return annotation in (int, float, bool, str, Path, type(None))

    assert [option[1] for option in OPTIONS if not plain(option[2])] == []


# ---- configurations --------------------------------------------------------------------------

GOOD = yaml.safe_load(to_yaml(parse(["--prior=vamp", "--objective=beta"])))
SCALARS = sorted(name for name, value in GOOD.items() if not isinstance(value, dict))
CONFIG = HERE / "config.yaml"


def spoilt() -> st.SearchStrategy[Any]:
    """A good configuration with one thing wrong that no reading makes good."""

    def put(name: Any, value: Any) -> dict:
        return {**copy.deepcopy(GOOD), name: value}

    nested = st.dictionaries(st.sampled_from(["a", "name", "seed"]), PLAIN, max_size=2)
    strange = st.one_of(
        st.from_regex(r"z[a-z]{2,8}", fullmatch=True),
        st.sampled_from(
            ["out=x", "", "--seed", "__class__", "seed=5 #", "a b", "<<", "é", "prior."]
        ),
        st.integers(),
        st.none(),
        st.booleans(),
    )
    return st.one_of(
        st.builds(put, strange, PLAIN),
        st.builds(put, st.sampled_from(SCALARS), nested),
        st.builds(put, st.sampled_from(UNSAVED), st.booleans()),
        st.builds(put, st.sampled_from(sorted(FAMILIES)), st.lists(PLAIN, max_size=2)),
        st.builds(put, st.sampled_from(sorted(FAMILIES)), st.builds(dict, zz=PLAIN)),
        st.builds(
            lambda family, value: put(family, {**GOOD[family], "class_path": value}),
            st.sampled_from(sorted(FAMILIES)),
            st.sampled_from(["os.system", "torch.nn.Linear"]),
        ),
        st.builds(
            put,
            st.sampled_from(["lr", "epochs", "latent_dim", "batch_size", "dequantise"]),
            st.one_of(WORDS, st.sampled_from([float("nan"), float("inf"), [1], [[1]]])),
        ),
        st.one_of(PLAIN, st.lists(PLAIN, max_size=3)),
    )


@generated(100)
@given(spoilt())
def test_a_configuration_with_one_thing_wrong(content):
    CONFIG.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"\S"):
        parse(["--config", str(CONFIG)])


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "- a", "a: [", "\t", "a: b: c", "--- a\n--- b"),
        *("seed: 1\nseed: 2", "prior.name: vamp\nprior: vamp", "? [1]\n: 3"),
        *("latent_dim: 5\nlatent-dim: 6", "seed: 1:30", "seed: 1_000", "lr: {}", "prior: {}"),
        *("seed: 2020-01-01", "seed: !!set {1, 2}", "data_root: [1]", "model: [vae]"),
        *("seed: !!python/object/apply:os.system ['true']", "a: " + "[" * 5000),
        *("seed: " + "9" * 5000, "x" * 200_000, "network: {hidden: ['a, b']}"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_is_no_configuration(text):
    CONFIG.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"\S"):
        parse(["--config", str(CONFIG)])


@generated(60)
@given(st.binary(max_size=60), st.integers(0, 2000), st.integers(0, 255))
def test_a_configuration_whose_bytes_are_damaged(noise, position, byte):
    """Cut, overwritten, or noise: refused, or a configuration that says what it says."""
    good = to_yaml(parse([])).encode()
    position %= len(good)
    for content in (
        good[:position],
        good[:position] + bytes([byte]) + good[position + 1 :],
        noise,
    ):
        CONFIG.write_bytes(content)
        try:
            read = parse(["--config", str(CONFIG)])
        except ConfigurationError:
            pass
        else:
            assert parse(["--config", str(CONFIG)]) == read


# ---- arrays and files ------------------------------------------------------------------------

N = st.integers(10, 14)
NOT_NUMBERS = st.sampled_from(["O", "S3", "U3", "M8[s]", "m8[s]", "c16", "V4"])


@st.composite
def bad_arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays that no data set can be made of, whatever the options."""
    n = draw(N)
    kind = draw(
        st.sampled_from(["rank", "channels last", "few", "not finite", "type", "negative"])
    )
    if kind == "rank":
        return np.zeros(draw(st.sampled_from([(), (n,), (n, 1, 2, 2, 2), (n, 0), (n, 5, 4, 4)])))
    if kind == "channels last":
        size = draw(st.integers(4, 9))
        return np.zeros((n, size, size, draw(st.sampled_from([1, 3]))), np.uint8)
    if kind == "few":
        return np.zeros((draw(st.integers(0, 9)), 4), np.uint8)
    if kind == "not finite":
        array = draw(hnp.arrays(np.float32, (n, 3), elements=st.floats(0, 1, width=32)))
        array[draw(st.integers(0, n - 1)), 1] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        return array
    if kind == "type":
        return np.zeros((n, 4), draw(NOT_NUMBERS))
    return np.full((n, 4), -draw(st.integers(1, 100)), draw(st.sampled_from([np.int8, np.int64])))


@generated(60)
@given(bad_arrays())
def test_an_array_that_is_no_data(array):
    with pytest.raises(ValueError, match=r"\S"):
        Dataset.from_array(array)
    path = HERE / "mapped.npy"
    path.write_bytes(npy_bytes(array))
    with pytest.raises(ValueError, match=r"\S"):
        array_file(path, memory_map=True)


@generated(60)
@given(N, st.integers(0, 30), st.sampled_from([1, 2, 0, -5, 10]))
def test_labels_and_levels_that_do_not_fit(n, labels, levels):
    array = np.full((n, 4), 11, np.uint8)
    with pytest.raises(ValueError, match=r"\S"):
        Dataset.from_array(array, levels=levels)
    assume(labels != n)
    with pytest.raises(ValueError, match=r"\S"):
        Dataset.from_array(array, labels=np.zeros(labels, int))


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4)).astype(np.uint8)
GOOD_FILES = {
    ".npy": npy_bytes(IMAGES),
    ".npz": npz_bytes(x=IMAGES, y=np.arange(12)),
}


def header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@generated(60)
@given(
    st.sampled_from([".npy", ".npz"]),
    st.integers(0, 10**6),
    st.integers(0, 7),
    st.binary(max_size=40),
)
def test_a_file_whose_bytes_are_damaged(suffix, position, bit, noise):
    """Cut, with a bit flipped, or noise. A flip that leaves a file of the kind is no damage."""
    good = GOOD_FILES[suffix]
    position %= len(good)
    flipped = bytearray(good)
    flipped[position] ^= 1 << bit
    path = HERE / f"data{suffix}"
    for content, cut in ((good[:position], True), (bytes(flipped), False), (noise, True)):
        path.write_bytes(content)
        for memory_map in (None, True):
            try:
                data = array_file(path, memory_map=memory_map).in_memory()
            except ValueError:
                pass
            else:
                assert not cut
                assert data.split("train").isfinite().all()


@generated(40)
@given(
    st.one_of(
        st.lists(st.integers(10**6, 10**15), min_size=2, max_size=4).map(tuple),
        st.sampled_from([(10**12, 4), (2**31, 2**31, 2**31), (2**62, 2), (12, -1), (-1, 4), ()]),
    ),
    st.sampled_from(["'|u1'", "'<f8'", "'|O'", "'|S0'", "'|V0'", "'<f4'", "[('a', '<f4')]"]),
    st.sampled_from([".npy", ".npz"]),
)
def test_a_header_that_claims_more_than_there_is(shape, descr, suffix):
    content = header(str(shape), descr) + bytes(7)
    if suffix == ".npz":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x.npy", content)
        content = buffer.getvalue()
    path = HERE / f"huge{suffix}"
    path.write_bytes(content)
    for memory_map in (None, True):
        with pytest.raises(ValueError, match=r"\S"):
            array_file(path, memory_map=memory_map)


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(buffer, "PNG")
    return buffer.getvalue()


@generated(40)
@given(
    st.integers(0, 19),
    st.sampled_from(["", "x", "nan", "inf", "1e999", "0x1", "1:30", "1;2", "1,2,3", '"', "\0"]),
)
def test_a_table_with_one_bad_cell(row, cell):
    rows = [f"{i},{i + 1}" for i in range(20)]
    rows[row] = f"{cell},1"
    path = HERE / "table.csv"
    path.write_text("\n".join(["a,b", *rows]) + "\n")
    with pytest.raises(ValueError, match=r"\S"):
        DATASETS["table_file"](path)


@generated(40)
@given(st.integers(0, 10**6), st.integers(0, 11))
def test_a_folder_with_one_picture_cut_short(length, which):
    good = png_bytes()
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    for i in range(12):
        # Without the last chunk a PNG is whole enough to be read.
        (folder / f"{i}.png").write_bytes(
            good[: length % (len(good) - 20)] if i == which else good
        )
    with pytest.raises(ValueError, match=r"\S"):
        DATASETS["image_folder"](folder)


# ---- checkpoints -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training() -> Training:
    data = PreparedData(Dataset.from_array(digits().train[:40], levels=17), "binary")
    return Training(build((1, 8, 8), 2), data, epochs=2, batch_size=20)


@generated(40)
@given(st.integers(0, 10**9), st.integers(0, 7), st.binary(max_size=40))
def test_a_checkpoint_whose_bytes_are_damaged(training, position, bit, noise):
    path = HERE / "checkpoint.pt"
    good = HERE / "good.pt"
    if not good.exists():
        save_checkpoint(good, training.state_dict())
    whole = good.read_bytes()
    position %= len(whole)
    flipped = bytearray(whole)
    flipped[position] ^= 1 << bit
    for content, cut in ((whole[:position], True), (bytes(flipped), False), (noise, True)):
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            load_checkpoint(path)
            assert not cut


# ---- the whole program -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(SCRIPT))["main"]


def refused(main, capsys, *arguments: str) -> str:
    """Exit code 2, one line, and no run directory."""
    out = HERE / "run"
    capsys.readouterr()
    code = main([f"--out={out}", "--max-steps=1", "--evaluate=none", *map(str, arguments)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code == 2, line
    assert line.startswith("svi_train.py: error: ")
    assert not out.exists()
    return line


NUMBERS = [
    option for option in OPTIONS if accepts(option[2], -1) and not accepts(option[2], "words")
]


@pytest.mark.parametrize("option", NUMBERS, ids=lambda option: "-".join([*option[0], option[1]]))
def test_a_number_out_of_range(main, capsys, option):
    selection, name, _ = option
    refused(main, capsys, *selection, f"--{name}=-1")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--latent-dim", "0"], ["--latent-dim", str(10**9)], ["--latent-dim", str(10**30)]),
        *(["--network.hidden", f"[{10**9}, {10**9}]"], ["--network.hidden", f"[{10**30}]"]),
        ["--prior", "gaussian_mixture", "--prior.components", str(10**13)],
        ["--likelihood", "normal", "--likelihood.initial-scale", "1e300"],
        *(["--seed", str(10**30)], ["--seed", str(2**40)], ["--prior", ""], ["--data", ""]),
        *(["--config", ""], ["--model", ""], ["--out", ""], ["--resume=x"], ["--overwrite=x"]),
        *(["--out", "a\0b"], ["--out", "/dev/null/x"], ["--out", "x" * 5000], ["--config", "a\0"]),
        *(["--data", "x" * 5000 + ".npy"], ["--data", "a\0.npy"], ["--config", "/dev/zero"]),
        *(["--model", "x" * 5000 + ".py"], ["--data", "/dev/zero"], ["--resume", "--out", "/dev"]),
        *(["--lr", "!!python/object/apply:os.system [true]"], ["--seed", "1" * 5000], ["--", "x"]),
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_a_command_line_that_is_refused(main, capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    assert len(refused(main, capsys, *arguments)) < 10_000
    assert list(tmp_path.iterdir()) == []


@generated(40)
@given(bad_arrays(), st.sampled_from([".npy", ".npz"]))
def test_a_file_that_is_no_data(main, array, suffix):
    path = HERE / f"bad{suffix}"
    path.write_bytes(npz_bytes(x=array) if suffix == ".npz" else npy_bytes(array))
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        code = main([f"--data={path}", f"--out={HERE / 'run'}", "--max-steps=1"])
    (line,) = error.getvalue().strip().splitlines()
    assert code == 2, line
    assert not (HERE / "run").exists()


@pytest.mark.parametrize(
    ("array", "likelihood"),
    [
        (np.arange(60).reshape(15, 4), "bernoulli"),  # counts
        (np.arange(60).reshape(15, 4), "normal"),
        (np.full((15, 4), 300, np.uint16), "continuous_bernoulli"),
        (np.full((15, 4), 2.0), "bernoulli"),
        (np.arange(15), "normal"),  # labels
    ],
)
def test_data_that_the_likelihood_is_no_density_on(main, capsys, array, likelihood):
    path = HERE / "other.npy"
    np.save(path, array)
    refused(main, capsys, f"--data={path}", f"--likelihood={likelihood}")
