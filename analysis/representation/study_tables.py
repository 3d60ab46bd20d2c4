"""The study of representations in words: its tables and what they say of each claim."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from analysis.disentanglement.scores import SCORES
from analysis.representation.foreign_scores import DEFINITIONS
from analysis.study_results import (
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

SPACE_READING = (
    "Draws x ~ p(x | z) at the middle of paths between the codes of two test images, cross-fades of the images themselves, and "
    "new data z ~ p(z): which share is less probable under the model than 95 % of test images (5 % is chance; 100 paths). "
    "Which share of the prior's draws is further from the codes of data than these are from one another (1 % is "
    "chance), and how well a classifier tells both apart (0.5 is chance); an autoencoder's are set beside N(0, I), which it "
    "was not trained to fill. By what q's scale and its error grow under the strongest damage: honest would be the same."
)

Number = Callable[[Cell], float | None]


def representation_tables(results: Results) -> str:
    """All tables in Markdown, each with how to read it and what it says."""
    parts = [
        part
        for data in DATA_NAMES
        for part in (
            _use_table(results, data),
            _claims(results, data),
            _space_table(results, data),
        )
        if part
    ]
    others = (_foreign_table(results), _sprites_table(results), _selection_table(results))
    parts += [part for part in others if part]
    if not parts:
        return "No cell has been made yet."
    shown = {name: {**cell, **cell.get("measured_by", {})} for name, cell in results.items()}
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
    lines = []
    for n in (100, 1000):
        gaps = _gaps(results, data, "autoencoder", partial(probe, n=n))
        lines.append((f"VAE above the autoencoder, probe with {n:,} labels", gaps))
        pixels = [probe(cell, n) for cell in cells_of(results, f"{data}:data").values()]
        ours = [probe(cell, n) for cell in cells_of(results, f"{data}:vae").values()]
        gaps = [us - pixels[0] for us in ours if pixels and us is not None and pixels[0]]
        lines.append((f"VAE above the pixels, probe with {n:,} labels", gaps))
    for model in ("autoencoder", "denoising"):
        gaps = _gaps(results, data, model, lambda cell: cell["robustness"]["area"]["accuracy"])
        lines.append((f"VAE above the {MODEL_NAMES[model]}, accuracy kept under damage", gaps))
    return "\n".join(f"- {what}: {_points(gaps)}" for what, gaps in lines if gaps)


def _gaps(results: Results, data: str, other: str, number: Number) -> list[float]:
    """A number of the VAE's cells less that of another model's, seed by seed."""
    ours, theirs = cells_of(results, f"{data}:vae"), cells_of(results, f"{data}:{other}")
    pairs = [(number(ours[s]), number(theirs[s])) for s in sorted(ours.keys() & theirs.keys())]
    return [us - them for us, them in pairs if us is not None and them is not None]


def _space_table(results: Results, data: str) -> str:
    """A row a model: paths between codes, holes, and whether q's scale says what damage does."""
    lines = []
    for model, name in MODEL_NAMES.items():
        cells = list(cells_of(results, f"{data}:{model}").values())
        if not cells or "continuity" not in cells[0]:
            continue
        space = [cell["continuity"] for cell in cells]
        columns = [
            _percent(space, lambda cell, key=key: cell[key], 0)
            for key in ("middle_below", "cross_fade_below", "model_draws_below", "hole_share")
        ]
        columns.append(mean_and_spread([cell["told_from_prior"] for cell in space]))
        for damage in ("salt", "occlusion"):
            for key in ("scale", "error"):
                grown = [(cell["uncertainty"] or {}).get(damage, {}).get(key) for cell in cells]
                columns.append(mean_and_spread(grown))
        lines.append((name, *columns))
    if not lines:
        return ""
    header = (
        *(DATA_NAMES[data], "unlikely: middles of paths, %", "cross-fades, %", "new data, %"),
        *("prior's draws in holes, %", "codes told from the prior, AUROC"),
        *("q's scale under salt", "its error", "q's scale under occlusion", "its error"),
    )
    return f"{SPACE_READING}\n\n{markdown(header, lines)}"


def _selection_table(results: Results) -> str:
    """A row an objective: whether its seeds agree on coordinates."""
    cells = list(cells_of(results, "dsprites:selection").values())
    if not cells:
        return ""
    (cell,) = cells

    def number(value: float | None) -> str:
        return "not defined" if value is None else f"{value:.2f}"

    lines = [
        (
            OBJECTIVE_NAMES[name],
            *(number(group[key]) for key in ("score", "spread", "rotated", "noise")),
            str(group["models"]),
        )
        for name, group in cell["by_group"].items()
    ]
    header = ("dSprites", "UDR", "spread", "turned at random", "noise", "seeds")
    said = "; ".join(
        f"{where}, rank correlation {number(found['rho'])}, n = {found['n']}, p = {number(found['p_value'])}"
        for where, found in (
            ("over all models", cell["agreement"]["overall"]),
            ("among seeds of one objective", cell["agreement"]["within"]),
        )
    )
    return (
        f"Do training seeds agree on coordinates? UDR without labels, beside that of the same codes turned at "
        f"random. Does it choose as MIG does? {said[0].upper()}{said[1:]}.\n\n{markdown(header, lines)}\n\n"
        f"`{cell['command']}`"
    )


def _points(gaps: Sequence[float]) -> str:
    # Less a zero with a sign.
    mean, *each = (f"{100 * gap + 0.0:+.1f}" for gap in (statistics.mean(gaps), *gaps))
    return f"{mean} points (by seed {', '.join(each)})"


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
    header = ("dSprites", *SCORES.values(), "log p(x)", "command")
    return markdown(header, lines)
