"""The part of `representation` on single coordinates: has each a meaning of its own?"""

import math

from analysis.diagnosis import Parts
from analysis.disentanglement.scores import SCORES, disentanglement, plot_disentanglement
from analysis.disentanglement.traversals import Traversals, plot_traversals, traversals
from analysis.predictive.model_samples import UndefinedCheckError
from analysis.representation.section_arrays import Represented

PARTS = ("disentanglement", "traversals")


def add_disentanglement(parts: Parts, of: Represented) -> None:
    """Scores where the data have factors, and what each coordinate moves."""
    subject = parts.subject
    scored = parts.add(
        "disentanglement",
        lambda: disentanglement(
            *of.scored, names=subject.label_names, seed=subject.seed_of("disentanglement")
        ),
    )
    if scored is not None:
        for name, label in SCORES.items():
            value, error = scored.scores[name], scored.standard_errors[name]
            if math.isfinite(value):
                spread = "" if error is None else f" ± {error:.2f}"
                parts.numbers[label] = f"{value:.2f}{spread}"
        parts.draw(
            "disentanglement",
            "Does each coordinate follow one factor, and each factor one coordinate?",
            lambda: plot_disentanglement(scored),
        )
    moved = parts.add("traversals", lambda: _traversals(of))
    if moved is not None:
        parts.draw(
            "traversals",
            "What moves when one coordinate of the code does?",
            lambda: plot_traversals(moved),
        )


def _traversals(of: Represented) -> Traversals:
    subject = of.subject
    try:
        codes, factors = of.with_factors
    except UndefinedCheckError:
        codes, factors = of.codes, None
    return traversals(
        subject.vae,
        codes,
        factors=factors,
        names=() if factors is None else subject.label_names,
        event_names=subject.event_names,
        seed=subject.seed_of("traversals"),
    )
