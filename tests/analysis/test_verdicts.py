"""Each question has one answer, judged by its effect and p-value in one place."""

import ast
import re
from pathlib import Path

import pytest

from analysis import verdicts
from analysis.verdicts import DECODER, QUESTIONS, answers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("make", "large", "small", "chance"),
    [
        (
            verdicts.judge_samples,
            (0.8, "ink", 0.4, 1e-4),
            (0.55, "ink", 0.05, 1e-4),
            (0.8, "ink", 0.4, 0.2),
        ),
        (verdicts.judge_guide, (0.8, 1e-4, 100), (0.55, 1e-4, 100), (0.8, 0.2, 10)),
        (verdicts.judge_codes, (0.8, 1e-4), (0.55, 1e-4), (0.8, 0.2)),
        (verdicts.judge_scale, (1.0, 3.0, 1e-4, 100), (0.9, 1.1, 1e-4, 100), (0.9, 3.0, 0.2, 5)),
    ],
)
def test_the_effect_decides_and_the_p_value_only_whether_it_is_chance(make, large, small, chance):
    """With enough data any effect has a small p-value."""
    assert [make(*given).answer for given in (large, small, chance)] == ["no", "nearly", "yes"]
    for given in (large, small, chance):
        said = make(*given).because
        assert re.search(r"\d", said).start() < said.index("p ")


@pytest.mark.parametrize(
    ("small", "p", "against", "trusted", "answer"),
    [
        (True, 1e-4, 1e-4, False, "nearly"),
        (False, 1e-4, 1e-4, False, "no"),
        (False, 1e-4, 0.3, False, "not known"),
        (False, 1e-4, None, False, "not known"),
        (False, 1e-4, None, True, "no"),
        (True, 0.3, 0.3, True, "yes"),
        # What fails with the guide, but not beyond the model's own data, and by little.
        (True, 1e-4, 0.3, False, "yes"),
    ],
)
def test_forecasts(small, p, against, trusted, answer):
    found = verdicts.judge_forecasts(
        "off by 0.1", small=small, direction="", p=p, against=against, trusted=trusted
    )
    assert found.answer == answer


def test_overfitting_and_robustness():
    assert verdicts.judge_overfitting(DECODER, "it", 1.0, 0.1).answer == "yes"
    assert verdicts.judge_overfitting(DECODER, "it", 0.1, 0.1).answer == "no"
    assert verdicts.judge_overfitting(DECODER, "it", float("nan"), 0.1).answer == "not known"
    # 0.7 of an accuracy of 0.96 is nothing where 0.65 is chance.
    assert verdicts.judge_robustness(0.96, 0.7, 0.01, 0.65, above_chance=True).answer == "no"
    assert verdicts.judge_robustness(0.96, 0.93, 0.01, 0.65, above_chance=True).answer == "yes"


def test_a_stale_answer_says_so():
    verdict = verdicts.judge_code_use(3.0, 4, 4)
    sections = {"elbo": {"terms": {"verdicts": [verdict.summary()]}, "stale": "other data"}}
    (found,) = answers(sections)
    assert (found["answer"], found["section"], found["stale"]) == ("yes", "elbo", "other data")


def test_nothing_else_answers():
    """No text outside `verdicts` judges the model, the guide or log p(x) in words of its own."""
    judged = re.compile(
        r"is wrong|need not be|good proposal|(is|not) the posterior|overfits|not calibrated|not honest",
        re.IGNORECASE,
    )
    files = [*(ROOT / "analysis").glob("*.py"), *(ROOT / "analysis/representation").glob("*.py")]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "reading":
                body = ast.unparse(ast.Module(node.body[1:], []))
                assert not judged.search(body), (path, judged.search(body))


def test_each_question_has_one_part():
    assert len({*QUESTIONS.values()}) == len(QUESTIONS) - 1  # One part judges decoder and encoder.
