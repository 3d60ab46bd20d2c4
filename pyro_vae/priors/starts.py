"""Where a mixture's components start, from training data."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from pyro_vae.rng import evaluation_mode

# More rows than these, and than this many a centre, change centres little and cost memory.
_ROWS, _ROWS_PER_CENTRE = 10_000, 20

_CHUNK = 1000


class Centres(NamedTuple):
    """The centres of clusters, `(k, d)`, and of each row the number of its cluster, `(n,)`."""

    centres: Float[Tensor, "k d"]
    cluster: Int[Tensor, " n"]


def some_rows(data: Real[Tensor, " n *event"], components: int) -> Real[Tensor, " m *event"]:
    """Rows drawn at random without repetition: as many as `components` centres need, at most."""
    wanted = max(_ROWS, _ROWS_PER_CENTRE * components)
    return data if len(data) <= wanted else data[torch.randperm(len(data))[:wanted]]


def k_means(values: Float[Tensor, "n d"], components: int) -> Centres:
    """The centres of K-means, from K-means++ seeded by torch's global random stream.

    Raises:
        ValueError: If there are fewer values than components.
        ImportError: If scikit-learn cannot be imported.

    References:
        k-means++: The Advantages of Careful Seeding (Arthur & Vassilvitskii, 2007),
        https://dl.acm.org/doi/10.5555/1283383.1283494
    """
    if len(values) < components:
        raise ValueError(
            f"start=kmeans needs at least as many training data as components, got {len(values)} "
            f"for {components}."
        )
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ImportError(
            f"start=kmeans needs scikit-learn, which cannot be imported ({error}): "
            "pip install scikit-learn"
        ) from error
    seed = int(torch.randint(2**31, ()))
    # Its annotation says str; its documentation, a number.
    means = MiniBatchKMeans(components, batch_size=4096, n_init=1, random_state=seed)  # pyright: ignore
    cluster = torch.from_numpy(means.fit_predict(values.numpy())).long()
    centres = torch.from_numpy(means.cluster_centers_).to(values.dtype)
    return Centres(centres, cluster)


class Embedded(NamedTuple):
    """Posterior means of data and draws about them: `(n, latent)` and `(n, latent)`."""

    mean: Float[Tensor, "n latent"]
    draw: Float[Tensor, "n latent"]


def embedded(posterior: nn.Module, data: Real[Tensor, " n *event"]) -> Embedded:
    """The codes of data, and one draw of q(z | x) for each; the posterior is left as it was."""
    means, draws = [], []
    with evaluation_mode(posterior):
        for rows in data.split(_CHUNK):
            means.append(posterior.embed(rows))
            draws.append(posterior(rows).sample())
    return Embedded(torch.cat(means), torch.cat(draws))
