"""The suite `gpu`: the compiled step equals the eager one, and how fast each way is there."""

from dataclasses import asdict, replace

import torch

from analysis.study import markdown
from benchmarks import epochs
from benchmarks.equality import CASES, Case, compare
from benchmarks.images import grey_images
from benchmarks.interleaving import Surroundings, measure
from benchmarks.suite import Options, Result, Skipped
from benchmarks.targets import GPU_TARGETS, Verdict, ratio_verdicts, targets_of
from benchmarks.way import Setting

GPU_WAYS = (
    *("matrix_products", "by_hand_cuda_graph", "this_bfloat16", "this_compiled"),
    *("by_hand_compiled", "by_hand", "this_eager", "pyro_memory", "pyro_example"),
)
# Long epochs, so that what ends one does not count; the slow ways need none.
IMAGES = 400_000
SLOW = {"pyro_example": 25_000, "pyro_memory": 50_000, "this_eager": 50_000}


def run(options: Options) -> Result:
    """Compare the steps, then time the ways, on the GPU.

    Raises:
        Skipped: If there is none.
        ValueError: If there are no such images.
    """
    if not torch.cuda.is_available():
        raise Skipped("no GPU: skipped")
    # Now, rather than after the comparisons.
    grey_images(options.data, options.data_root, 1)
    equality = [_equality(name, case, options) for name, case in CASES.items()]
    names = options.ways or GPU_WAYS
    setting = replace(Setting(), device="cuda")
    images = {name: SLOW.get(name, IMAGES) for name in names}
    around = Surroundings(options.data, options.data_root, options.threads, images)
    measured = measure(names, setting, around, options.rounds, options.say)
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "setting": asdict(setting),
        "data": options.data,
        "rounds": options.rounds,
        "equality": equality,
        "ways": epochs.stored(measured),
        "targets": [*equality, *ratio_verdicts(targets_of(options.data, GPU_TARGETS), measured)],
    }


def table(result: Result) -> str:
    """Both tables in Markdown."""
    rows = [
        (entry["case"], entry["distance"], entry["elbo_difference"], entry["verdict"])
        for entry in result["equality"]
    ]
    header = ("compiled against eager", "distance of the ends", "difference of the ELBO", "")
    return (
        f"{result['device']}, CUDA {result['cuda']}.\n\n{markdown(header, rows)}\n\n"
        "Both train from one start under the same noise. The distance is a share of the way that "
        f"training went.\n\n{epochs.table(result)}"
    )


def _equality(name: str, case: Case, options: Options) -> Verdict:
    """A comparison, as a target whose value is the distance."""
    entry: Verdict = {
        "case": name,
        "target": f"compiled step equals eager: {name}",
        "value": None,
        "bound": None,
        "unit": "",
        "distance": "",
        "elbo_difference": "",
    }
    try:
        found = compare(case, "cuda")
    # Whatever a step raises is its result; the other cases go on.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())[:300]
        entry["verdict"] = f"failed: {type(error).__name__}: {reason}"
    else:
        entry["distance"] = f"{found.distance:.1e}"
        entry["elbo_difference"] = f"{found.elbo_difference:.1e}"
        entry["verdict"] = "reached" if found.passed else "missed"
    options.say(f"{name}: {entry['verdict']}")
    return entry
