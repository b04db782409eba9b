"""The figures show every group or say how many, stay small, and never vary."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from pipeline.consistency.ranges import fine_grid
from pipeline.counting.histogram import histogram
from pipeline.reports.plots_curves import (
    DRAWN,
    CurvePanel,
    drawn,
    overlay_figure,
    utility_figure,
    worst_count,
    worst_curve,
)
from pipeline.reports.plots_pairs import HistogramPanel, histogram_figure, is_uneven
from pipeline.reports.plots_runs import Arrow, Run, runs_figure
from pipeline.reports.plots_style import to_svg
from pipeline.statistics.intervals import Interval

SVG = "{http://www.w3.org/2000/svg}"


def panel(groups: int, *, seed: int = 0, threshold: float = 0.3) -> CurvePanel:
    rng = np.random.default_rng(seed)
    thresholds = np.linspace(0.2, 0.5, 101)
    peaks = 0.35 + 0.05 * rng.standard_normal(groups)
    utility = 0.9 * np.exp(-8 * np.square(thresholds - peaks[:, None]))
    names = tuple(f"class {i:05d}" for i in range(groups))
    return CurvePanel(
        "OPIS 1.00", thresholds, names, utility, threshold, "given threshold", ("class", "classes")
    )


def words(svg: bytes) -> list[str]:
    return ["".join(text.itertext()).strip() for text in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("groups", [1, 2, 9, 10, 150, 3000])
@pytest.mark.parametrize("panels", [1, 2])
def test_curves_of_any_number_of_groups_fit_into_a_megabyte_or_so(groups, panels):
    draw = utility_figure if groups <= 9 else overlay_figure
    svg = to_svg(draw([panel(groups, seed=k) for k in range(panels)]))
    assert len(svg) < 600_000 * panels
    shown = words(svg)
    assert shown.count("threshold (cosine distance)") == panels
    assert shown.count("given threshold") == panels
    assert "mean over classes" in shown
    assert any(text.startswith("utility") for text in shown)
    assert ("worst 10 %, at least one" in shown) == (1 < groups <= 9)
    assert ("mean of the worst 10 %" in shown) == (groups > 9)


def test_of_thousands_the_curves_drawn_span_their_ranking():
    crowd = panel(3000)
    rows = drawn(crowd)
    means = crowd.utility.mean(axis=1)
    assert len(set(rows.tolist())) == DRAWN
    assert means[rows[0]] == means.min()
    assert means[rows[-1]] == means.max()
    places = np.searchsorted(np.sort(means), means[rows])
    assert np.diff(places).max() <= 3000 / (DRAWN - 1) + 1
    assert len(drawn(panel(40))) == 40


def test_groups_without_a_curve_are_neither_drawn_nor_in_the_means():
    crowd = panel(30)
    crowd.utility[[3, 7]] = np.nan
    assert set(drawn(crowd)) == set(range(30)) - {3, 7}
    assert not np.isnan(worst_curve(crowd.utility[crowd.known])).any()
    nobody = panel(12)
    nobody.utility[:] = np.nan
    assert "no class with positive pairs" in words(to_svg(overlay_figure([nobody])))


def test_the_worst_tenth_is_chosen_anew_at_each_threshold():
    # Ten curves: the worst tenth is one, and not the same one at both thresholds.
    curves = np.full((10, 2), 0.9)
    curves[4, 0], curves[8, 1] = 0.1, 0.2
    np.testing.assert_array_equal(worst_curve(curves), [0.1, 0.2])
    assert [worst_count(n) for n in (1, 4, 14, 16, 3000)] == [1, 1, 1, 2, 300]


def test_a_threshold_outside_of_the_range_is_on_the_picture():
    figure = utility_figure([panel(3, threshold=0.1)])
    low, high = figure.axes[0].get_xlim()
    assert low < 0.1
    assert high > 0.5


def test_a_histogram_holds_every_pair_once():
    grid = fine_grid()
    rng = np.random.default_rng(3)
    distances = [rng.uniform(0, 0.4, 5000), rng.uniform(0.3, 0.9, 9000)]
    distances[0][:40] = 0.0
    pairs = np.stack([
        np.bincount(grid.bin_of(d.astype(np.float32)), minlength=grid.bins)
        for d in (distances[1], distances[0])
    ]).astype(float)  # fmt: skip
    found = histogram(grid.edges, pairs)
    assert found.edges[0] == 0
    assert 0.9 <= found.edges[-1] <= 1.01
    for density, seen in ((found.negative, distances[1]), (found.positive, distances[0])):
        counts = density * np.diff(found.edges) * seen.size
        inside = seen.astype(np.float32)[:, None] <= found.edges[1:].astype(np.float32)
        np.testing.assert_allclose(counts.cumsum(), inside.sum(axis=0), atol=1e-6)


def test_a_few_far_pairs_do_not_squeeze_the_histogram():
    grid = fine_grid()
    pairs = np.zeros((2, grid.bins))
    near, far = grid.bin_of(np.asarray([0.2, 1.9], np.float32))
    pairs[:, near], pairs[0, far] = 10_000, 5
    found = histogram(grid.edges, pairs)
    assert found.edges[-1] < 0.5
    mass = (found.negative * np.diff(found.edges)).sum()
    assert mass == pytest.approx(10_000 / 10_005)


def test_without_pairs_of_a_kind_its_density_is_unknown():
    grid = fine_grid()
    pairs = np.zeros((2, grid.bins))
    pairs[0, 100] = 3
    found = histogram(grid.edges, pairs)
    assert np.isnan(found.positive).all()
    assert not np.isnan(found.negative).any()
    shown = HistogramPanel("x", found.edges, found.negative, found.positive, 0.1, (0.05, 0.2))
    assert "cosine distance of a pair" in words(to_svg(histogram_figure([shown])))


def test_the_scale_is_logarithmic_only_where_one_kind_would_be_flat():
    edges = np.linspace(0, 1, 11)
    even, sharp = np.full(10, 1.0), np.asarray([10.0, *[0.0] * 9])
    panels = [HistogramPanel("x", edges, even, kind, 0.3, (0.2, 0.4)) for kind in (even, sharp)]
    assert [is_uneven([one]) for one in panels] == [False, True]
    assert is_uneven(panels)  # side by side they share a scale
    assert histogram_figure(panels[:1]).axes[0].get_yscale() == "linear"
    assert histogram_figure(panels).axes[0].get_yscale() == "log"


def test_arrows_lead_from_base_to_tcm_and_the_unknown_is_not_drawn():
    unknown = Run("lost", float("nan"), Interval(1e-3, 0.5e-3, 2e-3))
    base = Run("base of a run", 0.3, Interval(3e-3, 2e-3, 4e-3))
    tcm = Run("tcm of a run", 0.28, Interval(1e-3, 0.5e-3, 2e-3))
    figure = runs_figure([Arrow(base, tcm), Arrow(unknown, tcm)])
    axis = figure.axes[0]
    (arrow,) = axis.texts
    assert arrow.xyann == pytest.approx((30.0, 3.0))  # its tail
    assert arrow.xy == pytest.approx((28.0, 1.0))
    shown = words(to_svg(figure))
    assert {"base of a run → tcm of a run", "lost → tcm of a run"} <= set(shown)
    assert "recognition error, 1 - R@1 (%)" in shown


@pytest.mark.parametrize("name", ["$x_1$ & <b>", "_other", "日本語", "a" * 80])
def test_names_are_shown_as_they_are(name, recwarn):
    named = panel(2)
    titled = CurvePanel(name, named.thresholds, (name, "other"), named.utility, 0.3)
    shown = words(to_svg(utility_figure([titled])))
    assert (name if len(name) <= 28 else f"{'a' * 15}…{'a' * 12}") in shown
    run = Run(name, 0.1, Interval(1e-3, 0, 2e-3))
    assert to_svg(runs_figure([], [run]))
    assert not recwarn.list


def test_equal_numbers_give_equal_bytes():
    for draw in (utility_figure, overlay_figure):
        assert to_svg(draw([panel(12)])) == to_svg(draw([panel(12)]))
