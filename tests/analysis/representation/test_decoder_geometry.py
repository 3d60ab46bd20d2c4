"""Jacobians with known singular values: of a matrix, of squares, on a sphere."""

import json
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch
from torch import nn

from analysis.calibration.exact_models import BernoulliMixture, LinearGaussian
from analysis.representation.decoder_geometry import (
    decoder_geometry,
    jacobians,
    off_diagonal_share,
    plot_jacobian_spectrum,
)
from analysis.representation.interpolation import interpolation
from analysis.result import UndefinedCheckError
from pyro_vae import likelihoods
from pyro_vae.data import Units
from pyro_vae.model import build

EXACT = LinearGaussian((1, 4, 4), latent_dim=3)
RNG = np.random.default_rng(0)


class Decoder(nn.Module):
    """A program that only decodes."""

    latent_sites = ("z",)

    def __init__(self, decode, support="real"):
        super().__init__()
        self.decode = decode
        self.prior = SimpleNamespace(support=support)


def test_of_a_linear_decoder_they_are_the_matrix_s(words):
    found = decoder_geometry(EXACT.vae(), RNG.standard_normal((20, 3)), num_codes=12)
    weight = EXACT.weight.double().numpy()
    truth = np.linalg.svd(weight, compute_uv=False)
    assert found.singular_values.shape == (12, 3)
    np.testing.assert_allclose(found.singular_values, np.tile(truth, (12, 1)), rtol=1e-12)
    shares = truth**2 / (truth**2).sum()
    np.testing.assert_allclose(found.effective_rank, np.exp(-(shares * np.log(shares)).sum()))
    np.testing.assert_allclose(found.condition_number, truth[0] / truth[-1])
    volume = 0.5 * np.linalg.slogdet(weight.T @ weight)[1]
    np.testing.assert_allclose(found.log_volume, volume)
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["directions_used"] == 3
    assert summary["log_volume_deviation"] == pytest.approx(0, abs=1e-9)
    assert "3 of 3 directions" in summary["reading"]
    assert "3 of 3 directions" in words(plot_jacobian_spectrum(found))[1]


@pytest.mark.slow
def test_columns_in_different_units_move_in_their_spreads():
    x = torch.from_numpy(RNG.normal(size=(200, 3)))
    found, paths = [], []
    for factors in ([1.0, 1.0, 1.0], [1.0, 1000.0, 0.01]):
        pyro.set_rng_seed(0)
        units = Units.from_data(x * torch.tensor(factors, dtype=torch.double))
        vae = build((3,), 2, likelihood="normal", units=units).eval()
        z = np.random.default_rng(1).normal(size=(10, 2)).astype(np.float32)
        found.append(decoder_geometry(vae, z).singular_values)
        paths.append(interpolation(vae, z, pairs=5, num_samples=2).length)
    one, spreads = Units.from_data(x).spread.numpy(), found[1]
    # Of the first, whose columns have one unit, distances are in it.
    np.testing.assert_allclose(found[0] / one.mean(), spreads, rtol=0.2)
    assert spreads.max() < 10
    np.testing.assert_allclose(paths[0] / one.mean(), paths[1], rtol=0.2)


def test_coordinates_at_right_angles_and_rotated():
    scales = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.double)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.double))[0]
    z = RNG.standard_normal((5, 4))
    straight = decoder_geometry(Decoder(lambda z: z * scales), z)
    turned = decoder_geometry(Decoder(lambda z: (z @ rotation) * scales), z)
    np.testing.assert_allclose(straight.off_diagonal, 0, atol=1e-12)
    assert "close to its axes" in straight.reading()
    assert np.median(turned.off_diagonal) > 0.2
    np.testing.assert_allclose(turned.singular_values, straight.singular_values)
    alike = decoder_geometry(Decoder(lambda z: z @ rotation), z)
    assert "no preferred axes" in alike.reading()
    assert off_diagonal_share(np.array([[1.0, 1.0], [1.0, 1.0]])) == 0.5


def test_a_derivative_is_taken_where_the_code_is():
    z = np.array([[1.0, 3.0], [2.0, -0.5]])
    found = jacobians(Decoder(lambda z: z**2), z)
    np.testing.assert_allclose(found, [np.diag([2.0, 6.0]), np.diag([4.0, -1.0])])


def test_on_a_sphere_and_a_simplex_only_tangents_count():
    """x = W z: at z = e_1 the other columns of W; of z @ (1, 1, 1) on the simplex, nothing."""
    scales = torch.tensor([9.0, 2.0, 1.0], dtype=torch.double)
    sphere = decoder_geometry(Decoder(lambda z: z * scales, "sphere"), np.eye(3)[:1])
    np.testing.assert_allclose(sphere.singular_values, [[2.0, 1.0]])
    assert sphere.off_diagonal is None
    summary = sphere.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    constant = Decoder(lambda z: z.sum(-1, keepdim=True).expand(-1, 4), "simplex")
    simplex = decoder_geometry(constant, np.full((2, 3), 1 / 3))
    np.testing.assert_allclose(simplex.singular_values, 0, atol=1e-12)


def test_a_decoder_that_ignores_the_code(words):
    for vae in (EXACT.vae(collapsed=True), Decoder(lambda z: torch.ones(len(z), 5))):
        found = decoder_geometry(vae, RNG.standard_normal((4, 3)))
        np.testing.assert_array_equal(found.singular_values, 0)
        summary = found.summary()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert "ignores the code" in summary["reading"]
        assert "0 of 3" in words(plot_jacobian_spectrum(found))[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in likelihoods.LIKELIHOODS if "autoregressive" not in n])
def test_every_likelihood_against_differences(name):
    kind = likelihoods.LIKELIHOODS[name]
    x = (
        torch.full((6, 1, 3, 3), 1.0)
        if kind.support in ("counts", "integers")
        else torch.rand(6, 1, 3, 3)
    )
    vae = build((1, 3, 3), 2, likelihood=kind, train_data=x, train_size=6, levels=4)
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    z = np.array([[0.3, -0.7]])
    (found,) = jacobians(vae, z)
    program = vae.double()
    with torch.no_grad():
        columns = []
        for step in np.eye(2) * 1e-5:
            high, low = (program.decode(torch.as_tensor(z + s)) for s in (step, -step))
            columns.append(((high - low) / 2e-5).flatten().numpy())
    np.testing.assert_allclose(found, np.stack(columns, 1), rtol=1e-4, atol=1e-7)
    assert all(torch.equal(before[k], v.to(before[k])) for k, v in vae.state_dict().items())


def test_what_has_no_jacobian_is_refused():
    with pytest.raises(UndefinedCheckError, match="one-hot"):
        decoder_geometry(BernoulliMixture().vae(), np.eye(5))
    with pytest.raises(ValueError, match="num_codes must be at least 1, got 0"):
        decoder_geometry(EXACT.vae(), np.eye(3), num_codes=0)
    with pytest.raises(ValueError, match="at least 1 codes are needed, got 0"):
        decoder_geometry(EXACT.vae(), np.zeros((0, 3)))
