"""The suite `annealing`: log p(x) by annealed importance sampling beside the decoder's products alone."""

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
from benchmarks.targets import ANNEALING_RATIO, at_most

# What the target is set for.
IMAGES, CHAINS, TEMPERATURES, LEAPFROG_STEPS = 100, 16, 500, 10
LATENT_DIM, HIDDEN = 50, (200, 200)
# So many transitions are timed in a round, and stand for all.
TRANSITIONS = 10
# Eager products, and those of compiled graphs.
ROUTINES = ("torch.mm", "oneDNN")


def run(options: Options) -> Result:
    """Time transitions and as many products, in turn, in a process of its own.

    Raises:
        RuntimeError: If the process fails.
    """
    options.say(f"annealing {IMAGES} images with {CHAINS} chains each, {options.rounds} rounds")
    found = _child(options)
    seconds = [found["transitions"] * each for each in found["transition_seconds"]]
    # Of the products, no more than those of the chains that are weighed.
    products = {
        routine: [TEMPERATURES * each for each in times]
        for routine, times in found["products_seconds"].items()
    }
    # Each round against the faster routine.
    times = ratio(seconds, [min(both) for both in zip(*products.values(), strict=True)])
    what = f"annealing {IMAGES} images with {CHAINS} chains and {TEMPERATURES} temperatures"
    target = at_most(f"{what} / its matrix products", times and times.median, ANNEALING_RATIO)
    if times is not None:
        target |= {"lowest": times.lowest, "highest": times.highest}
    return {
        "data": options.data,
        "rounds": options.rounds,
        **found,
        "seconds": seconds,
        "products": products,
        # It was set for these images.
        "targets": [target] if options.data == "mnist" else [],
    }


def table(result: Result) -> str:
    """Times in Markdown."""
    rows = []
    for title, values in {
        f"annealing, {CHAINS} chains, {TEMPERATURES} temperatures": result["seconds"],
        **{
            f"the decoder's matrix products alone, {routine}": times
            for routine, times in result["products"].items()
        },
    }.items():
        found = spread(values)
        assert found is not None
        rows.append((title, f"{found.median:.1f}", f"{found.lowest:.1f} to {found.highest:.1f}"))
    widths = "-".join(map(str, (LATENT_DIM, *HIDDEN, 784)))
    return (
        f"{markdown(('', f'seconds for {IMAGES:,} images', 'range'), rows)}\n\n"
        f"Decoder {widths}, {LEAPFROG_STEPS} leapfrog steps. Extrapolated from {TRANSITIONS} transitions "
        f"in each of {result['rounds']} rounds to all {result['transitions']}, those that find step sizes "
        f"among them; the products are {TEMPERATURES * LEAPFROG_STEPS:,} times forward and back to z. The "
        f"target is by the faster ones. Compiling took {result['compile_seconds']:.1f} s, once."
    )


def main(rounds: int, data: str, data_root: str | None) -> dict[str, Any]:
    """Time transitions and products, round by round."""
    import pyro
    from pyro_vae.evidence.annealing import Options as Walk
    from pyro_vae.evidence.annealing import chunks

    from benchmarks.images import grey_images
    from pyro_vae import build, networks
    from pyro_vae.rng import evaluation_mode

    x = (grey_images(data, data_root, IMAGES) > 127).float()
    pyro.set_rng_seed(0)
    network = partial(networks.MLP, hidden=HIDDEN)
    vae = build((x.shape[1],), LATENT_DIM, network=network)
    whole = Walk(CHAINS, TEMPERATURES, LEAPFROG_STEPS, 10**9, "on")
    timed = Walk(CHAINS, TRANSITIONS + 1, LEAPFROG_STEPS, 10**9, "on")
    widths = (LATENT_DIM, *HIDDEN, x.shape[1])
    seconds: list[float] = []
    products: dict[str, list[float]] = {routine: [] for routine in ROUTINES}
    with evaluation_mode(vae, seed=0), pyro.validation_enabled(False):
        (chunk,) = chunks(vae, x, timed, passes=1, progress=False)
        chunk.forward()
        for _ in range(rounds):
            before = {routine: products_seconds(len(x), widths, routine) for routine in ROUTINES}
            started = time.perf_counter()
            chunk.forward()
            seconds.append((time.perf_counter() - started) / TRANSITIONS)
            # Before and after, so that what drifts within a round favours nobody.
            for routine, times in products.items():
                after = products_seconds(len(x), widths, routine)
                times.append((before[routine] + after) / 2)
    return {
        "transition_seconds": seconds,
        "products_seconds": products,
        "transitions": whole.transitions(passes=1),
        "compile_seconds": chunk.endpoints.compile_seconds,
    }


def products_seconds(images: int, widths: tuple[int, ...], routine: str) -> float:
    """The time of a transition's matrix products, forward and back to z, and of nothing else.

    Args:
        images: The number of images.
        widths: Of the latent, of the hidden layers and of an image.
        routine: One of `ROUTINES`.
    """
    import torch

    rows = images * CHAINS
    weights = [torch.randn(after, before) for before, after in pairwise(widths)]
    pairs = [(torch.randn(rows, weight.shape[1]), weight.mT) for weight in weights]
    pairs += [(torch.randn(rows, weight.shape[0]), weight) for weight in weights]
    multiply = torch.mm if routine == "torch.mm" else torch.ops.pyro_vae.mm
    # The first ones make threads.
    for one, other in pairs:
        multiply(one, other)
    repeats = TRANSITIONS * LEAPFROG_STEPS
    started = time.perf_counter()
    for _ in range(repeats):
        for one, other in pairs:
            multiply(one, other)
    return (time.perf_counter() - started) / TRANSITIONS


def _child(options: Options) -> dict[str, Any]:
    job = [options.rounds, options.data, options.data_root]
    return result_of("benchmarks.annealing", json.dumps(job), options.threads)


if __name__ == "__main__":
    print(json.dumps(main(*json.loads(sys.argv[1]))))  # noqa: T201 - read by `run`
