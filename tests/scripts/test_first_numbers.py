"""The first numbers: the network by hand is the VAE's, the table says which targets were met."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pyro_vae.data import digits
from pyro_vae.objectives import ELBO, objective_value

STUDY = Path(__file__).parents[2] / "scripts" / "studies" / "first_numbers.py"


@pytest.fixture(scope="module")
def study():
    return SimpleNamespace(**runpy.run_path(str(STUDY), run_name="first_numbers"))


def cell(study, row, seed, log_evidence, steps=3910):
    return {
        "command": study.command_of(row, study.arguments_of(row, seed, 10, None)),
        "data": "mnist",
        "seed": seed,
        "steps": steps,
        "n": 1000,
        "log_evidence_samples": 1000,
        "log_evidence": log_evidence,
        "log_evidence_se": 0.75,
        "elbo": log_evidence - 5,
        "khat_share_above": 0.25,
        "torch": "2.11",
        "pyro": "1.9.2",
        "git_commit": None,
    }


@pytest.fixture
def results(study):
    values = {
        "digits": (-23.2, -23.0, -23.1),
        "mnist": (-97.0, -98.0, -99.0),
        "mnist_by_hand": (-97.3, -98.1, -98.9),
        "mnist_vamp": (-95.0, -96.0, -97.5),
    }
    return {
        f"{row}/{seed}": cell(study, row, seed, value)
        for row, by_seed in values.items()
        for seed, value in enumerate(by_seed)
    }


def test_two_steps_by_hand_train_the_network_that_is_evaluated(study):
    data = digits()
    plain = study.PlainVAE(64, 16, 3)
    untrained = plain.decoder_head.weight.clone()
    steps, seconds = study.train_by_hand(plain, data.train.flatten(1), 16, epochs=3, max_steps=2)
    assert steps == 2
    assert seconds > 0
    assert not torch.equal(plain.decoder_head.weight, untrained)

    vae = study.as_vae(plain, data.event_shape)
    x = (data.test >= 8).float()
    loc, scale = plain.encode(x.flatten(1))
    posterior = vae.posterior(x).base_dist
    torch.testing.assert_close(posterior.loc, loc)
    torch.testing.assert_close(posterior.scale, scale)
    logits = vae.likelihood(loc).base_dist.logits
    torch.testing.assert_close(logits.flatten(1), plain.decode(loc))

    # The same noise gives the same objective, so both are trained on one thing.
    torch.manual_seed(1)
    by_hand = plain(x.flatten(1))
    torch.manual_seed(1)
    torch.testing.assert_close(objective_value(vae, ELBO(), x).loss.mean(), by_hand)


def test_by_hand_takes_the_steps_of_whole_epochs(study):
    images = torch.zeros(300, 4, dtype=torch.uint8)
    assert study.train_by_hand(study.PlainVAE(4, 2, 1), images, 1, epochs=2)[0] == 6


@pytest.mark.slow
def test_a_cell_of_two_steps_is_stored_and_not_repeated(study, tmp_path, capfd):
    path = tmp_path / "results.json"
    arguments = ["--only", "digits", "--seeds", "1", "--max-steps", "2", "--results", str(path)]
    assert study.main(arguments) == 0
    (name, stored), *rest = json.loads(path.read_text()).items()
    assert (name, rest) == ("digits/1", [])
    assert stored["command"] == "python scripts/svi_train.py --max-steps 2 --seed 1"
    assert (stored["steps"], stored["epochs"], stored["seed"], stored["n"]) == (2, 1, 1, 360)
    assert stored["elbo"] < stored["log_evidence"] < -27.3
    output = capfd.readouterr().out
    assert "above -23.5 with each seed: **missed**" in output

    before = path.stat().st_mtime_ns
    assert study.main(arguments) == 0
    assert "digits/1 is there" in capfd.readouterr().out
    assert path.stat().st_mtime_ns == before


def test_a_run_that_fails_stores_nothing(study, tmp_path, capfd):
    path = tmp_path / "results.json"
    arguments = ["--only", "digits", "--max-steps", "-1", "--results", str(path)]
    assert study.main(arguments) == 1
    assert "exit code 2" in capfd.readouterr().err
    assert not path.exists()


def test_table_has_means_spreads_and_commands(study, results):
    table = study.tables(results)
    line = next(line for line in table.splitlines() if line.startswith("| MNIST, 784-400-z50 |"))
    assert line == (
        "| MNIST, 784-400-z50 | -98.00 ± 1.00 | -103.00 ± 1.00 | 25% | 1,000 x 1,000 | 3,910 "
        "| `python scripts/svi_train.py --data mnist --latent-dim 50 "
        "--network.hidden '[400]' --batch-size 128 --lr 0.001 --epochs 10 --seed S`, S = 0, 1, 2 |"
    )
    assert "mnist 0.75" in table
    assert "Made with torch 2.11, pyro 1.9.2; commit none." in table
    assert "missed" not in table
    assert table.count("reached") == 4
    assert "(mean +0.10; by seed +0.30, +0.10, -0.10)" in table
    assert "(mean +1.83; by seed +2.00, +2.00, +1.50)" in table


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("digits/1", -23.6, "above -23.5 with each seed: **missed** (lowest -23.60)"),
        ("mnist/0", -101.5, "above -101 with each seed: **missed** (lowest -101.50)"),
        ("mnist_by_hand/2", -95.0, "after the same steps: **missed** (mean -1.20;"),
        (
            "mnist_vamp/2",
            -99.5,
            "with each seed: **missed** (mean +1.17; by seed +2.00, +2.00, -0.50)",
        ),
    ],
)
def test_a_missed_target_is_said_to_be_missed(study, results, name, value, said):
    results[name]["log_evidence"] = value
    assert said in study.tables(results)


def test_what_was_not_measured_or_does_not_compare_is_not_a_target_reached(study, results):
    assert study.tables({}).count("not measured") == 4
    results["mnist_vamp/0"]["steps"] = 5000
    assert "not comparable, after 3,910 and 5,000 steps" in study.tables(results)


def test_seeds_of_different_commands_have_no_mean(study, results):
    results["mnist/1"]["command"] = study.command_of(
        "mnist", study.arguments_of("mnist", 1, 20, None)
    )
    with pytest.raises(ValueError, match="must have one command"):
        study.tables(results)


def test_readme_is_written_between_its_markers(study, results, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- first_numbers -->\nold\n<!-- /first_numbers -->\nafter\n")
    arguments = ["--results", str(path), "--write", str(readme)]
    for _ in range(2):
        assert study.main(arguments) == 0
    start, end = "<!-- first_numbers -->", "<!-- /first_numbers -->"
    assert readme.read_text() == f"before\n{start}\n{study.tables(results)}\n{end}\nafter\n"

    readme.write_text("no markers\n")
    assert study.main(arguments) == 2
    assert "must hold <!-- first_numbers -->" in capsys.readouterr().err
    assert readme.read_text() == "no markers\n"
