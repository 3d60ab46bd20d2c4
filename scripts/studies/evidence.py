"""How far importance weighting can be trusted: bounds by draws, and annealed importance sampling.

`python scripts/studies/evidence.py` trains VAEs on static MNIST, and makes what is not in
`evidence.json` yet: the IWAE-k curve of each up to k = 5,000 with log p(x) by annealed importance
sampling of the same images, and log p(x) of one of them on all 10,000 test images. It draws
`evidence.png` beside itself. Runs, and what is done of the 10,000, are kept under `--runs`: stopped
and started again, it goes on where it was. `--table` prints what is there, `--write README.md`
puts it between the README's markers.

References:
    Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519;
    On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017),
    https://arxiv.org/abs/1611.04273
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from analysis.elbo.evidence import EvidenceCurve, plot_evidence_curves
from analysis.study import (
    Cell,
    Results,
    cells_of,
    fill_cell,
    made_with,
    markdown,
    read_results,
    run_study,
    study_parser,
    trained,
    with_test_data,
)
from pyro_vae.evidence import annealed_importance_sampling, importance_weighting
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.provenance import provenance
from pyro_vae.statistics import khat_threshold

# Guides that fit better and worse, and objectives that ask more and less of them.
MODELS: dict[str, tuple[str, ...]] = {
    "elbo": (),
    "iwae": ("--objective", "iwae", "--objective.num-particles", "5"),
    "full_normal": ("--posterior", "full_normal"),
}
# One model, all test images.
ALL, OF_ALL = "all", "elbo"
# The network, the data and the batch of the studies of priors and of objectives.
SETTING = (
    *("--data", "static_mnist", "--latent-dim", "40", "--network", "gated_mlp"),
    *("--batch-size", "100", "--lr", "0.0005", "--epochs", "100000", "--evaluate", "none"),
)
SAMPLES = 5000
# So many images are evaluated before what is known of them is stored.
CHUNK = 500
RESULTS = Path(__file__).with_suffix(".json")


def rows() -> list[str]:
    """What is made: a curve for each model, and one model on all images."""
    return [*MODELS, ALL]


def arguments_of(model: str, seed: int, steps: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that train a model; the seed comes last."""
    return [*SETTING, *MODELS[model], "--max-steps", str(steps), "--seed", str(seed)]


def command_of(row: str, options: argparse.Namespace) -> str:
    """What to type, at the root of a checkout, to get a cell; the seed comes last."""
    own = ["--images", str(options.images)]
    if row == ALL:
        own = ["--all-images", str(options.all_images)]
    else:
        own += ["--chains", str(options.chains), "--temperatures", str(options.temperatures)]
    program = ["python", "scripts/studies/evidence.py", "--only", row, *own]
    numbers = ["--samples", str(options.samples), "--steps", str(options.steps)]
    return shlex.join([*program, *numbers, "--seed", str(options.seed)])


def kept_run(model: str, options: argparse.Namespace) -> Path:
    """The run directory of a model, trained unless it is there."""
    run = options.runs / f"{model}-{options.steps}-{options.seed}"
    if not run.exists():
        with trained(arguments_of(model, options.seed, options.steps)) as made:
            run.parent.mkdir(parents=True, exist_ok=True)
            # In two steps, as a directory that was copied in part would look whole.
            beside = run.with_name(f".{run.name}")
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(made, beside)
            beside.rename(run)
    return run


def curve_of(model: str, options: argparse.Namespace) -> Cell:
    """Both estimates of a model's log p(x) of the same images."""
    vae, _, x = with_test_data(kept_run(model, options), options.images)
    with evaluation_mode(vae, seed=options.seed):
        weighted = importance_weighting(
            vae.model, vae.guide, x, num_samples=options.samples, progress=True
        )
    annealed = annealed_importance_sampling(
        vae,
        x,
        num_chains=options.chains,
        num_temperatures=options.temperatures,
        seed=options.seed,
        progress=True,
    )
    # Of the same images: most of what either varies by is common to both.
    gap = annealed.log_evidence - weighted.log_evidence
    return {
        "n": len(x),
        "samples": [int(k) for k in weighted.curve_samples],
        "bounds": [float(bound) for bound in weighted.curve.mean(1)],
        "log_evidence": weighted.mean_log_evidence,
        "log_evidence_se": weighted.log_evidence_se,
        "khat_share_above": _khat_share_above(weighted.khat, options.samples),
        "annealed": annealed.mean_log_evidence,
        "annealed_se": annealed.log_evidence_se,
        "acceptance": float(annealed.acceptance.mean()),
        "chains": options.chains,
        "temperatures": options.temperatures,
        "gap": float(gap.mean()),
        "gap_se": float(gap.std(ddof=1) / len(gap) ** 0.5) if len(gap) > 1 else None,
        **provenance(),
    }


def all_of(options: argparse.Namespace) -> Cell:
    """log p(x) of all test images, chunk by chunk; a chunk that is there is read."""
    run = kept_run(OF_ALL, options)
    vae, _, x = with_test_data(run, options.all_images)
    store = run / f"log_evidence_{len(x)}_{options.samples}"
    store.mkdir(exist_ok=True)
    starts = range(0, len(x), CHUNK)
    chunks = [
        _chunk(vae, x[start : start + CHUNK], start, options.samples, store)
        for start in tqdm(starts, unit="chunk")
    ]
    log_evidence, elbo, kl, ess, khat = (
        np.concatenate([chunk[name] for chunk in chunks])
        for name in ("log_evidence", "elbo", "kl", "ess", "khat")
    )
    return {
        "n": len(x),
        "log_evidence": float(log_evidence.mean()),
        "log_evidence_se": float(log_evidence.std(ddof=1) / len(log_evidence) ** 0.5),
        "log_evidence_samples": options.samples,
        "elbo": float(elbo.mean()),
        "kl": float(kl.mean()),
        "median_ess": float(np.median(ess)),
        "khat_share_above": _khat_share_above(khat, options.samples),
        **provenance(),
    }


def _chunk(vae: Any, x: Tensor, start: int, samples: int, store: Path) -> dict[str, np.ndarray]:
    """A chunk's evaluation; its random numbers have the place of the chunk as their seed."""
    path = store / f"{start:06d}.npz"
    if not path.exists():
        with evaluation_mode(vae, seed=start):
            weighted = importance_weighting(
                vae.model, vae.guide, x, num_samples=samples, compile="on"
            )
        beside = path.with_suffix(".part.npz")
        np.savez(
            beside,
            log_evidence=weighted.log_evidence,
            elbo=weighted.elbo,
            kl=weighted.kl,
            ess=weighted.ess,
            khat=np.full(len(x), np.nan) if weighted.khat is None else weighted.khat,
        )
        beside.rename(path)
    with np.load(path) as stored:
        return dict(stored)


def _khat_share_above(khat: np.ndarray | None, samples: int) -> float | None:
    """The share of images whose weights have too long a tail; None of too few draws to tell."""
    if khat is None or np.isnan(khat).any():
        return None
    return float((khat > khat_threshold(samples)).mean())


# ---- tables ------------------------------------------------------------------------------------


def tables(results: Results) -> str:
    """The results in Markdown: the curves' ends beside AIS, and the one on all images."""
    header = ("model", "ELBO", "IWAE-50", "IWAE", "AIS", "AIS - IWAE", "k-hat above", "command")
    lines, first = [], None
    for model in MODELS:
        for cell in cells_of(results, model).values():
            first = first or cell
            at = dict(zip(cell["samples"], cell["bounds"], strict=True))
            lines.append(
                (
                    model,
                    *(f"{at[k]:.2f}" if k in at else "not made" for k in (1, 50)),
                    f"{cell['log_evidence']:.2f}",
                    f"{cell['annealed']:.2f}",
                    f"{cell['gap']:+.2f}" + _plus_minus(cell["gap_se"]),
                    _share(cell["khat_share_above"]),
                    f"`{cell['command']}`",
                )
            )
    parts = []
    if first:
        note = (
            f"Nats per datum, {first['n']} fixed test images; IWAE with {first['samples'][-1]:,} draws for "
            f"each, AIS with {first['chains']} chains and {first['temperatures']} temperatures. Both are at "
            "most log p(x) in expectation, so the higher is the nearer; their difference has the standard "
            "error over images. `k-hat above` is the share of images whose weights have too long a tail for "
            "IWAE."
        )
        parts += [markdown(header, lines), note]
    for cell in cells_of(results, ALL).values():
        parts.append(
            f"All at once: log p(x) of {cell['n']:,} test images with {cell['log_evidence_samples']:,} "
            f"draws for each is {cell['log_evidence']:.2f}{_plus_minus(cell['log_evidence_se'])} nats "
            f"(ELBO {cell['elbo']:.2f}, KL {cell['kl']:.2f}, median effective number of draws "
            f"{cell['median_ess']:.0f}, k-hat above its threshold for {_share(cell['khat_share_above'])}): "
            f"`{cell['command']}`"
        )
    return "\n\n".join([*parts, made_with(results)]) if parts else "No cell has been made yet."


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f" ± {error:.2f}"


def _share(share: float | None) -> str:
    return "not defined" if share is None else f"{share:.0%}"


def draw(results: Results, path: Path) -> None:
    """Write the figure of what is there, of the first seed of each model."""
    curves = {}
    for model in MODELS:
        for cell in list(cells_of(results, model).values())[:1]:
            curves[model] = EvidenceCurve(cell["samples"], cell["bounds"], cell["annealed"])
    if curves:
        plot_evidence_curves(curves).savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=rows(), default=rows(), help="These rows.")
    parser.add_argument("--seed", type=int, default=0, help="The seed of training and draws.")
    parser.add_argument("--steps", type=int, default=5000, help="The number of training steps.")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="Draws for each image.")
    parser.add_argument("--images", type=int, default=100, help="Images with both estimates.")
    parser.add_argument("--all-images", type=int, default=10_000, help="Images of the row `all`.")
    parser.add_argument("--chains", type=int, default=16, help="AIS's chains for each image.")
    parser.add_argument("--temperatures", type=int, default=500, help="AIS's temperatures.")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/evidence"), help="Where runs are kept."
    )
    options = parser.parse_args(arguments)
    return run_study("evidence", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Make what is not there yet, store it row by row, and draw it."""
    for row in options.only:
        make = partial(all_of, options) if row == ALL else partial(curve_of, row, options)
        name, command = f"{row}/{options.seed}", command_of(row, options)
        fill_cell(options.results, name, command, make, again=options.again)
    draw(read_results(options.results), options.results.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
