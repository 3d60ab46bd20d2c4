"""Facts of a run for its page: its data, its training, and what made the numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.html_report.numbers import evaluation_numbers
from analysis.html_report.stored_run import StoredRun
from analysis.stored_diagnosis import SECTION_NAMES
from pyro_vae.runs.result_cache import digest

VERSIONS = (
    "pyro_vae",
    "torch",
    "pyro",
    "numpy",
    "scipy",
    "matplotlib",
    "arviz_base",
    "arviz_stats",
)
# The sections of a diagnosis without `--only`.
DEFAULT = tuple(name for name in SECTION_NAMES if name != "representation")


def data_facts(run: StoredRun) -> dict[str, str]:
    """What was read, and how it was scaled and split."""
    contract, metrics = run.contract, run.metrics or {}
    if contract is None:
        known = {"name": metrics.get("data"), "binarised": metrics.get("binarisation")}
        known |= {"training rows": metrics.get("n_train"), "scaled by": metrics.get("scale")}
        return {name: str(value) for name, value in known.items() if value is not None}
    levels = "" if contract.levels is None else f", {contract.levels} levels"
    facts = {
        "name": contract.name,
        "read from": contract.source or "a named data set, or memory",
        "SHA-256 of the source": contract.source_digest,
        "values": f"{contract.support}{levels}, from {contract.low:g} to {contract.high:g} in the "
        "training split",
        "shape of an example": " x ".join(map(str, contract.event_shape)),
        "examples": ", ".join(f"{size:,} {split}" for split, size in contract.sizes.items()),
        "split": contract.split_rule,
        "scaled for the networks by": contract.units.kind,
        "support of the likelihood": contract.likelihood_support,
        "binarised": contract.binarisation or "",
    }
    if contract.likelihood_support == "unit" and contract.levels is not None:
        facts["dequantised"] = "yes" if contract.dequantise else "no"
    if contract.label_names:
        facts["classes" if contract.has_classes else "factors"] = _some(contract.label_names)
    if contract.event_names:
        facts["columns"] = _some(contract.event_names)
    if metrics.get("n") is not None:
        facts["evaluated"] = f"{metrics['n']:,} {run.nouns} of the {metrics.get('split')} split"
    return {name: value for name, value in facts.items() if value}


def _some(names: Sequence[str], most: int = 30) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def training_facts(run: StoredRun) -> dict[str, str]:
    """The length and speed of training."""
    metrics, configuration = run.metrics or {}, run.configuration
    last = run.history[-1] if run.history else {}
    objective = configuration.get("objective")
    seconds, compiled = metrics.get("seconds_per_epoch"), metrics.get("compile_seconds")
    values = {
        "objective": (objective or {}).get("name") if isinstance(objective, dict) else None,
        "epochs": _integer(metrics.get("epochs", last.get("epoch"))),
        "steps": _integer(metrics.get("steps", last.get("step"))),
        "best validation epoch": _integer(metrics.get("best_validation_epoch")),
        "batch size": _integer(configuration.get("batch_size")),
        "learning rate": configuration.get("lr"),
        "parameters": _integer(metrics.get("parameters")),
        "time of an epoch": None if seconds is None else f"{seconds:.3g} s, the median",
        "compiled": metrics.get("compile"),
        "time to compile": None if compiled is None else f"{compiled:.1f} s",
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _integer(value: Any) -> str | None:
    return None if value is None else f"{int(value):,}"


def provenance_facts(run: StoredRun) -> dict[str, str]:
    """The commands, seeds, versions and data that made the numbers of the page."""
    metrics, diagnosis = run.metrics or {}, run.diagnosis or {}
    config = str(run.directory.config)
    facts = {"training": run.command("svi_train", "--config", config, "--out", "DIR")}
    if diagnosis:
        sections = [name for name in SECTION_NAMES if name in diagnosis]
        only = [] if sections == [*DEFAULT] else ["--only", *sections]
        facts["diagnosis"] = run.command("diagnose", "RUN", *only, *run.options_of_diagnosis)
    facts["seed of training"] = str(run.configuration.get("seed", "not known"))
    if diagnosis:
        facts["seed of the diagnosis"] = str(diagnosis.get("seed", "not known"))
    for made, record in (("training", metrics), ("diagnosis", diagnosis)):
        versions = [f"{name} {record[name]}" for name in VERSIONS if record.get(name)]
        if record.get("git_commit"):
            versions.append(f"commit {record['git_commit']}")
        if versions:
            facts[f"versions, {made}"] = ", ".join(versions)
    if run.contract is not None:
        facts["data"] = f"{run.contract.name}, SHA-256 {run.contract.source_digest}".removesuffix(
            ", SHA-256 "
        )
        if "train" in run.contract.digests:
            rows = digest({"rows": run.contract.digests["train"]})
            facts["digest of the training rows"] = rows[:16]
    if diagnosis.get("checkpoint_sha256"):
        facts["SHA-256 of the checkpoint"] = diagnosis["checkpoint_sha256"]
    return facts


def bibtex(run: StoredRun) -> str:
    """A BibTeX entry of the run."""
    metrics = run.metrics or {}
    names = ("prior", "likelihood", "posterior")
    parts = [f"{name} {metrics[name]}" for name in names if metrics.get(name)]
    model = "VAE" if run.model == "vae" else run.model
    title = f"{model} of {metrics.get('data') or (run.contract and run.contract.name) or run.name}"
    notes = [f"run {run.name}", f"seed {run.configuration.get('seed')}"]
    if metrics.get("log_evidence") is not None:
        row = next(each for each in evaluation_numbers(run) if each.label == "log p(x)")
        notes.append(f"log p(x) = {row.value} {row.error.partition(' (')[0]} {row.unit}")
    notes += [f"{name} {metrics[name]}" for name in ("torch", "pyro") if metrics.get(name)]
    title += f" ({', '.join(parts)})" if parts else ""
    return bibtex_entry(run.name, title, metrics, notes)


def bibtex_entry(key: str, title: str, made_by: Mapping[str, Any], notes: Sequence[str]) -> str:
    """A BibTeX entry of numbers made by this package.

    Args:
        key: What distinguishes the entry.
        title: The title.
        made_by: Its version, "pyro_vae", and its commit, "git_commit", as far as they are known.
        notes: The origin of the numbers.
    """
    version, commit = made_by.get("pyro_vae"), made_by.get("git_commit")
    package = f"pyro_vae {version}" if version else "pyro_vae"
    if commit or not version:
        package += f", commit {commit or 'not known'}"
    fields = {
        "title": title,
        "howpublished": package,
        "note": "; ".join(notes),
    }
    key = re.sub(r"[^A-Za-z0-9-]", "", key) or "run"
    lines = [f"  {name} = {{{_tex(value)}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{pyro-vae-{key},", *lines, "}"])


def _tex(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "{}%&#_$"}
    return "".join(special.get(character, character) for character in text)


def flatten(configuration: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Options by their command-line names.

    >>> flatten({"lr": 0.1, "prior": {"name": "vamp", "components": 5}})
    {'lr': '0.1', 'prior': 'vamp', 'prior.components': '5'}
    """
    flat: dict[str, str] = {}
    for name, value in configuration.items():
        place = prefix.removesuffix(".") if prefix and name == "name" else f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{place}.")
        else:
            flat[place] = "default" if value is None else str(value)
    return flat
