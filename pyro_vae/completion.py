"""Completions: missing elements drawn from p(x_missing | x_observed), with the accuracy of it.

The elements of x are independent given z, so that those that are missing are integrated out by
leaving them out:

    p(x_missing | x_observed) = E_p(z | x_observed) p(x_missing | z),
    p(z | x_observed) proportional to p(z) prod_{i observed} p(x_i | z).

Draws of z are from this posterior, not from q(z | x) of a filled x: the guide is only a proposal.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.checks import NoDensityError, check_at_least, check_choice
from pyro_vae.conditional_draws import (
    ConditionalDraws,
    Conditionals,
    row_chunks,
    size_of_chains,
)
from pyro_vae.data import DataContract, allow_missing, check_batch, check_observed, read_rows
from pyro_vae.data.missing import is_missing
from pyro_vae.json_values import to_jsonable
from pyro_vae.notebooks import SummaryTable
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    effective_sample_size,
    pareto_khat,
    share_above_threshold,
)

Method = Literal["importance", "gibbs"]

# An effective number of draws needs four chains of four draws.
_FEWEST_IN_CHAINS = 16


@dataclass(frozen=True)
class Completion(SummaryTable):
    """Draws from p(x_missing | x_observed) for each row, and how good they are.

    All values are in the units of the data; observed elements are those that were given.

    Args:
        values: The draws, `(n, draws, *event)`.
        mean: E[x_missing | x_observed], from all `num_samples` draws of z and the mean of
            p(x | z) at each, in the form of the data that were given.
        sd: The standard deviation of x_missing given x_observed, likewise; 0 where observed.
        ess: The effective number of draws of z for each row: of the importance weights, or over
            the chains, then the smallest over the coordinates of z. With a few, draws repeat the
            same z, and means are as uncertain as those of as many independent draws.
        khat: The tail shape of each row's weights, see `pareto_khat`; above `khat_threshold` a
            row's draws are not to be trusted. -inf where draws are exact: nothing or everything is
            missing. None for chains, or fewer than 25 draws.
        method: "importance" or "gibbs".
        num_samples: The number of draws of z for each row.
        acceptance: The share of a row's proposals that its chains accepted; None without chains.
    """

    values: Any
    mean: Any
    sd: Any
    ess: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    method: Method
    num_samples: int
    acceptance: Float[np.ndarray, " n"] | None = None

    def summary(self) -> dict[str, Any]:
        """Numbers and shares over the rows; undefined values are None."""
        khat = self.khat
        found = {
            "n": len(self.ess),
            "draws": self.values.shape[1],
            "method": self.method,
            "num_samples": self.num_samples,
            "ess_median": np.median(self.ess),
            "ess_lowest": self.ess.min(),
            "khat_share_above": share_above_threshold(khat, self.num_samples),
        }
        if self.acceptance is not None:
            found["acceptance_median"] = np.median(self.acceptance)
        return to_jsonable(found)


def check_elementwise(prior: nn.Module, likelihood: nn.Module) -> None:
    """Check that the elements of x are independent given z.

    Raises:
        ValueError: If they are not: what is missing could not be left out.
    """
    with evaluation_mode(prior, likelihood, seed=0):
        _check_independent(likelihood(prior().sample((1,))), likelihood)


def _check_independent(p: Any, likelihood: Any) -> None:
    if not isinstance(p, torch.distributions.Independent) or p.base_dist.event_shape:
        raise ValueError(
            "missing values need a likelihood whose elements are independent given z, and those "
            f"of {type(likelihood).__name__} are not: choose another, such as bernoulli, "
            "categorical, negative_binomial, logit_normal, normal or student_t."
        )


# ---- in the units of the data -------------------------------------------------------------------


def complete(
    program: Any,
    x: Any,
    observed: Any,
    *,
    y: Any,
    draws: int,
    method: Method,
    num_samples: int,
    seed: int | None,
) -> Completion:
    """`Generation.complete` of a program, with the same arguments.

    Raises:
        ValueError: If the data do not fit, or an option is out of its range.
    """
    known, prepared = _known_and_prepared(program, x if observed is None else _where(x, observed))
    options: Any = {"y": y, "draws": draws, "method": method, "num_samples": num_samples}
    found = complete_prepared(program, prepared, seed=seed, **options)
    values, mean, sd = found.values, found.mean, found.sd
    contract: DataContract | None = program.contract
    if contract is not None:
        values = contract.to_data_units(values, draws=True)
        mean = contract.to_data_units(mean, draws=False)
        # The units of means are linear between the ends, which may be clipped.
        low, high = (contract.to_data_units(sd.new_tensor([v]), draws=False) for v in (0.25, 0.75))
        sd = 2 * (high - low) * sd
    gaps = is_missing(known)
    known, gaps = known.to(values.device), gaps.to(values.device)
    values = torch.where(gaps[:, None], values, known[:, None])
    if isinstance(x, np.ndarray | Tensor):
        values = values.reshape(*values.shape[:2], *x.shape[1:])
    return replace(
        found,
        values=values.to(x.device) if isinstance(x, Tensor) else values.numpy(force=True),
        mean=program._as_given(torch.where(gaps, mean, known), like=x),
        sd=program._as_given(torch.where(gaps, sd, 0), like=x),
    )


def _known_and_prepared(program: Any, x: Any) -> tuple[Tensor, Tensor]:
    """The data in their units, with NaN, and in the likelihood's support."""
    contract: DataContract | None = program.contract
    if contract is None:
        check_batch(x, program.likelihood)
        return x, as_floats(x)
    with allow_missing():
        data = replace(contract, allows_missing=True).new_data(replace(read_rows(x), labels=None))
    # The slice makes sparse rows dense.
    prepared = as_floats(data.fixed("test")[:])
    known = data.fixed("test")[:] if data.binarisation else data.dataset.test[:]
    exact = x
    if hasattr(x, "iloc"):
        exact = x[list(contract.event_names)].to_numpy(np.float64, na_value=np.nan)
    if isinstance(exact, np.ndarray | Tensor) and not data.binarisation:
        # Training data are float32 unless that loses their differences; these are as given.
        known = torch.as_tensor(np.ma.filled(exact, np.nan) if np.ma.isMA(exact) else exact)
        known = known.reshape(prepared.shape)
    return known, prepared.to(next(program.parameters()).device)


def _where(x: Any, observed: Any) -> Any:
    """x with NaN where it is not observed."""
    mask = np.asarray(observed.cpu() if isinstance(observed, Tensor) else observed)
    shape = tuple(x.shape) if hasattr(x, "shape") else np.shape(x)
    if mask.shape != shape or mask.dtype.kind != "b":
        raise ValueError(
            f"observed must be a mask of booleans of the shape of x, {shape}, got {mask.dtype} of "
            f"shape {mask.shape}."
        )
    if hasattr(x, "iloc"):
        return x.where(mask)
    if isinstance(x, Tensor):
        return as_floats(x).masked_fill(torch.from_numpy(~mask).to(x.device), torch.nan)
    array = np.asarray(x)
    return np.where(mask, array.astype(array.dtype if array.dtype.kind == "f" else float), np.nan)


# ---- in the likelihood's support ----------------------------------------------------------------


def complete_prepared(
    program: Any,
    x: Real[Tensor, " n *event"],
    *,
    y: Any = None,
    draws: int = 1,
    method: Method = "importance",
    num_samples: int = 1000,
    seed: int | None = None,
) -> Completion:
    """Complete prepared data x, in the likelihood's support, with NaN where they are missing.

    The other arguments are those of `Generation.complete`.

    Returns:
        A completion of tensors; observed elements are those of x.

    Raises:
        ValueError: If values are outside the likelihood's support, an option is out of its range,
            elements are not independent given z, or the guide has no density.
    """
    check_at_least(1, draws=draws, num_samples=num_samples)
    check_choice(Method, method=method)
    if len(x) == 0:
        raise ValueError("a completion needs at least one row, got none.")
    if y is not None and getattr(program, "labels", "none") != "always":
        raise ValueError("y is for programs with covariates, and this one has none.")
    chains = length = 0
    if method == "gibbs":
        check_at_least(_FEWEST_IN_CHAINS, num_samples=num_samples)
        chains = math.isqrt(num_samples)
        length = -(-num_samples // chains)
        num_samples = chains * length
    gaps = is_missing(x)
    size, missing = gaps[0].numel(), gaps.flatten(1).sum(1)
    values = x[:, None].repeat(1, draws, *(1,) * (x.dim() - 1))
    mean, sd = x.clone(), torch.zeros_like(x)
    # A row with nothing missing is exact, and one with everything missing has exact draws.
    ess = np.full(len(x), float(num_samples))
    khat = np.full(len(x), -np.inf) if num_samples >= MINIMUM_SAMPLES and not chains else None
    acceptance = np.ones(len(x)) if chains else None
    with evaluation_mode(program, seed=seed):
        parts = program._conditionals(y, len(x))
        fill = _fill(program, parts(torch.arange(1, device=x.device)), x)
        with pyro.validation_enabled(False):
            for rows in row_chunks((missing > 0) & (missing < size), num_samples, size):
                task = ConditionalDraws(x[rows], fill, parts(rows), rows)
                found = task.chains(chains, length) if chains else task.importance(num_samples)
                values[rows], mean[rows], sd[rows] = task.completed(found, draws)
                numbers, log_weight = rows.numpy(force=True), found.log_weight.numpy(force=True)
                if acceptance is not None:
                    acceptance[numbers] = found.acceptance.numpy(force=True)
                    ess[numbers] = size_of_chains(found, chains)
                    continue
                ess[numbers] = effective_sample_size(log_weight)
                if khat is not None:
                    khat[numbers] = pareto_khat(log_weight)
            for rows in row_chunks(missing == size, num_samples, size):
                task = ConditionalDraws(x[rows], fill, parts(rows), rows)
                values[rows], mean[rows], sd[rows] = task.completed(
                    task.unobserved(num_samples), draws
                )
    return Completion(values, mean, sd, ess, khat, method, num_samples, acceptance)


def _fill(program: Any, parts: Conditionals, x: Tensor) -> Tensor:
    """A number in the likelihood's support for each element, after a check of program and data."""
    p = parts.likelihood(parts.prior.sample((1, 1)))
    _check_independent(p, program.likelihood)
    fill = p.sample()[0, 0]
    filled = torch.where(is_missing(x), fill, x)
    check_observed(filled, program.likelihood, program.contract)
    q: Any = parts.posterior(filled[None, :1])
    while isinstance(q, torch.distributions.Independent):
        q = q.base_dist
    if isinstance(q, dist.Delta):
        raise NoDensityError(
            "a completion needs a guide with a density, and that of "
            f"{type(program.posterior).__name__} has all its mass at one point: train with "
            "another, such as --posterior diagonal_normal."
        )
    return fill
