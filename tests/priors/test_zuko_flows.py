"""The flows of zuko: their density and draws, what they learn, and the package's absence."""

import copy
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributions

from pyro_vae.priors import AutoregressiveFlow, SplineFlow
from pyro_vae.priors.flows import import_zuko

SCRIPT = Path(__file__).parents[2] / "scripts" / "svi_train.py"
FLOWS = [SplineFlow, AutoregressiveFlow]


def bimodal() -> distributions.Distribution:
    """0.3 N((-1.5, -1), 0.5^2 I) + 0.7 N((1.5, 1), 0.5^2 I)."""
    modes = distributions.Normal(torch.tensor([[-1.5, -1.0], [1.5, 1.0]]), 0.5)
    return distributions.MixtureSameFamily(
        distributions.Categorical(torch.tensor([0.3, 0.7])), distributions.Independent(modes, 1)
    )


def moved(prior, by: float = 0.3):
    """A flow away from its start."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return prior


@pytest.mark.parametrize("part", FLOWS)
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_starts_as_the_normal(part, latent_dim):
    z = 3 * torch.randn(50, latent_dim)
    expected = distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(part(latent_dim)().log_prob(z), expected)


@pytest.mark.parametrize("part", FLOWS)
@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_density_is_the_change_of_variables(part, latent_dim):
    prior = moved(part(latent_dim, hidden=(16, 16)).double())
    normal = distributions.Normal(0.0, 1.0)
    for u in torch.randn(5, latent_dim).double():
        z = prior.flow(u)[0]
        jacobian = torch.autograd.functional.jacobian(lambda u: prior.flow(u)[0], u)
        expected = normal.log_prob(u).sum() - torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(prior().log_prob(z), expected)
        torch.testing.assert_close(prior.flow.inverse(z)[0], u, atol=1e-8, rtol=0)
        # Each map moves the coordinates: this is no test of the identity.
        assert (z - u).abs().max() > 1e-3


@pytest.mark.parametrize("part", FLOWS)
def test_a_draw_has_the_density_of_its_value_in_value_and_gradient(part):
    p = moved(part(3, hidden=(16, 16)).double(), 0.2)
    q = p().expand((4, 6))
    z = q.rsample((2,))
    assert z.shape == (2, 4, 6, 3)
    own, inverted = q.log_prob(z), q.log_prob(z.clone())
    torch.testing.assert_close(own, inverted)
    gradients = [
        torch.autograd.grad(log_prob.sum(), list(p.parameters()), retain_graph=True)
        for log_prob in (own, inverted)
    ]
    for mine, yours in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, yours)


@pytest.mark.slow
@pytest.mark.parametrize("part", FLOWS)
def test_the_samplers_gradient(part):
    """d/dtheta E[g(z)] of draws, against differences of the integral of g(z) p(z)."""
    prior = moved(part(2, transforms=2, hidden=(8,)).double(), 0.1)
    bias = prior.flow.transform.transforms[0].hyper[-1].bias
    line = torch.linspace(-7, 7, 701, dtype=torch.float64)
    plane, area = torch.cartesian_prod(line, line), (line[1] - line[0]) ** 2

    def g(z):
        return torch.sin(z[..., 0]) + z[..., 0] * z[..., 1]

    def exact() -> float:
        with torch.no_grad():
            return float((g(plane) * prior().log_prob(plane).exp()).sum() * area)

    rows = [torch.autograd.grad(g(prior().rsample((4000,))).mean(), bias)[0] for _ in range(50)]
    found, error = torch.stack(rows).mean(0), torch.stack(rows).std(0) / 50**0.5
    for i in (0, len(bias) // 2, len(bias) - 1):
        with torch.no_grad():
            bias[i] += 1e-3
            above = exact()
            bias[i] -= 2e-3
            below = exact()
            bias[i] += 1e-3
        assert abs(found[i] - (above - below) / 2e-3) < 4 * error[i] + 1e-3


@pytest.mark.parametrize("part", FLOWS)
def test_learns_two_modes(part):
    prior, target, steps = part(2, hidden=(32, 32)), bimodal(), 300
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (-prior().log_prob(target.sample((256,))).mean()).backward()
        optimizer.step()
        schedule.step()
    z = target.sample((20_000,))
    with torch.no_grad():
        assert (target.log_prob(z) - prior().log_prob(z)).mean() < 0.05  # KL, from 1.5
        assert (prior().sample((20_000,))[:, 0] > 0).float().mean() == pytest.approx(0.7, abs=0.03)


def test_outside_of_the_splines_it_is_a_normal():
    """In one dimension exactly; the mass there never moves."""
    p = moved(SplineFlow(1).double(), 2.0)()
    z = torch.tensor([[-9.0], [-5.001], [5.001], [100.0]], dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), distributions.Normal(0.0, 1.0).log_prob(z).sum(-1))
    inside = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
    mass = torch.trapezoid(p.log_prob(inside[:, None]).detach().exp(), inside)
    assert mass == pytest.approx(math.erf(5 / 2**0.5), abs=1e-5)
    assert not torch.allclose(
        p.log_prob(inside[:, None]), distributions.Normal(0.0, 1.0).log_prob(inside), atol=0.1
    )


@pytest.mark.parametrize("part", FLOWS)
@pytest.mark.parametrize("latent_dim", [1, 2, 40])
def test_extremes_are_finite(part, latent_dim):
    prior = moved(part(latent_dim))
    z = torch.cat([size * torch.randn(50, latent_dim) for size in (1e-30, 1.0, 5.0, 1e4)])
    z = torch.cat([z, torch.full((1, latent_dim), 5.0)]).requires_grad_()
    log_prob = prior().log_prob(z)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert z.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in prior.parameters())
    assert prior().sample((200,)).isfinite().all()
    if part is SplineFlow:
        # Saturated, all the more: the splines are bounded.
        assert moved(prior, 30.0)().sample((200,)).isfinite().all()


@pytest.mark.parametrize("part", FLOWS)
def test_copies_and_checkpoints(part):
    prior = moved(part(3))
    z = torch.randn(4, 3)
    other = part(3)
    other.load_state_dict(prior.state_dict())
    for twin in (copy.deepcopy(prior), other):
        torch.testing.assert_close(twin().log_prob(z), prior().log_prob(z), rtol=0, atol=0)


def test_importing_zuko_leaves_validation_as_it_was():
    """In a process of its own: a package is imported once."""
    program = """
import torch
from torch.distributions import Distribution, Normal
import sys
from pyro_vae.priors import PRIORS
assert "zuko" not in sys.modules
for valid in (True, False):
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        del sys.modules[name]
    Distribution.set_default_validate_args(valid)
    PRIORS["spline_flow"](2)
    assert "zuko" in sys.modules
    assert Distribution._validate_args is valid
Distribution.set_default_validate_args(True)
try:
    Normal(0.0, -1.0)
except ValueError:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "refused\n"


@pytest.mark.parametrize("part", FLOWS)
def test_without_zuko(part, monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(
        ImportError, match=r"need the package zuko: pip install 'pyro-vae\[flows\]"
    ):
        part(2)
    assert distributions.Distribution._validate_args


def test_the_program_without_zuko(monkeypatch, capsys, tmp_path):
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setitem(sys.modules, "zuko", None)
    out = str(tmp_path / "run")
    assert main(["--prior", "spline_flow", "--max-steps", "1", "--out", out]) == 2
    error = capsys.readouterr().err
    assert "pip install 'pyro-vae[flows]'" in error
    assert error.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        main(["--prior", "spline_flow", "--help"])
    assert ended.value.code == 0


def test_zuko_is_what_is_imported():
    assert import_zuko().__name__ == "zuko"


@pytest.mark.parametrize("part", FLOWS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"transforms": 0}, "transforms must be at least 1, got 0"),
        ({"hidden": ()}, "hidden must be one or more widths"),
    ],
)
def test_options_out_of_range(part, options, message):
    with pytest.raises(ValueError, match=message):
        part(**{"latent_dim": 2, **options})


def test_options_of_one_flow_out_of_range():
    with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
        SplineFlow(2, bins=1)
    for bound in (0.0, 81.0, math.nan):
        with pytest.raises(ValueError, match="bound must be above 0 and at most 80"):
            AutoregressiveFlow(2, bound=bound)
