"""The suites `evaluation`, `scores` and `annealing`: log p(x) beside the decoder's products."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any
from unittest.mock import patch

from analysis.study_results import markdown
from benchmarks.epochs import SuiteResult
from benchmarks.task import Options, Setting, grey_images
from benchmarks.timing import TargetResult, at_most, memory_bytes, ratio, run_in_process, spread
from pyro_vae.compilation import CompiledFunction

# The products of eager PyTorch, and those of compiled graphs.
ROUTINES = ("torch.mm", "oneDNN")

# The setting of the targets of `evaluation`: its time relative to that of the products, and its
# memory.
DRAWS = 5_000
IMAGES = 10_000
EVALUATION_RATIO = 1.5
EVALUATION_BYTES = 10**9
# Few images, for the part of the time that does not depend on them, above all tracing.
FEW = 10
# The most images whose products are timed, as they are alike.
PRODUCT_IMAGES = 1_000
# The draws per product, as in `importance_weighting` for an image of 784 elements.
ROWS = 2_500

# The setting of the target of `scores`, and the draws per product, of two images.
SCORE_DRAWS, SCORE_ROWS = 1_000, 2_000

# The setting of the target of `annealing`.
ANNEALED_IMAGES, CHAINS, TEMPERATURES, LEAPFROG_STEPS = 100, 16, 500, 10
ANNEALED_DIM, ANNEALED_HIDDEN = 50, (200, 200)
ANNEALING_RATIO = 1.5
# The transitions timed in a round, from which all are extrapolated.
TRANSITIONS = 10


def run_evaluation(options: Options) -> SuiteResult:
    """Time importance-weighted evaluations and as many products, in turn.

    With `IMAGES` images the evaluation is measured whole, and is otherwise extrapolated.

    Raises:
        ProcessError: If the process fails.
    """
    return _run(options, f"log p(x) of {IMAGES:,} images with {DRAWS:,} draws", scores=False)


def run_scores(options: Options) -> SuiteResult:
    """Time scores of rows and as many products, in turn, as `run_evaluation`.

    Raises:
        ProcessError: If the process fails.
    """
    return _run(options, f"scores of {IMAGES:,} images with {SCORE_DRAWS:,} draws", scores=True)


def _run(options: Options, what: str, *, scores: bool) -> SuiteResult:
    options.say(f"{what}, from {options.images}, {options.rounds} rounds")
    job = (options.images, options.rounds, options.data, options.data_root, scores)
    function = "benchmarks.inference:time_evaluation"
    found = run_in_process(function, *job, threads=options.threads)
    # A straight line from few to many images. The least time of the few: disturbances only add,
    # and would count a hundredfold.
    few = min(found["few_seconds"])
    seconds = [
        few + (IMAGES - FEW) * (many - few) / (options.images - FEW)
        for many in found["many_seconds"]
    ]
    timed = min(options.images, PRODUCT_IMAGES)
    products = _scaled(found["products_seconds"], IMAGES / timed)
    extra = found["peak_bytes"] - found["bytes_before"]
    memory = at_most(f"{what}: extra memory", extra / 2**20, EVALUATION_BYTES / 2**20, "MiB")
    targets = [_target(what, seconds, products, EVALUATION_RATIO), memory]
    return {
        "data": options.data,
        "rounds": options.rounds,
        "images": options.images,
        **found,
        "seconds": seconds,
        "products": products,
        "extra_bytes": extra,
        "targets": targets if options.data == "mnist" else [],
    }


def time_evaluation(
    images: int, rounds: int, data: str, data_root: str | None, scores: bool = False
) -> dict[str, Any]:
    """Time compiled evaluations and as many products, and measure the memory of evaluating.

    The first evaluation waits for the compiler, and the others load what it compiled.

    Args:
        images: The number of images.
        rounds: The number of repetitions.
        data: The image set.
        data_root: The folder of data sets.
        scores: Time the scores of rows instead.
    """
    import torch

    from pyro_vae import build, networks
    from pyro_vae.evidence import evaluate, row_scores

    weigh, draws, rows = (
        (row_scores, SCORE_DRAWS, SCORE_ROWS) if scores else (evaluate, DRAWS, ROWS)
    )
    setting = Setting()
    x = (grey_images(data, data_root, images) > 127).byte()
    torch.manual_seed(setting.seed)
    network = partial(networks.MLP, hidden=(setting.hidden,), activation="softplus")
    vae = build((x.shape[1],), setting.latent_dim, network=network)
    # What any evaluation imports and allocates.
    weigh(vae, x[:1], num_samples=30, compile="off")
    before = memory_bytes("VmRSS")

    def run(count: int, *, wait: bool = False) -> None:
        with all_compiled(wait=wait):
            weigh(vae, x[:count], num_samples=draws, compile="on")

    first = seconds_of(lambda: run(FEW, wait=True))
    few, many = [], []
    products: dict[str, list[float]] = {routine: [] for routine in ROUTINES}
    layers = [torch.randn(rows, n) for n in (setting.latent_dim, setting.hidden, x.shape[1])]
    forward = [(a, torch.randn(b.shape[1], a.shape[1]).mT, b) for a, b in pairwise(layers)]
    repeats = min(images, PRODUCT_IMAGES) * draws // rows
    for _ in range(rounds):
        few.append(seconds_of(lambda: run(FEW)))
        many.append(seconds_beside_products(lambda: run(images), forward, repeats, products))
    return {
        "few_seconds": few,
        "many_seconds": many,
        "products_seconds": products,
        "first_seconds": first,
        "bytes_before": before,
        "peak_bytes": memory_bytes(),
    }


def scores_table(result: SuiteResult) -> str:
    """Times and memory of scores in Markdown."""
    return evaluation_table(result, f"scores of rows, {SCORE_DRAWS:,} draws", SCORE_ROWS)


def evaluation_table(
    result: SuiteResult, title: str = f"importance weighting, {DRAWS:,} draws", rows: int = ROWS
) -> str:
    """Times and memory in Markdown."""
    line = f"Extrapolated by a straight line through {FEW} and {result['images']} images"
    whole = f"Measured whole, beside the products of {PRODUCT_IMAGES:,} images"
    how = whole if result["images"] == IMAGES else line
    return (
        f"{_table(title, result, IMAGES)}\n\n"
        f"{how}; medians and ranges of {result['rounds']} rounds. An evaluation before them, "
        f"of {FEW} images, waited for the compiler ({result['first_seconds']:.1f} s); these load "
        f"what it compiled. Each product has {rows:,} draws; the target uses the faster routine. "
        f"Evaluating added {result['extra_bytes'] / 2**20:,.0f} MiB to the process, and the "
        "compiler is another one."
    )


def run_annealing(options: Options) -> SuiteResult:
    """Time transitions of annealed importance sampling and as many products, in turn.

    Raises:
        ProcessError: If the process fails.
    """
    what = f"annealing {ANNEALED_IMAGES} images with {CHAINS} chains"
    options.say(f"{what} each, {options.rounds} rounds")
    job = (options.rounds, options.data, options.data_root)
    function = "benchmarks.inference:time_annealing"
    found = run_in_process(function, *job, threads=options.threads)
    seconds = [found["transitions"] * each for each in found["transition_seconds"]]
    # Products of the weighted chains only.
    products = _scaled(found["products_seconds"], float(TEMPERATURES))
    target = _target(f"{what} and {TEMPERATURES} temperatures", seconds, products, ANNEALING_RATIO)
    return {
        "data": options.data,
        "rounds": options.rounds,
        **found,
        "seconds": seconds,
        "products": products,
        "targets": [target] if options.data == "mnist" else [],
    }


def time_annealing(rounds: int, data: str, data_root: str | None) -> dict[str, Any]:
    """Time transitions and their products, round by round: the seconds of one transition."""
    import pyro
    import torch

    from pyro_vae import build, networks
    from pyro_vae.evidence.annealed_importance_sampling import ChainOptions, chains_of_chunks
    from pyro_vae.rng import evaluation_mode

    x = (grey_images(data, data_root, ANNEALED_IMAGES) > 127).float()
    pyro.set_rng_seed(0)
    network = partial(networks.MLP, hidden=ANNEALED_HIDDEN)
    vae = build((x.shape[1],), ANNEALED_DIM, network=network)
    whole = ChainOptions(CHAINS, TEMPERATURES, LEAPFROG_STEPS, 10**9, "on")
    timed = ChainOptions(CHAINS, TRANSITIONS + 1, LEAPFROG_STEPS, 10**9, "on")
    # Forward, and back to z.
    weights = [
        torch.randn(b, a) for a, b in pairwise((ANNEALED_DIM, *ANNEALED_HIDDEN, x.shape[1]))
    ]
    rows = len(x) * CHAINS
    factors = [(torch.randn(rows, weight.shape[1]), weight.mT) for weight in weights]
    factors += [(torch.randn(rows, weight.shape[0]), weight) for weight in weights]
    both_ways = [(left, right, left @ right) for left, right in factors]
    repeats = TRANSITIONS * LEAPFROG_STEPS
    seconds: list[float] = []
    products: dict[str, list[float]] = {routine: [] for routine in ROUTINES}
    with evaluation_mode(vae, seed=0), pyro.validation_enabled(False):
        with all_compiled(wait=True):
            (chunk,) = chains_of_chunks(vae, x, timed, passes=1, progress=False)
            chunk.forward()
        for _ in range(rounds):
            seconds.append(seconds_beside_products(chunk.forward, both_ways, repeats, products))
    return {
        "transition_seconds": [each / TRANSITIONS for each in seconds],
        "products_seconds": _scaled(products, 1 / TRANSITIONS),
        "transitions": whole.transitions(passes=1),
        "compile_seconds": chunk.path.compile_seconds,
    }


def annealing_table(result: SuiteResult) -> str:
    """Times in Markdown."""
    title = f"annealing, {CHAINS} chains, {TEMPERATURES} temperatures"
    widths = "-".join(map(str, (ANNEALED_DIM, *ANNEALED_HIDDEN, 784)))
    return (
        f"{_table(title, result, ANNEALED_IMAGES)}\n\n"
        f"Decoder {widths}, {LEAPFROG_STEPS} leapfrog steps. Extrapolated from {TRANSITIONS} "
        f"transitions in each of {result['rounds']} rounds to all {result['transitions']}, "
        "including "
        f"those that adapt step sizes; the products are {TEMPERATURES * LEAPFROG_STEPS:,} times "
        "forward and back to z. The target uses the faster routine. All is compiled, which was "
        f"waited for once and took {result['compile_seconds']:.1f} s."
    )


@contextmanager
def all_compiled(*, wait: bool) -> Iterator[None]:
    """Make sure that each `CompiledFunction` called in this context was compiled in it.

    Args:
        wait: Whether each call waits for a compiler that is at work.

    Raises:
        RuntimeError: If one was not, or none was called.
    """
    functions: set[CompiledFunction] = set()
    call = CompiledFunction.__call__

    def followed(self: CompiledFunction, *arguments: Any) -> Any:
        functions.add(self)
        outputs = call(self, *arguments)
        if wait:
            self.wait()
        return outputs

    with patch.object(CompiledFunction, "__call__", followed):
        yield
    # Functions may share their decisions, but not their seconds.
    if not functions or not all(f.seconds and "on" in f.decisions.values() for f in functions):
        raise RuntimeError("not all that was measured is compiled: the log gives the reason.")


def seconds_of(run: Callable[[], object]) -> float:
    """The time of a call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def seconds_beside_products(
    run: Callable[[], object],
    products: Sequence[tuple[Any, Any, Any]],
    repeats: int,
    times: Mapping[str, list[float]],
) -> float:
    """The time of a call, with the times of products by each routine appended to `times`.

    Half of the products come before the call and half after it, so that drift favours none.
    """
    half = repeats // 2
    before = {routine: products_seconds(products, routine, half) for routine in times}
    seconds = seconds_of(run)
    for routine, found in times.items():
        after = products_seconds(products, routine, repeats - half)
        found.append(before[routine] + after)
    return seconds


def products_seconds(
    products: Sequence[tuple[Any, Any, Any]], routine: str, repeats: int
) -> float:
    """The time of some matrix products, `repeats` times each, and of nothing else.

    Args:
        products: The two factors of each product, and the output that "torch.mm" writes to.
        routine: One of `ROUTINES`.
        repeats: The number of repetitions.
    """
    import torch

    def multiply() -> None:
        for left, right, output in products:
            if routine == "torch.mm":
                torch.mm(left, right, out=output)
            else:
                torch.ops.pyro_vae.onednn_mm(left, right)

    # The first products create threads.
    multiply()
    return seconds_of(lambda: [multiply() for _ in range(repeats)])


def _scaled(times: Mapping[str, Sequence[float]], factor: float) -> dict[str, list[float]]:
    return {routine: [factor * each for each in values] for routine, values in times.items()}


def _target(
    what: str, seconds: Sequence[float], products: Mapping[str, Sequence[float]], bound: float
) -> TargetResult:
    """Times relative to the faster routine of each round."""
    faster = [min(both) for both in zip(*products.values(), strict=True)]
    return at_most(f"{what} / its matrix products", ratio(seconds, faster), bound)


def _table(title: str, result: SuiteResult, images: int) -> str:
    alone = "the decoder's matrix products alone"
    rows = []
    times = {f"{alone}, {routine}": values for routine, values in result["products"].items()}
    for name, values in {title: result["seconds"], **times}.items():
        found = spread(values)
        assert found is not None
        rows.append((name, f"{found.median:.1f}", f"{found.lowest:.1f} to {found.highest:.1f}"))
    return markdown(("", f"seconds for {images:,} images", "range"), rows)
