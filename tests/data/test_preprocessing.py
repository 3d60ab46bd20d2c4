"""`PreparedData` and its hashed noise."""

import math

import jaxtyping
import pytest
import torch
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.data import Dataset, PreparedData, digits
from pyro_vae.data.dataset import SPLITS, SUPPORTS
from pyro_vae.data.transforms import hashed_uniform


def dataset_of(support: str) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    draw = {
        "binary": lambda n: torch.randint(0, 2, (n, 5), generator=generator),
        "integers": lambda n: torch.randint(0, 4, (n, 5), generator=generator),
        "counts": lambda n: torch.randint(0, 400, (n, 5), generator=generator),
        "unit": lambda n: torch.rand(n, 5, generator=generator),
        "real": lambda n: torch.randn(n, 5, generator=generator),
    }[support]
    levels = 4 if support == "integers" else None
    return Dataset("mine", support, levels, draw(50), draw(20), draw(30))


FITS = {
    ("binary", "binary"),
    ("integers", "binary"),
    ("integers", "unit"),
    ("integers", "real"),
    ("integers", "integers"),
    ("counts", "counts"),
    ("unit", "binary"),
    ("unit", "unit"),
    ("unit", "real"),
    ("real", "real"),
}
PAIRS = [(native, likelihood) for native in SUPPORTS for likelihood in SUPPORTS]
IN_SUPPORT = {
    "binary": lambda x: ((x == 0) | (x == 1)).all(),
    "integers": lambda x: ((x >= 0) & (x < 4) & (x == x.round())).all(),
    "counts": lambda x: ((x >= 0) & (x == x.round())).all(),
    "unit": lambda x: ((x >= 0) & (x <= 1)).all(),
    "real": lambda x: x.isfinite().all(),
}


@pytest.mark.parametrize(("native", "likelihood"), PAIRS)
def test_each_pair_is_prepared_or_refused(native, likelihood):
    dataset = dataset_of(native)
    if (native, likelihood) not in FITS:
        message = (
            f"mine holds {native} data .* likelihood of {likelihood} data is not defined; use"
        )
        with pytest.raises(ValueError, match=message):
            PreparedData(dataset, likelihood)
        return
    prepared = PreparedData(dataset, likelihood)
    x = prepared.transform(prepared.train[:7])
    assert x.shape == (7, 5)
    assert x.is_floating_point() == (likelihood not in ("integers", "counts"))
    assert IN_SUPPORT[likelihood](x)
    for split in SPLITS:
        fixed = prepared.fixed(split)
        assert fixed.shape == dataset.split(split).shape
        assert IN_SUPPORT[likelihood](fixed)
        assert fixed is prepared.fixed(split)
        assert fixed.dtype == {
            "binary": torch.uint8,
            "unit": torch.float32,
            "real": torch.float32,
        }.get(likelihood, dataset.train.dtype)


@pytest.mark.parametrize(
    ("native", "likelihood"), [("integers", "real"), ("unit", "unit"), ("real", "real")]
)
def test_preparation_without_noise(native, likelihood):
    dataset = dataset_of(native)
    prepared = PreparedData(dataset, likelihood)
    x = dataset.test / 3 if native == "integers" else dataset.test
    assert torch.equal(prepared.transform(dataset.test), x)
    assert torch.equal(prepared.fixed("test"), x)


@pytest.mark.parametrize("binarisation", ["dynamic", "static", "threshold"])
def test_fixed_data_depend_on_no_seed_and_leave_the_global_stream(binarisation):
    draws = []
    for seed, dtype in ((0, torch.float32), (1, torch.float64)):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        torch.set_default_dtype(dtype)
        try:
            prepared = PreparedData(digits(), "binary", binarisation=binarisation)
            draws.append([prepared.fixed(split) for split in SPLITS])
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(*pair) for pair in zip(*draws, strict=True))


def test_fixed_binarisation_is_the_one_that_reported_numbers_stand_on():
    dynamic = PreparedData(digits(), "binary")
    static = PreparedData(digits(), "binary", binarisation="static")
    assert torch.equal(dynamic.fixed("test"), static.fixed("test"))
    assert dynamic.fixed("test").sum() == 7038
    assert static.train.sum() == 24526


def test_splits_are_drawn_with_different_seeds():
    same = torch.full((100, 8), 0.5)
    prepared = PreparedData(Dataset("grey", "unit", None, same, same, same), "binary")
    assert not torch.equal(prepared.fixed("validation"), prepared.fixed("test"))
    assert not torch.equal(prepared.fixed("validation"), prepared.fixed("train"))


@pytest.mark.parametrize("native", ["integers", "unit"])
def test_dynamic_binarisation_has_the_right_mean_and_differs_between_visits(native):
    # Every value of p, 20,000 times. Six standard deviations of a binomial proportion.
    if native == "integers":
        p = torch.arange(17) / 16
        rows = torch.arange(17).expand(20_000, -1)
        dataset = Dataset("levels", "integers", 17, rows, rows, rows)
    else:
        p = torch.linspace(0, 1, 11)
        rows = p.expand(20_000, -1)
        dataset = Dataset("grey", "unit", None, rows, rows, rows)
    torch.manual_seed(0)
    prepared = PreparedData(dataset, "binary")
    assert prepared.binarisation == "dynamic"
    first, second = (prepared.transform(prepared.train) for _ in range(2))
    assert not torch.equal(first, second)
    bound = 6 * (p * (1 - p) / len(rows)).sqrt()
    for x in (first, second, prepared.fixed("test").float()):
        assert ((x.mean(0) - p).abs() <= bound).all()


def test_static_binarisation_draws_the_training_set_once():
    prepared = PreparedData(digits(), "binary", binarisation="static")
    assert prepared.binarisation == "static"
    assert prepared.train.dtype == torch.uint8
    assert prepared.train is prepared.fixed("train")
    first, second = (prepared.transform(prepared.train[:9]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, prepared.train[:9].float())


def test_threshold_is_one_from_half_upwards():
    rows = torch.arange(256)[:, None]
    prepared = PreparedData(
        Dataset("levels", "integers", 256, rows, rows, rows), "binary", binarisation="threshold"
    )
    assert torch.equal(
        prepared.transform(prepared.train)[:, 0], (torch.arange(256) >= 128).float()
    )
    grey = torch.tensor([[0.0], [0.49], [0.5], [1.0]])
    prepared = PreparedData(
        Dataset("grey", "unit", None, grey, grey, grey), "binary", binarisation="threshold"
    )
    assert prepared.fixed("test")[:, 0].tolist() == [0, 0, 1, 1]


def test_binary_data_are_not_binarised():
    prepared = PreparedData(dataset_of("binary"), "binary", binarisation="none")
    assert prepared.binarisation is None
    assert torch.equal(prepared.transform(prepared.train), prepared.train.float())
    assert prepared.fixed("test") is prepared.dataset.test


@pytest.mark.parametrize("native", ["integers", "unit"])
def test_grey_data_reach_no_bernoulli_without_binarisation(native):
    message = "use binarisation dynamic, static or threshold, or .*support is unit or real"
    with pytest.raises(ValueError, match=message):
        PreparedData(dataset_of(native), "binary", binarisation="none")


def test_dequantised_levels_are_uniform_within_their_level():
    levels = torch.arange(4).repeat(20_000, 1)
    prepared = PreparedData(Dataset("levels", "integers", 4, levels, levels, levels), "unit")
    torch.manual_seed(0)
    first, second = (prepared.transform(prepared.train) for _ in range(2))
    assert not torch.equal(first, second)
    for x in (first, prepared.fixed("test")):
        within = 4 * x - levels
        assert ((within >= 0) & (within <= 1)).all()
        # Mean 1/2 and variance 1/12, to six standard errors.
        assert ((within.mean(0) - 1 / 2).abs() < 6 * math.sqrt(1 / 12 / 20_000)).all()
        assert ((within.var(0) - 1 / 12).abs() < 6 * math.sqrt(1 / 180 / 20_000)).all()
        assert x.min() > 0
        assert x.max() < 1
    scaled = PreparedData(prepared.dataset, "unit", dequantise=False)
    assert torch.equal(scaled.transform(levels), levels / 3)


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [("binary", {}), ("binary", {"binarisation": "threshold"}), ("unit", {}), ("real", {})],
)
def test_transform_can_be_traced(likelihood, options):
    prepared = PreparedData(digits(), likelihood, **options)
    batch = prepared.train[:16]
    graph = make_fx(prepared.transform)(batch)
    torch.manual_seed(0)
    eager = prepared.transform(batch)
    torch.manual_seed(0)
    assert torch.equal(graph(batch), eager)
    # Anew at each visit in the graph too.
    assert torch.equal(graph(batch), eager) == (likelihood == "real" or "binarisation" in options)


def test_bits_per_dim():
    ln2 = math.log(2)
    # Five fair coins cost five bits, whatever made the data binary.
    for native in ("binary", "integers", "unit"):
        assert PreparedData(dataset_of(native), "binary").bits_per_dim(-5 * ln2) == pytest.approx(
            1
        )
    # A uniform density on [0, 1] leaves log2(levels) bits for a level.
    assert PreparedData(dataset_of("integers"), "unit").bits_per_dim(0.0) == pytest.approx(2)
    assert PreparedData(dataset_of("integers"), "integers").bits_per_dim(
        -10 * ln2
    ) == pytest.approx(2)
    assert PreparedData(dataset_of("counts"), "counts").bits_per_dim(-10 * ln2) == pytest.approx(2)
    for native, likelihood in (
        ("unit", "unit"),
        ("unit", "real"),
        ("real", "real"),
        ("integers", "real"),
    ):
        assert PreparedData(dataset_of(native), likelihood).bits_per_dim(-1.0) is None
    assert PreparedData(dataset_of("integers"), "unit", dequantise=False).bits_per_dim(0.0) is None


@pytest.mark.parametrize(
    ("likelihood", "options", "description"),
    [
        ("binary", {}, "levels 0..16 binarised anew at each visit, Bernoulli(v / 16)"),
        ("binary", {"binarisation": "static"}, "levels 0..16 binarised once, Bernoulli(v / 16)"),
        (
            "binary",
            {"binarisation": "threshold"},
            "levels 0..16 binarised, 1 where v / 16 >= 0.5",
        ),
        (
            "unit",
            {},
            "levels 0..16 dequantised anew at each visit, (v + u) / 17 with u ~ Uniform(0, 1)",
        ),
        ("unit", {"dequantise": False}, "levels 0..16 scaled to [0, 1], v / 16"),
        ("real", {}, "levels 0..16 scaled to [0, 1], v / 16"),
        ("integers", {}, "levels 0..16 as they are"),
    ],
)
def test_description(likelihood, options, description):
    prepared = PreparedData(digits(), likelihood, **options)
    assert prepared.description == f"digits: {description}"


@pytest.mark.parametrize("native", ["binary", "counts", "unit", "real"])
def test_description_of_data_without_levels(native):
    words = "in their own units" if native == "real" else "as they are"
    assert words in PreparedData(dataset_of(native), native).description


def test_unknown_options_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"likelihood_support must be one of .*, got 'grey'"):
        PreparedData(digits(), "grey")
    with pytest.raises(ValueError, match="split must be one of"):
        PreparedData(digits(), "binary").fixed("training")
    # Users run without the type checks that refuse the word first while tests run.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"binarisation must be one of .*, got 'stochastic'"):
        PreparedData(digits(), "binary", binarisation="stochastic")


N, D = 2000, 784


@pytest.fixture(scope="module")
def draws():
    torch.manual_seed(0)
    return torch.stack([hashed_uniform(torch.zeros(N, 1, 28, 28)) for _ in range(2)]).flatten(2)


def test_uniform(draws):
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, bins=1024, min=0, max=1)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    # The low bits, too: 24 of them are kept.
    low = (draws.double() * 2**24).long() & 0xFF
    assert stats.chisquare(torch.bincount(low.flatten(), minlength=256).numpy()).pvalue > 1e-4


def test_each_element_and_each_row_is_uniform(draws):
    """Variances of means over rows and over elements: neither more nor less than by chance."""
    for axis, count in ((1, N), (2, D)):
        z = (draws.mean(axis) - 0.5) * (12 * count) ** 0.5
        n = z.numel()
        assert abs(float(z.pow(2).mean()) - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 28, 29])
def test_neighbours_are_independent(draws, lag):
    a, b = draws[..., :-lag].flatten() - 0.5, draws[..., lag:].flatten() - 0.5
    assert abs(float((a * b).mean() * 12)) < 5 / a.numel() ** 0.5


def test_rows_and_calls_are_independent(draws):
    for a, b in ((draws[0], draws[1]), (draws[:, :-1], draws[:, 1:])):
        assert abs(float(((a - 0.5) * (b - 0.5)).mean() * 12)) < 5 / a.numel() ** 0.5


def test_a_seed_gives_it_again():
    torch.manual_seed(4)
    one = hashed_uniform(torch.zeros(3, 5))
    torch.manual_seed(4)
    assert (hashed_uniform(torch.zeros(3, 5)) == one).all()
    assert (hashed_uniform(torch.zeros(3, 5)) != one).any()


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 60_000])
def test_levels_are_binarised_with_their_probability(levels):
    values = torch.tensor([0, 1, (levels - 1) // 2, levels - 2, levels - 1]).clamp(min=0)
    images = values.repeat(100_000, 1)
    torch.manual_seed(0)
    data = PreparedData(
        Dataset("x", "integers", levels, images[:10], images[:10], images[:10]), "binary"
    )
    share = data.transform(images).mean(0)
    p = values / (levels - 1)
    assert share[0] == 0
    assert share[-1] == 1
    assert ((share - p).abs() < 5 * (p * (1 - p) / len(images)).sqrt() + 1e-12).all()
