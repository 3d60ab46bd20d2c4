"""The benchmark as a picture: a panel or three for each suite that was run."""

from collections.abc import Callable, Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

from analysis.plotting.style import BLUE, GREEN, GREY, ORANGE, new_figure, tidy
from benchmarks.scaling import TITLES
from benchmarks.suite import Result
from benchmarks.summary import spread

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# This project's ways stand out.
COLOURS = {"this_eager": ORANGE, "this_compiled": BLUE, "this_bfloat16": GREEN}
WIDTH, HEIGHT = 5.0, 4.2

# Draws one panel.
Panel = Callable[["matplotlib.axes.Axes"], None]


def plot_benchmark(results: Mapping[str, Result]) -> "matplotlib.figure.Figure":
    """The suites stored, in panels.

    Args:
        results: Results by suite, as in `benchmark.json`.

    Raises:
        ValueError: If there is nothing to draw.
    """
    panels = [
        panel for name in _PANELS if name in results for panel in _PANELS[name](results[name])
    ]
    if not panels:
        raise ValueError(f"results must hold one of {', '.join(_PANELS)}, got {list(results)}.")
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


def _ways(result: Result, title: str) -> list[Panel]:
    """A bar for each way: milliseconds a step, with the range of the rounds."""

    def draw(ax: "matplotlib.axes.Axes") -> None:
        size = result["setting"]["batch_size"]
        bars = []
        for name, way in result["ways"].items():
            if way["seconds"]:
                steps = -(-way["images"] // size)
                bars.append((way["title"], name, [1000 * s / steps for s in way["seconds"]]))
        # The fastest on top.
        bars.sort(key=lambda bar: -_median(bar[2]))
        for place, (_, name, times) in enumerate(bars):
            _bar(ax, place, times, COLOURS.get(name, GREY))
        ax.set_yticks(range(len(bars)), [fill(bar[0], 26) for bar in bars], fontsize="small")
        ax.set(title=title, xlabel=f"milliseconds a step, batch {size}")

    return [draw]


def _cpu(result: Result) -> list[Panel]:
    return _ways(result, "whole epochs")


def _gpu(result: Result) -> list[Panel]:
    return _ways(result, result["device"])


def _start(result: Result) -> list[Panel]:
    def draw(ax: "matplotlib.axes.Axes") -> None:
        starts = list(result["starts"].values())[::-1]
        for place, start in enumerate(starts):
            if start["seconds"]:
                _bar(ax, place, start["seconds"], BLUE)
        ax.set_yticks(
            range(len(starts)), [start["title"].replace(", ", ",\n") for start in starts]
        )
        ax.axvline(result["targets"][0]["bound"], color=ORANGE, ls="--", lw=1)
        ax.set(title="start to first compiled step", xlabel="seconds (dashed: target, last row)")

    return [draw]


def _scaling(result: Result) -> list[Panel]:
    from matplotlib.ticker import LogLocator

    def panel(axis: str, points: list[dict[str, Any]], *, legend: bool) -> Panel:
        def draw(ax: "matplotlib.axes.Axes") -> None:
            for number, name in enumerate(points[0]["seconds_a_step"]):
                drawn = [(p["value"], p["seconds_a_step"][name]) for p in points]
                drawn = [(value, 1000 * _median(times)) for value, times in drawn if times]
                if drawn:
                    colour = COLOURS.get(name, (GREY, "black", GREEN)[number % 3])
                    ax.plot(*zip(*drawn, strict=True), "o-", ms=4, color=colour, label=name)
            values = [p["value"] for p in points]
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(values, [str(value) for value in values])
            ax.minorticks_off()
            # A decade has few ticks by itself, and some panels span less.
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.set(title=f"against {TITLES[axis]}", xlabel=TITLES[axis])
            ax.set_ylabel("milliseconds a step")
            if legend:
                ax.legend(frameon=False)

        return draw

    return [
        panel(axis, points, legend=number == 0)
        for number, (axis, points) in enumerate(result["points"].items())
    ]


def _memory(result: Result) -> list[Panel]:
    def draw(ax: "matplotlib.axes.Axes") -> None:
        for colour, (source, points) in zip((BLUE, ORANGE), result["peaks"].items(), strict=False):
            drawn = [(p["images"] / 1000, p["bytes"] / 2**20) for p in points if p["bytes"]]
            if drawn:
                ax.plot(*zip(*drawn, strict=True), "o-", ms=4, color=colour, label=source)
        ax.set(title="peak memory", xlabel="thousand images", ylabel="MiB")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, loc="lower right")

    return [draw]


def _bar(ax: "matplotlib.axes.Axes", place: int, values: list[float], colour: str) -> None:
    """A horizontal bar to the median, with the range and the number beside it."""
    found = spread(values)
    assert found is not None
    ax.barh(place, found.median, color=colour, height=0.7)
    ax.plot([found.lowest, found.highest], [place, place], color="black", lw=1.2)
    ax.annotate(
        f"{found.median:.3g}",
        (found.highest, place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
    )
    ax.margins(x=0.15)


def _median(values: list[float]) -> float:
    found = spread(values)
    assert found is not None
    return found.median


_PANELS: dict[str, Callable[[Result], list[Panel]]] = {
    "cpu": _cpu,
    "gpu": _gpu,
    "start": _start,
    "memory": _memory,
    "scaling": _scaling,
}
