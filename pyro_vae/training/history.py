"""The records of a training's epochs: as text, as a table, and as learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.nouns import noun
from pyro_vae.notebooks import html_table

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import pandas as pd

# An epoch's record: plain numbers by name, densities in nats per example.
Record = dict[str, float | int | None]

# Okabe & Ito's blue and vermilion.
COLOURS = {"training": "#0072B2", "validation": "#D55E00"}
TERMS = {
    "elbo": "ELBO (higher is better)",
    "reconstruction": "reconstruction, E[log p(x | z)]",
    "kl": "KL(q(z | x) || p(z))",
}
# The share of the epochs, at the start, that may lie outside of the axes.
CROPPED_SHARE = 0.1
# The epochs at the end that a notebook shows.
LAST = 5


class History(list[Record]):
    """A record for each epoch: plain numbers by name, densities in nats per example.

    >>> History([{"epoch": 1, "validation_elbo": -24.0}, {"epoch": 2, "validation_elbo": -23.5}])
    History of 2 epochs: validation ELBO -23.50 nats after the last, the best
    """

    def table(self) -> "pd.DataFrame":
        """A row for each epoch, a column for each number; NaN where it is missing."""
        import pandas as pd

        return pd.DataFrame([*self]).set_index("epoch") if self else pd.DataFrame()

    def plot(self) -> "matplotlib.figure.Figure":
        """Plot ELBO = reconstruction - KL by epoch, for the training and the validation data.

        Raises:
            ValueError: If there is no epoch.
        """
        return plot_learning_curves(self)

    def _repr_html_(self) -> str:
        """The first, the best and the last epochs as a table."""
        best = self._best
        shown = sorted({0, *range(max(0, len(self) - LAST), len(self)), best or 0})
        names = {
            prefix + name: f"{label} {name}"
            for prefix, label in (("", "training"), ("validation_", "validation"))
            for name in TERMS
            if any(record.get(prefix + name) is not None for record in self)
        }
        rows = [
            [
                f"{self[i]['epoch']}{' (best)' if i == best else ''}",
                *("" if (v := self[i].get(name)) is None else f"{v:.2f}" for name in names),
            ]
            for i in shown
            if i < len(self)
        ]
        left_out = len(self) - len(rows)
        note = f"{left_out} epochs are left out, see table()." if left_out else ""
        return html_table(str(self), ("epoch", *names.values()), rows, note)

    @property
    def _best(self) -> int | None:
        """The index of the best epoch; None without a score."""
        scores = _column(self, "validation_elbo")
        known = np.isfinite(scores)
        return int(np.argmax(np.where(known, scores, -np.inf))) if known.any() else None

    def __repr__(self) -> str:
        count = f"History of {len(self)} epoch{'' if len(self) == 1 else 's'}"
        scores, best = _column(self, "validation_elbo"), self._best
        if best is None or not math.isfinite(scores[-1]):
            return count
        beside = (
            "the best"
            if scores[best] == scores[-1]
            else f"{scores[best]:.2f} at best, after epoch {self[best]['epoch']}"
        )
        return f"{count}: validation ELBO {scores[-1]:.2f} nats after the last, {beside}"

    __str__ = __repr__


def describe_record(record: Mapping[str, float | int | None]) -> str:
    """A record in one line, in nats per example."""
    parts = [f"epoch {record['epoch']}"]
    for prefix, label in (("", "train"), ("validation_", "validation")):
        parts.append(f"{label}: {describe_terms(record, prefix) or 'not finite'}")
    return "; ".join(parts) + f" nats/{noun()}"


def describe_terms(values: Mapping[str, float | int | None], prefix: str = "") -> str:
    """ELBO, reconstruction and KL where they are known, without their unit."""
    terms = [(name, values.get(prefix + name)) for name in TERMS]
    return ", ".join(f"{name} {value:.2f}" for name, value in terms if value is not None)


def plot_learning_curves(
    history: Sequence[Mapping[str, float | int | None]],
) -> "matplotlib.figure.Figure":
    """Plot ELBO = reconstruction - KL by epoch, for the training and the validation data.

    A term without any value has no panel: an autoencoder has its reconstruction alone. The
    vertical axes show the last nine tenths of the epochs, as the change in the first steps is
    larger than all later changes. A panel says which epochs lie outside of its axis.

    Args:
        history: For each epoch `epoch`, `elbo`, `reconstruction`, `kl`, `beta`, and the first
            three with the prefix `validation_`, in nats per example; missing values are absent or
            None.

    Raises:
        ValueError: If the history is empty.
    """
    if not history:
        raise ValueError("history must hold at least one epoch, got none.")
    epochs = _column(history, "epoch")
    betas = _column(history, "beta")
    betas = betas[np.isfinite(betas)]
    known = {
        field: title
        for field, title in TERMS.items()
        for name in (field, f"validation_{field}")
        if np.isfinite(_column(history, name)).any()
    }
    shown = known or TERMS
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0 if len(shown) > 1 else 6.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, (field, title) in zip(panels, shown.items(), strict=True):
        curves = {
            "training": ("-", _column(history, field)),
            "validation": ("--", _column(history, f"validation_{field}")),
        }
        for name, (line, values) in curves.items():
            if np.isfinite(values).any():
                # One epoch is a point, which a line would not show.
                marker = "o" if len(epochs) < 15 else None
                ax.plot(epochs, values, line, color=COLOURS[name], marker=marker, ms=4, label=name)
        ax.set(title=title, xlabel="epoch", ylabel=f"nats/{noun()}")
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if outside := _crop(ax, [values for _, values in curves.values()], epochs):
            ax.set_title(f"{title}\n{outside} outside the axis", fontsize=10)
    if known:
        # The curves rise to the right, so this corner is free.
        panels[0].legend(loc="lower right", frameon=False)
    weight = ""
    if len(betas) and not (betas == 1).all():
        last = "" if np.ptp(betas) == 0 else f" to {betas[-1]:.3g}"
        weight = f"; trained with beta {betas[0]:.3g}{last} before the KL"
    if "elbo" in shown:
        if not np.isfinite(_column(history, "elbo")).any() and known:
            weight = "; trained for the reconstruction alone"
        figure.suptitle(f"ELBO = reconstruction - KL{weight}")
    else:
        figure.suptitle("Trained for the reconstruction alone: no ELBO, no KL")
    for ax in panels:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
        ax.grid(axis="y", color="0.9", linewidth=0.8)
    return figure


def _column(history: Sequence[Mapping[str, float | int | None]], field: str) -> np.ndarray:
    """A field over the epochs, NaN where it is missing."""
    values = [epoch.get(field) for epoch in history]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _crop(
    ax: "matplotlib.axes.Axes", curves: Sequence[np.ndarray], epochs: np.ndarray
) -> str | None:
    """Crop the first epochs if they would flatten all others; return which."""
    late = np.concatenate([values[int(CROPPED_SHARE * len(values)) :] for values in curves])
    late = late[np.isfinite(late)]
    if len(late) < 2 or np.ptp(late) == 0:
        return None
    margin = 0.08 * np.ptp(late)
    low, high = late.min() - margin, late.max() + margin
    ax.set_ylim(low, high)
    beyond = np.any([(values < low) | (values > high) for values in curves], axis=0)
    last = int(beyond.nonzero()[0].max(initial=-1))
    if last < 0:
        return None
    return f"epoch {epochs[0]:g}" if last == 0 else f"epochs {epochs[0]:g} to {epochs[last]:g}"
