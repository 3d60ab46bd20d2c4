"""Estimate log p(x) of a trained VAE, how certain it is, and what the guide costs.

`python scripts/evaluate.py RUN` takes a run directory of `scripts/svi_train.py`, estimates log
p(x) by importance weighting, with its IWAE-k curve, and by annealed importance sampling, and
bounds it from both sides on simulated data. Results go to RUN/evaluation/. They are cached in
chunks: after an interruption the same command continues and gives the same numbers.

`--data FILE` evaluates new data instead and writes a score of each row to
RUN/evaluation/NAME-scores.csv.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.report import evidence_text, scores_csv, write_json
from pyro_vae.cli import (
    Parser,
    at_least,
    exit_process,
    in_one_line,
    number_or_all,
    open_run,
    run_program,
)
from pyro_vae.configuration.model_files import MODEL_FAMILIES
from pyro_vae.data.nouns import noun, nouns, set_noun
from pyro_vae.evidence import defined_rows, undefined_data
from pyro_vae.evidence.evaluation import METHODS, EvidenceMethod, EvidenceSettings
from pyro_vae.json_values import to_jsonable
from pyro_vae.log_densities import check_density
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.result_cache import ResultCache, code_hash, digest, to_arrays, write_arrays
from pyro_vae.runs.run_directory import provenance
from pyro_vae.runs.trained_run import TrainedRun
from pyro_vae.statistics import standard_error
from pyro_vae.training.checkpoint import write_atomically

# A model for which annealing is not defined is evaluated without it.
DEFAULT_METHODS = ("importance_weighting", "annealing", "two_sided")
SPLITS = ("test", "validation", "train")
Results = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    stopped = "the same command continues with the current chunk"
    return run_program(parser(), run, arguments, stopped=stopped)


def parser() -> Parser:
    """The options."""
    options = Parser(
        "evaluate.py",
        "evaluate.py RUN [options]",
        __doc__,
        "--data NAME, or a path, and --data.OPTION: other data than the run's, with the options "
        "of svi_train.py; `svi_train.py --data NAME --help` lists them. Files are not split: "
        "every row gets a score.",
        takes_data=True,
    )

    def number(name: str, lowest: int, default: int, help: str) -> None:
        options.add_argument(
            name,
            type=at_least(lowest),
            metavar="N",
            default=default,
            help=f"{help} Default: {default}.",
        )

    add = options.add_argument
    add("run", metavar="RUN", type=Path, help="The run directory.")
    add("--split", choices=SPLITS, default="test", help="The data. Default: test.")
    add(
        "--images",
        type=number_or_all,
        default=argparse.SUPPRESS,
        metavar="N|all",
        help="Examples for importance weighting, in a fixed order. Default: 1000; all of a file "
        "given with --data.",
    )
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=f"Which of {', '.join(METHODS)}. Default: {' '.join(DEFAULT_METHODS)}, as far as "
        "they are defined; importance_weighting for other data.",
    )
    number("--samples", 1, 1000, "Draws K per example.")
    add(
        "--annealed-images",
        type=number_or_all,
        default=100,
        metavar="N|all",
        help="Examples for annealing and gaps. Default: 100.",
    )
    number("--simulated", 1, 50, "Simulated examples for the two-sided check.")
    number("--chains", 1, 16, "Chains per example.")
    number("--temperatures", 1, 500, "Steps from the guide to the joint density.")
    number("--leapfrog-steps", 1, 10, "Leapfrog steps of a transition.")
    number(
        "--refine-steps",
        0,
        0,
        "Steps by which the guide is fitted to each example, for importance weighting and as the "
        "start of annealing.",
    )
    number("--gap-steps", 3, 1000, "Steps of the local guides in gaps.")
    options.add_common_options()
    add("--again", action="store_true", help="Recompute the cached results of these methods.")
    return options


def run(options: argparse.Namespace) -> None:
    """Check everything, then evaluate; each method's results are written at once."""
    default = DEFAULT_METHODS[:1] if options.data else DEFAULT_METHODS
    methods = [name for name in METHODS if name in (options.methods or default)]
    if "gaps" in methods and options.samples < 2:
        raise ValueError(f"--samples must be at least 2 for gaps, got {options.samples}.")
    pyro.enable_validation(True)
    made_by = provenance()
    trained = open_run(options)
    dataset = trained.data.dataset
    if not hasattr(options, "images"):
        options.images = 1000 if dataset.is_split else None
    check_density(trained.vae.guide, trained.x[:1], f"log p(x) of {options.run}")
    set_noun(dataset.noun)
    print(f"{trained.data.description}\n{options.run}/")
    for note in dataset.notes if options.data else ():
        print(note)
    if options.data and (note := trained.vae.contract.training_overlap(dataset.test)):
        print(note)
    report_undefined(trained, options)
    if options.again:
        ResultCache(trained.directory.result_cache).clear(methods)
    results: Results = {}
    for name in methods:
        try:
            result, seconds, rows = compute(name, METHODS[name], trained, options, results)
        except ValueError as error:
            # An error if the method was requested; otherwise it is not defined for this model.
            if options.methods or name == "importance_weighting":
                raise
            print(f"\n{name.replace('_', ' ')}: left out. {in_one_line(error)}")
            continue
        results[name] = result
        write_result(name, trained, options, results, rows, {"seconds": seconds, **made_by})
    draw_curve(trained, results)
    print(f"\nnumbers, arrays and figures are in {trained.directory.evaluation}/")


def report_undefined(trained: TrainedRun, options: argparse.Namespace) -> None:
    """Print which examples have no log p(x); turn off Pyro's validation, which stops there."""
    rows = trained.order[: options.images]
    parts = [defined_rows(trained.vae, trained.batch(part)) for part in rows.split(10_000)]
    undefined = rows.numpy()[~np.concatenate(parts)]
    if len(undefined):
        pyro.enable_validation(False)
        split = trained.header()["split"]
        print(f"{undefined_data(undefined, len(rows), f'{split} {nouns()}')}.")


def compute(
    name: str,
    method: EvidenceMethod,
    trained: TrainedRun,
    options: argparse.Namespace,
    results: Mapping[str, Any],
) -> tuple[Any, float, Tensor | None]:
    """Compute a method's result, chunk by chunk; the seconds it took; its rows of the split."""
    settings = EvidenceSettings(
        options.samples,
        options.chains,
        options.temperatures,
        options.leapfrog_steps,
        options.refine_steps,
        options.gap_steps,
    )
    simulated = method.rows == "simulated"
    rows = trained.order[: options.images]
    if method.rows == "annealed":
        rows = rows[: options.annealed_images]
    if simulated:
        rows = torch.arange(options.simulated)
    annealed = results.get("annealing") if name == "gaps" else None
    if annealed is not None and not np.isfinite(annealed.log_evidence).all():
        annealed = None
    known = (
        None if annealed is None else dict(zip(rows.tolist(), annealed.log_evidence, strict=True))
    )
    configuration = trained.vae.configuration
    identity = {
        "checkpoint": trained.checkpoint_hash,
        # The hash of a model file is in the checkpoint.
        "parts": {each: configuration.get(each) for each in (*MODEL_FAMILIES, "latent_dim")},
        "code": code_hash(),
        "device": trained.device.type,
        "method": name,
        **method.settings(settings),
        "log_evidence": None if annealed is None else annealed.log_evidence,
        "seed": options.seed,
        "split": trained.header()["split"],
    }

    def depends_on(part: Tensor) -> dict[str, Any]:
        return {**identity, "rows": part, "x": trained.x[:1] if simulated else trained.x[part]}

    def compute_chunk(part: Tensor) -> Any:
        # Other settings meet the same noise; each method has its own.
        own = {"method": name, "seed": options.seed, "rows": part}
        seed = int(digest(own)[:15], 16)
        evidence = None if known is None else np.array([known[row] for row in part.tolist()])
        with evaluation_mode(trained.vae, seed=seed):
            x = trained.batch(torch.zeros_like(part) if simulated else part)
            return method.compute(trained.vae, x, settings, seed, evidence)

    size = method.chunk_size(settings, tuple(trained.x.shape[1:]), trained.device.type)
    chunks, total = [], 0.0
    with tqdm(total=len(rows), desc=name.replace("_", " "), unit=noun()) as bar:
        for part, result, seconds in ResultCache(trained.directory.result_cache).map_chunks(
            name, method.result, rows.split(size), compute_chunk, depends_on
        ):
            chunks.append(result)
            total += seconds
            bar.update(len(part))
    return method.result.concatenate(chunks), total, None if simulated else rows


def write_result(
    method: str,
    trained: TrainedRun,
    options: argparse.Namespace,
    results: Results,
    rows: Tensor | None,
    made_by: Mapping[str, Any],
) -> None:
    """Write <method>.json and <method>.npz, and print the numbers.

    The JSON is flat: the origin of the numbers, the result's `summary()`, and its `trust()`. The
    npz holds the fields of the result and `rows`, the row of the split of each example.
    """
    result = results[method]
    summary = {**result.summary(), "trust": result.trust()}
    if method == "annealing" and "importance_weighting" in results:
        # The annealed examples are the first of the importance-weighted ones.
        n = len(result.log_evidence)
        gain = result.log_evidence - results["importance_weighting"].log_evidence[:n]
        summary["above_importance_weighting"] = float(gain.mean())
        summary["above_importance_weighting_se"] = standard_error(gain)
    if (density := summary.get("log_evidence")) is not None:
        summary["bits_per_dim"] = trained.data.bits_per_dim(density)
    record = {
        "method": method,
        **trained.header(),
        **({"split": "simulated"} if rows is None else {}),
        **summary,
        "refine_steps": 0 if method in ("two_sided", "gaps") else options.refine_steps,
        "seed": options.seed,
        **made_by,
        "seconds": round(made_by["seconds"], 3),
    }
    record = to_jsonable(record)
    folder = trained.directory.evaluation
    folder.mkdir(exist_ok=True)
    arrays = to_arrays(result) | ({} if rows is None else {"rows": rows.numpy()})
    write_arrays(folder / f"{trained.prefix}{method}.npz", arrays)
    write_json(folder / f"{trained.prefix}{method}.json", record)
    print(evidence_text(method, record, summary))
    if trained.prefix and method == "importance_weighting" and rows is not None:
        path = folder / f"{trained.prefix}scores.csv"
        write_atomically(path, scores_csv(result, rows).encode())
        print(f"\nthe score of each row is in {path}")


def draw_curve(trained: TrainedRun, results: Results) -> None:
    """Draw the IWAE-k curve, over the annealed examples if there are any."""
    weighted, annealed = results.get("importance_weighting"), results.get("annealing")
    if weighted is None:
        return
    from analysis.elbo.evidence import plot_iwae_curve
    from analysis.plotting.style import to_png

    n = len(weighted.log_evidence) if annealed is None else len(annealed.log_evidence)
    figure = plot_iwae_curve(
        weighted.curve_samples,
        weighted.curve[:, :n],
        None if annealed is None else annealed.log_evidence,
        None if annealed is None else annealed.num_chains,
    )
    path = trained.directory.evaluation / f"{trained.prefix}iwae_curve.png"
    path.write_bytes(to_png(figure))


if __name__ == "__main__":
    exit_process(main())
