"""`vae.decode` and `vae.embed` through `torch.export`, with the batch free and validation on."""

import jaxtyping
import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Normal

from pyro_vae import build, likelihoods, networks

SHAPE = (1, 8, 8)
DATA = {
    "binary": torch.bernoulli(torch.full((7, *SHAPE), 0.5)),
    "unit": torch.rand(7, *SHAPE).clamp(0.01, 0.99),
    "real": torch.randn(7, *SHAPE),
    "integers": torch.randint(0, 17, (7, *SHAPE)),
    "counts": torch.poisson(torch.full((7, *SHAPE), 3.0)),
}


class Method(nn.Module):
    """A method of a VAE as a module, which is what `torch.export` takes."""

    def __init__(self, vae, name):
        super().__init__()
        self.vae, self.name = vae, name

    def forward(self, inputs):
        return getattr(self.vae, self.name)(inputs)


# Loops over elements or quadrature nodes: exporting them takes long.
LONG = ("autoregressive_bernoulli", "logit_normal")
PAIRS = [
    pytest.param(name, "mlp", marks=[pytest.mark.slow] if name in LONG else [])
    for name in likelihoods.LIKELIHOODS
]
PAIRS += [("bernoulli", "gated_mlp"), ("normal", "conv"), ("logistic_mixture", "gated_conv")]


@pytest.fixture
def no_shape_checks():
    """Tests check shapes, and comparing a batch's size with another makes it a constant."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("no_shape_checks")
@pytest.mark.parametrize(("likelihood", "network"), PAIRS)
def test_equal_numbers_for_any_batch(likelihood, network):
    part = likelihoods.LIKELIHOODS[likelihood]
    vae = build(SHAPE, 4, likelihood=part, network=networks.NETWORKS[network], levels=17).eval()
    for method, inputs in (("decode", torch.randn(7, 4)), ("embed", DATA[part.support])):
        exported = torch.export.export(
            Method(vae, method), (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        ).module()
        for size in (1, 3, 7):
            torch.testing.assert_close(
                exported(inputs[:size]), getattr(vae, method)(inputs[:size]), rtol=1e-5, atol=1e-6
            )
    # The checks are off while exporting alone.
    assert Distribution._validate_args
    with pytest.raises(ValueError, match="Expected"):
        Normal(torch.tensor(torch.nan), 1.0)
