"""The suite `cpu`: whole epochs of every way, back to back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from analysis.study import markdown
from benchmarks.interleaving import Measurement, Surroundings, measure
from benchmarks.suite import Options, Result
from benchmarks.summary import ratio, spread
from benchmarks.targets import CPU_TARGETS, ratio_verdicts, targets_of
from benchmarks.way import Setting

CPU_WAYS = (
    *("matrix_products", "this_bfloat16", "this_compiled", "numpyro", "by_hand_compiled"),
    *("by_hand", "this_eager", "pythae", "pyro_memory", "pyro_example"),
)
# What the table gives ratios to.
REFERENCE = "by_hand"


def run(options: Options) -> Result:
    """Time whole epochs of `Setting()` in rounds."""
    setting = Setting()
    measured = measure(
        options.ways or CPU_WAYS,
        setting,
        Surroundings(options.data, options.data_root, options.threads),
        options.rounds,
        options.say,
    )
    return {
        "setting": asdict(setting),
        "data": options.data,
        "rounds": options.rounds,
        "ways": stored(measured),
        "targets": ratio_verdicts(targets_of(options.data, CPU_TARGETS), measured),
    }


def stored(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """Measurements as plain values, with median, range and ratio to the reference."""
    reference = measured.get(REFERENCE)
    ways = {}
    for name, measurement in measured.items():
        found = spread(measurement.seconds)
        against = None if reference is None else _against(measurement, reference)
        ways[name] = {
            **asdict(measurement),
            "median_seconds": None if found is None else found.median,
            f"ratio_to_{REFERENCE}": None if against is None else asdict(against),
        }
    return ways


def table(result: Result) -> str:
    """The measurements in Markdown, the fastest first; what was not measured comes last."""
    size = result["setting"]["batch_size"]
    header = (
        *("way", "seconds an epoch", "range", "ms a step", f"/ {REFERENCE}", "range"),
        *("first epoch", "compiling", "loss", ""),
    )
    ways = result["ways"].values()
    done = sorted((way for way in ways if way["seconds"]), key=_seconds_an_image)
    rows = [_row(way, size) for way in done]
    rows += [
        (way["title"], *[""] * (len(header) - 2), way["status"])
        for way in ways
        if not way["seconds"]
    ]
    return (
        f"{markdown(header, rows)}\n\n"
        f"Medians and ranges of {result['rounds']} rounds of whole epochs in turn, each way in a "
        f"process of its own, after epochs of warm-up; {result['data']}, batch "
        f"{size}, on {result['setting']['device']}. Ratios are taken within a round. Seconds "
        "throughout; loss is the mean negative ELBO of the last epoch, in nats an image."
    )


def _row(way: dict[str, Any], batch_size: int) -> Sequence[str]:
    against = way[f"ratio_to_{REFERENCE}"]
    steps = -(-way["images"] // batch_size)
    loss = way["losses"][-1]
    remarks = [way["note"]] if way["note"] else []
    if way["status"] != "measured":
        remarks.append(way["status"])
    return (
        way["title"],
        f"{way['median_seconds']:.3g}",
        f"{min(way['seconds']):.3g} to {max(way['seconds']):.3g}",
        f"{way['median_seconds'] / steps * 1000:.3g}",
        "" if against is None else f"{against['median']:.2f}",
        "" if against is None else f"{against['lowest']:.2f} to {against['highest']:.2f}",
        f"{way['warm_up_seconds'][0]:.3g}",
        "" if way["compile_seconds"] is None else f"{way['compile_seconds']:.3g}",
        "" if loss is None else f"{loss:.2f}",
        "; ".join(remarks),
    )


def _seconds_an_image(way: dict[str, Any]) -> float:
    return way["median_seconds"] / way["images"]


def _against(measurement: Measurement, reference: Measurement) -> Any:
    # By image: on a GPU the slow ways are given fewer.
    times = [seconds / (measurement.images or 1) for seconds in measurement.seconds]
    others = [seconds / (reference.images or 1) for seconds in reference.seconds]
    return ratio(times, others)
