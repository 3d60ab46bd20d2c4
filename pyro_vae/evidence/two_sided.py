"""How far annealed importance sampling is from log p(x), on data whose posterior can be drawn from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Real
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.compilation.work import CompileMode
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.annealing import Options, chunks
from pyro_vae.evidence.numbers import finite, joined, precision, standard_error
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import log_mean_exp, rounding_error, withheld

# Threshold of `trust`, in nats.
LARGEST_GAP = 0.5


@dataclass(frozen=True)
class TwoSidedCheck:
    """log p(x) of simulated data from below and from above, in nats.

    Args:
        lower: Annealed importance sampling: at most log p(x), in expectation.
        upper: The reverse chains' bound: at least log p(x), in expectation.
        acceptance: The mean probability of acceptance over chains and transitions, both ways; 1 without
            any transition.
        num_chains: The number of chains for each datum, each way.
        num_temperatures: The number of increments of b from 0 to 1.
        leapfrog_steps: The number of leapfrog steps of a transition.
        rounding: About the rounding error of `lower`; None where it is not known.
    """

    lower: Float[np.ndarray, " n"]
    upper: Float[np.ndarray, " n"]
    acceptance: Float[np.ndarray, " n"]
    num_chains: int
    num_temperatures: int
    leapfrog_steps: int
    rounding: Float[np.ndarray, " n"] | None = None

    @property
    def gap(self) -> Float[np.ndarray, " n"]:
        """upper - lower: of a single datum it may be negative, its expectation is not."""
        with np.errstate(invalid="ignore"):  # Of two that are -inf.
            return self.upper - self.lower

    @property
    def mean_gap(self) -> float:
        """The mean over data of `gap`: in expectation, at least how far `lower` is below log p(x)."""
        return float(self.gap.mean())

    @property
    def gap_se(self) -> float | None:
        """The standard error of `mean_gap`, from data and chains; None for one datum."""
        return standard_error(self.gap)

    def summary(self) -> dict[str, float | int | None]:
        """Means per datum in nats, and counts, for a file. What is not finite is None."""
        return {
            "lower": finite(float(self.lower.mean())),
            "upper": finite(float(self.upper.mean())),
            "gap": finite(self.mean_gap),
            "gap_se": finite(self.gap_se),
            "acceptance": finite(float(self.acceptance.mean())),
            "num_chains": self.num_chains,
            "num_temperatures": self.num_temperatures,
            "leapfrog_steps": self.leapfrog_steps,
            "n": len(self.lower),
        }

    def trust(self) -> str:
        """How far to trust annealed importance sampling with these settings, in a sentence.

        Within 0.5 nats, two standard errors included, the bounds are close.
        """
        if not math.isfinite(self.mean_gap):
            return "The bounds say nothing: some of them are not finite."
        if self.rounding is not None and (reason := withheld(self.rounding, self.lower)):
            return reason
        if self.gap_se is None:
            return f"One simulated {noun()} says nothing of the noise of its own gap: take at least two."
        error = self.gap_se
        size = f"{self.mean_gap:.2g} nats" + (f" (± {error:.1g})" if error else "")
        close = self.mean_gap + 2 * error <= LARGEST_GAP
        if self.mean_gap < -4 * error - 0.01:
            return f"Something is wrong: the upper bound is below the lower one by {-self.mean_gap:.2g} nats."
        return (
            f"{'Good' if close else 'Not to be trusted'}: on data simulated from the model, the upper "
            f"bound less the lower one is {size}, and log p(x) lies between them in expectation; on real "
            "data that holds as far as they are like simulated ones."
            + ("" if close else " Take more temperatures.")
        )

    @classmethod
    def concatenate(cls, results: "Sequence[TwoSidedCheck]") -> "TwoSidedCheck":
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
                column: np.concatenate([getattr(result, column) for result in results])
                for column in ("lower", "upper", "acceptance")
            },
            rounding=joined(result.rounding for result in results),
            **{word: getattr(results[0], word) for word in words},
        )


def two_sided_check(
    vae: PyroModule,
    like_x: Real[Tensor, " n *event"],
    *,
    num_data: int = 100,
    num_chains: int = 16,
    num_temperatures: int = 500,
    leapfrog_steps: int = 10,
    max_elements: int = 2_000_000,
    compile: CompileMode = "auto",
    seed: int = 0,
    progress: bool = False,
) -> TwoSidedCheck:
    """Bound log p(x) of data simulated from the model from both sides (bidirectional Monte Carlo).

    With x comes the z it was made from: an exact draw of p(z | x), which no real datum has. Chains
    that start there and walk the path of `annealed_importance_sampling` backwards, from p(x, z) to
    q(z | x), have weights with E[w] = 1 / p(x), so by Jensen's inequality -log of their mean is at least
    log p(x) in expectation. There is one such z for each x and all its chains start there: they depend on
    each other, which costs precision and no validity, as a mean's expectation asks for no independence.
    Schedule, step sizes and preconditioner are the forward chains', fixed before either way is walked.

    The gap between the bounds is, in expectation, the sum of both errors. What it says of real data
    rests on their likeness to simulated ones.

    Args:
        vae: A program as in `annealed_importance_sampling`, with one observed site.
        like_x: Data whose shape and type the simulated ones are to have.
        num_data: The number of data to simulate.
        num_chains: The number of chains for each datum, each way.
        num_temperatures: The number of increments of b.
        leapfrog_steps: The number of leapfrog steps of a transition.
        max_elements: Chains x data x elements of a datum held at once.
        compile: "on", "off" or "auto", as in `annealed_importance_sampling`.
        seed: The seed of data and chains.
        progress: Show a bar.

    Raises:
        ValueError: As in `annealed_importance_sampling`, or if the model has more observed sites than one.

    References:
        Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (Grosse, Ghahramani & Adams,
        2015), https://arxiv.org/abs/1511.02543;
        Measuring the Reliability of MCMC Inference with Bidirectional Monte Carlo (Grosse, Ancha & Roy,
        2016), https://arxiv.org/abs/1606.02275
    """
    options = Options(num_chains, num_temperatures, leapfrog_steps, max_elements, compile)
    if num_data < 1:
        raise ValueError(f"num_data must be at least 1, got {num_data}.")
    if len(like_x) == 0:
        raise ValueError("two_sided_check needs at least one datum to be like, got none.")
    results = []
    with evaluation_mode(vae, seed=seed):
        x, z = simulated(vae, like_x, num_data)
        for chunk in chunks(vae, x, options, passes=2, progress=progress):
            forward, backward = chunk.forward(), chunk.backward(z[chunk.rows])
            acceptance = (forward.acceptance.mean(0) + backward.acceptance.mean(0)) / 2
            lower = log_mean_exp(forward.log_weights.cpu().numpy())
            results.append(
                TwoSidedCheck(
                    lower=lower,
                    upper=-log_mean_exp(backward.log_weights.cpu().numpy()),
                    acceptance=acceptance.cpu().numpy(),
                    num_chains=num_chains,
                    num_temperatures=num_temperatures,
                    leapfrog_steps=leapfrog_steps,
                    rounding=rounding_error(lower, eps=precision(vae)),
                )
            )
    return TwoSidedCheck.concatenate(results)


def simulated(
    vae: PyroModule, like_x: Real[Tensor, " n *event"], num_data: int
) -> tuple[Real[Tensor, " num_data *event"], Float[Tensor, "num_data latent"]]:
    """x, z ~ p(x, z): data as the likelihood draws them, and the latents they were made from.

    Raises:
        ValueError: If the program has more latent or observed sites than one.
    """
    if len(vae.latent_sites) != 1:
        raise ValueError(
            "two_sided_check needs a program with one latent site, but "
            f"{type(vae).__name__} has {', '.join(map(repr, vae.latent_sites)) or 'none'}."
        )
    rows = torch.arange(num_data, device=like_x.device) % len(like_x)
    like = like_x[rows]
    like = as_floats(like)
    drawn = poutine.trace(poutine.uncondition(vae.model)).get_trace(like)
    # Whose every key Pyro's types call optional.
    nodes = cast("dict[str, dict[str, Any]]", drawn.nodes)
    observed = [n for n, node in nodes.items() if node.get("infer", {}).get("was_observed")]
    if len(observed) != 1:
        raise ValueError(
            "two_sided_check needs a model with one observed site, but it has "
            f"{', '.join(map(repr, observed)) or 'none'}."
        )
    return nodes[observed[0]]["value"], nodes[vae.latent_sites[0]]["value"]
