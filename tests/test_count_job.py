"""Counting in Ray tasks: the same counts as in one process, the same words where it refuses."""

import pytest
from numpy.testing import assert_array_equal

from jobs.cluster import connected, count_on_cluster
from pipeline.counting.pairs import PairsError, count_classes
from tests.all_pairs_world import edges_among, lattice

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with connected(2):
        yield


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_on_a_cluster_add_up_to_the_counts_of_one_process(shards):
    vectors, labels, ids = lattice(1500, 90, 6, 0)
    labels[::50] = None
    grid = edges_among(vectors[:200], 20)
    whole = count_classes(vectors, labels, ids, grid)
    found = count_on_cluster(vectors, labels, ids, grid, shards)
    assert found.groups == whole.groups
    assert_array_equal(found.items, whole.items)
    assert_array_equal(found.whole, whole.whole)
    assert_array_equal(found.halves, whole.halves)


def test_a_cluster_refuses_in_the_same_one_line():
    vectors, labels, ids = lattice(20, 3, 6, 0)
    vectors[4] = 0
    grid = edges_among(vectors[:4], 3)
    with pytest.raises(PairsError, match=r"^row 4: vector of length 0") as error:
        count_on_cluster(vectors, labels, ids, grid, 2)
    assert "\n" not in str(error.value)


def test_no_shard_is_refused():
    vectors, labels, ids = lattice(20, 3, 6, 0)
    with pytest.raises(ValueError, match="shards: 0; expected at least 1"):
        count_on_cluster(vectors, labels, ids, edges_among(vectors, 3), 0)
