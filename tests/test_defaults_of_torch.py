"""torch's default type and device, set by whoever uses the library: it works, or says what to do."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pyro_vae import build, fit, likelihoods
from pyro_vae.data import digits
from pyro_vae.evidence import evaluate
from pyro_vae.inference_data import from_svi

X = np.random.default_rng(0).normal(size=(100, 4))


@pytest.fixture
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def default_device() -> Iterator[None]:
    yield
    torch.set_default_device(None)


def normal():
    return build((4,), 2, likelihood=likelihoods.Normal)


def use(vae, x):
    """What a VAE is for."""
    assert len(fit(vae, X, epochs=1)) == 1
    assert vae.embed(x).shape == (100, 2)
    assert vae.decode(vae.embed(x)).isfinite().all()
    assert np.isfinite(evaluate(vae, x[:10], num_samples=30).reconstruction).all()
    tree = from_svi(vae.model, vae.guide, x, num_draws=30, seed=0)
    assert np.isfinite(tree["sample_stats"]["log_weight"]).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_by_default(dtype):
    vae = normal()
    assert {p.dtype for p in vae.parameters()} == {torch.float64}
    use(vae, torch.as_tensor(X, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_vae_of_another_type_than_the_default(dtype):
    use(normal().to(torch.float64), torch.as_tensor(X, dtype=dtype))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "categorical"])
def test_integers_under_float64(likelihood):
    data = digits()
    part = likelihoods.LIKELIHOODS[likelihood]
    vae = build(data.event_shape, 2, likelihood=part, levels=17)
    assert len(fit(vae, data, max_steps=2)) == 1


@pytest.mark.usefixtures("double")
@pytest.mark.slow
def test_a_compiled_step_under_float64():
    vae = normal()
    assert len(fit(vae, X, epochs=2, batch_size=45, compile="on")) == 2


@pytest.mark.usefixtures("default_device")
def test_the_cpu_by_default():
    torch.set_default_device("cpu")
    use(normal(), torch.as_tensor(X, dtype=torch.float32))


@pytest.mark.parametrize(
    "use", [lambda vae: fit(vae, X), lambda vae: from_svi(vae.model, vae.guide)]
)
@pytest.mark.usefixtures("default_device")
def test_devices_that_cannot_work_are_refused(use):
    with torch.device("meta"):
        vae = normal()
    with pytest.raises(ValueError, match="'meta' have no values: build under another device"):
        use(vae)
    vae = normal()
    # As "cuda" would be for a VAE on the CPU.
    torch.set_default_device("meta")
    with pytest.raises(ValueError, match=r"on the device 'cpu', .*set_default_device\('cpu'\)"):
        use(vae)
