"""The suite `precision`: what bfloat16 costs in test log p(x)."""

import shlex
import statistics
from typing import Any

from analysis.study import StudyError, markdown, svi_train
from benchmarks.start import NETWORK
from benchmarks.suite import Options, Result
from benchmarks.targets import PRECISION_GAP, at_most

PRECISIONS = ("float32", "bfloat16")
EPOCHS = 10
KEPT = ("log_evidence", "log_evidence_se", "elbo", "n", "log_evidence_samples", "steps")


def run(options: Options) -> Result:
    """Train and evaluate in both precisions, with a seed a round."""
    runs: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
    status = dict.fromkeys(PRECISIONS, "measured")
    for seed in range(options.rounds):
        for precision in PRECISIONS:
            if status[precision] != "measured":
                continue
            try:
                metrics = svi_train(arguments(precision, seed, options), KEPT)
            except StudyError as error:
                status[precision] = f"failed: {error}"
                options.say(f"{precision}: {status[precision]}")
                continue
            runs[precision].append({"seed": seed, **metrics})
            options.say(f"seed {seed}: {precision} log p(x) {metrics['log_evidence']}")
    gaps = [
        abs(low["log_evidence"] - full["log_evidence"])
        for full, low in zip(runs["float32"], runs["bfloat16"], strict=False)
        if full["log_evidence"] is not None and low["log_evidence"] is not None
    ]
    what = f"bfloat16's distance in test log p(x) from float32's after {EPOCHS} epochs, mean over seeds"
    return {
        "data": options.data,
        "rounds": options.rounds,
        "runs": runs,
        "status": status,
        "command": shlex.join(
            ["python", "scripts/svi_train.py", *arguments("bfloat16", 0, options)]
        ),
        "targets": [at_most(what, statistics.mean(gaps) if gaps else None, PRECISION_GAP, "nats")],
    }


def arguments(precision: str, seed: int, options: Options) -> list[str]:
    """The command line of a run."""
    root = [] if options.data_root is None else ["--data-root", options.data_root]
    return [
        *("--data", options.data, *root, *NETWORK, "--epochs", str(EPOCHS)),
        *("--compile", "on", "--precision", precision, "--seed", str(seed)),
    ]


def table(result: Result) -> str:
    """Test log p(x) by seed, in Markdown."""
    rows = []
    for precision, runs in result["runs"].items():
        values = ", ".join(
            "not finite" if run["log_evidence"] is None else f"{run['log_evidence']:.2f}"
            for run in runs
        )
        status = result["status"][precision]
        rows.append((precision, values, "" if status == "measured" else status))
    return (
        f"{markdown(('precision', 'test log p(x) by seed', ''), rows)}\n\n"
        f"Nats an image, each evaluated in float32: `{result['command']}`."
    )
