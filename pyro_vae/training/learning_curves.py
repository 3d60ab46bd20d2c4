"""How training went: the bound and its two terms, epoch by epoch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.data.nouns import noun

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Okabe & Ito's blue and vermilion.
COLOURS = {"training": "#0072B2", "validation": "#D55E00"}
TERMS = {
    "elbo": "ELBO (higher is better)",
    "reconstruction": "reconstruction, E[log p(x | z)]",
    "kl": "KL(q(z | x) || p(z))",
}
# Of the epochs, the share at the start that may run out of the panels.
CROPPED_SHARE = 0.1


def plot_learning_curves(
    history: Sequence[Mapping[str, float | int | None]],
) -> "matplotlib.figure.Figure":
    """ELBO = reconstruction - KL by epoch, of the training data and of the validation data.

    A term that was never measured has no panel: an autoencoder's reconstruction is alone. The vertical
    axes show the last nine tenths of the epochs in full: the change of the first steps is larger than
    everything after it. A panel says which epochs lie outside of its axis.

    Args:
        history: For each epoch `epoch`, `elbo`, `reconstruction`, `kl`, `beta`, and the first
            three again with `validation_` before them, in nats per datum; what was not measured is
            absent or None.

    Raises:
        ValueError: If the history is empty.
    """
    if not history:
        raise ValueError("history must hold at least one epoch, got none.")
    epochs = _column(history, "epoch")
    betas = _column(history, "beta")
    betas = betas[np.isfinite(betas)]
    measured = {
        field: title
        for field, title in TERMS.items()
        for name in (field, f"validation_{field}")
        if np.isfinite(_column(history, name)).any()
    }
    shown = measured or TERMS
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0 if len(shown) > 1 else 6.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, (field, title) in zip(panels, shown.items(), strict=True):
        curves = {
            "training": (COLOURS["training"], "-", _column(history, field)),
            "validation": (COLOURS["validation"], "--", _column(history, f"validation_{field}")),
        }
        for name, (colour, line, values) in curves.items():
            if np.isfinite(values).any():
                # One epoch is a point, which a line would not show.
                marker = "o" if len(epochs) < 15 else None
                ax.plot(epochs, values, line, color=colour, marker=marker, ms=4, label=name)
        ax.set(title=title, xlabel="epoch", ylabel=f"nats/{noun()}")
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if outside := _crop(ax, [values for _, _, values in curves.values()], epochs):
            ax.set_title(f"{title}\n{outside} outside the axis", fontsize=10)
    if measured:
        # The curves rise to the right, so this corner is free.
        panels[0].legend(loc="lower right", frameon=False)
    weight = ""
    if len(betas) and not (betas == 1).all():
        last = "" if np.ptp(betas) == 0 else f" to {betas[-1]:.3g}"
        weight = f"; trained with beta {betas[0]:.3g}{last} before the KL"
    if "elbo" in shown:
        if not np.isfinite(_column(history, "elbo")).any() and measured:
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
    """A field over the epochs, NaN where it was not measured."""
    values = [epoch.get(field) for epoch in history]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _crop(
    ax: "matplotlib.axes.Axes", curves: Sequence[np.ndarray], epochs: np.ndarray
) -> str | None:
    """Let the first epochs run out of the panel where they would flatten all the others; say which."""
    late = np.concatenate([values[int(CROPPED_SHARE * len(values)) :] for values in curves])
    late = late[np.isfinite(late)]
    if len(late) > 1 and np.ptp(late) > 0:
        margin = 0.08 * np.ptp(late)
        low, high = late.min() - margin, late.max() + margin
        ax.set_ylim(low, high)
        beyond = np.any([(values < low) | (values > high) for values in curves], axis=0)
        last = int(beyond.nonzero()[0].max(initial=-1))
        if last >= 0:
            return (
                f"epoch {epochs[0]:g}"
                if last == 0
                else f"epochs {epochs[0]:g} to {epochs[last]:g}"
            )
    return None
