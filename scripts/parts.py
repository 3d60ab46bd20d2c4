"""Tables of all parts, from the dictionaries: names, supports and densities.

`python scripts/parts.py` prints them, `--write docs/reference/parts.md` writes them between the
markers of the page.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.study_results import Parser, markdown, write_between_markers
from pyro_vae.data import DATASETS, READERS
from pyro_vae.likelihoods import LIKELIHOODS
from pyro_vae.networks import NETWORKS
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS

SPACES = {
    "real": "the real line, each coordinate",
    "positive": "positive numbers",
    "unit": "numbers in (0, 1)",
    "simplex": "proportions: `latent_dim` of them, with sum 1",
    "sphere": "the unit sphere in R^`latent_dim`",
    "one_hot": "one-hot variables, `latent_dim` = variables x values",
    "sparse": "the real line with exact zeros",
}
DATA = {
    "binary": "0 and 1, or grey levels binarised",
    "unit": "numbers in [0, 1], or levels dequantised",
    "real": "real numbers, or levels scaled to [0, 1]",
    "integers": "levels 0, ..., as they are",
    "counts": "counts",
}
# Each family, and the meaning of the first line of its parts' docstrings.
FAMILIES: dict[str, tuple[Mapping[str, Any], str]] = {
    "Priors": (PRIORS, "density"),
    "Likelihoods": (LIKELIHOODS, "density"),
    "Posteriors": (POSTERIORS, "density"),
    "Objectives": (OBJECTIVES, "what is maximised"),
}


def names(parts: Mapping[str, Any], support: str | None = None) -> str:
    """The names of parts, of one support or of any."""
    chosen = [n for n, part in parts.items() if support in (None, getattr(part, "support", None))]
    return ", ".join(f"`{name}`" for name in chosen)


def formulas(parts: Mapping[str, Any], what: str) -> str:
    """A table of parts: name and first line of the docstring."""
    rows = []
    for name, part in parts.items():
        line = (part.__doc__ or "").partition("\n")[0].rstrip(".")
        rows.append((f"`{name}`", line.replace("|", "\\|")))
    return markdown(("", what), rows)


def tables() -> str:
    """All tables, in Markdown."""
    named_sets = {name: part for name, part in DATASETS.items() if name not in READERS}
    others = [
        ("`--network`", names(NETWORKS)),
        ("`--objective`", names(OBJECTIVES)),
        ("`--data`", f"{names(named_sets)}, or the path of your own"),
    ]
    spaces = [
        (space, names(PRIORS, word), names(POSTERIORS, word)) for word, space in SPACES.items()
    ]
    data = [(kind, names(LIKELIHOODS, word)) for word, kind in DATA.items()]
    return "\n\n".join(
        [
            markdown(("codes are", "`--prior`", "`--posterior`"), spaces),
            markdown(("data are", "`--likelihood`"), data),
            markdown(("", ""), others),
            *(
                f"<details><summary>{family}, and for each its formula</summary>\n\n"
                f"{formulas(parts, what)}\n\n</details>"
                for family, (parts, what) in FAMILIES.items()
            ),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = Parser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--write", type=Path, help="The page to write to.")
    options = parser.parse_args(arguments)
    try:
        if options.write:
            write_between_markers(options.write, "parts", tables())
        else:
            print(tables())
    except (ValueError, OSError) as error:
        print(f"parts.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
