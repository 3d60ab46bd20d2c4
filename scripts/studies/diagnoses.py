"""What `scripts/diagnose.py` says of trained VAEs, over seeds.

`python scripts/studies/diagnoses.py` trains what is not in `diagnoses.json` yet, diagnoses it, and keeps
the numbers; stopped and started again, it goes on with the next. `--table` prints what is there,
`--write PAGE` puts it between that page's markers.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.study import (
    Cell,
    Results,
    StudyError,
    cells_of,
    common_command,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    trained,
)

RESULTS = Path(__file__).with_suffix(".json")
DIAGNOSE = Path(__file__).resolve().parents[1] / "diagnose.py"

MNIST = (
    *("--data", "mnist", "--latent-dim", "50", "--network.hidden", "[400]"),
    *("--batch-size", "128", "--lr", "0.001", "--epochs", "10"),
)
# What each row trains, as far as it is not the default of `scripts/svi_train.py`.
ROWS: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": MNIST,
    "mnist_vamp": (*MNIST, "--prior", "vamp", "--prior.components", "100"),
}

READING = (
    "Mean and standard deviation over seeds; 1,000 fixed test data (360 of digits), 1,000 draws for each. `furthest "
    "statistic` is where new data are least like test data, with the distance of the two distributions (0 is equal, 1 "
    "apart); `nearest` the median distance of new data to the nearest training datum over that of test data; `forecast "
    "error` that of the forecasts of doubtful pixels from all other pixels, with what chance alone gives. MI, TC and DWKL, in "
    "nats, add up to the rate over the full training set; `≥` says that the mutual information is at log N. `k-hat` is "
    "the share of data above the threshold, `ESS` the median effective number of draws, `90 % region` how often the guide's "
    "holds the code that made a datum, `amortisation` what the encoder loses to a guide of each test datum's own, and "
    "`train - test` how much higher log p(x) is on training data, both in nats."
)


def diagnosed(row: str, seed: int) -> Cell:
    """Train a row and diagnose it."""
    with trained([*ROWS[row], "--evaluate", "none", "--seed", str(seed)]) as run:
        command = [sys.executable, str(DIAGNOSE), str(run)]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise StudyError(f"scripts/diagnose.py ended with exit code {done.returncode}.")
        found = json.loads((run / "diagnosis" / "diagnosis.json").read_text(encoding="utf-8"))
    return numbers(found)


def numbers(found: dict[str, Any]) -> Cell:
    """What is kept of a diagnosis."""
    checks, guide = found["predictive"]["checks"], found["guide"]
    nearest, forecasts = checks["nearest_training"], found["calibration"]["elements"]
    parts = found["elbo"]["decomposition"]
    gaps = guide["generalisation"]["terms"]
    (ninety,) = (level for level in guide["sbc"]["coverage"] if level["level"] == 0.9)
    return {
        "furthest": checks["furthest"],
        "furthest_ks_distance": checks["furthest_ks_distance"],
        "p_values_below": checks["num_p_values_below_0.05"],
        "p_values": checks["num_p_values"],
        "nearest_ratio": nearest["generated_median"] / nearest["real_median"],
        "forecast_error": forecasts["doubtful_error"],
        "forecast_error_by_chance": forecasts["doubtful_error_by_chance"],
        "elbo": found["elbo"]["terms"]["elbo"],
        **{
            name: parts[name]
            for name in (
                "rate",
                "mutual_information",
                "total_correlation",
                "dimension_wise_kl",
                "saturated",
            )
        },
        "khat_share_above": guide["quality"]["khat_share_above"],
        "ess_median": guide["quality"]["ess_median"],
        "region_coverage": ninety["joint"],
        "told_apart": guide["sbc"]["told_apart"],
        "amortisation": gaps["amortisation"]["test"],
        "train_minus_test": gaps["log_evidence"]["difference"],
        "n": found["n"],
        "seconds": found["seconds"]["total"],
        **{name: found[name] for name in ("torch", "pyro", "git_commit")},
    }


def tables(results: Results) -> str:
    """The cells as Markdown."""
    rows, shown = [], {}
    for row in ROWS:
        cells = cells_of(results, row)
        if not cells:
            continue
        shown |= {f"{row}/{seed}": cell for seed, cell in cells.items()}

        def column(name: str, digits: int = 2, cells: dict[int, Cell] = cells) -> str:
            return mean_and_spread([cell[name] for cell in cells.values()], digits)

        ((furthest, _),) = Counter(cell["furthest"] for cell in cells.values()).most_common(1)
        saturated = any(cell["saturated"] for cell in cells.values())
        error, chance = column("forecast_error", 3), column("forecast_error_by_chance", 3)
        seeds = ", ".join(map(str, cells))
        rows.append(
            (
                row,
                f"{furthest.replace('_', ' ')} {column('furthest_ks_distance')}",
                column("nearest_ratio"),
                f"{error} ({chance})",
                ("≥ " if saturated else "") + column("mutual_information"),
                ("≤ " if saturated else "") + column("total_correlation"),
                column("dimension_wise_kl"),
                column("khat_share_above"),
                column("ess_median", 0),
                column("region_coverage"),
                column("amortisation"),
                column("train_minus_test"),
                f"`{common_command(cells)}`, S = {seeds}",
            )
        )
    if not rows:
        return "No cell has been made yet."
    header = (
        *("run", "furthest statistic", "nearest", "forecast error", "MI", "TC", "DWKL"),
        *("k-hat", "ESS", "90 % region", "amortisation", "train - test", "command"),
    )
    return "\n\n".join((markdown(header, rows), f"{READING} {made_with(shown)}"))


def fill(options: argparse.Namespace) -> None:
    """Make the cells that are not there."""
    for seed in options.seeds:
        for row in options.only or ROWS:
            words = ("--only", row, "--seeds", str(seed))
            fill_cell(
                options.results,
                f"{row}/{seed}",
                shlex.join(["python", "scripts/studies/diagnoses.py", *words]),
                lambda row=row, seed=seed: diagnosed(row, seed),
                again=options.again,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    parser = study_parser(str(__doc__), RESULTS)
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help="Which rows.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Which seeds.")
    options = parser.parse_args(arguments)
    return run_study("diagnoses", options, lambda: fill(options), tables)


if __name__ == "__main__":
    sys.exit(main())
