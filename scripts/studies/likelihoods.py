"""Every likelihood that fits: grey images in bits per dimension, gene counts in nats a cell.

`python scripts/studies/likelihoods.py` trains and evaluates what is not in `likelihoods.json` yet,
row by row; stopped and started again, it goes on with the next. `--table` prints what is there,
`--write PAGE` puts it between that page's markers. On one core it takes about
an hour; `--steps 50000` is the larger setting for a GPU. Bags of words are in `topics.py`.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from analysis.study import (
    Cell,
    Results,
    cells_of,
    common_command,
    evaluated,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    trained,
)
from pyro_vae.data import DATASETS, Dataset, default_root
from pyro_vae.evidence import fixed_rows
from pyro_vae.evidence.baseline_densities import (
    fit_negative_binomial,
    histogram,
    negative_binomial_log_density,
)
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.runs.provenance import provenance

# The network of each set, the same for all its likelihoods.
IMAGES: dict[str, tuple[str, ...]] = {
    "digits": ("--latent-dim", "8", "--network.hidden", "[200]"),
    "freyface": ("--latent-dim", "16", "--network.hidden", "[200]"),
    "photos": ("--latent-dim", "32", "--network.hidden", "[200]"),
}
# Densities on the real line, which compare with no code, are measured on these.
REAL_IMAGES = ("freyface", "photos")
GENES: dict[str, tuple[str, ...]] = {
    "mouse_bladder": ("--latent-dim", "10", "--network.hidden", "[128]"),
}
# So many test data: the whole split but for the photographs, of which K = 1,000 draws are long.
EVALUATED = {"digits": 360, "freyface": 200, "photos": 50, "mouse_bladder": 210}
BITS, DENSITY, COUNTS = ("integers", "unit"), ("real",), ("counts",)
# Too many outputs of the decoder a draw: 143,360 for the 256 levels of each pixel of a face, 92,160 for
# the mixtures of a patch.
LEFT_OUT = {"freyface:categorical", "photos:categorical", "photos:logistic_mixture"}
# Options beside the defaults that make a row of their own.
VARIANTS: dict[str, tuple[str, ...]] = {
    "mouse_bladder:negative_binomial:library": ("--likelihood.library", "true"),
}
HISTOGRAM, FITTED, FITTED_SIZES = "histogram", "fitted_negative_binomial", "fitted_with_sizes"
RESULTS = Path(__file__).with_suffix(".json")

NOTE_BITS = (
    "Bits per dimension of the levels, lower is better: one column for likelihoods of integers and, "
    "as an upper bound, for densities on [0, 1] of dequantised levels (v + u) / levels. `histogram` "
    "is a histogram of each pixel with one added to each level, without latent variables."
)
NOTE_DENSITY = (
    "Densities on the real line, of v / (levels - 1) without noise, higher is better. They compare "
    "with one another and with nothing above: levels are points, and a density there may grow "
    "without bound."
)
NOTE_COUNTS = (
    "Cells of 1,000 genes, higher is better. `fitted_negative_binomial` has a mean and a dispersion "
    "for each gene by maximum likelihood and no latent variables, `fitted_with_sizes` the size of "
    "the cell as its one latent variable, with the sizes of the training cells as its prior."
)


def fitting(supports: Iterable[str]) -> list[str]:
    """The likelihoods on these supports, but for those of data given their total."""
    return [
        name
        for support in supports
        for name, part in LIKELIHOODS.items()
        # A likelihood may have either from the class that it shares with others.
        if getattr(part, "support", None) == support and not getattr(part, "given_total", False)
    ]


def rows() -> list[str]:
    """What is measured, "set:likelihood", in the order of the tables."""
    return [
        *(row for data in IMAGES for row in rows_of(data, BITS)),
        *(row for data in REAL_IMAGES for row in rows_of(data, DENSITY)),
        *(row for data in GENES for row in rows_of(data, COUNTS)),
    ]


def rows_of(data: str, supports: Sequence[str]) -> list[str]:
    """The rows of a set: baselines first, then the likelihoods on these supports."""
    named = [f"{data}:{likelihood}" for likelihood in fitting(supports)]
    if supports == BITS:
        baselines = [HISTOGRAM]
    else:
        baselines = [FITTED, FITTED_SIZES] if supports == COUNTS else []
    varied = {row: [v for v in VARIANTS if v.rpartition(":")[0] == row] for row in named}
    return [
        *(f"{data}:{baseline}" for baseline in baselines),
        *(each for row in named if row not in LEFT_OUT for each in (row, *varied[row])),
    ]


def is_baseline(row: str) -> bool:
    """Whether the row is a density without a network, for which seeds change nothing."""
    return row.partition(":")[2] in (HISTOGRAM, FITTED, FITTED_SIZES)


def arguments_of(row: str, seed: int, steps: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that train a row's VAE; the seed comes last."""
    data, likelihood, *_ = row.split(":")
    return [
        *("--data", data, "--likelihood", likelihood, *VARIANTS.get(row, ())),
        *{**IMAGES, **GENES}[data],
        # Small sets: what is evaluated is the epoch of the best validation ELBO.
        *("--early-stopping", "20", "--epochs", "100000", "--max-steps", str(steps)),
        *("--evaluate", "none", "--seed", str(seed)),
    ]


def command_of(row: str, seed: int, steps: int) -> str:
    """What to type, at the root of a checkout, to get a cell."""
    budget = [] if is_baseline(row) else ["--steps", str(steps)]
    program = ["python", "scripts/studies/likelihoods.py", "--only", row]
    return shlex.join([*program, *budget, "--seeds", str(seed)])


def cell_of(row: str, seed: int, steps: int) -> Cell:
    """Train a row's VAE, or fit its baseline, and evaluate it."""
    data, likelihood, *_ = row.split(":")
    if is_baseline(row):
        loader = DATASETS[data]
        dataset = loader() if data in ("digits", "photos") else loader(default_root())
        return baseline(dataset, likelihood, EVALUATED[data])
    with trained(arguments_of(row, seed, steps)) as run:
        return evaluated(run, at_most=EVALUATED[data])


def baseline(dataset: Dataset, name: str, at_most: int) -> Cell:
    """log p(x) of the same test data without latent variables, or with a size alone."""
    chosen = fixed_rows(len(dataset.test), at_most)
    train, test = dataset.split("train").numpy(), dataset.test[chosen].numpy()
    if name == HISTOGRAM:
        density = histogram(train, dataset.levels or 2)(test)
    else:
        totals = train.sum(1, dtype=np.float64)
        # A cell without molecules has a size above 0 all the same.
        sizes = np.maximum(totals, 1) / totals.mean() if name == FITTED_SIZES else None
        density = negative_binomial_log_density(test, *fit_negative_binomial(train, sizes), sizes)
    mean = float(density.mean())
    return {
        "log_evidence": mean,
        "log_evidence_se": float(density.std(ddof=1) / math.sqrt(len(density))),
        "bits_per_dim": -mean / (math.prod(dataset.event_shape) * math.log(2)),
        "n": len(density),
        **provenance(),
    }


# ---- tables ------------------------------------------------------------------------------------


def tables(results: Results) -> str:
    """The results in Markdown: levels in bits, real densities and counts in nats."""
    parts = [
        _table(results, IMAGES, BITS, "bits_per_dim", "bits per dimension", 3),
        _table(results, REAL_IMAGES, DENSITY, "log_evidence", "log p(x), nats", 1),
        _table(results, GENES, COUNTS, "log_evidence", "log p(x), nats", 1),
    ]
    notes = (NOTE_BITS, NOTE_DENSITY, NOTE_COUNTS)
    shown = [f"{table}\n\n{note}" for table, note in zip(parts, notes, strict=True) if table]
    if not shown:
        return "No cell has been made yet."
    return "\n\n".join([*shown, _legend(results), *_findings(results)])


def _table(
    results: Results,
    sets: Iterable[str],
    supports: Sequence[str],
    value: str,
    title: str,
    digits: int,
) -> str:
    lines = []
    for data in sets:
        for row in rows_of(data, supports):
            cells = cells_of(results, row)
            if not cells:
                continue
            column = partial(_column, list(cells.values()))
            likelihood = row.partition(":")[2]
            part: Any = LIKELIHOODS.get(row.split(":")[1])
            lines.append(
                (
                    data,
                    likelihood.replace(":", ", "),
                    "baseline" if part is None else part.support,
                    column(value, digits),
                    *(column(name, 1) for name in ("kl", "active_units")),
                    column("khat_share_above", 2),
                    column("epochs", 0),
                    f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}",
                )
            )
    rest = ("KL", "active", "k-hat above", "epochs", "command")
    return markdown(("data", "likelihood", "on", title, *rest), lines) if lines else ""


def _column(cells: Sequence[Cell], name: str, digits: int) -> str:
    """Mean and spread; nothing where the row has no such number."""
    return mean_and_spread([cell[name] for cell in cells], digits) if name in cells[0] else ""


def _legend(results: Results) -> str:
    sizes = sorted({(name.partition(":")[0], cell["n"]) for name, cell in results.items()})
    return (
        "Mean and standard deviation over seeds; the epoch of the best validation ELBO is evaluated, "
        f"with K = 1,000 draws on fixed test data ({', '.join(f'{n} of {data}' for data, n in sizes)}). "
        "`epochs` is how long training went on, `k-hat above` the share of data whose k-hat is above its "
        f"threshold. {made_with(results)}"
    )


def _findings(results: Results) -> list[str]:
    """What the best likelihood of each set gains on the baselines."""
    findings = []
    for data, supports, value, unit in (
        *((data, BITS, "bits_per_dim", "bits per dimension") for data in IMAGES),
        *((data, COUNTS, "log_evidence", "nats a cell") for data in GENES),
    ):
        means = {}
        for row in rows_of(data, supports):
            values = [cell[value] for cell in cells_of(results, row).values()]
            if values and None not in values:
                means[row] = sum(values) / len(values)
        networks = {row: mean for row, mean in means.items() if not is_baseline(row)}
        if not networks or len(networks) == len(means):
            continue
        choose, sign = (min, -1) if value == "bits_per_dim" else (max, 1)
        best = choose(networks, key=lambda row: networks[row])
        gains = ", ".join(
            f"{row.partition(':')[2]} {sign * (means[best] - mean):+.2f}"
            for row, mean in means.items()
            if is_baseline(row)
        )
        name = best.partition(":")[2].replace(":", ", ")
        findings.append(f"- {data}: best is {name}; {unit} gained on {gains}")
    return ["\n".join(findings)] if findings else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=rows(), default=rows(), help="These rows.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="These seeds.")
    parser.add_argument("--steps", type=int, default=5000, help="The number of training steps.")
    options = parser.parse_args(arguments)
    return run_study("likelihoods", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it row by row."""
    for row in options.only:
        for seed in (0,) if is_baseline(row) else options.seeds:
            make = partial(cell_of, row, seed, options.steps)
            command = command_of(row, seed, options.steps)
            fill_cell(options.results, f"{row}/{seed}", command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
