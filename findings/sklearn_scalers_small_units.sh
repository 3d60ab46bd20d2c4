#!/usr/bin/env bash
# scikit-learn 1.9.1: scalers and a column in small units.
# Expected: MinMaxScaler maps every column that is not constant to [0, 1], whatever its unit.
# Seen: a range below 10 machine epsilons, an absolute bound, counts as constant and is not scaled.
# In float32 that is 1.2e-6: lengths of up to a micrometre, in metres. MaxAbsScaler does likewise,
# RobustScaler in float64 below 2.2e-15. StandardScaler has a relative bound and scales them all.
# None warns, and none of the documentation pages of these classes names the bound.
# Output: float32 MinMaxScaler up to 1e-06, MaxAbsScaler up to 1e-06, StandardScaler deviation 1;
# float64 (in units of 1e-15) RobustScaler deviation 2.8e-16.
# Why it matters for VAEs: the column reaches the network as if it were 0 and is never learned,
# while the log likelihood looks the better for it.
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
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

warnings.simplefilter("error")
size = np.random.default_rng(0).uniform(size=(1000, 1))
meters = (1e-6 * size).astype(np.float32)
tiny = 1e-15 * size
print("scikit-learn", sklearn.__version__)
maxima = {}
for scaler in (MinMaxScaler(), MaxAbsScaler()):
    in_large = scaler.fit_transform(size.astype(np.float32)).max()
    in_small = scaler.fit_transform(meters).max()
    print("float32", type(scaler).__name__, "maximum", in_large, "in metres", in_small)
    assert in_large > 0.99, "changed"
    assert in_small < 1.1e-6, "changed"
standard = StandardScaler().fit_transform(meters).std()
robust = [RobustScaler().fit_transform(x).std() for x in (size, tiny)]
print("float32 StandardScaler deviation in metres", round(float(standard), 3))
print("float64 RobustScaler deviation", *robust)
assert abs(standard - 1) < 1e-3, "changed"
assert robust[0] > 0.5, "changed"
assert robust[1] < 1e-14, "changed"
PYTHON
