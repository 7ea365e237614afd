"""Random numbers of different streams, blocks, steps and seeds are independent of each other."""

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats

import smesolve as sme
from smesolve.sampling.randomness import STREAMS, keyed_generator, keyed_normals, keyed_uniforms


def first(seed, stream, block=0, step=0):
    return keyed_generator(seed, stream, block, step).bit_generator.random_raw(4).tobytes()


def test_every_key_has_numbers_of_its_own():
    keys = list(itertools.product((0, 1, 2), STREAMS, range(4), range(4)))
    assert len(set(STREAMS.values())) == len(STREAMS) == 6
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(5, "masks", 1, 2) == first(5, "masks", 1, 2)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 3**60, 5**90])
@pytest.mark.parametrize("step", [0, 63, 64, 2**31 + 5, 2**32 - 1, 2**32, 2**40])
def test_generators_are_those_of_numpy_s_seed_sequence(seed, step):
    for stream, block in itertools.product(STREAMS, (0, 1, 12345, 2**33)):
        key = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], block, step))
        with np.errstate(all="raise"):
            ours = keyed_generator(seed, stream, block, step)
        assert (
            ours.bit_generator.state["state"]["state"].tolist() == np.random.SFC64(key).state["state"]["state"].tolist()
        )


def test_uniforms_and_normals_are_of_the_streams_that_they_name():
    """Otherwise both sides of a comparison would see the same noise, and their errors would not be independent."""
    uniforms = keyed_generator(3, "masks", 2, 5).random((4, 3))
    assert np.array_equal(keyed_uniforms((4, 3), 3, 2, 5).numpy(), uniforms)
    normals = keyed_generator(3, "normals", 2, 5).standard_normal((4, 3))
    assert np.array_equal(keyed_normals((4, 3), 3, 2, 5).numpy(), normals)


@pytest.mark.parametrize("other", ["normals of the same key", "next step", "next block", "next seed"])
def test_streams_are_uncorrelated(other):
    shape = (1 << 14,)
    one = special.ndtri(keyed_uniforms(shape, 0, 0, 0).numpy())
    two = {
        "normals of the same key": lambda: keyed_normals(shape, 0, 0, 0).numpy(),
        "next step": lambda: keyed_uniforms(shape, 0, 0, 1).numpy(),
        "next block": lambda: keyed_uniforms(shape, 0, 1, 0).numpy(),
        "next seed": lambda: keyed_uniforms(shape, 1, 0, 0).numpy(),
    }[other]()
    for transform in (np.asarray, np.abs):  # antithetic numbers would show in the signs, equal sizes in the other
        assert stats.spearmanr(transform(one), transform(two - np.median(two))).pvalue > 1e-4


def test_the_iteration_takes_masks_and_the_equation_normals():
    seen = []

    class Watched(sme.DropoutProblem):
        def draw(self, uniforms):
            seen.append(uniforms.clone())
            return super().draw(uniforms)

    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Watched(sme.TwoLayerNetwork(2, 3), x, x[:, :1], keep_prob=0.8)
    theta0 = problem.initial(seed=0)
    sme.iterate(problem, theta0, 0.1, 3, 8, seed=9)
    brownian = sme.KeyedBrownian(8, problem.noise_dim, 0.1, seed=9)
    for step in range(3):
        assert torch.equal(seen[step], keyed_uniforms(tuple(seen[step].shape), 9, 0, step))
        increment = brownian(step * 0.1, (step + 1) * 0.1) / 0.1**0.5
        torch.testing.assert_close(increment, keyed_normals((8, problem.noise_dim), 9, 0, step), rtol=1e-14, atol=0)
