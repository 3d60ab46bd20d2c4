"""The suites `cpu`, `gpu` and `scaling`: whole epochs of several implementations.

The suite `gpu` first checks that the compiled step equals the eager one, under the same noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.study_results import markdown
from benchmarks.task import EPOCHS, Options, Setting, SkippedError, grey_images
from benchmarks.timing import (
    Environment,
    Measurement,
    TargetResult,
    measure,
    ratio,
    ratio_targets,
    spread,
)
from pyro_vae import build, likelihoods, networks, priors
from pyro_vae.compilation import CompileMode
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.networks import NetworkFactory
from pyro_vae.objectives import ELBO
from pyro_vae.posteriors import MINIMUM_SCALE
from pyro_vae.training import Training
from pyro_vae.training.batch_loss import Precision

# Values as they are stored: "targets", and the numbers of a suite.
SuiteResult = dict[str, Any]

CPU_NAMES = (
    *("matrix_products", "this_bfloat16", "this_compiled", "numpyro", "by_hand_compiled"),
    *("by_hand", "this_graph", "this_eager", "pythae", "pyro_memory", "pyro_example"),
)
GPU_NAMES = (
    *("matrix_products", "by_hand_cuda_graph", "this_bfloat16", "this_compiled"),
    *("this_graph", "by_hand_compiled", "by_hand", "this_eager", "pyro_memory", "pyro_example"),
)
SCALING_NAMES = ("by_hand", "this_eager", "this_compiled")
CLUSTERING_NAMES = ("this_compiled", "two_step_clustering", "one_step_clustering")
# The implementation that the tables give ratios to.
REFERENCE = "by_hand"
# The largest ratio of two implementations' times per image, on MNIST.
CPU_TARGETS = {
    ("this_compiled", "by_hand"): 0.7,
    ("this_compiled", "numpyro"): 0.85,
    ("this_compiled", "pyro_example"): 0.2,
    ("this_compiled", "matrix_products"): 1.35,
    ("this_bfloat16", "by_hand"): 0.4,
}
CLUSTERING_TARGETS = {
    ("two_step_clustering", "this_compiled"): 1.5,
    ("one_step_clustering", "this_compiled"): 1.5,
}
GPU_TARGETS = {
    ("this_compiled", "pyro_example"): 1 / 20,
    ("this_compiled", "by_hand_cuda_graph"): 1.2,
}
# On a GPU epochs are long, so that their ends do not count; slow implementations need fewer
# images.
GPU_IMAGES = 400_000
SLOW = {"pyro_example": 25_000, "pyro_memory": 50_000, "this_eager": 50_000}
AXES: dict[str, tuple[int, ...]] = {
    "batch_size": (64, 256, 1024, 4096),
    "latent_dim": (2, 50, 512),
    "num_particles": (1, 4, 16),
}
AXIS_TITLES = {
    "batch_size": "batch size",
    "latent_dim": "latent dimension",
    "num_particles": "particles K",
}
# The steps of an epoch of `scaling`: enough to time one, few enough for 4096 x 20 images.
SCALING_STEPS = 20


def run_cpu(options: Options) -> SuiteResult:
    """Time whole epochs of `Setting()` in rounds."""
    return _run_epochs(options, CPU_NAMES, CPU_TARGETS)


def run_clustering(options: Options) -> SuiteResult:
    """Time whole epochs of the program `clustering` beside the VAE with the same networks."""
    return _run_epochs(options, CLUSTERING_NAMES, CLUSTERING_TARGETS)


def _run_epochs(
    options: Options, names: Sequence[str], targets: Mapping[tuple[str, str], float]
) -> SuiteResult:
    setting = Setting()
    environment = Environment(options.data, options.data_root, options.threads)
    measured = measure(options.names or names, setting, environment, options.rounds, options.say)
    return {
        "setting": asdict(setting),
        "data": options.data,
        "rounds": options.rounds,
        "ways": summarize(measured),
        "targets": ratio_targets(targets, measured) if options.data == "mnist" else [],
    }


def summarize(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """Measurements as plain values, with median, range and ratio to the reference."""
    reference = measured.get(REFERENCE)
    summaries = {}
    for name, each in measured.items():
        times = spread(each.seconds)
        against = reference and ratio(_per_image(each), _per_image(reference))
        summaries[name] = {
            **asdict(each),
            "median_seconds": times and times.median,
            f"ratio_to_{REFERENCE}": against and against._asdict(),
        }
    return summaries


def _per_image(measurement: Measurement) -> list[float]:
    return [seconds / (measurement.images or 1) for seconds in measurement.seconds]


def cpu_table(result: SuiteResult) -> str:
    """The measurements in Markdown, the fastest first and the missing ones last."""
    size = result["setting"]["batch_size"]
    header = (
        *("implementation", "seconds per epoch", "range", "ms per step", f"/ {REFERENCE}"),
        *("range", "first epoch", "compilation", "loss", ""),
    )
    found = result["ways"].values()
    done = [each for each in found if each["seconds"]]
    done.sort(key=lambda each: each["median_seconds"] / each["images"])
    empty = [""] * (len(header) - 2)
    rows = [_row(each, size) for each in done]
    rows += [(each["title"], *empty, each["status"]) for each in found if not each["seconds"]]
    return (
        f"{markdown(header, rows)}\n\n"
        f"Medians and ranges of {result['rounds']} rounds of whole epochs in turn, each "
        f"implementation in its own process, after epochs of warm-up; {result['data']}, batch "
        f"{size}, on {result['setting']['device']}. Ratios are taken within a round. Times are in "
        "seconds; loss is the mean negative ELBO of the last epoch, in nats per image."
    )


def _row(each: dict[str, Any], batch_size: int) -> Sequence[str]:
    against = each[f"ratio_to_{REFERENCE}"]
    steps = -(-each["images"] // batch_size)
    loss, compiling = each["losses"][-1], each["compile_seconds"]
    status = "" if each["status"] == "measured" else each["status"]
    return (
        each["title"],
        f"{each['median_seconds']:.3g}",
        f"{min(each['seconds']):.3g} to {max(each['seconds']):.3g}",
        f"{each['median_seconds'] / steps * 1000:.3g}",
        "" if against is None else f"{against['median']:.2f}",
        "" if against is None else f"{against['lowest']:.2f} to {against['highest']:.2f}",
        f"{each['warm_up_seconds'][0]:.3g}",
        "" if compiling is None else f"{compiling:.3g}",
        "" if loss is None else f"{loss:.2f}",
        "; ".join(filter(None, (each["note"], status))),
    )


def run_scaling(options: Options) -> SuiteResult:
    """Time short epochs for each value on each axis, with the others as in `Setting()`."""
    names = options.names or SCALING_NAMES
    axes = AXES if options.part is None else {options.part: AXES[options.part]}
    new: dict[str, list[dict[str, Any]]] = {axis: [] for axis in axes}
    for axis, values in axes.items():
        for value in values:
            options.say(f"{AXIS_TITLES[axis]} {value}")
            setting = replace(Setting(), **{axis: value})
            images = dict.fromkeys(names, SCALING_STEPS * setting.batch_size)
            environment = Environment(options.data, options.data_root, options.threads, images)
            measured = measure(names, setting, environment, options.rounds, options.say)
            seconds = {
                name: [seconds / SCALING_STEPS for seconds in each.seconds]
                for name, each in measured.items()
            }
            status = {name: each.status for name, each in measured.items()}
            new[axis].append({"value": value, "seconds_a_step": seconds, "status": status})
    points = {**(options.stored or {}).get("points", {}), **new}
    return {
        "setting": asdict(Setting()),
        "data": options.data,
        "rounds": options.rounds,
        "points": {axis: points[axis] for axis in AXES if axis in points},
        "targets": [],
    }


def scaling_table(result: SuiteResult) -> str:
    """The median times in Markdown, one table per axis."""
    parts = []
    for axis, points in result["points"].items():
        names = list(points[0]["seconds_a_step"])
        rows = []
        for point in points:
            times = {name: spread(point["seconds_a_step"][name]) for name in names}
            cells = [
                point["status"][name] if each is None else f"{each.median * 1000:.3g}"
                for name, each in times.items()
            ]
            rows.append((str(point["value"]), *cells))
        parts.append(markdown((AXIS_TITLES[axis], *names), rows))
    legend = (
        f"Milliseconds per step, medians of {result['rounds']} rounds of {SCALING_STEPS} steps; "
        "all "
        "else is as in the table of epochs."
    )
    return "\n\n".join([*parts, legend])


# The first step of a form of a batch is eager, the second is recorded, and the third is compared.
EQUALITY_STEPS = 6
# The largest distance of the parameters and difference of the ELBO, see `Equality`. Adam's first
# steps follow the sign of a gradient, so rounding alone moves single parameters apart.
TOLERANCES = {"float32": (1e-2, 1e-5), "bfloat16": (0.2, 1e-3)}
MLP = partial(networks.MLP, hidden=(400,), activation="softplus")


class FixedNoise(nn.Module):
    """q(z | x) = N(z | mu(x), diag(sigma(x)^2)) whose draws are mu + sigma e for a fixed e.

    Eager and compiled steps may draw their noise in different orders; this posterior draws none.

    Args:
        latent_dim: The dimension of z.
        encoder: Output shape -> network that reads x.
    """

    support = "real"
    noise: Tensor

    def __init__(self, latent_dim: int, encoder: NetworkFactory) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = encoder((2, latent_dim))
        self.register_buffer("noise", torch.randn(latent_dim), persistent=False)

    def forward(self, x: Real[Tensor, "*batch_event"]) -> dist.Distribution:
        """The distribution with fixed draws."""
        loc, raw_scale = self.encoder(x).unbind(-2)
        return _FixedNormal(loc, F.softplus(raw_scale) + MINIMUM_SCALE, self.noise).to_event(1)

    def embed(self, x: Real[Tensor, "*batch_event"]) -> Float[Tensor, "*batch latent"]:
        """The posterior mean mu(x)."""
        return self.encoder(x).select(-2, 0)


class _FixedNormal(dist.Normal):
    """A Normal whose draw is loc + scale e for a fixed e."""

    def __init__(self, loc: Tensor, scale: Tensor, noise: Tensor) -> None:
        super().__init__(loc, scale)
        self.noise = noise

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_FixedNormal":
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return _FixedNormal(loc, scale, self.noise)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        draw = self.loc + self.scale * self.noise
        return draw.expand(*sample_shape, *draw.shape)


@dataclass(frozen=True)
class Case:
    """A program whose steps are compared with eager ones, on images in batches of 256."""

    prior: Callable[..., nn.Module] = priors.StandardNormal
    network: Callable[..., nn.Module] = MLP
    precision: Precision = "float32"
    num_particles: int = 1
    images: int = 256 * EQUALITY_STEPS
    compile: CompileMode = "on"


CASES = {
    "standard normal prior": Case(),
    "standard normal prior, graph without a compiler": Case(compile="graph"),
    "standard normal prior, bfloat16": Case(precision="bfloat16"),
    "mixture prior, KL by Monte Carlo": Case(prior=priors.GaussianMixture),
    "8 particles": Case(num_particles=8),
    "convolutions": Case(network=networks.Conv),
    "convolutions, bfloat16": Case(network=networks.Conv, precision="bfloat16"),
    "a last batch of 100": Case(images=256 + 100),
}


@dataclass(frozen=True)
class Equality:
    """The difference between two trainings.

    Args:
        distance: Of the final parameters, relative to the distance from start to end.
        elbo_difference: Of the last epoch's mean ELBO, relative to it.
        passed: Whether both are within the tolerance.
    """

    distance: float
    elbo_difference: float
    passed: bool


def compare(case: Case, device: str) -> Equality:
    """Train twice from the same parameters, with the same images, order and noise: eagerly first.

    Args:
        case: The program, and how its steps run the second time.
        device: The device to train on.

    Raises:
        RuntimeError: If steps run in another way than the case's.
    """
    modes: tuple[CompileMode, CompileMode] = ("off", case.compile)
    starts, ends, elbos = zip(*(_train(case, device, mode) for mode in modes), strict=True)
    assert torch.equal(*starts)
    distance = float((ends[1] - ends[0]).norm() / (ends[0] - starts[0]).norm())
    difference = abs(elbos[1] - elbos[0]) / abs(elbos[0])
    largest_distance, largest_difference = TOLERANCES[case.precision]
    passed = distance <= largest_distance and difference <= largest_difference
    return Equality(distance, difference, passed)


def _train(case: Case, device: str, mode: CompileMode) -> tuple[Tensor, Tensor, float]:
    """The parameters before and after training, and the last epoch's mean ELBO."""
    torch.manual_seed(0)
    # Binary, so that binarisation adds no noise.
    shape = (1, 28, 28)
    images = torch.randint(0, 2, (case.images, *shape), dtype=torch.uint8)
    data = Dataset("bits", "binary", None, train=images, validation=images[:1], test=images[:1])
    vae = build(
        shape,
        50,
        prior=case.prior,
        likelihood=likelihoods.Bernoulli,
        posterior=FixedNoise,
        network=case.network,
    ).to(device)
    batches = -(-case.images // 256)
    training = Training(
        vae,
        PreparedData(data, "binary"),
        ELBO(num_particles=case.num_particles),
        # More than are run, so that compiling a smaller last batch pays, too.
        epochs=EPOCHS,
        batch_size=256,
        compile=mode,
        precision=case.precision,
    )
    start = nn.utils.parameters_to_vector(vae.parameters()).detach().clone()
    compiled = training.optimizer_step.compiled
    # Whole epochs, in which each form of a batch is compiled.
    for step in range(batches * max(1, -(-EQUALITY_STEPS // batches) + 1)):
        training.run(stop=lambda step=step: training.step > step)
        compiled.wait()
    if mode != "off" and {*compiled.decisions.values()} != {mode}:
        raise RuntimeError(f"steps run {compiled.decisions}, and not all {mode!r}: see the log.")
    end = nn.utils.parameters_to_vector(vae.parameters()).detach()
    elbo = training.history[-1]["elbo"]
    assert elbo is not None
    return start.double(), end.double(), float(elbo)


def run_gpu(options: Options) -> SuiteResult:
    """Compare the steps, then time the implementations, on the GPU.

    Raises:
        SkippedError: If there is no GPU.
        ValueError: If there are no such images.
    """
    if not torch.cuda.is_available():
        raise SkippedError("no GPU: skipped")
    # Check before the comparisons.
    grey_images(options.data, options.data_root, 1)
    equality = [check_equality(name, case, options) for name, case in CASES.items()]
    names = options.names or GPU_NAMES
    setting = replace(Setting(), device="cuda")
    images = {name: SLOW.get(name, GPU_IMAGES) for name in names}
    environment = Environment(options.data, options.data_root, options.threads, images)
    measured = measure(names, setting, environment, options.rounds, options.say)
    targets = ratio_targets(GPU_TARGETS, measured) if options.data == "mnist" else []
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "setting": asdict(setting),
        "data": options.data,
        "rounds": options.rounds,
        "equality": equality,
        "ways": summarize(measured),
        "targets": [*equality, *targets],
    }


def check_equality(name: str, case: Case, options: Options) -> TargetResult:
    """A comparison as a target."""
    distance = difference = ""
    try:
        found = compare(case, "cuda")
    # Any error is the result of this case, and the others continue.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())[:300]
        verdict = f"failed: {type(error).__name__}: {reason}"
    else:
        distance, difference = f"{found.distance:.1e}", f"{found.elbo_difference:.1e}"
        verdict = "reached" if found.passed else "missed"
    options.say(f"{name}: {verdict}")
    return {
        "case": name,
        "target": f"step equals the eager one: {name}",
        "value": None,
        "bound": None,
        "unit": "",
        "distance": distance,
        "elbo_difference": difference,
        "verdict": verdict,
    }


def gpu_table(result: SuiteResult) -> str:
    """Both tables in Markdown."""
    keys = ("case", "distance", "elbo_difference", "verdict")
    rows = [tuple(entry[key] for key in keys) for entry in result["equality"]]
    header = ("step against the eager one", "distance of parameters", "difference of the ELBO", "")
    return (
        f"{result['device']}, CUDA {result['cuda']}.\n\n{markdown(header, rows)}\n\n"
        "Both train from the same parameters with the same noise. The distance is relative to the "
        f"distance from start to end.\n\n{cpu_table(result)}"
    )
