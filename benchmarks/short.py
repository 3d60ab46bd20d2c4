"""The suite `short`: the default command, in parts, and its steps beside other implementations."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from statistics import mean, median
from typing import Any

from analysis.study_results import markdown
from benchmarks.commands import Checkout, TimedCommand, checkouts, timed_command
from benchmarks.epochs import SuiteResult
from benchmarks.implementations import IMPLEMENTATIONS
from benchmarks.task import WARM_UP_EPOCHS, Options, Setting
from benchmarks.timing import (
    Environment,
    Spread,
    TargetResult,
    Worker,
    at_most,
    show_spread,
    spread,
)

# The default run's network, by hand, on scikit-learn's digits.
SETTING = Setting(latent_dim=8, batch_size=64, activation="relu")
DATA = "digits"
PARAMETERS = 61_680
NAMES = ("by_hand", "this_graph", "pyro_memory", "pyro_example")
# The epochs of a round; of the slow one few, as its epochs are alike.
EPOCHS = 100
FEW_EPOCHS = {"pyro_example": 5}
SEEDS = (0, 1, 2)
# The parts of the command, in the order in which they end.
PARTS = {
    "imports": "imports",
    "data": "data and model",
    "train": "training",
    "evaluate": "evaluation and metrics.json",
    "write": "inference_data.nc",
    "figures": "figures",
    "exit": "exit",
}
# The largest ratios, and the largest difference in nats.
WALL_RATIO, HAND_RATIO, STEP_RATIO, EVIDENCE_GAP = 0.4, 1.0, 0.45, 0.05


def run_short(options: Options) -> SuiteResult:
    """Run the default command of each checkout, and train by hand and with Pyro, in rounds.

    A round has the seed of its number, modulo the number of `SEEDS`.

    Raises:
        ProcessError: If a command or an implementation fails.
        ValueError: If the default command trains another network.
    """
    sources = checkouts(options.baseline)
    names = NAMES if options.names is None else options.names
    environment = Environment(DATA, options.data_root, options.threads)
    rounds: list[dict[str, Any]] = list((options.stored or {}).get("runs", ()))
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(closing(Worker(name, SETTING, environment)))
            for name in names
        }
        for worker in workers.values():
            for _ in range(WARM_UP_EPOCHS):
                worker.epoch()
        for _ in range(options.rounds):
            turn, seed = len(rounds), SEEDS[len(rounds) % len(SEEDS)]
            found: dict[str, Any] = {"seed": seed}
            columns = [*sources, *workers]
            for column in columns if turn % 2 == 0 else reversed(columns):
                if column in sources:
                    found[column] = time_default_run(sources[column], seed, options)
                    options.say(f"round {turn + 1}: {column} {found[column]['wall']:.2f} s")
                else:
                    found[column] = time_epochs(workers[column])
                    options.say(
                        f"round {turn + 1}: {column} {1000 * found[column]['step']:.2f} ms a step"
                    )
            rounds.append(found)
    baseline = sources.get("baseline")
    return {
        "setting": asdict(SETTING),
        "rounds": len(rounds),
        "runs": rounds,
        "baseline_commit": baseline and baseline.commit,
        "targets": targets(rounds),
    }


def time_default_run(checkout: Checkout, seed: int, options: Options) -> dict[str, Any]:
    """The times of the default command: the whole, its parts and its steps, in seconds."""
    root = [] if options.data_root is None else ["--data-root", options.data_root]
    with timed_command(checkout, ["--seed", str(seed), *root], options.threads) as run:
        metrics = run.metrics()
        if metrics["parameters"] != PARAMETERS:
            raise ValueError(
                f"the default network must have {PARAMETERS:,} parameters, as the one by hand, "
                f"got {metrics['parameters']:,}."
            )
        seconds = [end - start for start, end in run.steps]
        return {
            "wall": run.wall,
            "parts": parts_of(run),
            "steps": metrics["steps"],
            "step": metrics["seconds_per_epoch"] * metrics["epochs"] / metrics["steps"],
            "first_step": seconds[0],
            "longest_step": max(seconds[1:]),
            "compile": metrics["compile"],
            "log_evidence": metrics["log_evidence"],
            "log_evidence_se": metrics["log_evidence_se"],
        }


def parts_of(run: TimedCommand) -> dict[str, float]:
    """How long each part took, in seconds, from when its last file was written.

    Parts that overlap count from the end of the one before in `PARTS`.
    """
    ends = {
        "imports": run.imported,
        "data": run.steps[0][0],
        "train": run.written("checkpoint.pt"),
        "evaluate": run.written("metrics.json"),
        "write": run.written("inference_data.nc"),
        "figures": run.written("figures/*.png"),
        "exit": run.wall,
    }
    parts, before = {}, 0.0
    for name in PARTS:
        end = max(before, ends[name] or 0.0)
        parts[name], before = end - before, end
    return parts


def time_epochs(worker: Worker) -> dict[str, Any]:
    """The median time of a step over epochs, and the time of `EPOCHS` epochs, in seconds."""
    seconds = [worker.epoch()["seconds"] for _ in range(FEW_EPOCHS.get(worker.name, EPOCHS))]
    steps = math.ceil(worker.prepared["images"] / SETTING.batch_size)
    return {"parts": {"train": mean(seconds) * EPOCHS}, "step": median(seconds) / steps}


def targets(rounds: Sequence[Mapping[str, Any]]) -> list[TargetResult]:
    """The ratios of times within a round, and the difference of log p(x) over the seeds."""

    def against(column: str, name: str) -> Spread | None:
        both = [(each["this"], each[column]) for each in rounds if column in each]
        return spread([ours[name] / theirs[name] for ours, theirs in both])

    gaps = {
        each["seed"]: each["this"]["log_evidence"] - each["baseline"]["log_evidence"]
        for each in rounds
        if "baseline" in each
    }
    gap = abs(mean(gaps.values())) if len(gaps) == len(SEEDS) else None
    return [
        at_most("the default command / baseline", against("baseline", "wall"), WALL_RATIO),
        at_most("its step / by_hand", against("by_hand", "step"), HAND_RATIO),
        at_most("its step / baseline", against("baseline", "step"), STEP_RATIO),
        at_most("mean difference in log p(x) from baseline", gap, EVIDENCE_GAP, "nats"),
    ]


def short_table(result: SuiteResult) -> str:
    """The times in Markdown: a row for each part, a column for each implementation."""
    rounds = result["runs"]
    commit = result["baseline_commit"]
    titles = {
        "this": "this project",
        "baseline": f"commit {commit[:10]}" if commit else "baseline",
        **{name: kind.title for name, kind in IMPLEMENTATIONS.items()},
    }
    columns = [name for name in titles if name in rounds[0]]

    def row(title: str, name: str, form: str, factor: float = 1.0) -> tuple[str, ...]:
        found = []
        for column in columns:
            values = [{**each[column], **each[column]["parts"]} for each in rounds]
            found.append(spread([factor * each[name] for each in values if name in each]))
        return (title, *(show_spread(each, form) for each in found))

    rows = [
        row("whole command, s", "wall", ".2f"),
        *(row(f"{title}, s", name, ".2f") for name, title in PARTS.items()),
        row("a step, ms", "step", ".2f", 1000.0),
        row("first step, ms", "first_step", ".0f", 1000.0),
        row("longest other step, ms", "longest_step", ".0f", 1000.0),
    ]
    by_seed = {each["seed"]: each for each in rounds}
    for seed, found in by_seed.items():
        known = (found[name].get("log_evidence") for name in columns)
        cells = ("" if each is None else f"{each:.3f}" for each in known)
        rows.append((f"log p(x), seed {seed}", *cells))
    steps = ", ".join(f"{found['this']['steps']:,}" for found in by_seed.values())
    return (
        f"{markdown(('', *(titles[name] for name in columns)), rows)}\n\n"
        f"`python scripts/svi_train.py --seed SEED`: digits, 64-400-8, batch 64; {steps} steps "
        f"for each seed. Medians and ranges of {result['rounds']} rounds in turn. A part ends "
        "when its last file is written; training includes validation. The time of a step is the "
        "median over epochs; log p(x) is in nats per image, by 1,000 importance samples."
    )
