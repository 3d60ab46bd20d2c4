"""The compiled step does what the eager one does, for every part, or says why it stays eager."""

import inspect
import itertools
import logging
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae.compilation import CompilerError
from pyro_vae.compilation.simplification import run_graph
from pyro_vae.compilation.splitting import split_updates
from pyro_vae.data import Dataset, PreparedData
from pyro_vae.model import build
from pyro_vae.objectives import OBJECTIVES
from pyro_vae.training import Training

# Parts whose step cannot be a graph, and why: at most four.
EAGER: dict[str, str] = {}

FAMILIES = {
    "prior": priors.PRIORS,
    "likelihood": likelihoods.LIKELIHOODS,
    "posterior": posteriors.POSTERIORS,
    "network": networks.NETWORKS,
    "objective": OBJECTIVES,
}
# One part of each family, and those with random numbers or parameters of an unusual kind.
QUICK = {
    ("prior", "vamp"),
    ("likelihood", "negative_binomial"),
    ("posterior", "gamma"),
    ("network", "mlp"),
    ("objective", "factor"),
    ("objective", "dreg"),
}
PARTS = [
    pytest.param(family, name, marks=() if (family, name) in QUICK else pytest.mark.slow)
    for family, parts in FAMILIES.items()
    for name in parts
]


def dataset(support: str, n: int = 60) -> Dataset:
    """Pictures of 8 x 8 on a likelihood's support; split 42, 6, 12."""
    uniform = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    if support in ("binary", "unit", "integers"):
        return Dataset.from_array((uniform * 17).floor().to(torch.uint8), levels=17)
    if support == "real":
        return Dataset.from_array(4 * uniform - 2)
    return Dataset.from_array((uniform * 9).floor().to(torch.int64), support="counts")


def a_training(compile="on", *, network=None, objective=None, n=60, **parts) -> Training:
    """Ten data a step: 42 of them are four full batches and a short one."""
    options = {
        name: parts.pop(name)
        for name in ("epochs", "keep", "clip_norm", "precision")
        if name in parts
    }
    pyro.set_rng_seed(0)
    network = partial(networks.MLP, hidden=(8,)) if network is None else network
    for one, other in (("prior", "posterior"), ("posterior", "prior")):
        if one in parts and other not in parts:
            # The first of the same support.
            supported = [p for p in FAMILIES[other].values() if p.support == parts[one].support]
            parts[other] = supported[0]
    likelihood = parts.get("likelihood", likelihoods.Bernoulli)
    support = (likelihood.func if isinstance(likelihood, partial) else likelihood).support
    data = PreparedData(dataset(support, n), support)
    vae = build(
        (1, 8, 8),
        3,
        network=network,
        **parts,
        train_data=data.transform(data.train),
        train_size=42,
        levels=data.dataset.levels,
    )
    return Training(
        vae, data, objective, batch_size=10, compile=compile, **{"epochs": 2, **options}
    )


def an_objective(name: str, **options):
    """An objective, handed what it asks for; the same one at each call."""
    torch.manual_seed(3)
    asked = inspect.signature(OBJECTIVES[name]).parameters
    given = {"train_size": 42, "latent_dim": 3, "critic_hidden": (16,)}
    return OBJECTIVES[name](
        **{key: value for key, value in given.items() if key in asked}, **options
    )


@pytest.fixture
def without_compiler(set_compiler):
    """Graphs are run operation by operation: that the compiler is right is another test."""
    set_compiler(run_parts)


def run_parts(traced):
    """The part of a graph that the compiler gets, and the rest, run one after the other."""
    compute, update = (run_graph(part) for part in split_updates(traced))
    return lambda *arguments: update(*arguments, *compute(*arguments))


def rounded(traced):
    """A graph that rounds in other places: the bits tell whether it ran."""
    compute, update = (run_graph(part) for part in split_updates(traced))

    def run(*arguments):
        results = compute(*arguments)
        nearly = [r * (1 + 1e-6) if r.dtype == torch.float32 else r for r in results]
        return update(*arguments, *nearly)

    return run


def state(training: Training) -> dict[str, torch.Tensor]:
    """All that training changes."""
    return {
        **training.program.state_dict(),
        **training.objective.state_dict(prefix="objective."),
        **training.totals.sums,
    }


def assert_same_training(one: Training, other: Training, tolerance: float) -> None:
    """Two trainings from one seed: the same losses, parameters, buffers and noise."""
    histories, noise = [], []
    for training in (one, other):
        torch.manual_seed(5)
        histories.append(training.run())
        noise.append(torch.get_rng_state())
    assert (noise[0] == noise[1]).all()
    for mine, yours in zip(*histories, strict=True):
        assert mine["elbo"] == pytest.approx(yours["elbo"], rel=tolerance)
        assert mine["validation_elbo"] == pytest.approx(yours["validation_elbo"], rel=tolerance)
    for (name, mine), yours in zip(state(one).items(), state(other).values(), strict=True):
        torch.testing.assert_close(mine, yours, rtol=tolerance, atol=tolerance, msg=name)


def moments(training: Training) -> dict[str, torch.Tensor]:
    """The optimiser's state: a gradient is seen in what it moves."""
    return {
        f"{key} of {name}": training.optimizer_step.optimizer.state[parameter][key]
        for name, parameter in training.optimizer_step.parameters.items()
        for key in ("exp_avg", "exp_avg_sq", "step")
    }


def assert_equal_steps(one: Training, other: Training) -> None:
    """The same training to the bit: all that it changes, and the noise, after each step."""
    for step in range(one.steps):
        noise = []
        for training in (one, other):
            torch.manual_seed(step)
            training.take_step()
            noise.append(torch.get_rng_state())
        assert (noise[0] == noise[1]).all()
        mine, yours = (state(t) | moments(t) for t in (one, other))
        for name, value in mine.items():
            assert torch.equal(value, yours[name]), f"step {step}: {name}"


def assert_same_steps(one: Training, other: Training, tolerance: float) -> None:
    """Each step from the same state under the same noise: loss, every gradient, buffers, noise.

    Parameters are not compared: Adam makes a whole step of a gradient's sign, even of one that is
    rounding. So the second training goes on from the first one's state after each step.
    """
    for step in range(one.steps):
        noise = []
        for training in (one, other):
            training.optimizer_step.compiled.wait()
            torch.manual_seed(step)
            training.take_step()
            noise.append(torch.get_rng_state())
        assert (noise[0] == noise[1]).all()
        trained = one.optimizer_step.parameters
        pairs = list(zip(state(one).items(), state(other).values(), strict=True))
        pairs += zip(moments(one).items(), moments(other).values(), strict=True)
        with torch.no_grad():
            for (name, mine), yours in pairs:
                if name not in trained:
                    far, size = (mine.double() - yours.double()).norm(), yours.double().norm()
                    assert far <= tolerance * size + 1e-7, f"step {step}: {name}, {far} of {size}"
                yours.copy_(mine)


def test_few_parts_stay_eager():
    assert len(EAGER) <= 4
    assert set(EAGER) <= {name for parts in FAMILIES.values() for name in parts}
    assert all(name in FAMILIES[family] for family, name in QUICK)


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(("family", "name"), PARTS)
@pytest.mark.parametrize("mode", ["graph", "on"])
def test_the_graph_of_every_part_is_the_eager_step(family, name, mode):
    """To the bit; "on" in the parts that the compiler gets, each run as a graph."""
    part = FAMILIES[family][name]

    def with_part(compile):
        parts = {family: an_objective(name) if family == "objective" else part}
        if not getattr(part, "has_density", True):
            parts["objective"] = an_objective("reconstruction")
        return a_training(compile, epochs=1, **parts)

    graph = with_part(mode)
    assert_equal_steps(graph, with_part("off"))
    assert graph.compiled == ("off" if name in EAGER else mode)


class WithDropout(networks.MLP):
    """A perceptron that forgets a fifth of its input."""

    def forward(self, inputs):
        return super().forward(nn.functional.dropout(inputs.to(torch.float32), 0.2, self.training))


class CouplingFlow(nn.Module):
    """A prior with a flow of two affine couplings over a standard normal."""

    support = "real"

    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim
        couplings = [dist.transforms.affine_coupling(latent_dim, [6]) for _ in range(2)]
        self.couplings = nn.ModuleList(couplings)
        self.register_buffer("zeros", torch.zeros(latent_dim))
        self.swap = dist.transforms.Permute(torch.tensor([2, 0, 1]))

    def forward(self):
        first, second = self.couplings
        base = dist.Normal(self.zeros, 1.0, validate_args=False).to_event(1)
        return dist.TransformedDistribution(base, [first, self.swap, second], validate_args=False)


VARIANTS = {
    "flow prior": {"prior": CouplingFlow},
    "many particles": {"objective": OBJECTIVES["elbo"](num_particles=3)},
    "Monte Carlo KL": {"objective": OBJECTIVES["elbo"](kl="monte_carlo"), "prior": priors.Vamp},
    "DReG beside a Vamp": {"objective": OBJECTIVES["dreg"](), "prior": priors.Vamp},
    "sticking the landing of a flow": {
        "objective": OBJECTIVES["stl"](),
        "posterior": posteriors.InverseAutoregressivePosterior,
    },
    "beta-TC of correlated normals": {
        "objective": OBJECTIVES["beta_tc"](42, num_particles=2),
        "posterior": posteriors.FullNormal,
    },
    "free bits": {"objective": OBJECTIVES["elbo"](free_bits=0.5)},
    "capacity": {"objective": OBJECTIVES["elbo"](capacity=3.0, capacity_epochs=2.0)},
    "cycles": {"objective": OBJECTIVES["elbo"](schedule="cyclical", cycle_epochs=2.0)},
    "warm-up": {"objective": OBJECTIVES["beta"](beta=4.0, warmup_epochs=1.5)},
    "batch norm": {"network": partial(networks.GatedConv, norm="batch"), "prior": priors.Vamp},
    "layer norm": {"network": partial(networks.MLP, hidden=(8,), norm="layer")},
    "dropout": {"network": partial(WithDropout, hidden=(8,))},
    "clipping": {"clip_norm": 0.1},
    "decoded scale": {"likelihood": partial(likelihoods.Normal, scale="decoded")},
    "a short last batch alone": {"n": 12, "epochs": 4},
}


QUICK_VARIANTS = ("free bits", "warm-up", "dropout", "clipping", "a short last batch alone")


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK_VARIANTS else pytest.mark.slow)
        for name in VARIANTS
    ],
)
def test_the_graph_of_variants_is_the_eager_step(name):
    for mode in ("graph", "on"):
        graph = a_training(mode, **VARIANTS[name])
        assert_equal_steps(graph, a_training("off", **VARIANTS[name]))
        assert graph.compiled == mode


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"prior": priors.GaussianMixture, "posterior": posteriors.FullNormal, "clip_norm": 1.0},
        {"network": partial(networks.GatedConv, norm="batch"), "prior": priors.Vamp},
    ],
    ids=["standard", "mixture and full normal", "vamp, gated convolutions, batch norm"],
)
def test_the_compiled_step_is_the_eager_one(parts):
    training = a_training(**parts)
    assert_same_steps(training, a_training("off", **parts), 1e-3)
    assert training.compiled == "on"
    assert training.compile_seconds > 0


@pytest.mark.usefixtures("without_compiler")
def test_whole_trainings_are_the_same():
    assert_same_training(a_training(epochs=3), a_training("off", epochs=3), 0)


@pytest.mark.usefixtures("wait_for_compiler")
@pytest.mark.slow
def test_bfloat16_is_near_float32(monkeypatch):
    # Also where a CPU emulates it.
    monkeypatch.setattr("pyro_vae.training.batch_loss.multiplies_bfloat16", lambda: True)
    ours = a_training(precision="bfloat16")
    for mine, exact in zip(ours.run(), a_training("off").run(), strict=True):
        assert mine["elbo"] == pytest.approx(exact["elbo"], rel=0.02)
    assert ours.compiled == "on"
    assert all(p.dtype == torch.float32 for p in ours.program.parameters())


# ---- noise -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_compiler")
def test_noise_is_fresh_each_step_and_the_same_for_a_seed():
    def losses(seed):
        training = a_training(epochs=1)
        torch.manual_seed(seed)
        # The same rows, and nothing learned from them: what differs is the noise.
        training.optimizer_step._lrs[0].zero_()
        rows = torch.arange(10)
        share = training.batches.share(0)
        return [float(training.optimizer_step(rows, share)) for _ in range(6)]

    one = losses(1)
    assert len(set(one)) == 6
    assert one == losses(1)
    assert not set(one) & set(losses(2))


# ---- falling back ----------------------------------------------------------------------------


class ReadsItsScale(priors.StandardNormal):
    """Looks at a tensor in Python, as no graph can."""

    def forward(self):
        if float(self.zeros.sum()) > 1:
            raise AssertionError
        return super().forward()


class BindsAnew(likelihoods.Bernoulli):
    """Counts its calls in a tensor that is new each time, which a graph would not see."""

    def __init__(self, event_shape, decoder):
        super().__init__(event_shape, decoder)
        self.calls = torch.zeros(())

    def forward(self, z):
        self.calls = self.calls + 1
        p = super().forward(z)
        return dist.Bernoulli(
            logits=p.base_dist.logits + self.calls, validate_args=False
        ).to_event(3)


@pytest.mark.parametrize("parts", [{"prior": ReadsItsScale}, {"likelihood": BindsAnew}])
def test_what_cannot_be_a_graph_trains_eagerly(parts, caplog):
    with caplog.at_level(logging.WARNING, "pyro_vae"):
        training = a_training(**parts)
        assert_same_training(training, a_training("off", **parts), 1e-6)
    assert training.compiled == "off"
    (record,) = (record for record in caplog.records if record.name.startswith("pyro_vae"))
    assert "batch 10: off, it runs eagerly" in record.message
    assert "\n" not in record.message


def test_a_machine_without_a_compiler_runs_the_graph(set_compiler, caplog):
    def none(*_):
        raise CompilerError("InvalidCxxCompiler: No working C++ compiler found")

    set_compiler(none)
    training = a_training()
    assert_same_training(training, a_training("off"), 0)
    assert caplog.text.count("No working C++ compiler") == 1
    assert training.compiled == "graph"


def test_a_buffer_that_disagrees_is_seen(set_compiler, caplog):
    counts: set[int] = set()

    def one_more(traced):
        def run(*arguments):
            outputs = traced(*arguments)
            for tensor in traced.state:
                if tensor.data_ptr() in counts:
                    tensor += 1
            return outputs

        return run

    set_compiler(one_more)
    network = partial(networks.MLP, hidden=(8,), norm="batch")
    training = a_training(network=network, keep="last")
    batches = [b for name, b in training.program.named_buffers() if name.endswith("batches")]
    counts.update(count.data_ptr() for count in batches)
    training.run()
    assert counts
    assert training.compiled == "graph"
    assert "the buffer" in caplog.text
    assert all(int(count) == training.step for count in batches)


def wrong(traced, place=0.0):
    """A graph that was compiled wrongly: it moves what it should not."""

    def run(*arguments):
        outputs = traced(*arguments)
        for tensor in traced.state:
            if tensor.shape == (8, 64) and place:
                tensor += place * tensor.abs().mean()
        return tuple(output * (1.001 if not place else 1) for output in outputs)

    return run


@pytest.mark.parametrize(
    ("place", "message"), [(0.0, "loss: compiled and eager differ"), (0.1, "the gradient of")]
)
def test_a_graph_that_disagrees_is_not_used(set_compiler, caplog, place, message):
    set_compiler(partial(wrong, place=place))
    training = a_training()
    assert_same_training(training, a_training("off"), 0)
    assert message in caplog.text
    assert training.compiled == "graph"


# ---- deciding, and going on ------------------------------------------------------------------


def test_auto_decides_from_counted_work(set_compiler, caplog):
    set_compiler()
    with caplog.at_level(logging.INFO, "pyro_vae"):
        trainings = [a_training("auto", epochs=epochs) for epochs in (2, 4000, 40000)]
        for training in trainings:
            training.run(stop=partial(next, itertools.chain([False] * 3, itertools.repeat(True))))
    assert [training.compiled for training in trainings] == ["off", "graph", "on"]
    # 10 data, 64-8-6 and 3-8-64: forward, and backward to weights and, but for the input, to units.
    products = 64 * 8 + 8 * 6 + 3 * 8 + 8 * 64
    assert f"{10 * 2 * (3 * products - 64 * 8):.2g} floating-point" in caplog.text
    assert "graph; compiling 16000 calls" in caplog.text
    assert "on; compiling 160000 calls" in caplog.text


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(
    "at", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_resumed_run_keeps_the_decision_and_the_bits(at):
    whole = a_training(epochs=2)
    torch.manual_seed(5)
    whole.run()
    stopped = a_training(epochs=2)
    torch.manual_seed(5)
    stopped.run(stop=partial(next, itertools.chain([False] * at, itertools.repeat(True))))
    assert stopped.step == at
    saved = stopped.state_dict()
    resumed = a_training(epochs=2)
    resumed.load_state_dict(saved)
    resumed.run()
    for mine, yours in zip(state(whole).values(), state(resumed).values(), strict=True):
        assert (mine == yours).all()
    assert resumed.state_dict()["compile"] == whole.state_dict()["compile"]


def switching(at: int, seed: int | None = 5) -> Training:
    """A training that switches to the compiled step at a step."""
    training = a_training(epochs=3)
    training.optimizer_step.compiled.may_switch = lambda: training.step >= at
    if seed is not None:
        torch.manual_seed(seed)
    return training


@pytest.mark.parametrize("compiler", ["rounded", pytest.param("real", marks=pytest.mark.slow)])
@pytest.mark.parametrize("at", [5, 9])
def test_a_run_that_switches_is_resumed_to_the_bit(
    at, compiler, set_compiler, monkeypatch, tmp_path
):
    """Before the switch at step 7, and behind it."""
    if compiler == "rounded":
        set_compiler(rounded)
    else:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        # The compiler's results are there when the runs below ask for them.
        first = a_training(epochs=3)
        first.run(stop=lambda: bool(first.optimizer_step.compiled.wait()))
        assert first.compiled == "on"
    whole = switching(7)
    whole.run()
    assert whole.optimizer_step.compiled.decisions["10"] == "on"
    never = switching(10**9)
    never.run()
    assert never.optimizer_step.compiled.decisions["10"] == "compiling"
    stopped = switching(7)
    stopped.run(stop=lambda: stopped.step == at)
    assert stopped.step == at
    assert stopped.optimizer_step.compiled.decisions["10"] == ("on" if at > 7 else "compiling")
    saved = stopped.state_dict()
    resumed = switching(7, seed=None)
    resumed.load_state_dict(saved)
    resumed.run()
    mine, yours, unlike = (state(t) | moments(t) for t in (resumed, whole, never))
    assert [name for name in mine if not torch.equal(mine[name], yours[name])] == []
    assert not all(torch.equal(mine[name], unlike[name]) for name in mine)
    assert resumed.state_dict()["compile"] == whole.state_dict()["compile"]


@pytest.mark.parametrize("mode", ["yes", "", None])
def test_an_unknown_mode_is_refused(mode):
    with pytest.raises(Exception, match=r"compile must be one of auto, on, off|compile"):
        a_training(mode)
