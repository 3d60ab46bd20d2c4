"""What a VAE gives to representation learning, beside a plain and a denoising autoencoder of the same size.

`python scripts/studies/representation.py` trains what is not there yet, measures it, and keeps the numbers in
`representation.json`; stopped and started again, it goes on where it was, within a training, too: trained runs
stay in `--runs`. `--table` prints what is there, `--write PAGE` puts it between that page's markers,
`--figures` draws the pictures. On two cores it takes about two hours; `--full` is the same with dSprites at 64 x 64,
the published network and number of updates, for a GPU.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from analysis.predictive.model_samples import embed_data
from analysis.representation.study import (
    MODEL_NAMES,
    codes_label_efficiency,
    codes_of,
    codes_robustness,
    continuity_metrics,
    disentanglement_metrics,
    downstream_metrics,
    ood_metrics,
    raw_data,
    representation_tables,
    robustness_metrics,
    selection_metrics,
    uncertainty_metrics,
)
from analysis.study import (
    Cell,
    StudyError,
    fill_cell,
    kept_run,
    read_results,
    run_study,
    study_parser,
    svi_train_command,
    with_test_data,
)
from pyro_vae.data import DATASETS, PreparedData, default_root
from pyro_vae.runs.provenance import provenance

RESULTS = Path(__file__).with_suffix(".json")
PROGRAM = ("python", "scripts/studies/representation.py")

# Each is the other's foreign set.
IMAGES = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}
# All have one encoder and one decoder.
NETWORK = (
    *("--latent-dim", "40", "--network", "mlp", "--network.hidden", "[400, 400]"),
    *("--batch-size", "128", "--lr", "0.001", "--epochs", "100000", "--max-steps"),
)
POINT = ("--posterior", "point")
RECONSTRUCTION = ("--objective", "reconstruction")
MODELS: dict[str, tuple[str, ...]] = {
    "autoencoder": (*POINT, *RECONSTRUCTION),
    "denoising": (
        *POINT,
        *("--posterior.corruption", "masking", "--posterior.strength", "0.25"),
        *RECONSTRUCTION,
    ),
    "vae": (),
    "beta": ("--objective", "beta", "--objective.beta", "4"),
    "vamp": ("--prior", "vamp"),
    "power_spherical": ("--prior", "spherical_uniform", "--posterior", "power_spherical"),
    "mixture": ("--prior", "gaussian_mixture", "--prior.components", "10"),
}

SPRITES = (
    *("--data", "dsprites", "--data.size", "32", "--latent-dim", "10"),
    *("--network", "mlp", "--network.hidden", "[400]", "--batch-size", "256"),
    *("--lr", "0.001", "--epochs", "60"),
)
# The network and data of the published beta-TC, and the updates of the published comparison.
FULL_SPRITES = (
    *("--data", "dsprites", "--data.size", "64", "--latent-dim", "10"),
    *("--network", "mlp", "--network.hidden", "[1200, 1200]", "--batch-size", "64"),
    *("--lr", "0.0001", "--epochs", "100000", "--max-steps", "300000"),
)
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "elbo": ("--objective", "elbo"),
    "beta": ("--objective", "beta", "--objective.beta", "4"),
    "beta_tc": ("--objective", "beta_tc"),
    # The paper's critic, six layers of 1,000, costs several times what the VAE does on a CPU.
    "factor": ("--objective", "factor", "--objective.critic-hidden", "[300, 300, 300]"),
    "dip": ("--objective", "dip"),
}
STEPS, FULL_STEPS = 5000, 100_000
# What is drawn.
PICTURED, TRAVERSED = "mnist", "beta"

KEPT = (
    *("data", "prior", "posterior", "objective", "latent_dim", "seed", "steps", "n", "n_train"),
    *("log_evidence", "log_evidence_samples", "elbo", "kl", "reconstruction", "active_units"),
    *("parameters", "seconds_per_epoch", "torch", "pyro", "git_commit"),
)


def rows() -> dict[str, tuple[str, str]]:
    """What is trained, or not, by the name of its row: the data and the model."""
    images = {f"{data}:{model}": (data, model) for data in IMAGES for model in ("data", *MODELS)}
    sprites = {f"dsprites:{name}": ("dsprites", name) for name in (*OBJECTIVES, "selection")}
    return images | sprites


def arguments_of(row: str, seed: int, *, full: bool = False) -> list[str]:
    """The arguments of `scripts/svi_train.py` that give a row's model."""
    data, model = rows()[row]
    if data == "dsprites":
        words = [*(FULL_SPRITES if full else SPRITES), *OBJECTIVES[model]]
    else:
        steps = str(FULL_STEPS if full else STEPS)
        words = ["--data", data, *NETWORK, steps, *MODELS[model]]
    return [*words, "--seed", str(seed)]


def cell_of(row: str, seed: int, options: argparse.Namespace) -> Cell:
    """Train a row's model unless it is there, and measure it."""
    data, model = rows()[row]
    if model == "selection":
        return selection(options)
    if model == "data":
        prepared = PreparedData(DATASETS[data](root=default_root()), "binary")
        return {
            "data": data,
            "seed": seed,
            **downstream_metrics(*raw_data(prepared)),
            **provenance(),
        }
    arguments = arguments_of(row, seed, full=options.full)
    run = kept_run(options.runs / data / model / str(seed), arguments)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    vae, prepared, _ = with_test_data(run, 1)
    vae.to("cuda" if torch.cuda.is_available() else "cpu")
    kept = {name: metrics[name] for name in KEPT}
    cell = {"train": svi_train_command(arguments), **kept, "measured_by": provenance()}
    if data == "dsprites":
        return {**cell, "disentanglement": disentanglement_metrics(vae, prepared)}
    other = IMAGES[data]
    foreign = PreparedData(DATASETS[other](root=default_root()), "binary").fixed("test")[:]
    return {
        **cell,
        **downstream_metrics(*codes_of(vae, prepared)),
        "robustness": robustness_metrics(vae, prepared),
        "continuity": continuity_metrics(vae, prepared),
        "uncertainty": uncertainty_metrics(vae, prepared),
        "foreign": ood_metrics(vae, prepared, {other: foreign}),
    }


def selection(options: argparse.Namespace) -> Cell:
    """Whether training seeds agree on coordinates, and whether that chooses as MIG does.

    Raises:
        StudyError: If no objective has two trained and measured models.
    """
    results = read_results(options.results)
    names = [
        (name, seed)
        for name in OBJECTIVES
        for seed in options.seeds
        if f"dsprites:{name}/{seed}" in results
    ]
    if all(sum(other == name for other, _ in names) < 2 for name, _ in names):
        raise StudyError("a selection needs two seeds of one objective: measure those first.")
    codes, groups, scores = {}, {}, {}
    for name, seed in names:
        model = f"{name}/{seed}"
        vae, data, _ = with_test_data(options.runs / "dsprites" / name / str(seed), 1)
        codes[model], groups[model] = embed_data(vae, data.fixed("test")[:]), name
        scores[model] = results[f"dsprites:{model}"]["disentanglement"]["scores"]["mig"]
    return {**selection_metrics(codes, groups, scores), "models": len(names), **provenance()}


def draw(options: argparse.Namespace) -> None:
    """Draw three pictures of the runs of the first seed that are there."""
    from analysis.disentanglement.traversals import plot_traversals, traversals
    from analysis.representation.label_efficiency import plot_label_efficiency
    from analysis.representation.robustness import plot_robustness

    seed = str(options.seeds[0])
    runs = {model: options.runs / PICTURED / model / seed for model in MODELS}
    there = {MODEL_NAMES[m]: with_test_data(r, 1)[:2] for m, r in runs.items() if r.exists()}
    sprites = options.runs / "dsprites" / TRAVERSED / seed
    if not there or not sprites.exists():
        raise ValueError(f"pictures need the runs in {options.runs}: run the study first.")
    vae, data, _ = with_test_data(sprites, 1)
    moved = traversals(
        vae,
        embed_data(vae, data.fixed("test")[:]),
        factors=data.dataset.labels["test"].numpy(),
        names=data.dataset.label_names,
    )
    figures = {
        "label_efficiency": plot_label_efficiency(
            {name: codes_label_efficiency(*pair) for name, pair in there.items()}
        ),
        "robustness": plot_robustness(
            {name: codes_robustness(*pair) for name, pair in there.items()}
        ),
        "traversals": plot_traversals(moved),
    }
    options.figures.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(options.figures / f"{name}.png", dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = study_parser(str(__doc__), RESULTS)
    add = parser.add_argument
    add("--only", nargs="+", choices=rows(), metavar="ROW", help="Which rows: DATA:MODEL.")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Which seeds.")
    add(
        "--runs",
        type=Path,
        default=Path("runs/representation"),
        help="Where trained runs stay. Default: runs/representation.",
    )
    add("--full", action="store_true", help="The published sizes, for a GPU.")
    add("--figures", type=Path, metavar="DIR", help="Draw the pictures there; make nothing.")
    options = parser.parse_args(arguments)
    make = fill if options.figures is None else draw
    return run_study("representation", options, partial(make, options), representation_tables)


def fill(options: argparse.Namespace) -> None:
    """Make the cells that are not there, seed by seed."""
    for seed in options.seeds:
        for row in options.only or rows():
            # What is of no seed is made once; a selection, of all seeds, when they are there.
            once = {":data": options.seeds[0], ":selection": options.seeds[-1]}
            if any(row.endswith(end) and seed != when for end, when in once.items()):
                continue
            seeds = options.seeds if row.endswith(":selection") else [seed]
            words = ["--only", row, *(["--full"] if options.full else []), "--seeds"]
            words += map(str, seeds)
            fill_cell(
                options.results,
                f"{row}/{seed}",
                shlex.join([*PROGRAM, *words]),
                partial(cell_of, row, seed, options),
                again=options.again,
            )


if __name__ == "__main__":
    sys.exit(main())
