"""Write the codes of data to a file: each example as the vector that a trained VAE makes of it.

`python scripts/encode.py RUN` writes those of the run's own data to RUN/codes.npz. Other data are
given as for `scripts/svi_train.py`, `--data mnist` or `--data my.npy`, and prepared like the run's
own.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from analysis.model_samples import embed_data, latent_site, to_array
from analysis.representation.codes import FORMATS, Codes
from pyro_vae.cli import Parser, exit_process, run_program, select_device
from pyro_vae.data import PreparedData
from pyro_vae.data.nouns import noun, set_noun
from pyro_vae.log_densities import distribution_at
from pyro_vae.rng import as_floats, evaluation_mode
from pyro_vae.runs.run_directory import RunDirectory, provenance
from pyro_vae.runs.trained_run import TrainedRun, split_data_options
from pyro_vae.training.checkpoint import write_atomically

SPLITS = ("train", "validation", "test")
# The split's name of data that are not split.
NEW = "new"
# Rows read and encoded at once; the noise of training data on disk depends on it.
ROWS_AT_A_TIME = 4096
# The seed of noise in data on disk, which is drawn when they are read.
SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    words = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
    # The options of data depend on the data: their own parser reads them.
    data, others = split_data_options(words)
    return run_program(
        parser(), lambda options: run(options, data), others, stopped="nothing was written"
    )


def parser() -> Parser:
    """The options."""
    options = Parser(
        "encode.py",
        "encode.py RUN [options]",
        __doc__,
        "--data NAME, or a path, and --data.OPTION: other data than the run's, with the options "
        "of svi_train.py; `svi_train.py --data NAME --help` lists them. Grey values for a "
        "likelihood of binary data are binarised as the run's were, once, with a fixed seed.",
    )
    add = options.add_argument
    add("run", metavar="RUN", type=Path, help="The run directory.")
    add("--split", choices=(*SPLITS, "all"), default="all", help="Which data. Default: all.")
    add("--scale", action="store_true", help="Also the standard deviations of q(z | x).")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"The file, {', '.join(FORMATS)}. Default: RUN/codes.npz, or RUN/NAME-codes.npz of "
        "other data.",
    )
    add("--overwrite", action="store_true", help="Replace an existing file.")
    options.add_common_options(seed=False)
    return options


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Check everything, encode, then write."""
    pyro.enable_validation(True)
    made_by = provenance()
    out = options.out if words else options.out or RunDirectory(options.run).codes
    if out is not None:
        check_output(out, overwrite=options.overwrite)
    trained = TrainedRun.open(
        options.run,
        "test" if options.split == "all" else options.split,
        device=select_device(options.device),
        data_root=options.data_root,
        trust_model_file=options.trust_model_file,
        words=words,
    )
    if out is None:
        # Codes of other data go beside those of the run's own.
        out = trained.directory.path / f"{trained.prefix}codes.npz"
        check_output(out, overwrite=options.overwrite)
    data, dataset = trained.data, trained.data.dataset
    if not dataset.is_split and options.split != "all":
        raise ValueError(
            f"--split must be all for {dataset.name}: a file given with --data is not split."
        )
    splits = SPLITS if options.split == "all" else (options.split,)
    splits = splits if dataset.is_split else ("test",)
    set_noun(dataset.noun)
    print(f"{data.description}\n{options.run}/", flush=True)
    for note in dataset.notes if words else ():
        print(note)
    if "anew at each visit" in data.description:
        print(
            f"here each {noun()} is drawn once, with a fixed seed: the codes are always the same"
        )
    metadata = {
        "run": str(options.run.resolve()),
        "checkpoint_sha256": trained.checkpoint_hash,
        "data": dataset.name,
        "preparation": data.description,
        "binarisation": data.binarisation,
        "split": options.split if dataset.is_split else NEW,
        "trained_on": trained.vae.configuration["data"]["name"],
        "seed": trained.vae.configuration["seed"],
        **made_by,
    }
    codes = encode(trained, splits, metadata, scale=options.scale)
    content = FORMATS[out.suffix](codes)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content)
    n, latent = codes.codes.shape
    others = [name for name in codes.arrays() if name not in ("codes", "metadata")]
    print(f"{n:,} codes of {latent} dimensions (float32; with {', '.join(others)}) are in {out}")
    print(reading_hint(out, codes))


def check_output(out: Path, *, overwrite: bool) -> None:
    """Make sure that a file may be written.

    Raises:
        ValueError: If its suffix is not in `FORMATS`, it exists and `overwrite` is false, or it is
            a directory.
    """
    if out.suffix not in FORMATS:
        raise ValueError(f"--out must end in {', '.join(FORMATS)}, got {out}.")
    if out.is_dir():
        raise ValueError(f"--out must be a file, got the directory {out}.")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already: --overwrite replaces it, another --out keeps it.")


def encode(
    trained: TrainedRun, splits: Sequence[str], metadata: dict[str, Any], *, scale: bool
) -> Codes:
    """The codes of these splits in turn, or in the order of the file they come from."""
    vae, dataset = trained.vae, trained.data.dataset
    sizes = {split: len(getattr(dataset, split)) for split in splits}
    codes, scales = [], []
    with tqdm(total=sum(sizes.values()), desc="encoding", unit=noun()) as bar:
        for split in splits:
            start = 0
            for rows in blocks(trained.data, split):
                x = trained.joined(rows.to(trained.device), split, start)
                start += len(rows)
                codes.append(embed_data(vae, x).astype(np.float32))
                if scale:
                    scales.append(scales_of(vae, x))
                bar.update(len(x))
    labels = [dataset.labels.get(split) for split in splits]
    known = [each for each in labels if each is not None]
    row = np.concatenate([dataset.row_numbers(split) for split in splits])
    of_file = bool(dataset.rows)
    order = np.argsort(row, kind="stable") if of_file else np.arange(len(row))
    names = list(sizes) if dataset.is_split else [NEW]
    return Codes(
        codes=np.concatenate(codes)[order],
        split=np.repeat(names, list(sizes.values()))[order],
        row=row[order],
        row_names=dataset.names_of_rows(row[order]),
        metadata={**metadata, "row": "in the file" if of_file else "in the split"},
        scale=np.concatenate(scales)[order] if scales else None,
        labels=torch.cat(known).numpy()[order] if len(known) == len(splits) else None,
        label_names=dataset.label_names,
    )


def blocks(data: PreparedData, split: str) -> Iterator[Tensor]:
    """The split in the likelihood's support, some rows at a time."""
    raw = getattr(data.dataset, split)
    if isinstance(raw, Tensor):
        yield from data.fixed(split).split(ROWS_AT_A_TIME)
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for start in range(0, len(raw), ROWS_AT_A_TIME):
            yield data.transform(raw[start : start + ROWS_AT_A_TIME])


def scales_of(vae: Any, x: Tensor) -> np.ndarray:
    """The standard deviation of q(z | x) in each dimension.

    Raises:
        ValueError: If the guide has none, or several latent sites.
    """
    if len(vae.latent_sites) > 1:
        raise ValueError(
            f"--scale needs one latent site, but {type(vae).__name__} has "
            f"{', '.join(map(repr, vae.latent_sites))}: one's scale depends on another's draw."
        )
    site = latent_site(vae)
    reason, scale = None, np.zeros(0, np.float32)
    with evaluation_mode(vae, seed=SEED):
        guide = distribution_at(poutine.trace(vae.guide).get_trace(as_floats(x)), site)
        try:
            scale = to_array(guide.stddev).reshape(len(x), -1).astype(np.float32)
        except (NotImplementedError, AttributeError) as error:
            reason = error
    # The scale of a point is 0, and that of heavy tails may be infinite.
    if not (np.isfinite(scale).all() and (scale > 0).any()):
        name = vae.configuration.get("posterior", {"name": type(guide).__name__})["name"]
        raise ValueError(f"--scale: the guide {name} has no standard deviation.") from reason
    return scale


def reading_hint(out: Path, codes: Codes) -> str:
    """A line of Python that reads the file."""
    if out.suffix == ".npy":
        return f'read them: codes = numpy.load("{out}")'
    if out.suffix == ".nc":
        return f'read them: codes = xarray.open_dataset("{out}").codes.values'
    if out.suffix in (".csv", ".parquet"):
        return f'read them: table = pandas.read_{out.suffix[1:]}("{out}")'
    and_labels = "" if codes.labels is None else f'; {codes.targets} = f["{codes.targets}"]'
    return f"""read them: f = numpy.load("{out}"); codes = f["codes"]{and_labels}"""


if __name__ == "__main__":
    exit_process(main())
