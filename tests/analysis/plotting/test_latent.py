"""The latent space: dimensions and codes in the plane."""

import numpy as np
import pytest

from analysis.plotting.latent import plot_dimensions, plot_latent_space, project

RNG = np.random.default_rng(0)


def test_dimensions_are_sorted_and_counted(words):
    scale = np.array([0.01, 1.0, 0.0, 0.5])
    kl = np.array([0.1, 3.0, 0.0, 1.0])
    axes, text = words(plot_dimensions(kl, RNG.normal(size=(500, 4)) * scale))
    assert [bar.get_height() for bar in axes[0].patches] == [3.0, 1.0, 0.1, 0.0]
    assert [label.get_text() for label in axes[1].get_xticklabels()] == ["1", "3", "0", "2"]
    assert "KL 4.1 nats in all; 2 of 4 units active" in text
    assert "threshold 0.01" in text
    assert "nats" in axes[0].get_ylabel()
    assert axes[1].get_ylabel()
    assert axes[1].get_xlabel()


@pytest.mark.parametrize("latent", [1, 60])
def test_dimensions_without_kl_and_of_a_collapsed_model(words, latent):
    codes = RNG.normal(size=(50, latent))
    axes, text = words(plot_dimensions(None, codes))
    assert len(axes) == 1
    assert f"{latent} of {latent} units active" in text
    axes, text = words(plot_dimensions(np.zeros(latent), 0 * codes))
    assert f"KL 0.0 nats in all; 0 of {latent} units active" in text
    assert "ignored" in text


def test_projection():
    plane = RNG.normal(size=(30, 2))
    assert project(plane).points is plane
    line = np.linspace(-1, 1, 30)[:, None] * np.array([[3.0, 4.0, 0.0]])
    projection = project(line + 1e-3 * RNG.normal(size=(30, 3)))
    assert "100% of the variance" in projection.axes[0]
    np.testing.assert_allclose(np.abs(projection.points[[0, -1], 0]), 5, atol=0.01)
    assert not project(plane[:, :1]).isotropic
    assert "constant" in project(np.zeros((30, 3))).axes[0]
    rounded = 100 * np.ones((30, 3), np.float32)
    rounded[0] = np.nextafter(rounded[0], np.float32(101))
    assert "constant" in project(rounded).axes[0]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_projection_is_that_of_scikit_learn(kind):
    from sklearn.decomposition import PCA

    codes = (RNG.normal(size=(40, 5)) @ RNG.normal(size=(5, 5)) + 3).astype(kind)
    pca = PCA(2, svd_solver="full")
    np.testing.assert_allclose(project(codes).points, pca.fit_transform(codes), rtol=1e-4)
    assert f"({pca.explained_variance_ratio_[1]:.0%} of" in project(codes).axes[1]


LABELS = {
    "none": (None, False),
    "one class": (np.zeros(60, dtype=int), True),
    "15 classes": (np.arange(60) % 15, True),
    "words": (np.array(["cat", "dog", "cow"] * 20), True),
    "real": (RNG.normal(size=60), True),
    "some": (np.arange(60) % 4 - 1, True),
    "unlabelled": (np.full(60, -1), False),
    "missing": (np.where(np.arange(60) % 2, RNG.normal(size=60), np.nan), True),
}


@pytest.mark.parametrize(
    ("latent", "kind"), [(1, "15 classes"), (1, "none"), (7, "real"), *((2, k) for k in LABELS)]
)
def test_latent_space(latent, kind):
    labels, labelled = LABELS[kind]
    figure = plot_latent_space(RNG.normal(size=(60, latent)), labels)
    axes = figure.axes
    assert axes[0].get_xlabel()
    assert axes[0].get_ylabel()
    assert sum(len(drawn.get_offsets()) for drawn in axes[0].collections) == 60
    assert ("by label" in axes[0].get_title()) == labelled
    if latent > 1:
        assert axes[0].get_aspect() == 1


def test_names_at_one_place_are_separated():
    codes = RNG.normal(size=(100, 2))
    axes = plot_latent_space(codes, np.arange(100) % 5).axes
    places = np.array([text.get_position() for text in axes[0].texts])
    gaps = np.linalg.norm(places[:, None] - places, axis=-1)
    assert gaps[~np.eye(5, dtype=bool)].min() > 0.05 * np.ptp(codes, axis=0).max()


def test_a_constant_code():
    axes = plot_latent_space(np.zeros((20, 4)), np.arange(20) % 2).axes
    assert "constant" in axes[0].get_xlabel()


def test_factors_get_a_panel_each(words):
    factors = RNG.integers(0, 4, size=(60, 8))
    axes, text = words(plot_latent_space(RNG.normal(size=(60, 3)), factors, ["shape", "scale"]))
    titles = [ax.get_title() for ax in axes if ax.get_title()]
    assert titles == ["shape", "scale", "factor 2", "factor 3", "factor 4", "factor 5"]
    assert "the first 6 of 8" in text


def test_labels_are_called_by_their_names(words):
    labels = np.repeat([0, 1], 30)
    _, text = words(plot_latent_space(RNG.normal(size=(60, 2)), labels, ["temple", "flower"]))
    assert "temple" in text
    assert "flower" in text
