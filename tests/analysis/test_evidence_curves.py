"""The figure of bounds by draws."""

import pytest

from analysis.evidence_curves import EvidenceCurve, plot_evidence_curves


def test_the_figure():
    curves = {
        "elbo": EvidenceCurve([1, 10, 100], [-100.0, -97.0, -96.0], -95.5),
        "iwae": EvidenceCurve([1, 10, 100], [-101.0, -96.0, -95.0], -94.9),
    }
    (ax,) = plot_evidence_curves(curves).axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["elbo, IWAE-k", "elbo, AIS", "iwae, IWAE-k", "iwae, AIS"]
    assert ax.get_xscale() == "log"
    with pytest.raises(ValueError, match="curves must hold at least one model"):
        plot_evidence_curves({})
