"""The ELBO datum by datum: reconstruction and rate, and the best and the worst of them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis.verdicts import Verdict, code_used
from pyro_vae.data.nouns import a_noun, noun
from pyro_vae.evidence import Evaluation
from pyro_vae.evidence.numbers import finite
from pyro_vae.statistics import ACTIVE_VARIANCE, EQUAL_SHARE, standard_error, unit_activity

# Of a summary: the smallest, the quartiles with the tails' ends, the largest.
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

# How many of the worst and of the best data a summary names.
EXTREMES = 5

# The mean of the worst hundredth of data lies so many interquartile ranges below the median, or
# more: it is about 2 for a normal distribution.
LONG_TAIL = 4.0


@dataclass(frozen=True)
class ElboTerms:
    """ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z)) of each datum, in nats.

    Args:
        reconstruction: E_q[log p(x | z)].
        rate: KL(q(z | x) || p(z)).
        embeddings: The deterministic code of each datum.
    """

    reconstruction: Float[np.ndarray, " n"]
    rate: Float[np.ndarray, " n"]
    embeddings: Float[np.ndarray, "n latent"]

    @property
    def elbo(self) -> Float[np.ndarray, " n"]:
        """The bound itself: at most log p(x) in expectation."""
        return self.reconstruction - self.rate

    @property
    def terms(self) -> dict[str, Float[np.ndarray, " n"]]:
        """The terms by name, each so that high is good but for the rate, which is a cost."""
        return {"reconstruction": self.reconstruction, "rate": self.rate, "elbo": self.elbo}

    def extremes(
        self, count: int = EXTREMES
    ) -> dict[str, tuple[Int[np.ndarray, " worst"], Int[np.ndarray, " best"]]]:
        """The rows with the worst and with the best of each term, the most extreme first.

        The worst rate is the highest: so many nats a datum costs. What is no number is worst of all.
        """
        found = {}
        for name, values in self.terms.items():
            good = -values if name == "rate" else values
            order = np.lexsort((good, ~np.isnan(good)))
            found[name] = (order[:count], order[::-1][:count])
        return found

    def summary(self) -> dict[str, Any]:
        """Each term's mean, standard error and quantiles over data, and its worst and best rows."""
        extremes = self.extremes()
        found: dict[str, Any] = {"n": len(self.rate)}
        for name, values in self.terms.items():
            worst, best = extremes[name]
            found |= {
                name: finite(values.mean()),
                f"{name}_se": finite(standard_error(values)),
                f"{name}_quantiles": {
                    str(q): finite(np.quantile(values, q)) if np.isfinite(values).all() else None
                    for q in QUANTILES
                },
                f"{name}_worst": worst.tolist(),
                f"{name}_best": best.tolist(),
            }
        verdict = self.verdict()
        return found | {
            "active_units": self.active_units,
            "verdicts": [] if verdict is None else [verdict.summary()],
            "reading": self.reading(),
        }

    @property
    def active_units(self) -> int:
        """The number of latent dimensions whose code varies over data."""
        return int((unit_activity(self.embeddings) > ACTIVE_VARIANCE).sum())

    def verdict(self) -> Verdict | None:
        """Whether the code is used; None where the rate is not finite."""
        rate = float(self.rate.mean())
        if not math.isfinite(rate):
            return None
        return code_used(rate, self.active_units, self.embeddings.shape[1])

    def reading(self) -> str:
        """Whether the code is used, whether a few data carry the loss, and what to look at."""
        elbo = self.elbo
        if not np.isfinite(elbo).all():
            bad = (~np.isfinite(elbo)).mean()
            return f"Not to be read: the ELBO is not finite for {bad:.1%} of data."
        low, median, high = np.quantile(elbo, (0.25, 0.5, 0.75))
        worst = np.sort(elbo)[: max(1, len(elbo) // 100)].mean()
        spread = high - low
        means = (
            f"{self.verdict()} {a_noun().capitalize()} costs {-elbo.mean():.2f} nats on average, {-self.reconstruction.mean():.2f} "
            f"for the reconstruction and {self.rate.mean():.2f} for the code."
        )
        if spread <= EQUAL_SHARE * max(1.0, abs(median)):
            return (
                f"{means} Half of the data or more have the same ELBO but for rounding, so that there "
                f"is no interquartile range to measure the worst 1 % by, {median - worst:.1f} nats below "
                "the median: look at these if that is much."
            )
        reach = (median - worst) / spread
        if reach > LONG_TAIL:
            return (
                f"{means} The worst 1 % cost {median - worst:.1f} nats more than the median {noun()}, "
                f"{reach:.1f} interquartile ranges (about 2 are usual): look at them, they are "
                "outliers, errors in the data or a kind of data that the model does not know."
            )
        return (
            f"{means} No few data carry the loss: the worst 1 % lie {reach:.1f} interquartile "
            "ranges below the median (about 2 are usual)."
        )


def elbo_terms(evaluation: Evaluation) -> ElboTerms:
    """The terms of each evaluated datum, means over its draws from the guide.

    Args:
        evaluation: What `pyro_vae.evidence.evaluate` gives.
    """
    weighted = evaluation.importance_weighting
    return ElboTerms(
        *(
            np.asarray(v, np.float64)
            for v in (weighted.reconstruction, weighted.kl, evaluation.embeddings)
        )
    )
