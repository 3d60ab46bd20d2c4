#!/usr/bin/env bash
# SciPy 1.17.1: multivariate_normal with columns of different units.
# Expected: any positive definite covariance is accepted; two independent columns with deviations
# 1 and 1e5 have the log density -log(2 pi) - log(1e5) = -13.351 at the mean.
# Seen: LinAlgError, "the input matrix must be symmetric positive definite", though it is and NumPy
# factors it. As advised, allow_singular=True: the first column is dropped without a warning, and a
# point 30 deviations off has the density of the mean. The bound (ratio of variances 4.5e9) is not
# in the documentation. Covariance.from_cholesky is right.
# Output: LinAlgError; allow_singular -12.432 at 0 and at 30 deviations; from_cholesky -13.351.
# Why it matters for VAEs: this is the usual oracle for a Gaussian likelihood or posterior. Columns
# such as income and a share, or hertz and seconds, are refused or left out of the density.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    scipy==1.17.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
import scipy
from scipy.stats import Covariance, multivariate_normal

warnings.simplefilter("error")
covariance = np.diag([1.0, 1e10])
cholesky = np.linalg.cholesky(covariance)
exact = -np.log(2 * np.pi) - np.log(1e5)
print("SciPy", scipy.__version__, "exact", round(exact, 3))
try:
    multivariate_normal.logpdf([0, 0], cov=covariance)
    refused = False
except np.linalg.LinAlgError as error:
    refused = True
    print("LinAlgError:", error)
singular = multivariate_normal(cov=covariance, allow_singular=True).logpdf([[0, 0], [30, 0]])
by_cholesky = multivariate_normal.logpdf([0, 0], cov=Covariance.from_cholesky(cholesky))
print("allow_singular", singular.round(3), "from_cholesky", round(float(by_cholesky), 3))
assert refused, "changed"
assert singular[0] == singular[1], "changed"
assert abs(singular[0] - exact) > 0.5, "changed"
assert abs(by_cholesky - exact) < 1e-9, "changed"
PYTHON
