"""The part of `representation` on the space of codes: is it continuous, even and filled?"""

import numpy as np

from analysis.diagnosis import Parts
from analysis.representation.decoder_geometry import decoder_geometry, plot_jacobian_spectrum
from analysis.representation.holes import holes
from analysis.representation.holes_reading import plot_holes
from analysis.representation.interpolation import interpolation
from analysis.representation.interpolation_figures import plot_interpolation
from analysis.representation.section_arrays import Represented

PARTS = ("interpolation", "decoder_geometry", "holes")


def add_continuity(parts: Parts, of: Represented) -> None:
    """Paths between codes, the decoder's Jacobian, and where the prior has mass but codes are not."""
    subject = parts.subject
    paths = parts.add(
        "interpolation",
        lambda: interpolation(
            subject.vae, of.codes, x=subject.x, seed=subject.seed_of("interpolation")
        ),
    )
    if paths is not None:
        if len(paths.ratio):
            parts.numbers["decoded path / straight line"] = f"{np.median(paths.ratio):.2f}"
        if paths.profiles is not None:
            parts.numbers["unlikely middles of paths (chance 5%)"] = (
                f"{paths.profiles.middle_below:.0%}"
            )
        parts.draw(
            "interpolation",
            "What lies between two data, and is it as probable as data?",
            lambda: plot_interpolation(paths, subject.limits),
        )
    geometry = parts.add(
        "decoder_geometry",
        lambda: decoder_geometry(subject.vae, of.codes, seed=subject.seed_of("decoder geometry")),
    )
    if geometry is not None:
        parts.numbers["directions that move the data"] = (
            f"{geometry.used} of {geometry.singular_values.shape[1]}"
        )
        parts.draw(
            "jacobian_spectrum",
            "In how many directions does the decoder move, and how unevenly?",
            lambda: plot_jacobian_spectrum(geometry),
        )
    found = parts.add(
        "holes",
        lambda: holes(subject.vae, of.train_x, seed=subject.seed_of("holes")),
    )
    if found is not None:
        parts.numbers["prior's draws in holes (chance 1%)"] = f"{found.hole_share:.1%}"
        parts.numbers["codes told from prior (chance 0.5)"] = f"{found.apart.best:.2f}"
        parts.draw(
            "holes",
            "Where does the prior have mass but no code of data?",
            lambda: plot_holes(found, subject.limits),
        )
