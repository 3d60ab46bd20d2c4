"""The gaps of inference: from the guide's family, and from one encoder for all examples."""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import torch
from jaxtyping import Float, Real
from torch import Tensor

from pyro_vae.compilation import CompileMode
from pyro_vae.data.nouns import noun
from pyro_vae.evidence.importance_terms import ImportanceTerms
from pyro_vae.evidence.local_guide import refine_guide
from pyro_vae.json_values import to_jsonable
from pyro_vae.notebooks import progress_bar
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    PerExample,
    log_mean_exp,
    pareto_khat,
    share_above_threshold,
    standard_error,
    withheld,
)

# Thresholds of `trust`: the gain in nats per example from the last third of the steps, and the
# share of examples with a k-hat above its threshold.
_LARGEST_GAIN = 0.05
_MOST_KHATS_ABOVE = 0.1


@dataclass(frozen=True)
class InferenceGaps(PerExample):
    """log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)] of each example, in nats.

    q is the encoder's guide and q* the best of the same family for this example alone. The first
    bracket is the approximation gap, KL(q* || p(z | x)), of the family. The second is the
    amortisation gap, of the encoder. A richer family closes the first, a larger or longer trained
    encoder the second. An amortisation gap that is larger on test data than on training data shows
    that the encoder overfits.

    ELBOs are means of log p(x, z) - log q(z | x), from the same noise for every guide, so that
    differences are more precise than their parts.

    Args:
        log_evidence: log p(x), or its estimate.
        elbo_amortised: The ELBO of the encoder's guide.
        elbo_local: The ELBO of the local optimum.
        approximation_error: The Monte Carlo standard error of `approximation`, without the error
            of a given `log_evidence`.
        amortisation_error: The Monte Carlo standard error of `amortisation`.
        last_third: The gain in `elbo_local` from the last third of the steps, a restart at a lower
            learning rate. Near 0 the optimum is reached.
        last_third_error: Its Monte Carlo standard error.
        khat: The tail shape of the local guide's importance weights; None if there are too few
            draws.
        num_samples: The number of draws for each example.
        steps: The number of steps of the local optimum.
        evidence: The source of `log_evidence`: "given", or "importance weighting" with the local
            guide.
        rounding: The approximate rounding error of the local guide's log weights; None if unknown.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018),
        https://arxiv.org/abs/1801.03558
    """

    log_evidence: Float[np.ndarray, " n"]
    elbo_amortised: Float[np.ndarray, " n"]
    elbo_local: Float[np.ndarray, " n"]
    approximation_error: Float[np.ndarray, " n"]
    amortisation_error: Float[np.ndarray, " n"]
    last_third: Float[np.ndarray, " n"]
    last_third_error: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    num_samples: int
    steps: int
    evidence: Literal["given", "importance weighting"]
    rounding: Float[np.ndarray, " n"] | None = None

    @property
    def approximation(self) -> Float[np.ndarray, " n"]:
        """log p(x) - ELBO(q*) = KL(q* || p(z | x)), the approximation gap."""
        return self.log_evidence - self.elbo_local

    @property
    def amortisation(self) -> Float[np.ndarray, " n"]:
        """ELBO(q*) - ELBO(q), the amortisation gap."""
        return self.elbo_local - self.elbo_amortised

    @property
    def inference(self) -> Float[np.ndarray, " n"]:
        """log p(x) - ELBO(q) = KL(q || p(z | x)), the sum of both gaps."""
        return self.log_evidence - self.elbo_amortised

    def summary(self) -> dict[str, float | int | str | None]:
        """Means per example in nats, with two errors each.

        `..._se` is the standard error over examples, which includes the noise of the draws;
        `..._error` is that noise alone. Undefined and non-finite values are None.
        """
        summary: dict[str, Any] = {"n": len(self.log_evidence)}
        for name in (
            *("log_evidence", "elbo_amortised", "elbo_local"),
            *("approximation", "amortisation", "inference", "last_third"),
        ):
            values = getattr(self, name)
            summary |= {name: values.mean(), f"{name}_se": standard_error(values)}
        for name in ("approximation_error", "amortisation_error", "last_third_error"):
            summary[name] = _error_of_mean(getattr(self, name))
        summary["khat_share_above"] = self._khat_share_above
        return to_jsonable(
            summary
            | {
                "num_samples": self.num_samples,
                "steps": self.steps,
                "evidence": self.evidence,
                "trust": self.trust(),
            }
        )

    def trust(self) -> str:
        """A verdict on the gaps in one sentence.

        The local optimum is reached if the last third of the steps gained at most 0.05 nats per
        example; log p(x) by importance weighting is known if at most 10 % of the examples have a
        k-hat above the threshold; a mean gap is significant above twice its Monte Carlo error.
        """
        if not np.isfinite(self.inference).all() or not np.isfinite(self.elbo_local).all():
            return "Not to be trusted: a log density is not finite."
        if reason := self.withheld:
            return reason
        gain, error = float(self.last_third.mean()), _error_of_mean(self.last_third_error)
        reached = gain - 2 * error <= _LARGEST_GAIN
        parts = [
            f"the local optimum is {'' if reached else 'not '}reached (the last third of "
            f"{self.steps} steps gained {gain:.3f} nats per {noun()}, at most {_LARGEST_GAIN} is "
            "good)" + ("" if reached else ": use more steps")
        ]
        above = self._khat_share_above
        if self.evidence == "given":
            parts.append("if the given log p(x) is a lower bound, so is the approximation gap")
        else:
            known = above is not None and above <= _MOST_KHATS_ABOVE
            share = (
                "unknown" if above is None else f"above the threshold for {above:.1%} of the data"
            )
            parts.append(
                f"log p(x) is a {'' if known else 'loose '}lower bound (k-hat is {share}, at most "
                f"{_MOST_KHATS_ABOVE:.0%} is good), and so is the approximation gap"
                + ("" if known else ": give log_evidence from annealed importance sampling")
            )
        for name in ("approximation", "amortisation"):
            mean = getattr(self, name).mean()
            error = _error_of_mean(getattr(self, f"{name}_error"))
            if abs(mean) <= 2 * error:
                parts.append(f"the {name} gap is within its Monte Carlo error of {error:.3f} nats")
            elif mean < 0:
                parts.append(
                    f"the {name} gap is negative, {mean:.3f} nats, so an estimate is wrong"
                )
        sentence = "; ".join(parts)
        return f"{sentence[0].upper()}{sentence[1:]}."

    @property
    def withheld(self) -> str | None:
        """Why rounding errors allow no verdict on the gaps; None if they are small."""
        return None if self.rounding is None else withheld(self.rounding, self.elbo_local)

    @property
    def _khat_share_above(self) -> float | None:
        return None if self.withheld else share_above_threshold(self.khat, self.num_samples)


_COLUMNS = (
    *("log_evidence", "elbo_amortised", "elbo_local", "approximation_error"),
    *("amortisation_error", "last_third", "last_third_error"),
)


def inference_gaps(
    vae: Any,
    x: Real[Tensor, " n *event"],
    *,
    log_evidence: Real[np.ndarray, " n"] | None = None,
    steps: int = 1000,
    lr: float = 0.03,
    num_particles: int = 8,
    num_samples: int = 1000,
    max_elements: int = 2_000_000,
    seed: int = 0,
    compile: CompileMode = "auto",
    progress: bool = False,
) -> InferenceGaps:
    """Split log p(x) - ELBO of each example into the gaps of guide's family and encoder.

    The local optimum q* is that of `refine_guide`, in two calls: two thirds of the steps, and the
    last third as a restart at a third of the learning rate, whose gain shows whether the first was
    enough.

    Args:
        vae: A program, as in `refine_guide`.
        x: Data in the likelihood's support, on the program's device; integers are converted to
            floats.
        log_evidence: log p(x) of each example in nats, such as from annealed importance sampling;
            None to estimate it from the local guide's draws by importance weighting.
        steps: The number of Adam's steps for each example.
        lr: Adam's initial learning rate.
        num_particles: The number of draws for each example and step.
        num_samples: The number of draws for each example for the reported ELBOs.
        max_elements: The number of draws x examples x elements held at once.
        seed: The seed of the draws. The global random stream is left unchanged.
        compile: "on" or "off"; "auto" to compile if the work pays for it.
        progress: Show a progress bar.

    Raises:
        NoLocalGuideError: If the posterior has no encoder, or its draws no gradient; a ValueError.
        ValueError: If `log_evidence` is not one finite number for each example, `steps` is below
            3, `num_samples` below 2, or another option is out of its range.

    References:
        Inference Suboptimality in Variational Autoencoders (Cremer, Li & Duvenaud, 2018),
        https://arxiv.org/abs/1801.03558
    """
    for word, value, least in (("steps", steps, 3), ("num_samples", num_samples, 2)):
        if value < least:
            raise ValueError(f"{word} must be at least {least}, got {value}.")
    given = None if log_evidence is None else np.asarray(log_evidence, np.float64)
    if given is not None and (given.shape != (len(x),) or not np.isfinite(given).all()):
        raise ValueError(
            f"log_evidence must be one finite number for each of {len(x)} examples, got shape "
            f"{given.shape} with {int((~np.isfinite(given)).sum())} that are not finite."
        )
    last = steps // 3
    options: dict[str, Any] = {
        "num_particles": num_particles,
        "max_elements": max_elements,
        "compile": compile,
        "progress": progress,
    }
    first = refine_guide(vae, x, steps=steps - last, lr=lr, seed=seed, **options)
    local = refine_guide(first, x, steps=last, lr=lr / 3, seed=seed + 1, **options)

    # All draws of a few examples, or of one example in parts of one size.
    pairs = max(1, max_elements // max(1, x[0].numel()))
    parts = -(-num_samples // pairs)
    batch = min(len(x), max(1, pairs // num_samples))
    programs = (vae, first, local)
    terms = [
        ImportanceTerms(
            program.model,
            program.guide,
            num_particles=-(-num_samples // parts),
            compile=compile,
            expected_calls=len(x) // batch * parts,
        )
        for program in programs
    ]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in (*_COLUMNS, "khat", "rounding")}
    bar = progress_bar(progress, total=len(x), desc="inference gaps", unit=noun())
    # Another seed: the ELBOs are reported on other draws than those that chose the guide.
    with bar, evaluation_mode(vae, seed=seed + 2), ExitStack() as speed:
        for start in range(0, len(x), batch):
            chunk = x[start : start + batch]
            data = as_floats(chunk)
            noise = int(torch.randint(2**62, ()))
            log_weights, errors = [], []
            for of_program in terms:
                torch.manual_seed(noise)  # Common draws.
                draws = [of_program(data) for _ in range(parts)]
                log_weights.append(
                    torch.cat([part[0] for part in draws])[:num_samples].cpu().numpy()
                )
                errors.append(torch.cat([part[3] for part in draws]).mean(0).cpu().numpy())
            found = _columns(*log_weights, None if given is None else given[start : start + batch])
            for name, column in (found | {"rounding": errors[-1]}).items():
                columns[name].append(column)
            if not start:  # Pyro has validated the first chunk.
                speed.enter_context(pyro.validation_enabled(False))
            bar.update(len(chunk))
    return InferenceGaps(
        **{name: np.concatenate(columns[name]) for name in _COLUMNS},
        khat=np.concatenate(columns["khat"]) if columns["khat"] else None,
        num_samples=num_samples,
        steps=steps,
        evidence="importance weighting" if given is None else "given",
        rounding=np.concatenate(columns["rounding"]),
    )


def _columns(
    amortised: Float[np.ndarray, "num_samples batch"],
    first: Float[np.ndarray, "num_samples batch"],
    local: Float[np.ndarray, "num_samples batch"],
    log_evidence: Float[np.ndarray, " batch"] | None,
) -> dict[str, Float[np.ndarray, " batch"]]:
    """The columns of the result from the log weights of three guides."""
    known = log_evidence is not None
    evidence = log_evidence if known else log_mean_exp(local)
    # To first order, an error of log mean w is that of the mean of w over its mean; the ELBO's is
    # subtracted.
    moved = -local if known else np.exp(local - evidence) - local
    columns = {
        "log_evidence": evidence,
        "elbo_amortised": amortised.mean(0),
        "elbo_local": local.mean(0),
        "approximation_error": _error(moved),
        "amortisation_error": _error(local - amortised),
        "last_third": (local - first).mean(0),
        "last_third_error": _error(local - first),
    }
    if len(local) >= MINIMUM_SAMPLES:
        columns["khat"] = pareto_khat(local)
    return columns


def _error(draws: Float[np.ndarray, "num_samples batch"]) -> Float[np.ndarray, " batch"]:
    """The standard error of a mean of draws."""
    return draws.std(0, ddof=1) / math.sqrt(len(draws))


def _error_of_mean(errors: Float[np.ndarray, " n"]) -> float:
    """The error of a mean over examples with independent errors."""
    return float(np.sqrt((errors**2).sum()) / len(errors))
