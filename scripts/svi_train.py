"""Train a VAE by stochastic variational inference, evaluate it, and draw what it learned.

`python scripts/svi_train.py` alone trains on scikit-learn's digits. `--help` lists the options of
the parts chosen: `python scripts/svi_train.py --prior vamp --help`.
"""

import gc

# Importing torch makes a million objects and no garbage: looking for some costs 15 % of the start.
gc.disable()

import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyro_vae.cli.command_line import parse, with_likelihood
from pyro_vae.cli.common import chosen_device, in_one_line, with_data_path
from pyro_vae.cli.interruption import interruptible
from pyro_vae.data import default_root
from pyro_vae.data.nouns import named, noun, nouns, set_noun
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.rng import as_floats
from pyro_vae.runs.configuration import (
    build_objective,
    build_vae_for,
    check_data,
    kind_of_data,
    load_data,
    prepare_data,
    to_yaml,
    training_options,
)
from pyro_vae.runs.model_files import BY_KIND, DEFAULT_MODEL, located
from pyro_vae.runs.provenance import provenance
from pyro_vae.runs.resume_plan import check_extension, check_plan, nothing_left, plan_notes
from pyro_vae.runs.run_directory import RunDirectory, model_hash, stored_contract
from pyro_vae.runs.strict_yaml import Configuration
from pyro_vae.training import NonFiniteError, Training
from pyro_vae.training.checkpoint import load_checkpoint
from pyro_vae.training.fit import describe_default_likelihood
from pyro_vae.training.history import describe_record
from pyro_vae.training.processes import LostProcessError, Processes

gc.enable()

log = logging.getLogger("pyro_vae")

QUICK_IMAGES = 1000
# Of sparse data at most so many elements are evaluated.
EVALUATED_ELEMENTS = 4_000_000
EVIDENCE_SAMPLES = 1000
# So many draws go to inference_data.nc, of so many data; statistics are there for all evaluated ones.
STORED_IMAGES = 64
STORED_DRAWS = 100
# Of sparse data so many elements of draws are stored: their log densities are computed at once.
STORED_ELEMENTS = 2**23
# The exit code where another process was asked to stop: the shell's for SIGTERM.
STOPPED = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        with named("datum"):
            return run(parse(sys.argv[1:] if arguments is None else arguments))
    except (NonFiniteError, LostProcessError) as error:
        print(f"svi_train.py: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        line = located(error)
        if line is None and not isinstance(error, ValueError | OSError | ImportError):
            raise
        # Of several processes, which all have the same to say, the first says it.
        if os.environ.get("RANK", "0") == "0":
            print(f"svi_train.py: error: {line or in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Not in training, which ends by itself: while data are read, or in the evaluation.
        print("svi_train.py: stopped; --resume goes on with a run that has begun", file=sys.stderr)
        return 130


def run(configuration: Configuration) -> int:
    """Everything up to the first step can be refused; from there on a directory holds what was done."""
    if configuration["print_config"]:
        print(to_yaml(configuration), end="")
        return 0
    pyro.enable_validation(True)
    pyro.set_rng_seed(configuration["seed"])
    device = chosen_device(configuration["device"])
    processes = Processes.join(device)
    try:
        return run_among(processes, device, configuration)
    finally:
        processes.leave()


def run_among(processes: Processes, device: torch.device, configuration: Configuration) -> int:
    """Run this process's part: the first one alone writes and prints."""
    root = Path(configuration["data_root"]) if configuration["data_root"] else default_root()
    if configuration["resume"]:
        resumed = RunDirectory(configuration["out"])
        if resumed.checkpoint.exists():
            contract = stored_contract(load_checkpoint(resumed.checkpoint), resumed.path)
            configuration = with_data_path(configuration, contract, resumed.path)
    dataset = load_data(configuration, root)
    by_kind = configuration["likelihood"]["name"] == BY_KIND
    if by_kind:
        configuration = with_likelihood(configuration, kind_of_data(configuration, dataset))
    data = prepare_data(configuration, dataset)
    set_noun(dataset.noun)
    notes = check_data(configuration, data)
    vae = build_vae_for(configuration, data).to(device)
    training = Training(
        vae,
        data,
        build_objective(configuration, train_size=len(data.train)),
        processes=processes,
        notes=notes,
        **training_options(configuration),
    )

    if not (processes.first or configuration["resume"]):
        return follow(training)
    directory = run_directory(configuration)
    if configuration["resume"]:
        directory.check_plain()
        if directory.checkpoint.exists():
            state = load_checkpoint(directory.checkpoint)
            directory.check_model(configuration["model"], state)
            plan = {**configuration, **directory.plan()}
            check_plan(training, state, plan, configuration, directory.path)
            training.load_state_dict(state)
            check_extension(training, plan, configuration)
        if not processes.first:
            return follow(training) if left(configuration, training) else 0
    else:
        directory.check_free(configuration["overwrite"])
        configuration = directory.create(configuration)
    with logged_to(directory.log):
        said = None
        if by_kind:
            kind = kind_of_data(configuration, dataset)
            said = describe_default_likelihood(dataset, configuration["likelihood"]["name"], kind)
        return train(configuration, directory, training, said)


def left(configuration: Configuration, training: Training) -> bool:
    """Whether there is training to do; a run that ended before it was resumed has none left."""
    return not (configuration["resume"] and training.step and training.ended)


def follow(training: Training) -> int:
    """Train with the first process, and leave the rest to it."""
    with interruptible() as interruption:
        training.run(stop=interruption)
    return 0 if training.ended else interruption.exit_code or STOPPED


def train(
    configuration: Configuration, directory: RunDirectory, training: Training, said: str | None
) -> int:
    """Train to the end or to an interruption, then evaluate.

    Args:
        configuration: The run's.
        directory: Where it is kept.
        training: The training, perhaps in the state of a run that is resumed.
        said: Which likelihood the data got by default; None if one was chosen.
    """
    made_by = provenance()  # Before anyone edits the code that is running.
    data, vae = training.data, training.program
    if configuration["resume"]:
        directory.write_plan(configuration)
        if not left(configuration, training):
            print(f"{directory.path}/: {nothing_left(training, configuration)}")
            if not evaluated(configuration, directory, training):
                training.finish()
                conclude(configuration, directory, training, made_by)
            return 0
    lines = [data.description, describe(configuration, vae), *([said] if said else [])]
    print("\n".join([*lines, f"{directory.path}/"]))
    log.info("%s", "; ".join(lines))
    for note in (*training.notes, *plan_notes(training, configuration)):
        print(f"note: {note}")
        log.info("note: %s", note)
    with interruptible() as interruption:
        training.run(
            checkpoint=directory.checkpoint,
            describe={
                "event_shape": list(data.dataset.event_shape),
                "levels": data.dataset.levels,
                "model_hash": model_hash(configuration),
            },
            on_checkpoint=lambda state: directory.write_records(state.history),
            stop=interruption,
            progress=True,
        )
    if directory.diagnosis.is_dir():
        from analysis.stored_diagnosis import mark_stale

        mark_stale(directory.diagnosis, directory.checkpoint)
    if not training.ended:
        print(
            f"stopped at step {training.step} of {training.steps}; "
            f"go on with: python scripts/svi_train.py --resume --out {directory.path}"
            + "".join(f" {word}" for word in trusting(configuration))
        )
        return interruption.exit_code or STOPPED
    if training.history:
        print(describe_record(training.history[-1]))
    if configuration["evaluate"] != "none":
        conclude(configuration, directory, training, made_by)
    return 0


def evaluated(configuration: Configuration, directory: RunDirectory, training: Training) -> bool:
    """Whether the evaluation that a finished run asks for, if any, was made of it as it is."""
    if configuration["evaluate"] == "none":
        return True
    try:
        metrics = json.loads(directory.metrics.read_text())
        known = metrics["steps"], metrics["n"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    n = evaluated_rows(configuration, training.data.fixed("test"))
    # The figures come last.
    return known == (training.step, n) and directory.figures.is_dir()


def evaluated_rows(configuration: Configuration, test: Tensor | SparseRows) -> int:
    """How many rows of the test data are evaluated."""
    most = len(test) if configuration["evaluate"] == "full" else min(QUICK_IMAGES, len(test))
    return (
        min(most, rows_within(EVALUATED_ELEMENTS, test)) if isinstance(test, SparseRows) else most
    )


def conclude(
    configuration: Configuration,
    directory: RunDirectory,
    training: Training,
    made_by: dict[str, str | None],
) -> None:
    """Evaluate on test data, and write metrics.json, inference_data.nc and the figures."""
    from analysis.run_figures import draw_figures
    from pyro_vae.evidence import evaluate, fixed_rows, undefined_data
    from pyro_vae.inference_data import from_svi, write_netcdf
    from pyro_vae.runs.run_verdicts import Plan, review
    from pyro_vae.training.schedules import TIED_TO_LENGTH

    data, vae = training.data, cast("PyroModule", training.program)
    test = data.fixed("test")
    most = evaluated_rows(configuration, test)
    if isinstance(test, SparseRows) and most == rows_within(EVALUATED_ELEMENTS, test) < len(test):
        print(
            f"evaluated on {most:,} of {len(test):,} test {nouns()}, as many as are dense at once"
        )
    rows = fixed_rows(len(test), most)
    x = test[rows].to(training.device)
    labels = data.dataset.labels.get("test")
    labels = None if labels is None else labels[rows]

    evaluation = evaluate(vae, x, num_samples=EVIDENCE_SAMPLES, progress=True)
    found = review(
        vae,
        data,
        x,
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
            trust_model_file=bool(trusting(configuration)),
        ),
    )
    # An earlier one was of other parameters.
    directory.clear_evaluation()
    metrics = {
        "data": data.dataset.name,
        "binarisation": data.binarisation,
        "scale": data.dataset.units.kind,
        "notes": list(training.contract.notes),
        "split": "test",
        "n_train": len(data.train),
        **{
            family: configuration[family]["name"]
            for family in ("prior", "likelihood", "posterior")
        },
        "objective": configuration["objective"]["name"],
        "latent_dim": configuration["latent_dim"],
        **evaluation.summary(),
        **found.summary(),
        "parameters": sum(parameter.numel() for parameter in vae.parameters()),
        "epochs": len(training.history),
        "steps": training.step,
        "seconds_per_epoch": training.seconds_per_epoch,
        "compile": training.compiled,
        "compile_seconds": training.compile_seconds,
        "seed": configuration["seed"],
        **made_by,
    }
    log_evidence = metrics["log_evidence"]
    metrics["bits_per_dim"] = None if log_evidence is None else data.bits_per_dim(log_evidence)
    directory.write_metrics(metrics)
    print(table(metrics))
    for line in found.verdicts or ([found.praise] if found.praise else []):
        print(f"verdict: {line}")
        log.info("verdict: %s", line)

    known = np.arange(len(x))
    numbers = data.dataset.row_numbers("test")[rows.numpy()]
    if len(evaluation.undefined):
        bad = rows[evaluation.undefined].numpy()
        log.warning("%s.", undefined_data(bad, len(x), f"test {nouns()}"))
        known = np.setdiff1d(known, evaluation.undefined)
        evaluation, x = evaluation.select(known), x[known]
        labels = None if labels is None else labels[known]
        numbers = numbers[known]
    if not len(known):
        print(f"metrics.json is in {directory.path}/; no test {noun()} is left to draw")
        return
    stored = STORED_IMAGES
    if isinstance(test, SparseRows):
        stored = min(stored, rows_within(STORED_ELEMENTS // STORED_DRAWS, test))
    tree = from_svi(
        vae.model,
        vae.guide,
        as_floats(x),
        num_draws=STORED_DRAWS,
        num_stored=stored,
        constant_data=None if labels is None else {"label": labels.numpy()},
        rows=numbers,
        row_names=data.dataset.names_of_rows(numbers),
        configuration=configuration,
        attrs={"split": "test", "rows": "in the file" if data.dataset.rows else "in the split"},
    )
    write_netcdf(tree, directory.inference_data)
    draw_figures(
        vae,
        tree,
        evaluation,
        training.history,
        x,
        labels,
        directory.figures,
        label_names=data.dataset.label_names,
        event_names=data.dataset.event_names,
        uses_prior=training.objective.uses_prior,
        contract=training.contract,
    )
    print(f"metrics.json, inference_data.nc and figures are in {directory.path}/; next:")
    diagnose = ["python", "scripts/diagnose.py", str(directory.path), *trusting(configuration)]
    print(shlex.join(diagnose))


def trusting(configuration: Configuration) -> list[str]:
    """The option that a command on a run with a model file of its own needs."""
    return [] if configuration["model"] == DEFAULT_MODEL else ["--trust-model-file"]


def rows_within(elements: int, x: Tensor | SparseRows) -> int:
    """How many rows of x hold at most so many elements; at least one."""
    return max(1, elements // math.prod(x.shape[1:]))


def run_directory(configuration: Configuration) -> RunDirectory:
    """The directory asked for, or the next free one."""
    if configuration["out"] is not None:
        return RunDirectory(configuration["out"])
    names = Path(configuration["data"].get("path", configuration["data"]["name"])).stem
    name = f"{names}-{configuration['prior']['name']}-{configuration['seed']}"
    return RunDirectory.unused(Path("runs"), name)


def describe(configuration: Configuration, vae: Any) -> str:
    """The model in one line."""
    names = {
        family: configuration[family]["name"] for family in ("prior", "likelihood", "posterior")
    }
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    return (
        f"p(z) {names['prior']}, p(x|z) {names['likelihood']}, q(z|x) {names['posterior']}, "
        f"{configuration['network']['name']}, z in {configuration['latent_dim']} dimensions, "
        f"{parameters:,} parameters"
    )


def table(metrics: dict[str, Any]) -> str:
    """The evaluation as a person reads it."""

    def number(name: str, form: str = ".2f") -> str:
        return "not defined" if metrics[name] is None else format(metrics[name], form)

    samples = metrics["log_evidence_samples"]
    of_evidence = (
        "the guide is a point: without its density there is no bound"
        if samples is None
        else f"nats +- {number('log_evidence_se')}, {samples:,} importance samples"
    )

    def above(name: str) -> str:
        difference, error = metrics[f"above_{name}"], metrics[f"above_{name}_se"]
        if difference is None:
            return ""
        exact = "" if error is None else f" +- {error:,.2f}"
        where = "above" if difference >= 0 else "BELOW"
        return f": log p(x) is {abs(difference):,.2f}{exact} {where}"

    compared = []
    if metrics["baseline"] is not None:
        what = f"nats, {metrics['baseline']}, no latent variables{above('baseline')}"
        compared.append(("baseline", number("baseline_log_density"), what))
    if (factors := metrics["factors"]) is not None:
        what = f"nats, {factors} factor{'' if factors == 1 else 's'}{above('factor_analysis')}"
        compared.append(("factor analysis", number("factor_analysis_log_density"), what))
    rows = [
        ("log p(x)", number("log_evidence"), of_evidence),
        *compared,
        ("ELBO", number("elbo"), "nats = reconstruction - KL"),
        ("reconstruction", number("reconstruction"), "nats, E_q log p(x|z)"),
        ("KL", number("kl"), "nats, KL(q(z|x) || p(z))"),
        ("bits per dimension", number("bits_per_dim", ".4f"), ""),
        ("active units", number("active_units", "d"), f"of {metrics['latent_dim']}"),
        (
            "k-hat above threshold",
            number("khat_share_above", ".1%"),
            f"of {nouns()}: log p(x) is less sure there",
        ),
    ]
    best = metrics["best_validation_epoch"]
    epoch = "not defined" if best is None else f"epoch {best}"
    if metrics["epochs"]:
        rows.append(("best validation", epoch, f"of {metrics['epochs']}"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    title = f"test split of {metrics['data']}, {metrics['n']:,} {nouns()}, mean per {noun()}"
    if metrics["scale"] != "none":
        title += ", densities in the units of the data"
    lines = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    return "\n".join([title, *lines])


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Keep a log of the run beside it; warnings are shown as well."""
    log.setLevel(logging.INFO)
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    for handler in (file, screen):
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, screen):
            log.removeHandler(handler)
            handler.close()


def leave(code: int) -> NoReturn:
    """End the process.

    One of several leaves at once, all written and flushed: while an interpreter is taken down, threads
    that torch.distributed still has may abort it, and `torchrun` would count a finished training as failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
