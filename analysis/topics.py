"""Metrics of topic models: perplexity of held-out words, coherence and diversity of topics."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Real


def perplexity(
    probabilities: Float[np.ndarray, "documents words"],
    counts: Integer[np.ndarray, "documents words"],
) -> float:
    """exp(-sum_dw n_dw log p_dw / sum_dw n_dw): the number of equally likely words as surprising.

    In document completion p_d is inferred from one half of a document and n_d counts the other.

    Args:
        probabilities: The probability p_dw of each word in each document.
        counts: The number n_dw of occurrences of each word in each document.

    Raises:
        ValueError: If there are no words to predict.

    References:
        Evaluation Methods for Topic Models (Wallach et al., 2009), section 5.1 (document
        completion), https://doi.org/10.1145/1553374.1553515
    """
    total = counts.sum(dtype=np.int64)
    if total == 0:
        raise ValueError("counts must have at least one word, got none.")
    rows, words = counts.nonzero()
    log_p = np.log(probabilities[rows, words].astype(np.float64))
    return math.exp(-float((counts[rows, words] * log_p).sum()) / total)


def top_words(
    topics: Real[np.ndarray, "topics words"], number: int
) -> Int[np.ndarray, "topics top"]:
    """The words of highest weight in each topic, the highest first.

    Args:
        topics: The weight of each word in each topic.
        number: The number of words per topic.

    Raises:
        ValueError: If there are fewer words.
    """
    if not 1 <= number <= topics.shape[1]:
        raise ValueError(f"number must be between 1 and {topics.shape[1]}, got {number}.")
    # Stable, so that ties are the same everywhere.
    return np.argsort(-topics, axis=1, kind="stable")[:, :number]


def coherence(
    words: Int[np.ndarray, "topics top"], documents: Bool[np.ndarray, "documents words"]
) -> Float[np.ndarray, " topics"]:
    """The mean over pairs of a topic's words of NPMI = log(p_ij / (p_i p_j)) / -log p_ij.

    p_i is the share of documents with word i, p_ij the share with both words. A pair scores 1 if
    the words only occur together, 0 if they are independent, and -1 if they never occur together,
    as with a word in no document. Two words that are in every document score 0.

    Args:
        words: At least 2 words of each topic.
        documents: Whether each document has each word; not the documents that the topics were
            fitted to.

    Raises:
        ValueError: If topics have fewer than 2 words.

    References:
        Machine Reading Tea Leaves (Lau et al., 2014), https://aclanthology.org/E14-1056
    """
    if words.shape[1] < 2:
        raise ValueError(f"topics must have at least 2 words, got {words.shape[1]}.")
    first, second = np.triu_indices(words.shape[1], k=1)
    return np.array([_npmi(documents[:, topic], first, second).mean() for topic in words])


def diversity(words: Int[np.ndarray, "topics top"]) -> float:
    """The share of distinct words among the words of all topics: 1 if no two topics share a word.

    References:
        Topic modeling in embedding spaces (Dieng et al., 2020), section 6,
        https://doi.org/10.1162/tacl_a_00325
    """
    return len(np.unique(words)) / words.size


def _npmi(
    there: Bool[np.ndarray, "documents top"],
    first: Int[np.ndarray, " pairs"],
    second: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    counts = there.astype(np.float64)
    joint = (counts.T @ counts / len(counts))[first, second]
    p = counts.mean(0)
    meet, always = joint > 0, joint == 1
    values = np.where(always, 0.0, -1.0)
    some = meet & ~always
    independent = p[first[some]] * p[second[some]]
    values[some] = np.log(joint[some] / independent) / -np.log(joint[some])
    return values
