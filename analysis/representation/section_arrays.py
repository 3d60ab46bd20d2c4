"""What the parts of the section `representation` share: codes, labels and a classifier, each made once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.commands import FOREIGN
from analysis.predictive.model_samples import UndefinedCheckError, embedded
from analysis.representation.codes import Labelled
from analysis.representation.probes import Probe, linear_probe
from analysis.subject import Foreign, Subject
from pyro_vae.evidence.evaluation import fixed_rows

# Training data that costly parts see: nearest neighbours, labelled subsets, and scores of foreign data.
TRAINING = 10_000
# Held-out data that disentanglement is scored on: its scores need many.
SCORED = 20_000


@dataclass(frozen=True)
class Represented:
    """A trained VAE, its codes of held-out and of training data, and the labels of those that have one.

    Of several factors the first one is the label.

    Args:
        subject: What is diagnosed.
    """

    subject: Subject

    @cached_property
    def codes(self) -> Float[np.ndarray, "n latent"]:
        """The codes of the held-out data."""
        with self.subject.step("codes"):
            return embedded(self.subject.vae, self.subject.x)

    @cached_property
    def all_train_codes(self) -> Float[np.ndarray, "t latent"]:
        """The codes of all training data."""
        with self.subject.step("codes of training data"):
            return self.embedded(self.subject.train)

    @cached_property
    def train_rows(self) -> Int[np.ndarray, " rows"]:
        """Which training data costly parts see."""
        return fixed_rows(len(self.subject.train), TRAINING).numpy()

    @property
    def train_x(self) -> Real[Tensor, " rows *event"]:
        """These training data, on the device."""
        return self.subject.train[self.train_rows].to(self.subject.x.device)

    @cached_property
    def labelled(self) -> Int[np.ndarray, " l"]:
        """The rows of the held-out data that have a label."""
        return labelled_rows(self.subject.labels, "the data")

    @cached_property
    def labels(self) -> Int[np.ndarray, " l"]:
        """Their labels."""
        return label_of(self.subject.labels, "the data")

    @property
    def labelled_x(self) -> Real[Tensor, " l *event"]:
        """These data, on the device."""
        return self.subject.x[torch.from_numpy(self.labelled).to(self.subject.x.device)]

    @cached_property
    def labelled_train(self) -> Int[np.ndarray, " r"]:
        """The rows of the training data that have a label."""
        return labelled_rows(self.subject.train_labels, "the training data")

    @cached_property
    def train_labels(self) -> Int[np.ndarray, " r"]:
        """Their labels."""
        return label_of(self.subject.train_labels, "the training data")

    @cached_property
    def test(self) -> Labelled:
        """The codes of the held-out data that have labels, with these."""
        # Before codes are made for nothing.
        labels = self.labels
        return Labelled(self.codes[self.labelled], labels)

    @cached_property
    def every_train(self) -> Labelled:
        """The codes of all training data that have labels, with these."""
        labels = self.train_labels
        return Labelled(self.all_train_codes[self.labelled_train], labels)

    @cached_property
    def train(self) -> Labelled:
        """Of so many of them as costly parts see."""
        return self.every_train.taken(fixed_rows(len(self.train_labels), TRAINING).numpy())

    @property
    def train_labelled_x(self) -> Real[Tensor, " s *event"]:
        """The data of these codes, on the device."""
        rows = self.labelled_train[fixed_rows(len(self.train_labels), TRAINING).numpy()]
        return self.subject.train[rows].to(self.subject.x.device)

    @cached_property
    def probe(self) -> Probe:
        """The linear classifier of codes."""
        return linear_probe(self.every_train, self.test, seed=self.subject.seed_of("probe"))

    @property
    def label_name(self) -> str:
        """What the labels are, where they are one of several factors; else an empty word."""
        labels, names = self.subject.labels, self.subject.label_names
        factors = labels is not None and labels.ndim == 2
        return (names[0] if names else "factor 1") if factors else ""

    @cached_property
    def with_factors(
        self,
    ) -> tuple[Float[np.ndarray, "m latent"], Int[np.ndarray, "m factors"]]:
        """Codes and factors of the held-out data that have all factors.

        Raises:
            UndefinedCheckError: If they have labels or nothing.
        """
        rows, factors = factors_of(self.subject.labels)
        return self.codes[rows], factors

    @cached_property
    def scored(self) -> tuple[Float[np.ndarray, "m latent"], Int[np.ndarray, "m factors"]]:
        """Codes and factors of all held-out data, of which x are some: scores of factors need many."""
        subject = self.subject
        if subject.whole is None:
            return self.with_factors
        known, factors = factors_of(subject.whole_labels)
        rows = fixed_rows(len(factors), SCORED).numpy()
        with subject.step("codes of all held-out data"):
            return self.embedded(subject.whole[known[rows]]), factors[rows]

    @property
    def foreign(self) -> Foreign:
        """The foreign data.

        Raises:
            UndefinedCheckError: If there are none.
        """
        if self.subject.foreign is None:
            raise UndefinedCheckError(f"it takes other data with labels, DATA in `{FOREIGN}`.")
        return self.subject.foreign

    def embedded(self, x: Real[Tensor, " m *event"], vae: Any = None) -> Float[np.ndarray, "m d"]:
        """The codes of data that may be on another device, by this program or another."""
        device = self.subject.x.device
        program = self.subject.vae if vae is None else vae
        return np.concatenate([embedded(program, part.to(device)) for part in x.split(10_000)])


def labelled_rows(labels: np.ndarray | None, what: str) -> Int[np.ndarray, " l"]:
    """The rows that have a label, or the first of several factors: it is not -1.

    Raises:
        UndefinedCheckError: If there are none, or labels are no classes.
    """
    if labels is None:
        raise UndefinedCheckError(f"{what} have no labels.")
    if labels.dtype.kind == "f":
        raise UndefinedCheckError(
            f"the labels of {what} are floats, a numeric target: classifiers take classes, as words or "
            "whole numbers."
        )
    rows = np.flatnonzero((labels[:, 0] if labels.ndim == 2 else labels) >= 0)
    if len(rows) == 0:
        raise UndefinedCheckError(f"none of {what} has a label.")
    return rows


def label_of(labels: np.ndarray | None, what: str) -> Int[np.ndarray, " l"]:
    """Labels, or the first of several factors, of the rows that have one.

    Raises:
        UndefinedCheckError: If there are none, labels are no classes, or all are the same.
    """
    rows = labelled_rows(labels, what)
    assert labels is not None
    first = (labels[:, 0] if labels.ndim == 2 else labels)[rows].astype(np.int64)
    if len(np.unique(first)) < 2:
        raise UndefinedCheckError(f"{what} have the same label, all of them.")
    return first


def factors_of(
    labels: np.ndarray | None,
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, "m factors"]]:
    """The rows that have all of several factors, and these.

    Raises:
        UndefinedCheckError: If there is one label or none, or factors are no whole numbers.
    """
    if labels is None or labels.ndim != 2:
        raise UndefinedCheckError("the data have no factors of variation.")
    if labels.dtype.kind == "f":
        raise UndefinedCheckError(
            "the factors of variation are floats: scores take whole numbers."
        )
    rows = np.flatnonzero((labels >= 0).all(1))
    if len(rows) == 0:
        raise UndefinedCheckError("no row of the data has all factors of variation.")
    return rows, labels[rows].astype(np.int64)
