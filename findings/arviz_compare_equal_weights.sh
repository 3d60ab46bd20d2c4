#!/usr/bin/env bash
# arviz-stats 0.8.0: compare of models whose log densities are large numbers.
# Expected: stacking weights depend on differences of the models' pointwise elpd only. A constant
# added to all of them (another unit of the data) leaves the weights as they are.
# Seen: the elpd is exponentiated as it is. Below about -745 nats per example every model has a
# density of 0, above 709 of infinity, and all weights are equal. NumPy's "divide by zero" or
# "overflow" is the only sign. The method "pseudo-BMA" does not exponentiate it and is right.
# Output, two models 150 nats apart, weight of the better one: 1.0; elpd lower by 800: 0.5;
# higher by 800: 0.5; pseudo-BMA 1.0 in all.
# Why it matters for VAEs: log p(x) of an image is some hundreds or thousands of nats. Any two
# VAEs get weights of one half, in the same table that shows a difference of 200 standard errors.
# arviz-stats 1.3.3, for Python 3.12 and later, does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    'arviz-stats[xarray]==0.8.0' arviz-base==0.8.2 xarray==2026.9.0 numpy==2.4.6 scipy==1.17.1 \
    pandas==3.1.1
venv/bin/python - <<'PYTHON'
import warnings

import arviz_base
import arviz_stats
import numpy as np

rng = np.random.default_rng(0)
better = rng.normal(size=50)
worse = better - 3 + 0.1 * rng.normal(size=50)
noise = 0.01 * rng.normal(size=(4, 500, 50))
draws = {"theta": rng.normal(size=(4, 500))}


def loo(elpd):
    groups = {"posterior": draws, "log_likelihood": {"x": elpd + noise}}
    return arviz_stats.loo(arviz_base.from_dict(groups), pointwise=True)


print("arviz-stats", arviz_stats.__version__)
weight, messages = {}, {}
for shift in (0, -700, -800, 800):
    models = {"better": loo(better + shift), "worse": loo(worse + shift)}
    for method in ("stacking", "pseudo-BMA"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = arviz_stats.compare(models, method=method)
        weight[method, shift] = float(table["weight"]["better"])
        difference, error = table["elpd_diff"].abs().max(), table["dse"].max()
        print("shift", shift, method, "weight", round(weight[method, shift], 3), end=" ")
        numeric = {str(each.message) for each in caught if each.category is RuntimeWarning}
        print(f"difference {difference:.1f} +- {error:.1f}", *sorted(numeric))
for shift in (0, -700):
    assert weight["stacking", shift] > 0.99, "changed"
for shift in (-800, 800):
    assert abs(weight["stacking", shift] - 0.5) < 1e-6, "changed"
for shift in (0, -700, -800, 800):
    assert weight["pseudo-BMA", shift] > 0.99, "changed"
PYTHON
