"""The cache of results: results come back as they were, or not at all."""

import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from jaxtyping import Float

from pyro_vae.runs.result_cache import ResultCache, digest, from_arrays, to_arrays


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
    cache = ResultCache(tmp_path / "new" / "kept")
    assert cache.read("a-1", Result, 3) is None
    cache.write("a-1", RESULT, 1.5)
    result, seconds = cache.read("a-1", Result, 3)
    assert same(result, RESULT)
    assert seconds == 1.5
    assert type(result.number) is int
    assert result.absent is None
    assert result.inner.word == "Monte Carlo"
    assert [path.name for path in cache.folder.iterdir()] == ["a-1.npz"]


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
        lambda path: np.savez(path, **to_arrays(RESULT)),
        pickles,
        flips,
    ],
)
def test_a_damaged_file_is_not_read(tmp_path, caplog, damage):
    cache = ResultCache(tmp_path)
    cache.write("a-1", RESULT, 1.0)
    damage(tmp_path / "a-1.npz")
    with caplog.at_level(logging.WARNING):
        assert cache.read("a-1", Result, 3) is None
    (record,) = caplog.records
    assert "a-1.npz is damaged and will be recomputed" in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_result_of_another_number_is_not_read(tmp_path):
    cache = ResultCache(tmp_path)
    cache.write("a-1", RESULT, 1.0)
    assert cache.read("a-1", Result, 4) is None


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
    with pytest.raises(TypeError, match="takes plain values and arrays, got object"):
        digest({"a": object()})


def test_methods_are_forgotten_alone(tmp_path):
    cache = ResultCache(tmp_path)
    for method in ("one", "other"):
        cache.write(f"{method}-{digest({})}", RESULT, 1.0)
    (tmp_path / f".one-{digest({})}.npz.tmp").write_bytes(b"")
    cache.clear(["one"])
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["other"]


def test_chunks_are_computed_once(tmp_path):
    cache, rows = ResultCache(tmp_path), torch.arange(6)

    def results(compute):
        found = cache.map_chunks("a", Result, rows.split(3), compute, lambda part: {"rows": part})
        return [(part.tolist(), result.number) for part, result, _ in found]

    expected = [([0, 1, 2], 7), ([3, 4, 5], 7)]
    assert results(lambda part: RESULT) == expected
    assert results(lambda part: pytest.fail("computed again")) == expected


def test_a_missing_field_is_refused():
    arrays = to_arrays(RESULT)
    del arrays["share"]
    with pytest.raises(ValueError, match="share is missing"):
        from_arrays(Result, arrays)
