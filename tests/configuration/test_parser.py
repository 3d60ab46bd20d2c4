"""The command line: options from the classes of parts, YAML files, and errors in one line."""

import inspect

import numpy as np
import pytest
import yaml

from pyro_vae.configuration import ConfigurationError
from pyro_vae.configuration.components import (
    FAMILIES,
    build_vae,
    kind_of_data,
    load_data,
    to_yaml,
)
from pyro_vae.configuration.parser import parse, with_likelihood
from pyro_vae.data import Dataset, digits
from pyro_vae.priors import PRIORS
from pyro_vae.training.fit import describe_default_likelihood


def test_the_bare_command_has_the_defaults_of_build():
    configuration = parse([])
    assert configuration["prior"] == {"name": "standard_normal"}
    assert configuration["data"] == {"name": "digits", "check": "refuse"}
    assert configuration["latent_dim"] == 8
    assert configuration["likelihood"] == {"name": "auto"}
    assert configuration["network"]["hidden"] is None


def test_every_part_is_a_choice():
    """Each command selects one part of every family."""
    for i in range(max(map(len, FAMILIES.values()))):
        chosen = {family: [*parts][i % len(parts)] for family, parts in FAMILIES.items()}
        words = [word for family, name in chosen.items() for word in (f"--{family}", name)]
        if "path" in inspect.signature(FAMILIES["data"][chosen["data"]]).parameters:
            words += ["--data.path", "x.npy"]
        configuration = parse(words)
        assert {family: configuration[family]["name"] for family in FAMILIES} == chosen


def test_options_of_parts_are_typed_as_in_the_design():
    line = "--data mnist --prior vamp --prior.components 500 --posterior diagonal_normal --network mlp"
    configuration = parse([*line.split(), "--network.hidden", "[400, 400]", "--batch-size=7"])
    assert configuration["prior"] == {"name": "vamp", "components": 500, "start": "data"}
    assert configuration["network"]["hidden"] == [400, 400]
    assert configuration["batch_size"] == 7


def test_a_file_of_ones_own_is_a_data_set():
    configuration = parse(["--data", "some/x.npz"])
    assert configuration["data"]["name"] == "array_file"
    assert configuration["data"]["path"] == "some/x.npz"


def test_yaml_round_trip(tmp_path):
    line = [
        "--prior",
        "vamp",
        "--prior.components",
        "7",
        "--objective.beta",
        "4",
        "--clip-norm",
        "1",
    ]
    configuration = parse(line)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(configuration))
    again = parse(["--config", str(path)])
    assert {**again, "config": None} == configuration
    # What is typed comes after what is in the file, and another part drops the file's options.
    changed = parse(["--config", str(path), "--prior", "standard_normal", "--lr", "0.5"])
    assert changed["prior"] == {"name": "standard_normal"}
    assert changed["lr"] == 0.5
    assert changed["objective"]["beta"] == 4
    path.write_text("prior: vamp\n")
    assert parse(["--config", str(path)])["prior"]["components"] == 500


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--priorr vamp",
            r"unknown option --priorr: did you mean --prior\? allowed are --aggressive-steps",
        ),
        (
            "--prior vampp",
            f"--prior must be one of {', '.join(PRIORS)}, got 'vampp'; did you mean vamp",
        ),
        (
            "--data nosuch",
            "--data must be one of digits.*or the path of your own.*got 'nosuch'\\.",
        ),
        ("--data mnits", "got 'mnits'; did you mean mnist"),
        ("--likelihood gaussian", "got 'gaussian'; did you mean normal"),
        ("--learning-rate 1", r"did you mean --lr\? allowed are"),
        ("--device cud", "must be one of auto, cpu, cuda, got 'cud'; did you mean cuda"),
        ("--prior", "--prior needs a name: standard_normal"),
        (
            "--prior.components 3",
            "--prior standard_normal has no options; it is an option of --prior gaussian_mixture, vamp",
        ),
        (
            "--prior vamp --prior.component 3",
            r"did you mean --prior.components\? --prior vamp has --prior.components, --prior.start",
        ),
        (
            "--prior vamp --prior.components x",
            "--prior.components must be a whole number, got 'x'",
        ),
        (
            "--network.hidden x",
            r"must be a list of whole numbers, such as \[200,100\] or null, got 'x'",
        ),
        ("--beta 4", r"did you mean --objective.beta\? allowed are"),
        ("--network.hidder 4", r"has --network.activation, --network.hidden, --network.norm\."),
        ("--lr=", "--lr must be a number, got ''"),
        ("--seed -1", "--seed must be from 0 to 4294967295, got -1"),
        (
            "--lr-schedule foo",
            "--lr-schedule must be one of constant, cosine, exponential, plateau",
        ),
        ("--clip-norm x", "--clip-norm must be a number or null, got 'x'"),
        ("--epochs", "--epochs needs a value"),
        ("stray", "unexpected 'stray'"),
        ("mnist", "did you mean --data mnist"),
        ("--resume", "--resume needs --out"),
        ("--resume --out /nonexistent", "no run to continue at /nonexistent"),
        ("--config /nonexistent", "no configuration at /nonexistent"),
        ("--model nosuch.py", "or a Python file, got 'nosuch.py', which does not exist"),
    ],
)
def test_errors_are_one_line(line, message):
    with pytest.raises(ConfigurationError, match=message) as raised:
        parse(line.split())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", ["200", "200,100", "[200]", "[200, 100]", "200 100"])
@pytest.mark.parametrize("equals", [False, True])
def test_a_list_is_taken_as_it_is_written(given, equals):
    words = given.split() if "[" not in given else [given]
    line = [f"--network.hidden={given}"] if equals else ["--network.hidden", *words]
    if equals and len(words) > 1:
        line = ["--network.hidden", "200", "100"]
    configuration = parse([*line, "--epochs", "3"])
    assert configuration["network"]["hidden"] == ([200, 100] if "100" in given else [200])
    assert configuration["epochs"] == 3


def test_a_column_of_a_numbers_name_is_no_list():
    assert parse(["--data", "x.csv", "--data.drop", "3"])["data"]["drop"] == "3"


@pytest.mark.parametrize(
    "content",
    [
        "- a\n- list\n",
        "just text",
        "a: [",
        "nosuch: 3\n",
        "prior: {x: 1}\n",
        "network: &n {name: mlp, hidden: *n}\n",
    ],
)
def test_bad_yaml_is_refused(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        parse(["--config", str(path)])
    assert "\n" not in str(raised.value)


def test_help_lists_the_options_of_the_parts_chosen(capsys):
    with pytest.raises(SystemExit) as raised:
        parse(["--prior", "vamp", "--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert "--prior.components" in text
    assert "or the path of your own: a folder of images, or a .npy" in " ".join(text.split())
    assert "--objective.warmup-epochs" in text
    assert "CONFIG" not in text.replace("--config CONFIG", "")


def test_a_resumed_run_may_only_be_lengthened(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(parse(["--lr", "0.5"])))
    resume = ["--resume", "--out", str(tmp_path)]
    configuration = parse([*resume, "--epochs", "7"])
    assert (configuration["lr"], configuration["epochs"]) == (0.5, 7)
    with pytest.raises(
        ConfigurationError, match=r"--lr cannot change when a run is resumed: it has 0\.5"
    ):
        parse([*resume, "--lr", "0.1"])
    for given, message in (
        (
            "--prior vamp",
            "--prior cannot change when a run is resumed: it has standard_normal, got",
        ),
        ("--network.hidden 8", r"--network.hidden cannot change .* it has null, got \[8\]"),
        ("--overwrite", "--overwrite deletes it: give one of them"),
        ("--config x.yaml", "leave --config out"),
    ):
        if "config" in given:
            (tmp_path / "x.yaml").write_text("lr: 0.1\n")
            given = f"--config {tmp_path / 'x.yaml'}"
        with pytest.raises(ConfigurationError, match=message):
            parse([*resume, *given.split()])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("grey", "bernoulli"),
        ("levels", "discretized_logistic"),
        ("counts", "negative_binomial"),
        ("unit", "logit_normal"),
        ("real", "student_t"),
    ],
)
def test_the_likelihood_is_that_of_the_kind_of_data(kind, name):
    assert with_likelihood(parse([]), kind)["likelihood"]["name"] == name
    chosen = parse(["--likelihood", "normal"])
    assert with_likelihood(chosen, kind) == chosen


@pytest.mark.parametrize(
    ("binarisation", "name"),
    [("threshold", "bernoulli"), ("dynamic", "bernoulli"), ("none", "discretized_logistic")],
)
def test_binarisation_chooses_the_default_likelihood_too(binarisation, name):
    configuration = parse(["--binarisation", binarisation])
    kind = kind_of_data(configuration, digits())
    assert with_likelihood(configuration, kind)["likelihood"]["name"] == name


def test_the_default_is_said_of_the_kind_that_it_was_chosen_by():
    levels = Dataset.from_array(np.arange(256, dtype=np.uint8).repeat(4).reshape(-1, 1, 4, 4))
    assert "the default for data of 256 levels;" in describe_default_likelihood(
        levels, "x", "levels"
    )
    assert "the default for binarised data;" in describe_default_likelihood(
        levels, "bernoulli", "grey"
    )
    assert "the default for grey images;" in describe_default_likelihood(
        digits(), "bernoulli", "grey"
    )


def test_options_of_a_default_likelihood_are_read_when_it_is_known(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(parse(["--likelihood.scale", "learned", "--seed=7"])))
    for configuration in (parse(["--likelihood.scale=learned"]), parse(["--config", str(path)])):
        assert with_likelihood(configuration, "real")["likelihood"]["scale"] == "learned"
        with pytest.raises(ConfigurationError, match=r"unknown option --likelihood\.scale"):
            with_likelihood(configuration, "binary")


MODEL = '''
from pyro_vae.model import *
from pyro_vae.model import VAE
from pyro_vae import priors, likelihoods, posteriors, networks
import pyro_vae.model

class WideNormal(priors.StandardNormal):
    """p(z) = N(z | 0, 9 I)."""

    def __init__(self, latent_dim: int, wideness: float = 3.0) -> None:
        super().__init__(latent_dim)
        self.wideness = wideness

    def forward(self):
        return dist.Normal(self.zeros, self.wideness).to_event(1)

import pyro.distributions as dist

def build(event_shape, latent_dim=5, *, prior=WideNormal, likelihood=likelihoods.Bernoulli,
          posterior=posteriors.FullNormal, network=networks.MLP, train_data=None, train_size=None):
    return pyro_vae.model.build(event_shape, latent_dim, prior=prior, likelihood=likelihood,
        posterior=posterior, network=network, train_data=train_data, train_size=train_size)
'''


def test_a_model_file_of_ones_own_brings_its_defaults(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    configuration = parse(["--model", str(path), "--prior.wideness", "2"])
    assert configuration["prior"] == {"name": "wide_normal", "wideness": 2}
    assert configuration["posterior"]["name"] == "full_normal"
    vae = build_vae(configuration, (1, 2, 2))
    assert vae.prior().base_dist.scale.tolist() == [2.0] * 5


@pytest.mark.parametrize(
    ("content", "message"), [("1/0", "ZeroDivisionError"), ("x = 1", "must define build")]
)
def test_a_bad_model_file_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        parse(["--model", str(path)])


def test_data_is_loaded_from_its_options(tmp_path):
    configuration = parse(["--data", "digits"])
    assert load_data(configuration, tmp_path).name == "digits"
    assert yaml.safe_load(to_yaml(configuration))["data"] == {"name": "digits", "check": "refuse"}
