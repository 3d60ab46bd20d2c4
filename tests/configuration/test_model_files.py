"""User model files: each mistake is one line that names the line of the file, and wrappers work."""

import runpy
from pathlib import Path

import pytest

from pyro_vae.configuration import ConfigurationError
from pyro_vae.configuration.components import build_vae
from pyro_vae.configuration.parser import parse

SCRIPT = Path(__file__).parents[2] / "scripts" / "svi_train.py"
HEAD = """import functools
import torch
import pyro_vae
from pyro_vae import VAE, likelihoods, networks, posteriors, priors
"""
PRIOR = """
class Mine(torch.nn.Module):
    support = "real"

    def __init__(self, latent_dim, wideness: float = 1.0):
        super().__init__()
        self.latent_dim, self.wideness = latent_dim, wideness

    def forward(self):
        return priors.StandardNormal(self.latent_dim)()
"""
BUILD = """
def build(event_shape, latent_dim=4, *, prior=Mine, likelihood=likelihoods.Bernoulli,
          posterior=posteriors.DiagonalNormal, network=networks.MLP):
    return pyro_vae.build(event_shape, latent_dim, prior=prior, likelihood=likelihood,
                          posterior=posterior, network=network)
"""
WRAPPER = "\ndef build(*args, **kwargs):\n    return pyro_vae.build(*args, **kwargs)\n"
GOOD = HEAD + PRIOR + BUILD


def written(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    return str(path)


def built(path):
    return build_vae(parse(["--model", path]), (1, 3, 3))


@pytest.mark.parametrize(
    ("text", "prior"),
    [
        (GOOD, "mine"),
        (HEAD + BUILD.replace("prior=Mine", 'prior="vamp"'), "vamp"),
        (HEAD + "\n@functools.wraps(pyro_vae.build)" + WRAPPER, "standard_normal"),
        (HEAD + WRAPPER, "standard_normal"),
        (HEAD + PRIOR + "build = functools.partial(pyro_vae.build, prior=Mine)\n", "mine"),
        (
            (HEAD + BUILD).replace("=4, *, prior=Mine", ", *, prior").replace("=networks.MLP", ""),
            "standard_normal",
        ),
    ],
)
def test_build_may_be_wrapped_and_leave_out_defaults(tmp_path, text, prior):
    path = written(tmp_path, text)
    assert parse(["--model", path])["prior"]["name"] == prior
    assert built(path).prior().event_shape == (built(path).prior.latent_dim,)


FORWARD = "priors.StandardNormal(self.latent_dim)()"
# The file, a part of the line that the message points at, and what it says.
MISTAKES = [
    (GOOD.replace("pyro_vae.build(event", "pyro_vae.build((event"), "", "SyntaxError"),
    (GOOD.replace("import torch\n", ""), "class Mine(", "NameError: name 'torch'"),
    ("import nosuchmodule\n" + GOOD, "import nosuch", "No module named 'nosuchmodule'"),
    (HEAD + "x = 1\n", "", "must define build"),
    (HEAD + "build = VAE\n", "build =", "build does not take latent_dim"),
    (HEAD + PRIOR + "def build(event_shape):\n    return 1\n", "def build", "does not take"),
    (GOOD.replace("prior=Mine", "prior='vampp'"), "def build", "did you mean vamp"),
    (GOOD.replace("prior=Mine", "prior=Mine(3)"), "def build", "an instance of Mine"),
    (GOOD.replace('    support = "real"\n', ""), "return pyro", "Mine must declare its support"),
    (GOOD.replace("wideness: float = 1.0", "wideness"), "class Mine", "a type and a default"),
    (GOOD.replace("return pyro", "raise KeyError('no'); return pyro"), "raise KeyError", "'no'"),
    (GOOD.replace("return pyro_vae.build", "pyro_vae.build"), "def build", "got None"),
    (GOOD.replace("return pyro_vae", "return 1, pyro_vae"), "def build", "got tuple"),
    (HEAD + "def build(e, latent_dim, **k):\n    return VAE\n", "def build", "the class VAE"),
    (GOOD.replace("super().__init__()", "self.w = torch.nn.Linear(1, 1)"), "self.w", "__init__"),
    (GOOD.replace(FORWARD, "oops"), "return oops", "NameError: name 'oops'"),
    (GOOD.replace(FORWARD, "torch.zeros(4)"), "class Mine", "distribution .* got a Tensor"),
    (
        GOOD.replace(FORWARD, "torch.distributions.Normal(torch.zeros(4), 1.0)"),
        "class Mine",
        r"batch shape \(4,\): \.to_event",
    ),
    (
        HEAD + PRIOR + "def build(event_shape, latent_dim=8, **kwargs):\n"
        "    return pyro_vae.build(event_shape, latent_dim, prior=Mine, **kwargs)\n",
        "return pyro_vae",
        "multiple values .*'prior'.* the default",
    ),
]


@pytest.mark.parametrize(("text", "line", "message"), MISTAKES, ids=[m for _, _, m in MISTAKES])
def test_a_mistake_is_one_line_with_the_line_of_the_file(tmp_path, text, line, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=message) as error:
        built(path)
    said = str(error.value)
    assert "\n" not in said
    assert "mine.py" in said
    if line:
        numbers = [n for n, source in enumerate(text.splitlines(), 1) if line in source]
        assert any(f"mine.py, line {n}: " in said for n in numbers)


def test_an_error_in_training_is_one_line(tmp_path, capsys):
    text = GOOD.replace("posteriors.DiagonalNormal", "Late") + (
        "\nclass Late(posteriors.DiagonalNormal):\n    def forward(self, x):\n        return oops\n"
    )
    # The class before its use.
    head, build = text.split("\ndef build")
    build, late = build.split("\nclass Late")
    path = written(tmp_path, f"{head}\nclass Late{late}\ndef build{build}")
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--model", path, "--out", str(tmp_path / "run"), "--max-steps", "1"]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "mine.py, line" in said
    assert "NameError: name 'oops' is not defined." in said
