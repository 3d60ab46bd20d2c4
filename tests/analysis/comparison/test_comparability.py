"""Runs whose log densities are of the same data compare, and no others."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.comparison.comparability import (
    DataRecord,
    NotComparableError,
    check_comparable,
    data_record,
    differences_report,
    run_differences,
)
from pyro_vae.data import PreparedData, digits

RECORD = DataRecord(
    "runs/a", "mnist", "binary", 256, "dynamic", False, False, "test", 1000, "0123"
)
PLAIN = {"lr": 0.1, "seed": 0, "device": "cpu", "network": {"name": "mlp", "hidden": [400]}}
VAMP = {**PLAIN, "device": "cuda", "network": {"name": "mlp", "hidden": [200, 100]}}


def test_the_same_data_compare():
    check_comparable(RECORD, [])
    check_comparable(RECORD, [RECORD, replace(RECORD, run="runs/b")])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("data", "fashion", "data mnist against fashion"),
        ("binarisation", "static", "binarisation dynamic against static"),
        ("binarisation", None, "binarisation dynamic against none"),
        ("likelihood_support", "unit", "support of the likelihood binary against unit"),
        ("levels", None, "levels 256 against none"),
        ("dequantised", True, "dequantisation no against yes"),
        ("given_total", True, "counts given their total no against yes"),
        ("split", "validation", "split test against validation"),
        ("rows", 500, "number of data 1000 against 500"),
        ("x_digest", "4567", "digest.* 0123 against 4567"),
    ],
)
def test_a_difference_is_one_line_that_names_both(name, value, words):
    other = replace(RECORD, run="runs/b", **{name: value})
    with pytest.raises(NotComparableError, match=f"runs/a and runs/b .*{words}") as error:
        check_comparable(RECORD, [RECORD, other])
    assert "\n" not in str(error.value)


def test_the_reason_comes_before_what_follows_from_it():
    other = replace(RECORD, run="b", likelihood_support="unit", dequantised=True, x_digest="9")
    with pytest.raises(NotComparableError, match="support"):
        check_comparable(RECORD, [other])


def test_records_of_prepared_data():
    dataset = digits()
    records = {}
    cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("dynamic", "binary", {}),
        ("threshold", "binary", {"binarisation": "threshold"}),
        ("dequantised", "unit", {}),
        ("scaled", "unit", {"dequantise": False}),
    )
    for name, support, options in cases:
        data = PreparedData(dataset, support, **options)
        records[name] = data_record(name, data, data.fixed("test"))
        check_comparable(records[name], [data_record(name, data, data.fixed("test").clone())])
    assert records["dequantised"].dequantised
    assert not records["scaled"].dequantised
    for one in records.values():
        for other in records.values():
            if one is not other:
                with pytest.raises(NotComparableError, match="do not compare"):
                    check_comparable(one, [other])


def test_other_rows_are_other_data():
    data = PreparedData(digits(), "binary")
    x = data.fixed("test")
    some = data_record("a", data, x[:100])
    assert some.rows == 100
    with pytest.raises(NotComparableError, match="values of the data"):
        check_comparable(some, [data_record("b", data, x[torch.arange(100, 200)])])


def test_only_what_differs_is_listed():
    facts = {"a": {"steps": 10, "rows": 5}, "b": {"steps": 2000, "rows": 5}}
    found = run_differences({"a": PLAIN, "b": VAMP}, facts)
    assert found == {
        "network.hidden": {"a": [400], "b": [200, 100]},
        "steps": {"a": 10, "b": 2000},
    }
    assert differences_report(found, ["a", "b"], width=60) == [
        "The runs differ in",
        "                      a           b",
        "  network.hidden  [400]  [200, 100]",
        "  steps              10       2,000",
    ]


def test_options_of_other_parts_are_absent_and_long_values_are_cut():
    conv = {**PLAIN, "network": {"name": "conv", "kernel": 4}, "path": "/a" * 40}
    found = run_differences({"a": PLAIN, "b": conv})
    assert found["network.kernel"] == {"b": 4}
    lines = differences_report(found, ["a", "b"], width=60)
    assert all(len(line) <= 60 for line in lines)
    assert any(line.split() == ["network.kernel", "-", "4"] for line in lines)


def test_runs_that_do_not_differ():
    assert run_differences({"a": PLAIN, "b": {**PLAIN, "device": "cuda"}}) == {}
    assert len(differences_report({}, ["a", "b"], width=60)) == 1
