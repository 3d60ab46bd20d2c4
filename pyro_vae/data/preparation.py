"""What a likelihood needs of a data set: binarised, dequantised, scaled, or as it is."""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pyro_vae.data.dataset import SPLITS, Dataset
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.noise import hashed_uniform
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.data.values import SUPPORTS

Binarisation = Literal["dynamic", "static", "threshold", "none"]
Uniform = Callable[[Tensor], Tensor]

# The likelihoods' supports that data of each native support can be prepared for.
FITS = {
    "binary": ("binary",),
    "integers": ("binary", "unit", "real", "integers"),
    "counts": ("counts",),
    "unit": ("binary", "unit", "real"),
    "real": ("real",),
}

# Each split is prepared once with its own seed, whatever the run's is. Changing one of these, or the
# number of rows at a time, changes every reported test number.
_SEEDS = {split: 714_025 + index for index, split in enumerate(SPLITS)}
_ROWS_AT_A_TIME = 4096

# What parts of a model that start from data see: so many rows, of sparse data at most so many elements.
_STARTING_ROWS = 10_000
_STARTING_ELEMENTS = 2**24


class SupportMismatchError(ValueError):
    """A likelihood is no density on the data.

    Args:
        message: What does not fit.
        fits: The supports of likelihoods that would.
    """

    def __init__(self, message: str, fits: tuple[str, ...]) -> None:
        super().__init__(message)
        self.fits = fits


class _Scaled(nn.Module):
    """x = v / top, as floats.

    Args:
        top: The highest value of v; 1 leaves the values as they are.
    """

    def __init__(self, top: int = 1) -> None:
        super().__init__()
        self.top = top

    def forward(self, v: Real[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # Not the default type: a draw of the same seed must be the same under any of them.
        return v.to(torch.float32) / self.top


class _Dequantised(nn.Module):
    """x = (v + u) / levels with u ~ Uniform(0, 1), drawn anew at each call.

    Args:
        levels: The number of levels 0, ..., levels - 1 of v.
        uniform: What draws u, of a tensor's shape.

    References:
        A note on the evaluation of generative models (Theis et al., 2016), section 3.1,
        https://arxiv.org/abs/1511.01844
    """

    def __init__(self, levels: int, uniform: Uniform) -> None:
        super().__init__()
        self.levels = levels
        self.uniform = uniform

    def forward(self, v: Real[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        v = v.to(torch.float32)
        x = (v + self.uniform(v)) / self.levels
        # Rounding reaches 0 and 1, where densities on the open interval may be infinite.
        smallest = torch.finfo(x.dtype).eps
        return x.clamp(smallest, 1 - smallest)


class _BernoulliDraw(nn.Module):
    """x ~ Bernoulli(p), drawn anew at each call: 1 where u < p.

    Args:
        uniform: What draws u ~ Uniform(0, 1), of a tensor's shape.
    """

    def __init__(self, uniform: Uniform) -> None:
        super().__init__()
        self.uniform = uniform

    def forward(self, p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (self.uniform(p) < p).to(p.dtype)


class _AtLeastHalf(nn.Module):
    """x = 1 where p >= 1/2, else 0."""

    def forward(self, p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (p >= 0.5).to(p.dtype)


class PreparedData:
    """A data set joined with the support of a likelihood.

    A training loop takes batches of `train`, raw and in their narrowest type, and calls `transform`
    on them; evaluation reads `fixed(split)`, which is the same for every seed. A *binary* likelihood
    gets binary data, or grey values binarised; a *unit* likelihood unit floats, or integers as
    (v + u) / levels or v / (levels - 1); a *real* one real or unit floats, or v / (levels - 1);
    *integers* and *counts* pass as they are.

    >>> from pyro_vae.data import digits
    >>> PreparedData(digits(), "binary").description
    'digits: levels 0..16 binarised anew at each visit, Bernoulli(v / 16)'

    Args:
        dataset: The data set.
        likelihood_support: The support that the likelihood declares: binary, unit, real, integers or
            counts.
        binarisation: How grey values become binary: "dynamic" draws Bernoulli(v / (levels - 1)) anew
            at each visit; "static" draws the training set once, always the same; "threshold" is 1
            from half upwards; "none" refuses to.
        dequantise: Whether levels get uniform noise when the likelihood is a density on [0, 1], so
            that it bounds the probability of the levels. Without, it may grow without bound.

    `train` is what a training loop takes batches of, in memory, sparse or on the disk; `transform` is a module, raw batch -> x in the
    likelihood's support, as floats (integers and counts stay as they are), with noise of the global
    stream of the batch's device; `binarisation` becomes None where nothing was binarised;
    `description` says in a line what was done.

    Raises:
        ValueError: If an option is unknown.
        SupportMismatchError: A ValueError, if the likelihood is no density on such data.
    """

    transform: nn.Module

    def __init__(
        self,
        dataset: Dataset,
        likelihood_support: str,
        *,
        binarisation: Binarisation = "dynamic",
        dequantise: bool = True,
    ) -> None:
        for option, value, allowed in (
            ("likelihood_support", likelihood_support, tuple(SUPPORTS)),
            ("binarisation", binarisation, get_args(Binarisation)),
        ):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}.")
        fits = FITS[dataset.support]
        if likelihood_support not in fits:
            said = (
                " If they are counts among which there is no 2, say so with support "
                "(--data.support counts)."
                if (dataset.support, likelihood_support) == ("binary", "counts")
                else ""
            )
            raise SupportMismatchError(
                f"{dataset.name} holds {dataset.support} data ({SUPPORTS[dataset.support]}), on which "
                f"a likelihood of {likelihood_support} data is no density; use a likelihood whose "
                f"support is {' or '.join(fits)}.{said}",
                fits,
            )
        binarised = likelihood_support == "binary" and dataset.support != "binary"
        if binarised and binarisation == "none":
            others = tuple(word for word in fits if word != "binary")
            raise SupportMismatchError(
                f"{dataset.name} holds {_values(dataset)}, on which a likelihood of binary data is no "
                "density; use binarisation dynamic, static or threshold, or a likelihood whose support "
                f"is {' or '.join(others)}.",
                others,
            )
        if binarised and binarisation == "static" and isinstance(dataset.train, MemoryMapped):
            raise ValueError(
                f"the training split of {dataset.name} is memory-mapped, and static binarisation keeps a "
                "copy of it in memory; use binarisation dynamic or threshold."
            )
        self.dataset = dataset
        self.likelihood_support = likelihood_support
        self.dequantise = dequantise
        self.binarisation: Binarisation | None = binarisation if binarised else None
        self._dequantised = (
            dequantise and likelihood_support == "unit" and dataset.support == "integers"
        )
        self._fixed: dict[str, Tensor] = {}
        self._prepare, how = self._preparation(torch.rand_like)
        self.description = f"{dataset.name}: {_values(dataset)} {how}"
        static = self.binarisation == "static"
        self.train: Tensor | SparseRows | MemoryMapped = (
            self.fixed("train") if static else dataset.train
        )
        # Cheap noise at each step; the splits that numbers are reported on keep the generator's own.
        self.transform = _Scaled() if static else self._preparation(hashed_uniform)[0]

    def fixed(self, split: str) -> Real[Tensor, " n *event"] | SparseRows:
        """The split in the likelihood's support, drawn once with a seed of its own.

        It depends neither on the run's seed nor on when it is called, and leaves the global random
        stream where it was. Binary data are uint8, unit and real data float32. Sparse data stay
        sparse: take rows of them by an index, or in parts by `split`.

        Args:
            split: "train", "validation" or "test".

        Raises:
            ValueError: If there is no such split, or it stays on the disk.
        """
        sparse = getattr(self.dataset, split, None)
        if isinstance(sparse, SparseRows):
            return sparse
        raw = self.dataset.split(split)
        if self.likelihood_support in ("integers", "counts", self.dataset.support):
            return raw
        if split not in self._fixed:
            dtype = torch.uint8 if self.likelihood_support == "binary" else torch.float32
            # Only the CPU's stream is set, and set back: torch.manual_seed would move every device's.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(_SEEDS[split])
                parts = [self._prepare(rows).to(dtype) for rows in raw.split(_ROWS_AT_A_TIME)]
            self._fixed[split] = torch.cat(parts)
        return self._fixed[split]

    def starting_rows(self) -> Real[Tensor, " n *event"]:
        """Training data in the likelihood's support, for parts of a model that start from data.

        The first 10,000; of sparse data fewer where they are long, spread evenly over all rows.
        """
        if not isinstance(self.train, SparseRows):
            return self.transform(self.train[:_STARTING_ROWS])
        n, d = self.train.shape
        size = min(n, _STARTING_ROWS, max(1, _STARTING_ELEMENTS // d))
        return self.transform(self.train[torch.arange(size) * n // size])

    def bits_per_dim(self, log_density: float) -> float | None:
        """Bits per dimension of a mean log density: the length of an ideal code for an element.

        Args:
            log_density: Mean log p(x) per datum, in nats.

        Returns:
            -log p(x) / (D ln 2) for D binary elements, integers or counts (of counts given their
            total, where that is what the likelihood is a density of); log2(levels) more for
            dequantised levels, a bound of the levels' own; None for other densities, which depend on
            the data's unit and measure no code.
        """
        continuous = self.likelihood_support in ("unit", "real")
        if continuous and not self._dequantised:
            return None
        bits = -log_density / (math.prod(self.dataset.event_shape) * math.log(2))
        return bits + math.log2(self.dataset.levels or 1) if self._dequantised else bits

    def _preparation(self, uniform: Uniform) -> tuple[nn.Module, str]:
        """What turns raw values into the likelihood's support, and how to say it."""
        if self.likelihood_support in ("integers", "counts"):
            return nn.Identity(), "as they are"
        levels = self.dataset.levels
        top = 1 if levels is None else levels - 1
        scaled, p = _Scaled(top), "v" if levels is None else f"v / {top}"
        if self.binarisation == "dynamic":
            how = f"binarised anew at each visit, Bernoulli({p})"
            return nn.Sequential(scaled, _BernoulliDraw(uniform)), how
        if self.binarisation == "static":
            return nn.Sequential(
                scaled, _BernoulliDraw(uniform)
            ), f"binarised once, Bernoulli({p})"
        if self.binarisation == "threshold":
            return nn.Sequential(scaled, _AtLeastHalf()), f"binarised, 1 where {p} >= 0.5"
        if levels is None and self.dataset.support == "real":
            units = self.dataset.units
            how = "" if units.identity else f"; networks read them scaled ({units.kind})"
            return nn.Identity(), f"in their own units{how}"
        if levels is None:
            return scaled, "as they are"
        if self._dequantised:
            how = f"dequantised anew at each visit, (v + u) / {levels} with u ~ Uniform(0, 1)"
            return _Dequantised(levels, uniform), how
        return scaled, f"scaled to [0, 1], {p}"


def _values(dataset: Dataset) -> str:
    if dataset.levels is not None:
        return f"levels 0..{dataset.levels - 1}"
    return {"binary": "binary values", "unit": "values in [0, 1]", "real": "real values"}.get(
        dataset.support, dataset.support
    )
