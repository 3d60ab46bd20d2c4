"""The time that a page takes to open in a browser, from disk, and its size.

`python scripts/studies/page_opening.py runs/digits-standard_normal-0 ...` opens the `report.html`
of each run in new contexts of one browser and stores medians in `page_opening.json`. The browser
is Debian's chromium, or the one that the variable CHROMIUM names.
"""

import os
import shlex
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from analysis.study_results import Cell, Parser, fill_cell, markdown, read_results

STORED = Path(__file__).with_suffix(".json")
ROUNDS = 5
# Milliseconds since the page was asked for, in the order in which a reader meets them.
TIMES = {
    "first_paint": "first text",
    "loaded": "loaded",
    "charts": "charts drawn",
    "explorer": "explorer ready",
}
SCRIPT = """async () => {
    await window.charts;
    const charts = performance.now();
    if (window.explorer) await window.explorer.ready;
    const explorer = performance.now();
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    const [load] = performance.getEntriesByType("navigation");
    return { first_paint: paint.startTime, loaded: load.loadEventEnd, charts, explorer };
}"""


def measure(page: Path, chromium: str) -> Cell:
    """Open a page several times; medians in seconds, the size in MB."""
    from playwright.sync_api import sync_playwright

    rounds: list[dict[str, float]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        version = browser.version
        # The first round also starts the browser's own processes.
        for _ in range(ROUNDS + 1):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            opened = context.new_page()
            opened.goto(page.resolve().as_uri())
            rounds.append(opened.evaluate(SCRIPT))
            context.close()
        browser.close()
    medians = {name: statistics.median(each[name] for each in rounds[1:]) / 1000 for name in TIMES}
    return {"seconds": medians, "megabytes": page.stat().st_size / 1e6, "browser": version}


def table() -> str:
    """The stored results in Markdown."""
    header = ["page", "MB", *(f"{title}, s" for title in TIMES.values())]
    rows = [
        [name, f"{cell['megabytes']:.1f}", *(f"{cell['seconds'][key]:.2f}" for key in TIMES)]
        for name, cell in read_results(STORED).items()
    ]
    return markdown(header, rows)


def main() -> int:
    """Run the program and return its exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run directories with a report.html")
    options: Any = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
    if options.runs and not chromium:
        parser.error("no browser: install the package chromium, or set CHROMIUM to a browser.")
    for run in options.runs:
        page = run / "report.html"
        if not page.is_file():
            parser.error(f"there is no {page}: write it with python scripts/diagnose.py {run}.")
        command = f"python scripts/studies/page_opening.py {shlex.quote(str(run))}"
        name = run.resolve().name
        fill_cell(STORED, name, command, lambda page=page: measure(page, chromium), again=True)
    print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
