"""What is to be reached, and whether it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.interleaving import Measurement
from benchmarks.summary import ratio


@dataclass(frozen=True)
class RatioTarget:
    """An epoch of one way takes at most so much of another's.

    Args:
        way: A name in `WAYS`.
        against: Another.
        at_most: The highest ratio, of their times for as many images.
    """

    way: str
    against: str
    at_most: float


CPU_TARGETS = (
    RatioTarget("this_compiled", "by_hand", 0.75),
    RatioTarget("this_compiled", "numpyro", 0.92),
    RatioTarget("this_compiled", "pyro_example", 0.2),
    RatioTarget("this_compiled", "matrix_products", 1.35),
    RatioTarget("this_bfloat16", "by_hand", 0.45),
)
# A twentieth of the time is twenty times as fast.
GPU_TARGETS = (
    RatioTarget("this_compiled", "pyro_example", 1 / 20),
    RatioTarget("this_compiled", "by_hand_cuda_graph", 1.2),
)
# From start to first step of a second compiled run, in seconds.
SECOND_START = 8.0
# Of test log p(x) in bfloat16 from float32's, in nats.
PRECISION_GAP = 0.3

# Of log p(x) with 5,000 draws for each of 10,000 images: its time by that of the decoder's products
# alone, and the memory it adds.
EVALUATION_RATIO = 1.5
EVALUATION_BYTES = 10**9
# Of annealing, by its decoder's products alone.
ANNEALING_RATIO = 1.5

# What a target became: "target", "value", "bound", "verdict", and "lowest" and "highest" of rounds.
Verdict = dict[str, Any]


def targets_of(data: str, targets: Sequence[RatioTarget]) -> Sequence[RatioTarget]:
    """The targets, if the images are those they were set for; none otherwise."""
    return targets if data == "mnist" else ()


def ratio_verdicts(
    targets: Sequence[RatioTarget], measured: Mapping[str, Measurement]
) -> list[Verdict]:
    """Each target, the ratio measured, and whether it was reached.

    Args:
        targets: The targets.
        measured: Measurements by way. One of other images is compared by its time an image.
    """
    verdicts = []
    for target in targets:
        sides = [measured.get(name) for name in (target.way, target.against)]
        times = [_times_an_image(side) for side in sides]
        found = ratio(times[0], times[1])
        what = f"{target.way} / {target.against}"
        verdict = at_most(what, None if found is None else found.median, target.at_most)
        if found is not None:
            verdict |= {"lowest": found.lowest, "highest": found.highest}
        verdicts.append(verdict)
    return verdicts


def at_most(what: str, value: float | None, bound: float, unit: str = "") -> Verdict:
    """Whether a value is no higher than a bound.

    >>> at_most("start", 9.0, 8.0, "s")["verdict"]
    'missed by 12.5 %'
    """
    if value is None:
        verdict = "not measured"
    elif value <= bound:
        verdict = "reached"
    else:
        verdict = f"missed by {value / bound - 1:.1%}".replace("%", " %")
    return {"target": what, "value": value, "bound": bound, "unit": unit, "verdict": verdict}


def describe(verdict: Verdict) -> str:
    """A target and what became of it, in a line."""
    unit = f" {verdict['unit']}" if verdict["unit"] else ""
    if verdict["bound"] is None:
        return f"{verdict['target']}: {verdict['verdict']}"
    line = f"{verdict['target']} <= {verdict['bound']:.3g}{unit}: {verdict['verdict']}"
    if verdict["value"] is None:
        return line
    line += f" ({verdict['value']:.3g}{unit}"
    if "lowest" in verdict:
        line += f"; by round {verdict['lowest']:.3g} to {verdict['highest']:.3g}"
    return line + ")"


def _times_an_image(measurement: Measurement | None) -> list[float]:
    if measurement is None or measurement.status != "measured" or not measurement.images:
        return []
    return [seconds / measurement.images for seconds in measurement.seconds]
