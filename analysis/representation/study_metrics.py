"""What a study keeps of a trained model as a representation: plain numbers, on all labelled data of its set."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.disentanglement.scores import disentanglement
from analysis.disentanglement.unsupervised_selection import (
    selection_agreement,
    unsupervised_selection,
)
from analysis.predictive.model_samples import device_of, embedded, has_density
from analysis.representation.clustering import clustering
from analysis.representation.codes import Labelled, labelled_codes
from analysis.representation.holes import holes
from analysis.representation.interpolation import interpolation
from analysis.representation.label_efficiency import LabelEfficiency, label_efficiency
from analysis.representation.neighbourhoods import local_label_agreement
from analysis.representation.out_of_distribution import out_of_distribution
from analysis.representation.probes import linear_probe, nearest_neighbours
from analysis.representation.robustness import Robustness, robustness
from analysis.representation.uncertainty_calibration import honest_uncertainty
from pyro_vae.data import PreparedData
from pyro_vae.evidence import fixed_rows
from pyro_vae.evidence.numbers import finite

# Damaged images: each is seen under every damage and strength.
ROBUSTNESS_DATA = 500
FOREIGN_DATA = 1000
SAMPLES = 50
# Codes between which paths run, paths, and training data whose codes are set beside the prior.
PATH_DATA, PATHS, HOLE_DATA = 1000, 100, 10_000

Numbers = dict[str, Any]


def use(train: Labelled, test: Labelled) -> Numbers:
    """Probes with 10, 100, 1,000 and all labels, neighbours and clusters of any codes.

    Args:
        train: Codes that classifiers are fitted to.
        test: Codes that all numbers are of.
    """
    probes, clusters = label_efficiency(train, test).summary(), clustering(test).summary()
    return {
        "probe": [
            {name: point[name] for name in ("n", "all_labels", "mean", "spread", "repeats")}
            for point in probes["points"]
        ],
        "neighbours": nearest_neighbours(train, test).accuracy,
        "clustering": {name: clusters[name] for name in ("nmi", "ari", "accuracy", "n")},
        "agreement": local_label_agreement(test).summary()["agreement"],
        "n_codes_train": len(train),
        "n_codes_test": len(test),
    }


def as_vectors(x: Real[Tensor, " n *event"], labels: Int[Tensor, " n"]) -> Labelled:
    """Data themselves in place of codes: what a representation has to be better than."""
    flat = x.reshape(len(x), -1).numpy().astype(np.float64)
    return Labelled(flat, labels.numpy().astype(np.int64))


def use_of(vae: Any, data: PreparedData) -> Numbers:
    """`use` of the model's codes of all training and test data."""
    train, test = _codes(vae, data)
    return use(train, test)


def use_of_data(data: PreparedData) -> Numbers:
    """`use` of the data as they are."""
    labels = data.dataset.labels
    return use(
        *(as_vectors(data.fixed(split)[:], labels[split]) for split in ("train", "test")),
    )


def label_efficiency_of(vae: Any, data: PreparedData) -> LabelEfficiency:
    """The probe's accuracy by the number of labels, of the model's codes."""
    return label_efficiency(*_codes(vae, data))


def damaged_of(vae: Any, data: PreparedData, *, seed: int = 0) -> Robustness:
    """What damage does to the codes of fixed test data."""
    train, _ = _codes(vae, data)
    rows = fixed_rows(len(data.fixed("test")), ROBUSTNESS_DATA)
    x, labels = data.fixed("test")[rows].to(device_of(vae)), data.dataset.labels["test"][rows]
    probe = linear_probe(train, labelled_codes(vae, x, labels), seed=seed)
    return robustness(
        vae,
        x,
        labels=labels,
        classifier=probe.classifier,
        num_samples=SAMPLES,
        seed=seed,
    )


def robustness_of(vae: Any, data: PreparedData, *, seed: int = 0) -> Numbers:
    """Curves and areas of accuracy, latent shift, reconstruction and log p(x) over damages."""
    found = damaged_of(vae, data, seed=seed)
    return {
        "n": ROBUSTNESS_DATA,
        "strengths": list(found.strengths),
        "area": {name: finite(found.area(name)[0]) for name in found.values},
        "accuracy": {
            damage: found.mean("accuracy")[row].tolist()
            for row, damage in enumerate(found.damages)
        },
    }


def foreign_of(
    vae: Any,
    data: PreparedData,
    foreign: Mapping[str, Real[Tensor, " m *event"]],
    *,
    seed: int = 0,
) -> dict[str, Numbers]:
    """The AUROC of each score of foreignness, on each foreign set."""
    own, others = (
        {name: x[fixed_rows(len(x), FOREIGN_DATA)] for name, x in sets.items()}
        for sets in ({"own": data.fixed("test")}, foreign)
    )
    x = own["own"].to(device_of(vae))
    found = out_of_distribution(
        vae, data.fixed("train")[:], x, others, num_samples=SAMPLES, seed=seed
    )
    return {
        name: {
            score: None if detected is None else detected.auroc
            for score, detected in by_score.items()
        }
        for name, by_score in found.detections.items()
    }


def continuity_of(vae: Any, data: PreparedData, *, seed: int = 0) -> Numbers:
    """Shares of paths, of cross-fades and of prior draws that are unlike data; None without a density."""
    x, train = (
        data.fixed(split)[fixed_rows(len(data.fixed(split)), most)].to(device_of(vae))
        for split, most in (("test", PATH_DATA), ("train", HOLE_DATA))
    )
    paths = interpolation(vae, embedded(vae, x), x=x, pairs=PATHS, seed=seed).profiles
    found = holes(vae, train, seed=seed)
    summary = {} if paths is None else paths.summary()
    return {
        **{
            name: summary.get(name)
            for name in ("middle_below", "end_below", "cross_fade_below", "model_draws_below")
        },
        "hole_share": finite(found.hole_share),
        "told_from_prior": finite(found.apart.best),
    }


def uncertainty_of(vae: Any, data: PreparedData, *, seed: int = 0) -> dict[str, Numbers] | None:
    """By what q's scale and its error grow under each damage at its strongest; None without a density."""
    x = data.fixed("test")
    x = x[fixed_rows(len(x), ROBUSTNESS_DATA)].to(device_of(vae))
    if not has_density(vae, x):
        return None
    found = honest_uncertainty(vae, x, seed=seed)
    return {
        damage: {
            "scale": finite(found.scale_growth[row, -1]),
            "error": finite(found.error_growth[row, -1]),
        }
        for row, damage in enumerate(found.damages)
    }


def selection_of(
    codes: Mapping[str, Float[np.ndarray, "n _"]],
    groups: Mapping[str, str],
    scores: Mapping[str, float],
) -> Numbers:
    """UDR of each group of models, and how far it ranks models as scores with labels do.

    Args:
        codes: Of the same data, by model.
        groups: What each model shares with those that differ in the seed alone.
        scores: Of each model, with labels.
    """
    found = unsupervised_selection(codes, groups=groups)
    agreement = selection_agreement(found.by_model, scores, groups).summary()
    return {
        "by_group": found.by_group(),
        "agreement": {name: agreement[name] for name in ("within", "overall")},
    }


def disentanglement_of(vae: Any, data: PreparedData, *, seed: int = 0) -> Numbers:
    """Every score of disentanglement, of the codes of all test data."""
    factors = data.dataset.labels["test"]
    found = disentanglement(
        embedded(vae, data.fixed("test")[:].to(device_of(vae))),
        factors.numpy(),
        names=data.dataset.label_names,
        seed=seed,
    )
    scores = {name: finite(score) for name, score in found.scores.items()}
    return {"scores": scores, "best": found.best, "chance": found.chance, "n": found.n}


def _codes(vae: Any, data: PreparedData) -> tuple[Labelled, Labelled]:
    labels = data.dataset.labels
    train, test = (
        labelled_codes(vae, data.fixed(split)[:].to(device_of(vae)), labels[split])
        for split in ("train", "test")
    )
    return train, test
