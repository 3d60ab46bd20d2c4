"""The model files to copy."""

import json
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

from pyro_vae import fit, load, networks, posteriors, priors
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


def small_set(kind, levels, shape):
    values = torch.randint(levels or 2, (120, *shape), generator=torch.Generator().manual_seed(0))
    values = values.to(torch.uint8)
    return Dataset("small", kind, levels, values[:60], values[60:90], values[90:])


def trained_two_steps(name, data, support, **parts):
    """The program of an example after two steps, and data in its likelihood's support."""
    pyro.set_rng_seed(0)
    build = runpy.run_path(str(EXAMPLES / f"{name}.py"))["build"]
    prepared = PreparedData(data, support)
    vae = build(data.event_shape, 4, network=partial(networks.MLP, hidden=(8,)), **parts)
    before = {n: p.clone() for n, p in vae.named_parameters()}
    history = fit(vae, prepared, epochs=2, max_steps=2, batch_size=30, compile="off")
    assert history[-1]["step"] == 2
    assert all(not p.equal(before[n]) for n, p in vae.named_parameters() if "networks" not in n)
    return vae, prepared.fixed("test")


def test_a_flow_prior_has_the_density_of_its_draws():
    vae, x = trained_two_steps("flow_prior", small_set("binary", None, (1, 6, 6)), "binary")
    p = vae.prior()
    with torch.no_grad():
        # Away from the identity, at which everything would hold.
        for network in vae.prior.couplings.networks:
            network.head.weight.normal_(std=0.1)
        z = p.sample((50,))
        u, log_det = vae.prior.couplings.inverse(z)
        again, other = vae.prior.couplings(u)
        torch.testing.assert_close(again, z, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other, log_det, atol=1e-4, rtol=1e-4)
        jacobian = torch.autograd.functional.jacobian(lambda u: vae.prior.couplings(u)[0], u[0])
        torch.testing.assert_close(jacobian.slogdet()[1], log_det[0], atol=1e-4, rtol=1e-4)
        normal = priors.StandardNormal(4)().log_prob(u)
        log_prob = vae.prior().log_prob(z.clone())
        torch.testing.assert_close(log_prob, normal - log_det, atol=1e-4, rtol=1e-4)
    # The order is reversed in between, so that no coordinate keeps its value.
    assert (jacobian - torch.eye(4)).abs().sum(1).min() > 0
    assert vae.sample(3, seed=0).shape == (3, *x.shape[1:])


def test_a_student_t_learns_the_tails_of_each_pixel():
    vae, x = trained_two_steps("student_t", small_set("integers", 256, (1, 5, 4)), "real")
    p = vae.likelihood(vae.embed(x[:7]))
    assert p.batch_shape == (7,)
    assert p.event_shape == (1, 5, 4)
    df = p.base_dist.df
    assert df.min() > 2
    assert df[0].unique().numel() > 1  # Each pixel's own, after two steps.
    assert vae.decode(vae.embed(x)).shape == x.shape
    build = runpy.run_path(str(EXAMPLES / "student_t.py"))["build"]
    wrong = partial(build((1, 5, 4), 4).likelihood.__class__, initial_df=2.0)
    with pytest.raises(ValueError, match=r"initial_df above 2, got 0.1 and 2.0"):
        build((1, 5, 4), 4, likelihood=wrong)


@pytest.mark.parametrize(
    ("name", "data", "prior", "likelihood"),
    [
        ("flow_prior", "mnist", "real_nvp", "bernoulli"),
        ("student_t", "freyface", "standard_normal", "pixel_student_t"),
    ],
)
def test_parts_of_an_example_are_options(name, data, prior, likelihood):
    words = ["--model", str(EXAMPLES / f"{name}.py"), "--data", data]
    configuration = parse([*words, "--prior", prior, "--network.hidden", "[64]"])
    assert configuration["prior"]["name"] == prior
    assert configuration["likelihood"]["name"] == likelihood


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


def test_counts_of_cells_are_given_their_batch(script, tmp_path):
    rng = np.random.default_rng(0)
    pd.DataFrame(rng.poisson(5.0, (120, 6))).assign(batch=["a", "b", "c"] * 40).to_csv(
        tmp_path / "cells.csv", index=False
    )
    file, out = EXAMPLES / "counts_with_batch.py", tmp_path / "run"
    data = ("--data", tmp_path / "cells.csv", "--data.label", "batch", "--data.scale", "none")
    options = ("--max-steps", 2, "--network.hidden", "[8]", "--latent-dim", 2)
    assert script("svi_train", "--model", file, "--out", out, *data, *options) == 0
    program = load(out, trust_model_file=True)
    # A total of 60 is shared among the genes, in each batch.
    means = program.sample(2, y="b", size=60.0, seed=0)
    assert means.to_numpy().sum(1) == pytest.approx(60, rel=1e-3)
    assert program.shifts.shape == (3, 6)
