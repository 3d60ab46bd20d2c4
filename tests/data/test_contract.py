"""`DataContract`: new data must be like those of training."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import build, fit, likelihoods, priors
from pyro_vae.data import (
    ChangedDataError,
    DataContract,
    Dataset,
    PreparedData,
    Rows,
    array_file,
    table_file,
)
from pyro_vae.data.rows import as_rows
from pyro_vae.data.tables import frame_rows
from pyro_vae.data.validation import check_support
from pyro_vae.evidence import evaluate

RANDOM = np.random.default_rng(0)
TABLE = pd.DataFrame(RANDOM.normal(size=(60, 3)) * [1, 100, 0.01], columns=["u", "v", "w"])
LEVELS = RANDOM.integers(0, 256, (40, 6, 6)).astype(np.uint8)


def prepared(table=TABLE, support="real", **options):
    return PreparedData(Dataset.from_rows(frame_rows(table, **options)), support)


CONTRACT = DataContract.from_data(prepared())


def test_columns_are_matched_by_name():
    new = TABLE[["w", "u", "v"]].assign(extra=1.0).head(4)
    data = CONTRACT.new_data(frame_rows(new, new=True))
    torch.testing.assert_close(data.fixed("test"), torch.tensor(TABLE.head(4).to_numpy()).float())
    assert not data.dataset.is_split
    assert any("extra" in note for note in data.dataset.notes)
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 columns .* 'v'"):
        CONTRACT.new_data(frame_rows(TABLE[["u", "w"]], new=True))


def test_columns_are_put_in_the_order_of_training_not_of_their_names():
    trained = TABLE[["w", "u", "v"]]
    data = DataContract.from_data(prepared(trained)).new_data(frame_rows(TABLE.head(4), new=True))
    torch.testing.assert_close(
        data.fixed("test"), torch.tensor(trained.head(4).to_numpy()).float()
    )


def test_one_row_without_names_or_labels_is_enough():
    (row,) = CONTRACT.new_data(Rows(TABLE.to_numpy()[:1])).fixed("test")
    assert row.tolist() == pytest.approx(TABLE.iloc[0].tolist())
    with pytest.raises(
        ValueError, match=r"shape \(3,\), and those of array have the shape \(2,\)"
    ):
        CONTRACT.new_data(Rows(TABLE.to_numpy()[:1, :2]))


def test_the_support_is_the_models():
    # Whole numbers are real numbers to a model of real data.
    assert CONTRACT.new_data(Rows(np.arange(6).reshape(2, 3))).dataset.support == "real"
    levels = DataContract.from_data(PreparedData(Dataset.from_array(LEVELS), "unit"))
    assert levels.new_data(Rows(LEVELS[:2])).fixed("test").max() <= 1
    with pytest.raises(ValueError, match=r"outside 0 to 255, the levels .* such as -"):
        levels.new_data(Rows(LEVELS[:2].astype(int) - 300))
    with pytest.raises(ValueError, match=r"such as 1.5: 2 in 'b' and 1 in 'c', in rows"):
        check_support(
            torch.tensor([[0, 1.5, 1], [1, 2, 1], [0, 0, -3]]), "binary", None, name="x", event_names="abc"
        )  # fmt: skip


def test_a_datum_has_a_noun():
    images = Dataset.from_array(LEVELS)
    cells = Dataset.from_rows(Rows(np.arange(60).reshape(20, 3), support="counts", noun="cell"))
    assert [CONTRACT.noun, images.noun, cells.noun] == ["row", "image", "cell"]
    contract = DataContract.from_data(PreparedData(cells, "counts"))
    assert contract.new_data(Rows(np.arange(6).reshape(2, 3))).dataset.noun == "cell"
    plain = contract.to_plain()
    del plain["noun"]
    assert DataContract.from_plain(plain).noun == "row"


def test_classes_keep_their_numbers():
    labels = np.where(TABLE["u"] > 0, "b", "c")
    labels[:20] = "a"
    contract = DataContract.from_data(prepared(TABLE.assign(kind=labels), label="kind"))
    assert contract.label_names == ("a", "b", "c")
    new = TABLE.head(3).assign(kind=["c", "a", "d"])
    data = contract.new_data(frame_rows(new, label="kind", new=True))
    assert data.dataset.labels["test"].tolist() == [2, 0, -1]
    assert any("'d'" in note for note in data.dataset.notes)


def test_other_labels_are_a_warning():
    contract = DataContract.from_data(prepared(TABLE.assign(kind=["a", "b"] * 30), label="kind"))
    same, others = (
        prepared(TABLE.assign(kind=kinds * 30), label="kind").dataset
        for kinds in (["a", "b"], ["b", "a"])
    )
    assert contract.check_labels(same) is None
    assert "are not those of training" in str(contract.check_labels(others))


def test_the_same_data_pass_and_others_are_counted():
    CONTRACT.check(prepared())
    grown = pd.concat([TABLE, TABLE.tail(1) + 1], ignore_index=True)
    with pytest.raises(
        ChangedDataError, match=r"has 61 rows and had 60; \d+ of the 12 rows now in"
    ):
        CONTRACT.check(prepared(grown))
    changed = TABLE.copy()
    changed.loc[7, "u"] += 1e-3
    with pytest.raises(ChangedDataError, match="with other values or splits"):
        CONTRACT.check(prepared(changed))
    with pytest.raises(ValueError, match="another order"):
        CONTRACT.check(prepared(TABLE[["v", "u", "w"]]))


def test_a_changed_training_row_on_the_disk_is_seen(tmp_path):
    x = TABLE.to_numpy().astype(np.float32)

    def read():
        np.save(tmp_path / "x.npy", x)
        return PreparedData(array_file(tmp_path / "x.npy", memory_map=True), "real")

    data = read()
    contract = DataContract.from_data(data)
    x[(x == data.train[:1].numpy()).all(1)] += 1e-3
    with pytest.raises(ChangedDataError, match="has 60 rows as before, with other values"):
        contract.check(read())


def test_the_number_of_test_rows_that_trained_is_right():
    now = prepared(TABLE.sample(frac=1, random_state=1))
    before = prepared()
    train = {tuple(row) for row in before.dataset.train.tolist()}
    count = sum(tuple(row) in train for row in now.dataset.test.tolist())
    with pytest.raises(ChangedDataError, match=rf"; {count} of the 12 rows now in its test split"):
        CONTRACT.check(now)


def test_what_is_stored_is_read_again(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    contract = DataContract.from_data(
        PreparedData(table_file(tmp_path / "t.csv"), "real"), ["a note"]
    )
    assert contract.source == str(tmp_path / "t.csv")
    torch.save(contract.to_plain(), tmp_path / "c.pt")
    again = DataContract.from_plain(torch.load(tmp_path / "c.pt", weights_only=True))
    again.check(prepared())
    assert replace(again, units=contract.units, digests=contract.digests) != again
    for name in ("event_names", "source_digest", "notes", "sizes", "low", "split_rule"):
        assert getattr(again, name) == getattr(contract, name)
    for damage in ({"support": "odd"}, {"sizes": {}}, {"digests": {"train": 3}}, {"units": {}}):
        with pytest.raises(ValueError, match="damaged"):
            DataContract.from_plain({**contract.to_plain(), **damage})
    with pytest.raises(ValueError, match="damaged"):
        DataContract.from_plain(None)


def test_embed_and_prepare_take_what_fit_takes():
    vae = build((3,), 2, likelihood=likelihoods.Normal)
    with pytest.raises(ValueError, match="has not been trained"):
        vae.embed(TABLE)
    fit(vae, TABLE, epochs=1)
    expected = vae.embed(torch.tensor(TABLE.to_numpy()).float())
    for data in (TABLE, TABLE[["w", "v", "u"]], TABLE.to_numpy(), TABLE.to_numpy().tolist()):
        torch.testing.assert_close(vae.embed(data), expected)
    with pytest.raises(TypeError, match="data must be a NumPy array"):
        vae.embed(3)


def test_raw_levels_are_not_taken_for_prepared_ones():
    vae = build((1, 6, 6), 2)
    fit(vae, LEVELS, epochs=1)
    raw = torch.from_numpy(LEVELS).unsqueeze(1)
    with pytest.raises(ValueError, match=r"from 0 to 255, .* vae.prepare\(x\)"):
        vae.embed(raw)
    assert set(vae.prepare(raw).unique().tolist()) == {0.0, 1.0}
    assert vae.embed(LEVELS).shape == (40, 2)


NEW_RANDOM = np.random.default_rng(0)
Z = NEW_RANDOM.normal(size=100)
NEW_TABLE = pd.DataFrame(
    {
        "u": Z,
        "v": 5 + Z + NEW_RANDOM.normal(size=100),
        "w": 100 * NEW_RANDOM.normal(size=100) - 5000,
    }
)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = build((3,), 2, likelihood=likelihoods.Normal)
    fit(vae, NEW_TABLE, epochs=1)
    return vae


def test_embed_matches_columns_by_name(vae, caplog):
    codes = vae.embed(NEW_TABLE)
    others = NEW_TABLE[["w", "v", "u"]].assign(name="text", more=1.5)
    assert torch.equal(vae.embed(others), codes)
    assert "'more'" in caplog.text
    with pytest.raises(ValueError, match=r"'v'.*it has 'u', 'w'.*Rename or add"):
        vae.embed(NEW_TABLE[["u", "w"]])


def test_further_training_matches_columns_by_name(vae):
    fit(vae, NEW_TABLE[["w", "u", "v"]], epochs=1)
    assert vae.contract.event_names == ("u", "v", "w")
    with pytest.raises(ValueError, match="lacks 1 of the 3 columns"):
        fit(vae, NEW_TABLE.rename(columns={"u": "x"}), epochs=1)
    with pytest.raises(ValueError, match="in another order: put them in the order 'u', 'v', 'w'"):
        fit(
            vae,
            Dataset.from_array(NEW_TABLE.to_numpy(), event_names=("v", "u", "w")),
            epochs=1,
        )


def test_evaluate_takes_tables_in_any_order(vae):
    x = torch.tensor(NEW_TABLE.to_numpy(), dtype=torch.float32)
    first, second = (
        evaluate(vae, data, num_samples=5) for data in (x, NEW_TABLE[["v", "w", "u"]])
    )
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
        vae.embed(Dataset.from_array(NEW_TABLE.to_numpy()))


def test_values_of_another_unit_are_said(vae, caplog):
    with caplog.at_level(logging.WARNING):
        vae.embed(NEW_TABLE)
        assert not caplog.text
        vae.embed(NEW_TABLE.assign(w=NEW_TABLE["w"] / 1000))
    assert "column 'w' in 100 of 100 rows" in caplog.text


def test_float32_is_refused_where_it_loses_differences():
    vae = build((3,), 2, likelihood=likelihoods.Normal)
    fit(vae, NEW_TABLE.assign(u=2_459_000.5 + 1e-3 * NEW_TABLE["u"]), epochs=1)
    x = torch.tensor(NEW_TABLE.to_numpy())
    vae.embed(x)
    for data in (x.float(), x.float().numpy()):
        with pytest.raises(ValueError, match="in float32: give it in float64"):
            vae.embed(data)


def test_a_vae_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\).*shape \(3,\)"):
        fit(build((5,), 2, likelihood=likelihoods.Normal), NEW_TABLE)


def test_masked_values_are_not_data():
    masked = np.ma.masked_greater(NEW_TABLE.to_numpy(), 5)
    with pytest.raises(ValueError, match="masked values: fill them in"):
        Dataset.from_array(masked)


def test_pseudo_inputs_start_in_the_units_of_their_data():
    x = torch.tensor(NEW_TABLE.to_numpy(), dtype=torch.float32)
    vae = build((3,), 2, likelihood=likelihoods.Normal, prior=priors.Vamp, train_data=x)
    assert vae.prior.pseudo_inputs.abs().max() < 10


def test_changes_of_the_same_rows_are_told_apart(vae):
    contract = vae.contract
    x = torch.tensor(NEW_TABLE.to_numpy(), dtype=torch.float32)
    seen = contract.training_overlap(x)
    assert str(seen).startswith("70 of 100 rows")
    assert contract.training_overlap(x + 1) is None


@pytest.mark.parametrize("change", [lambda x: x - 1, lambda x: (1 + x).log()])
def test_what_is_no_count_is_not_embedded(change):
    x = torch.from_numpy(NEW_RANDOM.poisson(1.0, (50, 4)))
    vae = build((4,), 2, likelihood=likelihoods.Poisson)
    fit(vae, x, epochs=1)
    assert torch.equal(vae.embed(x), vae.embed(x.float()))
    with pytest.raises(ValueError, match="values outside whole numbers, 0 or more"):
        vae.embed(change(x.float()))


def test_the_meta_device_is_refused():
    with torch.device("meta"):
        vae = build((3,), 2, likelihood=likelihoods.Normal)
    with pytest.raises(ValueError, match="device 'meta'"):
        fit(vae, NEW_TABLE)
    with pytest.raises(ValueError, match="meta device"):
        Dataset.from_array(torch.empty(20, 3, device="meta"))


def test_a_column_that_never_varied_in_training_is_named():
    table = NEW_TABLE.assign(c=3.0)
    contract = DataContract.from_data(PreparedData(Dataset.from_rows(frame_rows(table)), "real"))
    same = contract.new_data(frame_rows(table.head(5), new=True)).dataset
    assert not any("were constant" in note for note in same.notes)
    other = contract.new_data(frame_rows(table.head(5).assign(c=[3, 3, 3.1, 3, 4]), new=True))
    assert any("'c' in 2 of 5 rows" in note for note in other.dataset.notes)


def test_the_likelihood_says_what_floats_without_a_fraction_are():
    counts = pd.DataFrame(NEW_RANDOM.poisson(20.0, (60, 3)).astype(float), columns=[*"abc"])
    for part, support in ((likelihoods.Poisson, "counts"), (likelihoods.Normal, "real")):
        vae = build((3,), 2, likelihood=part)
        fit(vae, counts, epochs=1, check="none")
        assert vae.contract.support == support
    with pytest.raises(ValueError, match="may be grey levels, counts or real"):
        fit(build((3,), 2), counts, epochs=1)


def test_a_subset_of_a_data_set_is_its_own_rows():
    whole = torch.utils.data.TensorDataset(torch.from_numpy(NEW_RANDOM.normal(size=(60, 3))))
    part = torch.utils.data.Subset(whole, range(20))
    loader = torch.utils.data.DataLoader
    sampled = loader(whole, sampler=torch.utils.data.SubsetRandomSampler(range(20)))
    for data in (part, loader(part, batch_size=7, shuffle=True), sampled):
        assert sorted(as_rows(data).values[:, 0]) == sorted(whole.tensors[0][:20, 0].tolist())
    first = {"collate_fn": lambda items: items[:1]}
    for options in ({"sampler": [1, 2, 3]}, first, {"sampler": sampled.sampler, **first}):
        with pytest.raises(TypeError, match="pass the data set"):
            as_rows(loader(whole, **options))


def test_dequantised_levels_are_returned_as_levels():
    """The mean of (v + u) / 256 is half a level above v / 256."""
    contract = DataContract.from_data(PreparedData(Dataset.from_array(LEVELS), "unit"))
    x = (torch.tensor([[0.0, 7.0, 255.0]]) + 0.5) / 256
    assert contract.to_data_units(x, draws=False).tolist() == [[0, 7, 255]]
    assert contract.to_data_units(x, draws=True).tolist() == [[0, 7, 255]]
    assert contract.to_data_units(x, draws=True).dtype == torch.int64
