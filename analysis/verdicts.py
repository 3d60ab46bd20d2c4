"""The questions of a diagnosis and their answers, judged by an effect size and then its p-value.

Each function takes numbers and returns a `Verdict`, which results give in `verdicts()`: a reading,
a section and the whole report therefore give the same answer.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from analysis.hypothesis_tests import p_text
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import MINIMUM_SAMPLES

Answer = Literal["yes", "nearly", "no", "not known"]

# A p-value below it means that chance does not explain an effect.
SIGNIFICANT = 0.05
# A classifier that is right for at most this share of pairs finds little: 0.5 is chance.
CLOSE = 0.6
# The largest Kolmogorov-Smirnov distance that counts as small: no threshold on the score then
# separates real from generated data in more than 55 % of cases.
SMALL_DISTANCE = 0.1
# The largest error of forecasts of binary elements that counts as small.
LARGEST_ERROR = 0.02
# For other elements, the largest distance of the mean PIT from 1/2 and of its relative variance
# from 1.
LARGEST_BIAS, LARGEST_SPREAD = 0.02, 0.1
# log p(x) is trusted if at most this share of examples has a k-hat above the threshold and the
# median example has at least this many effective draws: log p(x) is then low by 1 / (2 ESS) = 0.01
# nats.
MOST_KHATS_ABOVE = 0.1
FEWEST_EFFECTIVE = 50
# The number of standard errors that makes a difference significant.
CLEAR = 2.0
# The smallest rate, in nats per example, of a code that is used.
NO_RATE = 0.1
# The share of its clean accuracy above chance that a robust probe keeps on corrupted data.
KEPT = 0.8
# The smallest share of the way from chance to 1 at which robustness of the clean accuracy is
# judged.
LITTLE = 0.2
# The largest ratio, either way, of the error to the guide's scale that counts as nearly right.
OUT_OF_STEP = 1.25

# Each question, and the section and check that answer it.
QUESTIONS: dict[str, tuple[str, str]] = {
    "Does the model make data like the held-out ones?": ("predictive", "checks"),
    "Do the model's forecasts of elements come true?": ("calibration", "elements"),
    "Is the code used?": ("elbo", "terms"),
    "Is the guide close to the posterior?": ("guide", "sbc"),
    "Can log p(x) be trusted?": ("guide", "quality"),
    "Does the decoder overfit?": ("guide", "generalisation"),
    "Does the encoder overfit?": ("guide", "generalisation"),
    "Are the codes distributed as the prior?": ("representation", "holes"),
    "Are the codes robust to damaged data?": ("representation", "robustness"),
    "Does the guide's scale warn of damaged data?": ("representation", "honest_uncertainty"),
}
DATA, FORECASTS, CODE, GUIDE, EVIDENCE, DECODER, ENCODER, PRIOR, ROBUST, WARNS = QUESTIONS


@dataclass(frozen=True)
class Verdict:
    """The answer to one of `QUESTIONS`.

    Args:
        question: A key of `QUESTIONS`.
        answer: One of `Answer`.
        because: The reason, without a full stop: the effect with its unit first, then the p-value.
    """

    question: str
    answer: Answer
    because: str

    def __str__(self) -> str:
        return f"{self.question} {self.answer.capitalize()}: {self.because}."

    def summary(self) -> dict[str, str]:
        """The recorded values."""
        return asdict(self)


def _by_effect(
    question: str, effect: str, *, small: bool, p: float, tested: str = "", of: str = "these data"
) -> Verdict:
    """Yes if chance explains the effect, nearly if the effect is small, otherwise no."""
    p_value = f"p {p_text(p)}{tested}"
    if p >= SIGNIFICANT:
        return Verdict(
            question, "yes", f"as far as {of} show: {effect}, which may be chance ({p_value})"
        )
    return Verdict(question, "nearly" if small else "no", f"{effect}; {p_value}")


def judge_samples(
    told_apart: float | None, furthest: str, ks_distance: float, smallest_holm: float
) -> Verdict:
    """Whether generated data are distributed as held-out data.

    Args:
        told_apart: The share of pairs in which a classifier identifies the generated example; None
            for too few data.
        furthest: The statistic whose distributions differ most.
        ks_distance: Their Kolmogorov-Smirnov distance.
        smallest_holm: The smallest p-value of all checks after Holm's correction.
    """
    effect = (
        f"the largest distance of two distributions is {distance_text(ks_distance)}, of {furthest}"
    )
    if told_apart is not None:
        effect = (
            f"a classifier tells a generated {noun()} from a held-out one in {told_apart:.0%} of "
            f"pairs (50% is chance), and {effect}"
        )
    small = max(told_apart or 0.5, 0.5) <= CLOSE and ks_distance <= SMALL_DISTANCE
    return _by_effect(
        DATA, effect, small=small, p=smallest_holm, tested=" after Holm's correction"
    )


def judge_forecasts(
    effect: str,
    *,
    small: bool,
    direction: str,
    p: float,
    against: float | None,
    trusted: bool | None,
) -> Verdict:
    """Whether forecasts of elements from one another are calibrated.

    Args:
        effect: The error, and the largest acceptable one.
        small: Whether the error is acceptable.
        direction: The sign of the errors, "the forecasts are too sure"; or empty.
        p: The p-value of calibrated forecasts: it judges model and guide together.
        against: The p-value of the same error in generated data, forecast with the same guide: it
            judges the model alone. None without generated data.
        trusted: Whether the guide's weights can be trusted; None if unknown.
    """
    effect = f"{effect}; {direction}" if direction else effect
    decisive = p if against is None else against
    tested = f"p {p_text(decisive)}"
    if against is None and trusted is False and p < SIGNIFICANT:
        reason = "the guide's weights cannot be trusted, so the error may be the guide's"
        return Verdict(FORECASTS, "not known", f"{effect}, {tested}, but {reason}")
    if against is not None:
        tested += " against generated data, forecast with the same guide"
    if decisive < SIGNIFICANT:
        return Verdict(FORECASTS, "nearly" if small else "no", f"{effect}, {tested}")
    if small or p >= SIGNIFICANT:
        return Verdict(FORECASTS, "yes", f"as far as these data show, {effect}, {tested}")
    reason = f"but generated data have the same error ({tested}): it is the guide's"
    return Verdict(FORECASTS, "not known", f"{effect}, {reason}")


def judge_code_use(rate: float, active_units: int, latent_dim: int) -> Verdict:
    """Whether the code carries information about the data.

    Args:
        rate: KL(q(z | x) || p(z)) in nats per example.
        active_units: The number of latent dimensions whose code varies over the data.
        latent_dim: The number of latent dimensions.
    """
    effect = (
        f"it carries {max(rate, 0.0):.2f} nats per {noun()}, and {active_units} of {latent_dim} "
        "dimensions vary over the data"
    )
    return Verdict(CODE, "yes" if rate >= NO_RATE and active_units else "no", effect)


def judge_guide(told_apart: float, smallest: float, n: int) -> Verdict:
    """Whether q(z | x) is the posterior of generated data.

    Args:
        told_apart: The share of pairs in which the best rule tells the true code from a draw.
        smallest: The smallest p-value after Holm's correction.
        n: The number of generated examples.
    """
    effect = (
        f"the best rule tells the true code from a draw of the guide in {told_apart:.0%} of pairs "
        "(50% is chance)"
    )
    small = max(told_apart, 1 - told_apart) <= CLOSE
    tested = f" after Holm's correction, {n} simulated {nouns()}"
    return _by_effect(GUIDE, effect, small=small, p=smallest, tested=tested)


def judge_evidence(
    above: float | None, threshold: float | None, ess: float, num_samples: int, n: int
) -> Verdict:
    """Whether importance weighting with the guide estimates log p(x) well.

    Args:
        above: The share of examples whose k-hat is above the threshold; None for too few draws.
        threshold: The threshold; None for too few draws.
        ess: The median effective sample size.
        num_samples: The number of draws per example.
        n: The number of examples.
    """
    effective = (
        f"the median effective sample size is {ess:.0f} of {num_samples} draws (at least "
        f"{FEWEST_EFFECTIVE} is fine)"
    )
    if above is None or threshold is None:
        reason = f"k-hat needs at least {MINIMUM_SAMPLES} draws; {effective}"
        return Verdict(EVIDENCE, "not known", reason)
    effect = (
        f"k-hat is above {threshold:.2f} for {above:.1%} of {n} {nouns()} (at most "
        f"{MOST_KHATS_ABOVE:.0%} is fine), and {effective}"
    )
    if above > MOST_KHATS_ABOVE:
        return Verdict(EVIDENCE, "no", f"it is too low for some of these data; {effect}")
    return Verdict(EVIDENCE, "nearly" if ess < FEWEST_EFFECTIVE else "yes", effect)


def judge_overfitting(question: str, what: str, difference: float, error: float) -> Verdict:
    """Whether held-out data are modelled worse than training data.

    Args:
        question: `DECODER` or `ENCODER`.
        what: The quantity compared, a noun phrase.
        difference: Its difference in nats per example; positive for overfitting.
        error: The standard error of the difference.
    """
    if not (math.isfinite(difference) and math.isfinite(error)):
        return Verdict(question, "not known", f"{what} is not finite, or of one {noun()}")
    effect = f"{what} is {difference:+.2f} ± {error:.2f} nats per {noun()}"
    if difference > CLEAR * error:
        return Verdict(question, "yes", effect)
    within = "within" if abs(difference) <= CLEAR * error else "below 0 by more than"
    return Verdict(question, "no", f"{effect}, {within} two standard errors")


def judge_codes(told_apart: float, p: float) -> Verdict:
    """Whether the codes of data are distributed as the prior.

    Args:
        told_apart: The share of pairs in which a classifier identifies the code of an example.
        p: The p-value of that share.
    """
    effect = (
        f"a classifier tells codes of data from draws of the prior in {told_apart:.0%} of pairs "
        "(50% is chance)"
    )
    return _by_effect(PRIOR, effect, small=told_apart <= CLOSE, p=p)


def judge_robustness(
    clean: float, damaged: float, error: float, chance: float, *, above_chance: bool
) -> Verdict:
    """Whether a classifier of codes is as good on corrupted data.

    Args:
        clean: Its accuracy on clean data.
        damaged: Its mean accuracy over corruptions and strengths.
        error: The standard error of `damaged`.
        chance: The accuracy of always predicting the most frequent label.
        above_chance: Whether `clean` is significantly above `chance`.
    """
    effect = (
        f"the probe's accuracy is {clean:.3f} on clean and {damaged:.3f} ± {error:.3f} on "
        f"corrupted data, and the most frequent label gives {chance:.3f}"
    )
    if not above_chance or clean - chance < LITTLE * (1 - chance):
        return Verdict(ROBUST, "not known", f"{effect}: there is little to lose")
    kept = (damaged - chance) / (clean - chance)
    answer: Answer = "yes" if kept >= KEPT else "no"
    return Verdict(ROBUST, answer, f"{effect}: {kept:.0%} of the difference is kept")


def judge_scale(lowest: float, highest: float, smallest: float, n: int) -> Verdict:
    """Whether the scale of q(z | x) grows with the error of its mean on corrupted data.

    Args:
        lowest: The smallest ratio, over corruptions, of the error of the guide's mean to its
            scale.
        highest: The largest ratio.
        smallest: The smallest p-value of a ratio of 1, after Holm's correction.
        n: The number of examples.
    """
    effect = (
        f"on corrupted data the error of the guide's mean is {lowest:.2f} to {highest:.2f} times "
        "its scale (1 is right)"
    )
    small = max(highest, 1 / max(lowest, 1e-300)) <= OUT_OF_STEP
    return _by_effect(WARNS, effect, small=small, p=smallest, of=f"{n} {nouns()}")


def distance_text(distance: float) -> str:
    """A Kolmogorov-Smirnov distance with its scale.

    >>> distance_text(0.04)
    '0.04 (0 is equal, up to 0.1 small, 1 apart)'
    """
    return f"{distance:.2f} (0 is equal, up to {SMALL_DISTANCE} small, 1 apart)"


def answers(sections: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str | None]]:
    """The questions that these sections answer: each verdict, its section, and why that is stale.

    Args:
        sections: The records of the sections by name, with "stale" where one is.
    """
    return [
        {**verdict, "section": section, "stale": sections[section].get("stale")}
        for question, (section, check) in QUESTIONS.items()
        for verdict in sections.get(section, {}).get(check, {}).get("verdicts", ())
        if verdict["question"] == question
    ]
