"""The page of a run: its order, its texts, its security policy, and what it says is missing."""

import json
import re
import shlex
from dataclasses import replace
from itertools import pairwise

import pytest
import yaml

from analysis.html_report import pictures
from analysis.html_report.numbers import diagnosis_numbers, evaluation_numbers
from analysis.html_report.page import mark_stale, run_page, write_report
from analysis.html_report.pictures import Picture, shrink
from analysis.html_report.render import source_hash
from analysis.html_report.stored_run import StoredRun
from pyro_vae.runs.run_directory import RunDirectory
from pyro_vae.training.checkpoint import load_checkpoint, save_checkpoint

ATTACK = "<script>alert(1)</script>"


def missing(run) -> str:
    """What a page says is missing, with the commands."""
    return "\n".join(f"{each.what} {each.command}" for each in StoredRun.read(run).missing)


def test_it_starts_with_the_verdict_and_ends_with_its_origin(diagnosed, read):
    path = write_report(diagnosed)
    assert path == diagnosed / "report.html"
    page = read(path.read_text())
    sections = [each.attributes["id"] for each in page.all("section") if "id" in each.attributes]
    assert sections[:4] == ["verdict", "missing", "data", "training"]
    assert sections[-1] == "provenance"
    assert page.by_id("verdict").text.index("below") > 0
    origin = page.by_id("provenance").text
    assert f"python scripts/svi_train.py --config {diagnosed}/config.yaml --out DIR" in origin
    options = "--only elbo --samples 50 --seed 3"
    assert f"python scripts/diagnose.py {diagnosed} {options}" in origin
    assert "torch 2.14.1" in origin
    assert "commit 76392df" in origin
    record = json.loads(page.by_id("record").text)
    assert record["metrics"]["elbo"] == pytest.approx(-40.834, abs=1e-3)
    assert record["findings"]
    assert "log p(x) = -38.18 ± 0.10 nats per image" in page.by_id("bibtex").text


def test_it_is_accessible(diagnosed, read):
    page = read(write_report(diagnosed).read_text())
    assert len(page.ids) == len(set(page.ids))
    levels = [int(each.tag[1]) for each in page.all("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.all(tag)) == 1
    for link in page.all("a"):
        address = link.attributes["href"]
        assert address.startswith("https://") or address.removeprefix("#") in page.ids
    for image in page.all("img"):
        assert image.attributes["alt"]
    for button in page.all("button"):
        assert button.attributes["type"] == "button"
        if "data-copy" in button.attributes:
            assert button.attributes["data-copy"] in page.ids


def test_only_what_is_in_it_may_run(diagnosed, read):
    page = read(run_page(StoredRun.read(diagnosed), explorer="{}"))
    (policy,) = (
        each.attributes["content"]
        for each in page.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    allowed = dict(each.split(" ", 1) for each in policy.split("; "))
    scripts = [each for each in page.all("script") if "type" not in each.attributes]
    assert allowed["default-src"] == "'none'"
    assert allowed["script-src"].split() == [source_hash(each.text) for each in scripts]
    assert allowed["style-src"].split() == [source_hash(each.text) for each in page.all("style")]
    assert "unsafe" not in policy
    for each in page.elements:
        assert "style" not in each.attributes
        assert not any(name.startswith("on") for name in each.attributes)
        for name in ("src", "href", "action"):
            address = each.attributes.get(name) or "#"
            # Sources of thresholds, which are followed by hand alone.
            sources = ("https://",) if each.tag == "a" else ()
            assert address.startswith(("#", "data:", *sources))
    assert not re.search(r"https?://|@import|url\(", " ".join(e.text for e in page.all("style")))


def test_names_from_data_are_text(diagnosed, read):
    run = StoredRun.read(diagnosed)
    assert run.contract is not None
    contract = replace(
        run.contract,
        name=ATTACK,
        label_names=(ATTACK, '"><img src=x onerror=alert(1)>'),
        event_names=(ATTACK,),
        notes=(f"left out {ATTACK}",),
        split_rule="</script>",
    )
    before = len(read(run_page(run, explorer="{}")).all("script"))
    run = replace(
        run, contract=contract, metrics={**(run.metrics or {}), "baseline": ATTACK, "data": ATTACK}
    )
    explorer = json.dumps({"labels": [ATTACK, "<!--<script>"]})
    page = read(run_page(run, explorer=explorer))
    assert len(page.all("script")) == before
    assert json.loads(page.by_id("explorer-data").text) == json.loads(explorer)
    assert json.loads(page.by_id("record").text)["metrics"]["data"] == ATTACK
    assert f"left out {ATTACK}" in page.by_id("data").text
    figures = {each.attributes["id"] for each in page.all("figure")}
    assert {name for name in figures if name.startswith("figure-")} == {
        *("figure-learning_curves", "figure-latent_space", "figure-clusters"),
        "figure-elbo_terms",
    }


def test_figures_have_texts_made_of_their_numbers(diagnosed, read):
    page = read(write_report(diagnosed).read_text())
    texts = {}
    for figure in page.all("figure"):
        index = page.elements.index(figure)
        image = next(each for each in page.elements[index:] if each.tag == "img")
        texts[figure.attributes["id"]] = image.attributes["alt"]
        assert image.attributes["src"].startswith("data:image/png;base64,")
        assert (image.attributes["width"], image.attributes["height"]) == ("1", "1")
    assert texts["figure-elbo_terms"].startswith("What is the ELBO made of? The rate is 0.37 nats")
    assert "from -45.95 in epoch 1 to -40.98 nats per image" in texts["figure-learning_curves"]
    assert "coloured by 10 labels" in texts["figure-latent_space"]
    # A page of text as a picture, whose facts are text here.
    assert "figure-data" not in texts


def test_a_section_of_a_diagnosis(diagnosed, read):
    page = read(write_report(diagnosed).read_text())
    section = page.by_id("elbo").text
    assert "-40.83 nats per image" in section
    assert f"python scripts/evaluate.py {diagnosed} --methods gaps" in section
    assert "Left out: there is <one> training example." in section
    assert "stale" not in section
    again = "--only predictive calibration pit guide representation --samples 50"
    assert again in page.by_id("missing").text


def test_stale_sections_are_marked(diagnosed, read):
    state = load_checkpoint(diagnosed / "checkpoint.pt")
    save_checkpoint(diagnosed / "checkpoint.pt", {**state, "seconds": 1.0})
    # Of a version that did not mark sections, and of this one.
    for name in ("elbo_terms.png", "stale_elbo_terms.png"):
        page = read(write_report(diagnosed).read_text())
        section = page.by_id("elbo").text
        assert "This section was made for another checkpoint" in section
        assert f"python scripts/diagnose.py {diagnosed} --only elbo" in section
        assert (diagnosed / "diagnosis" / name).exists()
        assert page.by_id("figure-elbo_terms").attributes["class"] == "stale"
        mark_stale(RunDirectory(diagnosed))


def test_what_is_missing_is_named_with_its_command(run, write):
    found = missing(run)
    assert f"no diagnosis was made. python scripts/diagnose.py {run}" in found
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["bits_per_dim"], metrics["verdicts"]
    write("metrics.json", {**metrics, "steps": 40})
    found = missing(run)
    assert "written by an earlier version and has no bits_per_dim, verdicts." in found
    assert "metrics.json is of step 40, the checkpoint of step 60." in found
    assert f"python scripts/svi_train.py --resume --out {run}" in found
    write_report(run)
    (run / "metrics.json").write_text("{")
    assert "metrics.json cannot be read. rm " in missing(run)
    write_report(run)
    (run / "metrics.json").unlink()
    assert "there is no metrics.json. python scripts/svi_train.py --resume" in missing(run)
    write_report(run)


def test_a_training_that_was_cut_short(run):
    options = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**options, "epochs": 30}))
    assert "cut short at step 60 of 600. python scripts/svi_train.py --resume" in missing(run)
    commands = {each.title: each.command for each in StoredRun.read(run).findings()}
    assert commands["The model is hardly trained"] == (
        f"python scripts/svi_train.py --resume --out {run}"
    )
    (run / "metrics.json").unlink()
    assert "The rest of training, and the evaluation: it was cut short" in missing(run)
    assert "there is no metrics.json" not in missing(run)
    (run / "config.yaml").write_text("a: [")
    assert "config.yaml is not YAML" in missing(run)
    write_report(run)
    (run / "checkpoint.pt").write_bytes(b"PK")
    assert "is cut short, or not a checkpoint" in missing(run)
    write_report(run)
    with pytest.raises(ValueError, match="no run at"):
        write_report(run / "figures")


def test_data_that_have_changed(run, tmp_path):
    source = tmp_path / "data.csv"
    source.write_text("a\n1\n")
    state = load_checkpoint(run / "checkpoint.pt")
    state["data"] = {**state["data"], "source": str(source), "source_digest": "0"}
    save_checkpoint(run / "checkpoint.pt", state)
    assert f"{source} has changed since" in missing(run)
    assert not any(
        "changed" in each.what for each in StoredRun.read(run, check_data=False).missing
    )
    source.unlink()
    assert f"{source} does not exist any more" in missing(run)


def test_what_makes_the_missing_is_a_command_of_its_script(tmp_path, run, parsed):
    """Also of a directory with a space."""
    moved = run.rename(tmp_path / "a run")
    source = tmp_path / "my x.npy"
    source.write_bytes(b"x")
    state = load_checkpoint(moved / "checkpoint.pt")
    state["data"] = {**state["data"], "source": str(source), "source_digest": "0"}
    save_checkpoint(moved / "checkpoint.pt", state)
    metrics = json.loads((moved / "metrics.json").read_text())
    (moved / "metrics.json").write_text(json.dumps({**metrics, "steps": 1}))
    found = StoredRun.read(moved).missing
    (moved / "checkpoint.pt").write_bytes(b"PK")
    commands = {each.command for each in (*found, *StoredRun.read(moved).missing) if each.command}
    assert len(commands) > 3
    for command in commands:
        assert str(moved) in " ".join(shlex.split(command))
        parsed(command.rpartition(" && ")[2])


def test_a_program_without_a_diagnosis(run, write, read):
    options = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**options, "model": "conditional"}))
    metrics = json.loads((run / "metrics.json").read_text())
    scores = {"leakage": 0.25, "leakage_se": 0.01}
    write("metrics.json", {**metrics, **scores, "scores": [*scores]})
    page = read(write_report(run).read_text())
    assert "not defined for conditional: it has p(x | y) only" in page.by_id("missing").text
    assert "leakage" in page.by_id("training").text
    (row,) = (each for each in evaluation_numbers(StoredRun.read(run)) if each.label == "leakage")
    assert (row.value, row.error) == ("0.250", "± 0.010 (standard error)")


def test_a_full_disk_leaves_the_old_page(diagnosed, monkeypatch):
    before = write_report(diagnosed).read_bytes()
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_report(diagnosed)
    assert (diagnosed / "report.html").read_bytes() == before
    assert not [*diagnosed.glob(".*")]


def test_numbers_have_errors_and_units():
    record = {
        "terms": {"elbo": -40.834, "elbo_se": 0.12, "active_units": 3, "reading": "x"},
        "quality": {"khat_share_above": 0.125, "trusted": True},
        "points": [{"n": 10, "mean": 0.5, "standard_error": 0.02}],
        "curves": {"accuracy": {"mean": [0.5, 0.25], "standard_error": [0.01, 0.02]}},
        "length_ratio": 1.5,
        "length_ratio_quartiles": [1.25, 1.75],
    }
    rows = {each.label: each for each in diagnosis_numbers("elbo", record, "image")}
    elbo = rows["terms: ELBO"]
    assert (elbo.value, elbo.error) == ("-40.83", "± 0.12 (standard error)")
    assert elbo.unit == "nats per image"
    assert (rows["terms: active units"].value, rows["terms: active units"].unit) == ("3", "")
    share = rows["quality: k-hat above threshold"]
    assert (share.value, share.unit) == ("12.5", "%")
    assert (rows["quality: trusted"].value, rows["quality: trusted"].unit) == ("yes", "")
    assert rows["points: 1: mean"].error == "± 2.0 (standard error)"
    assert rows["curves: accuracy: mean"].error == "± 1.0, 2.0 (standard errors)"
    assert rows["length ratio"].error == "1.25 to 1.75 (quartiles)"
    assert not any("se" in each.split() for each in rows)


def test_large_pictures_get_fewer_colours(diagnosed):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().imshow([[1, 2], [3, 4]])
    path = diagnosed / "large.png"
    figure.savefig(path)
    picture = Picture("large", "caption", "alt", path.read_bytes())
    assert shrink([picture])(picture) is picture
    smaller = shrink([picture], largest=10)(picture)
    assert len(smaller.content) < len(picture.content)
    assert smaller.size == picture.size
    assert pictures.is_png(smaller.content)
