#!/usr/bin/env bash
# arviz-stats 0.8.0: Pareto k-hat of log weights.
# Expected: weights with a Pareto tail of index k have a k-hat near k. array_stats.pareto_khat has
# an argument log_weights for weights given by their logarithms.
# Seen: log_weights=True chooses the right tail but does not exponentiate: k-hat is that of the
# logarithms, near 0 whatever k is. array_stats.psislw wants minus the log weights, which its
# docstring does not say; given the log weights it finds a k-hat of -1.
# Output, k = 0.5 and 1.2: log_weights=True 0.01, -0.01; the weights themselves 0.52, 1.19;
# psislw of minus the log weights 0.52, 1.19, of the log weights -0.97, -1.02.
# Why it matters for VAEs: k-hat above 0.7 says that an importance-weighted log p(x) is unreliable.
# Read by either of the two, every guide is as good as the exact posterior.
# arviz-stats 1.3.3, for Python 3.12 and later, does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    'arviz-stats[xarray]==0.8.0' arviz-base==0.8.2 xarray==2026.9.0 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PYTHON'
import arviz_stats
import numpy as np
from arviz_stats.base import array_stats

print("arviz-stats", arviz_stats.__version__)
rng = np.random.default_rng(0)
for k in (0.2, 0.5, 0.7, 1.2):
    log_weights = -k * np.log(rng.uniform(size=(1, 100_000)))
    by_flag = float(array_stats.pareto_khat(log_weights, log_weights=True))
    by_weights = float(array_stats.pareto_khat(np.exp(log_weights), tail="right"))
    psis, minus = (float(array_stats.psislw(sign * log_weights[0])[1]) for sign in (1, -1))
    print("k", k, "log_weights=True", round(by_flag, 2), "weights", round(by_weights, 2), end=" ")
    print("psislw of log weights", round(psis, 2), "of minus them", round(minus, 2))
    assert abs(by_flag) < 0.1, "changed"
    assert psis < -0.8, "changed"
    assert abs(by_weights - k) < 0.1, "changed"
    assert abs(minus - k) < 0.1, "changed"
PYTHON
