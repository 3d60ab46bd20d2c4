"""Bars and tables in notebooks."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from analysis.check import SectionResult
from analysis.result import Result
from analysis.sections import SideBySide
from pyro_vae import build, fit
from pyro_vae.data import digits
from pyro_vae.evidence import evaluate
from pyro_vae.notebooks import SummaryTable, html_table, in_notebook, progress_bar
from pyro_vae.training.history import History

MARK = "<b>&"


def cells(html: str) -> list[list[str]]:
    """The rows of a table; the HTML must be well formed, small, and leave colours to the page."""
    assert len(html) < 20_000
    assert "color" not in html
    assert "background" not in html
    tree = ElementTree.fromstring(f"<div>{html}</div>")
    assert not list(tree.iter("b"))
    return [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]


def test_tables_are_escaped_and_cut():
    html = html_table(MARK, (MARK, "y"), [[MARK, "1"]] * 50, MARK)
    assert cells(html)[:2] == [[MARK, "y"], [MARK, "1"]]
    assert len(cells(html)) == 41
    assert "10 more rows are left out." in html


@dataclass(frozen=True)
class Found(Result):
    """What was found."""

    FIELDS = ("value", "value_se", "none", "count", "matrix")
    value: float = 1.25
    value_se: float = 0.034
    none: float | None = None
    count: int = 1234
    matrix: tuple[int, ...] = (0,) * 1000

    def reading(self) -> str:
        return f"It is {MARK}."


def test_a_summary_is_a_table_of_values_with_their_errors():
    html = Found()._repr_html_()
    rows = dict(cells(html))
    assert rows["value"] == "1.25 ± 0.034"
    assert rows["none"] == "not known"
    assert rows["count"] == "1,234"
    assert len(rows["matrix"]) < 210
    assert rows["reading"] == f"It is {MARK}."
    assert "What was found." in html


def test_a_history_shows_its_first_best_and_last_epochs():
    records = [{"epoch": i, "elbo": -30.0, "validation_elbo": -abs(i - 7.0)} for i in range(1, 21)]
    header, *rows = cells(History(records)._repr_html_())
    assert header == ["epoch", "training elbo", "validation elbo"]
    assert [row[0] for row in rows] == ["1", "7 (best)", "16", "17", "18", "19", "20"]
    assert rows[1] == ["7 (best)", "-30.00", "-0.00"]
    assert cells(History([])._repr_html_()) == [["epoch"]]


def test_main_results_have_tables():
    vae = build((1, 8, 8), 2)
    history = fit(vae, digits(), epochs=1)
    assert len(cells(history._repr_html_())) == 2
    evaluation = evaluate(vae, torch.ones(3, 1, 8, 8), num_samples=5)
    assert "±" in dict(cells(evaluation._repr_html_()))["log evidence"]
    assert cells(evaluation.importance_weighting._repr_html_())
    section = SectionResult(numbers={MARK: "1"}, readings={"a": MARK})
    assert cells(section._repr_html_()) == [[MARK, "1"]]
    beside = SideBySide({"a": {MARK: "1", "two": "2"}})
    assert cells(beside._repr_html_()) == [["measure", MARK, "two"], ["a", "1", "2"]]
    assert issubclass(type(evaluation), SummaryTable)


def test_a_bar_is_a_widget_in_a_notebook_that_has_them(monkeypatch):
    assert not in_notebook()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with progress_bar(True, total=1) as bar:
        assert type(bar).__module__ == "tqdm.std"


NOTEBOOK = (
    "from pyro_vae import build, fit\nfrom pyro_vae.data import digits",
    "fit(build((1, 8, 8), 2), digits(), epochs=2)",
)


@pytest.mark.slow
@pytest.mark.parametrize("widgets", [True, False])
def test_fit_shows_its_bar_and_its_table_in_a_notebook(widgets):
    import nbformat
    from nbclient import NotebookClient

    without = "import sys; sys.modules['ipywidgets'] = None\n"
    code = [*([] if widgets else [without]), *NOTEBOOK]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in code])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    outputs = notebook.cells[-1].outputs
    data = [output.get("data", {}) for output in outputs]
    assert any("application/vnd.jupyter.widget-view+json" in d for d in data) == widgets
    if not widgets:
        assert any("step" in output.get("text", "") for output in outputs)
    (table,) = (d["text/html"] for d in data if "validation elbo" in d.get("text/html", ""))
    assert len(cells(table)) == 3


FIRST_STEPS = Path(__file__).parents[1] / "docs/notebooks/first_steps.ipynb"


def test_the_notebook_is_stored_without_outputs():
    content = json.loads(FIRST_STEPS.read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code] == [[]] * len(code)
    assert {cell["execution_count"] for cell in code} == {None}
    assert content["metadata"].keys() == {"kernelspec", "language_info"}


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_without_a_warning(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FIRST_STEPS, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    written = [output for output in outputs if output.output_type == "stream"]
    assert [output.text for output in written if output.name == "stderr"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 7
    text = "".join(output.text for output in written)
    assert "verdict: above a Bernoulli for each element by " in text
    assert "Is the code used?                     yes" in text
