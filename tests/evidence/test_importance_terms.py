"""Compiled evaluation is the eager one, for every part, or says why it stays eager."""

import logging
import tracemalloc
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.compilation import CompilerError
from pyro_vae.compilation.compiled_function import FORWARD, Work
from pyro_vae.evidence import evaluate, importance_weighting
from pyro_vae.model import build

FAMILIES = {
    "prior": priors.PRIORS,
    "likelihood": likelihoods.LIKELIHOODS,
    "posterior": posteriors.WITH_DENSITY,
    "network": networks.NETWORKS,
}
QUICK = {
    ("prior", "vamp"),
    ("likelihood", "negative_binomial"),
    ("posterior", "coupling_flow"),
    ("network", "mlp"),
}
PARTS = [
    pytest.param(family, name, marks=() if (family, name) in QUICK else pytest.mark.slow)
    for family, parts in FAMILIES.items()
    for name in parts
]
EVENT_SHAPE = (1, 8, 8)
COLUMNS = ("log_evidence", "reconstruction", "kl", "ess", "khat")


def data(support: str, n: int = 7) -> torch.Tensor:
    uniform = torch.rand(n, *EVENT_SHAPE, generator=torch.Generator().manual_seed(1))
    return {
        "binary": (uniform < 0.5).float(),
        "unit": uniform,
        "real": 4 * uniform - 2,
        "integers": (uniform * 4).floor(),
        "counts": (uniform * 9).floor(),
    }[support]


def a_vae(**parts):
    pyro.set_rng_seed(0)
    parts = {"network": partial(networks.MLP, hidden=(8,)), **parts}
    for one, other in (("prior", "posterior"), ("posterior", "prior")):
        if one in parts and other not in parts:
            # The first of the same support.
            fitting = (p for p in FAMILIES[other].values() if p.support == parts[one].support)
            parts[other] = next(fitting)
    vae = build(EVENT_SHAPE, 3, train_data=data("binary"), train_size=7, levels=4, **parts)
    evaluate(vae, data(vae.likelihood.support), num_samples=1)  # Lazy layers are made.
    return vae


def weighted(vae, mode, *, seed=3, x=None, **options):
    """30 draws in parts of 10 and one datum a time, unless otherwise said, and the noise after it."""
    x = data(vae.likelihood.support) if x is None else x
    options = {"num_samples": 30, "max_elements": 64 * 10, **options}
    torch.manual_seed(seed)
    result = importance_weighting(vae.model, vae.guide, x, compile=mode, **options)
    return result, torch.get_rng_state()


def assert_same(one, other, tolerance):
    (mine, noise), (yours, other_noise) = one, other
    assert (noise == other_noise).all()
    assert mine.kl_estimate == yours.kl_estimate
    for column in COLUMNS:
        # Where weights are nearly equal, k-hat magnifies their rounding.
        limit = 20 * tolerance if column == "khat" else tolerance
        np.testing.assert_allclose(
            getattr(mine, column), getattr(yours, column), rtol=limit, atol=limit
        )


@pytest.fixture
def graphs(set_compiler):
    """Graphs are run operation by operation, and counted: that the compiler is right is another test."""
    calls = []

    def compile_graph(traced):
        calls.append(0)

        def run(*arguments):
            calls[-1] += 1
            return traced(*arguments)

        return run

    set_compiler(compile_graph)
    return calls


@pytest.mark.parametrize(("family", "name"), PARTS)
def test_the_graph_of_every_part_is_the_eager_evaluation(family, name, graphs):
    vae = a_vae(**{family: FAMILIES[family][name]}).eval()
    assert_same(weighted(vae, "on"), weighted(vae, "off"), 1e-3)
    # Of 7 x 3 chunks the first is eager, and the second is recorded.
    assert graphs == [19]


@pytest.mark.usefixtures("wait_for_compiler")
@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"prior": priors.GaussianMixture, "posterior": posteriors.FullNormal},
        {"prior": priors.Vamp, "network": networks.GatedConv},
    ],
    ids=["standard", "mixture and full normal", "vamp, gated convolutions"],
)
def test_the_compiled_evaluation_is_the_eager_one(parts, caplog):
    vae = a_vae(**parts).eval()
    with caplog.at_level(logging.INFO, "pyro_vae"):
        assert_same(weighted(vae, "on"), weighted(vae, "off"), 1e-3)
    assert "equal to the eager one" in caplog.text


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        # Two data a chunk, and the last chunk has one: eager, as are the first ones.
        ({"max_elements": 64 * 60}, 1),
        # Draws in parts of 8, the last of which gives 6.
        ({"max_elements": 64 * 9}, 26),
        # All at once: nothing is left to compile.
        ({"max_elements": 10**9}, None),
        ({"num_samples": 25, "max_elements": 1}, 25 * 7 - 2),
    ],
)
def test_remainders(options, calls, graphs):
    vae = a_vae()
    assert_same(weighted(vae, "on", **options), weighted(vae, "off", **options), 1e-3)
    assert graphs == ([] if calls is None else [calls])


def test_integers_are_compiled_as_floats(graphs):
    vae = a_vae()
    x = data("binary").byte()
    assert_same(weighted(vae, "on", x=x), weighted(vae, "off"), 1e-3)
    assert graphs == [19]


def test_another_seed_is_other_noise(graphs):
    vae = a_vae()
    one, other = (weighted(vae, "on", seed=seed)[0] for seed in (1, 2))
    assert (one.log_evidence != other.log_evidence).all()
    assert graphs == [19, 19]


def test_evaluate_hands_the_choice_on(graphs):
    vae = a_vae()
    found = [
        evaluate(vae, data("binary"), num_samples=30, max_elements=640, compile=mode).summary()
        for mode in ("on", "off")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert graphs == [19]


# ---- falling back ----------------------------------------------------------------------------


class ReadsItsScale(priors.StandardNormal):
    """Looks at a tensor in Python, as no graph can."""

    def forward(self):
        if float(self.zeros.sum()) > 1:
            raise AssertionError
        return super().forward()


class Counts(likelihoods.Bernoulli):
    """Counts its calls in place: a chunk that is made twice would count twice."""

    def __init__(self, event_shape, decoder):
        super().__init__(event_shape, decoder)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        self.calls += 1
        return super().forward(z)


def test_what_cannot_be_a_graph_is_evaluated_eagerly(caplog):
    vae = a_vae(prior=ReadsItsScale)
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        assert_same(weighted(vae, "on"), weighted(vae, "off"), 0)
    records = (r for r in caplog.records if r.levelno >= logging.WARNING)
    (record,) = (record for record in records if record.name.startswith("pyro_vae"))
    assert "data 1x1x8x8, 10 draws: off, it runs eagerly" in record.message
    assert "it reads the content of a tensor" in record.message
    assert "\n" not in record.message


def test_changes_in_place_are_made_once(graphs):
    """The chunk that is evaluated both ways counts once."""
    vae = a_vae(likelihood=Counts)
    before = int(vae.likelihood.calls)
    assert_same(weighted(vae, "on"), weighted(vae, "off"), 1e-3)
    assert graphs == [19]
    assert vae.likelihood.calls == before + 2 * 21


def fails(*_):
    raise CompilerError("InvalidCxxCompiler: No working C++ compiler found")


def raises(traced):
    def run(*_):
        raise RuntimeError("out of memory\nor so")

    return run


def wrong(traced):
    return lambda *arguments: tuple(output * 1.001 for output in traced(*arguments))


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        (fails, "No working C++ compiler"),
        (raises, "RuntimeError: out of memory"),
        (wrong, "terms: compiled and eager differ"),
    ],
)
def test_a_compiler_that_fails_is_not_used(compiler, reason, set_compiler, caplog):
    set_compiler(compiler)
    vae = a_vae()
    assert_same(weighted(vae, "on"), weighted(vae, "off"), 0)
    assert reason in caplog.text
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1


def test_a_broken_model_gives_the_same_nan(graphs):
    vae = a_vae()
    with torch.no_grad():
        vae.likelihood.decoder.head.bias.fill_(torch.nan)
    with pyro.validation_enabled(False):
        result, _ = weighted(vae, "on")
    assert np.isnan(result.log_evidence).all()
    assert graphs == [19]


# ---- deciding --------------------------------------------------------------------------------


def test_auto_decides_from_counted_work(graphs, monkeypatch, caplog):
    vae = a_vae()
    with caplog.at_level(logging.INFO, "pyro_vae"):
        weighted(vae, "auto")
    assert graphs == []
    assert "compiled" not in caplog.text
    # One image and 10 draws: 64-8-6 once, 3-8-64 ten times.
    flops = 2 * (64 * 8 + 8 * 6 + 10 * (3 * 8 + 8 * 64))
    module = "pyro_vae.compilation.compiled_function"
    monkeypatch.setattr(f"{module}._TRACING_SECONDS", 1e-3)
    with caplog.at_level(logging.INFO, "pyro_vae"):
        weighted(vae, "auto")
    assert graphs == []
    assert f"graph; compiling 21 calls of {flops:.2g} floating-point" in caplog.text
    monkeypatch.setattr(f"{module}._COMPILER_SECONDS", 1e-3)
    weighted(vae, "auto")
    assert graphs == [19]


@pytest.mark.parametrize(
    ("images", "draws", "pays"), [(360, 1000, False), (10_000, 5000, True), (10_000, 1000, True)]
)
def test_a_quick_evaluation_does_not_pay_a_compiler(images, draws, pays):
    """784-400-50 and back, in chunks of 2,500 draws or two images."""
    pairs = 2500 if draws == 5000 else 2 * draws
    work = Work(flops=2 * pairs * (50 * 400 + 400 * 784), on_cpu=True)
    assert work.pays(images * draws // pairs, FORWARD) == pays


@pytest.mark.parametrize("mode", ["yes", ""])
def test_an_unknown_mode_is_refused(mode):
    vae = a_vae()
    with pytest.raises(Exception, match=r"compile must be one of auto, on, off|compile"):
        weighted(vae, mode)


# ---- memory ----------------------------------------------------------------------------------


def peak(n, num_samples):
    """What numpy and Python hold at most, in bytes; torch's own is the chunk's."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 4]).to_event(1), obs=x
            )

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.5))

    x = torch.zeros(n, 4)
    importance_weighting(model, guide, x[:2], num_samples=30)
    tracemalloc.start()
    try:
        importance_weighting(model, guide, x, num_samples=num_samples, max_elements=4 * 20_000)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_with_neither_data_nor_draws():
    base = peak(100, 2500)
    assert peak(400, 2500) < 1.1 * base
    assert peak(100, 10_000) < 1.1 * base
