"""Printed reports: commands stay whole where text is wrapped, and folders are replaced as a whole."""

import json

import pytest

from analysis.report import insert_run, wrap, write_reports
from analysis.result import ANNEALING


def test_a_command_is_printed_whole():
    lines = wrap(f"{'word ' * 17}`{ANNEALING}` is surer.")
    printed = insert_run("\n".join(lines), "runs/a b")
    command = ANNEALING.replace("RUN", "runs/a b")
    assert f"\n  `{command}`" in printed


def test_a_folder_is_replaced_or_left_empty(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    write_reports(folder, {"a.png": b"a"}, {"one.json": {"x": float("nan")}})
    assert json.loads((folder / "one.json").read_text()) == {"x": None}
    write_reports(folder, {"b.png": b"b"}, {"two.json": {}})
    assert {path.name for path in folder.iterdir()} == {"b.png", "two.json"}
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_reports(folder, {"b.png": b"b"}, {"two.json": {}})
    assert not folder.exists()
