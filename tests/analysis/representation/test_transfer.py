"""Codes against raw data and an untrained encoder, on the same draws."""

import json

import numpy as np
import pytest
import torch

from analysis.calibration.exact_models import LinearGaussian
from analysis.representation.codes import LabelledCodes, balanced_rows
from analysis.representation.probes import linear_probe
from analysis.representation.transfer import Lead, plot_transfer, representations, transfer
from pyro_vae import build


def made(n, *, seed):
    """Two coordinates that tell the labels, and the same among 30 of noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    codes = 3.0 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[labels] + rng.normal(size=(n, 2))
    hidden = np.column_stack([codes, 4.0 * rng.normal(size=(n, 30))])
    return {
        "codes": LabelledCodes(codes, labels),
        "raw data": LabelledCodes(hidden, labels),
        "copy": LabelledCodes(codes + 5.0, labels),
    }


@pytest.fixture(scope="module")
def found():
    return transfer(made(200, seed=0), made(600, seed=1), sizes=(20, 100), repeats=4)


def test_what_is_better_and_what_is_as_good(found):
    assert found.first == "codes"
    leads = {(lead.other, lead.n): lead for lead in found.leads}
    assert leads["raw data", 20].is_clear
    assert leads["raw data", 20].mean > 0.1
    np.testing.assert_array_equal(leads["copy", 20].differences, 0.0)
    assert not leads["copy", 100].is_clear
    for (other, n), lead in leads.items():
        row = found.sizes.index(n)
        np.testing.assert_allclose(
            lead.differences, found.accuracies["codes"][row] - found.accuracies[other][row]
        )
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert "over copy (not clearly better)" in summary["reading"]
    assert "over raw data (better)" in summary["reading"]


def test_judged_from_the_other_side():
    train, test = made(200, seed=0), made(600, seed=1)
    turned = [{name: part[name] for name in ("raw data", "codes")} for part in (train, test)]
    found = transfer(*turned, sizes=(20,), repeats=3)
    assert "over codes (worse)" in found.reading()


def test_error_of_a_lead_by_hand():
    lead = Lead("other", 10, np.array([0.1, 0.3]), 0.0)
    assert (lead.mean, lead.spread) == (pytest.approx(0.2), pytest.approx(0.2 / 2**0.5))
    assert lead.standard_error == pytest.approx(0.1)
    assert not lead.is_clear
    assert Lead("other", 10, np.array([0.2, 0.2]), 0.06).is_clear
    assert not Lead("other", 10, np.array([0.2, 0.2]), 0.07).is_clear


def test_draws_are_apart_and_the_error_of_test_data_by_hand():
    train, test = made(100, seed=0), made(300, seed=1)
    (lead, _) = transfer(train, test, sizes=(20,), repeats=3, seed=5).leads
    labels = train["codes"].labels
    rows = [balanced_rows(labels, 20, seed=5, repeat=repeat) for repeat in range(3)]
    codes, raw = (
        np.array([linear_probe(train[name].subset(drawn), test[name]).correct for drawn in rows])
        for name in ("codes", "raw data")
    )
    differences = codes.astype(float) - raw
    np.testing.assert_allclose(lead.differences, differences.mean(1))
    assert len(set(lead.differences)) > 1
    assert lead.test_error == pytest.approx(differences.mean(0).std() / 300**0.5)


def test_representations_of_a_program():
    """The raw data are the data as vectors; bytes are taken as numbers."""
    model = LinearGaussian(event_shape=(1, 4, 4), latent_dim=2)
    x, labels = model.draw(30, 0), torch.arange(30) % 3
    found = representations(model.vae(), model.vae(collapsed=True), x, labels)
    assert list(found) == ["codes", "raw data", "untrained encoder"]
    assert [part.codes.shape for part in found.values()] == [(30, 2), (30, 16), (30, 2)]
    np.testing.assert_array_equal(found["raw data"].codes, x.reshape(30, 16).numpy())
    for part in found.values():
        np.testing.assert_array_equal(part.labels, labels.numpy())
    whole = representations(model.vae(), model.vae(), (x > 0).to(torch.uint8), labels)
    assert set(np.unique(whole["raw data"].codes)) == {0.0, 1.0}


def test_figure(words, found):
    axes, text = words(plot_transfer(found))
    assert "With 20 labels, codes: better than raw data; not clearly better than copy" in text
    assert "100 labels" in text
    dots = sum(len(line.get_xdata()) for line in axes[0].lines if line.get_marker() == "o")
    assert dots == 2 * 3 * 4


def test_refused():
    train, test = made(40, seed=0), made(40, seed=1)
    with pytest.raises(ValueError, match="the same two names or more"):
        transfer(train, {"codes": test["codes"]})
    with pytest.raises(ValueError, match="their labels differ"):
        transfer({**train, "copy": made(41, seed=2)["copy"]}, test)
    with pytest.raises(ValueError, match="repeats must be at least 2"):
        transfer(train, test, repeats=1)


def test_raw_data_are_scaled_as_the_encoder_reads_them():
    x = torch.tensor([[0.0, 1000.0], [1.0, 3000.0], [2.0, 5000.0]])
    vae = build((2,), 2, likelihood="normal", train_data=x)
    raw = representations(vae, vae, x, torch.tensor([0, 1, 1]))["raw data"].codes
    np.testing.assert_allclose(raw[:, 0], raw[:, 1], rtol=1e-5)
