"""The suite `evaluation`: importance-weighted log p(x) beside the decoder's matrix products alone."""

import json
import sys
import time
from functools import partial
from itertools import pairwise
from typing import Any

from analysis.study import markdown
from benchmarks.child import result_of
from benchmarks.suite import Options, Result
from benchmarks.summary import ratio, spread
from benchmarks.targets import EVALUATION_BYTES, EVALUATION_RATIO, at_most
from benchmarks.way import Setting

# What the targets are set for.
DRAWS = 5_000
IMAGES = 10_000
# So few that what an evaluation takes beside its images, compiling above all, is seen.
FEW = 10
# The draws of a product. Those of `importance_weighting` for an image of 784 elements.
ROWS = 2_500
# Eager products, into memory that is there, and those of compiled graphs.
ROUTINES = ("torch.mm", "oneDNN")


def run(options: Options) -> Result:
    """Evaluate some images and multiply as many matrices, in turn, in a process of its own.

    Raises:
        RuntimeError: If the process fails.
    """
    options.say(
        f"log p(x) of {options.images} images with {DRAWS:,} draws each, {options.rounds} rounds"
    )
    found = _child(options)
    # The first evaluation, and a straight line from few to many images. The least of the few: what
    # disturbs them only adds, and would count a hundredfold.
    few = min(found["few_seconds"])
    seconds = [
        found["first_seconds"] + (IMAGES - FEW) * (many - few) / (options.images - FEW)
        for many in found["many_seconds"]
    ]
    products = {
        routine: [each / options.images * IMAGES for each in times]
        for routine, times in found["products_seconds"].items()
    }
    # Each round against the faster routine.
    times = ratio(seconds, [min(both) for both in zip(*products.values(), strict=True)])
    what = f"log p(x) of {IMAGES:,} images with {DRAWS:,} draws"
    extra = found["peak_bytes"] - found["bytes_before"]
    targets = [
        at_most(f"{what} / its matrix products", times and times.median, EVALUATION_RATIO),
        at_most(f"{what}: extra memory", extra / 2**20, EVALUATION_BYTES / 2**20, "MiB"),
    ]
    if times is not None:
        targets[0] |= {"lowest": times.lowest, "highest": times.highest}
    return {
        "data": options.data,
        "rounds": options.rounds,
        "images": options.images,
        **found,
        "seconds": seconds,
        "products": products,
        "extra_bytes": extra,
        # They were set for these images.
        "targets": targets if options.data == "mnist" else [],
    }


def table(result: Result) -> str:
    """Times and memory in Markdown."""
    rows = []
    for title, values in {
        f"log p(x), {DRAWS:,} draws an image": result["seconds"],
        **{
            f"the decoder's matrix products alone, {routine}": times
            for routine, times in result["products"].items()
        },
    }.items():
        found = spread(values)
        assert found is not None
        rows.append((title, f"{found.median:.1f}", f"{found.lowest:.1f} to {found.highest:.1f}"))
    return (
        f"{markdown(('', f'seconds for {IMAGES:,} images', 'range'), rows)}\n\n"
        f"Extrapolated: the first evaluation, of {FEW} images, which compiled "
        f"({result['first_seconds']:.1f} s), and on from there by a straight line through {FEW} and "
        f"{result['images']} images; medians and ranges of {result['rounds']} rounds. Products of {ROWS:,} draws a time; the target is by the faster ones. Evaluating "
        f"added {result['extra_bytes'] / 2**20:,.0f} MiB, the compiler in it, to the process."
    )


def main(images: int, rounds: int, data: str, data_root: str | None) -> dict[str, Any]:
    """Time some evaluations and as many products, and say what memory the first ones took."""
    import torch

    from benchmarks.images import grey_images
    from benchmarks.worker import held_bytes, peak_bytes
    from pyro_vae import build, networks
    from pyro_vae.evidence import evaluate

    setting = Setting()
    x = (grey_images(data, data_root, images) > 127).byte()
    torch.manual_seed(setting.seed)
    network = partial(networks.MLP, hidden=(setting.hidden,), activation="softplus")
    vae = build((x.shape[1],), setting.latent_dim, network=network)
    # Networks are made, and libraries imported, that any evaluation needs.
    evaluate(vae, x[:1], num_samples=30, compile="off")
    # Were the peak before it higher, that would count as the evaluation's.
    before = held_bytes()

    def evaluation(count: int) -> float:
        started = time.perf_counter()
        evaluate(vae, x[:count], num_samples=DRAWS, compile="on")
        return time.perf_counter() - started

    first = evaluation(FEW)
    few, many = [], []
    products: dict[str, list[float]] = {routine: [] for routine in ROUTINES}
    widths = (setting.latent_dim, setting.hidden, x.shape[1])
    half = images // 2
    for _ in range(rounds):
        few.append(evaluation(FEW))
        # Before and after, so that what drifts within a round favours nobody.
        before_it = {routine: products_seconds(half, widths, routine) for routine in ROUTINES}
        many.append(evaluation(images))
        for routine, times in products.items():
            times.append(before_it[routine] + products_seconds(images - half, widths, routine))
    return {
        "few_seconds": few,
        "many_seconds": many,
        "products_seconds": products,
        "first_seconds": first,
        "bytes_before": before,
        "peak_bytes": peak_bytes(),
    }


def products_seconds(images: int, widths: tuple[int, ...], routine: str) -> float:
    """The time of a decoder's matrix products for `DRAWS` draws an image, and of nothing else.

    Args:
        images: The number of images.
        widths: Of the latent, of the hidden layers and of an image.
        routine: One of `ROUTINES`.
    """
    import torch

    layers = [torch.randn(ROWS, width) for width in widths]
    weights = [torch.randn(width, before) for before, width in pairwise(widths)]

    def multiply() -> None:
        for before, weight, after in zip(layers[:-1], weights, layers[1:], strict=True):
            if routine == "torch.mm":
                torch.mm(before, weight.mT, out=after)
            else:
                torch.ops.pyro_vae.mm(before, weight.mT)

    # The first one makes threads.
    multiply()
    started = time.perf_counter()
    for _ in range(images * DRAWS // ROWS):
        multiply()
    return time.perf_counter() - started


def _child(options: Options) -> dict[str, Any]:
    job = [options.images, options.rounds, options.data, options.data_root]
    return result_of("benchmarks.evaluation", json.dumps(job), options.threads)


if __name__ == "__main__":
    print(json.dumps(main(*json.loads(sys.argv[1]))))  # noqa: T201 - read by `run`
