"""Lower halves of digits completed: conditional sampling beside one decode of a filled image.

A default VAE is trained for 2,000 steps on complete digits, and completes the 360 test images
whose lower half is missing. One decode fills it with the training means, encodes the image, and
draws from p(x | z) at that code. Images drawn from the model itself show the accuracy of the
sampling apart from that of the model. On one core the study takes about five minutes.
"""

import argparse
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch

from analysis.programs.missing import LEVEL, coverage, interval_ranks
from analysis.study import Row, Study
from analysis.study_results import Cell, Results, cells_of, mean
from pyro_vae import build, fit
from pyro_vae.completion import complete_prepared
from pyro_vae.data import PreparedData, digits
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.run_directory import provenance

STEPS = 2000
# Draws of each completion, of the z that they are from, and values that a pixel can have.
DRAWS, SAMPLES = 500, 1000
VALUES = {"bernoulli": 2, "discretized_logistic": 17}
METHODS = {"decode": "one decode", "importance": "importance", "gibbs": "gibbs"}
# Of a sum over an image there are 360, and a standard error of their coverage is 1.6 points.
ALLOWED = {"coverage": 0.03, "coverage_ink": 0.05}


def complete(
    likelihood: str, method: str, simulated: bool, seed: int, options: argparse.Namespace
) -> Cell:
    """Train on complete digits, and complete test images or the model's own by one method."""
    pyro.set_rng_seed(seed)
    dataset = digits()
    vae = build(dataset.event_shape, likelihood=likelihood, levels=dataset.levels)
    support: Any = vae.likelihood.support
    data = PreparedData(dataset, support)
    fit(vae, data, max_steps=options.max_steps or STEPS)
    truth = data.fixed("test")[:].float()
    if simulated:
        with evaluation_mode(vae, seed=seed):
            truth = vae.likelihood(vae.prior().sample((len(truth),))).sample()
    gaps = torch.zeros(truth.shape[1:], dtype=torch.bool)
    gaps[:, 4:] = True
    start, sizes = time.monotonic(), {}
    if method == "decode":
        filled = torch.where(gaps, data.fixed("train")[:].float().mean(0), truth)
        with evaluation_mode(vae, seed=seed):
            draws = vae.likelihood(vae.posterior.embed(filled)).sample((DRAWS,))
    else:
        x = truth.masked_fill(gaps, torch.nan)
        how: Any = {"method": method, "num_samples": SAMPLES, "seed": seed}
        found = complete_prepared(vae, x, draws=DRAWS, **how)
        draws = found.values.movedim(1, 0)
        sizes = {"ess": float(np.median(found.ess)), "ess_lowest": float(found.ess.min())}
        sizes["khat_share_above"] = found.summary()["khat_share_above"]
    seconds = time.monotonic() - start
    missing, values = truth[:, gaps].numpy(), draws[:, :, gaps].numpy()
    ink = interval_ranks(missing.sum(1), values.sum(2), seed)
    equal = (values == missing).sum(0)
    return {
        "log_score": float(np.log((equal + 0.5) / (DRAWS + 0.5 * VALUES[likelihood])).mean()),
        "coverage": coverage(interval_ranks(missing.ravel(), values.reshape(DRAWS, -1), seed)),
        "coverage_ink": coverage(ink),
        **sizes,
        "seconds": seconds,
        "steps": options.max_steps or STEPS,
        "seed": seed,
        **provenance(),
    }


def findings(results: Results) -> list[str]:
    """Whether intervals of the model's images hold what they say, and a decode scores less."""
    far, better = [], []
    for likelihood in VALUES:
        decode = cells_of(results, f"{likelihood}_decode")
        for method in ("importance", "gibbs"):
            row = f"{likelihood}_{method}"
            for seed, cell in cells_of(results, f"{row}_simulated").items():
                for what, allowed in ALLOWED.items():
                    if abs(cell[what] - LEVEL) > allowed:
                        far.append(f"{row} with seed {seed} ({what} {100 * cell[what]:.1f} %)")
            for seed, cell in cells_of(results, row).items():
                if seed in decode and cell["log_score"] <= decode[seed]["log_score"]:
                    better.append(f"{row} with seed {seed}")
    target = "Coverage of the model's images within 3 points of 90 %, of their ink within 5"
    return [
        f"{target}: missed by {', '.join(far)}." if far else f"{target}: reached in every cell.",
        f"Log score of test images not above that of one decode: {', '.join(better)}."
        if better
        else "Log score of test images above that of one decode in every cell.",
    ]


def percent(name: str) -> Any:
    """A column of shares as percentages."""
    return lambda cells: mean(name, 1)([{name: 100 * cell[name]} for cell in cells])


ROWS = {
    f"{likelihood}_{method}{'_simulated' * simulated}": Row(
        make=partial(complete, likelihood, method, simulated),
        title=f"{likelihood}, {'images of the model' if simulated else 'test images'}, {title}",
    )
    for likelihood in VALUES
    for simulated in (False, True)
    for method, title in METHODS.items()
}
STUDY = Study(
    name="completions",
    about=__doc__,
    rows=ROWS,
    command="python scripts/studies/completions.py --only {row} --seeds {seed}",
    first="likelihood, images, method",
    columns=(
        ("log score", mean("log_score", 3)),
        ("pixels covered, %", percent("coverage")),
        ("ink covered, %", percent("coverage_ink")),
        ("effective draws", lambda cells: mean("ess", 0)([{"ess": c.get("ess")} for c in cells])),
        ("seconds", mean("seconds", 1)),
    ),
    note=(
        "Over the 11,520 missing pixels of 360 images; mean and standard deviation over "
        "seeds. The log score is log p(x_i) of the true value of a pixel, in nats, higher is "
        f"better, with p from {DRAWS} draws; pixels covered is the share of the true values in "
        "the central 90 % interval of the draws, ties at random, and ink covered that of the true "
        "sums over the missing pixels of an image, both with the target 90. Effective draws are "
        f"the median over images, of {SAMPLES:,} draws of z. For bernoulli the images are "
        "binarised."
    ),
    findings=findings,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
