#!/usr/bin/env bash
# ONNX Runtime 1.32.0 on a CPU: ReduceMax, ReduceMin and LogSoftmax of a row with a NaN.
# Expected: NaN, as in NumPy and PyTorch, wherever in the row it is.
# Seen: ReduceMax and ReduceMin are NaN if the NaN is the first element, and skip it elsewhere.
# LogSoftmax in float64 then gives numbers for the other elements, log probabilities above 40; in
# float32 it gives NaN.
# Output: max of [nan, 1, 3] nan, of [1, nan, 3] 3.0; LogSoftmax of [1, nan, 3] in float64
# [44.05, nan, 46.05], in float32 [nan, nan, nan].
# Why it matters for VAEs: a missing value that reaches an exported encoder or likelihood shows as
# NaN in Python, and may be a finite code or a density far above 1 in the runtime.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def run(operator, row, dtype, **attributes):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        "row",
        [helper.make_tensor_value_info("x", kind, (1, 3))],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": np.array([row], dtype)})[0].ravel()


nan = float("nan")
rows = ([nan, 1, 3], [1, nan, 3], [1, 3, nan])
print("onnxruntime", onnxruntime.__version__)
for operator in ("ReduceMax", "ReduceMin"):
    for dtype in ("f4", "f8"):
        found = [float(run(operator, row, dtype)[0]) for row in rows]
        print(operator, dtype, "NaN first, second, last:", found)
        # Which places count may depend on the CPU's vectors.
        assert {np.isnan(value) for value in found} == {True, False}, "changed"
single, double = (run("LogSoftmax", rows[1], dtype, axis=1) for dtype in ("f4", "f8"))
print("LogSoftmax of [1, nan, 3]: float32", single, "float64", double.round(2))
assert np.isnan(single).all(), "changed"
assert double[0] > 40, "changed"
assert double[2] > 40, "changed"
PYTHON
