"""Comparison of trained runs: log p(x) of the same held-out data, or the use of their codes."""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from analysis.check import SectionResult
from analysis.comparison.comparability import (
    check_comparable,
    data_record,
    differences_report,
    run_differences,
)
from analysis.comparison.model_comparison import HeldOut, compare_models
from analysis.comparison.paired_differences import (
    paired_report,
    plot_model_comparison,
    plot_paired_differences,
)
from analysis.elbo.rate_distortion import (
    RateDistortion,
    plot_rate_distortion,
    rate_distortion_summary,
)
from analysis.plotting.style import to_png
from analysis.report import WIDTH, insert_run, wrap, write_reports
from analysis.result import UndefinedCheckError
from analysis.run_subject import diagnosis_header, foreign_of_run, subject_of_run
from analysis.sections import SECTIONS, side_by_side
from analysis.subject import Steps
from pyro_vae.data.nouns import nouns, set_noun
from pyro_vae.evidence import evaluate
from pyro_vae.json_values import to_jsonable
from pyro_vae.log_densities import NoDensityError, check_density
from pyro_vae.runs.result_cache import digest
from pyro_vae.runs.trained_run import TrainedRun
from pyro_vae.training.checkpoint import load_checkpoint

# The records of comparisons, of which a folder holds at least one.
RECORDS = ("comparison.json", "representation.json")


@dataclass(frozen=True)
class ComparisonReport:
    """What runs were compared by, to be written and printed.

    Args:
        name: The file of the record, one of `RECORDS`.
        record: JSON values.
        figures: PNG files by name.
        text: The report for a terminal.
    """

    name: str
    record: dict[str, Any]
    figures: dict[str, bytes]
    text: str


@dataclass(frozen=True)
class RunComparison:
    """Runs and the rows that they are compared on.

    Args:
        runs: The runs by name.
        rows: The rows of the split by run.
        num_samples: Draws from the guide per example.
        seed: The seed of all draws.
        out: The folder to write to.
        made_by: Versions and commit.
    """

    runs: Mapping[str, TrainedRun]
    rows: Mapping[str, Tensor]
    num_samples: int
    seed: int
    out: Path
    made_by: Mapping[str, str | None]

    def write(self, reports: Sequence[ComparisonReport]) -> None:
        """Replace the folder by the records and figures of reports, and print them.

        Raises:
            OSError: As `write_reports`.
        """
        figures = {name: file for each in reports for name, file in each.figures.items()}
        write_reports(self.out, figures, {each.name: each.record for each in reports})
        for each in reports:
            self._print(each.text)

    def evidence(self) -> ComparisonReport:
        """Compare log p(x) of the same examples.

        Raises:
            UndefinedCheckError: If a guide has no density.
            NotComparableError: As `check_comparable`.
        """
        for name, trained in self.runs.items():
            # Before any run is evaluated, which may take long.
            try:
                x = trained.x[:1].to(trained.device)
                check_density(trained.vae.guide, x, f"log p(x) of {name}")
            except NoDensityError as error:
                raise UndefinedCheckError(
                    f"log p(x) of {name} is not defined, because its guide has no density: "
                    "--only representation compares what codes are good for."
                ) from error
        data = self._check_comparable("log p(x)")
        differences = self.differences
        started = time.perf_counter()
        held_out, terms = [], {}
        with closing(Steps([*self.runs, "figures"], visible=True)) as step:
            for name, trained in self.runs.items():
                with step(name):
                    x = trained.x[self.rows[name]].to(trained.device)
                    weights = evaluate(
                        trained.vae, x, num_samples=self.num_samples, seed=self.seed
                    ).importance_weighting
                held_out.append(
                    HeldOut(
                        name,
                        weights.log_evidence,
                        weights.khat,
                        weights.num_samples,
                        weights.rounding,
                    )
                )
                terms[name] = weights.reconstruction, weights.kl
            with step("figures"):
                comparison = compare_models(held_out, leave_out_non_finite=True)
                points = rate_distortion_points(terms)
                files = {
                    "comparison.png": to_png(plot_model_comparison(comparison)),
                    "paired_differences.png": to_png(plot_paired_differences(comparison)),
                    "rate_distortion.png": to_png(plot_rate_distortion(points)),
                }
        summary, plane = comparison.summary(), rate_distortion_summary(points)
        record = {
            **self._header(differences),
            "comparison": summary,
            "rate_distortion": plane,
            "by_datum": by_datum(held_out, self.rows),
            "figures": sorted(files),
            "seconds": {"total": time.perf_counter() - started, "steps": step.seconds},
            **self.made_by,
        }
        split = next(iter(self.runs.values())).split
        report = paired_report(comparison, data=f"{split} {nouns()} of {data}")
        readings = [line for each in (summary, plane) for line in wrap(each["reading"], "  ")]
        text = "\n".join(["", report, insert_run("\n".join(readings), "RUN")])
        return ComparisonReport("comparison.json", record, files, text)

    def representation(
        self,
        against: str | None,
        number: int | None,
        *,
        data_root: Path | None = None,
        trust_model_file: bool = False,
    ) -> ComparisonReport:
        """Measure what the codes are good for.

        Args:
            against: The name or path of foreign data.
            number: The number of foreign examples; None for all.
            data_root: The folder of data sets; None for the default.
            trust_model_file: As in `load`.

        Raises:
            ValueError: If the runs are not comparable.
        """
        data = self._check_comparable("codes")
        foreign = {
            name: foreign_of_run(
                trained, against, number, data_root=data_root, trust_model_file=trust_model_file
            )
            for name, trained in self.runs.items()
        }
        self._print(f"{next(iter(self.runs.values())).split} {nouns()} of {data}")
        differences = self.differences
        started = time.perf_counter()
        sections: dict[str, SectionResult] = {}
        seconds: dict[str, float] = {}
        with closing(Steps([*self.runs], visible=True)) as step:
            for name, trained in self.runs.items():
                begun = time.perf_counter()
                with step(name):
                    subject = subject_of_run(
                        trained,
                        self.rows[name],
                        num_samples=self.num_samples,
                        seed=self.seed,
                        step=Steps(),
                        foreign=foreign[name],
                        report=self._print,
                    )
                    sections[name] = SECTIONS["representation"].run("representation", subject)
                seconds[name] = time.perf_counter() - begun
        found = side_by_side(sections)
        files = {f"{key}.png": to_png(figure) for key, figure in found.figures.items()}
        record = {
            **self._header(differences),
            "measures": found.measures,
            "representation": {name: section.record for name, section in sections.items()},
            "figures": {f"{key}.png": caption for key, caption in found.captions.items()},
            "seconds": {"total": time.perf_counter() - started, "runs": seconds},
            **self.made_by,
        }
        text = "\n".join(["", *found.table(WIDTH)])
        return ComparisonReport("representation.json", record, files, text)

    def _header(self, differences: Mapping[str, Any]) -> dict[str, Any]:
        headers = {
            name: diagnosis_header(
                trained,
                n=len(self.rows[name]),
                num_samples=self.num_samples,
                seed=self.seed,
            )
            for name, trained in self.runs.items()
        }
        return {"runs": headers, "differences": differences}

    def _check_comparable(self, what: str) -> str:
        """The name of the data that all runs share.

        Raises:
            NotComparableError: As `check_comparable`.
        """
        set_noun(next(iter(self.runs.values())).data.dataset.noun)
        first, *others = (
            data_record(
                name,
                trained.data,
                trained.x[self.rows[name]],
                split=trained.split,
                given_total=getattr(trained.vae.likelihood, "given_total", False),
            )
            for name, trained in self.runs.items()
        )
        check_comparable(first, others, what=what)
        return first.data

    @cached_property
    def differences(self) -> dict[str, dict[str, Any]]:
        """The options and facts in which the runs differ, which are printed once."""
        differences = run_differences(
            {name: trained.vae.configuration for name, trained in self.runs.items()},
            {name: training_summary(trained) for name, trained in self.runs.items()},
        )
        self._print("\n".join(differences_report(differences, [*self.runs], width=WIDTH)))
        return differences

    def _print(self, text: str) -> None:
        print(text, flush=True)  # noqa: T201 - the report of a script


def by_datum(held_out: Sequence[HeldOut], rows: Mapping[str, Tensor]) -> dict[str, Any]:
    """log p(x) of each example under each run, in nats, with the example's row in the split."""
    return {
        "row": next(iter(rows.values())).tolist(),
        "log_evidence": {each.name: to_jsonable(each.log_evidence) for each in held_out},
    }


def rate_distortion_points(
    terms: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> list[RateDistortion]:
    """Rate and distortion by run, on the examples for which both are finite in all runs."""
    finite = np.all([np.isfinite(each).all(0) for each in terms.values()], axis=0)
    return [RateDistortion.of(name, r[finite], kl[finite]) for name, (r, kl) in terms.items()]


def training_summary(trained: TrainedRun) -> dict[str, Any]:
    """The length of a run's training and its data."""
    state = load_checkpoint(trained.directory.checkpoint)
    contract = trained.vae.contract
    rows = {"rows": contract.digests["train"]} if "train" in contract.digests else {}
    return {
        "epochs trained": len(state["history"]),
        "steps trained": state["step"],
        **({} if state["best"] is None else {"best epoch": state["best_epoch"]}),
        "parameters": sum(parameter.numel() for parameter in trained.vae.parameters()),
        "split rule": contract.split_rule,
        "training rows": contract.sizes["train"],
        "digest of training rows": digest(rows)[:8],
    }


def run_names(paths: Sequence[Path]) -> list[str]:
    """Distinct names of runs: the directory's name, or the path below the common parent.

    Raises:
        ValueError: If a run is given twice.
    """
    counts = Counter(path.resolve() for path in paths)
    for path in paths:
        if counts[path.resolve()] > 1:
            raise ValueError(f"{path} is given twice: give each run once.")
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    shared = os.path.commonpath([path.resolve() for path in paths])
    return [str(path.resolve().relative_to(shared)) for path in paths]


def check_output_dir(out: Path) -> Path:
    """Make sure that a directory is missing, empty, or holds an older comparison only.

    Raises:
        ValueError: If it holds anything else.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a directory, got {out}.")
    entries = list(out.iterdir()) if out.exists() else []
    for entry in entries:
        known = entry.suffix in (".json", ".png") or entry.name == "report.html"
        if not (entry.is_file() and known):
            raise ValueError(
                f"--out {out} contains {entry.name}, which is not of a comparison; choose an "
                "empty directory."
            )
    if entries and not any((out / record).exists() for record in RECORDS):
        raise ValueError(f"--out {out} must be empty, or hold an older comparison.")
    return out
