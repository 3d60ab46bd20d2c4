"""The questions of a diagnosis, and the one place that answers each: from an effect, then from its p-value.

Each function takes numbers and returns a `Verdict`. Results put it first in their `reading()`, so that a
reading, a section and the whole report give the same answer.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from analysis.comparison.p_values import p_text
from pyro_vae.data.nouns import noun, nouns
from pyro_vae.statistics import MINIMUM_SAMPLES

Answer = Literal["yes", "nearly", "no", "not known"]

# A p-value below it says that an effect is not explained by chance.
SIGNIFICANT = 0.05
# A classifier that is right for at most this share of pairs finds little: 0.5 is chance.
CLOSE = 0.6
# A Kolmogorov-Smirnov distance up to here is small: of 100 real and 100 generated data one cannot
# tell it from none, and no threshold on the score tells the two apart in more than 55 % of cases.
SMALL_DISTANCE = 0.1
# Forecasts of binary elements whose error is at most this are good enough.
LARGEST_ERROR = 0.02
# So are forecasts whose mean PIT is this near to 1/2, and its variance this near to a uniform one's.
LARGEST_BIAS, LARGEST_SPREAD = 0.02, 0.1
# log p(x) is trusted if at most this share of data has a k-hat above the threshold, and the median
# datum at least so many effective draws: log p(x) is then low by about 1 / (2 ESS), 0.01 nats.
MOST_KHATS_ABOVE = 0.1
FEWEST_EFFECTIVE = 50
# So many standard errors make a difference worth naming.
CLEAR = 2.0
# A rate below it, in nats per datum, is that of a code that is not used.
NO_RATE = 0.1
# Of its clean accuracy above chance: a probe that keeps so much over all damages is called robust.
KEPT = 0.8
# A clean accuracy that has gone less than this share of the way from chance to 1 has little to lose.
LITTLE = 0.2
# An error that is at most so many times what the scale says, or that part of it, is nearly in step.
OUT_OF_STEP = 1.25

# Each question, and the part of a diagnosis, by section and name, that answers it.
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
        answer: In a word.
        because: A sentence without its full stop: the effect with its unit first, then the p-value.
    """

    question: str
    answer: Answer
    because: str

    def __str__(self) -> str:
        return f"{self.question} {self.answer.capitalize()}: {self.because}."

    def summary(self) -> dict[str, str]:
        """The recorded values."""
        return asdict(self)


def like_data(
    told_apart: float | None, furthest: str, ks_distance: float, smallest_holm: float
) -> Verdict:
    """Whether generated data are like held-out ones.

    Args:
        told_apart: The share of pairs in which a classifier finds the generated datum; None for too
            few data.
        furthest: What is distributed least alike.
        ks_distance: The distance of its two distributions.
        smallest_holm: The smallest p-value of all checks after Holm's correction.
    """
    seen = (
        f"the largest distance of two distributions is {distance_text(ks_distance)}, of {furthest}"
    )
    if told_apart is not None:
        seen = (
            f"a classifier tells a generated {noun()} from a held-out one in {told_apart:.0%} of pairs "
            f"(50% is chance), and {seen}"
        )
    small = max(told_apart or 0.5, 0.5) <= CLOSE and ks_distance <= SMALL_DISTANCE
    p = f"p {p_text(smallest_holm)} after Holm's correction"
    if smallest_holm >= SIGNIFICANT:
        return Verdict(DATA, "yes", f"as far as these data show, {seen}; that may be chance, {p}")
    answer: Answer = "nearly" if small else "no"
    return Verdict(DATA, answer, f"{seen}; that is more than chance, {p}")


def forecasts(
    effect: str,
    *,
    small: bool,
    direction: str,
    p: float,
    against: float | None,
    trusted: bool | None,
) -> Verdict:
    """Whether forecasts of elements from one another come true.

    Args:
        effect: How far off they are, and what is fine.
        small: Whether that is fine.
        direction: How they err, "the forecasts are too sure"; or nothing.
        p: Of forecasts that come true: it judges model and guide together.
        against: Of the same error in data that the model made, forecast with the same guide: it judges the
            model alone. None without such data.
        trusted: Whether the guide's weights are to be believed; None if nobody said.
    """
    said = f"{effect}; {direction}" if direction else effect
    if against is None and trusted is False and p < SIGNIFICANT:
        return Verdict(
            FORECASTS,
            "not known",
            f"{said}, p {p_text(p)}, but the guide's weights are not trusted, so that the error may be the "
            "guide's; compare with data that the model made",
        )
    decisive = p if against is None else against
    tested = f"p {p_text(decisive)}" + (
        ""
        if against is None
        else " against data that the model made, forecast with the same guide"
    )
    if decisive >= SIGNIFICANT:
        if small or p >= SIGNIFICANT:
            return Verdict(FORECASTS, "yes", f"as far as these data show, {said}, {tested}")
        return Verdict(
            FORECASTS,
            "not known",
            f"{said}, but those of the model's own data err alike ({tested}): that error is the guide's",
        )
    if small:
        return Verdict(FORECASTS, "nearly", f"{said}; the error is small and no chance, {tested}")
    return Verdict(FORECASTS, "no", f"{said}, {tested}")


def code_used(rate: float, active_units: int, latent_dim: int) -> Verdict:
    """Whether the code carries anything of the data.

    Args:
        rate: KL(q(z | x) || p(z)) in nats per datum.
        active_units: The latent dimensions whose code varies over data.
        latent_dim: Their number.
    """
    said = (
        f"it carries {max(rate, 0.0):.2f} nats per {noun()}, and {active_units} of {latent_dim} dimensions "
        "vary over the data"
    )
    return Verdict(CODE, "yes" if rate >= NO_RATE and active_units else "no", said)


def guide_close(told_apart: float, smallest: float, n: int) -> Verdict:
    """Whether q(z | x) is the posterior of data that the model made.

    Args:
        told_apart: The share of pairs in which the best rule tells the true code from a draw.
        smallest: The smallest p-value after Holm's correction.
        n: The number of simulated data.
    """
    said = (
        f"the best rule tells the true code from a draw of the guide in {told_apart:.0%} of pairs (50% is "
        f"chance)"
    )
    p = f"p {p_text(smallest)} after Holm's correction, {n} simulated {nouns()}"
    if smallest >= SIGNIFICANT:
        return Verdict(GUIDE, "yes", f"as far as these data show, {said}; that may be chance, {p}")
    answer: Answer = "nearly" if max(told_apart, 1 - told_apart) <= CLOSE else "no"
    return Verdict(GUIDE, answer, f"{said}; {p}")


def evidence(
    above: float | None, threshold: float | None, ess: float, num_samples: int, n: int
) -> Verdict:
    """Whether importance weighting with the guide gives log p(x).

    Args:
        above: The share of data whose k-hat is above the threshold; None for too few draws.
        threshold: That threshold; None for too few draws.
        ess: The median effective sample size.
        num_samples: The number of draws for each datum.
        n: The number of data.
    """
    effective = (
        f"the median effective sample size is {ess:.0f} of {num_samples} draws (at least "
        f"{FEWEST_EFFECTIVE} is fine)"
    )
    if above is None or threshold is None:
        return Verdict(
            EVIDENCE,
            "not known",
            f"k-hat takes at least {MINIMUM_SAMPLES} draws; {effective}",
        )
    seen = (
        f"k-hat is above {threshold:.2f} for {above:.1%} of {n} {nouns()} (at most {MOST_KHATS_ABOVE:.0%} is "
        f"fine), and {effective}"
    )
    if above > MOST_KHATS_ABOVE:
        return Verdict(EVIDENCE, "no", f"it is too low for some of these data; {seen}")
    answer: Answer = "nearly" if ess < FEWEST_EFFECTIVE else "yes"
    return Verdict(EVIDENCE, answer, seen)


def overfits(question: str, what: str, difference: float, error: float) -> Verdict:
    """Whether held-out data are worse than training data: `DECODER` or `ENCODER`.

    Args:
        question: Which of the two.
        what: What the difference is of, a noun phrase.
        difference: In nats per datum; above 0 is overfitting.
        error: Its standard error.
    """
    if not (math.isfinite(difference) and math.isfinite(error)):
        return Verdict(question, "not known", f"{what} is not finite, or of one {noun()}")
    seen = f"{what} is {difference:+.2f} ± {error:.2f} nats per {noun()}"
    if difference > CLEAR * error:
        return Verdict(question, "yes", seen)
    within = "within" if abs(difference) <= CLEAR * error else "below 0 by more than"
    return Verdict(question, "no", f"{seen}, {within} two standard errors")


def codes_as_prior(told_apart: float, p: float) -> Verdict:
    """Whether the codes of data are distributed as the prior.

    Args:
        told_apart: The share of pairs in which a classifier finds the code of a datum.
        p: Of so large a share by chance.
    """
    said = f"a classifier tells codes of data from draws of the prior in {told_apart:.0%} of pairs (50% is chance)"
    if p >= SIGNIFICANT:
        return Verdict(
            PRIOR, "yes", f"as far as these data show, {said}; that may be chance, p {p_text(p)}"
        )
    return Verdict(PRIOR, "nearly" if told_apart <= CLOSE else "no", f"{said}, p {p_text(p)}")


def robust(
    clean: float, damaged: float, error: float, chance: float, *, above_chance: bool
) -> Verdict:
    """Whether a classifier of codes is as good on damaged data.

    Args:
        clean: Its accuracy on clean data.
        damaged: Its mean accuracy over damages and strengths.
        error: The standard error of `damaged`.
        chance: The accuracy of always saying the commonest label.
        above_chance: Whether `clean` is above it by more than the choice of data explains.
    """
    said = (
        f"the probe's accuracy is {clean:.3f} on clean data and {damaged:.3f} ± {error:.3f} on damaged ones, "
        f"where always saying the commonest label gives {chance:.3f}"
    )
    if not above_chance or clean - chance < LITTLE * (1 - chance):
        return Verdict(ROBUST, "not known", f"{said}: little above chance can be lost")
    kept = (damaged - chance) / (clean - chance)
    return Verdict(
        ROBUST,
        "yes" if kept >= KEPT else "no",
        f"{said}: {kept:.0%} of what is above that is kept",
    )


def scale_warns(lowest: float, highest: float, smallest: float, n: int) -> Verdict:
    """Whether the scale of q(z | x) grows as the error of its mean does, when data are damaged.

    Args:
        lowest: The least error of the guide's mean over what its scale says, under any damage.
        highest: The largest.
        smallest: The smallest p-value of their being 1, after Holm's correction.
        n: The number of data.
    """
    said = (
        f"under damage the error of the guide's mean is {lowest:.2f} to {highest:.2f} times what its scale "
        f"says (1 is right)"
    )
    if smallest >= SIGNIFICANT:
        return Verdict(WARNS, "yes", f"as far as {n} {nouns()} show, {said}, p {p_text(smallest)}")
    near = max(highest, 1 / max(lowest, 1e-300)) <= OUT_OF_STEP
    return Verdict(WARNS, "nearly" if near else "no", f"{said}, p {p_text(smallest)}")


def distance_text(distance: float) -> str:
    """A Kolmogorov-Smirnov distance with what it means.

    >>> distance_text(0.04)
    '0.04 (0 is equal, up to 0.1 small, 1 apart)'
    """
    return f"{distance:.2f} (0 is equal, up to {SMALL_DISTANCE} small, 1 apart)"


def answers(sections: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str | None]]:
    """Each question that these sections answer, with its answer, the section, and why that is stale.

    Args:
        sections: The records of a diagnosis's sections by name. A stale one has "stale".
    """
    found: list[dict[str, str | None]] = []
    for question, (section, part) in QUESTIONS.items():
        record = sections.get(section, {})
        for verdict in record.get(part, {}).get("verdicts", ()):
            if verdict["question"] == question:
                found.append({**verdict, "section": section, "stale": record.get("stale")})
    return found
