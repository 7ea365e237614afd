"""The kernel of bilinear forms of low rank agrees with products of matrices, and says what it cannot take."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from kernel_variants import choose_variant

from smesolve.problem.kernels.bilinear_forms import bilinear
from smesolve.problem.kernels.library import CHOICE, TORCH, VARIANTS, library

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels are installed")


def forms(seed, count, length, rank, pairs, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = (count, length, rank), (count, rank), (pairs, length), (pairs, length), (length,)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


def assert_equal_to_matrices(factors, values, left, right, origin, tolerance):
    matrices = (factors * values[:, None]) @ factors.mT
    for one, other, at in ((left, right, origin), (left, right, None), (left, left, None), (left, left, origin)):
        found = bilinear(factors, values, one, other, at)
        moved = one if at is None else one - at
        expected = torch.einsum("bi,gij,bj->bg", moved, matrices, other)
        size = torch.einsum("bi,gij,bj->bg", moved.abs(), matrices.abs(), other.abs()).max() if len(left) else 1
        assert found.shape == (len(left), len(factors))
        assert ((found - expected).abs() <= tolerance * size).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=some.integers(0, 1000),
    count=some.integers(1, 3),
    length=some.integers(1, 300),
    vectors=some.integers(1, 5),
    pairs=some.integers(0, 70),
)
def test_values_are_those_of_the_matrices(seed, count, length, vectors, pairs):
    rank = vectors * library().smesolve_lanes(0)
    assert_equal_to_matrices(*forms(seed, count, length, rank, pairs), 1e-14)


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_every_variant_and_in_float32(variant, monkeypatch):
    choose_variant(monkeypatch, variant)
    assert_equal_to_matrices(*forms(0, 2, 131, 32, 19), 1e-14)
    assert_equal_to_matrices(*forms(0, 2, 131, 32, 19, torch.float32), 2e-6)


def test_vectors_may_lie_in_memory_in_any_way():
    factors, values, left, right, origin = forms(1, 1, 40, 16, 9)
    expected = bilinear(factors, values, left, right, origin)
    for lain in (left.mT.contiguous().mT, torch.cat([left, left], 1)[:, :40], torch.cat([left, left])[::1][:9]):
        assert torch.equal(bilinear(factors, values, lain, right, origin), expected)
    for row in (left[:1], right[:1]):  # the second one begins where `right` does
        found = bilinear(factors, values, row.expand(9, -1), right, None)
        assert torch.equal(found, bilinear(factors, values, row.repeat(9, 1), right, None))
    assert torch.equal(bilinear(factors, values, left[:1].expand(9, -1), right, origin)[0], expected[0])


def test_each_pair_is_computed_by_itself():
    factors, values, left, right, origin = forms(2, 2, 200, 32, 50)
    whole = bilinear(factors, values, left, right, origin)
    for pair in range(0, 50, 7):
        some_pairs = slice(pair, pair + 3)
        assert torch.equal(bilinear(factors, values, left[some_pairs], right[some_pairs], origin), whole[some_pairs])


def test_what_the_kernel_cannot_take_is_left_to_torch(monkeypatch):
    factors, values, left, right, origin = forms(3, 1, 20, 16, 4)
    assert bilinear(factors, values, left.float(), right, origin) is None
    assert bilinear(factors, values, left.clone().requires_grad_(), right, origin) is None
    assert bilinear(*forms(3, 1, 20, 7, 4)) is None
    half = [one.half() for one in (factors, values, left, right, origin)]
    assert bilinear(*half) is None
    monkeypatch.setenv(CHOICE, TORCH)
    assert bilinear(factors, values, left, right, origin) is None
