"""Metrics of topics with known values."""

import math

import numpy as np
import pytest

from analysis.topics import coherence, diversity, perplexity, top_words


def test_perplexity():
    counts = np.array([[3, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert perplexity(np.full((3, 4), 0.25), counts) == pytest.approx(4)
    p = np.array([[0.5, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.3, 0.4]])
    expected = math.exp(-(4 * math.log(0.5) + math.log(0.1 * 0.2 * 0.3 * 0.4)) / 8)
    assert perplexity(p, counts) == pytest.approx(expected)
    with pytest.raises(ValueError, match="at least one word"):
        perplexity(p, np.zeros_like(counts))


def test_top_words():
    topics = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]])
    assert top_words(topics, 2).tolist() == [[1, 2], [0, 2]]
    with pytest.raises(ValueError, match="between 1 and 3, got 4"):
        top_words(topics, 4)


def test_coherence():
    # Words 0 and 1 always together, 2 and 3 independent, 4 never with 0, 5 nowhere, 6 everywhere.
    documents = np.array(
        [
            [1, 1, 1, 1, 0, 0, 1],
            [1, 1, 0, 1, 0, 0, 1],
            [0, 0, 1, 0, 1, 0, 1],
            [0, 0, 0, 0, 1, 0, 1],
        ],
        dtype=bool,
    )
    pairs = np.array([[0, 1], [2, 3], [0, 4], [0, 5], [0, 6], [6, 6]])
    np.testing.assert_allclose(coherence(pairs, documents), [1, 0, -1, -1, 0, 0], atol=1e-12)
    # p_0 = 1/2, p_2 = 1/2, p_02 = 1/4; of three words, the mean of three pairs.
    np.testing.assert_allclose(coherence(np.array([[0, 1, 2]]), documents), [1 / 3])
    documents[3, 2] = True
    npmi = math.log((1 / 4) / (1 / 2 * 3 / 4)) / -math.log(1 / 4)
    np.testing.assert_allclose(coherence(np.array([[0, 2]]), documents), [npmi])
    with pytest.raises(ValueError, match="at least 2"):
        coherence(np.array([[0]]), documents)


def test_diversity():
    assert diversity(np.array([[0, 1], [2, 3]])) == 1
    assert diversity(np.array([[0, 1], [1, 0]])) == 0.5
