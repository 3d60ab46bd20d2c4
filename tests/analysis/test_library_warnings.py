"""Warnings of libraries become notes of a check."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from analysis.diagnosis import Parts
from analysis.subject import Subject

SUBJECT = Subject(None, torch.zeros(2, 1), torch.zeros(2, 1), "real", untrained=lambda: None)


def two_points():
    """Ten clusters of two different points: scikit-learn warns."""
    KMeans(10, n_init=2, random_state=0).fit(np.repeat([[0.0], [1.0]], 20, axis=0))
    return {"reading": "Grouped."}


def test_a_warning_is_a_note(capsys):
    parts = Parts(SUBJECT, "representation")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        parts.add("clustering", two_points)
        parts.add("again", two_points)
    assert capsys.readouterr().err == ""
    section = parts.section()
    (note,) = section.record["clustering"]["notes"]
    assert note.startswith(
        "Note: Number of distinct clusters (2) found smaller than n_clusters (10)"
    )
    assert section.readings["clustering"] == f"Grouped. {note}"
    assert section.record["again"]["notes"] == [note]


def test_a_warning_of_our_own_stays_an_error_in_tests():
    parts = Parts(SUBJECT, "representation")

    def ours():
        warnings.warn("ours", RuntimeWarning, stacklevel=1)
        return {"reading": ""}

    with pytest.raises(RuntimeWarning, match="ours"):
        parts.add("probe", ours)
