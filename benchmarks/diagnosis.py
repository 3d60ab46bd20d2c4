"""The suite `diagnosis`: `scripts/diagnose.py` on a run of this and of a baseline, and its page.

The page is opened in Debian's chromium, or the browser that the variable CHROMIUM names.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from analysis.study_results import markdown
from benchmarks.commands import Checkout, checkouts, time_program
from benchmarks.epochs import SuiteResult
from benchmarks.task import NETWORK, Options, shown_command
from benchmarks.timing import TargetResult, at_most, show_spread, spread

EPOCHS = 5
SECTIONS = ("predictive", "calibration", "pit", "elbo", "guide")
# The largest ratio, and the largest times to open the page and to decode a code, in seconds.
RATIO, OPEN, DECODE = 0.6, 2.0, 0.02
OPENINGS = 3
# Seconds since the page was asked for until charts and explorer are there, and of a decode.
OPENED = """async () => {
    await window.charts;
    await window.explorer?.ready;
    const opened = performance.now() / 1000;
    if (!window.explorer?.decode) return { opened };
    for (let k = 0; k < 50; k++) window.explorer.decode(window.explorer.state.z);
    return { opened, decode: performance.now() / 50000 - opened / 50 };
}"""


def run_diagnosis(options: Options) -> SuiteResult:
    """Train a run with each checkout, and diagnose each with its own, in rounds.

    Raises:
        ProcessError: If a command fails.
    """
    sources = checkouts(options.baseline)
    network = list(NETWORK) if options.data == "mnist" else []
    training = ["--data", options.data, *network, "--epochs", str(EPOCHS), "--evaluate", "none"]
    rounds: list[dict[str, Any]] = list((options.stored or {}).get("runs", ()))
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: Path(folder, name) for name in sources}
        for name, checkout in sources.items():
            options.say(f"{name}: training")
            words = [*training, *_root(options), "--out", str(runs[name])]
            time_program(checkout, "svi_train.py", words, options.threads)
        for _ in range(options.rounds):
            turn = len(rounds)
            found = {}
            for name in sources if turn % 2 == 0 else reversed(sources):
                found[name] = time_diagnosis(sources[name], runs[name], options)
                options.say(f"round {turn + 1}: {name} {found[name]['wall']:.2f} s")
            rounds.append(found)
    baseline = sources.get("baseline")
    return {
        "data": options.data,
        "command": shown_command(training),
        "rounds": len(rounds),
        "runs": rounds,
        "baseline_commit": baseline and baseline.commit,
        # Set for MNIST.
        "targets": targets(rounds) if options.data == "mnist" else [],
    }


def time_diagnosis(checkout: Checkout, run: Path, options: Options) -> dict[str, Any]:
    """The times of a diagnosis: the whole command and its sections, in seconds."""
    shutil.rmtree(run / "diagnosis", ignore_errors=True)
    page = run / "report.html"
    page.unlink(missing_ok=True)
    words = [str(run), *_root(options)]
    wall = time_program(checkout, "diagnose.py", words, options.threads)
    record = json.loads((run / "diagnosis" / "diagnosis.json").read_text(encoding="utf-8"))
    return {
        "wall": wall,
        **(opened(page) if page.exists() else {}),
        "sections": {name: record["seconds"]["sections"][name] for name in SECTIONS},
        "page_bytes": page.stat().st_size if page.exists() else None,
        "elbo": record["elbo"]["terms"]["elbo"],
    }


def opened(page: Path) -> dict[str, float]:
    """The times of a page, medians over openings, in seconds; none without a browser."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    if browser is None:
        return {}
    found = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        # The first opening also starts the browser's processes.
        for _ in range(OPENINGS + 1):
            context = chromium.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            tab.goto(page.resolve().as_uri())
            found.append(tab.evaluate(OPENED))
            context.close()
        chromium.close()
    return {name: median(each[name] for each in found[1:]) for name in found[0]}


def _root(options: Options) -> list[str]:
    return [] if options.data_root is None else ["--data-root", options.data_root]


def targets(rounds: Sequence[Mapping[str, Any]]) -> list[TargetResult]:
    """The ratio of times within a round."""
    both = [(each["this"], each["baseline"]) for each in rounds if "baseline" in each]
    ratios = spread([ours["wall"] / theirs["wall"] for ours, theirs in both])
    ours = [each["this"] for each in rounds]
    open_page, decode = (
        spread([each[name] for each in ours if name in each]) for name in ("opened", "decode")
    )
    return [
        at_most("the diagnosis / baseline", ratios, RATIO),
        at_most("the page opened, charts and explorer included", open_page, OPEN, "s"),
        at_most("a decode in the page", decode, DECODE, "s"),
    ]


def diagnosis_table(result: SuiteResult) -> str:
    """The times in Markdown: a row for each section, a column for each checkout."""
    rounds, commit = result["runs"], result["baseline_commit"]
    titles = {"this": "this project", "baseline": f"commit {(commit or 'unknown')[:10]}"}
    columns = [name for name in titles if name in rounds[0]]

    def row(title: str, form: str, values: Any) -> tuple[str, ...]:
        found = ([values(each[name]) for each in rounds] for name in columns)
        known = ([value for value in each if value is not None] for each in found)
        return (title, *(show_spread(spread(each), form) for each in known))

    rows = [
        row("whole command, s", ".1f", lambda each: each["wall"]),
        *(
            row(f"{name}, s", ".1f", lambda each, name=name: each["sections"][name])
            for name in SECTIONS
        ),
        row(
            "report.html, MiB",
            ".1f",
            lambda each: each["page_bytes"] and each["page_bytes"] / 2**20,
        ),
        row("page opened, s", ".2f", lambda each: each.get("opened")),
        row(
            "a decode in the page, ms",
            ".2f",
            lambda each: each.get("decode") and 1000 * each["decode"],
        ),
        row("ELBO, nats", ".2f", lambda each: each["elbo"]),
    ]
    return (
        f"{markdown(('', *(titles[name] for name in columns)), rows)}\n\n"
        "`python scripts/diagnose.py RUN`, each checkout on its own run of "
        f"`{result['command']}`, with no diagnosis before. Medians and ranges of "
        f"{result['rounds']} rounds in turn. In this project sections are computed side by side, "
        "and their times overlap."
    )
