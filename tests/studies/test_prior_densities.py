"""The page of priors is drawn, and a wrong option leaves nothing."""

import runpy
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "prior_densities.py"


@pytest.mark.slow
def test_a_page(tmp_path):
    main = runpy.run_path(str(STUDY), run_name="prior_densities")["main"]
    out = tmp_path / "page.png"
    assert main(["--only", "standard_normal", "vamp", "--epochs", "1", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main(["--only", "no_prior"])
