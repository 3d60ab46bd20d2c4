"""Paths between codes, codes that move along a coordinate, and the rate of each coordinate."""

from typing import Any, Literal

import numpy as np
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    kl_divergence,
)

from pyro_vae.checks import check_at_least, check_choice
from pyro_vae.distributions import DiagonalNormalMixture, LowRankNormal

PathKind = Literal["straight", "spherical", "data"]

# Supports on which no coordinate of a code can move alone.
TIED_SUPPORTS = ("sphere", "simplex", "one_hot")
# Supports that great circles around the origin do not leave.
CIRCLED_SUPPORTS = ("real", "positive", "sphere", "sparse")
# Neighbours of each code in the graph of a path along the data.
NEIGHBOURS = 10
# Points of a great circle between two neighbours.
_ARC = 17
# Draws for a KL without a closed form.
_DRAWS = 100


def latent_path(
    start: Float[np.ndarray, "pairs latent"],
    end: Float[np.ndarray, "pairs latent"],
    steps: int,
    support: str = "real",
    path: PathKind = "straight",
    codes: Float[np.ndarray, "n latent"] | None = None,
) -> Float[np.ndarray, "pairs steps latent"]:
    """z(t) from z_a to z_b at even steps t from 0 to 1.

    - straight: (1 - t) z_a + t z_b, which stays in every convex support: R^d, positive codes, the
      unit cube, the simplex. On the sphere the great circle,
      (sin((1 - t) w) z_a + sin(t w) z_b) / sin w, with w the angle between the ends; of opposite
      ends any arc is taken.
    - spherical: the direction follows the great circle around the origin, and the norm goes from
      |z_a| to |z_b| in even steps. Codes of N(0, I) in many dimensions have norms near sqrt(d),
      and the middle of a straight line has a smaller one.
    - data: the shortest path over a graph in which each code is joined to its nearest neighbours
      among `codes`, at even lengths; see `path_along_codes`.

    >>> latent_path(np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]]), 3, path="spherical").round(2)
    array([[[2.  , 0.  ],
            [1.41, 1.41],
            [0.  , 2.  ]]])

    Args:
        start: z_a.
        end: z_b.
        steps: The number of points, with both ends.
        support: The support of codes.
        path: The kind of path.
        codes: Codes of data, for a path along them.

    Raises:
        ValueError: If the path is unknown, or not defined on the support; or it is one along
            codes, and there are none.

    References:
        Sampling Generative Networks (White, 2016), https://arxiv.org/abs/1609.04468 (spherical)
    """
    check_choice(PathKind, path=path)
    start, end = start.astype(np.float64), end.astype(np.float64)
    if path == "data":
        if codes is None:
            raise ValueError("path data needs data, whose codes it follows: give data=train.")
        return path_along_codes(codes, start, end, steps, support)
    t = np.linspace(0, 1, steps)[:, None]
    straight = (1 - t) * start[:, None] + t * end[:, None]
    if path == "straight" and support != "sphere":
        return straight
    if support not in CIRCLED_SUPPORTS:
        raise ValueError(
            f"path spherical leaves the support {support} of the codes: use straight or data."
        )
    norms = [np.linalg.norm(z, axis=-1)[:, None, None] for z in (start, end)]
    if support == "sphere":
        return _great_circle(start, end, t)
    circle = ((1 - t) * norms[0] + t * norms[1]) * _great_circle(start, end, t)
    # A code at the origin has no direction.
    path_ = np.where((norms[0] > 0) & (norms[1] > 0), circle, straight)
    path_[:, 0], path_[:, -1] = start, end
    return path_


def _great_circle(start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Unit vectors on the shorter arc between the directions of two codes."""
    norms = (np.linalg.norm(z, axis=-1, keepdims=True) for z in (start, end))
    start, end = (
        (z / np.where(norm > 0, norm, 1.0))[:, None]
        for z, norm in zip((start, end), norms, strict=True)
    )
    cosine = (start * end).sum(-1, keepdims=True)
    # The direction from the first end to the other, orthogonal to the first.
    across = end - cosine * start
    length = np.linalg.norm(across, axis=-1, keepdims=True)
    axis = np.eye(start.shape[-1])[np.abs(start).argmin(-1)]
    other = axis - (axis * start).sum(-1, keepdims=True) * start
    other /= np.maximum(np.linalg.norm(other, axis=-1, keepdims=True), 1e-300)
    direction = np.where(length > 1e-9, across / np.maximum(length, 1e-9), other)
    angle = np.arctan2(length, cosine)
    return np.cos(t * angle) * start + np.sin(t * angle) * direction


def path_along_codes(
    codes: Float[np.ndarray, "n latent"],
    start: Float[np.ndarray, "pairs latent"],
    end: Float[np.ndarray, "pairs latent"],
    steps: int,
    support: str = "real",
    neighbours: int = NEIGHBOURS,
) -> Float[np.ndarray, "pairs steps latent"]:
    """The shortest path over the nearest-neighbour graph of codes, at points of even length.

    Each code and each end is joined to its nearest neighbours by an edge as long as their
    distance. The number of neighbours is doubled until the two ends of each pair are connected.
    Between neighbours the path is straight, on the sphere a great circle.

    Args:
        codes: Codes of data.
        start: z_a.
        end: z_b.
        steps: The number of points, with both ends.
        support: The support of codes.
        neighbours: The number of neighbours to begin with.

    Raises:
        ValueError: If there are no codes, or `neighbours` is below 1.

    References:
        A Global Geometric Framework for Nonlinear Dimensionality Reduction (Tenenbaum, de Silva &
        Langford, 2000), https://doi.org/10.1126/science.290.5500.2319; Fast Approximate Geodesics
        for Deep Generative Models (Chen et al., 2019), https://arxiv.org/abs/1812.08284
    """
    from scipy.sparse.csgraph import connected_components, dijkstra
    from sklearn.neighbors import kneighbors_graph

    check_at_least(1, codes=len(codes), neighbours=neighbours)
    pairs = len(start)
    nodes = np.concatenate([codes.astype(np.float64), start, end])
    first = len(codes) + np.arange(pairs)
    while True:
        neighbours = min(neighbours, len(nodes) - 1)
        graph = kneighbors_graph(nodes, neighbours, mode="distance")
        # Equal codes are neighbours, too: a distance of 0 would be no edge.
        graph.data += 1e-12 * max(1.0, float(graph.data.max(initial=0.0)))
        _, part = connected_components(graph, directed=False)
        if (part[first] == part[first + pairs]).all():
            break
        neighbours *= 2
    _, before = dijkstra(graph, directed=False, indices=first, return_predecessors=True)
    paths = []
    for pair, node in enumerate(first):
        chain = [node + pairs]
        while chain[-1] != node:
            chain.append(before[pair, chain[-1]])
        corners = nodes[chain[::-1]]
        if support != "sphere":
            paths.append(_even_steps(corners, steps))
            continue
        arcs = _great_circle(corners[:-1], corners[1:], np.linspace(0, 1, _ARC)[:, None])
        path = _even_steps(arcs.reshape(-1, arcs.shape[-1]), steps)
        paths.append(path / np.linalg.norm(path, axis=1, keepdims=True))
    return np.stack(paths)


def _even_steps(corners: np.ndarray, steps: int) -> np.ndarray:
    """Points at even lengths along straight lines between corners."""
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.linspace(0, at[-1], steps)
    path = np.stack([np.interp(wanted, at, column) for column in corners.T], 1)
    path[0], path[-1] = corners[0], corners[-1]
    return path


def move_coordinate(
    code: Float[np.ndarray, " latent"], dimension: int, values: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, "steps latent"]:
    """z + (v - z_j) e_j: a code with one coordinate at each of some values.

    >>> move_coordinate(np.array([1.0, 2.0]), 1, np.array([0.0, 5.0]))
    array([[1., 0.],
           [1., 5.]])
    """
    path = np.tile(code, (len(values), 1))
    path[:, dimension] = values
    return path


def rate_by_coordinate(q: Any, p: Any) -> Float[Tensor, " latent"] | None:
    """KL(q(z_j | x) || p(z_j)) of each coordinate in nats, a mean over the batch of q.

    It is exact where torch has a closed form, otherwise a mean over 100 draws for each x.

    Args:
        q: q(z | x), of batch shape `(n,)`.
        p: p(z).

    Returns:
        None if q or p has no densities of single coordinates, as flows, spheres and simplices, or
        a KL is not finite.
    """
    each_q, each_p = coordinates_of(q), coordinates_of(p)
    if each_q is None or each_p is None:
        return None
    try:
        kl = kl_divergence(each_q, each_p)
    except NotImplementedError:
        z = each_q.sample(torch.Size((_DRAWS,)))
        kl = (each_q.log_prob(z) - each_p.log_prob(z)).mean(0)
    rate = kl.double().mean(0)
    return rate if bool(rate.isfinite().all()) else None


def coordinates_of(distribution: Any) -> Distribution | None:
    """The distribution of each coordinate of vectors; None if there is no closed form."""
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
        base = distribution.base_dist
        return None if isinstance(base, dist.Delta) else base
    if isinstance(distribution, MultivariateNormal | LowRankMultivariateNormal | LowRankNormal):
        return dist.Normal(distribution.mean, distribution.variance.sqrt())
    if isinstance(distribution, DiagonalNormalMixture):
        dim = distribution.loc.shape[-1]
        weights = dist.Categorical(logits=distribution.logits.expand(dim, -1))
        return dist.MixtureSameFamily(
            weights, dist.Normal(distribution.loc.T, distribution.scale.T)
        )
    return None


def central_row(codes: Float[np.ndarray, "n latent"]) -> int:
    """The row nearest to the median code, in standard deviations of each coordinate."""
    scaled = (codes - np.median(codes, axis=0)) / np.maximum(codes.std(0), 1e-12)
    return int((scaled**2).sum(1).argmin())
