"""M2: its bounds against known answers, its labels, and what it gives back."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn

from pyro_vae.evidence import evaluate, importance_weighting
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.log_densities import log_densities
from pyro_vae.objectives import ELBO
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.few_labels import labelled_rows
from pyro_vae.programs.semi_supervised import (
    LABELLED_BATCH,
    SemiSupervised,
    build,
)

CLASSES, LATENT = 4, 3


def images(n=6):
    """Binary images of 4 x 4."""
    return torch.bernoulli(torch.full((n, 4, 4), 0.3))


def small(**options):
    """A program of small images in evaluation mode."""
    options = {"classes": CLASSES, "latent_dim": LATENT, "features": 8} | options
    return build((4, 4), **options).eval()


def with_labels(n=40, labelled=8, **options):
    """A program with stored rows, and the labels of its training rows."""
    y = torch.arange(n) % CLASSES
    return small(train_data=images(n), train_labels=y, labelled=labelled, **options), y


def by_hand(program, x, y, z):
    """log p(x | y, z) + log p(y) + log p(z) - log q(z | x, y) of one class for each row."""
    one_hot = torch.eye(CLASSES)[y]
    h = program.encoder(x) + one_hot @ program.class_features.weight.T
    log_q = program.posterior(h).log_prob(z)
    p = program.likelihood(torch.cat([z, one_hot], -1))
    return p.log_prob(x) - math.log(CLASSES) + program.prior().log_prob(z) - log_q


def enumerated(program, x, y=None):
    """Pyro's bound, summed over rows, and the draws of z for each class."""
    torch.manual_seed(1)
    guide = poutine.enum(program.guide, first_available_dim=-2)
    z = poutine.trace(guide).get_trace(x, y).nodes["z"]["value"]
    torch.manual_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(
        program.model, program.guide, x, y
    )
    return -loss, z


def gradients(program, value):
    """The gradient of a value for each parameter, 0 where there is none."""
    found = torch.autograd.grad(value, [*program.parameters()], allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(program.parameters(), found, strict=True)
    ]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_unlabelled_bound_is_the_sum_over_classes():
    program, x = small(), images()
    bound, z = enumerated(program, x)
    q = program.classifier(x).softmax(-1)
    rows = [by_hand(program, x, torch.full((6,), k), z[k]) for k in range(CLASSES)]
    expected = sum(q[:, k] * (row - q[:, k].log()) for k, row in enumerate(rows)).sum()
    close(bound, expected)
    close(gradients(program, bound), gradients(program, expected))


@pytest.mark.parametrize("labels", [None, [0, -1, 2, -1, 3, 1]])
def test_the_objective_is_the_bound_of_pyro(labels):
    program, x = small(), images()
    y = () if labels is None else (torch.tensor(labels),)
    for mode in (program.eval(), program.train()):
        bound, _ = enumerated(mode, x, *y)
        torch.manual_seed(1)
        terms = log_densities(program.model, program.guide, x, *y)
        loss = ELBO(kl="monte_carlo").value(terms).loss.sum()
        close(-loss, bound)
        close(gradients(program, -loss), gradients(program, bound))


def test_labelled_bound_is_that_of_a_conditional_vae():
    program, x = small(), images()
    y = torch.tensor([0, 1, 2, 3, 0, 2])
    bound, z = enumerated(program, x, y)
    own = z[y, torch.arange(6)]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", program.prior())
            pyro.sample("x", program.likelihood(torch.cat([z, torch.eye(CLASSES)[y]], -1)), obs=x)

    def guide(x):
        h = program.encoder(x) + program.class_features.weight.T[y]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(own, program.posterior(h).log_prob(own), event_dim=1))

    conditional = -Trace_ELBO().differentiable_loss(model, guide, x) - 6 * math.log(CLASSES)
    close(bound, conditional)
    close(gradients(program, bound), gradients(program, conditional))


def test_a_batch_mixes_rows_with_and_without_labels():
    program, x = small(), images()
    y = torch.tensor([0, -1, 2, -1, 3, 1])
    bound, z = enumerated(program, x, y)
    q = program.classifier(x).softmax(-1)
    rows = torch.stack([by_hand(program, x, torch.full((6,), k), z[k]) for k in range(CLASSES)])
    unlabelled = (q.T * (rows - q.T.log())).sum(0)
    labelled = rows.gather(0, y.clamp(min=0)[None])[0]
    close(bound, torch.where(y < 0, unlabelled, labelled).sum())


class Table(nn.Module):
    """Logits of x that depend on the class alone, so that log p(x) is known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, code):
        return (code[..., LATENT:] @ self.logits).unsqueeze(-2)


class Exact(nn.Module):
    """log p(x, y) of each class."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, x):
        logits = self.table.logits
        return dist.Bernoulli(logits=logits).to_event(1).log_prob(x.unsqueeze(-2))


class Apart(nn.Module):
    """The parameters of N(0, 1), without x."""

    def __init__(self, shape):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, h):
        # softplus of the second is 1.
        one = torch.tensor([0.0, math.log(math.e - 1)]).unsqueeze(-1)
        return one.expand(*h.shape[:-1], 2, LATENT)


def test_log_evidence_of_a_discrete_model_is_exact():
    table = Table(torch.randn(CLASSES, 5))
    program = SemiSupervised(
        StandardNormal(LATENT),
        Bernoulli((5,), lambda _: table),
        DiagonalNormal(LATENT, Apart),
        nn.Linear(5, 8),
        Exact(table),
        classes=CLASSES,
        features=8,
    ).eval()
    x = torch.bernoulli(torch.full((7, 5), 0.5))
    joint = program.classifier(x) - math.log(CLASSES)
    close(enumerated(program, x)[0], joint.logsumexp(-1).sum())
    close(program.class_probabilities(x), joint.softmax(-1))
    found = importance_weighting(program.model, program.guide, x, num_samples=3)
    close(torch.tensor(found.log_evidence).float(), joint.logsumexp(-1))
    y = torch.arange(7) % CLASSES
    own = joint.gather(-1, y[:, None])[:, 0]
    close(enumerated(program, x, y)[0], own.sum())
    close(log_densities(program.model, program.guide, x, y).log_weight[0], own)


def test_classification_is_a_term_in_training_alone():
    program, x = small(alpha=3.0), images()
    y = torch.tensor([0, -1, 2, -1, 3, 1])
    bound, _ = enumerated(program, x, y)
    training, _ = enumerated(program.train(), x, y)
    log_q = program.classifier(x).log_softmax(-1)
    expected = sum(log_q[i, c] for i, c in enumerate(y.tolist()) if c >= 0)
    close(training - bound, 3 * expected)
    without, _ = enumerated(program, x)
    close(enumerated(program.eval(), x)[0], without)


@pytest.mark.parametrize("labelled", [8, LABELLED_BATCH + 20])
def test_stored_rows_add_their_mean_to_each_row(labelled):
    program, _ = with_labels(400, labelled, alpha=3.0)
    x = images()
    bound, _ = enumerated(program, x)
    training, _ = enumerated(program.train(), x)
    log_q = program.classifier(program.labelled_x.float()).log_softmax(-1)
    each = log_q.gather(-1, program.labelled_y[:, None])
    # A hundred of 120 rows differ from all by little.
    tolerance = 1e-4 if labelled <= LABELLED_BATCH else 0.1
    mean = float((training - bound).detach()) / 18
    assert mean == pytest.approx(float(each.detach().mean()), abs=tolerance)


def test_labels_of_other_rows_are_never_read():
    program, y = with_labels()
    read = program.training_labels(y)
    assert (read >= 0).sum() == 8
    assert torch.equal(read[program.labelled_rows], y[program.labelled_rows])
    assert torch.equal(small().training_labels(y), y)
    with pytest.raises(ValueError, match="not those of the rows"):
        program.training_labels((y + 1) % CLASSES)


def test_labels_are_kept_evenly_and_always_the_same():
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 3 + [-1] * 20)
    rows = labelled_rows(y, 21)
    assert torch.bincount(y[rows]).tolist() == [9, 9, 3]
    torch.manual_seed(5)
    assert torch.equal(rows, labelled_rows(y, 21))
    assert (y[labelled_rows(y, 83)] >= 0).all()


def test_stored_rows_come_back_with_the_parameters():
    program, _ = with_labels()
    fresh = small(labelled=8)
    fresh.load_state_dict(program.state_dict())
    assert torch.equal(fresh.labelled_x, program.labelled_x)
    assert torch.equal(fresh.labelled_rows, program.labelled_rows)


def test_embedding_is_the_mean_code():
    program, x = small(), images()
    q = program.class_probabilities(x)
    close(q.sum(-1), torch.ones(6))
    z = [program.posterior.embed(program.features(x, torch.full((6,), k))) for k in range(4)]
    mean = sum(q[:, k, None] * z[k] for k in range(CLASSES))
    close(program.embed(x), torch.cat([mean, q], -1))
    y = torch.tensor([0, 1, 2, 3, 0, 2])
    own = torch.stack(z)[y, torch.arange(6)]
    close(program.embed(x, y), torch.cat([own, torch.eye(CLASSES)[y]], -1))


def test_decoding_by_class_and_of_codes():
    program, z = small(), torch.randn(5, 2, LATENT)
    each = torch.stack([program.decode(z, k) for k in range(CLASSES)])
    assert each.shape == (CLASSES, 5, 2, 4, 4)
    close(program.decode(z, torch.tensor([0, 3]))[:, 1], each[3][:, 1])
    code = torch.cat([z, torch.eye(CLASSES)[2].expand(5, 2, -1)], -1)
    close(program.decode(code), each[2])


def test_samples_and_reconstructions():
    program, x = small(), images()
    assert program.sample(3, 2, seed=0).shape == (3, 4, 4)
    same = program.sample(3, [2, 2, 2], seed=0)
    np.testing.assert_array_equal(program.sample(3, 2, seed=0), same)
    assert not np.allclose(program.sample(3, 1, seed=0), same)
    assert set(np.unique(program.sample(3, noise=True, seed=0))) <= {0, 1}
    c = program.class_probabilities(x).argmax(-1)
    code = program.posterior.embed(program.features(x, c))
    close(program.reconstruct(x), program.decode(code, c).detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_labels": None}, "needs the labels of training rows, got none"),
        ({"train_labels": None, "classes": None}, "needs the labels of training rows, got none"),
        ({"train_labels": -torch.ones(40, dtype=torch.int64)}, "got none"),
        ({"labelled": 3}, "at least the number of classes, 4, got 3"),
        ({"labelled": 41}, "at most the number of training rows with labels, 40, got 41"),
        ({"train_labels": torch.rand(40)}, "one class number for each row"),
        ({"train_labels": torch.arange(40)}, "from 0 to 3, .* got 0 to 39"),
        ({"train_labels": torch.arange(40) % 4 - 2}, "from 0 to 3"),
        ({"train_labels": torch.zeros(40, dtype=torch.int64), "classes": None}, "at least 2"),
        ({"likelihood": "poisson", "train_labels": torch.arange(80) % 4}, "of at most 40"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"prior": "dirichlet"}, "same support"),
    ],
)
def test_bad_input_is_named_in_a_line(options, message):
    given = {"train_data": images(40), "train_labels": torch.arange(40) % CLASSES, "labelled": 8}
    with pytest.raises(ValueError, match=message) as caught:
        small(**given | options)
    assert "\n" not in str(caught.value)


def test_classes_to_generate_must_exist():
    with pytest.raises(ValueError, match="classes from 0 to 3, got 4"):
        small().sample(2, 4)
    with pytest.raises(ValueError, match="z must have the shape"):
        small().decode(torch.zeros(2, LATENT))


def test_units_are_those_of_the_style():
    found = evaluate(small(), images(20), num_samples=5)
    assert found.embeddings.shape == (20, LATENT)
    program, x = small(), images(20)
    terms = log_densities(program.model, program.guide, x)
    close(
        torch.tensor(evaluate(program, x, num_samples=5).kl_by_dimension.sum()).float(),
        terms.closed_form_kl("z").mean(),
    )
