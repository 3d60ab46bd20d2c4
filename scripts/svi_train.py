"""Train a VAE by stochastic variational inference, evaluate it and draw what it learned.

`python scripts/svi_train.py` alone trains on scikit-learn's digits. `--help` lists the options of
the selected parts: `python scripts/svi_train.py --prior vamp --help`.
"""

import gc

# Importing torch creates a million objects and no garbage: collecting costs 15 % of start-up.
gc.disable()

import json
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.cli import (
    exit_process,
    in_one_line,
    interruptible,
    log_to,
    select_device,
)
from pyro_vae.commands import as_typed
from pyro_vae.configuration import Configuration
from pyro_vae.configuration.components import (
    build_logger,
    build_objective,
    build_vae_for,
    check_data,
    describe_model,
    kind_of_data,
    load_data,
    number_of_parameters,
    prepare_data,
    to_yaml,
    training_options,
)
from pyro_vae.configuration.model_files import BY_KIND, is_shipped, located
from pyro_vae.configuration.parser import parse, with_likelihood
from pyro_vae.configuration.resume_plan import (
    check_extension,
    check_plan,
    nothing_left,
    plan_notes,
)
from pyro_vae.data import default_root
from pyro_vae.data.nouns import noun, nouns, set_noun, use_noun
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.json_values import to_jsonable
from pyro_vae.labelled_rows import distinct_labels
from pyro_vae.programs import labels_of_program
from pyro_vae.rng import as_floats
from pyro_vae.runs.run_directory import (
    RunDirectory,
    model_hash,
    provenance,
    run_header,
    stored_contract,
)
from pyro_vae.runs.trained_run import with_data_path
from pyro_vae.training import NonFiniteError, Training
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.fit import describe_default_likelihood
from pyro_vae.training.history import describe_record
from pyro_vae.training.loggers import Logger
from pyro_vae.training.processes import LostProcessError, Processes, core_to_spare

gc.enable()
# No later collection looks at what was imported, not even the one at exit.
if not gc.get_freeze_count():
    gc.freeze()

if TYPE_CHECKING:
    from analysis.plotting.drawing_process import DrawingProcess

log = logging.getLogger("pyro_vae")

# Test examples evaluated by default, and elements of sparse data evaluated at most.
QUICK_EXAMPLES = 1000
EVALUATED_ELEMENTS = 4_000_000
EVIDENCE_SAMPLES = 1000
# Examples and draws stored in inference_data.nc; summary statistics cover all evaluated examples.
STORED_EXAMPLES = 64
STORED_DRAWS = 100
# Elements of draws stored of sparse data: their log densities are computed at once.
STORED_ELEMENTS = 2**23
# The exit code when another process was asked to stop, as a shell gives it for SIGTERM.
STOPPED = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    name = as_typed("svi_train.py", names=True)
    try:
        with use_noun("datum"):
            return run(parse(sys.argv[1:] if arguments is None else arguments))
    except (NonFiniteError, LostProcessError) as error:
        print(f"{name}: {as_typed(str(error))}", file=sys.stderr)
        return 1
    except Exception as error:
        line = located(error)
        if line is None and not isinstance(error, ValueError | OSError | ImportError):
            raise
        # All processes fail alike; the first one reports it.
        if os.environ.get("RANK", "0") == "0":
            print(f"{name}: error: {as_typed(line or in_one_line(error))}", file=sys.stderr)
        else:
            # torchrun ends all processes once one has failed, so the first one may report before.
            time.sleep(5)
        return 2
    except KeyboardInterrupt:
        # While data are read, or in the evaluation; training itself ends in order.
        print(f"{name}: stopped; --resume continues a run that has begun", file=sys.stderr)
        return 130


def run(configuration: Configuration) -> int:
    """Print the configuration, or train and evaluate it, alone or among other processes."""
    if configuration["print_config"]:
        print(to_yaml(configuration), end="")
        return 0
    pyro.enable_validation(True)
    pyro.set_rng_seed(configuration["seed"])
    device = select_device(configuration["device"])
    processes = Processes.join(device)
    try:
        return run_process(processes, device, configuration)
    finally:
        processes.leave()


def run_process(processes: Processes, device: torch.device, configuration: Configuration) -> int:
    """Do the work of this process; only the first one writes and prints.

    Everything is checked before the first step; from then on the run directory holds the progress.
    """
    root = Path(configuration["data_root"]) if configuration["data_root"] else default_root()
    resume = configuration["resume"]
    directory, state = RunDirectory(configuration["out"] or ""), None
    if resume and directory.checkpoint.exists():
        state = load_checkpoint(directory.checkpoint)
        contract = stored_contract(state, directory.path)
        configuration = with_data_path(configuration, contract, directory.path)
    dataset = load_data(configuration, root)
    kind, default = kind_of_data(configuration, dataset), None
    if configuration.get("likelihood", {}).get("name") == BY_KIND:
        configuration = with_likelihood(configuration, kind)
        default = describe_default_likelihood(dataset, configuration["likelihood"]["name"], kind)
    data = prepare_data(configuration, dataset)
    set_noun(dataset.noun)
    notes = check_data(configuration, data)
    program = build_vae_for(configuration, data, start=state is None).to(device)
    training = Training(
        program,
        data,
        build_objective(configuration, program, train_size=len(data.train)),
        processes=processes,
        notes=notes,
        **training_options(configuration),
    )
    if state is not None:
        directory.check_model(configuration["model"], state)
        plan = {**configuration, **directory.plan()}
        check_plan(training, state, plan, configuration, directory.path)
        training.load_state_dict(state)
        check_extension(training, plan, configuration)
    if not processes.first:
        return 0 if is_finished(configuration, training) else train_worker(training)
    if not resume:
        directory = RunDirectory.of_new_run(configuration)
        directory.check_free(configuration["overwrite"])
    logger = build_logger(configuration, directory.path)
    if not resume:
        configuration = directory.create(configuration)
    with log_to(directory.log):
        return train(configuration, directory, training, default, logger)


def is_finished(configuration: Configuration, training: Training) -> bool:
    """Whether a resumed run has nothing left to train."""
    return bool(configuration["resume"] and training.step and training.ended)


def train_worker(training: Training) -> int:
    """Train along with the first process, which does everything else."""
    with interruptible() as interruption:
        training.run(stop=interruption)
    return 0 if training.ended else interruption.exit_code or STOPPED


def train(
    configuration: Configuration,
    directory: RunDirectory,
    training: Training,
    default: str | None,
    logger: Logger,
) -> int:
    """Train to the end or to an interruption, then evaluate.

    Args:
        configuration: The run's configuration.
        directory: The run directory.
        training: The training, in the state of a run that is resumed.
        default: The line about a likelihood that was selected by the data.
        logger: What writes while it trains.
    """
    made_by = provenance()  # Before the code that is running can be edited.
    data, vae = training.data, training.program
    labels = data.dataset.labels.get("train")
    if configuration["resume"]:
        directory.write_plan(configuration)
        if is_finished(configuration, training):
            print(f"{directory.path}/: {nothing_left(training, configuration)}")
            if not is_evaluated(configuration, directory, training):
                training.finish()
                drawing = start_drawing(configuration, training)
                with closing(drawing), core_to_spare(training):
                    evaluate_and_save(configuration, directory, training, made_by, drawing)
            return 0
    lines = [data.description, describe_model(configuration, vae), *([default] if default else [])]
    print("\n".join([*lines, f"{directory.path}/"]))
    log.info("%s", "; ".join(lines))
    for note in (*training.notes, *plan_notes(training, configuration)):
        print(f"note: {note}")
        log.info("note: %s", note)
    with closing(start_drawing(configuration, training)) as drawing, core_to_spare(training):
        with interruptible() as interruption:
            training.run(
                checkpoint=directory.checkpoint,
                describe={
                    "event_shape": list(data.dataset.event_shape),
                    "levels": data.dataset.levels,
                    "model_hash": model_hash(configuration),
                    "labels": None if labels is None else distinct_labels(labels),
                },
                on_checkpoint=lambda state: directory.write_records(state.history),
                stop=interruption,
                progress=True,
                loggers=[logger],
            )
        if directory.diagnosis.is_dir() or directory.report.exists():
            from analysis.html_report.page import mark_stale

            mark_stale(directory)
        if not training.ended:
            words = ("--resume", "--out", directory)
            again = command(configuration, "svi_train.py", *words)
            print(f"stopped at step {training.step} of {training.steps}; continue with: {again}")
            return interruption.exit_code or STOPPED
        if training.history:
            print(describe_record(training.history[-1]))
        if configuration["evaluate"] != "none":
            evaluate_and_save(configuration, directory, training, made_by, drawing)
        return 0


def start_drawing(configuration: Configuration, training: Training) -> "DrawingProcess":
    """The process that draws the figures; none on GPUs, and where there are several already."""
    from analysis.plotting.drawing_process import DrawingProcess

    alone = training.processes.size == 1 and training.device.type == "cpu"
    return DrawingProcess(start=alone and configuration["evaluate"] != "none")


def is_evaluated(
    configuration: Configuration, directory: RunDirectory, training: Training
) -> bool:
    """Whether the evaluation that a finished run asks for exists."""
    if configuration["evaluate"] == "none":
        return True
    try:
        metrics = json.loads(directory.metrics.read_text())
        known = metrics["steps"], metrics["n"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    n = number_evaluated(configuration, training.data.fixed("test"))
    # The figures are written last.
    return known == (training.step, n) and directory.figures.is_dir()


def number_evaluated(configuration: Configuration, test: Tensor | SparseRows) -> int:
    """The number of test examples to evaluate."""
    n = len(test) if configuration["evaluate"] == "full" else min(QUICK_EXAMPLES, len(test))
    return min(n, rows_within(EVALUATED_ELEMENTS, test)) if isinstance(test, SparseRows) else n


def evaluate_and_save(
    configuration: Configuration,
    directory: RunDirectory,
    training: Training,
    made_by: dict[str, str | None],
    drawing: "DrawingProcess",
) -> None:
    """Evaluate on test data, and write metrics.json, inference_data.nc, figures and the page."""
    from analysis.html_report.page import write_figures_and_report, write_report
    from analysis.plotting.latent import plot_latents
    from analysis.programs import HeldOut, program_figures, program_scores
    from analysis.report import metrics_text
    from analysis.run_figures import figures_of_evaluation, figures_of_model
    from pyro_vae.evidence import evaluate, fixed_rows, undefined_data
    from pyro_vae.inference_data import from_svi, write_netcdf
    from pyro_vae.runs.training_review import Plan, review
    from pyro_vae.training.schedules import TIED_TO_LENGTH

    data, vae = training.data, cast("PyroModule", training.program)
    test = data.fixed("test")
    n = number_evaluated(configuration, test)
    if isinstance(test, SparseRows) and n == rows_within(EVALUATED_ELEMENTS, test) < len(test):
        print(f"evaluated on {n:,} of {len(test):,} test {nouns()}, as sparse data are made dense")
    rows = fixed_rows(len(test), n)
    held_out = HeldOut.test_rows(data, rows, training.contract, training.device)

    stored = STORED_EXAMPLES
    if isinstance(test, SparseRows):
        stored = min(stored, rows_within(STORED_ELEMENTS // STORED_DRAWS, test))
    numbers = data.dataset.row_numbers("test")[rows.numpy()]

    def begin() -> tuple[Any, dict[str, Callable[[], bytes]]]:
        """The draws to store, and the figures that can be drawn while the model is evaluated."""
        plots = figures_of_model(
            vae,
            training.history,
            held_out.x,
            held_out.y,
            label_names=held_out.label_names,
            event_names=held_out.event_names,
            uses_prior=training.objective.uses_prior,
            contract=training.contract,
        )
        plots |= program_figures(configuration["model"], vae, held_out)
        figures = {name: drawing.submit(plot) for name, plot in plots.items()}
        tree = from_svi(
            vae.model,
            vae.guide,
            as_floats(held_out.x),
            *held_out.given(vae),
            num_draws=STORED_DRAWS,
            num_stored=stored,
            constant_data=None if held_out.y is None else {"label": held_out.y.numpy(force=True)},
            rows=numbers,
            row_names=data.dataset.names_of_rows(numbers),
            configuration=configuration,
            attrs={"split": "test", "rows": f"in the {'file' if data.dataset.rows else 'split'}"},
        )
        return tree, figures | {"forest": drawing.submit(partial(plot_latents, tree))}

    begun = None
    # Of examples that are not defined there may be none: see below, where it is raised otherwise.
    with suppress(Exception):
        begun = begin()
    evaluation = evaluate(
        vae, held_out.x, y=held_out.y, num_samples=EVIDENCE_SAMPLES, progress=True
    )
    found = review(
        vae,
        data,
        held_out.x,
        evaluation,
        training.history,
        objective=training.objective,
        kept_epoch=None if training.stopping.best is None else training.stopping.best_epoch,
        plan=Plan(
            directory.path,
            training.epochs,
            configuration["max_steps"],
            training.steps_per_epoch,
            extensible=training.lr_schedule not in TIED_TO_LENGTH,
            stopped_early=training.stopping.stopped,
            trust_model_file=not is_shipped(configuration["model"]),
        ),
    )
    # An earlier evaluation was of other parameters.
    directory.clear_evaluation()
    summary = evaluation.summary()
    metrics = {
        **run_header(configuration, data, "test"),
        "scale": data.dataset.units.kind,
        "notes": list(training.contract.notes),
        "n_train": len(data.train),
        "objective": configuration["objective"]["name"],
        "labels": labels_of_program(vae),
        **summary,
        **found.summary(),
        **to_jsonable(program_scores(configuration["model"], vae, held_out)),
        "parameters": number_of_parameters(vae),
        "epochs": len(training.history),
        "steps": training.step,
        "seconds_per_epoch": training.seconds_per_epoch,
        "compile": training.compiled,
        "compile_seconds": training.compile_seconds,
        "seed": configuration["seed"],
        **made_by,
    }
    log_evidence = summary["log_evidence"]
    metrics["bits_per_dim"] = None if log_evidence is None else data.bits_per_dim(log_evidence)
    directory.write_metrics(metrics)
    print(metrics_text(metrics))
    for line in found.verdicts or ([found.praise] if found.praise else []):
        print(f"verdict: {as_typed(line)}")
        log.info("verdict: %s", line)

    if len(evaluation.undefined):
        bad = rows[evaluation.undefined].numpy()
        log.warning("%s.", undefined_data(bad, len(rows), f"test {nouns()}"))
        known = np.setdiff1d(np.arange(len(rows)), evaluation.undefined)
        if not len(known):
            write_report(directory.path, interactive=False, check_data=False)
            print(f"metrics.json is in {directory.path}/; no test {noun()} is left to draw")
            return
        evaluation, numbers = evaluation.select(known), numbers[known]
        held_out, begun = held_out.select(known), None
    tree, figures = begun or begin()
    for name, plot in figures_of_evaluation(evaluation).items():
        figures[name] = drawing.submit(plot)
    write_netcdf(tree, directory.inference_data)
    page = write_figures_and_report(figures, directory.path)
    again = command(configuration, "diagnose.py", directory)
    following = f"; next: {again}" * (getattr(vae, "labels", "none") == "none")
    print(f"{page} says whether to trust the model; metrics and figures are beside it{following}")


def command(configuration: Configuration, script: str, *words: str | RunDirectory) -> str:
    """A command about a run, which trusts its model file if it has its own."""
    trust = [] if is_shipped(configuration["model"]) else ["--trust-model-file"]
    typed = [str(word.path) if isinstance(word, RunDirectory) else word for word in words]
    return as_typed(shlex.join(["python", f"scripts/{script}", *typed, *trust]))


def rows_within(elements: int, x: Tensor | SparseRows) -> int:
    """The number of rows of x that hold at most so many elements; at least one."""
    return max(1, elements // math.prod(x.shape[1:]))


if __name__ == "__main__":
    exit_process(main())
