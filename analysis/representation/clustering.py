"""Whether codes fall into the labels' groups by themselves: K-means, and a mixture prior's components."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import MixtureSameFamily

from analysis.check import UndefinedCheckError
from analysis.predictive.model_samples import to_array
from analysis.representation.balanced_draws import spread_over_draws
from analysis.representation.codes import Labelled
from analysis.representation.probes import check_labelled
from analysis.representation.quiet import quiet
from pyro_vae.distributions import DiagonalNormalMixture
from pyro_vae.evidence.numbers import finite
from pyro_vae.rng import evaluation_mode

# Each start of K-means is the best of so many, by its own criterion.
INITS = 3
MOST_CODES = 10_000
# Of the adjusted Rand index: below the first, groups have next to nothing to do with labels; above
# the second, most pairs of one label are together.
UNRELATED, CLOSE = 0.1, 0.6


@dataclass(frozen=True)
class Agreement:
    """How far groups and labels are the same partition.

    Args:
        nmi: The normalised mutual information, from 0 to 1, which is above 0 by chance.
        ari: The adjusted Rand index: 0 by chance, 1 for the same partition.
        accuracy: The share of data in the group matched to their label, one to one.
        groups: The number of different groups.
        num_classes: The number of different labels.
        n: The number of data.
    """

    nmi: float
    ari: float
    accuracy: float
    groups: int
    num_classes: int
    n: int

    def summary(self) -> dict[str, Any]:
        """The three scores and the counts."""
        return {
            "n": self.n,
            "groups": self.groups,
            "num_classes": self.num_classes,
            "nmi": finite(self.nmi),
            "ari": finite(self.ari),
            "accuracy": finite(self.accuracy),
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the groups are the labels'."""
        said = (
            f"{self.groups} groups against {self.num_classes} labels of {self.n:,} data: ARI "
            f"{self.ari:.2f}, NMI {self.nmi:.2f}, accuracy {self.accuracy:.1%}."
        )
        return f"{said} {_verdict(self.ari)}{_unmatched(self.groups, self.num_classes)}"


@dataclass(frozen=True)
class Clustering:
    """How far K-means groups of codes and labels are the same partition, over starts.

    Args:
        nmi: The normalised mutual information of each start.
        ari: The adjusted Rand index.
        accuracy: The share of data in the group matched to their label, one to one.
        clusters: The number K of groups.
        num_classes: The number of different labels.
        n: The number of codes.
    """

    nmi: Float[np.ndarray, " repeats"]
    ari: Float[np.ndarray, " repeats"]
    accuracy: Float[np.ndarray, " repeats"]
    clusters: int
    num_classes: int
    n: int

    def summary(self) -> dict[str, Any]:
        """Mean and spread over starts of each score."""
        scores = {"nmi": self.nmi, "ari": self.ari, "accuracy": self.accuracy}
        return {
            "n": self.n,
            "clusters": self.clusters,
            "num_classes": self.num_classes,
            "repeats": len(self.ari),
            **{
                key: value
                for name, values in scores.items()
                for key, value in (
                    (name, finite(values.mean())),
                    (f"{name}_spread", finite(spread_over_draws(values))),
                )
            },
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the codes fall into the labels' groups by themselves."""
        spreads = [spread_over_draws(values) for values in (self.ari, self.nmi, self.accuracy)]
        ari, nmi, accuracy = (
            f"{values.mean():{form}}" + ("" if spread is None else f" +- {spread:{form}}")
            for values, spread, form in zip(
                (self.ari, self.nmi, self.accuracy), spreads, (".2f", ".2f", ".1%"), strict=True
            )
        )
        said = (
            f"K-means with {self.clusters} clusters of {self.n:,} codes, {len(self.ari)} starts, "
            f"against {self.num_classes} labels: ARI {ari}, NMI {nmi}, accuracy {accuracy}."
        )
        return (
            f"{said} {_verdict(float(self.ari.mean()))} It sees round groups only."
            f"{_unmatched(self.clusters, self.num_classes)}"
        )


def clustering(
    data: Labelled, *, clusters: int | None = None, repeats: int = 5, seed: int = 0
) -> Clustering:
    """Agreement of labels with argmin over groups and centres of sum_i |z_i - c_k(i)|^2.

    Distances are Euclidean, in codes as they are. Each start is the best of `INITS` by that sum, and
    sees no label.

    Args:
        data: Codes and labels; of more than 10,000, so many drawn at random.
        clusters: The number K of groups; by default that of different labels.
        repeats: The number of starts.
        seed: Of the draw and the starts.

    Returns:
        NMI, ARI and accuracy of each start; `agreement` says what they are.

    Raises:
        UndefinedCheckError: If the data have one label only.
        ValueError: If `repeats` or `clusters` is below 1, or there are fewer codes than clusters;
            for codes that `linear_probe` refuses.
    """
    from sklearn.cluster import KMeans

    check_labelled(data)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    generator = np.random.default_rng(seed)
    if len(data) > MOST_CODES:
        data = data.taken(generator.permutation(len(data))[:MOST_CODES])
    num_classes = len(np.unique(data.labels))
    wanted = num_classes if clusters is None else clusters
    if not 1 <= wanted <= len(data):
        raise ValueError(f"clusters must be from 1 to the {len(data)} codes, got {wanted}.")
    found = []
    for start in generator.integers(2**31, size=repeats):
        # Its stub knows the default alone, a word.
        k_means = KMeans(wanted, n_init=INITS, random_state=int(start))  # pyright: ignore[reportArgumentType]
        # Of fewer different codes than clusters, such as a collapsed one, some stay empty.
        with quiet():
            groups = k_means.fit_predict(data.codes.astype(np.float64))
            found.append(agreement(groups, data.labels))
    return Clustering(
        nmi=np.array([each.nmi for each in found]),
        ari=np.array([each.ari for each in found]),
        accuracy=np.array([each.accuracy for each in found]),
        clusters=wanted,
        num_classes=num_classes,
        n=len(data),
    )


def agreement(assignments: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Agreement:
    """NMI = 2 I(c; y) / (H(c) + H(y)), the adjusted Rand index, and max over matchings of the accuracy.

    A matching gives each group at most one label and each label at most one group; data of a group
    without a label count as wrong. The names of groups do not matter.

    Args:
        assignments: The group of each datum.
        labels: Its label.

    Returns:
        Three scores with 1 at best. ARI is 0 by chance; NMI and accuracy are above, and more so the
        more groups there are.

    Raises:
        UndefinedCheckError: If the data have one label only.
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
        raise ValueError("at least one datum is needed, got none.")
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
    """argmax_k w_k p_k(z): the component of a mixture prior that takes most responsibility for a code.

    Args:
        vae: A program with `prior()`.
        codes: Such as `vae.embed(x)`, a row for each datum.

    Returns:
        The number of the component, from 0 on, for `agreement` with labels.

    Raises:
        UndefinedCheckError: If p(z) is no mixture.
    """
    device = next((p.device for p in vae.parameters()), torch.device("cpu"))
    with evaluation_mode(vae):
        prior = vae.prior()
        # A block bounds the memory: so many codes times K times d.
        blocks = torch.as_tensor(codes, dtype=torch.get_default_dtype()).split(500)
        parts = [_log_joint(prior, z.to(device)).argmax(-1) for z in blocks]
        return to_array(torch.cat(parts))


def _log_joint(prior: Any, z: Float[Tensor, "n dim"]) -> Float[Tensor, "n components"]:
    """log w_k + log p_k(z)."""
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


def _verdict(ari: float) -> str:
    """What an adjusted Rand index, 0 by chance and 1 for the same partition, says."""
    if ari < UNRELATED:
        return "The groups have little to do with the labels (ARI is 0 by chance, 1 at best)."
    if ari < CLOSE:
        return "The groups follow the labels in part (ARI is 0 by chance, 1 at best)."
    return "The groups are close to the labels (ARI is 0 by chance, 1 at best)."


def _unmatched(groups: int, num_classes: int) -> str:
    """A further sentence, where labels are fewer than groups or more."""
    if groups == num_classes:
        return ""
    if groups < num_classes:
        return f" {num_classes - groups} labels have no group, and their data count as wrong."
    return (
        f" Only {num_classes} of {groups} groups have a label of their own, the others count as "
        "wrong; giving each group its most frequent label would inflate the accuracy."
    )
