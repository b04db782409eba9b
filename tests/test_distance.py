"""The deciding distance against exact rational arithmetic, and the boundary."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from pipeline import distance


def vectors(n: int, d: int, seed: int) -> np.ndarray:
    return distance.unit(np.random.default_rng(seed).normal(size=(n, d)))


def one_by_one(query: np.ndarray, row: np.ndarray) -> np.float32:
    """The definition, slowly: Python floats are float64, the sum runs in index order."""
    total = 0.0
    for a, b in zip(query.tolist(), row.tolist(), strict=True):
        total += a * b
    return np.float32(min(max(1.0 - total, 0.0), 2.0))


@given(st.integers(0, 10_000), st.integers(1, 70), st.integers(1, 40))
def test_every_bit_follows_the_definition(seed, d, rows):
    queries, gallery = vectors(3, d, seed), vectors(rows, d, seed + 1)
    expected = [[one_by_one(q, g) for g in gallery] for q in queries]
    assert_array_equal(distance.deciding(queries, gallery), np.asarray(expected, np.float32))


def test_products_of_float32_are_exact_in_float64():
    # Otherwise a fused multiply-add would change the last bit from machine to machine.
    a, b = np.float32(0.1), np.float32(1 / 3)
    product = float(a) * float(b)
    assert Fraction(float(a)) * Fraction(float(b)) == Fraction(product)


def test_a_pair_has_the_same_bits_alone_and_in_any_batch_and_block():
    queries, gallery = vectors(33, 128, 1), vectors(1500, 128, 2)
    whole = distance.deciding(queries, gallery)
    for i in (0, 7, 32):
        assert_array_equal(distance.deciding(queries[i : i + 1], gallery), whole[i : i + 1])
    rows = np.asarray([1499, 0, 511, 512, 513])
    assert_array_equal(distance.deciding_one(queries[5], gallery, rows), whole[5, rows])


def test_the_boundary_belongs_to_the_match_side():
    threshold = np.float32(0.4)
    below, above = np.nextafter(threshold, np.float32(0)), np.nextafter(threshold, np.float32(1))
    accepted = distance.accepts(np.asarray([below, threshold, above]), threshold)
    assert_array_equal(accepted, [True, True, False])


def test_distances_stay_within_zero_and_two():
    rows = vectors(50, 16, 3)
    assert (distance.deciding(rows, rows).diagonal() >= 0).all()
    assert distance.deciding(rows, -rows).max() <= 2


def test_chords_and_distances_are_inverse():
    d = np.linspace(0, 2, 50)
    np.testing.assert_allclose(distance.from_euclidean(distance.to_euclidean(d)), d, atol=1e-15)


@pytest.mark.parametrize(("bad", "what"), [(0.0, "zero"), (np.nan, "not finite")])
def test_a_vector_without_direction_is_refused_by_row(bad, what):
    rows = np.ones((3, 4))
    rows[1] = bad
    with pytest.raises(ValueError, match=f"row 1: vector is {what}"):
        distance.unit(rows)


def test_different_dimensions_are_refused():
    with pytest.raises(ValueError, match="3 dimensions, the gallery has 4"):
        distance.deciding(vectors(1, 3, 0), vectors(1, 4, 0))


def rounded(total: float) -> np.float32:
    return np.float32(min(max(1.0 - total, 0.0), 2.0))


@given(st.one_of(st.floats(0, 2, width=32), st.sampled_from([0.0, 0.5, 0.75, 1.0, 1.5])))
def test_the_least_sum_within_an_edge_is_just_that(edge):
    (least,) = distance.least_sums(np.asarray([edge], np.float32))
    if edge >= 2:
        assert least == -4  # accepts all
        return
    assert rounded(least) <= np.float32(edge) < rounded(np.nextafter(least, -4))


def test_an_edge_below_zero_accepts_nothing():
    assert distance.least_sums(np.asarray([-1e-9, 2.0, 3.0], np.float32)).tolist() == [4, -4, -4]


@pytest.mark.parametrize("dimension", [1, 7, 128, 4096])
def test_no_float32_product_is_further_off_than_its_bound(dimension):
    a, b = vectors(50, dimension, 1), vectors(60, dimension, 2)
    a[:10] = np.sign(a[:10]) / np.float32(np.sqrt(dimension))  # equal terms: errors add up
    b[:10] = np.abs(a[:10]) * np.sign(a[:1])
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble).T
    bound = distance.error_of_products(a, b)
    assert np.abs(a @ b.T - exact).max() <= bound
    slow = np.zeros(exact.shape, np.float32)
    for k in range(dimension):  # the worst order there is
        slow = slow + a[:, None, k] * b[None, :, k]
    assert np.abs(slow - exact).max() <= bound < dimension * 2.0**-23


def test_longer_rows_have_a_larger_bound():
    a = vectors(5, 16, 1)
    assert distance.error_of_products(a * np.float32(2)) > 3.9 * distance.error_of_products(a)
    assert distance.error_of_products(a, a * np.float32(2)) > 1.9 * distance.error_of_products(a)
