"""Every likelihood far from where it was trained: finite log p and gradients."""

from functools import partial

import pytest
import torch

from pyro_vae import networks
from pyro_vae.likelihoods import LIKELIHOODS, LogisticMixture, LowRankNormal
from pyro_vae.model import build

LEVELS = 256
OPTIONS = {
    "beta": {"precision": "decoded"},
    "logit_normal": {"scale": "decoded"},
    "normal": {"scale": "decoded"},
    "laplace": {"scale": "decoded"},
    "student_t": {"scale": "decoded"},
    "low_rank_normal": {"scale": "decoded", "factor": "decoded"},
    "discretized_logistic": {"scale": "decoded"},
}
EDGES = {
    "binary": [0, 1],
    "unit": [0, 1, 0.5],
    "real": [-100, 0, 100],
    "integers": [0, 1, 128, 254, 255],
    "counts": [0, 1, 800],
}


class Huge(networks.MLP):
    """A decoder whose outputs are some 1e4 in size."""

    factor = 1e4

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return self.factor * outputs / outputs.detach().abs().mean()


@pytest.mark.parametrize("event_shape", [(3, 2, 2), (5,)])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_huge_decoder_outputs_are_finite(name, event_shape):
    torch.manual_seed(0)
    part = partial(LIKELIHOODS[name], **OPTIONS.get(name, {}))
    network = partial(Huge, hidden=(6,))
    likelihood = build(event_shape, 2, likelihood=part, network=network, levels=LEVELS).likelihood
    edges = torch.tensor(EDGES[likelihood.support]).float()
    x = edges[torch.randint(len(edges), (60, *event_shape))]
    p = likelihood(torch.randn(60, 2))
    log_prob = p.log_prob(x)
    assert log_prob.isfinite().all()
    log_prob.mean().backward()
    for parameter_name, parameter in likelihood.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
    assert p.mean.isfinite().all()
    assert p.support.check(p.sample()).all()


@pytest.mark.parametrize("factor", ["learned", "decoded"])
@pytest.mark.parametrize("scale", ["fixed", "learned", "element", "decoded"])
def test_a_low_rank_normal_is_one_density_in_every_form(factor, scale):
    decoder = partial(networks.MLP, (2,), hidden=(6,))
    likelihood = LowRankNormal((2, 3), decoder, rank=2, factor=factor, scale=scale)
    p = likelihood(torch.randn(3, 4, 2))
    x = torch.randn(3, 4, 2, 3)
    factors = p.factor.expand(3, 4, 6, 2)
    covariance = factors @ factors.mT + torch.diag_embed(p.scale.square())
    oracle = torch.distributions.MultivariateNormal(p.loc, covariance)
    torch.testing.assert_close(p.log_prob(x), oracle.log_prob(x.flatten(-2)), rtol=1e-4, atol=1e-4)


def test_channels_are_tied_where_there_are_three():
    decoder = partial(networks.MLP, (2,), hidden=(6,))
    colour = LogisticMixture((3, 2, 2), decoder, levels=8, components=2)
    assert colour(torch.randn(2)).logits.shape == (2, 1, 2, 2)
    for event_shape in ((1, 2, 2), (4, 2, 2), (3,), (3, 2)):
        p = LogisticMixture(event_shape, decoder, levels=8, components=2)(torch.randn(2))
        assert p.coefficients is None
        assert p.logits.shape == (2, *event_shape)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("autoregressive_bernoulli", {"hidden": 0}),
        ("beta", {"initial_precision": 0.0}),
        ("laplace", {"initial_scale": 0.001}),
        ("student_t", {"initial_df": 2.0}),
        ("low_rank_normal", {"rank": 0}),
        ("logistic_mixture", {"components": 0}),
    ],
)
def test_wrong_options_are_refused(name, option):
    with pytest.raises(ValueError, match=r"must (be|satisfy)"):
        build((4,), 2, likelihood=partial(LIKELIHOODS[name], **option), levels=LEVELS)
