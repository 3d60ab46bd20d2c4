"""The latent explorer of a page: decoder, encoder and examples of a trained run as JSON.

`explorer.js` decodes codes in the page, so that a reader can move through the latent space. It
first compares its decoder with the means that PyTorch computed here at a few codes, and shows no
pictures if they differ.
"""

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from analysis.html_report.graph_export import export_function
from analysis.html_report.graph_operations import ExportError, encode_array
from analysis.plotting.images import is_image, value_limits
from analysis.plotting.vectors import Elements, is_long, is_series
from pyro_vae.compilation.tracing import one_line
from pyro_vae.data import DataContract
from pyro_vae.json_values import to_jsonable
from pyro_vae.labelled_rows import WithLabels
from pyro_vae.programs import labels_of_program
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.runs.trained_run import TrainedRun, labels_of

# Elements of all examples of a split together; examples of a split are between these numbers.
_MOST_ELEMENTS = 1_000_000
_FEWEST_EXAMPLES = 100
# Codes at which the page compares its decoder with PyTorch's.
_REFERENCES = 4
_BLOCK_ROWS = 500
_FOLDER = Path(__file__).parent


def explorer_script() -> str:
    """The JavaScript of the explorer, which reads `explorer-data` and fills `explorer`."""
    files = ("interpreter.js", "explorer_views.js", "explorer_plane.js", "explorer.js")
    text = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in files)
    # One scope, apart from the other scripts of the page.
    return f"(() => {{\n{text}\n}})();"


def explorer_style() -> str:
    """The style sheet of the explorer."""
    return (_FOLDER / "explorer.css").read_text(encoding="utf-8")


def explorer_payload(trained: TrainedRun, *, points: int = 1000, neighbours: int = 500) -> str:
    """The data of the explorer: JSON that is safe inside a `<script>` element.

    If the decoder cannot run in a page, it holds the reason, which the page shows instead.

    Args:
        trained: The run.
        points: The number of examples of its split; fewer of large ones.
        neighbours: The number of training examples among which neighbours are found.
    """
    try:
        payload = _payload(trained, points, neighbours)
    except (ExportError, AttributeError, TypeError, ValueError) as error:
        # A program of one's own may lack a part; the rest of a page does not need the explorer.
        said = str(error) if isinstance(error, ExportError) else one_line(error)
        payload = {"unavailable": said}
    text = json.dumps(to_jsonable(payload), separators=(",", ":"), allow_nan=False)
    # Inside strings alone: a name cannot end the element.
    return text.replace("<", "\\u003c")


def _payload(trained: TrainedRun, points: int, neighbours: int) -> dict[str, Any]:
    vae = trained.vae
    _check_program(vae)
    if trained.device.type != "cpu":
        vae = copy.deepcopy(vae).cpu()
    contract: DataContract = vae.contract
    elements = math.prod(contract.event_shape)
    most = max(_MOST_ELEMENTS // elements, _FEWEST_EXAMPLES)
    rows = trained.rows(min(points, most))
    train = trained.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    train_rows = order[: min(neighbours, most)].sort().values
    known, near = as_floats(trained.x[rows].cpu()), as_floats(train[train_rows].cpu())
    with evaluation_mode(vae):
        codes, near_codes = _codes(vae, known), _codes(vae, near)
        decode, encode = _functions(vae, contract)
        decoder = _exported("decoder", decode, codes[:1])
        try:
            encoder: Any = _exported(
                "encoder", encode, contract.to_data_units(known[:1], draws=False)
            )
        except ExportError as error:
            encoder = {"unavailable": str(error)}
        shown = contract.to_data_units(known, draws=False)
        check = _references(vae, contract, shown, codes)
    near_shown = contract.to_data_units(near, draws=False)
    view = _view(contract, near_shown.numpy())
    dataset = trained.data.dataset
    numbers = dataset.row_numbers(trained.split)[rows.numpy()]
    both = np.concatenate([shown.numpy(), near_shown.numpy()])
    return {
        "data": dataset.name,
        "noun": contract.noun,
        "split": trained.split,
        "support": contract.likelihood_support,
        "latent": getattr(vae.prior, "support", "real"),
        "event_shape": contract.event_shape,
        "elements": contract.event_names,
        **view,
        **_limits(view["view"], both),
        "dimensions": np.argsort(-codes.std(0).numpy(), kind="stable"),
        "decoder": decoder,
        "encoder": encoder,
        "check": check,
        "test": {
            "rows": rows,
            "names": dataset.names_of_rows(numbers),
            "codes": encode_array(codes.numpy()),
            "labels": _labels(trained, trained.split, rows),
            **_inputs(shown.numpy(), view["view"]),
        },
        "train": {
            "rows": train_rows,
            "codes": encode_array(near_codes.numpy()),
            "labels": _labels(trained, "train", train_rows),
            **_inputs(near_shown.numpy(), view["view"]),
        },
    }


def _check_program(vae: Any) -> None:
    """Check that codes are one continuous latent, and examples need no labels.

    Raises:
        ExportError: If not.
    """
    program = vae.program if isinstance(vae, WithLabels) else vae
    name = type(program).__name__
    sites = tuple(getattr(program, "latent_sites", ()))
    if labels_of_program(program) != "none":
        raise ExportError(f"{name} decodes a code together with a label or a condition.")
    if len(sites) != 1:
        raise ExportError(f"{name} has the latent sites {', '.join(sites)}, and not one.")
    if getattr(getattr(program, "prior", None), "support", "real") == "one_hot":
        raise ExportError("the code is discrete, and has no values in between.")


def _codes(vae: Any, x: Real[Tensor, " n *event"]) -> Float[Tensor, "n latent"]:
    codes = torch.cat([vae.embed(block).cpu() for block in x.split(_BLOCK_ROWS)]).float()
    if codes.dim() != 2 or not codes.isfinite().all():
        raise ExportError("the codes of the data are not finite vectors.")
    return codes


def _functions(vae: Any, contract: DataContract) -> tuple[Callable[[Tensor], Tensor], ...]:
    """z -> E[x | z], and x -> code, both with x in the units of the data."""

    def decode(z: Tensor) -> Tensor:
        return contract.to_data_units(vae.decode(z), draws=False)

    def encode(x: Tensor) -> Tensor:
        levels, support = contract.levels, contract.likelihood_support
        if levels is not None and support == "unit" and contract.dequantise:
            x = (x + 0.5) / levels
        elif levels is not None and support in ("unit", "real"):
            x = x / (levels - 1)
        # `vae.embed` would check the values of x, which a trace cannot read.
        return getattr(vae, "posterior", vae).embed(x)

    return decode, encode


def _exported(part: str, function: Callable[[Tensor], Tensor], example: Tensor) -> dict[str, Any]:
    try:
        return export_function(function, example)
    except ExportError as error:
        raise ExportError(f"the {part} cannot run in a page: {error}") from error


def _references(
    vae: Any, contract: DataContract, shown: Real[Tensor, " n *event"], codes: Tensor
) -> dict[str, Any]:
    """Codes and examples with PyTorch's results, and the range in which they may differ."""
    z = codes[:_REFERENCES]
    # The last one is no example's code.
    z = torch.cat([z, z.mean(0, keepdim=True)]) if len(z) > 1 else z
    decode, encode = _functions(vae, contract)
    x = shown[:_REFERENCES]
    means, encoded = decode(z), encode(x)
    if not means.isfinite().all():
        raise ExportError("the means of p(x | z) are not finite.")
    return {
        "codes": encode_array(z.numpy()),
        "means": encode_array(means.numpy()),
        "inputs": encode_array(x.numpy()),
        "encoded": encode_array(encoded.numpy()),
    }


def _view(contract: DataContract, x: Real[np.ndarray, " n *event"]) -> dict[str, Any]:
    """How examples are shown: as images, series, tables, or by their most remarkable elements."""
    shape = contract.event_shape
    if is_image(shape) or len(shape) > 3:
        return {"view": "image"}
    elements = None if is_series(shape) else Elements.from_data(x, contract.event_names)
    if elements is None:
        return {"view": "series"}
    values = x.astype(np.float64)
    # Columns without a value have no mean.
    empty = np.isnan(values).all(0)
    values[:, empty] = 0
    center, spread = np.nanmean(values, 0), np.nanstd(values, 0)
    long = is_long(shape)
    return {
        "view": "largest" if long else "table",
        "elements": elements.names,
        "named": elements.named,
        "center": center.round(6) if long else center,
        "spread": np.where(spread > 0, spread, 1.0),
        "order": "value" if np.nanmin(values) >= 0 else "difference",
    }


def _limits(view: str, x: Real[np.ndarray, " n *event"]) -> dict[str, Any]:
    """The values drawn black and white, or at the ends of a bar; of a table by column."""
    if view in ("image", "series"):
        low, high = value_limits(x)
        if isinstance(low, np.ndarray):
            low, high = (np.broadcast_to(part, x.shape[1:]).ravel() for part in (low, high))
        return {"low": low, "high": high}
    values = x.astype(np.float64)
    values[:, np.isnan(values).all(0)] = 0
    return {"low": np.nanmin(values, 0), "high": np.nanmax(values, 0)}


def _inputs(x: Real[np.ndarray, " n *event"], view: str) -> dict[str, Any]:
    """Examples as integers times a step plus a minimum: whole numbers and tables are exact."""
    values = x.reshape(len(x), -1)
    known = values[np.isfinite(values)]
    if len(known) < values.size or (view == "table" and (known != known.round()).any()):
        return {"inputs": encode_array(values), "least": 0.0, "step": 1.0}
    least, most = float(known.min()), float(known.max())
    if (known == known.round()).all() and most - least <= np.iinfo(np.uint16).max:
        step = 1.0
    else:
        step = (most - least) / (255 if view == "image" else np.iinfo(np.uint16).max)
    whole = ((values.astype(np.float64) - least) / (step or 1.0)).round()
    dtype = np.uint8 if whole.max() <= 255 else np.uint16
    return {"inputs": encode_array(whole.astype(dtype)), "least": least, "step": step}


def _labels(trained: TrainedRun, split: str, rows: Tensor) -> list[dict[str, Any]]:
    """Labels, factors or a target of examples, each with its values, and the names of classes."""
    values = labels_of(trained.data, split, rows)
    if values is None:
        return []
    names: Sequence[str] = trained.data.dataset.label_names
    if values.ndim == 1 and np.issubdtype(values.dtype, np.integer):
        classes = names or [str(number) for number in range(int(values.max(initial=0)) + 1)]
        return [{"name": "label", "values": values, "classes": classes}]
    columns = values.reshape(len(values), -1).T
    named = names if len(names) == len(columns) else [f"target {k}" for k in range(len(columns))]
    return [{"name": name, "values": column} for name, column in zip(named, columns, strict=True)]
