"""The section `representation`: whose labels, which rows, and several runs side by side."""

import numpy as np
import pytest
import torch

from analysis.calibration.exact_models import LinearGaussian
from analysis.check import SectionResult
from analysis.representation import inputs
from analysis.representation.codes import with_error
from analysis.representation.decoder_geometry import DECODER_GEOMETRY
from analysis.representation.inputs import RepresentationInputs
from analysis.representation.probes import PROBE
from analysis.result import UndefinedCheckError
from analysis.sections import RepresentationSection, side_by_side
from analysis.subject import Subject
from pyro_vae.evidence import fixed_rows


def a_subject(**options):
    model = LinearGaussian((3,), latent_dim=2)
    x, train = torch.randn(20, 3), torch.randn(50, 3)
    return Subject(model.vae(), x, train, "real", lambda: model.vae(), **options)


def test_of_several_factors_the_first_is_the_label(monkeypatch):
    monkeypatch.setattr(inputs, "TRAINING", 30)
    rng = np.random.default_rng(0)
    labels, train_labels = rng.integers(0, 3, (20, 2)), rng.integers(0, 3, (50, 2))
    subject = a_subject(labels=labels, train_labels=train_labels, label_names=("shape", "scale"))
    of = RepresentationInputs(subject)
    assert of.label_name == "shape"
    assert (of.test.labels == labels[:, 0]).all()
    assert len(of.all_train) == 50
    assert len(of.train) == len(of.train_x) == 30
    rows = fixed_rows(50, 30).numpy()
    assert (of.train.labels == train_labels[rows, 0]).all()
    # The codes are those of the same rows.
    codes = inputs.embed_data(subject.vae, of.train_x)
    np.testing.assert_allclose(of.train.codes, codes, rtol=1e-5)
    # Factors are scored on all that is held out.
    whole = torch.randn(40, 3)
    more = rng.integers(0, 3, (40, 2))
    subject = a_subject(labels=labels, whole=whole, whole_labels=more)
    codes, factors = RepresentationInputs(subject).scored_codes_and_factors
    assert len(codes) == len(factors) == 40
    assert (factors == more).all()


def test_data_without_a_label_are_left_out():
    rng = np.random.default_rng(0)
    labels, train_labels = rng.integers(0, 3, 20), rng.integers(0, 3, 50)
    labels[::4], train_labels[::5] = -1, -1
    of = RepresentationInputs(a_subject(labels=labels, train_labels=train_labels))
    assert (of.test.labels == labels[labels >= 0]).all()
    assert len(of.test.codes) == len(of.labelled_x) == 15
    assert (of.train.labels == train_labels[train_labels >= 0]).all()
    # Codes and data are those of the rows with labels.
    codes = inputs.embed_data(of.subject.vae, of.labelled_train_x)
    np.testing.assert_allclose(of.train.codes, codes, rtol=1e-5)
    assert len(of.train_x) == 50
    factors = np.stack([labels, rng.integers(0, 3, 20)], 1)
    of = RepresentationInputs(a_subject(labels=factors))
    assert (of.scored_codes_and_factors[1] == factors[labels >= 0]).all()
    np.testing.assert_allclose(of.scored_codes_and_factors[0], of.codes[labels >= 0])


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "the data have no labels"),
        (np.zeros(20, np.int64), "all of the data have the same label"),
        (np.full(20, -1), "none of the data has a label"),
        (np.linspace(0, 1, 20), "the labels of the data are floats, a numeric target"),
    ],
)
def test_without_labels_there_is_no_probe(labels, says):
    with pytest.raises(UndefinedCheckError, match=says):
        _ = RepresentationInputs(a_subject(labels=labels)).test
    with pytest.raises(UndefinedCheckError, match="no factors"):
        _ = RepresentationInputs(a_subject(labels=labels)).scored_codes_and_factors


def test_numbers_about_labels_name_the_factor():
    rng = np.random.default_rng(0)
    labels = {"labels": rng.integers(0, 3, (20, 2)), "train_labels": rng.integers(0, 3, (50, 2))}
    section = RepresentationSection("?", (PROBE, DECODER_GEOMETRY))
    found = section.run("representation", a_subject(**labels, label_names=("shape", "scale")))
    assert list(found.numbers) == [
        "linear probe, all labels, shape",
        "directions that move the data",
    ]
    plain = section.run("representation", a_subject(**{k: v[:, 0] for k, v in labels.items()}))
    assert "linear probe, all labels" in plain.numbers


def a_section(numbers):
    return SectionResult(numbers=numbers)


def test_the_table_has_a_column_a_run_and_breaks_where_the_line_ends():
    found = side_by_side(
        {
            "vae": a_section({"probe": "0.9", "log p(x)": "-90 nats"}),
            "plain": a_section({"probe": "0.8"}),
        }
    )
    assert found.measures["log p(x)"] == {"vae": "-90 nats", "plain": "not defined"}
    assert found.figures == {}
    lines = found.table(100)
    assert lines == [
        "               vae        plain",
        "probe          0.9          0.8",
        "log p(x)  -90 nats  not defined",
    ]
    narrow = found.table(20)
    assert max(map(len, narrow)) <= 21
    assert [line for line in narrow if "plain" in line] == ["                plain"]


def test_a_spread_that_is_not_there_is_not_said():
    assert with_error(0.5, None) == "0.500"
    assert with_error(0.5, 0.01) == "0.500 ± 0.010"
