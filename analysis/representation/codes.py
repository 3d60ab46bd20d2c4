"""Data as codes with their labels: what a classifier is given in place of the data."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.predictive.model_samples import embed_data


@dataclass(frozen=True)
class Labelled:
    """Codes, or the data themselves as vectors, with a label for each.

    Args:
        codes: A row for each datum.
        labels: Its label, from 0 on.
    """

    codes: Float[np.ndarray, "n dim"]
    labels: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, rows: Int[np.ndarray, " rows"]) -> "Labelled":
        """Some of them."""
        return Labelled(self.codes[rows], self.labels[rows])


def labelled_codes(vae: Any, x: Real[Tensor, " n *event"], labels: Int[Tensor, " n"]) -> Labelled:
    """The codes of data, with their labels.

    Args:
        vae: A program with `embed(x)`.
        x: Data in the likelihood's support, on the program's device.
        labels: A label for each.

    Raises:
        ValueError: If the numbers of data and labels differ.
    """
    if len(x) != len(labels):
        raise ValueError(f"each datum needs a label, got {len(x)} data and {len(labels)} labels.")
    return Labelled(embed_data(vae, x), labels.cpu().numpy().astype(np.int64))
