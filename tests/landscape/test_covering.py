"""Effective orientations are a covering number: exact on a circle, bounded from both sides elsewhere."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smesolve.errors import SmesolveError
from smesolve.landscape import cosine_map, covering, participation, principal_angles

C = 0.95
CAP = 2 * np.arccos(C)


def on_circle(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def covered(weights, caps, lines):
    """Whether each direction is in the cap that it is said to be in."""
    units = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    cosines = (units * caps.centres[caps.groups - 1]).sum(1)
    return np.allclose(np.linalg.norm(caps.centres, axis=1), 1) and ((np.abs(cosines) if lines else cosines) > C).all()


def smallest(weights, lines):
    """The covering number by trying all sets of caps; the smallest cap around some points touches two or three."""
    units = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    signed = np.concatenate([units, -units]) if lines else units
    candidates = [*signed]
    candidates += [a + b for a, b in combinations(signed, 2)]
    if units.shape[1] == 3:
        for a, b, c in combinations(signed, 3):
            normal = np.cross(b - a, c - a)
            candidates += [normal, -normal]
    candidates = [v / np.linalg.norm(v) for v in candidates if np.linalg.norm(v) > 1e-9]
    cosines = units @ np.array(candidates).T
    sets = {frozenset(np.flatnonzero(column)) for column in ((np.abs(cosines) if lines else cosines) > C).T}
    sets = [one for one in sets if not any(one < other for other in sets)]
    everything = frozenset(range(len(units)))
    return next(
        k for k in range(1, len(units) + 1) for some in combinations(sets, k) if everything <= set().union(*some)
    )


ANGLES = st.lists(st.floats(0, 6.28), min_size=1, max_size=7)


@settings(max_examples=150, deadline=None)
@given(ANGLES, st.booleans(), st.floats(0.2, 1))
def test_on_a_circle_the_number_is_the_smallest(angles, lines, stretch):
    weights = on_circle(stretch * np.array(angles)) * np.linspace(0.5, 2, len(angles))[:, None]
    caps = covering(weights, lines)
    assert caps.exact and caps.upper == smallest(weights, lines) and covered(weights, caps, lines)


def test_on_a_circle_caps_lie_between_directions_and_across_the_start():
    assert covering(on_circle(np.array([-0.49, 0.49]) * CAP)).upper == 1  # around a centre between both
    assert covering(on_circle(np.array([0.0, 0.999]) * CAP)).upper == 1
    assert covering(on_circle(np.array([0.0, 1.001]) * CAP)).upper == 2


def test_a_whole_circle_of_directions():
    weights = on_circle(np.arange(1000) / 1000 * 2 * np.pi)
    assert covering(weights).upper == np.ceil(2 * np.pi / CAP) == 10
    assert covering(weights, lines=True).upper == np.ceil(np.pi / CAP) == 5


def test_directions_in_a_plane_of_a_larger_space_are_on_a_circle():
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.standard_normal((7, 2)))
    weights = on_circle(rng.uniform(0, 2 * np.pi, 40))
    for lines in (False, True):
        flat, lifted = covering(weights, lines), covering(weights @ basis.T, lines)
        assert lifted.exact and lifted.upper == flat.upper and covered(weights @ basis.T, lifted, lines)


@pytest.mark.parametrize("lines", [False, True])
def test_in_space_the_number_lies_between_both_bounds(lines):
    rng, tight = np.random.default_rng(0), 0
    for spread in (0.1, 0.2, 0.3, 0.5, 1.0) * 4:
        weights = np.array([1.0, 0, 0]) + spread * rng.standard_normal((6, 3))
        if lines:
            weights *= rng.choice([-1, 1], size=(6, 1))
        caps, exact = covering(weights, lines), smallest(weights, lines)
        assert caps.lower <= exact <= caps.upper and covered(weights, caps, lines)
        tight += caps.lower == exact == caps.upper
    assert tight == 20


def test_three_directions_around_a_centre_that_no_pair_finds():
    """On a circle of radius 0.9 caps around the pole: one cap covers all, though no cap around one of them does."""
    radius, angles = 0.9 * CAP / 2, np.arange(3) * 2 * np.pi / 3
    weights = np.stack(
        [np.sin(radius) * np.cos(angles), np.sin(radius) * np.sin(angles), np.full(3, np.cos(radius))], axis=1
    )
    assert ((weights @ weights.T > C).sum(1) == 1).all()
    assert covering(weights).upper == smallest(weights, lines=False) == 1


def test_orthogonal_and_repeated_directions():
    eye = np.eye(9)
    assert covering(eye).upper == covering(eye).lower == 9
    both = np.concatenate([eye, -3 * eye, 2 * eye])
    assert (covering(both).upper, covering(both).lower) == (18, 18)
    assert (covering(both, lines=True).upper, covering(both, lines=True).lower) == (9, 9)
    groups = covering(both, lines=True).groups
    assert (groups[:9] == groups[9:18]).all() and (groups[:9] == groups[18:]).all() and len(set(groups[:9])) == 9


def test_vectors_without_a_direction_are_not_covered():
    weights = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    caps = covering(weights)
    assert caps.upper == 2 and (caps.groups == 0).tolist() == [True, False, True, False]
    assert (covering(np.zeros((3, 4))).upper, covering(np.zeros((3, 4))).lower) == (0, 0)
    assert covering(np.array([[1.0], [2.0], [-1.0]])).upper == 2
    assert covering(np.array([[1.0], [2.0], [-1.0]]), lines=True).upper == 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(3), "weights must be an array"),
        ([[1.0]], "weights must be an array"),
        (np.array([[np.nan]]), "finite"),
        (np.array([[1j, 0]]), "real numbers, got an array of complex128"),
        (np.array([["a", "b"]]), "real numbers"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(weights, words):
    for function in (covering, cosine_map, lambda rows: participation(rows, np.ones(1))):
        with pytest.raises(SmesolveError, match=words):
            function(weights)
    with pytest.raises(SmesolveError, match=words.replace("weights", "second")):
        principal_angles(np.eye(2), weights)


@pytest.mark.parametrize(
    ("amplitudes", "words"),
    [([1.0, 1.0], "an array"), (np.ones(3), "shape"), (np.array([1, np.inf]), "finite"), (np.array([2, -1]), "got -1")],
)
def test_amplitudes_are_numbers_of_at_least_0(amplitudes, words):
    with pytest.raises(SmesolveError, match=f"amplitudes must .*{words}"):
        participation(np.eye(2), amplitudes)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, np.nan])
def test_a_threshold_that_is_no_cosine_of_a_cap_is_refused(threshold):
    with pytest.raises(SmesolveError, match="threshold must"):
        covering(np.eye(3), threshold=threshold)
