"""Evidence: estimates of log p(x), their accuracy, and the quality of the guide for each example.

Everything here uses beta = 1, whatever trained the model.
"""

from pyro_vae.evidence.annealed_importance_sampling import (
    AnnealedImportanceSampling,
    annealed_importance_sampling,
)
from pyro_vae.evidence.baselines import Baseline, Comparison, compare_with_baselines, fit_baselines
from pyro_vae.evidence.evaluation import (
    Evaluation,
    defined_rows,
    evaluate,
    fixed_rows,
    undefined_data,
)
from pyro_vae.evidence.importance_weighting import ImportanceWeighting, importance_weighting
from pyro_vae.evidence.inference_gaps import InferenceGaps, inference_gaps
from pyro_vae.evidence.local_guide import NoLocalGuideError, refine_guide
from pyro_vae.evidence.row_scores import RowScores, row_scores, typicality
from pyro_vae.evidence.two_sided import TwoSidedCheck, two_sided_check

__all__ = [
    "AnnealedImportanceSampling",
    "Baseline",
    "Comparison",
    "Evaluation",
    "ImportanceWeighting",
    "InferenceGaps",
    "NoLocalGuideError",
    "RowScores",
    "TwoSidedCheck",
    "annealed_importance_sampling",
    "compare_with_baselines",
    "defined_rows",
    "evaluate",
    "fit_baselines",
    "fixed_rows",
    "importance_weighting",
    "inference_gaps",
    "refine_guide",
    "row_scores",
    "two_sided_check",
    "typicality",
    "undefined_data",
]
