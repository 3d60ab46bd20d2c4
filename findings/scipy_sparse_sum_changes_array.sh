#!/usr/bin/env bash
# SciPy 1.17.1: sum() of a sparse array of a narrow integer type with duplicate entries.
# Expected: sum() reads. It is documented to accumulate small integers in the platform's integer,
# so that 300 entries of 1 (uint8) at one place give 300, as sum(axis=0) does.
# Seen: sum() is 44, and it changes the array: duplicates are added in place in its own type,
# where they wrap without a warning. From then on sum(axis=0) is 44, too. max() and tocsr() wrap as
# well.
# Output: sum(axis=0) [300], sum() 44, sum(axis=0) again [44], stored entries 300 -> 1.
# Why it matters for VAEs: count matrices (words of a document, reads of a gene) are built by just
# this, one entry of 1 for each event; a count above 255 comes back small and looks like a count.
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
from scipy.sparse import coo_array

warnings.simplefilter("error")
events = 300
place = np.zeros(events, dtype=int)
counts = coo_array((np.ones(events, dtype=np.uint8), (place, place)), shape=(1, 1))
entries, before = counts.nnz, counts.sum(axis=0)
converted = int(counts.tocsr().toarray()[0, 0])
total = int(counts.sum())
after = counts.sum(axis=0)
print("SciPy", scipy.__version__, "entries", entries, "->", counts.nnz)
print("sum(axis=0)", before, "sum()", total, "sum(axis=0) again", after, "tocsr()", converted)
assert before.tolist() == [300], "changed"
assert total == 44, "changed"
assert after.tolist() == [44], "changed"
assert (entries, counts.nnz) == (300, 1), "changed"
assert converted == 44, "changed"
PYTHON
