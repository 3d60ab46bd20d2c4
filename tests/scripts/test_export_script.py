"""`scripts/export.py`: files, their signature, and a table that onnxruntime reads on its own."""

import json
import subprocess
import sys

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest

from pyro_vae import load


@pytest.fixture(autouse=True)
def no_shape_checks():
    """They would make the number of rows a constant."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_the_files_of_a_run(script, refused, run, capsys):
    assert script("export", run, "--only", "decoder") == 0
    screen = capsys.readouterr().out
    assert "decoder: z float32 (batch, 2)\n  -> x float32 (batch, 1, 8, 8)" in screen
    assert "batch of 256: onnxruntime" in screen
    assert "compared with Python in batches of 1, 3, 7 rows of digits" in screen
    assert all(len(line.replace(str(run), "RUN")) <= 100 for line in screen.splitlines())
    folder = run / "export"
    names = {"decoder.onnx", "decoder.pt2", "signature.json"}
    assert {path.name for path in folder.iterdir()} == names
    signature = json.loads((folder / "signature.json").read_text())
    assert len(signature["checkpoint_sha256"]) == 64
    assert signature["data"]["classes"] == [*"0123456789"]
    decoder = signature["functions"]["decoder"]
    assert decoder["outputs"][0]["shape"] == ["batch", 1, 8, 8]
    assert decoder["files"]["decoder.onnx"]["check"]["largest_difference"] < 1e-6
    # Nothing of this machine.
    for path in folder.iterdir():
        assert str(run).encode() not in path.read_bytes()
        assert __file__.rpartition("/tests")[0].encode() not in path.read_bytes()
    assert "--overwrite replaces it" in refused("export", run)
    assert script("export", run, "--only", "encoder", "--format", "pt2", "--overwrite") == 0
    assert {path.name for path in folder.iterdir()} == {"encoder.pt2", "signature.json"}


def test_bad_input(refused, run, tmp_path, monkeypatch):
    assert "--only must be one of encoder, decoder, sampler" in refused(
        "export", run, "--only", "x"
    )
    assert "--format must be one of onnx, pt2, both" in refused("export", run, "--format", "h5")
    (tmp_path / "file").write_text("")
    assert "must be a folder, got a file" in refused("export", run, "--out", tmp_path / "file")
    assert "no run at" in refused("export", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "onnx", None)
    line = refused("export", run, "--only", "decoder")
    assert "ONNX files need onnx and onnxscript" in line
    assert "pip install 'pyro-vae[export]', or use --format pt2" in line
    assert not (run / "export").exists()


def test_without_onnxruntime_it_says_so(script, run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert script("export", run, "--only", "decoder", "--format", "onnx") == 0
    assert "not compared with Python: onnxruntime is not installed" in capsys.readouterr().out


READER = """
import json, sys, numpy, onnxruntime, pandas
folder, csv, out = sys.argv[1:]
session = onnxruntime.InferenceSession(f"{folder}/encoder.onnx")
columns = json.loads(session.get_modelmeta().custom_metadata_map["columns"])
table = pandas.read_csv(csv)[columns].to_numpy("float32")
z, scale = session.run(["z", "scale"], {"x": table})
numpy.save(out, z)
assert "torch" not in sys.modules and "pyro_vae" not in sys.modules
"""


@pytest.mark.slow
def test_a_table_read_by_onnxruntime_alone(script, train, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"price": 3e6 + 1e6 * rng.normal(size=80), "share": rng.random(80)})
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = train(tmp_path / "run", "--data", tmp_path / "table.csv", "--likelihood", "normal")
    # The data need not be there.
    (tmp_path / "table.csv").unlink()
    out = tmp_path / "out"
    assert script("export", run, "--out", out, "--format", "onnx", "--only", "encoder") == 0
    frame.assign(more=1)[["more", "share", "price"]].to_csv(tmp_path / "new.csv", index=False)
    arguments = [str(out), str(tmp_path / "new.csv"), str(tmp_path / "z.npy")]
    subprocess.run([sys.executable, "-c", READER, *arguments], check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "z.npy"), load(run).embed(frame).numpy(), rtol=1e-4, atol=1e-5
    )
    onnx.checker.check_model(onnx.load(out / "encoder.onnx"), full_check=True)
    assert onnxruntime.get_available_providers()
