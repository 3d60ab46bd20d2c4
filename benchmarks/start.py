"""The suite `start`: the time until the step is compiled, and whether a step waits for it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from analysis.study_results import markdown
from benchmarks.commands import Checkout, TimedCommand, checkouts, timed_command
from benchmarks.epochs import SuiteResult
from benchmarks.task import NETWORK, Options, shown_command
from benchmarks.timing import ProcessError, TargetResult, at_most, show_spread, spread

# The options of each task, and its batch size.
TASKS: dict[str, tuple[tuple[str, ...], int]] = {
    "784-400-50": (("--data", "mnist", *NETWORK), 256),
    "64-400-8": ((), 64),
}
# Long enough for the compiler, and too short for it to compile the last batch of an epoch as well.
LONG = (
    "--compile",
    "on",
    "--epochs",
    "3000",
    "--early-stopping",
    "null",
    "--evaluate",
    "none",
)
CACHES = {"cold": "the compiler's cache empty", "warm": "a second time"}
# Steps before and after the switch to the compiled step from which their times are taken.
WINDOW = 100
# Target: the time to the compiled step with an empty cache, as a share of the baseline's.
COLD_RATIO = 0.4
# Targets: the longest step but the first, and the time to the compiled step of a second run.
LONGEST_STEP, SECOND_START = 1.0, 8.0


def run_start(options: Options) -> SuiteResult:
    """Start compiled runs of each task with an empty cache and again, in rounds."""
    sources = checkouts(options.baseline)
    tasks = TASKS if options.part is None else {options.part: TASKS[options.part]}
    runs: list[dict[str, Any]] = list((options.stored or {}).get("runs", ()))
    for task in tasks:
        done = sum(each["task"] == task for each in runs)
        for turn in range(done, done + options.rounds):
            found: dict[str, Any] = {"task": task}
            for name in sources if turn % 2 == 0 else reversed(sources):
                found[name] = time_starts(sources[name], task, options)
                for cache, each in found[name].items():
                    options.say(f"round {turn + 1}: {task}, {name}, {cache}: {_in_words(each)}")
            runs.append(found)
    baseline = sources.get("baseline")
    return {
        "runs": runs,
        "baseline_commit": baseline and baseline.commit,
        "targets": targets(runs),
    }


def time_starts(checkout: Checkout, task: str, options: Options) -> dict[str, dict[str, Any]]:
    """A run with an empty compiler's cache, and one with the cache of the first."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {
            "TORCHINDUCTOR_CACHE_DIR": str(Path(folder, "inductor")),
            "TRITON_CACHE_DIR": str(Path(folder, "triton")),
            "XDG_CACHE_HOME": str(Path(folder, "other")),
        }
        for cache in CACHES:
            found[cache] = time_start(checkout, task, caches, options)
    return found


def time_start(
    checkout: Checkout, task: str, variables: Mapping[str, str], options: Options
) -> dict[str, Any]:
    """The times of a run until it has taken `WINDOW` compiled steps, in seconds from its start."""
    words, batch_size = TASKS[task]
    root = [] if options.data_root is None else ["--data-root", options.data_root]
    ready = rf"compiled step, batch {batch_size}: (ready|off|graph)"

    def enough(run: TimedCommand) -> bool:
        return (line := run.logged(ready)) is not None and (
            len([end for _, end in run.steps if end > line[0]]) > WINDOW
        )

    try:
        with timed_command(
            checkout,
            [*words, *root, *LONG],
            options.threads,
            variables=variables,
            until=enough,
        ) as run:
            line = run.logged(ready)
            assert line is not None
            if "ready" not in line[1]:
                return {"status": f"not compiled: {line[1]}"}
            return {"status": "measured", **times_of(run.steps, line[0])}
    except ProcessError as error:
        return {"status": f"failed: {error}"}


def times_of(steps: Sequence[tuple[float, float]], ready: float) -> dict[str, Any]:
    """What the times of steps say.

    Args:
        steps: When each step began and ended.
        ready: When the log said that the step is compiled.
    """
    seconds = [end - start for start, end in steps]
    # The step in which it was compiled, or the last one that was begun before it was.
    switch = sum(start < ready for start, _ in steps) - 1
    longest = max(range(1, len(seconds)), key=seconds.__getitem__)
    # Without the first three, which may be eager, recorded and compared.
    before = seconds[max(3, switch - WINDOW) : switch]
    return {
        "first_step": steps[0][1],
        "compiled": steps[switch][1],
        "steps_before": switch,
        **({"step_before": median(before)} if before else {}),
        "step_after": median(seconds[switch + 1 :]),
        "longest_step": seconds[longest],
        "longest_step_number": longest + 1,
    }


def targets(runs: Sequence[Mapping[str, Any]]) -> list[TargetResult]:
    """Whether a run has its compiled step early, and no step waits for it."""

    def times(task: str, cache: str, name: str) -> list[float]:
        found = [each["this"][cache] for each in runs if each["task"] == task]
        return [each[name] for each in found if name in each]

    found = []
    for task in dict.fromkeys(each["task"] for each in runs):
        both = [
            (each["this"]["cold"], each["baseline"]["cold"])
            for each in runs
            if each["task"] == task and "baseline" in each
        ]
        ratios = [
            ours["compiled"] / theirs["compiled"]
            for ours, theirs in both
            if "compiled" in ours and "compiled" in theirs
        ]
        longest = spread(times(task, "cold", "longest_step"))
        second = spread(times(task, "warm", "compiled"))
        found += [
            at_most(f"{task}: to the compiled step, cold / baseline", spread(ratios), COLD_RATIO),
            at_most(f"{task}: longest step but the first, cold", longest, LONGEST_STEP, "s"),
            at_most(f"{task}: to the compiled step, a second time", second, SECOND_START, "s"),
        ]
    return found


def start_table(result: SuiteResult) -> str:
    """The starts in Markdown."""
    runs, commit = result["runs"], result["baseline_commit"]
    titles = {"this": "this project", "baseline": f"commit {(commit or 'unknown')[:10]}"}
    names = {
        "first_step": (1, ".2f"),
        "compiled": (1, ".2f"),
        "step_before": (1000, ".2f"),
        "step_after": (1000, ".2f"),
        "longest_step": (1000, ".0f"),
    }
    rows = []
    for task in dict.fromkeys(each["task"] for each in runs):
        chosen = [each for each in runs if each["task"] == task]
        for cache, state in CACHES.items():
            for source in (name for name in titles if name in chosen[0]):
                found = [each[source][cache] for each in chosen]
                cells = []
                for name, (factor, form) in names.items():
                    values = spread([factor * each[name] for each in found if name in each])
                    cells.append(show_spread(values, form))
                failures = [each["status"] for each in found if each["status"] != "measured"]
                rows.append((task, state, titles[source], *cells, "; ".join(failures)))
    header = (
        *("network", "compiled", "", "s to step 1", "s to the compiled step"),
        *("ms a step before", "after", "longest but the first, ms", ""),
    )
    counts = sorted({sum(each["task"] == task for each in runs) for task in TASKS} - {0})
    return (
        f"{markdown(header, rows)}\n\n"
        "From starting the process to the end of a training step, medians and ranges of "
        f"{' or '.join(map(str, counts))} rounds in turn; the time of a step is a median over "
        f"{WINDOW} steps. `{shown_command([*TASKS['784-400-50'][0], *LONG])}`"
    )


def _in_words(found: Mapping[str, Any]) -> str:
    if found["status"] != "measured":
        return found["status"]
    return (
        f"compiled after {found['compiled']:.1f} s and {found['steps_before']:,} steps, longest "
        f"step {found['longest_step']:.2f} s (number {found['longest_step_number']:,})"
    )
