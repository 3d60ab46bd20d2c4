"""Bounds of log p(x) from both sides, on simulated data whose posterior can be sampled."""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Real
from pyro import poutine
from torch import Tensor

from pyro_vae.compilation import CompileMode
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.annealed_importance_sampling import ChainOptions, chains_of_chunks
from pyro_vae.json_values import to_jsonable
from pyro_vae.labelled_rows import WithLabels
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import (
    PerExample,
    log_mean_exp,
    machine_epsilon,
    rounding_error,
    standard_error,
    withheld,
)

# Threshold of `trust`, in nats.
LARGEST_GAP = 0.5


@dataclass(frozen=True)
class TwoSidedCheck(PerExample):
    """Lower and upper bounds of log p(x) of simulated data, in nats.

    Args:
        lower: Annealed importance sampling: at most log p(x), in expectation.
        upper: The bound of reverse chains: at least log p(x), in expectation.
        acceptance: The mean acceptance probability over chains and transitions, both ways; 1
            without any transition.
        num_chains: The number of chains for each example, each way.
        num_temperatures: The number of increments of b from 0 to 1.
        leapfrog_steps: The number of leapfrog steps of a transition.
        rounding: The approximate rounding error of `lower`; None if unknown.
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
        """upper - lower: at least 0 in expectation, but not for every example."""
        with np.errstate(invalid="ignore"):  # Of two that are -inf.
            return self.upper - self.lower

    @property
    def mean_gap(self) -> float:
        """The mean of `gap`: in expectation, at least the distance of `lower` from log p(x)."""
        return float(self.gap.mean())

    @property
    def gap_se(self) -> float | None:
        """The standard error of `mean_gap`, over data and chains; None for one example."""
        return standard_error(self.gap)

    def summary(self) -> dict[str, float | int | None]:
        """Means per example in nats, and counts. Values that are not finite are None."""
        return to_jsonable(
            {
                "lower": self.lower.mean(),
                "upper": self.upper.mean(),
                "gap": self.mean_gap,
                "gap_se": self.gap_se,
                "acceptance": self.acceptance.mean(),
                "num_chains": self.num_chains,
                "num_temperatures": self.num_temperatures,
                "leapfrog_steps": self.leapfrog_steps,
                "n": len(self.lower),
            }
        )

    def trust(self) -> str:
        """A verdict on annealed importance sampling with these settings, in one sentence.

        The bounds are close if their gap and two standard errors are at most 0.5 nats.
        """
        if not math.isfinite(self.mean_gap):
            return "The bounds are not conclusive: some of them are not finite."
        if self.rounding is not None and (reason := withheld(self.rounding, self.lower)):
            return reason
        if self.gap_se is None:
            return f"One simulated {noun()} does not show the noise of its gap: use at least two."
        error = self.gap_se
        size = f"{self.mean_gap:.2g} nats" + (f" (± {error:.1g})" if error else "")
        if self.mean_gap < -4 * error - 0.01:
            return (
                "Something is wrong: the upper bound is below the lower one by "
                f"{-self.mean_gap:.2g} nats."
            )
        close = self.mean_gap + 2 * error <= LARGEST_GAP
        return (
            f"{'Good' if close else 'Not to be trusted'}: on data simulated from the model, the "
            f"upper bound is above the lower one by {size}."
            + ("" if close else " Use more temperatures.")
        )


def two_sided_check(
    vae: Any,
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

    The z that x was simulated from is an exact draw of p(z | x), which real data do not have.
    Chains that start there and follow the path of `annealed_importance_sampling` backwards, from
    p(x, z) to q(z | x), have weights with E[w] = 1 / p(x), so by Jensen's inequality -log of their
    mean is at least log p(x) in expectation. All chains of an example start at its one such z:
    they are dependent, which costs precision but not validity, as the expectation of a mean needs
    no independence. Temperatures, step sizes and preconditioner are those of the forward chains,
    fixed before either pass.

    The gap between the bounds is, in expectation, the sum of both errors. It applies to real data
    as far as they resemble simulated ones.

    Args:
        vae: A program as in `annealed_importance_sampling`, with one observed site.
        like_x: Data with the shape and type of the simulated data.
        num_data: The number of examples to simulate.
        num_chains: The number of chains for each example, each way.
        num_temperatures: The number of increments of b.
        leapfrog_steps: The number of leapfrog steps of a transition.
        max_elements: The number of chains x examples x elements held at once.
        compile: "on", "off" or "auto", as in `annealed_importance_sampling`.
        seed: The seed of data and chains.
        progress: Show a progress bar.

    Raises:
        ValueError: As in `annealed_importance_sampling`, or if the model has several observed
            sites.

    References:
        Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo (Grosse, Ghahramani &
        Adams, 2015), https://arxiv.org/abs/1511.02543;
        Measuring the Reliability of MCMC Inference with Bidirectional Monte Carlo (Grosse, Ancha &
        Roy, 2016), https://arxiv.org/abs/1606.02275
    """
    options = ChainOptions(num_chains, num_temperatures, leapfrog_steps, max_elements, compile)
    if num_data < 1:
        raise ValueError(f"num_data must be at least 1, got {num_data}.")
    if len(like_x) == 0:
        raise ValueError("like_x must hold at least one example, got none.")
    results = []
    with evaluation_mode(vae, seed=seed):
        x, z = simulate(vae, like_x, num_data)
        for chains in chains_of_chunks(vae, x, options, passes=2, progress=progress):
            forward = chains.forward()
            backward = chains.backward({site: value[chains.rows] for site, value in z.items()})
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
                    rounding=rounding_error(lower, eps=machine_epsilon(vae)),
                )
            )
    return TwoSidedCheck.concatenate(results)


def simulate(
    vae: Any, like_x: Real[Tensor, " n *event"], num_data: int
) -> tuple[Real[Tensor, " num_data *event"], dict[str, Float[Tensor, "num_data latent"]]]:
    """x, z ~ p(x, z): data drawn from the likelihood, and the latents they were drawn from.

    Raises:
        ValueError: If the program has several observed sites.
    """
    rows = torch.arange(num_data, device=like_x.device) % len(like_x)
    like = as_floats(like_x[rows])
    drawn = poutine.trace(poutine.uncondition(vae.model)).get_trace(like)
    # Pyro's types make every key optional.
    nodes = cast("dict[str, dict[str, Any]]", drawn.nodes)
    observed = [n for n, node in nodes.items() if node.get("infer", {}).get("was_observed")]
    if len(observed) != 1:
        raise ValueError(
            "two_sided_check needs a model with one observed site, but it has "
            f"{', '.join(map(repr, observed)) or 'none'}."
        )
    x, z = nodes[observed[0]]["value"], {site: nodes[site]["value"] for site in vae.latent_sites}
    return vae.pack(x, vae.unpack(like)[1]) if isinstance(vae, WithLabels) else x, z
