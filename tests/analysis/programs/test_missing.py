"""Scores of imputations: calibrated draws of every kind of data, and errors in known units."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis.programs.missing import coverage, figures, impute, interval_ranks, scores

KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "counts": lambda rng, shape: rng.poisson(1.5, shape),
    "binary": lambda rng, shape: rng.random(shape) < 0.2,
}


@pytest.mark.parametrize("kind", KINDS)
def test_draws_from_the_distribution_of_the_truth_cover_as_they_say(kind):
    # Another seed than that of the ties.
    rng = np.random.default_rng(7)
    truth, draws = (KINDS[kind](rng, shape).astype(float) for shape in (20_000, (100, 20_000)))
    ranks = interval_ranks(truth, draws)
    assert ((ranks > 0) & (ranks < 1)).all()
    for level in (0.5, 0.9):
        assert coverage(ranks, level) == pytest.approx(level, abs=0.012)


@pytest.mark.parametrize(("scale", "expected"), [(0.5, 0.589), (2.0, 0.999)])
def test_draws_that_are_too_narrow_or_too_wide_are_seen(scale, expected):
    # Another seed than that of the ties.
    rng = np.random.default_rng(7)
    ranks = interval_ranks(rng.normal(size=20_000), scale * rng.normal(size=(400, 20_000)))
    # P(|x| < 1.645 scale) of a standard normal.
    assert coverage(ranks) == pytest.approx(expected, abs=0.012)


@pytest.fixture(autouse=True)
def known_completions(monkeypatch):
    """Programs complete prepared data themselves."""
    monkeypatch.setattr(
        "analysis.programs.missing.complete_prepared",
        lambda program, x, **options: program.complete(x, **options),
    )


def known_program(event, noise=0.5):
    """x_i ~ N(3 i, noise^2) given nothing: a mean and draws that are exact."""
    center = 3.0 * torch.arange(float(torch.tensor(event).prod())).reshape(event)

    def complete(x, *, draws, num_samples, seed):
        generator = torch.Generator().manual_seed(seed)
        drawn = center + noise * torch.randn((len(x), draws, *event), generator=generator)
        return SimpleNamespace(
            mean=torch.where(x.isnan(), center, x),
            values=torch.where(x[:, None].isnan(), drawn, x[:, None]),
        )

    rows = center + noise * torch.randn(400, *event, generator=torch.Generator().manual_seed(5))
    return SimpleNamespace(complete=complete), rows


@pytest.mark.parametrize("event", [(4,), (1, 5, 5)])
def test_removed_values_are_scored_in_units_of_the_spread(event):
    program, truth = known_program(event)
    gaps = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    held_out = SimpleNamespace(x=truth.masked_fill(gaps, torch.nan), complete=truth)
    found = scores(program, held_out)
    assert found["missing_share"] == pytest.approx(0.3, abs=0.03)
    assert found["imputed_values"] == gaps.sum()
    assert found["imputation_coverage_90"] == pytest.approx(0.9, abs=0.03)
    # Of a table, the spread of a column is the noise; of an image, that of all its pixels.
    unit = 0.5 if event == (4,) else float(truth.std())
    assert found["imputation_rmse"] == pytest.approx(0.5 / unit, rel=0.06)
    assert found["imputation_rmse_of_means"] == pytest.approx(0.5 / unit, rel=0.06)
    imputed = impute(program, held_out)
    seen = ~imputed.gaps
    assert (imputed.draws[:, seen] == truth.numpy()[seen]).all()


def test_a_tenth_of_what_is_observed_is_hidden_where_nothing_was_removed():
    program, x = known_program((4,))
    x[::7, 2] = torch.nan
    found = impute(program, SimpleNamespace(x=x))
    assert found.gaps[::7, 2].all()
    assert not found.scored[::7, 2].any()
    assert found.scored.mean() == pytest.approx(0.1, abs=0.02)
    assert scores(program, SimpleNamespace(x=x))["imputation_coverage_90"] is not None


@pytest.mark.parametrize("event", [(4,), (1, 5, 5)])
def test_figures_are_drawn(event):
    program, truth = known_program(event)
    plots = figures(program, SimpleNamespace(x=truth, complete=None))
    assert set(plots) == {"imputations", "imputation_coverage"}
    for plot in plots.values():
        plot().canvas.draw()
