"""The first numbers: log p(x) on digits and MNIST, beside plain PyTorch, and with another prior.

`python scripts/studies/first_numbers.py` trains and evaluates what is not in `first_numbers.json`
yet, cell by cell; stopped and started again, it goes on with the next cell. `--table` prints what
is there, `--write PAGE` puts it between that page's markers. On two cores it takes
about a quarter of an hour; `--mnist-epochs 100` is the larger setting for a GPU.
"""

import math
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from analysis.study import (
    Cell,
    Results,
    cells_of,
    common_command,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    svi_train,
    svi_train_command,
)
from pyro_vae.runs.provenance import provenance

if TYPE_CHECKING:
    from pyro_vae import VAE

ROWS = {
    "digits": "digits, the default run",
    "mnist": "MNIST, 784-400-z50",
    "mnist_by_hand": "MNIST, the same network in plain PyTorch by hand",
    "mnist_vamp": "MNIST, 784-400-z50, Vamp prior with 100 pseudo-inputs",
}
SEEDS = (0, 1, 2)
LATENT_DIM, HIDDEN, BATCH_SIZE, LR = 50, 400, 128, 1e-3
EVIDENCE_IMAGES, EVIDENCE_SAMPLES = 1000, 1000
# What a cell keeps of metrics.json.
KEPT = (
    *("data", "binarisation", "prior", "seed", "steps", "epochs", "n", "log_evidence_samples"),
    *("log_evidence", "log_evidence_se", "elbo", "reconstruction", "kl", "khat_share_above"),
    *("seconds_per_epoch", "torch", "pyro", "git_commit"),
)

RESULTS = Path(__file__).with_suffix(".json")


# ---- the network by hand: from here to the next line there is torch, and no Pyro ---------------


class PlainVAE(nn.Module):
    """N(z | 0, I) prod_i Bernoulli(x_i | f_i(z)), with the guide N(z | mu(x), diag(sigma(x)^2)).

    Args:
        pixels: The length of a datum, flat.
        hidden: The width of the one hidden layer of encoder and of decoder.
        latent_dim: The dimension of z.
    """

    def __init__(self, pixels: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.encoder_hidden = nn.Linear(pixels, hidden)
        self.encoder_head = nn.Linear(hidden, 2 * latent_dim)
        self.decoder_hidden = nn.Linear(latent_dim, hidden)
        self.decoder_head = nn.Linear(hidden, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of q(z | x)."""
        loc, raw_scale = self.encoder_head(F.relu(self.encoder_hidden(x))).chunk(2, dim=-1)
        return loc, F.softplus(raw_scale) + 1e-5

    def decode(self, z: Tensor) -> Tensor:
        """The logits of p(x | z)."""
        return self.decoder_head(F.relu(self.decoder_hidden(z)))

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO of one draw, with the KL in closed form: a mean over data, in nats."""
        loc, scale = self.encode(x)
        logits = self.decode(loc + scale * torch.randn_like(scale))
        reconstruction = -F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum()
        return (kl - reconstruction) / len(x)


def train_by_hand(
    vae: PlainVAE, grey: Tensor, top: int, *, epochs: int, max_steps: int | None = None
) -> tuple[int, float]:
    """Adam on the negative ELBO, each image binarised anew at each visit.

    Args:
        vae: Trained in place.
        grey: The training images, `(n, pixels)`, whole numbers from 0 to `top`, on its device.
        top: The highest grey level.
        epochs: The number of passes over the images.
        max_steps: A bound on the number of steps, if fewer.

    Returns:
        The number of steps, and the seconds an epoch took (the median over epochs).
    """
    optimizer = torch.optim.Adam(vae.parameters(), lr=LR)
    total = epochs * math.ceil(len(grey) / BATCH_SIZE)
    total = total if max_steps is None else min(total, max_steps)
    step, seconds = 0, []
    with tqdm(total=total, unit="step") as bar:
        while step < total:
            started = time.perf_counter()
            order = torch.randperm(len(grey), device=grey.device)
            for rows in order.split(BATCH_SIZE)[: total - step]:
                p = grey[rows].float() / top
                loss = vae((torch.rand_like(p) < p).float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                bar.update()
            seconds.append(time.perf_counter() - started)
    return step, statistics.median(seconds)


# ------------------------------------------------------------------------------------------------


def as_vae(plain: PlainVAE, event_shape: Sequence[int]) -> "VAE":
    """The network trained by hand as a VAE of `pyro_vae`: the same weights under other names."""
    from pyro_vae import build, likelihoods, networks, posteriors, priors

    names = {
        "encoder_hidden": "posterior.encoder.layers.0.linear",
        "encoder_head": "posterior.encoder.head",
        "decoder_hidden": "likelihood.decoder.layers.0.linear",
        "decoder_head": "likelihood.decoder.head",
    }
    hidden, latent_dim = plain.encoder_hidden.out_features, plain.decoder_hidden.in_features
    vae = build(
        event_shape,
        latent_dim,
        prior=priors.StandardNormal,
        likelihood=likelihoods.Bernoulli,
        posterior=posteriors.DiagonalNormal,
        network=partial(networks.MLP, hidden=(hidden,), activation="relu"),
    ).to(plain.decoder_head.weight.device)
    state = {}
    for name, value in plain.state_dict().items():
        module, _, parameter = name.partition(".")
        state[f"{names[module]}.{parameter}"] = value
    vae.load_state_dict(state)
    return vae


def cell_by_hand(seed: int, epochs: int, max_steps: int | None) -> Cell:
    """Train the network by hand, and evaluate it as `scripts/svi_train.py` does."""
    from pyro_vae.data import PreparedData, default_root, mnist
    from pyro_vae.evidence import evaluate, fixed_rows

    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = mnist(default_root())
    grey = data.split("train").flatten(1).to(device)
    plain = PlainVAE(grey.shape[1], HIDDEN, LATENT_DIM).to(device)
    steps, seconds = train_by_hand(
        plain, grey, (data.levels or 2) - 1, epochs=epochs, max_steps=max_steps
    )

    prepared = PreparedData(data, "binary", binarisation="dynamic")
    test = prepared.fixed("test")
    x = test[fixed_rows(len(test), EVIDENCE_IMAGES)].to(device)
    vae = as_vae(plain, data.event_shape)
    evaluation = evaluate(vae, x, num_samples=EVIDENCE_SAMPLES, progress=True)
    return {
        **evaluation.summary(),
        "data": data.name,
        "binarisation": prepared.binarisation,
        "prior": "standard_normal",
        "seed": seed,
        "steps": steps,
        "epochs": math.ceil(steps / math.ceil(len(grey) / BATCH_SIZE)),
        "seconds_per_epoch": seconds,
        **provenance(),
    }


def arguments_of(row: str, seed: int, mnist_epochs: int, max_steps: int | None) -> list[str]:
    """The arguments of the program that gives a cell; the seed comes last."""
    bound = [] if max_steps is None else ["--max-steps", str(max_steps)]
    if row == "digits":
        return [*bound, "--seed", str(seed)]
    if row == "mnist_by_hand":
        epochs = ["--mnist-epochs", str(mnist_epochs)]
        return ["--only", row, *epochs, *bound, "--seeds", str(seed)]
    prior = ["--prior", "vamp", "--prior.components", "100"] if row == "mnist_vamp" else []
    return [
        *("--data", "mnist", *prior),
        *("--latent-dim", str(LATENT_DIM), "--network.hidden", f"[{HIDDEN}]"),
        *("--batch-size", str(BATCH_SIZE), "--lr", str(LR), "--epochs", str(mnist_epochs)),
        *(*bound, "--seed", str(seed)),
    ]


def command_of(row: str, arguments: Sequence[str]) -> str:
    """What to type, at the root of a checkout, to get a cell."""
    if row == "mnist_by_hand":
        return shlex.join(["python", "scripts/studies/first_numbers.py", *arguments])
    return svi_train_command(arguments)


def run(
    path: Path,
    rows: Sequence[str],
    seeds: Sequence[int],
    *,
    mnist_epochs: int,
    max_steps: int | None,
    again: bool,
) -> None:
    """Fill the cells that are missing, or were made by another command, one after the other.

    Args:
        path: The results, read before and written after each cell.
        rows: Names in `ROWS`.
        seeds: The seeds of each row.
        mnist_epochs: The number of epochs of the MNIST rows.
        max_steps: A bound on the number of steps, if fewer.
        again: Fill those that are there, too.

    Raises:
        StudyError: If a program ends with an error, or its log p(x) is not finite.
    """
    for row in rows:
        for seed in seeds:
            arguments = arguments_of(row, seed, mnist_epochs, max_steps)
            if row == "mnist_by_hand":
                make = partial(cell_by_hand, seed, mnist_epochs, max_steps)
            else:
                make = partial(svi_train, arguments, KEPT)
            fill_cell(path, f"{row}/{seed}", command_of(row, arguments), make, again=again)


# ---- tables ------------------------------------------------------------------------------------


def tables(results: Results) -> str:
    """The results in Markdown: a row a program, a mean over its seeds, and which targets it met.

    Args:
        results: Cells by "row/seed".

    Raises:
        ValueError: If the cells of a row were made by different commands: no mean is over those.
    """
    header = ("", "log p(x)", "ELBO", "k-hat above", "images x samples", "steps", "command")
    rows = []
    for row, title in ROWS.items():
        cells = cells_of(results, row)
        if not cells:
            continue
        first = next(iter(cells.values()))
        rows.append(
            (
                title,
                *(
                    mean_and_spread([c[n] for c in cells.values()])
                    for n in ("log_evidence", "elbo")
                ),
                f"{statistics.mean(c['khat_share_above'] for c in cells.values()):.0%}",
                f"{first['n']:,} x {first['log_evidence_samples']:,}",
                f"{first['steps']:,}",
                f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}",
            )
        )
    reached = "\n".join(f"- {target}" for target in targets(results))
    return f"{markdown(header, rows)}\n\n{_legend(results)}\n\n{reached}"


def targets(results: Results) -> list[str]:
    """Each target, whether it was reached, and by what numbers; differences are seed by seed."""
    evidence = {
        row: {seed: cell["log_evidence"] for seed, cell in cells_of(results, row).items()}
        for row in ROWS
    }

    def above(row: str, bound: float) -> str:
        if not evidence[row]:
            return "not measured"
        lowest = min(evidence[row].values())
        return f"{_verdict(lowest > bound)} (lowest {lowest:.2f})"

    def difference(row: str, other: str) -> dict[int, float]:
        seeds = evidence[row].keys() & evidence[other].keys()
        return {seed: evidence[row][seed] - evidence[other][seed] for seed in sorted(seeds)}

    def said(met: bool, row: str, other: str, differences: dict[int, float]) -> str:
        if not differences:
            return "not measured"
        steps = {
            cell["steps"] for name in (row, other) for cell in cells_of(results, name).values()
        }
        if len(steps) > 1:
            return f"not comparable, after {' and '.join(f'{n:,}' for n in sorted(steps))} steps"
        by_seed = ", ".join(f"{value:+.2f}" for value in differences.values())
        mean = statistics.mean(differences.values())
        return f"{_verdict(met)} (mean {mean:+.2f}; by seed {by_seed})"

    peer, vamp = difference("mnist", "mnist_by_hand"), difference("mnist_vamp", "mnist")
    same = bool(peer) and abs(statistics.mean(peer.values())) <= 0.5
    better = all(value > 0 for value in vamp.values())
    return [
        f"digits, log p(x) above -23.5 with each seed: {above('digits', -23.5)}",
        f"MNIST, log p(x) above -101 with each seed: {above('mnist', -101)}",
        "MNIST, within 0.5 nats of plain PyTorch after the same steps: "
        + said(same, "mnist", "mnist_by_hand", peer),
        "MNIST, Vamp above the standard prior after the same steps, with each seed: "
        + said(better, "mnist_vamp", "mnist", vamp),
    ]


def _legend(results: Results) -> str:
    """What the numbers of the table are, and what made them."""
    errors = [f"{data} {value:.2f}" for data, value in _standard_errors(results).items()]
    return (
        "Nats per datum on fixed test images, binarised once: mean ± standard deviation over "
        "seeds. The images are the same for all; their choice alone has a standard error of "
        f"{', '.join(errors) or 'unknown size'}. `k-hat above` is the share of images whose k-hat "
        "is above its threshold: there, log p(x) is rather higher than said. " + made_with(results)
    )


def _standard_errors(results: Results) -> dict[str, float]:
    """The mean standard error of log p(x) over the choice of images, by data set."""
    errors: dict[str, list[float]] = {}
    for cell in results.values():
        errors.setdefault(cell["data"], []).append(cell["log_evidence_se"])
    return {data: statistics.mean(values) for data, values in errors.items()}


def _verdict(met: bool) -> str:
    return "reached" if met else "**missed**"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="These rows.")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="These seeds.")
    parser.add_argument(
        "--mnist-epochs", type=int, default=10, help="The epochs of the MNIST rows."
    )
    parser.add_argument("--max-steps", type=int, help="A bound on the number of steps, if fewer.")
    options = parser.parse_args(arguments)
    fill = partial(
        run,
        options.results,
        options.only,
        options.seeds,
        mnist_epochs=options.mnist_epochs,
        max_steps=options.max_steps,
        again=options.again,
    )
    return run_study("first_numbers", options, fill, tables)


if __name__ == "__main__":
    sys.exit(main())
