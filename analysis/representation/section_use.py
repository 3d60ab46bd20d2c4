"""The part of `representation` on use: what do classifiers and groups make of the codes?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from analysis.check import UndefinedCheckError
from analysis.diagnosis import Parts
from analysis.representation.clustering import Agreement, agreement, clustering, prior_components
from analysis.representation.codes import Labelled
from analysis.representation.fine_tuning import FineTuning, fine_tuning, plot_fine_tuning
from analysis.representation.label_efficiency import (
    LabelEfficiency,
    label_efficiency,
    plot_label_efficiency,
)
from analysis.representation.neighbourhoods import local_label_agreement
from analysis.representation.probes import nearest_neighbours
from analysis.representation.section_arrays import (
    TRAINING,
    Represented,
    label_of,
    labelled_rows,
)
from analysis.representation.transfer import (
    Transfer,
    plot_transfer,
    representations,
    transfer,
)
from pyro_vae.evidence.evaluation import fixed_rows

PARTS = (
    "probe",
    "neighbours",
    "label_efficiency",
    "baselines",
    "clustering",
    "mixture_components",
    "local_agreement",
    "fine_tuning",
    "transfer",
)
# Training codes that vote on a label, as far as there are so many.
VOTES = 5
# Codes whose labels are looked at beside each.
NEAR = 10
# Numbers of labels that are drawn anew each time, and how often.
FEW, REPEATS = (10, 100, 1000), 5
# Labels of fine-tuning, its steps, and draws: each trains two networks.
TUNED, TUNING_STEPS, TUNING_REPEATS = (100,), 300, 3
# A prior with more components than so many times the labels groups nothing.
MOST_COMPONENTS = 5


def add_use(parts: Parts, of: Represented) -> None:
    """Classifiers of codes by the number of labels, groups of codes, and codes of other data."""
    subject = parts.subject
    named = f", {of.label_name}" if of.label_name else ""
    probe = parts.add("probe", lambda: of.probe)
    if probe is not None:
        parts.numbers[f"linear probe, all labels{named}"] = spread(
            probe.accuracy, probe.standard_error
        )
    votes = parts.add(
        "neighbours",
        lambda: nearest_neighbours(of.train, of.test, neighbours=min(VOTES, len(of.train))),
    )
    if votes is not None:
        parts.numbers[f"nearest neighbours{named}"] = spread(votes.accuracy, votes.standard_error)
    efficiency = parts.add("label_efficiency", lambda: _efficiency(of, of.train, of.test))
    if efficiency is not None:
        for point in efficiency.points[:-1]:
            parts.numbers[f"linear probe, {point.n:,} labels{named}"] = spread(
                point.mean, point.spread
            )
        baselines = parts.add("baselines", lambda: _baselines(of, efficiency))
        others = {} if baselines is None else baselines.others
        parts.draw(
            "label_efficiency",
            "How many labels does a classifier of codes need, and how many one of raw data?",
            lambda: plot_label_efficiency({"this run": efficiency, **others}),
        )
    groups = parts.add(
        "clustering", lambda: clustering(of.test, seed=subject.seed_of("clustering"))
    )
    if groups is not None:
        for label, values in (
            ("NMI", groups.nmi),
            ("ARI", groups.ari),
            ("accuracy", groups.accuracy),
        ):
            parts.numbers[f"K-means, {label}{named}"] = spread(values.mean(), values.std(ddof=1))
    components = parts.add("mixture_components", lambda: _components(of))
    if components is not None:
        parts.numbers[f"prior's components, accuracy{named}"] = f"{components.accuracy:.3f}"
    near = parts.add(
        "local_agreement",
        lambda: local_label_agreement(of.test, neighbours=min(NEAR, len(of.test) - 1)),
    )
    if near is not None:
        parts.numbers[f"label shared by near codes{named}"] = f"{near.mean:.3f}"
    tuned = parts.add("fine_tuning", lambda: _fine_tuning(of))
    if tuned is not None:
        for row, n in enumerate(tuned.sizes):
            for method in ("fine-tuned", "from scratch"):
                values = tuned.accuracy[method][row]
                parts.numbers[f"{method}, {n:,} labels{named}"] = spread(
                    values.mean(), values.std(ddof=1)
                )
        parts.draw(
            "fine_tuning",
            "Is the trained encoder a better start for a classifier than an untrained one?",
            lambda: plot_fine_tuning(tuned),
        )
    moved = parts.add("transfer", lambda: _transfer(of))
    if moved is not None:
        for n, accuracies in zip(moved.sizes, moved.accuracies[moved.first], strict=True):
            parts.numbers[f"{of.foreign.name}, {n:,} labels"] = spread(
                accuracies.mean(), accuracies.std(ddof=1)
            )
        parts.draw(
            "transfer",
            "Are the codes of use for data that the model was not trained on?",
            lambda: plot_transfer(moved),
        )


def spread(value: float, error: float | None) -> str:
    """A share and its standard error, or its spread over draws."""
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


@dataclass(frozen=True)
class Baselines:
    """The same probe of what costs no training.

    Args:
        codes: Of the run's codes.
        others: Of raw data, and of the codes of the program before training.
    """

    codes: LabelEfficiency
    others: dict[str, LabelEfficiency]

    def summary(self) -> dict[str, Any]:
        """Those of each baseline, and a reading."""
        return {
            **{name.replace(" ", "_"): each.summary() for name, each in self.others.items()},
            "reading": self.reading(),
        }

    def reading(self) -> str:
        """Whether the codes are above what costs no training."""
        sizes = set.intersection(
            *({point.n for point in each.points} for each in (self.codes, *self.others.values()))
        )
        n = min(sizes, key=lambda size: abs(np.log(size / 100)))
        own, *others = (
            next(point for point in each.points if point.n == n)
            for each in (self.codes, *self.others.values())
        )
        best_name, best = max(zip(self.others, others, strict=True), key=lambda pair: pair[1].mean)
        apart = own.mean - best.mean
        noise = 2 * max(own.spread or own.standard_error, best.spread or best.standard_error)
        said = " and ".join(
            f"{name} {point.mean:.1%}" for name, point in zip(self.others, others, strict=True)
        )
        verdict = (
            "training has paid here."
            if apart > noise
            else f"{best_name} served better: training has not paid here."
            if apart < -noise
            else "the best two are no further apart than draws differ."
        )
        return f"With {n:,} labels the probe of codes is right for {own.mean:.1%}, of {said}: {verdict}"


def _efficiency(
    of: Represented, train: Labelled, test: Labelled, sizes: Any = (*FEW, None)
) -> Any:
    return label_efficiency(
        train, test, sizes=sizes, repeats=REPEATS, seed=of.subject.seed_of("labels")
    )


def _baselines(of: Represented, codes: LabelEfficiency) -> Baselines:
    subject = of.subject
    untrained = subject.untrained()
    train, test = (
        representations(subject.vae, untrained, x, torch.from_numpy(labels))
        for x, labels in (
            (of.train_labelled_x, of.train.labels),
            (of.labelled_x, of.labels),
        )
    )
    others = {
        name: _efficiency(of, train[name], test[name], sizes=FEW)
        for name in ("raw data", "untrained encoder")
    }
    return Baselines(codes, others)


def _components(of: Represented) -> Agreement:
    """How far the prior's own components group the codes as labels do."""
    labels = of.labels
    components = prior_components(of.subject.vae, of.test.codes)
    number = getattr(of.subject.vae.prior, "components", 0)
    if number > MOST_COMPONENTS * len(np.unique(labels)):
        raise UndefinedCheckError(f"the prior's {number} components are far more than labels.")
    return agreement(components, labels)


def _fine_tuning(of: Represented) -> FineTuning:
    subject = of.subject
    # Numbered from 0 without gaps, whatever numbers they have.
    train_labels = of.train.labels
    classes = np.unique(np.concatenate([train_labels, of.labels]))
    return fine_tuning(
        subject.vae,
        of.train_labelled_x,
        torch.from_numpy(np.searchsorted(classes, train_labels)),
        of.labelled_x,
        torch.from_numpy(np.searchsorted(classes, of.labels)),
        untrained=subject.untrained,
        sizes=sorted({min(n, len(of.train)) for n in TUNED}),
        steps=TUNING_STEPS,
        repeats=TUNING_REPEATS,
        seed=subject.seed_of("fine tuning"),
    )


def _transfer(of: Represented) -> Transfer:
    """What classifiers make of the codes of other data, beside the data themselves."""
    foreign = of.foreign
    labels = label_of(foreign.labels, foreign.name)
    train_labels = label_of(foreign.train_labels, f"the training data of {foreign.name}")
    known, train_known = (
        torch.from_numpy(labelled_rows(each, foreign.name))
        for each in (foreign.labels, foreign.train_labels)
    )
    rows = fixed_rows(len(train_labels), TRAINING)
    untrained = of.subject.untrained()
    train, test = (
        representations(
            of.subject.vae, untrained, x.to(of.subject.x.device), torch.from_numpy(each)
        )
        for x, each in (
            (foreign.train[train_known[rows]], train_labels[rows.numpy()]),
            (foreign.x[known.to(foreign.x.device)], labels),
        )
    )
    return transfer(train, test, seed=of.subject.seed_of("transfer"))
