#!/usr/bin/env bash
# NumPy 2.4.6, h5py 3.16.0, scikit-learn 1.9.1: masked arrays handed from one library to the next.
# Expected: the masked value stays missing, or the array is refused. numpy.save to a file refuses
# it (NotImplementedError), and pandas reads it as NaN.
# Seen: numpy.savez, h5py and StandardScaler take what lies under the mask, without a warning: a
# fill value of -999 becomes a measurement.
# Output: mean of the column [--, 3, 5]: masked array 4.0, savez -330.33, h5py -330.33,
# StandardScaler -330.33, pandas 4.0.
# Why it matters for VAEs: readers of scientific formats return masked arrays. Passed on to a
# scaler or stored once, the missing values are outliers that set the scale of the whole column.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    numpy==2.4.6 h5py==3.16.0 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1
venv/bin/python - <<'PYTHON'
import warnings

import h5py
import numpy as np
import pandas as pd
import sklearn
from sklearn.preprocessing import StandardScaler

warnings.simplefilter("error")
x = np.ma.masked_values(np.array([[-999.0], [3.0], [5.0]]), -999.0)
try:
    np.save("x.npy", x)
    refused = False
except NotImplementedError:
    refused = True
np.savez("x.npz", x=x)
with np.load("x.npz") as file:
    by_savez = file["x"].mean()
with h5py.File("x.h5", "w") as file:
    file["x"] = x
    by_h5py = file["x"][:].mean()
by_scaler = StandardScaler().fit(x).mean_[0]
by_pandas = pd.DataFrame(x)[0].mean()
print("NumPy", np.__version__, "h5py", h5py.__version__, "scikit-learn", sklearn.__version__)
print("save to a file refused:", refused, "masked array", x.mean(), "pandas", by_pandas)
print("savez", by_savez, "h5py", by_h5py, "StandardScaler", by_scaler)
assert refused, "changed"
assert x.mean() == by_pandas == 4, "changed"
assert max(by_savez, by_h5py, by_scaler) < -330, "changed"
PYTHON
