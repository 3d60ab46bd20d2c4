"""The verdict on a run: each planted fault has its own, and commands are ones that run."""

import json
import runpy
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis import verdicts
from analysis.calibration.reliability import ELEMENTS
from analysis.calibration.simulation_based_calibration import SBC
from analysis.elbo.terms import TERMS
from analysis.html_report.findings import (
    BELOW,
    LEVELS,
    NO_FAULT,
    NOT_KNOWN,
    UNTRAINED,
    Finding,
    findings,
    overall,
)
from analysis.html_report.next_command import (
    DIAGNOSED,
    NEXT_LIKELIHOOD,
    NEXT_PRIOR,
    Commands,
)
from analysis.html_report.rules import COLLAPSED, RULES
from analysis.predictive.generalisation import GENERALISATION
from analysis.representation.holes import HOLES
from analysis.verdicts import CODE, DATA, DECODER, ENCODER, EVIDENCE, GUIDE, PRIOR, QUESTIONS
from pyro_vae.configuration.components import to_yaml
from pyro_vae.configuration.parser import parse
from pyro_vae.evidence import NoLocalGuideError

ROOT = Path(__file__).parents[3]
RUN = Path(__file__).parents[2] / "snapshot" / "run"
STUDY = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "studies" / "verdicts.py")))
# The checks that tell each fault from the others.
TELLING = {
    "none": {"elbo": (TERMS,), "guide": (SBC,), "calibration": (ELEMENTS,)},
    "collapsed": {"elbo": (TERMS,), "calibration": (ELEMENTS,)},
    "encoder": {"elbo": (TERMS,), "guide": (SBC, GENERALISATION)},
    "likelihood": {"calibration": (ELEMENTS,), "representation": (HOLES,)},
    "prior": {"calibration": (ELEMENTS,), "representation": (HOLES,)},
    "guide": {"elbo": (TERMS,), "guide": (SBC,)},
    "untrained": {"elbo": (TERMS,), "calibration": (ELEMENTS,)},
}


def record(*answers: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """A diagnosis of given answers with their checks' numbers."""
    found: dict[str, Any] = {"latent_dim": 2, "likelihood": "normal", "prior": "standard_normal"}
    for question, answer, numbers in answers:
        section, check = QUESTIONS[question]
        place = found.setdefault(section, {}).setdefault(check, {"verdicts": []})
        verdict = {"question": question, "answer": answer, "because": "it is 1.23"}
        place["verdicts"].append(verdict)
        place |= numbers
    return found


def generalisation(**numbers: Any) -> dict[str, Any]:
    gap = {"difference": 0.0, "difference_se": 0.1}
    return {
        "terms": {"amortisation": gap, "khat_above": {"test": 0.0}},
        "gaps_left_out": None,
        "adjusted": gap,
        **numbers,
    }


def titles(found: list[Finding], *levels: str) -> list[str]:
    return [each.title for each in found if each.level in levels]


# ---- planted faults ------------------------------------------------------------------------------


def check_headline(name: str, kind: str) -> None:
    """The headline of a planted fault is its name, and every finding has its numbers."""
    seed = 40 + STUDY.KINDS.index(kind)
    subject = STUDY.subject_of(name, seed, n=150, n_train=150)
    fault = STUDY.FAULTS[name]
    record = STUDY.diagnosis_of(subject, fault.steps, TELLING[name])
    found = findings(None, record, run="runs/digits")
    said = overall(found)
    assert said.headline == fault.headline
    assert (said.level == "good") == (said.headline == NO_FAULT)
    for each in found:
        if each.level != "unknown":
            assert any(character.isdigit() for character in each.sentence)
            assert each.threshold
            assert each.source
        if each.level == "bad":
            assert each.command


@pytest.mark.parametrize("kind", STUDY.KINDS)
@pytest.mark.parametrize("name", STUDY.FAULTS)
def test_a_planted_fault_is_the_headline(name, kind, monkeypatch):
    """Without guides fitted to each example, which take long."""

    def none(*_: Any, **__: Any) -> None:
        raise NoLocalGuideError("none is fitted.")

    monkeypatch.setattr("analysis.predictive.generalisation.inference_gaps", none)
    check_headline(name, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDY.KINDS)
def test_the_amortisation_gap_shows_an_encoder_that_overfits(kind):
    check_headline("encoder", kind)


def test_every_fault_has_a_headline_of_its_own():
    assert len({fault.headline for fault in STUDY.FAULTS.values()}) == len(STUDY.FAULTS)


# ---- the page as a whole -------------------------------------------------------------------------


def test_a_page_corrects_for_its_questions():
    """A p-value of 0.03 is a fault alone, and may be chance beside three others."""
    alone = record((PRIOR, "no", {"p_value": 0.03}))
    assert overall(findings(None, alone, run="x")).headline == "The prior has holes"
    others = (
        (DATA, "yes", {"smallest_holm_p_value": 0.5}),
        (GUIDE, "yes", {"p_value_holm": 0.4}),
    )
    found = findings(None, record((PRIOR, "no", {"p_value": 0.03}), *others), run="x")
    assert overall(found).headline == NO_FAULT
    (doubted,) = (each for each in found if each.title == PRIOR)
    assert doubted.level == "unknown"
    assert "p = 0.090 after Holm's correction for the 3 tested questions" in doubted.sentence


def test_what_the_guide_misses_is_not_the_decoder_s():
    gap = {"difference": -2.0, "difference_se": 0.2}
    lost = {"difference": 1.0, "difference_se": 0.2}
    terms = {"amortisation": gap, "khat_above": {"test": 0.4}}
    poor = generalisation(terms=terms, adjusted=lost)
    answers = ((ENCODER, "yes", poor), (DECODER, "yes", {}))
    found = findings(None, record(*answers), run="x")
    assert titles(found, "bad") == ["The encoder overfits"]
    assert DECODER in titles(found, "unknown")
    more = {**poor, "adjusted": {"difference": 9.0, "difference_se": 0.2}}
    found = findings(None, record((ENCODER, "yes", more), (DECODER, "yes", {})), run="x")
    assert titles(found, "bad") == ["The encoder overfits", "The decoder overfits"]


def test_causes_stand_before_effects_and_all_levels_in_order():
    found = findings(
        {"verdicts": ["diverging: the KL is 300 nats; try 0.001: python scripts/svi_train.py"]},
        record((EVIDENCE, "no", {}), (GUIDE, "no", {}), (CODE, "no", {}), (DATA, "nearly", {})),
        run="x",
    )
    assert titles(found, "bad")[:2] == ["Training diverged", COLLAPSED]
    assert [LEVELS.index(each.level) for each in found] == sorted(
        LEVELS.index(each.level) for each in found
    )
    said = overall(found)
    assert said.headline == "Training diverged"
    assert COLLAPSED in said.sentence
    assert said.level == "bad"
    assert found[-1].sentence == "Nearly: it is 1.23."


def test_a_fault_that_costs_little_is_suspicious():
    lost = {"difference": 0.2, "difference_se": 0.01}
    cheap = generalisation(
        adjusted=lost, above_reference={"difference": 9.0, "difference_se": 0.1}, reference="p"
    )
    for numbers, level in ((cheap, "suspicious"), ({**cheap, "above_reference": None}, "bad")):
        said = overall(findings(None, record((DECODER, "yes", numbers)), run="x"))
        assert (said.headline, said.level) == ("The decoder overfits", level)
    for evidence, level in (("yes", "suspicious"), ("no", "bad"), ("not known", "bad")):
        answers = ((GUIDE, "no", {}), (EVIDENCE, evidence, {}))
        said = overall(findings(None, record(*answers), run="x"))
        assert (said.headline, said.level) == ("The guide is not the posterior", level)


def test_the_direction_of_a_guide_s_fault_is_named():
    for faults, title in (
        ({"shifted": 0, "too narrow": 1, "too wide": 2}, "The guide is too wide"),
        ({"shifted": 3, "too narrow": 1, "too wide": 2}, "The guide is shifted"),
        ({"shifted": 0, "too narrow": 0, "too wide": 0}, "The guide misses dependences"),
        (None, "The guide is not the posterior"),  # Of an earlier version.
    ):
        found = findings(None, record((GUIDE, "no", {"faults": faults})), run="x")
        assert overall(found).headline == title


def test_stale_answers_are_not_known():
    old = record((CODE, "no", {}))
    old["elbo"]["stale"] = "made for another checkpoint"
    found = findings(None, old, run="runs/my run")
    assert overall(found) == overall([])
    (stale,) = (each for each in found if each.title == CODE)
    assert "made for another checkpoint: no" in stale.sentence
    assert stale.command == "python scripts/diagnose.py 'runs/my run' --only elbo"


def test_nothing_is_known_without_records():
    found = findings(None, None, run="runs/x")
    assert overall(found).headline == NOT_KNOWN
    assert found[0].command == "python scripts/diagnose.py runs/x"
    (found,) = findings({"labels": "always"}, None, run="runs/x")
    assert found.command is None
    left_out = {"pit": {}, "guide": {"left_out": "the guide is a point."}}
    by_title = {each.title: each for each in findings(None, left_out, run="runs/x")}
    assert set(by_title) == set(QUESTIONS)
    assert by_title[GUIDE].sentence == "The guide is a point."
    assert by_title[GUIDE].command is None


def test_only_figures_that_exist_are_named():
    without = record((CODE, "no", {}))
    assert findings(None, without, run="x")[0].figure is None
    stored = {**without, "figures": {"elbo_terms.png": "?", "guide_sbc.png": "?"}}
    assert findings(None, stored, run="x")[0].figure == "elbo_terms"


def test_a_copied_training_set_and_codes_far_from_the_prior_are_suspicious():
    near = {"nearest_training": {"share_of_copies": 0.4}, "smallest_holm_p_value": 0.5}
    found = findings(None, record((DATA, "yes", near)), run="x")
    assert overall(found).headline == "The model may copy its training data"
    found = record((CODE, "yes", {}))
    found["elbo"]["decomposition"] = {
        "marginal_kl": 3.0,
        "marginal_kl_se": 0.1,
        "mutual_information": 2.0,
        "saturated": False,
    }
    assert overall(findings(None, found, run="x")).headline == "The prior may have holes"


# ---- the numbers of a training -------------------------------------------------------------------


def metrics(**changed: Any) -> dict[str, Any]:
    """The metrics.json of a good run."""
    return {
        "prior": "standard_normal",
        "likelihood": "bernoulli",
        "posterior": "diagonal_normal",
        "latent_dim": 8,
        "steps": 4000,
        "n": 360,
        "kl": 9.0,
        "active_units": 8,
        "khat_share_above": 0.02,
        "baseline": "a Bernoulli for each element",
        "above_baseline": 7.0,
        "above_baseline_se": 0.3,
        "verdicts": [],
        **changed,
    }


AGAIN = "python scripts/svi_train.py --config old/config.yaml"
SHORT = (
    "too short: 12 steps, one epoch. Train on: python scripts/svi_train.py --resume --out old "
    "--epochs 500"
)
UNUSED = (
    "collapsed: no information (8 of 8 units are inactive). What helps: free nats "
    "(--objective.free-bits 0.1), or a posterior that cannot collapse"
)


@pytest.mark.parametrize(
    ("changed", "headline", "command"),
    [
        ({}, NO_FAULT, None),
        (
            {"steps": 12, "above_baseline": -3.0, "verdicts": [SHORT]},
            UNTRAINED,
            "python scripts/svi_train.py --resume --out runs/new --epochs 500",
        ),
        ({"steps": 12, "verdicts": None}, UNTRAINED, "--max-steps 1000 --epochs 1000"),
        ({"steps": 12, "verdicts": [SHORT]}, UNTRAINED, "--epochs 500"),
        ({"steps": 500, "verdicts": [SHORT]}, "Training was short", "--epochs 500"),
        ({"steps": 150}, NO_FAULT, None),  # Training stopped early.
        (
            {"kl": 0.02, "active_units": 0, "verdicts": [UNUSED]},
            COLLAPSED,
            "python scripts/svi_train.py --config runs/new/config.yaml --objective.free-bits 0.1",
        ),
        ({"kl": 0.02}, COLLAPSED, "--posterior batch_normalised"),
        (
            {"verdicts": ["collapsed: few of the 8 units that were active still are (5 of 8)."]},
            COLLAPSED,
            None,
        ),
        (
            {"verdicts": [f"diverging: the KL is 300 nats; try 0.001: {AGAIN} --lr 0.001"]},
            "Training diverged",
            "python scripts/svi_train.py --config runs/new/config.yaml --lr 0.001",
        ),
        (
            {"verdicts": ["below the baseline: a Bernoulli is better by 3.00 +- 0.10 nats"]},
            BELOW,
            "--latent-dim 16",
        ),
        ({"khat_share_above": 0.3}, "log p(x) cannot be trusted", "--methods annealing"),
    ],
)
def test_metrics_alone_have_a_verdict(changed, headline, command):
    found = findings(metrics(**changed), None, run="runs/new")
    said = overall(found)
    assert said.headline == headline
    (first,) = (each for each in found[:1])
    if headline == NO_FAULT:
        assert first.title == "Not diagnosed"
    elif command is None:
        assert first.command is None
    else:
        assert command in str(first.command)


def test_the_advice_of_the_review_is_cut_from_its_sentence():
    line = (
        "overfitting: the validation ELBO fell by 3.00 nats after epoch 5 of 50, while that of "
        f"training rose; the last parameters are evaluated; to keep the best: {AGAIN} "
        "--early-stopping 10"
    )
    found = findings(metrics(verdicts=[line]), None, run="runs/new")
    assert found[0].title == "Validation fell while training went on"
    assert found[0].sentence.endswith("; the last parameters are evaluated.")
    assert found[0].figure == "learning_curves"


# ---- commands ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> str:
    return str(shutil.copytree(RUN, tmp_path / "a run"))


@pytest.mark.parametrize("trust", [False, True])
def test_every_command_is_one_that_its_script_takes(run, trust, parsed):
    diagnosis = record(
        *((question, rule.adverse, {"faults": {}}) for question, rule in RULES.items()),
        (EVIDENCE, "nearly", {}),
    )
    gap = {"difference": 5.0, "difference_se": 0.1}
    diagnosis["guide"]["generalisation"] |= generalisation(
        terms={"amortisation": {"difference": -5.0, "difference_se": 0.1}}, adjusted=gap
    )
    diagnosis["representation"]["honest_uncertainty"]["damages"] = {}
    diagnosis["steps"] = 3
    found = findings(None, diagnosis, run=run, trust_model_file=trust)
    found += findings(None, None, run=run, trust_model_file=trust)
    found += findings(None, record((EVIDENCE, "nearly", {})), run=run, trust_model_file=trust)
    found += findings(
        json.loads((RUN / "metrics.json").read_text()), None, run=run, trust_model_file=trust
    )
    commands = {each.command for each in found if each.command}
    assert len(commands) > 8
    for command in commands:
        assert run in shlex.split(command.replace("/config.yaml", ""))
        assert command.endswith(" --trust-model-file") == trust
        parsed(command)


def test_a_section_is_computed_with_the_options_of_the_others():
    """With others, the stored sections would become stale."""
    defaults = vars(
        runpy.run_path(str(ROOT / "scripts" / "diagnose.py"))["parser"]().parse_args(["x"])
    )
    assert {option: defaults[option[2:]] for option in DIAGNOSED} == DIAGNOSED
    stored = {"split": "validation", "n": 200, "num_samples": 50, "seed": 3, "elbo": {}}
    options = "--split validation --images 200 --samples 50 --seed 3"
    command = "python scripts/diagnose.py x --only elbo"
    found = {each.title: each.command for each in findings(None, stored, run="x")}
    assert found[CODE] == f"{command} {options}"
    usual = {"split": "test", "n": 360, "num_samples": 1000, "seed": 0, "elbo": {}}
    found = {each.title: each.command for each in findings(metrics(kl=None), usual, run="x")}
    assert found[CODE] == command


@pytest.mark.parametrize("old", NEXT_LIKELIHOOD)
def test_the_next_likelihood_replaces_the_old_one(old, tmp_path, parsed):
    data = {"poisson": "counts", "negative_binomial": "counts"}.get(old, "digits")
    words = [] if data == "counts" else ["--data", data]
    (tmp_path / "config.yaml").write_text(to_yaml(parse(["--likelihood", old, *words])))
    command = Commands({"likelihood": old}, {}, str(tmp_path)).other_likelihood()
    assert parsed(str(command))["likelihood"]["name"] == NEXT_LIKELIHOOD[old]


@pytest.mark.parametrize("old", NEXT_PRIOR)
def test_the_next_prior_replaces_the_old_one(old, tmp_path, parsed):
    (tmp_path / "config.yaml").write_text(to_yaml(parse(["--prior", old])))
    command = Commands({"prior": old}, {}, str(tmp_path)).other_prior()
    assert parsed(str(command))["prior"]["name"] == NEXT_PRIOR[old]


def test_thresholds_are_those_of_the_verdicts():
    assert f"{verdicts.NO_RATE} nats" in RULES[CODE].threshold
    assert f"{verdicts.MOST_KHATS_ABOVE:.0%}" in RULES[EVIDENCE].threshold
    assert f"{verdicts.CLOSE:.0%}" in RULES[GUIDE].threshold
    assert set(RULES) == set(QUESTIONS)
