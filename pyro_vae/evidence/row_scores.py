"""Scores of single rows, with the same draws for all of them, and the typicality of new rows."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyro
import torch
from jaxtyping import Float, Real
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.compilation import CompileMode
from pyro_vae.data import check_observed
from pyro_vae.evidence.evaluation import defined_rows
from pyro_vae.evidence.importance_terms import Draws, ImportanceTerms, call_size, map_draws
from pyro_vae.json_values import to_jsonable
from pyro_vae.labelled_rows import WithLabels, rows_of
from pyro_vae.log_densities import check_density, log_densities
from pyro_vae.networks import column_spreads
from pyro_vae.rng import as_floats, check_device, evaluation_mode
from pyro_vae.statistics import (
    MINIMUM_SAMPLES,
    PerExample,
    effective_sample_size,
    log_mean_exp,
    pareto_khat,
)

aten = torch.ops.aten

# The largest difference of a row's terms with and without other rows beside it, as a multiple of
# their rounding error.
_ROUNDING = 100


@dataclass(frozen=True)
class RowScores(PerExample):
    """Scores of each row by importance weighting, in nats, with K draws that all rows share.

    Args:
        log_p: log 1/K sum_k w_k, w_k = p(x, z_k) / q(z_k | x): at most log p(x) in expectation.
        ess: The effective number of draws, from 1 to K; 0 if a weight is not finite.
        khat: The tail shape of the weights; None if there are too few draws to fit it. Above
            `khat_threshold(num_samples)`, the row's `log_p` is not to be trusted.
        reconstruction: The mean of log p(x | z) over the draws.
        kl: KL(q(z | x) || p(z)).
        num_samples: The number K of draws.
        kl_estimate: "analytic" if every latent site's KL has a closed form, otherwise "Monte
            Carlo".

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """

    log_p: Float[np.ndarray, " n"]
    ess: Float[np.ndarray, " n"]
    khat: Float[np.ndarray, " n"] | None
    reconstruction: Float[np.ndarray, " n"]
    kl: Float[np.ndarray, " n"]
    num_samples: int
    kl_estimate: Literal["analytic", "Monte Carlo"]

    @property
    def elbo(self) -> Float[np.ndarray, " n"]:
        """E_q[log p(x | z)] - KL(q(z | x) || p(z)), in nats: at most log p(x) in expectation."""
        return self.reconstruction - self.kl

    @property
    def log_p_se(self) -> Float[np.ndarray, " n"]:
        """The Monte Carlo standard error of `log_p`, in nats: sd(w) / (mean(w) sqrt(K)).

        This is the delta method: the relative standard error of the mean weight, computed from
        `ess`. It does not include the bias of the logarithm (about minus half of the squared
        error), nor draws that the guide misses: where `khat` is high, it is too small. The errors
        of rows are correlated, as they share the draws. NaN for one draw, or without a finite
        estimate.
        """
        k = self.num_samples
        if k == 1:
            return np.full(len(self.log_p), np.nan)
        known = np.where(self.ess > 0, self.ess, np.nan)
        return np.sqrt(np.maximum(k / known - 1, 0.0) / (k - 1))

    def summary(self) -> dict[str, float | int | str | None]:
        """Means per row in nats and counts; undefined values are None."""
        return to_jsonable(
            {
                "n": len(self.log_p),
                "num_samples": self.num_samples,
                "log_p": self.log_p.mean(),
                "elbo": self.elbo.mean(),
                "reconstruction": self.reconstruction.mean(),
                "kl": self.kl.mean(),
                "kl_estimate": self.kl_estimate,
                "ess_median": np.median(self.ess),
            }
        )


def row_scores(
    vae: Any,
    x: Any,
    *,
    y: Tensor | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    max_elements: int = 2_000_000,
    compile: CompileMode = "auto",
) -> RowScores:
    """Score each row with the same draws.

    A row's scores depend on the row, the program, `num_samples`, `max_elements` and `seed` alone,
    and not, beyond rounding, on the other rows, their number or their order: they are those of
    `evaluate` of this row alone with the same seed. All rows share the guide's base noise: z_k =
    g(e_k; x), with the same e_1, ..., e_K for every x. If a distribution has no such noise that
    rows can share (gamma, beta, Dirichlet and power spherical guides), each row is computed by
    itself from the same seed, which gives the same numbers as if they were shared, but takes
    longer where rows are small.

    The program runs in evaluation mode; modes and random streams are unchanged.

    Args:
        vae: A program with `model(x)` and `guide(x)`.
        x: As for `evaluate`.
        y: Labels, for a program of log p(x | y); others ignore them.
        num_samples: The number K of draws.
        seed: The seed of the draws.
        dtype: The type in which to compute, by a copy of the program, such as `torch.float64`;
            None for that of the program. Another type has other draws.
        max_elements: The number of draws x rows x elements held at once.
        compile: As for `importance_weighting`.

    Raises:
        ValueError: As for `evaluate`.
        TypeError: As for `evaluate`.
        NoDensityError: If the guide has all its mass at one point.
    """
    if not isinstance(x, Tensor):
        if not hasattr(vae, "prepare"):
            raise TypeError(
                f"{type(vae).__name__} has no method `prepare`: give x as a tensor, got "
                f"{type(x).__name__}."
            )
        x = vae.prepare(x)
    if len(x) == 0:
        raise ValueError("x must hold at least one example, got none.")
    vae, x = rows_of(vae, x, y)
    scorer = RowScorer(
        vae,
        num_samples=num_samples,
        seed=seed,
        dtype=dtype,
        max_elements=max_elements,
        compile=compile,
        expected_rows=len(x),
    )
    return scorer(x)


class RowScorer:
    """`row_scores` of many blocks of rows, for which the program is compiled once.

    >>> from pyro_vae import build
    >>> scorer = RowScorer(build((5,), 2, likelihood="normal"), num_samples=30)
    >>> x = torch.randn(4, 5)
    >>> both = [scorer(x[:1]), scorer(x[1:])]
    >>> bool(np.allclose(RowScores.concatenate(both).log_p, scorer(x).log_p, atol=1e-4))
    True

    Args:
        vae: As for `row_scores`; a program of log p(x | y) as `WithLabels`.
        num_samples, seed, dtype, max_elements, compile: As for `row_scores`.
        expected_rows: The number of rows of all blocks, on which it depends whether to compile.
        advance: Called with a number of rows whenever so many more are scored.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(
        self,
        vae: Any,
        *,
        num_samples: int = 1000,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        max_elements: int = 2_000_000,
        compile: CompileMode = "auto",
        expected_rows: int = 1,
        advance: Callable[[int], object] = lambda rows: None,
    ) -> None:
        for word, value in (("num_samples", num_samples), ("max_elements", max_elements)):
            if value < 1:
                raise ValueError(f"{word} must be at least 1, got {value}.")
        check_device(vae)
        self.vae = vae if dtype is None else copy.deepcopy(vae).to(dtype)
        self.num_samples = num_samples
        self.seed = seed
        self.dtype = dtype
        self.max_elements = max_elements
        self.compile: CompileMode = compile
        self.expected_rows = expected_rows
        self.advance = advance
        # Whether rows can share their noise; None until it was tried.
        self.shares_noise: bool | None = None
        self._terms: _SharedTerms | None = None
        self._checked = False

    def __call__(self, x: Real[Tensor, " n *event"]) -> RowScores:
        """The scores of a block of rows in the likelihood's support, on the program's device.

        Raises:
            ValueError: If rows are of another shape, or outside of the support.
            NoDensityError: If the guide has all its mass at one point.
        """
        if len(x) == 0:
            raise ValueError("x must hold at least one row, got none.")
        if not isinstance(self.vae, WithLabels) and hasattr(self.vae, "likelihood"):
            check_observed(x, self.vae.likelihood, getattr(self.vae, "contract", None))
        x = as_floats(x) if self.dtype is None else x.to(self.dtype)
        if not self._checked:
            check_density(self.vae.guide, x, "log p(x)")
            self._checked = True
        self._validate(x)
        num_particles, batch = call_size(x, self.num_samples, self.max_elements)
        with evaluation_mode(self.vae, seed=self.seed), pyro.validation_enabled(False):
            if batch > 1 and self.shares_noise is None:
                self.shares_noise = self._can_share_noise(x[:batch], num_particles)
            batch = batch if self.shares_noise else 1
            if self._terms is None:
                parts = -(-self.num_samples // num_particles)
                self._terms = self._make_terms(num_particles, self.expected_rows // batch * parts)
            parts = map_draws(
                self._result,
                self._terms,
                x,
                self.num_samples,
                batch,
                start_batch=lambda: _set_seed(self.seed, x.device),
                advance=self.advance,
            )
        return RowScores.concatenate(parts)

    def _make_terms(self, num_particles: int, calls: int) -> "_SharedTerms":
        return _SharedTerms(
            self.vae.model,
            self.vae.guide,
            num_particles=num_particles,
            compile=self.compile,
            expected_calls=calls,
        )

    def _validate(self, x: Tensor) -> None:
        """Let Pyro validate a draw for each row, unless log p(x) is undefined for some."""
        if not is_validation_enabled() or not defined_rows(self.vae, x).all():
            return
        with evaluation_mode(self.vae, seed=0):
            for part in x.split(max(1, self.max_elements // max(1, x[0].numel()))):
                log_densities(self.vae.model, self.vae.guide, part)

    def _can_share_noise(self, x: Tensor, num_particles: int) -> bool:
        """Whether the first and the last of some rows have the terms that they have alone."""
        terms = self._make_terms(num_particles, 0)
        try:
            _set_seed(self.seed, x.device)
            (together,) = terms.evaluate(x)
        except _NoSharedNoiseError:
            return False
        for row in (0, len(x) - 1):
            _set_seed(self.seed, x.device)
            alone = terms.evaluate(x[row : row + 1])[0][..., 0]
            log_weights, log_likelihood, _, rounding = together[..., row]
            limit = _ROUNDING * rounding.nan_to_num(0, 0, 0).max() + 1e-12
            for one, other in ((log_weights, alone[0]), (log_likelihood, alone[1])):
                if not torch.allclose(one, other, rtol=0, atol=float(limit), equal_nan=True):
                    return False
        return True

    def _result(self, draws: Draws) -> RowScores:
        weights, terms = draws.log_weights, self._terms
        assert terms is not None
        return RowScores(
            log_p=log_mean_exp(weights),
            ess=effective_sample_size(weights),
            khat=pareto_khat(weights) if self.num_samples >= MINIMUM_SAMPLES else None,
            reconstruction=draws.log_likelihood / self.num_samples,
            kl=draws.kl / self.num_samples,
            num_samples=self.num_samples,
            kl_estimate="analytic" if terms.analytic else "Monte Carlo",
        )


def _set_seed(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


class _SharedTerms(ImportanceTerms):
    """The terms with the same base noise for all rows of a batch."""

    def evaluate(self, x: Tensor) -> tuple[Tensor]:
        if len(x) == 1:
            return super().evaluate(x)
        with _SharedNoise(self.num_particles, len(x)):
            return super().evaluate(x)


class _NoSharedNoiseError(RuntimeError):
    """Rows cannot share the noise of a program."""


# Noise that does not depend on parameters: filled in, made in a shape, and made like a tensor.
_FILLED = (aten.normal_.default, aten.uniform_.default, aten.exponential_.default)
_OF_SHAPE = (aten.randn.default, aten.rand.default)
_LIKE = (aten.randn_like.default, aten.rand_like.default)


class _SharedNoise(TorchDispatchMode):
    """A context in which noise of the shape `(..., particles, batch, ...)` is drawn for one row.

    Raises:
        _NoSharedNoiseError: If noise has another shape or depends on parameters, or a tensor is
            read in Python, on which the number of draws might depend.
    """

    def __init__(self, num_particles: int, batch: int) -> None:
        super().__init__()
        self.axes = [num_particles, batch]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not to wrap the method below, which would import torch._dynamo: a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.data_dependent_output in func.tags:
            raise _NoSharedNoiseError(f"{func} reads a tensor.")
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        shape = list(args[0] if func in _OF_SHAPE else args[0].shape)
        if func in _OF_SHAPE:
            return func(self._of_one_row(shape), *args[1:], **kwargs).expand(shape).clone()
        like = args[0].new_empty(self._of_one_row(shape))
        if func in _LIKE:
            return func(like, *args[1:], **kwargs).expand(shape).clone()
        if func in _FILLED:
            return args[0].copy_(func(like, *args[1:], **kwargs).expand(shape))
        raise _NoSharedNoiseError(f"{func} depends on parameters.")

    def _of_one_row(self, shape: list[int]) -> list[int]:
        """The shape with one row in place of the batch, whose axis is right of the particles'."""
        for axis in range(1, len(shape)):
            if shape[axis - 1 : axis + 1] == self.axes:
                return [*shape[:axis], 1, *shape[axis + 1 :]]
        raise _NoSharedNoiseError(f"noise of shape {shape} has no axes {self.axes}.")


# ---- errors of reconstructions, and typicality -------------------------------------------------


def reconstruction_errors(
    vae: Any, x: Real[Tensor, " n *event"], *, max_elements: int = 2_000_000
) -> Float[np.ndarray, " n"]:
    """sqrt(mean_i (x_i - m_i)^2) for each row, m = E[x | z] at the code z of x.

    Both are in the units of the training data, as far as a trained program knows them: grey levels
    as such, and the probability of 1 for binary data. Elements of tables in units of their own are
    divided by their spread in the training data first, as the largest would decide otherwise.
    Missing values are left out.

    Args:
        vae: A program with `embed` and `decode`; a program of log p(x | y) as `WithLabels`.
        x: Data in the likelihood's support, on the program's device.
        max_elements: The number of elements held at once.
    """
    contract, spreads = getattr(vae, "contract", None), column_spreads(vae)
    errors = []
    with evaluation_mode(vae, seed=0):
        for part in x.split(max(1, max_elements // max(1, x[0].numel()))):
            data = as_floats(part)
            code = vae.embed(data)
            if isinstance(vae, WithLabels):
                data, y = vae.unpack(data)
                total = getattr(vae.program, "size", None)
                size = {} if total is None else {"size": total(data)}
                mean = vae.program.decode(code, y, **size)
            else:
                mean = vae.decode(code)
            missing = data.isnan()
            given = data.masked_fill(missing, 0)
            if getattr(vae.likelihood, "given_total", False):
                totals = [each.flatten(1).sum(1).clamp(min=1e-12) for each in (given, mean)]
                mean = mean * (totals[0] / totals[1]).view(-1, *[1] * (mean.dim() - 1))
            if contract is not None:
                given = contract.to_data_units(given, draws=True)
                mean = contract.to_data_units(mean, draws=False)
            difference = ((given - mean) / spreads).double().masked_fill(missing, 0)
            count = (~missing).flatten(1).sum(1)
            error = (difference.square().flatten(1).sum(1) / count).sqrt()
            errors.append(error.cpu().numpy())
    return np.concatenate(errors)


def typicality(
    scores: Real[np.ndarray, " n"], reference: Real[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """p = (1 + #{j: |s_j - c| >= |s - c|}) / (m + 1), c the median of the reference scores s_j.

    A two-sided p-value that a row is as typical as the reference rows: small if its score is
    unusually low or unusually high. For rows of the same distribution as the reference it is
    uniform, but for the error of c, of order 1 / m. The paper's typicality test has the mean in
    place of the median, which a single outlier would move.

    Args:
        scores: A score of each row, such as log p(x).
        reference: The same score of rows that are known to be typical; NaN are left out.

    Returns:
        The p-values, from 1 / (m + 1) to 1; NaN where a score is.

    Raises:
        ValueError: If there are no reference scores.

    References:
        Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality (Nalisnick
        et al., 2019), https://arxiv.org/abs/1906.02994; conformal p-values: Testing for Outliers
        with Conformal p-values (Bates et al., 2023), https://arxiv.org/abs/2104.08279
    """
    known = np.asarray(reference, np.float64)
    known = known[~np.isnan(known)]
    if len(known) == 0:
        raise ValueError("typicality needs at least one reference score, got none.")
    center = np.median(known)
    distances = np.sort(_distances(known, center))
    own = _distances(np.asarray(scores, np.float64), center)
    at_least = len(known) - np.searchsorted(distances, own, side="left")
    return np.where(np.isnan(own), np.nan, (1 + at_least) / (len(known) + 1))


def _distances(scores: np.ndarray, center: float) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # Of two that are infinite.
        return np.where(scores == center, 0.0, np.abs(scores - center))
