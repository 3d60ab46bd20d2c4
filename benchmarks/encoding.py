"""The suite `encoding`: the codes of all images beside the forward passes of the encoder alone."""

from functools import partial
from typing import Any

from analysis.study_results import markdown
from benchmarks.epochs import SuiteResult
from benchmarks.inference import seconds_of
from benchmarks.task import Options, Setting
from benchmarks.timing import at_most, ratio, run_in_process, show_spread, spread

RATIO = 1.15
# What is timed, in the order of the table.
TITLES = {
    "encode": "`encode` of scripts/encode.py, of binarised images in memory",
    "encode_scale": "the same with `--scale`",
    "encoder": "the encoder's forward passes alone, of floats in memory",
}


def run_encoding(options: Options) -> SuiteResult:
    """Time the loop that encodes and as many forward passes, in turn.

    Raises:
        ProcessError: If the process fails.
    """
    job = (options.rounds, options.data, options.data_root)
    found = run_in_process("benchmarks.encoding:time_encoding", *job, threads=options.threads)
    options.say(f"{found['images']:,} images encoded, {options.rounds} rounds")
    what = f"encoding {found['images']:,} images / the encoder's forward passes"
    measured = ratio(found["seconds"]["encode"], found["seconds"]["encoder"])
    return {
        "data": options.data,
        "rounds": options.rounds,
        **found,
        "targets": [at_most(what, measured, RATIO)] if options.data == "mnist" else [],
    }


def time_encoding(rounds: int, data: str, data_root: str | None) -> dict[str, Any]:
    """Time both, in the same blocks; images are binarised before."""
    import torch

    from analysis.representation.encoding import ELEMENTS, encode
    from pyro_vae import build, networks
    from pyro_vae.data import DATASETS, PreparedData, default_root
    from pyro_vae.runs.run_directory import RunDirectory
    from pyro_vae.runs.trained_run import TrainedRun

    setting = Setting()
    root = {} if data == "digits" else {"root": data_root or default_root()}
    prepared = PreparedData(DATASETS[data](**root), "binary")
    torch.manual_seed(setting.seed)
    event = prepared.dataset.event_shape
    network = partial(networks.MLP, hidden=(setting.hidden,), activation=setting.activation)
    vae = build(event, setting.latent_dim, network=network).eval()
    device = torch.device("cpu")
    trained = TrainedRun(RunDirectory("none"), vae, prepared, "test", device, "")
    splits = ("train", "validation", "test")
    floats = torch.cat([prepared.fixed(split)[:].float() for split in splits])
    parts = floats.split(ELEMENTS // floats[0].numel())

    def forward() -> None:
        with torch.inference_mode():
            for part in parts:
                vae.posterior.encoder(part)

    timed = {
        "encode": lambda: encode(trained, splits, {}),
        "encode_scale": lambda: encode(trained, splits, {}, scale=True),
        "encoder": forward,
    }
    forward()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds):
        # Drift favours none.
        for name in timed if turn % 2 == 0 else reversed(timed):
            seconds[name].append(seconds_of(timed[name]))
    return {"images": len(floats), "seconds": seconds}


def encoding_table(result: SuiteResult) -> str:
    """The times in Markdown."""
    rows = [
        (title, show_spread(spread(result["seconds"][name]), ".3f"))
        for name, title in TITLES.items()
    ]
    title = f"seconds for {result['images']:,} images"
    return (
        f"{markdown(('', title), rows)}\n\n"
        "Reading and binarising the images is not included. Medians and ranges of "
        f"{result['rounds']} rounds in turn."
    )
