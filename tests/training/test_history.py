"""What `fit` returns: a list of records, a table, a figure and a line."""

import math

from matplotlib.figure import Figure

from pyro_vae import build, fit
from pyro_vae.data import digits
from pyro_vae.training.history import History


def test_a_history_is_a_list_a_table_and_a_figure():
    history = fit(build((1, 8, 8), 2), digits(), "iwae", epochs=2)
    assert isinstance(history, list)
    assert [record["epoch"] for record in history] == [1, 2]
    table = history.table()
    assert table.index.tolist() == [1, 2]
    assert table["validation_elbo"].tolist() == [r["validation_elbo"] for r in history]
    assert isinstance(history.plot(), Figure)
    assert "\n" not in repr(history)


def test_a_line_names_the_best_epoch_and_bears_what_was_not_measured():
    records = [{"epoch": i, "validation_elbo": e} for i, e in enumerate([None, -20.0, -25.0], 1)]
    assert str(History(records)) == (
        "History of 3 epochs: validation ELBO -25.00 nats after the last, -20.00 at best, after epoch 2"
    )
    assert str(History(records[:1])) == "History of 1 epoch"
    assert str(History([])) == "History of 0 epochs"
    assert History([]).table().empty
    assert math.isnan(History(records).table()["validation_elbo"][1])
