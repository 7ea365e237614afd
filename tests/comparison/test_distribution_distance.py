"""Distances of distributions: closed forms for shifts and scales, coverage where both laws are the same."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from smesolve.comparison.distribution_distance import _resampled, distribution_distance
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.experiments.compare import _spreads, distances_at_horizon


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_a_shift_is_its_distance(generator):
    values = generator.standard_normal(4000)
    found = distribution_distance(values, values + 0.7)
    assert found.distance == pytest.approx(0.7 / values.std(ddof=1), rel=1e-12)
    assert found.distance_low < 0.7 < found.distance_high < 0.9 and found.spread == pytest.approx(1.0)


def test_intervals_hold_the_scale_and_the_distance_of_normal_laws(generator):
    """W(N(0, 1), N(0, s^2)) = |s - 1| E|Z| = |s - 1| sqrt(2/pi)."""
    exact = 0.3 * np.sqrt(2 / np.pi)
    held = []
    for _ in range(40):
        found = distribution_distance(generator.standard_normal(600), 1.3 * generator.standard_normal(600))
        held.append((found.spread_low < 1.3 < found.spread_high, found.distance_low < exact < found.distance_high))
    assert np.mean(held, axis=0) == pytest.approx([1, 1], abs=0.1)
    assert stats.binom.cdf(min(np.sum(held, axis=0)), 40, 0.95) > 0.01


@pytest.mark.parametrize("size", [8, 16, 64])
def test_intervals_of_the_scale_are_long_enough_for_few_values(size, generator):
    """Of normal laws, in a sample and in pairs of equal values."""
    held = []
    for _ in range(400):
        half = 1.3 * generator.standard_normal(size)
        found = distribution_distance(generator.standard_normal(size), np.concatenate([half, half]))
        held.append(found.spread_low < 1.3 < found.spread_high)
    assert stats.binom.cdf(sum(held), 400, 0.95) > 0.02


def test_equal_laws_are_told_from_each_other_seldom(generator):
    told = [
        distribution_distance(generator.exponential(size=400), generator.exponential(size=400), seed).distance_low > 0
        for seed in range(40)
    ]
    assert np.mean(told) < 0.1


def test_pairs_of_equal_values_count_as_half_as_many(generator):
    one, half = generator.standard_normal(800), generator.standard_normal(400)
    twice = distribution_distance(one, np.concatenate([half, half]))
    assert twice.spread_high / twice.spread == pytest.approx(np.exp(1.96 * np.sqrt(0.5 / 800 + 0.5 / 400)), rel=0.02)
    pairs, alone = (_resampled(one, copies, generator).mean() for copies in (2, 1))
    assert pairs / alone == pytest.approx(np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("second", [np.ones(3), np.array([np.nan] * 50), np.array([np.inf] * 50)])
def test_samples_that_tell_nothing_give_nothing(second, generator):
    assert np.isnan(distribution_distance(generator.standard_normal(50), second)).all()
    assert np.isnan(distribution_distance(np.ones(50), generator.standard_normal(50))).all()


def test_a_study_says_how_far_its_distributions_are_in_words(generator):
    dropout = generator.standard_normal(2000)
    samples = {
        (0.1, None): {"loss": dropout},
        (0.1, 1): {"loss": 0.5 * generator.standard_normal(2000)},
        (0.1, 2): {"loss": generator.standard_normal(2000)},
    }
    table = distances_at_horizon(WeakErrorStudy(pd.DataFrame(), samples, 1.0, pd.DataFrame))
    assert table.order.tolist() == [1, 2] and table.lr.tolist() == [0.1, 0.1]
    first, second = _spreads(table).splitlines()
    assert "loss, lr = 0.1, order 1: the distribution over paths is narrower than dropout's, with 0." in first
    assert (
        "order 2: the distribution over paths is not distinguished from dropout's" in second
        and "lies at most 0." in second
    )
