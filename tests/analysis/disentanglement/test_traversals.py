"""Traversals: a decoder whose coordinates are known to move, to size, and to do nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from analysis.disentanglement.traversal_labels import ImageMovements, vector_movement
from analysis.disentanglement.traversals import factor_shares, plot_traversals, traversals
from analysis.result import UndefinedCheckError

RNG = np.random.default_rng(0)
CODES = RNG.normal(size=(400, 4))


class Blob(nn.Module):
    """z0 moves a blob in x, z1 in y, z2 changes its size, z3 does nothing."""

    def __init__(self, *, support="real", mix=None, shape=(24, 24)):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.prior = SimpleNamespace(support=support)
        self.mix = torch.eye(4) if mix is None else mix
        self.shape = shape

    def decode(self, z):
        z = z @ self.mix
        rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
        x, y, size = (z[:, i, None, None] for i in range(3))
        scale = 2.5 * torch.exp(0.25 * size)
        away = (columns - 11.5 - 2 * x) ** 2 + (rows - 11.5 - 1.5 * y) ** 2
        return torch.exp(-away / (2 * scale**2)).reshape(-1, *self.shape)


class Vector(nn.Module):
    """Elements of unlike units: z0 moves the first, z1 the second and third, z2 all ten others."""

    def __init__(self, support="real"):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.likelihood = SimpleNamespace(support=support)

    def decode(self, z):
        others = z[:, 2:3] * torch.ones(10)
        moved = torch.cat([1000 * z[:, :1], z[:, 1:2], 0.01 * z[:, 1:2], others], 1)
        return moved if self.likelihood.support == "real" else torch.exp(moved / 1000) * 5


def kinds(found):
    return {row.dimension: row.movement and row.movement.kind for row in found.rows}


@pytest.mark.parametrize("shape", [(24, 24), (1, 24, 24)])
def test_what_moves_is_found(shape):
    found = traversals(Blob(shape=shape), CODES)
    assert kinds(found) == {0: "x", 1: "y", 2: "size", 3: None}
    rows = {row.dimension: row for row in found.rows}
    assert all(rows[j].movement.share > 0.95 for j in range(3))
    assert all(row.agreement == 1 for row in found.rows)
    # About 4.65 of a standard normal: 9.3 and 7 pixels, and a factor exp(1.16) = 3.2.
    far = [float(np.ptp(rows[j].values)) for j in range(3)]
    assert float(rows[0].movement.label.split()[3]) == pytest.approx(2 * far[0], abs=0.6)
    assert float(rows[1].movement.label.split()[3]) == pytest.approx(1.5 * far[1], abs=0.6)
    assert float(rows[2].movement.label.split()[2]) == pytest.approx(np.exp(far[2] / 4), rel=0.1)
    assert found.rows[-1].label == "does nothing"
    assert found.rows[-1].change == 0
    assert "3 change one thing" in found.reading()
    assert "1 nothing" in found.reading()


def test_a_rotated_code_has_no_such_labels():
    half = np.sqrt(0.5)
    mix = torch.eye(4)
    mix[:2, :2] = torch.tensor([[half, half], [-half, half]])
    found = traversals(Blob(mix=mix), CODES, dimensions=[0, 1, 2, 3])
    # Along the diagonal neither x nor y is all.
    assert kinds(found)[0] not in ("x", "y") or found.rows[0].movement.share < 0.8
    assert kinds(found)[2] == "size"


def test_a_collapsed_model_does_nothing():
    found = traversals(Blob(mix=torch.zeros(4, 4)), CODES)
    assert set(kinds(found).values()) == {None}


def test_rows_start_from_the_datum_nearest_to_the_median():
    codes = np.concatenate([CODES, np.median(CODES, axis=0, keepdims=True)])
    found = traversals(Blob(), codes, steps=5)
    assert found.base == 400
    row = next(row for row in found.rows if row.dimension == 0)
    assert len(row.values) == 5
    np.testing.assert_allclose(row.values[[0, -1]], np.quantile(codes[:, 0], [0.01, 0.99]))
    assert traversals(Blob(), codes, base=3).base == 3
    assert [row.dimension for row in traversals(Blob(), codes, dimensions=[3]).rows] == [3]


def test_the_same_seed_gives_the_same():
    first, second = (traversals(Blob(), CODES, seed=3).summary() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("kind", "amount"),
    [("angle", 30.0), ("slant", -20.0), ("thickness", 1.0), ("brightness", 0.4)],
)
def test_each_kind_is_told_from_the_others(kind, amount):
    base = np.zeros((20, 20))
    base[4:16, 8:11] = 0.6
    base[4:7, 8:16] = 0.6
    moves = ImageMovements(base)
    index = int(np.abs(moves.amounts[kind] - amount).argmin())
    row = np.stack([base.reshape(-1), moves.images[kind][index]]).reshape(2, 20, 20)
    movement = moves(row)
    assert movement.kind == kind
    assert movement.share == pytest.approx(1)
    # The ground is no part of what moves.
    assert ImageMovements(base + 5)(row + 5).kind == kind


def test_a_change_that_nothing_simple_explains():
    base = np.zeros((20, 20))
    base[2:9, 2:18] = 1
    moves = ImageMovements(base)
    movement = moves(np.stack([base, RNG.random((20, 20))]))
    assert (movement.kind, movement.label) == ("shape", "changes shape")


def test_elements_of_a_vector():
    found = traversals(Vector(), CODES, event_names=("age", "height"))
    rows = {row.dimension: row for row in found.rows}
    assert rows[0].movement.kind == "age"
    assert rows[0].label == "moves age, 100%"
    # Each in its own unit, the second and third move alike.
    assert rows[1].label in ("moves height, 50%", "moves x[2], 50%")
    shares = rows[1].movement.shares
    assert (shares["height"], shares["x[2]"]) == pytest.approx((0.5, 0.5))
    assert sum(shares.values()) == pytest.approx(1)
    # From the low end of the code to the high one, in standard deviations.
    far = np.ptp(rows[1].values) / CODES[:, 1].std()
    assert rows[1].movement.ends["height"] == pytest.approx(far, rel=0.01)
    assert rows[2].movement.kind == "spread"
    assert "elements, most x[" in rows[2].label
    assert rows[3].movement is None
    assert kinds(traversals(Vector("counts"), CODES))[0] == "x[0]"
    two = vector_movement(np.zeros(3), np.array([[0.0, 4.0, 0.0], [4.0, 0.0, 3.0]]))
    assert (two.kind, two.label) == ("mixed", "moves x[0], x[1]")


def test_factors_are_told_by_their_share_of_entropy():
    factors = np.stack([np.digitize(CODES[:, 0], [-1, 0, 1]), RNG.integers(0, 4, 400)], 1)
    found = traversals(Blob(), CODES, factors=factors, names=("position", "noise"))
    rows = {row.dimension: row for row in found.rows}
    assert rows[0].factor == "position"
    assert rows[0].information["position"] > 0.85
    assert rows[0].factor_label.endswith("% of position")
    assert rows[0].information["noise"] < 0.05
    assert rows[1].factor is None
    assert rows[1].factor_label == "tells of no factor"
    # Two factors that are one: none is followed alone.
    [both] = factor_shares(CODES[:, :1], factors[:, [0, 0]])
    assert both["factor 0"] == pytest.approx(both["factor 1"], abs=0.01)
    constant = factor_shares(CODES[:, :1], np.zeros(400, int))
    assert constant == [{"label": 0.0}]


@pytest.mark.parametrize("support", ["sphere", "simplex", "one_hot"])
def test_tied_coordinates_cannot_move_alone(support):
    with pytest.raises(UndefinedCheckError, match=f"{support} can move alone"):
        traversals(Blob(support=support), CODES)
    assert traversals(Blob(support="positive"), CODES, bases=0).rows[0].agreement is None


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"dimensions must be below 4 .* got \[4\]"):
        traversals(Blob(), CODES, dimensions=[4])
    with pytest.raises(ValueError, match="3 steps are needed, got 400 and 2"):
        traversals(Blob(), CODES, steps=2)
    with pytest.raises(ValueError, match="base below 400"):
        traversals(Blob(), CODES, base=400)


def test_figure(words, images_in):
    factors = RNG.integers(0, 3, size=(400, 1))
    axes, text = words(
        plot_traversals(traversals(Blob(), CODES, factors=factors, names=("f",), steps=3))
    )
    assert len(images_in(axes[0])) == 4 * 3
    assert len(axes[0].patches) == 4
    assert "z[3]: does nothing" in text
    assert "no factor" in text
    assert "3 change one thing, 1 nothing" in text
    figure = plot_traversals(traversals(Vector(), CODES))
    assert "in standard deviations" in figure.get_supxlabel()
    assert any("elements, most x[" in ax.get_title() for ax in figure.axes)
