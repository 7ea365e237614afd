"""Barrier and asymmetry of the loss on a line, of functions whose values are known."""

import numpy as np
import pandas as pd
import pytest

from smesolve.errors import SmesolveError
from smesolve.experiments.landscape_sections.comparisons import wider_sides
from smesolve.landscape import loss_profile

ALPHAS = np.linspace(-0.5, 1.5, 41)


def test_a_double_well_has_its_barrier_in_the_middle_and_no_asymmetry():
    profile = loss_profile(ALPHAS, 1 + 16 * (ALPHAS * (1 - ALPHAS)) ** 2)
    assert (profile.peak, profile.peak_alpha, profile.barrier) == pytest.approx((2, 0.5, 1))
    assert profile.asymmetry == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("centre", "wider"), [(1.0, "second"), (0.0, "first")])
def test_a_valley_is_wider_on_the_side_of_its_lowest_point(centre, wider):
    profile = loss_profile(ALPHAS, (ALPHAS - centre) ** 2)
    assert profile.barrier == 0 and profile.peak == 1 and profile.peak_alpha == 1 - centre
    assert profile.asymmetry == pytest.approx(np.log(0.25 / 2.25) * (1 if wider == "second" else -1))


def test_a_loss_of_zero_has_no_logarithm():
    assert np.isnan(loss_profile(ALPHAS, (ALPHAS + 0.5) ** 2).asymmetry)


def test_the_side_is_named_only_where_the_runs_agree():
    def segments(second, centres):
        losses = [(ALPHAS - centre) ** 2 + 0.01 for centre in centres]
        return [
            pd.DataFrame({"first": "a", "second": second, "run": run, "alpha": ALPHAS, "loss": loss})
            for run, loss in enumerate(losses)
        ]

    table = pd.concat(segments("b", [0.9, 0.95, 1.0]) + segments("c", [0.0, 0.05]) + segments("d", [0.1, 0.9]))
    lines = wider_sides(table).set_index("second")
    assert lines.wider.to_dict() == {"b": "b", "c": "a", "d": "unresolved"}
    assert (lines.barrier == 0).all()
    assert wider_sides(pd.DataFrame()).empty


@pytest.mark.parametrize(
    ("alphas", "losses", "words"),
    [
        ([0.0, 0.5], [1.0, 1.0], "alphas must increase, with 0 and 1 among them"),
        ([0.0, 1.0, 0.5], [1.0, 1.0, 1.0], "alphas must increase"),
        ([-0.5, 0.0, 1.0], [1.0, 1.0, 1.0], "as far beyond 1 as beyond 0"),
        ([0.0, 1.0], [1.0], "losses must"),
        ([0.0, 1.0], [1.0, np.nan], "losses"),
    ],
)
def test_positions_that_make_no_line_are_refused(alphas, losses, words):
    with pytest.raises(SmesolveError, match=words):
        loss_profile(np.array(alphas), np.array(losses))
