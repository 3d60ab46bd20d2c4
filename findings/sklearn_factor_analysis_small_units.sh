#!/usr/bin/env bash
# scikit-learn 1.9.1: FactorAnalysis of the same data in another unit.
# Expected: maximum likelihood follows the unit. Data times c give the same density per row once
# 5 log(c) (5 columns) is added back.
# Seen: from about c = 1e-6 the fit is another one: noise_variance_ has an absolute floor of 1e-12,
# and data of a smaller variance are all noise. The fit counts as converged and does not warn.
# The documentation of FactorAnalysis does not name a floor.
# Output: nats a row, unit put back: -6.28 (c = 1), -6.28 (c = 1e-5), -7.23 (1e-6), -27.6 (1e-8).
# Why it matters for VAEs: factor analysis is the linear VAE and its usual yardstick. Measured in
# metres rather than micrometres it loses, and the VAE seems better than a linear model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
import sklearn
from sklearn.decomposition import FactorAnalysis

warnings.simplefilter("error")
rng = np.random.default_rng(0)
x = rng.normal(size=(2000, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(2000, 5))
print("scikit-learn", sklearn.__version__)
score, noise = {}, {}
for c in (1.0, 1e-5, 1e-6, 1e-8):
    model = FactorAnalysis(2, svd_method="lapack").fit(c * x)
    score[c] = model.score(c * x) + 5 * np.log(c)
    noise[c] = model.noise_variance_.min()
    print("unit", c, "nats", round(score[c], 3), "iterations", model.n_iter_, "noise", noise[c])
assert abs(score[1e-5] - score[1.0]) < 1e-3, "changed"
assert score[1e-6] < score[1.0] - 0.5, "changed"
assert score[1e-8] < score[1.0] - 10, "changed"
PYTHON
