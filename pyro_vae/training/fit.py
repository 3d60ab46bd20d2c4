"""Training in one call."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyro_vae.data import Dataset, PreparedData
from pyro_vae.objectives import Objective
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.loop import Record, Training
from pyro_vae.training.preparing import prepared


def fit(
    vae: nn.Module,
    data: Dataset | PreparedData | Tensor | np.ndarray,
    objective: Objective | None = None,
    *,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **options: Any,
) -> list[Record]:
    """Train a VAE on data and return a record for each epoch. Afterwards it is in evaluation mode.

    Args:
        vae: A VAE, trained in place, on the device its parameters are on.
        data: A set, or an array `(n, ...)` of your own. Grey levels are binarised at each visit for a
            likelihood of binary data; give a `PreparedData` to choose otherwise.
        objective: What is maximised; the ELBO if None.
        checkpoint: A file to keep the state in.
        resume: Whether to go on from that file where it exists.
        progress: Whether to show a bar.
        **options: Those of `Training`: epochs, batch_size, lr and so on.

    Raises:
        ValueError: If the data or an option do not fit.
        NonFiniteError: If no step had a finite gradient for a while.
    """
    if isinstance(data, (Tensor, np.ndarray)):
        data = Dataset.from_array(data)
    if isinstance(data, Dataset):
        data = prepared(data, vae.likelihood)
    training = Training(vae, data, objective, **options)
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is not None and path.exists():
        training.load_state_dict(load_checkpoint(path))
    return training.run(checkpoint=path, progress=progress)
