"""What a newcomer gets wrong in Python: each is one sentence with what was got and what to give."""

import json
import subprocess
import sys

import pytest

# In another process: here, types in signatures are checked before anything is said.
PROGRAM = """
import json, logging, sys
from functools import partial
import numpy as np
import pandas as pd
import torch
from pyro import poutine
from pyro_vae import VAE, build, fit, likelihoods, posteriors, priors
from pyro_vae.data import Dataset
from pyro_vae.evidence import evaluate

logging.disable(logging.WARNING)
rng = np.random.default_rng(0)
table = pd.DataFrame(rng.normal(size=(60, 4)), columns=[*"abcd"])
rows = table.to_numpy()
grey = rng.integers(0, 256, (60, 8, 8)).astype(np.uint8)
new = partial(build, (4,), 2, likelihood="normal")
once = {"epochs": 1}
vae, pictures = new(), build((1, 8, 8), 2)
fit(vae, table, **once)
fit(pictures, grey, **once)

class NoSupport(torch.nn.Module):
    def __init__(self, latent_dim):
        super().__init__()

class OddSupport(likelihoods.Normal):
    support = "reals"

said = []
for mistake in json.load(sys.stdin):
    try:
        said.append("nothing, but " + repr(eval(mistake)))
    except (ValueError, TypeError) as error:
        said.append(str(error))
    except Exception as error:
        said.append(f"{type(error).__name__}, unexpected: {error}")
print(json.dumps(said))
"""

# The mistake, and words that the sentence must have.
MISTAKES = {
    "build(4)": ["event_shape", "(30,)", "got 4"],
    "build((0,))": ["event_shape", "(0,)"],
    "build(())": ["event_shape"],
    "build((28.0, 28))": ["event_shape", "28.0"],
    "build('digits')": ["event_shape", "'digits'"],
    "build(rows)": ["event_shape", "(60, 4)", "x.shape[1:]"],
    "build((4,), 2.5)": ["latent_dim", "whole", "2.5"],
    "build((4,), '8')": ["latent_dim", "whole", "'8'"],
    "build((4,), prior='vampp')": ["prior", "standard_normal", "did you mean vamp?"],
    "build((4,), likelihood='Normal')": ["likelihood", "did you mean normal?"],
    "build((4,), posterior='x')": ["posterior must be one of", "diagonal_normal"],
    "build((4,), network='mpl')": ["network", "did you mean mlp?"],
    "build((4,), prior=priors.StandardNormal(8))": ["instance of StandardNormal", "partial"],
    "build((4,), prior=None)": ["prior must be one of", "None"],
    "build((4,), prior='dirichlet')": ["same support", "simplex", "logistic_normal"],
    "build((4,), likelihood='categorical')": ["levels", "None"],
    "build((4,), network='conv')": ["image", "(4,)", "mlp"],
    "build((4,), kind='table')": ["kind must be one of binary", "'table'"],
    "build((4,), prior=NoSupport)": ["NoSupport", "declare its support"],
    "build((4,), likelihood=OddSupport)": ["OddSupport", "counts", "'reals'"],
    "VAE(priors.StandardNormal, likelihoods.Normal, posteriors.DiagonalNormal)": [
        "prior",
        "build",
    ],
    "fit(build((4,), likelihood='bernoulli'), rows)": ["real data", "student_t"],
    "fit(new(), np.arange(240).reshape(60, 4))": ["counts", "poisson"],
    "fit(build((5,), likelihood='normal'), rows)": ["(5,)", "(4,)"],
    "fit(build((8, 8)), grey)": ["(8, 8)", "(1, 8, 8)"],
    "fit(rows, new())": ["ndarray"],
    "fit(VAE, rows)": ["the class VAE"],
    "fit(new(), rows, epoch=3)": ["'epoch'", "did you mean epochs?"],
    "fit(new(), rows, epochs='3')": ["epochs", "whole number", "'3'"],
    "fit(new(), rows, epochs=1.5)": ["epochs", "whole number", "1.5"],
    "fit(new(), rows, lr='0.1')": ["lr", "above 0", "'0.1'"],
    "fit(new(), rows, 'iwaee')": ["objective", "did you mean iwae?"],
    "fit(new(), (rows, rows[:, 0]))": ["one shape", "TensorDataset"],
    "fit(new(), None)": ["DataFrame", "NoneType"],
    "new().embed(rows)": ["not been trained", "fit it first"],
    "new().embed(torch.zeros(3, 5))": ["(..., 4)", "(3, 5)"],
    "vae.embed(rows[:, :3])": ["(4,)", "(3,)"],
    "vae.embed(table[['a', 'b', 'c']])": ["lacks 1 of the 4 columns", "'d'"],
    "vae.embed(table.iloc[0])": ["got Series", "df.iloc[[0]]"],
    "vae.embed(rows[0])": ["single row"],
    "vae.embed(torch.zeros(3, 5))": ["(..., 4)", "(3, 5)", "vae.prepare"],
    "pictures.embed(grey[:, :7])": ["(1, 8, 8)", "(1, 7, 8)"],
    "pictures.embed(torch.as_tensor(grey)[:, None])": ["0 to 255", "vae.prepare"],
    "vae.decode(torch.zeros(3, 5))": ["(..., 2)", "(3, 5)"],
    "vae.decode(1.0)": ["(..., 2)", "()"],
    "vae.model(torch.zeros(3, 5))": ["(n, 4)", "(3, 5)"],
    "vae.guide(torch.zeros(4))": ["(n, 4)", "(4,)"],
    "vae.model(rows)": ["tensor", "ndarray", "vae.prepare"],
    "poutine.trace(vae.model).get_trace(torch.zeros(3, 5))": ["(n, 4)", "(3, 5)"],
    "evaluate(vae, torch.zeros(3, 5))": ["(n, 4)", "(3, 5)"],
    "evaluate(pictures, torch.as_tensor(grey)[:, None].float())": ["0 to 255", "vae.prepare"],
    "vae.sample(2.5)": ["n must be a whole number"],
    "vae.interpolate(rows[0], rows[1], steps=2.5)": ["steps must be a whole number"],
    "vae.interpolate(table, table)": ["a must be one row", "60"],
    "vae.reconstruct(3)": ["DataFrame", "int"],
}


@pytest.fixture(scope="module")
def said():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([*MISTAKES]),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(MISTAKES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_sentence(said, mistake):
    sentence = said[mistake]
    assert "\n" not in sentence
    assert [word for word in MISTAKES[mistake] if word not in sentence] == [], sentence
