"""The study of representations in words: its tables and what they say of each claim."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from analysis.disentanglement.scores import SCORES
from analysis.representation.foreign_scores import DEFINITIONS
from analysis.study import (
    Cell,
    Results,
    cells_of,
    common_command,
    made_with,
    markdown,
    mean_and_spread,
)

# As a person reads them.
MODEL_NAMES = {
    "data": "the pixels themselves",
    "autoencoder": "autoencoder",
    "denoising": "denoising autoencoder",
    "vae": "VAE",
    "beta": "beta-VAE, beta 4",
    "vamp": "VAE, Vamp prior",
    "power_spherical": "VAE on a sphere",
    "mixture": "VAE, mixture prior",
}
OBJECTIVE_NAMES = {
    "elbo": "VAE",
    "beta": "beta-VAE, beta 4",
    "beta_tc": "beta-TC, beta 6",
    "factor": "FactorVAE, gamma 10",
    "dip": "DIP-VAE II",
}
DATA_NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}

READING = (
    "Of codes of 40 dimensions, after 5,000 steps: mean and, over several training seeds, standard deviation. `probe` is the "
    "accuracy in % of a linear classifier with so many labels, over five balanced draws; `5-NN` that of five nearest "
    "neighbours; `clusters` are ten K-means groups against the labels, by normalised mutual information and by the share "
    "of data in %, matched one to one. `robustness` is the share of the probe's clean accuracy that is kept, a mean over six "
    "damages at four strengths on 500 test images, and `shift` how far their codes move, where 1 is as far as another datum. "
    "log p(x) in nats, 1,000 test images and draws."
)

Number = Callable[[Cell], float | None]


def representation_tables(results: Results) -> str:
    """All tables in Markdown, each with how to read it and what it says."""
    parts = [
        part
        for data in DATA_NAMES
        for part in (_use_table(results, data), _claims(results, data))
        if part
    ]
    parts += [part for part in (_foreign_table(results), _sprites_table(results)) if part]
    if not parts:
        return "No cell has been made yet."
    shown = {
        name: {**cell, **cell.get("measured_by", {})}
        for name, cell in results.items()
        if not name.startswith("dsprites:selection")
    }
    return "\n\n".join([READING, *parts, made_with(shown)])


def probe(cell: Cell, n: int | None) -> float | None:
    """The mean accuracy of the linear probe with n labels; None for all."""
    for point in cell["probe"]:
        if point["all_labels"] if n is None else point["n"] == n:
            return point["mean"]
    return None


def _percent(cells: Sequence[Cell], number: Number, digits: int = 1) -> str:
    values = [number(cell) for cell in cells]
    shares = [None if value is None else 100 * value for value in values]
    return mean_and_spread(shares, digits)


def _use_table(results: Results, data: str) -> str:
    """A row a model: what its codes are worth."""
    lines = []
    for model, name in MODEL_NAMES.items():
        by_seed = cells_of(results, f"{data}:{model}")
        if not by_seed:
            continue
        cells = list(by_seed.values())
        percent = partial(_percent, cells)
        lines.append(
            (
                name,
                *(percent(partial(probe, n=n)) for n in (100, 1000, None)),
                percent(lambda cell: cell["neighbours"]),
                mean_and_spread([cell["clustering"]["nmi"] for cell in cells]),
                percent(lambda cell: cell["clustering"]["accuracy"]),
                *(
                    _or_dash(cells, number)
                    for number in (
                        lambda cell: cell["robustness"]["area"]["accuracy"],
                        lambda cell: cell["robustness"]["area"]["latent_shift"],
                    )
                ),
                _or_dash(cells, lambda cell: cell.get("log_evidence")),
                f"`{common_command(by_seed)}`, S = {', '.join(map(str, by_seed))}",
            )
        )
    if not lines:
        return ""
    header = (
        *(f"{DATA_NAMES[data]}", "probe, 100 labels", "1,000", "all", "5-NN", "clusters, NMI"),
        *("accuracy", "robustness", "shift", "log p(x)", "command"),
    )
    return markdown(header, lines)


def _or_dash(cells: Sequence[Cell], number: Number) -> str:
    """Mean and spread, or a dash in the row of the pixels, which are no model."""
    if any("robustness" not in cell for cell in cells):
        return "-"
    return mean_and_spread([number(cell) for cell in cells])


def _claims(results: Results, data: str) -> str:
    """Differences by seed that each claim is about."""
    pixels = cells_of(results, f"{data}:data")
    lines = []
    for other, called in (("autoencoder", "the autoencoder"), ("data", "the pixels")):
        if not (ours := cells_of(results, f"{data}:vae")):
            continue
        for n in (100, 1000):
            gaps = []
            for seed, cell in ours.items():
                theirs = pixels if other == "data" else cells_of(results, f"{data}:{other}")
                them = next(iter(theirs.values()), None) if other == "data" else theirs.get(seed)
                if them is not None:
                    gaps.append(100 * ((probe(cell, n) or 0) - (probe(them, n) or 0)))
            if gaps:
                lines.append(f"- VAE above {called}, probe with {n:,} labels: {_points(gaps)}")
    for model in ("denoising", "autoencoder"):
        gaps = [
            100 * (a["robustness"]["area"]["accuracy"] - b["robustness"]["area"]["accuracy"])
            for a, b in _pairs(results, f"{data}:vae", f"{data}:{model}")
        ]
        if gaps:
            lines.append(
                f"- VAE above the {MODEL_NAMES[model]}, accuracy kept under damage: {_points(gaps)}"
            )
    return "\n".join(lines)


def _pairs(results: Results, row: str, other: str) -> list[tuple[Cell, Cell]]:
    ours, theirs = cells_of(results, row), cells_of(results, other)
    return [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]


def _points(gaps: Sequence[float]) -> str:
    return (
        f"{statistics.mean(gaps):+.1f} points (by seed {', '.join(f'{gap:+.1f}' for gap in gaps)})"
    )


def _foreign_table(results: Results) -> str:
    """A row a model and direction: the AUROC of each score of foreignness."""
    lines = []
    for data, title in DATA_NAMES.items():
        for model, name in MODEL_NAMES.items():
            cells = list(cells_of(results, f"{data}:{model}").values())
            if not cells or "foreign" not in cells[0]:
                continue
            (foreign,) = cells[0]["foreign"]
            columns = (
                mean_and_spread([cell["foreign"][foreign][score] for cell in cells])
                for score in DEFINITIONS
            )
            lines.append((f"{title}, {name}", *columns))
    if not lines:
        return ""
    header = ("trained on", *(score.replace("_", " ") for score in DEFINITIONS))
    reading = (
        "Can a model tell the other set's test images from its own? AUROC: 1 is perfect, 0.5 chance, and "
        "below 0.5 the foreign images look more ordinary than its own."
    )
    return f"{reading}\n\n{markdown(header, lines)}"


def _sprites_table(results: Results) -> str:
    """A row an objective: every score of disentanglement."""
    lines, first = [], None
    for model, name in OBJECTIVE_NAMES.items():
        by_seed = cells_of(results, f"dsprites:{model}")
        if not by_seed:
            continue
        cells = list(by_seed.values())
        first = first or cells[0]
        lines.append(
            (
                name,
                *(
                    mean_and_spread([cell["disentanglement"]["scores"][score] for cell in cells])
                    for score in SCORES
                ),
                mean_and_spread([cell.get("log_evidence") for cell in cells]),
                f"`{common_command(by_seed)}`, S = {', '.join(map(str, by_seed))}",
            )
        )
    if first is None:
        return ""
    for name, key in (("a perfect code", "best"), ("noise", "chance")):
        lines.append((name, *(f"{first['disentanglement'][key][s]:.2f}" for s in SCORES), "-", ""))
    header = ("dSprites", *(score.replace("_", " ") for score in SCORES), "log p(x)", "command")
    return markdown(header, lines)
