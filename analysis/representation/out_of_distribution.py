"""Can the model tell foreign data from its own test data? Scores of foreignness and their AUROC."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Real
from torch import Tensor

from analysis.representation.detection import Detection, detection
from analysis.representation.foreign_data import check_foreign, support_of
from analysis.representation.foreign_scorer import Scored, Scorer
from analysis.representation.foreign_scores import DEFINITIONS, OF_A_DENSITY
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import LARGEST_ROUNDING

# Above this AUROC a score is said to tell a set apart: at an even number of both, some 15 % of data are
# on the wrong side of the best threshold.
GOOD = 0.9
# log p(x) of a set is called a bound and no more if the k-hat of more than this share is too high.
MOST_KHATS_ABOVE = 0.1


@dataclass(frozen=True)
class OutOfDistribution:
    """What each score makes of the model's own test data and of foreign data.

    Args:
        own: The test data.
        foreign: The foreign sets by name.
        num_samples: The draws that log p(x) was estimated with.

    References:
        Do Deep Generative Models Know What They Don't Know? (Nalisnick et al., 2019),
        https://arxiv.org/abs/1810.09136
    """

    own: Scored
    foreign: Mapping[str, Scored]
    num_samples: int

    @cached_property
    def detections(self) -> dict[str, dict[str, Detection | None]]:
        """By foreign set and score; None where the score is not defined, or less apart than it is rounded."""
        return {
            name: {
                score: _detection(
                    self.own.scores.get(score),
                    scored.scores.get(score),
                    self._rounding(scored) if score in OF_A_DENSITY else 0.0,
                )
                for score in DEFINITIONS
            }
            for name, scored in self.foreign.items()
        }

    def _rounding(self, scored: Scored) -> float:
        return max(self.own.rounding or 0.0, scored.rounding or 0.0)

    def auroc(self, score: str) -> dict[str, float]:
        """The AUROC of a score on each foreign set; empty where it is not defined."""
        found = {name: by_score[score] for name, by_score in self.detections.items()}
        return {name: one.auroc for name, one in found.items() if one is not None}

    @property
    def best_score(self) -> str:
        """The score whose lowest AUROC over the foreign sets is highest."""
        lowest = {score: min(self.auroc(score).values(), default=-1.0) for score in DEFINITIONS}
        return max(lowest, key=lambda score: lowest[score])

    def summary(self) -> dict[str, Any]:
        """Definitions of the scores, and by foreign set: numbers of data, log p(x), AUROC of each score."""
        return {
            "num_samples": self.num_samples,
            "scores": dict(DEFINITIONS),
            "own": _described(self.own),
            "foreign": {
                name: _described(self.foreign[name])
                | {
                    score: None if found is None else found.summary()
                    for score, found in by_score.items()
                }
                for name, by_score in self.detections.items()
            },
            "best_score": self.best_score,
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether likelihood alone failed here, which score serves, and how far to trust log p(x)."""
        what = (
            f"AUROC is the chance that a foreign {noun()} scores above one of the test data: 1 is perfect, "
            "0.5 is chance."
        )
        return " ".join(
            filter(None, [what, self._of_likelihood(), self._of_the_best(), self._doubt()])
        )

    def _of_likelihood(self) -> str:
        """What likelihood alone did, which is known to fail on simple data."""
        aurocs = self.auroc("likelihood")
        if not aurocs and self.own.scores.get("likelihood") is not None:
            return "log p(x) is not a number, or rounding errors swallow its differences: it scores nothing."
        if not aurocs:
            return "The guide is a point and there is no log p(x): only reconstructions and codes score."
        known = "Likelihood alone is known to call simpler data more probable than the model's own"
        fooled = [
            f"{name} ({aurocs[name]:.2f})"
            for name, by_score in self.detections.items()
            if (found := by_score["likelihood"]) is not None and found.below_chance
        ]
        if fooled:
            return (
                f"{known} (Fashion-MNIST's models do so of digits), and does so here for "
                f"{_listed(fooled)}: do not use log p(x) by itself."
            )
        worst = min(aurocs, key=lambda name: aurocs[name])
        return f"{known}; it did not here (AUROC {aurocs[worst]:.2f} or more, lowest on {worst})."

    def _of_the_best(self) -> str:
        best = self.best_score
        reached = self.auroc(best)
        if not reached:
            return "No score is a number for all of these data, so that none is judged."
        worst = min(reached, key=lambda name: reached[name])
        where = f"on {worst}, AUROC {reached[worst]:.2f}"
        if len(reached) > 1:
            where = f"on its worst of {len(reached)} sets, AUROC {reached[worst]:.2f} on {worst}"
        judged = (
            "good enough to use" if reached[worst] >= GOOD else f"below {GOOD}: not to rely on"
        )
        return f"The best score is {best} {where}, {judged}; it was chosen on the sets it is judged on."

    def _doubt(self) -> str:
        """A caution where k-hat says that log p(x) is too low, and for whom."""
        own = self.own.khat_share_above
        others = [scored.khat_share_above for scored in self.foreign.values()]
        most = max((share for share in others if share is not None), default=None)
        if own is None or most is None or max(own, most) <= MOST_KHATS_ABOVE:
            return ""
        return (
            f"With {self.num_samples} draws each, log p(x) is a loose lower bound here (k-hat too high for {own:.0%} of own data and up to "
            f"{most:.0%} of foreign): the guide knows no foreign data, so that they may look less probable "
            "than they are to the model."
        )


def out_of_distribution(
    vae: Any,
    train_x: Real[Tensor, " t *event"],
    x: Real[Tensor, " n *event"],
    foreign: Mapping[str, Tensor],
    *,
    num_samples: int = 100,
    seed: int = 0,
) -> OutOfDistribution:
    """s(x) for own and foreign data, and P(s_foreign > s_own), for scores s that should be larger for foreign x.

    - `likelihood`: -log p(x), by importance weighting with K draws from the guide. Known to fail: data
      that are simpler than the model's own get a higher log p(x), constant images the highest.
    - `typicality`: |-log p(x) - H|, H the mean of -log p(x) over up to 1,000 training data: most draws of
      a model are about as probable as its entropy says, and none is near its mode. It finds data that
      are too probable as well. Training data have a somewhat higher log p(x) than test data.
    - `complexity_ratio`: -log p(x) - L(x), L(x) the compressed length in nats: simple data are probable
      under any model, and this takes it away. No better than the compressor is on such data: noise that
      it cannot shorten looks ordinary.
    - `background_ratio`: log p_0(x) - log p(x), p_0 a product of each element's own distribution in
      training data: what the model knows beyond single elements. p_0 needs no network, but fails itself
      on foreign data, which then look the better explained by the model.
    - `rate`: KL(q(z | x) || p(z)). Large where the guide puts a datum far out, or says it precisely.
    - `reconstruction`: root mean square of x less the mean of p(x | z) at its code; of counts, after
      log(1 + .). Simple foreign data are often reconstructed better than own data.
    - `mahalanobis`: the distance of the code to the mean training code, in units of their covariance,
      shrunk by Ledoit and Wolf's rule; on up to 10,000 training data.
    - `neighbours`: the mean distance of the code to its 10 nearest of these; on the sphere, chordal.

    A guide that is a point, an autoencoder's, has the last three only.

    Args:
        vae: A program with `model`, `guide`, `embed`, `decode` and `latent_sites`.
        train_x: Training data in the likelihood's support; may be on another device.
        x: Own test data, none of which was trained on, in the support and on the program's device.
        foreign: Sets of foreign data by name, of the same event shape and prepared in the same way; the
            numbers of data may differ.
        num_samples: The number K of draws from the guide for each datum.
        seed: The seed of the draws.

    Returns:
        The scores, and in `detections` the AUROC of each on each set: 1 is perfect, 0.5 chance, and below
        0.5 foreign data look more ordinary than own.

    Raises:
        ValueError: If there are no own or foreign data, or foreign data are of another shape or not in
            the support, such as grey values where own data are binary.

    References:
        Do Deep Generative Models Know What They Don't Know? (Nalisnick et al., 2019),
        https://arxiv.org/abs/1810.09136; Detecting Out-of-Distribution Inputs to Deep Generative Models
        Using Typicality (Nalisnick et al., 2019), https://arxiv.org/abs/1906.02994; Input complexity and
        out-of-distribution detection with likelihood-based generative models (Serrà et al., 2020),
        https://arxiv.org/abs/1909.11480; Likelihood Ratios for Out-of-Distribution Detection (Ren et
        al., 2019), https://arxiv.org/abs/1906.02845
    """
    if min(len(train_x), len(x), len(foreign)) == 0:
        raise ValueError(
            "there must be training data, own data and a foreign set, got "
            f"{len(train_x)}, {len(x)} and {len(foreign)}."
        )
    support = support_of(vae)
    levels = getattr(vae.likelihood, "levels", None) if support else None
    for name, data in foreign.items():
        check_foreign(x, data, support, levels=levels, name=name)
    scorer = Scorer(vae, train_x, x, support, levels, num_samples, seed)
    return OutOfDistribution(
        own=scorer("own", x),
        foreign={name: scorer(name, data.to(x.device)) for name, data in foreign.items()},
        num_samples=num_samples,
    )


def _detection(
    own: np.ndarray | None, foreign: np.ndarray | None, rounding: float
) -> Detection | None:
    if own is None or foreign is None:
        return None
    scores = np.concatenate([own, foreign])
    if np.isnan(scores).any():
        return None
    # The middle half of all scores: where rounding reaches as far, their order is chance.
    with np.errstate(invalid="ignore"):  # Of scores that are infinite.
        spread = np.subtract(*np.quantile(scores, [0.75, 0.25], method="nearest"))
    return None if rounding > LARGEST_ROUNDING and spread <= rounding else detection(own, foreign)


def _described(scored: Scored) -> dict[str, Any]:
    cost = scored.scores.get("likelihood")
    return {
        "n": len(scored),
        "log_evidence": None if cost is None else finite(-float(cost.mean())),
        "khat_share_above": scored.khat_share_above,
    }


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
