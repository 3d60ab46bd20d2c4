"""The model card of a run: Markdown that starts with the metadata of the Hugging Face Hub.

It is made of the stored files of the run alone. Names that come from the data are escaped, and
paths are reduced to file names: a card is made to be published.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from analysis.html_report.facts import (
    bibtex,
    data_facts,
    flatten,
    provenance_facts,
    training_facts,
)
from analysis.html_report.findings import LEVELS, Finding, findings, overall
from analysis.html_report.numbers import evaluation_numbers, format_value
from analysis.html_report.stored_run import NO_EVALUATION, StoredRun
from analysis.html_report.unsuited_uses import unsuited
from analysis.markdown import code_block, code_span, escape, item, one_line, table, without_folders
from pyro_vae.configuration.model_files import DEFAULT_MODEL, is_shipped
from pyro_vae.data.nouns import use_noun
from pyro_vae.export.modules import draws_in_preparation
from pyro_vae.json_values import to_jsonable
from pyro_vae.programs import labels_of_program
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.training.checkpoint import load_checkpoint

# The identifiers of licences on the Hub; another licence is "other", under its own name.
_HUB_LICENSE = re.compile(
    r"afl-3.0|apache-2.0|artistic-2.0|bsd(-[23]-clause)?(-clear)?|bsl-1.0|cc0-1.0|[al]?gpl(-[23].0)?"
    r"|cc-by(-nc)?(-nd|-sa)?-[234].0|e[cp]l-[12].0|isc|lgpl-2.1|mit|mpl-2.0|ms-pl|ncsa|odbl|odc-by"
    r"|ofl-1.1|osl-3.0|pddl|postgresql|unknown|unlicense|wtfpl|zlib".replace(".", "[.]")
)
_PARTS = ("prior", "likelihood", "posterior", "network")
_SYMBOLS = {"prior": "p(z)", "likelihood": "p(x | z)", "posterior": "q(z | x)"}
# How exported files are loaded.
_LOADING = {
    "encoder.onnx": """\
Without PyTorch, with onnxruntime; `signature.json` has types and shapes of all inputs and outputs:

```python
import onnxruntime

encoder = onnxruntime.InferenceSession("encoder.onnx")
codes = encoder.run(["z"], {INPUTS})[0]
```""",
    "encoder.pt2": """\
With PyTorch alone:

```python
import torch

encoder = torch.export.load("encoder.pt2").module()
codes = encoder(ARGUMENTS)[0]
```""",
    "model.safetensors": """\
The parameters alone, into a program of the same parts:

```python
from pyro_vae.runs.weights import load_safetensors

load_safetensors(vae, "model.safetensors")
```""",
}
# Columns, classes and layers that are listed.
_LISTED = 100


def model_card(
    directory: RunDirectory,
    vae: Any,
    *,
    license: str | None = None,
    files: Sequence[str] = (),
) -> str:
    """Markdown with YAML front matter that says what a model is, how good, and how to use it.

    Data, parts, training, scores with standard errors, the faults that the evaluation and the
    diagnosis found and the uses that they forbid, how to load the model, licence and citation.

    Args:
        directory: The run directory.
        vae: The run's trained program, from `load`.
        license: The licence of the model: its identifier on the Hub or another name. None if it is
            not known, which the card says.
        files: Names of exported files beside the card, such as "encoder.onnx", which it explains.

    Raises:
        ValueError: If there is no run, or the licence is not one short line.

    References:
        Model Cards for Model Reporting (Mitchell et al., 2019), https://arxiv.org/abs/1810.03993
    """
    if license is not None and not re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]{1,100}", license.strip()):
        raise ValueError(
            f"license must be the name of a licence in one line of at most 100 characters, got "
            f"{license!r}."
        )
    license = license and license.strip()
    run = StoredRun.read(directory.path, check_data=False)
    free = partial(without_folders, folders=_folders(run))
    with use_noun(run.noun):
        # RUN stands for the directory in its commands.
        found = findings(
            run.metrics,
            run.diagnosis,
            run="RUN",
            trust_model_file=not is_shipped(run.model),
            cut_short=run.cut_short,
        )
        title = f"{_model_name(run)} of {_data_name(run)}"
        lines = [
            *_front_matter(run, title, license, files),
            f"# {escape(title)}",
            *_summary(run, vae),
            *_use(run, vae, files),
            "## Data",
            *_data(run, free),
            "## Model",
            *_model(run, vae),
            "## Training",
            *_training(run, directory),
            "## Scores",
            *_scores(run, free),
            "## Limits",
            *_limits(found, free),
            "## Licence",
            _license_text(license),
            "## Citation",
            code_block(bibtex(run), "bibtex"),
        ]
    return "\n\n".join(lines) + "\n"


# ---- the metadata ------------------------------------------------------------------------------


def _front_matter(
    run: StoredRun, title: str, license: str | None, files: Sequence[str]
) -> list[str]:
    metrics = run.metrics or {}
    shape = () if run.contract is None else run.contract.event_shape
    images = len(shape) == 3 and shape[0] in (1, 3)
    task = "unconditional-image-generation" if images else "feature-extraction"
    scores = {
        "log_likelihood": (f"log p(x), {_nats(run)}", "log_evidence"),
        "elbo": (f"ELBO, {_nats(run)}", "elbo"),
        "bits_per_dim": ("bits per dimension", "bits_per_dim"),
    }
    measured = [
        {"type": kind, "name": label, "value": float(metrics[key])}
        for kind, (label, key) in scores.items()
        if metrics.get(key) is not None
    ]
    # SPDX has more suffixes than the Hub.
    name = re.sub(r"(-only|-or-later)$", "", (license or "unknown").lower())
    known = _HUB_LICENSE.fullmatch(name) is not None
    record: dict[str, Any] = {
        "license": name if known else "other",
        **({} if known else {"license_name": re.sub(r"[^a-z0-9.]+", "-", name).strip("-")}),
        "library_name": "pyro_vae",
        "pipeline_tag": task,
        "tags": [
            *("variational-autoencoder", "pyro", "pytorch", "latent-variable-model"),
            *(["onnx"] if any(name.endswith(".onnx") for name in files) else []),
            *(
                f"{family}-{one_line(each['name'])}"
                for family in _PARTS
                if isinstance(each := run.configuration.get(family), Mapping) and "name" in each
            ),
        ],
        "metrics": [each["type"] for each in measured],
    }
    if measured:
        data = {"name": _data_name(run), "type": re.sub(r"[^\w.-]+", "-", _data_name(run))}
        data["split"] = str(metrics.get("split", "test"))
        result = {"task": {"type": task}, "dataset": data, "metrics": measured}
        record["model-index"] = [{"name": title, "results": [result]}]
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=99)
    return [f"---\n{text}---"]


def _license_text(license: str | None) -> str:
    own = "The software, pyro_vae, is under Apache-2.0; the data have their own licence."
    stated = "unknown: whoever trained it has not stated one" if license is None else license
    return f"The licence of this model is {escape(stated)}. {own}"


# ---- sections ----------------------------------------------------------------------------------


def _summary(run: StoredRun, vae: Any) -> list[str]:
    configuration = run.configuration
    parts = [
        f"{symbol} {escape(configuration[family]['name'])}"
        for family, symbol in _SYMBOLS.items()
        if isinstance(configuration.get(family), Mapping)
    ]
    made = f" with {', '.join(parts)}" if parts else ""
    latent = configuration.get("latent_dim")
    text = (
        f"A variational autoencoder{made}: {latent} latent dimensions, {_parameters(vae):,} "
        f"parameters. It gives codes z of {run.nouns}, reconstructions, samples and log p(x). RUN "
        "below is its run directory."
    )
    return [text]


def _use(run: StoredRun, vae: Any, files: Sequence[str]) -> list[str]:
    shipped = is_shipped(run.model)
    trust = "" if shipped else ", trust_model_file=True"
    # Of a program that needs labels, y is one for each example.
    y = "y" if labels_of_program(vae) == "always" else ""
    calls = {
        "embed": f"codes = vae.embed({', '.join(filter(None, ('x', y)))})  # z of each {run.noun}",
        "sample": f"new = vae.sample({'1, y=y[:1]' if y else 16}, seed=0)",
        "reconstruct": f"again = vae.reconstruct({', '.join(filter(None, ('x', y)))})",
    }
    code = [call for name, call in calls.items() if hasattr(vae, name)]
    lines = ["## How to use it"]
    if run.contract is not None:
        lines.append(
            f"Inputs and outputs are in the units of the training data: {_form(run)}. They are "
            "prepared as for training: scaled, binarised, columns in order."
        )
    code = ["from pyro_vae import load", "", f'vae = load("RUN"{trust})', *code]
    lines.append(code_block("\n".join(code), "python"))
    if not shipped:
        lines.append(
            "The run has its own model file, `model.py`, which `load` executes: read it first."
        )
    draws = run.contract is not None and draws_in_preparation(run.contract)
    given = {"x": "x"} | ({"y": "y"} if y else {}) | ({"uniform": "0 * x + 0.5"} if draws else {})
    inputs = ", ".join(f'"{name}": {value}' for name, value in given.items())
    texts = [_LOADING[name].replace("INPUTS", inputs) for name in _LOADING if name in files]
    return [*lines, *(text.replace("ARGUMENTS", ", ".join(given.values())) for text in texts)]


def _form(run: StoredRun) -> str:
    """One example in words."""
    contract = run.contract
    assert contract is not None
    kind = f"whole numbers from 0 to {contract.levels - 1}" if contract.levels else ""
    kind = kind or {"counts": "counts", "binary": "0 or 1"}.get(contract.support, "real values")
    named = ", columns by name" if contract.event_names else ""
    return f"each {run.noun} is an array of shape {contract.event_shape}, {kind}{named}"


def _data(run: StoredRun, free: Any) -> list[str]:
    contract = run.contract
    facts = data_facts(run)
    if contract is not None:
        facts["read from"] = _file_name(contract.source) or "a named data set, or memory"
        # Listed below, all of them.
        for name in ("columns", "classes", "factors"):
            facts.pop(name, None)
    rows_digest = "digest of the training rows"
    facts |= {k: v for k, v in provenance_facts(run).items() if k == rows_digest}
    rows = [(name, free(value)) for name, value in facts.items()]
    lines = [table(("", ""), rows)]
    if contract is None:
        return lines
    for what, names in (
        ("Columns, in this order", contract.event_names),
        ("Classes" if contract.has_classes else "Factors", contract.label_names),
    ):
        if names:
            more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
            lines.append(f"{what}: {', '.join(escape(name) for name in names[:_LISTED])}{more}.")
    if contract.notes:
        lines.append(
            "\n".join(["Found in the data:", "", *(item(free(n)) for n in contract.notes)])
        )
    return lines


def _model(run: StoredRun, vae: Any) -> list[str]:
    configuration = run.configuration
    rows = []
    if run.model != DEFAULT_MODEL:
        rows.append(("program", _file_name(run.model), ""))
    for family in _PARTS:
        part = configuration.get(family)
        if isinstance(part, Mapping) and "name" in part:
            options = flatten({k: v for k, v in part.items() if k != "name"})
            text = ", ".join(f"{name} {value}" for name, value in options.items())
            rows.append((f"{family} {_SYMBOLS.get(family, '')}".strip(), part["name"], text))
    sizes = []
    for name, module in vae.named_children():
        layers = [
            f"{type(layer).__name__} {' x '.join(map(str, layer.weight.shape))}"
            for layer in module.modules()
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        ]
        more = f" and {len(layers) - _LISTED} more" if len(layers) > _LISTED else ""
        sizes.append((name, f"{_parameters(module):,}", "; ".join(layers[:_LISTED]) + more))
    return [
        table(("part", "choice", "options"), rows),
        f"The code z has {configuration.get('latent_dim')} dimensions.",
        table(("module", "parameters", "layers, with the shapes of their weights"), sizes),
    ]


def _parameters(module: nn.Module) -> int:
    """The number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _training(run: StoredRun, directory: RunDirectory) -> list[str]:
    metrics, facts = run.metrics or {}, training_facts(run)
    for name in ("time of an epoch", "time to compile", "compiled"):
        facts.pop(name, None)
    objective = run.configuration.get("objective")
    if isinstance(objective, Mapping):
        options = flatten({k: v for k, v in objective.items() if k != "name"})
        facts["options of the objective"] = ", ".join(f"{k} {v}" for k, v in options.items())
    if "steps" not in facts:
        facts["steps"] = f"{load_checkpoint(directory.checkpoint)['step']:,}"
    facts["seed"] = str(run.configuration.get("seed", "not known"))
    for name in ("torch", "pyro"):
        if metrics.get(name):
            facts[f"version of {name}"] = str(metrics[name])
    facts["SHA-256 of the checkpoint"] = _checkpoint_hash(directory)
    facts["commit of pyro_vae"] = str(metrics.get("git_commit") or "not known")
    return [table(("", ""), list(facts.items()))]


def _scores(run: StoredRun, free: Any) -> list[str]:
    metrics = run.metrics or {}
    header = ("score", "value", "error", "unit", "note")
    rows = [
        (each.label, each.value, each.error, each.unit, each.note)
        for each in evaluation_numbers(run)
    ]
    lines = []
    if rows:
        n, split = metrics.get("n"), metrics.get("split", "test")
        many = "" if n is None else f", {n:,} {run.nouns}"
        lines += [f"After training, on the {split} split{many}:", table(header, rows)]
    evaluated = _evaluation_rows(run)
    if evaluated:
        lines += ["Evaluations of log p(x):", table(header, evaluated)]
    if not lines:
        lines = ["The model has not been evaluated: its scores are unknown."]
    others = [each.what for each in run.missing if each.what != NO_EVALUATION]
    if others:
        lines.append("\n".join(["Not complete:", "", *(item(free(what)) for what in others)]))
    return lines


def _evaluation_rows(run: StoredRun) -> list[tuple[str, ...]]:
    """log p(x) of each file in `evaluation`, and the gap of the two-sided check."""
    checkpoint = _checkpoint_hash(run.directory)
    rows = []
    for path in sorted(run.directory.evaluation.glob("*.json")):
        try:
            record = to_jsonable(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(record, dict) or record.get("checkpoint_sha256") != checkpoint:
            continue
        for name, label in (("log_evidence", "log p(x)"), ("gap", "upper less lower bound")):
            value, error = record.get(name), record.get(f"{name}_se")
            if not isinstance(value, int | float):
                continue
            method = str(record.get("method", path.stem)).replace("_", " ")
            text = "" if error is None else f"± {format_value(error, error)} (standard error)"
            about = f"{record.get('n')} of {record.get('data')}, {record.get('split')}"
            number = format_value(float(value), error)
            rows.append((f"{label}, {method}", number, text, _nats(run), about))
    return rows


def _limits(found: Sequence[Finding], free: Any) -> list[str]:
    verdict = overall(found)
    lines = [f"**{escape(verdict.headline)}.** {escape(free(verdict.sentence))}"]
    uses = {}
    for each in found:
        use = unsuited(each)
        if use is not None:
            uses.setdefault(use, each.title)
    if uses:
        lines += [
            "It should not be used for:",
            "\n".join(item(use, f" ({escape(title)}.)") for use, title in uses.items()),
        ]
    words = {"bad": "Faults", "suspicious": "Suspicious", "unknown": "Not known"}
    words["good"] = "Checked, and good"
    for level in LEVELS:
        some = [each for each in found if each.level == level]
        if some:
            items = [_finding(each, free) for each in some]
            lines += [f"### {words[level]}", "\n".join(items)]
    return lines


def _finding(each: Finding, free: Any) -> str:
    threshold = f" Compared with: {escape(free(each.threshold))}." if each.threshold else ""
    command = ""
    if each.command and each.level in ("bad", "suspicious"):
        command = f" Next: {code_span(free(each.command))}"
    stop = "" if each.title.endswith("?") else "."
    return f"- **{escape(each.title)}{stop}** {escape(free(each.sentence))}{threshold}{command}"


# ---- names and text ----------------------------------------------------------------------------


def _model_name(run: StoredRun) -> str:
    return "VAE" if run.model == DEFAULT_MODEL else f"{Path(_file_name(run.model)).stem} VAE"


def _data_name(run: StoredRun) -> str:
    known = (run.metrics or {}).get("data") if run.contract is None else run.contract.name
    return one_line(str(known or run.name))


def _nats(run: StoredRun) -> str:
    return f"nats per {run.noun}"


def _checkpoint_hash(directory: RunDirectory) -> str:
    return hashlib.sha256(directory.checkpoint.read_bytes()).hexdigest()


def _file_name(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _folders(run: StoredRun) -> list[str]:
    """The folders of this run, of its data and of the person, the longest first."""
    paths = [run.directory.path, run.directory.path.absolute(), run.directory.path.resolve()]
    if run.contract is not None and run.contract.source:
        paths.append(Path(run.contract.source))
    own = run.configuration.get("data")
    if isinstance(own, Mapping) and isinstance(own.get("path"), str):
        paths.append(Path(own["path"]))
    folders = {str(path.parent) for path in paths} | {str(Path.home()), str(Path.cwd())}
    return sorted((each for each in folders if len(each) > 1), key=len, reverse=True)
