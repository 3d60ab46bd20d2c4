"""What the data of a run were, as a figure: form, splits, scale, and what was found in them."""

import textwrap
from typing import TYPE_CHECKING

from analysis.plotting.style import new_figure
from pyro_vae.data import DataContract
from pyro_vae.data.nouns import nouns

if TYPE_CHECKING:
    import matplotlib.figure

_WIDTH = 95


def plot_data(contract: DataContract) -> "matplotlib.figure.Figure":
    """A page of text.

    Args:
        contract: What the data were.
    """
    sizes = ", ".join(f"{size:,} {split}" for split, size in contract.sizes.items())
    levels = "" if contract.levels is None else f", {contract.levels} levels"
    facts = {
        "data": contract.name,
        "values": f"{contract.support}{levels}, training values from {contract.low:g} to {contract.high:g}",
        "shape": " x ".join(map(str, contract.event_shape)),
        nouns(): sizes,
        "split": contract.split_rule,
        "scaled for the networks by": contract.units.kind,
    }
    if contract.label_names:
        facts["classes" if contract.has_classes else "factors"] = ", ".join(contract.label_names)
    lines = [
        line
        for name, value in facts.items()
        for line in textwrap.wrap(
            f"{name}: {value}", _WIDTH, subsequent_indent="    ", max_lines=3
        )
    ]
    lines += ["", "found before training:" if contract.notes else "nothing was found to note"]
    for note in contract.notes:
        lines += textwrap.wrap(note, _WIDTH, initial_indent="- ", subsequent_indent="  ")
    figure = new_figure(9.0, 0.6 + 0.22 * len(lines))
    figure.text(
        0.03, 0.97, "\n".join(lines), va="top", family="monospace", fontsize=9, parse_math=False
    )
    return figure
