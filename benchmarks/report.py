"""The suites, and the page and the figure of what is stored in `benchmark.json`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from analysis.plotting.style import BLUE, GREEN, GREY, ORANGE, new_figure, tidy
from benchmarks import diagnosis, encoding, epochs, inference, runs, short, start
from benchmarks.epochs import AXIS_TITLES, SuiteResult
from benchmarks.task import Options
from benchmarks.timing import describe, spread
from pyro_vae.training.checkpoint import write_atomically

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# This project's implementations stand out.
COLOURS = {"this_eager": ORANGE, "this_compiled": BLUE, "this_bfloat16": GREEN}
WIDTH, HEIGHT = 5.0, 4.2

# Draws one panel.
Panel = Callable[["matplotlib.axes.Axes"], None]


@dataclass(frozen=True)
class Suite:
    """A suite of measurements.

    Args:
        heading: Its heading on the page.
        run: Measures.
        table: The result in Markdown.
        panels: The panels of the figure.
        parts: Its parts that can be measured alone.
    """

    heading: str
    run: Callable[[Options], SuiteResult]
    table: Callable[[SuiteResult], str]
    panels: Callable[[SuiteResult], list[Panel]] = lambda _: []
    parts: Sequence[str] = ()


def page(results: Mapping[str, SuiteResult]) -> str:
    """All stored suites: tables, target results and how they were made.

    Args:
        results: Results by suite, as in `benchmark.json`.
    """
    return "\n\n".join(
        f"### {suite.heading}\n\n{section(name, results[name])}"
        for name, suite in SUITES.items()
        if name in results
    )


def section(name: str, result: SuiteResult) -> str:
    """A suite's table, its target results, and how it was made."""
    targets = "\n".join(f"- {describe(found)}" for found in result["targets"])
    parts = (SUITES[name].table(result), targets, _origin(result["made_by"]))
    return "\n\n".join(filter(None, parts))


def _origin(made: Mapping[str, Any]) -> str:
    machine, versions = made["machine"], made["versions"]
    shown = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    whole = made["git_commit"] or "none"
    commit = whole[:10] + ("-dirty" if whole.endswith("-dirty") else "")
    # Older results have neither.
    details = [f"stepping {machine['stepping']}"] if machine.get("stepping") is not None else []
    details += machine.get("instruction_sets", ())
    return (
        f"`{made['command']}`, commit {commit}; {', '.join([machine['processor'], *details])}, "
        f"{machine['threads']} of {machine['cores']} cores{gpu}; {shown}."
    )


def read(path: Path) -> dict[str, SuiteResult]:
    """The stored results; none if there is no file.

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


def write(path: Path, name: str, result: SuiteResult) -> None:
    """Store a suite's result beside those of other suites, which may be of other machines."""
    results = {**read(path), name: result}
    ordered = {suite: results[suite] for suite in SUITES if suite in results}
    write_atomically(path, (json.dumps(ordered, indent=2, allow_nan=False) + "\n").encode())


def plot_benchmark(results: Mapping[str, SuiteResult]) -> "matplotlib.figure.Figure | None":
    """The stored suites in panels; None if no suite has a panel.

    Args:
        results: Results by suite, as in `benchmark.json`.
    """
    chosen = [(suite, results[name]) for name, suite in SUITES.items() if name in results]
    panels = [panel for suite, result in chosen for panel in suite.panels(result)]
    if not panels:
        return None
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(max(columns, 1.6) * WIDTH, rows * HEIGHT)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, ax in zip(panels, axes, strict=False):
        panel(ax)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    tidy(axes[: len(panels)], grid="both")
    return figure


def _epoch_panels(result: SuiteResult) -> list[Panel]:
    """A bar for each implementation: milliseconds per step, with the range of the rounds."""

    def draw(ax: "matplotlib.axes.Axes") -> None:
        size = result["setting"]["batch_size"]
        bars = []
        for name, each in result["ways"].items():
            if each["seconds"]:
                steps = -(-each["images"] // size)
                bars.append((each["title"], name, [1000 * s / steps for s in each["seconds"]]))
        # The fastest on top.
        bars.sort(key=lambda bar: -_median(bar[2]))
        for place, (_, name, times) in enumerate(bars):
            _bar(ax, place, times, COLOURS.get(name, GREY))
        ax.set_yticks(range(len(bars)), [fill(bar[0], 26) for bar in bars], fontsize="small")
        title = result.get("device", "whole epochs")
        ax.set(title=title, xlabel=f"milliseconds per step, batch {size}")

    return [draw]


def _short_panels(result: SuiteResult) -> list[Panel]:
    """The parts of the command, end to end."""

    def draw(ax: "matplotlib.axes.Axes") -> None:
        names = [name for name in ("baseline", "this") if name in result["runs"][0]]
        for place, name in enumerate(names):
            left = 0.0
            for number, (part, title) in enumerate(short.PARTS.items()):
                seconds = _median([each[name]["parts"][part] for each in result["runs"]])
                label = title if place == 0 else None
                ax.barh(place, seconds, left=left, height=0.7, color=f"C{number}", label=label)
                left += seconds
        ax.set_yticks(range(len(names)), names)
        ax.set(title="the default command", xlabel="seconds")
        # Below the axis: bars fill the panel.
        ax.legend(
            frameon=False,
            fontsize="x-small",
            ncols=2,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.17),
        )

    return [draw]


def _start_panels(result: SuiteResult) -> list[Panel]:
    def draw(ax: "matplotlib.axes.Axes") -> None:
        bars = {
            (each["task"], cache, name)
            for each in result["runs"]
            for name in ("this", "baseline")
            for cache in start.CACHES
            if "compiled" in each.get(name, {}).get(cache, ())
        }
        shown = sorted(bars, reverse=True)
        for place, (task, cache, name) in enumerate(shown):
            runs = [each[name][cache] for each in result["runs"] if each["task"] == task]
            times = [each["compiled"] for each in runs if "compiled" in each]
            _bar(ax, place, times, BLUE if name == "this" else GREY)
        ax.set_yticks(range(len(shown)), [f"{task}, {cache},\n{n}" for task, cache, n in shown])
        ax.set(title="start to the compiled step", xlabel="seconds")

    return [draw]


def _scaling_panels(result: SuiteResult) -> list[Panel]:
    from matplotlib.ticker import LogLocator

    def panel(axis: str, points: list[dict[str, Any]], *, legend: bool) -> Panel:
        def draw(ax: "matplotlib.axes.Axes") -> None:
            for number, name in enumerate(points[0]["seconds_a_step"]):
                times = [(p["value"], p["seconds_a_step"][name]) for p in points]
                line = [(value, 1000 * _median(each)) for value, each in times if each]
                if line:
                    colour = COLOURS.get(name, (GREY, "black", GREEN)[number % 3])
                    ax.plot(*zip(*line, strict=True), "o-", ms=4, color=colour, label=name)
            values = [p["value"] for p in points]
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(values, [str(value) for value in values])
            ax.minorticks_off()
            # By default a decade has few ticks, and some panels span less.
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.set(title=f"against {AXIS_TITLES[axis]}", xlabel=AXIS_TITLES[axis])
            ax.set_ylabel("milliseconds per step")
            if legend:
                ax.legend(frameon=False)

        return draw

    return [
        panel(axis, points, legend=number == 0)
        for number, (axis, points) in enumerate(result["points"].items())
    ]


def _memory_panels(result: SuiteResult) -> list[Panel]:
    def draw(ax: "matplotlib.axes.Axes") -> None:
        for colour, (source, points) in zip((BLUE, ORANGE), result["peaks"].items(), strict=False):
            line = [(p["images"] / 1000, p["bytes"] / 2**20) for p in points if p["bytes"]]
            if line:
                ax.plot(*zip(*line, strict=True), "o-", ms=4, color=colour, label=source)
        ax.set(title="peak memory", xlabel="thousand images", ylabel="MiB")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, loc="lower right")

    return [draw]


def _bar(ax: "matplotlib.axes.Axes", place: int, values: Sequence[float], colour: str) -> None:
    """A horizontal bar to the median, with the range and the number beside it."""
    found = spread(values)
    assert found is not None
    ax.barh(place, found.median, color=colour, height=0.7)
    ax.plot([found.lowest, found.highest], [place, place], color="black", lw=1.2)
    beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
    ax.annotate(f"{found.median:.3g}", (found.highest, place), fontsize="small", **beside)
    ax.margins(x=0.15)


def _median(values: Sequence[float]) -> float:
    found = spread(values)
    assert found is not None
    return found.median


# In the order of the page.
SUITES: dict[str, Suite] = {
    "cpu": Suite("An epoch on the CPU", epochs.run_cpu, epochs.cpu_table, _epoch_panels),
    "clustering": Suite(
        "The program clustering, with 10 classes",
        epochs.run_clustering,
        epochs.cpu_table,
    ),
    "short": Suite("The default command", short.run_short, short.short_table, _short_panels),
    "start": Suite(
        "From start to the compiled step",
        start.run_start,
        start.start_table,
        _start_panels,
        tuple(start.TASKS),
    ),
    "diagnosis": Suite("A diagnosis", diagnosis.run_diagnosis, diagnosis.diagnosis_table),
    "scaling": Suite(
        "A step against batch size, latent dimension and particles",
        epochs.run_scaling,
        epochs.scaling_table,
        _scaling_panels,
        tuple(epochs.AXES),
    ),
    "memory": Suite(
        "Memory against the number of images", runs.run_memory, runs.memory_table, _memory_panels
    ),
    "precision": Suite("The cost of bfloat16", runs.run_precision, runs.precision_table),
    "evaluation": Suite(
        "log p(x) beside the decoder's matrix products",
        inference.run_evaluation,
        inference.evaluation_table,
    ),
    "scores": Suite(
        "Scores of rows beside the decoder's matrix products",
        inference.run_scores,
        inference.scores_table,
    ),
    "annealing": Suite(
        "Annealed importance sampling beside the decoder's matrix products",
        inference.run_annealing,
        inference.annealing_table,
    ),
    "encoding": Suite(
        "Codes beside the encoder's forward passes",
        encoding.run_encoding,
        encoding.encoding_table,
    ),
    "gpu": Suite("On a GPU", epochs.run_gpu, epochs.gpu_table, _epoch_panels),
}
