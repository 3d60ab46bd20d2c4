"""I_q(x; z) of a trained VAE as entries of a study's cell, and as a column of its table."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Real
from torch import Tensor

from analysis.study import Cell, mean_and_spread
from pyro_vae.mutual_information import mutual_information


def information(vae: Any, x: Real[Tensor, " n *event"]) -> Cell:
    """I_q(x; z) under the guide, in nats, and whether it is at the end of what n data can tell.

    Args:
        vae: The VAE.
        x: Data in the likelihood's support; all are taken.
    """
    found = mutual_information(vae, x, max_data=len(x))
    return {
        "mutual_information": found.value,
        "mutual_information_se": found.standard_error,
        "mutual_information_saturated": found.saturated,
        "mutual_information_data": len(x),
    }


def information_column(cells: Sequence[Cell]) -> str:
    """Mean and spread over cells; "at least" where any of them is saturated."""
    shown = mean_and_spread([cell["mutual_information"] for cell in cells])
    saturated = any(cell["mutual_information_saturated"] for cell in cells)
    return f"at least {shown}" if saturated else shown
