"""MNIST without labels: clusters of two programs, beside K-means on the codes of a plain VAE.

On one core it takes about 25 minutes; `--epochs 300` is the larger setting for a GPU.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from analysis.programs import clustering
from analysis.representation.clustering import agreement
from analysis.study import Row, Study, metrics_of, with_test_data
from analysis.study_results import Cell, Results, cells_of, mean
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.run_directory import provenance
from pyro_vae.runs.trained_run import training_rows

CLASSES = 10
ALL = 10**9
# The mean accuracy to reach, one to one, and what others report, with K = 10 unless it says.
GOAL = 0.85


def measure(run: Path, row: str, _options: argparse.Namespace) -> Cell:
    """The clusters of all test images: of the program, or of K-means on the codes of a VAE."""
    program, data, x = with_test_data(run, ALL)
    y = data.dataset.labels["test"]
    if row == KMEANS:
        found = scores_of_groups(k_means(program, training_rows(data), x), y.numpy())
    else:
        found = clustering.scores(program, SimpleNamespace(x=x, y=y))
    return {**metrics_of(run), **found, **provenance()}
