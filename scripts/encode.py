"""Write the codes of data to a file: each datum as the vector that a trained VAE makes of it.

`python scripts/encode.py RUN` writes those of the run's own data to RUN/codes.npz. Other data are named
as `scripts/svi_train.py` takes them, `--data mnist` or `--data my.npy`, and prepared as the run's own.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from analysis.predictive.model_samples import as_floats, embedded, latent_site, to_array
from analysis.representation.codes import FORMATS, Codes
from pyro_vae.cli.common import Parser, chosen_device, opened_run, run_data, run_program
from pyro_vae.data import PreparedData
from pyro_vae.data.nouns import noun, set_noun
from pyro_vae.log_densities import distribution_at
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.other_data import name_in_file, other_data, taken_data_options
from pyro_vae.runs.provenance import provenance
from pyro_vae.training.checkpoint import write_atomically

SPLITS = ("train", "validation", "test")
# What stands for the split of data that are not split.
NEW = "new"
# Rows that are read and encoded together. The noise of training data on the disk depends on it.
ROWS_AT_A_TIME = 4096
# Of noise that data on the disk get when they are read; those in memory have seeds of their own.
SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    words = sys.argv[1:] if arguments is None else [str(word) for word in arguments]
    # Which options there are depends on the data: only their own parser knows.
    data, others = taken_data_options(words)

    def encode(options: argparse.Namespace) -> None:
        run(options, data)

    return run_program(parser(), encode, others, stopped="nothing was written")


def parser() -> Parser:
    """The options, but for those of data."""
    options = Parser(
        prog="encode.py",
        usage="encode.py RUN [options]",
        description=str(__doc__).partition("\n")[0],
        epilog="--data NAME, or a path, and --data.OPTION: other data than the run's, as svi_train.py "
        "takes them; `svi_train.py --data NAME --help` lists the options. Grey values for a likelihood "
        "of binary data are binarised as the run's were, once, with a fixed seed.",
        allow_abbrev=False,
    )
    add = options.add_argument
    add("run", metavar="RUN", type=Path, help="The run directory.")
    add("--split", choices=(*SPLITS, "all"), default="all", help="Which data. Default: all.")
    add("--scale", action="store_true", help="Also the standard deviations of q(z | x).")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"Where to, {', '.join(FORMATS)}. Default: RUN/codes.npz, or RUN/NAME-codes.npz of other data.",
    )
    add("--overwrite", action="store_true", help="Replace the file if it is there.")
    options.add_common_options(seed=False)
    return options


def run(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Check everything, encode, then write."""
    pyro.enable_validation(True)
    made_by = provenance()
    device = chosen_device(options.device)
    directory, vae, checkpoint = opened_run(options.run, trust_model_file=options.trust_model_file)
    if options.out is not None or not words:
        checked(options.out or directory.codes, overwrite=options.overwrite)
    data = (
        other_data(
            directory,
            words,
            data_root=options.data_root,
            trust_model_file=options.trust_model_file,
        )
        if words
        else run_data(vae, options.run, options.data_root)
    )
    # Codes of other data lie beside those of the run's own.
    own = (
        directory.path / f"{name_in_file(data.dataset.name)}-codes.npz"
        if words
        else directory.codes
    )
    out = checked(options.out or own, overwrite=options.overwrite)
    vae.to(device)
    if not data.dataset.is_split and options.split != "all":
        raise ValueError(
            f"--split must be all for {data.dataset.name}: a file given with --data is not split."
        )
    splits = SPLITS if options.split == "all" else (options.split,)
    splits = splits if data.dataset.is_split else ("test",)
    set_noun(data.dataset.noun)
    print(f"{data.description}\n{options.run}/", flush=True)
    for note in data.dataset.notes if words else ():
        print(note)
    if "anew at each visit" in data.description:
        print(
            f"here each {noun()} is drawn once, with a fixed seed: the codes are always the same"
        )
    metadata = {
        "run": str(options.run.resolve()),
        "checkpoint_sha256": checkpoint,
        "data": data.dataset.name,
        "preparation": data.description,
        "binarisation": data.binarisation,
        "split": options.split if data.dataset.is_split else NEW,
        "trained_on": vae.configuration["data"]["name"],
        "seed": vae.configuration["seed"],
        **made_by,
    }
    codes = encoded(vae, data, splits, device, metadata, scale=options.scale)
    content = FORMATS[out.suffix](codes)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content)
    n, latent = codes.codes.shape
    print(f"{n:,} codes of {latent} dimensions ({described(codes)}) are in {out}")
    print(how_to_read(out, codes))


def checked(out: Path, *, overwrite: bool) -> Path:
    """A file that may be written.

    Raises:
        ValueError: If its suffix is none of `FORMATS`, it is there and not to be replaced, or it is a
            directory or a link.
    """
    if out.suffix not in FORMATS:
        raise ValueError(f"--out must end in {', '.join(FORMATS)}, got {out}.")
    if out.is_dir() or out.is_symlink():
        raise ValueError(f"--out must be a plain file, got {out}.")
    if out.exists() and not overwrite:
        raise ValueError(
            f"{out} is there already: --overwrite replaces it, another --out keeps it."
        )
    return out


@dataclass(frozen=True)
class Encoded:
    """What is known of the data of one split."""

    codes: np.ndarray
    scale: np.ndarray | None
    row: np.ndarray


def encoded(
    vae: Any,
    data: PreparedData,
    splits: Sequence[str],
    device: torch.device,
    metadata: dict[str, Any],
    *,
    scale: bool,
) -> Codes:
    """The codes of these splits, one split after the other, or in the order of the one array they are of."""
    found: dict[str, Encoded] = {}
    sizes = {split: len(getattr(data.dataset, split)) for split in splits}
    with tqdm(total=sum(sizes.values()), desc="encoding", unit=noun()) as bar:
        for split in splits:
            codes, scales = [], []
            for x in blocks(data, split):
                x = x.to(device)
                codes.append(embedded(vae, x).astype(np.float32))
                if scale:
                    scales.append(scales_of(vae, x))
                bar.update(len(x))
            found[split] = Encoded(
                np.concatenate(codes),
                np.concatenate(scales) if scale else None,
                data.dataset.row_numbers(split),
            )
    labels = [data.dataset.labels.get(split) for split in splits]
    known = [each for each in labels if each is not None]
    row = np.concatenate([each.row for each in found.values()])
    whole = bool(data.dataset.rows)
    order = np.argsort(row, kind="stable") if whole else np.arange(len(row))
    of_scale = [each.scale for each in found.values() if each.scale is not None]
    return Codes(
        codes=np.concatenate([each.codes for each in found.values()])[order],
        split=np.repeat(list(sizes) if data.dataset.is_split else [NEW], list(sizes.values()))[
            order
        ],
        row=row[order],
        row_names=data.dataset.names_of_rows(row[order]),
        metadata={**metadata, "row": "in the file" if whole else "in the split"},
        scale=np.concatenate(of_scale)[order] if of_scale else None,
        labels=torch.cat(known).numpy()[order] if len(known) == len(splits) else None,
        label_names=data.dataset.label_names,
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
        ValueError: If the guide has none.
    """
    site = latent_site(vae)
    with evaluation_mode(vae, seed=SEED):
        guide = distribution_at(poutine.trace(vae.guide).get_trace(as_floats(x)), site)
        try:
            scale = to_array(guide.stddev).reshape(len(x), -1).astype(np.float32)
        except (NotImplementedError, AttributeError) as error:
            scale = np.zeros(0)
            reason = error
        else:
            reason = None
    # A point has no scale, and infinite ones are no numbers.
    if reason is not None or not (np.isfinite(scale).all() and (scale > 0).any()):
        name = vae.configuration["posterior"]["name"]
        raise ValueError(f"--scale: the guide {name} has no standard deviation.") from reason
    return scale


def described(codes: Codes) -> str:
    """What is beside the codes."""
    names = [name for name in codes.arrays() if name not in ("codes", "metadata")]
    return f"float32; with {', '.join(names)}"


def how_to_read(out: Path, codes: Codes) -> str:
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
    sys.exit(main())
