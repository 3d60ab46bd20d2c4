"""Write the encoder, decoder and sampler of a trained VAE as files that other programs run.

`python scripts/export.py RUN` writes ONNX files and those of `torch.export` to RUN/export, after
running each on rows of the run's data and comparing it with Python. Preparation of the data and
their units are inside.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.model_card import model_card
from pyro_vae.cli import Parser, check_writable, exit_process, run_program
from pyro_vae.export.check import BATCHES, TOLERANCE
from pyro_vae.export.functions import FUNCTIONS, ROWS
from pyro_vae.export.writing import (
    FORMATS,
    SIGNATURE,
    check_folder,
    export,
    to_json,
    write_files,
)
from pyro_vae.runs.run_directory import RunDirectory, load
from pyro_vae.runs.trained_run import run_data
from pyro_vae.runs.weights import write_safetensors


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_program(parser(), run, arguments, stopped="nothing was written")


def parser() -> Parser:
    """The options."""
    options = Parser("export.py", "export.py RUN [options]", __doc__)
    add = options.add_argument
    add("run", metavar="RUN", type=Path, help="The run directory.")
    add("--out", type=Path, metavar="DIR", help="The folder. Default: RUN/export.")
    add("--overwrite", action="store_true", help="Replace an earlier export.")
    add("--only", nargs="+", choices=FUNCTIONS, default=FUNCTIONS, help="Default: all three.")
    add(
        "--format",
        choices=(*FORMATS, "both"),
        default="both",
        help="ONNX, the format of torch.export, or both. Default: both.",
    )
    add("--license", metavar="NAME", help="The licence of the model, for its card README.md.")
    options.add_common_options(seed=False, device=False)
    return options


def run(options: argparse.Namespace) -> None:
    """Check everything, export, compare, then write."""
    directory = RunDirectory(options.run)
    out = options.out or directory.path / "export"
    vae = load(directory.path, trust_model_file=options.trust_model_file)
    check_folder(out, overwrite=options.overwrite)
    check_writable(out)
    rows = None
    try:
        data = run_data(vae, options.run, options.data_root)
        rows = np.asarray(data.dataset.test[:ROWS])
        origin = f"rows of {data.dataset.name}"
    except ValueError as error:
        origin = f"draws from the model: {error}"
    files, signature = export(
        vae,
        only=options.only,
        formats=FORMATS if options.format == "both" else (options.format,),
        data=rows,
        checkpoint_sha256=hashlib.sha256(directory.checkpoint.read_bytes()).hexdigest(),
        timed=True,
    )
    files["model.safetensors"] = safetensors(vae, signature["checkpoint_sha256"])
    card = model_card(directory, vae, license=options.license, files=[*files])
    files |= {SIGNATURE: to_json(signature), "README.md": card.encode()}
    write_files(out, files)
    print(f"{out}/")
    for name, facts in signature["functions"].items():
        print(f"{name}: {listed(facts['inputs'])}\n  -> {listed(facts['outputs'])}")
        for file, found in facts["files"].items():
            print(f"  {file}: {len(files[file]) / 1024:,.0f} KiB, {in_words(found)}")
    print("model.safetensors: the parameters; README.md: the model card")
    print(f"{SIGNATURE}: names, types, shapes and meaning of inputs and outputs")
    batches = ", ".join(map(str, BATCHES))
    print(f"compared with Python in batches of {batches} {origin}")


def safetensors(vae: Any, checkpoint_sha256: str) -> bytes:
    """The parameters as a safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_safetensors(vae, path, checkpoint_sha256=checkpoint_sha256)
        return path.read_bytes()


def listed(tensors: Sequence[Mapping[str, Any]]) -> str:
    """Names, types and shapes."""
    return ", ".join(
        f"{t['name']} {t['dtype']} ({', '.join(map(str, t['shape']))})" for t in tensors
    )


def in_words(found: Mapping[str, Any]) -> str:
    """The result of the comparison, and the times."""
    checked = found["check"]
    if checked is None:
        return "not compared with Python: onnxruntime is not installed"
    text = (
        f"largest difference from Python {checked['largest_difference']:.1e} of the scale (at "
        f"most {TOLERANCE:g})"
    )
    for rows, times in found.get("milliseconds", {}).items():
        text += (
            f"\n    batch of {rows}: onnxruntime {times['onnxruntime']:.3g} ms, torch "
            f"{times['torch']:.3g} ms"
        )
    return text


if __name__ == "__main__":
    exit_process(main())
