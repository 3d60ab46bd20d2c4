"""Newsgroup posts: held-out words and topics of VAEs, beside latent Dirichlet allocation.

`python scripts/studies/topics.py` trains and evaluates what is not in `topics.json` yet, row by row;
stopped and started again, it goes on with the next. `--table` prints what is there,
`--write PAGE` puts it between that page's markers. On one core it takes about a
quarter of an hour; `--steps 50000` is the larger setting for a GPU.
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.study import (
    Cell,
    Results,
    cells_of,
    common_command,
    evaluated,
    fill_cell,
    made_with,
    markdown,
    mean_and_spread,
    run_study,
    study_parser,
    trained,
)
from analysis.topics import coherence, diversity, perplexity, top_words
from pyro_vae import load
from pyro_vae.data import default_root, newsgroups, newsgroups_halves
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.provenance import provenance

TOPICS = 20
MODEL_FILE = Path(__file__).parents[1] / "examples" / "topic_model.py"
TOPIC_MODEL = (
    *("--model", str(MODEL_FILE), "--latent-dim", str(TOPICS)),
    # A high rate, which normalisation permits.
    *("--network.norm", "batch", "--lr", "0.01"),
)
ROWS: dict[str, tuple[str, ...]] = {
    "multinomial": ("--likelihood", "multinomial", "--latent-dim", str(TOPICS), "--lr", "0.001"),
    "topics_logistic_normal": (*TOPIC_MODEL, "--prior", "logistic_normal"),
    "topics_dirichlet": (*TOPIC_MODEL, "--prior", "dirichlet"),
}
LDA = "lda"
TITLES = {
    LDA: f"LDA, scikit-learn, {TOPICS} topics",
    "multinomial": "VAE, standard normal prior, mlp decoder",
    "topics_logistic_normal": "topic model, logistic normal prior",
    "topics_dirichlet": "topic model, Dirichlet prior",
}
# Online variational Bayes, as many posts a step as the VAEs have. With seed 0 the perplexity is 1822
# after 5 passes, 1831 after 10 and 1840 after 20.
LDA_OPTIONS = {"learning_method": "online", "max_iter": 10, "batch_size": 128}
# z is drawn so often for p(w | first half).
DRAWS = 32
# Posts at a time.
CHUNK = 250
# So many posts have log p(x), whose K = 1,000 draws are long for 3,072 words.
EVALUATED = 200
TOP, SHOWN = 8, 6
RESULTS = Path(__file__).with_suffix(".json")


def arguments_of(row: str, seed: int, steps: int) -> list[str]:
    """The arguments of `scripts/svi_train.py` that train a row's VAE; the seed comes last."""
    return [
        *("--data", "newsgroups", *ROWS[row], "--batch-size", "128"),
        # What is evaluated is the epoch of the best validation ELBO.
        *("--early-stopping", "20", "--epochs", "100000", "--max-steps", str(steps)),
        *("--evaluate", "none", "--seed", str(seed)),
    ]


def command_of(row: str, seed: int, steps: int) -> str:
    """What to type, at the root of a checkout, to get a cell."""
    budget = [] if row == LDA else ["--steps", str(steps)]
    program = ["python", "scripts/studies/topics.py", "--only", row]
    return shlex.join([*program, *budget, "--seeds", str(seed)])


def cell_of(row: str, seed: int, steps: int) -> Cell:
    """Train a row, predict the second halves of the test posts, and read its topics."""
    if row == LDA:
        return lda(seed)
    with trained(arguments_of(row, seed, steps)) as run:
        vae: Any = load(run, trust_model_file=True)
        cell = evaluated(run, at_most=EVALUATED)
    first, second = newsgroups_halves(default_root())
    cell["perplexity"] = perplexity(predictive(vae, first), second.numpy())
    return {**cell, **(described(corners(vae)) if row != "multinomial" else {})}


def predictive(vae: Any, posts: torch.Tensor, draws: int = DRAWS) -> np.ndarray:
    """p(w | post) = E_q(z | post) p(w | z) of each post and word, a mean over draws."""
    chunks = []
    with evaluation_mode(vae, seed=0):
        for chunk in posts.split(CHUNK):
            q = vae.posterior(chunk.to(torch.get_default_dtype()))
            # A draw at a time: all at once would be gigabytes.
            words = sum(words_of(vae, q.sample()) for _ in range(draws))
            chunks.append(words / draws)
    return torch.cat(chunks).numpy()


def corners(vae: Any) -> np.ndarray:
    """p(w | theta = e_k): the topic of each corner of the simplex."""
    with evaluation_mode(vae):
        return words_of(vae, torch.eye(TOPICS)).numpy()


def words_of(vae: Any, z: torch.Tensor) -> torch.Tensor:
    """p(w | z), the multinomial's proportions."""
    (logits,) = vae.likelihood.outputs(z)
    return logits.softmax(-1)


def lda(seed: int) -> Cell:
    """The same of latent Dirichlet allocation, its theta the mean of its own q(theta | post)."""
    from scipy import sparse
    from sklearn.decomposition import LatentDirichletAllocation

    data = newsgroups(default_root())
    model = LatentDirichletAllocation(TOPICS, random_state=seed, **LDA_OPTIONS)
    model.fit(sparse.csr_matrix(data.split("train").numpy().astype(np.int64)))
    topics = model.components_ / model.components_.sum(1, keepdims=True)
    first, second = newsgroups_halves(default_root())
    theta = model.transform(sparse.csr_matrix(first.numpy().astype(np.int64)))
    return {
        "perplexity": perplexity(theta @ topics, second.numpy()),
        **described(topics),
        **provenance(),
    }


def described(topics: np.ndarray) -> Cell:
    """Each topic's first words, and what they are worth on the test posts, the most coherent first."""
    data = newsgroups(default_root())
    words = top_words(topics, TOP)
    npmi = coherence(words, data.split("test").numpy() > 0)
    order = np.argsort(-npmi, kind="stable")
    return {
        "coherence": float(npmi.mean()),
        "diversity": diversity(words),
        "topics": [" ".join(data.event_names[word] for word in words[k]) for k in order],
        "topic_coherence": npmi[order].round(3).tolist(),
    }


# ---- tables ------------------------------------------------------------------------------------


def tables(results: Results) -> str:
    """The results in Markdown: a row a model, and the topics of each."""
    header = (
        *("", "perplexity", "coherence", "diversity", "log p(x given N)", "KL", "epochs"),
        "command",
    )
    lines = []
    for row, title in TITLES.items():
        cells = cells_of(results, row)
        if not cells:
            continue
        column = partial(_column, list(cells.values()))
        lines.append(
            (
                *(title, column("perplexity", 0), column("coherence", 3)),
                *(column("diversity"), column("log_evidence"), column("kl"), column("epochs", 0)),
                f"`{common_command(cells)}`, S = {', '.join(map(str, cells))}",
            )
        )
    if not lines:
        return "No cell has been made yet."
    note = (
        "Mean and standard deviation over seeds. Perplexity, lower is better, is that of the words of "
        "the second half of each of 7,531 test posts, given the first half: a VAE's p(w) is a mean over "
        f"{DRAWS} draws from q(z | first half), LDA's the mean of its topics under E_q theta. Coherence is "
        f"the mean NPMI of pairs among a topic's first {TOP} words on the test posts, diversity the share "
        "of different words among all topics' words; higher is better for both. log p(x given N), in "
        f"nats, is on {EVALUATED} fixed test posts with K = 1,000; scikit-learn has only a bound of another "
        f"kind. The VAEs' epoch of the best validation ELBO is evaluated. {made_with(results)}"
    )
    return "\n\n".join([markdown(header, lines), note, *_findings(results), *_topics(results)])


def _column(cells: Sequence[Cell], name: str, digits: int = 2) -> str:
    """Mean and spread; nothing where the row has no such number."""
    return mean_and_spread([cell[name] for cell in cells], digits) if name in cells[0] else ""


def _findings(results: Results) -> list[str]:
    """Perplexity beside LDA's."""
    means = {
        row: statistics.mean(cell["perplexity"] for cell in cells_of(results, row).values())
        for row in TITLES
        if cells_of(results, row)
    }
    if LDA not in means:
        return []
    lines = [
        f"- {TITLES[row]}: perplexity {mean / means[LDA] - 1:+.1%} beside LDA's"
        for row, mean in means.items()
        if row != LDA
    ]
    return ["\n".join(lines)] if lines else []


def _topics(results: Results) -> list[str]:
    """The most coherent topics of the first seed of each row, side by side."""
    columns = {}
    for row, title in TITLES.items():
        cell = next(iter(cells_of(results, row).values()), {})
        if "topics" in cell:
            columns[title] = [
                f"{words} ({npmi:.2f})"
                for words, npmi in zip(cell["topics"], cell["topic_coherence"], strict=True)
            ][:SHOWN]
    if not columns:
        return []
    what = f"The {SHOWN} most coherent of {TOPICS} topics of the first seed, with their coherence:"
    return [f"{what}\n\n{markdown(list(columns), zip(*columns.values(), strict=True))}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = study_parser(__doc__, RESULTS)
    names = list(TITLES)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="These rows.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="These seeds.")
    parser.add_argument("--steps", type=int, default=5000, help="The number of training steps.")
    options = parser.parse_args(arguments)
    return run_study("topics", options, partial(fill, options), tables)


def fill(options: argparse.Namespace) -> None:
    """Train what is not there yet, and store it row by row."""
    for row in options.only:
        for seed in options.seeds:
            make = partial(cell_of, row, seed, options.steps)
            command = command_of(row, seed, options.steps)
            fill_cell(options.results, f"{row}/{seed}", command, make, again=options.again)


if __name__ == "__main__":
    sys.exit(main())
