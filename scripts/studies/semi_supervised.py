"""MNIST with 100 labels: M2 on images and on the codes of a VAE, beside their classifier alone.

On one core it takes about a quarter of an hour. More `--epochs` and
`--code-epochs` are for a GPU.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.model_samples import embed_data
from analysis.plotting.images import draw_grid
from analysis.plotting.style import new_figure, to_png
from analysis.programs import HeldOut
from analysis.programs.semi_supervised import STYLES, figures, scores
from analysis.study import ROOT, Row, Study, trained
from analysis.study_results import Cell, Results, cells_of, made_with, mean
from pyro_vae import load
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.runs.run_directory import provenance
from pyro_vae.runs.trained_run import TrainedRun
from pyro_vae.statistics import unit_activity

SPLITS = ("train", "validation", "test")
FIGURES = ROOT / "docs" / "results" / "figures"
# The accuracy asked for, and those of the paper, table 1: M2, and M1 + M2.
TARGET, PUBLISHED = 0.93, (0.8803, 0.9667)
# Steps and learning rate of the classifier alone, which has learned its rows by heart long before.
ALONE_STEPS, ALONE_LR = 1000, 1e-3
# The least variance of a unit's mean. M2 reads units scaled to variance 1, so that the noise of
# nearly unused ones would count as much as what digits differ in.
IN_USE = 0.05
CPU = torch.device("cpu")


def images(seed: int, options: argparse.Namespace) -> Cell:
    """M2 on images."""
    started = time.monotonic()
    words = f"--data mnist {M2} {IMAGES} --epochs {options.epochs} --seed {seed}"
    with trained(words.split()) as run:
        return measured(run, seed, started)


def codes(seed: int, options: argparse.Namespace) -> Cell:
    """A VAE (M1), and M2 on the means of its q(z | x)."""
    started = time.monotonic()
    words = f"{M1} --epochs {options.vae_epochs} --seed {seed}"
    with trained(words.split()) as first, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codes.npz"
        used = write_codes(first, file)
        words = f"--data {file} {M2} {CODES} --epochs {options.code_epochs} --seed {seed}"
        with trained(words.split()) as run:
            cell = measured(run, seed, started)
            if seed == 0 and options.max_steps is None:
                draw_figures(first, run, used)
    return {**cell, "code_dims": int(used.sum())}


def write_codes(run: Path, file: Path) -> np.ndarray:
    """Write the codes of each split with their labels; return which of their units are in use."""
    opened = TrainedRun.open(run, "test", device=CPU)
    prepared: dict[str, Any] = {split: opened.data.fixed(split) for split in SPLITS}
    found = {split: embed_data(opened.vae, x) for split, x in prepared.items()}
    used = unit_activity(found["train"]) > IN_USE
    arrays: dict[str, Any] = {}
    for split, values in found.items():
        arrays[split] = values[:, used].astype(np.float32)
        arrays[f"{split}_labels"] = opened.data.dataset.labels[split].numpy()
    np.savez(file, **arrays)
    return used


def measured(run: Path, seed: int, started: float) -> Cell:
    """The scores of a run on the test split, and the accuracy of its classifier alone."""
    opened = TrainedRun.open(run, "test", device=CPU)
    held_out = held_out_of(opened)
    alone = scores(labels_alone(opened.vae, seed), held_out)
    return {
        **scores(opened.vae, held_out),
        "labels_alone": alone["accuracy"],
        "labels_alone_calibration_error": alone["calibration_error"],
        "n": len(held_out.x),
        "parameters": sum(parameter.numel() for parameter in opened.vae.parameters()),
        "minutes": (time.monotonic() - started) / 60,
        **provenance(),
    }


def held_out_of(opened: TrainedRun) -> HeldOut:
    """The whole test split."""
    data, rows = opened.data, torch.arange(len(opened.data.fixed("test")))
    held_out = HeldOut.test_rows(data, rows, opened.vae.contract, CPU)
    return replace(held_out, x=as_floats(held_out.x))


def labels_alone(program: Any, seed: int) -> Any:
    """The program with a new classifier, trained on the stored labelled rows alone."""
    alone = copy.deepcopy(program)
    torch.manual_seed(seed)
    for layer in alone.classifier.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    x, y = as_floats(alone.labelled_x), alone.labelled_y
    optimizer = torch.optim.Adam(alone.classifier.parameters(), lr=ALONE_LR)
    for _ in range(ALONE_STEPS):
        optimizer.zero_grad()
        (-alone.log_q(x, y).mean()).backward()
        optimizer.step()
    return alone


def draw_figures(first: Path, run: Path, used: np.ndarray) -> None:
    """Draw images by class and style, and the reliability of the classes."""
    vae, program = (load(path) for path in (first, run))
    with evaluation_mode(program, vae, seed=0):
        z = program.prior().sample((STYLES,))
        codes = program.decode(z, program.numbers.unsqueeze(-1))
        whole = torch.zeros(*codes.shape[:-1], len(used))
        whole[..., torch.from_numpy(used)] = codes
        drawn = vae.decode(whole).numpy()
    figure = new_figure(8.5, 8.2)
    draw_grid(figure, [*drawn], names=[str(k) for k in range(10)])
    figure.suptitle("A class y in each row, a style z in each column")
    (FIGURES / "semi_supervised_samples.png").write_bytes(to_png(figure))
    made = figures(program, held_out_of(TrainedRun.open(run, "test", device=CPU)))
    reliability = to_png(made["class_reliability"]())
    (FIGURES / "semi_supervised_reliability.png").write_bytes(reliability)


def tables(study: Study, results: Results) -> str:
    """One row per model, and whether the target was reached."""
    lines = []
    for row, shown in ROWS.items():
        if cells := cells_of(results, row):
            found = [cell["accuracy"] for cell in cells.values()]
            reached = "reached" if statistics.mean(found) >= TARGET else "missed"
            by_seed = ", ".join(f"{value:.4f}" for value in found)
            lines.append(
                f"- {shown.title}: accuracy {statistics.mean(found):.4f} (by seed {by_seed}); the "
                f"{TARGET} that is asked for is {reached}"
            )
    parts = [study.table(results, ROWS, COLUMNS), f"{NOTE} {made_with(results)}", "\n".join(lines)]
    return "\n\n".join(part for part in parts if part)


TRAIN = "--evaluate none --batch-size 200 --lr-schedule cosine --early-stopping null --keep last"
M2 = f"--model semi_supervised --labelled 100 {TRAIN}"
IMAGES = "--latent-dim 20 --lr 0.001 --precision bfloat16"
CODES = (
    "--likelihood normal --likelihood.initial-scale 0.5 --latent-dim 10 --network.hidden [300] "
    "--lr 0.003"
)
M1 = f"--data mnist --latent-dim 50 --network.hidden [500,500] --precision bfloat16 {TRAIN}"
COMMAND = (
    "python scripts/studies/semi_supervised.py --only {row} --epochs {epochs} "
    "--vae-epochs {vae_epochs} --code-epochs {code_epochs} --seeds {seed}"
)
ROWS = {
    "codes": Row(title="M1 + M2: M2 on the codes of a VAE", make=codes),
    "images": Row(title="M2 on images", make=images),
}
COLUMNS = (
    ("accuracy", mean("accuracy", 4)),
    ("classifier on the labels alone", mean("labels_alone", 4)),
    ("calibration error", mean("calibration_error", 4)),
    ("mean confidence", mean("mean_confidence", 4)),
    ("log q(label given x)", mean("class_log_density", 3)),
    ("parameters", mean("parameters", 0)),
    ("minutes", mean("minutes", 1)),
)
NOTE = (
    "Mean and standard deviation over training seeds; the 100 labelled images are the same for "
    "all, ten of each class among the first 10,000 of 50,000 training images. All numbers are on "
    "the 10,000 test images. The classifier on the labels alone has the network of q(y given x), "
    "the same rows, and 1,000 steps of Adam. The calibration error has 15 bins. Codes are the "
    "means of q(z given x) of images binarised once, of the units in use, whose mean has a "
    f"variance above {IN_USE}. Minutes are those of one "
    "core with another job beside it. The parameters after the last step are evaluated. "
    "Kingma et al. (2014), https://arxiv.org/abs/1406.5298, report {:.4f} for M2 and {:.4f} for "
    "M1 + M2, with longer training and over other choices of labels.".format(*PUBLISHED)
)
STUDY = Study(
    name="semi_supervised",
    about=__doc__,
    rows=ROWS,
    command=COMMAND,
    options={"epochs": 6, "vae_epochs": 20, "code_epochs": 32},
    tables=tables,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
