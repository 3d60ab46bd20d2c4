#!/usr/bin/env bash
# ONNX Runtime 1.32.0 on a CPU: operators that the ONNX standard has and the runtime has not.
# Expected: a model that onnx's full check accepts is loaded, or refused when it is checked.
# Seen: a session cannot be made with Erf, Softplus or Selu of float64, nor, from opset 22 on, with
# RandomNormal or RandomUniform of float32, which work at opset 20.
# Output: Erf float64, Softplus float64, Selu float64, RandomNormal and RandomUniform of opset 22:
# NotImplemented; the same in float32, and at opset 20: loaded.
# Why it matters for VAEs: data with a large offset need float64 at the graph's entry, normal
# quantiles and decoders' scales need Erf and Softplus, and samplers need noise. What the exporter
# and the checker accept fails only where the model is used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as Missing


def loads(operator, kind, opset):
    noise = operator.startswith("Random")
    node = (
        helper.make_node(operator, [], ["y"], shape=[3], dtype=kind)
        if noise
        else helper.make_node(operator, ["x"], ["y"])
    )
    inputs = [] if noise else [helper.make_tensor_value_info("x", kind, (3,))]
    graph = helper.make_graph(
        [node], "one", inputs, [helper.make_tensor_value_info("y", kind, (3,))]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    except Missing:
        return False
    return True


print("onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
single, double = TensorProto.FLOAT, TensorProto.DOUBLE
for operator in ("Erf", "Softplus", "Selu"):
    found = {"float32": loads(operator, single, 20), "float64": loads(operator, double, 20)}
    print(operator, found)
    assert found == {"float32": True, "float64": False}, "changed"
for operator in ("RandomNormal", "RandomUniform"):
    found = {opset: loads(operator, single, opset) for opset in (20, 22)}
    print(operator, "by opset", found)
    assert found == {20: True, 22: False}, "changed"
PYTHON
