"""The benchmark's page: what is stored in `benchmark.json`, as Markdown."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

from benchmarks import annealing, epochs, evaluation, gpu, memory, precision, scaling, start
from benchmarks.suite import Result
from benchmarks.targets import describe
from pyro_vae.training.checkpoint import write_atomically

# A suite is a module with `run(options)`, which measures, and `table(result)`, which shows it.
SUITES: dict[str, ModuleType] = {
    "cpu": epochs,
    "start": start,
    "scaling": scaling,
    "memory": memory,
    "precision": precision,
    "evaluation": evaluation,
    "annealing": annealing,
    "gpu": gpu,
}
HEADINGS = {
    "cpu": "An epoch on the CPU",
    "start": "From start to first step",
    "scaling": "A step against batch size, latent dimension and particles",
    "memory": "Memory against the number of images",
    "precision": "What bfloat16 costs",
    "evaluation": "log p(x) beside the decoder's matrix products",
    "annealing": "Annealed importance sampling beside the decoder's matrix products",
    "gpu": "On a GPU",
}


def page(results: Mapping[str, Result]) -> str:
    """All suites stored: tables, targets reached and missed, and what they were made by.

    Args:
        results: Results by suite, as in `benchmark.json`.
    """
    parts = []
    for name, suite in SUITES.items():
        if name in results:
            parts.append(f"### {HEADINGS[name]}\n\n{section(name, results[name], suite.table)}")
    return "\n\n".join(parts)


def section(name: str, result: Result, table: Callable[[Result], str]) -> str:
    """A suite's table, its targets, and what it was made by."""
    lines = [f"- {describe(verdict)}" for verdict in result["targets"]]
    targets = "\n".join(lines) + "\n\n" if lines else ""
    return f"{table(result)}\n\n{targets}{_made_by(name, result)}"


def read(path: Path) -> dict[str, Result]:
    """The results stored, none if there is no file.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(results, dict) or not results.keys() <= SUITES.keys():
        raise ValueError(f"{path} must hold suites among {', '.join(SUITES)}.")
    return results


def write(path: Path, name: str, result: Result) -> None:
    """Store a suite's result beside those of other suites, which may come from other machines."""
    results = {**read(path), name: result}
    ordered = {suite: results[suite] for suite in SUITES if suite in results}
    write_atomically(path, (json.dumps(ordered, indent=2, allow_nan=False) + "\n").encode())


def _made_by(name: str, result: Result) -> str:
    made = result["made_by"]
    machine, versions = made["machine"], made["versions"]
    shown = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    gpu_name = f", {machine['gpu']}" if machine["gpu"] else ""
    whole = made["git_commit"] or "none"
    commit = whole[:10] + ("-dirty" if whole.endswith("-dirty") else "")
    return (
        f"`{made['command']}`, commit {commit}; {machine['processor']}, {machine['threads']} of "
        f"{machine['cores']} cores{gpu_name}; {shown}."
    )
