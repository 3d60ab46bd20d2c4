"""The command `pyro-vae`: its commands are the scripts, and messages name it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pyro_vae
import pyro_vae_console
from pyro_vae.cli import Parser
from pyro_vae.commands import COMMANDS, as_typed

ROOT = Path(__file__).parents[1]


def console(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command, run in a folder outside of the checkout."""
    return subprocess.run(
        [sys.executable, str(ROOT / "pyro_vae_console.py"), *words],
        check=False,
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def run_by_console(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pyro-vae diagnose", "runs/a"])


def test_commands_and_version_come_without_torch(tmp_path):
    # A folder without torch stands for one that would be slow to import.
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    helped = console("--help", cwd=tmp_path)
    assert helped.returncode == 0, helped.stderr
    for command, path in pyro_vae_console.COMMANDS.items():
        assert f"\n  {command} " in helped.stdout
        assert path.is_file()
    assert console("--version", cwd=tmp_path).stdout == f"pyro-vae {pyro_vae.__version__}\n"


def test_a_command_for_each_script_of_a_run():
    others = {"benchmark", "parts"}  # Of this repository.
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - others
    assert {path.stem for path in pyro_vae_console.COMMANDS.values()} == scripts
    assert scripts <= set(COMMANDS.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["tran"],
            "unknown command 'tran': did you mean train? allowed are train, diagnose, compare, ",
        ),
        (["--lr"], "unknown command '--lr': allowed are train, "),
        ([], "missing COMMAND: one of train, diagnose, "),
    ],
)
def test_an_unknown_command_is_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyro-vae", *words])
    with pytest.raises(SystemExit) as ended:
        pyro_vae_console.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"pyro-vae: error: {message}")
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("python scripts/svi_train.py --resume --out a", "pyro-vae train --resume --out a"),
        ("`python scripts/compare.py A B`", "`pyro-vae compare A B`"),
        ("see scripts/evaluate.py.", "see pyro-vae evaluate."),
        # Files of the user's.
        ("score.py, line 3: no build", "score.py, line 3: no build"),
        ("/home/a/scripts/encode.py", "/home/a/scripts/encode.py"),
        ("--model scripts/examples/student_t.py", "--model scripts/examples/student_t.py"),
    ],
)
def test_messages_name_the_command_that_was_typed(typed, meant, monkeypatch):
    assert as_typed(typed) == typed
    monkeypatch.setattr(sys, "argv", ["pyro-vae diagnose"])
    assert as_typed(typed) == meant


@pytest.mark.usefixtures("run_by_console")
def test_options_name_the_command():
    parser = Parser("encode.py", "encode.py RUN [options]", "Codes.", "As for svi_train.py.")
    assert parser.prog == "pyro-vae encode"
    assert "usage: pyro-vae encode RUN [options]" in parser.format_help()
    assert "As for pyro-vae train." in parser.format_help()
    assert as_typed("of svi_train.py", names=True) == "of pyro-vae train"


@pytest.mark.slow
def test_a_run_by_the_console_alone(tmp_path):
    # A package of the user's with the name of one of the programs'.
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis/__init__.py").write_text("raise SystemExit('the wrong analysis')")
    refused = console("train", "--prior", "vmap", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("pyro-vae train: error: --prior must be one of ")
    trained = console(
        "train", "--max-steps", "40", "--latent-dim", "2", "--out", "a", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.rstrip().endswith("next: pyro-vae diagnose a")
    assert ". Train on: pyro-vae train --resume --out a " in trained.stdout
    page = (tmp_path / "a/report.html").read_text()
    assert "pyro-vae diagnose a" in page
    assert "python scripts/" not in page
    # What is stored names the scripts, whoever wrote it.
    assert "python scripts/svi_train.py --resume" in (tmp_path / "a/metrics.json").read_text()
    assert (
        yaml.safe_load((tmp_path / "a/config.yaml").read_text())["version"] == pyro_vae.__version__
    )
    encoded = console("encode", "a", cwd=tmp_path)
    assert encoded.returncode == 0, encoded.stderr
    assert (tmp_path / "a/codes.npz").is_file()
    missing = console("evaluate", "b", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr.startswith("pyro-vae evaluate: error: no run at b")
