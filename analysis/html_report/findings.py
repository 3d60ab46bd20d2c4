"""The verdict on a run: what is good, what is suspicious, and the command to try next.

Each finding is a sentence made of the numbers in metrics.json and diagnosis.json. The answers are
the verdicts of `analysis.verdicts` and of the review of the training, with their thresholds. One
rule is added, because a page has many p-values: a fault that rests on one counts only if it is
significant after Holm's correction for all questions of the page. At most 5 % of the pages of true
models then name such a fault.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from analysis.html_report.next_command import Commands
from analysis.html_report.rules import (
    BASELINE,
    COLLAPSED,
    REVIEW,
    RULES,
    TRAINING,
    Level,
    Record,
    encoder_gap,
)
from analysis.hypothesis_tests import holm, p_text
from analysis.result import AGAIN, MORE_DRAWS, REPRESENTATION
from analysis.verdicts import (
    CLEAR,
    CODE,
    DATA,
    DECODER,
    ENCODER,
    EVIDENCE,
    GUIDE,
    MOST_KHATS_ABOVE,
    NO_RATE,
    PRIOR,
    QUESTIONS,
    SIGNIFICANT,
    judge_code_use,
)
from pyro_vae.runs.training_review import RELEVANT_SHARE
from pyro_vae.training.validation import FEWEST_STEPS, PATIENCE_STEPS

# The worst first.
LEVELS: tuple[Level, ...] = ("bad", "suspicious", "unknown", "good")
NO_FAULT, NOT_KNOWN = "No fault found", "Not known yet"
UNTRAINED = "The model is hardly trained"
BELOW = "A density without latent variables is as good"
CHANCE = "This may be chance"
# Figures of the training, which are not of the diagnosis.
OF_TRAINING = ("learning_curves", "kl_by_dimension", "guide_quality", "predictive_check")


@dataclass(frozen=True)
class Finding:
    """What one number says about a run.

    Args:
        level: "good"; "suspicious"; "bad", a fault; or "unknown".
        title: The name of the fault or of what is good; the question if the answer is not known.
        sentence: The numbers, with error and unit.
        threshold: What they were compared with; may be empty.
        source: The paper or the page of the documentation that the threshold comes from.
        figure: The name of the figure that shows them, without ".png"; None without one.
        command: What to type next; None if there is nothing to do.
    """

    level: Level
    title: str
    sentence: str
    threshold: str
    source: str
    figure: str | None
    command: str | None


@dataclass(frozen=True)
class Overall:
    """The verdict on a run in one line.

    Args:
        level: The level of the worst finding; an answer that is not known is no fault.
        headline: The title of the first fault; `NO_FAULT`, or `NOT_KNOWN` if nothing is known.
        sentence: The numbers of that fault, and the titles of others.
    """

    level: Level
    headline: str
    sentence: str


def overall(found: Sequence[Finding]) -> Overall:
    """The verdict: the first of the worst findings.

    Args:
        found: From `findings`.
    """
    faults = [each for each in found if each.level in ("bad", "suspicious")]
    if not faults:
        good = sum(each.level == "good" for each in found)
        sentence = f"{good} of {len(found)} findings are good; the others are not known."
        if good == len(found) > 0:
            sentence = f"All {good} findings are good."
        return (
            Overall("good", NO_FAULT, sentence)
            if good
            else Overall("unknown", NOT_KNOWN, "Nothing about this run has been measured.")
        )
    first = min(faults, key=lambda each: LEVELS.index(each.level))
    others = dict.fromkeys(each.title for each in faults if each.title != first.title)
    also = f" Also: {'; '.join(others)}." if others else ""
    return Overall(first.level, first.title, first.sentence + also)


def findings(
    metrics: Mapping[str, Any] | None,
    diagnosis: Mapping[str, Any] | None,
    *,
    run: str,
    trust_model_file: bool = False,
    cut_short: bool = False,
) -> list[Finding]:
    """What the stored numbers of a run say about it: the worst first, causes before effects.

    Args:
        metrics: Its metrics.json; None if there is none.
        diagnosis: Its diagnosis.json; None if there is none.
        run: The run directory, for the commands.
        trust_model_file: Whether the run has its own model file, which its commands must trust.
        cut_short: Whether training was stopped before its planned end.
    """
    metrics, diagnosis = metrics or {}, diagnosis or {}
    commands = Commands(metrics, diagnosis, run, trust_model_file, cut_short)
    judge = _Judge(metrics, diagnosis, commands)
    found = [
        *judge.length(),
        *judge.training("diverging"),
        *judge.pruned(),
        *(each for question in RULES for each in judge.question(question)),
        *judge.aggregate(),
        *judge.copies(),
    ]
    found += [
        *judge.baseline(cause=any(each.level == "bad" for each in found)),
        *judge.training("overfitting", "still rising"),
        *judge.missing(),
    ]
    return sorted(found, key=lambda each: LEVELS.index(each.level))


@dataclass(frozen=True)
class _Judge:
    """The findings of one run, by the rule that gives them."""

    metrics: Record
    diagnosis: Record
    commands: Commands

    def section(self, question: str) -> Record:
        """The record of the section that answers a question; empty if it was not computed."""
        return self.diagnosis.get(QUESTIONS[question][0]) or {}

    def check(self, question: str) -> Record:
        """The record of the check that answers a question; empty if there is none."""
        return self.section(question).get(QUESTIONS[question][1]) or {}

    def verdict(self, question: str) -> tuple[str, str] | None:
        """The answer and its reason; None if it is not answered."""
        for verdict in self.check(question).get("verdicts") or ():
            if verdict["question"] == question:
                return verdict["answer"], verdict["because"]
        rate, units = self.metrics.get("kl"), self.metrics.get("active_units")
        if question == CODE and rate is not None and units is not None:
            total = self.metrics.get("latent_units") or self.metrics.get("latent_dim") or units
            found = judge_code_use(rate, units, total)
            return found.answer, found.because
        above = self.metrics.get("khat_share_above")
        if question == EVIDENCE and above is not None:
            words = f"k-hat is above its threshold for {above:.1%} of {self.metrics['n']} examples"
            return "no" if above > MOST_KHATS_ABOVE else "yes", words
        return None

    @cached_property
    def p_values(self) -> dict[str, float]:
        """The p-value of each question that has one, after Holm's correction for all."""
        known = {
            question: p
            for question, rule in RULES.items()
            if rule.p_value and self.verdict(question) and not self.section(question).get("stale")
            if (p := rule.p_value(self.check(question))) is not None
        }
        adjusted = holm(np.array([*known.values()], np.float64))
        return dict(zip(known, adjusted.tolist(), strict=True))

    def figure(self, *names: str) -> str | None:
        """The first of these figures that is there."""
        stored = {name.removesuffix(".png") for name in self.diagnosis.get("figures") or ()}
        known = stored | {*OF_TRAINING} if self.metrics else stored
        return next((name for name in names if name in known), None)

    def question(self, question: str) -> Iterator[Finding]:
        """The answer to a question, if there is one."""
        rule, verdict = RULES[question], self.verdict(question)
        if verdict is None:
            return
        answer, because = verdict
        level, title, sentence, command = "good", rule.good, _sentence(because), None
        if stale := self.section(question).get("stale"):
            level, title, command = "unknown", question, self.again(question)
            sentence = f"The answer was {stale}: {answer}, {because}."
        elif answer == "not known":
            level, title = "unknown", question
            command = self.commands.fill(MORE_DRAWS) if question == EVIDENCE else None
        elif answer == rule.adverse and (doubt := self.doubt(question)):
            level, title, sentence = "unknown", question, f"{sentence} {doubt}"
        elif answer == rule.adverse:
            level, title = self.severity(question), rule.title(self.check(question))
            command = rule.command(self.commands)
        elif answer == "nearly":
            sentence = f"Nearly: {because}."
            if question == EVIDENCE:
                level, title = "suspicious", "log p(x) needs more draws"
                command = self.commands.fill(MORE_DRAWS)
        figure = self.figure(*rule.figures)
        yield Finding(level, title, sentence, rule.threshold, rule.source, figure, command)

    def doubt(self, question: str) -> str:
        """Why a fault that a check found may be none; empty if it is one."""
        p, check = self.p_values.get(question), self.check(question)
        if p is not None and p >= SIGNIFICANT:
            return (
                f"{CHANCE}: p {p_text(p)} after Holm's correction for the "
                f"{len(self.p_values)} tested questions of this page."
            )
        above = ((check.get("terms") or {}).get("khat_above") or {}).get("test") or 0.0
        if question != DECODER or above <= MOST_KHATS_ABOVE:
            return ""
        # Where weights are poor, log p(x) is too low by no more than the encoder's loss.
        gap, gap_se = encoder_gap(check)
        rest = (check["adjusted"]["difference"] or 0.0) - gap
        if rest > CLEAR * math.hypot(check["adjusted"]["difference_se"] or 0.0, gap_se):
            return ""
        return (
            f"This may be the guide's: k-hat is high for {above:.0%} of test data, and its gap is "
            f"{gap:.2f} ± {gap_se:.2f} nats larger there."
        )

    def severity(self, question: str) -> Level:
        """The level of a fault: suspicious only, if it costs little."""
        check, level = self.check(question), RULES[question].level
        if question == GUIDE and (self.verdict(EVIDENCE) or ("",))[0] == "yes":
            # Importance weights make up for what the guide misses.
            return "suspicious"
        above = self.above_baseline()
        if question not in (ENCODER, DECODER) or above is None or "adjusted" not in check:
            return level
        loss = encoder_gap(check)[0] if question == ENCODER else check["adjusted"]["difference"]
        return "suspicious" if loss <= RELEVANT_SHARE * above[0] else level

    def again(self, question: str) -> str:
        """The command that answers a question."""
        section, _ = QUESTIONS[question]
        return self.commands.fill(AGAIN.replace("SECTION", section))

    def length(self) -> Iterator[Finding]:
        """Whether training was long enough to be judged."""
        steps = self.commands.known("steps")
        if steps is None:
            return
        level, title, command = "good", "Training was long enough", None
        sentence, short = f"It had {steps:,} steps.", self.commands.review("too short")
        # A training that stopped early is as long as it can be, which the review knows.
        reviewed = self.metrics.get("verdicts") is not None or self.diagnosis.get("stopped_early")
        if short or steps == 0 or (steps < FEWEST_STEPS and not reviewed):
            found = self.above_baseline()
            above = found is not None and found[0] > CLEAR * found[1]
            level, title = "bad", UNTRAINED
            if above and steps >= FEWEST_STEPS:
                level, title = "suspicious", "Training was short"
            ended = short and not self.commands.cut_short
            command = short[0][0] if ended else self.commands.train_on(steps)
            if found is not None:
                sentence = f"It had {steps:,} steps, and log p(x) is {_nats(*found)}."
        threshold = f"at least {FEWEST_STEPS} steps, or {PATIENCE_STEPS:,} in a single epoch"
        figure = self.figure("learning_curves", "predictive_prior_predictive")
        yield Finding(level, title, sentence, threshold, REVIEW, figure, command)

    def training(self, *names: str) -> Iterator[Finding]:
        """The lines of the training's review that have these names."""
        for name in names:
            title, level, threshold = TRAINING[name]
            for command, sentence in self.commands.review(name):
                yield Finding(
                    level, title, sentence, threshold, REVIEW, "learning_curves", command
                )

    def pruned(self) -> Iterator[Finding]:
        """A collapse that only the training's review has seen: that of most units."""
        for each in self.training("collapsed"):
            if COLLAPSED not in {found.title for found in self.question(CODE)}:
                command = self.commands.against_collapse()
                yield replace(each, command=command)

    def above_baseline(self) -> tuple[float, float, str] | None:
        """How far log p(x) is above a density without latent variables, its error, its name."""
        if (above := self.metrics.get("above_baseline")) is not None:
            return above, self.metrics["above_baseline_se"] or 0.0, self.metrics["baseline"]
        check = self.check(DECODER)
        found = check.get("above_reference") or {}
        if found.get("difference") is None or self.section(DECODER).get("stale"):
            return None
        return found["difference"], found["difference_se"] or 0.0, check["reference"]

    def baseline(self, *, cause: bool) -> Iterator[Finding]:
        """Whether the model is better than one without latent variables.

        Args:
            cause: Whether a fault is known that explains why it is not, with a command of its own.
        """
        found: list[tuple[Level, str]] = [
            (level, text)
            for name, level in BASELINE.items()
            for _, text in self.commands.review(name)
        ]
        if not found and (above := self.above_baseline()) is not None:
            level: Level = "bad" if above[0] < -CLEAR * above[1] else "suspicious"
            level = "good" if above[0] > CLEAR * above[1] else level
            found = [(level, f"log p(x) is {_nats(*above)}.")]
        for level, sentence in found:
            good = level == "good"
            yield Finding(
                level,
                "The latent variables are worth it" if good else BELOW,
                sentence,
                f"{CLEAR:g} standard errors of the paired difference",
                REVIEW,
                self.figure("guide_generalisation", "learning_curves"),
                None if good or cause else self.commands.other_likelihood(),
            )

    def copies(self) -> Iterator[Finding]:
        """Whether the model copies its training data."""
        share = (self.check(DATA).get("nearest_training") or {}).get("share_of_copies") or 0.0
        if share > 2 * SIGNIFICANT and not self.section(DATA).get("stale"):
            yield Finding(
                "suspicious",
                "The model may copy its training data",
                f"{share:.0%} of generated data are less than half as far from a training example "
                "as the median test example.",
                f"at most {2 * SIGNIFICANT:.0%}",
                "docs/reference/checks.md",
                self.figure("predictive_nearest"),
                self.commands.keep_best(),
            )

    def aggregate(self) -> Iterator[Finding]:
        """Whether the codes of all data are far from the prior, if holes were not looked for."""
        parts = self.section(CODE).get("decomposition") or {}
        marginal, information = parts.get("marginal_kl"), parts.get("mutual_information")
        if marginal is None or information is None or parts["saturated"] or self.verdict(PRIOR):
            return
        if marginal > max(information, NO_RATE) and not self.section(CODE).get("stale"):
            yield Finding(
                "suspicious",
                "The prior may have holes",
                f"The codes of all data are {marginal:.2f} ± {parts['marginal_kl_se']:.2f} nats "
                f"from the prior, and carry {information:.2f} nats about the data.",
                "a distance of at most the information",
                "Hoffman and Johnson (2016), "
                "http://approximateinference.org/accepted/HoffmanJohnson2016.pdf",
                self.figure("elbo_spectrum"),
                self.commands.fill(REPRESENTATION),
            )

    def missing(self) -> Iterator[Finding]:
        """The questions without an answer, and the commands that answer them."""
        if not self.diagnosis:
            sentence = "Model and guide have not been checked on held-out data."
            command = self.commands.fill("python scripts/diagnose.py RUN")
            if self.metrics.get("labels") in ("always", "training"):
                sentence = (
                    "A diagnosis needs p(x) and q(z | x); this program needs labels for one."
                )
                command = None
            yield Finding("unknown", "Not diagnosed", sentence, "", REVIEW, None, command)
            return
        for question, rule in RULES.items():
            if self.verdict(question) is None:
                section, check = self.section(question), self.check(question)
                why = (check or section).get("left_out") or check.get("reading")
                sentence = _sentence((why or "it has not been computed").rstrip("."))
                command = None if why else self.again(question)
                yield Finding(
                    "unknown", question, sentence, rule.threshold, rule.source, None, command
                )


def _sentence(text: str) -> str:
    """A clause as a sentence; symbols keep their case.

    >>> _sentence("the rate is 0.1"), _sentence("log p(x) is 0.1")
    ('The rate is 0.1.', 'log p(x) is 0.1.')
    """
    symbol = text.startswith(("log p", "k-hat", "p "))
    return f"{text if symbol else text[:1].upper() + text[1:]}."


def _nats(above: float, error: float, name: str) -> str:
    side = "above" if above >= 0 else "below"
    return f"{abs(above):.2f} ± {error:.2f} nats {side} that of {name}"
