"""Programs with more structure than one latent: each file is a model file to read, copy and edit.

`python scripts/svi_train.py --model NAME` trains one. It has `model(x, y=None)`,
`guide(x, y=None)`, `embed`, `decode` and `latent_sites`, and `labels` says what y is for.
"""

from typing import Any, Literal

# The names of the files of this folder, as of `--model`.
PROGRAMS: tuple[str, ...] = (
    "clustering",
    "conditional",
    "hierarchical",
    "missing",
    "semi_supervised",
    "sequence",
)

# What a program's y is for: nothing, its training alone, or each of its densities.
Labels = Literal["none", "training", "always"]


def labels_of_program(program: Any) -> Labels:
    """The program's `labels`; "none" if it does not say."""
    return getattr(program, "labels", "none")
