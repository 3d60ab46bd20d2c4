"""An epoch's totals, in place."""

import torch

from pyro_vae.training.step import Totals


def test_totals_add_up_and_leave_out_what_was_skipped():
    totals = Totals.zero(torch.device("cpu"))
    taken, skipped = torch.tensor(True), torch.tensor(False)
    for step in (taken, skipped, skipped, taken):
        value = 6.0 if step else float("nan")
        totals.add(step, 3, {"elbo": torch.tensor(value, dtype=torch.float64)})
    assert totals.means() == {"elbo": 2.0}
    assert (int(totals.data), int(totals.skipped), int(totals.in_a_row)) == (6, 2, 0)
    assert (int(totals.steps), int(totals.first_skipped)) == (4, 1)
    held = totals.sums["elbo"]
    totals.add(skipped, 3, {"elbo": torch.tensor(1.0, dtype=torch.float64)})
    totals.start_epoch()
    # In place, so that a graph goes on with them; a row of skipped steps runs across epochs.
    assert totals.sums["elbo"] is held
    assert totals.means() == {}
    assert (int(totals.in_a_row), int(totals.first_skipped), int(totals.steps)) == (1, 4, 5)
