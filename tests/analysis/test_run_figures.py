"""Every figure of a run, from the program to the file."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.image import imread

from analysis.plotting.latent import plot_latents
from analysis.run_figures import draw_figures
from pyro_vae import build, likelihoods, posteriors, priors
from pyro_vae.evidence import evaluate
from pyro_vae.inference_data import from_svi

pytestmark = pytest.mark.arviz

NAMES = [
    "learning_curves",
    "reconstructions",
    "prior_samples",
    "predictive_check",
    "latent_space",
    "kl_by_dimension",
    "guide_quality",
    "forest",
]
HISTORY = [
    {"epoch": e, "elbo": -9.0 / e, "reconstruction": -8.0 / e, "kl": 1.0 / e} for e in (1, 2)
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event_shape", "latent", "parts", "labelled"),
    [
        ((1, 8, 8), 3, {}, True),
        ((3, 5, 4), 2, {"likelihood": likelihoods.Normal}, False),
        ((12,), 1, {"prior": priors.GaussianMixture, "posterior": posteriors.FullNormal}, True),
    ],
    ids=["grey", "colour", "not images"],
)
def test_every_figure_is_drawn(tmp_path, event_shape, latent, parts, labelled):
    vae = build(event_shape, latent, **parts)
    x = torch.randint(0, 2, (30, *event_shape), dtype=torch.uint8)
    tree = from_svi(vae.model, vae.guide, x[:5].float(), num_draws=30)
    evaluation = evaluate(vae, x, num_samples=30)
    labels = torch.arange(30) % 3 if labelled else None
    state, modes = torch.get_rng_state(), [m.training for m in vae.modules()]
    paths = draw_figures(
        vae, tree, evaluation, HISTORY, x, labels, tmp_path / "figures", num_samples=9
    )
    assert [path.name for path in paths] == [f"{name}.png" for name in NAMES]
    for path in paths:
        image = imread(path)
        assert min(image.shape[:2]) > 200
        assert image.std() > 0.01
    # Nothing of it is left in the process.
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in vae.modules()] == modes
    assert pyplot.get_fignums() == []


def test_forest_says_what_it_shows(words):
    vae = build((1, 8, 8), 20)
    tree = from_svi(
        vae.model,
        vae.guide,
        torch.zeros(5, 1, 8, 8),
        num_draws=10,
        coords={"image": [11, 22, 33, 44, 55]},
    )
    axes, text = words(plot_latents(tree, images=2, dimensions=4))
    assert "median, 50% and 90% intervals of q(z | x)" in axes[-1].get_xlabel()
    assert "2 test data" in text
    assert "11" in text
    assert "22" in text
    assert "33" not in text
    written = [float(t.get_text()) for t in axes[0].texts]
    assert sorted(written) == sorted([11, 22, *np.tile(np.arange(4), 2)])
