"""A model file to copy: gene counts given the batch of each cell.

`python scripts/svi_train.py --model scripts/examples/counts_with_batch.py --data cells.h5ad
--data.label batch` trains it. Counts are negative binomial; their means are the cell's total times
shares that depend on the code z and the batch, and each gene has a dispersion in each batch. What
z holds beyond the batch is shared by all batches. `--model conditional` is the program behind it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_vae import likelihoods, networks
from pyro_vae.programs import conditional


def build(
    event_shape: Sequence[int],
    latent_dim: int = 10,
    *,
    likelihood: Callable[..., nn.Module] = likelihoods.NegativeBinomial,
    network: Callable[..., nn.Module] = networks.MLP,
    dispersion_by_category: bool = True,
    train_labels: Tensor | None = None,
    **parts: Any,
) -> conditional.Conditional:
    """The program of `pyro_vae.programs.conditional` with the defaults of counts of cells.

    Args:
        event_shape: The number of genes, `(genes,)`.
        latent_dim: The dimension of z.
        likelihood: The class of p(x | z, c).
        network: The class of encoder and decoder.
        dispersion_by_category: Whether each gene has a dispersion in each batch, or one in all.
        train_labels: The batch of each cell.
        **parts: The other arguments of `conditional.build`.
    """
    return conditional.build(
        event_shape,
        latent_dim,
        likelihood=likelihood,
        network=network,
        size_factor=True,
        dispersion_by_category=dispersion_by_category,
        train_labels=train_labels,
        **parts,
    )
