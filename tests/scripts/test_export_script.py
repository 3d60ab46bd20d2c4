"""`scripts/export.py`: files, their signature, and a table that onnxruntime reads on its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import pandas as pd
import pytest
import torch

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
    always = {"signature.json", "model.safetensors", "README.md"}
    names = {"decoder.onnx", "decoder.pt2", *always}
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
    assert {path.name for path in folder.iterdir()} == {"encoder.pt2", *always}


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


@pytest.mark.slow
def test_the_lines_of_the_card_run(script, run, monkeypatch):
    assert script("export", run, "--only", "encoder") == 0
    monkeypatch.chdir(run / "export")
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    x = np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8)).astype(np.float32)
    scope = {"x": x, "vae": load(run)}
    onnx_lines, torch_lines = (b for b in blocks if "encoder." in b)
    exec(onnx_lines, scope)
    codes = scope["codes"]
    exec(torch_lines, {**scope, "x": torch.from_numpy(x)})
    exec(next(b for b in blocks if "load_safetensors" in b), scope)
    with torch.no_grad():
        expected = scope["vae"].embed(torch.from_numpy((x > 8).astype(np.float32)))
    np.testing.assert_allclose(codes, expected.numpy(), rtol=1e-4, atol=1e-5)


PAGE = Path(__file__).parents[2] / "docs" / "export.md"
END = """
np.savez("found.npz", z=z, again=again, drawn=drawn, columns=columns)
import sys
assert "torch" not in sys.modules and "pyro_vae" not in sys.modules
"""


@pytest.mark.slow
def test_the_page_reads_a_table_by_onnxruntime_alone(script, train, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"price": 3e6 + 1e6 * rng.normal(size=80), "share": rng.random(80)})
    frame.to_csv(tmp_path / "houses.csv", index=False)
    monkeypatch.chdir(tmp_path)
    options = ("--likelihood", "normal", "--prior", "gaussian_mixture")
    run = train(Path("runs/houses"), "--data", "houses.csv", *options)
    # The data need not be there.
    (tmp_path / "houses.csv").unlink()
    assert script("export", run, "--format", "onnx") == 0
    frame.assign(more=1)[["more", "share", "price"]].to_csv("new_houses.csv", index=False)
    table, sampler = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    sampler = sampler.replace("x, z = sampler", "drawn, _ = sampler")
    subprocess.run([sys.executable, "-c", table + sampler + END], check=True, capture_output=True)
    vae, found = load(run), np.load("found.npz")
    assert found["columns"].tolist() == ["price", "share"]
    np.testing.assert_allclose(found["z"], vae.embed(frame).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["again"], vae.reconstruct(frame), rtol=1e-4)
    own = vae.sample(1000, seed=0)
    assert (abs(found["drawn"].mean(0) - own.mean()) < 0.2 * own.std()).all()
    for name in ("encoder", "decoder", "sampler"):
        onnx.checker.check_model(onnx.load(run / "export" / f"{name}.onnx"), full_check=True)
