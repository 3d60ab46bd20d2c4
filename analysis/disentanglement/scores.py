"""All scores of disentanglement of one code, side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.disentanglement.beta_vae_metric import beta_vae_score
from analysis.disentanglement.dci import completeness_of, disentanglement_of, importance
from analysis.disentanglement.factor_vae_metric import GroupScore, factor_vae_score
from analysis.disentanglement.factors import Factors, check, varying
from analysis.disentanglement.modularity import mean_modularity
from analysis.disentanglement.mutual_information_gap import (
    Information,
    information,
    largest_gap,
    mutual_information_gap,
    resampled_information,
)
from analysis.disentanglement.sap import separated_predictability, threshold_accuracies
from analysis.plotting.style import listed
from analysis.predictive.model_samples import UndefinedCheckError
from pyro_vae.evidence.numbers import finite

# What no number here can say.
LIMITS = (
    "No score says everything: MIG and SAP punish a rotation, and a factor held twice; FactorVAE and "
    "beta-VAE scores can be 1, and modularity 0.9, for a rotated code; all but MIG and modularity "
    "depend on predictors. "
    "Compare them with others by this program on the same data only, and over several seeds."
)
# In the order of summary and figure, and as a person reads them.
SCORES = {
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "modularity": "modularity",
    "factor_vae": "FactorVAE score",
    "beta_vae": "beta-VAE score",
    "dci_informativeness": "DCI informativeness",
}
# The share of the way from chance to the best MIG and informativeness that is called high, and low.
HIGH = 0.5
LOW = 0.2
# Where the bias of the mutual information is a larger share of a factor's entropy, MIG is not to be
# compared between sets of different size.
LARGEST_BIAS = 0.05
# Fewer data give the scores for dSprites' 40 values too much noise.
FEWEST_DATA = 10_000


@dataclass(frozen=True)
class Disentanglement:
    """How far each coordinate of a code follows one factor, and each factor one coordinate.

    Args:
        scores: By name, see `SCORES`; not a number where one is not defined.
        standard_errors: Of MIG and modularity over bootstrap samples of the data, of those that are
            accuracies binomial; None for those that would take all forests anew. The choice of the
            trained model, which is not in them, weighs more: give a spread over seeds.
        best: What a perfect code, the factors' own numbers, scores.
        chance: What noise scores on average.
        mutual_information: I(z_i; v_j) / H(v_j).
        importance: R_ij of DCI.
        accuracies: The held-out accuracy of the forest for each factor.
        guesses: That of the most frequent value.
        informative: Which coordinates know of some factor.
        bias: By how much I / H is too high at most, a mean over coordinates.
        names: What the factors are called.
        left_out: Factors with a single value in the data.
        undefined: Why a score is not defined.
        n: The number of data.
    """

    scores: dict[str, float]
    standard_errors: dict[str, float | None]
    best: dict[str, float]
    chance: dict[str, float]
    mutual_information: Float[np.ndarray, "dim factors"]
    importance: Float[np.ndarray, "dim factors"]
    accuracies: Float[np.ndarray, " factors"]
    guesses: Float[np.ndarray, " factors"]
    informative: Bool[np.ndarray, " dim"]
    bias: float
    names: tuple[str, ...]
    left_out: tuple[str, ...]
    undefined: dict[str, str]
    n: int

    def summary(self) -> dict[str, Any]:
        """Scores with their errors, best and chance, and the two matrices, coordinates x factors."""
        return {
            "n": self.n,
            "factors": list(self.names),
            "left_out": list(self.left_out),
            "scores": {
                name: {
                    "value": finite(self.scores[name]),
                    "standard_error": finite(self.standard_errors[name]),
                    "best": self.best[name],
                    "chance": self.chance[name],
                    "undefined": self.undefined.get(name),
                }
                for name in SCORES
            },
            "accuracy": dict(zip(self.names, self.accuracies.tolist(), strict=True)),
            "guess": dict(zip(self.names, self.guesses.tolist(), strict=True)),
            "informative_coordinates": np.flatnonzero(self.informative).tolist(),
            "mutual_information": self.mutual_information.tolist(),
            "mutual_information_bias": self.bias,
            "importance": self.importance.tolist(),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether factors have coordinates of their own, and what the numbers cannot say."""
        mig, best = self.scores["mig"], self.best["mig"]
        told, guess = self.scores["dci_informativeness"], self.chance["dci_informativeness"]
        seen = (
            f"MIG is {mig:.2f} (noise 0, a perfect code {best:.2f}), and trees read a factor from all "
            f"coordinates with accuracy {told:.2f} (guessing {guess:.2f})"
        )
        known = (told - guess) / max(1 - guess, 1e-12)
        if mig >= HIGH * best:
            first = f"Most factors have a coordinate of their own: {seen}."
        elif known < LOW:
            first = f"The code holds little of the factors: {seen}; no rotation would mend that."
        elif mig < LOW * best:
            first = (
                f"The factors are not in coordinates of their own: {seen}, so they are mixed or spread "
                "over several rather than lost."
            )
        else:
            first = f"Some factors have a coordinate of their own, or all partly: {seen}."
        said = [first, LIMITS]
        if self.bias > LARGEST_BIAS:
            said.append(
                f"With {self.n} data the information is too high by up to {self.bias:.2f} of a factor: "
                f"take at least {FEWEST_DATA}."
            )
        if self.undefined:
            said.append(f"Not defined: {listed(list(self.undefined))}.")
        return " ".join(said)


def disentanglement(
    codes: Float[np.ndarray, "n dim"],
    factors: Int[np.ndarray, "n factors"],
    *,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Disentanglement:
    """MIG, SAP, DCI, modularity, FactorVAE and beta-VAE scores of codes of data with known factors.

    Give it held-out data drawn at random with all values of the factors: for dSprites the test set,
    13,252 or 13,601 rows, not the training set, a grid of every fourth orientation and every second
    position, which has other numbers of values and so other scores. Take 10,000 rows or more, and as
    many for all that is compared. The factors should be independent in the data: what
    goes with two of them counts as mixed.

    Args:
        codes: A row for each datum, such as `vae.embed(x)`.
        factors: Class numbers; each integer is a class of its own. One that has a single value in
            the data is left out.
        names: What the factors are called.
        seed: Of all draws, halves and forests.

    Returns:
        Eight scores, with what a perfect code and noise score beside them. A score that these data
        are too few for is not a number, and `undefined` says why.

    Raises:
        ValueError: If the numbers of data or names do not fit, or a code is not finite.
        UndefinedCheckError: If the code has one coordinate, or fewer than two factors vary.

    References:
        Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations
        (Locatello et al., 2019), https://arxiv.org/abs/1811.12359; each score's own paper stands in
        its module.
    """
    varied = varying(factors, names)
    check(codes, varied, least=2)
    if len(varied.sizes) < 2:
        raise UndefinedCheckError(
            f"disentanglement takes at least 2 factors that vary, got {varied.names[0]} alone."
        )
    knowledge = information(codes, varied, seed=seed)
    predicted = importance(codes, varied, seed=seed)
    groups: dict[str, GroupScore] = {}
    undefined: dict[str, str] = {}
    metrics: dict[str, Callable[..., GroupScore]] = {
        "factor_vae": factor_vae_score,
        "beta_vae": beta_vae_score,
    }
    for name, metric in metrics.items():
        try:
            groups[name] = metric(codes, varied, seed=seed)
        except UndefinedCheckError as error:
            undefined[name] = str(error)
    accuracies, guesses = predicted.accuracies, predicted.guesses
    scores = {
        "mig": float(mutual_information_gap(knowledge.nats, knowledge.entropies).mean()),
        "sap": float(
            separated_predictability(threshold_accuracies(codes, varied, seed=seed)).mean()
        ),
        "dci_disentanglement": disentanglement_of(predicted.matrix),
        "dci_completeness": completeness_of(predicted.matrix),
        "modularity": mean_modularity(knowledge.nats, knowledge.informative),
        **{name: groups[name].accuracy if name in groups else math.nan for name in metrics},
        "dci_informativeness": float(accuracies.mean()),
    }
    errors = {
        **dict.fromkeys(SCORES),
        **_bootstrap_errors(codes, varied, knowledge, seed),
        **{name: score.standard_error for name, score in groups.items()},
        "dci_informativeness": float(
            np.sqrt((accuracies * (1 - accuracies)).sum() / predicted.num_judged) / len(accuracies)
        ),
    }
    count = len(varied.sizes)
    return Disentanglement(
        scores=scores,
        standard_errors=errors,
        best={
            **dict.fromkeys(SCORES, 1.0),
            "mig": largest_gap(varied),
            "sap": float(np.mean([1 - 1 / size for size in varied.sizes])),
        },
        chance={
            **dict.fromkeys(SCORES, 0.0),
            **dict.fromkeys(metrics, 1 / count),
            "dci_informativeness": float(guesses.mean()),
        },
        mutual_information=knowledge.normalised,
        importance=predicted.matrix,
        accuracies=accuracies,
        guesses=guesses,
        informative=knowledge.informative,
        bias=float((knowledge.bias.mean(0) / knowledge.entropies).max()),
        names=varied.names,
        left_out=varied.left_out,
        undefined=undefined,
        n=len(codes),
    )


def _bootstrap_errors(
    codes: np.ndarray, factors: Factors, knowledge: Information, seed: int
) -> dict[str, float | None]:
    """Spreads over bootstrap samples of the data."""
    drawn = resampled_information(codes, factors, seed=seed)
    gaps = [mutual_information_gap(nats, knowledge.entropies).mean() for nats in drawn]
    parts = [mean_modularity(nats, knowledge.informative) for nats in drawn]
    return {"mig": float(np.std(gaps, ddof=1)), "modularity": float(np.std(parts, ddof=1))}
