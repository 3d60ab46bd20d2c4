#!/usr/bin/env bash
# zuko 1.6.0 with torch 2.14.1 (6 GB to download): what `import zuko` changes elsewhere.
# Expected: importing a library of normalizing flows leaves other distributions as they are.
# Seen: it sets torch.distributions.Distribution._validate_args to False, for the whole process and
# for distributions that have nothing to do with zuko. A negative scale is then accepted, and a
# Bernoulli scores 0.5. set_default_validate_args(True) after the import turns validation on again.
# Output: before the import 2 ValueErrors; after it none, log densities nan and -0.693.
# Why it matters for VAEs: grey pixels under a Bernoulli, or an encoder whose scale is negative,
# stop a program with an error, until a flow is added as a prior.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    zuko==1.6.0 torch==2.14.1 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import torch
from torch import distributions as dist


def score():
    """Log densities with a negative scale and outside the support, or the error's name."""
    results = []
    for make, x in (
        (lambda: dist.Normal(torch.tensor(0.0), torch.tensor(-1.0)), torch.tensor(0.5)),
        (lambda: dist.Bernoulli(torch.tensor(0.5)), torch.tensor(0.5)),
    ):
        try:
            results.append(round(make().log_prob(x).item(), 3))
        except ValueError:
            results.append("ValueError")
    return results


before = score()
import zuko

after = score()
print("zuko", zuko.__version__, "torch", torch.__version__)
print("before the import", before, "after it", after)
torch.distributions.Distribution.set_default_validate_args(True)
print("turned on again", score())
assert before == ["ValueError"] * 2, "changed"
assert "ValueError" not in after, "changed"
assert score() == before, "changed"
PYTHON
