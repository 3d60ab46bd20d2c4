#!/usr/bin/env bash
# ONNX Runtime 1.32.0 and onnx 1.23.2: the operator Bernoulli.
# Expected: a 1 with the probability given, as the operator is specified.
# Seen: ONNX Runtime draws a 1 with probability 1 - p: always for p = 0, never for p = 1. It expands
# the operator by the function body that onnx provides, and that body compares the wrong way round;
# onnx's reference evaluator, which has an implementation of its own, draws as specified.
# Output: p [0, 0.1, 0.5, 0.9, 1], shares of 1 in ONNX Runtime [1, 0.9, 0.5, 0.1, 0], in the
# reference evaluator [0, 0.1, 0.5, 0.9, 1].
# Why it matters for VAEs: a decoder exported with its draw of binary pixels gives negatives of its
# images, and nothing fails. Exported samplers should take their noise as an input.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

p = np.array([0, 0.1, 0.5, 0.9, 1], np.float32)
graph = helper.make_graph(
    [helper.make_node("Bernoulli", ["p"], ["x"], seed=1.0)],
    "draw",
    [helper.make_tensor_value_info("p", TensorProto.FLOAT, (20_000, 5))],
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, (20_000, 5))],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
given = {"p": np.tile(p, (20_000, 1))}
runtime = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
).run(None, given)[0].mean(0)
reference = ReferenceEvaluator(model).run(None, given)[0].mean(0)
print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
print("p", p, "runtime", runtime.round(2), "reference", reference.round(2))
assert np.abs(runtime - (1 - p)).max() < 0.02, "changed"
assert np.abs(reference - p).max() < 0.02, "changed"
PYTHON
