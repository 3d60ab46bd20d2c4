#!/usr/bin/env bash
# NumPy 2.4.6: Generator.dirichlet with a small concentration, alpha = (0.01, 0.01, 0.01).
# Expected: exchangeable coordinates. Its documentation says that gamma variables are divided by
# their sum, which is so: P(x < 1e-100) = 0.067 for each coordinate.
# Seen: a stick is broken instead when all alpha are below 0.1. Once the stick's rest is below the
# spacing of floats near 1, the rest is exactly 0: the more often, the later the coordinate.
# Output: share below 1e-100 [0.067, 0.203, 0.449], exactly 0 [0.000, 0.160, 0.449]; by gamma
# variables [0.067, 0.067, 0.067].
# Why it matters for VAEs: draws that test a sparse Dirichlet prior or posterior have another law:
# log_prob of an exact 0 is infinite, and topics or clusters differ by their number alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    numpy==2.4.6
venv/bin/python - <<'PYTHON'
import math

import numpy as np

alpha, n, bound = 0.01, 200_000, 1e-100
rng = np.random.default_rng(0)
x = rng.dirichlet([alpha] * 3, size=n)
y = rng.standard_gamma(alpha, size=(n, 3))
y /= y.sum(axis=1, keepdims=True)
# Beta(alpha, 2 alpha), to first order in bound.
log_beta = math.lgamma(alpha) + math.lgamma(2 * alpha) - math.lgamma(3 * alpha)
exact = bound**alpha / alpha / math.exp(log_beta)
below, zero, by_gamma = (x < bound).mean(0), (x == 0).mean(0), (y < bound).mean(0)
print("NumPy", np.__version__, "exact P(x < 1e-100)", round(exact, 3))
print("below", below.round(3), "zero", zero.round(3), "by gamma variables", by_gamma.round(3))
assert abs(by_gamma - exact).max() < 0.01, "changed"
assert abs(below[0] - exact) < 0.01, "changed"
assert below[1] > 2 * exact, "changed"
assert zero[2] > 0.4, "changed"
PYTHON
