"""The clustering programs: exact sums over classes, known posteriors, starts, and bad input."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn

from analysis.programs import clustering as analysis
from pyro_vae import fit, likelihoods, networks
from pyro_vae.data import digits
from pyro_vae.evidence import evaluate
from pyro_vae.programs import clustering
from pyro_vae.programs.clustering import ClassNormals, OneStepClustering

NETWORK = partial(networks.MLP, hidden=(8,))
WEIGHTS, LOC = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([[-2.0], [0.0], [3.0]])
SCALE = torch.tensor([[0.5], [0.3], [1.0]])
NOISE = 0.4


def small(form, **options):
    """A program on four binary pixels with weights, means and scales that differ."""
    program = clustering.build((1, 2, 2), 2, form=form, classes=3, network=NETWORK, **options)
    if form == "two_step":
        program.prior.set(WEIGHTS.log(), torch.randn(3, 2), torch.rand(3, 2) + 0.2)
    return program


def bits(n=20):
    return torch.bernoulli(torch.full((n, 1, 2, 2), 0.4))


def gradients(program, loss):
    return torch.autograd.grad(loss, [*program.parameters()])


def assert_equal_elbos(program, losses):
    """Of Pyro programs with the same draws of z: values and gradients."""
    found = []
    for elbo, model, guide in losses:
        torch.manual_seed(1)
        loss = elbo.differentiable_loss(model, guide, bits())
        found.append((loss, gradients(program, loss)))
    (one, ones), (other, others) = found
    torch.testing.assert_close(one, other)
    for a, b in zip(ones, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_two_step_is_pyros_enumeration_of_the_class():
    program = small("two_step")

    def model(x):
        """With y written out, which Pyro sums exactly."""
        p = program.prior()
        with pyro.plate("data", len(x)):
            y = pyro.sample(
                "y", dist.Categorical(logits=p.logits), infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", dist.Normal(p.loc[y], p.scale[y]).to_event(1))
            pyro.sample("x", program.likelihood(z), obs=x)

    assert_equal_elbos(
        program,
        [
            (Trace_ELBO(), program.model, program.guide),
            (TraceEnum_ELBO(max_plate_nesting=1), model, program.guide),
        ],
    )


def one_step_elbo(program, x, z):
    """The bound per example at draws z, with the sum over classes written out."""
    p, q = program.prior(), program.posterior(x)
    class_given_z = program.class_logits(z).log_softmax(-1)
    total = program.likelihood(z).log_prob(x) - q.log_prob(z)
    for y in range(program.classes):
        normal = dist.Normal(p.loc[y], p.scale[y]).to_event(1)
        weight = class_given_z[:, y].exp()
        total = total + weight * (
            normal.log_prob(z) - math.log(program.classes) - class_given_z[:, y]
        )
    return total


def test_one_step_is_its_formula_in_pyros_enumeration():
    program, x = small("one_step"), bits()
    torch.manual_seed(1)
    enumerated = TraceEnum_ELBO(max_plate_nesting=1)
    loss = enumerated.differentiable_loss(program.model, program.guide, x)
    torch.manual_seed(1)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", program.posterior(x))
    formula = -one_step_elbo(program, x, z).sum()
    torch.testing.assert_close(loss, formula)
    for a, b in zip(gradients(program, loss), gradients(program, formula), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_one_step_is_below_two_step_by_the_divergence_of_its_classifier():
    one, x = small("one_step"), bits(200)
    two = clustering.TwoStepClustering(one.prior, one.likelihood, one.posterior)
    z = one.posterior(x).sample()
    marginal = (
        two.likelihood(z).log_prob(x) + two.prior().log_prob(z) - two.posterior(x).log_prob(z)
    )
    q = dist.Categorical(logits=one.class_logits(z))
    exact = dist.Categorical(logits=two.class_logits(z))
    gap = torch.distributions.kl_divergence(q, exact)
    torch.testing.assert_close(marginal - one_step_elbo(one, x, z), gap, rtol=1e-4, atol=1e-4)
    assert gap.min() >= 0
    assert gap.mean() > 0.01


class Identity(nn.Module):
    """z as the only output."""

    def __init__(self, output_shape):
        super().__init__()
        self.output_shape = output_shape

    def forward(self, z):
        return z.unsqueeze(-2)


def linear(form="two_step"):
    """x = z + noise of standard deviation 0.4 in one dimension, and a broad guide."""
    program = clustering.build(
        (1,),
        1,
        form=form,
        classes=3,
        likelihood=partial(
            likelihoods.Normal, scale="fixed", initial_scale=NOISE, minimum_scale=1e-4
        ),
        network=NETWORK,
    )
    program.likelihood.decoder = Identity((1, 1))

    class Guide(nn.Module):
        def forward(self, x):
            return dist.Normal(x, torch.full_like(x, NOISE)).to_event(1)

    program.posterior.forward = Guide().forward
    if form == "two_step":
        program.prior.set(WEIGHTS.log(), LOC, SCALE)
    return program


def test_class_probabilities_are_bayes_rule_averaged_over_the_guide():
    program, x = linear(), torch.linspace(-4, 5, 40)[:, None]
    found = program.class_probabilities(x, draws=4000)
    assert found.shape == (40, 3)
    torch.testing.assert_close(found.sum(-1), torch.ones(40))
    # By quadrature over z: pi_y N(z | mu_y, sigma_y) / p(z) under N(z | x, 0.4).
    z = torch.linspace(-8, 9, 4001)
    joint = WEIGHTS * dist.Normal(LOC[:, 0], SCALE[:, 0]).log_prob(z[:, None]).exp()
    given_z = joint / joint.sum(-1, keepdim=True)
    guide = dist.Normal(x, NOISE).log_prob(z).exp()
    exact = guide @ given_z * (z[1] - z[0])
    torch.testing.assert_close(found, exact, rtol=0, atol=0.03)


def test_evidence_of_a_known_mixture():
    """p(x) = sum_k pi_k N(x | mu_k, sigma_k^2 + 0.16)."""
    x = torch.linspace(-4, 5, 30)[:, None]
    spread = (SCALE[:, 0].square() + NOISE**2).sqrt()
    joint = WEIGHTS.log() + dist.Normal(LOC[:, 0], spread).log_prob(x)
    weights = evaluate(linear(), x, num_samples=20_000).importance_weighting
    found = torch.as_tensor(weights.log_evidence)
    torch.testing.assert_close(found.float(), joint.logsumexp(-1), rtol=0, atol=0.05)


def test_samples_of_a_cluster_are_its_own():
    program = linear()
    for cluster in range(3):
        x = program.sample(3000, cluster=cluster, noise=True, seed=0)
        assert x.mean() == pytest.approx(LOC[cluster].item(), abs=0.1)
        assert x.var() == pytest.approx(SCALE[cluster].item() ** 2 + NOISE**2, rel=0.1)
    assert program.sample(5, seed=0).shape == (5, 1)
    with pytest.raises(ValueError, match="cluster must be from 0 to 2, got 3"):
        program.sample(2, cluster=3)


def three_groups(n=300):
    """Images of 16 real pixels around three patterns, and the pattern of each."""
    generator = torch.Generator().manual_seed(0)
    patterns = 2 * torch.rand(3, 16, generator=generator).round()
    y = torch.arange(n) % 3
    x = patterns[y] + 0.5 * torch.randn(n, 16, generator=generator)
    return x.view(n, 1, 4, 4), y


# For these data.
SHAPE = (1, 4, 4)
START = {
    "classes": 3,
    "start": "autoencoder",
    "start_steps": 500,
    "likelihood": "normal",
    "network": partial(networks.MLP, hidden=(32,)),
}


def accuracy(program, x, y):
    held_out = SimpleNamespace(x=x, y=y, label_names=(), event_names=(), contract=None)
    return analysis.scores(program, held_out)["cluster_accuracy"]


@pytest.mark.parametrize("name", ["autoencoder", "tsne"])
def test_a_start_from_codes_finds_groups_and_repeats(name, caplog):
    x, y = three_groups()

    def start(train_data=x, seed=0):
        torch.manual_seed(seed)
        options = {**START, "start": name}
        return clustering.build(SHAPE, 3, train_data=train_data, **options)

    with caplog.at_level("INFO"):
        program = start()
    assert f"{name} start: 500 steps on 300 rows" in caplog.text
    assert accuracy(program, x, y) > 0.9
    again, other = start(), start(seed=1)
    for key, value in program.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    assert not torch.equal(program.prior.loc, other.prior.loc)
    # As in `load`: parameters replace what is built.
    caplog.clear()
    with caplog.at_level("INFO"):
        start(train_data=None).load_state_dict(program.state_dict())
    assert not caplog.text


def test_the_start_leaves_the_global_random_stream_where_it_was():
    x, _ = three_groups()
    ends = []
    for start in ("none", "autoencoder"):
        torch.manual_seed(0)
        clustering.build(SHAPE, 2, train_data=x, **{**START, "start": start, "start_steps": 2})
        ends.append(torch.rand(()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("form", ["two_step", "one_step"])
def test_it_trains_and_gives_probabilities_of_new_data(form):
    program = clustering.build((1, 8, 8), 4, form=form, classes=10, network=NETWORK)
    history = fit(program, digits(), epochs=2, compile="off")
    assert history[-1]["elbo"] > history[0]["elbo"]
    evaluation = evaluate(program, digits().test.numpy()[:20], num_samples=5)
    assert np.isfinite(evaluation.importance_weighting.log_evidence).all()
    images = digits().test.numpy()[:7]
    found = program.class_probabilities(images)
    assert found.shape == (7, 10)
    torch.testing.assert_close(found, program.class_probabilities(images))
    assert program.sample(3, cluster=2).shape == (3, 1, 8, 8)


@pytest.mark.slow
def test_two_step_learns_a_mixture_whose_posterior_is_known():
    x, y = three_groups(1000)
    program = clustering.build(SHAPE, 2, train_data=x, **START)
    fit(program, x.numpy(), epochs=30)
    assert accuracy(program, x, y) > 0.99
    assert program.class_probabilities(x).amax(-1).mean() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"classes": 9, "train_size": 8}, "classes must be at most the 8 training data, got 9"),
        ({"form": "one_step", "start": "kmeans"}, "start must be none for form one_step"),
        ({"start_steps": 0}, "start_steps must be at least 1, got 0"),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        clustering.build((1, 2, 2), 2, network=NETWORK, **options)
    assert "\n" not in str(error.value)


def test_more_classes_than_data_in_hand():
    with pytest.raises(ValueError, match="at most the 5 training data, got 6"):
        clustering.build((1, 2, 2), 2, classes=6, train_data=bits(5), network=NETWORK)


def test_scores_and_figures():
    x, y = three_groups(60)
    program = clustering.build(SHAPE, 2, classes=3, likelihood="normal", network=NETWORK)
    # The class of an image is that of its pattern.
    program.class_probabilities = lambda x: torch.eye(3)[[2, 0, 1]][torch.arange(len(x)) % 3]
    held_out = SimpleNamespace(x=x, y=y, label_names=(), event_names=(), contract=None)
    perfect = analysis.scores(program, held_out)
    assert set(perfect.values()) == {1.0, 3.0}
    held_out.y = torch.where(torch.arange(60) < 50, y, -1)
    assert analysis.scores(program, held_out)["cluster_nmi"] == pytest.approx(1)
    held_out.y = None
    assert analysis.scores(program, held_out)["cluster_accuracy"] is None
    (name, plot), *_ = analysis.figures(program, held_out).items()
    assert name == "clusters"
    assert "60 held-out" in plot().get_suptitle()


def test_the_two_accuracies_differ_with_more_clusters_than_labels():
    labels = np.array([0, 0, 0, 1, 1, 1])
    clusters = np.array([0, 0, 2, 1, 1, 1])
    assert analysis.majority_accuracy(clusters, labels) == 1
    assert analysis.agreement(clusters, labels).accuracy == pytest.approx(5 / 6)


def test_class_normals_are_a_mixture_of_unit_normals():
    prior = ClassNormals(2, 3)
    z = torch.randn(5, 2)
    each = dist.Normal(prior.loc, 1).to_event(1).log_prob(z[:, None])
    torch.testing.assert_close(prior().log_prob(z), each.logsumexp(-1) - math.log(3))
    assert isinstance(small("one_step"), OneStepClustering)
