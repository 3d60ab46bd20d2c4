"""Shared inputs of the checks: codes, labels and factors, each computed once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.model_samples import embed_data
from analysis.representation.codes import LabelledCodes, class_labels, complete_factors
from analysis.result import FOREIGN, UndefinedCheckError
from analysis.subject import Foreign, Subject
from pyro_vae.evidence.evaluation import fixed_rows

# Training examples that costly checks use: nearest neighbours, labelled subsets, out-of-
# distribution scores.
TRAINING = 10_000
# Held-out examples that disentanglement is scored on: its scores need many.
SCORED = 20_000
_BLOCK = 10_000


@dataclass(frozen=True)
class RepresentationInputs:
    """Codes of held-out and of training data, and the labels of those that have one.

    The first of several factors is the label.

    Args:
        subject: The trained VAE and its data.
    """

    subject: Subject

    @cached_property
    def codes(self) -> Float[np.ndarray, "n latent"]:
        """Codes of the held-out data."""
        with self.subject.step("codes"):
            return embed_data(self.subject.vae, self.subject.x)

    @cached_property
    def train_codes(self) -> Float[np.ndarray, "t latent"]:
        """Codes of all training data."""
        with self.subject.step("codes of training data"):
            return self._embed(self.subject.train)

    @property
    def train_x(self) -> Real[Tensor, " rows *event"]:
        """The training data that costly checks use, on the device."""
        rows = fixed_rows(len(self.subject.train), TRAINING)
        return self.subject.train[rows].to(self.subject.x.device)

    @cached_property
    def _labelled(self) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
        return class_labels(self.subject.labels, "the data")

    @cached_property
    def _labelled_train(self) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
        return class_labels(self.subject.train_labels, "the training data")

    @property
    def labels(self) -> Int[np.ndarray, " l"]:
        """Labels of the held-out data that have one."""
        return self._labelled[1]

    @property
    def labelled_x(self) -> Real[Tensor, " l *event"]:
        """The held-out data that have a label, on the device."""
        return self.subject.x[self._labelled[0]]

    @cached_property
    def test(self) -> LabelledCodes:
        """Codes and labels of the held-out data that have a label."""
        # The labels first: without any, no codes are needed.
        rows, labels = self._labelled
        return LabelledCodes(self.codes[rows], labels)

    @cached_property
    def all_train(self) -> LabelledCodes:
        """Codes and labels of all training data that have a label."""
        rows, labels = self._labelled_train
        return LabelledCodes(self.train_codes[rows], labels)

    @cached_property
    def train(self) -> LabelledCodes:
        """Those of `all_train` that costly checks use."""
        return self.all_train.subset(fixed_rows(len(self.all_train), TRAINING).numpy())

    @property
    def labelled_train_x(self) -> Real[Tensor, " s *event"]:
        """The data of `train`, on the device."""
        rows, _ = self._labelled_train
        rows = rows[fixed_rows(len(rows), TRAINING).numpy()]
        return self.subject.train[rows].to(self.subject.x.device)

    @property
    def label_name(self) -> str:
        """The name of the factor that serves as the label; empty if there are no factors."""
        labels, names = self.subject.labels, self.subject.label_names
        factors = labels is not None and labels.ndim == 2
        return (names[0] if names else "factor 1") if factors else ""

    @cached_property
    def codes_and_factors(
        self,
    ) -> tuple[Float[np.ndarray, "m latent"], Int[np.ndarray, "m factors"]]:
        """Codes and factors of the held-out data that have all factors.

        Raises:
            UndefinedCheckError: If the data have no factors.
        """
        rows, factors = complete_factors(self.subject.labels)
        return self.codes[rows], factors

    @cached_property
    def scored_codes_and_factors(
        self,
    ) -> tuple[Float[np.ndarray, "m latent"], Int[np.ndarray, "m factors"]]:
        """The same of the whole split: scores of factors need many data."""
        subject = self.subject
        if subject.whole is None:
            return self.codes_and_factors
        known, factors = complete_factors(subject.whole_labels)
        rows = fixed_rows(len(factors), SCORED).numpy()
        with subject.step("codes of all held-out data"):
            return self._embed(subject.whole[known[rows]]), factors[rows]

    @property
    def foreign(self) -> Foreign:
        """The data of another kind.

        Raises:
            UndefinedCheckError: If there are none.
        """
        if self.subject.foreign is None:
            raise UndefinedCheckError(f"requires other data with labels, DATA in `{FOREIGN}`.")
        return self.subject.foreign

    def _embed(self, x: Real[Tensor, " m *event"]) -> Float[np.ndarray, "m d"]:
        """Embed data that may be on another device."""
        vae, device = self.subject.vae, self.subject.x.device
        return np.concatenate([embed_data(vae, block.to(device)) for block in x.split(_BLOCK)])
