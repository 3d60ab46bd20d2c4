"""The model files to copy."""

import json
import runpy
from pathlib import Path

import pyro
import pytest
import torch

from pyro_vae import fit, load, posteriors, priors
from pyro_vae.configuration.parser import parse
from pyro_vae.data import Dataset, PreparedData, digits

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"


@pytest.mark.parametrize("prior", [priors.Dirichlet, priors.LogisticNormal])
def test_a_topic_model_tells_two_topics_apart(prior):
    # The even words are said in one half of the posts, the odd ones in the other.
    words = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(1, 5)
    of = torch.arange(400) % 2
    counts = torch.poisson(10 * words[of]).to(torch.int16)
    data = PreparedData(
        Dataset("posts", "counts", None, counts, counts[:100], counts[:100]), "counts"
    )
    pyro.set_rng_seed(0)
    build = runpy.run_path(str(EXAMPLES / "topic_model.py"))["build"]
    vae = build((10,), 2, prior=prior, posterior=posteriors.LogisticNormal, train_data=counts)
    fit(vae, data, epochs=60, lr=0.01, compile="off")
    (logits,) = vae.likelihood.outputs(vae.embed(counts[:2].float()))
    # What is said in each kind of post is found from the post; one topic alone would give a half.
    shares = (logits.softmax(-1) @ words.T).diagonal()
    assert shares.min() > 0.85
    # A mixture of topics is its own softmax: the logits are logarithms of chances.
    theta = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.3, 0.7]])
    chances = vae.likelihood.outputs(theta)[0].exp()
    torch.testing.assert_close(chances.sum(-1), torch.ones(3))
    torch.testing.assert_close(chances[2], 0.3 * chances[0] + 0.7 * chances[1])
    # Leading axes are free.
    theta = torch.full((3, 4, 2), 0.5)
    assert vae.likelihood(theta).batch_shape == (3, 4)
    assert vae.likelihood(theta[0, 0]).batch_shape == ()


def test_the_command_line_takes_it():
    file = str(EXAMPLES / "topic_model.py")
    configuration = parse(["--model", file, "--data", "newsgroups", "--network.hidden", "[64]"])
    assert configuration["latent_dim"] == 20
    assert configuration["likelihood"]["name"] == "multinomial"
    assert configuration["prior"]["name"] == "dirichlet"


def test_a_mixture_gives_the_class_of_new_data(script, tmp_path):
    file, out = EXAMPLES / "digit_clusters.py", tmp_path / "run"
    options = ("--max-steps", 2, "--prior.start", "kmeans", "--evaluate", "none")
    assert script("svi_train", "--model", file, "--out", out, *options) == 0
    program = load(out, trust_model_file=True)
    probabilities = program.class_probabilities(digits().test.numpy())
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(360))
    assert probabilities.shape == (360, 10)


def test_a_program_from_scratch_trains_and_is_evaluated(script, tmp_path):
    file, out = EXAMPLES / "from_scratch.py", tmp_path / "run"
    options = ("--max-steps", 2, "--hidden", 10, "--latent-dim", 3, "--compile", "off")
    assert script("svi_train", "--model", file, "--out", out, *options) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["steps"] == 2
    assert metrics["parameters"] == 65 * 10 + 11 * 6 + 4 * 10 + 11 * 64
    assert metrics["log_evidence"] > metrics["elbo"]
    assert (out / "figures" / "reconstructions.png").exists()


def test_the_page_shows_the_lines_of_the_file():
    page = (EXAMPLES.parents[1] / "docs" / "own-program.md").read_text()
    section = page.partition("## Write your own program")[2].partition("## Any Pyro")[0]
    blocks = [part.partition("```")[0] for part in section.split("```python\n")[1:]]
    shown = [lines_of(block) for block in blocks if not block.startswith(">>>")]
    assert len(shown) == 6
    for block in shown:
        assert block in lines_of((EXAMPLES / "from_scratch.py").read_text())


def lines_of(program: str) -> str:
    """Its lines without indentation and empty ones."""
    return "\n".join(line.strip() for line in program.splitlines() if line.strip())
