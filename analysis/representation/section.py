"""The section `representation` of a diagnosis: what are the codes good for?"""

from analysis.diagnosis import Parts, SectionResult
from analysis.representation import (
    section_continuity,
    section_disentanglement,
    section_robustness,
    section_use,
)
from analysis.representation.section_arrays import Represented
from analysis.subject import Subject

PARTS = (
    *section_use.PARTS,
    *section_continuity.PARTS,
    *section_disentanglement.PARTS,
    *section_robustness.PARTS,
)
# Arrays that several parts share.
SHARED = ("codes", "codes of training data", "codes of all held-out data")


def representation(subject: Subject) -> SectionResult:
    """Are codes of use with few labels, is their space continuous, and are they robust and honest?"""
    subject.check_several()
    parts = Parts(subject, "representation")
    of = Represented(subject)
    section_use.add_use(parts, of)
    section_continuity.add_continuity(parts, of)
    section_disentanglement.add_disentanglement(parts, of)
    section_robustness.add_robustness(parts, of)
    return parts.section()
