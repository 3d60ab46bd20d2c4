"""What annealed importance sampling costs, beside the matrix products of its decoder alone.

`python scripts/benchmark_evidence.py` times transitions of 16 chains for each of 100 images of MNIST's
size, through a decoder of 200 and 200 units, and in turn the decoder's matrix products, forward and
back to z, of as many leapfrog steps. It prints both for a whole run of 500 temperatures, the pass that
finds step sizes included, and their ratio. What is computed does not depend on what the weights and
images are: both are random.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial

import pyro
import torch

from pyro_vae import networks
from pyro_vae.evaluating import evaluating
from pyro_vae.evidence.annealing import Chunk, Options, chunks
from pyro_vae.model import VAE, build

# Eager products, into memory that is there, and those of compiled graphs.
ROUTINES = {"torch's": torch.mm, "oneDNN's": torch.ops.pyro_vae.mm}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    options = parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    numbers = ("images", "chains", "temperatures", "leapfrog_steps", "rounds", "transitions")
    for word in numbers:
        if getattr(options, word) < 1:
            option = f"--{word.replace('_', '-')}"
            print(f"{option} must be at least 1, got {getattr(options, word)}.", file=sys.stderr)
            return 2
    pyro.set_rng_seed(options.seed)
    vae = build(
        (1, 28, 28), options.latent_dim, network=partial(networks.MLP, hidden=options.hidden)
    )
    x = torch.bernoulli(torch.full((options.images, 1, 28, 28), 0.2))
    measured = Options(
        options.chains, options.transitions + 1, options.leapfrog_steps, 10**9, options.compile
    )
    with evaluating(vae, seed=options.seed), pyro.validation_enabled(False):
        started = time.perf_counter()
        (chunk,) = chunks(vae, x, measured, passes=1, progress=False)
        started_up = time.perf_counter() - started
        chunk.forward()
        rounds = [timed(chunk, vae, options) for _ in range(options.rounds)]

    whole = Options(
        options.chains, options.temperatures, options.leapfrog_steps, 10**9, options.compile
    )
    transitions = whole.transitions(passes=1)
    # Of the products, no more than the weighed chains' own.
    products = [options.temperatures * min(products.values()) for _, products in rounds]
    annealing = [transitions * seconds for seconds, _ in rounds]
    ratios = [one / other for one, other in zip(annealing, products, strict=True)]
    print(
        f"{options.images} images, {options.chains} chains, {options.temperatures} temperatures, "
        f"{options.leapfrog_steps} leapfrog steps, decoder {options.latent_dim}-"
        f"{'-'.join(map(str, options.hidden))}-784, {torch.get_num_threads()} threads"
    )
    print(
        f"annealed importance sampling: {statistics.median(annealing):.1f} s, of which finding step "
        f"sizes {statistics.median(annealing) * (1 - (options.temperatures - 1) / transitions):.1f} s"
    )
    for routine in ROUTINES:
        seconds = statistics.median(products[routine] for _, products in rounds)
        print(f"matrix products alone, {routine}: {seconds * options.temperatures:.1f} s")
    print(
        f"ratio, to the faster: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"
    )
    print(
        f"compiling: {chunk.endpoints.compile_seconds:.1f} s, once; "
        f"all before the first of the weighed chains moves: {started_up:.1f} s"
    )
    return 0


def timed(chunk: Chunk, vae: VAE, options: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """The seconds of a transition, and of its leapfrog steps' products by each routine."""
    started = time.perf_counter()
    chunk.forward()
    seconds = (time.perf_counter() - started) / options.transitions
    rows = options.images * options.chains
    weights = [
        weight.detach()
        for name, weight in vae.likelihood.named_parameters()
        if name.startswith("decoder.") and weight.dim() == 2
    ]
    forward = [(torch.randn(rows, w.shape[1]), w.t()) for w in weights]
    backward = [(torch.randn(rows, w.shape[0]), w) for w in weights]
    products = {}
    for name, routine in ROUTINES.items():
        started = time.perf_counter()
        for _ in range(options.transitions * options.leapfrog_steps):
            for a, b in (*forward, *backward):
                routine(a, b)
        products[name] = (time.perf_counter() - started) / options.transitions
    return seconds, products


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=100, help="the number of images")
    parser.add_argument("--chains", type=int, default=16, help="chains for each image")
    parser.add_argument(
        "--temperatures", type=int, default=500, help="temperatures of a whole run"
    )
    parser.add_argument("--leapfrog-steps", type=int, default=10, help="of a transition")
    parser.add_argument("--latent-dim", type=int, default=50, help="the dimension of z")
    parser.add_argument("--hidden", type=int, nargs="+", default=[200, 200], help="decoder widths")
    parser.add_argument("--transitions", type=int, default=10, help="timed in a round")
    parser.add_argument("--rounds", type=int, default=5, help="the number of rounds")
    parser.add_argument("--compile", choices=("on", "off"), default="on", help="compile gradients")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and chains")
    return parser


if __name__ == "__main__":
    sys.exit(main())
