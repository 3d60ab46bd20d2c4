"""Exported files run on rows of data, compared with Python, and timed beside it."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.compilation.tracing import one_line
from pyro_vae.data import DataContract
from pyro_vae.export.functions import Function

# The largest difference allowed, as a share of the scale of an output.
TOLERANCE = 1e-5
# Numbers of rows that a file is run on, and timed on.
BATCHES, TIMED = (1, 3, 7), (1, 256)
_REPEATS, _SECONDS = 200, 0.3

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Any]]


def onnx_runner(content: bytes, function: Function) -> Run | None:
    """A function that runs an ONNX file in onnxruntime; None if that is not installed.

    It uses as many threads as torch.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    names, sessions = list(function.expected), list[Any]()

    def run(inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        if not sessions:
            providers = ["CPUExecutionProvider"]
            sessions.append(onnxruntime.InferenceSession(content, options, providers=providers))
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        return dict(zip(names, sessions[0].run(names, given), strict=True))

    return run


def torch_runner(program: torch.export.ExportedProgram, function: Function) -> Run:
    """A function that runs an exported program in torch."""
    module = program.module(check_guards=False)
    return lambda inputs: dict(zip(function.expected, module(*inputs.values()), strict=True))


def check(name: str, run: Run, function: Function, contract: DataContract) -> dict[str, Any]:
    """Compare the first rows of all inputs with what Python gives.

    Args:
        name: The file, for the message.
        run: Runs it.
        function: The function.
        contract: The data of training.

    Returns:
        The numbers of rows, the largest difference, and the largest allowed.

    Raises:
        ValueError: If an output differs by more than 1e-5 of its scale.
    """
    worst = 0.0
    for rows in BATCHES:
        try:
            found = run({key: tensor[:rows] for key, tensor in function.inputs.items()})
        except Exception as error:
            raise ValueError(f"{name} does not run: {one_line(error)}") from error
        for output, reference in function.expected.items():
            scale = scale_of(output, reference.double(), contract)
            difference = _largest(found[output], reference, rows, scale)
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"{name} is not equal to Python: of {rows} rows, its output {output} differs "
                    f"by {difference:.2g} of its scale, more than {TOLERANCE:g}; nothing was "
                    "written."
                )
            worst = max(worst, difference)
    return {"batches": [*BATCHES], "largest_difference": worst, "tolerance": TOLERANCE}


def scale_of(name: str, value: Tensor, contract: DataContract) -> Any:
    """The scale of an output, of which a difference is a share.

    That of x is the spread in training of each element of real data, or the largest distance of
    its values from their center; the largest mean of each count; the range of other data. That of
    z is the largest magnitude, at least 1; that of other outputs the largest magnitude.

    Args:
        name: The output.
        value: What it should be.
        contract: The data of training.
    """
    if name != "x":
        return max(float(value.abs().max()), 1.0 if name == "z" else 0.0)
    if contract.likelihood_support == "counts":
        return value.abs().amax(0)
    if contract.levels is not None:
        return 1 if contract.binarisation is not None else contract.levels - 1
    if contract.likelihood_support != "real":
        return 1
    units = contract.units
    u = (value - units.center) / units.spread
    return units.spread * u.abs().amax(0).clamp(min=1)


def _largest(found: Any, reference: Tensor, rows: int, scale: Any) -> float:
    """The largest difference as a share of the scale; two roundings of a value are within 1e-5."""
    got, want = torch.as_tensor(np.asarray(found)).double(), reference[:rows].double()
    if got.shape != want.shape:
        return float("inf")
    rounding = 2 * torch.finfo(reference.dtype).eps / TOLERANCE * want.abs()
    share = (got - want).abs() / (scale + rounding)
    share = torch.where((got == want) | (got.isnan() & want.isnan()), 0.0, share)
    return float(share.nan_to_num(torch.inf).max())


def milliseconds(runs: Mapping[str, Run], function: Function) -> dict[str, dict[str, float]]:
    """The median time of a call for each number of rows, of each way to run a function."""
    times: dict[str, dict[str, float]] = {}
    for rows in TIMED:
        index = torch.arange(rows) % len(next(iter(function.inputs.values())))
        inputs = {key: tensor[index] for key, tensor in function.inputs.items()}
        times[str(rows)] = {
            name: _median(lambda run=run, inputs=inputs: run(inputs)) for name, run in runs.items()
        }
    return times


def _median(call: Callable[[], Any]) -> float:
    """The median time of a call, in milliseconds."""
    call()
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
