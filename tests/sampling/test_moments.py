"""Joint central moments in chunks of points: the same bits as all points at once, in a memory that does not grow."""

import tracemalloc

import numpy as np
import pytest

from smesolve.sampling import moments
from smesolve.sampling.moments import Moments


def bits(found):
    return [array.tobytes() for array in (found.mean, *found.sums)]


def layouts(values):
    """The same values as they may lie in memory."""
    yield values
    yield np.concatenate([values, values], axis=1)[:, : values.shape[1]]
    yield np.asfortranarray(values)
    yield np.ascontiguousarray(values.transpose(0, 2, 1)).transpose(0, 2, 1)


@pytest.mark.parametrize("count", [1, 8, 129, 512])
@pytest.mark.parametrize("points", [1, 2, 3, 5, 16, 65])
def test_chunks_of_points_give_the_bits_of_all_points_at_once(count, points, monkeypatch):
    """A single column and several are added in another order, so no chunk may hold one point of several."""
    for variables in (1, 2, 4):
        for values in layouts(np.random.default_rng(0).standard_normal((variables, count, points))):
            monkeypatch.setattr(moments, "CHUNK_FLOATS", 2**60)
            whole = Moments.of(values, 4)
            for size in (1, 3 * count, 2**12):
                monkeypatch.setattr(moments, "CHUNK_FLOATS", size)
                assert bits(Moments.of(values, 4)) == bits(whole)


def test_the_memory_of_products_does_not_grow_with_the_points():
    """For 4 variables 70 numbers are kept per point, and the memory of the products is bounded."""

    def peak(points):
        values = np.ones((4, 256, points))
        Moments.of(values, 4)  # tables of multisets are made once
        tracemalloc.start()
        Moments.of(values, 4)
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    few, many = peak(256), peak(4096)
    assert many - few < 4 * 8 * 70 * (4096 - 256)
    assert few < 40 * 8 * moments.CHUNK_FLOATS
