"""The suite `scaling`: the time of a step against batch size, latent dimension and particles."""

from dataclasses import asdict, replace
from typing import Any

from analysis.study import markdown
from benchmarks.interleaving import Surroundings, measure
from benchmarks.suite import Options, Result
from benchmarks.summary import spread
from benchmarks.way import Setting

SCALING_WAYS = ("by_hand", "this_eager", "this_compiled")
AXES: dict[str, tuple[int, ...]] = {
    "batch_size": (64, 256, 1024, 4096),
    "latent_dim": (2, 50, 512),
    "num_particles": (1, 4, 16),
}
TITLES = {
    "batch_size": "batch size",
    "latent_dim": "latent dimension",
    "num_particles": "particles K",
}
# The steps of an epoch here: enough to see one, few enough for 4096 x 20 images.
STEPS = 20


def run(options: Options) -> Result:
    """Time short epochs for each value on each axis, all else as in `Setting()`."""
    names = options.ways or SCALING_WAYS
    points: dict[str, list[dict[str, Any]]] = {axis: [] for axis in AXES}
    for axis, values in AXES.items():
        for value in values:
            options.say(f"{TITLES[axis]} {value}")
            setting = replace(Setting(), **{axis: value})
            images = dict.fromkeys(names, STEPS * setting.batch_size)
            around = Surroundings(options.data, options.data_root, options.threads, images)
            measured = measure(names, setting, around, options.rounds, options.say)
            points[axis].append(
                {
                    "value": value,
                    "seconds_a_step": {
                        name: [seconds / STEPS for seconds in measurement.seconds]
                        for name, measurement in measured.items()
                    },
                    "status": {name: measurement.status for name, measurement in measured.items()},
                }
            )
    return {
        "setting": asdict(Setting()),
        "data": options.data,
        "rounds": options.rounds,
        "points": points,
        "targets": [],
    }


def table(result: Result) -> str:
    """The median times in Markdown, an axis after the other."""
    parts = []
    for axis, points in result["points"].items():
        names = list(points[0]["seconds_a_step"])
        rows = []
        for point in points:
            found = [spread(point["seconds_a_step"][name]) for name in names]
            cells = [
                point["status"][name] if s is None else f"{s.median * 1000:.3g}"
                for name, s in zip(names, found, strict=True)
            ]
            rows.append((str(point["value"]), *cells))
        parts.append(markdown((TITLES[axis], *names), rows))
    legend = (
        f"Milliseconds a step, medians of {result['rounds']} rounds of {STEPS} steps; what is not "
        f"on the axis is as in the table of epochs."
    )
    return "\n\n".join([*parts, legend])
