"""Newsgroup posts: held-out words and topics of VAEs, beside latent Dirichlet allocation.

On one core it takes about a quarter of an hour; `--steps 50000` is the larger setting for a GPU.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.study import ROOT, Row, Study, evaluated
from analysis.study_results import Cell, Results, cells_of, made_with, markdown, mean
from analysis.topics import coherence, diversity, perplexity, top_words
from pyro_vae import load
from pyro_vae.data import default_root, newsgroups, newsgroups_halves
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.run_directory import provenance

TOPICS = 20
LDA = "lda"
# Online variational Bayes with as many posts per step as the VAEs. With seed 0 the perplexity is
# 1822 after 5 passes, 1831 after 10 and 1840 after 20.
LDA_OPTIONS = {"learning_method": "online", "max_iter": 10, "batch_size": 128}
# Draws of z for p(w | first half), and posts at a time.
DRAWS, CHUNK = 32, 250
# Posts with log p(x), whose 1,000 draws are long for 3,072 words.
EVALUATED = 200
# Words of a topic that count, and topics shown.
TOP, SHOWN = 8, 6


def measure(run: Path, row: str, _options: argparse.Namespace) -> Cell:
    """Predict the second halves of the test posts, and read the topics."""
    vae: Any = load(run, trust_model_file=True)
    cell = evaluated(run, at_most=EVALUATED)
    first, second = newsgroups_halves(default_root())
    cell["perplexity"] = perplexity(predictive(vae, first), second.numpy())
    return {**cell, **(topic_entries(corners(vae)) if row != "multinomial" else {})}


def predictive(vae: Any, posts: torch.Tensor, draws: int = DRAWS) -> np.ndarray:
    """p(w | post) = E_q(z | post) p(w | z) of each post and word, a mean over draws."""
    chunks = []
    with evaluation_mode(vae, seed=0):
        for chunk in posts.split(CHUNK):
            q = vae.posterior(chunk.to(torch.get_default_dtype()))
            # One draw at a time: all at once would take gigabytes.
            chunks.append(sum(words_of(vae, q.sample()) for _ in range(draws)) / draws)
    return torch.cat(chunks).numpy()


def corners(vae: Any) -> np.ndarray:
    """p(w | theta = e_k): the topic of each corner of the simplex."""
    with evaluation_mode(vae):
        return words_of(vae, torch.eye(TOPICS)).numpy()


def words_of(vae: Any, z: torch.Tensor) -> torch.Tensor:
    """p(w | z), the multinomial's proportions."""
    (logits,) = vae.likelihood.outputs(z)
    return logits.softmax(-1)


def lda(seed: int, _options: argparse.Namespace) -> Cell:
    """The same of latent Dirichlet allocation, with theta the mean of its q(theta | post)."""
    from scipy import sparse
    from sklearn.decomposition import LatentDirichletAllocation

    data = newsgroups(default_root())
    model = LatentDirichletAllocation(TOPICS, random_state=seed, **LDA_OPTIONS)
    model.fit(sparse.csr_matrix(data.split("train").numpy().astype(np.int64)))
    topics = model.components_ / model.components_.sum(1, keepdims=True)
    first, second = newsgroups_halves(default_root())
    theta = model.transform(sparse.csr_matrix(first.numpy().astype(np.int64)))
    found = perplexity(theta @ topics, second.numpy())
    return {"perplexity": found, **topic_entries(topics), **provenance()}


def topic_entries(topics: np.ndarray) -> Cell:
    """The top words of each topic and their coherence on the test posts, most coherent first."""
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


def tables(study: Study, results: Results) -> str:
    """One row per model, and the topics of each."""
    parts = [study.table(results, ROWS, COLUMNS), f"{NOTE} {made_with(results)}"]
    means = {
        row: statistics.mean(cell["perplexity"] for cell in cells.values())
        for row in ROWS
        if (cells := cells_of(results, row))
    }
    if LDA in means:
        parts.append(
            "\n".join(
                f"- {ROWS[row].title}: perplexity {value / means[LDA] - 1:+.1%} relative to LDA"
                for row, value in means.items()
                if row != LDA
            )
        )
    columns = {}
    for row, shown in ROWS.items():
        cell = next(iter(cells_of(results, row).values()), {})
        if "topics" in cell:
            pairs = zip(cell["topics"], cell["topic_coherence"], strict=True)
            columns[shown.title] = [f"{words} ({npmi:.2f})" for words, npmi in pairs][:SHOWN]
    if columns:
        parts.append(
            f"The {SHOWN} most coherent of {TOPICS} topics of the first seed, with their "
            "coherence:"
        )
        parts.append(markdown(list(columns), zip(*columns.values(), strict=True)))
    return "\n\n".join(part for part in parts if part)


# A high learning rate, which batch normalisation permits.
TOPIC_MODEL = (
    f"--model {ROOT / 'scripts' / 'examples' / 'topic_model.py'} --latent-dim {TOPICS}"
    " --network.norm batch --lr 0.01"
)
ROWS = {
    LDA: Row(
        title=f"LDA, scikit-learn, {TOPICS} topics",
        command="python scripts/studies/topics.py --only {row} --seeds {seed}",
        make=lda,
    ),
    "multinomial": Row(
        f"--likelihood multinomial --latent-dim {TOPICS} --lr 0.001",
        title="VAE, standard normal prior, mlp decoder",
    ),
    "topics_logistic_normal": Row(
        f"{TOPIC_MODEL} --prior logistic_normal", title="topic model, logistic normal prior"
    ),
    "topics_dirichlet": Row(
        f"{TOPIC_MODEL} --prior dirichlet", title="topic model, Dirichlet prior"
    ),
}
COLUMNS = (
    ("perplexity", mean("perplexity", 0)),
    ("coherence", mean("coherence", 3)),
    ("diversity", mean("diversity")),
    ("log p(x given N)", mean("log_evidence")),
    ("KL", mean("kl")),
    ("epochs", mean("epochs", 0)),
)
NOTE = (
    "Mean and standard deviation over seeds. Perplexity, lower is better, is that of the words "
    "of the second half of each of 7,531 test posts, given the first half: the p(w) of a VAE is "
    f"a mean over {DRAWS} draws from q(z | first half), that of LDA the mean of its topics under "
    f"E_q theta. Coherence is the mean NPMI of pairs among a topic's top {TOP} words on the test "
    "posts, diversity the share of distinct words among all topics' words; higher is better for "
    f"both. log p(x given N), in nats, is on {EVALUATED} fixed test posts with 1,000 draws; "
    "scikit-learn has only a bound of another kind. The epoch of the best validation ELBO is "
    "evaluated."
)
STUDY = Study(
    name="topics",
    about=__doc__,
    rows=ROWS,
    command="python scripts/studies/topics.py --only {row} --steps {steps} --seeds {seed}",
    train=(
        "--data newsgroups {words} --batch-size 128 --early-stopping 20 --epochs 100000 "
        "--max-steps {steps} --evaluate none --seed {seed}"
    ),
    measure=measure,
    options={"steps": 5000},
    tables=tables,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
