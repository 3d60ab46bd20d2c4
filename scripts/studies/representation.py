"""What a VAE gives to representation learning, beside plain and denoising autoencoders.

Trained runs are kept under `--runs`, so that a training continues, too. `--figures DIR` draws the
figures. On two cores it takes about two hours; `--full` is the same with dSprites at 64 x 64, the
published network and number of updates, for a GPU.
"""

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path

import torch

from analysis.model_samples import embed_data
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
from analysis.study import METRICS, SVI_TRAIN, Row, Study, kept_run, with_test_data
from analysis.study_results import Cell, Results, StudyError, read_results
from pyro_vae.data import DATASETS, PreparedData, default_root
from pyro_vae.runs.run_directory import provenance

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


def words_of(data: str, model: str, seed: int, options: argparse.Namespace) -> list[str]:
    """The options of `scripts/svi_train.py` for a model."""
    if data == "dsprites":
        words = [*(FULL_SPRITES if options.full else SPRITES), *OBJECTIVES[model]]
    else:
        steps = str(FULL_STEPS if options.full else STEPS)
        words = ["--data", data, *NETWORK, steps, *MODELS[model]]
    if options.max_steps is not None:
        words += ["--max-steps", str(options.max_steps)]
    return [*words, "--seed", str(seed)]


def raw_cell(data: str, seed: int, _options: argparse.Namespace) -> Cell:
    """The same metrics of the pixels."""
    prepared = PreparedData(DATASETS[data](root=default_root()), "binary")
    return {"data": data, "seed": seed, **downstream_metrics(*raw_data(prepared)), **provenance()}


def model_cell(data: str, model: str, seed: int, options: argparse.Namespace) -> Cell:
    """Train a model unless it is there, and measure it."""
    words = words_of(data, model, seed, options)
    run = kept_run(options.runs / data / model / str(seed), words)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    vae, prepared, _ = with_test_data(run, 1)
    vae.to("cuda" if torch.cuda.is_available() else "cpu")
    kept = {name: metrics[name] for name in METRICS if name in metrics}
    cell = {"train": f"{SVI_TRAIN} {shlex.join(words)}", **kept, "measured_by": provenance()}
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


def selection(_seed: int, options: argparse.Namespace) -> Cell:
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


def draw(_results: Results, options: argparse.Namespace) -> None:
    """Draw three pictures of the runs of the first seed that are there."""
    from analysis.disentanglement.traversals import plot_traversals, traversals
    from analysis.representation.label_efficiency import plot_label_efficiency
    from analysis.representation.robustness import plot_robustness

    if options.figures is None:
        return
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


COMMAND = "python scripts/studies/representation.py --only {row}"
ROWS = {
    f"{data}:{model}": Row(make=partial(model_cell, data, model))
    for data, models in (*((data, MODELS) for data in IMAGES), ("dsprites", OBJECTIVES))
    for model in models
}
STUDY = Study(
    name="representation",
    about=__doc__,
    rows={
        **{f"{data}:data": Row(make=partial(raw_cell, data), once=True) for data in IMAGES},
        **ROWS,
        "dsprites:selection": Row(
            command=f"{COMMAND} --seeds {{all_seeds}}", make=selection, once=True
        ),
    },
    command=lambda options: f"{COMMAND}{' --full' if options.full else ''} --seeds {{seed}}",
    options={"runs": Path("runs/representation"), "full": False, "figures": None},
    tables=lambda _, results: representation_tables(results),
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
