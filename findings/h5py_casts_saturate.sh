#!/usr/bin/env bash
# h5py 3.16.0 with NumPy 2.4.6: type conversion on reading and writing.
# Expected: dataset.astype(type)[:] is dataset[:].astype(type), as its documentation (a "different
# destination type") suggests; NaN written to integers warns, as NumPy does.
# Seen: HDF5 converts, and saturates where NumPy wraps: -1 as uint8 gives 0, not 255. Floats put
# into an integer dataset are cut, NaN becomes 0 and 1e20 becomes 255, without a warning.
# Output: stored [-1, 3, 300]; h5py uint8 [0, 3, 255], NumPy uint8 [255, 3, 44];
# written [nan, -1.5, 2.9, 1e20] to uint8: [0, 0, 2, 255].
# Why it matters for VAEs: -1 and NaN are the usual marks of a row without a label. Read or stored
# as uint8 they become class 0, a class that exists, and no later check can see it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    h5py==3.16.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import warnings

import h5py
import numpy as np

warnings.simplefilter("error")
with h5py.File("labels.h5", "w") as file:
    labels = file.create_dataset("labels", data=np.array([-1, 3, 300]))
    by_h5py, by_numpy = labels.astype("u1")[:], labels[:].astype("u1")
    scores = file.create_dataset("scores", shape=(4,), dtype="u1")
    scores[...] = np.array([np.nan, -1.5, 2.9, 1e20])
    written = scores[:]
print("h5py", h5py.__version__, "NumPy", np.__version__)
print("h5py uint8", by_h5py, "NumPy uint8", by_numpy, "written", written)
assert by_h5py.tolist() == [0, 3, 255], "changed"
assert by_numpy.tolist() == [255, 3, 44], "changed"
assert written.tolist() == [0, 0, 2, 255], "changed"
PYTHON
