"""New data for a trained model, which must be like those of training or are refused in one line."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import build, fit, likelihoods, priors
from pyro_vae.data import DataContract, Dataset, PreparedData
from pyro_vae.data.rows import as_rows
from pyro_vae.data.tables import frame_rows
from pyro_vae.evidence import evaluate

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=100)
TABLE = pd.DataFrame(
    {"u": Z, "v": 5 + Z + RANDOM.normal(size=100), "w": 100 * RANDOM.normal(size=100) - 5000}
)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = build((3,), 2, likelihood=likelihoods.Normal)
    fit(vae, TABLE, epochs=1)
    return vae


def test_columns_are_matched_by_name(vae, caplog):
    codes = vae.embed(TABLE)
    others = TABLE[["w", "v", "u"]].assign(name="text", more=1.5)
    assert torch.equal(vae.embed(others), codes)
    assert "'more'" in caplog.text
    with pytest.raises(ValueError, match=r"'v'.*it has 'u', 'w'.*Rename or add"):
        vae.embed(TABLE[["u", "w"]])


def test_further_training_matches_columns_by_name(vae):
    fit(vae, TABLE[["w", "u", "v"]], epochs=1)
    assert vae.contract.event_names == ("u", "v", "w")
    with pytest.raises(ValueError, match="lacks 1 of the 3 columns"):
        fit(vae, TABLE.rename(columns={"u": "x"}), epochs=1)
    with pytest.raises(ValueError, match="in another order: put them in the order 'u', 'v', 'w'"):
        fit(vae, Dataset.from_array(TABLE.to_numpy(), event_names=("v", "u", "w")), epochs=1)


def test_evaluate_takes_tables_in_any_order(vae):
    x = torch.tensor(TABLE.to_numpy(), dtype=torch.float32)
    first, second = (evaluate(vae, data, num_samples=5) for data in (x, TABLE[["v", "w", "u"]]))
    assert first.summary() == second.summary()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(5, 4), r"shape \(3,\) .*, got \(5, 4\)"),
        (np.zeros(3), r"a single row: give an array of one, x\[None\]"),
    ],
)
def test_what_does_not_fit_is_refused(vae, x, message):
    with pytest.raises(ValueError, match=message):
        vae.embed(x)


def test_a_data_set_has_no_codes(vae):
    with pytest.raises(TypeError, match=r"such as dataset\.test"):
        vae.embed(Dataset.from_array(TABLE.to_numpy()))


def test_values_of_another_unit_are_said(vae, caplog):
    with caplog.at_level(logging.WARNING):
        vae.embed(TABLE)
        assert not caplog.text
        vae.embed(TABLE.assign(w=TABLE["w"] / 1000))
    assert "column 'w' in 100 of 100 rows" in caplog.text


def test_float32_is_refused_where_it_loses_differences():
    vae = build((3,), 2, likelihood=likelihoods.Normal)
    fit(vae, TABLE.assign(u=2_459_000.5 + 1e-3 * TABLE["u"]), epochs=1)
    x = torch.tensor(TABLE.to_numpy())
    vae.embed(x)
    for data in (x.float(), x.float().numpy()):
        with pytest.raises(ValueError, match="in float32: give it in float64"):
            vae.embed(data)


def test_a_vae_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"one of data of shape \(5,\).*shape \(3,\)"):
        fit(build((5,), 2, likelihood=likelihoods.Normal), TABLE)


def test_masked_values_are_not_data():
    masked = np.ma.masked_greater(TABLE.to_numpy(), 5)
    with pytest.raises(ValueError, match="masked values: fill them in"):
        Dataset.from_array(masked)


def test_pseudo_inputs_start_in_the_units_of_their_data():
    x = torch.tensor(TABLE.to_numpy(), dtype=torch.float32)
    vae = build((3,), 2, likelihood=likelihoods.Normal, prior=priors.Vamp, train_data=x)
    assert vae.prior.pseudo_inputs.abs().max() < 10


def test_changes_of_the_same_rows_are_told_apart(vae):
    contract = vae.contract
    x = torch.tensor(TABLE.to_numpy(), dtype=torch.float32)
    seen = contract.training_overlap(x)
    assert str(seen).startswith("70 of 100 rows")
    assert contract.training_overlap(x + 1) is None


@pytest.mark.parametrize("change", [lambda x: x - 1, lambda x: (1 + x).log()])
def test_what_is_no_count_is_not_embedded(change):
    x = torch.from_numpy(RANDOM.poisson(1.0, (50, 4)))
    vae = build((4,), 2, likelihood=likelihoods.Poisson)
    fit(vae, x, epochs=1)
    assert torch.equal(vae.embed(x), vae.embed(x.float()))
    with pytest.raises(ValueError, match="values outside whole numbers, 0 or more"):
        vae.embed(change(x.float()))


def test_the_meta_device_is_refused():
    with torch.device("meta"):
        vae = build((3,), 2, likelihood=likelihoods.Normal)
    with pytest.raises(ValueError, match="device 'meta'"):
        fit(vae, TABLE)
    with pytest.raises(ValueError, match="meta device"):
        Dataset.from_array(torch.empty(20, 3, device="meta"))


def test_a_column_that_never_varied_in_training_is_named():
    table = TABLE.assign(c=3.0)
    contract = DataContract.from_data(PreparedData(Dataset.from_rows(frame_rows(table)), "real"))
    same = contract.new_data(frame_rows(table.head(5), new=True)).dataset
    assert not any("were constant" in note for note in same.notes)
    other = contract.new_data(frame_rows(table.head(5).assign(c=[3, 3, 3.1, 3, 4]), new=True))
    assert any("'c' in 2 of 5 rows" in note for note in other.dataset.notes)


def test_the_likelihood_says_what_floats_without_a_fraction_are():
    counts = pd.DataFrame(RANDOM.poisson(20.0, (60, 3)).astype(float), columns=[*"abc"])
    for part, support in ((likelihoods.Poisson, "counts"), (likelihoods.Normal, "real")):
        vae = build((3,), 2, likelihood=part)
        fit(vae, counts, epochs=1, check="none")
        assert vae.contract.support == support
    with pytest.raises(ValueError, match="may be grey levels, counts or real"):
        fit(build((3,), 2), counts, epochs=1)


def test_a_subset_of_a_data_set_is_its_own_rows():
    whole = torch.utils.data.TensorDataset(torch.from_numpy(RANDOM.normal(size=(60, 3))))
    part = torch.utils.data.Subset(whole, range(20))
    loader = torch.utils.data.DataLoader
    sampled = loader(whole, sampler=torch.utils.data.SubsetRandomSampler(range(20)))
    for data in (part, loader(part, batch_size=7, shuffle=True), sampled):
        assert sorted(as_rows(data).values[:, 0]) == sorted(whole.tensors[0][:20, 0].tolist())
    first = {"collate_fn": lambda items: items[:1]}
    for options in ({"sampler": [1, 2, 3]}, first, {"sampler": sampled.sampler, **first}):
        with pytest.raises(TypeError, match="pass the data set"):
            as_rows(loader(whole, **options))
