"""Score each row of data by a trained VAE: log p(x), its ELBO, and how typical it is.

`python scripts/score.py RUN` scores the run's own test data, into RUN/scores.csv. `--data FILE`
scores other data, given as for `scripts/svi_train.py` and prepared like the run's own. Rows are
read, scored and written some at a time: memory does not grow with their number if they stay on
disk, as a `.npy` does with `--data.memory-map true`.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.row_files import ROWS, Rows, write_rows
from pyro_vae.cli import (
    Parser,
    at_least,
    check_output,
    exit_process,
    in_one_line,
    open_run,
    run_program,
)
from pyro_vae.data.nouns import noun, nouns, set_noun
from pyro_vae.evidence import RowScores, fixed_rows, typicality, undefined_data
from pyro_vae.evidence.row_scores import RowScorer, reconstruction_errors
from pyro_vae.log_densities import check_density
from pyro_vae.rng import as_floats
from pyro_vae.runs.result_cache import ResultCache, code_hash
from pyro_vae.runs.run_directory import RunDirectory, provenance
from pyro_vae.runs.trained_run import TrainedRun, labels_of, run_data
from pyro_vae.statistics import MINIMUM_SAMPLES, khat_threshold

SPLITS = ("test", "validation", "train")
SUFFIXES = (".csv", ".parquet", ".nc")
# p-values below this are counted on the screen.
UNTYPICAL = 0.05
# The rows with the lowest log p(x) that are named.
NAMED = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(parser(), run, arguments, stopped="nothing was written")


def parser() -> Parser:
    """The options."""
    options = Parser(
        "score.py",
        "score.py RUN [options]",
        __doc__,
        "--data NAME, or a path, and --data.OPTION: other data than the run's, with the options "
        "of svi_train.py; `svi_train.py --data NAME --help` lists them. Files are not split: "
        "every row gets a score. The page docs/scores.md explains the columns.",
        takes_data=True,
    )
    add = options.add_argument
    add("run", metavar="RUN", type=Path, help="The run directory.")
    add("--split", choices=SPLITS, default="test", help="The data. Default: test.")
    add(
        "--samples",
        type=at_least(1),
        metavar="K",
        default=1000,
        help="Draws from the guide, the same for all rows. Default: 1000.",
    )
    add(
        "--reference",
        choices=("train", "validation"),
        default="train",
        help="The run's own data whose log p(x) a row's is compared with, for its typicality. "
        "Default: train.",
    )
    add(
        "--reference-rows",
        type=at_least(0),
        metavar="N",
        default=1000,
        help="How many of them, always the same; 0 for no typicality. Default: 1000.",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"The file, {', '.join(SUFFIXES)}. Default: RUN/scores.csv, or RUN/NAME-scores.csv "
        "of other data.",
    )
    add("--overwrite", action="store_true", help="Replace an existing file.")
    options.add_common_options()
    return options


def run(options: argparse.Namespace) -> None:
    """Check everything, then score and write."""
    pyro.enable_validation(True)
    made_by = provenance()
    out = options.out
    if out is None and not options.data and options.run.is_dir():
        out = RunDirectory(options.run).scores
    if out is not None:
        check_output(out, SUFFIXES, overwrite=options.overwrite)
    trained = open_run(options)
    if out is None:
        # Scores of other data go beside those of the run's own.
        out = trained.directory.path / f"{trained.prefix}scores.csv"
        check_output(out, SUFFIXES, overwrite=options.overwrite)
    dataset = trained.data.dataset
    n = len(getattr(dataset, options.split))
    if n == 0:
        raise ValueError(f"the {options.split} split of {dataset.name} holds no data.")
    first = next(blocks(trained, options.split))[1]
    check_density(trained.vae.guide, first, f"log p(x) of {options.run}")
    set_noun(dataset.noun)
    print(f"{trained.data.description}\n{options.run}/", flush=True)
    if "anew at each visit" in trained.data.description:
        print(f"here each {noun()} is drawn once, with a fixed seed")
    for note in dataset.notes if options.data else ():
        print(note)
    if options.data and isinstance(dataset.test, Tensor):
        overlap = trained.vae.contract.training_overlap(dataset.test)
        print(end=f"{overlap}\n" if overlap else "")
    scorer = RowScorer(
        trained.vae,
        num_samples=options.samples,
        seed=options.seed,
        expected_rows=n + options.reference_rows,
    )
    reference = reference_scores(trained, scorer, options)
    summary = Summary(options.samples, n)
    metadata = {
        **trained.header(),
        "run": str(options.run.resolve()),
        "preparation": trained.data.description,
        "num_samples": options.samples,
        "seed": options.seed,
        "reference": options.reference,
        "reference_rows": 0 if reference is None else len(reference),
        **made_by,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=n, desc="scoring", unit=noun()) as bar:
        scorer.advance = bar.update
        columns = scored_blocks(trained, scorer, reference, summary)
        write_rows(out, StreamedRows.of_blocks(columns, n, metadata))
    print("\n".join(summary.lines()))
    print(f"\n{n:,} scores are in {out}")
    print(reading_hint(out))


def reference_scores(
    trained: TrainedRun, scorer: RowScorer, options: argparse.Namespace
) -> np.ndarray | None:
    """log p(x) of some of the run's own data, from the cache if they are there; None without."""
    split, size = options.reference, trained.vae.contract.sizes[options.reference]
    rows = fixed_rows(size, options.reference_rows)
    if len(rows) == 0:
        return None
    identity = {
        # The checkpoint holds the digests of the data.
        "checkpoint": trained.checkpoint_hash,
        "code": code_hash(),
        "device": trained.device.type,
        "num_samples": options.samples,
        "seed": options.seed,
        "split": split,
    }

    def compute(part: Tensor) -> RowScores:
        own = trained
        if options.data:
            data = run_data(trained.vae, trained.directory.path, options.data_root)
            own = replace(trained, data=data)
        found = []
        with tqdm(total=len(part), desc=f"scoring {split} data", unit=noun()) as bar:
            scorer.advance = bar.update
            for place, x in blocks(own, split):
                here = part[(part >= place.start) & (part < place.stop)]
                found.append(x[here - place.start])
            return scorer(torch.cat(found))

    try:
        ((_, scores, _),) = ResultCache(trained.directory.result_cache).map_chunks(
            "reference", RowScores, [rows], compute, lambda part: {**identity, "rows": part}
        )
    except ValueError as error:
        if not options.data:
            raise
        print(f"typicality: left out. {in_one_line(error)}")
        return None
    known = scores.log_p[~np.isnan(scores.log_p)]
    if len(known) == 0:
        print(f"typicality: left out. log p(x) is undefined for the {split} data.")
        return None
    print(
        f"typicality: beside log p(x) of {len(rows):,} of {size:,} {split} {nouns()}, always the "
        f"same, with the median {np.median(known):.2f}",
        flush=True,
    )
    return known


def blocks(trained: TrainedRun, split: str) -> Iterator[tuple[slice, Tensor]]:
    """The rows of a split as floats on the device, some at a time, with their places in it."""
    start = 0
    for block in trained.data.fixed_blocks(split):
        x = as_floats(block.to(trained.device))
        yield slice(start, start + len(x)), trained.joined(x, split, start)
        start += len(x)


@dataclass(frozen=True)
class StreamedRows(Rows):
    """Columns that are computed as they are written, once."""

    length: int = 0
    stream: Iterator[dict[str, np.ndarray]] = field(default_factory=lambda: iter(()))

    @classmethod
    def of_blocks(
        cls, stream: Iterator[dict[str, np.ndarray]], length: int, metadata: dict[str, Any]
    ) -> "StreamedRows":
        """The rows of consecutive blocks, the first of which names the columns."""
        first = next(stream)
        return cls(
            arrays=first,
            columns={name: (name,) for name in first},
            coordinates=tuple(n for n in first if n.startswith(("row", "label", "factor_"))),
            metadata=metadata,
            length=length,
            stream=itertools.chain([first], stream),
        )

    def __len__(self) -> int:
        return self.length

    def blocks(self, *names: str) -> Iterator[dict[str, np.ndarray]]:
        """Consecutive rows of all columns."""
        yield from self.stream


def scored_blocks(
    trained: TrainedRun, scorer: RowScorer, reference: np.ndarray | None, summary: "Summary"
) -> Iterator[dict[str, np.ndarray]]:
    """The columns of the file, some rows at a time, which are counted in the summary."""
    data, split = trained.data, trained.split
    numbers = data.dataset.row_numbers(split)

    def columns(place: slice, x: Tensor) -> dict[str, np.ndarray]:
        scores = scorer(x)
        names = data.dataset.names_of_rows(numbers[place])
        labels = labels_of(data, split, place)
        n = len(x)
        found = {
            "row": numbers[place],
            **({} if names is None else {"row_name": names}),
            "log_p": scores.log_p,
            "log_p_se": scores.log_p_se,
            "khat": np.full(n, np.nan) if scores.khat is None else scores.khat,
            "ess": scores.ess,
            "elbo": scores.elbo,
            "reconstruction": scores.reconstruction,
            "kl": scores.kl,
            "reconstruction_error": reconstruction_errors(trained.vae, x),
        }
        if reference is not None:
            found["typicality"] = typicality(scores.log_p, reference)
        if labels is not None and labels.ndim == 1:
            words = data.dataset.label_names
            # A missing label is -1.
            found["label"] = np.array([*words, ""])[labels] if words else labels
        elif labels is not None:
            named = data.dataset.label_names
            known = named if len(named) == labels.shape[1] else range(labels.shape[1])
            found |= {f"factor_{name}": f for name, f in zip(known, labels.T, strict=True)}
        return found

    held: list[dict[str, np.ndarray]] = []
    for place, x in blocks(trained, split):
        held.append(columns(place, x))
        summary.add(held[-1])
        if place.stop == len(numbers) or len(held) * len(x) >= ROWS:
            yield {name: np.concatenate([each[name] for each in held]) for name in held[0]}
            held = []


@dataclass
class Summary:
    """What the screen shows of all rows, from one block after another."""

    num_samples: int
    n: int
    total: float = 0.0
    finite: int = 0
    high_khats: int = 0
    untypical: int | None = None
    undefined: list[np.ndarray] = field(default_factory=list)
    # log p(x) and the row.
    lowest: list[tuple[float, int]] = field(default_factory=list)

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Count a block of rows."""
        log_p, row = columns["log_p"], columns["row"]
        defined = np.isfinite(log_p)
        if not defined.all():
            self.undefined.append(row[~defined])
        log_p, row = log_p[defined], row[defined]
        self.total += float(log_p.sum())
        self.finite += len(log_p)
        if self.num_samples >= MINIMUM_SAMPLES:
            self.high_khats += int((columns["khat"] > khat_threshold(self.num_samples)).sum())
        if "typicality" in columns:
            low = int((columns["typicality"] < UNTYPICAL).sum())
            self.untypical = (self.untypical or 0) + low
        order = np.argsort(log_p, kind="stable")[:NAMED]
        pairs = zip(log_p[order].tolist(), row[order].tolist(), strict=True)
        self.lowest = sorted([*self.lowest, *pairs])[:NAMED]

    def lines(self) -> Iterator[str]:
        """The numbers in words."""
        if self.undefined:
            yield f"{undefined_data(np.concatenate(self.undefined), self.n, nouns())}."
        if self.finite:
            yield f"mean log p(x): {self.total / self.finite:.3f} nats per {noun()}"
        if self.num_samples >= MINIMUM_SAMPLES:
            threshold, share = khat_threshold(self.num_samples), self.high_khats / self.n
            says = ", whose log p(x) is too low by an unknown amount" if self.high_khats else ""
            yield f"k-hat: above {threshold:.2f} for {share:.1%} of the {nouns()}{says}"
        if self.untypical is not None:
            yield (
                f"typicality: below {UNTYPICAL} for {self.untypical / self.n:.1%} of the "
                f"{nouns()}; {UNTYPICAL:.0%} is expected of {nouns()} like the reference"
            )
        if self.lowest:
            named = ", ".join(f"{row} ({log_p:.1f})" for log_p, row in self.lowest)
            yield f"lowest log p(x): row{'' if len(self.lowest) == 1 else 's'} {named}"


def reading_hint(out: Path) -> str:
    """A line of Python that reads the file."""
    if out.suffix == ".nc":
        return f'read them: scores = xarray.open_dataset("{out}").to_dataframe()'
    return f'read them: scores = pandas.read_{out.suffix[1:]}("{out}")'


if __name__ == "__main__":
    exit_process(main())
