"""Agreement of labels with codes: clusters, components of a mixture prior, near neighbours."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.distributions import MixtureSameFamily

from analysis.check import Check
from analysis.model_samples import latent_site, to_array
from analysis.representation.codes import LabelledCodes, spread, with_error
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.probes import check_labelled, ignore_fit_warnings
from analysis.result import Result, UndefinedCheckError
from analysis.subject import Subject
from pyro_vae.distributions import DiagonalNormalMixture
from pyro_vae.rng import evaluation_mode
from pyro_vae.statistics import standard_error

# Each start of K-means is the best of this many, by its own criterion.
INITS = 3
MAX_CODES = 10_000
# Adjusted Rand index: below the first, groups are nearly unrelated to labels; above the second,
# most pairs with one label are together.
UNRELATED, CLOSE = 0.1, 0.6
# Labels of the scores.
SCORES = {"NMI": "nmi", "ARI": "ari", "accuracy": "accuracy"}
# A prior with more components than this many times the number of labels does not group the data.
MAX_COMPONENTS = 5


@dataclass(frozen=True)
class Agreement(Result):
    """How far groups and labels are the same partition.

    Args:
        nmi: The normalised mutual information, from 0 to 1; above 0 by chance.
        ari: The adjusted Rand index: 0 by chance, 1 for the same partition.
        accuracy: The share of data in the group that is matched to their label, one to one.
        groups: The number of different groups.
        num_classes: The number of different labels.
        n: The number of examples.
    """

    FIELDS: ClassVar = ("n", "groups", "num_classes", "nmi", "ari", "accuracy")

    nmi: float
    ari: float
    accuracy: float
    groups: int
    num_classes: int
    n: int

    def reading(self) -> str:
        """Whether the groups are the labels'."""
        return _verdict(
            f"{self.groups} groups",
            f"NMI {self.nmi:.2f}, ARI {self.ari:.2f}, accuracy {self.accuracy:.2f}",
            self.ari,
            self.num_classes,
        )


@dataclass(frozen=True)
class Clustering(Result):
    """How far K-means clusters of codes and labels are the same partition, over starts.

    Args:
        starts: The agreement with the labels of each start.
        clusters: The number K of clusters.
    """

    starts: tuple[Agreement, ...]
    clusters: int

    def scores(self, name: str) -> Float[np.ndarray, " repeats"]:
        """A score of each start: "nmi", "ari" or "accuracy"."""
        return np.array([getattr(start, name) for start in self.starts])

    def extra(self) -> dict[str, Any]:
        """Counts, and mean and spread over starts of each score."""
        first = self.starts[0]
        record: dict[str, Any] = {"n": first.n, "num_classes": first.num_classes}
        record |= {"clusters": self.clusters, "repeats": len(self.starts)}
        for name in SCORES.values():
            values = self.scores(name)
            record |= {name: values.mean(), f"{name}_spread": spread(values)}
        return record

    def text(self, name: str, form: str = ".3f") -> str:
        """Mean and spread of a score."""
        values = self.scores(name)
        return with_error(values.mean(), spread(values), form)

    def reading(self) -> str:
        """Whether the codes form the labels' groups without seeing labels."""
        scores = ", ".join(f"{label} {self.text(name, '.2f')}" for label, name in SCORES.items())
        ari = float(self.scores("ari").mean())
        return _verdict(
            f"{self.clusters} K-means clusters", scores, ari, self.starts[0].num_classes
        )


def clustering(
    data: LabelledCodes, *, clusters: int | None = None, repeats: int = 5, seed: int = 0
) -> Clustering:
    """Agreement of labels with argmin over groups and centres of sum_i |z_i - c_k(i)|^2.

    Distances are Euclidean, in the codes' own units. Each start is the best of `INITS` by that
    sum; labels are not used.

    Args:
        data: Codes and labels; at most 10,000 are used, drawn at random.
        clusters: The number K of clusters; by default the number of different labels.
        repeats: The number of starts.
        seed: The seed of the draw and the starts.

    Returns:
        NMI, ARI and accuracy of each start, as defined in `agreement`.

    Raises:
        UndefinedCheckError: If the data have a single label.
        ValueError: If `repeats` or `clusters` is below 1, or there are fewer codes than clusters;
            for codes that `linear_probe` refuses.
    """
    from sklearn.cluster import KMeans

    check_labelled(data)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    generator = np.random.default_rng(seed)
    if len(data) > MAX_CODES:
        data = data.subset(generator.permutation(len(data))[:MAX_CODES])
    num_classes = len(np.unique(data.labels))
    k = num_classes if clusters is None else clusters
    if not 1 <= k <= len(data):
        raise ValueError(f"clusters must be from 1 to the {len(data)} codes, got {k}.")
    starts = []
    for start in generator.integers(2**31, size=repeats):
        # scikit-learn's type stub knows only the default of n_init, a word.
        k_means = KMeans(k, n_init=INITS, random_state=int(start))  # pyright: ignore[reportArgumentType]
        # With fewer distinct codes than clusters, as of a collapsed code, some stay empty.
        with ignore_fit_warnings():
            groups = k_means.fit_predict(data.codes.astype(np.float64))
            starts.append(agreement(groups, data.labels))
    return Clustering(tuple(starts), k)


def agreement(assignments: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Agreement:
    """NMI = 2 I(c; y) / (H(c) + H(y)), the adjusted Rand index, and the matched accuracy.

    A matching gives each group at most one label and each label at most one group; data of a group
    without a label count as wrong. The names of groups do not matter.

    Args:
        assignments: The group of each example.
        labels: The label of each example.

    Returns:
        Three scores whose maximum is 1. ARI is 0 by chance; NMI and accuracy are above 0, the more
        so the more groups there are.

    Raises:
        UndefinedCheckError: If the data have a single label.
        ValueError: If there are no data.

    References:
        Comparing partitions (Hubert & Arabie, 1985), https://doi.org/10.1007/BF01908075
        The Hungarian method for the assignment problem (Kuhn, 1955),
        https://doi.org/10.1002/nav.3800020109
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    if len(labels) == 0:
        raise ValueError("at least one example is needed, got none.")
    if len(np.unique(labels)) == 1:
        raise UndefinedCheckError(
            f"groups are compared with two labels or more, got {labels[0]} alone."
        )
    counts = np.asarray(contingency_matrix(labels, assignments))
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return Agreement(
        nmi=float(normalized_mutual_info_score(labels, assignments)),
        ari=float(adjusted_rand_score(labels, assignments)),
        accuracy=float(matched / len(labels)),
        groups=counts.shape[1],
        num_classes=counts.shape[0],
        n=len(labels),
    )


def prior_components(vae: Any, codes: Float[np.ndarray, "n dim"]) -> Int[np.ndarray, " n"]:
    """argmax_k w_k p_k(z): the component of a mixture prior that is responsible for each code.

    Args:
        vae: A program with `prior()`.
        codes: One row per example, such as `vae.embed(x)`.

    Returns:
        The component's index, for `agreement` with labels.

    Raises:
        UndefinedCheckError: If p(z) is not a mixture.
    """
    device = next((p.device for p in vae.parameters()), torch.device("cpu"))
    with evaluation_mode(vae):
        prior = vae.prior()
        # Blocks bound the memory, which holds codes x K x d numbers.
        blocks = torch.as_tensor(codes, dtype=torch.get_default_dtype()).split(500)
        parts = [_log_joint(prior, z.to(device)).argmax(-1) for z in blocks]
        return to_array(torch.cat(parts))


def _log_joint(prior: Any, z: Float[Tensor, "n dim"]) -> Float[Tensor, "n components"]:
    if isinstance(prior, DiagonalNormalMixture):
        components = torch.distributions.Normal(prior.loc, prior.scale)
        return prior.logits.log_softmax(-1) + components.log_prob(z[:, None]).sum(-1)
    if isinstance(prior, MixtureSameFamily):
        components: Any = prior.component_distribution
        weights = prior.mixture_distribution.logits.log_softmax(-1)
        return weights + components.log_prob(z[:, None])
    raise UndefinedCheckError(
        f"p(z) must be a mixture to have components, got {type(prior).__name__}."
    )


def _verdict(groups: str, scores: str, ari: float, num_classes: int) -> str:
    how = "partly follow" if ari < CLOSE else "are close to"
    how = "are nearly unrelated to" if ari < UNRELATED else how
    return f"{groups} {how} the {num_classes} labels: {scores} (ARI is 0 by chance, 1 at best)."


def _diagnose_components(subject: Subject) -> Agreement:
    latent_site(subject.vae)  # The prior of one of several levels has no component of a code.
    test = subject.compute(RepresentationInputs).test
    components = prior_components(subject.vae, test.codes)
    number = getattr(subject.vae.prior, "components", 0)
    if number > MAX_COMPONENTS * len(np.unique(test.labels)):
        raise UndefinedCheckError(f"the prior has {number} components, many more than labels.")
    return agreement(components, test.labels)


CLUSTERING = Check(
    "clustering",
    lambda subject: clustering(
        subject.compute(RepresentationInputs).test, seed=subject.seed_of("clustering")
    ),
    headline=lambda found: {
        f"K-means, {label}": found.text(name) for label, name in SCORES.items()
    },
)
MIXTURE_COMPONENTS = Check(
    "mixture_components",
    _diagnose_components,
    headline=lambda found: {"prior's components, accuracy": f"{found.accuracy:.3f}"},
)


# Data whose neighbours in data space are searched, at most: all pairs are compared.
MAX_DATA = 2000
# Beyond this share of the way from chance to 1, neighbourhoods count as good.
GOOD = 0.5
# Number of neighbours in a diagnosis.
NEAR = 10


@dataclass(frozen=True)
class NeighbourShares(Result):
    """The share of an example's k nearest neighbours with a property. Abstract.

    Args:
        shares: One per example.
        chance: The mean share for random neighbours: sum_c n_c (n_c - 1) / (n (n - 1)) for labels,
            k / (n - 1) for data.
        neighbours: k.
    """

    shares: Float[np.ndarray, " n"]
    chance: float
    neighbours: int

    @property
    def mean(self) -> float:
        """The mean share."""
        return float(self.shares.mean())

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean."""
        return standard_error(self.shares)

    @property
    def above_chance(self) -> bool:
        """Whether the mean exceeds chance by more than two standard errors."""
        return self.mean - 2 * (self.standard_error or 0.0) > self.chance

    def _record(self, name: str) -> dict[str, Any]:
        record = {"n": len(self.shares), "neighbours": self.neighbours, "chance": self.chance}
        return record | {name: self.mean, f"{name}_se": self.standard_error}

    def _sentence(self, what: str, verdict: str) -> str:
        share = with_error(self.mean, self.standard_error, ".1%")
        verdict = verdict if self.above_chance else "no better than chance"
        return f"{share} of {what} (chance {self.chance:.1%}): {verdict}."


@dataclass(frozen=True)
class LocalAgreement(NeighbourShares):
    """How many of the k nearest codes of an example share its label.

    Args:
        by_class: The mean over the examples of each label; None for a label of at most k examples,
            whose neighbours cannot all share it.
    """

    by_class: tuple[float | None, ...]

    def extra(self) -> dict[str, Any]:
        """The mean share, its standard error, and the mean by label."""
        return self._record("agreement") | {"by_class": self.by_class}

    def reading(self) -> str:
        """Whether the neighbours of a code share its label."""
        good = self.mean - self.chance > GOOD * (1 - self.chance)
        verdict = "nearby codes share labels" if good else "better than chance, with labels mixed"
        return self._sentence(
            f"a code's {self.neighbours} nearest others share its label", verdict
        )


@dataclass(frozen=True)
class NeighbourhoodOverlap(NeighbourShares):
    """How many of the k nearest examples, in data space, are the k nearest by their codes.

    Args:
        trustworthiness: From 0 to 1: reduced by how far neighbours of the code are from being
            neighbours in data space, in ranks; about 0.5 by chance.
    """

    FIELDS: ClassVar = ("trustworthiness",)

    trustworthiness: float

    def extra(self) -> dict[str, Any]:
        """The mean share and its standard error."""
        return self._record("overlap")

    def reading(self) -> str:
        """Whether the code preserves the neighbourhoods of the data."""
        share = "most" if self.mean > GOOD else "part"
        return self._sentence(
            f"the {self.neighbours} nearest data are among the nearest codes",
            f"the code preserves {share} of the data's neighbourhoods",
        )


def local_label_agreement(data: LabelledCodes, *, neighbours: int = 10) -> LocalAgreement:
    """1/n sum_i 1/k #{j among the k nearest of i: y_j = y_i}, by Euclidean distance of codes.

    On a sphere the order of distances is that of angles.

    Args:
        data: Codes with labels; at least k + 1.
        neighbours: k.

    Raises:
        ValueError: If `neighbours` is below 1, or not below the number of data, or a label is
            below 0.
    """
    _check_neighbours(len(data), neighbours)
    if data.labels.min() < 0:
        raise ValueError(f"labels must be from 0 on, got {data.labels.min()}.")
    nearest = _nearest(data.codes, neighbours)
    agreement = (data.labels[nearest] == data.labels[:, None]).mean(1)
    counts: Int[np.ndarray, " labels"] = np.bincount(data.labels)
    n = len(data)
    by_class = tuple(
        float(agreement[data.labels == label].mean()) if count > neighbours else None
        for label, count in enumerate(counts.tolist())
    )
    chance = float((counts * (counts - 1.0)).sum() / (n * (n - 1.0)))
    return LocalAgreement(agreement, chance, neighbours, by_class)


def neighbourhood_overlap(
    x: Real[np.ndarray, " n *event"],
    codes: Float[np.ndarray, "codes latent"],
    *,
    neighbours: int = 10,
    seed: int = 0,
) -> NeighbourhoodOverlap:
    """1/n sum_i |N_x(i) & N_z(i)| / k, of the k nearest data and the k nearest codes.

    Args:
        x: The data; at most 2000 are used, chosen at random.
        codes: Their codes.
        neighbours: k.
        seed: The seed of the choice.

    Raises:
        ValueError: If the numbers of data and codes differ, `neighbours` is below 1, or not below
            half the number of data used.

    References:
        Neighborhood Preservation in Nonlinear Projection Methods: An Experimental Study (Venna &
        Kaski, 2001), https://doi.org/10.1007/3-540-44668-0_68 (trustworthiness)
    """
    from sklearn.manifold import trustworthiness

    if len(x) != len(codes):
        raise ValueError(f"each example needs a code, got {len(x)} data and {len(codes)} codes.")
    rows = np.random.default_rng(seed).permutation(len(x))[:MAX_DATA]
    n = len(rows)
    # Beyond half the number of data trustworthiness has no scale.
    _check_neighbours(n // 2, neighbours)
    data = x[rows].reshape(n, -1).astype(np.float32)
    near_data, near_codes = _nearest(data, neighbours), _nearest(codes[rows], neighbours)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(near_data, near_codes, strict=True)]
    trust = trustworthiness(data, codes[rows], n_neighbors=neighbours)
    shares, chance = np.array(shared) / neighbours, neighbours / (n - 1)
    return NeighbourhoodOverlap(shares, chance, neighbours, float(trust))


def _diagnose(subject: Subject) -> LocalAgreement:
    test = subject.compute(RepresentationInputs).test
    return local_label_agreement(test, neighbours=min(NEAR, len(test) - 1))


LOCAL_AGREEMENT = Check(
    "local_agreement",
    _diagnose,
    headline=lambda found: {"label shared by near codes": f"{found.mean:.3f}"},
)


def _nearest(points: np.ndarray, neighbours: int) -> Int[np.ndarray, "n neighbours"]:
    from sklearn.neighbors import NearestNeighbors

    # Without query points, a point is not its own neighbour, even beside a duplicate.
    return NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)


def _check_neighbours(n: int, neighbours: int) -> None:
    if not 1 <= neighbours < n:
        raise ValueError(f"neighbours must be from 1 to {n - 1}, got {neighbours}.")
