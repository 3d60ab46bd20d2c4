#!/usr/bin/env bash
# safetensors 0.8.0 with NumPy 2.4.6: saving an array that is a view.
# Expected: the values of the array, or an error, as safetensors.torch raises for such tensors.
# Seen: a transposed array comes back with its elements in the order of memory, and every second
# element of an array as the first ones; the shape is right and nothing is said.
# Output: saved [[0, 3], [1, 4], [2, 5]], loaded [[0, 1], [2, 3], [4, 5]]; saved [0, 2, 4], loaded
# [0, 1, 2].
# Why it matters for VAEs: weights converted between layouts (a transposed kernel, `w.T`) and codes
# sliced from a larger array are such views. np.ascontiguousarray before saving helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    safetensors==0.8.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load, save

six = np.arange(6, dtype=np.float32)
saved = {"transposed": six.reshape(2, 3).T, "every_second": six[::2]}
loaded = load(save(saved))
contiguous = load(save({name: np.ascontiguousarray(x) for name, x in saved.items()}))
print("safetensors", safetensors.__version__, "NumPy", np.__version__)
for name, x in saved.items():
    print(name, "saved", x.tolist(), "loaded", loaded[name].tolist())
    assert loaded[name].shape == x.shape, "changed"
    assert np.array_equal(contiguous[name], x), "changed"
assert loaded["transposed"].tolist() == [[0, 1], [2, 3], [4, 5]], "changed"
assert loaded["every_second"].tolist() == [0, 1, 2], "changed"
PYTHON
