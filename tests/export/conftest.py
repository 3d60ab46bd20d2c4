"""Fixtures of the tests of exported files."""

import jaxtyping
import pytest

from pyro_vae.data import DataContract, PreparedData


@pytest.fixture(autouse=True)
def no_shape_checks():
    """Tests check shapes, and comparing a batch's size with another makes it a constant."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def described():
    """A program with the description of its training data, without training."""

    def described(vae, dataset):
        vae.contract = DataContract.from_data(PreparedData(dataset, vae.likelihood.support))
        return vae.eval()

    return described
