"""How far importance weighting can be trusted: bounds by draws, and annealed importance sampling.

Trains VAEs on static MNIST; of each, the IWAE-k curve up to k = 5,000 with log p(x) by annealed
importance sampling of the same images, and log p(x) of one of them on all 10,000 test images. Runs
and partial results are kept under `--runs`.

References:
    Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519; On the
    Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
    https://arxiv.org/abs/1611.04273
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from analysis.elbo.evidence import EvidenceCurve, plot_evidence_curves
from analysis.study import ROOT, Row, Study, kept_run, with_test_data
from analysis.study_results import Cell, Results, cells_of, made_with
from pyro_vae.evidence import annealed_importance_sampling, importance_weighting
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.run_directory import provenance
from pyro_vae.statistics import khat_threshold

# Guides that fit better and worse, and objectives that ask more and less of them.
MODELS = {
    "elbo": "",
    "iwae": "--objective iwae --objective.num-particles 5",
    "full_normal": "--posterior full_normal",
}
# The row of all test images, and its model.
ALL, OF_ALL = "all", "elbo"
SETTING = (
    "--data static_mnist --latent-dim 40 --network gated_mlp --batch-size 100 --lr 0.0005"
    " --epochs 100000 --evaluate none"
)
# Images that are evaluated before the result is stored.
CHUNK = 500
FIGURE = ROOT / "docs" / "results" / "figures" / "evidence.png"


def trained_vae(
    model: str, seed: int, options: argparse.Namespace, images: int
) -> tuple[Path, Any, Tensor]:
    """The kept run of a model, its VAE, and fixed test images."""
    words = f"{SETTING} {MODELS[model]} --max-steps {options.steps} --seed {seed}".split()
    run = kept_run(options.runs / f"{model}-{options.steps}-{seed}", words)
    vae, _, x = with_test_data(run, images)
    return run, vae, x


def curve_of(model: str, seed: int, options: argparse.Namespace) -> Cell:
    """Both estimates of a model's log p(x) of the same images."""
    _, vae, x = trained_vae(model, seed, options, options.images)
    with evaluation_mode(vae, seed=seed):
        weighted = importance_weighting(
            vae.model, vae.guide, x, num_samples=options.samples, progress=True
        )
    annealed = annealed_importance_sampling(
        vae,
        x,
        num_chains=options.chains,
        num_temperatures=options.temperatures,
        seed=seed,
        progress=True,
    )
    # Paired by image, since most of the variance is common to both.
    gap = annealed.log_evidence - weighted.log_evidence
    return {
        "n": len(x),
        "samples": [int(k) for k in weighted.curve_samples],
        "bounds": [float(bound) for bound in weighted.curve.mean(1)],
        "log_evidence": weighted.mean_log_evidence,
        "log_evidence_se": weighted.log_evidence_se,
        "khat_share_above": khat_share_above(weighted.khat, options.samples),
        "annealed": annealed.mean_log_evidence,
        "annealed_se": annealed.log_evidence_se,
        "acceptance": float(annealed.acceptance.mean()),
        "chains": options.chains,
        "temperatures": options.temperatures,
        "gap": float(gap.mean()),
        "gap_se": float(gap.std(ddof=1) / len(gap) ** 0.5) if len(gap) > 1 else None,
        **provenance(),
    }


def all_images(seed: int, options: argparse.Namespace) -> Cell:
    """log p(x) of all test images in chunks; a stored chunk is read."""
    run, vae, x = trained_vae(OF_ALL, seed, options, options.all_images)
    store = run / f"log_evidence_{len(x)}_{options.samples}"
    store.mkdir(exist_ok=True)
    chunks = [
        chunk_of(vae, x[start : start + CHUNK], start, options.samples, store)
        for start in tqdm(range(0, len(x), CHUNK), unit="chunk")
    ]
    found = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    log_evidence = found["log_evidence"]
    return {
        "n": len(x),
        "log_evidence": float(log_evidence.mean()),
        "log_evidence_se": float(log_evidence.std(ddof=1) / len(log_evidence) ** 0.5),
        "log_evidence_samples": options.samples,
        "elbo": float(found["elbo"].mean()),
        "kl": float(found["kl"].mean()),
        "median_ess": float(np.median(found["ess"])),
        "khat_share_above": khat_share_above(found["khat"], options.samples),
        **provenance(),
    }


def chunk_of(vae: Any, x: Tensor, start: int, samples: int, store: Path) -> dict[str, np.ndarray]:
    """The evaluation of a chunk; its place is its seed."""
    path = store / f"{start:06d}.npz"
    if not path.exists():
        with evaluation_mode(vae, seed=start):
            found = importance_weighting(
                vae.model, vae.guide, x, num_samples=samples, compile="on"
            )
        khat = np.full(len(x), np.nan) if found.khat is None else found.khat
        beside = path.with_suffix(".part.npz")
        entries = {name: getattr(found, name) for name in ("log_evidence", "elbo", "kl", "ess")}
        np.savez(beside, khat=khat, **entries)
        beside.rename(path)
    with np.load(path) as stored:
        return dict(stored)


def khat_share_above(khat: np.ndarray | None, samples: int) -> float | None:
    """The share of images whose k-hat is above the threshold; None for too few draws."""
    if khat is None or np.isnan(khat).any():
        return None
    return float((khat > khat_threshold(samples)).mean())


def plus_minus(error: float | None) -> str:
    """A standard error, if it is known."""
    return "" if error is None else f" ± {error:.2f}"


def share(cell: Cell) -> str:
    """The share of images whose k-hat is above the threshold."""
    value = cell["khat_share_above"]
    return "not defined" if value is None else f"{value:.0%}"


def bound(k: int) -> Any:
    """A column of the IWAE-k bound."""

    def text(cells: list[Cell]) -> str:
        at = dict(zip(cells[0]["samples"], cells[0]["bounds"], strict=True))
        return f"{at[k]:.2f}" if k in at else "not made"

    return text


def tables(study: Study, results: Results) -> str:
    """The ends of the curves beside AIS, and the row of all images."""
    parts = [study.table(results, MODELS, study.columns)]
    if parts[0]:
        parts.append(str(study.note))
    for cell in cells_of(results, ALL).values():
        parts.append(
            f"log p(x) of {cell['n']:,} test images with {cell['log_evidence_samples']:,} draws "
            f"each is {cell['log_evidence']:.2f}{plus_minus(cell['log_evidence_se'])} nats (ELBO "
            f"{cell['elbo']:.2f}, KL {cell['kl']:.2f}, median effective sample size "
            f"{cell['median_ess']:.0f}, k-hat above its threshold for "
            f"{share(cell)}): `{cell['command']}`"
        )
    return "\n\n".join(part for part in (*parts, made_with(results)) if part)


def draw(results: Results, _options: argparse.Namespace) -> None:
    """Draw the curves of the first seed of each model."""
    curves = {}
    for model in MODELS:
        for cell in list(cells_of(results, model).values())[:1]:
            curves[model] = EvidenceCurve(cell["samples"], cell["bounds"], cell["annealed"])
    if curves:
        plot_evidence_curves(curves).savefig(FIGURE, dpi=130)


PROGRAM = "python scripts/studies/evidence.py --only {row}"
STUDY = Study(
    name="evidence",
    about=__doc__,
    rows={
        **{name: Row(make=partial(curve_of, name)) for name in MODELS},
        ALL: Row(
            command=(
                f"{PROGRAM} --all-images {{all_images}} --samples {{samples}}"
                " --steps {steps} --seeds {seed}"
            ),
            make=all_images,
        ),
    },
    command=(
        f"{PROGRAM} --images {{images}} --chains {{chains}} --temperatures {{temperatures}}"
        " --samples {samples} --steps {steps} --seeds {seed}"
    ),
    options={
        "steps": 5000,
        "samples": 5000,
        "images": 100,
        "all_images": 10_000,
        "chains": 16,
        "temperatures": 500,
        "runs": Path("runs/evidence"),
    },
    seeds=(0,),
    tables=tables,
    draw=draw,
    first="model",
    columns=(
        ("ELBO", bound(1)),
        ("IWAE-50", bound(50)),
        ("IWAE", lambda cells: f"{cells[0]['log_evidence']:.2f}"),
        ("AIS", lambda cells: f"{cells[0]['annealed']:.2f}"),
        ("AIS - IWAE", lambda cells: f"{cells[0]['gap']:+.2f}{plus_minus(cells[0]['gap_se'])}"),
        ("k-hat above", lambda cells: share(cells[0])),
    ),
    note=(
        "Nats per image, 100 fixed test images; IWAE with 5,000 draws for each, AIS with 16 "
        "chains and 500 temperatures. Both are at most log p(x) in expectation, so the higher one "
        "is nearer; their difference has the standard error over images. `k-hat above` "
        "is the share of images whose weights have too heavy a tail for IWAE."
    ),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
