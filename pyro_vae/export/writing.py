"""Encoder, decoder and sampler of a trained program as files, for use without this package."""

import contextlib
import copy
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pyro_vae.checks import check_choice
from pyro_vae.compilation.tracing import one_line
from pyro_vae.data import DataContract
from pyro_vae.data.transforms import transform_of_values
from pyro_vae.export.check import check, milliseconds, onnx_runner, torch_runner
from pyro_vae.export.functions import FUNCTIONS, Function, functions_of
from pyro_vae.rng import evaluation_mode
from pyro_vae.training.checkpoint import write_atomically

FORMATS = ("onnx", "pt2")
SIGNATURE = "signature.json"
# The version of the ONNX operators, which torch's exporter writes without a conversion.
OPSET = 18
# Protocol buffers hold less than 2 GiB.
_MOST_BYTES = 1_900_000_000


def export_onnx(vae: Any, folder: str | Path, **options: Any) -> dict[str, Any]:
    """Write a trained program's encoder, decoder and sampler as ONNX files: `write_export`."""
    return write_export(vae, folder, formats=("onnx",), **options)


def write_export(
    vae: Any,
    folder: str | Path,
    *,
    only: Sequence[str] = FUNCTIONS,
    formats: Sequence[str] = FORMATS,
    data: Any = None,
    checkpoint_sha256: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a trained program's encoder, decoder and sampler, with preparation of data inside.

    `encoder`: x in the units of training -> z = `embed(x)`, and the standard deviation of q(z | x)
    where it has one. `decoder`: z -> E[x | z] in the units of training. `sampler`: noise ->
    E[x | z] and z ~ p(z). Each is a pure function of its inputs, of any number of rows: what draws
    random numbers takes them as inputs. `signature.json` describes inputs and outputs.

    Each file is run on rows of data before anything is written, and compared with Python.

    >>> from pyro_vae import build, fit
    >>> from pyro_vae.data import digits
    >>> vae = build((1, 8, 8), latent_dim=4)
    >>> history = fit(vae, digits(), epochs=1)
    >>> files = export_onnx(vae, "exported", only=["decoder"])  # doctest: +SKIP

    Args:
        vae: A trained program.
        folder: The folder, which is made if it does not exist.
        only: Some of encoder, decoder, sampler.
        formats: Some of onnx, pt2 (the format of `torch.export`).
        data: Rows of data in the units of training that the files are tried on; None to draw some
            from the model.
        checkpoint_sha256: The SHA-256 of the checkpoint, for the signature.
        overwrite: Whether to replace files that exist.

    Returns:
        The content of `signature.json`.

    Raises:
        ValueError: If a function cannot be exported, differs from Python by more than 1e-5 of an
            output's scale, or a file exists; nothing is written then.
        ImportError: If a package is missing.
    """
    folder = Path(folder)
    check_folder(folder, overwrite=overwrite)
    files, signature = export(
        vae, only=only, formats=formats, data=data, checkpoint_sha256=checkpoint_sha256
    )
    write_files(folder, {**files, SIGNATURE: to_json(signature)})
    return signature


def export(
    vae: Any,
    *,
    only: Sequence[str] = FUNCTIONS,
    formats: Sequence[str] = FORMATS,
    data: Any = None,
    checkpoint_sha256: str | None = None,
    timed: bool = False,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The contents of the files of `write_export`, by name, and the signature.

    Args:
        vae: As for `write_export`.
        only: Likewise.
        formats: Likewise.
        data: Likewise.
        checkpoint_sha256: Likewise.
        timed: Whether to time onnxruntime beside torch.
    """
    from pyro_vae import __version__

    if next(vae.parameters()).device.type != "cpu":
        vae = copy.deepcopy(vae).cpu()
    check_choice(FUNCTIONS, **{f"only[{i}]": name for i, name in enumerate(only)})
    check_choice(FORMATS, **{f"formats[{i}]": name for i, name in enumerate(formats)})
    files: dict[str, bytes] = {}
    described: dict[str, Any] = {}
    with evaluation_mode(vae):
        for name, function in functions_of(vae, only, data).items():
            facts = function.signature()
            program = _exported(name, function)
            for suffix in formats:
                file = f"{name}.{suffix}"
                if suffix == "onnx":
                    metadata = {
                        "pyro_vae": __version__,
                        "checkpoint_sha256": checkpoint_sha256 or "",
                        "columns": json.dumps(list(vae.contract.event_names)),
                        "signature": json.dumps(facts),
                    }
                    files[file] = _onnx(name, program, function, metadata)
                    run = onnx_runner(files[file], function)
                else:
                    files[file] = _pt2(program)
                    run = torch_runner(torch.export.load(io.BytesIO(files[file])), function)
                checked = None if run is None else check(file, run, function, vae.contract)
                facts.setdefault("files", {})[file] = {"check": checked}
                if suffix == "onnx" and timed and run is not None and name != "sampler":
                    runs = {"onnxruntime": run, "torch": torch_runner(program, function)}
                    facts["files"][file]["milliseconds"] = milliseconds(runs, function)
            described[name] = facts
    return files, {
        "pyro_vae": __version__,
        "torch": torch.__version__,
        "checkpoint_sha256": checkpoint_sha256,
        "opset": OPSET if "onnx" in formats else None,
        "data": _data_facts(vae.contract),
        "functions": described,
    }


def _data_facts(contract: DataContract) -> dict[str, Any]:
    """The data of training, as far as a user of the files needs them."""
    _, preparation = transform_of_values(contract, contract, torch.rand_like)
    return {
        "name": contract.name,
        "support": contract.support,
        "likelihood_support": contract.likelihood_support,
        "levels": contract.levels,
        "shape": list(contract.event_shape),
        "columns": list(contract.event_names),
        "classes": list(contract.label_names) if contract.has_classes else [],
        "preparation": preparation,
    }


# ---- files --------------------------------------------------------------------------------------


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Make sure that files may be written.

    Raises:
        ValueError: If the path is a file, or holds an export and `overwrite` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, got a file.")
    if not overwrite and (folder / SIGNATURE).exists():
        raise ValueError(
            f"{folder} holds an export already: --overwrite replaces it, another --out keeps it."
        )


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, each atomically, and delete those of an earlier export."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (f"{name}.{suffix}" for name in FUNCTIONS for suffix in FORMATS):
        if old not in files:
            (folder / old).unlink(missing_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)


def to_json(values: Mapping[str, Any]) -> bytes:
    """Values as JSON."""
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _exported(name: str, function: Function) -> Any:
    """The function as a graph of operations, with the number of rows free."""
    batch = torch.export.Dim("batch")
    inputs = tuple(function.inputs.values())
    try:
        # torch prints the graph of a function that it cannot export.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            # Of recurrent networks, whose list of weights is assigned at each call.
            warnings.filterwarnings("ignore", message="The tensor attributes")
            program = torch.export.export(
                function.module, inputs, dynamic_shapes=(({0: batch},) * len(inputs),)
            )
    except Exception as error:
        raise ValueError(f"the {name} cannot be exported: {one_line(error)}") from error
    for node in program.graph.nodes:
        # Paths of this machine.
        node.meta.pop("stack_trace", None)
        # Recurrent networks have the tag for their dropout.
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random and node.target is not torch.ops.aten.gru.input:
            raise ValueError(
                f"the {name} cannot be exported: it draws random numbers by {node.target}, which "
                "has no form as a function of given noise."
            )
    _remove_unused(program)
    return program


def _remove_unused(program: Any) -> None:
    """Remove the parameters that a function does not use: a decoder holds no encoder."""
    unused = {
        node.name: node
        for node in program.graph.nodes
        if node.op == "placeholder" and not node.users
    }
    specifications = program.graph_signature.input_specs
    removed = [each for each in specifications if each.target and each.arg.name in unused]
    for each in removed:
        specifications.remove(each)
        program.graph.erase_node(unused[each.arg.name])
        program.state_dict.pop(each.target, None)
        program.constants.pop(each.target, None)
    for target, value in program.constants.items():
        if isinstance(value, torch.Tensor):
            # A view would be saved with all that it is a view of, and with a warning.
            program.constants[target] = value.clone(memory_format=torch.contiguous_format)
    program.graph_module.recompile()


def _pt2(program: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(name: str, program: Any, function: Function, metadata: Mapping[str, str]) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX files need onnx and onnxscript, which cannot be imported ({error}): "
            "pip install 'pyro-vae[export]', or use --format pt2."
        ) from error
    tensors = pytree.tree_leaves((program.state_dict, program.constants))
    size = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
    if size > _MOST_BYTES:
        raise ValueError(
            f"the {name} has {size / 1e9:.1f} GB of weights, and an ONNX file holds less than "
            "2: use --format pt2."
        )
    if any(_needs_decomposition(node) for node in program.graph.nodes):
        program = program.run_decompositions(_DECOMPOSITIONS)
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(function.inputs),
            output_names=list(function.expected),
        )
    except Exception as error:
        reason = one_line(error.__cause__ or error)
        raise ValueError(f"the {name} cannot be exported to ONNX: {reason}") from error
    assert exported is not None
    model: Any = exported.model
    nodes = list(model.graph.all_nodes())
    for part in (*nodes, model.graph):
        # Paths of this machine.
        part.metadata_props.clear()
        part.doc_string = None
    values = (*model.graph.inputs, *(value for node in nodes for value in node.outputs))
    symbol = model.graph.inputs[0].shape[0]
    for shape in (value.shape for value in values if value.shape is not None):
        for axis in (k for k, size in enumerate(shape) if size == symbol):
            shape[axis] = "batch"
    model.metadata_props.update(metadata)
    return exported.model_proto.SerializeToString()


def _softplus(x: torch.Tensor, beta: float = 1, threshold: float = 20) -> Any:
    """log(1 + e^(beta x)) / beta of float64, for which onnxruntime has no operator."""
    if x.dtype != torch.float64:
        return NotImplemented
    y = x * beta
    return (y.clamp(min=0) + (-y.abs()).exp().log1p()) / beta


def _hypot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """sqrt(x^2 + y^2), for which ONNX has no operator."""
    larger, smaller = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return larger * (1 + (smaller / larger.clamp(min=torch.finfo(x.dtype).tiny)).square()).sqrt()


_DECOMPOSITIONS = {
    torch.ops.aten.softplus.default: _softplus,
    torch.ops.aten.hypot.default: _hypot,
}


def _needs_decomposition(node: torch.fx.Node) -> bool:
    if node.target is torch.ops.aten.softplus.default:
        return node.meta["val"].dtype == torch.float64
    return node.target in _DECOMPOSITIONS
