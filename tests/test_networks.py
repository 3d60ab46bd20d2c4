"""Encoders and decoders: shapes, leading axes, and what batch normalisation does when."""

import copy
import itertools
import subprocess
import sys
from functools import partial

import pytest
import torch
from jaxtyping import TypeCheckError
from pyro import poutine
from pyro.infer import Predictive
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import build, fit, likelihoods, networks, posteriors, priors
from pyro_vae.data import Dataset, digits
from pyro_vae.log_densities import log_densities
from pyro_vae.networks import (
    NETWORKS,
    BatchNorm,
    Conv,
    Conv1d,
    GatedConv,
    ResNet,
    running_statistics,
)
from pyro_vae.rng import evaluation_mode

NORMS = ("none", "batch", "layer")
IMAGE_NETWORKS = ("conv", "gated_conv", "resnet")
IMAGE = (1, 8, 8)
# As small as a network comes.
SMALL = {
    **{name: {"hidden": (6, 5)} for name in ("mlp", "gated_mlp")},
    **{name: {"channels": (3, 4), "hidden": 5} for name in (*IMAGE_NETWORKS, "conv1d")},
}


def small(name, norm="none"):
    return partial(NETWORKS[name], norm=norm, **SMALL[name])


@pytest.fixture
def x():
    return torch.rand(6, *IMAGE).round()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 20), (32, 32)], ids=str)
def test_every_image_comes_back_to_its_size(name, norm, channels, size):
    """28 x 20, the Frey faces, halves to 14 x 10, 7 x 5 and then to odd sizes' halves."""
    encoder = small(name, norm)((channels, *size), (2, 3))
    decoder = small(name, norm)((3,), (2, channels, *size))
    x = torch.rand(2, 2, channels, *size)
    codes = encoder(x)
    images = decoder(codes[..., 0, :])
    assert codes.shape == (2, 2, 2, 3)
    assert images.shape == (2, 2, 2, channels, *size)
    for network, outputs in ((encoder, codes), (decoder, images)):
        assert outputs.isfinite().all()
        gradients = torch.autograd.grad(outputs.square().sum(), list(network.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kernel", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_odd_sizes_and_kernels(name, kernel):
    for size in [(8, 9), (13, 11), (15, 21), (16, 31)]:
        options = {"channels": (2, 3, 4), "hidden": 4, "kernel": kernel}
        image = NETWORKS[name]((3,), (1, 2, *size), **options)(torch.randn(2, 3))
        assert image.shape == (2, 1, 2, *size)
        assert NETWORKS[name]((2, *size), (2, 3), **options)(image[:, 0]).shape == (2, 2, 3)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("side", [28, 15])
def test_every_pixel_is_read_and_written(name, side):
    """No row or column of an odd size is left out on the way down or up."""
    options = {"channels": (4, 4, 4), "hidden": 8}
    x = torch.rand(8, 1, side, side, requires_grad=True)
    NETWORKS[name]((1, side, side), (2, 3), **options)(x).square().sum().backward()
    assert (x.grad.abs().amax((0, 1)) > 0).all()
    images = NETWORKS[name]((3,), (1, 1, side, side), **options)(torch.randn(8, 3))
    assert (images.std(0) > 0).all()


@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("length", [8, 15, 100])
@pytest.mark.parametrize("leading", [(), (1,), (4,)])
def test_every_series_comes_back_to_its_length(leading, length, kernel):
    options = {"channels": (2, 3, 4), "hidden": 4, "kernel": kernel, "activation": "elu"}
    event = (*leading, length)
    x = torch.rand(5, *event, requires_grad=True)
    encoder, decoder = Conv1d(event, (2, 3), **options), Conv1d((3,), (2, *event), **options)
    assert isinstance(encoder.layers[0].linear, nn.Conv1d)
    assert isinstance(decoder.head, nn.ConvTranspose1d)
    codes = encoder(x)
    assert codes.shape == (5, 2, 3)
    assert Conv1d(event, (7,), **options)(x).shape == (5, 7)
    codes.square().sum().backward()
    assert (x.grad.abs().amax(0) > 0).all()
    series = decoder(torch.randn(8, 3))
    assert series.shape == (8, 2, *event)
    assert (series.std(0) > 0).all()
    with pytest.raises(
        ValueError, match=r"halves a series 3 times .* length of at least 8, got 7"
    ):
        Conv1d((*leading, 7), (2, 3), **options)


@pytest.mark.parametrize("event", [(24,), (3, 24)])
def test_conv1d_learns_where_a_bump_is(event):
    places = torch.linspace(4, 20, 200)[torch.randperm(200), None, None]
    bumps = torch.exp(-0.5 * (torch.arange(24.0) - places).square()).expand(-1, 3, -1)
    x = bumps[:, : event[0] if len(event) == 2 else 1].reshape(-1, *event)
    network = partial(Conv1d, channels=(8, 8), hidden=32)
    vae = build(event, 2, network=network, likelihood=likelihoods.Normal)
    data = Dataset.from_array(x.numpy() - 0.01, layout="series")
    history = fit(vae, data, max_steps=60, lr=3e-3, batch_size=20)
    assert vae.decode(vae.embed(x)).shape == x.shape
    assert history[-1]["elbo"] > history[0]["elbo"] + 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_leading_axes_are_a_loop(name, norm):
    for read, gives in ((IMAGE, (2, 3)), ((3,), (2, *IMAGE))):
        network = small(name, norm)(read, gives).eval()
        inputs = torch.rand(2, 3, 4, *read)
        outputs = network(inputs)
        for i in range(2):
            for j in range(3):
                torch.testing.assert_close(outputs[i, j], network(inputs[i, j]))
        torch.testing.assert_close(network(inputs[0, 0, 0]), outputs[0, 0, 0])
        assert network(inputs[:0]).shape == (0, 3, 4, *gives)


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_cast_to_the_type_of_the_weights(name):
    network = small(name)(IMAGE, (2, 3)).double()
    counts = torch.randint(9, (5, *IMAGE))
    assert network(counts.to(torch.uint8)).dtype == torch.float64
    torch.testing.assert_close(network(counts.to(torch.uint8)), network(counts.double()))


def test_the_defaults_are_of_a_reasonable_size():
    """A pair for 28 x 28 pixels."""
    for name, most in {"conv": 1.0e6, "resnet": 1.8e6, "gated_conv": 1.9e6}.items():
        vae = build((1, 28, 28), 32, network=NETWORKS[name])
        assert 0.5e6 < sum(p.numel() for p in vae.parameters()) < most, name


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((13,), (2, 3)), {}, r"reads an image .*got \(13,\) to \(2, 3\); .*use mlp"),
        (((3,), (1, 13)), {}, r"returns \(outputs, channels.*got \(3,\) to \(1, 13\); .*use mlp"),
        (((28, 28), (2, 3)), {}, r"reads an image \(channels, height, width\)"),
        (((1, 4, 28), (2, 3)), {}, "at least 8, got 4 x 28; give channels for at most 2"),
        (
            ((3,), (1, 1, 7, 7)),
            {},
            "3 stages .*at least 8, got 7 x 7; give channels for at most 2",
        ),
        (((1, 1, 1), (2, 3)), {}, "got 1 x 1; use mlp"),
        ((IMAGE, (2, 3)), {"channels": ()}, r"channels must name at least one stage.*got \[\]"),
        ((IMAGE, (2, 3)), {"channels": (8, 0)}, r"each of at least 1, got \[8, 0\]"),
        ((IMAGE, (2, 3)), {"kernel": 2}, "kernel must be at least 3, got 2"),
        ((IMAGE, (2, 3)), {"hidden": 0}, "hidden must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(name, shapes, options, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS[name](*shapes, **options)


def test_options_of_one_network_are_checked():
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        ResNet(IMAGE, (2, 3), blocks=0)
    # The type checks of these tests come before the message that users see.
    for part, option in itertools.product((networks.MLP, Conv, ResNet), ("activation", "norm")):
        with pytest.raises(TypeCheckError, match=option):
            part(IMAGE, (2, 3), **{option: "reluu"})
    with pytest.raises(TypeError, match="activation"):
        GatedConv(IMAGE, (2, 3), activation="relu")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_datum_of_another_shape_is_refused(name):
    """With channels last there are as many numbers, and they would be misread."""
    network = small(name)((1, 8, 9), (2, 3))
    for shape in ((5, 8, 9, 1), (5, 1, 9, 8), (8, 9)):
        with pytest.raises(ValueError, match=r"reads \(1, 8, 9\) after any leading axes, got"):
            network(torch.rand(shape))


# ---- which statistics batch normalisation uses -------------------------------------------------


def running(module):
    return {
        name: buffer.clone()
        for name, buffer in module.named_buffers()
        if name.endswith(("running_mean", "running_var", "batches"))
    }


def assert_same(mine, yours):
    assert mine.keys() == yours.keys()
    for name, buffer in mine.items():
        torch.testing.assert_close(buffer, yours[name], rtol=0, atol=0, msg=name)


def test_batch_norm_is_torchs_but_for_the_start():
    """Statistics over all axes but the features'; running ones are plain means, then move by 0.1."""
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(torch.linspace(0.5, 2, 4))
            layer.bias.copy_(torch.linspace(-1, 1, 4))
    batches = [3 * torch.randn(5, 4, 3, 2) + torch.arange(4.0).view(4, 1, 1) for _ in range(12)]
    for batch in batches:
        torch.testing.assert_close(ours(batch), theirs(batch))
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches])
    for running_value, values in ((ours.running_mean, means), (ours.running_var, variances)):
        expected = values[:10].mean(0)
        for value in values[10:]:
            expected = 0.9 * expected + 0.1 * value
        torch.testing.assert_close(running_value, expected)
    theirs.load_state_dict(
        {name: value for name, value in ours.state_dict().items() if name != "batches"},
        strict=False,
    )
    torch.testing.assert_close(ours.eval()(batches[0]), theirs.eval()(batches[0]))


def test_particles_are_part_of_the_batch():
    """A decoder's statistics are over all leading axes."""
    z = torch.randn(3, 5, 2)
    one = networks.MLP((2,), (1, 4), hidden=(6,), norm="batch")
    other = copy.deepcopy(one)
    torch.testing.assert_close(one(z).flatten(0, 1), other(z.flatten(0, 1)))
    assert_same(running(one), running(other))
    (layer,) = one.layers
    torch.testing.assert_close(layer.norm.running_mean, layer.linear(z).mean((0, 1)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_bound_does_not_depend_on_the_company(name, norm, x):
    """In evaluation. In training, with batch statistics, it does."""
    vae = build(IMAGE, 3, network=small(name, norm), prior=partial(priors.Vamp, components=4))
    z = torch.randn(6, 3)

    def log_weights(x, z):
        log_prior = vae.prior().log_prob(z)
        return vae.likelihood(z).log_prob(x) + log_prior - vae.posterior(x).log_prob(z)

    log_weights(x, z)  # The running statistics leave where they start.
    in_training = log_weights(x, z)[:2] - log_weights(x[:2], z[:2])
    assert (in_training.abs() > 1e-3).all() == (norm == "batch")
    before = running(vae)
    with evaluation_mode(vae):
        torch.testing.assert_close(log_weights(x, z)[:2], log_weights(x[:2], z[:2]))
    assert_same(running(vae), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_pseudo_inputs_leave_no_mark_on_the_running_statistics(name, x):
    """After steps with a Vamp prior they are those of the data, as with any other prior."""
    data_alone = build(IMAGE, 3, network=small(name, "batch"))
    vae = build(IMAGE, 3, network=small(name, "batch"), prior=partial(priors.Vamp, components=4))
    for part in ("likelihood", "posterior"):
        getattr(vae, part).load_state_dict(getattr(data_alone, part).state_dict())
    for _ in range(3):
        for program in (vae, data_alone):
            torch.manual_seed(1)
            log_densities(program.model, program.guide, x)
    assert_same(running(vae), running(data_alone))
    assert all(module.training for module in vae.modules())


def test_pseudo_inputs_are_the_same_components_in_training_and_in_evaluation(x):
    vae = build(IMAGE, 3, network=small("conv", "batch"), prior=partial(priors.Vamp, components=4))
    log_densities(vae.model, vae.guide, x)
    z = torch.randn(5, 3)
    trained = vae.prior().log_prob(z)
    torch.testing.assert_close(vae.eval().prior().log_prob(z), trained)
    # The mixture is of the posterior that evaluation reports, and not of that at another batch.
    q = vae.posterior(vae.prior.pseudo_inputs)
    mixture = torch.logsumexp(q.log_prob(z[:, None]), 1) - torch.tensor(4.0).log()
    torch.testing.assert_close(trained, mixture)
    vae.train()
    vae.posterior(1 - x)
    assert ((vae.prior().log_prob(z) - trained).abs() > 1e-4).all()


def test_running_statistics_hold_for_torchs_own_layers_and_are_put_back():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), BatchNorm(3).eval())
    with running_statistics(module):
        assert [layer.training for layer in module] == [False, True, False]
        module(torch.randn(4, 3))
    assert [layer.training for layer in module] == [True, True, False]
    with pytest.raises(ValueError, match="Expected"), running_statistics(module):
        nn.functional.batch_norm(torch.randn(1, 3), None, None, training=True)
    assert [layer.training for layer in module] == [True, True, False]
    assert (module[0].running_mean == 0).all()


def test_the_prior_may_be_evaluated_before_the_data(x):
    """Backward does not read running statistics that moved in between."""
    vae = build(IMAGE, 3, network=small("conv", "batch"), prior=priors.Vamp)
    loss = vae.prior().log_prob(torch.randn(3)) + vae.posterior(x).mean.sum()
    loss.backward()
    assert vae.prior.pseudo_inputs.grad.isfinite().all()


def test_one_datum_has_no_batch_statistics(x):
    """An epoch's last batch may be of one: where there is one value a feature it is as in evaluation."""
    vae = build(IMAGE, 3, network=small("mlp", "batch"))
    vae.posterior(x)
    before = running(vae)
    one = vae.posterior(x[:1]).mean
    assert_same(running(vae), before)
    torch.testing.assert_close(one, vae.eval().posterior(x[:1]).mean)
    for name in IMAGE_NETWORKS:
        # Its positions have statistics, though the dense layers have none.
        network = small(name, "batch")(IMAGE, (2, 3))
        network(x[:1]).sum().backward()
        counts = {int(v) for key, v in running(network).items() if key.endswith("batches")}
        assert counts == {0, 1}


def test_a_batch_that_is_not_finite_leaves_no_mark(x):
    """Its step is skipped, so a run goes on: the running statistics must too."""
    network = small("conv", "batch")(IMAGE, (2, 3))
    network(x)
    network(x * torch.tensor([1.0, torch.nan, 1, 1, 1, 1]).view(6, 1, 1, 1))
    assert all(buffer.isfinite().all() for buffer in running(network).values())
    assert network.eval()(x).isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict_carries_the_running_statistics(name, x):
    network, other = (small(name, "batch")(IMAGE, (2, 3)) for _ in range(2))
    for _ in range(3):
        network(torch.rand_like(x))
    other.load_state_dict(network.state_dict())
    assert_same(running(network), running(other))
    torch.testing.assert_close(network.eval()(x), other.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_linear_maps_have_a_bias_where_it_does_something(norm):
    network = networks.MLP(IMAGE, (2, 3), norm=norm)
    assert (network.layers[0].linear.bias is None) == (norm == "batch")


def test_layer_norm_is_over_a_datums_features():
    network = networks.MLP((5,), (1,), hidden=(7,), norm="layer")
    h = network.layers[0].linear(torch.randn(3, 5))
    torch.testing.assert_close(
        network.layers[0].norm(h), nn.functional.layer_norm(h, (7,)), msg="dense"
    )


# ---- in a VAE ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_predictive_in_parallel(name):
    vae = build((1, 28, 28), 3, network=small(name, "batch")).eval()
    x = torch.rand(4, 1, 28, 28).round()
    prior_predictive = Predictive(poutine.uncondition(vae.model), num_samples=5, parallel=True)(x)
    assert prior_predictive["x"].shape == (5, *x.shape)
    replicates = Predictive(
        poutine.uncondition(vae.model), guide=vae.guide, num_samples=5, parallel=True
    )(x)
    assert replicates["x"].shape == (5, *x.shape)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_several_particles_reach_every_parameter(name, norm, x):
    vae = build(IMAGE, 3, network=small(name, norm), prior=partial(priors.Vamp, components=4))
    terms = log_densities(vae.model, vae.guide, x, num_particles=3)
    assert terms.log_weight.shape == (3, 6)
    terms.log_weight.mean().neg().backward()
    for parameter_name, parameter in vae.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize(
    ("name", "norm"),
    [*itertools.product(NETWORKS, ("batch",)), ("conv", "none"), ("conv", "layer")],
)
def test_loss_and_gradients_trace_into_one_graph(name, norm, x):
    """No Python depends on data and nothing is read from the device: either would raise here."""
    vae = build(IMAGE, 3, network=small(name, norm), prior=partial(priors.Vamp, components=4))
    parameters = {key: value.detach() for key, value in vae.named_parameters()}

    class Weight(nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def forward(self, x, z):
            log_prior = self.vae.prior().log_prob(z)
            terms = self.vae.likelihood(z).log_prob(x) - self.vae.posterior(x).log_prob(z)
            return (terms + log_prior).mean()

    weight = Weight()

    def step(parameters, buffers, x, z):
        parameters = {key: value.requires_grad_() for key, value in parameters.items()}
        state = {f"vae.{key}": value for key, value in {**parameters, **buffers}.items()}
        loss = functional_call(weight, state, (x, z))
        return loss, torch.autograd.grad(loss, list(parameters.values())), buffers

    def buffers():
        return {key: value.clone() for key, value in vae.named_buffers()}

    z = torch.randn(6, 3)
    with torch.no_grad():
        vae.posterior(x)  # Running statistics that are not where they start.
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        graph = make_fx(step)(parameters, buffers(), x, z)
    finally:
        torch.distributions.Distribution.set_default_validate_args(True)
    new = 1 - x
    traced, eager = graph(parameters, buffers(), new, z), step(parameters, buffers(), new, z)
    torch.testing.assert_close(traced, eager)


@pytest.mark.slow
def test_networks_compile_without_a_break():
    """In a process of its own: the tests' shape checks are Python that a compiler cannot read."""
    program = """
import torch
from pyro_vae.networks import ResNet
for read, gives in (((1, 8, 8), (2, 3)), ((3,), (2, 1, 8, 8))):
    network = ResNet(read, gives, channels=(2, 3), hidden=4, norm="batch")
    x = torch.rand(5, *read)
    torch.compile(network, fullgraph=True, backend="aot_eager")(x).sum().backward()
    assert {int(b) for name, b in network.named_buffers() if "batches" in name} == {1}
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("conv", "none"),
        *(
            pytest.param(name, norm, marks=pytest.mark.slow)
            for name, norm in (
                ("conv", "batch"),
                ("conv", "layer"),
                ("gated_conv", "none"),
                ("resnet", "batch"),
            )
        ),
    ],
)
def test_image_networks_learn_the_digits(name, norm):
    """8 x 8 halves three times, to one pixel."""
    network = partial(NETWORKS[name], channels=(8, 8, 8), hidden=32, norm=norm)
    vae = build(digits().event_shape, 4, network=network)
    history = fit(vae, digits(), epochs=3, lr=3e-3)
    assert history[-1]["elbo"] > history[0]["elbo"] + 2
    assert history[-1]["validation_elbo"] > history[0]["validation_elbo"] + 0.5
    assert history[-1]["skipped"] == 0


def test_conv_learns_strokes():
    """Random strokes of 28 x 28 pixels: a line is cheaper to say than its pixels."""
    rows = torch.arange(28)
    centre, slope = torch.randint(6, 22, (256, 1, 1)), 2 * torch.rand(256, 1, 1) - 1
    strokes = (rows - (centre + slope * (rows[:, None] - 14))).abs() < 2
    data = strokes[:, None].to(torch.uint8)
    vae = build((1, 28, 28), 4, network=partial(Conv, channels=(8, 16), hidden=32))
    history = fit(vae, data, epochs=4, lr=3e-3, batch_size=32)
    assert history[-1]["elbo"] > history[0]["elbo"] + 50


@pytest.mark.slow
def test_a_run_with_batch_norm_resumes_to_the_bit(tmp_path):
    def a_vae():
        torch.manual_seed(0)
        return build(
            digits().event_shape,
            4,
            network=small("conv", "batch"),
            prior=partial(priors.Vamp, components=5),
            posterior=posteriors.DiagonalNormal,
        )

    straight, stopped, resumed = a_vae(), a_vae(), a_vae()
    torch.manual_seed(1)
    fit(straight, digits(), epochs=2)
    torch.manual_seed(1)
    path = tmp_path / "checkpoint.pt"
    fit(stopped, digits(), epochs=2, max_steps=25, checkpoint=path)
    fit(resumed, digits(), epochs=2, checkpoint=path, resume=True)
    for key, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0, msg=key)
