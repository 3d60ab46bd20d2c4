"""What tests of data share: the folder of data sets, where there is one."""

import os
from pathlib import Path

import pytest

from pyro_vae.data import default_root


@pytest.fixture
def data_root() -> Path:
    """The folder that PYRO_VAE_DATA names; the test is skipped if it names none."""
    if not os.environ.get("PYRO_VAE_DATA"):
        pytest.skip("needs the data sets' files: set PYRO_VAE_DATA to the folder that holds them")
    return default_root()
