"""What is kept comes back as it was, or not at all."""

import logging
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from jaxtyping import Float

from pyro_vae.runs.result_cache import ResultCache, code_hash, digest, from_arrays, to_arrays


@dataclass(frozen=True)
class Inner:
    """A result inside another."""

    values: np.ndarray
    word: str


@dataclass(frozen=True)
class Result:
    """A field of each type that there is."""

    values: Float[np.ndarray, " n"]
    absent: Float[np.ndarray, "points n"] | None
    number: int
    share: float
    inner: Inner

    def summary(self):
        return {"n": len(self.values)}


RESULT = Result(
    np.array([0.1, -np.inf, np.nan]),
    None,
    7,
    0.5,
    Inner(np.arange(6).reshape(2, 3), "Monte Carlo"),
)


def same(one: Result, other: Result) -> bool:
    a, b = to_arrays(one), to_arrays(other)
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k], equal_nan=a[k].dtype.kind == "f") for k in a
    )


def test_a_result_comes_back(tmp_path):
    kept = ResultCache(tmp_path / "new" / "kept")
    assert kept.read("a-1", Result, 3) is None
    kept.write("a-1", RESULT, 1.5)
    result, seconds = kept.read("a-1", Result, 3)
    assert same(result, RESULT)
    assert seconds == 1.5
    assert type(result.number) is int
    assert result.absent is None
    assert result.inner.word == "Monte Carlo"
    assert [path.name for path in kept.folder.iterdir()] == ["a-1.npz"]


def bombs(path):
    """Zeros that are shorter on the disk than in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("values.npy", bytes(10**6))


def pickles(path):
    np.savez(path, **{**to_arrays(RESULT), "values": np.array([{}], dtype=object)}, seconds=1.0)


def flips(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 123] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, values=np.zeros(3), seconds=1.0),
        lambda path: np.savez(path, **to_arrays(RESULT), seconds=np.nan),
        lambda path: np.savez(path, **to_arrays(RESULT)),
        # One length has one name.
        lambda path: np.savez(path, **to_arrays(RESULT), absent=np.zeros((2, 4)), seconds=1.0),
        lambda path: np.savez(path, **{**to_arrays(RESULT), "number": 0.5}, seconds=1.0),
        bombs,
        pickles,
        flips,
    ],
)
def test_what_is_damaged_is_not_taken(tmp_path, caplog, damage):
    kept = ResultCache(tmp_path)
    kept.write("a-1", RESULT, 1.0)
    damage(tmp_path / "a-1.npz")
    with caplog.at_level(logging.WARNING):
        assert kept.read("a-1", Result, 3) is None
    (record,) = caplog.records
    assert "a-1.npz is damaged, and made again" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_another_number_of_data_is_not_taken(tmp_path):
    kept = ResultCache(tmp_path)
    kept.write("a-1", RESULT, 1.0)
    assert kept.read("a-1", Result, 4) is None


def test_a_digest_differs_where_anything_does():
    of = {
        "seed": 0,
        "rows": torch.arange(3),
        "x": np.zeros((2, 3)),
        "none": None,
        "part": {"a": 1.0},
    }
    others = [
        {**of, "seed": 1},
        {**of, "rows": torch.arange(4)},
        {**of, "rows": torch.arange(3, dtype=torch.int32)},
        {**of, "x": np.zeros((3, 2))},
        {**of, "x": np.eye(2, 3)},
        {**of, "none": 0},
        {**of, "part": {"a": 1.5}},
    ]
    assert len({digest(each) for each in (of, *others)}) == 8
    assert digest(dict(reversed(of.items()))) == digest({**of, "x": np.zeros((2, 3))})
    assert len(digest(of)) == 32
    with pytest.raises(TypeError, match="plain values and arrays, got object"):
        digest({"a": object()})


def test_methods_are_forgotten_alone(tmp_path):
    kept = ResultCache(tmp_path)
    for method in ("one", "other"):
        kept.write(f"{method}-{digest({})}", RESULT, 1.0)
    (tmp_path / f".one-{digest({})}.npz.tmp").write_bytes(b"")
    kept.forget(["one"])
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["other"]


def test_the_codes_hash_is_one():
    assert code_hash() == code_hash()


def test_words_and_numbers_alone():
    with pytest.raises(ValueError, match="values must hold numbers or words, got complex128"):
        from_arrays(Result, {**to_arrays(RESULT), "values": np.zeros(3, complex)})
