"""Scores of foreignness drawn from a model: the thin layer between a program and `foreign_scores`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analysis.predictive.model_samples import embedded, has_density, mean_data, to_array
from analysis.representation.complexity import compressed_length, log_cell, on_levels
from analysis.representation.foreign_scores import (
    OF_A_DENSITY,
    CodeDistances,
    reconstruction_error,
)
from pyro_vae.evidence.baseline_densities import independent_density
from pyro_vae.evidence.evaluation import fixed_rows
from pyro_vae.evidence.importance_weighting import ImportanceWeighting, importance_weighting
from pyro_vae.rng import derive_seed, evaluation_mode

# So many training data are taken: for their mean log p(x), and for their codes and single elements.
TYPICAL_DATA = 1000
CODED_DATA = 10_000


@dataclass(frozen=True)
class Scored:
    """One set of n data, and how foreign the model finds each.

    Args:
        scores: By name, as in `DEFINITIONS`, larger the more foreign; None where it is not defined.
        khat_share_above: The share of data whose log p(x) is not to be trusted, as in
            `ImportanceWeighting`; None if there is no density or were too few draws.
        rounding: About the rounding error of the median log p(x), in nats; None if there is no density.
    """

    scores: Mapping[str, Float[np.ndarray, " n"] | None]
    khat_share_above: float | None
    rounding: float | None = None

    def __len__(self) -> int:
        return len(next(values for values in self.scores.values() if values is not None))


class Scorer:
    """What is known of the training data, to score any other data by.

    Args:
        vae: The program.
        train_x: The training data.
        x: Own test data, on the program's device.
        support: What the likelihood is a density on; None if unknown, and then as on the real line.
        levels: The number of levels of integers, if known.
        num_samples: The draws from the guide for each datum.
        seed: The seed of the draws.
    """

    def __init__(
        self,
        vae: Any,
        train_x: Tensor,
        x: Tensor,
        support: str | None,
        levels: int | None,
        num_samples: int,
        seed: int,
    ) -> None:
        self.vae, self.num_samples, self.seed = vae, num_samples, seed
        self.given_total = bool(getattr(getattr(vae, "likelihood", None), "given_total", False))
        self.support = support
        train_x = train_x[fixed_rows(len(train_x), CODED_DATA).to(train_x.device)]
        self.distances = CodeDistances(embedded(vae, train_x.to(x.device)))
        self.density = has_density(vae, x)
        if self.density:
            typical = train_x[fixed_rows(len(train_x), TYPICAL_DATA).to(train_x.device)]
            log_evidence = self._weighted("training", typical.to(x.device)).log_evidence
            known = log_evidence[np.isfinite(log_evidence)]
            self.entropy = -float(known.mean()) if len(known) else np.nan
            train = to_array(train_x)
            self.limits = (float(train.min()), float(train.max()))
            self.background = independent_density(
                train, support or "real", levels=levels, given_total=self.given_total
            ).log_density

    def _weighted(self, name: str, x: Tensor) -> ImportanceWeighting:
        with evaluation_mode(self.vae, seed=derive_seed(self.seed, f"out of distribution {name}")):
            return importance_weighting(
                self.vae.model, self.vae.guide, x, num_samples=self.num_samples
            )

    def __call__(self, name: str, x: Tensor) -> Scored:
        """Every score of each datum; the name gives the draws a stream of their own."""
        codes, data = embedded(self.vae, x), to_array(x)
        means = np.concatenate(
            [mean_data(self.vae, part) for part in np.array_split(codes, -(-len(codes) // 1000))]
        )
        scores: dict[str, Float[np.ndarray, " n"] | None] = dict.fromkeys(OF_A_DENSITY)
        weighted = None
        if self.density:
            weighted = self._weighted(name, x)
            scores |= self._of_density(data, weighted)
        scores["reconstruction"] = reconstruction_error(
            data, means, counts=self.support == "counts", given_total=self.given_total
        )
        scores["mahalanobis"] = self.distances.mahalanobis(codes)
        scores["neighbours"] = self.distances.neighbours(codes)
        if weighted is None:
            return Scored(scores, None)
        rounding = None if weighted.rounding is None else float(np.median(weighted.rounding))
        return Scored(scores, weighted.khat_share_above, rounding)

    def _of_density(self, x: np.ndarray, weighted: ImportanceWeighting) -> dict[str, np.ndarray]:
        cost = -weighted.log_evidence
        support, elements = self.support or "real", x[0].size
        # On [0, 1] the cells are the same for all models; on a line they span the training data.
        low, high = self.limits if support == "real" else (0.0, 1.0)
        length = compressed_length(
            on_levels(x, support, low=low, high=high), binary=support == "binary"
        )
        cell = log_cell(support, elements, low=low, high=high)
        return {
            "likelihood": cost,
            "typicality": np.abs(cost - self.entropy),
            "complexity_ratio": cost - cell - length,
            "background_ratio": self.background(x) + cost,
            "rate": weighted.kl,
        }
