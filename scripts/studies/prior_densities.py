"""A page of small pictures: each prior's density in two dimensions, before and after training.

`python scripts/studies/prior_densities.py` trains a VAE of the digits for each prior of the
dictionary, a few seconds each, and writes `prior_densities.png` beside itself. Dots are the codes
of the test digits. `--only`, `--epochs` and `--out` choose less, longer and elsewhere.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn
from tqdm import tqdm

from analysis.plotting.latent import draw_density, end_for, latent_dim
from analysis.plotting.style import new_figure
from pyro_vae import build, fit
from pyro_vae.data import PreparedData, digits
from pyro_vae.objectives import ELBO
from pyro_vae.posteriors import POSTERIORS
from pyro_vae.priors import PRIORS

PICTURE = Path(__file__).with_suffix(".png")
# The number of priors side by side, each before and after training.
PRIORS_A_ROW = 4
# Four values a variable: two would be a picture of four cells.
VALUES = 4


def vae_of(name: str, train_data: torch.Tensor) -> Any:
    """A VAE of the digits with this prior, and the first posterior of its support."""
    parts: dict[str, Any] = PRIORS
    prior: Callable[..., nn.Module] = parts[name]
    support = parts[name].support
    fitting: dict[str, Any] = POSTERIORS
    posterior = next(part for part in fitting.values() if part.support == support)
    if support == "one_hot":
        prior, posterior = partial(prior, values=VALUES), partial(posterior, values=VALUES)
    return build(
        digits().event_shape,
        latent_dim(support),
        prior=prior,
        posterior=posterior,
        train_data=train_data,
        train_size=len(train_data),
    )


def draw_page(names: Sequence[str], epochs: int, path: Path) -> None:
    """Train with each prior, and draw it before and after."""
    data = PreparedData(digits(), "binary")
    train_data, test = data.transform(data.train), data.fixed("test")[:].float()
    lines = -(-len(names) // PRIORS_A_ROW)
    figure = new_figure(2 * 1.5 * PRIORS_A_ROW, 1.75 * lines)
    panels = figure.subplots(lines, 2 * PRIORS_A_ROW, squeeze=False)
    for ax in panels.flat:
        ax.set_axis_off()
    for place, name in enumerate(tqdm(names, unit="prior")):
        pyro.set_rng_seed(0)
        vae = vae_of(name, train_data)
        line, column = divmod(place, PRIORS_A_ROW)
        before, after = panels[line, 2 * column : 2 * column + 2]
        before.set_axis_on()
        after.set_axis_on()
        untrained = copy.deepcopy(vae).eval()
        # Without a warm-up codes on a sphere take longer than this to be used.
        fit(vae, data, ELBO(warmup_epochs=epochs / 3), epochs=epochs)
        codes = vae.embed(test)
        # One window for both, so that they compare.
        end = end_for(vae.prior, codes)
        draw_density(before, untrained.prior, end=end)
        draw_density(after, vae.prior, codes, end=end)
        before.set_title(name, fontsize=8, loc="left")
        after.set_title("trained", fontsize=8, color="0.4", loc="left")
    figure.savefig(path, dpi=130)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    names = list(PRIORS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="These priors.")
    parser.add_argument("--epochs", type=int, default=60, help="Passes over the digits.")
    parser.add_argument("--out", type=Path, default=PICTURE, help="The picture to write.")
    options = parser.parse_args(arguments)
    pyro.enable_validation(True)
    try:
        draw_page(options.only, options.epochs, options.out)
    except (ValueError, OSError, ImportError) as error:
        print(f"prior_densities.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
