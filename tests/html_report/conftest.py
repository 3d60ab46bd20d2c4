"""Stored records from which all charts can be drawn."""

import numpy as np
import pytest
import xarray

from analysis.html_report.charts import comparison_charts, run_charts

_HISTORY = [
    {
        "epoch": epoch,
        "elbo": -100 / epoch,
        "reconstruction": -100 / epoch + 1,
        "kl": 1.0,
        "validation_elbo": -110 / epoch,
        "validation_reconstruction": -110 / epoch + 1,
        "validation_kl": 1.0,
    }
    for epoch in range(1, 31)
]
_METRICS = {"split": "test", "kl": 2.0, "reconstruction": -90.0, "elbo": -92.0}
_P_VALUES = {"ink": 0.001, "holes": 0.02, "rate": 0.4, "elbo": None}


def _tree(n=40, labels=None, latent=3):
    """What `from_svi` stores, as far as charts read it."""
    rng = np.random.default_rng(0)
    names = ("elbo", "reconstruction", "kl", "log_evidence", "ess", "khat")
    group = xarray.Dataset(
        {name: ("image", rng.normal(size=n), {"num_draws": 100}) for name in names}
        | {
            "z_mean": (("image", "latent_dim"), rng.normal(size=(n, latent)) * np.arange(latent)),
            "label": (("image",), np.arange(n) % 3 if labels is None else labels),
        },
        coords={"image": 7 + np.arange(n)},
    )
    return xarray.DataTree.from_dict({"/per_datum": group})


def _diagnosis(**options):
    by_dimension = {
        "mutual_information": [0.1, 2.0],
        "marginal_kl": [0.0, 0.5],
        "rate": [0.1, 2.5],
    }
    checks = {"comparisons": {"ink": {"label": "ink </script><script>alert(1)</script>"}}}
    return {
        "predictive": {"p_values": _P_VALUES, "checks": checks, **options},
        "elbo": {"decomposition": {"by_dimension": by_dimension}},
    }


@pytest.fixture(scope="session")
def every_chart():
    """Charts of one run and of several, by name."""
    log_evidence = {"a": np.arange(5.0), "b": np.arange(5.0) - 1, "c": np.zeros(5)}
    points = [
        {
            "name": name,
            "rate": 1.0 + i,
            "distortion": 20.0 - i,
            "rate_se": 0.1,
            "distortion_se": 0.2,
        }
        for i, name in enumerate("abc")
    ]
    several = comparison_charts(log_evidence, points)
    return run_charts(_HISTORY, _METRICS, _diagnosis(), _tree()) | {
        f"several_{k}": v for k, v in several.items()
    }


@pytest.fixture
def history():
    return [*_HISTORY]


@pytest.fixture
def metrics():
    return _METRICS


@pytest.fixture
def p_values():
    return _P_VALUES


@pytest.fixture
def tree():
    return _tree


@pytest.fixture
def diagnosis():
    return _diagnosis
