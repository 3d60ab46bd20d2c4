"""Write the codes of data to a file: each example as the vector that a trained VAE makes of it.

`python scripts/encode.py RUN` writes those of the run's own data to RUN/codes.npz. Other data are
given as for `scripts/svi_train.py`, `--data mnist` or `--data my.npy`, and prepared like the run's
own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyro
from tqdm import tqdm

from analysis.representation.code_files import (
    ANNDATA_FORMATS,
    FORMATS,
    KEY,
    Codes,
    check_format,
    write_codes,
)
from analysis.representation.encoding import NEW, encode
from pyro_vae.cli import Parser, check_output, exit_process, open_run, run_program
from pyro_vae.data.cell_files import is_anndata
from pyro_vae.data.nouns import noun, set_noun
from pyro_vae.runs.run_directory import RunDirectory, provenance

SPLITS = ("train", "validation", "test")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(parser(), run, arguments, stopped="nothing was written")


def parser() -> Parser:
    """The options."""
    options = Parser(
        "encode.py",
        "encode.py RUN [options]",
        __doc__,
        "--data NAME, or a path, and --data.OPTION: other data than the run's, with the options "
        "of svi_train.py; `svi_train.py --data NAME --help` lists them. Grey values for a "
        "likelihood of binary data are binarised as the run's were, once, with a fixed seed.",
        takes_data=True,
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
        "other data. .h5ad and .zarr: a copy of the AnnData file of the data, with the codes in "
        f'obsm["{KEY}"].',
    )
    add("--overwrite", action="store_true", help="Replace an existing file.")
    options.add_common_options(seed=False)
    return options


def run(options: argparse.Namespace) -> None:
    """Check everything, encode, then write."""
    pyro.enable_validation(True)
    made_by = provenance()
    out = options.out
    if out is None and not options.data and options.run.is_dir():
        out = RunDirectory(options.run).codes
    if out is not None:
        check_output(out, FORMATS, overwrite=options.overwrite, is_folder=is_store(out))
    trained = open_run(options, split="test" if options.split == "all" else options.split)
    if out is None:
        # Codes of other data go beside those of the run's own.
        out = trained.directory.path / f"{trained.prefix}codes.npz"
        check_output(out, FORMATS, overwrite=options.overwrite, is_folder=is_store(out))
    data, dataset = trained.data, trained.data.dataset
    check_format(out, dataset.source, dataset.name, whole=options.split == "all")
    if not dataset.is_split and options.split != "all":
        raise ValueError(
            f"--split must be all for {dataset.name}: a file given with --data is not split."
        )
    splits = SPLITS if options.split == "all" else (options.split,)
    splits = splits if dataset.is_split else ("test",)
    set_noun(dataset.noun)
    print(f"{data.description}\n{options.run}/", flush=True)
    for note in dataset.notes if options.data else ():
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
    files = [out.with_name(f".{out.name}.{name}.tmp") for name in ("codes", "scale")]
    total = sum(len(getattr(dataset, split)) for split in splits)
    try:
        with tqdm(total=total, desc="encoding", unit=noun()) as bar:
            codes = encode(
                trained, splits, metadata, scale=options.scale, files=files, progress=bar.update
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_codes(out, codes, dataset.source)
    finally:
        for path in files:
            path.unlink(missing_ok=True)
    n, latent = codes.codes.shape
    others = [name for name in codes.rows().arrays if name != "codes"]
    kind = f"{codes.codes.dtype}; with {', '.join(others)}"
    print(f"{n:,} codes of {latent} dimensions ({kind}) are in {out}")
    print(reading_hint(out, codes))


def is_store(out: Path) -> bool:
    """Whether the path is an AnnData in a Zarr folder."""
    return out.suffix == ".zarr" and is_anndata(out)


def reading_hint(out: Path, codes: Codes) -> str:
    """A line of Python that reads the file."""
    if out.suffix == ".npy":
        return f'read them: codes = numpy.load("{out}")'
    if out.suffix == ".nc":
        return f'read them: codes = xarray.open_dataset("{out}").codes.values'
    if out.suffix in (".csv", ".parquet"):
        return f'read them: table = pandas.read_{out.suffix[1:]}("{out}")'
    if out.suffix in ANNDATA_FORMATS:
        reader = "read_zarr" if out.suffix == ".zarr" else "read_h5ad"
        return f'read them: adata = anndata.{reader}("{out}"); codes = adata.obsm["{KEY}"]'
    and_labels = "" if codes.labels is None else f'; {codes.targets} = f["{codes.targets}"]'
    return f"""read them: f = numpy.load("{out}"); codes = f["codes"]{and_labels}"""


if __name__ == "__main__":
    exit_process(main())
