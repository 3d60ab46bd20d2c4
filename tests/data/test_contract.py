"""`DataContract`: what the data of a model were, and what later data are checked against."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import build, fit, likelihoods
from pyro_vae.data import (
    ChangedDataError,
    DataContract,
    Dataset,
    PreparedData,
    Rows,
    array_file,
    table_file,
)
from pyro_vae.data.tables import frame_rows
from pyro_vae.data.validation import check_support

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
