"""What a model with a fault should not be used for."""

from analysis.html_report.findings import BELOW, UNTRAINED, Finding
from analysis.html_report.rules import COLLAPSED, RULES, TRAINING
from analysis.verdicts import DATA, DECODER, ENCODER, EVIDENCE, FORECASTS, PRIOR, ROBUST, WARNS

# What a model with a fault should not be used for, by the title of the fault.
UNSUITED: dict[str, str] = {
    UNTRAINED: "any purpose but a trial: train it longer first",
    "Training was short": "final results: a longer training would change them",
    COLLAPSED: "a representation: its codes say little about the data",
    BELOW: "densities or anomaly scores where a simpler density does as well",
    "The model may copy its training data": "publishing samples if its training data are private",
    "log p(x) needs more draws": "comparing models by the log p(x) of this card",
    "The prior may have holes": "sampling from the prior, or interpolation between codes",
    **{str(RULES[question].fault): use for question, use in (
        (ENCODER, "codes and bounds of new data that must be as good as those of training data"),
        (DECODER, "anomaly scores that compare new data with its training data"),
        (FORECASTS, "probabilities or intervals of single elements of the data"),
        (PRIOR, "sampling from the prior, or interpolation between codes"),
        (DATA, "synthetic data in the place of real ones"),
        (EVIDENCE, "comparing models by log p(x), or anomaly scores"),
        (ROBUST, "codes of damaged or noisy data"),
        (WARNS, "detecting unreliable codes by the scale of q(z | x)"),
    )},
    TRAINING["diverging"][0]: "any purpose: train it again with a smaller learning rate",
    TRAINING["overfitting"][0]: "densities of new data, without a check of an earlier epoch",
    TRAINING["still rising"][0]: "final results: a longer training would change them",
}  # fmt: skip
# The titles of a guide's faults are not fixed.
_GUIDE = "The guide "
_UNSUITED_OF_GUIDE = "the uncertainty of a code: the spread of q(z | x) is not that of p(z | x)"


def unsuited(finding: Finding) -> str | None:
    """What a model with this finding should not be used for; None without a fault."""
    if finding.level not in ("bad", "suspicious"):
        return None
    if finding.title.startswith(_GUIDE):
        return _UNSUITED_OF_GUIDE
    return UNSUITED.get(finding.title)
