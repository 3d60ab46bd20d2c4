"""Clusters beside the labels that training did not see, and a figure of each cluster."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
from jaxtyping import Float, Int
from sklearn.metrics.cluster import contingency_matrix

from analysis.model_samples import to_array
from analysis.plotting.images import draw_grid, value_limits
from analysis.plotting.style import new_figure
from analysis.representation.clustering import agreement
from pyro_vae.data.nouns import nouns
from pyro_vae.rng import evaluation_mode

if TYPE_CHECKING:
    import matplotlib.figure

    from analysis.programs import HeldOut

# Of the figure: the largest clusters, and of each so many samples and members.
MOST_CLUSTERS, SAMPLES, MEMBERS = 20, 5, 6


def scores(program: Any, held_out: "HeldOut") -> dict[str, float | None]:
    """The number of clusters in use, and how far they are the labels' groups.

    An example is in its most probable cluster.

    Returns:
        As `scores_of_groups`, for the labels of `held_out`.
    """
    return scores_of_groups(
        most_probable(program, held_out), None if held_out.y is None else to_array(held_out.y)
    )


def scores_of_groups(clusters: Int[np.ndarray, " n"], y: Any | None) -> dict[str, float | None]:
    """The number of groups, and how far they are those of labels.

    The two accuracies are not comparable: that of the matching gives each cluster at most one
    label and each label at most one cluster; that of the majority gives each cluster its most
    frequent label, and grows with the number of clusters.

    Args:
        clusters: The group of each example.
        y: Its label, -1 if it is not known; anything else than one column of whole numbers is no
            label.

    Returns:
        `clusters_in_use`; and, None without two labels or more, `cluster_accuracy` (Hungarian
        matching), `cluster_majority_accuracy`, `cluster_nmi` and `cluster_ari`.
    """
    names = ("cluster_accuracy", "cluster_majority_accuracy", "cluster_nmi", "cluster_ari")
    found: dict[str, float | None] = {"clusters_in_use": float(len(np.unique(clusters)))}
    found |= dict.fromkeys(names)
    if y is None or y.ndim != 1 or y.dtype.kind not in "iu":
        return found
    known = y >= 0
    if len(np.unique(y[known])) < 2:
        return found
    matched = agreement(clusters[known], y[known])
    majority = majority_accuracy(clusters[known], y[known])
    values = (matched.accuracy, majority, matched.nmi, matched.ari)
    return found | dict(zip(names, values, strict=True))


def most_probable(program: Any, held_out: "HeldOut") -> Int[np.ndarray, " n"]:
    """The most probable cluster of each example."""
    return to_array(program.class_probabilities(held_out.x).argmax(-1))


def majority_accuracy(clusters: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """1/n sum_k max_y n_ky: the share of data with the most frequent label of their cluster.

    Args:
        clusters: The cluster of each example.
        labels: The label of each example.

    Returns:
        From the share of the most frequent label to 1; 1 if each example has its own cluster.
    """
    counts = np.asarray(contingency_matrix(labels, clusters))
    return float(counts.max(0).sum() / len(labels))


def figures(
    program: Any, held_out: "HeldOut"
) -> "dict[str, Callable[[], matplotlib.figure.Figure]]":
    """`clusters`: the mean, samples and members of each cluster."""
    clusters = most_probable(program, held_out)
    with evaluation_mode(program, seed=0):
        p = program.mixture
        means = to_array(program.decode(p.loc))
        # (samples, classes, ...)
        z = dist.Normal(p.loc, p.scale).sample((SAMPLES,))
        samples = to_array(program.decode(z))
    members = to_array(held_out.x)
    return {"clusters": partial(plot_clusters, means, samples.swapaxes(0, 1), members, clusters)}


def plot_clusters(
    means: Float[np.ndarray, " classes *event"],
    samples: Float[np.ndarray, "classes samples *event"],
    x: Any,
    clusters: Int[np.ndarray, " n"],
) -> "matplotlib.figure.Figure":
    """A row for each cluster: E[x | z] at its mean, samples, and members.

    Args:
        means: E[x | z] at z = mu_y.
        samples: E[x | z] at z ~ p(z | y).
        x: Held-out data, of which each cluster shows the first members.
        clusters: The cluster of each.
    """
    counts = np.bincount(clusters, minlength=len(means))
    # The largest, in the order of their numbers.
    shown = np.sort(np.argsort(-counts, kind="stable")[:MOST_CLUSTERS])
    rows = [
        [means[k], *samples[k], *x[np.flatnonzero(clusters == k)[:MEMBERS]].astype(means.dtype)]
        for k in shown
    ]
    first = 1 + samples.shape[1]
    figure = new_figure(float(first + MEMBERS), 0.75 * len(rows) + 1.0)
    draw_grid(
        figure,
        rows,
        value_limits(np.concatenate([means, x[:1000].astype(means.dtype)])),
        names=[f"{k}: {counts[k] / len(x):.1%}" for k in shown],
        titles={0: "mean", 1: "samples", first: "members"},
        column_groups=first,
    )
    title = f"Clusters with their share of {len(x):,} held-out {nouns()}"
    if len(shown) < len(means):
        title += f", the largest {len(shown)} of {len(means)}"
    figure.suptitle(title)
    return figure
