"""Out-of-distribution scores, and how well they separate foreign data from own data."""

import io
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Real
from torch import Tensor

from analysis.model_samples import embed_data, has_density, mean_data, to_array
from analysis.plotting.images import is_image
from pyro_vae.evidence.baseline_densities import independent_density
from pyro_vae.evidence.evaluation import fixed_rows
from pyro_vae.evidence.importance_weighting import ImportanceWeighting, importance_weighting
from pyro_vae.rng import derive_seed, evaluation_mode

# Nearest training codes that a distance is averaged over.
NEIGHBOURS = 10
# Training data used for their mean log p(x), and for their codes and single elements.
TYPICAL_DATA, CODED_DATA = 1000, 10_000
# Real values are rounded to this many levels, for a compressor and for a histogram.
LEVELS = 256
# The share of foreign data to be detected when false alarms are counted.
DETECTED = 0.95

# The definition of each score, in the order of tables.
DEFINITIONS = {
    "likelihood": "-log p(x), nats, by importance weighting",
    "typicality": "|-log p(x) - H|, nats, H the mean of -log p(x) over training data",
    "complexity_ratio": "-log p(x) - L(x), nats, L the length of x as a compressed file",
    "background_ratio": "log p_0(x) - log p(x), nats, p_0 a density of independent elements",
    "rate": "KL(q(z | x) || p(z)), nats",
    "reconstruction": "root mean square of x less the mean of p(x | z) at the code of x",
    "mahalanobis": "sqrt((c - m)' S^-1 (c - m)), c the code of x, m and S of the training codes",
    "neighbours": f"mean distance of the code of x to its {NEIGHBOURS} nearest training codes",
}
# Scores that need a density, which an autoencoder's guide, a point, lacks.
DENSITY_SCORES = ("likelihood", "typicality", "complexity_ratio", "background_ratio", "rate")


@dataclass(frozen=True)
class Detection:
    """How well one score separates m foreign examples from n of the model's own data.

    Args:
        auroc: P(s_foreign > s_own) + P(s_foreign = s_own) / 2: 1 is perfect, 0.5 chance, and below
            0.5 foreign data look more ordinary than own data.
        standard_error: Of `auroc`, from the choice of both sets; 0 where the scores are separated,
            and None with fewer than two examples in a set.
        false_alarms: The share of own data above the threshold that detects 95 % of foreign data:
            0 is perfect, 0.95 chance.
    """

    auroc: float
    standard_error: float | None
    false_alarms: float

    @property
    def below_chance(self) -> bool:
        """Whether `auroc` is below 0.5 by more than two standard errors."""
        return self.auroc + 2 * (self.standard_error or 0.0) < 0.5

    def record(self) -> dict[str, float | None]:
        """AUROC, its standard error, and the false alarms."""
        return {
            "auroc": self.auroc,
            "auroc_se": self.standard_error,
            "false_alarms_at_95": self.false_alarms,
        }


def detection(own: Real[np.ndarray, " n"], foreign: Real[np.ndarray, " m"]) -> Detection:
    """AUROC = P(s_foreign > s_own) + P(s_foreign = s_own) / 2, with DeLong's standard error.

    Only the order of the scores matters, so that infinite ones are allowed.

    Args:
        own: The scores of the model's own data.
        foreign: The scores of foreign data, expected to be larger.

    Returns:
        The area, its standard error, and the false alarms. Foreign is the positive class; some
        papers use the opposite, which gives the same area and another false-alarm rate.

    Raises:
        ValueError: If a set is empty or a score is NaN.

    References:
        Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves:
        A Nonparametric Approach (DeLong et al., 1988), https://doi.org/10.2307/2531595; by ranks,
        as in Fast Implementation of DeLong's Algorithm (Sun & Xu, 2014),
        https://doi.org/10.1109/LSP.2014.2337313
    """
    from scipy.stats import rankdata
    from sklearn.metrics import roc_auc_score

    n, m = len(own), len(foreign)
    if n == 0 or m == 0:
        raise ValueError(f"there must be own and foreign data, got {n} and {m}.")
    scores = np.concatenate([own, foreign]).astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"scores must not be NaN, got {int(np.isnan(scores).sum())} that are.")
    # Ranks, shared by ties, replace scores: an infinite score has a rank.
    ranks = rankdata(scores)
    auroc = float(roc_auc_score(np.arange(n + m) >= n, ranks))
    error = None
    if min(n, m) > 1:
        # For each example, the share of the other set on the right side of it.
        own_right = 1 - (ranks[:n] - rankdata(own)) / m
        foreign_right = (ranks[n:] - rankdata(foreign)) / n
        error = math.sqrt(own_right.var(ddof=1) / n + foreign_right.var(ddof=1) / m)
    threshold = np.sort(ranks[n:])[::-1][math.ceil(DETECTED * m) - 1]
    return Detection(auroc, error, float((ranks[:n] >= threshold).mean()))


@dataclass(frozen=True)
class CodeDistances:
    """Distances of codes from the training codes; on the sphere, chordal ones.

    Args:
        train: The training codes.

    References:
        A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
        Attacks (Lee et al., 2018), https://arxiv.org/abs/1807.03888; Out-of-Distribution Detection
        with Deep Nearest Neighbors (Sun et al., 2022), https://arxiv.org/abs/2204.06507
    """

    train: Float[np.ndarray, "n latent"]

    def mahalanobis(self, codes: Float[np.ndarray, "m latent"]) -> Float[np.ndarray, " m"]:
        """sqrt((c - m)' S^-1 (c - m)), with Ledoit and Wolf's shrinkage of S.

        0 for all if the training codes are constant, as those of a collapsed code.
        """
        from sklearn.covariance import LedoitWolf

        if not self.train.std(0).any():
            return np.zeros(len(codes))
        return np.sqrt(LedoitWolf().fit(self.train).mahalanobis(codes))

    def neighbours(self, codes: Float[np.ndarray, "m latent"]) -> Float[np.ndarray, " m"]:
        """The mean distance to the 10 nearest training codes, or to all if there are fewer."""
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(self.train))).fit(self.train)
        return search.kneighbors(codes)[0].mean(1)


def reconstruction_error(
    x: Real[np.ndarray, " n *event"],
    means: Float[np.ndarray, " n *event"],
    *,
    counts: bool = False,
    given_total: bool = False,
) -> Float[np.ndarray, " n"]:
    """sqrt(mean_i (x_i - m_i)^2); for counts after log(1 + .).

    Args:
        x: The data.
        means: The mean of p(x | z) at the code of each example.
        counts: Whether they are counts.
        given_total: Whether to scale means to the total of the example, as for a multinomial.
    """
    flat, fitted = (a.reshape(len(a), -1).astype(np.float64) for a in (x, means))
    if given_total:
        fitted = fitted * (flat.sum(1) / np.maximum(fitted.sum(1), 1e-12))[:, None]
    if counts:
        flat, fitted = np.log1p(flat), np.log1p(np.maximum(fitted, 0))
    return np.sqrt(((flat - fitted) ** 2).mean(1))


def compressed_length(
    x: Integer[np.ndarray, " n *event"], *, binary: bool | None = None
) -> Float[np.ndarray, " n"]:
    """L(x): the length of each example as a compressed file, less that of a blank one, in nats.

    Images of at most 256 levels are PNG files. Binary data are deflated bits or, for images if
    shorter, a fax (ITU-T T.6), which halves digits. Other data are deflated, one plane of bytes
    after another. For data as small as these any such code wastes some hundred bits.

    Args:
        x: Whole numbers from 0.
        binary: Whether they are binary data; None if all are 0 or 1. Specify it for sets that are
            compared: a dark one, without values above 1, would get a different code.

    Returns:
        log 2 times the bits beyond those of a blank example.
    """
    lengths = []
    for encode in _encoders(x, bool(x.max() <= 1) if binary is None else binary):
        blank = len(encode(np.zeros_like(x[0])))
        lengths.append([len(encode(datum)) - blank for datum in x])
    return 8 * math.log(2) * np.min(lengths, axis=0).astype(np.float64)


def quantize(
    x: Real[np.ndarray, " n *event"], support: str, *, low: float = 0.0, high: float = 1.0
) -> Integer[np.ndarray, " n *event"]:
    """Round unit and real data down to 256 levels; whole numbers are unchanged."""
    if support in ("unit", "real"):
        scaled = (x.astype(np.float64) - low) / max(high - low, 1e-12)
        return np.clip(scaled * LEVELS, 0, LEVELS - 1).astype(np.uint8)
    return x.astype(np.uint8 if x.max() < LEVELS else np.uint32)


def log_cell(support: str, elements: int, *, low: float = 0.0, high: float = 1.0) -> float:
    """The log volume of a cell of `quantize`, which makes a log density a log probability."""
    if support not in ("unit", "real"):
        return 0.0
    return elements * math.log(max(high - low, 1e-12) / LEVELS)


def _encoders(x: np.ndarray, binary: bool) -> list[Callable[[np.ndarray], bytes]]:
    """The compressors for data of this kind, from an example to a file."""
    shape = x.shape[1:]
    channels = (1 if len(shape) == 2 else shape[0]) if is_image(shape) else None
    if binary:
        return [_deflate_bits, _fax] if channels == 1 else [_deflate_bits]
    return [_png] if channels in (1, 3) and x.dtype == np.uint8 else [_deflate]


def _deflate_bits(datum: np.ndarray) -> bytes:
    return zlib.compress(np.packbits(datum.astype(np.uint8)).tobytes(), 9)


def _deflate(datum: np.ndarray) -> bytes:
    planes = datum.astype("<u4").reshape(-1, 1).view(np.uint8).T
    return zlib.compress(planes.tobytes(), 9)


def _png(datum: np.ndarray) -> bytes:
    colour = datum.ndim == 3 and len(datum) == 3
    plane = np.moveaxis(datum, 0, -1) if colour else datum.reshape(datum.shape[-2:])
    return _image_file(plane, None, "PNG", optimize=True)


def _fax(datum: np.ndarray) -> bytes:
    plane = datum.reshape(datum.shape[-2:]).astype(np.uint8) * np.uint8(255)
    return _image_file(plane, "1", "TIFF", compression="group4")


def _image_file(plane: np.ndarray, mode: str | None, kind: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class ScoredData:
    """The scores of a set of n examples.

    Args:
        scores: By name, as in `DEFINITIONS`, larger for more foreign data; None where not defined.
        khat_share_above: The share of examples whose log p(x) is unreliable, as in
            `ImportanceWeighting`; None if there is no density or were too few draws.
        rounding: Approximately the rounding error of the median log p(x), in nats; None without a
            density.
    """

    scores: Mapping[str, Float[np.ndarray, " n"] | None]
    khat_share_above: float | None
    rounding: float | None = None

    def __len__(self) -> int:
        return len(next(values for values in self.scores.values() if values is not None))


class Scorer:
    """Statistics of the training data, with which other data are scored.

    Args:
        vae: The program.
        train_x: The training data.
        x: Own test data, on the program's device.
        support: The likelihood's support; None if unknown, which counts as real.
        levels: The number of levels of integers, if known.
        num_samples: The draws from the guide for each example.
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
        self.distances = CodeDistances(embed_data(vae, train_x.to(x.device)))
        self.density = has_density(vae, x)
        if self.density:
            typical = train_x[fixed_rows(len(train_x), TYPICAL_DATA).to(train_x.device)]
            log_evidence = self._weight("training", typical.to(x.device)).log_evidence
            known = log_evidence[np.isfinite(log_evidence)]
            self.entropy = -float(known.mean()) if len(known) else np.nan
            train = to_array(train_x)
            self.limits = (float(train.min()), float(train.max()))
            self.background = independent_density(
                train, support or "real", levels=levels, given_total=self.given_total
            ).log_density

    def __call__(self, name: str, x: Tensor) -> ScoredData:
        """Score each example; the name determines the draws."""
        codes, data = embed_data(self.vae, x), to_array(x)
        blocks = np.array_split(codes, -(-len(codes) // 1000))
        means = np.concatenate([mean_data(self.vae, block) for block in blocks])
        scores: dict[str, Float[np.ndarray, " n"] | None] = dict.fromkeys(DENSITY_SCORES)
        khat_share_above = rounding = None
        if self.density:
            weighting = self._weight(name, x)
            scores |= self._density_scores(data, weighting)
            khat_share_above = weighting.khat_share_above
            if weighting.rounding is not None:
                rounding = float(np.median(weighting.rounding))
        scores["reconstruction"] = reconstruction_error(
            data, means, counts=self.support == "counts", given_total=self.given_total
        )
        scores["mahalanobis"] = self.distances.mahalanobis(codes)
        scores["neighbours"] = self.distances.neighbours(codes)
        return ScoredData(scores, khat_share_above, rounding)

    def _weight(self, name: str, x: Tensor) -> ImportanceWeighting:
        seed, vae = derive_seed(self.seed, f"out of distribution {name}"), self.vae
        with evaluation_mode(vae, seed=seed):
            return importance_weighting(vae.model, vae.guide, x, num_samples=self.num_samples)

    def _density_scores(
        self, x: np.ndarray, weighting: ImportanceWeighting
    ) -> dict[str, np.ndarray]:
        cost, support = -weighting.log_evidence, self.support or "real"
        # On [0, 1] the cells are the same for all models; on a line they span the training data.
        low, high = self.limits if support == "real" else (0.0, 1.0)
        levels = quantize(x, support, low=low, high=high)
        length = compressed_length(levels, binary=support == "binary")
        return {
            "likelihood": cost,
            "typicality": np.abs(cost - self.entropy),
            "complexity_ratio": cost - log_cell(support, x[0].size, low=low, high=high) - length,
            "background_ratio": self.background(x) + cost,
            "rate": weighting.kl,
        }
