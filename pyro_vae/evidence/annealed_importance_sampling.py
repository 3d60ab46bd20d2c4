"""log p(x) by annealed importance sampling, from the guide to the joint density."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float, Real
from torch import Tensor
from tqdm import tqdm

from pyro_vae.compilation import CompileMode
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.annealing_path import AnnealingPath, adapted_step_sizes, transition
from pyro_vae.json_values import to_jsonable
from pyro_vae.log_densities import log_densities
from pyro_vae.notebooks import progress_bar
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import (
    PerExample,
    effective_sample_size,
    log_mean_exp,
    machine_epsilon,
    rounding_error,
    standard_error,
    withheld,
)

# Thresholds of `trust`. Step sizes aim at 0.65; below this, chains hardly move.
LEAST_ACCEPTANCE = 0.4
# The mean of C weights has about (C / ESS - 1) / C for its squared error over its square, and its
# logarithm falls short by half of that: 0.1 nats of 16 weights with an ESS of 4.
LARGEST_SHORTFALL = 0.1
# The share of the examples that may miss a threshold.
_FEW = 0.05

# Step sizes are found in a pass over a tenth of the temperatures, but no fewer than these, after a
# few more transitions at the first.
_ADAPTATION_SHARE = 10
_FEWEST_ADAPTATIONS = 20
_WARM_UP = 10

# Draws of the guide for the scale of its coordinates, example by example.
_SCALE_DRAWS = 64
# The interquartile range of a normal density, in standard deviations.
_NORMAL_RANGE = 1.349


@dataclass(frozen=True)
class AnnealedImportanceSampling(PerExample):
    """Estimates from C chains for each example. Log densities are in nats.

    Args:
        log_evidence: log 1/C sum_c w_c: the mean weight's expectation is p(x), so this is at most
            log p(x) in expectation, and tighter with more chains and temperatures.
        log_weights: log w_c of each chain.
        acceptance: The mean acceptance probability over chains and transitions; 1 without any.
        ess: The effective number of chains, from 1 to C.
        num_chains: The number C of chains for each example.
        num_temperatures: The number of increments of b from 0 to 1.
        leapfrog_steps: The number of leapfrog steps of a transition.
        rounding: The approximate rounding error of `log_evidence`; None if unknown.
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
        """The mean of `log_evidence`, in nats per example."""
        return float(self.log_evidence.mean())

    @property
    def log_evidence_se(self) -> float | None:
        """The standard error of `mean_log_evidence` over the examples; None for one example.

        It does not include the bound's own gap: see `trust` and `two_sided_check`.
        """
        return standard_error(self.log_evidence)

    @property
    def shortfall(self) -> Float[np.ndarray, " n"]:
        """An estimate of how far `log_evidence` is below log p(x) in expectation, in nats.

        (C / ESS - 1) / 2C, half of the mean weight's relative variance, if that is small: it is at
        most 1/2, and near there the shortfall is larger. It is 0 if all chains miss the same mode
        and have equal weights. It is infinite if no weight is above 0, and with one chain, whose
        weight does not show its own error.
        """
        if self.num_chains == 1:
            return np.full(len(self.ess), np.inf)
        with np.errstate(divide="ignore"):
            return (self.num_chains / self.ess - 1) / (2 * self.num_chains)

    def summary(self) -> dict[str, float | int | None]:
        """Means per example in nats, counts and shares. Values that are not finite are None."""
        return to_jsonable(
            {
                "log_evidence": self.mean_log_evidence,
                "log_evidence_se": self.log_evidence_se,
                "acceptance": self.acceptance.mean(),
                "ess": self.ess.mean(),
                "shortfall": self.shortfall.mean(),
                "num_chains": self.num_chains,
                "num_temperatures": self.num_temperatures,
                "leapfrog_steps": self.leapfrog_steps,
                "n": len(self.log_evidence),
            }
        )

    def trust(self) -> str:
        """A verdict on the estimate in one sentence, from weights and acceptance.

        Weights are good if their expected shortfall is at most 0.1 nats, and chains move if they
        accept at least 0.4 of their proposals; up to 5 % of the examples may miss either. Neither
        detects a mode that no chain has found: `two_sided_check` does, on simulated data.
        """
        bad = float((~np.isfinite(self.log_evidence)).mean())
        if bad > _FEW:
            return f"Not to be trusted: log p(x) is not finite for {bad:.1%} of the data."
        if self.rounding is not None and (reason := withheld(self.rounding, self.log_evidence)):
            return reason
        uneven = float((~(self.shortfall <= LARGEST_SHORTFALL)).mean())
        stuck = float((self.acceptance < LEAST_ACCEPTANCE).mean())
        if self.num_chains == 1:
            return f"One chain per {noun()} does not show its own error: use at least two."
        if stuck > _FEW:
            return (
                f"Not to be trusted: for {stuck:.0%} of the data chains accept fewer than "
                f"{LEAST_ACCEPTANCE:.0%} of their proposals; use more leapfrog steps or "
                "temperatures."
            )
        if uneven > _FEW:
            return (
                f"Too low: for {uneven:.0%} of the data the expected shortfall is above "
                f"{LARGEST_SHORTFALL} nats; use more temperatures, then more chains."
            )
        return (
            "Good as far as the chains can tell: the expected shortfall is "
            f"{self.shortfall[np.isfinite(self.shortfall)].mean():.2g} nats, and "
            f"{self.acceptance.mean():.0%} of the proposals are accepted."
            + (f" log p(x) is not finite for {bad:.1%} of the data." if bad else "")
        )


def annealed_importance_sampling(
    vae: Any,
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
    """Estimate log p(x) of each example with chains that move from q(z | x) to p(x, z).

    A chain starts at a draw of the guide and follows f_b = q(z | x)^(1 - b) p(x, z)^b, for b from
    0 to 1 in T equal steps: at each, log w grows by (b_t - b_(t - 1)) (log p(x, z) - log q(z |
    x)), and a transition of Hamiltonian Monte Carlo that leaves f_(b_t) invariant follows. Then
    E[w] = p(x) exactly, however badly chains mix. With T = 1 it is importance weighting. A good
    guide as a start leaves less to anneal than the prior.

    Chains move in R^d: log of positive latents, logit of those in (0, 1), and log-ratios of those
    on the simplex. Momenta have the guide's scale. Step sizes, one for each example and
    temperature, are found by a shorter pass of other chains, aiming at an acceptance of 0.65, and
    are then fixed: if they were adapted by the weighted chains, E[w] would only be close to p(x).
    That pass costs a tenth.

    It runs in evaluation mode with its own random seed, and the global random stream is left
    unchanged. The same seed, data and options give the same result; data in other chunks get other
    noise.

    Args:
        vae: A program with `model(x)`, `guide(x)` and `latent_sites`, whose guide is
            reparameterisable at each of them, on real, positive or unit vectors or on the simplex.
            Chains move all sites at once.
        x: Data in the likelihood's support, on the program's device; integers are converted to
            floats.
        num_chains: The number of chains for each example.
        num_temperatures: The number T of increments of b.
        leapfrog_steps: The number of leapfrog steps of a transition.
        max_elements: The number of chains x examples x elements held at once.
        compile: "on" or "off"; "auto" to compile the gradients if the work pays for it. It affects
            speed and rounding, and no draw.
        seed: The seed of draws, momenta and acceptances.
        progress: Show a progress bar.

    Raises:
        ValueError: If the guide has other sites or no such density, there are no data, a number is
            below 1, or `compile` is another word.

    References:
        Annealed Importance Sampling (Neal, 2001), https://arxiv.org/abs/physics/9803008;
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov &
        Grosse, 2017), https://arxiv.org/abs/1611.04273;
        MCMC using Hamiltonian Dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901
    """
    options = ChainOptions(num_chains, num_temperatures, leapfrog_steps, max_elements, compile)
    results = []
    with evaluation_mode(vae, seed=seed):
        for chains in chains_of_chunks(vae, x, options, passes=1, progress=progress):
            weights = chains.forward()
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
                    rounding=rounding_error(log_evidence, eps=machine_epsilon(vae)),
                )
            )
    return AnnealedImportanceSampling.concatenate(results)


# ---- chains ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainOptions:
    """The options of chains, as in `annealed_importance_sampling`.

    Raises:
        ValueError: If a number is below 1.
    """

    num_chains: int
    num_temperatures: int
    leapfrog_steps: int
    max_elements: int
    compile: CompileMode

    def __post_init__(self) -> None:
        for word in ("num_chains", "num_temperatures", "leapfrog_steps", "max_elements"):
            value = getattr(self, word)
            if value < 1:
                raise ValueError(f"{word} must be at least 1, got {value}.")

    @property
    def adaptations(self) -> int:
        """The number of temperatures of the pass that finds step sizes; 0 without a transition."""
        if self.num_temperatures == 1:
            return 0
        return max(_FEWEST_ADAPTATIONS, -(-self.num_temperatures // _ADAPTATION_SHARE))

    def transitions(self, passes: int) -> int:
        """The transitions of a chunk of data, with this number of passes over the path."""
        preliminary = self.adaptations + _WARM_UP if self.adaptations else 0
        return preliminary + passes * (self.num_temperatures - 1)


class Weights(NamedTuple):
    """Log weights of a pass, in nats, and the mean acceptance probability of each chain."""

    log_weights: Float[Tensor, "chains batch"]
    acceptance: Float[Tensor, "chains batch"]


def schedule(num_temperatures: int) -> list[float]:
    """b_0 = 0 < ... < b_T = 1, in equal steps.

    From the prior, steps are often shorter near both ends, by a sigmoid, as most changes happen
    there. From a guide that does not help: with 20 temperatures log weights of a linear-Gaussian
    VAE spread by 0.77 nats for a guide half as wide as it should be, and 0.77, 0.77 and 0.80 with
    sigmoids of slopes 1, 2 and 4; for one too wide, by 0.75, and 0.75, 0.78 and 0.93.
    """
    return [t / num_temperatures for t in range(num_temperatures + 1)]


@dataclass(frozen=True)
class Chains:
    """The chains of a chunk of data, with all that is fixed before they start."""

    path: AnnealingPath
    rows: slice  # The place of the chunk in the data.
    x: Tensor  # The chunk, filled up with copies of its last row.
    temperatures: Sequence[float]  # b_0, ..., b_T.
    step_sizes: Tensor  # Of each example at b_1, ..., b_(T - 1).
    scale: Tensor  # The preconditioner of each example.
    leapfrog_steps: int
    bar: tqdm

    def forward(self) -> Weights:
        """From exact draws of q(z | x) to the joint density: E[w] = p(x)."""
        start = self.path.draws(self.x, self.path.num_chains)
        return self._walk(start, self.temperatures, self.step_sizes)

    def backward(self, z: Mapping[str, Float[Tensor, "rows event"]]) -> Weights:
        """From one exact draw of p(z | x), for all chains, to the guide: E[w] = 1 / p(x).

        Args:
            z: The draw of each latent site.
        """
        u = self.path.inverse({site: _filled(value, len(self.x)) for site, value in z.items()})
        start = u.expand(self.path.num_chains, *u.shape)
        return self._walk(start, self.temperatures[::-1], self.step_sizes.flip(0))

    def _walk(self, start: Tensor, temperatures: Sequence[float], step_sizes: Tensor) -> Weights:
        point = self.path.evaluate(self.x, start)
        log_weights = torch.zeros_like(point.log_q)
        acceptance = torch.zeros_like(point.log_q)
        transitions = len(temperatures) - 2
        for t in range(1, len(temperatures)):
            log_weights = log_weights + (temperatures[t] - temperatures[t - 1]) * point.log_weight
            if t > transitions:
                break
            point, accepted = transition(
                self.path,
                self.x,
                point,
                temperatures[t],
                step_sizes[t - 1],
                self.scale,
                self.leapfrog_steps,
            )
            acceptance = acceptance + accepted
            self.bar.update()
        count = self.rows.stop - self.rows.start
        mean = acceptance / transitions if transitions else torch.ones_like(acceptance)
        return Weights(log_weights[:, :count], mean[:, :count])


def chains_of_chunks(
    vae: Any,
    x: Real[Tensor, " n *event"],
    options: ChainOptions,
    *,
    passes: int,
    progress: bool,
) -> Iterator[Chains]:
    """Chains of chunks of one size, the last filled up, so that all of them share a graph.

    Each chunk's chains will make `passes` passes over the path. Pyro validates the guide on the
    first chunk and, for speed, not after it.

    Raises:
        ValueError: If there are no data, or the program is not supported.
    """
    if len(x) == 0:
        raise ValueError("annealed importance sampling needs at least one example, got none.")
    most = max(1, options.max_elements // (options.num_chains * max(1, x[0].numel())))
    count = -(-len(x) // most)
    batch = -(-len(x) // count)
    total = count * options.transitions(passes)
    path = AnnealingPath(
        vae,
        num_chains=options.num_chains,
        compile=options.compile,
        expected_calls=total * options.leapfrog_steps,
    )
    bar = progress_bar(progress, total=total, desc="annealing", unit="transition")
    with bar, ExitStack() as speed:
        for start in range(0, len(x), batch):
            rows = x[start : start + batch]
            data = _filled(as_floats(rows), batch)
            scale = _scale(path.draws(data, _SCALE_DRAWS))
            if start == 0:
                # Both programs once, under Pyro's validation: data may be outside of the support.
                log_densities(vae.model, vae.guide, data)
                speed.enter_context(pyro.validation_enabled(False))
            step_sizes = _step_sizes(path, data, scale, options)
            if options.adaptations:
                bar.update(options.adaptations + _WARM_UP)
            yield Chains(
                path,
                slice(start, start + len(rows)),
                data,
                schedule(options.num_temperatures),
                step_sizes,
                scale,
                options.leapfrog_steps,
                bar,
            )


def _step_sizes(path: AnnealingPath, x: Tensor, scale: Tensor, options: ChainOptions) -> Tensor:
    """A step size for each example at b_1, ..., b_(T - 1), from a shorter pass of other chains."""
    transitions = options.num_temperatures - 1
    if not options.adaptations:
        return scale.new_ones(0, len(x), dtype=torch.float64)
    short = schedule(options.adaptations + 1)[1:-1]
    start = path.evaluate(x, path.draws(x, options.num_chains))
    found = adapted_step_sizes(
        path, x, start, short, scale, options.leapfrog_steps, warm_up=_WARM_UP
    )
    # Interpolated linearly between the temperatures of the short pass.
    place = torch.linspace(0, len(found) - 1, transitions + 2, device=found.device)[1:-1]
    below = place.floor().long().clamp(max=len(found) - 2)
    share = (place - below).unsqueeze(-1).to(found.dtype)
    return (1 - share) * found[below] + share * found[below + 1]


def _scale(draws: Float[Tensor, "draws batch real"]) -> Float[Tensor, "batch real"]:
    """Each coordinate's interquartile range over a normal's, which tails do not affect."""
    ordered = draws.sort(0).values
    quarter = len(draws) // 4
    spread = (ordered[-1 - quarter] - ordered[quarter]) / _NORMAL_RANGE
    # Most draws may be one number, as at the edge of a support.
    spread = torch.where(spread > 0, spread, draws.std(0))
    smallest = math.sqrt(torch.finfo(draws.dtype).eps)
    return torch.where(spread.isfinite() & (spread > smallest), spread, smallest)


def _filled(rows: Tensor, batch: int) -> Tensor:
    """Rows, filled up to the size of a batch with copies of the last one."""
    missing = batch - len(rows)
    return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
