"""The suite `memory`: the peak memory of training against the number of images."""

import json
import sys
from functools import partial
from typing import Any

from analysis.study import markdown
from benchmarks.child import ChildFailed, result_of
from benchmarks.suite import Options, Result

IMAGES = (10_000, 50_000, 100_000, 200_000, 400_000)
# Where the images are while a run reads them. A reader of files joins with its own module.
SOURCES = {"in memory": "benchmarks.memory"}
STEPS = 50


def run(options: Options) -> Result:
    """Train a few steps on more and more images, each time in a process of its own."""
    peaks: dict[str, list[dict[str, Any]]] = {}
    for source, module in SOURCES.items():
        peaks[source] = []
        for images in IMAGES:
            peak = _peak_of(module, images, options)
            peaks[source].append({"images": images, **peak})
            options.say(f"{source}, {images:,} images: {_shown(peak)}")
    return {"data": options.data, "steps": STEPS, "peaks": peaks, "targets": []}


def table(result: Result) -> str:
    """The peaks in Markdown."""
    numbers = [point["images"] for points in result["peaks"].values() for point in points]
    header = ("images", *(f"{n:,}" for n in dict.fromkeys(numbers)))
    rows = [
        (source, *(_shown(point) for point in points))
        for source, points in result["peaks"].items()
    ]
    return (
        f"{markdown(header, rows)}\n\nThe most memory that a process held in {result['steps']} "
        "training steps on so many 28 x 28 images; torch and Pyro alone are most of the first."
    )


def main(images: int) -> dict[str, Any]:
    """Train some steps on so many images in memory, and say what that took."""
    import torch

    from benchmarks.worker import peak_bytes
    from pyro_vae import build, networks
    from pyro_vae.data import Dataset, PreparedData
    from pyro_vae.training.loop import Training

    # Random bytes, so that no two pages are one.
    train = torch.randint(0, 256, (images, 784), dtype=torch.uint8)
    data = Dataset("images", "integers", 256, train=train, validation=train[:100], test=train[:1])
    vae = build((784,), 50, network=partial(networks.MLP, hidden=(400,)))
    prepared = PreparedData(data, "binary", binarisation="dynamic")
    Training(vae, prepared, batch_size=256, max_steps=STEPS).run()
    return {"bytes": peak_bytes(), "status": "measured"}


def _peak_of(module: str, images: int, options: Options) -> dict[str, Any]:
    try:
        return result_of(module, str(images), options.threads)
    except ChildFailed as error:
        return {"bytes": None, "status": f"failed: {error}"}


def _shown(point: dict[str, Any]) -> str:
    return point["status"] if point["bytes"] is None else f"{point['bytes'] / 2**20:,.0f} MiB"


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))  # noqa: T201 - read by `run`
