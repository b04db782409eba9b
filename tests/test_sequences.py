"""Confidence sequences: against brute force, and looked at after every label."""

import math
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import betaln

from pipeline.statistics.sequences import beta_binomial, betting

WORLDS, LABELS = 1000, 2000


def slow_beta_binomial(s: int, n: int, alpha: float) -> tuple[float, float]:
    """The set as methods.md writes it, by trying a million shares."""
    p = np.linspace(0, 1, 1_000_001)
    with np.errstate(divide="ignore"):
        left = (s * np.log(p) if s else 0) + ((n - s) * np.log1p(-p) if n > s else 0)
    inside = p[left > betaln(0.5 + s, 0.5 + n - s) - betaln(0.5, 0.5) + math.log(alpha)]
    return inside[0], inside[-1]


@pytest.mark.parametrize(
    ("s", "n", "alpha"), [(1, 1, 0.05), (0, 7, 0.05), (7, 7, 0.1), (3, 40, 0.05), (500, 900, 0.01)]
)
def test_the_beta_binomial_set_is_that_of_brute_force(s, n, alpha):
    lower, upper = beta_binomial(s, n, alpha)
    expected = slow_beta_binomial(s, n, alpha)
    assert_allclose([lower, upper], expected, atol=1.5e-6)
    assert lower <= expected[0]
    assert upper >= expected[1]


def test_one_success_by_hand():
    # ln p > ln(B(3/2, 1/2) / B(1/2, 1/2)) + ln .05 = ln(1/2 * .05): everything above .025.
    lower, upper = beta_binomial(1, 1)
    assert_allclose(lower, 0.025, atol=1e-12)
    assert upper == 1.0


def test_before_the_first_label_everything_is_possible():
    assert beta_binomial(0, 0) == (0.0, 1.0)
    lower, upper = betting([])
    assert lower.shape == upper.shape == (0,)


def test_all_looks_are_answered_at_once_in_their_shape():
    successes = np.asarray([[0, 1, 1], [1, 2, 3]])
    lower, upper = beta_binomial(successes, [1, 2, 3])
    assert lower.shape == upper.shape == (2, 3)
    one = beta_binomial(2, 2)
    assert (lower[1, 1], upper[1, 1]) == one
    swapped = beta_binomial(np.asarray([1, 2, 3]) - successes, [1, 2, 3])
    assert_allclose(1 - swapped[1], lower, atol=1e-15)


@pytest.mark.parametrize(("s", "n"), [(-1, 3), (4, 3), (0.5, 3), (1, 3.5), (math.nan, 3)])
def test_counts_that_cannot_be_are_refused(s, n):
    with pytest.raises(ValueError, match="whole numbers, 0 <= successes <= trials"):
        beta_binomial(s, n)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_an_impossible_alpha_is_refused(alpha):
    for call in (lambda: beta_binomial(1, 2, alpha), lambda: betting([0.5], alpha)):
        with pytest.raises(ValueError, match="alpha: expected between 0 and 1"):
            call()


def slow_betting(values, alpha: float, m: float) -> list[bool]:
    """Whether the mean ``m`` is still possible after each value: both gamblers, one by one."""
    up = down = 1.0
    possible, answers, seen, squares = True, [], [], 0.25
    for t, x in enumerate(values, start=1):
        variance = squares / t
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1)))
        up *= 1 + min(bet, 0.5 / m) * (x - m)
        down *= 1 - min(bet, 0.5 / (1 - m)) * (x - m)
        possible = possible and max(up, down) / 2 < 1 / alpha
        answers.append(possible)
        seen.append(x)
        squares += (x - (0.5 + sum(seen)) / (t + 1)) ** 2
    return answers


@pytest.mark.parametrize("seed", range(3))
def test_the_betting_ends_are_those_of_two_gamblers(seed):
    rng = np.random.default_rng(seed)
    values = rng.beta(0.5, 3, size=300)
    lower, upper = betting(values, 0.1)
    # Candidates in the grid are exact; one beyond an end is still in, the end itself is out.
    means = np.square(np.sin(np.linspace(0, math.pi / 2, 1001)))
    for m in means[20:-20:37]:
        possible = slow_betting(values, 0.1, m)
        assert_array_equal((lower + 1e-12 < m) & (m < upper - 1e-12), possible)


def test_ends_only_close_in_and_scale_with_the_largest_value():
    rng = np.random.default_rng(5)
    values = (rng.random(400) < 0.1) * rng.choice([1.0, 4.0, 20.0], size=400)
    lower, upper = betting(values, largest=20.0)
    assert (np.diff(lower) >= 0).all()
    assert (np.diff(upper) <= 0).all()
    small = betting(values / 20)
    assert_allclose([lower, upper], np.multiply(20, small), rtol=1e-12)
    mirrored = betting(1 - values / 20)
    assert_allclose(1 - mirrored[1], small[0], atol=1e-12)
    assert_allclose(1 - mirrored[0], small[1], atol=1e-12)


def test_a_prefix_knows_nothing_of_what_follows():
    values = np.random.default_rng(6).random(700)
    whole = betting(values)
    for n in (1, 255, 256, 257, 600):
        part = betting(values[:n])
        assert_array_equal(part[0], whole[0][:n])
        assert_array_equal(part[1], whole[1][:n])


def test_all_ones_rule_out_small_means():
    lower, upper = betting(np.ones(200))
    assert lower[0] == 0.0
    assert lower[-1] > 0.9
    assert_array_equal(upper, 1.0)


@pytest.mark.parametrize("values", [[0.1, -0.1], [1.1], [math.nan], [[0.5]]])
def test_values_outside_the_range_are_refused(values):
    with pytest.raises(ValueError, match=r"a row of values in \[0, 1\]"):
        betting(values)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.1, 0.3])
def test_the_beta_binomial_sequence_holds_at_every_look_and_clopper_pearson_does_not(truth):
    rng = np.random.default_rng(11)
    n = np.arange(1, LABELS + 1)
    successes = (rng.random((WORLDS, LABELS)) < truth).cumsum(axis=1)
    lower, upper = beta_binomial(successes, n)
    held = ((lower <= truth) & (truth <= upper)).all(axis=1).mean()
    looks = np.arange(50, LABELS + 1, 50)
    s = successes[:, looks - 1]
    with np.errstate(invalid="ignore"):
        low = np.nan_to_num(stats.beta.ppf(0.025, s, looks - s + 1), nan=0.0)
        high = np.nan_to_num(stats.beta.ppf(0.975, s + 1, looks - s), nan=1.0)
    missed = 1 - ((low <= truth) & (truth <= high)).all(axis=1).mean()
    rare = 1 - ((lower <= truth) & (truth <= upper))[:, looks - 1].all(axis=1).mean()
    width = (upper - lower)[:, -1].mean()
    sys.stdout.write(
        f"p {truth}: held at every look {held:.3f}, mean width at {LABELS} labels {width:.4f}; "
        f"at every 50 labels it misses {rare:.3f}, Clopper-Pearson {missed:.3f}\n"
    )
    assert held >= 0.94
    assert rare < 0.02
    assert 0.22 < missed < 0.32
    assert width < 3 * (high - low)[:, -1].mean()


@pytest.mark.slow
def test_the_betting_sequence_holds_at_every_look_for_weighted_labels():
    # A label is drawn with probability 1, 1/2 or 1/10 and weighs 1, 2 or 10 where it is.
    rng = np.random.default_rng(12)
    held, widths, hoeffding = [], [], math.sqrt(math.log(40) / 2 / 300) * 20
    for _ in range(WORLDS):
        weight = rng.choice([1.0, 2.0, 10.0], size=300, p=[0.2, 0.5, 0.3])
        drawn = rng.random(300) < 1 / weight
        values = weight * drawn * (rng.random(300) < 0.1)
        lower, upper = betting(values, largest=10.0)
        held.append(((lower <= 0.1) & (upper >= 0.1)).all())
        widths.append(upper[-1] - lower[-1])
    sys.stdout.write(f"held {np.mean(held):.3f}, mean width at 300 labels {np.mean(widths):.4f}\n")
    assert np.mean(held) >= 0.94
    assert np.mean(widths) < 0.25 * hoeffding
