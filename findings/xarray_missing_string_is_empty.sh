#!/usr/bin/env bash
# xarray 2026.9.0 with h5netcdf 1.8.2: missing values among strings.
# Expected: None or NaN comes back missing from a NetCDF file, as it does among floats, or
# to_netcdf raises.
# Seen: both come back as the empty string, without a warning. isnull() finds 2 missing values
# before and none after. An empty string that was there before can no longer be told from them.
# The documentation of to_netcdf and open_dataset does not say so; a comment in the source does.
# Output: before ['a', None, '', nan], 2 missing; after ['a', '', '', ''], 0 missing.
# Why it matters for VAEs: unlabelled rows become a class of their own called '', which is then
# counted by accuracy and clustering scores and given a colour in every figure of the latent space.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    xarray==2026.9.0 h5netcdf==1.8.2 h5py==3.16.0 numpy==2.4.6 pandas==3.1.1
venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
import xarray as xr

warnings.simplefilter("error")
labels = np.array(["a", None, "", np.nan], dtype=object)
before = xr.Dataset({"label": ("row", labels)})
before.to_netcdf("labels.nc", engine="h5netcdf")
with xr.open_dataset("labels.nc", engine="h5netcdf") as file:
    after = file.load()
missing = [int(data["label"].isnull().sum()) for data in (before, after)]
print("xarray", xr.__version__)
print("before", labels.tolist(), missing[0], "missing")
print("after", after["label"].values.tolist(), missing[1], "missing")
assert after["label"].values.tolist() == ["a", "", "", ""], "changed"
assert missing == [2, 0], "changed"
PYTHON
