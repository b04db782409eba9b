"""The toy of the study: densities on a circle, and its picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from benchmarks.study import toy
from pipeline.reports.plots_style import to_svg


def test_a_density_is_one_in_all_and_knows_that_a_circle_closes():
    angle = np.array([0.001, -0.001, 3.0])
    found = toy.density(angle)
    assert found.shape == (361,)
    assert found[0] == pytest.approx(found[-1])
    step = 2 * np.pi / 360
    assert found[:-1].sum() * step == pytest.approx(1.0, rel=1e-6)
    # Two of three images at angle 0, one at 3 rad, which is 171.9 degrees.
    assert found[0] == pytest.approx(2 * found[172], rel=0.02)
    assert found[90] < 1e-9


@pytest.mark.parametrize("tcm", [None, toy.MARGINS])
def test_a_training_gives_an_angle_for_every_digit_that_was_kept_back(tcm):
    found = toy.trained(tcm, seed=3, steps=2)
    assert found.angle.shape == found.digit.shape == (899,)
    assert set(found.digit) == set(range(10))
    assert np.abs(found.angle).max() <= np.pi
    assert 0 < found.right < 1
    again = toy.trained(tcm, seed=3, steps=2)
    np.testing.assert_array_equal(found.angle, again.angle)


def test_the_picture_names_every_digit_and_the_seeds():
    found = [toy.trained(None, seed=seed, steps=2) for seed in (0, 1)]
    svg = to_svg(toy.picture(found, "ArcFace")).decode()
    ElementTree.fromstring(svg)
    for text in (*"0123456789", "ArcFace"):
        assert f">{text}</text>" in svg
    assert "over 2 seeds R@1" in svg
    assert len(set(toy.COLOURS)) == 10
