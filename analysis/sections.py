"""The sections of a diagnosis: each a question about a trained VAE, and the checks that answer it.

A check is a constant `Check` in its own file; here it is listed.
"""

from analysis.calibration.element_pit import ELEMENT_PIT
from analysis.calibration.leave_one_out import FORECASTS
from analysis.calibration.reliability import ELEMENTS
from analysis.calibration.simulation_based_calibration import SBC
from analysis.diagnosis import Section
from analysis.elbo.terms import ELBO_CHECKS
from analysis.guide.psis_diagnostics import QUALITY
from analysis.predictive.checks import CHECKS
from analysis.predictive.counts import COUNTS
from analysis.predictive.data_sets import DATA_SETS
from analysis.predictive.examples import BEFORE_TRAINING, SAME_IMAGE
from analysis.predictive.generalisation import GENERALISATION
from analysis.predictive.pit import STATISTICS_PIT
from analysis.representation.section import SECTION as REPRESENTATION

SECTIONS = {
    "predictive": Section(
        "Does the model make data like the real ones, and what of that did training teach it?",
        (CHECKS, COUNTS, DATA_SETS, BEFORE_TRAINING, SAME_IMAGE),
        new_data=True,
    ),
    "calibration": Section(
        "Do forecasts of each element from the others come true, and where do they fail?",
        (FORECASTS, ELEMENTS),
    ),
    "pit": Section(
        "Where do real data fall among generated ones, and each element in its forecast?",
        (STATISTICS_PIT, ELEMENT_PIT),
        new_data=True,
    ),
    "elbo": Section("What is the ELBO made of, and what does its rate contain?", ELBO_CHECKS),
    "guide": Section(
        "Is q(z | x) the posterior: on real data by its weights, on simulated data by its ranks?",
        (QUALITY, SBC, GENERALISATION),
    ),
    "representation": REPRESENTATION,
}
