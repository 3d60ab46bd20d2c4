"""How several runs differ."""

from analysis.comparison.run_differences import differences_report, run_differences

PLAIN = {"lr": 0.1, "seed": 0, "device": "cpu", "network": {"name": "mlp", "hidden": [400]}}
VAMP = {**PLAIN, "device": "cuda", "network": {"name": "mlp", "hidden": [200, 100]}}


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
    assert "do not differ" in differences_report({}, ["a", "b"], width=60)[0]
