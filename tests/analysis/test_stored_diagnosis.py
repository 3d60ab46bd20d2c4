"""Stored sections are replaced one at a time, and marked when they are stale."""

import json

import pytest

from analysis import stored_diagnosis
from analysis.sections import SECTIONS
from analysis.stored_diagnosis import SECTION_NAMES, StoredDiagnosis, mark_stale, stale
from analysis.verdicts import CODE

OF = {
    "checkpoint_sha256": "a",
    "split": "test",
    "n": 30,
    "data_sha256": "d",
    "num_samples": 100,
    "seed": 0,
}


def put(folder, name, reading="", content=b"new", **changed):
    stored = StoredDiagnosis(folder)
    section = {
        "terms": {"verdicts": [{"question": CODE, "answer": "yes", "because": "it is"}]},
        "reading": reading,
        "figures": {"terms": "What?"},
    }
    stored.put(
        name,
        section,
        {"terms": content},
        of=OF | changed,
        seconds=1.0,
        header={"n": 30, **changed},
    )
    return json.loads((folder / "diagnosis.json").read_text())


def test_what_is_stale_says_so_in_the_file_the_answers_and_the_figures(tmp_path):
    put(tmp_path, "elbo", "first")
    found = put(tmp_path, "guide")
    assert found["elbo"]["reading"] == "first"
    assert list(found["figures"]) == ["elbo_terms.png", "guide_terms.png"]
    assert found["seconds"]["sections"] == {"elbo": 1.0, "guide": 1.0}
    found = put(tmp_path, "guide", checkpoint_sha256="b", num_samples=200)
    why = "made for another checkpoint, --samples 100, now 200"
    assert found["elbo"]["stale"] == why
    (answer,) = found["answers"]
    assert (answer["section"], answer["stale"]) == ("elbo", why)
    assert found["figures"]["stale_elbo_terms.png"] == f"Stale ({why}): What?"
    assert {path.name for path in tmp_path.iterdir()} == {"diagnosis.json", *found["figures"]}
    # Made again, it is not.
    found = put(tmp_path, "elbo", "second", checkpoint_sha256="b", num_samples=200)
    assert found["elbo"]["stale"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"diagnosis.json", *found["figures"]}
    assert list(found["figures"]) == ["elbo_terms.png", "guide_terms.png"]


def test_another_checkpoint_marks_all_without_a_new_section(tmp_path):
    put(tmp_path, "elbo")
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"more training")
    mark_stale(tmp_path, checkpoint)
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["elbo"]["stale"] == "made for another checkpoint"
    assert (tmp_path / "stale_elbo_terms.png").exists()


def test_reasons():
    assert stale(OF, OF) is None
    assert stale(None, OF) == "made by an earlier version, which did not record its options"
    # Other data follow from another split or number.
    assert stale(OF, OF | {"split": "validation", "data_sha256": "e"}) == (
        "made for --split test, now validation"
    )
    assert stale(OF, OF | {"data_sha256": "e"}) == "made for other data"


@pytest.mark.parametrize("call", range(4))
def test_an_error_at_any_write_leaves_what_was_there(tmp_path, monkeypatch, call):
    """The figure, the file without its figures, the file with the new ones; 3 is none of these."""
    put(tmp_path, "elbo", "old", b"old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = stored_diagnosis.write_atomically, []

    def full(path, content):
        calls.append(path)
        if len(calls) == call + 1:
            raise OSError("no space left on device")
        real(path, content)

    monkeypatch.setattr(stored_diagnosis, "write_atomically", full)
    if call == 3:
        assert put(tmp_path, "elbo", "new")["elbo"]["reading"] == "new"
        assert (tmp_path / "elbo_terms.png").read_bytes() == b"new"
        return
    with pytest.raises(OSError, match="no space left"):
        put(tmp_path, "elbo", "new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("call", range(2))
def test_an_error_in_the_first_section_leaves_no_folder(tmp_path, monkeypatch, call):
    """At the figure, and at the file, when the figure is in its place."""
    real, calls = stored_diagnosis.write_atomically, []

    def full(path, content):
        calls.append(path)
        if len(calls) == call + 1:
            raise OSError("no space left on device")
        real(path, content)

    monkeypatch.setattr(stored_diagnosis, "write_atomically", full)
    with pytest.raises(OSError, match="no space left"):
        put(tmp_path / "diagnosis", "elbo")
    assert not list(tmp_path.iterdir())


def test_all_sections_are_known():
    assert tuple(SECTIONS) == SECTION_NAMES


def test_a_file_that_is_none_is_not_overwritten(tmp_path):
    (tmp_path / "diagnosis.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read, .* move it away"):
        put(tmp_path, "elbo")
    mark_stale(tmp_path, tmp_path / "none.pt")
    assert (tmp_path / "diagnosis.json").read_text() == "{"
