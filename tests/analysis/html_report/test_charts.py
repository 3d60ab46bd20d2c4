"""Charts hold the stored numbers, state them in words, and are specifications that Vega-Lite takes."""

import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import xarray

from analysis.html_report import chart as chart_module
from analysis.html_report.chart import library_script
from analysis.html_report.charts import (
    dimensions,
    learning_curves,
    predictive_checks,
    run_charts,
)
from analysis.html_report.datum_charts import MOST_POINTS, differences
from analysis.html_report.rate_distortion_chart import rate_distortion
from pyro_vae.statistics import khat_threshold


def test_a_run_has_every_chart_and_a_missing_record_leaves_its_own_out(
    history, metrics, tree, diagnosis
):
    expected = [
        "learning_elbo",
        "learning_reconstruction",
        "learning_kl",
        "codes",
        "khat",
        "checks",
    ]
    expected += ["rate_distortion", "dimensions"]
    assert list(run_charts(history, metrics, diagnosis(), tree())) == expected
    assert list(run_charts(history)) == expected[:3]
    assert run_charts([], {"kl": None, "reconstruction": 1.0}, {}, xarray.DataTree()) == {}
    assert "checks" not in run_charts(history, metrics, diagnosis(stale="made for other data"))


def test_learning_curves_hold_the_records_and_crop_the_start(history):
    found = learning_curves([*history, {"epoch": 31, "elbo": math.nan, "validation_elbo": None}])[
        "learning_elbo"
    ]
    values = {(row["data"], row["epoch"]): row["value"] for row in found.spec["data"]["values"]}
    assert len(values) == 60
    assert values["validation", 20] == pytest.approx(-5.5)
    low, high = found.spec["encoding"]["y"]["scale"]["domain"]
    assert low > -110 / 3
    assert high > -100 / 30
    assert "epochs 1 to 3" in found.note
    assert "training -3.33, validation -3.67 nats" in found.alt


def test_codes_are_those_of_the_dimensions_of_the_largest_variance(tree):
    data = tree(labels=np.where(np.arange(40) % 2, 1, -1))
    found = run_charts([], tree=data, label_names=["zero", "<b>one</b>"])["codes"]
    group = data["per_datum"].dataset
    first = found.spec["data"]["values"][0]
    assert first["row"] == 7
    assert first["x"] == pytest.approx(float(group["z_mean"][0, 2]), rel=1e-4)
    assert first["y"] == pytest.approx(float(group["z_mean"][0, 1]), rel=1e-4)
    assert first["label"] == "none"
    assert found.spec["encoding"]["color"]["scale"]["domain"] == ["none", "<b>one</b>"]


def test_khats_are_compared_with_the_threshold_of_their_draws(tree):
    data = tree()
    data["per_datum"].dataset["khat"][0] = np.inf
    found = run_charts([], tree=data)["khat"]
    rows = found.spec["data"]["values"]
    assert len(rows) == 40 - 1
    threshold = khat_threshold(100)
    assert all((row["khat"] > threshold) == row["kind"].startswith("above") for row in rows)
    share = np.mean([row["khat"] > threshold for row in rows])
    assert f"{share:.1%} above the threshold {threshold:.2f}" in found.alt
    # Drawn rows are those of the file.
    assert {row["row"] for row in rows} == set(range(8, 7 + 40))


def test_more_examples_than_can_be_drawn_are_thinned_out_evenly(tree):
    found = run_charts([], tree=tree(2 * MOST_POINTS))["khat"]
    rows = [row["row"] for row in found.spec["data"]["values"]]
    assert len(rows) == MOST_POINTS
    assert np.diff(rows).max() <= 3
    assert f"{MOST_POINTS:,} of {2 * MOST_POINTS:,}" in found.note


def test_predictive_checks_are_judged_by_holm(p_values):
    found = predictive_checks({**p_values, "zero": 0.0})
    rows = found.spec["data"]["values"]
    assert [row["check"] for row in rows] == ["zero", "ink", "holes", "rate"]
    assert [row["threshold"] for row in rows] == pytest.approx(
        [0.05 / 4, 0.05 / 3, 0.05 / 2, 0.05]
    )
    assert [row["kind"].startswith("below") for row in rows] == [True, True, True, False]
    assert rows[0]["p_text"] == "< 1e-06"
    # The third is below its threshold, but not where the second is not.
    rows = predictive_checks({"a": 0.03, "b": 0.02, "c": 0.04}).spec["data"]["values"]
    assert not any(row["kind"].startswith("below") for row in rows)


def test_the_line_of_the_plane_has_the_best_elbo():
    points = [
        {"name": "a", "rate": 2.0, "distortion": 90.0},
        {"name": "b", "rate": 1.0, "distortion": 95.0},
    ]
    found = rate_distortion(points)
    line = found.spec["layer"][0]["data"]["values"]
    assert [row["rate"] + row["distortion"] for row in line] == pytest.approx([92.0, 92.0])
    assert "ELBO of a" in found.alt
    # Bars of two standard errors are inside the axes.
    found = rate_distortion([each | {"rate_se": 3.0, "distortion_se": 20.0} for each in points])
    low, high = found.spec["encoding"]["y"]["scale"]["domain"]
    assert low < 50
    assert high > 135
    assert rate_distortion([{"name": "a", "rate": None, "distortion": 1.0}]) is None


def test_dimensions_are_sorted_by_their_rate(diagnosis):
    found = dimensions(diagnosis()["elbo"]["decomposition"]["by_dimension"])
    assert [row["dimension"] for row in found.spec["data"]["values"]] == [1, 1, 0, 0]
    assert "1 (2.50), 0 (0.10)" in found.alt
    only = dimensions({"mutual_information": [0.1, 2.0], "marginal_kl": None})
    assert "mutual information" in only.title
    assert dimensions({"mutual_information": None}) is None


def test_differences_are_of_the_first_run_minus_the_others():
    first, second = np.array([1.0, 2.0, np.nan]), np.array([0.5, 2.5, 0.0])
    found = differences({"a": first, "b": second}, rows=np.array([10, 11, 12]))
    assert [(r["row"], r["difference"]) for r in found.spec["data"]["values"]] == [
        (10, 0.5),
        (11, -0.5),
    ]
    assert "b: 0.00 +- 0.50, above 0 for 50%" in found.alt
    assert differences({"a": first}) is None


def test_names_from_data_cannot_leave_their_block(history, metrics, tree, diagnosis, every_chart):
    for name, found in every_chart.items():
        text = found.html(name)
        block = text[
            text.index('<script type="application/json">') + 32 : text.rindex("</script>")
        ]
        assert "<" not in block
        assert json.loads(block)["description"] == found.alt
    alt = run_charts(history, metrics, diagnosis(), tree())["checks"].html("checks")
    assert "<script>alert" not in alt


def test_without_the_package_there_is_no_library(monkeypatch):
    monkeypatch.setattr(chart_module, "find_spec", lambda name: None)
    library_script.cache_clear()
    assert library_script() is None
    library_script.cache_clear()


@pytest.mark.skipif(find_spec("vl_convert") is None, reason="vl-convert-python is not installed")
def test_the_library_is_made_once(monkeypatch, tmp_path):
    import vl_convert

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda snippet: "a = '</script>';")
    for _ in range(2):
        library_script.cache_clear()
        assert library_script() == r"a = '<\/script>';"
        monkeypatch.setattr(
            vl_convert, "javascript_bundle", lambda snippet: pytest.fail("made again")
        )
    library_script.cache_clear()


@pytest.mark.skipif(find_spec("vl_convert") is None, reason="vl-convert-python is not installed")
def test_specifications_are_of_vega_lite(capfd, every_chart):
    import vl_convert

    for name, found in every_chart.items():
        spec = json.loads(json.dumps(found.spec | {"width": 400}))
        marks = json.dumps(vl_convert.vegalite_to_vega(spec)["marks"])
        assert "tooltip" in marks, name
    assert "WARN" not in "".join(capfd.readouterr())
