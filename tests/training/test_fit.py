"""Real data of any unit: the model works in units of the spread, and speaks in the user's."""

import logging

import numpy as np
import pytest
import torch

from pyro_vae import build, fit, likelihoods, networks, priors
from pyro_vae.data import Dataset, PreparedData, Units
from pyro_vae.evidence import importance_weighting

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=(400, 2))
PLAIN = np.concatenate([Z, Z @ RANDOM.normal(size=(2, 3))], 1) + 0.3 * RANDOM.normal(size=(400, 5))
SPREAD, CENTER = np.array([6e4, 1, 1e-4, 20, 300]), np.array([1e5, -5, 2e-4, 2.4e9, 0])


def trained(x, likelihood=likelihoods.Normal, epochs=30):
    torch.manual_seed(0)
    vae = build((5,), 2, likelihood=likelihood)
    fit(vae, x, epochs=epochs, lr=3e-3, check="none")
    return vae


@pytest.mark.parametrize(
    "part",
    [
        likelihoods.Normal,
        pytest.param(likelihoods.Laplace, marks=pytest.mark.slow),
        pytest.param(likelihoods.StudentT, marks=pytest.mark.slow),
        pytest.param(likelihoods.LowRankNormal, marks=pytest.mark.slow),
    ],
)
def test_another_unit_gives_the_same_model(part):
    """Only the density changes, by the logarithm of the spreads."""
    plain, scaled = trained(PLAIN, part), trained(PLAIN * SPREAD + CENTER, part)
    x, y = torch.from_numpy(PLAIN), torch.from_numpy(PLAIN * SPREAD + CENTER)
    with torch.no_grad():
        # An absolute error has no smooth gradient: other rounding leads elsewhere.
        if part is not likelihoods.Laplace:
            torch.testing.assert_close(scaled.embed(y), plain.embed(x), atol=0.2, rtol=0)
            decoded = (scaled.decode(scaled.embed(y)).numpy() - CENTER) / SPREAD
            np.testing.assert_allclose(decoded, plain.decode(plain.embed(x)).numpy(), atol=0.1)
        evidence = [
            importance_weighting(vae.model, vae.guide, rows, num_samples=200).log_evidence.mean()
            for vae, rows in ((plain, x), (scaled, y))
        ]
    assert evidence[0] - evidence[1] == pytest.approx(np.log(SPREAD).sum(), abs=0.15)


def test_pseudo_inputs_are_learned_in_units_of_the_spread():
    x = torch.from_numpy(PLAIN * SPREAD + CENTER)
    dataset = Dataset.from_array(x)
    vae = build(
        (5,),
        2,
        prior=priors.Vamp,
        likelihood=likelihoods.Normal,
        train_data=dataset.train,
        units=dataset.units,
    )
    assert vae.prior.pseudo_inputs.abs().max() < 6
    with torch.no_grad():
        assert vae.prior().sample((50,)).isfinite().all()


def test_a_state_dict_carries_the_units():
    x = PLAIN * SPREAD + CENTER
    vae = trained(x, epochs=1)
    again = build((5,), 2, likelihood=likelihoods.Normal)
    again.load_state_dict(vae.state_dict())
    rows = torch.from_numpy(x)
    assert again.likelihood.units.center.dtype == torch.float64
    torch.testing.assert_close(again.eval().embed(rows), vae.embed(rows))


def test_a_second_fit_keeps_the_units():
    vae = trained(PLAIN, epochs=1)
    center = vae.likelihood.units.center.clone()
    fit(vae, PLAIN + 1, epochs=1, check="none")
    assert torch.equal(vae.likelihood.units.center, center)
    with pytest.raises(ValueError, match="shape"):
        fit(vae, PLAIN[:, :4], epochs=1)


def test_units_of_a_loaded_or_built_model_are_kept(caplog):
    vae = trained(PLAIN, epochs=1)
    loaded = build((5,), 2, likelihood=likelihoods.Normal)
    loaded.load_state_dict(vae.state_dict())
    with caplog.at_level(logging.WARNING):
        fit(loaded, PLAIN, epochs=0, check="none")
        assert "keeps the center" not in caplog.text
    fit(loaded, PLAIN, epochs=0, check="none")
    loaded.contract = None
    fit(loaded, PLAIN + 100, epochs=0, check="none")
    assert "keeps the center and spread" in caplog.text
    for part in (loaded.likelihood, loaded.posterior.encoder):
        assert torch.equal(part.units.center, vae.likelihood.units.center)
    torch.testing.assert_close(
        loaded.contract.units.center.float(), loaded.likelihood.units.center
    )
    robust = Units.from_data(torch.from_numpy(PLAIN), "robust")
    built = build((5,), 2, likelihood=likelihoods.Normal, units=robust)
    fit(built, PLAIN, epochs=0, check="none")
    torch.testing.assert_close(
        built.likelihood.units.spread.double(), robust.spread, rtol=1e-6, atol=0
    )


def test_the_contract_has_the_units_of_the_model():
    vae = trained(PreparedData(Dataset.from_array(PLAIN), "real"), epochs=1)
    fit(vae, PreparedData(Dataset.from_array(PLAIN + 100), "real"), epochs=0, check="none")
    torch.testing.assert_close(vae.contract.units.center.float(), vae.likelihood.units.center)


@pytest.mark.parametrize("part", [likelihoods.Poisson, likelihoods.NegativeBinomial])
def test_means_of_a_loaded_model_are_kept(part):
    counts = RANDOM.poisson(5, (100, 3))
    vae, loaded = (build((3,), 2, likelihood=part) for _ in range(2))
    fit(vae, counts, epochs=0)
    assert vae.decode(torch.zeros(1, 2)).mean().item() == pytest.approx(5, rel=0.5)
    loaded.load_state_dict(vae.state_dict())
    fit(loaded, 10 * counts, epochs=0)
    z = torch.randn(4, 2)
    torch.testing.assert_close(loaded.decode(z), vae.decode(z))


def test_refused_values_leave_no_units():
    vae, bad = build((5,), 2, likelihood=likelihoods.Normal), PLAIN.copy()
    bad[::7, 1] = -9999
    with pytest.raises(ValueError, match="-9999"):
        fit(vae, bad, epochs=0)
    assert not vae.likelihood.units.known


@pytest.mark.parametrize("part", [likelihoods.Normal, likelihoods.LowRankNormal])
def test_a_scale_that_is_not_fixed_is_above_the_resolution(part):
    units = Units.from_data(torch.from_numpy((PLAIN / 0.5).round() * 0.5 * SPREAD))
    likelihood = part((5,), lambda shape: networks.MLP((2,), shape), units=units)
    with torch.no_grad():
        likelihood.raw_scale.fill_(-100)
    scale = likelihood(torch.zeros(1, 2)).variance.detach().sqrt()
    least = units.spread * (likelihood.minimum_scale + units.floor)
    assert (units.floor > 0.1).all()
    assert (scale >= 0.999 * least).all()


def test_an_encoder_of_ones_own_is_named_if_it_reads_raw_data(caplog):
    from pyro_vae import VAE, posteriors

    def parts(encoder):
        return VAE(
            priors.StandardNormal(2),
            likelihoods.Normal((5,), lambda shape: networks.MLP((2,), shape)),
            posteriors.DiagonalNormal(2, encoder),
        )

    def encoder(shape):
        return networks.MLP((5,), shape)

    with caplog.at_level(logging.WARNING):
        fit(parts(encoder), PLAIN, epochs=0, check="none")
        assert "networks.on_user_units" in caplog.text
        caplog.clear()
        fit(parts(networks.on_user_units(encoder, (5,))), PLAIN, epochs=0, check="none")
        assert "networks.on_user_units" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_units_whose_squares_leave_float32(unit):
    """As of cgs fluxes and luminosities."""
    plain, scaled = (
        trained(PLAIN * factor).embed(torch.from_numpy(PLAIN * factor)) for factor in (1, unit)
    )
    torch.testing.assert_close(scaled, plain, atol=1e-2, rtol=1e-2)
