"""How the answers of a diagnosis become findings: titles, thresholds, sources, next commands.

The thresholds are those of `analysis.verdicts` and of the review of the training.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analysis.html_report.next_command import Commands
from analysis.result import ANNEALING, GAPS, REPRESENTATION
from analysis.verdicts import (
    CLEAR,
    CLOSE,
    CODE,
    DATA,
    DECODER,
    ENCODER,
    EVIDENCE,
    FEWEST_EFFECTIVE,
    FORECASTS,
    GUIDE,
    KEPT,
    LARGEST_BIAS,
    LARGEST_ERROR,
    LARGEST_SPREAD,
    MOST_KHATS_ABOVE,
    NO_RATE,
    OUT_OF_STEP,
    PRIOR,
    ROBUST,
    SIGNIFICANT,
    SMALL_DISTANCE,
    WARNS,
)
from pyro_vae.runs.training_review import BEYOND, RELEVANT_SHARE
from pyro_vae.statistics import ACTIVE_VARIANCE

Level = Literal["good", "suspicious", "bad", "unknown"]
Record = Mapping[str, Any]

COLLAPSED = "The code has collapsed"
# The page of the rules that are this project's own.
REVIEW = "docs/diagnosis.md"
REFINED = "python scripts/evaluate.py RUN --refine-steps 100"


@dataclass(frozen=True)
class Rule:
    """How the answer to a question becomes a finding.

    Args:
        fault: The title if the answer is `adverse`, or a function of the check's record.
        good: The title otherwise.
        threshold: What the numbers were compared with.
        source: Where that comes from.
        figures: Names of its figures, the best first.
        command: Gives the command to try after a fault.
        p_value: The p-value in the check's record; None where the answer does not rest on one.
        level: The level of a fault.
        adverse: The answer that is a fault.
    """

    fault: str | Callable[[Record], str]
    good: str
    threshold: str
    source: str
    figures: tuple[str, ...]
    command: Callable[[Commands], str | None] = lambda _: None
    p_value: Callable[[Record], float | None] | None = None
    level: Level = "bad"
    adverse: str = "no"

    def title(self, check: Record) -> str:
        """The name of the fault."""
        return self.fault if isinstance(self.fault, str) else self.fault(check)


def encoder_gap(check: Record) -> tuple[float, float]:
    """The gap of test less training data that judges the encoder, and its standard error."""
    term = check["terms"]["inference" if check["gaps_left_out"] else "amortisation"]
    difference, error = term["difference"], term["difference_se"]
    return -(difference or 0.0), error or 0.0


def _above_zero(difference: float, error: float) -> float | None:
    """The one-sided p-value of a difference with a normal error."""
    return math.erfc(difference / error / math.sqrt(2)) / 2 if error else None


def _decoder_p(check: Record) -> float | None:
    adjusted = check["adjusted"]
    return _above_zero(adjusted["difference"] or 0.0, adjusted["difference_se"] or 0.0)


def _forecasts_p(check: Record) -> float | None:
    against = check.get("p_value_against_model")
    return check.get("p_value") if against is None else against


def _scale_p(check: Record) -> float | None:
    """The smallest, after Holm's correction within the check."""
    known = [p for each in check["damages"].values() for p in each["p_value"] if p is not None]
    return min(known, default=None)


def _guide_fault(check: Record) -> str:
    """The most frequent fault of single dimensions."""
    faults = check.get("faults") or {}
    if not faults:
        return "The guide is not the posterior"
    worst = max(faults, key=lambda name: faults[name])
    return f"The guide is {worst}" if faults[worst] else "The guide misses dependences"


_PAIRS = f"a classifier right for at most {CLOSE:.0%} of pairs (50% is chance)"
_TESTED = f"p below {SIGNIFICANT} after Holm's correction for all questions of the page"
_LOSS = (
    f"{CLEAR:g} standard errors; bad above {RELEVANT_SHARE:.0%} of what log p(x) gains over a "
    f"density without latent variables; {_TESTED}"
)
# In the order of causes: what stands first may cause what follows.
RULES: dict[str, Rule] = {
    CODE: Rule(
        COLLAPSED,
        "The code is used",
        f"at least {NO_RATE} nats, and a dimension whose code has a variance of at least "
        f"{ACTIVE_VARIANCE}",
        "Burda et al. (2016), https://arxiv.org/abs/1509.00519 (active units)",
        ("elbo_spectrum", "elbo_terms", "kl_by_dimension"),
        Commands.against_collapse,
    ),
    ENCODER: Rule(
        "The encoder overfits",
        "The encoder does not overfit",
        _LOSS,
        "Cremer et al. (2018), https://arxiv.org/abs/1801.03558",
        ("guide_generalisation",),
        lambda commands: commands.fill(REFINED),
        lambda check: _above_zero(*encoder_gap(check)),
        adverse="yes",
    ),
    DECODER: Rule(
        "The decoder overfits",
        "The decoder does not overfit",
        _LOSS,
        "Wu et al. (2017), https://arxiv.org/abs/1611.04273",
        ("guide_generalisation",),
        Commands.keep_best,
        _decoder_p,
        adverse="yes",
    ),
    FORECASTS: Rule(
        "The likelihood does not fit",
        "Forecasts of elements come true",
        f"of binary data an error of at most {LARGEST_ERROR}, of others a mean PIT within "
        f"{LARGEST_BIAS} of 0.5 and a relative variance within {LARGEST_SPREAD} of 1; {_TESTED}",
        "Gneiting et al. (2007), https://doi.org/10.1111/j.1467-9868.2007.00587.x",
        ("calibration_reliability", "pit_elements", "calibration_map"),
        Commands.other_likelihood,
        _forecasts_p,
    ),
    PRIOR: Rule(
        "The prior has holes",
        "The codes are distributed as the prior",
        f"{_PAIRS}; {_TESTED}",
        "Bauer and Mnih (2019), https://arxiv.org/abs/1810.11428",
        ("representation_holes",),
        Commands.other_prior,
        lambda check: check.get("p_value"),
    ),
    DATA: Rule(
        "Generated data are unlike held-out data",
        "Generated data are like held-out data",
        f"{_PAIRS}, and a Kolmogorov-Smirnov distance of at most {SMALL_DISTANCE}; {_TESTED}",
        "Lopez-Paz and Oquab (2017), https://arxiv.org/abs/1610.06545",
        ("predictive_comparisons", "predictive_check"),
        # It says whether the prior is the reason.
        lambda commands: commands.fill(REPRESENTATION),
        lambda check: check.get("smallest_holm_p_value"),
    ),
    GUIDE: Rule(
        _guide_fault,
        "The guide is close to the posterior",
        f"the best rule right for at most {CLOSE:.0%} of pairs (50% is chance); {_TESTED}",
        "Talts et al. (2018), https://arxiv.org/abs/1804.06788",
        ("guide_dimensions", "guide_sbc"),
        lambda commands: commands.fill(GAPS),
        lambda check: check.get("p_value_holm"),
    ),
    EVIDENCE: Rule(
        "log p(x) cannot be trusted",
        "log p(x) can be trusted",
        f"a high k-hat for at most {MOST_KHATS_ABOVE:.0%}, and {FEWEST_EFFECTIVE} effective draws",
        "Vehtari et al. (2024), https://arxiv.org/abs/1507.02646",
        ("guide_quality",),
        lambda commands: commands.fill(ANNEALING),
        level="suspicious",
    ),
    ROBUST: Rule(
        "The codes are not robust to damaged data",
        "The codes are robust to damaged data",
        f"{KEPT:.0%} of the accuracy above chance",
        "Hendrycks and Dietterich (2019), https://arxiv.org/abs/1903.12261",
        ("representation_robustness",),
        level="suspicious",
    ),
    WARNS: Rule(
        "The guide's scale does not warn of damaged data",
        "The guide's scale warns of damaged data",
        f"an error of {1 / OUT_OF_STEP:g} to {OUT_OF_STEP:g} times the scale; {_TESTED}",
        "Kendall and Gal (2017), https://arxiv.org/abs/1703.04977",
        ("representation_honest_uncertainty",),
        p_value=_scale_p,
        level="suspicious",
    ),
}
# Lines of the review of a training: title, level and threshold.
TRAINING: dict[str, tuple[str, Level, str]] = {
    "diverging": (
        "Training diverged",
        "bad",
        f"half of the gain, and {BEYOND:g} standard deviations of the noise",
    ),
    "collapsed": (COLLAPSED, "bad", "a quarter of the units that were active"),
    "overfitting": (
        "Validation fell while training went on",
        "suspicious",
        f"{BEYOND:g} standard deviations of the noise",
    ),
    "still rising": (
        "Training ended while validation rose",
        "suspicious",
        f"{BEYOND:g} standard errors of the slope",
    ),
}
# The same, of the comparison with a density without latent variables.
BASELINE: dict[str, Level] = {
    "below the baseline": "bad",
    "not clearly above the baseline": "suspicious",
}
