"""log p(x) by annealed importance sampling, from the guide to the joint density."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.compilation.work import CompileMode
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.annealing import Options, chunks
from pyro_vae.evidence.numbers import finite, joined, precision, standard_error
from pyro_vae.rng import evaluation_mode
from pyro_vae.statistics import (
    effective_sample_size,
    log_mean_exp,
    rounding_error,
    withheld,
)

# Thresholds of `trust`. Step sizes aim at 0.65; below this, chains hardly move.
LEAST_ACCEPTANCE = 0.4
# The mean of C weights has about (C / ESS - 1) / C for its squared error over its square, and its
# logarithm falls short by half of that: 0.1 nats of 16 weights with an ESS of 4.
LARGEST_SHORTFALL = 0.1
# Of the data.
_FEW = 0.05


@dataclass(frozen=True)
class AnnealedImportanceSampling:
    """What C chains say of each datum. Log densities are in nats.

    Args:
        log_evidence: log 1/C sum_c w_c: the mean weight's expectation is p(x), so this is at most
            log p(x) in expectation, and tighter with chains and temperatures.
        log_weights: log w_c of each chain.
        acceptance: The mean probability of acceptance over chains and transitions; 1 without any.
        ess: The effective number of chains, from 1 to C.
        num_chains: The number C of chains for each datum.
        num_temperatures: The number of increments of b from 0 to 1.
        leapfrog_steps: The number of leapfrog steps of a transition.
        rounding: About the rounding error of `log_evidence`; None where it is not known.
    """

    log_evidence: Float[np.ndarray, " n"]
    log_weights: Float[np.ndarray, "chains n"]
    acceptance: Float[np.ndarray, " n"]
    ess: Float[np.ndarray, " n"]
    num_chains: int
    num_temperatures: int
    leapfrog_steps: int
    rounding: Float[np.ndarray, " n"] | None = None

    @property
    def mean_log_evidence(self) -> float:
        """The mean over data of `log_evidence`, in nats per datum."""
        return float(self.log_evidence.mean())

    @property
    def log_evidence_se(self) -> float | None:
        """The standard error of `mean_log_evidence` from the choice of data; None for one datum.

        It does not hold the bound's own gap: `trust` and `two_sided_check` speak of that.
        """
        return standard_error(self.log_evidence)

    @property
    def shortfall(self) -> Float[np.ndarray, " n"]:
        """About how far `log_evidence` is below log p(x) in expectation, in nats, as the weights tell.

        (C / ESS - 1) / 2C, half of the mean weight's relative variance, for small ones: it is never
        above a half, and near there says "more". Chains that all miss a mode have equal weights, and
        it is 0. It is infinite where no weight is above 0, and with one chain,
        whose weight says nothing of its own error.
        """
        if self.num_chains == 1:
            return np.full(len(self.ess), np.inf)
        with np.errstate(divide="ignore"):
            return (self.num_chains / self.ess - 1) / (2 * self.num_chains)

    def summary(self) -> dict[str, float | int | None]:
        """Means per datum in nats, counts and shares, for a file. What is not finite is None."""
        return {
            "log_evidence": finite(self.mean_log_evidence),
            "log_evidence_se": finite(self.log_evidence_se),
            "acceptance": finite(float(self.acceptance.mean())),
            "ess": finite(float(self.ess.mean())),
            "shortfall": finite(float(self.shortfall.mean())),
            "num_chains": self.num_chains,
            "num_temperatures": self.num_temperatures,
            "leapfrog_steps": self.leapfrog_steps,
            "n": len(self.log_evidence),
        }

    def trust(self) -> str:
        """How far to trust the number, in a sentence: from weights and acceptance.

        Weights are even enough where they let expect a shortfall of at most 0.1 nats, and chains move
        where they accept at least 0.4 of their proposals; up to 5 % of the data may fall behind. Neither
        sees a mode that no chain has found: `two_sided_check` would, on simulated data.
        """
        bad = float((~np.isfinite(self.log_evidence)).mean())
        if bad > _FEW:
            return f"Not to be trusted: log p(x) is not finite for {bad:.1%} of data."
        if self.rounding is not None and (reason := withheld(self.rounding, self.log_evidence)):
            return reason
        uneven = float((~(self.shortfall <= LARGEST_SHORTFALL)).mean())
        stuck = float((self.acceptance < LEAST_ACCEPTANCE).mean())
        if self.num_chains == 1:
            return f"One chain for each {noun()} says nothing of its own error: take at least two."
        if stuck > _FEW:
            return (
                f"Not to be trusted: for {stuck:.0%} of the data chains accept fewer than "
                f"{LEAST_ACCEPTANCE:.0%} of their proposals, so they hardly move; take more leapfrog "
                "steps or temperatures."
            )
        if uneven > _FEW:
            return (
                f"Too low: for {uneven:.0%} of the data the weights let expect a shortfall above "
                f"{LARGEST_SHORTFALL} nats; take more temperatures, then more chains."
            )
        return (
            f"Good as far as the chains can tell: the weights let expect a mean shortfall of "
            f"{self.shortfall[np.isfinite(self.shortfall)].mean():.2g} nats, and "
            f"{self.acceptance.mean():.0%} of proposals are accepted; a two-sided check would see "
            "what they cannot."
            + (f" For {bad:.1%} of data log p(x) is not finite." if bad else "")
        )

    @classmethod
    def concatenate(
        cls, results: "Sequence[AnnealedImportanceSampling]"
    ) -> "AnnealedImportanceSampling":
        """The result of several, of disjoint data, in their order.

        Raises:
            ValueError: If there is none, or chains, temperatures or leapfrog steps differ.
        """
        if not results:
            raise ValueError("there is nothing to concatenate.")
        words = ("num_chains", "num_temperatures", "leapfrog_steps")
        for word in words:
            values = sorted({getattr(result, word) for result in results})
            if len(values) > 1:
                raise ValueError(f"results must have one {word}, got {values}.")
        return cls(
            **{
                column: np.concatenate([getattr(result, column) for result in results], axis=-1)
                for column in ("log_evidence", "log_weights", "acceptance", "ess")
            },
            rounding=joined(result.rounding for result in results),
            **{word: getattr(results[0], word) for word in words},
        )


def annealed_importance_sampling(
    vae: PyroModule,
    x: Real[Tensor, " n *event"],
    *,
    num_chains: int = 16,
    num_temperatures: int = 500,
    leapfrog_steps: int = 10,
    max_elements: int = 2_000_000,
    compile: CompileMode = "auto",
    seed: int = 0,
    progress: bool = False,
) -> AnnealedImportanceSampling:
    """Estimate log p(x) with chains that walk from q(z | x) to p(x, z), datum by datum.

    A chain starts at a draw of the guide and follows f_b = q(z | x)^(1 - b) p(x, z)^b, for b from 0 to
    1 in T equal steps: at each, log w grows by (b_t - b_(t - 1)) (log p(x, z) - log q(z | x)), and a
    transition of Hamiltonian Monte Carlo that leaves f_(b_t) invariant follows. Then E[w] = p(x)
    exactly, however badly chains mix. With T = 1 it is importance weighting. Starting at the guide
    rather than the prior, a good one leaves little to anneal.

    Latents are walked in R^d: log of positive ones, logit of those in (0, 1), and log-ratios of those
    on the simplex. Momenta have the guide's own scale. Step sizes, one for each datum and temperature,
    are found by a shorter pass of other chains, aimed at 0.65 accepted, and are then fixed: were they
    adapted by the chains that are weighed, E[w] would be p(x) only nearly. That pass costs a tenth.

    It runs in evaluation mode, and its random numbers have a seed of their own: the global stream does
    not move. The same seed, data and options give the same result; data in other chunks meet other
    noise.

    Args:
        vae: A program with `model(x)`, `guide(x)` and one latent site, whose guide is reparameterisable,
            on real, positive or unit vectors or on the simplex.
        x: Data in the likelihood's support, on the program's device; integers are made floats.
        num_chains: The number of chains for each datum.
        num_temperatures: The number T of increments of b.
        leapfrog_steps: The number of leapfrog steps of a transition.
        max_elements: Chains x data x elements of a datum held at once.
        compile: "on" or "off"; "auto" to compile the gradients where there is so much to compute that it
            pays. It changes speed and rounding, and no draw.
        seed: The seed of draws, momenta and acceptances.
        progress: Show a bar.

    Raises:
        ValueError: If the program has more latent sites than one or a guide without such a density, there
            are no data, a number is below 1, or `compile` is none of these.

    References:
        Annealed Importance Sampling (Neal, 2001), https://arxiv.org/abs/physics/9803008;
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov &
        Grosse, 2017), https://arxiv.org/abs/1611.04273;
        MCMC using Hamiltonian Dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
    """
    options = Options(num_chains, num_temperatures, leapfrog_steps, max_elements, compile)
    results = []
    with evaluation_mode(vae, seed=seed):
        for chunk in chunks(vae, x, options, passes=1, progress=progress):
            weights = chunk.forward()
            log_weights = weights.log_weights.cpu().numpy()
            log_evidence = log_mean_exp(log_weights)
            results.append(
                AnnealedImportanceSampling(
                    log_evidence=log_evidence,
                    log_weights=log_weights,
                    acceptance=weights.acceptance.mean(0).cpu().numpy(),
                    ess=effective_sample_size(log_weights),
                    num_chains=num_chains,
                    num_temperatures=num_temperatures,
                    leapfrog_steps=leapfrog_steps,
                    rounding=rounding_error(log_evidence, eps=precision(vae)),
                )
            )
    return AnnealedImportanceSampling.concatenate(results)
