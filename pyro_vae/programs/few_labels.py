"""What a semi-supervised program needs besides model and guide: labelled rows, and codes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int, Real
from torch import Tensor

from pyro_vae.checks import check_at_least
from pyro_vae.conditional_draws import Conditionals
from pyro_vae.data.labels import UNLABELLED, are_classes
from pyro_vae.distributions import OneHots, TwoLevels

# The seed that chooses which rows keep their labels, whatever the run's.
LABEL_SEED = 20_140_620
_NO_LABELS = "semi_supervised needs the labels of training rows, got none."


def stored_rows(
    event_shape: Sequence[int],
    support: str,
    labelled: int | None,
    train_data: Real[Tensor, " n *event"] | None,
    train_labels: Tensor | None,
) -> dict[str, Tensor]:
    """The labelled rows to store: `labelled_x`, their classes `labelled_y` and `labelled_rows`.

    Args:
        event_shape: The shape of an example.
        support: The likelihood's support.
        labelled: The number of rows; None for none.
        train_data: The first training rows; None for zeros, which a checkpoint replaces.
        train_labels: The class of each training row, -1 where unknown.

    Raises:
        ValueError: If there are data without labels, or fewer labels than that.
    """
    if train_data is not None and train_labels is None:
        raise ValueError(_NO_LABELS)
    if labelled is None:
        return {}
    if train_data is None or train_labels is None:
        dtype = torch.uint8 if support == "binary" else torch.get_default_dtype()
        zeros = torch.zeros(labelled, dtype=torch.int64)
        x = torch.zeros(labelled, *event_shape, dtype=dtype)
        return {"labelled_x": x, "labelled_y": zeros, "labelled_rows": zeros.clone()}
    # Of long sparse rows, which are counts, other rows than the first are handed over.
    if len(train_labels) != len(train_data) and support == "counts":
        raise ValueError(
            f"labelled needs counts of at most {len(train_data)} training rows, of which all "
            f"are handed over, got {len(train_labels)}."
        )
    rows = labelled_rows(train_labels[: len(train_data)], labelled)
    x = train_data[rows].to(torch.uint8 if support == "binary" else torch.get_default_dtype())
    return {"labelled_x": x, "labelled_y": train_labels[rows], "labelled_rows": rows}


def labelled_rows(labels: Int[Tensor, " n"], number: int) -> Int[Tensor, " number"]:
    """The rows that keep their labels, in increasing order: equally many of each class.

    Where `number` is not a multiple of the number of classes, or a class has too few, others have
    one more. The choice depends on the labels and the number alone.

    >>> labelled_rows(torch.tensor([0, 0, -1, 0, 1, 1]), 4).shape
    torch.Size([4])

    Args:
        labels: The class of each row, -1 where unknown.
        number: The number of rows to keep.

    Raises:
        ValueError: If fewer rows have labels.
    """
    generator = torch.Generator().manual_seed(LABEL_SEED)
    order = torch.randperm(len(labels), generator=generator)
    labels = labels.cpu()[order]
    known = labels != UNLABELLED
    order, labels = order[known], labels[known]
    if number > len(order):
        raise ValueError(
            f"labelled must be at most the number of training rows with labels, {len(order)}, "
            f"got {number}."
        )
    # Of each row, the number of rows of its class before it.
    among = labels.unsqueeze(-1) == labels.unique()
    rank = (among.cumsum(0) * among).sum(-1)
    return order[rank.argsort(stable=True)[:number]].sort().values


def checked_classes(classes: int | None, labels: Any, labelled: int | None) -> int:
    """The number of classes: that of the labels if it is not given.

    Raises:
        ValueError: If labels are missing, or not numbers of at least two classes; or fewer rows
            than classes shall keep their labels.
    """
    if labels is None or len(labels) == 0:
        if classes is None:
            raise ValueError(_NO_LABELS)
    elif not isinstance(labels, Tensor) or not are_classes(labels):
        got = f"{tuple(labels.shape)} of {labels.dtype}" if isinstance(labels, Tensor) else labels
        raise ValueError(f"labels must be one class number for each row, got {got}.")
    else:
        low, high = int(labels.min()), int(labels.max())
        if high == UNLABELLED:
            raise ValueError(_NO_LABELS)
        classes = high + 1 if classes is None else classes
        if low < UNLABELLED or high >= classes:
            raise ValueError(
                f"labels must be class numbers from 0 to {classes - 1}, or -1 where unknown, got "
                f"{low} to {high}: set the number of classes (--classes)."
            )
    check_at_least(2, classes=classes)
    if labelled is not None and labelled < classes:
        raise ValueError(
            f"labelled must be at least the number of classes, {classes}, got {labelled}."
        )
    return classes


def conditionals(program: Any) -> Callable[[Tensor], Conditionals]:
    """p(y) p(z), p(x | y, z) and q(y | x) q(z | x, y), of codes that join z and a one-hot y."""
    z, classes = program.prior(), program.classes

    def posterior(x: Tensor) -> TwoLevels:
        h, q = program.encoder(x), OneHots(program.classifier(x).unsqueeze(-2))
        return TwoLevels(
            q, lambda c: program.posterior(h + program.class_features(c)), -classes, reverse=True
        )

    prior = TwoLevels(
        OneHots(program.uniform[None]), lambda c: z.expand(c.shape[:-1]), -classes, reverse=True
    )
    parts = Conditionals(prior, program.likelihood, posterior)
    return lambda rows: parts
