"""How much evidence there is for a trained VAE: log p(x), how well it is known, and what the guide costs.

`python scripts/evaluate.py RUN` takes a run directory of `scripts/svi_train.py` and estimates log p(x)
by importance weighting, with its IWAE-k curve, and by annealed importance sampling, and bounds it from
both sides on simulated data. Results go to RUN/evaluation/. They are kept chunk by chunk: a program that
was stopped, and is called again in the same way, goes on where it was and gives the same numbers.

`--data FILE` evaluates new data instead, row by row: a score of each row goes to
RUN/evaluation/NAME-scores.csv.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor
from tqdm import tqdm

from pyro_vae.cli.common import (
    Parser,
    at_least,
    chosen_device,
    in_one_line,
    number_or_all,
    run_program,
    trained_run,
)
from pyro_vae.data import PreparedData
from pyro_vae.data.nouns import noun, nouns, set_noun
from pyro_vae.data.sparse_rows import SparseRows
from pyro_vae.evidence import (
    AnnealedImportanceSampling,
    ImportanceWeighting,
    InferenceGaps,
    TwoSidedCheck,
    annealed_importance_sampling,
    defined_rows,
    importance_weighting,
    inference_gaps,
    refine_guide,
    two_sided_check,
    undefined_data,
)
from pyro_vae.log_densities import check_density
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.runs.model_files import MODEL_FAMILIES
from pyro_vae.runs.other_data import name_in_file, taken_data_options
from pyro_vae.runs.provenance import provenance
from pyro_vae.runs.result_cache import Kept, code_hash, digest, to_arrays, write_arrays
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.statistics import standard_error
from pyro_vae.training.checkpoint import write_atomically

METHODS = ("importance_weighting", "annealing", "two_sided", "gaps")
# What the bare command does; a model that has no annealing loses that, and no more.
USUAL = ("importance_weighting", "annealing", "two_sided")
SPLITS = ("test", "validation", "train")
# A chunk is what a stopped program loses at most. On a GPU, few data would leave most of it idle.
DRAWS_AT_A_TIME = 250_000
# Chains x data x elements of a datum: about a minute with the usual 500 temperatures.
CHAINED_AT_A_TIME = {"cpu": 102_400, "cuda": 2_048_000}

# How a person says the names of a summary; each is followed by its standard error, if it has one.
LABELS = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "reconstruction": "reconstruction, E_q log p(x|z)",
    "kl": "KL(q(z|x) || p(z))",
    "bits_per_dim": "bits per dimension",
    "ess_median": "effective draws, median",
    "khat_share_above": "k-hat above threshold",
    "last_doubling": "gained by the last doubling of K",
    "above_importance_weighting": "above importance weighting",
    "acceptance": "proposals accepted",
    "ess": "effective chains",
    "shortfall": "shortfall to expect",
    "lower": "lower bound",
    "upper": "upper bound",
    "gap": "upper - lower",
    "elbo_amortised": "ELBO of the encoder's guide",
    "elbo_local": "ELBO, its own guide each",
    "approximation": "approximation gap, the family's",
    "amortisation": "amortisation gap, the encoder's",
    "inference": "inference gap, both",
    "last_third": "gained by the last third of the steps",
}
FORMS = {
    "bits_per_dim": ".4f",
    "ess_median": ".0f",
    "ess": ".1f",
    "khat_share_above": ".1%",
    "acceptance": ".1%",
}
# What is a setting, and stands in the title.
TITLED = ("n", "trust", "num_samples", "num_chains", "num_temperatures", "leapfrog_steps", "steps")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    words = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
    # Which options there are depends on the data: only their own parser knows.
    data, others = taken_data_options(words)

    def evaluate(options: argparse.Namespace) -> None:
        run(options, data)

    return run_program(
        parser(), evaluate, others, stopped="the same command goes on with the chunk it was at"
    )


def parser() -> Parser:
    """The options."""
    options = Parser(
        prog="evaluate.py",
        usage="evaluate.py RUN [options]",
        description=str(__doc__).partition("\n")[0],
        epilog="--data NAME, or a path, and --data.OPTION: other data than the run's, as svi_train.py "
        "takes them; `svi_train.py --data NAME --help` lists the options. Files are not split: every row "
        "gets a score.",
        allow_abbrev=False,
    )
    add = options.add_argument
    whole, some = at_least(1), at_least(0)
    add("run", metavar="RUN", type=Path, help="The run directory.")
    add("--split", choices=SPLITS, default="test", help="The data. Default: test.")
    add(
        "--images",
        type=number_or_all,
        default=argparse.SUPPRESS,
        metavar="N|all",
        help="So many fixed data for importance weighting; fewer are among more. Default: 1000; all of a "
        "file given with --data.",
    )
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=f"Which of {', '.join(METHODS)}. Default: {' '.join(USUAL)}, as far as the model has them; "
        "importance_weighting for other data.",
    )
    add(
        "--samples",
        type=whole,
        metavar="N",
        default=1000,
        help="Draws K for each datum. Default: 1000.",
    )
    add(
        "--annealed-images",
        type=number_or_all,
        default=100,
        metavar="N|all",
        help="So many of the data for annealing and gaps. Default: 100.",
    )
    add(
        "--simulated",
        type=whole,
        metavar="N",
        default=50,
        help="Data for the two-sided check. Default: 50.",
    )
    add(
        "--chains", type=whole, metavar="N", default=16, help="Chains for each datum. Default: 16."
    )
    add(
        "--temperatures",
        type=whole,
        metavar="N",
        default=500,
        help="Steps from the guide to the joint density. Default: 500.",
    )
    add(
        "--leapfrog-steps",
        type=whole,
        metavar="N",
        default=10,
        help="Of a transition of the chains. Default: 10.",
    )
    add(
        "--refine-steps",
        type=some,
        metavar="N",
        default=0,
        help="Fit the guide to each datum by so many steps, for importance weighting and as the start of "
        "annealing; simulated data keep the encoder's. Default: 0, none.",
    )
    add(
        "--gap-steps",
        type=at_least(3),
        metavar="N",
        default=1000,
        help="Steps of each datum's own guide in gaps. Default: 1000.",
    )
    options.add_common_options()
    add("--again", action="store_true", help="Forget what is kept of these methods.")
    return options


@dataclass(frozen=True)
class Evaluating:
    """A trained run and its data, ready to be evaluated.

    Args:
        options: The command line's.
        directory: The run's.
        vae: The trained program, on the device.
        data: Its data.
        x: The split, on the CPU; sparse if the data are.
        order: The split's rows in a fixed order: fewer data are the first of more.
        device: Where to compute.
        identity: What every number depends on: checkpoint, configuration, code, device.
        made_by: Versions and commit.
        split: The split's name; "new" for data that are not split.
        prefix: What the names of results begin with: of other data than the run's, their name.
    """

    options: argparse.Namespace
    directory: RunDirectory
    vae: Any
    data: PreparedData
    x: Tensor | SparseRows
    order: Tensor
    device: torch.device
    identity: dict[str, Any]
    made_by: dict[str, str | None]
    split: str
    prefix: str = ""

    def first(self, number: int | None) -> Tensor:
        """So many rows, or all that are evaluated."""
        order = self.order[: self.options.images]
        return order[:number]

    def batch(self, rows: Tensor) -> Tensor:
        """The data of these rows, as floats on the device."""
        return as_floats(self.x[rows].to(self.device))

    def guided(self, x: Tensor, seed: int) -> PyroModule:
        """The program, its guide fitted to each datum if that was asked for."""
        steps = self.options.refine_steps
        return refine_guide(self.vae, x, steps=steps, seed=seed) if steps else self.vae

    def in_chunks(
        self,
        method: str,
        kind: Any,
        parts: Sequence[Tensor],
        settings: dict[str, Any],
        make: Callable[[Tensor, int], Any],
    ) -> tuple[Any, float]:
        """A method's result, from the chunks that are kept and those that are made; and its seconds.

        Args:
            method: Its name.
            kind: Its result's class.
            parts: The rows of each chunk, or the numbers of simulated data.
            settings: The method's own options, without the seed.
            make: Gives the result of a chunk from its rows and its seed.
        """
        kept, results, total = Kept(self.directory.kept), [], 0.0
        size = sum(len(part) for part in parts)
        with tqdm(total=size, desc=method.replace("_", " "), unit=noun()) as bar:
            for part in parts:
                simulated = method == "two_sided"
                depends_on = {
                    **self.identity,
                    "method": method,
                    **settings,
                    "seed": self.options.seed,
                    "split": self.split,
                    "rows": part,
                    "x": self.x[:1] if simulated else self.x[part],
                }
                name = f"{method}-{digest(depends_on)}"
                found = kept.read(name, kind, len(part))
                if found is None:
                    # Options meet the same noise, methods each their own.
                    own = {"method": method, "seed": self.options.seed, "rows": part}
                    seed = int(digest(own)[:15], 16)
                    started = time.perf_counter()
                    with evaluation_mode(self.vae, seed=seed):
                        result = make(part, seed)
                    found = result, time.perf_counter() - started
                    kept.write(name, *found)
                results.append(found[0])
                total += found[1]
                bar.update(len(part))
        return kind.concatenate(results), total


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Check everything, then evaluate; each method's results are written once they are there."""
    usual = USUAL[:1] if words else USUAL
    if "gaps" in (options.methods or usual) and options.samples < 2:
        raise ValueError(f"--samples must be at least 2 for gaps, got {options.samples}.")
    pyro.enable_validation(True)
    made_by = provenance()
    subject = prepared(options, made_by, words)
    set_noun(subject.data.dataset.noun)
    print(f"{subject.data.description}\n{options.run}/")
    for note in subject.data.dataset.notes if words else ():
        print(note)
    if words and (note := subject.vae.contract.trained_on(subject.data.dataset.test)):
        print(note)
    name_undefined(subject)
    if options.again:
        Kept(subject.directory.kept).forget(options.methods or usual)
    results: dict[str, Any] = {}
    for method in METHODS:
        if method not in (options.methods or usual):
            continue
        try:
            result, seconds, rows = EVALUATIONS[method](subject, results)
        except ValueError as error:
            # Asked for by name, it is an error; otherwise the model just has no such thing.
            if options.methods or method == "importance_weighting":
                raise
            print(f"\n{method.replace('_', ' ')}: left out. {in_one_line(error)}")
            continue
        results[method] = result
        conclude(subject, method, results, seconds, rows)
    figure(subject, results)
    print(f"\nnumbers, arrays and figures are in {subject.directory.evaluation}/")


def name_undefined(subject: Evaluating) -> None:
    """Say in one line which data have no log p(x); Pyro's validation would end the program for them."""
    rows = subject.first(None)
    parts = [defined_rows(subject.vae, subject.batch(part)) for part in rows.split(10_000)]
    undefined = rows.numpy()[~np.concatenate(parts)]
    if len(undefined):
        pyro.enable_validation(False)
        print(f"{undefined_data(undefined, len(rows), f'{subject.split} {nouns()}')}.")


def prepared(
    options: argparse.Namespace, made_by: dict[str, str | None], words: Sequence[str]
) -> Evaluating:
    """The run and its data, or those that words name, checked before anything is written.

    Raises:
        ValueError: As `trained_run`, CUDA is asked for and absent, or the guide has no density.
    """
    trained = trained_run(
        options.run,
        options.split,
        device=chosen_device(options.device),
        data_root=options.data_root,
        trust_model_file=options.trust_model_file,
        words=words,
    )
    dataset = trained.data.dataset
    if not hasattr(options, "images"):
        options.images = 1000 if dataset.is_split else None
    # Other data are evaluated beside the run's own.
    prefix = f"{name_in_file(dataset.name)}-" if words else ""
    configuration = trained.vae.configuration
    check_density(trained.vae.guide, trained.x[:1], f"log p(x) of {options.run}")
    return Evaluating(
        options,
        trained.directory,
        trained.vae,
        trained.data,
        trained.x,
        trained.order,
        trained.device,
        {
            "checkpoint": trained.checkpoint_hash,
            # The data themselves count, not where they lie; a model file's hash is in the checkpoint.
            "parts": {name: configuration[name] for name in (*MODEL_FAMILIES, "latent_dim")},
            "code": code_hash(),
            "program": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
            "device": trained.device.type,
        },
        made_by,
        options.split if dataset.is_split else "new",
        prefix,
    )


Found = tuple[Any, float, Tensor | None]


def by_importance_weighting(subject: Evaluating, results: dict[str, Any]) -> Found:
    """log p(x) by K draws from the guide, and the IWAE-k curve."""
    options, rows = subject.options, subject.first(None)

    def make(part: Tensor, seed: int) -> ImportanceWeighting:
        x = subject.batch(part)
        vae = subject.guided(x, seed)
        return importance_weighting(vae.model, vae.guide, x, num_samples=options.samples)

    parts = rows.split(drawn_at_a_time(subject))
    settings = {"samples": options.samples, "refine_steps": options.refine_steps}
    name = "importance_weighting"
    return *subject.in_chunks(name, ImportanceWeighting, parts, settings, make), rows


def by_annealing(subject: Evaluating, results: dict[str, Any]) -> Found:
    """log p(x) by chains from the guide to the joint density."""
    rows = subject.first(subject.options.annealed_images)
    settings = chains(subject)

    def make(part: Tensor, seed: int) -> AnnealedImportanceSampling:
        x = subject.batch(part)
        return annealed_importance_sampling(subject.guided(x, seed), x, seed=seed, **settings)

    parts = rows.split(chained_at_a_time(subject))
    depends = {**settings, "refine_steps": subject.options.refine_steps}
    return *subject.in_chunks("annealing", AnnealedImportanceSampling, parts, depends, make), rows


def by_two_sides(subject: Evaluating, results: dict[str, Any]) -> Found:
    """log p(x) of simulated data from below and above."""
    settings = chains(subject)
    like_x = subject.batch(torch.zeros(1, dtype=torch.long))

    def make(part: Tensor, seed: int) -> TwoSidedCheck:
        return two_sided_check(subject.vae, like_x, num_data=len(part), seed=seed, **settings)

    numbers = torch.arange(subject.options.simulated)
    parts = numbers.split(chained_at_a_time(subject))
    return *subject.in_chunks("two_sided", TwoSidedCheck, parts, settings, make), None


def by_gaps(subject: Evaluating, results: dict[str, Any]) -> Found:
    """What the guide costs, and why: its family, or the encoder."""
    options, rows = subject.options, subject.first(subject.options.annealed_images)
    annealed = results.get("annealing")
    if annealed is not None and not np.isfinite(annealed.log_evidence).all():
        annealed = None
    evidence = (
        None if annealed is None else dict(zip(rows.tolist(), annealed.log_evidence, strict=True))
    )

    def known(part: Tensor) -> np.ndarray | None:
        return None if evidence is None else np.array([evidence[row] for row in part.tolist()])

    def make(part: Tensor, seed: int) -> InferenceGaps:
        return inference_gaps(
            subject.vae,
            subject.batch(part),
            log_evidence=known(part),
            steps=options.gap_steps,
            num_samples=options.samples,
            seed=seed,
        )

    settings = {
        "steps": options.gap_steps,
        "samples": options.samples,
        "log_evidence": None if annealed is None else annealed.log_evidence,
    }
    parts = rows.split(drawn_at_a_time(subject))
    return *subject.in_chunks("gaps", InferenceGaps, parts, settings, make), rows


EVALUATIONS: dict[str, Callable[[Evaluating, dict[str, Any]], Found]] = {
    "importance_weighting": by_importance_weighting,
    "annealing": by_annealing,
    "two_sided": by_two_sides,
    "gaps": by_gaps,
}


def chains(subject: Evaluating) -> dict[str, Any]:
    """The settings of the chains."""
    options = subject.options
    return {
        "num_chains": options.chains,
        "num_temperatures": options.temperatures,
        "leapfrog_steps": options.leapfrog_steps,
    }


def drawn_at_a_time(subject: Evaluating) -> int:
    """The number of data in a chunk of draws from the guide."""
    return min(1000, max(1, DRAWS_AT_A_TIME // subject.options.samples))


def chained_at_a_time(subject: Evaluating) -> int:
    """The number of data in a chunk of chains."""
    elements = subject.options.chains * max(1, math.prod(subject.x.shape[1:]))
    return max(1, CHAINED_AT_A_TIME[subject.device.type] // elements)


def conclude(
    subject: Evaluating, method: str, results: dict[str, Any], seconds: float, rows: Tensor | None
) -> None:
    """Write <method>.json and <method>.npz, and print what a person wants to know.

    The JSON is flat: what the number was made of and by, the result's `summary()`, and its sentence. In
    the npz are the result's fields, under the names that its class documents, and `rows`, the row of
    the split that each datum is.
    """
    options, configuration, result = subject.options, subject.vae.configuration, results[method]
    summary = {**result.summary(), "trust": result.trust()}
    if method == "annealing" and "importance_weighting" in results:
        # Of the same data: they are the first of those that were importance weighted.
        n = len(result.log_evidence)
        gain = result.log_evidence - results["importance_weighting"].log_evidence[:n]
        summary["above_importance_weighting"] = float(gain.mean())
        summary["above_importance_weighting_se"] = standard_error(gain)
    if (density := summary.get("log_evidence")) is not None:
        summary["bits_per_dim"] = subject.data.bits_per_dim(density)
    record = {
        "method": method,
        "data": subject.data.dataset.name,
        "binarisation": subject.data.binarisation,
        "split": subject.split if rows is not None else "simulated",
        **{part: configuration[part]["name"] for part in ("prior", "likelihood", "posterior")},
        "latent_dim": configuration["latent_dim"],
        **summary,
        "refine_steps": 0 if method in ("two_sided", "gaps") else options.refine_steps,
        "seed": options.seed,
        "seconds": round(seconds, 3),
        "device": subject.device.type,
        "checkpoint_sha256": subject.identity["checkpoint"],
        **subject.made_by,
    }
    record = {name: finite(value) for name, value in record.items()}
    folder = subject.directory.evaluation
    folder.mkdir(exist_ok=True)
    arrays = to_arrays(result) | ({} if rows is None else {"rows": rows.numpy()})
    write_arrays(folder / f"{subject.prefix}{method}.npz", arrays)
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / f"{subject.prefix}{method}.json", text.encode())
    print(table(method, record))
    if subject.prefix and method == "importance_weighting" and rows is not None:
        path = folder / f"{subject.prefix}scores.csv"
        write_atomically(path, scores(result, rows).encode())
        print(f"\nthe score of each row is in {path}")


def scores(result: ImportanceWeighting, rows: Tensor) -> str:
    """A line for each row in its order, as CSV: densities in nats."""
    columns = {
        "row": rows.numpy(),
        "log_evidence": result.log_evidence,
        "elbo": result.elbo,
        "reconstruction": result.reconstruction,
        "kl": result.kl,
        "ess": result.ess,
        "khat": np.full(len(rows), np.nan) if result.khat is None else result.khat,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    order = np.argsort(columns["row"])
    for values in zip(*(column[order] for column in columns.values()), strict=True):
        writer.writerow("" if np.isnan(value) else value for value in values)
    return text.getvalue()


def figure(subject: Evaluating, results: dict[str, Any]) -> None:
    """Draw the IWAE-k curve over the data that annealing has, too, or over all."""
    weighted, annealed = results.get("importance_weighting"), results.get("annealing")
    if weighted is None:
        return
    from analysis.elbo.evidence import plot_iwae_curve
    from analysis.plotting.style import to_png

    n = len(weighted.log_evidence) if annealed is None else len(annealed.log_evidence)
    drawn = plot_iwae_curve(
        weighted.curve_samples,
        weighted.curve[:, :n],
        None if annealed is None else annealed.log_evidence,
        None if annealed is None else annealed.num_chains,
    )
    name = f"{subject.prefix}iwae_curve.png"
    (subject.directory.evaluation / name).write_bytes(to_png(drawn))


def table(method: str, record: dict[str, Any]) -> str:
    """A method's numbers as a person reads them: nats per datum but for counts and shares."""
    settings = [
        f"{record[name]:,} {name.removeprefix('num_').replace('_', ' ')}"
        for name in TITLED
        if name not in ("n", "trust") and record.get(name) is not None
    ]
    if record["refine_steps"]:
        settings.append(f"guide refined by {record['refine_steps']:,} steps")
    title = (
        f"{method.replace('_', ' ')}: {record['n']:,} {record['split']} {nouns()} of {record['data']}, means in "
        f"nats per {noun()}; {', '.join(settings)}; {record['seconds']:.1f} s"
    )

    def value(name: str, form: str) -> str:
        return "not defined" if record[name] is None else format(record[name], form)

    names = list(record)
    # A result's own numbers are those between the model and the seed.
    own = names[names.index("latent_dim") + 1 : names.index("refine_steps")]
    rows = []
    for name in own:
        if name in TITLED or name.endswith("_se") or isinstance(record[name], str):
            continue
        error = record.get(f"{name}_se")
        rows.append(
            (
                LABELS.get(name, name.replace("_", " ")),
                value(name, FORMS.get(name, ".3f")),
                "" if error is None else f"+- {error:.3f}",
            )
        )
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"  {a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    wrapped = textwrap.wrap(title, 100, subsequent_indent="  ")
    sentence = textwrap.wrap(record["trust"], 98, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(["", *wrapped, *lines, *sentence])


def finite(value: Any) -> Any:
    """The value, or None if it is a number that JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
