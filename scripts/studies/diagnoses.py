"""What `scripts/diagnose.py` reports of trained VAEs, over seeds."""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from analysis.study import ROOT, Row, Study
from analysis.study_results import Cell, StudyError, mean

MNIST = (
    "--data mnist --latent-dim 50 --network.hidden '[400]' --batch-size 128 --lr 0.001 --epochs 10"
)
ROWS = {
    "digits": Row(),
    "mnist": Row(MNIST),
    "mnist_vamp": Row(f"{MNIST} --prior vamp --prior.components 100"),
}
RATE_PARTS = ("rate", "mutual_information", "total_correlation", "dimension_wise_kl", "saturated")


def measure(run: Path, _row: str, _options: argparse.Namespace) -> Cell:
    """Diagnose a run and keep its main numbers."""
    command = [sys.executable, str(ROOT / "scripts" / "diagnose.py"), str(run)]
    if code := subprocess.run(command, check=False).returncode:
        raise StudyError(f"scripts/diagnose.py ended with exit code {code}.")
    return numbers(json.loads((run / "diagnosis" / "diagnosis.json").read_text(encoding="utf-8")))


def numbers(found: dict[str, Any]) -> Cell:
    """The numbers of a diagnosis that a cell keeps."""
    checks, guide = found["predictive"]["checks"], found["guide"]
    nearest, forecasts = checks["nearest_training"], found["calibration"]["elements"]
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
        **{name: found["elbo"]["decomposition"][name] for name in RATE_PARTS},
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


def furthest(cells: list[Cell]) -> str:
    """The statistic that is furthest off in most cells, and the distance."""
    ((name, _),) = Counter(cell["furthest"] for cell in cells).most_common(1)
    return f"{name.replace('_', ' ')} {mean('furthest_ks_distance')(cells)}"


def bounded(sign: str, name: str) -> Any:
    """A column that is a bound where the mutual information has saturated."""
    return lambda cells: (
        (f"{sign} " if any(c["saturated"] for c in cells) else "") + mean(name)(cells)
    )


STUDY = Study(
    name="diagnoses",
    about=__doc__,
    rows=ROWS,
    command="python scripts/studies/diagnoses.py --only {row} --seeds {seed}",
    train="{words} --evaluate none --seed {seed}",
    measure=measure,
    first="run",
    columns=(
        ("furthest statistic", furthest),
        ("nearest", mean("nearest_ratio")),
        (
            "forecast error (by chance)",
            lambda cells: (
                f"{mean('forecast_error', 3)(cells)} "
                f"({mean('forecast_error_by_chance', 3)(cells)})"
            ),
        ),
        ("MI", bounded("≥", "mutual_information")),
        ("TC", bounded("≤", "total_correlation")),
        ("DWKL", mean("dimension_wise_kl")),
        ("k-hat", mean("khat_share_above")),
        ("ESS", mean("ess_median", 0)),
        ("90 % region", mean("region_coverage")),
        ("amortisation", mean("amortisation")),
        ("train - test", mean("train_minus_test")),
    ),
    note=(
        "Mean and standard deviation over seeds; 1,000 fixed test images (360 of digits), 1,000 "
        "draws for each. `furthest statistic`: where generated data are least like test data, "
        "with the distance of the two distributions (0 is equal, 1 apart). `nearest`: the median "
        "distance of generated data to the nearest training image over that of test data. "
        "`forecast error`: the error of forecasts of doubtful pixels from all other pixels. MI, "
        "TC and DWKL, in nats, add up to the rate over the training set; `≥` means that the "
        "mutual information is at log N. `k-hat`: the share of images above the threshold. "
        "`ESS`: the median effective sample size. `90 % region`: how often the guide's region "
        "contains the true code. `amortisation`: the amortisation gap on test data, and `train - "
        "test` the difference of log p(x), both in nats."
    ),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
