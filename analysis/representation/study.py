"""The study of representations: metrics of a trained model as plain values, and tables of them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from analysis.disentanglement.scores import SCORES, disentanglement
from analysis.disentanglement.unsupervised_selection import (
    selection_agreement,
    unsupervised_selection,
)
from analysis.model_samples import device_of, embed_data, has_density
from analysis.representation.clustering import clustering, local_label_agreement
from analysis.representation.codes import LabelledCodes, labelled_codes
from analysis.representation.holes import holes
from analysis.representation.interpolation import interpolation
from analysis.representation.label_efficiency import LabelEfficiency, label_efficiency
from analysis.representation.ood_scores import DEFINITIONS
from analysis.representation.out_of_distribution import out_of_distribution
from analysis.representation.probes import linear_probe, nearest_neighbours
from analysis.representation.robustness import Robustness, robustness
from analysis.representation.uncertainty_calibration import uncertainty_calibration
from analysis.study_results import (
    Cell,
    Results,
    cells_of,
    common_command,
    made_with,
    markdown,
    mean_and_spread,
    shared_command,
)
from pyro_vae.data import PreparedData
from pyro_vae.evidence import fixed_rows
from pyro_vae.json_values import to_jsonable

# Corrupted and foreign examples, and draws for each log p(x).
ROBUSTNESS_DATA, FOREIGN_DATA, SAMPLES = 500, 1000, 50
# Codes between which paths run, paths, and training data whose codes are compared with the prior.
PATH_DATA, PATHS, HOLE_DATA = 1000, 100, 10_000

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
    "Of codes of 40 dimensions, after 5,000 steps: mean and, over several training seeds, "
    "standard deviation. `probe` is the accuracy in % of a linear classifier with that many "
    "labels, over five balanced draws; `5-NN` that of five nearest neighbours; `clusters` are ten "
    "K-means clusters compared with the labels, by normalised mutual information and by the share "
    "of data in %, matched one to one. `robustness` is the share of the probe's clean accuracy "
    "that is kept, a mean over six corruptions at four strengths on 500 test images, and `shift` "
    "how far their codes move, where 1 is the distance to another code. log p(x) in nats, 1,000 "
    "test images and draws."
)
SPACE_READING = (
    "Draws x ~ p(x | z) at the middle of paths between the codes of two test images, cross-fades "
    "of the images, and new data z ~ p(z): the share that is less probable under the model than "
    "95 % of test images (5 % is chance; 100 paths). The share of the prior's draws that is "
    "further from the codes of data than these are from one another (1 % is chance), and how well "
    "a classifier separates both (0.5 is chance); an autoencoder's are compared with N(0, I), "
    "which it was not trained to fill. The growth of q's scale and of its error under the "
    "strongest corruption, which are equal for a calibrated guide."
)

Number = Callable[[Cell], float | None]


def downstream_metrics(train: LabelledCodes, test: LabelledCodes) -> Cell:
    """Metrics of probes with 10, 100, 1,000 and all labels, neighbours and clusters of any codes.

    Args:
        train: Codes that classifiers are fitted to.
        test: Codes that all metrics are of.
    """
    probes, clusters = label_efficiency(train, test).summary(), clustering(test).summary()
    return {
        "probe": [
            {name: point[name] for name in ("n", "all_labels", "mean", "spread", "repeats")}
            for point in probes["points"]
        ],
        "neighbours": nearest_neighbours(train, test).accuracy,
        "clustering": {name: clusters[name] for name in ("nmi", "ari", "accuracy", "n")},
        "agreement": local_label_agreement(test).mean,
        "n_codes_train": len(train),
        "n_codes_test": len(test),
    }


def codes_of(vae: Any, data: PreparedData) -> tuple[LabelledCodes, LabelledCodes]:
    """The model's codes of all training and all test data."""
    labels = data.dataset.labels
    train, test = (
        labelled_codes(vae, data.fixed(split)[:].to(device_of(vae)), labels[split])
        for split in ("train", "test")
    )
    return train, test


def raw_data(data: PreparedData) -> tuple[LabelledCodes, LabelledCodes]:
    """All training and all test data as vectors in place of codes."""
    train, test = (
        LabelledCodes(
            data.fixed(split)[:].flatten(1).numpy().astype(np.float64),
            data.dataset.labels[split].numpy().astype(np.int64),
        )
        for split in ("train", "test")
    )
    return train, test


def codes_label_efficiency(vae: Any, data: PreparedData) -> LabelEfficiency:
    """The probe's accuracy by the number of labels, for the model's codes."""
    return label_efficiency(*codes_of(vae, data))


def codes_robustness(vae: Any, data: PreparedData, *, seed: int = 0) -> Robustness:
    """The robustness of the codes of fixed test data."""
    train, _ = codes_of(vae, data)
    x, rows = _fixed(vae, data, "test", ROBUSTNESS_DATA)
    labels = data.dataset.labels["test"][rows]
    probe = linear_probe(train, labelled_codes(vae, x, labels), seed=seed)
    options = {"labels": labels, "classifier": probe.classifier}
    return robustness(vae, x, **options, num_samples=SAMPLES, seed=seed)


def robustness_metrics(vae: Any, data: PreparedData, *, seed: int = 0) -> Cell:
    """Curves and areas of accuracy, latent shift, reconstruction and log p(x) over corruptions."""
    found = codes_robustness(vae, data, seed=seed)
    area = {name: found.area(name)[0] for name in found.values}
    record = {"n": ROBUSTNESS_DATA, "strengths": found.strengths, "area": area}
    accuracy = dict(zip(found.corruptions, found.mean("accuracy"), strict=True))
    return to_jsonable(record | {"accuracy": accuracy})


def ood_metrics(
    vae: Any,
    data: PreparedData,
    foreign: Mapping[str, Real[Tensor, " m *event"]],
    *,
    seed: int = 0,
) -> Cell:
    """The AUROC of each out-of-distribution score on each foreign set."""
    x, _ = _fixed(vae, data, "test", FOREIGN_DATA)
    others = {name: each[fixed_rows(len(each), FOREIGN_DATA)] for name, each in foreign.items()}
    train = data.fixed("train")[:]
    found = out_of_distribution(vae, train, x, others, num_samples=SAMPLES, seed=seed)
    return {
        name: {score: each and each.auroc for score, each in by_score.items()}
        for name, by_score in found.detections.items()
    }


def continuity_metrics(vae: Any, data: PreparedData, *, seed: int = 0) -> Cell:
    """Shares of paths, cross-fades and prior draws that are unlike data."""
    x, _ = _fixed(vae, data, "test", PATH_DATA)
    train, _ = _fixed(vae, data, "train", HOLE_DATA)
    paths = interpolation(vae, embed_data(vae, x), x=x, pairs=PATHS, seed=seed).profiles
    found = holes(vae, train, seed=seed)
    record = {} if paths is None else paths.record()
    names = ("middle_below", "end_below", "cross_fade_below", "model_draws_below")
    return to_jsonable(
        {name: record.get(name) for name in names}
        | {"hole_share": found.hole_share, "told_from_prior": found.auroc}
    )


def uncertainty_metrics(vae: Any, data: PreparedData, *, seed: int = 0) -> Cell | None:
    """The growth of q's scale and error at the strongest strength; None without a density."""
    x, _ = _fixed(vae, data, "test", ROBUSTNESS_DATA)
    if not has_density(vae, x):
        return None
    found = uncertainty_calibration(vae, x, seed=seed)
    growth = zip(
        found.corruptions, found.scale_growth[:, -1], found.error_growth[:, -1], strict=True
    )
    return to_jsonable({name: {"scale": scale, "error": error} for name, scale, error in growth})


def selection_metrics(
    codes: Mapping[str, Float[np.ndarray, "n _"]],
    groups: Mapping[str, str],
    scores: Mapping[str, float],
) -> Cell:
    """UDR of each group of models, and its rank correlation with scores that use labels.

    Args:
        codes: By model, of the same data.
        groups: By model, the name that those differing in the seed only share.
        scores: By model, with labels.
    """
    found = unsupervised_selection(codes, groups=groups)
    agreement = selection_agreement(found.by_model, scores, groups).summary()
    return {
        "by_group": found.by_group(),
        "agreement": {name: agreement[name] for name in ("within", "overall")},
    }


def disentanglement_metrics(vae: Any, data: PreparedData, *, seed: int = 0) -> Cell:
    """Each score of disentanglement for the codes of all test data."""
    factors = data.dataset.labels["test"].numpy()
    codes = embed_data(vae, data.fixed("test")[:].to(device_of(vae)))
    found = disentanglement(codes, factors, names=data.dataset.label_names, seed=seed)
    names = ("scores", "best", "chance", "n")
    return to_jsonable({name: getattr(found, name) for name in names})


def _fixed(vae: Any, data: PreparedData, split: str, n: int) -> tuple[Tensor, Tensor]:
    """At most n fixed examples of a split, on the program's device, and their rows."""
    x = data.fixed(split)
    rows = fixed_rows(len(x), n)
    return x[rows].to(device_of(vae)), rows


def representation_tables(results: Results) -> str:
    """All tables in Markdown, each with how to read it and the differences by seed."""
    parts = [
        make(results, data)
        for data in DATA_NAMES
        for make in (_use_table, _differences, _space_table)
    ]
    parts += [_foreign_table(results), _sprites_table(results), _selection_table(results)]
    parts = [part for part in parts if part]
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


def _table(
    results: Results,
    data: str,
    names: Mapping[str, str],
    header: Sequence[str],
    columns: Callable[[dict[int, Cell]], Sequence[str] | None],
    reading: str = "",
) -> str:
    """One row per model that has cells and columns; nothing without any."""
    by_name = {name: cells_of(results, f"{data}:{model}") for model, name in names.items()}
    rows = {name: columns(by_seed) for name, by_seed in by_name.items() if by_seed}
    lines = [(name, *row) for name, row in rows.items() if row]
    return reading + markdown(header, lines) if lines else ""


def _spread(cells: Sequence[Cell], number: Number) -> str:
    return mean_and_spread([number(cell) for cell in cells])


def _percent(cells: Sequence[Cell], number: Number, digits: int = 1) -> str:
    values = [number(cell) for cell in cells]
    return mean_and_spread([None if v is None else 100 * v for v in values], digits)


def _with_command(table: str, results: Results, rows: Sequence[str]) -> str:
    """A table, and below it the command of its rows with their names and seeds."""
    if not table:
        return ""
    shown = {row: cells for row in rows if (cells := cells_of(results, row))}
    _, text = shared_command({row: common_command(cells) for row, cells in shown.items()})
    text = text.replace(" with the first column for ROW", "")
    each = (f"`{row}` (S = {', '.join(map(str, cells))})" for row, cells in shown.items())
    return f"{table}\n\n{text}, of the rows {', '.join(each)}."


def _use_table(results: Results, data: str) -> str:
    """How useful and robust codes are, by model."""

    def columns(by_seed: dict[int, Cell]) -> tuple[str, ...]:
        cells = list(by_seed.values())
        # The pixels are no model.
        of_model = ("-", "-", "-")
        if all("robustness" in cell for cell in cells):
            areas = [cell["robustness"]["area"] for cell in cells]
            of_model = (
                *(_spread(areas, itemgetter(name)) for name in ("accuracy", "latent_shift")),
                _spread(cells, lambda cell: cell.get("log_evidence")),
            )
        return (
            *(_percent(cells, partial(probe, n=n)) for n in (100, 1000, None)),
            _percent(cells, itemgetter("neighbours")),
            _spread(cells, lambda cell: cell["clustering"]["nmi"]),
            _percent(cells, lambda cell: cell["clustering"]["accuracy"]),
            *of_model,
        )

    header = (
        *(DATA_NAMES[data], "probe, 100 labels", "1,000", "all", "5-NN", "clusters, NMI"),
        *("accuracy", "robustness", "shift", "log p(x)"),
    )
    table = _table(results, data, MODEL_NAMES, header, columns)
    return _with_command(table, results, [f"{data}:{model}" for model in MODEL_NAMES])


def _differences(results: Results, data: str) -> str:
    """Differences between the VAE and the others, by seed."""
    vae = cells_of(results, f"{data}:vae")
    # Pixels have no seed, and are compared with each.
    pixels = list(cells_of(results, f"{data}:data").values())
    lines = []

    def compare(model: str, what: str, number: Number) -> None:
        others = dict.fromkeys(vae, pixels[0]) if pixels else {}
        if model != "data":
            others = cells_of(results, f"{data}:{model}")
        seeds = sorted(vae.keys() & others.keys())
        pairs = [(number(vae[seed]), number(others[seed])) for seed in seeds]
        gaps = [us - them for us, them in pairs if us is not None and them is not None]
        if gaps:
            # Adding zero removes the sign of a negative zero.
            mean, *each = (f"{100 * g + 0.0:+.1f}" for g in (statistics.mean(gaps), *gaps))
            name = "pixels" if model == "data" else MODEL_NAMES[model]
            by_seed = f"{mean} points (by seed {', '.join(each)})"
            lines.append(f"- VAE above the {name}, {what}: {by_seed}")

    for n in (100, 1000):
        for model in ("autoencoder", "data"):
            compare(model, f"probe with {n:,} labels", partial(probe, n=n))
    for model in ("autoencoder", "denoising"):
        what = "accuracy kept under corruption"
        compare(model, what, lambda cell: cell["robustness"]["area"]["accuracy"])
    return "\n".join(lines)


def _space_table(results: Results, data: str) -> str:
    """Paths between codes, holes, and the calibration of q's scale, by model."""

    def columns(by_seed: dict[int, Cell]) -> tuple[str, ...] | None:
        cells = list(by_seed.values())
        if "continuity" not in cells[0]:
            return None
        space = [cell["continuity"] for cell in cells]
        growth = [cell["uncertainty"] or {} for cell in cells]
        shares = ("middle_below", "cross_fade_below", "model_draws_below", "hole_share")
        return (
            *(_percent(space, itemgetter(key), 0) for key in shares),
            _spread(space, itemgetter("told_from_prior")),
            *(
                mean_and_spread([each.get(corruption, {}).get(key) for each in growth])
                for corruption in ("salt", "occlusion")
                for key in ("scale", "error")
            ),
        )

    header = (
        *(DATA_NAMES[data], "unlikely: middles of paths, %", "cross-fades, %", "new data, %"),
        *("prior's draws in holes, %", "codes told from the prior, AUROC"),
        *("q's scale under salt", "its error", "q's scale under occlusion", "its error"),
    )
    return _table(results, data, MODEL_NAMES, header, columns, f"{SPACE_READING}\n\n")


def _foreign_table(results: Results) -> str:
    """The AUROC of each out-of-distribution score, by model and direction."""
    lines = []
    for data, title in DATA_NAMES.items():
        for model, name in MODEL_NAMES.items():
            cells = list(cells_of(results, f"{data}:{model}").values())
            if cells and "foreign" in cells[0]:
                (foreign,) = cells[0]["foreign"]
                scores = [cell["foreign"][foreign] for cell in cells]
                columns = (_spread(scores, itemgetter(score)) for score in DEFINITIONS)
                lines.append((f"{title}, {name}", *columns))
    header = ("trained on", *(score.replace("_", " ") for score in DEFINITIONS))
    reading = (
        "Can a score separate the other set's test images from the model's own? AUROC: 1 is "
        "perfect, 0.5 chance, and below 0.5 the foreign images look more ordinary than its own."
    )
    return f"{reading}\n\n{markdown(header, lines)}" if lines else ""


def _sprites_table(results: Results) -> str:
    """Every score of disentanglement, by objective."""
    found: list[Cell] = []

    def columns(by_seed: dict[int, Cell]) -> tuple[str, ...]:
        cells = list(by_seed.values())
        found.extend(cell["disentanglement"] for cell in cells)
        scores = [cell["disentanglement"]["scores"] for cell in cells]
        return (
            *(_spread(scores, itemgetter(score)) for score in SCORES),
            _spread(cells, lambda cell: cell.get("log_evidence")),
        )

    header = ("dSprites", *SCORES.values(), "log p(x)")
    table = _table(results, "dsprites", OBJECTIVE_NAMES, header, columns)
    for name, key in (("a perfect code", "best"), ("noise", "chance")):
        if found:
            scores = " | ".join(f"{found[0][key][score]:.2f}" for score in SCORES)
            table += f"\n| {name} | {scores} | - |"
    return _with_command(table, results, [f"dsprites:{name}" for name in OBJECTIVE_NAMES])


def _selection_table(results: Results) -> str:
    """Whether seeds of an objective agree on coordinates, by objective."""
    cells = list(cells_of(results, "dsprites:selection").values())
    if not cells:
        return ""
    (cell,) = cells

    def number(value: float | None) -> str:
        return "not defined" if value is None else f"{value:.2f}"

    keys = ("score", "spread", "rotated", "noise")
    lines = [
        (OBJECTIVE_NAMES[name], *(number(group[key]) for key in keys), str(group["models"]))
        for name, group in cell["by_group"].items()
    ]
    header = ("dSprites", "UDR", "spread", "turned at random", "noise", "seeds")
    correlations = "; ".join(
        f"{where}, rank correlation {number(found['rho'])}, n = {found['n']}, p = "
        f"{number(found['p_value'])}"
        for where, found in (
            ("Over all models", cell["agreement"]["overall"]),
            ("among seeds of one objective", cell["agreement"]["within"]),
        )
    )
    return (
        "Do training seeds agree on coordinates? UDR without labels, and that of the same codes "
        "turned at "
        f"random. Does it choose as MIG does? "
        f"{correlations}.\n\n{markdown(header, lines)}\n\n`{cell['command']}`"
    )
