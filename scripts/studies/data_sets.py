"""Every data set: log p(x) of the default VAE after a small budget, and samples to look at.

`python scripts/studies/data_sets.py` trains and evaluates what is not in `data_sets.json` yet, set
by set; stopped and started again, it goes on with the next. `--table` prints what is there,
`--write PAGE` puts it between that page's markers, `--samples DIR` keeps each set's
figure of samples from the prior. On two cores it takes about half an hour; `--steps 50000` is the
larger setting for a GPU.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.study import (
    Results,
    cells_of,
    common_command,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    svi_train,
    svi_train_command,
)

# Each set's own options. All else is the default: what the set needs is a likelihood of its support.
ROWS: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": (),
    "static_mnist": (),
    "fashion_mnist": (),
    "omniglot": (),
    "dsprites": ("--data.size", "32"),
    "freyface": ("--likelihood", "continuous_bernoulli"),
    "photos": ("--likelihood", "continuous_bernoulli"),
    "newsgroups": ("--likelihood", "poisson"),
    "mouse_bladder": ("--likelihood", "poisson"),
}
KEPT = (
    *("data", "binarisation", "likelihood", "seed", "steps", "epochs", "n", "n_train"),
    *("log_evidence", "log_evidence_se", "log_evidence_samples", "elbo", "bits_per_dim"),
    *("active_units", "khat_share_above", "seconds_per_epoch", "torch", "pyro", "git_commit"),
)
RESULTS = Path(__file__).with_suffix(".json")


def arguments_of(row: str, seed: int, steps: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that give a cell; the seed comes last."""
    budget = ["--epochs", "100000", "--max-steps", str(steps)]
    return ["--data", row, *ROWS[row], *budget, "--seed", str(seed)]


def tables(results: Results) -> str:
    """The results in Markdown, a row a data set."""
    header = ("data", "likelihood", "log p(x)", "bits per dimension", "n x samples", "command")
    rows = []
    for row in ROWS:
        cells = cells_of(results, row)
        if not cells:
            continue
        first = next(iter(cells.values()))
        how = f", {first['binarisation']} binarisation" if first["binarisation"] else ""
        rows.append(
            (
                row,
                f"{first['likelihood']}{how}",
                mean_and_spread([cell["log_evidence"] for cell in cells.values()]),
                mean_and_spread([cell["bits_per_dim"] for cell in cells.values()], digits=3),
                f"{first['n']:,} x {first['log_evidence_samples']:,}",
                f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}",
            )
        )
    note = (
        "Nats per datum on fixed test data, mean and standard deviation over seeds. Rows do not "
        "compare with one another: each is a density on data of another kind. "
    )
    return f"{markdown(header, rows)}\n\n{note}{made_with(results)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="These sets.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="These seeds.")
    parser.add_argument("--steps", type=int, default=2000, help="The number of training steps.")
    parser.add_argument("--samples", type=Path, help="Keep figures of samples of the first seed.")
    options = parser.parse_args(arguments)
    return run_study("data_sets", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it row by row."""
    for seed in options.seeds:
        for row in options.only:
            given = arguments_of(row, seed, options.steps)
            keep = options.samples if seed == options.seeds[0] else None
            picture = None if keep is None else keep / f"{row}.png"
            make = partial(svi_train, given, KEPT, picture=picture)
            name, command = f"{row}/{seed}", svi_train_command(given)
            fill_cell(options.results, name, command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
