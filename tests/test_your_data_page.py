"""The files and the commands of docs/your-data.md are read, and its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from pyro_vae.configuration.components import check_data, load_data, prepare_data
from pyro_vae.configuration.parser import parse
from pyro_vae.data import default_root

PAGE = (Path(__file__).parents[1] / "docs" / "your-data.md").read_text()
FILES, PROGRAM = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


# anndata, of the version of Zarr that it writes.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
def test_every_command_reads_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(FILES, "your-data.md", "exec"), {})
    commands = re.findall(r"^\|[^|]*\| `(--data [^`]*)` \|", PAGE, re.MULTILINE)
    assert len(commands) > 25
    for command in commands:
        configuration = parse(shlex.split(command))
        data = prepare_data(configuration, load_data(configuration, default_root()))
        check_data(configuration, data)
        assert len(data.train) >= 90


def test_the_lines_that_fit_a_table():
    scope: dict = {}
    exec(compile(PROGRAM.replace("epochs=20", "epochs=1"), "your-data.md", "exec"), scope)
    assert scope["codes"].shape == (12, 2)
    assert scope["x"].shape == (12, 4)
    assert (scope["x"].numpy() == scope["new"][scope["table"].columns].to_numpy("float32")).all()
