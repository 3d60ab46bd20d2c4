"""How well a score tells foreign data from a model's own: AUROC and the false alarms it costs."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Real

# The share of foreign data that must be found when false alarms are counted.
FOUND = 0.95


@dataclass(frozen=True)
class Detection:
    """How well one score tells m foreign data from n of the model's own.

    Args:
        auroc: P(s_foreign > s_own) + P(s_foreign = s_own) / 2: 1 if the score tells them all apart, 0.5
            by chance, below 0.5 if it calls foreign data the more ordinary ones.
        standard_error: Of `auroc`, from the choice of both sets of data; 0 where the scores are wholly
            apart, and None with fewer than two data in a set.
        false_alarms: The share of own data called foreign at the threshold that finds 95 % of the
            foreign ones: 0 is perfect, 0.95 chance.
    """

    auroc: float
    standard_error: float | None
    false_alarms: float

    @property
    def below_chance(self) -> bool:
        """Whether `auroc` is below 0.5 by more than two standard errors."""
        return self.auroc + 2 * (self.standard_error or 0.0) < 0.5

    def summary(self) -> dict[str, float | None]:
        """AUROC, its standard error, and the false alarms."""
        return {
            "auroc": self.auroc,
            "auroc_se": self.standard_error,
            "false_alarms_at_95": self.false_alarms,
        }


def detection(own: Real[np.ndarray, " n"], foreign: Real[np.ndarray, " m"]) -> Detection:
    """AUROC = P(s_foreign > s_own) + P(s_foreign = s_own) / 2, with DeLong's standard error.

    Only the order of the scores counts, so that infinite ones are as good as any.

    Args:
        own: The scores of the model's own data.
        foreign: Those of foreign data, to be the larger ones.

    Returns:
        The area, its standard error, and the share of own data called foreign where 95 % of the foreign
        ones are found. Foreign is the positive class here; some papers have it the other way round,
        which gives the same area and another false-alarm rate.

    Raises:
        ValueError: If a set is empty or a score is not a number.

    References:
        Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves: A
        Nonparametric Approach (DeLong et al., 1988), https://doi.org/10.2307/2531595; by ranks, as in
        Fast Implementation of DeLong's Algorithm (Sun & Xu, 2014),
        https://doi.org/10.1109/LSP.2014.2337313
    """
    from scipy.stats import rankdata
    from sklearn.metrics import roc_auc_score

    n, m = len(own), len(foreign)
    if n == 0 or m == 0:
        raise ValueError(f"there must be own and foreign data, got {n} and {m}.")
    scores = np.concatenate([own, foreign]).astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError(
            f"scores must be numbers, got {int(np.isnan(scores).sum())} that are not."
        )
    # Ranks, those of ties shared, in place of scores: an infinite score has a rank.
    ranks = rankdata(scores)
    auroc = float(roc_auc_score(np.arange(n + m) >= n, ranks))
    error = None
    if min(n, m) > 1:
        # For each datum, the share of the other set that it is on the right side of.
        own_right = 1 - (ranks[:n] - rankdata(own)) / m
        foreign_right = (ranks[n:] - rankdata(foreign)) / n
        error = math.sqrt(own_right.var(ddof=1) / n + foreign_right.var(ddof=1) / m)
    threshold = np.sort(ranks[n:])[::-1][math.ceil(FOUND * m) - 1]
    return Detection(auroc, error, float((ranks[:n] >= threshold).mean()))
