"""What `fit` returns: the epochs of a training, as a list, a table and a figure."""

import math
from typing import TYPE_CHECKING

from pyro_vae.training.learning_curves import plot_learning_curves
from pyro_vae.training.loop import Record

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas as pd


class History(list[Record]):
    """A record for each epoch: plain numbers by name, densities in nats per datum.

    >>> History([{"epoch": 1, "validation_elbo": -24.0}, {"epoch": 2, "validation_elbo": -23.5}])
    History of 2 epochs: validation ELBO -23.50 nats after the last, the best
    """

    def table(self) -> "pd.DataFrame":
        """A row for each epoch, a column for each number; NaN where it was not measured."""
        import pandas as pd

        return pd.DataFrame([*self]).set_index("epoch") if self else pd.DataFrame()

    def plot(self) -> "matplotlib.figure.Figure":
        """ELBO = reconstruction - KL by epoch, of the training data and of the validation data.

        Raises:
            ValueError: If there is no epoch.
        """
        return plot_learning_curves(self)

    def __repr__(self) -> str:
        count = f"History of {len(self)} epoch{'' if len(self) == 1 else 's'}"
        scores = [
            math.nan if (score := epoch.get("validation_elbo")) is None else float(score)
            for epoch in self
        ]
        if not scores or not math.isfinite(scores[-1]):
            return count
        best = max(range(len(scores)), key=lambda i: (math.isfinite(scores[i]), scores[i]))
        beside = (
            "the best"
            if best == len(scores) - 1
            else f"{scores[best]:.2f} at best, after epoch {self[best]['epoch']}"
        )
        return f"{count}: validation ELBO {scores[-1]:.2f} nats after the last, {beside}"

    __str__ = __repr__
