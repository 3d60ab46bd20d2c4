"""Every part, network, kind of data and program as exported files that are equal to Python."""

import importlib
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Normal

from pyro_vae import build, likelihoods, networks, posteriors, priors
from pyro_vae.data import Dataset, allow_missing, digits, transforms
from pyro_vae.data.rows import as_rows
from pyro_vae.export import export_onnx, modules, write_export
from pyro_vae.export.check import BATCHES
from pyro_vae.export.writing import export

RNG = np.random.default_rng(0)
SCALES = [1, 1e3, 1e-3, 5]
REAL = RNG.normal(size=(60, 4)) * SCALES + [0, 1e3, 0, 1]
COUNTS = RNG.poisson(3.0, (60, 4)).astype(np.float32)
# Loops over elements, coordinates or quadrature nodes: exporting them takes long.
LONG = ("autoregressive_bernoulli", "logit_normal", "spline_flow", "autoregressive_flow")
DATA = {
    "binary": lambda: Dataset.from_array((RNG.random((60, 1, 4, 4)) < 0.4).astype(np.uint8)),
    "unit": lambda: Dataset.from_array(RNG.random((60, 4)), support="unit"),
    "real": lambda: Dataset.from_array(REAL),
    "integers": digits,
    "counts": lambda: Dataset.from_array(COUNTS, support="counts"),
}
PRIOR_ON = {
    "real": "standard_normal",
    "positive": "log_normal",
    "unit": "beta",
    "simplex": "dirichlet",
    "sphere": "spherical_uniform",
    "one_hot": "one_hot",
    "sparse": "spike_and_slab",
}
POSTERIOR_ON = {
    "real": "diagonal_normal",
    "positive": "log_normal",
    "unit": "beta",
    "simplex": "dirichlet",
    "sphere": "power_spherical",
    "one_hot": "one_hot",
    "sparse": "spike_and_slab",
}


def slow(names, long=LONG):
    return [pytest.param(n, marks=[pytest.mark.slow] if n in long else []) for n in names]


def differences(signature):
    files = [f for each in signature["functions"].values() for f in each["files"].values()]
    assert all(f["check"]["batches"] == [*BATCHES] for f in files)
    return [f["check"]["largest_difference"] for f in files]


@pytest.mark.parametrize("name", slow(likelihoods.LIKELIHOODS))
def test_every_likelihood(name, described):
    support = likelihoods.LIKELIHOODS[name].support
    dataset = DATA[support]()
    vae = build(dataset.event_shape, 3, likelihood=name, levels=17, units=dataset.units)
    _, signature = export(described(vae, dataset), only=["decoder"], formats=["pt2"])
    assert max(differences(signature)) < 1e-6
    # The checks are off while exporting alone.
    assert Distribution._validate_args
    with pytest.raises(ValueError, match="Expected"):
        Normal(torch.tensor(torch.nan), 1.0)


@pytest.mark.parametrize(
    "name", slow(posteriors.POSTERIORS, {*posteriors.POSTERIORS} - {"diagonal_normal", "point"})
)
def test_every_posterior(name, described):
    dataset = DATA["real"]()
    prior = PRIOR_ON[posteriors.POSTERIORS[name].support]
    vae = build((4,), 3, likelihood="normal", prior=prior, posterior=name, units=dataset.units)
    _, signature = export(described(vae, dataset), only=["encoder"], formats=["pt2"])
    assert max(differences(signature)) < 1e-6
    # Where q has no standard deviation, there is one output.
    flows = ("coupling_flow", "inverse_autoregressive")
    without = (*flows, "logistic_normal", "von_mises_fisher", "power_spherical", "point")
    outputs = [each["name"] for each in signature["functions"]["encoder"]["outputs"]]
    assert outputs == (["z"] if name in without else ["z", "scale"])


# Smaller flows export sooner.
SMALL = {
    "flow": {"couplings": 2, "hidden": [8]},
    "spline_flow": {"transforms": 1, "hidden": [8], "bins": 3},
    "autoregressive_flow": {"transforms": 1, "hidden": [8]},
}


@pytest.mark.parametrize("name", slow(priors.PRIORS, {*priors.PRIORS} - {"gaussian_mixture"}))
def test_every_prior_in_onnxruntime(name, described):
    dataset = DATA["real"]()
    kind = priors.PRIORS[name]
    posterior = POSTERIOR_ON[kind.support]
    data = {"units": dataset.units, "train_data": dataset.train}
    prior = partial(kind, **SMALL.get(name, {}))
    vae = build((4,), 2, likelihood="normal", prior=prior, posterior=posterior, **data)
    formats = ["onnx"] if name in ("spline_flow", "von_mises_fisher") else ["onnx", "pt2"]
    files, signature = export(described(vae, dataset), only=["sampler"], formats=formats)
    assert max(differences(signature)) < 1e-5
    # The prior of pseudo-inputs is stored without its encoder.
    assert name != "vamp" or len(files["sampler.onnx"]) < 100_000


@pytest.mark.slow
def test_a_vamp_prior_of_another_guide(described):
    dataset = DATA["real"]()
    parts = {"prior": "vamp", "posterior": "low_rank_normal", "likelihood": "normal"}
    vae = build((4,), 2, units=dataset.units, train_data=dataset.train, **parts)
    _, signature = export(described(vae, dataset), only=["sampler"])
    assert max(differences(signature)) < 1e-5


CASES = {
    "mlp": lambda: Dataset.from_array(REAL),
    "gated_mlp": DATA["counts"],
    "conv": digits,
    "gated_conv": digits,
    "resnet": lambda: Dataset.from_array((RNG.random((60, 1, 8, 8)) < 0.4).astype(np.uint8)),
    "conv1d": lambda: Dataset.from_array(RNG.normal(3, 2, (60, 2, 16)), layout="series"),
}
LIKELIHOOD = {"gated_mlp": "negative_binomial", "conv": "bernoulli", "resnet": "bernoulli"}
LIKELIHOOD |= {"gated_conv": "discretized_logistic", "mlp": "student_t", "conv1d": "normal"}


@pytest.mark.parametrize("network", slow(CASES, CASES))
def test_every_network_in_onnxruntime(network, described):
    assert networks.NETWORKS.keys() == CASES.keys()
    dataset = CASES[network]()
    options = {"levels": dataset.levels, "units": dataset.units, "network": network}
    vae = build(dataset.event_shape, 3, likelihood=LIKELIHOOD[network], **options)
    functions = ["encoder", "decoder"]
    rows = dataset.test[:7].numpy()
    _, signature = export(described(vae, dataset), only=functions, formats=["onnx"], data=rows)
    assert max(differences(signature)) < 1e-5


# Native data and likelihood -> the inputs of the encoder.
KINDS = {
    "dequantised levels": (digits, "beta", ["x", "uniform"]),
    "levels as shares": (digits, "normal", ["x"]),
    "binarised unit": (DATA["unit"], "bernoulli", ["x", "uniform"]),
    "unit": (DATA["unit"], "continuous_bernoulli", ["x"]),
}


@pytest.mark.parametrize("kind", slow(KINDS, {"unit"}))
def test_every_kind_of_data(kind, described):
    load, likelihood, inputs = KINDS[kind]
    dataset = load()
    options = {"levels": dataset.levels, "units": dataset.units}
    vae = described(build(dataset.event_shape, 3, likelihood=likelihood, **options), dataset)
    # The other kinds are those of the networks above.
    formats = ["onnx" if kind == "unit" else "pt2"]
    _, signature = export(vae, only=["encoder", "decoder"], formats=formats)
    assert max(differences(signature)) < 1e-5
    assert [each["name"] for each in signature["functions"]["encoder"]["inputs"]] == inputs


def test_a_table_that_needs_float64(described):
    # The differences of the dates are lost in float32.
    frame = pd.DataFrame({"date": 1.7e9 + 100 * RNG.normal(size=60), "share": RNG.random(60)})
    dataset = Dataset.from_rows(as_rows(frame))
    vae = described(build((2,), 2, likelihood="normal", units=dataset.units), dataset)
    functions = ["encoder", "decoder"]
    _, signature = export(vae, only=functions, formats=["onnx"], data=frame)
    assert max(differences(signature)) < 1e-6
    (x,) = signature["functions"]["encoder"]["inputs"]
    assert x["dtype"] == signature["functions"]["decoder"]["outputs"][0]["dtype"] == "float64"
    assert signature["data"]["columns"] == ["date", "share"]


def program(name, *arguments, **options):
    return importlib.import_module(f"pyro_vae.programs.{name}").build(*arguments, **options)


Y = torch.arange(60) % 3


def missing_rows():
    x = REAL.copy()
    x[RNG.random(x.shape) < 0.2] = np.nan
    with allow_missing():
        return Dataset.from_array(x)


def conditional():
    dataset = Dataset.from_array(COUNTS, labels=Y.numpy(), support="counts")
    return program("conditional", (4,), 2, likelihood="negative_binomial", train_labels=Y), dataset


def sequences():
    dataset = Dataset.from_array(RNG.normal(size=(60, 3, 2)), layout="sequence")
    return program("sequence", (3, 2), 2, likelihood="normal", units=dataset.units), dataset


PROGRAMS = {
    "clustering": lambda: (program("clustering", (4,), 2, likelihood="normal"), DATA["real"]()),
    "hierarchical": lambda: (
        program("hierarchical", (4,), likelihood="normal", inference="top_down"),
        DATA["real"](),
    ),
    "semi_supervised": lambda: (
        program("semi_supervised", (4,), 2, likelihood="poisson", classes=3, train_labels=Y),
        DATA["counts"](),
    ),
    "conditional": conditional,
    "sequence": sequences,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program(name, described):
    functions = ["encoder", "sampler"]
    formats = ["pt2" if name == "clustering" else "onnx"]
    _, signature = export(described(*PROGRAMS[name]()), only=functions, formats=formats)
    assert max(differences(signature)) < 1e-5
    inputs = {f: [each["name"] for each in s["inputs"]] for f, s in signature["functions"].items()}
    assert all(("y" in names) == (name == "conditional") for names in inputs.values())


@pytest.mark.slow
def test_missing_values_are_nan(described):
    dataset = missing_rows()
    vae = program("missing", (4,), 2, likelihood="normal", units=dataset.units)
    vae.contract = described(vae, DATA["real"]()).contract
    object.__setattr__(vae.contract, "allows_missing", True)
    rows = dataset.test[:7].numpy()
    assert np.isnan(rows).any()
    _, signature = export(vae, only=["encoder"], formats=["onnx"], data=rows)
    assert max(differences(signature)) < 1e-5


# ---- what is refused ----------------------------------------------------------------------------


@pytest.fixture
def table(described):
    dataset = DATA["real"]()
    return described(build((4,), 2, likelihood="normal", units=dataset.units), dataset)


def test_an_encoder_with_another_scale_is_refused(described, tmp_path, monkeypatch):
    dataset = digits()
    vae = described(build(dataset.event_shape, 2, likelihood="normal"), dataset)
    wrong = transforms.Scale(dataset.levels)
    monkeypatch.setattr(modules, "transform_of_values", lambda *_: (wrong, ""))
    with pytest.raises(ValueError, match=r"encoder.pt2 is not equal to Python: .* output z"):
        write_export(vae, tmp_path / "export", only=["encoder"], formats=["pt2"])
    assert not (tmp_path / "export").exists()


def test_what_cannot_be_exported_is_one_line(table, tmp_path, monkeypatch):
    folder = tmp_path / "export"
    with pytest.raises(ValueError, match="VAE was not trained"):
        export_onnx(build((4,), 2, likelihood="normal"), folder)
    with pytest.raises(ValueError, match="must be one of encoder, decoder, sampler, got 'prior'"):
        export_onnx(table, folder, only=["prior"])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install 'pyro-vae\\[export\\]'"):
        export_onnx(table, folder, only=["decoder"])
    monkeypatch.undo()

    class Drawn(type(table.likelihood)):
        def forward(self, z):
            return super().forward(z + torch.bernoulli(torch.full_like(z, 0.5)))

    table.likelihood.__class__ = Drawn
    with pytest.raises(ValueError, match=r"the decoder cannot be exported: .*bernoulli") as error:
        export_onnx(table, folder, only=["decoder"])
    assert "\n" not in str(error.value)
    assert not folder.exists()


class Bare(nn.Module):
    """A program of one's own without `Generation`, or with labels of its own."""

    def __init__(self, of, labels="none"):
        super().__init__()
        self.of, self.labels, self.contract = of, labels, of.contract

    def embed(self, x):
        return self.of.embed(x)

    def decode(self, z):
        return self.of.decode(z)

    def prepare(self, x):
        return self.of.prepare(x)


def test_a_program_of_ones_own(table):
    rows = DATA["real"]().test[:7].numpy()
    functions = ["encoder", "decoder"]
    _, signature = export(Bare(table), only=functions, formats=["pt2"], data=rows)
    assert max(differences(signature)) < 1e-6
    with pytest.raises(ValueError, match=r"sampler of Bare .* that can be are encoder, decoder"):
        export(Bare(table), data=rows)
    with pytest.raises(ValueError, match="Bare reads labels with its data in its own way"):
        export(Bare(table, "always"), only=["encoder"], data=rows)


def test_a_file_that_was_there_is_kept(table, tmp_path):
    write_export(table, tmp_path, only=["decoder"], formats=["pt2"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"decoder.pt2", "signature.json"}
    with pytest.raises(ValueError, match="holds an export already"):
        write_export(table, tmp_path, formats=["pt2"])
    write_export(table, tmp_path, only=["encoder"], formats=["pt2"], overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.pt2", "signature.json"}
