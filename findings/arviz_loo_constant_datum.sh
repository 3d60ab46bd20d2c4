#!/usr/bin/env bash
# arviz-stats 0.8.0: loo with one datum whose log likelihood is the same in all draws.
# Expected: its importance weights are all equal, so that its elpd is its log likelihood and no
# smoothing is needed; the other data are as before.
# Seen: ValueError, "All tail values are the same", for the whole call. It names no datum, and the
# documentation of loo does not mention it. Without that datum the call succeeds.
# Output: 19 data: elpd -9.59; with one constant datum: ValueError.
# Why it matters for VAEs: a row without observed values, or a collapsed latent variable, gives
# just this. One such row among thousands ends the comparison of models.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    'arviz-stats[xarray]==0.8.0' arviz-base==0.8.2 xarray==2026.9.0 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PYTHON'
import arviz_base
import arviz_stats
import numpy as np

rng = np.random.default_rng(0)
log_likelihood = 0.1 * rng.normal(size=(4, 500, 20)) - 0.5
log_likelihood[..., 3] = -1.5


def loo(log_likelihood):
    draws = {"theta": rng.normal(size=log_likelihood.shape[:2])}
    groups = {"posterior": draws, "log_likelihood": {"x": log_likelihood}}
    return arviz_stats.loo(arviz_base.from_dict(groups)).elpd


print("arviz-stats", arviz_stats.__version__)
print("without the constant datum", round(float(loo(np.delete(log_likelihood, 3, axis=2))), 2))
message = ""
try:
    print("with it", loo(log_likelihood))
except ValueError as error:
    message = str(error)
    print("with it: ValueError:", message)
assert message == "All tail values are the same", "changed"
PYTHON
