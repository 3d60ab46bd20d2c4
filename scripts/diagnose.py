"""What is right and wrong with a trained VAE: everything that `analysis` asks of it, in one command.

`python scripts/diagnose.py RUN` takes a run directory of `scripts/svi_train.py` and writes figures and
diagnosis.json to RUN/diagnosis/. `--only SECTION` makes one section and keeps the others; those of another
checkpoint, other data or other options are marked stale. `--only representation` asks what its codes are good for.
`python scripts/diagnose.py RUN1 RUN2 ...` compares runs by log p(x) of the same held-out data, and by
rate and distortion; with `--only representation` it sets side by side what their codes are good for.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

from analysis.commands import AGAIN
from analysis.plotting.style import to_png
from analysis.sections import SECTIONS
from analysis.stored_diagnosis import StoredDiagnosis
from pyro_vae.cli.common import (
    Parser,
    TrainedRun,
    at_least,
    chosen_device,
    in_one_line,
    number_or_all,
    run_program,
    trained_run,
)
from pyro_vae.data import PreparedData
from pyro_vae.data.memory_mapped import MemoryMapped
from pyro_vae.data.nouns import nouns, set_noun
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.evidence import defined_rows, undefined_data
from pyro_vae.json_values import to_jsonable
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.runs.configuration import build_vae_for
from pyro_vae.runs.other_data import other_data
from pyro_vae.runs.provenance import provenance
from pyro_vae.runs.result_cache import digest
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.runs.strict_yaml import ConfigurationError
from pyro_vae.statistics import MINIMUM_SAMPLES
from pyro_vae.training.checkpoint import load_checkpoint, write_atomically

if TYPE_CHECKING:
    from analysis.diagnosis import SectionResult
    from analysis.elbo.rate_distortion import RateDistortion
    from analysis.progress import Steps
    from analysis.subject import Foreign, Subject

# The data must not have trained the model.
SPLITS = ("test", "validation")
# Of training data that lie on the disk so many are read, of sparse ones at most so many elements;
# others are taken whole.
FROM_DISK = 10_000
SPARSE_ELEMENTS = 2**25
# What the bare command makes of one run: the rest is asked for by name.
USUAL = tuple(name for name, section in SECTIONS.items() if section.default)
# The records of comparisons, of which a folder holds one.
COMPARISONS = ("comparison.json", "representation.json")
WIDTH = 100
# Where a run's path goes once lines are wrapped, so that a long path wraps no others.
PLACE = "\0RUN"
# What holds the words of a command together.
SPACE = "\1"
LIBRARIES = ("arviz_base", "arviz_plots", "arviz_stats", "matplotlib", "numpy", "scipy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(
        parser(),
        run,
        arguments,
        stopped="sections that were finished are kept, nothing else was written",
    )


def parser() -> Parser:
    """The options."""
    options = Parser(
        prog="diagnose.py",
        usage="diagnose.py RUN [RUN ...] [options]",
        description=str(__doc__).partition("\n")[0],
        allow_abbrev=False,
    )
    add = options.add_argument
    add(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="A run directory to diagnose, or several to compare.",
    )
    add("--split", choices=SPLITS, default="test", help="The data. Default: test.")
    add(
        "--images",
        type=number_or_all,
        default=1000,
        metavar="N|all",
        help="So many fixed data of the split. Default: 1000.",
    )
    add(
        "--samples",
        type=at_least(MINIMUM_SAMPLES),
        metavar="N",
        default=1000,
        help="Draws from the guide for each datum's importance weights, enough for a k-hat. Default: 1000.",
    )
    add(
        "--only",
        nargs="+",
        choices=SECTIONS,
        metavar="SECTION",
        help=f"Which of {', '.join(SECTIONS)}; of several runs, representation. Default: of one run, "
        f"{', '.join(USUAL)}, as far as it has them.",
    )
    add(
        "--against",
        metavar="DATA",
        help="Foreign data for representation, a set's name or a path as of svi_train.py: can the run "
        "tell them from its own, and are its codes of use there? Default: stand-ins made of its own.",
    )
    options.add_common_options()
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="Of several runs, where to write. Default: runs/comparison, or the next free number.",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Diagnose one run, or compare several."""
    pyro.enable_validation(True)
    made_by = {**provenance(), **versions()}
    if options.against is not None and "representation" not in (options.only or ()):
        raise ValueError("--against is for --only representation: nothing else looks at it.")
    if len(options.runs) == 1:
        if options.out is not None:
            raise ValueError("--out is for several runs: a diagnosis is written to RUN/diagnosis.")
        diagnose(options, made_by)
    elif options.only is None:
        compare(options, made_by)
    elif set(options.only) == {"representation"}:
        set_side_by_side(options, made_by)
    else:
        raise ValueError(
            f"--only of {len(options.runs)} runs must be representation alone, got "
            f"{' '.join(options.only)}: other sections are of one run."
        )


def diagnose(options: argparse.Namespace, made_by: dict[str, str | None]) -> None:
    """Make the sections of one run, then write them."""
    trained = opened(options, options.runs[0])
    set_noun(trained.data.dataset.noun)
    from analysis.predictive.model_samples import UndefinedCheckError
    from analysis.progress import Steps

    rows = fixed(trained, options)
    foreign = foreign_data(trained, options)
    print(f"{trained.data.description}\n{trained.directory.path}/", flush=True)
    stored = StoredDiagnosis(trained.directory.diagnosis)
    names = [name for name in SECTIONS if name in (options.only or USUAL)]
    steps = {name: SECTIONS[name].steps(name) for name in names}
    started = time.perf_counter()
    sections: dict[str, SectionResult] = {}
    with closing(Steps({s for each in steps.values() for s in each}, visible=True)) as step:
        subject = subject_of(trained, options, rows, step, foreign)
        of = made_of(trained, options, subject)
        for name in names:
            begun = time.perf_counter()
            files: dict[str, bytes] = {}
            try:
                found = sections[name] = SECTIONS[name].run(name, subject)
            except UndefinedCheckError as error:
                # Asked for by name, it is an error; otherwise the run just has no such thing.
                if options.only:
                    raise
                record = {"left_out": in_one_line(error)}
            else:
                with step(f"{name}: figures"):
                    files = {key: to_png(figure) for key, figure in found.figures.items()}
                record = {**found.record, "figures": found.captions}
            step.finish(steps[name])
            stored.put(
                name,
                record,
                files,
                of={k: v for k, v in of.items() if k != "against" or name == "representation"},
                seconds=time.perf_counter() - begun,
                header={
                    **about(trained, options, rows),
                    "n": len(subject.x),
                    "n_train": len(trained.data.train),
                    "data_sets": subject.data_sets,
                    "seconds": {"total": time.perf_counter() - started, "steps": step.seconds},
                    **made_by,
                },
            )
    took = stored.record["seconds"]["sections"]
    text = [table(name, sections.get(name), stored.record[name], took[name]) for name in names]
    if kept := kept_sections(stored, names, options):
        text += ["", *kept]
    text += answered(stored.record["answers"])
    # A command is one to copy: it names this run, and stands in one line.
    # Commands about a run with a model file of its own have to trust it, as this one did.
    place = f"{trained.directory.path}{' --trust-model-file' * options.trust_model_file}"
    print(unwrapped("\n".join(text), place))
    print(f"\nnumbers and figures are in {trained.directory.diagnosis}/")


def made_of(
    trained: TrainedRun, options: argparse.Namespace, subject: "Subject"
) -> dict[str, str | int | None]:
    """What a section depends on: where it is another one, the section is stale."""
    return {
        "checkpoint_sha256": trained.checkpoint_hash,
        "data_sha256": hashlib.sha256(subject.x.cpu().numpy().tobytes()).hexdigest(),
        "split": options.split,
        "n": len(subject.x),
        "num_samples": options.samples,
        "seed": options.seed,
        "against": options.against,
    }


def kept_sections(
    stored: StoredDiagnosis, names: Sequence[str], options: argparse.Namespace
) -> list[str]:
    """What is there of former commands, whether it is stale, and what makes that again."""
    lines, again = [], []
    for name, section in stored.sections.items():
        if name not in names:
            why = f"STALE, {section['stale']}" if section["stale"] else "still of this run"
            lines += wrapped(f"{name}: kept from a former command, {why}.", "")
            again += [name] * bool(section["stale"])
    if again:
        lines += wrapped(
            "Make what is stale again with "
            f"`{AGAIN.replace('SECTION', ' '.join(again))}{options_of_data(options)}`.",
            "",
        )
    return lines


def options_of_data(options: argparse.Namespace) -> str:
    """The options on which all sections depend, as they are typed; nothing where they are the defaults."""
    usual = parser().parse_args(["RUN"])
    return "".join(
        f" --{name} {getattr(options, name) or 'all'}"
        if name == "images"
        else f" --{name} {getattr(options, name)}"
        for name in ("split", "images", "samples", "seed")
        if getattr(options, name) != getattr(usual, name)
    )


def answered(found: "Sequence[Mapping[str, str | None]]") -> list[str]:
    """Each question of the report with its one answer, and the section that says why."""
    lines = ["", "answers"]
    width = max((len(str(each["question"])) for each in found), default=0)
    for each in found:
        stale = f"; STALE, {each['stale']}" if each["stale"] else ""
        lines.append(f"  {each['question']:<{width}}  {each['answer']} ({each['section']}{stale})")
    return lines if found else []


def subject_of(
    trained: TrainedRun,
    options: argparse.Namespace,
    rows: Tensor,
    step: "Steps",
    foreign: "Foreign | None" = None,
) -> "Subject":
    """A run and the data that it is asked about."""
    from analysis.subject import Subject

    train = training_data(trained.data)
    rows = defined(trained, trained.x, rows, f"{options.split} {nouns()}")
    kept = defined(trained, train, torch.arange(len(train)), f"training {nouns()}")
    train = train[kept]
    whole = trained.x if isinstance(trained.x, Tensor) else None
    labels, train_labels = (
        labels_of(trained.data, split, which)
        for split, which in ((options.split, rows), ("train", kept))
    )
    return Subject(
        vae=trained.vae,
        x=trained.x[rows].to(trained.device),
        train=train,
        support=trained.data.likelihood_support,
        untrained=lambda: untrained(trained),
        num_samples=options.samples,
        seed=options.seed,
        event_names=tuple(trained.data.dataset.event_names),
        uses_prior=OBJECTIVES[trained.vae.configuration["objective"]["name"]].uses_prior,
        labels=labels,
        train_labels=train_labels,
        label_names=tuple(trained.data.dataset.label_names),
        foreign=foreign,
        whole=whole,
        whole_labels=labels_of(
            trained.data, options.split, slice(None) if whole is not None else rows
        ),
        step=step,
    )


def defined(trained: TrainedRun, x: "Tensor | SparseRows", rows: Tensor, what: str) -> Tensor:
    """The rows that have log densities and a code; others are named in one line, and left out.

    Raises:
        ValueError: If there are none.
    """
    parts = (x[part].to(trained.device) for part in rows.split(FROM_DISK))
    found = np.concatenate([defined_rows(trained.vae, part) for part in parts])
    if not found.all():
        bad = undefined_data(rows[~found].numpy(), len(rows), what)
        if not found.any():
            raise ValueError(f"{bad}.")
        print(f"left out: {bad}.", flush=True)
    return rows[found]


def foreign_data(trained: TrainedRun, options: argparse.Namespace) -> "Foreign | None":
    """The data that `--against` names, prepared as the run's own; None if it is not given.

    Raises:
        ValueError: As `other_data`, or they are the run's own.
    """
    if options.against is None:
        return None
    from analysis.subject import Foreign

    try:
        data = other_data(
            trained.directory,
            ["--data", options.against],
            data_root=options.data_root,
            trust_model_file=options.trust_model_file,
            split=True,
        )
    except ConfigurationError as error:
        raise ValueError(re.sub(r"^--data\b", "--against", str(error))) from error
    name = data.dataset.name
    if name == trained.data.dataset.name:
        raise ValueError(f"--against must be other data than the run's own, got {name}.")
    x = data.fixed("test")
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    rows = rows[: options.images].sort().values
    train = training_data(data)
    return Foreign(
        name=name,
        x=x[rows].to(trained.device),
        train=train,
        labels=labels_of(data, "test", rows),
        train_labels=labels_of(data, "train", slice(len(train))),
    )


def labels_of(data: PreparedData, split: str, rows: Tensor | slice) -> np.ndarray | None:
    """Labels, factors or a numeric target of some rows of a split; None if there are none."""
    labels = data.dataset.labels.get(split)
    return None if labels is None else labels[rows].numpy()


def compare(options: argparse.Namespace, made_by: dict[str, str | None]) -> None:
    """Evaluate several runs on the same data, then write how they compare."""
    names = distinct(options.runs)
    out = free(options.out or RunDirectory.unused(Path("runs"), "comparison").path)
    from analysis.comparison.heldout_elpd import HeldOut
    from analysis.comparison.model_comparison import compare_models, plot_model_comparison
    from analysis.comparison.paired_differences import paired_report, plot_paired_differences
    from analysis.elbo.rate_distortion import plot_rate_distortion, rate_distortion_summary
    from analysis.progress import Steps
    from pyro_vae.evidence import evaluate
    from pyro_vae.log_densities import NoDensityError, check_density

    runs = {name: opened(options, path) for name, path in zip(names, options.runs, strict=True)}
    for name, trained in runs.items():
        # Before any is evaluated, which may take long.
        try:
            x = trained.x[:1].to(trained.device)
            check_density(trained.vae.guide, x, f"log p(x) of {name}")
        except NoDensityError as error:
            raise ValueError(
                f"log p(x) of {name} is not defined, because its guide has no density: "
                "--only representation compares what codes are good for."
            ) from error
    rows = {name: fixed(trained, options) for name, trained in runs.items()}
    of = checked_comparable(runs, rows, options, "log p(x)")
    differences = said_differences(runs)
    started = time.perf_counter()
    held_out, terms = [], {}
    with closing(Steps([*names, "figures"], visible=True)) as step:
        for name, trained in runs.items():
            with step(name):
                x = trained.x[rows[name]].to(trained.device)
                weights = evaluate(
                    trained.vae, x, num_samples=options.samples, seed=options.seed
                ).importance_weighting
            held_out.append(
                HeldOut(
                    name,
                    weights.log_evidence,
                    weights.khat,
                    weights.num_samples,
                    weights.rounding,
                )
            )
            terms[name] = weights.reconstruction, weights.kl
        with step("figures"):
            comparison = compare_models(held_out, leave_out_non_finite=True)
            points = rate_distortion_of(terms)
            files = {
                "comparison.png": to_png(plot_model_comparison(comparison)),
                "paired_differences.png": to_png(plot_paired_differences(comparison)),
                "rate_distortion.png": to_png(plot_rate_distortion(points)),
            }
    found, plane = comparison.summary(), rate_distortion_summary(points)
    record = {
        "runs": {name: about(trained, options, rows[name]) for name, trained in runs.items()},
        "differences": differences,
        "comparison": found,
        "rate_distortion": plane,
        "figures": sorted(files),
        "seconds": {"total": time.perf_counter() - started, "steps": step.seconds},
        **made_by,
    }
    written(out, files, "comparison.json", record)
    readings = [line for each in (found, plane) for line in wrapped(each["reading"], "  ")]
    report = paired_report(comparison, data=f"{options.split} {nouns()} of {of}")
    print("\n".join(["", report, unwrapped("\n".join(readings), "RUN")]))
    print(f"\nnumbers and figures are in {out}/")


def rate_distortion_of(
    terms: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> "list[RateDistortion]":
    """Rate and distortion by run, on the data for which both are finite in all runs."""
    from analysis.elbo.rate_distortion import RateDistortion

    finite = np.all([np.isfinite(each).all(0) for each in terms.values()], axis=0)
    return [RateDistortion.of(name, r[finite], kl[finite]) for name, (r, kl) in terms.items()]


def set_side_by_side(options: argparse.Namespace, made_by: dict[str, str | None]) -> None:
    """Measure what the codes of several runs are good for, then write them side by side."""
    names = distinct(options.runs)
    out = free(options.out or RunDirectory.unused(Path("runs"), "comparison").path)
    from analysis.progress import Steps
    from analysis.representation.section import side_by_side

    runs = {name: opened(options, path) for name, path in zip(names, options.runs, strict=True)}
    rows = {name: fixed(trained, options) for name, trained in runs.items()}
    of = checked_comparable(runs, rows, options, "codes")
    foreign = {name: foreign_data(trained, options) for name, trained in runs.items()}
    print(f"{options.split} {nouns()} of {of}", flush=True)
    differences = said_differences(runs)
    started = time.perf_counter()
    sections: dict[str, SectionResult] = {}
    seconds: dict[str, float] = {}
    steps = {name: Steps() for name in names}
    with closing(Steps(names, visible=True)) as step:
        for name, trained in runs.items():
            begun = time.perf_counter()
            with step(name):
                subject = subject_of(trained, options, rows[name], steps[name], foreign[name])
                sections[name] = SECTIONS["representation"].run("representation", subject)
            seconds[name] = time.perf_counter() - begun
    found = side_by_side(sections)
    files = {f"{key}.png": to_png(figure) for key, figure in found.figures.items()}
    record = {
        "runs": {name: about(trained, options, rows[name]) for name, trained in runs.items()},
        "differences": differences,
        "measures": found.measures,
        "representation": {name: section.record for name, section in sections.items()},
        "figures": {f"{key}.png": caption for key, caption in found.captions.items()},
        "seconds": {"total": time.perf_counter() - started, "runs": seconds},
        **made_by,
    }
    written(out, files, "representation.json", record)
    print("\n".join(["", *found.table(WIDTH)]))
    print(f"\nnumbers and figures are in {out}/")


def said_differences(runs: Mapping[str, TrainedRun]) -> dict[str, dict[str, Any]]:
    """How runs differ, in options and training, which is printed before they are compared."""
    from analysis.comparison.comparability import differences_report, run_differences

    configurations = {name: trained.vae.configuration for name, trained in runs.items()}
    differences = run_differences(
        configurations, {name: training_of(trained) for name, trained in runs.items()}
    )
    print("\n".join(differences_report(differences, [*runs], width=WIDTH)), flush=True)
    return differences


def training_of(trained: TrainedRun) -> dict[str, Any]:
    """How a run was trained, and on what."""
    state = load_checkpoint(trained.directory.checkpoint)
    contract = trained.vae.contract
    rows = {"rows": contract.digests["train"]} if "train" in contract.digests else {}
    return {
        "epochs trained": len(state["history"]),
        "steps trained": state["step"],
        **({} if state["best"] is None else {"best epoch": state["best_epoch"]}),
        "parameters": sum(parameter.numel() for parameter in trained.vae.parameters()),
        "split rule": contract.split_rule,
        "training rows": contract.sizes["train"],
        "digest of training rows": digest(rows)[:8],
    }


def checked_comparable(
    runs: Mapping[str, TrainedRun],
    rows: Mapping[str, Tensor],
    options: argparse.Namespace,
    what: str,
) -> str:
    """The name of the data that all runs are of.

    Raises:
        NotComparableError: As `check_comparable`.
    """
    from analysis.comparison.comparability import check_comparable, data_record

    set_noun(next(iter(runs.values())).data.dataset.noun)
    first, *others = (
        data_record(
            name,
            trained.data,
            trained.x[rows[name]],
            split=options.split,
            given_total=getattr(trained.vae.likelihood, "given_total", False),
        )
        for name, trained in runs.items()
    )
    check_comparable(first, others, what=what)
    return first.data


def opened(options: argparse.Namespace, path: Path) -> TrainedRun:
    """A run, checked before anything is computed.

    Raises:
        ValueError: As `trained_run`, or CUDA is asked for and absent.
    """
    return trained_run(
        path,
        options.split,
        device=chosen_device(options.device),
        data_root=options.data_root,
        trust_model_file=options.trust_model_file,
    )


def fixed(trained: TrainedRun, options: argparse.Namespace) -> Tensor:
    """The rows of the split that are looked at, as in `fixed_rows`."""
    return trained.order[: options.images].sort().values


def training_data(data: PreparedData) -> Tensor:
    """The training data in the likelihood's support; of those sparse or on the disk the first ones."""
    train = data.fixed("train") if not isinstance(data.train, MemoryMapped) else data.train
    if isinstance(train, Tensor):
        return train
    if isinstance(train, SparseRows):
        return train[: max(1, min(FROM_DISK, SPARSE_ELEMENTS // train.shape[1]))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return data.transform(train[:FROM_DISK])


def untrained(trained: TrainedRun) -> Any:
    """The program as its training found it; the global random streams are put back."""
    state = get_rng_state()
    try:
        pyro.set_rng_seed(trained.vae.configuration["seed"])
        return build_vae_for(trained.vae.configuration, trained.data).to(trained.device)
    finally:
        set_rng_state(state)


def about(trained: TrainedRun, options: argparse.Namespace, rows: Tensor) -> dict[str, Any]:
    """What the numbers are of."""
    configuration = trained.vae.configuration
    return {
        "data": trained.data.dataset.name,
        "binarisation": trained.data.binarisation,
        "scale": trained.data.dataset.units.kind,
        "notes": list(trained.vae.contract.notes),
        "split": options.split,
        "n": len(rows),
        **{part: configuration[part]["name"] for part in ("prior", "likelihood", "posterior")},
        "latent_dim": configuration["latent_dim"],
        "num_samples": options.samples,
        "seed": options.seed,
        "device": trained.device.type,
        "checkpoint_sha256": trained.checkpoint_hash,
    }


def versions() -> dict[str, str | None]:
    """Of the libraries that numbers and figures come from, beside torch and Pyro."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def distinct(paths: Sequence[Path]) -> list[str]:
    """What to call each run: its directory's name, or where names repeat the path below what all share.

    Raises:
        ValueError: If a run comes twice.
    """
    counts = Counter(path.resolve() for path in paths)
    for path in paths:
        if counts[path.resolve()] > 1:
            raise ValueError(f"{path} is given twice: a run is compared with others.")
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    shared = os.path.commonpath([path.resolve() for path in paths])
    return [str(path.resolve().relative_to(shared)) for path in paths]


def free(out: Path) -> Path:
    """A directory that is empty, not there yet, or holds an older comparison and nothing else.

    Raises:
        ValueError: If it holds anything else.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"--out must be a directory, got {out}.")
    entries = list(out.iterdir()) if out.exists() else []
    for entry in entries:
        if entry.is_symlink() or not entry.is_file() or entry.suffix not in (".json", ".png"):
            raise ValueError(f"--out {out} holds {entry.name}, which is of no comparison.")
    if entries and not any((out / record).exists() for record in COMPARISONS):
        raise ValueError(f"--out {out} must be empty, or hold an older comparison.")
    return out


def written(folder: Path, files: Mapping[str, bytes], name: str, record: dict[str, Any]) -> None:
    """Write a folder anew: the record goes first and comes last, so that it says only what is there.

    Raises:
        OSError: If the disk is full or the folder not writable; nothing is then in it.
    """
    content = (json.dumps(to_jsonable(record), indent=2, allow_nan=False) + "\n").encode()
    for record_name in {name, *COMPARISONS}:
        (folder / record_name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for key, picture in files.items():
            write_atomically(folder / key, picture)
        write_atomically(folder / name, content)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def table(
    name: str, section: "SectionResult | None", record: Mapping[str, Any], seconds: float
) -> str:
    """A section as a person reads it: its numbers, then how to read them."""
    if section is None:
        return "\n".join(["", *wrapped(f"{name}: left out. {record['left_out']}", "")])
    width = max(map(len, section.numbers), default=0)
    lines = [f"  {label:<{width}}  {number}" for label, number in section.numbers.items()]
    for part, reading in section.readings.items():
        lines += wrapped(f"{part.replace('_', ' ')}: {reading}", "  ")
    for part, reason in section.left_out.items():
        lines += wrapped(
            f"{part.replace('_', ' ')}: left out. {in_one_line(ValueError(reason))}", "  "
        )
    return "\n".join(["", f"{name}, {seconds:.1f} s", *lines])


def unwrapped(text: str, run: str) -> str:
    """Lines of `wrapped` as they are printed: commands name the run and have their spaces."""
    return text.replace(PLACE, run).replace(SPACE, " ")


def wrapped(text: str, indent: str) -> list[str]:
    """Text in lines of a terminal's width, those after the first further in; print it `unwrapped`."""
    return textwrap.wrap(
        re.sub(
            r"\x60[^\x60]*\x60",
            lambda command: command[0].replace(" RUN", f" {PLACE}").replace(" ", SPACE),
            text,
        ),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    sys.exit(main())
